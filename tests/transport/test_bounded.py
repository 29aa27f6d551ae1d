"""Bodies that are unpacked piece by piece, and end with an error where the bound is."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from itertools import pairwise

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.transport import bounded
from bgmagic.transport.bounded import AnswerTooLarge


def bare(data: bytes) -> bytes:
    """Deflate without zlib's header, as some servers send it."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


POLL = httpx2.Request("GET", "http://localhost/v1/responses/resp_1")

PACKED = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}


class Pieces(httpx2.AsyncByteStream):
    """A body that comes in these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces
        self.given = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            self.given += 1
            yield piece


def read(encoding: str, *pieces: bytes) -> bytes:
    """What the SDK's client reads of a body in these pieces."""

    async def main() -> bytes:
        headers = {"content-encoding": encoding} if encoding else {}
        response = httpx2.Response(200, headers=headers, stream=Pieces(*pieces), request=POLL)
        await bounded.bound(response)
        return await response.aread()

    return asyncio.run(main())


@given(
    st.binary(max_size=5_000),
    st.sampled_from([*PACKED, "", "identity", "gzip, deflate"]),
    st.lists(st.integers(0, 6_000), max_size=6),
)
def test_bodies_are_unpacked_as_they_were_packed(
    body: bytes, encoding: str, places: list[int]
) -> None:
    """However a body is packed, and cut into pieces on its way, it is what the server packed."""
    data = body
    for name in encoding.split(", "):
        data = PACKED[name](data) if name in PACKED else data
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    assert read(encoding, *(data[a:b] for a, b in pairwise(ends))) == body


def test_odd_packing_that_is_allowed() -> None:
    """Deflate without its header, gzip in several members, and nothing at all are read."""
    assert read("deflate", bare(b"hello")) == b"hello"
    assert read("gzip", gzip.compress(b"hel") + gzip.compress(b"lo")) == b"hello"
    assert read("gzip") == b""
    assert read("GZIP", gzip.compress(b"hello")) == b"hello"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip", ""])
def test_a_body_ends_at_the_bound(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """A body that is larger than the bound, on the wire, unpacked or in between, is an error; one that
    has exactly that many bytes is read."""
    monkeypatch.setattr(bounded, "BODY", 100_000)
    for size in (100_000, 100_001, 10_000_000):
        data = bytes(size)
        for name in encoding.split(", "):
            data = PACKED[name](data) if name in PACKED else data
        if size == 100_000:
            assert len(read(encoding, data)) == size
        else:
            with pytest.raises(AnswerTooLarge, match="too large"):
                read(encoding, data)


def test_no_more_is_read_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after the bound is not even taken from the network, nor unpacked."""
    monkeypatch.setattr(bounded, "BODY", 100_000)
    stream = Pieces(*[bytes(10_000)] * 1_000)

    async def main() -> None:
        response = httpx2.Response(200, stream=stream, request=POLL)
        await bounded.bound(response)
        await response.aread()

    with pytest.raises(AnswerTooLarge):
        asyncio.run(main())
    assert stream.given == 11


@pytest.mark.parametrize(
    ("encoding", "data", "told"),
    [
        ("br", b"\x0b\x02\x80hello\x03", "packed as br"),
        ("gzip, zstd", b"hello", "packed as zstd"),
        ("gzip", b"hello", "damaged"),
        ("gzip", gzip.compress(b"hello", mtime=0)[:-6], "not complete"),
        ("deflate", zlib.compress(b"hello")[:-6], "not complete"),
    ],
)
def test_damaged_and_unknown_packing(encoding: str, data: bytes, told: str) -> None:
    """A body that can't be unpacked is an error that says so."""
    with pytest.raises(httpx2.RemoteProtocolError, match=told):
        read(encoding, data)
