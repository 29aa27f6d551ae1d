"""Parses what a server answers, or the failure to get an answer.

A success is a `Reply`, a failure a `ServerError` that says whether a create can have been accepted.
No message holds a key.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bgmagic.api.error_body import failure_message, read_error
from bgmagic.api.redaction import SHORTEST_SECRET, Secrets, secrets_of
from bgmagic.api.server import ServerConfig
from bgmagic.errors import ServerError
from bgmagic.text import one_line
from bgmagic.transport.streaming import events_in
from bgmagic.values import dataclass

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

# Those of them that may succeed later: no network yet, a name that does not resolve, a server that
# restarts.
_PASSING = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"})

# A 429 with one of these codes is about an account, and waiting does not help.
_OUT_OF_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


class RawHeaders:
    """Headers as they came, read when they are looked at: of most polls hardly one is."""

    __slots__ = ("_names", "_raw", "_read")

    def __init__(self, raw: Sequence[bytes]) -> None:
        """Make them of names and values in turn."""
        self._raw = raw
        self._names = b"\n".join(raw[::2]).lower()
        self._read: dict[str, str] | None = None

    def has(self, part: bytes) -> bool:
        """Whether this is in one of their names, in small letters."""
        return part in self._names

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a header, by its name in small letters; of several, with commas."""
        if name.encode() not in self._names:
            return default
        self._read = self._read or self.whole()
        return self._read.get(name, default)

    def whole(self) -> dict[str, str]:
        """All of them."""
        read: dict[str, str] = {}
        for raw, value in zip(self._raw[::2], self._raw[1::2], strict=True):
            key, text = raw.decode("latin-1").lower(), value.strip().decode("latin-1")
            read[key] = f"{read[key]}, {text}" if key in read else text
        return read


Headers = Mapping[str, str] | RawHeaders

NO_HASH = -1  # `hash` never returns it; 0 is the hash of no bytes at all


class HTTPResponse(NamedTuple):
    """An answer, read to its end."""

    status: int
    headers: Headers
    content: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """A response object as the server sent it.

    Attributes:
        response: the JSON object.
        poll_after: seconds the server asks to wait before the next retrieve, or None.
        content_hash: a hash of the bytes, good for this process; NO_HASH if it was not worked out.
        text: the response as JSON on one line, where that is at hand.
    """

    response: Mapping[str, Any]
    poll_after: float | None = None
    content_hash: int = NO_HASH
    text: str = ""


class ReplyParser:
    """Parses one server's answers, and hides all secrets that were sent to it."""

    def __init__(self, server: ServerConfig) -> None:
        self._server = server
        self._secrets = secrets_of(server.secrets)

    def learn(self, request: Any) -> None:
        """Add the credentials of ``request`` to the secrets: a provider may have given them."""
        for header in ("authorization", "api-key"):
            value = request.headers.get(header, "").rpartition(" ")[2]
            known = self._secrets.values
            if len(value) >= SHORTEST_SECRET and value not in known:
                self._secrets = Secrets([value, *known])

    def read(self, got: HTTPResponse, asked: str | None = None) -> Reply:
        """Parse the response object of an answer.

        Args:
            asked: the id of the response that was asked for: it is kept once.

        Raises:
            ServerError: it is none.
        """
        # A byte-order mark may be passed over (RFC 8259): a create can't be asked again.
        text = got.content.decode("utf-8", "replace").removeprefix("\ufeff")
        try:
            response, shown = self._parsed(text)
            if _HALF.search(text) or text.count("[") + text.count("{") > _NESTED:
                response, shown = without_half_characters(response), ""
        except (ValueError, RecursionError):
            # Some servers stream where `stream` is not said to be false.
            response, shown = self._newest_in_events(got), ""
        if not isinstance(response, dict):
            raise ServerError(
                self.clean(_no_response(got)), maybe_accepted=True, status_code=got.status
            )
        if asked is not None and response.get("id") == asked:
            response["id"] = asked
        return Reply(response, poll_after(got.headers), text=_without_indents(shown))

    def parse(self, text: str) -> Any:
        """The value of a JSON text, without the secrets.

        Raises:
            ValueError: it is no JSON.
            ServerError: it is too large.
        """
        return self._parsed(text)[0]

    def _newest_in_events(self, got: HTTPResponse) -> Any:
        """The newest response object of an answer that is a stream of events, or None.

        Raises:
            ServerError: it has none, and an event says why.
        """
        if not is_event_stream(got.headers):
            return None
        failed = None
        with contextlib.suppress(ValueError):
            for text in reversed(events_in(got.content)):
                with contextlib.suppress(ValueError, RecursionError):
                    event = self.parse(text)
                    if isinstance(event, dict) and isinstance(event.get("response"), dict):
                        return without_half_characters(event["response"])
                    if isinstance(event, dict) and event.get("type") == "error":
                        failed = failure_message({"error": event})
        if failed is None:
            return None
        about = f"{self._server.address} answered with an error: {failed}"
        raise ServerError(self.clean(about), maybe_accepted=True, status_code=got.status)

    def _parsed(self, text: str) -> tuple[Any, str]:
        """The value without the secrets, and the text, or "" if that has one.

        Servers quote keys in the errors that jobs end with, in any of the ways that JSON allows: so
        they are looked for in what it says, if anything in it looks like one.
        """
        if len(text) > VALUES and sum(map(text.count, ",[{")) > VALUES:
            address = self._server.address
            about = f"no usable answer from {address}: it is too large, {VALUES} values or more"
            raise ServerError(about, maybe_accepted=True)
        value = json.loads(text)
        if not self._secrets.within_json(text):
            return value, text
        return self._secrets.hide_in(value), ""

    def failure(self, error: Exception) -> ServerError:
        """Make a `ServerError` of an exception of the SDK."""
        if isinstance(error, ServerError):
            return error
        import openai

        if isinstance(error, openai.APIError):
            self.learn(error.request)
        if isinstance(error, openai.APIStatusError):
            http = error.response
            return self.refusal(HTTPResponse(http.status_code, http.headers, http.content))
        cause = error.__cause__ or error
        if isinstance(cause, ServerError):  # told by one of our own hooks
            cause.args = (self.clean(str(cause)),)
            return cause
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
        page = got.content[:_PAGE].decode("utf-8", "replace")
        body = read_error(page)
        message = body.message or page or "no reason given"
        request_id = got.headers.get("x-request-id")
        about = f"HTTP {got.status}: {message}" + (f" (request {request_id})" if request_id else "")
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
        return self._secrets.hide(text)

    def clean(self, text: str) -> str:
        """Shorten ``text`` to one line without the secrets."""
        return one_line(self.hide(text))


def is_event_stream(headers: Headers) -> bool:
    """Whether an answer with these headers is a stream of events."""
    return str(headers.get("content-type", "")).startswith("text/event-stream")


def poll_after(headers: Headers) -> float | None:
    """Read the delay (s) that the server asks for before the next poll, or None."""
    return _seconds(headers.get("openai-poll-after-ms"), 1000)


# Values in the JSON of an answer. Each takes a hundred bytes or so, and on the wire three may do;
# the answer with the most, one with logprobs, has some 20 a token.
VALUES = 8_000_000

_PAGE = 1 << 20  # bytes of an answer that are looked at for a line about it

_TITLE = re.compile(r"<title[^>]*>([^<]*)", re.IGNORECASE)


def _no_response(got: HTTPResponse) -> str:
    """What came instead of a response object."""
    kind = got.headers.get("content-type", "no content type")
    page = got.content[:_PAGE].decode("utf-8", "replace")
    if "html" in kind or page.lstrip()[:1] == "<":
        title = _TITLE.search(page)
        words = title[1] if title and title[1].strip() else page
        return (
            f"the server answered HTTP {got.status} with a web page ({kind}), perhaps the "
            f"login page of a network or a proxy, and no response object: {words}"
        )
    return f"the server answered HTTP {got.status} with no response object ({kind}): {page}"


def _without_indents(text: str) -> str:
    """JSON text on one line: within its strings the end of a line is written otherwise."""
    return "".join(map(str.strip, text.split("\n"))) if "\n" in text else text


# So many brackets may be nested too deep to be written again: better found out here.
_NESTED = 200

# How JSON writes half a character, and many a whole one. A pattern of which the first sign alone is
# searched for takes a seventh of the time that looking for both by ``in`` does.
_HALF = re.compile(r"\\(?=u[dD])")


def without_half_characters(value: Any) -> Any:
    """Replace lone surrogates in ``value``: JSON allows them, nothing can show or store them."""
    text = json.dumps(value, ensure_ascii=False)
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value if whole == text else json.loads(whole)


def _connection_line(error: Exception, cause: BaseException, address: str) -> str:
    kind = type(cause).__name__
    if isinstance(error, TimeoutError):
        return f"no answer from {address} within {POLL_TIMEOUT:.0f} s"
    if kind == "AnswerTooLarge":
        return f"no usable answer from {address}: {cause}"
    if kind == "LocalProtocolError" or isinstance(cause, UnicodeError):
        # The transport quotes the whole header here, and that header is mostly the key.
        return "a header can't be sent: are there odd characters in the API key or custom headers?"
    return f"no answer from {address}: {str(cause) or 'no reason given'} ({kind})"


def _retry_after(headers: Headers) -> float | None:
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
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(value) / per_second
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None
