"""Validation: a request's fields have types and limits, and are refused by name.

So are windows and tiers that exclude each other, and a tier that is full.

Errors have the shape, the codes and, where it is known, the wording of the API's own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

KINDS = {str: "a string", bool: "a boolean", list: "an array", dict: "an object"}


class BadRequest(Exception):
    """A request that is turned down.

    Attributes:
        status: the HTTP status.
        error: the value of `error` in the reply.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": kind, "param": param, "code": code}


def refuse(message: str, param: str | None = None, code: str | None = None) -> NoReturn:
    """Turns the request down with 400."""
    raise BadRequest(400, message, param=param, code=code)


def number(given: Mapping[str, Any], name: str, most: int, *, default: float) -> float:
    """A number from 0 to `most`."""
    value = given.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        invalid_type(name, "a number", value)
    if not 0 <= value <= most:
        refuse(f"Invalid '{name}': expected a value between 0 and {most}.", name, "invalid_value")
    return float(value)


def integer(text: str, name: str, least: int, most: int) -> int:
    """A whole number from `least` to `most`, 0 or more, out of a query string."""
    value = int(text) if re.fullmatch("[0-9]{1,18}", text) else -1
    if not least <= value <= most:
        refuse(
            f"Invalid '{name}': expected an integer from {least} to {most}, but got '{text[:40]}'.",
            name,
            "invalid_value",
        )
    return value


def only(settings: Mapping[str, Any], where: str, known: Collection[str]) -> None:
    """Refuses any field of `settings` that is not known."""
    for name, value in settings.items():
        if name not in known and value is not None:
            unknown(f"{where}.{name}")


def unknown(path: str) -> NoReturn:
    """Refuses a field the API does not have."""
    shown = path[:80]
    refuse(f"Unknown parameter: '{shown}'.", shown, "unknown_parameter")


def typed(given: Mapping[str, Any], name: str, kind: type, default: Any, where: str = "") -> Any:
    """A field of that type; null counts as left out."""
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        invalid_type(f"{where}.{name}" if where else name, KINDS[kind], value)
    return value


def text(given: Mapping[str, Any], name: str, most: int | None = None) -> str | None:
    """A string of `most` characters at most, or None."""
    value: str | None = typed(given, name, str, None)
    if value is not None and most is not None and len(value) > most:
        refuse(
            f"Invalid '{name}': string too long. Expected at most {most} characters, but got"
            f" {len(value)}.",
            name,
            "string_above_max_length",
        )
    return value


def whole(given: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    """An integer from `least` to `most`, or None."""
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        invalid_type(name, "an integer", value)
    if not least <= value <= most:
        allowed = f"from {least} to {most}" if least < most else f"{least}"
        refuse(f"Invalid '{name}': this server takes {allowed}.", name, "invalid_value")
    return value


def choice(
    given: Mapping[str, Any],
    name: str,
    choices: Collection[str],
    default: str | None,
    where: str = "",
    *,
    needed: bool = True,
) -> Any:
    """One of a few words; without a default it must be there, if it is `needed`."""
    path = f"{where}.{name}" if where else name
    value = given.get(name)
    if value is None:
        if default is None and needed:
            refuse(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
        return default
    if not isinstance(value, str):
        invalid_type(path, "a string", value)
    if value not in choices:
        supported = ", ".join(f"'{word}'" for word in choices)
        refuse(
            f"Invalid value: '{value[:64]}'. Supported values are: {supported}.",
            path,
            "invalid_value",
        )
    return value


def invalid_type(path: str, expected: str, value: Any) -> NoReturn:
    """Refuses a value of the wrong type."""
    got = "null" if value is None else KINDS.get(type(value), "a number")
    refuse(
        f"Invalid type for '{path}': expected {expected}, but got {got} instead.",
        path,
        "invalid_type",
    )


def header_number(
    headers: Mapping[str, str], name: str, allowed: str, fits: Callable[[float], bool]
) -> float | None:
    """A finite number in a header that `fits`; None without the header."""
    text = headers.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not fits(value):
        refuse(
            f"Invalid header '{name}': expected {allowed}, but got '{text[:40]}'.",
            name,
            "invalid_value",
        )
    return value


# How soon a response is to be there, and the seconds that it stays queued here for that.
WINDOWS = {"soonest": 0.0, "2h": 2.0, "8h": 4.0}

# Continuation ids that are remembered.
MAX_CONTINUATIONS = 10_000


def served_tier(given: Mapping[str, Any]) -> str:
    """The tier that serves a request: what it asks for, if the API has a price for it."""
    asked = given.get("service_tier")
    if asked in ("priority", "fast"):
        return "priority"
    return "flex" if asked == "flex" else "default"


def read_background_options(given: Mapping[str, Any]) -> tuple[str, str | None]:
    """The completion window and the continuation id of a create.

    Raises:
        BadRequest: names the field that is wrong.
    """
    where = "background_options"
    options = typed(given, where, dict, {})
    only(options, where, ("completion_window", "continuation_id"))
    window: str = choice(options, "completion_window", tuple(WINDOWS), "soonest", where)
    if WINDOWS[window] and given.get("stream"):
        refuse(f"'{where}.completion_window' of '{window}' can't be streamed.", "stream")
    if WINDOWS[window] and given.get("service_tier") not in (None, "auto", "default"):
        refuse(f"'{where}.completion_window' needs standard processing.", "service_tier")
    return window, typed(options, "continuation_id", str, None, where)


@dataclass(frozen=True)
class ScriptedCall:
    """A call of a function that a response is told to make: its name, and arguments as JSON."""

    name: str
    arguments: str

    def item(self, seed: str, number: int) -> dict[str, Any]:
        """It as an item of the output; ``seed`` is in no other response's ids."""
        key = f"{seed}{number:08x}"
        fields = {"call_id": f"call_{key[-24:]}", "name": self.name, "arguments": self.arguments}
        return {"id": f"fc_{key}", "type": "function_call", **fields, "status": "completed"}


def read_calls(header: str | None) -> tuple[ScriptedCall, ...] | None:
    """The calls that a create's header scripts; None without one.

    Raises:
        BadRequest: it is no JSON list of objects with a name.
    """
    if header is None:
        return None
    try:
        found = json.loads(header)
        given = [(str(one["name"]), one.get("arguments", {})) for one in found]
        return tuple(
            ScriptedCall(name, arguments if isinstance(arguments, str) else json.dumps(arguments))
            for name, arguments in given
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        refuse('The calls must be a JSON list like [{"name": "look_up", "arguments": {}}].')


def without_calls(body: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A body in which calls and their outputs are messages, as the small model reads them, and
    whether it has outputs."""
    items = body.get("input")
    if not isinstance(items, list):
        return body, False
    given = [item if isinstance(item, dict) else {} for item in items]
    answered = any(item.get("type") == "function_call_output" for item in given)
    told = [_as_message(new, old) for new, old in zip(given, items, strict=True)]
    return body | {"input": [item for item in told if item is not None]}, answered


def _as_message(item: dict[str, Any], given: Any) -> Any:
    if item.get("type") == "function_call_output":
        said = f"A function found out: {item.get('output')}"
        return {"role": "user", "content": said}
    return None if item.get("type") == "function_call" else given


class Processing:
    """What the server keeps of the windows and tiers that were asked for."""

    def __init__(self) -> None:
        self._continuations: set[str] = set()
        self._full = False

    def queue(self, window: str, continuation_id: str | None) -> float:
        """Seconds that a response in a window stays queued: half as long for a follow-up."""
        seconds, follows = WINDOWS[window], continuation_id in self._continuations
        if continuation_id and len(self._continuations) < MAX_CONTINUATIONS:
            self._continuations.add(continuation_id)
        return seconds / 2 if follows else seconds

    def refuse_every_other(self, tier: object) -> None:
        """Raises a BadRequest for every other response in the flex tier."""
        if tier == "flex":
            self._full = not self._full
            if self._full:
                problem = "Resource unavailable: there is no room in the flex tier now."
                raise BadRequest(429, problem, code="resource_unavailable")
