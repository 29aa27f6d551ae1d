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

# The hosted tools that a mere type is enough for; tools.py knows how each is sent.
TOOLS = ("web_search", "code_interpreter", "image_generation", "shell", "web_search_preview")

FORBIDDEN: Mapping[str, str] = {
    "store": "it can't be given with background mode",
    "background": "it is always true here",
    "stream": "that is what --stream is for",
    "input": "the input is the cell, with --messages before it",
}


def assistant_turn(text: str, phase: str = "") -> dict[str, Any]:
    """The turn of the assistant that said ``text``, as the input of a request has it.

    With its type and plain text: a form that the API's description has (EasyInputMessage), and that
    all servers took that were tried. vLLM and llama.cpp refuse ``output_text`` parts that have no
    id and no status beside them.
    """
    told = {"phase": phase} if phase else {}
    return {"type": "message", "role": "assistant", **told, "content": text}


_STREAMING = frozenset({"stream", "stream_options"})

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

    def unstreamed(self) -> Request:
        """The same request, but the response is not sent as it is written."""
        body = {key: value for key, value in self.body.items() if key not in _STREAMING}
        return Request.of(body, self.output_type)

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


@dataclass(frozen=True, slots=True)
class _Header:
    """What is asked of a request again and again."""

    streams: bool
    model: str
    format: dict[str, Any] | None
    effort: str | None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> _Header:
        text_format, effort = _inner(body, "text", "format"), _inner(body, "reasoning", "effort")
        structured = isinstance(text_format, dict) and text_format.get("type") == "json_schema"
        return cls(
            streams=body.get("stream") is True,
            model=sys.intern(str(body.get("model", ""))),
            format=text_format if structured else None,
            effort=None if effort is None else sys.intern(str(effort)),
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

    Raises:
        BadInput: a field that is not the user's to set, one that is set twice, or a value that
            JSON can't hold.
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
    given: dict[str, object] = {
        "reasoning.effort": effort,
        "text.verbosity": verbosity,
        "instructions": instructions,
        "max_output_tokens": max_output_tokens,
        "tools": tools or None,
    }
    taken = {path for path, value in given.items() if value is not None}
    for path, value in params:
        _set(body, path, value, taken)
    if stream:
        body["stream"] = True
    return Request.of(body, output_type)


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
