"""Markdown as tokens: CommonMark, tables, strikethrough and formulas, without raw HTML.

markdown-it-py reads it. Here is what it is told: which links there may be, and where it must stop
so that the time grows no faster than the text. What a token looks like is left to render.py.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from bgmagic.display.math import Formulas

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
