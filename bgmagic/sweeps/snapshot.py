"""What of a large sweep may be rendered after its cell has returned: values that nothing changes.

Plain values (text, numbers, dates, and lists and dicts of them, the rows of a table) are copied,
so that what the notebook does to them later makes no difference. Others, such as objects of the
user's own classes, are rendered in the cell.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
import functools
import itertools
import pickle
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from bgmagic.errors import BadInput
from bgmagic.jobs.job import Answer
from bgmagic.prompts.items import TableRows, rows_of
from bgmagic.sweeps.grid import MOST_ITEMS, ItemRow, Items, items_of, row_of

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
    """Items of which dicts are rows, made when they are looked at."""

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
    found = _quickly(given, label)
    if found is not None:
        return found
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
