"""Sends polls and creates over HTTP/1.1 connections to one server: a pool, a connection, a parser.

A GET may be sent again on another connection; a POST goes out once, over a connection that is new
or was used just now. Answers to a GET that are out of the ordinary (redirects, other encodings, odd
framing) are left to the SDK.
"""

from __future__ import annotations

import asyncio
import bisect
import math
import operator
import ssl
from typing import cast

import httptools
import httpx2

from bgmagic.transport import bounded, sockets
from bgmagic.transport.reply import HTTPResponse


class UnsupportedResponse(Exception):
    """The answer needs the SDK: another encoding, odd framing, or no HTTP at all."""


class HTTPResponseParser:
    """Parses the answers that come over one connection, each as its bytes come in.

    Attributes:
        reusable: whether the connection is good for another request once this answer is over.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.begin()

    def begin(self, *, whole: bool = False) -> None:
        """Expect the next answer; ``whole`` unpacks all that the SDK does: a create can't be asked
        again."""
        self._unpacks_all = whole
        self.reusable = False
        self._received = 0
        self._headers: dict[str, str] = {}
        self._headed = self._over = False
        self._body = bytearray()  # a list of very short chunks would take many times as much
        self._status = 0

    def feed(self, data: bytes | memoryview) -> HTTPResponse | None:
        """Parse ``data``; returns the answer once it is complete.

        Raises:
            UnsupportedResponse: the SDK has to read it.
            httpx2.RemoteProtocolError: it is too large or damaged.
        """
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # More after a complete answer than that: the answer counts, the connection does not.
            self.reusable = False
            if not self._over:
                raise UnsupportedResponse(str(error)) from None
        if self._over:
            return self._got()
        if self._received > (bounded.BODY if self._headed else 0) + bounded.HEAD:
            raise bounded.body_too_large() if self._headed else bounded.head_too_large()
        return None

    def end(self) -> HTTPResponse:
        """Return the answer after the connection has ended.

        Raises:
            UnsupportedResponse: the SDK has to read it.
            httpx2.RemoteProtocolError: it is not complete, too large or damaged.
        """
        if not self._headed or {"content-length", "transfer-encoding"} & self._headers.keys():
            raise httpx2.RemoteProtocolError("the connection was closed before the answer was over")
        return self._got()

    def forget(self) -> None:
        """Free the parser, which holds this and is held by it."""
        del self._parser

    def _got(self) -> HTTPResponse:
        if self._status < 200:
            raise UnsupportedResponse(f"status {self._status}")
        encoding = self._headers.get("content-encoding", "identity").lower()
        if self._unpacks_all:
            plain = bounded.unpacked(bytes(self._body), encoding)
            if plain is None:
                raise httpx2.RemoteProtocolError(f"the answer is packed as {encoding}")
            return HTTPResponse(self._status, self._headers, plain)
        if encoding not in ("identity", "gzip"):
            raise UnsupportedResponse(f"content-encoding {encoding}")
        if self._headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise UnsupportedResponse("more than chunks")
        body = bytes(self._body)
        if encoding == "gzip" and body:
            plain = bounded.gunzipped(body)
            if plain is None:
                raise UnsupportedResponse("gzip with more behind it")
            body = plain
        return HTTPResponse(self._status, self._headers, body)

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._over:
            raise UnsupportedResponse

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headed:
            return  # what follows a body in chunks
        key, text = name.decode("latin-1").lower(), value.strip().decode("latin-1")
        known = self._headers.get(key)
        self._headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._headed = True

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        if 100 <= self._status < 200:
            # An interim response.
            self._headers = {}
            self._headed = False
            return
        self._over = True
        self.reusable = self._parser.should_keep_alive()


_IDLE_SINCE = operator.attrgetter("idle_since")
FEW = 4  # connections; more are many polls, which are to leave the interpreter to a cell
MOST = 100  # open at once, as long as idle ones can be closed; systems allow 256 files and more
LOOK = 0.5  # seconds between looks at what has waited for too long
BUFFER = 1 << 16  # bytes that are read at once

# Seconds after which the next address of a host is tried, too (RFC 8305).
_NEXT_ADDRESS = 0.25


class ConnectionPool:
    """Keeps connections to one server and sends over them. Belongs to one event loop."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, kept: float) -> None:
        """Make the pool; nothing is connected yet.

        Args:
            host: a name as DNS has it or an address, IPv6 without brackets.
            port: of the host.
            tls: how its certificate is checked; None for plain http.
            kept: seconds for which an idle connection is used again.
        """
        self._host = host
        self._port = port
        self._tls = tls
        if tls is not None:
            tls.set_alpn_protocols(["http/1.1"])
        self._kept = kept
        self._closed = False
        self._all: set[HTTP11Connection] = set()
        # The newest last, and used first: connections that are needed no more grow old.
        self._idle: list[HTTP11Connection] = []
        self._posted_at, self._fresh = -math.inf, 0.0  # when, and by what bound, was the last POST
        self._sweeping: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._buffer = memoryview(bytearray(BUFFER))  # each takes what it reads out at once

    async def get(self, head: bytes, limit: float = math.inf) -> HTTPResponse | None:
        """Send the head of a GET and read the answer to its end, in ``limit`` seconds or so.

        Returns:
            the answer, or None if the SDK has to read it.

        Raises:
            httpx2.TransportError: there was none.
            TimeoutError: there was none in time.
        """
        until = asyncio.get_running_loop().time() + limit
        kept = self._take()
        try:
            if kept is not None:
                try:
                    return await self._ask(kept, head, until=until)
                except httpx2.ReadError:
                    if kept.answered:
                        raise
            async with asyncio.timeout_at(until if until < math.inf else None):
                return await self._ask(await self._connect(), head)
        except UnsupportedResponse:
            return None

    async def post(self, request: bytes, *, fresh: float, connect: float) -> HTTPResponse:
        """Send a POST once and read the answer to its end. No time limit but for connecting.

        Args:
            request: its head and body.
            fresh: seconds for which a connection that is used again may have been idle; it is
                looked at before, since its server may have closed it.
            connect: seconds in which a new one must be there.

        Raises:
            httpx2.ConnectError, httpx2.ConnectTimeout: no byte of it was sent.
            httpx2.TransportError: there was no answer, or none that can be read.
        """
        connection = self._take(fresh) or await self._connect_within(connect)
        if not connection.open:
            raise httpx2.ConnectError("the connection was closed before anything was sent")
        try:
            return await self._ask(connection, request, whole=True)
        except UnsupportedResponse as error:
            about = f"the answer can't be read: {error}"
            raise httpx2.RemoteProtocolError(about) from None

    async def _connect_within(self, seconds: float) -> HTTP11Connection:
        try:
            async with asyncio.timeout(seconds):
                return await self._connect()
        except TimeoutError:
            raise httpx2.ConnectTimeout("it took too long to connect") from None
        except httpx2.ConnectError as error:
            raise httpx2.ConnectError(str(error)) from None

    async def close(self) -> None:
        """Close all connections; GETs that are under way fail."""
        self._closed = True
        for timer in (self._sweeping, self._looking):
            if timer is not None:
                timer.cancel()
        for connection in list(self._all):
            connection.close()
        self._idle.clear()

    def drop_idle(self) -> None:
        """Close what is idle: something may still come there that is no answer."""
        while self._idle:
            self._idle.pop().close()

    async def _ask(
        self,
        connection: HTTP11Connection,
        head: bytes,
        *,
        whole: bool = False,
        until: float = math.inf,
    ) -> HTTPResponse:
        if self._looking is None and until < math.inf:
            self._looking = asyncio.get_running_loop().call_later(LOOK, self._look)
        got = await connection.ask(head, whole=whole, until=until)
        if connection.open:
            self._keep(connection)
        return got

    def _look(self) -> None:
        """End what has waited for too long, now and as long as something waits: one timer for all
        takes less than one for each of a thousand polls a second."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        waits = [connection for connection in self._all if connection.until < math.inf]
        for connection in waits:
            if connection.until <= now:
                connection.give_up()
        self._looking = loop.call_later(LOOK, self._look) if waits else None

    def _take(self, seconds: float = math.inf) -> HTTP11Connection | None:
        """A good connection that was last used within ``seconds``; None if there is none.

        What has come over it unasked is no answer to what is asked next; the loop, which may be
        late, has mostly not read it yet.
        """
        for connection in self._in_turn(seconds):
            if connection.is_quiet():
                self._idle.remove(connection)
                return connection
            if not connection.open:
                self._idle.remove(connection)
            # What has come over one that is open will tell.
        return None

    def _in_turn(self, seconds: float) -> list[HTTP11Connection]:
        """Idle connections that were used within ``seconds``, the one to be taken first at first.

        A POST takes the one that is soon too old for it, and a GET meanwhile one that is: many of
        both need few then. Otherwise the newest goes first: what is needed no more grows old.
        """
        now = asyncio.get_running_loop().time()
        if seconds < math.inf:
            self._posted_at, self._fresh = now, seconds
        elif now - self._posted_at > self._fresh:
            return self._idle[::-1]
        fresh = bisect.bisect_left(self._idle, now - self._fresh, key=_IDLE_SINCE)
        if seconds < math.inf:
            return self._idle[fresh:]
        return [*reversed(self._idle[:fresh]), *self._idle[fresh:]]

    def _keep(self, connection: HTTP11Connection) -> None:
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        if self._sweeping is None:
            self._sweep()

    def _sweep(self) -> None:
        """Close connections that were idle for too long, now and as long as there are any."""
        loop = asyncio.get_running_loop()
        long_ago = loop.time() - self._kept
        for connection in self._idle:
            if connection.idle_since <= long_ago:
                connection.close()
        self._idle = [connection for connection in self._idle if connection.open]
        self._sweeping = loop.call_later(self._kept / 8, self._sweep) if self._idle else None

    async def _connect(self) -> HTTP11Connection:
        loop = asyncio.get_running_loop()
        if len(self._all) >= MOST and self._idle:
            self._idle.pop(0).close()
        try:
            _, made = await loop.create_connection(
                lambda: HTTP11Connection(self._all, self._buffer),
                self._host,
                self._port,
                ssl=self._tls,
                server_hostname=self._host.rstrip(".") if self._tls else None,
                happy_eyeballs_delay=_NEXT_ADDRESS,
            )
        except (OSError, UnicodeError) as error:
            # A certificate that does not verify is one of these, with its own words.
            raise httpx2.ConnectError(str(error)) from error
        if self._closed:
            made.close()
        elif len(self._all) > FEW:
            made.hold()
        return made


class HTTP11Connection(asyncio.BufferedProtocol):
    """Sends one request at a time over one connection.

    Attributes:
        open: whether another request can go over it.
        answered: whether anything has come since the last one was sent.
        idle_since: the loop's time at which it became idle.
        until: the loop's time at which the answer is waited for no longer.
    """

    def __init__(self, everyone: set[HTTP11Connection], buffer: memoryview) -> None:
        self.open = False
        self.answered = False
        self.idle_since = 0.0
        self.until = math.inf
        self._everyone = everyone
        self._buffer = buffer
        self._incoming: HTTPResponseParser | None = HTTPResponseParser()
        self._answer: asyncio.Future[HTTPResponse] | None = None
        self._held = False

    async def ask(
        self, head: bytes, *, whole: bool = False, until: float = math.inf
    ) -> HTTPResponse:
        """Send a request and read the answer; cancelling the wait closes the connection.

        Raises:
            httpx2.TransportError: there was none.
            TimeoutError: `give_up` ended the wait.
            UnsupportedResponse: the SDK has to read it.
        """
        if not self.open or self._incoming is None:
            raise httpx2.ReadError("the connection was closed")
        self.answered = False
        self._incoming.begin(whole=whole)
        self._answer = asyncio.get_running_loop().create_future()
        self.until = until
        try:
            self._transport.write(head)
            return await self._answer
        except BaseException:
            self.close()  # what still comes is nobody's answer
            raise
        finally:
            self._answer, self.until = None, math.inf

    def give_up(self) -> None:
        """End the wait for an answer."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TimeoutError())

    def hold(self) -> None:
        """Keep the interpreter while it sends and receives, where that can be done."""
        self._held = sockets.hold(self._transport.get_extra_info("socket"))

    def is_quiet(self) -> bool:
        """Whether it is open, and nothing has come that was not read."""
        if not self.open or self._transport.is_closing():
            return False
        connection = self._transport.get_extra_info("socket")
        return connection is not None and not sockets.is_readable(connection, held=self._held)

    def close(self) -> None:
        """Close it at once."""
        self.open = False
        self._transport.abort()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._everyone.add(self)
        self.open = True

    def get_buffer(self, _: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        incoming, answer = self._incoming, self._answer
        if incoming is None or answer is None or answer.done():
            self.close()  # nobody has asked
            return
        self.answered = True
        try:
            got = incoming.feed(self._buffer[:size])
        except (httpx2.TransportError, UnsupportedResponse) as error:
            self.close()
            answer.set_exception(error)
            return
        if got is not None:
            # An answer that comes before all is sent is mostly a refusal; the rest is in the way.
            if not incoming.reusable or self._transport.get_write_buffer_size():
                self.close()
            answer.set_result(got)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self._everyone.discard(self)
        answer, incoming = self._answer, self._incoming
        self._incoming = None
        if incoming is None:
            return
        if answer is not None and not answer.done():
            try:
                if error is not None or not self.answered:
                    raise httpx2.ReadError(str(error or "the connection was closed"))
                answer.set_result(incoming.end())
            except (httpx2.TransportError, UnsupportedResponse) as failure:
                answer.set_exception(failure)
        incoming.forget()
