"""The HTTP side: who may ask, and what is answered on which path.

A request needs the server's token and a Host header that names this very server, so that neither
another user nor a web page can use it. What a body may say is left to `body`, what headers may ask
to `pace`, what becomes of it to `responses`, the process to `server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from bgmagic.local import endpoint, items, pace
from bgmagic.local.body import check, parse
from bgmagic.local.endpoint import HOST, Endpoint
from bgmagic.local.fields import Refusal, choice, integer, refuse
from bgmagic.local.items import LONGEST_PAGE
from bgmagic.local.responses import Response, Responses

# Bytes of a create's body; far more text than the model reads.
BODY_LIMIT = 10_000_000
# Bytes of a too large body that are read and dropped, so that its sender gets to see the 413.
DRAIN_LIMIT = 200_000_000


@dataclass
class State:
    """What the handlers share."""

    responses: Responses
    model: str
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    started: float = field(default_factory=time.monotonic)
    touched: float = field(default_factory=time.monotonic)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://{HOST}:{self.port}/v1", self.token, os.getpid(), self.model)

    @property
    def busy(self) -> bool:
        return bool(self.responses.count("in_progress") or self.responses.count("queued"))


class Handler(RequestHandler):
    """What all paths have in common: admission, and errors in the API's shape."""

    SUPPORTED_METHODS = ("GET", "POST", "DELETE")

    def initialize(self, state: State) -> None:
        self.state = state

    def set_default_headers(self) -> None:
        self.set_header("x-request-id", f"req_{secrets.token_hex(16)}")
        self.set_header("Cache-Control", "no-store")

    def compute_etag(self) -> None:
        """None: a poll is answered in full."""

    def prepare(self) -> Awaitable[None] | None:
        self.admit()
        return None

    def admit(self) -> None:
        """Raises a Refusal for whoever may not ask."""
        here = (f"{HOST}:{self.state.port}", f"localhost:{self.state.port}")
        if self.request.host not in here:
            raise Refusal(403, "The Host header does not name this server.")
        offered = self.request.headers.get("Authorization", "")
        wanted = f"Bearer {self.state.token}"
        if not hmac.compare_digest(offered.encode("utf-8", "replace"), wanted.encode()):
            raise Refusal(
                401,
                "Incorrect API key provided: this local server takes only its own token.",
                code="invalid_api_key",
            )
        self.state.touched = time.monotonic()

    def find(self, response_id: str) -> Response:
        response = self.state.responses.get(response_id)
        if response is None:
            raise Refusal(404, f"Response with id '{response_id[:80]}' not found.")
        return response

    def query(self, name: str) -> str | None:
        """The query's value of that name, if there is one."""
        value: str | None = self.get_query_argument(name, None)
        return value

    def reply(self, body: dict[str, Any]) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(body))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        problem = kwargs.get("exc_info", (None, None))[1]
        if not isinstance(problem, Refusal):
            kind = "server_error" if status_code >= 500 else "invalid_request_error"
            problem = Refusal(status_code, HTTPStatus(status_code).phrase, kind=kind)
        self.set_status(problem.status)
        self.reply({"error": problem.error})

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        if not isinstance(value, Refusal | HTTPError):
            super().log_exception(typ, value, tb)


class Streaming(Handler):
    """What can answer with a stream of events."""

    _watch: asyncio.Task[None] | None = None

    async def stream(self, response: Response, start: int) -> None:
        """Sends the events from number `start` on until the response ends or its watcher goes."""
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        watch = self._watch = asyncio.create_task(self._send(response, start))
        await asyncio.wait({watch})
        if not watch.cancelled():
            watch.result()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._watch is not None:
            self._watch.cancel()

    async def _send(self, response: Response, number: int) -> None:
        with contextlib.suppress(StreamClosedError):
            await self.flush()  # the watcher learns at once that it may watch
            while True:
                frames, number = await response.follow(number)
                if not frames:
                    return
                self.write(frames)
                await self.flush()  # until it has taken them


@stream_request_body
class Create(Streaming):
    """POST /v1/responses."""

    def prepare(self) -> Awaitable[None] | None:
        # Admission waits until the body is there: a reply before that would reach its sender as
        # a broken connection.
        self._chunks: list[bytes] = []
        self._size = 0
        connection: Any = self.request.connection
        connection.set_max_body_size(DRAIN_LIMIT)
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._size += len(chunk)
        if self._size > BODY_LIMIT:
            self._chunks.clear()
        else:
            self._chunks.append(chunk)
        return None

    def get(self) -> None:
        self.admit()
        raise HTTPError(405)

    delete = get

    async def post(self) -> None:
        self.admit()
        if self._size > BODY_LIMIT:
            raise Refusal(413, f"The body of your request has more than {BODY_LIMIT} bytes.")
        ask = check(parse(b"".join(self._chunks)), self.state.model)
        response = self.state.responses.create(ask, pace.read(self.request.headers))
        if ask.stream:
            await self.stream(response, 0)
        else:
            self.reply(response.json())


class Known(Streaming):
    """GET and DELETE /v1/responses/{id}."""

    async def get(self, response_id: str) -> None:
        response = self.find(response_id)
        start = self._start(response)
        if start is None:
            self.reply(response.json())
        else:
            await self.stream(response, start)

    def delete(self, response_id: str) -> None:
        self.state.responses.delete(self.find(response_id))
        self.reply({"id": response_id, "object": "response", "deleted": True})

    def _start(self, response: Response) -> int | None:
        """The number of the first event that is wanted; None for no stream at all."""
        asked = {"stream": self.query("stream")}
        after = self.query("starting_after")
        if choice(asked, "stream", ("true", "false"), "false") == "false":
            if after is not None:
                refuse("'starting_after' is only for streams: add stream=true.", "starting_after")
            return None
        if not response.ask.stream:
            refuse(
                "This response was not created with stream=true and can't be streamed: leave"
                " 'stream' out and poll it.",
                "stream",
                "unsupported_value",
            )
        if after is None:
            return 0
        return integer(after, "starting_after", 0, response.outline.count - 1) + 1


class InputItems(Handler):
    """GET /v1/responses/{id}/input_items."""

    def get(self, response_id: str) -> None:
        response = self.find(response_id)
        asked = {"order": self.query("order")}
        limit = self.query("limit")
        self.reply(
            items.page(
                response.ask.items,
                response.items_seed,
                order=choice(asked, "order", items.ORDERS, "desc"),
                limit=items.PAGE if limit is None else integer(limit, "limit", 1, LONGEST_PAGE),
                after=self.query("after"),
            )
        )


class Cancel(Handler):
    """POST /v1/responses/{id}/cancel; of a finished response, it returns that as it is."""

    async def post(self, response_id: str) -> None:
        response = self.find(response_id)
        with contextlib.suppress(TimeoutError):
            await self.state.responses.cancel(response)
        self.reply(response.json())


class Health(Handler):
    """GET /v1/health: that this server lives, and what it is doing."""

    def get(self) -> None:
        state = self.state
        self.reply(
            {
                "name": "bgmagic.local",
                "version": endpoint.version(),
                "pid": os.getpid(),
                "model": state.model,
                "uptime": round(time.monotonic() - state.started, 3),
                "jobs": {name: state.responses.count(name) for name in ("queued", "in_progress")},
            }
        )


class Nowhere(Handler):
    """Every other path."""

    def prepare(self) -> Awaitable[None] | None:
        self.admit()
        raise Refusal(404, "There is no such path on this local server.")
