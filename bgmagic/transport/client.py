"""Calls the Responses API of one server: create, retrieve, follow a stream, cancel.

A success is a `Reply`, a failure a `ServerError`; nothing here retries. The SDK sends creates,
cancels, streams and the first poll. Later polls repeat what it sent for the first one, over
connections that are kept, which is most of what a job costs. The SDK is imported lazily: it takes a
third of a second, which the loop thread spends, not a cell.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from bgmagic.api.request import Request
from bgmagic.api.response import ResponseCompressor
from bgmagic.api.server import ServerConfig
from bgmagic.errors import BgmagicError, ServerError
from bgmagic.text import one_line
from bgmagic.transport.reply import (
    POLL_TIMEOUT,
    HTTPResponse,
    Reply,
    ReplyParser,
    poll_after,
    without_half_characters,
)
from bgmagic.transport.sdk import (
    goes_direct,
    post_response,
    sdk_client,
    tls_of,
)
from bgmagic.transport.streaming import EventStream

if TYPE_CHECKING:
    from bgmagic.transport.http11 import ConnectionPool

# Servers and proxies mostly keep a connection for a minute or more; one that was closed meanwhile
# is noticed, and a GET is sent once more on another.
KEPT = 120.0  # seconds

# Seconds. Servers answer a create within a few; large attachments take their time to get there.
CREATE_TIMEOUT = 120.0

# Of the SDK's headers, those that belong to a connection, and what only its transport can unpack.
_ITS_OWN = frozenset({b"connection", b"accept-encoding", b"content-length"})

_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,512}")


class DirectGet:
    """Polls responses by repeating the SDK's first GET. Belongs to one event loop."""

    def __init__(self, pool: ConnectionPool, before: bytes, after: bytes) -> None:
        """Make it.

        Args:
            pool: the connections to the server.
            before: the head of a request up to the response id.
            after: what follows the id, to the head's end.
        """
        self._pool = pool
        self._before = before
        self._after = after

    async def get(self, response_id: str, include: Sequence[str] = ()) -> HTTPResponse | None:
        """GET a response once; None if the SDK has to get it, as for a redirect.

        Args:
            include: what the response is to have beside what it always has.

        Raises:
            httpx2.TransportError: as the SDK's transport does, for the same reasons.
        """
        # As the SDK writes a list; the query that every request has comes first.
        asked = urlencode([("include[]", word) for word in include]).encode()
        mark = (b"&" if self._after.startswith(b"?") else b"?") if asked else b""
        query, version, rest = self._after.partition(b" HTTP/1.1")
        address = self._before + response_id.encode() + query + mark + asked
        got = await self._pool.get(address + version + rest)
        return None if got is None or 300 <= got.status < 400 else got

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.close()


def is_plain_id(response_id: str) -> bool:
    """Whether the id can stand in an address as it is."""
    return _PLAIN_ID.fullmatch(response_id) is not None


def from_sdk_request(request: Any, response_id: str, tls: ssl.SSLContext) -> DirectGet | None:
    """Make a `DirectGet` that repeats ``request``, the SDK's own GET of a response; or None."""
    from bgmagic.transport.http11 import ConnectionPool

    url = request.url
    path, mark, query = url.raw_path.partition(b"?")
    # What this one response was to include is no part of it: each says so itself.
    query = b"&".join(one for one in query.split(b"&") if not one.startswith(b"include%5B%5D="))
    mark = mark if query else b""
    if not is_plain_id(response_id) or not path.endswith(f"/{response_id}".encode()):
        return None
    secure = url.scheme == "https"
    lines = [
        name + b": " + value
        for name, value in request.headers.raw
        # The SDK's own statistics of its single calls would not be true of these.
        if name.lower() not in _ITS_OWN and not name.lower().startswith(b"x-stainless-")
    ]
    before = b"GET " + path.removesuffix(response_id.encode())
    lines = [mark + query + b" HTTP/1.1", *lines, b"accept-encoding: gzip"]
    if any(sign in line for line in [before, *lines] for sign in (b"\r", b"\n", b"\0")):
        return None
    host, port = url.raw_host.decode(), url.port or (443 if secure else 80)
    pool = ConnectionPool(host, port, tls if secure else None, KEPT)
    return DirectGet(pool, before, b"\r\n".join(lines) + b"\r\n\r\n")


# Most creates, and most polls, in flight at one server at once: each takes a connection.
AT_ONCE = 50


class ResponsesClient:
    """The calls of the Responses API that background mode needs. Belongs to one event loop.

    Attributes:
        compress: compresses the responses of jobs that go on.
        create_slots: bounds the creates in flight; the caller enters it before `create`.
    """

    def __init__(self, server: ServerConfig) -> None:
        """Make the client of ``server``. Imports the SDK.

        Raises:
            ServerError: the SDK can't make a client of these settings.
        """
        self._server = server
        self._parser = ReplyParser(server)
        self.compress = ResponseCompressor()
        self.create_slots = asyncio.Semaphore(AT_ONCE)
        self._polling = asyncio.Semaphore(AT_ONCE)
        self._direct: DirectGet | None = None  # polls use this, if it is there
        self._opened: DirectGet | None = None  # closed with the client
        self._not_included: set[tuple[str, ...]] = set()  # what the server refuses to include
        # The user's own clients and Azure's may give another key each time.
        self._learns = server.sdk_client is None and not server.azure
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
            total: seconds that it may take; to end it then is for who calls.

        Raises:
            ServerError: with ``maybe_accepted`` telling whether the server can have taken it.
        """
        body = request.sent_text.encode()
        return await self._call(lambda: post_response(self._sdk, body, total), None)

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
            if not _is_stream(http):
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
        if _is_stream(http):
            return self._stream(http, http.aclose)
        await http.aclose()
        about = f"{self._server.address} does not stream this response"
        raise ServerError(about, maybe_accepted=True, status_code=http.status_code)

    async def retrieve(
        self, response_id: str, last: Reply | None = None, include: tuple[str, ...] = ()
    ) -> Reply:
        """GET the response.

        Args:
            last: the newest reply that is known; returned again where nothing has changed.
            include: what it is to have beside what it always has, where the server lets it.

        Raises:
            ServerError: the server gave no response object within 30 s.
        """
        # Waiting for others' polls is not the server's fault, and no part of the 30 s.
        async with self._polling:
            try:
                async with asyncio.timeout(POLL_TIMEOUT):
                    got = await self._including(response_id, include)
            except Exception as error:
                raise self._parser.failure(error) from None
        content_hash = hash(got.content)
        if last is not None and content_hash == last.content_hash:
            after = poll_after(got.headers)
            return last if after == last.poll_after else replace(last, poll_after=after)
        return replace(self._parser.read(got), content_hash=content_hash)

    async def _including(self, response_id: str, include: tuple[str, ...]) -> HTTPResponse:
        """The answer with what ``include`` names; without, where the server refuses that."""
        if not include or include in self._not_included:
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
            got = await self._direct.get(response_id, include)
            if got is not None:
                if got.status >= 400:
                    raise self._parser.refusal(got)
                return got
            # This answer needs the SDK (redirect, odd encoding). Use the SDK for all further polls;
            # polls already in flight may still finish directly.
            self._direct = None
        asked: Any = {"include": list(include)} if include else {}
        raw = await self._sdk_polls.responses.with_raw_response.retrieve(response_id, **asked)
        http = raw.http_response
        self._parser.learn(http.request)
        if self._learns and not http.history:
            self._learns = False
            if goes_direct(self._sdk_polls, http.request.url):
                self._direct = self._opened = from_sdk_request(http.request, response_id, self._tls)
        return HTTPResponse(http.status_code, http.headers, http.content)

    async def cancel(self, response_id: str) -> Reply:
        """Ask the server to cancel the response.

        Raises:
            ServerError: the server gave no response object within 30 s.
        """
        cancel = self._sdk.responses.with_raw_response.cancel

        async def send() -> Any:
            return (await cancel(response_id)).http_response

        return await self._call(send, POLL_TIMEOUT)

    async def close(self) -> None:
        """Close the connections."""
        if self._opened is not None:
            await self._opened.close()
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

    async def _call(self, send: Callable[[], Awaitable[Any]], total: float | None) -> Reply:
        try:
            async with asyncio.timeout(total):
                http = await send()
            self._parser.learn(http.request)
        except Exception as error:
            raise self._parser.failure(error) from None
        return self._parser.read(HTTPResponse(http.status_code, http.headers, http.content))


def _is_stream(http: Any) -> bool:
    return str(http.headers.get("content-type", "")).startswith("text/event-stream")


# Files that an answer cites, fetched when the user asks for one.

# What the API says of a container (its guide to the code interpreter).
EXPIRED = "a container of the code interpreter ends 20 minutes after its last use, with its files"


def fetch_file(server: ServerConfig, file_id: str, container: str | None, limit: int) -> bytes:
    """The content of a file; waits for it, on a loop of its own.

    Args:
        container: the id of the container that it is in, or None.
        limit: bytes it may have at most.

    Raises:
        BgmagicError: it has expired, is larger, or can't be had.
    """
    # The caller may be on a thread whose loop runs, as a cell's is.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _fetched(server, file_id, container, limit)).result()


async def _fetched(server: ServerConfig, file_id: str, container: str | None, limit: int) -> bytes:
    parser = ReplyParser(server)
    try:
        async with sdk_client(server, tls_of(server)) as client:
            if container is None:
                asked = client.files.with_streaming_response.content(file_id)
            else:
                content = client.containers.files.content.with_streaming_response
                asked = content.retrieve(file_id, container_id=container)
            async with asked as reply:
                return await _read(reply, file_id, limit)
    except BgmagicError:
        raise
    except Exception as error:
        raise BgmagicError(_why(error, parser, file_id, container)) from None


async def _read(reply: Any, file_id: str, limit: int) -> bytes:
    parts: list[bytes] = []
    left = limit
    async for part in reply.iter_bytes():
        left -= len(part)
        if left < 0:
            raise BgmagicError(
                f"{file_id} has more than {limit:,} bytes: read(limit=…) or save(path, limit=…) "
                "takes a larger one"
            )
        parts.append(part)
    return b"".join(parts)


def _why(error: Exception, parser: ReplyParser, file_id: str, container: str | None) -> str:
    status = getattr(error, "status_code", None)
    said = parser.clean(one_line(str(error), 300))
    if status in (404, 410) and container is not None:
        return f"{file_id} is no longer there: {EXPIRED}. The server says: {said}"
    if status is None:
        return f"{file_id} can't be fetched: {said}"
    return f"the server does not give {file_id}: {said}"
