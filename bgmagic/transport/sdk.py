"""Makes the SDK's client of a server, and a server of the user's own client.

All settings come from the frozen `ServerConfig`, not from the environment of the moment: a job is
sent with the credentials that it was submitted with. Imported lazily, as openai is.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from bgmagic.api.server import ServerConfig
from bgmagic.errors import BadInput

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# Seconds without a byte while a create is under way, the SDK's own default. Giving up sooner would
# only turn more creates into `unknown`.
CREATE_TIMEOUT = 600.0

# Seconds for which an idle connection is used again. A create that is sent just as the server
# closes its connection ends as `unknown`; they do so after 2 s (gunicorn), 5 s (uvicorn) and more.
CREATE_KEPT = 1.0


def tls_of(server: ServerConfig) -> ssl.SSLContext:
    """Make the TLS context of the SDK's own transport; SSL_CERT_FILE and SSL_CERT_DIR count."""
    import httpx2

    return httpx2.create_ssl_context(trust_env=not server.is_local)


def sdk_client(server: ServerConfig, tls: ssl.SSLContext, kept: float = CREATE_KEPT) -> AsyncOpenAI:
    """Make the SDK's client of ``server``; idle connections are used again for ``kept`` seconds."""
    import openai

    http = _transport(server, tls, kept)
    if server.sdk_client is not None:
        client = _from_template(server.sdk_client, http)
        if _user(server.base_url):
            client.base_url = _bare(server.base_url)
        return client
    if not server.is_local:
        client = _plain(server, http)
        client.organization, client.project = server.organization, server.project
        if os.environ.get("OPENAI_CUSTOM_HEADERS", "") != server.headers:
            # The SDK has read what is there now; the job was submitted with these.
            client._custom_headers = _headers(server)
        return client
    client = openai.AsyncOpenAI(
        base_url=_bare(server.base_url),
        api_key=server.api_key,
        max_retries=0,
        timeout=_timeout(),
        http_client=http,
    )
    client.organization = client.project = client.admin_api_key = None
    # Not what OPENAI_CUSTOM_HEADERS added; there is no public way to leave it out.
    client._custom_headers = _headers(server)
    return client


async def post_response(client: AsyncOpenAI, body: bytes, *, stream: bool = False) -> Any:
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
        "timeout": client.timeout,
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
            timeout=_timeout(),
            http_client=http,
        )
    client = openai.AsyncAzureOpenAI(
        # The SDK adds the last part of the path itself.
        azure_endpoint=_bare(server.base_url).removesuffix("/openai"),
        api_version=server.azure,
        api_key=server.api_key or None,
        max_retries=0,
        timeout=_timeout(),
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

    limits = httpx2.Limits(
        max_connections=1000, max_keepalive_connections=100, keepalive_expiry=kept
    )
    home = httpx2.URL(server.base_url)
    settings: dict[str, Any] = {
        "trust_env": not server.is_local,
        "auth": _user(server.base_url),
        "event_hooks": {"request": [_at_home(server, home)]},
    }
    usual = openai.DefaultAsyncHttpxClient(verify=tls, limits=limits, **settings)
    if not _is_direct(usual, home):
        return usual
    return openai.DefaultAsyncHttpxClient(transport=AiohttpTransport(tls, kept), **settings)


def _at_home(server: ServerConfig, home: Any) -> Callable[[Any], Awaitable[None]]:
    """Make a hook that removes secrets from a request to another host, as after a redirect: the SDK
    removes only its own key."""
    homes = {(home.scheme, home.host, home.port), ("https", home.host, None)}

    async def strip(request: Any) -> None:
        url, headers = request.url, request.headers
        if (url.scheme, url.host, url.port) not in homes:
            for name, value in headers.multi_items():
                if any(secret in value for secret in server.secrets) and name in headers:
                    del headers[name]

    return strip


def _timeout() -> Any:
    import openai

    return openai.Timeout(CREATE_TIMEOUT, connect=30.0)


def _from_template(template: Any, fresh: Any) -> AsyncOpenAI:
    """Make an async client with the settings of ``template``, which is left alone."""
    import openai

    if isinstance(template, openai.AsyncOpenAI):
        return template.copy(max_retries=0, http_client=fresh, timeout=_timeout())
    provider = getattr(template, "_api_key_provider", None)
    settings: dict[str, Any] = {
        "api_key": _async_provider(provider) if provider else template.api_key,
        "organization": template.organization,
        "project": template.project,
        "base_url": template.base_url,
        "default_headers": dict(template._custom_headers),
        "default_query": dict(template._custom_query),
        "max_retries": 0,
        "http_client": fresh,
        "timeout": _timeout(),
    }
    if not isinstance(template, openai.AzureOpenAI):
        return openai.AsyncOpenAI(**settings)
    return openai.AsyncAzureOpenAI(
        **settings,
        api_version=template._api_version,
        azure_ad_token=template._azure_ad_token,
        azure_ad_token_provider=template._azure_ad_token_provider,
    )


def _async_provider(provider: Callable[[], str]) -> Callable[[], Awaitable[str]]:
    async def provide() -> str:
        # It may ask a server or a file for the key; the loop must not wait for that.
        return await asyncio.to_thread(provider)

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
    client = client.copy()  # as it is set now, whatever is done to it later
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
