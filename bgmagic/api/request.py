"""Makes the exact JSON body of one POST /responses of settings: `Request`, frozen.

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

from bgmagic.api.redaction import without_secrets
from bgmagic.api.server import ServerConfig
from bgmagic.errors import BadInput
from bgmagic.text import kind_of, one_line

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

VERBOSITIES = ("low", "medium", "high")

TIERS = ("flex", "default", "priority")  # the SDK (3.57) has more, for --param service_tier=

# How soon a background response has to be there: seconds of the windows that cost less, which go
# with the standard tier and without a stream only.
WINDOW_SECONDS = {"2h": 7200.0, "8h": 28800.0}

WINDOWS = ("soonest", *WINDOW_SECONDS)

# Hosted tools that the user names by their type alone.
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

    What is asked of a body again and again is read once: as the request is made, when the body is
    at hand, else when it is first asked for. The body itself is not kept beside its text: with
    files in it, it is large, and of a sweep there are thousands.

    Attributes:
        text: the body as JSON text, exactly as it is sent.
        output_type: the user's class that the answer is to be an object of; no part of the body,
            and not in the journal.
    """

    text: str
    output_type: OutputType = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        body: Mapping[str, Any],
        output_type: OutputType = None,
        *,
        server: ServerConfig | None = None,
        partial: str = "",
    ) -> Request:
        """The request with this body.

        Args:
            server: where it is going to be sent. What sending it needs is worked out now, so that
                the text is not parsed for that.
            partial: what is still to go into the request, as `fingerprint` takes it.

        Raises:
            BadInput: JSON can't hold the body.
        """
        made = cls(_dump(body), output_type)
        try:
            made._learn(body if _is_plain(body) else made.body, server, partial)
        except RecursionError as error:
            raise BadInput(f"the request is nested too deep: {error}") from None
        return made

    def _learn(self, body: Mapping[str, Any], server: ServerConfig | None, partial: str) -> None:
        head = _header(body)
        if head["text_format"] is not None:  # the caller's own, who may change it
            head["text_format"] = json.loads(json.dumps(head["text_format"]))
        self._remember(head)
        if server is not None:
            known = server.name, partial, _fingerprint(body, server.name, partial)
            found = without_secrets(body, server.secrets)[1]
            self._remember({"_print": known, "_searched": (server.secrets, found)})

    @property
    def body(self) -> dict[str, Any]:
        """The body as a new dict, parsed; changing it changes nothing here."""
        body: dict[str, Any] = json.loads(self.text)
        return body

    @property
    def is_empty(self) -> bool:
        """Whether it is not known what was asked: the job was attached by its response id."""
        return self.text == "{}"

    def fingerprint(self, server: str, partial: str = "") -> str:
        """Hash of the server and the body (32 hex digits), equal for requests that ask the same.

        Streaming makes no difference to it.

        Args:
            partial: JSON text of what is still to go into the request, or "".
        """
        known = self.__dict__.get("_print")
        if known is None or known[:2] != (server, partial):
            known = server, partial, _fingerprint(self.body, server, partial)
            self._remember({"_print": known})
        found: str = known[2]
        return found

    def unstreamed(self) -> Request:
        """The same request, but the response is not sent as it is written."""
        body = {key: value for key, value in self.body.items() if key not in _STREAMING}
        return Request.of(body, self.output_type)

    def holds_secret(self, secrets: tuple[str, ...]) -> bool:
        """Whether something has to be taken out of the body before it is written down.

        Args:
            secrets: the configured key and the like.
        """
        known = self.__dict__.get("_searched")
        if known is None or known[0] != secrets:
            known = secrets, without_secrets(self.body, secrets)[1]
            self._remember({"_searched": known})
        return bool(known[1])

    @cached_property
    def streams(self) -> bool:
        """Whether the server is asked to send the response as it is written."""
        return bool(self._read("streams"))

    @cached_property
    def model(self) -> str:
        """The model that was asked for."""
        return str(self._read("model"))

    @cached_property
    def text_format(self) -> dict[str, Any] | None:
        """The JSON schema that was asked for, as ``text.format`` holds it, or None for text."""
        found: dict[str, Any] | None = self._read("text_format")
        return found

    @cached_property
    def include(self) -> tuple[str, ...]:
        """What polls ask for beside the response, as ``include`` asked for it.

        Without the encrypted reasoning: large, of no use here, and the create's own reply has it.
        """
        found: tuple[str, ...] = self._read("include")
        return found

    @cached_property
    def effort(self) -> str | None:
        """The reasoning effort that was asked for, or None for the server's default."""
        found: str | None = self._read("effort")
        return found

    @cached_property
    def window(self) -> str:
        """The completion window that was asked for, or ""."""
        return str(self._read("window"))

    @cached_property
    def tier(self) -> str:
        """The service tier that was asked for, or ""."""
        return str(self._read("tier"))

    @cached_property
    def max_output_tokens(self) -> int | None:
        """The most tokens that the response may have, or None where it is not bounded."""
        found: int | None = self._read("max_output_tokens")
        return found

    def _read(self, name: str) -> Any:
        """The field of this name; all fields of the body's head are known afterwards."""
        found = _header(self.body)
        self._remember(found)
        return found[name]

    def _remember(self, found: Mapping[str, Any]) -> None:
        # In place of the properties of these names. The value is frozen: this changes no answer.
        self.__dict__.update(found)


def _header(body: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of a request again and again, by the names of its properties."""
    text_format, effort = _inner(body, "text", "format"), _inner(body, "reasoning", "effort")
    structured = isinstance(text_format, dict) and text_format.get("type") == "json_schema"
    most = body.get("max_output_tokens")
    return {
        "streams": body.get("stream") is True,
        "model": sys.intern(str(body.get("model", ""))),
        "text_format": text_format if structured else None,
        "effort": None if effort is None else sys.intern(str(effort)),
        "window": sys.intern(str(_inner(body, "background_options", "completion_window") or "")),
        "tier": sys.intern(str(body.get("service_tier") or "")),
        "max_output_tokens": most if isinstance(most, int) else None,
        "include": _included(body.get("include")),
    }


# What JSON gives back as it was; a key of a dict must be a `str` for that, too.
_LEAVES = frozenset({str, int, float, bool, type(None)})


def _is_plain(value: Any) -> bool:
    """Whether parsing the JSON text of ``value`` gives the very same; not so with a tuple in it."""
    kind = type(value)
    if kind in _LEAVES:
        return True
    if kind is dict:
        return all(type(key) is str and _is_plain(part) for key, part in value.items())
    return kind is list and all(map(_is_plain, value))


def _included(given: Any) -> tuple[str, ...]:
    named = given if isinstance(given, list) else ()
    return tuple(
        sys.intern(str(one))
        for one in named
        if isinstance(one, str) and one != "reasoning.encrypted_content"
    )


def _inner(body: Mapping[str, Any], outer: str, inner: str) -> Any:
    found = body.get(outer)
    return found.get(inner) if isinstance(found, dict) else None


def hash_of(value: object) -> str:
    """Hash of a JSON value (32 hex digits), the same in whichever order its keys are."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _fingerprint(body: Mapping[str, Any], server: str, partial: str) -> str:
    asked = {key: value for key, value in body.items() if key != "stream"}
    return hash_of([server, asked, partial] if partial else [server, asked])


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
    server: ServerConfig | None = None,
    partial: str = "",
) -> Request:
    """Make the request that asks ``messages`` with these settings.

    A setting that is None is left out, so that the server's default holds.

    Args:
        messages: the input, each item as the API takes it.
        max_output_tokens: the most tokens the response may have, reasoning included.
        params: further body fields as (dotted path, JSON value).
        stream: whether the response is sent as it is written.
        text_format: ``text.format`` for structured output; None means text.
        output_type: the class that the structured output is read into.
        tools: the hosted tools that the model may use.
        window: the completion window, one of `WINDOWS`.
        continuation_id: common to one conversation's requests in a window, so that a follow-up gets
            a better place in the queue; None makes it of the first message.
        tier: the service tier, one of `TIERS`.
        server: where it is going to be sent, and
        partial: what is still to go into it, where these are known: see `Request.of`.

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
    _to_types_of_api(body)
    _check_window(body)
    if _inner(body, "background_options", "completion_window") and body["input"]:
        own = {"continuation_id": continuation_id or hash_of(body["input"][0])}
        body["background_options"] = own | body["background_options"]  # may be the user's own dict
    return Request.of(body, output_type, server=server, partial=partial)


# Fields that are text: a number that stands there is meant as its digits.
_TEXTS = ("prompt_cache_key", "safety_identifier", "user")


def is_text_field(path: str) -> bool:
    """Whether the API takes nothing but text at the dotted ``path`` of a body."""
    return path in _TEXTS or path.startswith("metadata.")


def _to_types_of_api(body: dict[str, Any]) -> None:
    """Give fields of the body the types without which the API refuses them.

    Raises:
        BadInput: the metadata can't be sent.
    """
    for name in _TEXTS:
        if name in body:
            body[name] = _as_text(body[name])
    if isinstance(body.get("include"), str):
        body["include"] = [body["include"]]
    if isinstance(body.get("metadata"), dict):
        metadata = {str(key): _as_text(value) for key, value in body["metadata"].items()}
        for key, value in metadata.items():
            if not isinstance(value, str):
                raise BadInput(
                    f"--param metadata.{one_line(key, 80)}: it holds {kind_of(value)}; metadata is "
                    "text by name, of up to 512 characters each"
                )
        body["metadata"] = metadata


def _as_text(value: Any) -> Any:
    """A number or a truth value as JSON writes it; anything else as it is."""
    return json.dumps(value) if isinstance(value, int | float) else value


def _check_window(body: Mapping[str, Any]) -> None:
    """Raises a BadInput where the API would refuse what is asked in this window."""
    window = str(_inner(body, "background_options", "completion_window"))
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
    """Check that ``text`` can be sent and stored.

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
