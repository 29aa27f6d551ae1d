#!/usr/bin/env bash
# Guess: respx mocks the OpenAI SDK, which is built on httpx: under `respx.mock` a mocked route is answered from the
#   test, and a request that no route knows raises AllMockedAssertionError, so that no test reaches a server by mistake.
# Reality: openai 3 sends by httpx2, of which respx knows nothing unless it is told. The mocked request and the unmocked
#   one both go out to the real server, with the real key, and its answers are what the test sees: it passes as far
#   as these fit. Only at the end, and only without assert_all_called=False, is the route said not to have been called.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "respx==0.23.1" "openai==3.57.0" "httpx==0.28.1" "httpx2==2.16.2" "pydantic==2.14.4"
"$folder/venv/bin/python" - <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import httpx
import respx
from openai import OpenAI

asked = []


def response(text):
    said = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [said]}
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5.2", "status": "completed",
        "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "output": [item],
        "parallel_tool_calls": True, "temperature": 1, "top_p": 1, "tool_choice": "auto", "tools": [],
    }  # fmt: skip


class Real(BaseHTTPRequestHandler):
    """What must not be asked."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        asked.append(self.headers["Authorization"])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(response("from the real server")).encode())

    def log_message(self, *arguments):
        pass


real = ThreadingHTTPServer(("127.0.0.1", 0), Real)
threading.Thread(target=real.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{real.server_address[1]}/v1"


def sdk():
    return OpenAI(api_key="sk-real", base_url=url, max_retries=0).responses.create(model="gpt-5.2", input="Hi.").output_text


def bare():
    return httpx.post(f"{url}/responses", json={}).json()["output"][0]["content"][0]["text"]


def told(call, mocked):
    """What a call gave under respx, and how many requests the server has seen of it."""
    before = len(asked)
    with respx.mock(assert_all_called=False) as router:
        if mocked:
            router.post(f"{url}/responses").respond(json=response("mocked"))
        try:
            said = call()
        except Exception as error:
            said = type(error).__name__
    return said, len(asked) - before


print("respx", version("respx"), "openai", version("openai"), "httpx2", version("httpx2"))
seen = {}
for name, call in (("httpx", bare), ("the SDK", sdk)):
    for mocked in (True, False):
        seen[name, mocked] = told(call, mocked)
        print(f"{name}, {'mocked' if mocked else 'not mocked'}: {seen[name, mocked]}")
print("the key that went out:", set(asked))
expected = {
    ("httpx", True): ("mocked", 0), ("httpx", False): ("AllMockedAssertionError", 0),
    ("the SDK", True): ("from the real server", 1), ("the SDK", False): ("from the real server", 1),
}  # fmt: skip
sys.exit(0 if seen == expected else 1)
PY
