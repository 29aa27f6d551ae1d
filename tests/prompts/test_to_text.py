"""Values of every kind as text: whole and unambiguous, or refused in one line."""

from __future__ import annotations

import argparse
import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import itertools
import json
import os
import re
import sqlite3
import sys
import types
from collections.abc import Callable, Iterator, Set
from typing import Annotated, Any

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bgmagic
from bgmagic.errors import BadInput
from bgmagic.prompts.arrays import shortest
from bgmagic.prompts.to_text import NoText, to_text
from tests.prompts.libraries import library

Build = Callable[[Any], Any]


@dataclasses.dataclass
class Point:
    x: int
    blob: Any


Pair = collections.namedtuple("Pair", "count b")


class Colour(enum.Enum):
    RED = 1


def row_of_sqlite(query: str) -> sqlite3.Row:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    row = connection.execute(query).fetchone()
    connection.close()
    assert isinstance(row, sqlite3.Row)
    return row


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, None, True, 0.5], "- 1\n- None\n- True\n- 0.5"),
        (
            {"a": float("nan"), "b": float("-inf"), "c": None},
            '{"a":"NaN","b":"-Infinity","c":null}',
        ),
        ({"a": decimal.Decimal("1.10"), "b": fractions.Fraction(1, 3)}, '{"a":1.10,"b":"1/3"}'),
        (10**30, "1" + "0" * 30),
        (1 + 2j, "1+2j"),
        (Colour.RED, "Colour.RED"),
        (dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "2024-01-01 00:00:00+00:00"),
        (dt.timedelta(days=1, seconds=90), "1 d 1 min 30 s"),
        (dt.timedelta(microseconds=-5), "-0.000005 s"),
        (dt.timedelta(days=-1, seconds=1), "-(23 h 59 min 59 s)"),
        (dt.timedelta(0), "0 s"),
        (re.compile("a" * 300), "a" * 300),
        (Pair(1, "x"), '{"count":1,"b":"x"}'),
        (types.SimpleNamespace(a=[1]), '{"a":[1]}'),
        (argparse.Namespace(a=1), '{"a":1}'),
        (array.array("d", [0.1]), "- 0.1"),
        (collections.UserString("ab"), "ab"),
        (collections.deque("ab"), "- a\n- b"),
        ({(1, "a"): 1, dt.date(2024, 1, 1): 2}, '{"[1,\\"a\\"]":1,"2024-01-01":2}'),
        ([[1, 2], [3, 4]], "[[1,2],[3,4]]"),
        (["a\nb", "</item 1>"], '["a\\nb","</item 1>"]'),
        (["a\n", "b"], "<item 1>\na\n\n</item 1>\n<item 2>\nb\n</item 2>"),
        (row_of_sqlite("select 1 as id, 2 as id, 'x' as b"), '{"id":1,"id (2)":2,"b":"x"}'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_of_python(value: Any, text: str) -> None:
    """What Python itself has goes in with its names and units, as JSON where it has parts."""
    assert squeezed(to_text(value)) == squeezed(text)


def squeezed(text: str) -> str:
    """JSON without its indentation; other text as it is."""
    try:
        return json.dumps(json.loads(text, parse_float=str, parse_int=str), separators=(",", ":"))
    except ValueError:
        return text


def test_fields_beside_the_tuple() -> None:
    """os.stat_result has fields that its tuple has not: they go in, too."""
    told = json.loads(to_text(os.stat_result(range(19))))
    assert (told["st_size"], told["st_mtime"], told["st_mtime_ns"]) == (6, 11, 14)


class Model(pydantic.BaseModel):
    name: str


class Fitted(Model):
    slope: float
    secret: int = pydantic.Field(7, exclude=True)


class Study(pydantic.BaseModel):
    models: list[Model]
    share: Annotated[float, pydantic.PlainSerializer(lambda value: f"{value:.0%}")]


@pytest.mark.skipif(
    tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 13),
    reason="older Pydantic has no way to dump both",
)
def test_fields_of_a_subclass() -> None:
    """What a model holds of a subclass has that one's fields, but for those it leaves out; serializers are kept."""
    fitted = Fitted(name="line", slope=2.0)
    told = to_text(Study(models=[fitted], share=0.5))
    assert json.loads(told) == {"models": [{"name": "line", "slope": 2.0}], "share": "50%"}


class Own(pydantic.BaseModel):
    name: str

    def model_dump(self) -> dict[str, Any]:  # type: ignore[override]  # as some libraries have it
        return {"own": self.name}


def test_a_model_that_dumps_itself() -> None:
    """A model_dump of one's own, without Pydantic's options, is asked all the same."""
    assert json.loads(to_text(Own(name="a"))) == {"own": "a"}


# Libraries. Each row: the library, what it makes, and the text that is right.


def frame(pandas: Any) -> Any:
    return pandas.DataFrame(
        {
            "q": ["a, b", None, ""],
            "x": np.array([0.1, np.nan, 2], "f4"),
            "day": pandas.to_datetime(["2024-01-01", None, "2024-01-03"]),
            "v": [[1, 2], {"k": np.float32(0.1)}, np.arange(3)],
        }
    )


FRAME = 'q,x,day,v\n"a, b",0.1,2024-01-01,"[1,2]"\n,,,"{""k"":0.1}"\n"",2.0,2024-01-03,"[0,1,2]"\n'
PANDAS: list[tuple[str, Build, str]] = [
    ("frame", frame, FRAME),
    ("cells as values", lambda p: [frame(p)], f"<item 1>\n{FRAME}\n</item 1>"),
    ("index", lambda p: p.DataFrame({"n": [1]}, index=["r"]), ",n\nr,1\n"),
    ("named", lambda p: p.DataFrame({"n": [1]}, index=p.Index([0], name="id")), "id,n\n0,1\n"),
    ("series", lambda p: p.Series([1, 2], name="n"), "n\n1\n2\n"),
    ("nameless", lambda p: p.Series(["a", "b"]), "- a\n- b"),
    ("labels", lambda p: p.Series([1, 2], index=["a", "b"], name="n"), ",n\na,1\nb,2\n"),
    ("row", lambda p: p.DataFrame({"q": ["a"], "n": [1]}).iloc[0], ",0\nq,a\nn,1\n"),
    (
        "rows of iterrows()",
        lambda p: [row for _, row in p.DataFrame({"q": ["a"], "n": [1]}).iterrows()],
        '[{"0":{"q":"a","n":1}}]',
    ),
    (
        "series within",
        lambda p: {"n": p.Series([1], name="n"), "m": p.Series([2], name="k")},
        '{"n":[1],"m":{"k":[2]}}',
    ),
    (
        "named index within",
        lambda p: [p.Series([83], index=p.Index(["DE"], name="land"), name="pop")],
        '[[{"land":"DE","pop":83}]]',
    ),
    (
        "levels",
        lambda p: p.DataFrame([[1, 2]], columns=p.MultiIndex.from_product([["a"], ["x", "y"]])),
        "a,a\nx,y\n1,2\n",
    ),
    (
        "pivot",
        lambda p: p.DataFrame({"c": ["DE"], "y": [2000], "p": [1.5]}).pivot(
            index="c", columns="y", values="p"
        ),
        "y,2000\nc,\nDE,1.5\n",
    ),
    ("half", lambda p: p.DataFrame({"h": np.array([0.1, np.nan], "f2")}), "h\n0.1\n\n"),
    ("NA", lambda p: [p.NA, p.NaT, 1], "- None\n- None\n- 1"),
    ("NA in JSON", lambda p: {"a": p.NA, "b": p.NaT}, '{"a":null,"b":null}'),
    ("nullable", lambda p: p.DataFrame({"i": p.array([1, None], "Int64")}), "i\n1\n\n"),
    ("timedelta", lambda p: p.to_timedelta(["90s", "1ns"]), "- 1 min 30 s\n- 0.000000001 s"),
    ("period", lambda p: p.period_range("2024-01", periods=1, freq="M"), "- 2024-01"),
    (
        "zone",
        lambda p: p.Series(p.date_range("2024", periods=1, tz="Europe/Berlin"), name="t"),
        "t\n2024-01-01 00:00:00+01:00\n",
    ),
    ("nanoseconds", lambda p: p.Timestamp(1), "1970-01-01 00:00:00.000000001"),
    ("categories", lambda p: p.Categorical(["x", "y"]), "- x\n- y"),
    ("index alone", lambda p: p.Index(["a"], name="k"), "k\na\n"),
]


@pytest.mark.parametrize(("build", "text"), [r[1:] for r in PANDAS], ids=[r[0] for r in PANDAS])
def test_pandas(build: Build, text: str) -> None:
    """pandas' tables, columns, rows and single values keep their index, names, levels and dates."""
    assert squeezed(to_text(build(library("pandas")))) == squeezed(text)


def polars_frame(polars: Any) -> Any:
    return polars.DataFrame(
        {
            "n": [1, None],
            "f": polars.Series([0.1, float("nan")], dtype=polars.Float32),
            "l": polars.Series([[0.1], []], dtype=polars.List(polars.Float32)),
            "a": polars.Series([[[1, 2]], [[3, 4]]], dtype=polars.Array(polars.Int64, (1, 2))),
            "s": [{"x": 1}, {"x": None}],
            "d": [dt.timedelta(hours=1), None],
            "t": polars.Series([1, 10**18]).cast(polars.Datetime("ns")),
            "m": polars.Series(["1.10", None]).cast(polars.Decimal(10, 2)),
            "e": ["", None],
        }
    )


POLARS = (
    "n,f,l,a,s,d,t,m,e\n"
    '1,0.1,[0.1],"[[1,2]]","{""x"":1}",1 h,1970-01-01 00:00:00.000000001,1.10,""\n'
    ',nan,[],"[[3,4]]","{""x"":null}",,2001-09-09 01:46:40,,\n'
)
TABLES: list[tuple[str, str, Build, str]] = [
    ("polars", "frame", polars_frame, POLARS),
    ("polars", "series", lambda p: p.Series("n", [1, 2]), "n\n1\n2\n"),
    ("polars", "nameless", lambda p: p.Series([1, 2]), "- 1\n- 2"),
    ("polars", "within", lambda p: [p.Series("n", [1])], '[{"n":[1]}]'),
    ("pyarrow", "table", lambda p: p.table({"a": [1, None], "l": [[1], None]}), "a,l\n1,[1]\n,\n"),
    ("pyarrow", "twins", lambda p: p.table([[1], [2]], names=["a", "a"]), "a,a\n1,2\n"),
    ("pyarrow", "batch", lambda p: p.RecordBatch.from_pydict({"a": [1]}), "a\n1\n"),
    ("pyarrow", "column", lambda p: p.chunked_array([[1], [None]]), "[1,null]"),
    ("pyarrow", "array", lambda p: p.array([1.5]), "[1.5]"),
    ("pyarrow", "scalar", lambda p: p.scalar(3), "3"),
    ("pyarrow", "struct", lambda p: p.array([{"a": 1}]), '[{"a":1}]'),
    ("pyarrow", "long", lambda p: p.table({"a": list(range(5000))}), "a\n" + "".join(f"{n}\n" for n in range(5000))),
    (
        "duckdb",
        "relation",
        lambda d: d.sql("select sum(2)::hugeint as h, 0.1::float as f, [1, 2] as l, 1.10::decimal(5, 2) as d"),
        'h,f,l,d\n2,0.1,"[1,2]",1.10\n',
    ),
    ("pyarrow", "nanoseconds", lambda p: p.table({"t": p.array([1], p.time64("ns")), "u": p.array([60], p.time32("s"))}), "t,u\n00:00:00.000000001,00:01:00\n"),
    ("polars", "times", lambda p: p.DataFrame({"t": p.Series([10**9 + 1]).cast(p.Time)}), "t\n00:00:01.000000001\n"),
    ("pyarrow", "half", lambda p: p.table({"h": p.array(np.array([0.1], "f2")), "f": p.array([0.1], p.float32())}), "h,f\n0.1,0.1\n"),
    ("ibis", "memtable", lambda i: i.memtable({"a": [1, 2]}), "a\n1\n2\n"),
    ("narwhals", "frame", lambda n: n.from_native(library("polars").DataFrame({"a": [1]})), "a\n1\n"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:The 'future.infer_string' option")  # ibis 12 on pandas 3
@pytest.mark.parametrize(
    ("name", "build", "text"),
    [(row[0], *row[2:]) for row in TABLES],
    ids=[f"{row[0]} {row[1]}" for row in TABLES],
)
def test_tables_of_other_libraries(name: str, build: Build, text: str) -> None:
    """Tables of all libraries are CSV with all rows, nested cells as JSON, each type's own digits."""
    if name in ("duckdb", "ibis"):
        library("pyarrow")
    assert squeezed(to_text(build(library(name)))) == squeezed(text)


ARRAYS: list[tuple[str, Any, str]] = [
    ("floats", np.array([1.5, np.nan, np.inf]), '[1.5,"NaN","Infinity"]'),
    ("f4", np.array([[0.1, 2]], "f4"), "[\n  [0.1,2.0]\n]"),
    ("f2", np.float16(0.1), "0.1"),
    ("f2 of any bits", np.array([0x7C01, 0x2E66], "u2").view("f2"), '["NaN",0.1]'),
    ("f2 beyond its digits", np.array([65504, 2049.5, -0.0], "f2"), "[65504.0,2050.0,-0.0]"),
    ("f4 in a list", [np.float32(0.1), np.int64(3)], "- 0.1\n- 3"),
    ("complex", np.array([0.1 + 2j], "c8"), '["0.1+2j"]'),
    ("dates", np.array(["2024-01-01", "NaT"], "M8[ns]"), '["2024-01-01",null]'),
    ("times", np.array(["2024-01-01T12:00:00.5"], "M8[ns]"), '["2024-01-01 12:00:00.5"]'),
    ("months", np.array(["2024-01"], "M8[M]"), '["2024-01"]'),
    ("spans", np.array([90, -1], "m8[m]"), '["1 h 30 min","-1 min"]'),
    ("months of span", np.timedelta64(3, "M"), "3 months"),
    ("records", np.array([(1, [1, 2])], dtype=[("n", "i4"), ("v", "f4", 2)]), 'n,v\n1,"[1.0,2.0]"\n'),
    ("record", np.array([(1, "a")], dtype=[("n", "i4"), ("s", "U1")])[0], '{"n":1,"s":"a"}'),
    ("masked", np.ma.array([[1, 2]], mask=[[0, 1]]), "[\n  [1,null]\n]"),
    ("masked alone", np.ma.masked, "None"),
    (
        "masked records",
        np.ma.array([(1, 2.0)], mask=[(True, False)], dtype=[("a", int), ("b", float)]),
        "a,b\n,2.0\n",
    ),
    ("bytes of text", np.array([b"ab"]), '["ab"]'),
    ("objects", np.array([{"a": 1}, None], object), '[{"a":1},null]'),
    ("three dimensions", np.zeros((1, 2, 2), int), "[[[0,0],[0,0]]]"),
    ("nothing", np.zeros((3, 0)), "[[],[],[]]"),
    ("type", np.dtype("f4"), "float32"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), [r[1:] for r in ARRAYS], ids=[r[0] for r in ARRAYS])
def test_arrays(value: Any, text: str) -> None:
    """Arrays keep what their data type means: dates, durations with units, names, own digits."""
    told = to_text(value)
    assert told == text or squeezed(told) == squeezed(text)


def test_long_doubles_keep_their_digits() -> None:
    """Where a long double has more digits than a float, they all go in, as a number of JSON."""
    number = np.longdouble(1) / 3
    assert to_text({"x": np.array([number])}) == f'{{\n  "x": [{number!s}]\n}}'
    assert np.longdouble(re.findall(r"[\d.]+", to_text([[number]]))[0]) == number


def test_sixteen_bits_read_back() -> None:
    """Each number of 16 bits has few digits, which are the same number in these, and no other sign."""
    every = np.arange(2**16, dtype="u2").view("f2")
    every = every[np.isfinite(every)][::17]
    told = np.array(json.loads(to_text(every)))
    assert shortest(65504.0, 16) == 65504.0
    assert (told.astype("f2").view("u2") == every.view("u2")).all()
    assert max(len(f"{abs(number):e}".partition("e")[0].rstrip("0")) for number in told) <= 6


class Elsewhere:
    """An array that lies on a device, as CuPy's: NumPy may not have it without a word."""

    dtype, shape = np.dtype("f4"), (2,)
    __cuda_array_interface__: Any = {"shape": (2,), "typestr": "<f4", "version": 3}  # noqa: RUF012

    def get(self) -> Any:
        return np.array([0.1, 2], "f4")


class OfCupy(Elsewhere):
    def __array__(self, *_: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")


OfCupy.__module__ = "cupy"


class Wide(Elsewhere):
    __cuda_array_interface__: Any = {"shape": (10**8,)}  # noqa: RUF012
    shape = ()  # type: ignore[assignment]


class Unreachable(Elsewhere):
    get = None  # type: ignore[assignment]


class Handed:
    """An array that is handed on by DLPack, and no other way."""

    def __dlpack__(self, **given: Any) -> Any:
        return np.eye(2).__dlpack__(**given)

    def __dlpack_device__(self) -> Any:
        return np.eye(2).__dlpack_device__()


class Donated:
    """An array whose library says in several lines that it has no values any more."""

    @property
    def shape(self) -> Any:
        raise RuntimeError("no\nshape")

    dtype = shape

    def __array__(self, *_: Any) -> Any:
        return np.eye(2)


@pytest.mark.parametrize(
    ("value", "text"),
    [(Elsewhere(), "[0.1,2.0]"), (OfCupy(), "[0.1,2.0]"), (Handed(), "[[1.0,0.0],[0.0,1.0]]")],
)
def test_arrays_of_devices(value: Any, text: str) -> None:
    """An array on a device comes to the host by its library's own way, alone and in other values."""
    assert squeezed(to_text(value)) == squeezed(text)
    assert squeezed(to_text({"k": value})) == squeezed(f'{{"k":{text}}}')


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Wide(), "it has 100,000,000 values"),
        (Unreachable(), "an Unreachable lies on another device; put in a NumPy array of it"),
        (Donated(), "a Donated can't be read: RuntimeError: no shape"),
    ],
)
def test_arrays_that_cannot_be_had(value: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be copied to the host, or has no values, is refused in one line with its place."""
    for loaded in ("torch", "cupy"):
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    with pytest.raises(BadInput, match=re.escape(f".k[1]: {told}")) as caught:
        to_text({"k": [0, value]})
    assert "\n" not in str(caught.value)


def multigraph(nx: Any) -> Any:
    graph = nx.MultiDiGraph(name="roads")
    graph.add_edge("a", "b", km=2)
    graph.add_node("c", big=True)
    return graph


def grid(xr: Any) -> Any:
    attrs = {"units": "K"}
    return xr.DataArray(np.eye(2), {"x": [1, 2]}, ("x", "y"), name="t", attrs=attrs)


def heatmap(graph_objects: Any) -> Any:
    counts = graph_objects.Heatmap(x=np.array([0.1, 2]), z=np.array([[1, 2], [3, 4]]))
    return graph_objects.Figure(counts)


SCIENCE: list[tuple[str, str, Build, str]] = [
    (
        "networkx",
        "graph",
        lambda nx: nx.path_graph(3),
        '{"directed":false,"nodes":[0,1,2],"edges":[[0,1],[1,2]]}',
    ),
    (
        "networkx",
        "multigraph",
        multigraph,
        '{"directed":true,"graph":{"name":"roads"},"nodes":[["a"],["b"],["c",{"big":true}]],'
        '"edges":[["a","b",0,{"km":2}]]}',
    ),
    ("networkx", "nodes", lambda nx: nx.path_graph(2).degree, "[[0,1],[1,1]]"),
    (
        "xarray",
        "array",
        grid,
        '{"name":"t","dims":{"x":2,"y":2},"coords":{"x":[1,2]},"data":[[1.0,0.0],[0.0,1.0]],"attrs":{"units":"K"}}',
    ),
    (
        "xarray",
        "dataset",
        lambda xr: grid(xr).to_dataset(),
        '{"dims":{"x":2,"y":2},"coords":{"x":[1,2]},"data_vars":{"t":{"dims":["x","y"],"data":[[1.0,0.0],[0.0,1.0]],"attrs":{"units":"K"}}}}',
    ),
    ("astropy.units", "quantity", lambda u: 3.5 * u.km, "3.5 km"),
    ("astropy.units", "quantities", lambda u: [1 * u.m, 2 * u.m / u.s], "- 1.0 m\n- 2.0 m / s"),
    ("astropy.units", "array", lambda u: [1, 2] * u.km, '{"values":[1.0,2.0],"unit":"km"}'),
    ("astropy.units", "unit", lambda u: u.m / u.s, "m / s"),
    (
        "astropy.table",
        "table",
        lambda t: t.Table({"a": t.Column(range(200), unit="km")}),
        "a [km]\n" + "".join(f"{n}\n" for n in range(200)),
    ),
    (
        "astropy.table",
        "quantities",
        lambda t: t.QTable({"a": [1, 2] * library("astropy.units").km, "b": ["x", "y"]}),
        "a [km],b\n1.0,x\n2.0,y\n",
    ),
    ("astropy.table", "masked", lambda t: t.Table({"a": np.ma.array([1, 2], mask=[0, 1]), "b": [1, 2]}), "a,b\n1,1\n,2\n"),
    ("astropy.table", "row", lambda t: t.Table({"a": t.Column([1], unit="s")})[0], '{"a":"1 s"}'),
    ("astropy.table", "column", lambda t: t.Table({"a": [1]})["a"], '{"a":[1]}'),
    (
        "astropy.time",
        "time",
        lambda t: t.Time("2024-01-01T00:00:00.123456789"),
        "2024-01-01 00:00:00.123456789 UTC",
    ),
    ("pint", "quantity", lambda p: 3.5 * p.UnitRegistry().km, "3.5 km"),
    ("pint", "within", lambda p: {"d": 3.5 * p.UnitRegistry().km}, '{"d":"3.5 km"}'),
    (
        "pint",
        "array",
        lambda p: np.array([1, 2]) * p.UnitRegistry().meter,
        '{"values":[1,2],"unit":"m"}',
    ),
    ("pint", "degrees", lambda p: p.UnitRegistry().Quantity(20, "degC"), "20 °C"),
    (
        "scipy.sparse",
        "matrix",
        lambda sp: sp.csr_matrix([[0, 1.5], [2, 0]]),
        '{"shape":[2,2],"entries":[[0,1,1.5],[1,0,2.0]]}',
    ),
    (
        "geopandas",
        "frame",
        lambda g: g.GeoDataFrame({"n": ["a"]}, geometry=g.points_from_xy([0.1], [2]), crs=4326),
        "n,geometry [EPSG:4326]\na,POINT (0.1 2)\n",
    ),
    (
        "geopandas",
        "series",
        lambda g: g.GeoSeries(g.points_from_xy([1], [2]), crs=3857),
        "[EPSG:3857]\nPOINT (1 2)\n",
    ),
    ("attrs", "object", lambda a: a.make_class("A", ["x", "y"])(1, [2]), '{"x":1,"y":[2]}'),
    ("msgspec", "object", lambda m: m.defstruct("S", ["x", "y"])(1, ["b"]), '{"x":1,"y":["b"]}'),
    ("sympy", "expression", lambda s: [s.Symbol("x") ** 2, s.Rational(1, 3)], "- x**2\n- 1/3"),
    (
        "sympy",
        "floats",
        lambda s: [(0.1 + 0.2) * s.Symbol("x"), s.Float("0.1", 40), s.Matrix([[0.1, -2e-10]])],
        "- 0.30000000000000004*x\n- 0.1\n- Matrix([[0.1, -2.0e-10]])",
    ),
    (
        "plotly.graph_objects",
        "traces",
        lambda g: heatmap(g).data,
        '[{"x":[0.1,2.0],"z":[[1,2],[3,4]],"type":"heatmap"}]',
    ),
    (
        "plotly.graph_objects",
        "to_dict",  # where arrays are base64 since plotly 6
        lambda g: heatmap(g).to_dict()["data"],
        '[{"x":[0.1,2.0],"z":[[1,2],[3,4]],"type":"heatmap"}]',
    ),
    ("sklearn.datasets", "bunch", lambda s: s.load_iris().target_names, '["setosa","versicolor","virginica"]'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "build", "text"),
    [(row[0], *row[2:]) for row in SCIENCE],
    ids=[f"{row[0]} {row[1]}" for row in SCIENCE],
)
def test_scientific_libraries(name: str, build: Build, text: str) -> None:
    """Graphs, labelled arrays, quantities, sparse matrices, maps and records go in whole."""
    assert squeezed(to_text(build(library(name)))) == squeezed(text)


def test_a_summary_is_a_text() -> None:
    """A fitted model is refused with the way out, and its summary goes in."""
    sm = library("statsmodels.api")
    steps = np.arange(20.0)
    fitted = sm.OLS(steps**2, sm.add_constant(steps)).fit()
    with pytest.raises(BadInput, match=r"put in its \.summary\(\)"):
        to_text(fitted)
    assert "R-squared" in to_text(fitted.summary())


def delayed(dask: Any) -> Any:
    return dask.delayed(len)("a")


REFUSED: list[tuple[str, str, Build, str]] = [
    ("polars", "lazy", lambda p: p.LazyFrame({"a": [1]}), r"put in its \.collect\(\)"),
    ("polars", "expression", lambda p: p.col("a"), r"put in what \.select\(\) gives"),
    ("ibis", "column", lambda i: i.memtable({"a": [1]}).a, r"put in its \.to_pandas\(\)"),
    ("pandas", "groups", lambda p: p.DataFrame({"a": [1]}).groupby("a"), r"put in its \.mean\(\)"),
    ("altair", "chart", lambda a: a.Chart(), r"--file, or put in its \.to_dict\(\)"),
    ("plotly.graph_objects", "figure", lambda g: g.Figure(), r"--file, or put in its \.data"),
    ("sklearn.linear_model", "estimator", lambda s: s.LinearRegression(), r"put in its \.get_params\(\)"),
    ("matplotlib.figure", "figure", lambda f: f.Figure(), r"--file \$NAME attaches an image"),
    ("PIL.Image", "image", lambda i: i.new("L", (1, 1)), r"--file \$NAME attaches it as an image"),
    ("duckdb", "blob", lambda d: d.sql("select 'x'::blob as b"), r"^\.b\[0\]: a bytes has no text"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:The 'future.infer_string' option")  # ibis 12 on pandas 3
@pytest.mark.parametrize(
    ("name", "build", "told"),
    [(row[0], *row[2:]) for row in REFUSED],
    ids=[f"{row[0]} {row[1]}" for row in REFUSED],
)
def test_what_has_no_whole_text(name: str, build: Build, told: str) -> None:
    """Lazy tables, charts, models and bytes are refused in one line that names the way out."""
    value = build(library(name))
    with pytest.raises(BadInput, match=told) as caught:
        to_text(value)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"^\.k\[1\]"):
        to_text({"k": [0, value]})


def test_a_text_that_a_library_may_cut_is_not_asked_for() -> None:
    """A class of an installed package that is not known is refused, a user's own is not."""
    generator = np.random.default_rng(0)
    with pytest.raises(BadInput, match=r"teach bgmagic\.to_text its class"):
        to_text(generator)

    class Own:
        def __str__(self) -> str:
            return "my own text"

        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)  # nothing is asked of it that its class has not

    assert to_text([Own()]) == "- my own text"


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ([1, 2, 3, Point(1, b"x")], "[3].blob"),
        ({"a b": {"c": [b"x"]}}, "['a b'].c[0]"),
        ({1: b"x"}, "[1]"),
        ([Pair(1, len)], "[0].b"),
        ([iter([1])], "[0]"),
    ],
)
def test_a_place_in_the_depth(value: Any, place: str) -> None:
    """What has no text is found by its place in the value."""
    with pytest.raises(NoText) as caught:
        to_text(value)
    assert caught.value.place == place
    assert str(caught.value).startswith(f"{place}: ")


def test_a_place_in_a_table() -> None:
    """A cell that has no text is found by its column and row."""
    pandas = library("pandas")
    with pytest.raises(BadInput, match=r"^\['a b'\]\[1\]\.k: a bytes"):
        to_text(pandas.DataFrame({"a b": [1, {"k": b"x"}]}))


def test_what_never_ends() -> None:
    """An endless iterator and a list that holds itself are refused instead of filling the memory."""
    with pytest.raises(BadInput, match="or never ends"):
        to_text(itertools.count())
    itself: list[Any] = []
    itself.append({"k": itself})
    with pytest.raises(BadInput, match="it holds itself"):
        to_text(itself)


class Endless(Set[int]):
    """A set that says it is short."""

    def __contains__(self, _: object) -> bool:
        return True

    def __iter__(self) -> Iterator[int]:
        return itertools.count()

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize(
    "build",
    [
        lambda: range(10**12),
        lambda: np.broadcast_to(0.5, (10**5, 10**5)),
        lambda: {"k": [np.broadcast_to(np.int8(0), (10**9,))]},
        lambda: library("pandas").RangeIndex(10**10),
        lambda: library("xarray").Dataset({"a": ("x", np.broadcast_to(0.5, (10**9,)))}),
    ],
    ids=["range", "array", "array within", "pandas", "xarray"],
)
def test_more_values_than_a_prompt_holds(build: Callable[[], Any]) -> None:
    """A value of far too many parts is refused before it is read, which would take all memory."""
    with pytest.raises(BadInput, match=r"values; a prompt holds at most 5,000,000: put in a part"):
        to_text(build())


def test_more_values_in_all_than_a_prompt_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays that are small enough each, as a model's weights, are counted together, for each text."""
    monkeypatch.setattr("bgmagic.prompts.arrays.MOST_CELLS", 1000)
    weights = {"a": np.zeros(600), "b": [np.zeros((20, 20)), np.zeros(1)]}
    with pytest.raises(BadInput, match=r"^\.b\[1\]: it has 1,001 values; a prompt holds at most"):
        to_text(weights)
    weights["b"].pop()  # type: ignore[attr-defined]
    assert to_text(weights) == to_text(weights)


def test_a_set_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What says that it is short, and never ends, is not cut off but refused."""
    monkeypatch.setattr("bgmagic.prompts.to_text.MOST_CELLS", 1000)
    with pytest.raises(BadInput, match="more than 1,000 values, or never ends"):
        to_text(Endless())


class Molecule:
    def __init__(self, formula: str) -> None:
        self.formula = formula


class Ion(Molecule):
    pass


@pytest.fixture
def taught() -> Iterator[None]:
    """`bgmagic.to_text` knows molecules."""
    known = dict(bgmagic.to_text.registry)

    @bgmagic.to_text.register
    def _(value: Molecule) -> str:
        return f"molecule {value.formula}"

    yield
    assert set(bgmagic.to_text.registry) - set(known) == {Molecule}
    # There is no way to unregister; what is registered for `object` is what all others get.
    bgmagic.to_text.register(Molecule, known[object])


@pytest.mark.usefixtures("taught")
def test_types_that_users_teach() -> None:
    """A type that was registered has its text alone and in lists, dicts and tables; so do subclasses, and the class when its cell was run again."""
    water, ion = Molecule("H2O"), Ion("Na+")
    again = type("Molecule", (), {"__module__": __name__, "formula": "CO2"})
    assert to_text([again(), type("Gas", (again,), {})()]) == "- molecule CO2\n- molecule CO2"
    assert to_text(water) == "molecule H2O"
    assert to_text([water, ion]) == "- molecule H2O\n- molecule Na+"
    assert json.loads(to_text({"k": [{"m": ion}]})) == {"k": [{"m": "molecule Na+"}]}
    pandas = library("pandas")
    assert to_text(pandas.DataFrame({"m": [water]})) == "m\nmolecule H2O\n"


def test_what_was_not_taught() -> None:
    """Without that, the same object has no text."""
    with pytest.raises(BadInput, match="has no text of its own"):
        to_text(Molecule("H2O"))


# Read back.

numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(), st.none())
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)


def csv_rows(text: str) -> list[list[str | None]]:
    """Our own CSV read strictly: an empty cell is None, `""` an empty text."""
    rows: list[list[str | None]] = []
    row: list[str | None] = []
    at = 0
    while at < len(text):
        found = re.compile(r'("(?:[^"]|"")*"|[^",\n]*)(,|\n)').match(text, at)
        assert found is not None, text[at : at + 40]
        cell, at = found[1], found.end()
        row.append(cell[1:-1].replace('""', '"') if cell[:1] == '"' else cell or None)
        if found[2] == "\n":
            rows.append(row)
            row = []
    assert not row
    return rows


def same(number: float | None, text: str | None) -> bool:
    if number is None or text is None:
        return number is None and text is None
    return float(text) == number or (number != number and text == "nan")


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(
            st.tuples(st.lists(texts, min_size=n, max_size=n), st.lists(numbers, min_size=n, max_size=n)),
            min_size=1,
            max_size=4,
        )
    )
)  # fmt: skip
def test_tables_read_back(rows: list[tuple[list[str], list[float | None]]]) -> None:
    """Whatever texts and numbers a table of polars has, its CSV says the same."""
    polars = library("polars")
    wide = len(rows[0][0])
    names = [f"s{n}" for n in range(wide)] + [f"n{n}" for n in range(wide)]
    columns = [[row[0][n] for row in rows] for n in range(wide)]
    columns += [
        [None if x is None else float(x) for x in (row[1][n] for row in rows)] for n in range(wide)
    ]  # type: ignore[misc]
    schema = {name: polars.String if name[0] == "s" else polars.Float64 for name in names}
    table = polars.DataFrame(dict(zip(names, columns, strict=True)), schema=schema)
    read = csv_rows(to_text(table))
    assert read[0] == names
    for line, (words, values) in zip(read[1:], rows, strict=True):
        assert line[:wide] == words
        assert all(map(same, values, line[wide:]))


@given(
    st.dictionaries(texts, st.lists(texts, min_size=2, max_size=2), min_size=1, max_size=3), texts
)
def test_pandas_tables_read_back(columns: dict[str, list[str]], name: str) -> None:
    """Whatever names and texts a table of pandas and its index have, its CSV says the same."""
    pandas = library("pandas")
    index = pandas.Index(["a", ""], name=name or "i", dtype=object)
    table = pandas.DataFrame(columns, index=index, dtype=object)
    read = csv_rows(to_text(table))
    assert read[0] == [name or "i", *columns]
    assert [row[0] for row in read[1:]] == ["a", ""]
    assert [row[1:] for row in read[1:]] == [
        list(row) for row in zip(*columns.values(), strict=True)
    ]


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
)  # fmt: skip


@given(st.dictionaries(texts, plain))
def test_json_reads_back(value: dict[str, Any]) -> None:
    """Whatever a dict holds, its JSON, read strictly, is the dict again."""
    assert json.loads(to_text(value), parse_constant=pytest.fail) == value


@given(st.floats(width=32))
def test_numbers_of_32_bits_read_back(number: float) -> None:
    """A float32 has the digits of NumPy's own and reads back as the same 32 bits."""
    said = to_text(np.float32(number))
    assert np.float32(said) == np.float32(number) or number != number
    polars = library("polars")
    said = (
        csv_rows(
            to_text(
                polars.DataFrame({"a": polars.Series([number], dtype=polars.Float32), "b": [1]})
            )
        )[1][0]
        or ""
    )
    assert np.float32(said) == np.float32(number) or number != number
    assert len(said.strip("-+.e0")) <= len(f"{number:.9g}") + 1


@given(st.integers(-(2**62), 2**62))
def test_durations_read_back(count: int) -> None:
    """A duration of nanoseconds says each of them."""
    said = to_text(np.timedelta64(count, "ns"))
    sizes = {"d": 86400, "h": 3600, "min": 60, "s": 1}
    parts = re.findall(r"([\d.]+) (d|h|min|s)", said)
    total = sum(decimal.Decimal(number) * sizes[unit] for number, unit in parts)
    assert int(total * 10**9) == abs(count)
    assert said.startswith("-") == (count < 0)


def test_only_numbers_stand_close() -> None:
    """A matrix of 100 x 20 takes at most a tenth more than as CSV, and stays JSON."""
    matrix = np.random.default_rng(0).integers(0, 1000, (100, 20))
    said = to_text(matrix)
    csv = "".join(f"{','.join(map(str, row))}\n" for row in matrix.tolist())
    assert json.loads(said) == matrix.tolist()
    assert len(said) <= 1.1 * len(csv)
