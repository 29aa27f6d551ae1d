"""What a model wrote as HTML: readable, and nothing of it can run or load anything."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.rendering.markdown import to_html

TAGS = {
    *("div", "p", "span", "b", "strong", "i", "em", "s", "del", "a", "ul", "ol", "li", "br", "hr"),
    *("table", "thead", "tbody", "tr", "th", "td", "pre", "code", "blockquote", "sup", "sub"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "details", "summary"),
}
ATTRIBUTES = {"style", "dir", "href", "rel", "target", "start", "tabindex"}
# Signs that would act: what controls a terminal, and what changes the direction of reading.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

HOSTILE = [
    "a formula $x^2$ for the typesetter to wake up",
    # Elements, handlers and what is left of them.
    "<script>fired=1</script>",
    "<img src=x onerror=fired=1>",
    '<img srcset="x 1x, https://evil.example/y 2x" onerror=fired=1>',
    "<svg/onload=fired=1>",
    "<svg><script>fired=1</script><animate onbegin=fired=1></svg>",
    "<math><mtext><img src=x onerror=fired=1></mtext></math>",
    "<style>*{display:none}</style>",
    "<style>@import url(https://evil.example/a.css)</style>",
    "<a href=x style=position:fixed>x</a>",
    "<form action=https://evil.example><button formaction=javascript:fired=1>x</button></form>",
    "<iframe srcdoc='<script>parent.fired=1</script>'></iframe>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example/><link rel=stylesheet href=https://evil.example/a.css>",
    "<object data=https://evil.example></object><embed src=https://evil.example>",
    "<video autoplay src=https://evil.example onerror=fired=1></video>",
    "<details open ontoggle=fired=1>x</details>",
    "<input autofocus onfocus=fired=1>",
    "<template shadowrootmode=open><img src=x onerror=fired=1></template>",
    "<!-- <img src=x onerror=fired=1> -->",
    "<!--><img src=x onerror=fired=1>-->",
    "<?php fired ?><![CDATA[<img src=x onerror=fired=1>]]><!DOCTYPE html>",
    "<<script>script>fired=1<</script>/script>",
    "</div></pre></details><script>fired=1</script>",
    "&lt;script&gt;fired=1&lt;/script&gt;",
    "&#60;img src=x onerror=fired=1&#62;",
    "\x00<script>\x00fired=1</script>",
    "\ufeff<img src=x onerror=fired=1>",
    # Links and images.
    "[x](javascript:fired=1)",
    "[x](JaVaScRiPt&colon;fired=1)",
    "[x](java\nscript:fired=1)",
    "[x](&#x6A;avascript:fired=1)",
    "[x](\x01javascript:fired=1)",
    "[x](data:text/html,<script>fired=1</script>)",
    "[x](vbscript:x) [y](file:///etc/passwd) [z](blob:https://evil.example/1)",
    "[x](//evil.example) [y](/api/kernels) [z](../../files/x)",
    "[a]: javascript:fired=1\n\n[a] and [b][a] and ![c][a]",
    "[a]: data:text/html;base64,PHNjcmlwdD4= 'title'\n\n[a]",
    "<javascript:fired=1> <data:text/html,fired=1> <https://a.example/>",
    '<https://a.example/"onmouseover=fired=1>',
    "https://a.example/\"onmouseover=fired=1 https://a.example/'<img src=x onerror=fired=1>",
    '[x](https://a.example "\\" onmouseover=fired=1 x=\\"")',
    "[![x](javascript:fired=1)](javascript:fired=1)",
    "[![x](https://evil.example/pixel.png)](https://a.example)",
    "[a [b](javascript:fired=1) c](https://a.example)",
    "![x](https://evil.example/pixel.png)",
    "![<img src=x onerror=fired=1>](https://evil.example/pixel.png 'x')",
    "![x](javascript:fired=1)",
    "![x](data:image/svg+xml,<svg onload=fired=1>)",
    # Code and tables.
    "```html\n</code></pre><script>fired=1</script>\n```",
    '```"><script>fired=1</script>\nx\n```',
    "```python\nx = '</span></code></pre><img src=x onerror=fired=1>'\n```",
    "`</code><img src=x onerror=fired=1>`",
    "|a|\n|-|\n|<iframe src=//evil.example>|",
    '|a|\n|:-:" onmouseover=fired=1|\n|x|',
    "|<img src=x onerror=fired=1>|[x](javascript:fired=1)|\n|-|:-:|\n|`|`|$|",
    # Formulas.
    "$\\href{javascript:fired=1}{x}$",
    "$$\\href{javascript:fired=1}{x}$$ \\[\\href{javascript:fired=1}{x}\\]",
    "$\\unicode[arial,url(//evil.example)]{x263a}$",
    "$$\\style{background:url(//evil.example)}{x}$$",
    "\\(\\class{evil}{x}\\)",
    "$\\bbox[background:url(//evil.example)]{x}$ $\\data{a}{b}$ $\\mmlToken{mi}[href=x]{y}$",
    "$\\includegraphics{https://evil.example/x.png}$",
    "$\\text{<img src=x onerror=fired=1>}$ $\\text{\\href{javascript:fired=1}{x}}$",
    "\\begin{equation}\\href{javascript:fired=1}{x}\\end{equation}",
    "\\require{html} $\\cssId{a}{b}$",
    "$\\require{html}\\style{color:red}{x}$ $\\require\n{html}$",
    "$\\csname href\\endcsname{javascript:fired=1}{x}$",
    "$\\def\\x{\\href}\\x{javascript:fired=1}{y}$",
    "$\\let\\x\\href$ $\\newcommand{\\x}{\\href}$ $\\renewcommand\\alpha{\\href}$",
    "\\\\(\\href{javascript:fired=1}{x}\\\\) \\$\\href{javascript:fired=1}{x}\\$",
    "<span>$</span>\\href{javascript:fired=1}{x}<span>$</span>",
    # Signs that act without being seen.
    "\x1b[31mred\x1b[0m \x1b]8;;https://evil.example\x07link\x1b]8;;\x07",
    "admin\u202etxt.exe \u2066x\u2069 \u200eL\u200fR",
    "a\x00b\x08c\x7fd\x9be \ud800 \ufffe \ufff9",
]
# TeX that loads, links, styles, or gives such another name.
DANGEROUS = re.compile(
    r"\\(href|url|style|class|cssId|require|csname|def|let|html|unicode|bbox|data|mmlToken"
    r"|includegraphics|newcommand|renewcommand)\b"
)
# All that our own style attributes say.
STYLE = re.compile(r"[a-z-]+: [\w #.%(),-]+(; [a-z-]+: [\w #.%(),-]+)*;?")


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

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    handle_decl = handle_pi = unknown_decl = handle_comment


def check(text: str) -> str:
    """Only harmless elements, attributes and addresses, and no TeX command that could load or link."""
    shown = to_html(text)
    shown.encode()
    assert not UNSEEN.search(shown)
    seen = Seen(shown)
    for tag, attributes in seen.elements:
        assert tag in TAGS, tag
        assert set(attributes) <= ATTRIBUTES, attributes
        address = attributes.get("href")
        assert address is None or re.match("https?://.|mailto:.", address, re.IGNORECASE)
        style = attributes.get("style")
        assert style is None or STYLE.fullmatch(style), style
        assert "url(" not in (style or "")
    for piece in seen.texts:
        assert not DANGEROUS.search(piece), piece
    return shown


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


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $10.",
        "Between $5 and $10 million, or $3.50 each",
        "$5",
        "It is $5 here and 10$ there",
        "$20 a month or 200$ a year",
        "US$5 to US$10",
        "Pay $20/month, not $200/month!",
        "from $1,000 to $2,000",
        r"escaped \$x\$ stays",
        "`$x$` is code",
    ],
)
def test_prices_are_no_formulas(text: str) -> None:
    """Amounts of money stay as they were written: no dollar sign is left for the typesetter."""
    shown = Seen(to_html(text))
    # A sign of its own in an element is what keeps MathJax from reading on.
    assert all(piece.count("$") == 0 or piece == "$" for piece in shown.texts), shown.texts
    assert "".join(shown.texts).replace("\n", "") in text.replace("`", "").replace("\\", "")


@pytest.mark.parametrize(
    "text", ["$x$", "$$x$$", r"\(x\)", r"\[x\]", r"\begin{align}x &= y\end{align}", "so $a_1*b*$."]
)
def test_formulas_reach_the_typesetter(text: str) -> None:
    """A formula stands whole in one piece of text, as it was written."""
    formula = text.removeprefix("so ").removesuffix(".")
    assert formula in [piece.strip() for piece in Seen(to_html(text)).texts]
