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
from collections.abc import Callable
from typing import cast

import httpx2

from bgmagic.transport import sockets
from bgmagic.transport.bounded import HTTPResponseParser, UnsupportedResponse
from bgmagic.transport.reply import HTTPResponse

# What is called with the answer to a request, or with why there is none.
OnAnswer = Callable[[HTTPResponse | None, Exception | None], None]

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
        # The newest last, and used first, so that those that are not needed any more grow old.
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

    def get_soon(self, head: bytes, limit: float, on_answer: OnAnswer) -> bool:
        """Send the head of a GET over a connection that is idle; False if there is none.

        Args:
            limit: seconds or so in which its answer must be there.
            on_answer: is called with the answer; with the exception, an `UnsupportedResponse` where
                the SDK has to read it; or with neither where the connection was closed before
                anything came: a GET may be sent again.
        """
        kept = self._take()
        if kept is None:
            return False

        self._watch()
        kept.send(head, on_answer, until=asyncio.get_running_loop().time() + limit)
        return True

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
        if until < math.inf:
            self._watch()
        return await connection.ask(head, whole=whole, until=until)

    def _watch(self) -> None:
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK, self._look)

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
        """A usable connection that was last used within ``seconds``; None if there is none.

        What has come over it unasked is no answer to what is asked next; the loop, which may be
        late, has mostly not read it yet.
        """
        idle = self._idle
        posted = self._posted_at + self._fresh >= asyncio.get_running_loop().time()
        if idle and not posted and seconds == math.inf and idle[-1].is_quiet():
            return idle.pop()  # most polls
        for connection in self._in_turn(seconds):
            if connection.is_quiet():
                idle.remove(connection)
                return connection
            if not connection.open:
                idle.remove(connection)
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

    def keep(self, connection: HTTP11Connection) -> None:
        """Keep ``connection`` for the next request: it has answered."""
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
                lambda: HTTP11Connection(self._all, self._buffer, self.keep),
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
            for connection in self._all:
                connection.hold()
        return made


class HTTP11Connection(asyncio.BufferedProtocol):
    """Sends one request at a time over one connection.

    Attributes:
        open: whether another request can go over it.
        answered: whether anything has come since the last one was sent.
        idle_since: the loop's time at which it became idle.
        until: the loop's time at which the answer is waited for no longer.
    """

    def __init__(
        self,
        everyone: set[HTTP11Connection],
        buffer: memoryview,
        keep: Callable[[HTTP11Connection], None],
    ) -> None:
        """Make it.

        Args:
            everyone: has it as long as it is connected.
            buffer: what all of these read into.
            keep: is called when it can be used again.
        """
        self.open = False
        self.answered = False
        self.idle_since = 0.0
        self.until = math.inf
        self._everyone = everyone
        self._buffer = buffer
        self._keep = keep
        self._incoming: HTTPResponseParser | None = HTTPResponseParser()
        self._on_answer: OnAnswer | None = None
        self._lost = "the connection was closed"  # or why it was
        # Its socket's number if that is held, and if it is not, or TLS is between, -1.
        self._number = self._plain = -1

    async def ask(
        self, head: bytes, *, whole: bool = False, until: float = math.inf
    ) -> HTTPResponse:
        """Send a request and read the answer; cancelling the wait closes the connection.

        Raises:
            httpx2.TransportError: there was none.
            TimeoutError: `give_up` ended the wait.
            UnsupportedResponse: the SDK has to read it.
        """
        answer = asyncio.get_running_loop().create_future()

        def told(got: HTTPResponse | None, error: Exception | None) -> None:
            if answer.done():
                return
            if got is not None:
                answer.set_result(got)
            else:
                answer.set_exception(error or httpx2.ReadError(self._lost))

        self.send(head, told, whole=whole, until=until)
        try:
            got: HTTPResponse = await answer
        except BaseException:
            if self._on_answer is told:
                self._on_answer = None
                self.close()  # what still comes is nobody's answer
            raise
        return got

    def send(
        self, head: bytes, on_answer: OnAnswer, *, whole: bool = False, until: float = math.inf
    ) -> None:
        """Send a request; ``on_answer`` is called with its answer, with what `ask` raises, or with
        neither where the connection was closed before anything came."""
        incoming = self._incoming
        if not self.open or incoming is None:
            on_answer(None, None)
            return
        self.answered = False
        incoming.begin(whole=whole)
        self._on_answer, self.until = on_answer, until
        if self._plain >= 0:  # what asyncio does, in half of its time
            sent = self._send_some(self._plain, head)
            if sent == len(head):
                return
            head = head[max(sent, 0) :]
        self._transport.write(head)

    def give_up(self) -> None:
        """End the wait for an answer."""
        self._end(None, TimeoutError())

    def _end(self, got: HTTPResponse | None, error: Exception | None) -> None:
        """Pass the answer on. After that another request may be on its way over the connection."""
        told, self._on_answer, self.until = self._on_answer, None, math.inf
        if got is None:
            self.close()
        elif self.open:
            self._keep(self)
        if told is not None:
            told(got, error)

    def hold(self) -> None:
        """Keep the interpreter while it sends and receives, where that can be done."""
        its = self._transport.get_extra_info
        connection = its("socket")
        if self._number < 0 and sockets.hold(connection):
            self._number = connection.fileno()
            self._plain = self._number if its("sslcontext") is None else -1
            self._is_readable, self._send_some = sockets.held_calls()

    def is_quiet(self) -> bool:
        """Whether it is open, and nothing has come that was not read."""
        if not self.open or self._transport.is_closing():
            return False
        if self._number >= 0:
            return not self._is_readable(self._number)
        connection = self._transport.get_extra_info("socket")
        return connection is not None and not sockets.is_readable(connection)

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
        incoming = self._incoming
        if incoming is None or self._on_answer is None:
            self.close()  # nobody has asked
            return
        self.answered = True
        try:
            got = incoming.feed(self._buffer[:size])
        except (httpx2.TransportError, UnsupportedResponse) as error:
            self._end(None, error)
            return
        if got is not None:
            # An answer that comes before all is sent is mostly a refusal; the rest is in the way.
            if not incoming.reusable or self._transport.get_write_buffer_size():
                self.close()
            self._end(got, None)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self._everyone.discard(self)
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            return
        if self._on_answer is not None:
            try:
                self._lost = str(error or self._lost)
                if error is not None and self.answered:
                    raise httpx2.ReadError(self._lost)
                self._end(incoming.end() if self.answered else None, None)
            except (httpx2.TransportError, UnsupportedResponse) as failure:
                self._end(None, failure)
        incoming.forget()
