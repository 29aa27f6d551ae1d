"""Talks to one server through the OpenAI SDK and classifies every failure.

The only importer of openai, and imported lazily: it takes a third of a second, which is the loop
thread's to spend, not a cell's. Nobody outside sees an object of the SDK: a success is a `Reply`, a
failure a `ServerError` that says whether a create can have been accepted, and no message holds a
key. When to call again is the poller's business; nothing here retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bgmagic.errors import Accepted, BadInput, ServerError
from bgmagic.request import Request
from bgmagic.server import Server

if TYPE_CHECKING:
    from openai import AsyncOpenAI

POLL_TIMEOUT = 30.0  # seconds for one retrieve or cancel, from connecting to the last byte
# Seconds without a byte while a create is under way, the SDK's own default. Giving up sooner would
# only turn more creates into `unknown`.
CREATE_TIMEOUT = 600.0

# Statuses with which a server certainly did not take a create. 408, 409 and 5xx are unclear.
_REFUSALS = frozenset({400, 401, 402, 403, 404, 405, 406, 410, 411, 413, 414, 415, 421, 422, 429})
# Causes that can only happen before a request reached the server, by the transport's class names:
# the SDK has changed its transport once already, the names stayed. A ProxyError is a proxy that
# refused to connect us.
_NEVER_SENT = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "PoolTimeout",
        "UnsupportedProtocol",
        "LocalProtocolError",
        "ProxyError",
    }
)

# Those of them that may pass: no network yet, a name that does not resolve, a server that restarts.
_PASSING = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"})
# A 429 with one of these codes is about an account, and waiting does not help.
_OUT_OF_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


@dataclass(frozen=True)
class Reply:
    """A response object as the server sent it.

    Attributes:
        response: the JSON object.
        poll_after: seconds the server asks to wait before the next retrieve, or None.
    """

    response: Mapping[str, Any]
    poll_after: float | None = None


class Client:
    """The calls of the Responses API that background mode needs. Belongs to one event loop."""

    def __init__(self, server: Server) -> None:
        """Make the client of ``server``. Imports the SDK.

        Raises:
            ServerError: the SDK can't make a client of these settings.
        """
        self._server = server
        self._secrets = server.secrets
        try:
            self._sdk = _sdk_client(server)
        except Exception as error:
            raise self._failure(error) from None

    async def create(self, request: Request) -> Reply:
        """POST the request once.

        Raises:
            ServerError: with ``accepted`` telling whether the server can have taken it.
        """
        create = self._sdk.responses.with_raw_response.create
        # As extra_body it goes out exactly as it was built, with fields the SDK doesn't know.
        return await self._call(lambda: create(extra_body=request.body), CREATE_TIMEOUT, None)

    async def retrieve(self, response_id: str) -> Reply:
        """GET the response.

        Raises:
            ServerError: the server gave no response object within 30 s.
        """
        retrieve = self._sdk.responses.with_raw_response.retrieve
        return await self._call(lambda: retrieve(response_id), POLL_TIMEOUT, POLL_TIMEOUT)

    async def cancel(self, response_id: str) -> Reply:
        """Ask the server to cancel the response.

        Raises:
            ServerError: the server gave no response object within 30 s.
        """
        cancel = self._sdk.responses.with_raw_response.cancel
        return await self._call(lambda: cancel(response_id), POLL_TIMEOUT, POLL_TIMEOUT)

    async def close(self) -> None:
        """Close the connections."""
        await self._sdk.close()

    async def _call(
        self, send: Callable[[], Awaitable[Any]], silence: float, total: float | None
    ) -> Reply:
        try:
            async with asyncio.timeout(total):
                raw = await send()
        except Exception as error:
            raise self._failure(error) from None
        return self._read(raw.http_response)

    def _read(self, http: Any) -> Reply:
        try:
            response = json.loads(http.content)
        except (ValueError, RecursionError):
            response = None
        if not isinstance(response, dict):
            kind = http.headers.get("content-type", "no content type")
            raise ServerError(
                f"the server answered HTTP {http.status_code} with something that is no response "
                f"object ({kind}): {self._clean(_shortened(http.text))}",
                accepted=Accepted.UNCLEAR,
                status_code=http.status_code,
            )
        return Reply(response, _seconds(http.headers.get("openai-poll-after-ms"), 1000))

    def _failure(self, error: Exception) -> ServerError:
        """Say what an exception of the SDK means."""
        import openai

        if isinstance(error, openai.APIStatusError):
            return self._refusal(error)
        cause = error.__cause__ or error
        names = {cls.__name__ for cls in type(cause).__mro__}
        # Before anything is sent the SDK raises its bare base class (no credentials, say), and
        # encoding a header raises UnicodeError (a key with a typographic quote).
        early = type(error) is openai.OpenAIError or isinstance(error, UnicodeError)
        unsent = early or bool(names & _NEVER_SENT)
        certificate = "CERTIFICATE_VERIFY_FAILED" in str(cause)
        about = _connection_line(error, cause, self._server.address)
        if unsent and self._server.remedy:
            about = f"{about}; {self._server.remedy}"
        return ServerError(
            self._clean(about),
            accepted=Accepted.NO if unsent else Accepted.UNCLEAR,
            # An embedded server that has ended comes back somewhere else.
            passing=bool(names & _PASSING) and not certificate and not self._server.remedy,
        )

    def _refusal(self, error: Any) -> ServerError:
        body = error.body if isinstance(error.body, dict) else {}
        told = body.get("message") or _shortened(error.response.text) or "no reason given"
        request_id = f" (request {error.request_id})" if error.request_id else ""
        code = body.get("code")
        return ServerError(
            self._clean(f"HTTP {error.status_code}: {told}{request_id}"),
            accepted=Accepted.NO if error.status_code in _REFUSALS else Accepted.UNCLEAR,
            status_code=error.status_code,
            code=None if code is None else self._clean(str(code)),
            retry_after=_retry_after(error.response.headers),
            passing=error.status_code == 429 and code not in _OUT_OF_MONEY,
            told=bool(body.get("message")),
        )

    def _clean(self, text: str) -> str:
        """``text`` as one line and without any of the secrets, whoever quoted them."""
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        return " ".join(text.split())


def _sdk_client(server: Server) -> AsyncOpenAI:
    import openai

    if server.template is not None:
        return _from_template(server.template)
    if not server.isolated:
        return openai.AsyncOpenAI(
            base_url=server.base_url,
            api_key=server.api_key,
            organization=server.organization,
            project=server.project,
            max_retries=0,
            timeout=_timeout(),
        )
    client = openai.AsyncOpenAI(
        base_url=server.base_url,
        api_key=server.api_key,
        max_retries=0,
        timeout=_timeout(),
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
    )
    client.organization = client.project = client.admin_api_key = None
    # What OPENAI_CUSTOM_HEADERS added; there is no public way to leave it out.
    client._custom_headers = {}
    return client


def _timeout() -> Any:
    import openai

    return openai.Timeout(CREATE_TIMEOUT, connect=30.0)


def _from_template(template: Any) -> AsyncOpenAI:
    """An async client with the settings of ``template``, which is left alone."""
    import openai

    fresh = openai.DefaultAsyncHttpxClient()
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


def server_of(client: Any) -> Server:
    """The server of the user's own ``OpenAI``, ``AsyncOpenAI`` or Azure client.

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
    return Server(
        base_url=str(client.base_url),
        api_key=client.api_key,
        organization=client.organization,
        project=client.project,
        template=client,
    )


def _has_own_transport(client: Any) -> bool:
    # The SDK wraps its own default transport in a class of its own, and only that.
    return not type(client._client).__name__.endswith("HttpxClientWrapper")


def _connection_line(error: Exception, cause: BaseException, address: str) -> str:
    kind = type(cause).__name__
    if isinstance(error, TimeoutError):
        return f"no answer from {address} within {POLL_TIMEOUT:.0f} s"
    if kind == "LocalProtocolError" or isinstance(cause, UnicodeError):
        # The transport quotes the whole header here, and that header is mostly the key.
        return "a header can't be sent: are there odd characters in the API key or custom headers?"
    return f"no answer from {address}: {str(cause) or 'no reason given'} ({kind})"


def _shortened(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `retry-after` (RFC 9110: seconds or a date)."""
    exact = _seconds(headers.get("retry-after-ms"), 1000)
    if exact is not None:
        return exact
    value = headers.get("retry-after")
    plain = _seconds(value, 1)
    if plain is not None or value is None:
        return plain
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _seconds(value: str | None, per_second: float) -> float | None:
    with contextlib.suppress(ValueError):
        seconds = float(value or "") / per_second
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None
