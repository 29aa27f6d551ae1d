"""Sends the SDK's requests over aiohttp.

The SDK's own aiohttp transport reports a connection that dropped under a request as one that timed
out while connecting, so that a create that may have been accepted would be sent again. Here each
failure is reported as what it is. Imported with the first connection: aiohttp takes a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import aiohttp.client_proto
import httpx2
import yarl

from bgmagic.transport import bounded

_MANY = 10_000  # headers; `bounded.HEAD` is the bound that counts


@contextlib.contextmanager
def map_aiohttp_exceptions() -> Iterator[None]:
    """Map aiohttp's exceptions to httpx2's: `ReplyParser` classifies failures by these names."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx2.ConnectTimeout("it took too long to connect") from error
    except aiohttp.ClientConnectorError as error:
        inner = getattr(error, "certificate_error", None) or error.os_error
        raise httpx2.ConnectError(str(inner)) from error
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise httpx2.UnsupportedProtocol(str(error)) from error
    except aiohttp.SocketTimeoutError as error:
        raise httpx2.ReadTimeout(str(error)) from error
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError) as error:
        # Its own words show objects of its own.
        raise httpx2.ReadError("the connection was closed before the answer was over") from error
    except aiohttp.ClientResponseError as error:
        raise httpx2.ReadError(f"the answer can't be read: {error.message}") from error
    except (aiohttp.ClientError, OSError) as error:
        # Whatever else: the request may have reached the server.
        raise httpx2.ReadError(str(error)) from error
    except ValueError as error:
        # A header that can't be written, found out before anything is sent.
        raise httpx2.LocalProtocolError(str(error)) from error


def address(url: httpx2.URL) -> yarl.URL:
    """Convert an address exactly, but for user and password: they are in a header by now."""
    bare = url.copy_with(username=None, password=None) if url.userinfo else url
    return yarl.URL(str(bare), encoded=True)


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends the requests of the SDK's client. Only a GET is ever sent twice."""

    def __init__(self, tls: ssl.SSLContext, kept: float) -> None:
        self._tls = tls
        self._kept = kept
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._session is None:
            self._session = self._opened()
        # A file goes as it is read; all else, which after a redirect is not there yet, whole.
        is_file = request.headers.get("content-type", "").startswith("multipart/")
        content: Any = request.stream if is_file else await request.aread()
        limits = request.extensions.get("timeout", {})
        with map_aiohttp_exceptions():
            answer = await self._session.request(
                request.method,
                address(request.url),
                headers=request.headers.multi_items(),
                data=content or None,
                allow_redirects=False,
                # Of connecting, looking the name up is a part.
                timeout=aiohttp.ClientTimeout(
                    connect=limits.get("connect"), sock_read=limits.get("read")
                ),
            )
        return httpx2.Response(
            answer.status,
            headers=answer.raw_headers,
            stream=AiohttpResponseStream(answer),
            request=request,
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        connector = _Connector(
            limit=0,
            keepalive_timeout=self._kept,
            ssl=self._tls,
            ttl_dns_cache=60,
            resolver=aiohttp.ThreadedResolver(),  # by the loop, which bounds it
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=2 * bounded.HEAD,
            max_field_size=2 * bounded.HEAD,
            max_headers=_MANY,
            auto_decompress=False,
        )


class AiohttpResponseStream(httpx2.AsyncByteStream):
    """Streams the body of an answer."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with map_aiohttp_exceptions():
            async for chunk in self._answer.content.iter_any():
                yield chunk

    async def aclose(self) -> None:
        # Returns the connection to the pool if the body was read to its end, else closes it.
        self._answer.release()


class _BoundedHandler(aiohttp.client_proto.ResponseHandler):
    """aiohttp's end of a connection, with a bound to what comes before a body."""

    _before_body = 0
    _headed = False

    def set_response_params(self, **settings: Any) -> None:
        self._before_body, self._headed = 0, False
        super().set_response_params(**settings)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._headed or self.transport is None:
            return
        self._before_body += len(data)
        # A 1xx is only a word before the answer, and may be said again and again.
        self._headed = any(message.code >= 200 for (message, _), _ in self._buffer)
        if not self._headed and self._before_body > bounded.HEAD:
            self.set_exception(bounded.head_too_large())
            self.transport.abort()


class _Connector(aiohttp.TCPConnector):
    """Connections whose ends are bounded; there is no public way to choose them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        made: Any = functools.partial(_BoundedHandler, loop=asyncio.get_running_loop())
        self._factory = made
