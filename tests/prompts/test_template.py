"""The prompt's {{ expressions }}: what they become, and what they refuse."""

from __future__ import annotations

import dataclasses
import json
from collections import UserDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from bgmagic.api.request import Request
from bgmagic.errors import BadInput
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.outcome import detach
from bgmagic.jobs.record import JobRecord
from bgmagic.prompts.template import compile_template
from bgmagic.prompts.to_text import to_text


def filled(text: str, /, **values: Any) -> str:
    return compile_template(text).render(values).text


@given(st.text().filter(lambda text: "{{" not in text))
def test_text_without_double_braces_arrives_unchanged(text: str) -> None:
    """Any text without ``{{`` arrives as it was: JSON, LaTeX, code, line ends, control characters."""
    assert filled(text) == text


@given(st.text(), st.text().filter(lambda text: not text.endswith("{")), st.text())
def test_values_are_inserted_exactly(value: str, before: str, after: str) -> None:
    """Any text in a variable goes in to the letter, its own braces included."""
    before, after = before.replace("{{", "{"), after.replace("{{", "{")
    assert filled(f"{before}{{{{ x }}}}{after}", x=value) == f"{before}{value}{after}"


class Absent:
    """Stands for what is not there, as Flask's `request` does outside of a request."""

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        raise RuntimeError("working outside of a request")


@pytest.mark.parametrize("text", ["{{ x }}", "{{ [x] }}", "{{ {1: x} }}"])
def test_a_stand_in_for_nothing_is_one_line(text: str) -> None:
    """A variable that raises whatever is asked of it, its class included, is one line."""
    with pytest.raises(BadInput, match=r"^line 1, \{\{ .*working outside of a request"):
        filled(text, x=Absent())


@pytest.mark.parametrize(
    ("text", "become"),
    [
        ("{{ x | upper }}", "AB"),
        ("{{ n * 2 }} {{ n }}", "6 3"),
        ("{{ names | map('upper') | join(', ') }}", "U, V"),
        ("{{ len(names) }} {{ max(3, n) }} {{ round(2.4) }} {{ sorted(names)[0] }}", "2 3 2 u"),
        ("{{ sum([1, 2]) }} {{ min(1, 2) }} {{ str(n) + '!' }}", "3 1 3!"),
        ("{{ {'a': {'b': 1}}['a']['b'] }}", "1"),
        ("{{ {'a': 1}}}", '{\n  "a": 1\n}'),
        ("{{ '}} {{' }}", "}} {{"),
        ("{{ x if n > 2 else names }}", "ab"),
        ("{{ d.k }}{{ d['k'] }}", "11"),
        ('{"a": {"b": 1}} \\frac{a}{b} {% if %} {# #} {x}', None),
        ("{{ {'ü': '<'} | tojson }}", '{"ü": "<"}'),
    ],
)
def test_expressions(text: str, become: str | None) -> None:
    """Expressions, filters and Python's own functions work; single braces and blocks are text."""
    values = {"x": "ab", "n": 3, "names": ["u", "v"], "d": {"k": 1}}
    assert filled(text, **values) == (text if become is None else become)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("one\n{{ critque }}", "line 2, {{ critque }}: there is no variable 'critque'"),
        ("{{ critque }}", "did you mean critique?"),
        ("\\frac{{a}}{b}", "a literal {{ needs --raw"),
        ("{{ critique", "this {{ has no }}"),
        ("{{}}", "this is no expression"),
        ("{{ a b }}", "this is no expression"),
        ("{{ x | nosuch }}", "nosuch"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "line 1, {{ ((("),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ critique.__class__ }}", "unsafe"),
        ("{{ names.append(1) }}", "unsafe"),
        ("{{ critique.nosuch }}", "has no attribute 'nosuch'"),
        ("{{ open('x') }}", "there is no variable 'open'"),
        ("{{ range(9) }}", "there is no variable 'range'"),
        ("{{ plain }}", "an object has no text of its own"),
        ("{{ function }}", "has no text of its own"),
        ("{{ itself }}", "it holds itself"),
        ("{{ self }}", "Jinja has a `self` of its own"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    """What can't be filled in is one line that quotes the place."""
    itself: list[Any] = []
    itself.append(itself)
    values = {"critique": "c", "names": [], "plain": object(), "function": len, "itself": itself}
    with pytest.raises(BadInput) as caught:
        filled(text, **values)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


class Broken(Mapping[str, Any]):
    """What a closed shelf or a lost connection is like."""

    def __getitem__(self, key: str) -> Any:
        raise ValueError("it is\nclosed")

    def __iter__(self) -> Iterator[str]:
        return iter("ab")

    def __len__(self) -> int:
        return 2


def test_objects_that_break() -> None:
    """An object of the user's that raises while it is read is one line."""
    with pytest.raises(BadInput, match=r"^line 1, \{\{ x \}\}: ValueError: it is closed$"):
        filled("{{ x }}", x=Broken())


class Folded(UserDict[str, Any]):
    """A mapping in which "Key" and "KEY" are one, as HTTP's headers are."""

    def __getitem__(self, key: str) -> Any:
        return self.data[key.lower()]

    def __contains__(self, key: object) -> bool:
        return str(key).lower() in self.data


def test_parts_of_what_holds_answers() -> None:
    """Where a mapping finds a value by more than its keys, an answer in it goes in by these, too; a tuple
    of answers is one."""
    held = Folded(key=Answer("said", {}), other="v")
    assert filled("{{ h.key }}, {{ h['KEY'] }}, {{ h['Other'] }}", h=held) == "said, said, v"
    assert filled("{{ t[:1] + ('b',) }}", t=(Answer("a", {}), None)) == "- a\n- b"


@pytest.mark.parametrize("name", ["result", "loop", "text", "list", "dict", "item", "job", "str"])
def test_names_of_variables(name: str) -> None:
    """A variable may be called as a function or whatever else Jinja knows."""
    assert filled(f"{{{{ {name} }}}} {{{{ {name} ~ '!' }}}}", **{name: "v"}) == "v v!"


@pytest.mark.parametrize(
    "expression", ["x", "x.held", "x.held ~ '!'", "x.held | upper", "[x] | map(attribute='held')"]
)
def test_a_status_never_stands_for_an_answer(expression: str) -> None:
    """A job that an object holds somewhere inside is refused, running or not: its status is no answer."""
    record = JobRecord(request=Request("{}"), server="", submitted_at=0.0, name="critique")
    job = Job(record, None)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="job 'critique' is waiting and can't go into a prompt"):
        filled(f"{{{{ {expression} }}}}", x=Holder(job))
    detach(job, "it is late")
    with pytest.raises(BadInput, match="job 'critique' is detached and can't go into a prompt"):
        filled(f"{{{{ {expression} }}}}", x=Holder(job))
    assert repr(job).startswith("<Job critique detached")


def test_a_status_is_in_no_table() -> None:
    """A table that holds a job is refused as well."""
    pandas = pytest.importorskip("pandas")
    job = Job(JobRecord(request=Request("{}"), server="", submitted_at=0.0), None)  # type: ignore[arg-type]
    for table in (pandas.DataFrame({"a": [job]}), pandas.Series([job])):
        with pytest.raises(BadInput, match="can't go into a prompt"):
            filled("{{ table }}", table=table)


@dataclasses.dataclass
class Holder:
    held: Job


@given(st.text(alphabet="{}()[]'\"\\ abx.|+\n", max_size=40))
def test_whatever_is_written_is_filled_or_refused(text: str) -> None:
    """Whatever stands in a cell either becomes text or is refused in one line."""
    refused = ""
    try:
        assert isinstance(filled(text, a="1", b=["2"], x={}), str)
    except BadInput as error:
        refused = str(error)
    assert "\n" not in refused


@dataclasses.dataclass
class Point:
    x: int
    where: Path


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as\nit is ", "as\nit is "),
        (Answer("said", {}), "said"),
        (None, "None"),
        (True, "True"),
        (0.5, "0.5"),
        (["a", "b", 3], "- a\n- b\n- 3"),
        ((), ""),
        ({"b"}, "- b"),
        (["one\ntwo", "b"], "<item 1>\none\ntwo\n</item 1>\n<item 2>\nb\n</item 2>"),
        ({"k": [1, "ü"]}, '{\n  "k": [\n    1,\n    "ü"\n  ]\n}'),
        ([{"k": 1}], '[\n  {\n    "k": 1\n  }\n]'),
        (Point(1, Path("a")), '{\n  "x": 1,\n  "where": "a"\n}'),
        (iter([1, 2]), "- 1\n- 2"),
        ({1: "a", "1": "b"}, """{\n  "1": "a",\n  "'1'": "b"\n}"""),
    ],
)
def test_values_to_text(value: Any, text: str) -> None:
    """Lists, dicts and objects become text as the help says."""
    assert to_text(value) == text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (json, "a module has no text of its own"),
        ({"k": [Image.new("L", (1, 1))]}, "an Image has no text of its own"),
        (Figure(), r"a Figure has no text of its own; --file \$NAME attaches an image"),
        (b"x", "a bytes has no text of its own"),
        (map, "has no text of its own"),
    ],
)
def test_what_has_no_text(value: Any, told: str) -> None:
    """What Python only shows as something in angle brackets is refused; a tag of HTML is text."""
    with pytest.raises(BadInput, match=told):
        to_text(value)
    assert to_text(Tag()) == "<b>x</b>"


class Tag:
    def __str__(self) -> str:
        return "<b>x</b>"


def test_tables_to_text() -> None:
    """A DataFrame is CSV, with its index only where that is more than a count; arrays are JSON."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"q": ["a, b", "c"], "n": [1, 2]})
    assert to_text(frame) == 'q,n\n"a, b",1\nc,2\n'
    assert to_text(frame.set_index("n")) == 'n,q\n1,"a, b"\n2,c\n'
    assert to_text(frame["q"]) == 'q\n"a, b"\nc\n'
    assert json.loads(to_text(frame[["n"]].to_numpy())) == [[1], [2]]
    assert to_text({"t": frame.n}) == '{\n  "t": {\n    "n": [1,2]\n  }\n}'
    assert to_text(frame.n.iloc[0]) == "1"
