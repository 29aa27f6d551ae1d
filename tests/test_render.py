"""What a model wrote as HTML: readable, and nothing of it can run or load anything."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.display.render import to_html

TAGS = {
    *("div", "p", "span", "b", "strong", "i", "em", "s", "del", "a", "ul", "ol", "li", "br", "hr"),
    *("table", "thead", "tbody", "tr", "th", "td", "pre", "code", "blockquote", "sup", "sub"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "details", "summary"),
}
ATTRIBUTES = {"style", "dir", "href", "rel", "target", "start", "title"}

HOSTILE = [
    "a formula $x^2$ for the typesetter to wake up",
    "<script>fired=1</script>",
    "<img src=x onerror=fired=1>",
    "<svg/onload=fired=1>",
    "[x](javascript:fired=1)",
    "[x](JaVaScRiPt&colon;fired=1)",
    "[x](data:text/html,<script>fired=1</script>)",
    "[x](vbscript:x)",
    "![x](https://evil.example/pixel.png)",
    "![x](javascript:fired=1)",
    '<https://a.example/"onmouseover=fired=1>',
    "[a]: javascript:fired=1\n\n[a]",
    "```html\n</code></pre><script>fired=1</script>\n```",
    '```"><script>fired=1</script>\nx\n```',
    "$\\href{javascript:fired=1}{x}$",
    "$$\\style{background:url(//evil.example)}{x}$$",
    "\\(\\class{evil}{x}\\)",
    "\\begin{equation}\\href{javascript:fired=1}{x}\\end{equation}",
    "\\require{html} $\\cssId{a}{b}$",
    "$\\csname href\\endcsname{javascript:fired=1}{x}$",
    "$\\def\\x{\\href}\\x{javascript:fired=1}{y}$",
    "|a|\n|-|\n|<iframe src=//evil.example>|",
    "<style>*{display:none}</style>",
    "<a href=x style=position:fixed>x</a>",
    "&lt;script&gt;fired=1&lt;/script&gt;",
    "\x00<script>\x00fired=1</script>",
    "<<script>script>fired=1<</script>/script>",
]
DANGEROUS = ("href", "url", "style", "class", "cssId", "require", "csname", "def", "let", "html")


class Seen(HTMLParser):
    """Every element, attribute and piece of text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        # What MathJax reads: it leaves code alone.
        self.texts: list[str] = []
        self._code = 0
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._code += tag in ("code", "pre")

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("code", "pre")

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.texts.append(data)


def check(text: str) -> None:
    """Only harmless elements, attributes and addresses, and no TeX command that could load or link."""
    seen = Seen(to_html(text))
    for tag, attributes in seen.elements:
        assert tag in TAGS, tag
        assert set(attributes) <= ATTRIBUTES, attributes
        address = attributes.get("href")
        assert address is None or address.startswith(("http://", "https://", "mailto:"))
        assert "url(" not in (attributes.get("style") or "")
    for piece in seen.texts:
        for command in DANGEROUS:
            assert f"\\{command}{{" not in piece, piece


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_harmless(text: str) -> None:
    """Scripts, handlers, odd addresses, remote images and TeX that links become words."""
    check(text)


@given(st.lists(st.sampled_from(HOSTILE) | st.text(max_size=20), max_size=6).map("\n".join))
def test_any_text_is_harmless(text: str) -> None:
    """Whatever hostile pieces are put together, only elements of the allow-list come out."""
    check(text)


@given(st.text(st.sampled_from("[]()*_`$\\|<>#~-\n ab1!"), max_size=200))
def test_markup_soup(text: str) -> None:
    """Any soup of Markdown's own characters gives allowed elements, and never raises."""
    check(text)


def test_markdown_reads_well() -> None:
    """Headings, emphasis, lists, tables and code come out as such; math arrives as it was written."""
    shown = to_html(
        "# T\n\n**b**\n\n- one\n\n|h|\n|-|\n|c|\n\n$a_b*c*d$\n\n```python\ndef f(): 1\n```"
    )
    for part in ("<strong>b</strong>", "<li>one", "<th", ">c</td>", "$a_b*c*d$", "<pre"):
        assert part in shown
    assert ">def</span>" in shown


def test_long_answers_are_folded() -> None:
    """A long answer shows its beginning; the rest is a click away, and nothing is lost."""
    text = "\n\n".join(f"paragraph {n}" for n in range(300))
    shown = to_html(text)
    assert shown.index("paragraph 3<") < shown.index("<details") < shown.index("paragraph 299")
    assert "<details" not in to_html(text, fold=False)


@pytest.mark.parametrize("text", ["[" * 50_000, "*a " * 50_000, "> " * 5_000 + "x", "`" * 50_000])
def test_nesting_does_not_hang(text: str) -> None:
    """Texts made to nest or backtrack for ever are rendered, too."""
    assert to_html(text)
