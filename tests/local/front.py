"""A thin front of the embedded server for test suites that were written for other servers.

    python -m tests.local.front [PORT]

It takes any key, waits for the end of a response that was not asked for in the background, fills in
what a mock would not miss (model, input, ids that were never given out) and leaves out what the
server refuses (`store`, `prompt`, a previous response beside a conversation, a page of 0 items).
Everything else goes through as it is.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from bgmagic.local import discovery
from bgmagic.local.discovery import Endpoint

# Where openai-python's own tests look for a server.
PORT = 4010
OPEN = ("queued", "in_progress")
CREATE = {"model": "gpt-5.2", "input": "Say hello.", "background": True}


class Upstream:
    """The embedded server, asked directly."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._address = urlsplit(endpoint.base_url).netloc
        self._headers = {"Authorization": f"Bearer {endpoint.token}"}

    def send(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self._address, timeout=120)
        sent = None if body is None else json.dumps(body).encode()
        connection.request(method, f"/v1{path}", sent, self._headers)
        return connection.getresponse()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        return json.loads(self.send(method, path, body).read())

    def ended(self, response: dict[str, Any]) -> dict[str, Any]:
        """The response once it has ended."""
        while response.get("status") in OPEN:
            time.sleep(0.05)
            response = self.json("GET", f"/responses/{response['id']}")
        return response

    def known(self, kind: str, value: str) -> str:
        """The id if the server knows it, or that of a new response or conversation."""
        if self.send("GET", f"/{kind}/{value}").status == 200:
            return value
        if kind == "conversations":
            made = self.json(
                "POST", "/conversations", {"items": [{"role": "user", "content": "x"}]}
            )
            return str(made["id"])
        short = {**CREATE, "stream": True, "max_output_tokens": 16}
        reply = self.send("POST", "/responses", short)
        reply.readline()
        return str(json.loads(reply.readline().removeprefix(b"data: "))["response"]["id"])

    def known_item(self, conversation: str, value: str) -> str:
        """The id of the item if the conversation has it, or that of its first."""
        if self.send("GET", f"/conversations/{conversation}/items/{value}").status == 200:
            return value
        return str(self.json("GET", f"/conversations/{conversation}/items")["first_id"])


def path_of(up: Upstream, target: str) -> str:
    """The path and query for the embedded server."""
    address = urlsplit(target)
    parts = address.path.removeprefix("/v1").strip("/").split("/")
    fixed = ("input_tokens", "compact")
    if len(parts) > 1 and parts[0] in ("responses", "conversations") and parts[1] not in fixed:
        parts[1] = up.known(parts[0], parts[1])
    if len(parts) == 4 and parts[2] == "items":
        parts[3] = up.known_item(parts[1], parts[3])
    pairs = [pair for pair in parse_qsl(address.query) if pair not in (("limit", "0"),)]
    pairs = [(name, value) for name, value in pairs if (name, value) != ("after", "after")]
    return "/" + "/".join(parts) + (f"?{urlencode(pairs)}" if pairs else "")


def body_of(up: Upstream, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The body for the embedded server."""
    if path not in ("/responses", "/responses/input_tokens"):
        return body
    defaults = CREATE if path == "/responses" else {"input": "Say hello."}
    filled = {**defaults, **{name: value for name, value in body.items() if value is not None}}
    for name in ("store", "prompt"):
        filled.pop(name, None)
    if filled.get("model", "").startswith("model"):
        filled["model"] = CREATE["model"]
    if "conversation" in filled:
        filled.pop("previous_response_id", None)
        if isinstance(filled["conversation"], str):
            filled["conversation"] = up.known("conversations", filled["conversation"])
    if "previous_response_id" in filled:
        previous = up.known("responses", filled["previous_response_id"])
        up.ended(up.json("GET", f"/responses/{previous}"))
        filled["previous_response_id"] = previous
    return filled | ({"background": True} if path == "/responses" else {})


class Front(BaseHTTPRequestHandler):
    """One request, passed on."""

    protocol_version = "HTTP/1.1"
    up: Upstream

    def pass_on(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        given = json.loads(self.rfile.read(size)) if size else None
        path = path_of(self.up, self.path)
        body = body_of(self.up, path, given) if isinstance(given, dict) else given
        reply = self.up.send(self.command, path, body)
        if str(reply.getheader("Content-Type")).startswith("text/event-stream"):
            self._stream(reply)
            return
        said = reply.read()
        if path == "/responses" and reply.status == 200 and not (given or {}).get("background"):
            said = json.dumps(self.up.ended(json.loads(said))).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = do_DELETE = pass_on

    def _stream(self, reply: http.client.HTTPResponse) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        while chunk := reply.read1(65536):
            self.wfile.write(chunk)
            self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Nothing: the suite says what it asked."""


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else PORT
    Front.up = Upstream(discovery.start_or_join(report=print))
    print(f"The embedded server at http://127.0.0.1:{port}/v1; interrupt ends the front.")
    with ThreadingHTTPServer(("127.0.0.1", port), Front) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
