"""What a sweep asks: items, settings and samples, combined."""

from __future__ import annotations

import datetime
import itertools
import json
from typing import Any

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.errors import BadInput
from bgmagic.submission.settings import SubmitSettings
from bgmagic.sweeps.grid import KEPT_ITEM, ItemRow, grid, items_of, json_copy, read_axes
from tests.jobs.test_answer import json_values


class Rows:
    """A tensor as torch has them: it makes all of its rows before it gives one."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        assert self.count < 10, "all rows would be made"
        return iter([Row() for _ in range(self.count)])


class Row:
    shape = (2,)

    def __ne__(self, _: object) -> bool:
        raise AssertionError("it would be compared where it lies")

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        raise RuntimeError("it was donated")


def test_items_that_are_arrays() -> None:
    """Rows of a tensor are items; too many are refused before they are made; what the journal keeps of
    one costs no comparison on its device, and it may have no text."""
    items = items_of(Rows(2), "--each")
    assert len(items.values) == 2
    assert [json_copy(item) for item in items.values] == ["a Row", "a Row"]
    for count in (10**9, 10**30):
        with pytest.raises(BadInput, match="--each: it has more than 200,000 items"):
            items_of(Rows(count), "--each")


def test_items_of_everything_that_has_an_order() -> None:
    """Lists, tuples, ranges, generators, dicts, arrays, Series and the rows of a DataFrame are gone
    over in their order."""
    table = pandas.DataFrame({"q": ["a", "b"], "count": [1, 2]}, index=[7, 9])
    assert items_of(["a", "b"], "--each").values == ("a", "b")
    assert items_of((n for n in (1, 2)), "--each").values == (1, 2)
    assert items_of(range(3), "--each").values == (0, 1, 2)
    assert items_of(numpy.array([1.5, 2.5]), "--each").values == (1.5, 2.5)
    assert items_of(table["q"].reset_index(drop=True), "--each").kind == "list"
    labelled = items_of(table["q"], "--each")
    assert (labelled.kind, labelled.keys, labelled.values) == ("dict", (7, 9), ("a", "b"))
    keyed = items_of({"x": "a", "y": "b"}, "--each")
    assert (keyed.kind, keyed.keys, keyed.values) == ("dict", ("x", "y"), ("a", "b"))
    rows = items_of(table, "--each")
    assert rows.kind == "rows"
    assert rows.values == ({"q": "a", "count": 1}, {"q": "b", "count": 2})
    assert items_of([{"q": "a"}], "--each").kind == "rows"


def test_views_of_a_dict_have_an_order() -> None:
    """`d.items()`, `d.keys()` and `d.values()` are gone over in the dict's order, though two are sets."""
    table = {"x": "a", "y": "b"}
    assert items_of(table.items(), "--each").values == (("x", "a"), ("y", "b"))
    assert items_of(table.keys(), "--each").values == ("x", "y")
    assert items_of(table.values(), "--each").values == ("a", "b")


def test_what_fails_on_the_way() -> None:
    """An array without dimensions is no list, and a generator that fails is one line with its error."""
    with pytest.raises(BadInput, match=r"^--each must be a list"):
        items_of(numpy.array(5), "--each")
    with pytest.raises(BadInput, match=r"^--each: going over it failed with ZeroDivisionError: "):
        items_of((1 / n for n in (1, 0)), "--each")


@pytest.mark.parametrize(
    "given", ["text", b"bytes", 7, None, {"a"}, [], {}, object()], ids=lambda v: type(v).__name__
)
def test_items_of_what_has_none(given: object) -> None:
    """Text, a number, a set and whatever is empty are refused in one line that says what is allowed."""
    with pytest.raises(BadInput, match=r"^--each.*(must be a list|is empty)"):
        items_of(given, "--each")


def test_what_never_ends() -> None:
    """An endless iterator is refused instead of filling the memory."""
    with pytest.raises(BadInput, match="or never ends"):
        items_of(itertools.count(), "--each")
    with pytest.raises(BadInput, match=r"^--sweep top_p: .* or never ends"):
        read_axes({"top_p": itertools.count()}, "--sweep")
    with pytest.raises(
        BadInput, match=r"^--sweep top_p: going over it failed with ZeroDivisionError"
    ):
        read_axes({"top_p": (1 / n for n in (1, 0))}, "--sweep")


def test_jobs_without_number() -> None:
    """More jobs than anybody sends are refused at once, however they come about."""
    axes = read_axes({f"a.{n}": list(range(100)) for n in range(6)}, "--sweep")
    for items, axis, samples in ((1, (), 10**30), (1000, axes[:1], 11), (1, axes, 1)):
        with pytest.raises(BadInput, match=r"jobs, and one sweep has at most 1,000,000$"):
            grid(SubmitSettings(), items, axis, samples)


def test_columns_of_one_name() -> None:
    """Two columns of one name are refused: which of them an item's would be is not known."""
    table = pandas.DataFrame([[1, 2]], columns=["q", "q"])
    with pytest.raises(BadInput, match=r"^--each: two columns are called 'q'; rename one$"):
        items_of(table, "--each")


def test_what_json_has_no_word_for() -> None:
    """Numbers of NumPy's are kept as numbers, dates and the like as their text, wherever they stand;
    what is missing, as NaN and NaT, is None."""
    day = datetime.date(2026, 1, 2)
    assert json_copy(numpy.int64(3)) == 3
    assert type(json_copy(numpy.float32(1.5))) is float
    assert json_copy(day) == "2026-01-02"
    assert json_copy(ItemRow(n=numpy.int64(3), at=[day], none=float("nan"), raw=b"x")) == {
        "n": 3, "at": ["2026-01-02"], "none": None, "raw": "b'x'",
    }  # fmt: skip
    missing = [float("nan"), numpy.float32("nan"), numpy.datetime64("NaT"), pandas.NaT, pandas.NA]
    assert [json_copy(value) for value in missing] == [None] * 5
    assert json_copy(ItemRow(at=pandas.NaT, x=1)) == {"at": None, "x": 1}
    assert json_copy(numpy.array([1.5, 2.5])) == "[1.5 2.5]"


def test_a_rows_columns_come_before_a_dicts_methods() -> None:
    """A column called `count`, `values` or `items` is that column, as an attribute too."""
    row = ItemRow(count=1, values=2, other=3)
    assert (row.count, row.values, row["count"]) == (1, 2, 1)
    assert list(row.keys()) == ["count", "values", "other"]
    assert row.get("nothing") is None


def test_axes_are_read_as_their_options_are() -> None:
    """Settings are checked like the options of their names; other fields are JSON or text; a list in
    JSON, or one from Python, may hold what has commas."""
    read = dict(
        read_axes(
            [
                ("effort", "low, high"),
                ("max_output_tokens", "1000,2000"),
                ("mode", "standard,pro"),
                ("temperature", "0,0.5"),
                ("reasoning.summary", "auto,detailed"),
                ("instructions", ["Be brief, please.", "Be long."]),
                ("service_tier", '["a,b", null]'),
            ],
            "--sweep",
        )
    )
    assert read["effort"] == ("low", "high")
    assert read["max_output_tokens"] == (1000, 2000)
    assert read["temperature"] == (0, 0.5)
    assert read["reasoning.summary"] == ("auto", "detailed")
    assert read["instructions"] == ("Be brief, please.", "Be long.")
    assert read["service_tier"] == ("a,b", None)


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([("effort", "low,hihg")], "not one of"),
        ([("efort", "low,high")], "did you mean effort"),
        ([("out", "a,b")], "can't be swept"),
        ([("poll", "1,2")], "can't be swept"),
        ([("effort", "")], "no values"),
        ([("effort", "low,low")], "twice"),
        ([("effort", "low"), ("effort", "high")], "twice"),
        ([("temperature", "[0, 1")], "no JSON list"),
        ([("temperature", 3)], "list of values"),
        ([("model", {"a"})], "list of values"),
    ],
)
def test_axes_that_can_not_be_swept(pairs: Any, says: str) -> None:
    """A wrong name or value is one line that names it."""
    with pytest.raises(BadInput, match=says) as caught:
        read_axes(pairs, "--sweep")
    assert "\n" not in str(caught.value)


@given(
    items=st.integers(1, 4),
    efforts=st.lists(st.sampled_from(["low", "medium", "high"]), min_size=1, unique=True),
    heats=st.lists(st.integers(0, 5), unique=True, max_size=3),
    samples=st.integers(1, 4),
)
def test_every_combination_once_and_in_order(
    items: int, efforts: list[str], heats: list[int], samples: int
) -> None:
    """Item by item, setting by setting, sample by sample, each once; the settings are in the job's
    own, request fields among its params."""
    axes = [("effort", efforts)] + ([("temperature", heats)] if heats else [])
    made = grid(SubmitSettings(param=(("top_p", 1),)), items, read_axes(axes, "--sweep"), samples)
    assert len(made) == items * len(efforts) * max(1, len(heats)) * samples
    told = [(point.item, point.swept, point.sample) for point in made]
    assert len(set(told)) == len(told)
    assert [point.item for point in made] == sorted(point.item for point in made)
    for point in made:
        swept = dict(point.swept)
        assert point.settings.effort == swept["effort"]
        assert dict(point.settings.param).get("temperature") == swept.get("temperature")
        assert dict(point.settings.param)["top_p"] == 1


@given(st.one_of(json_values, st.text(), st.binary(), st.builds(object), st.just(float("nan"))))
def test_what_is_kept_of_an_item_is_json(value: Any) -> None:
    """Whatever an item is, what the journal keeps of it is JSON of a bounded length; a short one is
    kept as it is."""
    told = json.dumps(json_copy(value), allow_nan=False)
    assert len(told) <= 8 * KEPT_ITEM
    if isinstance(value, str | int) and len(str(value)) < 100:
        assert json_copy(value) == value
