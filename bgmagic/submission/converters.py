"""Converters of options: each turns a value from anywhere into a setting.

The value may be text of a header line or of the environment, or an object from Python. A converter
returns the setting or raises `BadInput`, one line that begins with the given label.
"""

from __future__ import annotations

import json
import keyword
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bgmagic.api.words import ENCRYPTED
from bgmagic.errors import BadInput
from bgmagic.text import did_you_mean, kind_of, shown, user_path

Converter = Callable[[Any, str], Any]


def to_string(value: Any, label: str) -> str:
    if not issubclass(type(value), str):  # what only says that it is, JSON does not take
        raise BadInput(f"{label} must be text, not {type(value).__name__}")
    return str.__str__(value)


def to_prompt(value: Any, what: str) -> str:
    if not issubclass(type(value), str):
        raise BadInput(f"the {what} must be text, not {kind_of(value)}")
    return str.__str__(value)


def to_values(value: Any) -> dict[str, Any] | None:
    """The values of ``fill=``, as they are now."""
    from bgmagic.api.request_body import reading

    with reading("fill=", value):
        if value is None:
            return None
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            return dict(value)
    raise BadInput(f"fill= must be a dict with the names in the expressions, not {kind_of(value)}")


def to_word(value: Any, label: str) -> str:
    if not to_string(value, label).strip():
        raise BadInput(f"{label} is empty")
    return str(value).strip()


def to_anything(value: Any, label: str) -> Any:
    return value


def to_several(value: Any, label: str) -> tuple[Any, ...]:
    """One value, or a list or tuple of them."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def to_switch(value: Any, label: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False, "": False}
    found = words.get(str(value).strip().lower())
    if found is None:
        raise BadInput(f"{label} {shown(value)}: allowed are 1 and 0")
    return found


BROWSER = "browser"


def to_notified(value: Any, label: str) -> tuple[Any, ...]:
    """Whom to tell of an end: `BROWSER`, a `Webhook` or what can be called, or several of them."""
    given = value if isinstance(value, list | tuple) else (value,)
    found = (_notified(one, label) for one in given)
    return tuple(one for one in found if one is not None)


def _notified(value: Any, label: str) -> Any:
    # `%load_ext` needs the converters, but none of what few of them need in turn: here and below.
    from bgmagic.api.server import Webhook, read_webhook

    if isinstance(value, Webhook) or callable(value):
        return value
    if isinstance(value, str) and "://" in value:
        return read_webhook(value.strip(), label)
    if isinstance(value, str) and value == BROWSER:
        return BROWSER
    try:
        return BROWSER if to_switch(value, label) else None
    except BadInput:
        raise BadInput(
            f"{label} takes nothing for the browser, $NAME for a function, or an address that "
            f"begins with https://, not {kind_of(value)}"
        ) from None


def to_choice(choices: tuple[str, ...]) -> Converter:
    def read(value: Any, label: str) -> str:
        word = value.strip() if isinstance(value, str) else ""
        if word not in choices:
            near = did_you_mean(word, choices)
            raise BadInput(
                f"{label} {shown(word or value)} is not one of {', '.join(choices)}{near}"
            )
        return word

    return read


def to_identifier(value: Any, label: str) -> str:
    from bgmagic.prompts.expressions import IPYTHON_NAMES

    # As Python itself reads names: µ from a keyboard is another character than its variable.
    name = unicodedata.normalize("NFKC", to_string(value, label))
    if name in IPYTHON_NAMES:
        raise BadInput(f"{label} {shown(name)} is IPython's own; take another name")
    if not name.isidentifier() or keyword.iskeyword(name):
        why = "a Python keyword" if keyword.iskeyword(name) else "no Python name"
        raise BadInput(
            f"{label} {shown(name)} is {why}; use letters, digits and _, as in -o critique"
        )
    return name


def to_path(value: Any, label: str) -> Path:
    """A path, with ``~`` as the home folder; whether it is there is not looked at."""
    if not isinstance(value, str | Path) or not str(value).strip():
        raise BadInput(f"{label} {shown(value)} is no path of a file")
    return user_path(value)


def to_response_id(value: Any, label: str) -> str:
    """An id that can be a part of an address: what it has else would name something else there."""
    found = re.search(r"[\s/\\?#%]|\.\.|[^ -~]", to_string(value, label))
    if found:
        raise BadInput(f"{label} {shown(value)} is no response id: none has {found[0]!r} in it")
    return str(value)


# What random ids have and variables' names mostly don't: much hexadecimal, or a long run of both
# letters and digits.
_RANDOM = re.compile(
    r"(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{8}"
    r"|(?=[0-9A-Za-z]*[A-Za-z])(?=[0-9A-Za-z]*[0-9])[0-9A-Za-z]{20}"
)


def is_like_response_id(text: str) -> bool:
    """Whether ``text``, which names no job, may be an id that a server gave, no mistyped name."""
    return text.startswith(("resp_", "resp-")) or _RANDOM.search(text) is not None


def _whole_number(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool | float) else int(value)
    except (TypeError, ValueError):
        return None


def to_tokens(value: Any, label: str) -> int:
    number = _whole_number(value)
    if number is None:
        raise BadInput(f"{label} {shown(value)} is not a whole number of tokens, as 4000")
    if number < 1:
        raise BadInput(f"{label} {number} is too small; it must be 1 or more")
    return number


def to_count(value: Any, label: str) -> int:
    """A whole number of at least 1."""
    number = _whole_number(value)
    if number is None or number < 1:
        raise BadInput(f"{label} {shown(value)}: it must be a whole number, 1 or more")
    return number


def to_swept(value: Any, label: str) -> tuple[tuple[str, Any], ...]:
    """Read (name, values) pairs, from a dict or from pairs; what the values are is not read yet."""
    return tuple(_pairs(value, label, "a dict of lists of values, with text for keys"))


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def to_interval(value: Any, label: str) -> float:
    seconds = _number(value)
    # Compared so that a NaN fails; the user's specification of the API sets the bound.
    if seconds is None or not 0 < seconds < 90:
        raise BadInput(f"{label} {shown(value)}: it must be seconds, more than 0 and less than 90")
    return seconds


def to_rate(value: Any, label: str) -> float:
    rate = _number(value)
    if rate is None or not 0 < rate < float("inf"):
        raise BadInput(f"{label} {shown(value)}: it must be a number above 0, as 15")
    return rate


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def to_duration(value: Any, label: str) -> float:
    """Seconds, from a number or from text such as 90s, 45m, 12h, 1h30m, 2d."""
    seconds = _number(value)
    if seconds is None and isinstance(value, str):
        parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", value.strip())
        if parts and "".join(n + u for n, u in parts) == value.strip():
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds is None or not 0 < seconds < float("inf"):
        raise BadInput(f"{label} {shown(value)} is no duration; write it as 90s, 45m, 12h or 2d")
    return seconds


def to_pairs(value: Any, label: str) -> tuple[tuple[str, Any], ...]:
    """Read (key, JSON value) pairs, from a dict or from (key, text or value) pairs."""
    pairs = _pairs(value, label, "a dict of body fields, with text for keys")
    return tuple((key, _json_or_text(key, item, label)) for key, item in pairs)


def to_calls(value: Any, label: str) -> str:
    """Calls of functions, as JSON in ASCII, in one line: of JSON text or of a list of dicts."""
    told = """it must be a list like '[{"name": "look_up", "arguments": {"city": "Bern"}}]'"""
    try:
        found = json.loads(value) if isinstance(value, str) else value
        named = isinstance(found, list) and all(
            isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in found
        )
        if found and named:
            return json.dumps(found)
    except (ValueError, TypeError, RecursionError):
        pass
    raise BadInput(f"{label}: {told}")


def to_metadata(value: Any, label: str) -> tuple[tuple[str, str], ...]:
    """Read (key, text) pairs, from a dict, from pairs or from one text KEY=VALUE; the last counts.

    The bounds are those of the API (OpenAPI: Metadata).
    """
    if isinstance(value, str):
        key, _, told = value.partition("=")
        value = ((key, told),) if key and told else value
    found: dict[str, str] = {}
    for key, item in _pairs(value, label, "text by name, as run=pilot or a dict"):
        if not isinstance(item, str | int | float):
            raise BadInput(f"{label} must be text by name, as run=pilot")
        told = str(item) if isinstance(item, str) else json.dumps(item)
        if not 0 < len(key) <= METADATA_KEY or len(told) > METADATA_VALUE:
            raise BadInput(
                f"{label}: a name has at most {METADATA_KEY} characters, a value {METADATA_VALUE}"
            )
        found[key] = told
    if len(found) > METADATA_PAIRS:
        raise BadInput(f"{label}: these are {len(found)}; there can be {METADATA_PAIRS} at most")
    return tuple(found.items())


METADATA_PAIRS, METADATA_KEY, METADATA_VALUE = 16, 64, 512


def _pairs(value: Any, label: str, what: str) -> list[tuple[str, Any]]:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple) or not all(_is_pair(pair) for pair in pairs):
        raise BadInput(f"{label} must be {what}")
    return list(pairs)


def to_included(value: Any, label: str) -> tuple[str, ...]:
    """One name or several, in a text with commas between them."""
    words: list[str] = []
    for one in to_several(value, label):
        words += [word.strip() for word in to_string(one, label).split(",") if word.strip()]
    if not words:
        raise BadInput(f"{label} is empty; it takes a name, as web_search_call.action.sources")
    if ENCRYPTED in words:
        raise BadInput(
            f"{label} {ENCRYPTED}: a background response does not give it; -c keeps the reasoning "
            "at the server"
        )
    return tuple(dict.fromkeys(words))


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)


def _json_or_text(key: str, value: Any, label: str) -> Any:
    if not isinstance(value, LineText):
        return value
    from bgmagic.api.request_body import is_text_field

    try:
        read = json.loads(value, parse_constant=_no_constant)
        return str(value) if is_text_field(key) and isinstance(read, int | float) else read
    except ValueError as error:
        if value[:1] in ("{", "[", '"'):
            raise BadInput(
                f"{label} {key}: {value} is not JSON ({error}); put the pair in single quotes, "
                f"""as in --param '{key}={{"a": "b"}}'"""
            ) from None
    return str(value)


def _no_constant(name: str) -> None:
    # Python reads NaN and Infinity, JSON has neither: such a value stays text.
    raise ValueError(name)


class LineText(str):
    """Text as it stands in a header line, as opposed to a variable's value."""
