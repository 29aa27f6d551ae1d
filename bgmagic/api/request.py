"""The exact JSON body of one POST /responses, frozen, and how settings become one.

Every body is a background request whose output is text, plain or structured. What is in `FORBIDDEN`
is never in a body: background mode can't be combined with `store`, and whether a job streams is not
the user's field.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bgmagic.errors import BadInput

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

VERBOSITIES = ("low", "medium", "high")

# How soon a background response has to be there, and which processing serves it; the SDK (3.57)
# knows further tiers, which --param service_tier= sends.
WINDOWS = ("soonest", "2h", "8h")

TIERS = ("flex", "default", "priority")

# Seconds of the windows that cost less. Those go with the standard tier and without a stream only.
WINDOW_SECONDS = {"2h": 7200.0, "8h": 28800.0}

# The hosted tools that a mere type is enough for; tools.py knows how each is sent.
TOOLS = ("web_search", "code_interpreter", "image_generation", "shell", "web_search_preview")

FORBIDDEN: Mapping[str, str] = {
    "store": "it can't be given with background mode",
    "background": "it is always true here",
    "stream": "that is what --stream is for",
    "input": "the input is the cell, with --messages before it",
}


OutputType = type[Any] | None  # the class that structured output is read into, if there is one


@dataclass(frozen=True)
class Request:
    """One request body.

    Attributes:
        text: the body as JSON text, exactly as it is sent.
        reader: the user's class that the answer is to be an object of; no part of the body, and not
            in the journal.
    """

    text: str
    output_type: OutputType = field(default=None, compare=False, repr=False)

    @property
    def body(self) -> dict[str, Any]:
        """The body as a new dict; changing it changes nothing here."""
        body: dict[str, Any] = json.loads(self.text)
        return body

    def fingerprint(self, server: str, partial: str = "") -> str:
        """What two requests have in common that ask the same of the same server, as hex digits.

        Whether the answer is streamed makes no difference to it.

        Args:
            draft: what still is to go into the request.
        """
        known = self.__dict__.get("_print")
        if known is None or known[:2] != (server, partial):
            known = server, partial, _fingerprint(self.body, server, partial)
            self.__dict__["_print"] = known
        found: str = known[2]
        return found

    @classmethod
    def of(cls, body: Mapping[str, Any], output_type: OutputType = None) -> Request:
        """The request with this body.

        Raises:
            BadInput: JSON can't hold it.
        """
        return cls(_dump(body), output_type)

    @cached_property
    def _settings(self) -> _Header:
        # Read once: with files in it, the input is large. And little of it: there may be thousands.
        return _Header.of(self.body)

    @property
    def streams(self) -> bool:
        """Whether the server is asked to send the response as it is written."""
        return self._settings.streams

    @property
    def model(self) -> str:
        """The model that was asked for."""
        return self._settings.model

    @property
    def text_format(self) -> dict[str, Any] | None:
        """The JSON schema that was asked for, as ``text.format`` holds it, or None for text."""
        return self._settings.format

    @property
    def effort(self) -> str | None:
        """The reasoning effort that was asked for, or None for the server's default."""
        return self._settings.effort

    @property
    def window(self) -> str:
        """The completion window that was asked for, or ""."""
        return self._settings.window

    @property
    def window_seconds(self) -> float | None:
        """How long that window is, in seconds, from acceptance; None for none and for "soonest"."""
        return WINDOW_SECONDS.get(self._settings.window)

    @property
    def tier(self) -> str:
        """The service tier that was asked for, or ""."""
        return self._settings.tier

    @property
    def max_output_tokens(self) -> int | None:
        """The most tokens that the response may have, or None where it is not bounded."""
        return self._settings.max_output_tokens


@dataclass(frozen=True, slots=True)
class _Header:
    """What is asked of a request again and again."""

    streams: bool
    model: str
    format: dict[str, Any] | None
    effort: str | None
    window: str
    tier: str
    max_output_tokens: int | None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> _Header:
        text_format, effort = _inner(body, "text", "format"), _inner(body, "reasoning", "effort")
        most = body.get("max_output_tokens")
        structured = isinstance(text_format, dict) and text_format.get("type") == "json_schema"
        return cls(
            streams=body.get("stream") is True,
            model=sys.intern(str(body.get("model", ""))),
            format=text_format if structured else None,
            effort=None if effort is None else sys.intern(str(effort)),
            window=sys.intern(str(_inner(body, "background_options", "completion_window") or "")),
            tier=sys.intern(str(body.get("service_tier") or "")),
            max_output_tokens=most if isinstance(most, int) else None,
        )


def _inner(body: Mapping[str, Any], outer: str, inner: str) -> Any:
    found = body.get(outer)
    return found.get(inner) if isinstance(found, dict) else None


def _fingerprint(body: Mapping[str, Any], server: str, partial: str) -> str:
    asked = {key: value for key, value in body.items() if key != "stream"}
    text = json.dumps([server, asked, partial] if partial else [server, asked], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def build_request(
    messages: Sequence[Mapping[str, Any]],
    *,
    model: str,
    effort: str | None = None,
    verbosity: str | None = None,
    instructions: str | None = None,
    max_output_tokens: int | None = None,
    params: Iterable[tuple[str, Any]] = (),
    stream: bool = False,
    text_format: Mapping[str, Any] | None = None,
    output_type: OutputType = None,
    tools: Sequence[Mapping[str, Any]] = (),
    window: str | None = None,
    continuation_id: str | None = None,
    tier: str | None = None,
) -> Request:
    """Make the request that asks ``messages`` with these settings.

    A setting that is None is left out, so that the server's default holds.

    Args:
        messages: the input, each item as the API takes it.
        max_output_tokens: the most tokens the response may have, reasoning included.
        params: further body fields as (dotted path, JSON value).
        stream: whether the response is sent as it is written.
        form: ``text.format`` for structured output; None means text.
        reader: the class that the structured output is read into.
        tools: the hosted tools that the model may use.
        window: the completion window, one of `WINDOWS`.
        continuation_id: what the requests of one conversation in a window have in common, by which
            a follow-up gets a better place in the queue; None makes it of the first message.
        tier: the service tier, one of `TIERS`.

    Raises:
        BadInput: a field that is not the user's to set, one that is set twice, settings that
            exclude each other, or a value that JSON can't hold.
    """
    body: dict[str, Any] = {"model": model, "input": list(messages), "background": True}
    body["text"] = {"format": {"type": "text"} if text_format is None else dict(text_format)}
    if verbosity is not None:
        body["text"]["verbosity"] = verbosity
    if effort is not None:
        body["reasoning"] = {"effort": effort}
    if instructions is not None:
        body["instructions"] = instructions
    if max_output_tokens is not None:
        body["max_output_tokens"] = max_output_tokens
    if tools:
        body["tools"] = list(tools)
    if window is not None:
        body["background_options"] = {"completion_window": window}
    if tier is not None:
        body["service_tier"] = tier
    given: dict[str, object] = {
        "reasoning.effort": effort,
        "text.verbosity": verbosity,
        "instructions": instructions,
        "max_output_tokens": max_output_tokens,
        "tools": tools or None,
        "background_options.completion_window": window,
        "service_tier": tier,
    }
    taken = {path for path, value in given.items() if value is not None}
    for path, value in params:
        _set(body, path, value, taken)
    if stream:
        body["stream"] = True
    _check_window(body)
    if _inner(body, "background_options", "completion_window") and body["input"]:
        options: dict[str, Any] = body["background_options"]
        options.setdefault("continuation_id", continuation_id or hash_of(body["input"][0]))
    return Request.of(body, output_type)


def hash_of(message: object) -> str:
    """A message as 32 hex digits."""
    text = json.dumps(message, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).hexdigest()


def _check_window(body: Mapping[str, Any]) -> None:
    """Whether what is asked goes with the window that it is asked in.

    Raises:
        BadInput: the API would refuse it.
    """
    window = _inner(body, "background_options", "completion_window")
    if window not in WINDOW_SECONDS:
        return
    if body.get("stream"):
        raise BadInput(f"--window {window} can't be streamed: leave out --stream or --window")
    tier = body.get("service_tier")
    if tier not in (None, "auto", "default"):
        raise BadInput(
            f"--window {window} is of the standard tier only: leave out --tier {tier} or --window"
        )


def _set(body: dict[str, Any], path: str, value: Any, taken: set[str]) -> None:
    """Set ``body`` at the dotted ``path``, unless something already was set there."""
    keys = path.split(".")
    if not all(keys):
        raise BadInput(
            f"--param {path!r}: write KEY=VALUE, the key dotted as in reasoning.summary=auto"
        )
    if keys[0] in FORBIDDEN:
        raise BadInput(f"--param {keys[0]} can't be set: {FORBIDDEN[keys[0]]}")
    if _overlap("text.format", path):
        raise BadInput(f"--param {path} can't be set: --schema and --verbosity are for that")
    clash = [other for other in sorted(taken) if _overlap(other, path)]
    if clash:
        raise BadInput(f"--param {path}: {clash[0]} is already set; give it once")
    taken.add(path)
    place = body
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise BadInput(f"--param {path}: {key} is not an object, so nothing can be set in it")
    place[keys[-1]] = value


def _overlap(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def check_text(text: str) -> None:
    """Whether ``text`` can be sent and written down.

    Raises:
        BadInput: it has lone surrogates: halves of character pairs, mostly from text that was cut.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        broken = f"U+{ord(error.object[error.start]):04X}"
        raise BadInput(f"the text holds {broken}, half a character that can't be sent") from None


def _dump(body: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False)
        check_text(text)
    except BadInput:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"the request can't be written as JSON: {error}") from None
    return text
