"""The proof of the token: a program in the server's place is found out before it is sent anything."""

from __future__ import annotations

import hmac
import http.client
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.local import discovery
from bgmagic.local.discovery import Endpoint, prove
from tests.local.client import Client

TOKEN = "the-token-that-only-the-real-server-has"

Answer = Callable[[str], Any]


class Impostor:
    """A harmless server in the embedded one's place, which keeps all that it is sent."""

    def __init__(self, answer: Answer) -> None:
        self.received: list[str] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                received.append(f"{self.requestline}\n{self.headers}")
                nonce = parse_qs(urlsplit(self.path).query).get("nonce", [""])[0]
                body = answer(nonce)
                sent = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: Any) -> None:
                """Nothing on the test's output."""

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self._thread = threading.Thread(target=self.http.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self._thread.join()
        self.http.server_close()


@pytest.fixture
def impostor(empty_cache: Path) -> Iterator[Callable[[Answer], Impostor]]:
    """Makes an impostor at the address that the endpoint file names."""
    made: list[Impostor] = []

    def make(answer: Answer) -> Impostor:
        made.append(Impostor(answer))
        discovery.write_endpoint(Endpoint(made[0].base_url, TOKEN, os.getpid(), "m"))
        return made[0]

    yield make
    for each in made:
        each.close()


def signed(key: str, message: str) -> str:
    return hmac.new(key.encode(), message.encode(), "sha256").hexdigest()


GUESSES: list[Answer] = [
    lambda nonce: {"pid": os.getpid()},
    lambda nonce: {"pid": os.getpid(), "proof": ""},
    lambda nonce: {"pid": os.getpid(), "proof": None},
    lambda nonce: {"pid": os.getpid(), "proof": nonce},
    lambda nonce: {"pid": os.getpid(), "proof": "é" * 64},
    lambda nonce: {"pid": os.getpid(), "proof": signed("another-token", nonce)},
    lambda nonce: {"pid": os.getpid(), "proof": signed("", nonce), "version": "9", "model": "m"},
    lambda nonce: [],
    lambda nonce: b"",
    lambda nonce: b"\xff",
    lambda nonce: b"[" * 9_000,
    lambda nonce: b"x" * 1_000_000,
]


@pytest.mark.parametrize("answer", GUESSES)
def test_an_impostor_is_not_taken_for_the_server_and_gets_no_token(
    impostor: Callable[[Answer], Impostor], answer: Answer
) -> None:
    """Whatever it answers without the token, it is not found, and neither token nor header reached it."""
    there = impostor(answer)
    assert discovery.find() is None
    assert discovery.stop() is False
    assert len(there.received) == 2
    for sent in there.received:
        assert TOKEN not in sent
        assert "authorization" not in sent.lower()


def test_a_proof_is_good_for_one_question_at_one_address(
    impostor: Callable[[Answer], Impostor],
) -> None:
    """An old proof said again, and one that the real server gave at its own port, are refused."""
    nonces: list[str] = []
    old: list[str] = []

    def replay(nonce: str) -> Any:
        nonces.append(nonce)
        old.append(prove(TOKEN, there.base_url, nonce))
        return {"pid": os.getpid(), "proof": old[0]}

    there = impostor(replay)
    assert discovery.find() is not None  # the first answer is a true one
    assert discovery.find() is None
    assert len(set(nonces)) == 2
    relayed = prove(TOKEN, "http://127.0.0.1:1/v1", nonces[0])
    assert relayed != old[0]


def test_the_server_proves_its_token_to_who_has_not_sent_it(client: Client) -> None:
    """The reply holds the proof and the process, and nothing that only the token's owner may know."""
    nonce = "0123456789abcdef" * 4
    reply = client.call("GET", f"/health?nonce={nonce}", headers={"Authorization": ""})
    assert reply.status == 401  # a wrong token is no missing one
    bare = unauthorized(client, f"/health?nonce={nonce}")
    proof = prove(client.endpoint.token, client.endpoint.base_url, nonce)
    assert bare == {"name": "bgmagic.local", "pid": client.endpoint.pid, "proof": proof}
    known = client.call("GET", f"/health?nonce={nonce}").body
    assert known["proof"] == proof
    assert known["jobs"] == {"queued": 0, "in_progress": 0}


@pytest.mark.parametrize("nonce", ["", "0" * 31, "0" * 129, "g" * 32, "0" * 32 + "%0a"])
def test_a_wrong_nonce_is_refused(client: Client, nonce: str) -> None:
    """What is no nonce is a 400 that says what one is, and nothing is signed."""
    error = unauthorized(client, f"/health?nonce={nonce}")["error"]
    assert (error["param"], "32 to 128 hexadecimal digits" in error["message"]) == ("nonce", True)


@pytest.mark.parametrize(
    "path", ["/health", "/responses/x?nonce=" + "0" * 32, "/responses", "/conversations/x"]
)
def test_nothing_else_is_told_without_the_token(client: Client, path: str) -> None:
    """No other path, and health without a nonce, answers a request without the token."""
    assert unauthorized(client, path)["error"]["code"] == "invalid_api_key"


def test_a_foreign_host_header_gets_no_proof(client: Client) -> None:
    """A web page that points its own name at this machine can't have anything signed."""
    path, headers = f"/health?nonce={'0' * 32}", {"Host": "evil.example"}
    assert unauthorized(client, path, headers)["error"]["message"].startswith("The Host header")


@given(st.text(), st.text())
def test_a_proof_tells_token_address_and_nonce_apart(token: str, address: str) -> None:
    """Changing any of the three changes the proof."""
    proof = prove("t" + repr(token), f"http://{address!r}", "0" * 64)
    others = [("u" + repr(token), f"http://{address!r}", "0" * 64),
              ("t" + repr(token), f"http://{address!r}x", "0" * 64),
              ("t" + repr(token), f"http://{address!r}", "1" * 64)]  # fmt: skip
    assert proof not in [prove(*other) for other in others]
    assert len(proof) == 64


def unauthorized(
    client: Client, path: str, headers: dict[str, str] | None = None
) -> dict[str, Any]:
    """The JSON of the reply to a GET without the token."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=120)
    try:
        connection.request("GET", f"/v1{path}", headers=headers or {})
        body: dict[str, Any] = json.loads(connection.getresponse().read())
        return body
    finally:
        connection.close()
