"""A value's parts by their names: what ``--each`` goes over, and the columns ``item.x`` may mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bgmagic.errors import BadInput
from bgmagic.prompts.tables import Table, root_of, table_of


def rows_of(value: Any) -> Iterator[tuple[Any, Any]] | None:
    """Each item of a dict, a Series or a table with its key, or None if ``value`` is none of these.

    A table's item is a dict by columns, in which the levels of a named index are columns, too, and
    column levels are dicts within it. Keys are a dict's keys and the labels of an index, a tuple
    where that has several levels; None where an index only counts, or there is none.

    Raises:
        BadInput: two columns have one name, or it is a query that was not run yet.
    """
    if isinstance(value, Mapping) and table_of(value) is None:
        return iter(value.items())
    table = table_of(value)
    if table is None:
        return None
    keys = _keys(table)
    if table.is_column:
        return zip(keys, table.columns[0], strict=True)
    return zip(keys, _dicts(table), strict=True)


def _keys(table: Table) -> list[Any]:
    count = len(table.columns[0]) if table.columns else 0
    if not table.index:
        return [None] * (len(table.index[0]) if table.index else count)
    labels = zip(*table.index, strict=True)
    return [label if len(label) > 1 else label[0] for label in labels]


def _dicts(table: Table) -> Iterator[dict[str, Any]]:
    named = [(n, cells) for n, cells in zip(table.index_names, table.index, strict=True) if n]
    paths = [(str(name),) for name, _ in named] + [_path(label) for label in table.labels]
    for path in paths:
        if paths.count(path) > 1:
            raise BadInput(f"two columns are called {path[-1]!r}; rename one")
    columns = [cells for _, cells in named] + list(table.columns)
    return (_nested(paths, row) for row in zip(*columns, strict=True))


def _path(label: tuple[Any, ...]) -> tuple[str, ...]:
    # `reset_index` leaves the lower levels of its columns empty.
    path = tuple(str(level) for level in label)
    while len(path) > 1 and path[-1] == "":
        path = path[:-1]
    return path


def _nested(paths: list[tuple[str, ...]], row: tuple[Any, ...]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for path, cell in zip(paths, row, strict=True):
        at = told
        for level in path[:-1]:
            within = at.setdefault(level, {})
            # A column of the same name as a group of columns keeps a place within it.
            at = within if isinstance(within, dict) else at.__setitem__(level, {"": within}) or at[level]
        at[path[-1]] = cell
    return told


def columns_of(value: Any) -> list[Any] | None:
    """The keys, columns or fields by which parts of ``value`` are found, or None if it has none."""
    if isinstance(value, str):
        return None
    if isinstance(value, Mapping):
        return list(value)
    roots = root_of(value)
    if roots & {"pandas", "modin", "cudf"}:
        found = getattr(value, "columns", None) if hasattr(value, "columns") else _labels(value)
    elif roots & {"polars", "duckdb", "_duckdb", "ibis", "narwhals"}:
        found = getattr(value, "columns", None)
    elif roots & {"pyarrow", "astropy", "sqlite3", "numpy"}:
        found = _names(value)
    else:
        return None
    return None if found is None or callable(found) else list(found)


def _labels(value: Any) -> Any:
    # Of a Series; a group of rows has an index as well, but no label is its.
    return value.index if hasattr(value, "index") and hasattr(value, "iloc") else None


def _names(value: Any) -> Any:
    for name in ("column_names", "colnames"):
        if hasattr(value, name):
            return getattr(value, name)
    if hasattr(value, "keys") and "sqlite3" in root_of(value):
        return value.keys()
    return getattr(getattr(value, "dtype", None), "names", None)
