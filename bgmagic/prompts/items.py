"""A value's parts by their names: what ``--each`` goes over, and what ``item.x`` may mean."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from bgmagic.errors import BadInput
from bgmagic.prompts.libraries import refusal
from bgmagic.prompts.tables import Table, root_of, table_of
from bgmagic.values import dataclass


@dataclass(frozen=True)
class Rows:
    """What ``--each`` goes over.

    Attributes:
        kind: "dict" for a dict, "column" for a Series, "rows" for a table.
        keys: the key of each item, in order.
        values: the items in order.
    """

    kind: str
    keys: Sequence[Any]
    values: Sequence[Any]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return zip(self.keys, self.values, strict=True)


class TableRows(Sequence[dict[str, Any]]):
    """The rows of a table as dicts by their columns, each made when it is looked at.

    Attributes:
        cells: the rows as tuples.
    """

    def __init__(self, paths: list[tuple[str, ...]], cells: list[tuple[Any, ...]]) -> None:
        """Make the rows; ``paths`` name each column, with the levels it is in."""
        self._paths = paths
        self.cells = cells

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [_nested(self._paths, row) for row in self.cells[index]]
        return _nested(self._paths, self.cells[index])


def rows_of(value: Any) -> Rows | None:
    """Each item of a dict, a Series or a table with its key, or None if ``value`` is none of these.

    A table's item is a dict by columns, in which the levels of a named index are columns, too, and
    column levels are dicts within it. Keys are a dict's keys and the labels of an index, a tuple
    where that has several levels; None where an index only counts, or there is none.

    Raises:
        BadInput: two columns have one name, or it is a query that was not run yet.
    """
    table = table_of(value)
    if table is None and refusal(value):
        raise BadInput(refusal(value))
    if table is None:
        if not isinstance(value, Mapping):
            return None
        pairs = list(value.items())
        return Rows("dict", [key for key, _ in pairs], [held for _, held in pairs])
    keys = _keys(table)
    if table.is_column:
        return Rows("column", keys, table.columns[0])
    return Rows("rows", keys, _dicts(table))


def _keys(table: Table) -> Sequence[Any]:
    if not table.index:
        return [None] * (len(table.columns[0]) if table.columns else 0)
    if len(table.index) == 1:
        return table.index[0]
    return list(zip(*table.index, strict=True))


def _dicts(table: Table) -> TableRows:
    named = [(n, cells) for n, cells in zip(table.index_names, table.index, strict=True) if n]
    paths = [(str(name),) for name, _ in named] + [_path(label) for label in table.labels]
    seen: set[tuple[str, ...]] = set()
    for path in paths:
        # A column may be called as a group of columns is, too.
        if path in seen or any(path[:depth] in paths for depth in range(1, len(path))):
            raise BadInput(f"two columns are called {path[-1]!r}; rename one")
        seen.add(path)
    columns = [cells for _, cells in named] + list(table.columns)
    return TableRows(paths, list(zip(*columns, strict=True)))


def _path(label: tuple[Any, ...]) -> tuple[str, ...]:
    # `reset_index` leaves the lower levels of its columns empty.
    path = tuple(str(level) for level in label)
    while len(path) > 1 and path[-1] == "":
        path = path[:-1]
    return path


def _nested(paths: list[tuple[str, ...]], row: tuple[Any, ...]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for path, cell in zip(paths, row, strict=True):
        at = record
        for level in path[:-1]:
            at = at.setdefault(level, {})
        at[path[-1]] = cell
    return record


def as_record(value: Any) -> dict[str, Any] | None:
    """A row of a table or a query that stands by itself, as a dict by its columns, else None."""
    roots = root_of(value)
    single = roots & {"sqlite3"} or ("astropy" in roots and not hasattr(value, "itercols"))
    if not single and "pandas" in roots:
        single = columns_of(value) is not None and not hasattr(value, "columns")
    if not single and "numpy" in roots:
        single = getattr(value, "ndim", 1) == 0
    names = columns_of(value) if single else None
    if names is None or len(set(map(str, names))) < len(names):
        return None
    return {str(name): value[name] for name in names}


MISSING = object()


def part_of(value: Any, name: Any) -> Any:
    """The column, key, label or field ``name`` of a value, or `MISSING`."""
    names = columns_of(value)
    if names is None or isinstance(name, slice):
        return MISSING
    for near in (name, str(name)) if isinstance(name, int) else (name,):
        if near in names:
            return value[near]
    return MISSING


def columns_of(value: Any) -> Collection[Any] | None:
    """The names by which parts of ``value`` are found, or None if it has no such parts."""
    if isinstance(value, Mapping):
        return value
    roots = root_of(value)
    found = None
    if roots & {"pandas", "modin", "cudf"}:
        found = getattr(value, "columns", None) if hasattr(value, "columns") else _labels(value)
    elif type(value).__name__ == "LazyFrame":
        return None  # to ask for its columns may run the query
    elif roots & {"polars", "duckdb", "_duckdb", "ibis", "narwhals"}:
        found = getattr(value, "columns", None)
    elif roots & {"pyarrow", "astropy", "sqlite3", "numpy"}:
        found = _names(value)
    return None if found is None or callable(found) else found


_WORDS = ("string", "mixed", "mixed-integer", "categorical")


def _labels(value: Any) -> Any:
    # An index of dates takes any text for a date; only labels that are text are names.
    labels = value.index if hasattr(value, "iloc") and hasattr(value, "to_frame") else None
    return labels if getattr(labels, "inferred_type", "string") in _WORDS else None


def _names(value: Any) -> Any:
    for name in ("column_names", "colnames"):
        if hasattr(value, name):
            return getattr(value, name)
    if "sqlite3" in root_of(value) and hasattr(value, "keys"):
        return value.keys()
    return getattr(getattr(value, "dtype", None), "names", None)
