"""Tables in a model's Markdown: every cell is there, whatever is in it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.rendering.markdown import to_html


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the only table, its head first, as HTML."""
    shown = to_html(text, fold=False)
    assert shown.count("<table") == 1, shown
    found = re.findall(r"<tr>(.*?)</tr>", shown, re.DOTALL)
    return [re.findall(r"<t[hd] [^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in found]


def table(head: list[str], *body: list[str]) -> str:
    """A table as models write it."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "|n|f|p|\n|-|-|-|\n| Bayes | $P(A|B)$ | 0.5 |",
            ["Bayes", "<span>$P(A|B)$</span>", "0.5"],
        ),
        ("|a|b|\n|-|-|\n| \\(|x|\\) | 1 |", ["<span>\\(|x|\\)</span>", "1"]),
        ("|a|b|\n|-|-|\n| `x | y` | 1 |", ["<code>x | y</code>", "1"]),
        ("|a|b|\n|-|-|\n| `x \\| y` | 1 |", ["<code>x | y</code>", "1"]),
        ("|a|b|\n|-|-|\n| $\\|x\\|$ | 1 |", ["<span>$\\|x\\|$</span>", "1"]),
        ("|a|b|\n|-|-|\n| x \\| y | 1 |", ["x | y", "1"]),
        ("|a|b|\n|-|-|\n| $5 | $10 |", ["<span>$</span>5", "<span>$</span>10"]),
        ("|a|b|\n|-|-|\n| ` | ` |", ["`", "`"]),
        ("|a|b|\n|-|-|\n| 1 | 2 | 3 |", ["1", "2 | 3"]),
        ("a|b\n-|-\n$|x|$|1", ["<span>$|x|$</span>", "1"]),
        ("> |a|b|\n> |-|-|\n> |$|x|$|1|", ["<span>$|x|$</span>", "1"]),
        ("- |a|b|\n  |-|-|\n  |$|x|$|1|", ["<span>$|x|$</span>", "1"]),
        ("|a|b|c|d|\n|-|-|-|-|\n| $|x|$ |", ["<span>$|x|$</span>", "", "", ""]),
    ],
)
def test_row_keeps_its_cells(text: str, expected: list[str]) -> None:
    """A pipe in a formula or in code ends no cell, and nothing that a row says vanishes."""
    assert rows(text)[-1] == expected


def test_head_with_pipes_is_a_head() -> None:
    """A head of formulas with pipes makes a table of as many columns as the line below it says."""
    assert rows("| $|x|$ | $P(A|B)$ |\n|---|---|\n| 1 | 2 |") == [
        ["<span>$|x|$</span>", "<span>$P(A|B)$</span>"],
        ["1", "2"],
    ]


def test_code_that_shows_a_table_is_as_it_was_written() -> None:
    """In a block of code a table's source stays the same, pipe for pipe."""
    source = "|a|b|\n|-|-|\n|$P(A|B)$|`x|y`|1|"
    assert source in to_html(f"```\n{source}\n```")
    assert f"{source}\n" in to_html("    " + source.replace("\n", "\n    ") + "\n")


words = st.text(
    st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp", "Co", "Cn")), max_size=9
)
plain = words.map(lambda text: text.replace("|", "\\|"))
pipes = st.sampled_from(
    [
        "$P(A|B)$",
        "$|x|$",
        "\\(|x|\\)",
        "`a|b`",
        "``a | b``",
        "$\\|x\\|$",
        r"a \| b",
        "$x$",
        "*b*",
        "5",
    ]
)


@given(st.data(), st.integers(1, 4))
def test_table_keeps_its_number_of_cells(data: st.DataObject, columns: int) -> None:
    """Any table, whose pipes are escaped as GitHub wants it or stand in formulas and code, has all of its cells."""
    cells = data.draw(st.sampled_from([plain, pipes]))
    row = st.lists(cells, min_size=columns, max_size=columns)
    head, body = data.draw(row), data.draw(st.lists(row, max_size=4))
    found = rows(table(head, *body))
    assert [len(cells) for cells in found] == [columns] * (1 + len(body))


@given(st.lists(st.integers(0, 999), min_size=1, max_size=8), st.integers(1, 4))
def test_no_number_of_a_row_vanishes(numbers: list[int], columns: int) -> None:
    """Rows that are too short or too long for their table show every number that they have."""
    found = rows(table(["h"] * columns, [str(number) for number in numbers]))
    assert re.findall(r"\d+", " ".join(found[1])) == [str(number) for number in numbers]
