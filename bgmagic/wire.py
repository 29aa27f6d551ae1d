"""Connections to one server that GETs go over, HTTP/1.1 and nothing else: each for one at a time.

For polls aiohttp costs twice as much, and the cell beside them waits for it. A GET may be sent
twice: on a connection that was kept and is closed by the server before a word is said, it goes out
once more, on a new one. How an answer is read is incoming.py's, what it means replies.py's.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

import httpx2

from bgmagic.incoming import Incoming, Odd
from bgmagic.replies import Got

# Seconds after which the next address of a host is tried, too (RFC 8305).
_NEXT_ADDRESS = 0.25


class Wire:
    """Asks one server. Belongs to one event loop."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, kept: float) -> None:
        """Make it; nothing is connected yet.

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
        self._all: set[Connection] = set()
        # The newest last, which is used first: those that too many polls once needed grow old.
        self._idle: list[Connection] = []
        self._sweeping: asyncio.TimerHandle | None = None

    async def get(self, head: bytes) -> Got | None:
        """Send the head of a GET and read the answer to its end. No time limit of its own.

        Returns:
            the answer, or None where it is nothing that is read here.

        Raises:
            httpx2.TransportError: there was none.
        """
        try:
            return await self._get(head)
        except Odd:
            return None

    async def _get(self, head: bytes) -> Got:
        kept = self._take()
        if kept is not None:
            try:
                return await self._ask(kept, head)
            except httpx2.ReadError:
                if kept.answered:
                    raise
        return await self._ask(await self._connect(), head)

    async def close(self) -> None:
        """Close all connections; GETs that are under way fail."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in list(self._all):
            connection.close()
        self._idle.clear()

    async def _ask(self, connection: Connection, head: bytes) -> Got:
        got = await connection.ask(head)
        if connection.open:
            self._keep(connection)
        return got

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    def _keep(self, connection: Connection) -> None:
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)
        if self._sweeping is None:
            self._sweep()

    def _sweep(self) -> None:
        """Close what was idle for too long, now and as long as there are any."""
        loop = asyncio.get_running_loop()
        long_ago = loop.time() - self._kept
        for connection in self._idle:
            if connection.idle_since <= long_ago:
                connection.close()
        self._idle = [connection for connection in self._idle if connection.open]
        self._sweeping = loop.call_later(self._kept / 8, self._sweep) if self._idle else None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            _, made = await loop.create_connection(
                lambda: Connection(self._all),
                self._host,
                self._port,
                ssl=self._tls,
                server_hostname=self._host.rstrip(".") if self._tls else None,
                happy_eyeballs_delay=_NEXT_ADDRESS,
            )
        except (OSError, UnicodeError) as error:
            # Which includes a certificate that does not verify, with its own words.
            raise httpx2.ConnectError(str(error)) from error
        if self._closed:
            made.close()
        return made


class Connection(asyncio.Protocol):
    """One connection, for one GET at a time.

    Attributes:
        open: whether another GET can go over it.
        answered: whether anything has come since the last GET was sent.
        idle_since: the loop's time at which it was laid aside.
    """

    def __init__(self, everyone: set[Connection]) -> None:
        self.open = False
        self.answered = False
        self.idle_since = 0.0
        self._everyone = everyone
        self._incoming: Incoming | None = None
        self._answer: asyncio.Future[Got] | None = None

    async def ask(self, head: bytes) -> Got:
        """Send the head of a GET and read the answer; who gives up waiting closes the connection.

        Raises:
            httpx2.TransportError: there was none.
            Odd: it is not for us to read.
        """
        if not self.open:
            raise httpx2.ReadError("the connection was closed")
        self.answered = False
        self._incoming = Incoming()
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(head)
            return await self._answer
        except BaseException:
            self.close()  # what still comes is nobody's answer
            raise
        finally:
            self._incoming.forget()
            self._incoming = self._answer = None

    def close(self) -> None:
        """Close it at once."""
        self.open = False
        self._transport.abort()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._everyone.add(self)
        self.open = True

    def data_received(self, data: bytes) -> None:
        incoming, answer = self._incoming, self._answer
        if incoming is None or answer is None or answer.done():
            self.close()  # nobody has asked
            return
        self.answered = True
        try:
            got = incoming.feed(data)
        except (httpx2.TransportError, Odd) as error:
            self.close()
            answer.set_exception(error)
            return
        if got is not None:
            if not incoming.reusable:
                self.close()
            answer.set_result(got)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self._everyone.discard(self)
        answer, incoming = self._answer, self._incoming
        if incoming is None or answer is None or answer.done():
            return
        try:
            if error is not None or not self.answered:
                raise httpx2.ReadError(str(error or "the connection was closed"))
            answer.set_result(incoming.end())
        except (httpx2.TransportError, Odd) as failure:
            answer.set_exception(failure)
