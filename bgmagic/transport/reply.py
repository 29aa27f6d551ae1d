"""What an answer of a server means, or that there was none.

A success is a `Reply`, a failure a `ServerError` that says whether a create can have been accepted;
no message holds a key. Who asked, and over what connection, makes no difference here.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bgmagic.api.error_body import read_error
from bgmagic.api.server import SHORTEST_SECRET, ServerConfig
from bgmagic.errors import ServerError
from bgmagic.text import one_line

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


@dataclass(frozen=True, slots=True)
class HTTPResponse:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """A response object as the server sent it.

    Attributes:
        response: the JSON object.
        poll_after: seconds the server asks to wait before the next retrieve, or None.
        mark: a hash of what came, good for this process; 0 where that was not asked for.
        text: the response as JSON, where that is at hand.
    """

    response: Mapping[str, Any]
    poll_after: float | None = None
    content_hash: int = 0
    text: str = ""


class ReplyParser:
    """Reads what one server answers. Knows all secrets that have gone out to it."""

    def __init__(self, server: ServerConfig) -> None:
        self._server = server
        self._secrets = server.secrets

    def learn(self, request: Any) -> None:
        """Know the credentials that really went out, also those that a provider gave."""
        for header in ("authorization", "api-key"):
            value = request.headers.get(header, "").rpartition(" ")[2]
            if len(value) >= SHORTEST_SECRET and value not in self._secrets:
                self._secrets = (value, *self._secrets)

    def read(self, got: HTTPResponse) -> Reply:
        """The response object of an answer.

        Raises:
            ServerError: it is none.
        """
        text = got.content.decode("utf-8", "replace")
        try:
            # Within a response, too: servers quote keys in the errors that jobs end with.
            shown = self.hide(text)
            response = json.loads(shown)
            if _HALF in text or _HALF_TOO in text or text.count("[") + text.count("{") > _NESTED:
                response, shown = without_half_characters(response), ""
        except (ValueError, RecursionError):
            response = None
        if not isinstance(response, dict):
            kind = got.headers.get("content-type", "no content type")
            about = "the server answered HTTP {} with something that is no response object ({}): {}"
            raise ServerError(
                self.clean(about.format(got.status, kind, text)),
                maybe_accepted=True,
                status_code=got.status,
            )
        return Reply(response, poll_after(got.headers), text=shown)

    def failure(self, error: Exception) -> ServerError:
        """Say what an exception of the SDK means."""
        if isinstance(error, ServerError):
            return error
        import openai

        if isinstance(error, openai.APIError):
            self.learn(error.request)
        if isinstance(error, openai.APIStatusError):
            http = error.response
            return self.refusal(HTTPResponse(http.status_code, http.headers, http.content))
        cause = error.__cause__ or error
        names = {cls.__name__ for cls in (*type(error).__mro__, *type(cause).__mro__)}
        # Before anything is sent the SDK raises its bare base class (no credentials, say), and
        # encoding a header raises UnicodeError (a key with a typographic quote).
        early = type(error) is openai.OpenAIError or isinstance(error, UnicodeError)
        unsent = early or bool(names & _NEVER_SENT)
        certificate = "CERTIFICATE_VERIFY_FAILED" in str(cause)
        about = _connection_line(error, cause, self._server.address)
        if unsent and self._server.hint:
            about = f"{about}; {self._server.hint}"
        return ServerError(
            self.clean(about),
            maybe_accepted=not unsent,
            # An embedded server that has ended comes back somewhere else.
            retryable=bool(names & _PASSING) and not certificate and not self._server.hint,
        )

    def refusal(self, got: HTTPResponse) -> ServerError:
        """Say what an answer with an error status means."""
        page = got.content.decode("utf-8", "replace")
        body = read_error(page)
        told = body.message or page or "no reason given"
        request_id = got.headers.get("x-request-id")
        about = f"HTTP {got.status}: {told}" + (f" (request {request_id})" if request_id else "")
        code = body.code
        return ServerError(
            self.clean(about),
            maybe_accepted=got.status not in _REFUSALS,
            status_code=got.status,
            code=None if code is None else self.clean(str(code)),
            retry_after=_retry_after(got.headers),
            retryable=got.status == 429 and code not in _OUT_OF_MONEY,
            from_api=body.from_api,
        )

    def hide(self, text: str) -> str:
        """``text`` without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        return text

    def clean(self, text: str) -> str:
        """``text`` as one short line and without any of the secrets, whoever quoted them."""
        return one_line(self.hide(text))


def poll_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait before the next poll, or None."""
    return _seconds(headers.get("openai-poll-after-ms"), 1000)


# So many brackets may be nested too deep to be written again: better found out here.
_NESTED = 200

# How JSON writes half a character, and many a whole one.
_HALF, _HALF_TOO = "\\ud", "\\uD"


def without_half_characters(value: Any) -> Any:
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
