"""A value of the notebook as text that a model reads well: whole and unambiguous, or refused.

Text goes in as it is. Tables become CSV; lists of short values one line each; lists of longer texts
numbered items; whatever else has parts becomes JSON. What has no whole text is refused in one line
that names the way out. Users teach their own types with ``@bgmagic.to_text.register``.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import functools
import itertools
import json
import math
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView, Sequence, Set, Sized
from typing import Any, cast

from bgmagic.errors import BadInput, public
from bgmagic.prompts.arrays import (
    MOST_CELLS,
    MOST_TEXT,
    Digits,
    Line,
    Measured,
    check_count,
    check_size,
    counting,
    duration_words,
)
from bgmagic.prompts.libraries import UNREAD, has_whole_text, simplified, typed_array
from bgmagic.prompts.tables import Table, as_csv, each_once, table_of
from bgmagic.text import kind_of, one_line

# Longer items, or those of several lines, are marked off instead of standing in a list.
SHORT = 200
# What is JSON's already; most of what is long holds nothing else.
LEAVES = frozenset({str, int, float, bool, types.NoneType})
# An iterator may be endless; what is longer is no prompt either.
MOST_ITEMS = 1_000_000


class NoText(BadInput):
    """A value, or one within it, has no whole text.

    Attributes:
        why: the reason and the way out.
        place: where within the value, as ``[3].blob``; "" for the value itself.
    """

    def __init__(self, why: str, place: str = "") -> None:
        super().__init__(f"{place}: {why}" if place else why)
        self.why, self.place = why, place

    def within(self, part: str) -> NoText:
        """The same error about a value that contains this one at ``part``."""
        return NoText(self.why, part + self.place)


@public
@functools.singledispatch
def to_text(value: Any) -> str:
    """``value`` as it goes into a prompt.

    - text as it is; numbers and dates as ``str`` gives them, quantities as ``3.5 km``
    - a table or Series (pandas, polars, pyarrow, …) as CSV, its index where that says something
    - a list, tuple or set of short values as lines that begin with ``- ``, of longer texts as
      ``<item 1> … </item 1>``
    - a dict, an array, a dataclass, a Pydantic model, a graph, a list of such as JSON

    Types can be taught: ``@to_text.register`` above a function that takes one of them and gives a
    ``str``. Within lists, dicts and tables it is used, too.

    Raises:
        BadInput: it has no whole text, as functions, images, charts and lazy tables have none.
    """
    try:
        with contextlib.nullcontext() if type(value) in LEAVES else counting():
            return _text(value)
    except RecursionError:
        raise NoText("it holds itself, or too many lists and dicts within each other") from None


def _text(value: Any) -> str:
    passing: Any = isinstance(value, Iterator | MappingView)  # what filters and dicts give
    if passing:
        return _lines(_measured(_listed(value)))
    table = _table(value)
    if table is not None and (table.header() or table.index or not table.is_column):
        return as_csv(table, _words)
    plain = _measured(_plain(value))
    as_list = table is not None or isinstance(value, Sequence | Set)
    if isinstance(plain, list) and as_list:
        return _lines(plain)
    return _json(plain) if isinstance(plain, list | dict) else _word(plain)


_BUILT_IN = to_text.dispatch(object)


def _taught(value: Any) -> str | None:
    """What a function that the user registered says of it."""
    if len(to_text.registry) == 1:
        return None
    said = to_text.dispatch(type(value))
    if said is _BUILT_IN and type(value).__module__ != "builtins":
        said = _taught_by_name(type(value))
    if said is _BUILT_IN:
        return None
    text = said(value)
    if not isinstance(text, str):
        raise NoText(f"to_text of {kind_of(value)} gave {kind_of(text)}; it must give a str")
    return text


def _taught_by_name(of: type[Any]) -> Callable[[Any], str]:
    """What was registered for an earlier class of this name. A cell that is run again, or a module
    that is reloaded (`%autoreload`), makes another class that means the same."""
    named = {(kind.__module__, kind.__qualname__): said for kind, said in to_text.registry.items()}
    names = ((kind.__module__, kind.__qualname__) for kind in of.__mro__[:-1])
    # Two that one function makes may share a name by chance.
    same = (name for name in names if name in named and "<locals>" not in name[1])
    return next((named[name] for name in same), _BUILT_IN)


# A value as JSON's: dicts, lists, texts, numbers, None.


def _plain(value: Any) -> Any:
    if type(value) in LEAVES and len(to_text.registry) == 1:
        return value
    taught = _taught(value)
    if taught is not None:
        return taught
    single = _single(value)
    if single is not UNREAD:
        return single
    parts = _parts(value)
    if parts is not UNREAD:
        return parts
    return _own_text(value)


def _single(value: Any) -> Any:
    """The text of a value that is one text or number."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | collections.UserString):
        return value if isinstance(value, Digits) else str(value)
    if isinstance(value, enum.Enum) and not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, decimal.Decimal):
        return Digits(value) if value.is_finite() else str(value)
    if isinstance(value, complex):
        return str(complex(value)).strip("()")
    if isinstance(value, datetime.date | datetime.time) and type(value).__name__ != "NaTType":
        return str(value)
    if isinstance(value, datetime.timedelta) and type(value).__name__ != "Timedelta":
        return duration_words(value // datetime.timedelta(microseconds=1), 10**6)
    if isinstance(value, re.Pattern):  # its repr leaves off what is longer than 200 characters
        return _plain(value.pattern)
    return UNREAD


def _parts(value: Any) -> Any:
    """The parts of a value, or the simpler value that it stands for."""
    if isinstance(value, Line):
        return Line(_list(value))
    if isinstance(value, Measured):
        return f"{_word(_plain(value.number))} {value.unit}".strip()
    known = _step(value)
    if known is not UNREAD:
        return known
    named = _fields(value)
    if named is not None:
        numbers = typed_array(named)
        if numbers is not UNREAD:
            return _plain(numbers)
        return _dict(named, attributes=not isinstance(value, Mapping))
    if isinstance(value, Set):
        members: Any = value
        return sorted(_list(members), key=lambda item: (type(item).__name__, str(item)))
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return _list(value)
    for method in ("tolist", "to_list"):  # array.array, and columns of libraries not known here
        if callable(getattr(type(value), method, None)):
            return _list(getattr(value, method)())
    return UNREAD


def _step(value: Any) -> Any:
    if type(value).__module__ == "builtins":
        return UNREAD
    table = _table(value)
    if table is not None:
        return _plain(table.parts()) if table.is_column else as_csv(table, _words)
    try:
        simpler = UNREAD if isinstance(value, type) else simplified(value)
    except Exception as error:
        raise _unreadable(value, error) from None
    return simpler if simpler is UNREAD else _plain(simpler)


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """The parts of a value that have names."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    if callable(getattr(type(value), "model_dump", None)):  # Pydantic, which knows what is left out
        dumped = _dumped(value)
        return dict(dumped) if isinstance(dumped, Mapping) else {"root": dumped}
    if isinstance(value, tuple):
        names = getattr(value, "_fields", None)
        if names is None and hasattr(type(value), "n_sequence_fields"):
            return _struct_sequence(value)
        return None if names is None else dict(zip(names, value, strict=True))
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(type(value), "__attrs_attrs__"):
        return {field.name: getattr(value, field.name) for field in value.__attrs_attrs__}
    if hasattr(type(value), "__struct_fields__"):  # msgspec
        return {name: getattr(value, name) for name in value.__struct_fields__}
    if isinstance(value, types.SimpleNamespace) or type(value).__module__ == "argparse":
        return dict(vars(value))
    if type(value).__module__ == "sqlite3" and hasattr(value, "keys"):
        return dict(zip(each_once(value.keys()), value, strict=True))
    return None


def _dumped(model: Any) -> Any:
    try:
        # Else what a subclass adds to the class that a field is declared with would be left out.
        # `serialize_as_any` leaves out serializers instead, which may hide or shorten something.
        return model.model_dump(polymorphic_serialization=True)
    except TypeError:  # Pydantic before 2.13, or a model_dump of one's own
        return model.model_dump()


def _struct_sequence(value: Any) -> dict[str, Any]:
    """The fields of os.stat_result and its kin, also those that are no part of the tuple."""
    _, (shown, further) = value.__reduce__()
    names: tuple[str, ...] = type(value).__match_args__
    return {**dict(zip(names, shown, strict=False)), **further}


def _dict(named: Mapping[Any, Any], *, attributes: bool) -> dict[str, Any]:
    keys = list(_bounded(named))
    names = [_key(key) for key in keys]
    if len(set(names)) < len(names):  # 1 and "1" are two
        names = [repr(key) if isinstance(key, str) else _key(key) for key in keys]
    parts = {}
    for name, key in zip(names, keys, strict=True):
        try:
            parts[name] = _plain(named[key])
        except NoText as error:
            as_name = isinstance(key, str) and key.isidentifier()
            raise error.within(f".{name}" if as_name or attributes else f"[{key!r}]") from None
        if isinstance(parts[name], dict) and type(named[key]).__name__ == "Series":
            parts[name] = _without_name(parts[name], key)
    return parts


def _without_name(parts: dict[str, Any], key: Any) -> Any:
    """A Series under its own name, as in ``{"price": table.price}``, says the name once."""
    return parts[key] if list(parts) == [key] and isinstance(parts[key], list | dict) else parts


def _key(key: Any) -> str:
    plain = _plain(key)
    return _compact(plain) if isinstance(plain, list | dict) else _word(plain)


def _list(values: Iterable[Any]) -> list[Any]:
    if (
        isinstance(values, list)
        and len(to_text.registry) == 1
        and LEAVES.issuperset(map(type, values))
    ):
        _bounded(values)
        return values
    parts = []
    for number, value in enumerate(_bounded(values)):
        try:
            parts.append(_plain(value))
        except NoText as error:
            raise error.within(f"[{number}]") from None
    return parts


def _bounded(values: Iterable[Any]) -> Iterator[Any]:
    """``values``, unless they are more than a prompt holds, or never end."""
    try:
        if isinstance(values, Sized):
            check_count(len(values))
    except BadInput as error:
        raise NoText(str(error)) from None
    return _ended(iter(values))


def _ended(values: Iterator[Any]) -> Iterator[Any]:
    yield from itertools.islice(values, MOST_CELLS)
    for _ in values:
        raise NoText(f"it gives more than {MOST_CELLS:,} values, or never ends")


def _listed(value: Iterable[Any]) -> list[Any]:
    items = list(itertools.islice(value, MOST_ITEMS + 1))
    if len(items) > MOST_ITEMS:
        raise NoText(f"it gives more than {MOST_ITEMS:,} items, or never ends")
    return _list(items)


def _own_text(value: Any) -> str:
    """What ``str`` says, where that is the whole value."""
    whole = not isinstance(value, type | bytes | bytearray | memoryview) and has_whole_text(value)
    # Functions have none; symbols of sympy can be called, too.
    if whole and (not callable(value) or type(value).__module__.startswith("sympy.")):
        text, own = str(value), cast("Any", type(value)).__str__ is not object.__str__
        # Images, modules, coroutines: what Python itself shows of them tells a model nothing.
        if own or not re.fullmatch("<.*>", text, re.DOTALL):
            return text
    if isinstance(value, bytes | bytearray | memoryview):
        raise NoText(f"{kind_of(value)} has no text of its own; turn it into text first: .decode()")
    if whole or callable(value):
        raise NoText(f"{kind_of(value)} has no text of its own; turn it into text first")
    raise NoText(
        f"{kind_of(value)} has no text that is surely whole; put in str() of it if that is, "
        "or teach bgmagic.to_text its class"
    )


# Tables.


def _table(value: Any) -> Table | None:
    if type(value).__module__ == "builtins":
        return None
    try:
        check_size(value)
        return table_of(value)
    except Exception as error:
        raise _unreadable(value, error) from None


def _unreadable(value: Any, error: Exception) -> Exception:
    """What its library failed with, in one line: it may have no values, or find no memory."""
    if isinstance(error, RecursionError):
        return error
    about = f"{kind_of(value)} can't be read: {type(error).__name__}: {error}"
    return NoText(str(error) if isinstance(error, BadInput) else one_line(about, 250))


def _words(label: Any, cells: Sequence[Any]) -> list[str | None]:
    words: list[str | None] = []
    try:
        for cell in cells:
            words.append(None if cell is None else _cell(_plain(cell)))
        _measured(words)
    except NoText as error:
        name = f".{label}" if str(label).isidentifier() else f"[{label!r}]"
        raise error.within(f"{name}[{len(words)}]") from None
    return words


def _cell(plain: Any) -> str | None:
    if plain is None:
        return None
    return _compact(plain) if isinstance(plain, list | dict) else _word(plain)


# Text.


def _measured(plain: Any) -> Any:
    """``plain``, unless its texts are more than a prompt holds: many may be the same one, which
    memory has once."""
    _room_after(plain, MOST_TEXT)
    return plain


def _room_after(plain: Any, room: int) -> int:
    if isinstance(plain, str):
        room -= len(plain)
    elif isinstance(plain, list) and LEAVES.issuperset(map(type, plain)):
        room -= sum(len(text) for text in plain if type(text) is str)
    elif isinstance(plain, dict | list):
        for part in plain.values() if isinstance(plain, dict) else plain:
            room = _room_after(part, room)
    if room < 0:
        most = MOST_TEXT // 10**6
        raise NoText(f"it is more than {most} MB of text; a prompt holds at most {most}")
    return room


def _word(plain: Any) -> str:
    return plain if type(plain) is str else str(plain)


def _lines(items: list[Any]) -> str:
    if any(isinstance(item, list | dict) for item in items):
        return _json(items)
    texts = [_word(item) for item in items]
    if any("</item " in text for text in texts):  # which would end an item before its end
        return _json(items)
    if all(len(text) <= SHORT and text.splitlines() == [text] for text in texts):
        return "\n".join(f"- {text}" for text in texts)
    marked = (f"<item {n}>\n{text}\n</item {n}>" for n, text in enumerate(texts, 1))
    return "\n".join(marked)


def _json(plain: Any, indent: str = "") -> str:
    """JSON, indented; a list of numbers, and whatever is a `Line`, on one line."""
    deeper = f"{indent}  "
    if isinstance(plain, dict) and plain:
        parts = [f"{_compact(name)}: {_json(part, deeper)}" for name, part in plain.items()]
    elif isinstance(plain, list) and plain and not isinstance(plain, Line) and not _numbers(plain):
        parts = [_json(part, deeper) for part in plain]
    else:
        return _compact(plain)
    inner = ",\n".join(f"{deeper}{part}" for part in parts)
    return f"{{\n{inner}\n{indent}}}" if isinstance(plain, dict) else f"[\n{inner}\n{indent}]"


def _numbers(items: list[Any]) -> bool:
    return all(isinstance(item, int | float | Digits | None) for item in items)


def _compact(plain: Any) -> str:
    if isinstance(plain, dict):
        return f"{{{','.join(f'{_compact(k)}:{_compact(v)}' for k, v in plain.items())}}}"
    if isinstance(plain, list) and LEAVES.issuperset(map(type, plain)):
        with contextlib.suppress(ValueError):  # NaN, or an infinite number
            return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if isinstance(plain, list):
        return f"[{','.join(map(_compact, plain))}]"
    if isinstance(plain, float) and not math.isfinite(plain):
        # JSON has neither. null would say that there is no value.
        return '"NaN"' if math.isnan(plain) else '"Infinity"' if plain > 0 else '"-Infinity"'
    return str(plain) if isinstance(plain, Digits) else json.dumps(plain, ensure_ascii=False)
