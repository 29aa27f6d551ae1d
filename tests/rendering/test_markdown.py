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
    *("h1", "h2", "h3", "h4", "h5", "h6", "details", "summary", "textarea"),
}
ATTRIBUTES = {"style", "dir", "href", "rel", "target", "start", "tabindex"}
# A field to select code in, which can do nothing either: its attributes as they are always.
FIELD = {"spellcheck": "false", "title": "Click into it: Ctrl+A then selects this code alone"}
CODE = ("code", "pre", "textarea")  # where a page's MathJax looks for nothing
# What formulas are made of where nothing typesets them.
MATH_TAGS = {
    *("math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mstyle", "mphantom", "mpadded"),
    *("mfrac", "msqrt", "mroot", "msub", "msup", "msubsup", "munder", "mover", "munderover"),
    *("mtable", "mtr", "mtd"),
}
MATH_ATTRIBUTES = {
    *("display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "form"),
    *("separator", "accent", "movablelimits", "linethickness", "lspace", "rspace", "width"),
    *("minsize", "maxsize", "height", "depth", "voffset", "style"),
}
MATH_VALUE = re.compile(r"[a-z]+|[-+]?[\d.]+(em|ex|mu|pt|px|mm)?")
# Signs that would act: what controls a terminal, and what changes the direction of reading.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

HOSTILE = [
    "a formula $x^2$ for the typesetter to wake up",
    "```\n</textarea><script>fired=1</script>\n$\\href{javascript:fired=1}{x}$\n```",
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
    # Elements that are ours where they have no attributes, and what looks like them.
    "<sub onclick=fired=1>x</sub><sup style=position:fixed>y</sup><br onload=fired=1>",
    "<sub>a<sup>b</sub>c</sup><sub><script>fired=1</script></sub></sub><sup>",
    "<SUB><img src=x onerror=fired=1></SUB><br/onload=fired=1><br >",
    # Footnotes, tasks and marks of citations.
    "[^<script>fired=1</script>] [^x]\n\n[^x]: <img src=x onerror=fired=1> [y](javascript:fired=1)",
    "- [x] <img src=x onerror=fired=1>\n- [ ] [y](javascript:fired=1)",
    "\ue200cite\ue202<img src=x onerror=fired=1>\ue201 \ue200<script>fired=1</script>\ue201",
    "```markdown\n<script>fired=1</script>\n$\\href{javascript:fired=1}{x}$\n```",
    # Tables and the character that stands in for a pipe.
    "|a|\n|-|\n|$x|\\href{javascript:fired=1}{x}$|\n|`|<script>fired=1</script>|`|",
    "\ufdd0a\ufdd0\n\ufdd0-\ufdd0\n|[x](https://a.example/\ufdd0)|",
    # What a reader of TeX might make into an element or an attribute.
    "$&lt;script&gt;fired=1&lt;/script&gt; < / > \\text{</math><img src=x onerror=fired=1>}$",
    "$\\text{&#60;img src=x onerror=fired=1&#62;} \\hspace{1em} \\operatorname{x}$",
    # Signs that act without being seen.
    "&#x202e;$\\text{&#x202e;}$ &#8238;",
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
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._code += tag in CODE
        if tag not in ("br", "hr"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, "elements overlap"
        self._code -= tag in CODE

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    handle_decl = handle_pi = unknown_decl = handle_comment


def check(text: str) -> str:
    """Only harmless elements, attributes and addresses, and no TeX command that could load or link."""
    formula = Seen(to_html(text, formulas="mathml"))
    for tag, attributes in formula.elements:
        if tag in MATH_TAGS:
            assert set(attributes) <= MATH_ATTRIBUTES, attributes
            for name, value in attributes.items():
                known = STYLE if name == "style" else MATH_VALUE
                assert known.fullmatch(value or ""), attributes
        else:
            check_element(tag, attributes)
    shown = to_html(text)
    seen = Seen(shown)
    for tag, attributes in seen.elements:
        check_element(tag, attributes)
    for page in (shown, to_html(text, formulas="mathml")):
        page.encode()
        assert not UNSEEN.search(page)
    for piece in seen.texts + formula.texts:
        assert not DANGEROUS.search(piece), piece
    return shown


def check_element(tag: str, attributes: dict[str, str | None]) -> None:
    """An element of the allow-list, with the attributes and addresses it may have."""
    assert tag in TAGS, tag
    if tag == "textarea":
        assert re.fullmatch(r"\d+", attributes.pop("rows") or "")
        assert {name: attributes.pop(name) for name in FIELD} == FIELD
    if tag == "details":
        assert attributes.pop("class", "bgmagic-select") == "bgmagic-select"
    assert set(attributes) <= ATTRIBUTES, attributes
    address = attributes.get("href")
    assert address is None or re.match("https?://.|mailto:.", address, re.IGNORECASE)
    style = attributes.get("style")
    assert style is None or STYLE.fullmatch(style), style
    assert "url(" not in (style or "")


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


@pytest.mark.parametrize(
    ("begin", "line", "end"),
    [
        ("", "word **bold** " * 2_000, ""),
        ("", "0123456789" * 2_000, "\n\nlast words"),
        ("```js\n", "x = [1, 2]; " * 2_000, "\n```"),
        ("```\n", "deadbeef" * 50_000, "\n```\n"),
        ("> - ", "wörter " * 5_000, ""),
    ],
)
def test_a_line_without_end_is_folded(begin: str, line: str, end: str) -> None:
    """A line that a browser would lay out for seconds shows its beginning; all of it is a click away."""
    shown, _, hidden = to_html(begin + line + end).partition("<details><summary>Show all ")
    assert line[:20].split()[0] in shown
    assert "…" in shown[-30:]
    assert len(shown) < 15_000
    size = len((begin + line + end).replace("\n```\n", "\n```"))
    assert int(hidden.partition(" characters")[0].replace(",", "")) >= size
    assert Seen(f"{shown}<details>{hidden.partition('</summary>')[2]}")
    words = re.sub(r"\s+", "", "".join(re.split(r"<[^>]*>", hidden)))
    assert re.sub(r"[\s*]+", "", line) in words
    assert 'tabindex="0"' not in shown  # what is cut is no code to copy


@pytest.mark.parametrize(
    ("text", "towards"),
    [
        ("Hello, שלום", "ltr"),
        ("## 1. שלום, hello", "rtl"),
        ("- **مرحبا** world", "rtl"),
        ("```python\nprint(1)\n```\n\nمرحبا", "rtl"),
        ("$x^2$ و `y` هو", "rtl"),
        ("|مرحبا|\n|-|\n|x|", "rtl"),
        ("1, 2, 3", "ltr"),
        ("", "ltr"),
    ],
)
def test_the_first_word_gives_the_direction(text: str, towards: str) -> None:
    """A text reads as its first word does, whatever code or formula stands before that; nothing of it
    is left to the browser, which would look for the word again with each element."""
    shown = to_html(text)
    assert shown.startswith(f'<div dir="{towards}"')
    assert "auto" not in "".join(re.findall(r'dir="(\w+)"', shown))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        "*a " * 50_000,
        "> " * 5_000 + "x",
        "`" * 50_000,
        "\\(" * 150_000,
        "\\[ x\n\n" * 50_000,
        # In time that grows with the square this takes 100 s, ours takes 1.
        pytest.param("\\begin{align}\n" * 20_000, marks=pytest.mark.timeout(60)),
        "://" * 100_000,
        "https://" * 30_000,
        "- [ ] a\n" * 37_000,
        "<sub>" * 60_000,
        "【" * 300_000,
        "\ue200cite\ue202" * 30_000,
        "|a|\n|-|\n" + "|$a|b$`|" * 30_000,
        "```markdown " + " " * 280_000 + "`",
        " " * 290_000 + "-|x",
        "[^1]: x\n" * 30_000,
    ],
    ids=lambda text: text[:12],
)
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("H<sub>2</sub>O", "<p>H<sub>2</sub>O</p>"),
        ("x<SUP>*2*</SUP>", "<p>x<sup><em>2</em></sup></p>"),
        ("a<br>b<br/>c<BR />d", "<p>a<br>\nb<br>\nc<br>\nd</p>"),
        ("x<sup>$n$</sup>", "<p>x<sup><span>$n$</span></sup></p>"),
        ("<sub>a", "<p>&lt;sub&gt;a</p>"),
        ("a</sub>", "<p>a&lt;/sub&gt;</p>"),
        ('<sub class="x">a</sub>', "<p>&lt;sub class=&quot;x&quot;&gt;a&lt;/sub&gt;</p>"),
        ("`<sub>a</sub>`", "<p><code>&lt;sub&gt;a&lt;/sub&gt;</code></p>"),
    ],
)
def test_few_elements_are_ours(text: str, expected: str) -> None:
    """Line breaks and raised and lowered text work without attributes; whatever else looks like HTML is text."""
    assert inside(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So it is \ue200cite\ue202turn0search1\ue202turn2view0\ue201.", "So it is."),
        ("A \ue200filecite\ue202turn0file1\ue202L3-L7\ue201 b", "A b"),
        ("A【4:0†source】 b【11†paper.pdf】.", "A b."),
        ("A \ue203b\ue204 c\ue206", "A b c"),
        ("Two \ue200cite\ue202a_b\ue201 and \ue200cite\ue202c_d\ue201", "Two and"),
        ("Not 【this】 and †that", "Not 【this】 and †that"),
    ],
)
def test_marks_of_citations_are_not_shown(text: str, expected: str) -> None:
    """What a server puts where a source is cited is left out, with the space before it."""
    assert inside(text) == f"<p>{expected}</p>"


def test_code_keeps_what_looks_like_a_citation() -> None:
    """In code, in a line or a block, every character stands as it was written."""
    assert "【4:0†source】" in to_html("`【4:0†source】`")
    assert "【4:0†source】" in to_html("```\n【4:0†source】\n```")
    assert "\ue200" in to_html("```\n\ue200\n```")


def test_answer_within_one_fence_is_read() -> None:
    """An answer that is one fence of Markdown is shown as what it says, with the fences in it."""
    shown = to_html("```markdown\n# Title\n\n```python\nx = 1\n```\n\n- item\n```")
    assert "<h2>Title</h2>" in shown
    assert "<li>item</li>" in shown
    assert "<pre" in shown
    assert "<h2>T</h2>" in to_html("\n~~~~md\n# T\n~~~~\n")


@pytest.mark.parametrize(
    "text",
    [
        "```markdown\n# A\n```\nand\n```python\nx\n```",
        "```python\n# A\n```",
        "Here:\n```markdown\n# A\n```",
        "```markdown\n# A\n```\nand more",
    ],
)
def test_other_fences_stay_code(text: str) -> None:
    """A fence of Markdown beside something else is a block of code, as is one of another language."""
    assert "<h2>" not in to_html(text)
    assert "# A" in "".join(re.sub("<[^>]*>", "", to_html(text)))


def test_footnotes_and_tasks() -> None:
    """Footnotes stand where they were written, named or not, and tasks have boxes."""
    shown = inside("a[^1] b[^none]\n\n[^1]: *one*\n\n[^2]: not named")
    assert "<p>a<sup>[1]</sup> b[^none]</p>" in shown
    assert "<p><sup>[1]</sup> <em>one</em></p>" in shown
    assert "<p><sup>[2]</sup> not named</p>" in shown
    assert inside("- [ ] a\n- [x] b\n- [y] c") == (
        "<ul><li>☐ a</li>\n<li>☑ b</li>\n<li>[y] c</li>\n</ul>"
    )
    assert "☐" not in to_html("[ ] a paragraph")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("see https://a.example/b_c(d), and", "https://a.example/b_c(d)"),
        ("(https://a.example/x).", "https://a.example/x"),
        ("*https://a.example*", "https://a.example"),
        ("_https://a.example/b_", "https://a.example/b"),
        ("~~https://a.example/b~~", "https://a.example/b"),
        ("https://localhost:8888/lab?x=1#f", "https://localhost:8888/lab?x=1#f"),
        ("<https://a.example/b>", "https://a.example/b"),
        ("HTTPS://A.example/B", "HTTPS://A.example/B"),
    ],
)
def test_addresses_become_links(text: str, address: str) -> None:
    """An address on its own is a link, without what ends the sentence."""
    links = [attributes for tag, attributes in Seen(to_html(text)).elements if tag == "a"]
    assert [link["href"] for link in links] == [address]


def test_blocks_of_code_keep_a_distance() -> None:
    """Two blocks of code after each other do not touch."""
    styles = [
        a["style"] or ""
        for tag, a in Seen(to_html("```\na\n```\n```\nb\n```")).elements
        if tag == "pre"
    ]
    assert len(styles) == 2
    assert all("margin: 0.7em 0" in style for style in styles)


def inside(text: str) -> str:
    """The HTML of ``text`` without the element around all of it."""
    shown = to_html(text)
    return shown[shown.index(">") + 1 : shown.rindex("</div>")].strip()
