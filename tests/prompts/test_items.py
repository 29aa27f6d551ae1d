"""Parts by their names: the rows of ``--each``, and columns before attributes in ``{{ item.x }}``."""

from __future__ import annotations

import collections
import dataclasses
import sqlite3
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bgmagic.errors import BadInput
from bgmagic.jobs.job import Answer
from bgmagic.prompts.items import rows_of
from bgmagic.prompts.template import compile_template
from bgmagic.sweeps.grid import items_of
from tests.prompts.libraries import library

Build = Callable[[Any], Any]


def filled(text: str, /, **values: Any) -> str:
    return compile_template(text).render(values).text


ROWS: list[tuple[str, str, Build, list[tuple[Any, Any]]]] = [
    (
        "pandas",
        "counted",
        lambda p: p.DataFrame({"q": ["a", None], "n": [1, 2]}),
        [(None, {"q": "a", "n": 1}), (None, {"q": None, "n": 2})],
    ),
    (
        "pandas",
        "named index",
        lambda p: p.DataFrame({"n": [1]}, index=p.Index(["DE"], name="land")),
        [("DE", {"land": "DE", "n": 1})],
    ),
    ("pandas", "labels", lambda p: p.DataFrame({"n": [1]}, index=["r"]), [("r", {"n": 1})]),
    ("pandas", "series", lambda p: p.Series([1, 2], index=["a", "b"]), [("a", 1), ("b", 2)]),
    ("pandas", "counted series", lambda p: p.Series(["x"], name="n"), [(None, "x")]),
    (
        "pandas",
        "two levels",
        lambda p: p.DataFrame([[1, 2, 3]], columns=p.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", "")])),
        [(None, {"a": {"x": 1, "y": 2}, "b": 3})],
    ),
    (
        "pandas",
        "several levels of the index",
        lambda p: p.DataFrame({"a": [1], "b": [2], "v": [3]}).set_index(["a", "b"]),
        [((1, 2), {"a": 1, "b": 2, "v": 3})],
    ),
    ("polars", "frame", lambda p: p.DataFrame({"n": [1, None]}), [(None, {"n": 1}), (None, {"n": None})]),
    ("polars", "series", lambda p: p.Series("n", [1]), [(None, 1)]),
    ("pyarrow", "table", lambda p: p.table({"n": [1], "l": [[1]]}), [(None, {"n": 1, "l": [1]})]),
    ("duckdb", "relation", lambda d: d.sql("select 1 as n"), [(None, {"n": 1})]),
    ("ibis", "memtable", lambda i: i.memtable({"n": [1]}), [(None, {"n": 1})]),
    ("astropy.table", "table", lambda t: t.Table({"n": [1], "s": ["x"]}), [(None, {"n": 1, "s": "x"})]),
    ("numpy", "records", lambda n: n.array([(1,)], dtype=[("n", int)]), [(None, {"n": 1})]),
    ("builtins", "dict", lambda b: b.dict(a=1), [("a", 1)]),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:The 'future.infer_string' option")  # ibis 12 on pandas 3
@pytest.mark.parametrize(
    ("name", "build", "rows"),
    [(row[0], *row[2:]) for row in ROWS],
    ids=[f"{row[0]} {row[1]}" for row in ROWS],
)
def test_rows_of_every_table(name: str, build: Build, rows: list[tuple[Any, Any]]) -> None:
    """What `{{ }}` takes as a table, `--each` goes over: rows by columns, with the keys of the index."""
    value = build(library(name))
    assert list(rows_of(value) or ()) == rows
    assert items_of(value, "--each").values == tuple(item for _, item in rows)


def test_what_has_no_rows() -> None:
    """A list, a text and a number have no rows of their own."""
    for value in ([1], "text", 3, np.array([1, 2])):
        assert rows_of(value) is None


def test_columns_of_one_name() -> None:
    """Columns that can't be told apart are refused, also a named index that is called as a column."""
    pandas = library("pandas")
    table = pandas.DataFrame({"q": [1]}, index=pandas.Index([5], name="q"))
    with pytest.raises(BadInput, match=r"^--each: two columns are called 'q'; rename one$"):
        items_of(table, "--each")
    with pytest.raises(BadInput, match="two columns are called"):
        items_of(library("pyarrow").table([[1], [2]], names=["a", "a"]), "--each")


def test_lazy_tables_have_no_rows() -> None:
    """`--each` over a query that was not run is refused with the way out."""
    with pytest.raises(BadInput, match=r"^--each.*\.collect\(\)"):
        items_of(library("polars").LazyFrame({"a": [1]}), "--each")


def test_single_rows_are_rows() -> None:
    """A list of rows of SQLite or of iterrows() is kept as rows, by column."""
    row = {"count": 1, "b": "x"}
    frame = library("pandas").DataFrame([row])
    for rows in ([sqlite_row()], [series for _, series in frame.iterrows()]):
        items = items_of(rows, "--each")
        assert (items.kind, items.values) == ("rows", (row,))


def sqlite_row() -> sqlite3.Row:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    found: sqlite3.Row = connection.execute("select 1 as count, 'x' as b").fetchone()
    connection.close()
    return found


LOOKED_UP: list[tuple[str, Build]] = [
    ("pandas", lambda p: p.DataFrame({"count": [1], "pop": [2]}).iloc[0]),
    ("pandas", lambda p: p.DataFrame({"count": [1], "pop": [2]}).iloc[0].to_dict()),
    ("polars", lambda p: p.DataFrame({"count": [1], "pop": [2]}).row(0, named=True)),
    ("numpy", lambda n: n.array([(1, 2)], dtype=[("count", int), ("pop", int)])[0]),
    ("astropy.table", lambda t: t.Table({"count": [1], "pop": [2]})[0]),
    ("collections", lambda c: c.OrderedDict(count=1, pop=2)),
    ("collections", lambda c: c.namedtuple("Row", "count pop")(1, 2)),
]


@pytest.mark.parametrize(("name", "build"), LOOKED_UP, ids=[row[0] for row in LOOKED_UP])
def test_a_column_goes_before_a_method(name: str, build: Build) -> None:
    """`item.count` and `item.pop` are the columns of every kind of row, not the methods of its class."""
    item = build(library(name))
    assert filled("{{ item.count }} {{ item.pop }}", item=item) == "1 2"
    assert filled("{{ sqlite.count }}", sqlite=sqlite_row()) == "1"


@pytest.mark.parametrize("name", ["pandas", "polars", "pyarrow"])
def test_a_column_of_a_table(name: str) -> None:
    """`table.count` is the column of that name."""
    of = {"pandas": "DataFrame", "polars": "DataFrame", "pyarrow": "table"}[name]
    table = getattr(library(name), of)({"count": [7, 8]})
    assert "7" in filled("{{ table.count }}", table=table)
    assert filled("{{ table.count[1] }}", table=table) == "8"


def test_what_has_no_columns_keeps_its_attributes() -> None:
    """Answers, texts and dataclasses are read by their attributes, lists by theirs."""

    @dataclasses.dataclass
    class Point:
        count: int

    answer = Answer("said", {"model": "gpt"}, data={"model": 1})
    assert filled("{{ a.model }} {{ a.data.model }} {{ a.upper() }}", a=answer) == "gpt 1 SAID"
    assert filled("{{ p.count }} {{ names.count('a') }}", p=Point(3), names=["a"]) == "3 1"


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("item.nosuch", "the row has no column 'nosuch'; it has first name, 2024"),
        ("item.nosuch", "a name that is no word is written item['first name']"),
        ("item.first name", "a column of such a name is item['first name']"),
        ("item.2nd", "a column of such a name is item['2nd']"),
        ("levels.a.z", "the row has no column 'z'; it has x"),
        ("frame.nosuch", "the DataFrame has no column 'nosuch'; it has ('a', 'x')"),
        ("frame.nosuch", "is written item['a', 'x']"),
    ],
)
def test_a_hint_at_the_brackets(expression: str, told: str) -> None:
    """A column that a dot can't reach, or that is not there, is answered with the way to write it."""
    pandas = library("pandas")
    item = pandas.Series([1, 2], index=["first name", "2024"])
    frame = pandas.DataFrame([[1]], columns=pandas.MultiIndex.from_tuples([("a", "x")]))
    values = {"item": item, "levels": {"a": {"x": 1}}, "frame": frame}
    with pytest.raises(BadInput) as caught:
        filled(f"{{{{ {expression} }}}}", **values)
    assert told in str(caught.value)


def test_columns_that_are_no_words() -> None:
    """Brackets reach every column, a dot those of digits, and filters go by columns too."""
    item = {"first name": "Ada", "2024": 5, "items": [1]}
    assert (
        filled("{{ item['first name'] }} {{ item.2024 }} {{ item['2024'] }}", item=item)
        == "Ada 5 5"
    )
    assert filled("{{ [item] | map(attribute='items') | list }}", item=item) == "[\n  [1]\n]"
    by_year = library("pandas").DataFrame({2024: [1]}).iloc[0]
    assert filled("{{ item.2024 }}", item=by_year) == "1"


def test_a_default_is_not_made() -> None:
    """Reading a key that is not there adds none."""
    counted: dict[str, int] = collections.defaultdict(int)
    with pytest.raises(BadInput):
        filled("{{ counted.nosuch }}", counted=counted)
    with pytest.raises(BadInput, match="no column 'nosuch'"):
        filled("{{ counted['nosuch'] }}", counted=counted)
    assert dict(counted) == {}
