"""Polls and creates without the SDK: they repeat the head of the request that the SDK sent first.

Only where the SDK reaches the server without a proxy, with a key that stays the same. Failures are
reported as the SDK's transport reports them.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import re
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from bgmagic.transport.reply import POLL_TIMEOUT, HTTPResponse
from bgmagic.transport.sdk import CONNECT, CREATE_KEPT, redirect_refusal

if TYPE_CHECKING:
    from bgmagic.transport.http11 import ConnectionPool, OnAnswer

# Servers and proxies mostly keep a connection for a minute or more; one that was closed meanwhile
# is noticed, and a GET is sent once more on another.
KEPT = 120.0  # seconds

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

    async def get(
        self, response_id: str, include: Sequence[str] = (), limit: float = math.inf
    ) -> HTTPResponse | None:
        """GET a response once; None if the SDK has to get it, as for a redirect.

        Args:
            include: what the response is to have beside what it always has.
            limit: seconds that it may take.

        Raises:
            httpx2.TransportError: as the SDK's transport does, for the same reasons.
            TimeoutError: it took longer.
        """
        after = self._including(include) if include else self._after
        got = await self._pool.get(self._before + response_id.encode() + after, limit)
        return None if got is None or 300 <= got.status < 400 else got

    def get_soon(self, response_id: str, limit: float, on_answer: OnAnswer) -> bool:
        """GET a response without waiting here; False if no connection is there for it.

        Args:
            limit: seconds that it may take.
            on_answer: is called with the answer, with the exception, or with neither if the GET
                has to be sent again, by `get`.
        """
        return self._pool.get_soon(
            self._before + response_id.encode() + self._after, limit, on_answer
        )

    def _including(self, include: Sequence[str]) -> bytes:
        # As the SDK writes a list; the query that every request has comes first.
        asked = urlencode([("include[]", word) for word in include]).encode()
        query, version, rest = self._after.partition(b" HTTP/1.1")
        mark = b"&" if query.startswith(b"?") else b"?"
        return query + mark + asked + version + rest


class PollSlots:
    """Bounds the polls in flight, those with a task of their own and those without. Belongs to one
    event loop."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[Callable[[], object]] = deque()
        self._giving = False

    def ask(self, go: Callable[[], object]) -> None:
        """Call ``go`` once there is a slot; it is taken until `give`."""
        if self._free and not self._waiting:
            self._free -= 1
            go()
        else:
            self._waiting.append(go)

    def give(self) -> None:
        """Give a slot back."""
        self._free += 1
        if self._giving:
            return  # by one of those that are just called
        self._giving = True
        try:
            while self._free and self._waiting:
                self._free -= 1
                self._waiting.popleft()()
        finally:
            self._giving = False

    async def __aenter__(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self.ask(lambda: self.give() if waiter.cancelled() else waiter.set_result(None))
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self.give()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.give()


class TasklessPoll:
    """A GET of a response without a task: as little as can be for each that is under way."""

    __slots__ = ("_direct", "_on_answer", "_response_id", "_slots")

    def __init__(
        self, direct: DirectGet, slots: PollSlots, response_id: str, on_answer: OnAnswer
    ) -> None:
        self._direct = direct
        self._slots = slots
        self._response_id = response_id
        self._on_answer = on_answer

    def ask(self) -> None:
        """Send it once there is a slot for it."""
        self._slots.ask(self._send)

    def _send(self) -> None:
        if not self._direct.get_soon(self._response_id, POLL_TIMEOUT, self._end):
            self._end(None, None)

    def _end(self, got: HTTPResponse | None, error: Exception | None) -> None:
        # Not in the context of whoever had the connection made: as after a timer.
        contextvars.Context().run(self._on_answer, got, error)
        self._slots.give()


class DirectPost:
    """Creates responses by repeating the SDK's first POST. Belongs to one event loop."""

    def __init__(self, pool: ConnectionPool, head: bytes, url: Any, home: Any) -> None:
        """Make it.

        Args:
            pool: the connections to the server.
            head: the head of a request up to its content-length.
            url: where it goes.
            home: the server's address.
        """
        self._pool = pool
        self._head = head
        self._url = url
        self._home = home

    async def post(self, body: bytes, total: float) -> HTTPResponse | None:
        """POST ``body`` once; None if the SDK has to, after a redirect within the server.

        Args:
            total: seconds that all of it may take; the caller ends it then.

        Raises:
            httpx2.TransportError: as the SDK's transport does, for the same reasons.
            ServerError: the server sends it on to another place.
        """
        request = self._head + b"content-length: %d\r\n\r\n" % len(body) + body
        connect = min(CONNECT, total / 2)
        got = await self._pool.post(request, fresh=CREATE_KEPT, connect=connect)
        location = got.headers.get("location")
        if not 300 <= got.status < 400 or location is None:
            return got
        refused = redirect_refusal(got.status, location, self._url, self._home)
        if refused is not None:
            raise refused
        return None


def is_plain_id(response_id: str) -> bool:
    """Whether the id can stand in an address as it is."""
    return _PLAIN_ID.fullmatch(response_id) is not None


def from_sdk_request(request: Any, response_id: str, pool: ConnectionPool) -> DirectGet | None:
    """Make a `DirectGet` that repeats ``request``, the SDK's own GET of a response; or None."""
    path, mark, query = request.url.raw_path.partition(b"?")
    # What this one response was to include is no part of it: each says so itself.
    query = b"&".join(one for one in query.split(b"&") if not one.startswith(b"include%5B%5D="))
    mark = mark if query else b""
    if not is_plain_id(response_id) or not path.endswith(f"/{response_id}".encode()):
        return None
    before = b"GET " + path.removesuffix(response_id.encode())
    lines = [mark + query + b" HTTP/1.1", *_header_lines(request)]
    if not _is_sound([before, *lines]):
        return None
    return DirectGet(pool, before, b"\r\n".join(lines) + b"\r\n\r\n")


def pool_of(url: Any, tls: ssl.SSLContext) -> ConnectionPool:
    """The connections to the server of ``url``."""
    from bgmagic.transport.http11 import ConnectionPool

    secure = url.scheme == "https"
    host, port = url.raw_host.decode(), url.port or (443 if secure else 80)
    return ConnectionPool(host, port, tls if secure else None, KEPT)


def _header_lines(request: Any) -> list[bytes]:
    lines = [
        name + b": " + value
        for name, value in request.headers.raw
        # The SDK's own statistics of its single calls would not be true of these.
        if name.lower() not in _ITS_OWN and not name.lower().startswith(b"x-stainless-")
    ]
    return [*lines, b"accept-encoding: gzip"]


def _is_sound(lines: list[bytes]) -> bool:
    return not any(sign in line for line in lines for sign in (b"\r", b"\n", b"\0"))


def from_sdk_create(request: Any, pool: ConnectionPool, home: Any) -> DirectPost | None:
    """Make a `DirectPost` that repeats ``request``, the SDK's own POST of a response; or None.

    Args:
        home: the server's address.
    """
    if any(b"idempotency" in name.lower() for name, _ in request.headers.raw):
        return None  # one for each request
    lines = [b"POST " + request.url.raw_path + b" HTTP/1.1", *_header_lines(request)]
    if not _is_sound(lines):
        return None
    return DirectPost(pool, b"\r\n".join(lines) + b"\r\n", request.url, home)
