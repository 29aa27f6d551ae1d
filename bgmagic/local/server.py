"""The HTTP server: its sockets, its paths and their handlers.

Only 127.0.0.1 is served. A request needs the server's token and a Host header that names this
server, so that neither another user nor a web page can use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from bgmagic.local import CALLS_HEADER, FLEX_REFUSALS_HEADER, LocalServerError, discovery, openapi
from bgmagic.local.conversations import (
    MAX_PAGE_SIZE,
    ORDERS,
    PAGE_SIZE,
    Conversation,
    Entry,
    item_json,
    items_page,
    list_items,
    response_entries,
)
from bgmagic.local.discovery import HOST, Endpoint
from bgmagic.local.engine import EngineSettings
from bgmagic.local.request_body import parse_json, read_conversation, read_count, read_create
from bgmagic.local.responses import Response, ResponseStore, read_pace
from bgmagic.local.validation import BadRequest, Processing, choice, integer, read_calls, refuse

# Bytes of a create's body; far more text than the model reads.
MAX_BODY = 10_000_000
# Bytes of a too large body that are read and dropped, so that its sender gets to see the 413.
MAX_DRAINED = 210_000_000
# What a client may give to be proven the token by.
NONCE = re.compile("[0-9a-f]{32,128}")


@dataclass
class ServerState:
    """What the handlers share."""

    responses: ResponseStore
    model: str
    port: int
    settings: EngineSettings = field(default_factory=EngineSettings)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    started: float = field(default_factory=time.monotonic)
    touched: float = field(default_factory=time.monotonic)
    processing: Processing = field(default_factory=Processing)

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}/v1"

    @property
    def endpoint(self) -> Endpoint:
        chosen = self.settings
        return Endpoint(
            self.base_url, self.token, os.getpid(), self.model,
            chosen.threads, chosen.parallel, chosen.context,
        )  # fmt: skip

    @property
    def busy(self) -> bool:
        return bool(self.responses.count("in_progress") or self.responses.count("queued"))


class BaseHandler(RequestHandler):
    """What all paths have in common: admission, and errors in the API's shape."""

    SUPPORTED_METHODS = ("GET", "POST", "DELETE")

    def initialize(self, state: ServerState) -> None:
        self.state = state

    def set_default_headers(self) -> None:
        self.set_header("x-request-id", f"req_{secrets.token_hex(16)}")
        self.set_header("Cache-Control", "no-store")

    def compute_etag(self) -> None:
        """None: a poll is answered in full."""

    def prepare(self) -> Awaitable[None] | None:
        self.admit()
        return None

    def check_host(self) -> None:
        """Raises a BadRequest unless the Host header names this server."""
        here = (f"{HOST}:{self.state.port}", f"localhost:{self.state.port}")
        if self.request.host not in here:
            raise BadRequest(403, "The Host header does not name this server.")

    def admit(self) -> None:
        """Raises a BadRequest without this server's Host header and token."""
        self.check_host()
        offered = self.request.headers.get("Authorization", "")
        wanted = f"Bearer {self.state.token}"
        if not hmac.compare_digest(offered.encode("utf-8", "replace"), wanted.encode()):
            raise BadRequest(
                401,
                "Incorrect API key provided: this local server takes only its own token.",
                code="invalid_api_key",
            )
        self.state.touched = time.monotonic()

    def find(self, response_id: str) -> Response:
        response = self.state.responses.get(response_id)
        if response is None:
            raise BadRequest(404, f"Response with id '{response_id[:80]}' not found.")
        return response

    def reply_page(self, entries: list[Entry]) -> None:
        """Replies with the page of the items that the query asks for."""
        limit = self.query("limit")
        self.reply(
            list_items(
                entries,
                order=choice({"order": self.query("order")}, "order", ORDERS, "desc"),
                limit=PAGE_SIZE if limit is None else integer(limit, "limit", 1, MAX_PAGE_SIZE),
                after=self.query("after"),
            )
        )

    def query(self, name: str) -> str | None:
        """The query's value of that name, if there is one."""
        value: str | None = self.get_query_argument(name, None, strip=False)
        return value

    def reply(self, body: dict[str, Any]) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(body))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        problem = kwargs.get("exc_info", (None, None))[1]
        if not isinstance(problem, BadRequest):
            kind = "server_error" if status_code >= 500 else "invalid_request_error"
            problem = BadRequest(status_code, HTTPStatus(status_code).phrase, kind=kind)
        self.set_status(problem.status)
        self.reply({"error": problem.error})

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        if not isinstance(value, BadRequest | HTTPError):
            super().log_exception(typ, value, tb)


class StreamingHandler(BaseHandler):
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
class BodyHandler(StreamingHandler):
    """A path whose POST has a body; that is admitted once the body is there.

    A reply before that would reach its sender as a broken connection.
    """

    most_body = MAX_BODY

    def prepare(self) -> Awaitable[None] | None:
        self._chunks: list[bytes] = []
        self._size = 0
        connection: Any = self.request.connection
        connection.set_max_body_size(MAX_DRAINED)
        if self.request.method != "POST":
            self.admit()
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._size += len(chunk)
        if self._size > self.most_body:
            self._chunks.clear()
        else:
            self._chunks.append(chunk)
        return None

    def raw_body(self) -> bytes:
        """The body of a request that is admitted."""
        self.admit()
        if self._size > self.most_body:
            raise BadRequest(413, f"The body of your request has more than {self.most_body} bytes.")
        return b"".join(self._chunks)

    def body(self) -> dict[str, Any]:
        """The JSON object in the body of a request that is admitted."""
        return parse_json(self.raw_body())


class CreateHandler(BodyHandler):
    """POST /v1/responses."""

    async def post(self) -> None:
        headers, processing = self.request.headers, self.state.processing
        calls = read_calls(headers.get(CALLS_HEADER))
        params = read_create(self.body(), self.state.model, calls)
        if FLEX_REFUSALS_HEADER in headers:
            processing.refuse_every_other(params.echo.get("service_tier"))
        pace, held = read_pace(headers), processing.queue(params.window, params.continuation_id)
        pace = replace(pace, queue=max(pace.queue, held))
        response = self.state.responses.create(params, pace)
        if params.stream:
            await self.stream(response, 0)
        else:
            self.reply(response.json())


class ResponseHandler(StreamingHandler):
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
            return None  # then starting_after says nothing
        if not response.params.stream:
            refuse(
                "This response was not created with stream=true and can't be streamed: leave"
                " 'stream' out and poll it.",
                "stream",
                "unsupported_value",
            )
        if after is None:
            return 0
        return integer(after, "starting_after", 0, response.outline.count - 1) + 1


class InputItemsHandler(BaseHandler):
    """GET /v1/responses/{id}/input_items."""

    def get(self, response_id: str) -> None:
        response = self.find(response_id)
        self.reply_page(response_entries(response.params.prompt.items, response.items_seed))


class InputTokensHandler(BodyHandler):
    """POST /v1/responses/input_tokens."""

    async def post(self) -> None:
        prompt = read_count(self.body(), self.state.model)
        tokens = await self.state.responses.count_tokens(prompt)
        self.reply({"object": "response.input_tokens", "input_tokens": tokens})


class CancelHandler(BaseHandler):
    """POST /v1/responses/{id}/cancel; of a finished response, it returns that as it is."""

    async def post(self, response_id: str) -> None:
        response = self.find(response_id)
        with contextlib.suppress(TimeoutError):
            await self.state.responses.cancel(response)
        self.reply(response.json())


class ConversationsHandler(BodyHandler):
    """POST /v1/conversations."""

    def post(self) -> None:
        metadata, items = read_conversation(self.body())
        self.reply(self.state.responses.conversations.create(metadata or {}, items).json())


class ConversationHandler(BodyHandler):
    """GET, POST (its metadata) and DELETE /v1/conversations/{id}."""

    def conversation(self, conversation_id: str) -> Conversation:
        return self.state.responses.conversations.get(conversation_id)

    def get(self, conversation_id: str) -> None:
        self.reply(self.conversation(conversation_id).json())

    def post(self, conversation_id: str) -> None:
        metadata, _ = read_conversation(self.body())
        conversation = self.conversation(conversation_id)
        if metadata is not None:
            conversation.metadata = metadata
        self.reply(conversation.json())

    def delete(self, conversation_id: str) -> None:
        self.state.responses.conversations.delete(self.conversation(conversation_id))
        self.reply({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


class ConversationItemsHandler(ConversationHandler):
    """GET (the list) and POST (more of them) /v1/conversations/{id}/items."""

    def get(self, conversation_id: str) -> None:
        self.reply_page(self.conversation(conversation_id).entries)

    def post(self, conversation_id: str) -> None:
        _, items = read_conversation(self.body())
        conversation = self.conversation(conversation_id)
        added = conversation.add(items)
        self.state.responses.conversations.trim()
        self.reply(items_page(added))

    def delete(self, conversation_id: str) -> None:
        raise HTTPError(405)


class ConversationItemHandler(BaseHandler):
    """GET and DELETE /v1/conversations/{id}/items/{item id}."""

    def get(self, conversation_id: str, item_id: str) -> None:
        conversation = self.state.responses.conversations.get(conversation_id)
        self.reply(item_json(item_id, conversation.item(item_id)))

    def delete(self, conversation_id: str, item_id: str) -> None:
        conversation = self.state.responses.conversations.get(conversation_id)
        conversation.remove(item_id)
        self.reply(conversation.json())


class HealthHandler(BaseHandler):
    """GET /v1/health: that this server lives, and what it is doing.

    With a `nonce` it proves that it knows the token, also to a client that has not sent it.
    """

    def prepare(self) -> None:
        self.check_host()

    def get(self) -> None:
        state, nonce = self.state, self.query("nonce")
        proof: dict[str, Any] = {}
        if nonce is not None:
            if not NONCE.fullmatch(nonce):
                refuse("Invalid 'nonce': give 32 to 128 hexadecimal digits.", "nonce")
            proof = {"proof": discovery.prove(state.token, state.base_url, nonce)}
        if not proof or "Authorization" in self.request.headers:
            self.admit()
            proof |= {
                "version": discovery.package_version(),
                "model": state.model,
                "uptime": round(time.monotonic() - state.started, 3),
                "jobs": {name: state.responses.count(name) for name in ("queued", "in_progress")},
            }
        self.reply({"name": "bgmagic.local", "pid": os.getpid(), **proof})


class DescriptionHandler(BaseHandler):
    """GET /openapi.json."""

    def get(self) -> None:
        self.reply(openapi.describe(self.state.base_url, self.state.model))


class NotFoundHandler(BaseHandler):
    """Every other path."""

    def prepare(self) -> Awaitable[None] | None:
        self.admit()
        raise BadRequest(404, "There is no such path on this local server.")


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


Route = tuple[str, Callable[..., Any], dict[str, Any]]


def application(state: ServerState, more: Sequence[Route] = ()) -> Application:
    """The paths of the API, with ``more`` of them."""
    shared = {"state": state}
    one = r"/v1/responses/([^/]+)"
    conversation = r"/v1/conversations/([^/]+)"
    return Application(
        [
            (r"/v1/responses", CreateHandler, shared),
            (r"/v1/responses/input_tokens", InputTokensHandler, shared),
            (r"/v1/responses/compact", NotFoundHandler, shared),
            (one, ResponseHandler, shared),
            (rf"{one}/cancel", CancelHandler, shared),
            (rf"{one}/input_items", InputItemsHandler, shared),
            (r"/v1/conversations", ConversationsHandler, shared),
            (conversation, ConversationHandler, shared),
            (rf"{conversation}/items", ConversationItemsHandler, shared),
            (rf"{conversation}/items/([^/]+)", ConversationItemHandler, shared),
            *more,
            (r"/v1/health", HealthHandler, shared),
            (r"/openapi.json", DescriptionHandler, shared),
        ],
        default_handler_class=NotFoundHandler,
        default_handler_args=shared,
        log_function=lambda handler: None,
    )
