"""Bounds of an answer: bytes of its head and of its body, on the wire and unpacked.

Without them one server could fill the kernel's memory: a megabyte of gzip unpacks to a gigabyte.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

import httpx2

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
    told = response.headers.get("content-encoding", "")
    names = [name for name in (part.strip().lower() for part in told.split(",")) if name]
    names = [name for name in names if name != "identity"]
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


def unpacked(body: bytes, told: str) -> bytes | None:
    """A whole body, unpacked as its ``content-encoding`` tells; None if it is packed otherwise.

    Raises:
        httpx2.RemoteProtocolError: it is damaged, not complete or too large.
    """
    names = [name for name in (part.strip().lower() for part in told.split(",")) if name]
    for name in reversed([name for name in names if name != "identity"]):
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
