"""Tables and arrays of any library as columns of cells, and as CSV.

A table is read column by column through narwhals, which knows the data types of pandas, polars,
pyarrow and others alike; what narwhals has no place for (index, column levels, units, CRS) is
read here. Cells stay values (numbers, dates, lists, …): `to_text` says them, rows of `--each`
hold them.
"""

from __future__ import annotations

import datetime
import importlib.util
import sys
from collections.abc import Callable, Iterable, KeysView, Sequence
from typing import Any

from bgmagic.errors import BadInput
from bgmagic.prompts.arrays import Cells, array_cells, check_size, duration_words, shortest
from bgmagic.values import dataclass


@dataclass(frozen=True)
class Table:
    """What a table holds.

    Attributes:
        labels: each column's label, one text or number a level.
        columns: each column's cells; a missing one is None.
        units: each column's unit or CRS, or "".
        index: the levels of the index, as columns; empty where it only counts the rows.
        index_names: the name of each level of the index, or None.
        level_names: the names of the column levels, or None.
        is_column: whether it is a Series, which is one column.
    """

    labels: Sequence[tuple[Any, ...]]
    columns: Sequence[Cells]
    units: Sequence[str] = ()
    index: Sequence[Cells] = ()
    index_names: Sequence[Any] = ()
    level_names: Sequence[Any] = (None,)
    is_column: bool = False

    def header(self) -> list[list[Any]]:
        """The rows of labels above the cells, as pandas writes them; a table without any has none.

        Column levels are one row each, beginning with the level's name; the names of the index
        then have a row of their own.
        """
        names, blank = list(self.index_names), [None] * len(self.labels)
        units = self.units or [""] * len(self.labels)
        levels = len(self.level_names)
        rows: list[list[Any]] = []
        for level in range(levels):
            at = [label[level] for label in self.labels]
            if level == levels - 1:
                at = [_with_unit(label, unit) for label, unit in zip(at, units, strict=True)]
            rows.append([None] * len(names) + at)
        if levels == 1 and self.level_names[0] is None:
            rows[0][: len(names)] = names
        else:
            for row, name in zip(rows, self.level_names, strict=True):
                row[: min(1, len(names))] = [name][: len(names)]
            rows += [names + blank] if any(name is not None for name in names) else []
        return rows if any(label is not None for row in rows for label in row) else []

    def parts(self) -> Any:
        """A Series as it stands within other values: a list, or a dict by its labels; under its
        name if it has one. With a named index, a dict a row."""
        cells, name = self.columns[0], _with_unit(self.labels[0][0], "".join(self.units))
        if any(named is not None for named in self.index_names):
            names = [*self.index_names, "value" if name is None else name]
            rows = zip(*self.index, cells, strict=True)
            return [dict(zip(names, row, strict=True)) for row in rows]
        held: Any = cells
        if self.index:
            labels = [
                label if len(label) > 1 else label[0] for label in zip(*self.index, strict=True)
            ]
            once = len(set(map(str, labels))) == len(labels)
            pairs = zip(labels, cells, strict=True)
            held = dict(pairs) if once else [list(pair) for pair in pairs]
        return held if name is None else {name: held}


def _with_unit(label: Any, unit: str) -> Any:
    return f"{'' if label is None else f'{label} '}[{unit}]" if unit else label


def root_of(value: object) -> KeysView[str]:
    """The top packages that the classes of ``value`` come from, its own class's first."""
    return dict.fromkeys(kind.__module__.partition(".")[0] for kind in type(value).__mro__).keys()


# How a table's library is told without importing it: the package of its class.


def table_of(value: Any) -> Table | None:
    """``value`` as a table, or None if it is none.

    Raises:
        BadInput: it is a query that was not run yet.
    """
    roots = root_of(value)
    name = type(value).__name__
    if "narwhals" in roots and hasattr(value, "to_native"):
        return table_of(value.to_native())
    if roots & {"modin", "cudf", "pandas"}:
        return _pandas_like(value)
    if "polars" in roots and hasattr(value, "get_columns"):
        labels = [(label,) for label in value.columns]
        return Table(labels, [cells_of(column) for column in value.get_columns()])
    if "polars" in roots and name == "Series":
        return Table([(value.name or None,)], [cells_of(value)], is_column=True)
    if "pyarrow" in roots and name in ("Table", "RecordBatch"):
        if name == "RecordBatch":
            value = sys.modules["pyarrow"].Table.from_batches([value])
        return _arrow(value)
    if ("duckdb" in roots or "_duckdb" in roots) and name == "DuckDBPyRelation":
        return _run(value)
    if "ibis" in roots and name in ("Table", "CachedTable"):
        if _is_remote(value):
            raise BadInput("this Table is a query of a remote database; put in its .to_pandas()")
        return _run(value)
    if "astropy" in roots and hasattr(value, "colnames") and hasattr(value, "itercols"):
        return _astropy(value)
    if "numpy" in roots and getattr(value, "ndim", 0) == 1 and value.dtype.names:
        return Table(
            [(field,) for field in value.dtype.names],
            [array_cells(value[field]) for field in value.dtype.names],
        )
    return None


def _arrow(table: Any) -> Table:
    columns = [cells_of(table.column(number)) for number in range(table.num_columns)]
    return Table([(label,) for label in table.column_names], columns)


def _run(query: Any) -> Table:
    """The rows of a query that a database inside this process answers."""
    import narwhals as nw

    if importlib.util.find_spec("pyarrow") is None:
        raise BadInput(
            f"a {type(query).__name__} needs pyarrow to be read; install it, or put in its .df()"
        )
    rows = nw.from_native(query).collect(backend="pyarrow").to_native()
    check_size(rows)
    return _arrow(rows)


# What ibis runs inside this process, without a server and without costs.
_LOCAL = ("duckdb", "sqlite", "polars", "datafusion", "pandas")


def _is_remote(table: Any) -> bool:
    try:
        return table.get_backend().name not in _LOCAL
    except Exception:  # several backends, or none found
        return True


def _pandas_like(value: Any) -> Table | None:
    import narwhals as nw

    if "pandas" not in root_of(value):
        value = nw.from_native(value, allow_series=True, pass_through=True)
        value = value.to_pandas() if hasattr(value, "to_pandas") else value
    pandas = sys.modules.get("pandas")
    if pandas is None:
        return None
    if isinstance(value, pandas.MultiIndex):
        value = value.to_frame(index=False)
    elif isinstance(value, pandas.Index):
        value = value.to_series(index=range(len(value)))
    if isinstance(value, pandas.api.extensions.ExtensionArray):
        value = pandas.Series(value)
    if isinstance(value, pandas.Series):
        labels, columns, levels = [(value.name,)], [value], [None]
    elif isinstance(value, pandas.DataFrame):
        several = isinstance(value.columns, pandas.MultiIndex)
        labels = [label if several else (label,) for label in value.columns]
        columns = [value.iloc[:, number] for number in range(len(labels))]
        levels = list(value.columns.names)
    else:
        return None
    index = value.index
    counted = isinstance(index, pandas.RangeIndex) and (index.start, index.step) == (0, 1)
    named = any(name is not None for name in [*index.names, *levels])
    shown = range(index.nlevels) if named or not counted else range(0)
    return Table(
        labels=labels,
        columns=[cells_of(column) for column in columns],
        units=[_crs(column) for column in columns],
        index=[cells_of(index.get_level_values(level).to_series()) for level in shown],
        index_names=[index.names[level] for level in shown],
        level_names=levels,
        is_column=isinstance(value, pandas.Series),
    )


def _crs(column: Any) -> str:
    crs = getattr(column, "crs", None) if "geopandas" in root_of(column) else None
    return "" if crs is None else str(crs.to_string())


def _astropy(table: Any) -> Table:
    columns, units = [], []
    for name in table.colnames:
        column = table[name]
        unit = getattr(column, "unit", None)
        units.append("" if unit is None else str(unit))
        whole = column.value if hasattr(column, "to_value") and unit is not None else column
        # Columns that are no arrays, as of times, say themselves one by one.
        columns.append(array_cells(whole) if hasattr(whole, "dtype") else list(column))
    return Table([(name,) for name in table.colnames], columns, units)


# Columns.

_HALF = ("float16", "halffloat")  # narwhals has no name for these


def cells_of(column: Any) -> Cells:
    """The cells of a Series or ChunkedArray, as values of Python; a missing one is None.

    Float32 numbers get their own digits, times more than microseconds have are text.

    Raises:
        BadInput: it has nanoseconds within lists, which Python has no type for.
    """
    import narwhals as nw

    series = nw.from_native(column, series_only=True)
    dtype = series.dtype
    pandas = "pandas" in root_of(column)
    if str(getattr(column, "dtype", getattr(column, "type", ""))).lower() in _HALF:
        halves = (None if is_missing(cell) and pandas else cell for cell in series.to_list())
        return [cell if cell is None else shortest(cell, 16) for cell in halves]
    read = _reader(dtype)
    if pandas:
        return [None if is_missing(cell) else read(cell) for cell in column.tolist()]
    if isinstance(dtype, nw.Datetime) and dtype.time_unit == "ns":
        zone = _zone(dtype.time_zone)
        return [n if n is None else _moment(n, zone) for n in series.dt.timestamp("ns").to_list()]
    if isinstance(dtype, nw.Duration) and dtype.time_unit == "ns":
        whole = series.dt.total_nanoseconds().to_list()
        return [n if n is None else _span(n) for n in whole]
    if isinstance(dtype, nw.Time) and getattr(getattr(column, "type", None), "unit", "ns") == "ns":
        return [n if n is None else _clock(n) for n in series.cast(nw.Int64).to_list()]
    if dtype.is_nested() and _has_nanoseconds(dtype):
        raise BadInput('it has nanoseconds within its cells; cast them to "us" first')
    return [read(cell) for cell in series.to_list()]


def is_missing(value: Any) -> bool:
    """Whether it is None, or pandas' NA, NaT or NaN."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def _reader(dtype: Any) -> Callable[[Any], Any]:
    """What reads a cell of this type: floats of 32 bits in it get their own digits."""
    found = _own_digits(dtype)
    return _same if found is None else found


def _same(cell: Any) -> Any:
    return cell


def _own_digits(dtype: Any) -> Callable[[Any], Any] | None:
    import narwhals as nw

    if isinstance(dtype, nw.Float32):
        return lambda cell: None if cell is None else shortest(float(cell))
    if isinstance(dtype, nw.List | nw.Array):
        inner = _own_digits(dtype.inner)
        return inner and (lambda cell: None if cell is None else list(map(inner, cell)))
    if isinstance(dtype, nw.Struct):
        readers = {field.name: _reader(field.dtype) for field in dtype.fields}
        if any(reader is not _same for reader in readers.values()):
            return lambda cell: cell and {name: readers[name](cell[name]) for name in readers}
    return None


def _has_nanoseconds(dtype: Any) -> bool:
    import narwhals as nw

    if isinstance(dtype, nw.List | nw.Array):
        return _has_nanoseconds(dtype.inner)
    if isinstance(dtype, nw.Struct):
        return any(_has_nanoseconds(field.dtype) for field in dtype.fields)
    return isinstance(dtype, nw.Datetime | nw.Duration) and dtype.time_unit == "ns"


def _zone(name: str | None) -> datetime.tzinfo | None:
    import zoneinfo

    return None if name is None else zoneinfo.ZoneInfo(name)


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _moment(nanoseconds: int, zone: datetime.tzinfo | None) -> datetime.datetime | str:
    micro, nano = divmod(nanoseconds, 1000)
    moment = _EPOCH + datetime.timedelta(microseconds=micro)
    moment = moment.replace(tzinfo=None) if zone is None else moment.astimezone(zone)
    if not nano:
        return moment
    offset = moment.isoformat()[-6:] if zone is not None else ""
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}{nano:03d}{offset}"


def _clock(nanoseconds: int) -> datetime.time | str:
    moment = _moment(nanoseconds, None)
    return moment.partition(" ")[2] if isinstance(moment, str) else moment.time()


def _span(nanoseconds: int) -> datetime.timedelta | str:
    micro, nano = divmod(nanoseconds, 1000)
    return duration_words(nanoseconds, 10**9) if nano else datetime.timedelta(microseconds=micro)


def each_once(names: Iterable[str]) -> list[str]:
    """The names of a query's columns, of which several may be alike."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique


# CSV.


def as_csv(table: Table, words: Callable[[Any, Cells], Sequence[str | None]]) -> str:
    r"""``table`` as CSV: commas, "quotes" where needed, a line end (\n) after each row.

    A missing cell is empty, an empty text ``""``.

    Args:
        words: gives the texts of the cells of a column, whose label is its first argument.
    """
    labels = [*table.index_names, *(label[-1] for label in table.labels)]
    everything = [*table.index, *table.columns]
    columns = [words(label, _days(c)) for label, c in zip(labels, everything, strict=True)]
    heads = [words("", row) for row in table.header()]
    rows = (",".join(map(_quoted, row)) for row in [*heads, *zip(*columns, strict=True)])
    return "".join(f"{row}\n" for row in rows)


def _quoted(text: str | None) -> str:
    if text is None:
        return ""
    if text and not any(mark in text for mark in ',"\n\r') and text == text.strip():
        return text
    doubled = text.replace('"', '""')
    return f'"{doubled}"'


def _days(cells: Cells) -> Cells:
    """A column of dates without times as dates."""
    dates = [cell for cell in cells if cell is not None]
    if not dates or not all(
        isinstance(date, datetime.datetime)
        and date.tzinfo is None
        and date.time() == datetime.time()
        and not getattr(date, "nanosecond", 0)
        for date in dates
    ):
        return cells
    return [cell and cell.date() for cell in cells]
