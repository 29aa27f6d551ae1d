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
from typing import Any

from bgmagic.errors import Accepted, ServerError, readable
from bgmagic.request import Request
from bgmagic.sdk import sdk_client
from bgmagic.server import SHORTEST_SECRET, Server
from bgmagic.stream import Stream

POLL_TIMEOUT = 30.0  # seconds for one retrieve or cancel, from connecting to the last byte

# Statuses with which a server certainly did not take a create. 408, 409 and 5xx are unclear.
_REFUSALS = frozenset(
    {400, 401, 402, 403, 404, 405, 406, 407, 410, 411, 413, 414, 415, 421, 422, 429, 431, 451}
)
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
            self._sdk = sdk_client(server)
        except Exception as error:
            about = f"the settings of {server.address} can't be used: {error}"
            raise ServerError(self._clean(about), accepted=Accepted.NO) from None

    async def create(self, request: Request) -> Reply:
        """POST the request once.

        Raises:
            ServerError: with ``accepted`` telling whether the server can have taken it.
        """
        create = self._sdk.responses.with_raw_response.create
        # As extra_body it goes out exactly as it was built, with fields the SDK doesn't know.
        return await self._call(lambda: create(extra_body=request.body), None)

    async def create_streamed(self, request: Request) -> tuple[Reply, Stream | None]:
        """POST the request once, and read on as the response is written.

        Returns:
            the response as its first event has it, and the events from there on; None where the
            server answered as if it had not been asked to stream.

        Raises:
            ServerError: with ``accepted`` telling whether the server can have taken it.
        """
        create = self._sdk.responses.with_streaming_response.create
        http, close = await self._open(create(extra_body=request.body))
        try:
            if not _is_stream(http):
                await http.aread()
                return self._read(http), None
            stream = self._stream(http, close)
            first = await stream.first()
        except BaseException as error:
            await close()
            if isinstance(error, Exception):
                raise self._failure(error) from None
            raise
        return Reply(_without_half_characters(first), _poll_after(http)), stream

    async def follow(self, response_id: str, after: int | None) -> Stream:
        """GET the events of a response that was created with a stream.

        Args:
            after: the number of the last event that is known, or None for all.

        Raises:
            ServerError: the server does not stream it, or can't be reached.
        """
        retrieve = self._sdk.responses.with_streaming_response.retrieve
        query: dict[str, Any] = {"stream": "true"}
        if after is not None:
            query["starting_after"] = after
        http, close = await self._open(retrieve(response_id, extra_query=query))
        if _is_stream(http):
            return self._stream(http, close)
        await close()
        about = f"{self._server.address} does not stream this response"
        raise ServerError(about, accepted=Accepted.UNCLEAR, status_code=http.status_code)

    async def retrieve(self, response_id: str) -> Reply:
        """GET the response.

        Raises:
            ServerError: the server gave no response object within 30 s.
        """
        retrieve = self._sdk.responses.with_raw_response.retrieve
        return await self._call(lambda: retrieve(response_id), POLL_TIMEOUT)

    async def cancel(self, response_id: str) -> Reply:
        """Ask the server to cancel the response.

        Raises:
            ServerError: the server gave no response object within 30 s.
        """
        cancel = self._sdk.responses.with_raw_response.cancel
        return await self._call(lambda: cancel(response_id), POLL_TIMEOUT)

    async def close(self) -> None:
        """Close the connections."""
        await self._sdk.close()

    async def _open(self, opening: Any) -> tuple[Any, Callable[[], Awaitable[object]]]:
        """The HTTP answer of a call whose body is still to be read, and what closes it."""
        try:
            raw = await opening.__aenter__()
        except Exception as error:
            raise self._failure(error) from None
        self._learn(raw.http_response.request)
        return raw.http_response, raw.close

    def _stream(self, http: Any, close: Callable[[], Awaitable[object]]) -> Stream:
        return Stream(http.aiter_bytes(), close, self._hide, self._failure)

    async def _call(self, send: Callable[[], Awaitable[Any]], total: float | None) -> Reply:
        try:
            async with asyncio.timeout(total):
                raw = await send()
            http = raw.http_response
            self._learn(http.request)
        except Exception as error:
            raise self._failure(error) from None
        return self._read(http)

    def _learn(self, request: Any) -> None:
        """Know the credentials that really went out, also those that a provider gave."""
        for header in ("authorization", "api-key"):
            value = request.headers.get(header, "").rpartition(" ")[2]
            if len(value) >= SHORTEST_SECRET and value not in self._secrets:
                self._secrets = (value, *self._secrets)

    def _read(self, http: Any) -> Reply:
        text = http.content.decode("utf-8", "replace")
        try:
            # Within a response, too: servers quote keys in the errors that jobs end with.
            response = _without_half_characters(json.loads(self._hide(text)))
        except (ValueError, RecursionError):
            response = None
        if not isinstance(response, dict):
            kind = http.headers.get("content-type", "no content type")
            about = "the server answered HTTP {} with something that is no response object ({}): {}"
            raise ServerError(
                self._clean(about.format(http.status_code, kind, text)),
                accepted=Accepted.UNCLEAR,
                status_code=http.status_code,
            )
        return Reply(response, _poll_after(http))

    def _failure(self, error: Exception) -> ServerError:
        """Say what an exception of the SDK means."""
        if isinstance(error, ServerError):
            return error
        import openai

        if isinstance(error, openai.APIError):
            self._learn(error.request)
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
        page = error.response.content.decode("utf-8", "replace")
        told = body.get("message") or page or "no reason given"
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

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        return text

    def _clean(self, text: str) -> str:
        """``text`` as one short line and without any of the secrets, whoever quoted them."""
        return readable(self._hide(text))


def _poll_after(http: Any) -> float | None:
    return _seconds(http.headers.get("openai-poll-after-ms"), 1000)


def _is_stream(http: Any) -> bool:
    return str(http.headers.get("content-type", "")).startswith("text/event-stream")


def _without_half_characters(value: Any) -> Any:
    """``value`` with lone surrogates replaced: JSON allows them, nothing can show or store them."""
    text = json.dumps(value, ensure_ascii=False)
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value if whole == text else json.loads(whole)


def _connection_line(error: Exception, cause: BaseException, address: str) -> str:
    kind = type(cause).__name__
    if isinstance(error, TimeoutError):
        return f"no answer from {address} within {POLL_TIMEOUT:.0f} s"
    if kind == "LocalProtocolError" or isinstance(cause, UnicodeError):
        # The transport quotes the whole header here, and that header is mostly the key.
        return "a header can't be sent: are there odd characters in the API key or custom headers?"
    return f"no answer from {address}: {str(cause) or 'no reason given'} ({kind})"


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
