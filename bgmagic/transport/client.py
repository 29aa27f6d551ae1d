"""Calls the Responses API of one server: create, retrieve, follow a stream, cancel.

A success is a `Reply`, a failure a `ServerError`; nothing here retries. The SDK sends cancels,
streams, the first creates and the first poll. Later creates and polls repeat what it sent for the
first ones (see `direct`), over connections that they share, which is most of what a job costs. The
SDK is imported lazily: it takes a third of a second, which the loop thread spends, not a cell.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from bgmagic.api.request import Request
from bgmagic.api.response import ResponseCompressor
from bgmagic.api.server import ServerConfig
from bgmagic.errors import ServerError
from bgmagic.transport.direct import (
    KEPT,
    DirectGet,
    DirectPost,
    PollSlots,
    TasklessPoll,
    from_sdk_create,
    from_sdk_request,
    is_plain_id,
    pool_of,
)
from bgmagic.transport.reply import (
    NO_HASH,
    POLL_TIMEOUT,
    HTTPResponse,
    Reply,
    ReplyParser,
    is_event_stream,
    poll_after,
    without_half_characters,
)
from bgmagic.transport.sdk import (
    goes_direct,
    post_response,
    sdk_client,
    seen_requests,
    tls_of,
)
from bgmagic.transport.streaming import EventStream

if TYPE_CHECKING:
    from bgmagic.transport.http11 import ConnectionPool, OnAnswer

# Seconds. Servers answer a create within a few; large attachments take their time to get there.
CREATE_TIMEOUT = 120.0

# Most creates, and most polls, in flight at one server at once: each takes a connection.
AT_ONCE = 50


class PollLimiter(Protocol):
    """Says when a poll may be made, by calling a function or by ending a wait."""

    @property
    def is_full(self) -> bool: ...

    def ask(self, go: Callable[[], object]) -> None: ...

    async def passed(self) -> None: ...


class ResponsesClient:
    """The calls of the Responses API that background mode needs. Belongs to one event loop.

    Attributes:
        compress: compresses the responses of jobs that go on.
        create_slots: bounds the creates in flight; the caller enters it before `create`.
    """

    def __init__(self, server: ServerConfig, gate: PollLimiter | None = None) -> None:
        """Make the client of ``server``. Imports the SDK.

        Args:
            gate: is asked before each poll.

        Raises:
            ServerError: the SDK can't make a client of these settings.
        """
        self._server = server
        self._gate = gate
        self._parser = ReplyParser(server)
        self.compress = ResponseCompressor()
        self.create_slots = asyncio.Semaphore(AT_ONCE)
        self._polling = PollSlots(AT_ONCE)
        self._pool: ConnectionPool | None = None  # of both of these
        self._direct: DirectGet | None = None  # polls use this, if it is there
        # Whether responses have the ids that they are asked for by; None while one did not tell.
        self._same_ids: bool | None = None
        self._polled: deque[int] = deque(maxlen=AT_ONCE)  # hashes of the newest answers to polls
        self._post: DirectPost | None = None  # and creates this
        self._not_included: set[tuple[str, ...]] = set()  # what the server refuses to include
        # The user's own clients and Azure's may give another key each time.
        self._learns = server.sdk_client is None and not server.azure
        # Set while the SDK is about to send the first create, which the others then repeat.
        self._learning: asyncio.Event | None = None
        self._learns_post = self._learns
        try:
            self._tls = tls_of(server)
            self._sdk = sdk_client(server, self._tls)
            self._sdk_polls = sdk_client(server, self._tls, KEPT)
        except Exception as error:
            about = f"the settings of {server.address} can't be used: {error}"
            raise ServerError(self._parser.clean(about), maybe_accepted=False) from None

    async def create(self, request: Request, total: float = CREATE_TIMEOUT) -> Reply:
        """POST the request once.

        Args:
            total: seconds that it may take; the caller ends it then.

        Raises:
            ServerError: with ``maybe_accepted`` telling whether the server can have taken it.
        """
        try:
            got = await self._posted(request.sent_text.encode(), total)
        except Exception as error:
            raise self._parser.failure(error) from None
        # A new response has an id of its own: something on the way has answered a poll twice.
        if hash(got.content) in self._polled:
            self.refuse_anothers(got.status)
        return self._parser.read(got)

    async def _posted(self, body: bytes, total: float) -> HTTPResponse:
        if self._learning is not None:
            await self._learning.wait()
        if self._post is not None:
            got = await self._post.post(body, total)
            if got is not None:
                if got.status >= 300:
                    raise self._parser.refusal(got)
                return got
            # It moved within the server, which has not looked at it: the SDK goes there.
            self._post = None
        http = await self._posted_by_sdk(body, total)
        self._parser.learn(http.request)
        return HTTPResponse(http.status_code, http.headers, http.content)

    async def _posted_by_sdk(self, body: bytes, total: float) -> Any:
        if not self._learns_post:
            return await post_response(self._sdk, body, total)
        self._learns_post, self._learning = False, asyncio.Event()
        try:
            with seen_requests(self._sdk, self._learn_post):
                return await post_response(self._sdk, body, total)
        finally:
            self._end_learning()

    async def _learn_post(self, request: Any) -> None:
        """Have other creates go as ``request``, which the SDK is just sending."""
        url = request.url
        # Not a cancel of another job that the SDK sends meanwhile: creates would all go there.
        if self._learning is None or not url.path.endswith("/responses"):
            return
        if goes_direct(self._sdk, url):
            home = type(url)(self._server.base_url)
            self._post = from_sdk_create(request, self._pool_of(url), home)
        self._end_learning()

    def _end_learning(self) -> None:
        if self._learning is not None:
            self._learning.set()
            self._learning = None

    def _pool_of(self, url: Any) -> ConnectionPool:
        if self._pool is None:
            self._pool = pool_of(url, self._tls)
        return self._pool

    async def create_streamed(
        self, request: Request, total: float = CREATE_TIMEOUT
    ) -> tuple[Reply, EventStream | None]:
        """POST the request once, and read on as the response is written.

        Returns:
            the response as its first event has it, and the events from there on; None where the
            server answered as if it had not been asked to stream.

        Raises:
            ServerError: with ``maybe_accepted`` telling whether the server can have taken it.
        """
        post = post_response(self._sdk, request.sent_text.encode(), total, stream=True)
        http = await self._open(post)
        close = http.aclose
        try:
            if not is_event_stream(http.headers):
                content = await http.aread()
                return self._parser.read(
                    HTTPResponse(http.status_code, http.headers, content)
                ), None
            stream = self._stream(http, close)
            first = await stream.first()
        except BaseException as error:
            await close()
            if isinstance(error, Exception):
                raise self._parser.failure(error) from None
            raise
        return Reply(without_half_characters(first), poll_after(http.headers)), stream

    @property
    def address(self) -> str:
        """The server's address, without what may be secret in it."""
        return self._server.address

    def hide(self, text: str) -> str:
        """``text`` without the secrets that went out to this server."""
        return self._parser.hide(text)

    async def follow(self, response_id: str, after: int | None) -> EventStream:
        """GET the events of a response that was created with a stream.

        Args:
            after: the number of the last event that is known, or None for all.

        Raises:
            ServerError: the server does not stream it, or can't be reached.
        """
        retrieve = self._sdk.responses.with_streaming_response.retrieve
        query: dict[str, Any] = {"stream": "true"}
        if after is not None:
            query["starting_after"] = after

        async def get() -> Any:
            return (await retrieve(response_id, extra_query=query).__aenter__()).http_response

        http = await self._open(get())
        if is_event_stream(http.headers):
            return self._stream(http, http.aclose)
        await http.aclose()
        about = f"{self._server.address} does not stream this response"
        raise ServerError(about, maybe_accepted=True, status_code=http.status_code)

    def begin_poll(self, response_id: str, on_answer: OnAnswer) -> bool:
        """GET the response without a task; False where it takes one, by `retrieve`.

        Args:
            on_answer: is called with the answer, with the exception, or with neither if the GET
                has to be sent again. Unless the answer is `unchanged`, pass both on to `retrieve`.
        """
        if self._direct is None or not is_plain_id(response_id):
            return False
        if self._gate is not None and self._gate.is_full:
            return False  # polls that wait for a turn are bounded to fewer
        poll = TasklessPoll(self._direct, self._polling, response_id, on_answer)
        if self._gate is None:
            poll.ask()
        else:
            self._gate.ask(poll.ask)
        return True

    def unchanged(self, got: HTTPResponse | None, last: Reply | None) -> Reply | None:
        """``last``, with the delay that ``got`` asks for, if ``got`` says the same."""
        if got is None or last is None or not 200 <= got.status < 300:
            return None
        content_hash = hash(got.content)
        if content_hash != last.content_hash:
            return None
        self._polled.append(content_hash)
        after = poll_after(got.headers)
        return last if after == last.poll_after else replace(last, poll_after=after)

    async def retrieve(
        self,
        response_id: str,
        last: Reply | None = None,
        include: tuple[str, ...] = (),
        asked: tuple[HTTPResponse | None, Exception | None] | None = None,
    ) -> Reply:
        """GET the response.

        Args:
            last: the newest reply that is known; returned again where nothing has changed.
            include: what it is to have beside what it always has, where the server lets it.
            asked: what `begin_poll` was told.

        Raises:
            ServerError: the server gave no response object within 30 s.
        """
        try:
            got = await self._answer(response_id, include, asked)
        except Exception as error:
            raise self._parser.failure(error) from None
        same = self.unchanged(got, last)
        if same is not None:
            return same
        reply, content_hash = self._parser.read(got, response_id), hash(got.content)
        self._polled.append(content_hash)
        if self._is_anothers(reply, response_id):
            reply, content_hash = await self._asked_again(response_id, include, reply), NO_HASH
        return replace(reply, content_hash=content_hash)

    async def _answer(
        self,
        response_id: str,
        include: tuple[str, ...],
        asked: tuple[HTTPResponse | None, Exception | None] | None,
    ) -> HTTPResponse:
        got, error = asked or (None, None)
        if error is not None:
            from bgmagic.transport.bounded import UnsupportedResponse

            if not isinstance(error, UnsupportedResponse):
                raise error
            self._direct = None
        if got is not None:
            if got.status >= 400:
                raise self._parser.refusal(got)
            if got.status < 300:
                return got
            self._direct = None
        # Waiting for others' polls is not the server's fault, and no part of the 30 s.
        if asked is None and self._gate is not None:
            await self._gate.passed()
        async with self._polling:
            if include:
                return await self._including(response_id, include)
            return await self._got(response_id)

    def _is_anothers(self, reply: Reply, response_id: str) -> bool:
        """Whether this may be the answer to another poll: a proxy may answer one twice, the second
        time late."""
        answered = reply.response.get("id")
        if answered == response_id:
            self._same_ids = True
        kept = self._direct is not None and self._same_ids is not False
        return kept and isinstance(answered, str) and answered != response_id

    async def _asked_again(self, response_id: str, include: tuple[str, ...], first: Reply) -> Reply:
        """GET the response by the SDK, which shows whether this server's ids always differ.

        Raises:
            ServerError: it can't be had, or was a third one, of a server whose ids are the same.
        """
        asked = () if include in self._not_included else include
        self._drop_idle()
        try:
            async with self._polling:
                reply = self._parser.read(await self._got_by_sdk(response_id, asked))
        except Exception as error:
            raise self._parser.failure(error) from None
        answered = reply.response.get("id")
        known = response_id, first.response["id"]
        if self._same_ids and isinstance(answered, str) and answered not in known:
            about = f"{self.address} answered with other responses than the one asked for"
            raise ServerError(about, maybe_accepted=True, status_code=200)
        self._same_ids = self._same_ids or answered == response_id
        return reply

    def refuse_anothers(self, status: int) -> NoReturn:
        """Raise that a create got another's response: the server may have taken it or not."""
        self._drop_idle()
        about = f"{self.address} answered with the response of another job; each has its own id"
        raise ServerError(about, maybe_accepted=True, status_code=status)

    def _drop_idle(self) -> None:
        """Close idle connections: a late answer on one would be taken for the next request's."""
        if self._pool is not None:
            self._pool.drop_idle()

    async def _including(self, response_id: str, include: tuple[str, ...]) -> HTTPResponse:
        """The answer with what ``include`` names; without, where the server refuses that."""
        if include in self._not_included:
            return await self._got(response_id)
        try:
            return await self._got(response_id, include)
        except Exception as error:
            if self._parser.failure(error).status_code not in (400, 422):
                raise
            got = await self._got(response_id)  # refused as well if it was not about that
            self._not_included.add(include)
            return got

    async def _got(self, response_id: str, include: tuple[str, ...] = ()) -> HTTPResponse:
        if self._direct is not None and is_plain_id(response_id):
            got = await self._direct.get(response_id, include, POLL_TIMEOUT)
            if got is not None:
                if got.status >= 400:
                    raise self._parser.refusal(got)
                return got
            # This answer needs the SDK (redirect, odd encoding). Use the SDK for all further polls;
            # polls already in flight may still finish directly.
            self._direct = None
        return await self._got_by_sdk(response_id, include)

    async def _got_by_sdk(self, response_id: str, include: tuple[str, ...]) -> HTTPResponse:
        asked: Any = {"include": list(include)} if include else {}
        retrieve = self._sdk_polls.responses.with_raw_response.retrieve
        async with asyncio.timeout(POLL_TIMEOUT):
            http = (await retrieve(response_id, **asked)).http_response
        self._parser.learn(http.request)
        if self._learns and not http.history:
            self._learns = False
            url = http.request.url
            if goes_direct(self._sdk_polls, url):
                pool = self._pool_of(url)
                self._direct = from_sdk_request(http.request, response_id, pool)
        return HTTPResponse(http.status_code, http.headers, http.content)

    async def cancel(self, response_id: str) -> Reply:
        """Ask the server to cancel the response.

        Raises:
            ServerError: the server gave no response object within 30 s.
        """
        cancel = self._sdk.responses.with_raw_response.cancel
        try:
            async with asyncio.timeout(POLL_TIMEOUT):
                http = (await cancel(response_id)).http_response
            self._parser.learn(http.request)
        except Exception as error:
            raise self._parser.failure(error) from None
        return self._parser.read(HTTPResponse(http.status_code, http.headers, http.content))

    async def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.close()
        await self._sdk.close()
        await self._sdk_polls.close()

    async def _open(self, opening: Awaitable[Any]) -> Any:
        """The HTTP answer of a call whose body is still to be read; its ``aclose`` ends that."""
        try:
            http = await opening
        except Exception as error:
            raise self._parser.failure(error) from None
        self._parser.learn(http.request)
        return http

    def _stream(self, http: Any, close: Callable[[], Awaitable[object]]) -> EventStream:
        return EventStream(http.aiter_bytes(), close, self._parser.parse, self._parser.failure)
