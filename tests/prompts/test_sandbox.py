"""What expressions may call, and how much they may make."""

from __future__ import annotations

import datetime
import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bgmagic.prompts.expressions
from bgmagic.errors import BadInput
from bgmagic.prompts.template import compile_template
from tests.prompts.libraries import library


def filled(text: str, /, **values: Any) -> str:
    return compile_template(text).render(values).text


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("text.upper().replace('A', 'x').split('-')[0]", "xB"),
        ("'{:>3}|{}'.format(7, text)", "  7|Ab-c"),
        ("'%03d' % 7", "007"),
        ("text.center(6) ~ '!'", " Ab-c !"),
        ("d.get('k') ~ (d.items() | list | length)", "11"),
        ("names.index('b') + names.count('a')", "2"),
        ("day.isoformat() ~ day.strftime('/%Y')", "2024-01-02/2024"),
        ("(2.0).is_integer()", "True"),
        ("(names * 2) | join(',')", "a,b,a,b"),
        ("2 ** 10", "1024"),
        ("array.mean().round(1)", "2.0"),
        ("(array * 2).tolist()", "- 2\n- 4\n- 6"),
        ("frame.head(1).x.sum()", "1"),
        ("frame.sort_values('x', ascending=false).x.tolist()[0]", "3"),
        ("frame.groupby('x').size().sum()", "3"),
        ("frame.to_csv(index=false)", "x\n1\n2\n3\n"),
        ("frame.describe().x['max']", "3.0"),
        ("words.str.upper().tolist()", "- A\n- B"),
        ("lazy.collect()", "a\n1\n"),
        ("names | map('upper') | join", "AB"),
        ("'a b' | replace(' ', '-') | indent(2)", "a-b"),
        ("'%s %s' | format(1, 2)", "1 2"),
        ("[1, 2, 3] | batch(2) | list | length", "2"),
    ],
)
def test_what_reads_is_called(expression: str, text: str) -> None:
    """Methods that read are called on texts, dicts, dates, arrays and tables, filters as ever."""
    pandas, polars = library("pandas"), library("polars")
    values = {
        "text": "Ab-c",
        "d": {"k": 1},
        "names": ["a", "b"],
        "day": datetime.date(2024, 1, 2),
        "array": np.array([1, 2, 3]),
        "frame": pandas.DataFrame({"x": [1, 2, 3]}),
        "words": pandas.Series(["a", "b"]),
        "lazy": polars.LazyFrame({"a": [1]}),
    }
    assert filled(f"{{{{ {expression} }}}}", **values) == text


class Lamp:
    on = False

    def switch(self) -> str:
        self.on = True
        return "on"

    head = switch  # the name of a method that reads, elsewhere


@pytest.mark.parametrize(
    "expression",
    [
        "lamp.switch()",
        "lamp.head()",
        "lamp()",
        "function(lamp)",
        "kind(1)",
        "sorted(names, key=function)",
        "numpy.save('x', array)",
        "numpy.mean(array)",
        "array.sort()",
        "stars.round(0)",
        "relation.select('nextval(1)')",
        "array.resize(0)",
        "array.tofile('x')",
        "array.cumsum(none, none, array)",
        "array.cumsum(out=array)",
        "frame.to_csv('x.csv')",
        "frame.to_csv(path_or_buf='x.csv')",
        "frame.to_pickle('x')",
        "frame.pop('x')",
        "frame.drop(columns='x', inplace=true)",
        "frame.eval('x = 9')",
        "frame.apply(function)",
        "frame.groupby(function)",
        "frame.x.replace(1, 2, inplace=true)",
        "names.append(1)",
        "d.update(a=1)",
        "d.fromkeys('ab')",
        "'{0.__class__}'.format(lamp)",
    ],
)
def test_what_may_write_is_not_called(
    expression: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is not known to read is refused in one line, and nothing has changed."""
    monkeypatch.chdir(tmp_path)
    frame = library("pandas").DataFrame({"x": [3, 1, 2]})
    stars, relation = (
        library("astropy.table").Table({"x": [1.5]}),
        library("duckdb").sql("select 1"),
    )
    lamp, array, names, d = Lamp(), np.array([3, 1, 2]), ["a"], {"k": 1}
    values = {"lamp": lamp, "function": lambda lamp: lamp.switch(), "kind": Lamp, "numpy": np}
    values |= {"stars": stars, "relation": relation}
    with pytest.raises(BadInput) as caught:
        filled(f"{{{{ {expression} }}}}", **values, frame=frame, array=array, names=names, d=d)
    assert re.search("put in {{ y }}|unsafe|can't be called", str(caught.value))
    assert "\n" not in str(caught.value)
    assert (lamp.on, array.tolist(), names, d) == (False, [3, 1, 2], ["a"], {"k": 1})
    assert frame.to_dict("list") == {"x": [3, 1, 2]}
    assert stars["x"].tolist() == [1.5]
    assert list(tmp_path.iterdir()) == []


def test_a_column_that_hides_a_method() -> None:
    """Calling a method that a column hides is refused with the reason."""
    frame = library("pandas").DataFrame({"count": [1]})
    with pytest.raises(BadInput, match="a Series can't be called; a column goes before a method"):
        filled("{{ frame.count() }}", frame=frame)


@pytest.mark.parametrize(
    "expression",
    [
        "'x' * 10 ** 10",
        "10 ** 10 * 'x'",
        "names * 10 ** 9",
        "2 ** (10 ** 9)",
        "(10 ** 20000) * (10 ** 20000)",
        "text.replace('x', text)",
        "text | replace('x', text)",
        "text.join(many)",
        "many | join(text)",
        "text.center(10 ** 9)",
        "text | center(10 ** 9)",
        "[text] | map('center', 10 ** 9) | join",
        "'{:1000000000}'.format(1)",
        "'{:{w}}'.format(1, w=10 ** 9)",
        "'{x:{w}}'.format_map({'x': 1, 'w': 10 ** 9})",
        "'%1000000000d' % 1",
        "'%*d' % (10 ** 9, 1)",
        "'%1000000000d' | format(1)",
        "[1] | batch(10 ** 9, 0) | list",
        "[1] | slice(10 ** 9) | list",
        "'a\n' | indent(10 ** 9)",
        "counting | list",
        "counting",
        "counting | join",
        "sorted(counting)",
        "(text * 10) | wordwrap(1)",
        "text | wordwrap(10, wrapstring=text)",
        "('a\\n' * 10 ** 5) | indent(10 ** 3)",
        "('a\\n' * 10 ** 5) | indent(text)",
        "('\\t' * 10 ** 5).expandtabs(10 ** 3)",
        "many | tojson(indent=10 ** 9)",
        "many | map('center', 10 ** 4) | join",
        "('{0}' * 10 ** 4).format(text)",
        "('%(a)s' * 10 ** 4) % {'a': text}",
        "('%(a)s' * 10 ** 4) | format(a=text)",
        "('%(a (b))s' * 10 ** 4) % {'a (b)': text}",
        "sum([many] * 1000, [])",
        "([many] * 1000) | sum(start=[])",
        "[text] * 10 ** 4",
        "[[text] * 100] * 100",
        "{'a': [text] * 10 ** 4}",
    ],
)
def test_what_grows_has_a_bound(expression: str) -> None:
    """An expression of a few characters makes neither gigabytes nor an endless loop."""
    values = {
        "names": ["a"],
        "text": "x" * 100_000,
        "many": ["a"] * 10_000,
    }
    with pytest.raises(BadInput) as caught:
        filled(f"{{{{ {expression} }}}}", **values, counting=itertools.count())
    assert "\n" not in str(caught.value)
    assert not re.search("Error", str(caught.value))


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("sum([[1], [2, 3]], []) | tojson", "[1, 2, 3]"),
        ("sum(((1,), (2,)), ()) | tojson", "[1, 2]"),
        ("sum([1, 2], 3)", "6"),
        ("'%(a)s (%(b)s), %(c (d))s' % row", "1 (2), 3"),
        ("'%(a)s (%(b)s), %(c (d))s' | format(**row)", "1 (2), 3"),
        ("[{'a': [1]}, {'a': [2]}] | sum(attribute='a', start=[]) | tojson", "[1, 2]"),
        ("[{'a': 1}, {'a': 2}] | sum('a')", "3"),
        ("'ab cd' | wordwrap(2)", "ab\ncd"),
        ("'abcd' | wordwrap(2, wrapstring='/')", "ab/cd"),
        ("'a\\nb' | indent(2, true)", "  a\n  b"),
        ("[1] | tojson(indent=1)", "[\n 1\n]"),
        ("'a\\tb'.expandtabs(2)", "a b"),
        ("'%s, %(b)s' % {'b': 1}", "{'b': 1}, 1"),
        ("'%s %s' % ('a', 1)", "a 1"),
    ],
)
def test_what_has_a_bound_is_what_jinja_makes(expression: str, text: str) -> None:
    """What is bounded gives, within its bound, what Python and Jinja's own filter give; what else a row
    has counts for nothing."""
    row = {"a": 1, "b": 2, "c (d)": "3", "text": "x" * 30_000_000}
    assert filled(f"{{{{ {expression} }}}}", row=row) == text


@pytest.mark.parametrize("operator", ["+", "*", "/"])
def test_arrays_that_grow_have_a_bound(operator: str) -> None:
    """A column and a row of an array that make hundreds of millions of numbers are refused before."""
    line = np.arange(10_000.0)
    with pytest.raises(BadInput, match="this makes 100,000,000 numbers; at most"):
        filled(f"{{{{ column {operator} row }}}}", column=line[:, None], row=line[None])
    assert (
        filled("{{ column * row }}", column=line[:1, None], row=line[None, :2])
        == "[\n  [0.0,0.0]\n]"
    )


def test_a_result_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that no prompt holds is refused with its size; one that it holds goes in."""
    monkeypatch.setattr(bgmagic.prompts.expressions, "MOST_TEXT", 3_000_000)
    assert len(filled("{{ x }}", x="x" * 3_000_000)) == 3_000_000
    with pytest.raises(BadInput, match="it is 4 MB of text; a prompt holds at most 3"):
        filled("{{ x }}", x="x" * 4_000_000)


def test_the_place_is_named_as_in_the_cell() -> None:
    """What has no text within a value is named by the expression and the place in it."""
    with pytest.raises(
        BadInput, match=r"^line 2, \{\{ prices \}\}: prices\[1\]\.blob: a bytes has"
    ):
        filled("one\n{{ prices }}", prices=[1, {"blob": b"x"}])


@given(st.integers(-50, 50), st.integers(-50, 50), st.sampled_from(["+", "-", "*", "**"]))
def test_small_numbers_reckon_as_in_python(left: int, right: int, operator: str) -> None:
    """What stays small is what Python makes of it."""
    if operator == "**" and left == 0 and right < 0:
        return
    expected = eval(f"({left}) {operator} ({right})")
    assert filled(f"{{{{ a {operator} b }}}}", a=left, b=right) == str(expected)
