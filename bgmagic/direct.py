"""GET of a response without the SDK, over connections that are kept: most of what a job costs.

It repeats what the SDK itself sent for the first poll, address and headers, for other responses of
the same server. What is out of the ordinary stays the SDK's: a proxy, an odd id, a redirect, an
answer that is not plain HTTP/1.1. What an answer means is client.py's business.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Any

from bgmagic.replies import Got

if TYPE_CHECKING:
    from bgmagic.wire import Wire

# Servers and proxies mostly keep a connection for a minute or more; one that was closed meanwhile
# is noticed, and a GET is sent once more on another.
KEPT = 120.0  # seconds
# Of the SDK's headers, those that belong to a connection, and what only its transport can unpack.
_ITS_OWN = frozenset({b"connection", b"accept-encoding", b"content-length"})
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,512}")


class Direct:
    """Asks one server for responses. Belongs to one event loop."""

    def __init__(self, wire: Wire, before: bytes, after: bytes) -> None:
        """Make it.

        Args:
            wire: leads to the server.
            before: the head of a request up to the response id.
            after: what follows the id, to the head's end.
        """
        self._wire = wire
        self._before = before
        self._after = after

    async def get(self, response_id: str) -> Got | None:
        """Ask once; None where the answer is for the SDK to get, as a redirect is.

        Raises:
            httpx2.TransportError: as the SDK's transport does, for the same reasons.
        """
        got = await self._wire.get(self._before + response_id.encode() + self._after)
        return None if got is None or 300 <= got.status < 400 else got

    async def close(self) -> None:
        """Close the connections."""
        await self._wire.close()


def takes(response_id: str) -> bool:
    """Whether the id can stand in an address as it is."""
    return _PLAIN_ID.fullmatch(response_id) is not None


def learned(request: Any, response_id: str, tls: ssl.SSLContext) -> Direct | None:
    """What asks as ``request``, the SDK's own for ``response_id``, did; None if that can't be."""
    from bgmagic.wire import Wire

    url = request.url
    path, mark, query = url.raw_path.partition(b"?")
    if not takes(response_id) or not path.endswith(f"/{response_id}".encode()):
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
    wire = Wire(host, port, tls if secure else None, KEPT)
    return Direct(wire, before, b"\r\n".join(lines) + b"\r\n\r\n")
