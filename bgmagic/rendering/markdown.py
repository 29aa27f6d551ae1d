"""Markdown of an answer as HTML in which nothing that a model wrote can act."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bgmagic.rendering import highlight
from bgmagic.rendering.escaping import code_text, inline_text
from bgmagic.rendering.highlight import highlighted
from bgmagic.rendering.math import Formulas

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

# Quotes and lists within each other, two for each list; what is deeper is shown as it was written.
DEEPEST = 20

# Cells of all tables: a short row is filled up, so that a small text could make millions.
MOST_CELLS = 20_000

_LINK = re.compile(r"(?:https?://[^/?#\s]|mailto:)[^\s\x00-\x1f\x7f]+", re.IGNORECASE)

_BARE = re.compile(r"://[^\s<>\"`\\$|{}\[\]]{1,2000}")

_NO_END = ".,;:!?'*_~"


def parse(text: str) -> list[Token]:
    """The tokens of ``text``, as markdown-it names them.

    Three are ours: ``math_inline`` and ``math_block``, whose content is a formula with its
    delimiters and which are ``hidden`` if it must not be typeset, and ``too_deep``, text in which
    Markdown was not looked for. An attribute ``href`` or ``src`` is an address that may be linked.
    """
    return _parser().parse(text, {"formulas": Formulas()})


def linkable(address: str) -> bool:
    """Whether ``address`` may be linked: http, https or mailto, with something after it.

    Nothing else: a link without a scheme would mean a file of the server that shows the notebook,
    and the other schemes can run or open things.
    """
    return _LINK.fullmatch(address) is not None


@functools.cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    made = MarkdownIt("commonmark", {"html": False, "maxNesting": DEEPEST + 2})
    made.enable("strikethrough")
    made.disable(["html_block", "html_inline"])
    made.validateLink = linkable  # type: ignore[method-assign, assignment]  # so it is set
    around = ["paragraph", "reference", "blockquote", "list"]
    made.block.ruler.before("code", "too_deep", _too_deep)
    made.block.ruler.before("fence", "math_block", _math_block, {"alt": around})
    made.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    made.enable("table")
    made.inline.ruler.before("escape", "math_inline", _math_inline)
    made.inline.ruler.after("text", "bare_link", _bare_link)
    return made


def _formulas(env: Any) -> Formulas:
    found: Formulas = env["formulas"]
    return found


def _math_inline(state: StateInline, silent: bool) -> bool:
    return _formulas(state.env).inline(state, silent)


def _math_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    return _formulas(state.env).block(state, start, end, silent)


def _too_deep(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """At `DEEPEST`, take what is left as it is; markdown-it itself would leave it out."""
    if silent or state.level < DEEPEST:
        return False
    token = state.push("too_deep", "", 0)
    token.content = state.getLines(start, end, state.blkIndent, False)
    token.map = [start, end]
    state.line = end
    return True


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """markdown-it's rule for tables, which ends one where there are `MOST_CELLS`."""
    from markdown_it.rules_block import table

    columns = state.src.count("|", state.bMarks[start], state.eMarks[start]) + 1
    rows = (MOST_CELLS - state.env.get("cells", 0)) // columns
    found = rows > 2 and table(state, start, min(end, start + rows), silent)
    if found and not silent:
        state.env["cells"] = state.env.get("cells", 0) + columns * (state.line - start)
    return found


def _bare_link(state: StateInline, silent: bool) -> bool:
    """An address on its own, as models write them; what ends a sentence is not a part of it."""
    if state.src[state.pos] != ":" or state.linkLevel > 0:
        return False
    found = _BARE.match(state.src, state.pos, state.posMax)
    scheme = re.search(r"(?<![A-Za-z0-9])https?\Z", state.src[max(0, state.pos - 6) : state.pos])
    if found is None or scheme is None or not state.pending.endswith(scheme.group()):
        return False
    rest = found.group().rstrip(_NO_END)
    while rest.endswith(")") and rest.count(")") > rest.count("("):
        rest = rest[:-1].rstrip(_NO_END)
    address = scheme.group() + rest
    target = state.md.normalizeLink(address)
    if not linkable(target):
        return False
    if not silent:
        state.pending = state.pending[: -len(scheme.group())]
        state.push("link_open", "a", 1).attrs = {"href": target}
        state.push("text", "", 0).content = address
        state.push("link_close", "a", -1)
    state.pos += len(rest)
    return True


# Beyond either the rest is folded: about two screens.
FOLD_LINES, FOLD_CHARACTERS = 60, 6_000

# Markdown in what follows is not looked for: more than any model writes at once.
LONGEST = 300_000

_LONGEST_ADDRESS = 80  # of an image, as it is shown

_LINE = "var(--jp-border-color1, rgba(127, 127, 127, 0.5))"

# On the background of the page: Jupyter's colours of code are too faint on that of its editor.
_SHADE = "var(--jp-layout-color1, rgba(127, 127, 127, 0.12))"

_ALL = "max-width: 52em; overflow-wrap: anywhere"

# What may be too wide scrolls, by the keyboard too: hence the tabindex.
_PRE = (
    'tabindex="0" style="overflow-x: auto; padding: 0.6em 0.8em; line-height: 1.35; '
    f'border: 1px solid {_LINE}; border-radius: 3px; background: {_SHADE}"'
)

_WIDE = 'tabindex="0" style="overflow-x: auto; max-width: 100%"'

# Jupyter's own style for code would break its lines, and put a background of its own behind them.
_CODE = 'style="white-space: pre; padding: 0; background: none"'

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
    "link": "</a>",
}


def to_html(text: str, *, fold: bool = True) -> str:
    """``text``, Markdown, as safe HTML; it never raises, in time that grows with the text's length.

    CommonMark with tables, strikethrough and formulas, which are left to the page's MathJax. Raw
    HTML is shown as text, an image as its words and a link to it.

    Args:
        fold: hide the rest of what is longer than about `FOLD_LINES` lines or `FOLD_CHARACTERS`
            characters behind a line that can be clicked.
    """
    try:
        inside = _rendered(text, fold)
    except Exception:  # an answer that was paid for is shown, whatever a library makes of it
        inside = _plain(text)
    return f'<div dir="auto" style="{_ALL}">{inside}</div>'


_QUIET = "color: var(--jp-ui-font-color2, #757575); font-size: 0.9em"


def sources_html(sources: Sequence[tuple[str, str]]) -> str:
    """The list of links that stands under an answer, from pairs (title, address); or ""."""
    return f'<div style="{_QUIET}">Sources{links_html(sources)}</div>' if sources else ""


def links_html(pairs: Sequence[tuple[str, str]]) -> str:
    """A numbered list of links, each given as title and address.

    What is neither http nor https is no link: title and address are shown as text.
    """
    return f"<ol>{''.join(f'<li>{_titled(title, address)}</li>' for title, address in pairs)}</ol>"


def _titled(title: str, address: str) -> str:
    words = inline_text(title.strip() or address)
    if linkable(address) and address.lower().startswith("http"):
        return f"{_anchor(address)}{words}</a>"
    return words if not title.strip() else f"{words} ({inline_text(address)})"


def _rendered(text: str, fold: bool) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    end = len(text) if len(text) <= LONGEST else text.rfind("\n", 0, LONGEST) + 1 or LONGEST
    text, rest = text[:end], text[end:]
    tokens = parse(text)
    cut = _cut(text, tokens) if fold else None
    page = _Page()
    if cut is None:
        return page.blocks(tokens) + (_plain(rest) if rest else "")
    index, line = cut
    left = text.rstrip("\n").count("\n") + 1 - line + rest.count("\n")
    shown, hidden = page.blocks(tokens[:index]), page.blocks(tokens[index:])
    summary = f"Show the remaining {left} line{'s' if left != 1 else ''}"
    hidden += _plain(rest) if rest else ""
    return f"{shown}<details><summary>{summary}</summary>\n{hidden}</details>"


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
    return f'<pre dir="auto" style="white-space: pre-wrap">{code_text(text)}</pre>\n'


def _anchor(address: str) -> str:
    rel = "noopener noreferrer nofollow"
    return f'<a href="{code_text(address)}" rel="{rel}" target="_blank">'


class _Page:
    """One text as it becomes HTML; remembers how much more of its code may be coloured."""

    def __init__(self) -> None:
        self._colour_left = highlight.MOST

    def blocks(self, tokens: Iterable[Token]) -> str:
        return "".join(map(self._block, tokens))

    def _block(self, token: Token) -> str:
        match token.type:
            case "inline":
                return _inline(token.children or ())
            case "fence" | "code_block":
                return self._code(token.content, token.info)
            case "math_block":
                return _formula(token, "div", f"<pre {_PRE}><code {_CODE}>", "</code></pre>\n")
            case "hr":
                return "<hr>\n"
            case "too_deep":
                return _plain(token.content)
        return _tag(token)

    def _code(self, code: str, info: str) -> str:
        language = (info.split() or [""])[0].strip("{}.")
        if highlight.readable_size(code):
            self._colour_left -= len(code)
        inside = highlighted(code, language if self._colour_left >= 0 else "")
        return f'<pre dir="ltr" {_PRE}><code {_CODE}>{inside}</code></pre>\n'


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


def _inline(tokens: Iterable[Token], *, linked: bool = False) -> str:
    parts, depth = [], 0
    for token in tokens:
        if token.type == "image":
            parts.append(_image(token, linked=linked or depth > 0))
        elif token.type in ("link_open", "link_close"):
            depth += token.nesting
            parts.append("" if linked else _link(token))
        else:
            parts.append(_span(token))
    return "".join(parts)


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
        case "math_inline":
            return _formula(token, "span", "<code>", "</code>")
        case "em_open" | "em_close" | "strong_open" | "strong_close" | "s_open" | "s_close":
            return _tag(token)
    return inline_text(token.content)


def _image(token: Token, *, linked: bool) -> str:
    """An image's words and a link to it: loading it would tell its server who reads this, and when.

    Args:
        linked: whether this is within a link, which can't hold another.
    """
    address = str(token.attrGet("src"))
    words = _inline(token.children or (), linked=linked) or "image"
    shown = inline_text(
        address if len(address) <= _LONGEST_ADDRESS else f"{address[:_LONGEST_ADDRESS]}…"
    )
    return f"{words} ({shown})" if linked else f"{words} ({_anchor(address)}{shown}</a>)"


def _formula(token: Token, element: str, before: str, after: str) -> str:
    """A formula for MathJax, alone in its element so that it ends there; or else its source."""
    source = code_text(token.content)
    if token.hidden:
        return f"{before}{source}{after}"
    style = f" {_WIDE}" if element == "div" else ""
    return f"<{element}{style}>{source}</{element}>" + ("\n" if element == "div" else "")


def as_markdown(text: str, *, structured: bool) -> str:
    """What is shown of an output text: itself, or if it is ``structured`` JSON to be read."""
    try:
        indented = json.dumps(json.loads(text), indent=2, ensure_ascii=False) if structured else ""
    except (ValueError, RecursionError):
        return text
    return f"```json\n{indented}\n```" if structured else text
