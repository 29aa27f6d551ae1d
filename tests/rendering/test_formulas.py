"""Formulas in a model's text, for MathJax and as MathML."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.rendering.markdown import to_html
from bgmagic.rendering.math import for_mathjax, typesettable
from bgmagic.rendering.mathml import to_mathml
from tests.rendering.test_markdown import Seen, check


def source(text: str) -> bool:
    """Whether the formula is shown as it was written."""
    return "<code" in to_html(text)


@pytest.mark.parametrize(
    "text",
    [
        "$ x + y $",
        "$ x_i = \\alpha $",
        "$ E = mc^2 $",
        "$ \\frac{a}{b} $",
        "$ f(x) $",
        "$ x_{max} $",
        "$ 2x + 1 $",
        "$ F = ma $",
    ],
)
def test_spaces_within_dollars(text: str) -> None:
    """A formula may have spaces after its first and before its last dollar."""
    assert text in Seen(to_html(f"so {text} is")).texts


@pytest.mark.parametrize(
    "text",
    [
        "It costs $ 5 and $ 10.",
        "$ 5 a piece, $ 6 a dozen",
        "from $ 5k - $ 6k",
        "5 $, 10 $ or 20 $",
        "between 5 $ + 10 $ and 3 $",
        "$ 5 / $ 6",
        "5 $ = 4 € or 6 $ = 5 €",
        "we say $ a or b $ c",
        "$ HOME and $ PATH",
        "价格 $ 5 元 和 $ 6 元",
        "$a $b $c",
    ],
)
def test_spaces_around_prices(text: str) -> None:
    """Amounts and names after a dollar with a space stay as they were written."""
    assert all("$" not in piece or piece == "$" for piece in Seen(to_html(text)).texts)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("$A^\\dag$", "$A^†$"),
        ("$\\ddag$", "$‡$"),
        ("$\\P\\S$", "$¶\\S$"),
        ("$\\copyright \\pounds 5$", "$© £ 5$"),
        ("$\\text{\\pounds 5}$", "$\\text{£ 5}$"),
        ("$\\widecheck{x}$", "$\\check{x}$"),
        ("$\\alpha\\/b$", "$\\alpha{}b$"),
        ("$\\begin{matrix}a\\\\P\\end{matrix}$", "$\\begin{matrix}a\\\\P\\end{matrix}$"),
        ("$\\dagger\\Pi$", "$\\dagger\\Pi$"),
        ("$$x\\tag{1}$$", "$$x\\tag{1}$$"),
        ("$x\\tag{1} \\tag{2}$", "$x\\qquad\\text{(1)} \\qquad\\text{(2)}$"),
        (
            "$$\\begin{aligned}a\\\\\\tag{1}\\end{aligned}$$",
            "$$\\begin{aligned}a\\\\\\qquad\\text{(1)}\\end{aligned}$$",
        ),
    ],
)
def test_what_mathjax_does_not_know(formula: str, expected: str) -> None:
    """Commands that MathJax 3.2 doesn't know are given to it as what it does."""
    assert typesettable(formula)
    assert for_mathjax(formula) == expected
    assert expected in Seen(to_html(formula)).texts


def test_commands_within_words() -> None:
    """Within \\text MathJax knows few commands; with others a formula is shown as its source."""
    assert source(r"$\text{\alpha}$")
    assert source(r"$x \text{ if } \textbf{a \sqrt{b}}$")
    assert not source(r"$\text{if $\alpha > 0$} \quad \text{5\,\%}$")
    assert not source(r"$\text{a}\alpha$")
    assert source(r"$\text{if $x}$")


def mathml(formula: str) -> str:
    """What is inside of the ``<math>`` of a formula."""
    shown = to_html(formula, formulas="mathml")
    assert shown.count("<math") == 1, shown
    return re.sub(r"^.*?<math[^>]*><mrow>|</mrow></math>.*$", "", shown, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("$x^2$", "<msup><mi>x</mi><mn>2</mn></msup>"),
        (
            r"\(\frac{a}{b}\)",
            "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>",
        ),
        ("$a < b$", "<mi>a</mi><mo>&lt;</mo><mi>b</mi>"),
        (r"$\mathrm{d}$", '<mi mathvariant="normal">d</mi>'),
        (r"$\dag$", "<mi>†</mi>"),
        (r"$$\max_x$$", "<munder><mo>max</mo><mi>x</mi></munder>"),
        (r"$\max_x$", "<msub><mo>max</mo><mi>x</mi></msub>"),
        (r"$\arg$", "<mo>arg</mo>"),
        (r"$$\operatorname*{arg\,max}_x$$", "<munder><mo>arg\u2009max</mo><mi>x</mi></munder>"),
        (r"$\operatorname{Var}X$", "<mo>Var</mo><mi>X</mi>"),
        (
            r"$\text{if $x$}$",
            "<mrow><mtext>if\xa0</mtext><mi>x</mi><mtext></mtext></mrow>",
        ),
        (
            "$(A|B)$",
            '<mo stretchy="false">(</mo><mi>A</mi><mo lspace="0" rspace="0" stretchy="false">|</mo>'
            '<mi>B</mi><mo stretchy="false">)</mo>',
        ),
        (r"$a\!b$", '<mi>a</mi><mspace width="-0.167em"></mspace><mi>b</mi>'),
        (
            r"\begin{equation}x\end{equation}",
            "<mi>x</mi>",
        ),
    ],
)
def test_formulas_as_mathml(formula: str, expected: str) -> None:
    """Where nothing typesets, a formula is MathML that browsers draw."""
    assert mathml(formula) == expected


@pytest.mark.parametrize(
    "name", ["align", "align*", "aligned", "alignat", "alignedat", "split", "eqnarray"]
)
def test_aligned_equations_as_mathml(name: str) -> None:
    """Every environment of aligned equations is a table of left and right sides, without its gaps."""
    columns = "{2}" if name in ("alignat", "alignedat") else ""
    tex = rf"\begin{{{name}}}{columns}a&=b\\[1em]&=c\end{{{name}}}"
    shown = mathml(tex if "ed" not in name and name != "split" else f"$${tex}$$")
    assert shown.count("<mtr>") == 2
    assert shown.count("text-align: right; padding-right: 0") == 2
    assert "em]" not in re.sub("<[^>]*>", "", shown)


def test_lines_between_columns_as_mathml() -> None:
    """The line of an augmented matrix and the one below its head are drawn."""
    shown = mathml(r"$\begin{array}{c|c}a&b\\\hline c&d\end{array}$")
    assert shown.count("border-right: 1px solid") == 2
    assert shown.count("border-bottom: 1px solid") == 2


@pytest.mark.parametrize(
    "formula",
    [
        r"$\ce{H2O}$",
        r"$\text{\$5}$",
        r"$\begin{rcases}a&b\end{rcases}$",
        r"$\cancel{x}$",
        r"$a \\ b$",
        "$" + r"\sqrt" * 900 + "x$",
        "$" + r"\left(" * 20 + "$",
        r"$\frac{a}$",
        r"$\limits$",
        r"$\href{javascript:x}{y}$",
    ],
)
def test_what_has_no_mathml_is_its_source(formula: str) -> None:
    """What the reader of TeX doesn't know, gets wrong or gives up on is shown as it was written."""
    shown = to_html(formula, formulas="mathml")
    assert "<math" not in shown
    assert "".join(Seen(shown).texts).strip() == ""
    assert formula[1:-1].replace("&", "&amp;") in shown


def test_lengths_are_lengths() -> None:
    """A length that the reader of TeX passes on as it was written is one, or there is no MathML."""
    assert 'width="1em"' in to_mathml(r"$\hspace{1em}$")
    assert to_mathml(r"$\hspace{url(x)}$") == ""


pieces = st.sampled_from(
    [
        r"x",
        r"y",
        r"1",
        r"+",
        r"=",
        r"<",
        r"&",
        r"\\",
        r"{",
        r"}",
        r"_",
        r"^",
        r"'",
        r"\frac",
        r"\sqrt",
        r"\sum",
        r"\int",
        r"\text",
        r"\mathrm",
        r"\mathbf",
        r"\left(",
        r"\right)",
        r"\begin{aligned}",
        r"\end{aligned}",
        r"\begin{cases}",
        r"\end{cases}",
        r"\alpha",
        r"\dag",
        r"\max",
        r"\boxed",
        r"\tag{1}",
        r"\hspace{1em}",
        r"\operatorname{a}",
        r"\,",
        r"\!",
        r"\begin{array}{c|c}",
        r"\end{array}",
        r"\hline",
        r"\over",
        r"\overset",
        r"\limits",
        r"\not",
        r"\bar",
        r"\pmod",
        r"&lt;",
        r"&#x202e;",
        r"\mathbb",
    ]
)


@given(st.lists(pieces, max_size=12).map("".join))
def test_any_formula_is_harmless(formula: str) -> None:
    """Whatever TeX is put together, only known elements with known attributes come out."""
    check(f"${formula}$\n\n$${formula}$$")
