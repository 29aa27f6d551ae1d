"""Makes the exact JSON body of one POST /responses of settings.

Every body is a background request, or a line of a batch, whose output is text, plain or structured.
What is in `FORBIDDEN` is never in a body: background mode can't be combined with `store`, and
whether a job streams is not the user's field.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bgmagic.api.redaction import secrets_of
from bgmagic.api.request import (
    OutputType,
    Previous,
    Request,
    check_text,
    fingerprinted,
    hash_of,
    inner_field,
)
from bgmagic.api.server import ServerConfig
from bgmagic.api.words import WINDOW_SECONDS
from bgmagic.errors import BadInput
from bgmagic.text import kind_of, one_line, unreadable

FORBIDDEN: Mapping[str, str] = {
    "store": "it can't be given with background mode",
    "background": "it is always true here",
    "stream": "that is what --stream is for",
    "input": "the input is the cell, with --messages before it",
}


# Fields that name turns which the server has already.
_TURNS = frozenset({"conversation", "previous_response_id"})


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
    batch: bool = False,
    summary: str | None = None,
    mode: str | None = None,
    max_tool_calls: int | None = None,
    include: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    cache_key: str | None = None,
    previous: Previous | None = None,
    functions: Mapping[str, Any] | None = None,
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
        batch: whether it is for a line of a batch, which knows no background mode.
        summary: how much the model tells of its reasoning, one of `SUMMARIES`.
        mode: how it reasons, one of `MODES`.
        max_tool_calls: calls of the server's own tools in one response, at most.
        include: what the response is to have beside what it always has.
        metadata: text by name, kept with the response.
        cache_key: ``prompt_cache_key``, common to requests whose beginnings are the same.
        previous: what the server has already of ``messages``, where nothing in ``params`` says so.
        functions: the user's functions among ``tools``, by name.
        server: where it is going to be sent, and
        partial: what is still to go into it, where these are known: see `Request.of`.

    Raises:
        BadInput: a field that is not the user's to set, one that is set twice, settings that
            exclude each other, or a value that JSON can't hold.
    """
    body: dict[str, Any] = {"model": model, "input": list(messages)}
    if not batch:
        body["background"] = True
    body["text"] = {"format": {"type": "text"} if text_format is None else dict(text_format)}
    fields = {
        "text.verbosity": verbosity,
        "reasoning.effort": effort,
        "reasoning.summary": summary,
        "reasoning.mode": mode,
        "instructions": instructions,
        "max_output_tokens": max_output_tokens,
        "tools": list(tools) or None,
        "background_options.completion_window": window,
        "service_tier": tier,
        "max_tool_calls": max_tool_calls,
        "include": list(dict.fromkeys(include)) or None,
        "prompt_cache_key": cache_key,
    }
    given = {path: value for path, value in fields.items() if value is not None}
    for path, value in given.items():
        outer, _, inner = path.partition(".")
        if inner:
            body.setdefault(outer, {})[inner] = value
        else:
            body[path] = value
    if metadata:
        body["metadata"] = dict(metadata)
    taken = {*given, *(f"metadata.{key}" for key in metadata or {})}
    for path, value in params:
        _set(body, path, plain_json(value, f"--param {path}"), taken)
    if stream:
        body["stream"] = True
    _to_types_of_api(body)
    _check_window(body)
    if inner_field(body, "background_options", "completion_window") and body["input"]:
        own = {"continuation_id": continuation_id or hash_of(body["input"][0])}
        body["background_options"] = own | body["background_options"]  # may be the user's own dict
    if body.keys() & _TURNS:
        previous = None
    return Request.of(
        body,
        output_type,
        previous=previous,
        functions=functions,
        server=server,
        partial=partial,
    )


_PLAIN = json.JSONEncoder(ensure_ascii=False)


class RequestTemplate:
    """A request body with a place for the prompt's text: its requests are those that `Request.of`
    makes of whole bodies, at a tenth of the time."""

    def __init__(self, made: Request, mark: str, server: ServerConfig) -> None:
        """Make it of a request to ``server`` whose prompt is ``mark``.

        Raises:
            ValueError: the prompt does not stand in one place.
        """
        quoted = json.dumps(mark)
        body = made.body
        if inner_field(body, "background_options", "completion_window"):
            raise ValueError("the place in the window's queue is made of the prompt")
        self._like, self._server = made, server
        self._start, self._end = made.text.split(quoted)
        start, self._print_end = fingerprinted(body, server.name).encode().split(quoted.encode())
        self._print_start = hashlib.blake2b(start, digest_size=16)
        self._secrets = secrets_of(server.secrets)
        self._rest_is_clean = not (
            self._secrets.within_json(made.text) or made.holds_secret(server.secrets)
        )

    def filled(self, text: str) -> Request:
        """The request that asks ``text``.

        Raises:
            BadInput: it can't be sent.
        """
        check_text(text)
        own, like, secrets = _PLAIN.encode(text), self._like, self._server.secrets
        made = Request(f"{self._start}{own}{self._end}", like.output_type, None, like.functions)
        printed = self._print_start.copy()
        printed.update(json.dumps(text).encode() + self._print_end)
        clean = self._rest_is_clean and not self._secrets.within_json(own)
        made.learn_as(like, printed.digest(), (secrets, False) if clean else None)
        return made


def check_no_turns(params: Iterable[tuple[str, Any]]) -> None:
    """Refuse turns that ``params`` have the server put before those of ``--continue``: it would
    have them twice.

    Raises:
        BadInput: names the field.
    """
    for path, _ in params:
        key = path.partition(".")[0]
        if key in _TURNS:
            raise BadInput(
                f"--param {key} and --continue both give the turns before; give one of them"
            )


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
    window = str(inner_field(body, "background_options", "completion_window"))
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


# What the user gives, which may be any object.


@contextlib.contextmanager
def reading(label: str, value: object) -> Iterator[None]:
    """Within it, what ``value`` raises when it is looked at is a `BadInput` about ``label``."""
    try:
        yield
    except BadInput:
        raise
    except RecursionError:
        raise BadInput(
            f"{label} holds itself without end, or too many lists and dicts within each other"
        ) from None
    except Exception as error:
        raise BadInput(unreadable(label, value, error)) from None


MOST_PARTS = 1_000_000  # of one list or dict

_SINGLE = frozenset({str, int, bool, type(None)})


def plain_json(value: Any, label: str) -> Any:
    """``value`` as JSON's own types, whatever lists, mappings and kinds of text it is of.

    Raises:
        BadInput: JSON can't hold it; the line begins with ``label`` and names the place.
    """
    with reading(label, value):
        return _plain_json(value, label)


def _plain_json(value: Any, place: str) -> Any:
    kind = type(value)
    if kind in _SINGLE:
        return value
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        if math.isfinite(value):
            return float.__float__(value)
        raise BadInput(f"{place}: JSON has no {float.__repr__(value)}")
    if isinstance(value, Mapping):
        return {
            _key(key, place): _plain_json(value[key], f"{place}.{key}")
            for key in _few(value, place)
        }
    if isinstance(value, list | tuple):
        parts = enumerate(_few(value, place))
        return [_plain_json(part, f"{place}[{number}]") for number, part in parts]
    raise BadInput(f"{place}: JSON can't hold {kind_of(value)}; it has text, numbers, lists, dicts")


def _key(key: Any, place: str) -> Any:
    if isinstance(key, str):
        return str.__str__(key)
    if not isinstance(key, int | float | None):
        raise BadInput(f"{place}: {kind_of(key)} can't be a key in JSON, write a text")
    return key  # JSON has its digits


def _few(parts: Iterable[Any], place: str) -> list[Any]:
    few = list(itertools.islice(parts, MOST_PARTS + 1))
    if len(few) > MOST_PARTS:
        raise BadInput(f"{place}: it has more than {MOST_PARTS:,} parts, or never ends")
    return few
