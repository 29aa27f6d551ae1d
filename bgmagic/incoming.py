"""One HTTP/1.1 answer, read from its bytes by httptools, the parser that uvicorn uses.

It knows no connection. What it does not take, it leaves to the SDK (`Odd`): whatever breaks the
grammar, another encoding than gzip, another protocol. A body without a length ends with its
connection; that one cut off there is no JSON is what tells.
"""

from __future__ import annotations

import zlib

import httptools
import httpx2

from bgmagic.replies import Got

# Bytes of a head with all that is said before it; OpenAI's own fit many times.
HEAD = 65_536
# Bytes of a body, on the wire and unpacked: it takes 70 Mbit/s to get so many within the 30 s of a
# poll, and an image is a few MB. Without a limit, a server could fill the kernel's memory.
BODY = 256 << 20


class Odd(Exception):
    """The answer, if it is one, is not for us to read."""


class Incoming:
    """The answer to one GET, as it comes in.

    Attributes:
        reusable: whether the connection is good for another GET once this is over.
    """

    def __init__(self) -> None:
        self.reusable = False
        self._received = 0
        self._headers: dict[str, str] = {}
        self._headed = self._over = False
        self._body = bytearray()  # a list of very short chunks would take many times as much
        self._status = 0
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> Got | None:
        """Read on; the answer once it is complete.

        Raises:
            Odd: it is not for us.
            httpx2.RemoteProtocolError: it is too large or damaged.
        """
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # More after a complete answer than that: the answer counts, the connection does not.
            self.reusable = False
            if not self._over:
                raise Odd(str(error)) from None
        if self._over:
            return self._got()
        if self._received > (BODY if self._headed else 0) + HEAD:
            raise httpx2.RemoteProtocolError("the answer is too large")
        return None

    def end(self) -> Got:
        """The answer, now that the connection has ended.

        Raises:
            Odd: it is not for us.
            httpx2.RemoteProtocolError: it is not complete, too large or damaged.
        """
        if not self._headed or {"content-length", "transfer-encoding"} & self._headers.keys():
            raise httpx2.RemoteProtocolError("the connection was closed before the answer was over")
        return self._got()

    def forget(self) -> None:
        """Free the parser, which holds this and is held by it."""
        del self._parser

    def _got(self) -> Got:
        if self._status < 200:
            raise Odd(f"status {self._status}")
        encoding = self._headers.get("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            raise Odd(f"content-encoding {encoding}")
        if self._headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise Odd("more than chunks")
        body = bytes(self._body)
        if encoding == "gzip" and body:
            body = _unpacked(body)
        return Got(self._status, self._headers, body)

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._over:
            raise Odd

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
            # Only a word before the answer.
            self._headers = {}
            self._headed = False
            return
        self._over = True
        self.reusable = self._parser.should_keep_alive()


def _unpacked(body: bytes) -> bytes:
    unpack = zlib.decompressobj(wbits=31)  # gzip
    try:
        plain = unpack.decompress(body, BODY)
    except zlib.error as error:
        raise httpx2.RemoteProtocolError(f"the answer is damaged: {error}") from None
    if unpack.unused_data:
        raise Odd("gzip with more behind it")
    if not unpack.eof:
        raise httpx2.RemoteProtocolError("the answer is too large or not complete")
    return plain
