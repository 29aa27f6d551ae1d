"""What a model wrote, Markdown, as HTML that reads well and can do nothing.

The elements and attributes are all written here and in mathml.py: nothing the model wrote becomes
one, only text and the address of a link. Nothing is loaded. The looks are style attributes with
Jupyter's variables, and meaningful elements where a page strips those.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from bgmagic.rendering import highlight
from bgmagic.rendering.escaping import code_text, inline_text
from bgmagic.rendering.highlight import highlighted
from bgmagic.rendering.math import for_mathjax
from bgmagic.rendering.parser import LONGEST, language_of, linkable, parse, unfenced

if TYPE_CHECKING:
    from markdown_it.token import Token

# Beyond either the rest is folded: about two screens.
FOLD_LINES, FOLD_CHARACTERS = 60, 6_000
# What a browser lays out in one piece: a line of 1,000,000 characters takes seconds.
_LONGEST_LINE = 2 * FOLD_CHARACTERS
_LETTER = re.compile(r"[^\W\d_]")
_LONGEST_ADDRESS = 80  # of an image, as it is shown

_MUTED = "color: var(--jp-ui-font-color2, #757575); font-size: 0.9em"
_LINE = "var(--jp-border-color1, rgba(127, 127, 127, 0.5))"
# On the background of the page: Jupyter's colours of code are too faint on that of its editor.
_SHADE = "var(--jp-layout-color1, rgba(127, 127, 127, 0.12))"
_ALL = "max-width: 52em; overflow-wrap: anywhere"
# What may be too wide scrolls, by the keyboard too: hence the tabindex.
_PRE = (
    'tabindex="0" style="overflow-x: auto; margin: 0.7em 0; padding: 0.6em 0.8em; '
    f'line-height: 1.35; border: 1px solid {_LINE}; border-radius: 3px; background: {_SHADE}"'
)
_WIDE = 'tabindex="0" style="overflow-x: auto; max-width: 100%"'
_FORMULA = 'tabindex="0" style="overflow-x: auto; max-width: 100%; margin: 0.8em 0"'  # MathML
# Jupyter's own style for code would break its lines, and put a background of its own behind them.
_CODE = 'style="white-space: pre; padding: 0; background: none"'
# Code once more, in what lets it be selected alone without a script: "select all" is of it then.
# JupyterLab keeps it in a notebook that is not trusted, where it drops "user-select". It is not
# "readonly": then the keys would be the notebook's there, and select all cells.
_SELECT = f"{_MUTED}; margin: -0.4em 0 0.7em"
_FIELD = (
    'spellcheck="false" title="Click into it: Ctrl+A then selects this code alone" '
    f'style="box-sizing: border-box; width: 100%; border: 1px solid {_LINE}; padding: 0.6em 0.8em; '
    'background: transparent; color: inherit; font-family: monospace; white-space: pre"'
)
_FIELD_LINES = 12  # more scroll
# Words of a narrow table stay whole.
_CELL = f"border: 1px solid {_LINE}; padding: 0.3em 0.7em; overflow-wrap: break-word; text-align: "

_OPENED = {
    "paragraph": "<p>",
    "blockquote": "<blockquote>",
    "bullet_list": "<ul>",
    "list_item": "<li>",
    "table": f'<div {_WIDE}><table style="border-collapse: collapse; margin: 0.5em 0">',
    "thead": "<thead>",
    "tbody": "<tbody>",
    "tr": "<tr>",
    "em": "<em>",
    "strong": "<strong>",
    "s": "<s>",
    "sub": "<sub>",
    "sup": "<sup>",
}
_CLOSED = {
    "paragraph": "</p>\n",
    "blockquote": "</blockquote>\n",
    "bullet_list": "</ul>\n",
    "ordered_list": "</ol>\n",
    "list_item": "</li>\n",
    "table": "</table></div>\n",
    "thead": "</thead>",
    "tbody": "</tbody>",
    "tr": "</tr>\n",
    "th": "</th>",
    "td": "</td>",
    "em": "</em>",
    "strong": "</strong>",
    "s": "</s>",
    "sub": "</sub>",
    "sup": "</sup>",
    "footnote_reference": "</div>\n",
    "link": "</a>",
}


def _selectable(code: str) -> str:
    """A block of several lines as a folded field; of one line a triple click selects it all."""
    text = code.removesuffix("\n")
    lines = text.count("\n") + 1
    if lines == 1:
        return ""
    # The first line end in it is none of its text.
    field = f'<textarea rows="{min(lines, _FIELD_LINES)}" {_FIELD}>\n{code_text(text)}</textarea>'
    opens = f'<details class="bgmagic-select" style="{_SELECT}"><summary>Code to select</summary>'
    return f"{opens}{field}</details>\n"


def to_html(
    text: str, *, fold: bool = True, formulas: Literal["mathjax", "mathml"] = "mathjax"
) -> str:
    """``text``, Markdown, as safe HTML; it never raises, in time that grows with the text's length.

    CommonMark with tables, strikethrough, footnotes, lists of tasks and formulas; all of it may
    stand in one fence of Markdown. Raw HTML is shown as text, but for ``<br>``, ``<sub>`` and
    ``<sup>``, an image as its words and a link to it. Marks of citations are left out.

    Args:
        fold: hide the rest of what is longer than about `FOLD_LINES` lines or `FOLD_CHARACTERS`
            characters behind a line that can be clicked.
        formulas: "mathjax" leaves them to the page's MathJax, as Jupyter has it; "mathml" gives
            them as MathML, for a page that typesets nothing, as the outputs of VS Code. What
            either can't show, and what could do more than a formula, is shown as its source.
    """
    try:
        towards, inside = _rendered(text, fold, formulas == "mathml")
    except Exception:  # an answer that was paid for is shown, whatever a library makes of it
        towards, inside = _direction([text]), _plain(text)
    return f'<div dir="{towards}" style="{_ALL}">{inside}</div>'


def answer_html(
    text: str,
    *,
    structured: bool = False,
    commentary: str = "",
    summary: str = "",
    links: Sequence[tuple[str, str]] = (),
    formulas: Literal["mathjax", "mathml"] = "mathjax",
) -> str:
    """An answer as it is shown: its text, folded before it how it came about, and its sources.

    Args:
        structured: whether the text is JSON.
        commentary: what the model said on its way to the answer, Markdown too.
        summary: the model's own summary of its reasoning, Markdown too.
        links: the sources, each a title and an address.
    """
    sections = {"Reasoning summary": summary, "Commentary": commentary}
    folded = "".join(
        f'<details style="{_MUTED}"><summary>{title}</summary>{to_html(said, formulas=formulas)}'
        "</details>"
        for title, said in sections.items()
        if said.strip()
    )
    shown = to_html(as_markdown(text, structured=structured), formulas=formulas)
    below = f'<div style="{_MUTED}">Sources{links_html(links)}</div>' if links else ""
    return folded + (shown if text.strip() else "") + below


def as_markdown(text: str, *, structured: bool) -> str:
    """What is shown of an output text: itself, or if it is ``structured`` JSON to be read."""
    try:
        indented = json.dumps(json.loads(text), indent=2, ensure_ascii=False) if structured else ""
    except (ValueError, RecursionError):
        return text
    return f"```json\n{indented}\n```" if structured else text


def links_html(pairs: Sequence[tuple[str, str]]) -> str:
    """A numbered list of links, each given as title and address.

    What is neither http nor https is no link: title and address are shown as text.
    """
    return f"<ol>{''.join(f'<li>{_titled(title, address)}</li>' for title, address in pairs)}</ol>"


def _titled(title: str, address: str) -> str:
    words = inline_text(title.strip() or address)
    if linkable(address) and address.lower().startswith("http"):
        return f"{_anchor(address)}{words}</a>"
    shown = title.strip() and address.strip()  # of a file there is no address
    return f"{words} ({inline_text(address)})" if shown else words


def _rendered(text: str, fold: bool, mathml: bool) -> tuple[Literal["ltr", "rtl"], str]:
    """The direction of ``text``, and what it is as HTML."""
    text = unfenced(text.replace("\r\n", "\n").replace("\r", "\n"))
    size, start = len(text), text[:FOLD_CHARACTERS]
    end = size if size <= LONGEST else text.rfind("\n", 0, LONGEST) + 1 or LONGEST
    text, rest = text[:end], text[end:]
    tokens = parse(text)
    towards = _direction(_spoken(tokens))
    cut = _cut(text, tokens) if fold else None
    page = _Page(mathml)
    after = _plain(rest) if rest else ""
    lines = text.split("\n")[: cut and cut[1]]
    if fold and ((cut is None and rest) or any(len(line) > _LONGEST_LINE for line in lines)):
        begin = _Page(mathml).beginning(start)
        return towards, begin + _folded(f"all {size:,} characters", page.blocks(tokens) + after)
    if cut is None:
        return towards, page.blocks(tokens) + after
    index, line = cut
    left = text.rstrip("\n").count("\n") + 1 - line + rest.count("\n")
    shown, hidden = page.blocks(tokens[:index]), page.blocks(tokens[index:])
    what = f"the remaining {left} line{'s' if left != 1 else ''}"
    return towards, shown + _folded(what, hidden + after)


def _folded(what: str, inside: str) -> str:
    return f"<details><summary>Show {what}</summary>\n{inside}</details>"


def _direction(texts: Iterable[str]) -> Literal["ltr", "rtl"]:
    """The direction of the first letter, as ``dir="auto"`` has it.

    That is not left to the browser: Chromium looks for the letter again with each element that it
    reads, once one inside has a direction of its own, as code has: 90 s of a text with formulas.
    """
    for text in texts:
        for letter in _LETTER.finditer(text):
            if (kind := unicodedata.bidirectional(letter.group())) in ("L", "R", "AL"):
                return "ltr" if kind == "L" else "rtl"
    return "ltr"


def _spoken(tokens: Iterable[Token]) -> Iterable[str]:
    """The words of a text, without its code and its formulas: these read from left to right."""
    for token in tokens:
        for child in token.children or ():
            if child.type == "text":
                yield child.content
            yield from _spoken(child.children or ())


def _cut(text: str, tokens: Sequence[Token]) -> tuple[int, int] | None:
    """Where to fold: the token and the line at which the hidden part begins, if any.

    Between two blocks of the outermost level, so that both parts are whole; not behind a heading,
    and not for so little that hiding it would save nothing.
    """
    starts = [0]
    for written in text.split("\n"):
        starts.append(starts[-1] + len(written) + 1)
    if len(starts) - 1 <= FOLD_LINES and len(text) <= FOLD_CHARACTERS:
        return None
    cut: tuple[int, int] | None = None
    previous = ""
    for index, token in enumerate(tokens):
        if token.level == 0 and token.nesting >= 0 and token.map and index:
            line = token.map[0]
            fits = line <= FOLD_LINES and starts[line] <= FOLD_CHARACTERS
            if (fits and previous != "heading_close") or cut is None:
                cut = index, line
            if not fits:
                break
        previous = token.type
    if cut is None or (len(starts) - cut[1] < 10 and len(text) - starts[cut[1]] < 1_000):
        return None
    return cut


def _plain(text: str) -> str:
    towards = _direction([text])
    return f'<pre dir="{towards}" style="white-space: pre-wrap">{code_text(text)}</pre>\n'


def _anchor(address: str) -> str:
    rel = "noopener noreferrer nofollow"
    return f'<a href="{code_text(address)}" rel="{rel}" target="_blank">'


class _Page:
    """One text as it becomes HTML; remembers how much more of its code may be coloured."""

    def __init__(self, mathml: bool) -> None:
        self._mathml = mathml
        self._colour_left = highlight.MOST
        self._label = ""  # of a footnote that has begun

    def blocks(self, tokens: Iterable[Token]) -> str:
        return "".join(map(self._block, tokens))

    def beginning(self, start: str) -> str:
        """The first characters of a text; a block of code that is cut is no code to copy."""
        tokens = parse(start[: start.rfind(" ", -200) + 1 or None] + "…")
        last = tokens.pop() if tokens[-1].type in ("fence", "code_block") else None
        return self.blocks(tokens) + (_plain(last.content) if last else "")

    def _block(self, token: Token) -> str:
        label, self._label = self._label, ""
        if token.type == "footnote_reference_open":
            self._label = f"{_footnote_label(token)} "
            return "<div>"
        shown = self._shown(token)
        return shown + label if token.type == "paragraph_open" else label + shown

    def _shown(self, token: Token) -> str:
        match token.type:
            case "inline":
                return self._inline(token.children or ())
            case "fence" | "code_block":
                return self._code(token.content, token.info)
            case "math_block":
                return self._formula(token, f"<pre {_PRE}><code {_CODE}>", "</code></pre>\n")
            case "hr":
                return "<hr>\n"
            case "too_deep":
                return _plain(token.content)
        return _tag(token)

    def _code(self, code: str, info: str) -> str:
        language = language_of(info)
        if highlight.readable_size(code):
            self._colour_left -= len(code)
        inside = highlighted(code, language if self._colour_left >= 0 else "")
        return f'<pre dir="ltr" {_PRE}><code {_CODE}>{inside}</code></pre>\n{_selectable(code)}'

    def _inline(self, tokens: Iterable[Token], *, linked: bool = False) -> str:
        parts, depth = [], 0
        for token in tokens:
            if token.type == "image":
                parts.append(self._image(token, linked=linked or depth > 0))
            elif token.type in ("link_open", "link_close"):
                depth += token.nesting
                parts.append("" if linked else _link(token))
            elif token.type == "math_inline":
                parts.append(self._formula(token, "<code>", "</code>"))
            else:
                parts.append(_span(token))
        return "".join(parts)

    def _image(self, token: Token, *, linked: bool) -> str:
        """An image's words and a link: loading it would tell its server who reads this, and when.

        Args:
            linked: whether this is within a link, which can't hold another.
        """
        address = str(token.attrGet("src"))
        words = self._inline(token.children or (), linked=linked) or "image"
        shown = inline_text(
            address if len(address) <= _LONGEST_ADDRESS else f"{address[:_LONGEST_ADDRESS]}…"
        )
        return f"{words} ({shown})" if linked else f"{words} ({_anchor(address)}{shown}</a>)"

    def _formula(self, token: Token, before: str, after: str) -> str:
        """A formula for MathJax, alone in its element so that it ends there, or as MathML.

        Else its source, between ``before`` and ``after``.
        """
        element, end = ("div", "</div>\n") if token.type == "math_block" else ("span", "</span>")
        style = f" {_FORMULA if self._mathml else _WIDE}" if element == "div" else ""
        if self._mathml and not token.hidden:
            from bgmagic.rendering.mathml import to_mathml

            shown = to_mathml(token.content)
        else:
            shown = "" if token.hidden else code_text(for_mathjax(token.content))
        if not shown:
            return f"{before}{code_text(token.content)}{after}"
        return f"<{element}{style}>{shown}{end}"


def _tag(token: Token) -> str:
    """The start or the end of an element, whose name, as of all of them, is one of ours."""
    kind, _, side = token.type.rpartition("_")
    if kind == "paragraph" and token.hidden:
        return ""
    if kind == "heading":
        # One level smaller: the headings of the notebook are above those of a cell.
        level = min(int(token.tag[1:]) + 1, 6)
        return f"<h{level}>" if side == "open" else f"</h{level}>\n"
    if side == "close":
        return _CLOSED[kind]
    if kind == "ordered_list":
        start = token.attrGet("start")
        return f'<ol start="{int(start)}">' if start is not None else "<ol>"
    if kind in ("th", "td"):
        style = str(token.attrGet("style"))
        sides = (side for side in ("center", "right") if style == f"text-align:{side}")
        return f'<{kind} style="{_CELL}{next(sides, "left")}">'
    return _OPENED[kind]


def _link(token: Token) -> str:
    return _anchor(str(token.attrGet("href"))) if token.nesting == 1 else _CLOSED["link"]


def _span(token: Token) -> str:
    match token.type:
        case "softbreak":
            return "\n"
        case "hardbreak":
            return "<br>\n"
        case "code_inline":
            return f"<code>{code_text(token.content)}</code>"
        case "footnote_ref":
            return _footnote_label(token)
    if token.nesting:
        return _tag(token)
    return inline_text(token.content)


def _footnote_label(token: Token) -> str:
    return f"<sup>[{inline_text(str(token.meta['label']))}]</sup>"
