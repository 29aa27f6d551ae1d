"""HTTP/1.1 as polls speak it: what is read, what fails, what is left to the SDK, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import select
import socket
import ssl
import struct
import sys
import types
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgmagic.api.server import ServerConfig
from bgmagic.transport import bounded, http11, sockets
from bgmagic.transport.bounded import HEAD
from bgmagic.transport.client import ResponsesClient
from bgmagic.transport.direct import from_sdk_request, pool_of
from bgmagic.transport.http11 import ConnectionPool, HTTPResponseParser, UnsupportedResponse
from bgmagic.transport.reply import HTTPResponse
from tests.conftest import KEY
from tests.support.scripted import Script, ScriptedServer, certificate, response

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def whole(body: bytes = b"hello", *lines: bytes, start: bytes = OK) -> bytes:
    """An answer with a length."""
    return (
        start
        + b"".join(b"%b\r\n" % x for x in (*lines, b"Content-Length: %d" % len(body), b"", body))[
            :-2
        ]
    )


def read(*pieces: bytes) -> tuple[HTTPResponse, bool]:
    """What is read from these pieces and then the connection's end, and whether that had come to be."""
    reading = HTTPResponseParser()
    try:
        for piece in pieces:
            got = reading.feed(piece)
            if got is not None:
                return got, reading.reusable
        return reading.end(), False
    finally:
        reading.forget()


# What comes in, what it reads as, and whether the connection is good for more.
READ: dict[str, tuple[bytes, int, bytes, bool]] = {
    "length": (whole(), 200, b"hello", True),
    "empty": (whole(b""), 200, b"", True),
    "error": (whole(b"no", start=b"HTTP/1.1 503 No\r\n"), 503, b"no", True),
    "chunks": (CHUNKED + b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", 200, b"hello", True),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", 200, b"hello", True),
    "to the end": (OK + b"\r\nhello", 200, b"hello", False),
    "old, to the end": (b"HTTP/1.0 200 OK\r\n\r\nhello", 200, b"hello", False),
    "old": (whole(start=b"HTTP/1.0 200 OK\r\n"), 200, b"hello", False),
    "old, kept": (whole(b"hello", b"Connection: keep-alive", start=b"HTTP/1.0 200 OK\r\n"), 200, b"hello", True),
    "closing": (whole(b"hello", b"Connection: close"), 200, b"hello", False),
    "no content": (b"HTTP/1.1 204 No\r\n\r\n", 204, b"", True),
    "not modified": (b"HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n", 304, b"", True),
    "words before": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + whole(), 200, b"hello", True),
    "gzip": (whole(gzip.compress(b"hello"), b"Content-Encoding: GZIP"), 200, b"hello", True),
    "gzip of nothing": (whole(b"", b"Content-Encoding: gzip"), 200, b"", True),
    "identity": (whole(b"hello", b"Content-Encoding: identity"), 200, b"hello", True),
}  # fmt: skip


@pytest.mark.parametrize(("data", "status", "body", "reusable"), READ.values(), ids=READ)
def test_answers_are_read(data: bytes, status: int, body: bytes, reusable: bool) -> None:
    """An answer reads the same in one piece and byte by byte, and says whether its connection is kept."""
    for pieces in ([data], [bytes([byte]) for byte in data]):
        got, kept = read(*pieces)
        assert (got.status, got.content, kept) == (status, body, reusable)
        assert got.headers.get("link") is None


def test_headers_are_found() -> None:
    """Headers have lower-case names, a repeated one is joined, an empty one is empty; those after a
    body in chunks are none."""
    got, _ = read(whole(b"", b"X-Two: a", b"Empty:", b"x-tWO:  b ", b"Odd: \xe9"))
    assert got.headers.whole() == {"x-two": "a, b", "empty": "", "odd": "é", "content-length": "0"}
    got, _ = read(CHUNKED + b"0\r\nX-Sum: 1\r\n\r\n")
    assert got.headers.get("x-sum") is None


@pytest.mark.parametrize("more", [b"x", b"\x00" * 9, whole(b"not this")])
@pytest.mark.parametrize("first", [whole(), CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", whole(b"hello", b"Connection: close")])  # fmt: skip
def test_more_than_an_answer_ends_the_connection(first: bytes, more: bytes) -> None:
    """What follows a complete answer changes nothing about it, but nothing else goes over that connection."""
    got, reusable = read(first + more)
    assert (got.content, reusable) == (b"hello", False)


CUT = {
    "nothing": b"",
    "head": OK + b"Content-Le",
    "length": whole()[:-1],
    "chunk": CHUNKED + b"5\r\nhell",
    "between chunks": CHUNKED + b"5\r\nhello\r\n",
    "last chunk": CHUNKED + b"5\r\nhello\r\n0\r\n",
    "word before": b"HTTP/1.1 100 Continue\r\n\r\n",
    "gzip": whole(gzip.compress(b"hello")[:-9], b"Content-Encoding: gzip"),
    "damaged": whole(b"\xff\xfe", b"Content-Encoding: gzip"),
    "other sum": whole(gzip.compress(b"hello")[:-8] + bytes(8), b"Content-Encoding: gzip"),
}


@pytest.mark.parametrize("data", CUT.values(), ids=CUT)
def test_cut_answers_are_failures(data: bytes) -> None:
    """An answer that is cut off or damaged is never given."""
    for pieces in ([data], [bytes([byte]) for byte in data]):
        with pytest.raises(httpx2.RemoteProtocolError):
            read(*pieces)


ODD = {
    "upgrade": b"HTTP/1.1 101 No\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "bare 101": b"HTTP/1.1 101 No\r\n\r\n",
    "http/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "other": b"SSH-2.0-OpenSSH_9.2\r\n",
    "bare lines": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "folded": whole(b"", b"A: b\r\n c"),
    "status": whole(start=b"HTTP/1.1 000 No\r\n"),
    "two lengths": whole(b"hello", b"Content-Length: 4"),
    "length and chunks": whole(b"5\r\nhello\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
    "no length": OK + b"Content-Length: minus one\r\n\r\n",
    "chunk": CHUNKED + b"x\r\n",
    "deflate": whole(zlib.compress(b"hello"), b"Content-Encoding: deflate"),
    "twice": whole(b"hello", b"Content-Encoding: gzip", b"Content-Encoding: gzip"),
    "packed chunks": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "gzip and more": whole(gzip.compress(b"hello") + b"more", b"Content-Encoding: gzip"),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_odd_answers_are_left(data: bytes) -> None:
    """What is not plain HTTP/1.1 is never guessed at."""
    for pieces in ([data], [bytes([byte]) for byte in data]):
        with pytest.raises(UnsupportedResponse):
            read(*pieces)


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (OK, b"A: b\r\n"),
        (OK + b"A: ", b"x" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK + b"\r\n", b"x" * 1000),
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED + b"0\r\n", b"A: b\r\n"),
    ],
    ids=["headers", "header", "words before", "body", "chunks", "trailers"],
)
def test_endless_answers_fill_no_memory(
    monkeypatch: pytest.MonkeyPatch, start: bytes, again: bytes
) -> None:
    """An answer that never ends is given up at a limit, wherever it goes on."""
    monkeypatch.setattr(bounded, "BODY", 100_000)
    reading = HTTPResponseParser()
    fed = len(start)
    reading.feed(start)

    def go_on() -> None:
        nonlocal fed
        while fed < 300_000:
            fed += len(again)
            reading.feed(again)

    with pytest.raises(httpx2.RemoteProtocolError, match="too large"):
        go_on()
    headless = not start.startswith(OK + b"\r\n") and not start.startswith(CHUNKED)
    limit = HEAD if headless else HEAD + 100_000
    assert limit < fed <= limit + len(again)


def test_small_answer_that_unpacks_to_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gzip makes of a few bytes is limited, too."""
    monkeypatch.setattr(bounded, "BODY", 100_000)
    fits, bomb = (gzip.compress(bytes(size)) for size in (99_999, 10_000_000))
    assert len(read(whole(fits, b"Content-Encoding: gzip"))[0].content) == 99_999
    with pytest.raises(httpx2.RemoteProtocolError, match="too large"):
        read(whole(bomb, b"Content-Encoding: gzip"))


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(ends)]


@given(st.sampled_from(sorted(READ)), st.lists(st.integers(0, 10_000)))
def test_pieces_make_no_difference(name: str, places: list[int]) -> None:
    """An answer is read as it was sent, however the network cuts it."""
    data, status, body, _ = READ[name]
    got, _ = read(*cut_at(data, places))
    assert (got.status, got.content) == (status, body)


@st.composite
def hostile(draw: st.DrawFn) -> list[bytes]:
    """Random bytes, or an answer with some of them in it, in pieces."""
    data = draw(
        st.sampled_from([b"", *(x[0] for x in READ.values()), *CUT.values(), *ODD.values()])
    )
    at, drop = draw(st.integers(0, len(data))), draw(st.integers(0, 20))
    data = data[:at] + draw(st.binary(max_size=60)) + data[at + drop :]
    return cut_at(data, draw(st.lists(st.integers(0, 10_000), max_size=6)))


@given(hostile())
@settings(max_examples=500)
def test_hostile_bytes_are_an_answer_or_a_failure(pieces: list[bytes]) -> None:
    """Whatever comes is an answer, odd, or a failure that polls know."""
    with contextlib.suppress(UnsupportedResponse, httpx2.TransportError):
        assert isinstance(read(*pieces)[0], HTTPResponse)


# On sockets


@pytest.fixture(autouse=True, scope="module")
def _held() -> Iterator[None]:
    """All connections here keep the interpreter while they send and receive; those of the other
    files, which are few, do not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http11, "FEW", 0)
        yield


def life_of_a_socket(*, held: bool) -> list[Any]:
    """What comes of all that may happen to a socket, in order."""
    got: list[Any] = []
    listener = socket.create_server(("127.0.0.1", 0))
    near, far = socket.create_connection(listener.getsockname()), listener.accept()[0]
    buffer = memoryview(bytearray(100))
    near.setblocking(False)
    # As asyncio wraps it.
    assert sockets.hold(types.SimpleNamespace(_sock=near) if held else near) is held
    assert isinstance(near, sockets.HeldSocket) is held

    def do(call: Callable[..., object], *given: Any) -> None:
        try:
            got.append(call(*given))
        except OSError as error:
            got.append((type(error), error.errno))
        got.append((sockets.is_readable(near, held=held), bytes(buffer[:5])))

    do(near.recv_into, buffer)
    for sent in (b"hello", b"x" * 90):
        far.sendall(sent)
        select.select([near], [], [], 10)
        do(near.recv_into, buffer, 2)
        do(near.recv_into, buffer)
    do(near.send, b"hi")
    do(near.send, memoryview(b"you"))
    got.append(far.recv(5, socket.MSG_WAITALL))
    with contextlib.suppress(BlockingIOError):
        while near.send(b"x" * 100_000):
            pass
    do(near.send, b"x")
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()  # a reset
    select.select([near], [], [], 10)
    for _ in range(2):
        do(near.recv_into, buffer)
        do(near.send, b"x")
    near.close()
    for call in (near.recv_into, near.send):
        with pytest.raises(OSError, match="Bad file descriptor") as closed:
            call(bytearray(1))
        got.append(closed.value.errno)
    listener.close()
    return got


@pytest.mark.skipif(sys.platform == "win32", reason="has no such calls")
def test_sockets_that_keep_the_interpreter_are_sockets() -> None:
    """They give and raise what others do, and asyncio's connections are such."""
    assert life_of_a_socket(held=True) == life_of_a_socket(held=False)

    async def main() -> None:
        async with talking() as (peer, wire):
            peer.say(whole())
            await content(wire)
            (connection,) = wire._all
            wrapped = connection._transport.get_extra_info("socket")
            assert connection._number >= 0
            assert isinstance(wrapped._sock, sockets.HeldSocket)

    asyncio.run(main())


class Peer:
    """A server that says the next of ``replies`` to each head it gets, in pieces; None ends the
    connection, and a peer without words waits.
    """

    def __init__(self) -> None:
        self.replies: list[list[bytes | None]] = []
        self.heads: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.gone = 0

    def say(self, *pieces: bytes | None) -> None:
        self.replies.append(list(pieces))

    @property
    def connections(self) -> int:
        return len(self.writers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                for piece in self.replies.pop(0) if self.replies else []:
                    if piece is None:
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.gone += 1
            writer.close()


@contextlib.asynccontextmanager
async def talking(
    tls: ssl.SSLContext | None = None,
    trusted: ssl.SSLContext | None = None,
    kept: float = 60.0,
    host: str = "127.0.0.1",
) -> AsyncIterator[tuple[Peer, ConnectionPool]]:
    """A peer and a wire to it."""
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=tls)
    wire = ConnectionPool(host, server.sockets[0].getsockname()[1], trusted, kept)
    async with asyncio.timeout(60):
        yield peer, wire
        await wire.close()
    server.close()
    for writer in peer.writers:
        writer.transport.abort()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.001)


async def content(wire: ConnectionPool) -> bytes:
    got = await wire.get(GET)
    assert got is not None
    return got.content


def test_connections_are_kept() -> None:
    """GETs one after another take one connection, those at the same time one each, and the newest is
    taken first, so that the others grow old and are closed."""

    async def main() -> None:
        async with talking(kept=1.5) as (peer, wire):
            for n in range(3):
                peer.say(whole(b"%d" % n))
                assert await content(wire) == b"%d" % n
            assert peer.connections == 1
            together = [asyncio.create_task(content(wire)) for _ in range(4)]
            await until(lambda: len(peer.heads) == 7)
            for writer in peer.writers:
                writer.write(whole())
            assert await asyncio.gather(*together) == [b"hello"] * 4
            assert peer.connections == 4
            async with asyncio.timeout(60):
                while peer.gone < 3:
                    peer.say(whole())
                    await content(wire)
                    await asyncio.sleep(0.001)
            assert peer.connections == 4
            await until(lambda: peer.gone == 4)

    asyncio.run(main())


def test_connections_are_taken_in_turn_while_creates_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A POST takes the one that would soon be too old for it, and a GET meanwhile one that is too old,
    so that both need no new ones; where there are very many, an idle one makes room."""

    async def main() -> None:
        async with talking() as (peer, wire):

            async def post() -> int:
                peer.say(whole())
                await wire.post(GET, fresh=60.0, connect=10.0)
                return next(n for n, one in enumerate(order) if one is wire._idle[-1])

            order: list[Any] = []
            together = [asyncio.create_task(content(wire)) for _ in range(3)]
            await until(lambda: len(peer.heads) == 3)
            for writer in peer.writers:
                writer.write(whole())
            await asyncio.gather(*together)
            order = list(wire._idle)
            assert [await post() for _ in range(4)] == [0, 1, 2, 0]
            order[1].idle_since -= 100.0
            assert await post() == 2
            peer.say(whole())
            await content(wire)
            assert wire._idle[-1] is order[1]
            assert peer.connections == 3

            monkeypatch.setattr(http11, "MOST", 3)
            for connection in order:
                connection.idle_since -= 100.0
            peer.say(whole())
            await wire.post(GET, fresh=60.0, connect=10.0)
            assert peer.connections == 4
            await until(lambda: peer.gone == 1)

    asyncio.run(main())


@pytest.mark.parametrize("pieces", [[whole(b"hello", b"Connection: close")], [OK + b"\r\nhel", b"lo", None], [whole(start=b"HTTP/1.0 200 OK\r\n")]])  # fmt: skip
def test_connections_that_end_are_not_kept(pieces: list[bytes | None]) -> None:
    """After an answer that ends its connection the next GET takes a new one."""

    async def main() -> None:
        async with talking() as (peer, wire):
            for count in (1, 2):
                peer.say(*pieces)
                assert await content(wire) == b"hello"
                assert peer.connections == count
                await until(lambda count=count: peer.gone == count)  # type: ignore[misc]

    asyncio.run(main())


def test_kept_connection_that_drops_is_asked_again_once() -> None:
    """A GET on a kept connection that ends without a word goes out once more on a new one; there it
    fails, and so does one that ends within the answer."""

    async def main() -> None:
        async with talking() as (peer, wire):
            peer.say(whole())
            await content(wire)
            peer.say(None)
            peer.say(whole(b"again"))
            assert await content(wire) == b"again"
            assert (len(peer.heads), peer.connections) == (3, 2)
            peer.say(None)
            peer.say(None)
            with pytest.raises(httpx2.ReadError):
                await wire.get(GET)
            assert (len(peer.heads), peer.connections) == (5, 3)
            peer.say(whole())
            await content(wire)
            peer.say(OK, None)
            with pytest.raises(httpx2.RemoteProtocolError):
                await wire.get(GET)
            assert (len(peer.heads), peer.connections) == (7, 4)
            peer.say(None)
            with pytest.raises(httpx2.ReadError):
                await wire.get(GET)
            assert len(peer.heads) == 8
            peer.say(whole())
            await content(wire)
            peer.say(OK)
            cut = asyncio.create_task(wire.get(GET))
            await until(lambda: len(peer.heads) == 10 and any(one.answered for one in wire._all))
            at_once = struct.pack("ii", 1, 0)
            peer.writers[-1].get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, at_once
            )
            peer.writers[-1].transport.abort()
            with pytest.raises(httpx2.ReadError):
                await cut
            assert len(peer.heads) == 10

    asyncio.run(main())


def test_only_connections_that_are_open_are_taken() -> None:
    """One that the server has closed while it was idle costs no GET."""

    async def main() -> None:
        async with talking() as (peer, wire):
            peer.say(whole(), None)
            await content(wire)
            await until(lambda: not wire._idle[0].open)
            peer.say(whole())
            assert await content(wire) == b"hello"
            assert (len(peer.heads), peer.connections) == (2, 2)

    asyncio.run(main())


def test_cancelled_get_takes_its_connection_along() -> None:
    """Nobody reads the answer to a GET that was given up, not even the next one."""

    async def main() -> None:
        async with talking() as (peer, wire):
            peer.say(whole(b"first"))
            await content(wire)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await wire.get(GET)
            await until(lambda: peer.gone == 1)
            peer.say(whole(b"own"))
            assert await content(wire) == b"own"
            assert peer.connections == 2

    asyncio.run(main())


@pytest.mark.parametrize("unasked", [whole(b"unasked"), b"\r\n"])
def test_what_nobody_asked_for_ends_the_connection(unasked: bytes) -> None:
    """Bytes on an idle connection are not the answer to what is asked next, not even where the loop
    was too busy to read them before that."""

    async def main() -> None:
        async with talking() as (peer, wire):
            for late in (False, True):
                peer.say(whole())
                await content(wire)
                peer.writers[-1].write(unasked)
                if late:
                    kept = wire._idle[-1]._transport.get_extra_info("socket")
                    select.select([kept], [], [], 10)  # what comes is there, and nothing has run
                else:
                    await until(lambda: peer.gone == 1)
                peer.say(whole(b"asked"))
                assert await content(wire) == b"asked"
            await until(lambda: peer.gone == 2)
            assert peer.connections == 3

    asyncio.run(main())


def test_odd_answers_are_none_and_end_the_connection() -> None:
    """An answer that is left to the SDK is no answer and no failure, and its connection is closed."""

    async def main() -> None:
        async with talking() as (peer, wire):
            for count, odd in enumerate(ODD.values(), 1):
                peer.say(odd)
                assert await wire.get(GET) is None
                await until(lambda count=count: peer.gone == count)  # type: ignore[misc]

    asyncio.run(main())


def test_close_ends_everything() -> None:
    """After close() nothing is open: not what was idle, not what was asked or connecting."""

    async def main() -> None:
        async with talking() as (peer, wire):
            peer.say(whole())
            await content(wire)
            peer.say(*[b""])
            asked = asyncio.create_task(wire.get(GET))
            await until(lambda: len(peer.heads) == 2)
            connecting = asyncio.create_task(wire.get(GET))
            await asyncio.sleep(0)
            await wire.close()
            for task in (asked, connecting):
                with pytest.raises(httpx2.ReadError):
                    await task
            await until(lambda: peer.gone == peer.connections)
            assert not wire._all

    asyncio.run(main())


@given(hostile())
@settings(max_examples=60)
def test_hostile_servers_are_survived(pieces: list[bytes]) -> None:
    """Whatever a server sends before it hangs up: an answer, nothing, or a failure that polls know, and
    the next GET gets its own answer."""

    async def main() -> None:
        async with talking() as (peer, wire):
            peer.say(*pieces, None)
            with contextlib.suppress(httpx2.TransportError):
                got = await wire.get(GET)
                assert got is None or isinstance(got, HTTPResponse)
            peer.replies.clear()
            peer.say(whole(b"own"))
            assert await content(wire) == b"own"

    asyncio.run(main())


def test_server_that_can_not_be_reached() -> None:
    """No server and no such name are failures to connect, in the system's words."""

    async def main() -> None:
        async with talking() as (_, wire):
            pass
        for host in ("127.0.0.1", "a" * 70 + ".invalid"):
            with pytest.raises(httpx2.ConnectError, match=r"\w"):
                await ConnectionPool(host, wire._port, None, 1.0).get(GET)

    asyncio.run(main())


# TLS


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A file to trust, and a server's own side of it."""
    return certificate(tmp_path_factory.mktemp("tls"))


def test_tls_is_checked_and_kept(certified: tuple[Path, ssl.SSLContext]) -> None:
    """Over TLS connections are kept, one cut off is a failure, and a certificate that is unknown or
    another host's is told in the words of the library."""
    file, context = certified
    context.set_alpn_protocols(["h2", "http/1.1"])

    async def main() -> None:
        trusted = ssl.create_default_context(cafile=str(file))
        async with talking(context, trusted) as (peer, wire):
            for _ in range(3):
                peer.say(whole(b"x" * 300_000))
                assert len(await content(wire)) == 300_000
            assert peer.connections == 1
            shown = peer.writers[0].get_extra_info("ssl_object")
            assert shown.selected_alpn_protocol() == "http/1.1"
            peer.say(whole()[:-1], None)
            with pytest.raises(httpx2.RemoteProtocolError):
                await wire.get(GET)
            peer.say(OK + b"\r\nhello", None)
            assert await content(wire) == b"hello"
        others = [("127.0.0.1", ssl.create_default_context()), ("localhost", trusted)]
        for host, checks in others:
            async with talking(context, checks, host=host) as (peer, wire):
                with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await wire.get(GET)
                assert not peer.heads
        async with talking(None, trusted) as (peer, wire):
            refused = asyncio.create_task(wire.get(GET))
            await until(lambda: peer.connections == 1)
            peer.writers[0].write(b"no TLS here\r\n")
            with pytest.raises(httpx2.ConnectError):
                await refused

    asyncio.run(main())


# What is sent


@pytest.mark.parametrize(
    ("address", "host", "name", "target"),
    [
        ("http://models.example:{}/v1", "models.example:{}", "models.example", "/v1"),
        ("http://BÜCHER.example:{}/v1", "xn--bcher-kva.example:{}", "xn--bcher-kva.example", "/v1"),
        ("http://[::1]:{}/a%20b", "[::1]:{}", "::1", "/a%20b"),
        ("http://bob:pw@127.0.0.1:{}", "127.0.0.1:{}", "127.0.0.1", ""),
    ],
)  # fmt: skip
def test_head_is_what_the_sdk_sends(
    monkeypatch: pytest.MonkeyPatch, address: str, host: str, name: str, target: str
) -> None:
    """Host, target and headers are those of the SDK's request for another response, but for what is the
    connection's own; the name that is looked up has no brackets and is plain ASCII."""
    names: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        usual = loop.getaddrinfo

        async def here(host: Any, port: Any, **hints: Any) -> Any:
            names.append(host)
            return await usual("127.0.0.1", port, **hints)

        monkeypatch.setattr("asyncio.base_events._ipaddr_info", lambda *_: None)
        monkeypatch.setattr(loop, "getaddrinfo", here)
        peer = Peer()
        server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        names.clear()
        url = f"{address.format(port)}/responses/resp_0?include=a%2Fb&x=%C3%A9"
        headers = [
            ("authorization", KEY),
            ("x-two", "a"),
            ("x-two", "b"),
            ("x-stainless-os", "x"),
            ("accept-encoding", "br"),
            ("connection", "x"),
        ]
        request = httpx2.Request("GET", url, headers=headers)
        pool = pool_of(request.url, ssl.create_default_context())
        made = from_sdk_request(request, "resp_0", pool)
        assert made is not None
        peer.say(whole())
        got = await made.get("resp_1")
        assert got is not None
        assert got.content == b"hello"
        start, *lines = peer.heads[0].decode().lower().splitlines()[:-1]
        assert start == f"get {target}/responses/resp_1?include=a%2fb&x=%c3%a9 http/1.1"
        assert f"host: {host.format(port)}" in lines
        assert {f"authorization: {KEY}", "x-two: a", "x-two: b", "accept-encoding: gzip"} <= {
            *lines
        }
        for other in ("x-stainless", "connection"):
            assert not any(line.startswith(other) for line in lines)
        assert len([line for line in lines if line.startswith("accept-encoding")]) == 1
        assert names[0] == name
        await pool.close()
        server.close()

    asyncio.run(main())


def test_header_that_would_be_two_is_not_sent() -> None:
    """What can't stand in a head as it is, is not learned."""
    pool = ConnectionPool("a", 80, None, 60.0)
    for value in ("a\r\nb: c", "a\nb", "a\0"):
        request = httpx2.Request("GET", "http://a/responses/resp_0", headers={"x": value})
        assert from_sdk_request(request, "resp_0", pool) is None


def test_gzip_is_asked_for_and_other_packing_is_the_sdks(server: ScriptedServer) -> None:
    """A server that packs with gzip is read without the SDK; one that packs otherwise by the SDK, from
    then on at once."""
    body = response("resp_0", "in_progress")
    server.responses["resp_0"] = body
    server.polls = 10**9
    data = httpx2.Response(200, json=body).content

    async def main() -> None:
        client = ResponsesClient(ServerConfig(server.base_url, KEY))
        try:
            await client.retrieve("resp_0")
            for name, pack, lean in (
                ("gzip", gzip.compress, True),
                ("deflate", zlib.compress, False),
            ):
                packed = Script(body=pack(data), headers={"content-encoding": name})
                server.always["retrieve"] = packed
                for _ in range(2):
                    before = len(server.seen)
                    assert (await client.retrieve("resp_0")).response["status"] == "in_progress"
                    assert ("x-stainless-lang" not in server.seen[-1].headers) == lean
            assert len(server.seen) == before + 1
        finally:
            await client.close()

    asyncio.run(main())
