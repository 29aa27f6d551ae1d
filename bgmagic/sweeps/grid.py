"""Reads the items and settings of a sweep, and combines them with its samples."""

from __future__ import annotations

import datetime
import decimal
import fractions
import functools
import itertools
import json
import math
import numbers
import pickle
import uuid
from collections.abc import Callable, Iterable, Mapping, MappingView, Sequence, Set, Sized
from dataclasses import replace
from typing import Any, TypeVar

from bgmagic.api.request_body import reading
from bgmagic.errors import BadInput
from bgmagic.jobs.job import Answer
from bgmagic.prompts.items import TableRows, as_record, rows_of
from bgmagic.submission.options import read_option
from bgmagic.submission.settings import SubmitSettings
from bgmagic.text import did_you_mean, kind_of, one_line
from bgmagic.values import dataclass

# Settings that a job can have of its own; everything else is one for the whole sweep.
SWEPT = (
    "model", "effort", "verbosity", "summary", "mode", "instructions", "max_output_tokens",
    "max_tool_calls",
)  # fmt: skip

MOST_ITEMS = 200_000  # an iterator may be endless

MOST_JOBS = 1_000_000  # of one sweep: each item with each setting, so many times

KEPT_ITEM = 2000  # characters of JSON; a longer item is kept as the beginning of its text

T = TypeVar("T")

Axes = tuple[tuple[str, tuple[Any, ...]], ...]


class ItemRow(dict[str, Any]):
    """A row of a table, or a dict among the items: ``{{ item.count }}`` is its column ``count``."""

    def __getattribute__(self, name: str) -> Any:
        # Columns come first: else `count`, `items` and `values` were a dict's methods.
        if not name.startswith("__") and dict.__contains__(self, name):
            return dict.__getitem__(self, name)
        return super().__getattribute__(name)


class LazyList(Sequence[T]):
    """A sequence whose members are made when they are looked at."""

    def __init__(self, size: int, get: Callable[[int], T]) -> None:
        """Make it of ``size`` members; ``get`` makes the one at an index."""
        self._size = size
        self._get = get

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._get(at) for at in range(*index.indices(self._size))]
        return self._get(range(self._size)[index])


@dataclass(frozen=True)
class Items:
    """The items of `--each`.

    Attributes:
        kind: "list", "dict" or "rows"; "" for the one nameless item of a sweep without `--each`.
        values: the items, in order.
        keys: their keys in a dict; empty otherwise.
        settled: whether nothing that happens later can change them.
    """

    kind: str = ""
    values: Sequence[Any] = (None,)
    keys: tuple[Any, ...] = ()
    settled: bool = False


@dataclass(frozen=True)
class SweepPoint:
    """One job of a sweep.

    Attributes:
        item: which item, by its number.
        swept: the swept settings of this job, by name.
        settings: how it is sent.
        sample: which of the samples of the same request it is, from 0.
    """

    item: int
    swept: tuple[tuple[str, Any], ...]
    settings: SubmitSettings
    sample: int


def items_of(given: object, label: str) -> Items:
    """What ``given`` has to go over: a list, a dict, a Series, the rows of a table.

    Raises:
        BadInput: it is none of these, or empty.
    """
    items = _items_of(given, label)
    if not items.values:
        raise BadInput(f"{label}: it is empty, so there is nothing to ask")
    return items


def _items_of(given: Any, label: str) -> Items:
    keyed = _keyed(given, label)
    if keyed is not None:
        return keyed
    unordered = isinstance(given, Set) and not isinstance(given, MappingView)
    if isinstance(given, str | bytes | bytearray) or unordered or not _iterable(given):
        ordered = "; a set has no order: sort it first" if unordered else ""
        raise BadInput(
            f"{label} must be a list, a dict, a Series or a table, not {kind_of(given)}{ordered}"
        )
    values = _gone_over(given, label, row_of)
    rows = all(isinstance(value, ItemRow) for value in values)
    return Items("rows" if rows else "list", values)


def _gone_over(given: Any, label: str, seen: Any = None) -> tuple[Any, ...]:
    if _is_long(given):
        raise BadInput(f"{label}: it has more than {MOST_ITEMS:,} items")
    try:
        values = tuple(itertools.islice(map(seen, given) if seen else given, MOST_ITEMS + 1))
    except Exception as error:  # a generator of the user's
        about = one_line(f"{type(error).__name__}: {error}", 200)
        raise BadInput(f"{label}: going over it failed with {about}") from None
    if len(values) > MOST_ITEMS:
        raise BadInput(f"{label}: it has more than {MOST_ITEMS:,} items, or never ends")
    return values


def _is_long(given: Any) -> bool:
    """Whether it says so itself: a tensor of torch makes all of its rows before it gives one."""
    try:
        return isinstance(given, Sized) and len(given) > MOST_ITEMS
    except Exception as error:
        return isinstance(error, OverflowError)


def _iterable(given: Any) -> bool:
    # An array without dimensions says that it is, until one tries.
    return isinstance(given, Iterable) and getattr(given, "ndim", 1) != 0


def _keyed(given: Any, label: str) -> Items | None:
    """What a dict, a Series or a table has to go over, else None."""
    try:
        rows = rows_of(given)
    except BadInput as error:
        raise BadInput(f"{label}: {error}") from None
    if rows is None:
        return None
    found = list(rows)
    keys, values = tuple(key for key, _ in found), tuple(row_of(value) for _, value in found)
    if rows.kind == "rows":
        return Items("rows", values)
    # An index may have a label several times; a group of answers can't.
    once = None not in keys and len(set(keys)) == len(keys)
    return Items("dict", values, keys) if once else Items("list", values)


def row_of(value: Any) -> Any:
    """An item as expressions see it: a dict by columns as a row."""
    named = value if isinstance(value, dict) else as_record(value)
    if named is None or not all(isinstance(key, str) for key in named):
        return value
    return ItemRow(named)


def read_axes(pairs: Any, label: str) -> Axes:
    """Read the settings to be swept and the values of each, as the option of that name reads them.

    Args:
        pairs: (name, values) pairs, the values as a sequence or as text with commas or a JSON list.

    Raises:
        BadInput: a name that can't be swept, or a value that the option does not take.
    """
    axes: dict[str, tuple[Any, ...]] = {}
    for name, given in pairs.items() if isinstance(pairs, Mapping) else pairs:
        where = f"{label} {name}"
        if name in axes:
            raise BadInput(f"{where}: it is there twice; give all its values once, as {name}=a,b")
        values = _values(given, where, as_text=name in SWEPT)
        if name in SWEPT:
            values = tuple(read_option(SubmitSettings, name, value, where) for value in values)
        elif "." not in name:
            _check_field(name, where)
        if not values:
            raise BadInput(f"{where}: it has no values; write {name}=a,b")
        if len({json.dumps(value, default=str) for value in values}) < len(values):
            raise BadInput(f"{where}: a value is there twice; --n asks the same several times")
        axes[name] = values
    return tuple(axes.items())


def _check_field(name: str, where: str) -> None:
    near = did_you_mean(name, SWEPT)
    ours = name in SubmitSettings.__dataclass_fields__
    if near or ours:
        words = ", ".join(SWEPT)
        raise BadInput(f"{where} can't be swept{near}: {words}, or a request field as with --param")


def _values(given: Any, where: str, *, as_text: bool) -> tuple[Any, ...]:
    if isinstance(given, str):
        if given.lstrip().startswith("["):
            try:
                return tuple(json.loads(given))
            except ValueError as error:
                raise BadInput(f"{where}: {given} is no JSON list ({error})") from None
        words = [word.strip() for word in given.split(",") if word.strip()]
        return tuple(words if as_text else map(_json_or_text, words))
    if isinstance(given, Iterable) and not isinstance(given, bytes | Mapping | Set):
        return _gone_over(given, where)
    raise BadInput(f"{where}: give a list of values, not {kind_of(given)}")


def _json_or_text(word: str) -> Any:
    try:
        value = json.loads(word)
    except ValueError:
        return word
    return word if isinstance(value, float) and value != value else value


def grid(settings: SubmitSettings, items: int, axes: Axes, samples: int) -> Sequence[SweepPoint]:
    """Combine all, in order: item by item, setting by setting, sample by sample.

    Raises:
        BadInput: they are too many to be gone through, as by a slip of the keyboard.
    """
    size = math.prod((items, samples, *(len(values) for _, values in axes)))
    if size > MOST_JOBS:
        raise BadInput(f"these would be {size:,} jobs, and one sweep has at most {MOST_JOBS:,}")
    kinds = [(swept, _with(settings, swept)) for swept in _combinations(axes)]

    def point(index: int) -> SweepPoint:
        rest, sample = divmod(index, samples)
        item, kind = divmod(rest, len(kinds))
        return SweepPoint(item, *kinds[kind], sample)

    return LazyList(size, point)


def _combinations(axes: Axes) -> list[tuple[tuple[str, Any], ...]]:
    names = [name for name, _ in axes]
    combined = itertools.product(*(values for _, values in axes))
    return [tuple(zip(names, values, strict=True)) for values in combined]


def _with(settings: SubmitSettings, swept: Sequence[tuple[str, Any]]) -> SubmitSettings:
    own = {name: value for name, value in swept if name in SWEPT}
    fields = tuple((name, value) for name, value in swept if name not in SWEPT)
    return replace(settings, **own, param=(*settings.param, *fields))


def json_copy(value: Any) -> Any:
    """An item, or its key, as far as it is worth keeping in JSON; a missing value is None."""
    short = type(value) is str and len(value) < KEPT_ITEM / 6  # each character may become six
    if short or (type(value) is int and abs(value) < 2**63):
        return value  # as JSON gives it back
    if _missing(value):
        return None
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError):
        text = ""
    if text and len(text) <= KEPT_ITEM:
        return json.loads(text)
    return _shortened(value)


def _missing(value: Any) -> bool:
    """Whether it is NaN, or a date or time that is none: those alone differ from themselves; or
    pandas' NA, which can't tell."""
    if isinstance(value, str | Mapping | Sequence):
        return False
    if type(value).__name__ == "NAType":
        return True
    try:
        if hasattr(type(value), "shape") and value.shape:
            return False  # an array would be compared where it lies, into another as large
        return bool(value != value)
    except Exception:  # an array has no one truth
        return False


def _plain(value: Any) -> Any:
    """Convert a value that JSON has not: NumPy's numbers to numbers, everything else to text."""
    if _missing(value):
        return None
    item = getattr(value, "item", None)
    return item() if isinstance(value, numbers.Number) and callable(item) else _text(value)


def _text(value: Any) -> str:
    try:
        return repr(value) if isinstance(value, bytes | bytearray) else str(value)
    except Exception:  # as of an array of JAX that was donated
        return kind_of(value)


def _shortened(value: Any) -> Any:
    if isinstance(value, ItemRow):
        return {name: json_copy(part) for name, part in dict.items(value)}
    text = _text(value)
    return text if len(text) <= KEPT_ITEM else f"{text[:KEPT_ITEM]}…"


# Copies, for what is rendered after its cell has returned: plain values (text, numbers, dates,
# lists and dicts of them, the rows of a table), which nothing done later changes then.
# Others, such as objects of the user's own classes, are rendered in the cell.

_DEEP = 6  # lists within lists within …; a list may hold itself

# What can't be changed. Subclasses count where they are of a library: a user's own may run code.
_UNCHANGING = (
    str, int, float, complex, bytes, type(None), decimal.Decimal, fractions.Fraction, uuid.UUID,
    datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo,
)  # fmt: skip

_LIBRARIES = frozenset({"builtins", "datetime", "decimal", "fractions", "numpy", "pandas", "uuid"})


@functools.lru_cache(maxsize=256)
def _is_unchanging(kind: type) -> bool:
    if kind is Answer:
        return True
    of_library = kind.__module__.partition(".")[0] in _LIBRARIES
    missing = kind.__name__ in ("NAType", "NaTType")
    scalar = kind.__module__ == "numpy" and kind.__name__.rstrip("_").startswith(
        ("bool", "int", "uint", "float", "str", "datetime64", "timedelta64")
    )
    return of_library and (missing or scalar or issubclass(kind, _UNCHANGING))


def _changing(values: Iterable[Any]) -> set[type]:
    return {kind for kind in set(map(type, values)) if not _is_unchanging(kind)}


def is_plain(values: Sequence[Any], deep: int = _DEEP) -> bool:
    """Whether all ``values`` are plain: by their very types, and looked at all together, since
    there may be a hundred thousand of them."""
    kinds = _changing(values)
    if not kinds:
        return True
    if deep == 0 or not kinds <= {dict, ItemRow, list, tuple}:
        return False
    dicts = [value for value in values if isinstance(value, dict)]
    lists = (value for value in values if type(value) is list or type(value) is tuple)
    return not _changing(itertools.chain.from_iterable(dicts)) and is_plain(
        list(itertools.chain(*map(dict.values, dicts), *lists)), deep - 1
    )


def copy_of(values: Sequence[Any]) -> Sequence[Any] | None:
    """``values`` as they are now, whatever is done to them later; None if they are not plain."""
    kinds = _changing(values)
    if not kinds:
        return values
    if not is_plain(values):
        return None
    if set(map(type, values)) == {dict} and not _changing(
        itertools.chain(*map(dict.values, values))
    ):
        return tuple(map(dict.copy, values))
    # Of plain values only, so this runs nobody's code. Quicker than `copy.deepcopy` by far.
    copied: Sequence[Any] = pickle.loads(pickle.dumps(values, pickle.HIGHEST_PROTOCOL))  # noqa: S301
    return copied


class RowsLater(Sequence[Any]):
    """Items whose dicts become rows when they are looked at."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        found = self._values[index]
        return tuple(map(row_of, found)) if isinstance(index, slice) else row_of(found)


def snapshot_of(given: Any, label: str) -> Items:
    """The items of ``--each``; where they can be, as they are now, whatever happens to them later.

    Raises:
        BadInput: as `grid.items_of`.
    """
    with reading(label, given):
        items = _quickly(given, label)
        if items is not None:
            return items
        items = items_of(given, label)
    copied = copy_of(items.values)
    return items if copied is None else replace(items, values=tuple(copied), settled=True)


def _quickly(given: Any, label: str) -> Items | None:
    """The same of the most frequent kinds, without a look at each item by itself; else None."""
    kind = type(given)
    if kind is dict:
        keys = tuple(given)
        usable = 0 < len(keys) <= MOST_ITEMS and None not in keys and is_plain(keys)
        return _snapshot("dict", tuple(given.values()), keys) if usable else None
    if kind in (list, tuple, range):
        return _snapshot("list", tuple(given)) if 0 < len(given) <= MOST_ITEMS else None
    if not hasattr(given, "columns") or not hasattr(given, "shape"):
        return None
    try:
        rows = rows_of(given)
    except BadInput as error:
        raise BadInput(f"{label}: {error}") from None
    if rows is None or not isinstance(rows.values, TableRows):
        return None
    cells = rows.values.cells
    if not 0 < len(cells) <= MOST_ITEMS or not is_plain(cells):
        return None
    if _changing(itertools.chain.from_iterable(cells)):
        rows.values.cells = list(copy_of(cells) or ())
    return Items("rows", RowsLater(rows.values), settled=True)


def _snapshot(kind: str, values: Sequence[Any], keys: tuple[Any, ...] = ()) -> Items | None:
    copied = copy_of(values)
    if copied is None:
        return None
    kinds = set(map(type, copied))
    if dict not in kinds:
        return Items(kind, copied, keys, settled=True)
    rows = kinds == {dict} and set(map(type, itertools.chain.from_iterable(copied))) <= {str}
    return Items("rows" if rows and kind == "list" else kind, RowsLater(copied), keys, settled=True)
