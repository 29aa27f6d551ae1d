"""The HTTP side: who may ask, which paths there are, and when the process has been idle enough.

Only 127.0.0.1 is served; a request needs the server's token and a Host header that names this
very server, so that neither another user nor a web page can use it. What a body may say is left
to `body`, what becomes of it to `responses`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import json
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from bgmagic.local import LocalServerError, endpoint
from bgmagic.local.body import check, parse
from bgmagic.local.endpoint import HOST, Endpoint
from bgmagic.local.fields import Refusal
from bgmagic.local.responses import Response, Responses

# Bytes of a create's body; far more text than the model reads.
BODY_LIMIT = 10_000_000
# Bytes of a too large body that are read and dropped, so that its sender gets to see the 413.
DRAIN_LIMIT = 200_000_000
# Bytes of any other body: none is needed.
SMALL_BODY = 100_000


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


@stream_request_body
class Create(Handler):
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

    def post(self) -> None:
        self.admit()
        if self._size > BODY_LIMIT:
            raise Refusal(413, f"The body of your request has more than {BODY_LIMIT} bytes.")
        ask = check(parse(b"".join(self._chunks)), self.state.model)
        self.reply(self.state.responses.create(ask).json())


class Known(Handler):
    """GET and DELETE /v1/responses/{id}."""

    def get(self, response_id: str) -> None:
        self.reply(self.find(response_id).json())

    def delete(self, response_id: str) -> None:
        self.state.responses.delete(self.find(response_id))
        self.reply({"id": response_id, "object": "response", "deleted": True})


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


def bind(port: int) -> list[socket.socket]:
    """Sockets that listen on the port of 127.0.0.1; 0 takes a free one.

    Raises:
        LocalServerError: the port is taken or not allowed.
    """
    try:
        return bind_sockets(port, HOST)
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"can't be used ({error.strerror})"
        raise LocalServerError(
            f"Port {port} of {HOST} {why}: name another with --port, or leave --port out."
        ) from error


def application(state: State) -> Application:
    """The paths of the API."""
    shared = {"state": state}
    one = r"/v1/responses/([^/]+)"
    return Application(
        [
            (r"/v1/responses", Create, shared),
            (one, Known, shared),
            (rf"{one}/cancel", Cancel, shared),
            (r"/v1/health", Health, shared),
        ],
        default_handler_class=Nowhere,
        default_handler_args=shared,
        log_function=lambda handler: None,
    )


async def serve(
    responses: Responses, model: str, sockets: list[socket.socket], idle: float
) -> None:
    """Serves until a signal comes or nothing has happened for `idle` seconds.

    The endpoint file is there as long as the server answers.
    """
    logging.getLogger("tornado").setLevel(logging.ERROR)
    state = State(responses, model, sockets[0].getsockname()[1])
    server = HTTPServer(application(state), max_body_size=SMALL_BODY)
    server.add_sockets(sockets)
    ended = _end_signal()
    work = asyncio.create_task(responses.work())
    endpoint.write(state.endpoint)
    try:
        await _until_idle(state, ended, idle)
    finally:
        server.stop()
        responses.stop_all()
        work.cancel()
        await server.close_all_connections()
        endpoint.remove(state.endpoint)


def _end_signal() -> asyncio.Event:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(ended.set))
    return ended


async def _until_idle(state: State, ended: asyncio.Event, idle: float) -> None:
    while not ended.is_set():
        if state.busy:
            state.touched = time.monotonic()
        rest = state.touched + idle - time.monotonic()
        if rest <= 0:
            return
        # A job that ends does not wake this, so look again now and then.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), min(rest, 5.0))
