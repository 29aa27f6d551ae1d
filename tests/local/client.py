"""A plain HTTP client of the embedded server, and waiting for conditions with a limit."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from bgmagic.local.discovery import Endpoint

T = TypeVar("T")

# It goes on for far more than a thousand tokens.
LONG = "Write a long story about a dragon."


def until(condition: Callable[[], T], limit: float = 120.0) -> T:
    """The condition's first true value; fails after `limit` seconds."""
    end = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)
    return value


def _body(reply: http.client.HTTPResponse) -> dict[str, Any]:
    if not str(reply.getheader("Content-Type")).startswith("text/event-stream"):
        body: dict[str, Any] = json.loads(reply.read())
        return body
    assert reply.readline() == b"event: response.created\n"
    first: dict[str, Any] = json.loads(reply.readline().removeprefix(b"data: "))["response"]
    return first


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def error(self) -> dict[str, Any]:
        assert set(self.body) == {"error"}
        assert set(self.body["error"]) == {"message", "type", "param", "code"}
        error: dict[str, Any] = self.body["error"]
        return error


@dataclass(frozen=True)
class Client:
    endpoint: Endpoint

    @property
    def port(self) -> int:
        port = urlsplit(self.endpoint.base_url).port
        assert port
        return port

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request with the token; `headers` add to or replace the usual ones.

        Of a stream, the body is the response of its first event; the connection is dropped then.
        """
        sent = {"Authorization": f"Bearer {self.endpoint.token}"} | dict(headers or {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, f"/v1{path}", body, sent)
            reply = connection.getresponse()
            return Reply(reply.status, dict(reply.getheaders()), _body(reply))
        finally:
            connection.close()

    def post(self, *, headers: Mapping[str, str] | None = None, **fields: Any) -> Reply:
        """A create with sensible defaults; a field given as None is left out."""
        body = {"model": "gpt-5.2", "input": "Name three fruits.", "background": True} | fields
        kept = {name: value for name, value in body.items() if value is not None}
        return self.call("POST", "/responses", json.dumps(kept).encode(), headers)

    def create(self, *, headers: Mapping[str, str] | None = None, **fields: Any) -> dict[str, Any]:
        reply = self.post(headers=headers, **fields)
        assert reply.status == 200, reply.body
        return reply.body

    def get(self, response_id: str) -> dict[str, Any]:
        reply = self.call("GET", f"/responses/{response_id}")
        assert reply.status == 200, reply.body
        return reply.body

    def cancel(self, response_id: str) -> dict[str, Any]:
        reply = self.call("POST", f"/responses/{response_id}/cancel")
        assert reply.status == 200, reply.body
        return reply.body

    def wait(self, response_id: str, status: str | None = None) -> dict[str, Any]:
        """The response once it has that status, or any terminal one."""

        def there() -> dict[str, Any] | None:
            response = self.get(response_id)
            now = response["status"]
            wanted = now == status if status else now not in ("queued", "in_progress")
            return response if wanted else None

        return until(there)

    def answer(self, **fields: Any) -> dict[str, Any]:
        """The terminal state of a new response."""
        return self.wait(self.create(**fields)["id"])

    def jobs(self) -> dict[str, int]:
        jobs: dict[str, int] = self.call("GET", "/health").body["jobs"]
        return jobs


def text(response: dict[str, Any]) -> str:
    """The output text of a response."""
    [message] = response["output"]
    [part] = message["content"]
    said: str = part["text"]
    return said
