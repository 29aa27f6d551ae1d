"""Makes the SDK's client of a server, and a server of the user's own client.

All settings come from the frozen `ServerConfig`, not from the environment of the moment: a job is
sent with the credentials that it was submitted with. Imported lazily, as openai is.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import os
import ssl
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

from bgmagic.api.redaction import secrets_of
from bgmagic.api.server import ServerConfig, check_url
from bgmagic.concurrency import on_own_thread
from bgmagic.errors import BadInput, BgmagicError, ServerError
from bgmagic.text import one_line
from bgmagic.transport.reply import ReplyParser

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# Seconds without a byte on a stream, the SDK's own default. A create has a limit in all as well.
SILENCE = 600.0

# Seconds to connect, looking the name up included; of a create that may take less, half of that.
CONNECT = 30.0

# Seconds for which an idle connection is used again. A create that is sent just as the server
# closes its connection ends as `unknown`; they do so after 2 s (gunicorn), 5 s (uvicorn) and more.
CREATE_KEPT = 1.0


def tls_of(server: ServerConfig) -> ssl.SSLContext:
    """Make the TLS context of the SDK's own transport; SSL_CERT_FILE and SSL_CERT_DIR count."""
    import httpx2

    make = functools.partial(httpx2.create_ssl_context, trust_env=not server.is_local)
    return LazyTLS(make) if server.base_url.lower().startswith("http://") else make()


class LazyTLS(ssl.SSLContext):
    """The TLS context of a server that is reached by plain HTTP: the authorities' certificates take
    20 ms to load, and are needed only where it redirects to https."""

    _make: Callable[[], ssl.SSLContext]

    def __new__(cls, make: Callable[[], ssl.SSLContext]) -> Self:
        made = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        made._make = make
        return made

    @functools.cached_property
    def _made(self) -> ssl.SSLContext:
        return self._make()

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """As of the one that is made later; a transport does so as it begins TLS."""
        self._made.set_alpn_protocols(alpn_protocols)

    def wrap_socket(self, *given: Any, **named: Any) -> ssl.SSLSocket:
        """Begin TLS over a socket."""
        return self._made.wrap_socket(*given, **named)

    def wrap_bio(self, *given: Any, **named: Any) -> ssl.SSLObject:
        """Begin TLS within buffers, as event loops do."""
        return self._made.wrap_bio(*given, **named)


def sdk_client(server: ServerConfig, tls: ssl.SSLContext, kept: float = CREATE_KEPT) -> AsyncOpenAI:
    """Make the SDK's client of ``server``; idle connections are used again for ``kept`` seconds."""

    http = _transport(server, tls, kept)
    if server.sdk_client is not None:
        client = _from_template(server.sdk_client, http)
        if _user(server.base_url):
            client.base_url = _bare(server.base_url)
        return client
    client = _plain(server, http)
    if not server.is_local:
        client.organization, client.project = server.organization, server.project
        if os.environ.get("OPENAI_CUSTOM_HEADERS", "") != server.headers:
            # The SDK has read what is there now; the job was submitted with these.
            client._custom_headers = _headers(server)
        return client
    client.organization = client.project = client.admin_api_key = None
    # Not what OPENAI_CUSTOM_HEADERS added; there is no public way to leave it out.
    client._custom_headers = _headers(server)
    return client


def create_limits(total: float) -> Any:
    """The timeouts of a create that may take ``total`` seconds. Connecting has half of them at
    most: a create that finds no connection has then certainly not been sent."""
    import openai

    return openai.Timeout(max(total, SILENCE), connect=min(CONNECT, total / 2))


async def post_response(
    client: AsyncOpenAI, body: bytes, total: float, *, stream: bool = False
) -> Any:
    """POST a response with exactly this body, and give the HTTP answer.

    Args:
        stream: give the answer with its body still to be read, and to be closed.

    By the SDK's way for what it has no method for. Its own create takes a body apart and puts it
    together again, and what the options do not name is copied from the defaults each time: both
    together are a third of its time.

    Raises:
        openai.OpenAIError: there was no answer, or an error status.
    """
    import httpx2

    options: Any = {
        "security": {"bearer_auth": True},  # as its own create
        # By this the SDK's `with_streaming_response` tells its client not to read the body.
        "headers": {"X-Stainless-Raw-Response": "stream"} if stream else {},
        "max_retries": 0,
        "timeout": create_limits(total),
    }
    return await client.post("/responses", cast_to=httpx2.Response, content=body, options=options)


def _headers(server: ServerConfig) -> dict[str, str]:
    pairs = (line.partition(":") for line in server.headers.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _plain(server: ServerConfig, http: Any) -> AsyncOpenAI:
    import openai

    if not server.azure:
        return openai.AsyncOpenAI(
            base_url=_bare(server.base_url),
            api_key=server.api_key,
            max_retries=0,
            timeout=sdk_limits(),
            http_client=http,
        )
    client = openai.AsyncAzureOpenAI(
        # The SDK adds the last part of the path itself.
        azure_endpoint=_bare(server.base_url).removesuffix("/openai"),
        api_version=server.azure,
        api_key=server.api_key or None,
        max_retries=0,
        timeout=sdk_limits(),
        http_client=http,
    )
    client._azure_ad_token = server.azure_token or None  # not that of the moment
    return client


def _bare(url: str) -> str:
    """``url`` without user and password: the transport logs where a request goes."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit(parts._replace(netloc=host))


def _user(url: str) -> tuple[str, str] | None:
    """User and password in an address, or None; the SDK shows them instead of the key."""
    parts = urllib.parse.urlsplit(url)
    if not (parts.username or parts.password):
        return None
    return urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or "")


@contextlib.contextmanager
def seen_requests(client: AsyncOpenAI, look: Callable[[Any], Awaitable[None]]) -> Iterator[None]:
    """Have ``look`` given each request of ``client`` meanwhile, as it is about to be sent."""
    http = client._client
    hooks = http.event_hooks
    http.event_hooks = {**hooks, "request": [*hooks["request"], look]}
    try:
        yield
    finally:
        http.event_hooks = hooks


def goes_direct(client: AsyncOpenAI, url: Any) -> bool:
    """Whether the client reaches ``url`` without a proxy."""
    return _is_direct(client._client, url)


def _is_direct(http: Any, url: Any) -> bool:
    # There is no public way to ask; NO_PROXY has rules of its own in the SDK's transport.
    return bool(http._transport_for_url(url) is http._transport)


def _transport(server: ServerConfig, tls: ssl.SSLContext, kept: float) -> Any:
    import httpx2
    import openai

    from bgmagic.transport.aiohttp_transport import AiohttpTransport
    from bgmagic.transport.bounded import bound

    limits = httpx2.Limits(
        max_connections=1000, max_keepalive_connections=100, keepalive_expiry=kept
    )
    home = httpx2.URL(server.base_url)
    settings: dict[str, Any] = {
        "trust_env": not server.is_local,
        "auth": _user(server.base_url),
        "event_hooks": {
            "request": [_ask_for_known_encodings, _at_home(server, home)],
            "response": [_no_create_elsewhere(home), bound],
        },
    }
    usual = openai.DefaultAsyncHttpxClient(verify=tls, limits=limits, **settings)
    if not _is_direct(usual, home):
        return usual
    return openai.DefaultAsyncHttpxClient(transport=AiohttpTransport(tls, kept), **settings)


async def _ask_for_known_encodings(request: Any) -> None:
    from bgmagic.transport.bounded import ENCODINGS

    # A file that breaks off is read on from a byte of it, not of what it was packed into.
    is_file = request.url.path.endswith("/content")
    request.headers["accept-encoding"] = "identity" if is_file else ENCODINGS


# As whom one asks; of the key alone the SDK takes care itself.
_WHO = ("openai-organization", "openai-project")


def _at_home(server: ServerConfig, home: Any) -> Callable[[Any], Awaitable[None]]:
    """Removes secrets from a GET that is redirected to another host; the SDK removes its key."""
    secrets = secrets_of(server.secrets)

    async def strip(request: Any) -> None:
        if not _is_home(request.url, home):
            for name, value in request.headers.multi_items():
                if name in _WHO or secrets.within(value):
                    request.headers.pop(name, None)

    return strip


def _is_home(url: Any, home: Any) -> bool:
    """Whether ``url`` is of the same origin as ``home``, or its https."""
    origin = (home.scheme, home.host, home.port)
    upgraded = ("https", home.host, None) if origin == ("http", home.host, None) else origin
    return (url.scheme, url.host, url.port) in (origin, upgraded)


def _no_create_elsewhere(home: Any) -> Callable[[Any], Awaitable[None]]:
    """Refuses a redirect of a POST to another origin, or by one that would make a GET of it."""

    async def refuse(response: Any) -> None:
        if response.request.method == "GET" or not response.has_redirect_location:
            return
        told, url = response.headers["location"], response.request.url
        refused = redirect_refusal(response.status_code, told, url, home)
        if refused is not None:
            raise refused

    return refuse


def sdk_limits(silence: float = SILENCE) -> Any:
    """The limits of a call: seconds to connect, and without a byte."""
    import openai

    return openai.Timeout(silence, connect=CONNECT)


def redirect_refusal(status: int, location: str, url: Any, home: Any) -> ServerError | None:
    """Why a POST to ``url`` is not carried where a redirect leads; None if it may be sent there.

    Args:
        home: the server's address.
    """
    try:
        target = url.join(location)
        where = f"{target.scheme}://{target.netloc.rpartition(b'@')[2].decode('ascii')}"
    except Exception:  # an address that is none; it may be anything
        target, where = None, "an address that can't be read"
    if target is not None and _is_home(target, home) and status in (307, 308):
        return None
    return ServerError(
        f"HTTP {status}: the server sends it on to {where}; no prompt is carried "
        "there: if that is the right place, set it as the base URL",
        # After a 303 there is something to look at: the request may have been taken.
        maybe_accepted=status == 303,
        status_code=status,
    )


def _from_template(template: Any, fresh: Any) -> AsyncOpenAI:
    """Make an async client with the settings of ``template``, which is left alone."""
    client = _copied(template, fresh)
    for name in ("_api_key_provider", "_azure_ad_token_provider"):
        if getattr(client, name, None) is not None:
            setattr(client, name, _async_provider(getattr(client, name)))
    return client


def _copied(template: Any, fresh: Any) -> AsyncOpenAI:
    import openai

    if isinstance(template, openai.AsyncOpenAI):
        return template.copy(max_retries=0, http_client=fresh, timeout=sdk_limits())
    settings: dict[str, Any] = {
        "api_key": getattr(template, "_api_key_provider", None) or template.api_key,
        "organization": template.organization,
        "project": template.project,
        "base_url": template.base_url,
        "default_headers": dict(template._custom_headers),
        "default_query": dict(template._custom_query),
        "max_retries": 0,
        "http_client": fresh,
        "timeout": sdk_limits(),
    }
    if not isinstance(template, openai.AzureOpenAI):
        return openai.AsyncOpenAI(**settings)
    return openai.AsyncAzureOpenAI(
        **settings,
        api_version=template._api_version,
        azure_ad_token=template._azure_ad_token,
        azure_ad_token_provider=template._azure_ad_token_provider,
    )


def _async_provider(provider: Callable[[], Any]) -> Callable[[], Awaitable[str]]:
    async def provide() -> str:
        import openai

        try:
            # It may ask a server or a file for the key; neither the loop nor other jobs wait.
            given = await asyncio.wrap_future(on_own_thread(provider, "bgmagic-key"))
            return str(await given if inspect.isawaitable(given) else given)
        except Exception as error:  # nothing was sent: of this very class `ReplyParser` knows that
            about = f"this client's provider gave no key: {type(error).__name__}: {error}"
            raise openai.OpenAIError(about) from None

    return provide


def server_from_client(client: Any) -> ServerConfig:
    """Make the server of the user's own ``OpenAI``, ``AsyncOpenAI`` or Azure client.

    Raises:
        BadInput: it is none of these, or it has a transport of its own.
    """
    import openai

    if not isinstance(client, openai.OpenAI | openai.AsyncOpenAI):
        raise BadInput(
            "use() takes an OpenAI, AsyncOpenAI, AzureOpenAI or AsyncAzureOpenAI client, "
            f"not {type(client).__name__}"
        )
    if _has_own_transport(client):
        raise BadInput(
            "this client has an http_client of its own, which belongs to its event loop: "
            "set proxies and certificates by HTTPS_PROXY and SSL_CERT_FILE instead"
        )
    check_url(str(client.base_url), "this client's base_url")
    try:
        client = client.copy()  # as it is set now, whatever is done to it later
    except TypeError as error:  # a subclass that is made of other things
        raise BadInput(
            f"use() can't copy a {type(client).__name__} ({one_line(str(error), 200)}); give a "
            "client of the SDK's own class with the same settings"
        ) from None
    return ServerConfig(
        base_url=str(client.base_url),
        api_key=client.api_key,
        organization=client.organization,
        project=client.project,
        sdk_client=client,
    )


def _has_own_transport(client: Any) -> bool:
    # The SDK wraps its own default transport in a class of its own, and only that.
    return not type(client._client).__name__.endswith("HttpxClientWrapper")


# Files that an answer cites, fetched when the user asks for one.

# What the API says of a container (its guide to the code interpreter).
EXPIRED = "a container of the code interpreter ends 20 minutes after its last use, with its files"


def fetch_file(server: ServerConfig, file_id: str, container: str | None, limit: int) -> bytes:
    """The content of a file; waits for it, on a loop of its own.

    Args:
        container: the id of the container that it is in, or None.
        limit: bytes it may have at most.

    Raises:
        BgmagicError: it has expired, is larger, or can't be had.
    """
    # The caller may be on a thread whose loop runs, as a cell's is.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _fetched(server, file_id, container, limit)).result()


async def _fetched(server: ServerConfig, file_id: str, container: str | None, limit: int) -> bytes:
    parser = ReplyParser(server)
    try:
        async with sdk_client(server, tls_of(server)) as client:
            if container is None:
                asked = client.files.with_streaming_response.content(file_id)
            else:
                content = client.containers.files.content.with_streaming_response
                asked = content.retrieve(file_id, container_id=container)
            async with asked as reply:
                return await _read(reply, file_id, limit)
    except BgmagicError:
        raise
    except Exception as error:
        raise BgmagicError(_why(error, parser, file_id, container)) from None


async def _read(reply: Any, file_id: str, limit: int) -> bytes:
    parts: list[bytes] = []
    left = limit
    async for part in reply.iter_bytes():
        left -= len(part)
        if left < 0:
            raise BgmagicError(
                f"{file_id} has more than {limit:,} bytes: read(limit=…) or save(path, limit=…) "
                "takes a larger one"
            )
        parts.append(part)
    return b"".join(parts)


def _why(error: Exception, parser: ReplyParser, file_id: str, container: str | None) -> str:
    status = getattr(error, "status_code", None)
    said = one_line(parser.clean(str(error)), 300)  # a key that is cut is no longer found
    if status in (404, 410) and container is not None:
        return f"{file_id} is no longer there: {EXPIRED}. The server says: {said}"
    if status is None:
        return f"{file_id} can't be fetched: {said}"
    return f"the server does not give {file_id}: {said}"
