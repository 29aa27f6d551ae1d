"""GET of a response without the SDK, over connections that are kept: most of what a job costs.

It repeats what the SDK itself sent for the first poll, address and headers, for other responses of
the same server. What is out of the ordinary (a proxy, a redirect, an odd id) stays the SDK's. What
an answer means is client.py's business.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Any

from bgmagic.replies import Got

if TYPE_CHECKING:
    import aiohttp

# Servers and proxies mostly keep a connection for a minute or more; one that was closed meanwhile
# is noticed, and a GET is sent once more on another.
KEPT = 120.0  # seconds
# Of the SDK's headers, those that belong to a connection, and what only its transport can unpack.
_ITS_OWN = frozenset({"host", "connection", "accept-encoding", "content-length"})
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,512}")


class Direct:
    """Asks one server for responses. Belongs to one event loop."""

    def __init__(self, session: aiohttp.ClientSession, before: str, after: str) -> None:
        """Make it.

        Args:
            session: has the headers that are sent each time.
            before: the address up to the response id.
            after: what follows the id, a query or "".
        """
        from bgmagic.connections import told

        self._session = session
        self._before = before
        self._after = after
        self._told = told

    async def get(self, response_id: str) -> Got:
        """Ask once.

        Raises:
            httpx2.TransportError: as the SDK's transport does, for the same reasons.
        """
        from yarl import URL

        url = URL(f"{self._before}{response_id}{self._after}", encoded=True)
        with self._told():
            async with self._session.get(url, allow_redirects=False) as answer:
                return Got(answer.status, answer.headers, await answer.read())

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def takes(response_id: str) -> bool:
    """Whether the id can stand in an address as it is."""
    return _PLAIN_ID.fullmatch(response_id) is not None


def learned(request: Any, response_id: str, tls: ssl.SSLContext) -> Direct | None:
    """What asks as ``request``, the SDK's own for ``response_id``, did; None if that can't be."""
    import aiohttp

    from bgmagic.connections import open_session

    url = request.url.copy_with(username=None, password=None)
    address, mark, query = str(url).partition("?")
    if not takes(response_id) or not address.endswith(f"/{response_id}"):
        return None
    headers = [
        (name, value)
        for name, value in request.headers.multi_items()
        # The SDK's own statistics of its single calls would not be true of these.
        if name not in _ITS_OWN and not name.startswith("x-stainless-")
    ]
    unlimited = aiohttp.ClientTimeout(total=None)
    session = open_session(tls, KEPT, headers=headers, timeout=unlimited)
    return Direct(session, address.removesuffix(response_id), mark + query)
