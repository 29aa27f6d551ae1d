"""Bounds of an answer: bytes of its head and of its body, on the wire and unpacked.

Without them one server could fill the kernel's memory: a megabyte of gzip unpacks to a gigabyte.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

import httptools
import httpx2

from bgmagic.transport.reply import HTTPResponse, RawHeaders

# Bytes of a head with all that is said before it; OpenAI's own fit many times.
HEAD = 65_536

# Bytes of a body, on the wire and unpacked: it takes 70 Mbit/s to get so many within the 30 s of a
# poll, and an image is a few MB.
BODY = 256 << 20

# Bytes of a file of results: 50,000 answers with the most that the longest model writes.
FILE = 64 << 30

_PIECE = 1 << 20  # bytes that are unpacked at once, a millisecond or so

# What is asked for; other packing can't be unpacked piece by piece.
ENCODINGS = "gzip, deflate"

_WBITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class AnswerTooLarge(httpx2.RemoteProtocolError):
    """An answer has more than the bounds allow; the rest was not read."""


def head_too_large() -> AnswerTooLarge:
    """What to raise for an answer whose head does not end."""
    return AnswerTooLarge(f"the answer is too large: more than {HEAD >> 10} kB of headers")


def body_too_large() -> AnswerTooLarge:
    """What to raise for an answer whose body does not end."""
    return AnswerTooLarge(f"the answer is too large: more than {BODY / 2**20:g} MB, unpacked")


async def bound(response: httpx2.Response) -> None:
    """Have the body of ``response``, which is still to be read, end with an error at `BODY`.

    A hook for the SDK's HTTP client, whose own unpacking knows no bounds.

    Raises:
        httpx2.RemoteProtocolError: the body is packed in a way that was not asked for.
    """
    names = _packings(response.headers.get("content-encoding", ""))
    for name in names:
        if name not in _WBITS:
            raise httpx2.RemoteProtocolError(f"the answer is packed as {name}, which nobody asked")
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.headers.pop("content-encoding", None)
        # A file of results is read line by line, and never held.
        is_file = response.request.url.path.endswith("/content")
        response.stream = BoundedStream(response.stream, names, FILE if is_file else BODY)


class BoundedStream(httpx2.AsyncByteStream):
    """The body of an answer, unpacked, as it comes."""

    def __init__(self, stream: httpx2.AsyncByteStream, names: list[str], most: int = BODY) -> None:
        """Make it of the packed ``stream``; ``names`` say how, in the order of packing."""
        self._stream = stream
        self._names = names
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = _counted(aiter(self._stream), self._most)
        for name in reversed(self._names):
            pieces = _counted(_unpacked(pieces, name), self._most)
        async for piece in pieces:
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _counted(pieces: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    size = 0
    async for piece in pieces:
        size += len(piece)
        if size > most:
            raise body_too_large()
        yield piece


async def _unpacked(pieces: AsyncIterator[bytes], name: str) -> AsyncIterator[bytes]:
    unpack = None
    async for piece in pieces:
        while piece:
            if unpack is None or unpack.eof:
                unpack = _decompressor(name, piece)
            try:
                plain = unpack.decompress(piece, _PIECE)
            except zlib.error as error:
                raise httpx2.RemoteProtocolError(f"the answer is damaged: {error}") from None
            piece = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
            if plain:
                yield plain
                await asyncio.sleep(0)  # the polls of others go on
    if unpack is not None and not unpack.eof:
        raise httpx2.RemoteProtocolError("the answer is not complete")


def _packings(encoding: str) -> list[str]:
    """The ways in which a body is packed, the first one first, by its ``content-encoding``."""
    names = (part.strip().lower() for part in encoding.split(","))
    return [name for name in names if name not in ("", "identity")]


def unpacked(body: bytes, encoding: str) -> bytes | None:
    """A whole body, unpacked as its ``content-encoding`` tells; None if it is packed otherwise.

    Raises:
        httpx2.RemoteProtocolError: it is damaged, not complete or too large.
    """
    for name in reversed(_packings(encoding)):
        if name not in _WBITS:
            return None
        body = _whole(body, name)
    return body


def gunzipped(body: bytes) -> bytes | None:
    """A whole body of gzip, unpacked; None if more comes after it.

    Raises:
        httpx2.RemoteProtocolError: it is damaged, not complete or too large.
    """
    unpack = zlib.decompressobj(_WBITS["gzip"])
    try:
        plain = unpack.decompress(body, BODY)
    except zlib.error as error:
        raise httpx2.RemoteProtocolError(f"the answer is damaged: {error}") from None
    if unpack.unused_data:
        return None
    if unpack.unconsumed_tail:
        raise body_too_large()
    if not unpack.eof:
        raise httpx2.RemoteProtocolError("the answer is not complete")
    return plain


def _whole(body: bytes, name: str) -> bytes:
    plain, unpack = bytearray(), None
    try:
        while body:
            if unpack is None or unpack.eof:
                unpack = _decompressor(name, body)
            plain += unpack.decompress(body, BODY + 1 - len(plain))
            if len(plain) > BODY:
                raise body_too_large()
            body = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
    except zlib.error as error:
        raise httpx2.RemoteProtocolError(f"the answer is damaged: {error}") from None
    if unpack is not None and not unpack.eof:
        raise httpx2.RemoteProtocolError("the answer is not complete")
    return bytes(plain)


def _decompressor(name: str, begin: bytes) -> zlib._Decompress:
    # "deflate" is meant to have zlib's two bytes before it (RFC 9110); some servers leave them out.
    bare = name == "deflate" and not (begin[0] & 0x0F == 8 and begin[0] >> 4 <= 7)
    return zlib.decompressobj(-15 if bare else _WBITS[name])


class UnsupportedResponse(Exception):
    """The answer needs the SDK: another encoding, odd framing, or no HTTP at all."""


_NO_HEADERS = RawHeaders(())


class HTTPResponseParser:
    """Parses the answers that come over one connection, each as its bytes come in.

    Attributes:
        reusable: whether the connection is good for another request once this answer is over.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.begin()

    def begin(self, *, whole: bool = False) -> None:
        """Expect the next answer; ``whole``: unpack whatever the SDK does, since a create can't be
        sent again."""
        self._unpacks_all = whole
        self.reusable = False
        self._received = 0
        self._raw: list[bytes] = []  # names and values in turn
        self._headers = _NO_HEADERS
        self._headed = self._over = False
        # One piece, mostly; a list of very short chunks would take many times as much.
        self._body: bytes | bytearray = b""
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
            got = self._got()
            # An idle connection keeps nothing of it: a hundred of them would keep a megabyte.
            self._body, self._raw, self._headers = b"", [], _NO_HEADERS
            return got
        if self._received > (BODY if self._headed else 0) + HEAD:
            raise body_too_large() if self._headed else head_too_large()
        return None

    def end(self) -> HTTPResponse:
        """Return the answer after the connection has ended.

        Raises:
            UnsupportedResponse: the SDK has to read it.
            httpx2.RemoteProtocolError: it is not complete, too large or damaged.
        """
        told = self._headers.get
        framed = told("content-length", told("transfer-encoding")) is not None
        if not self._headed or framed:
            raise httpx2.RemoteProtocolError("the connection was closed before the answer was over")
        return self._got()

    def forget(self) -> None:
        """Free the parser, which holds this and is held by it."""
        del self._parser

    def _got(self) -> HTTPResponse:
        if self._status < 200:
            raise UnsupportedResponse(f"status {self._status}")
        if not self._headers.has(b"-encoding"):
            return HTTPResponse(self._status, self._headers, bytes(self._body))
        encoding = self._headers.get("content-encoding", "identity").lower()
        if self._unpacks_all:
            plain = unpacked(bytes(self._body), encoding)
            if plain is None:
                raise httpx2.RemoteProtocolError(f"the answer is packed as {encoding}")
            return HTTPResponse(self._status, self._headers, plain)
        if encoding not in ("identity", "gzip"):
            raise UnsupportedResponse(f"content-encoding {encoding}")
        if self._headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise UnsupportedResponse("more than chunks")
        body = bytes(self._body)
        if encoding == "gzip" and body:
            plain = gunzipped(body)
            if plain is None:
                raise UnsupportedResponse("gzip with more behind it")
            body = plain
        return HTTPResponse(self._status, self._headers, body)

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._over:
            raise UnsupportedResponse

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headed:  # what follows a body in chunks is none
            self._raw += (name, value)

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._headers = RawHeaders(self._raw)
        self._headed = True

    def on_body(self, data: bytes) -> None:
        if not self._body:
            self._body = data
            return
        if type(self._body) is bytes:
            self._body = bytearray(self._body)
        self._body += data

    def on_message_complete(self) -> None:
        if 100 <= self._status < 200:
            # An interim response.
            self._raw = []
            self._headed = False
            return
        self._over = True
        self.reusable = self._parser.should_keep_alive()
