"""Markdown as tokens, by markdown-it-py: CommonMark, tables, strikethrough, footnotes and formulas.

Raw HTML stays text, but for ``<br>``, ``<sub>`` and ``<sup>`` without attributes, whose tokens are
made here. The parser is told which links there may be, and where it must stop so that the time
grows no faster than the text. What each token looks like is written in markdown.py.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bgmagic.rendering.math import Formulas, formulas

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_core import StateCore
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

# Quotes and lists within each other, two for each list; what is deeper is shown as it was written.
DEEPEST = 20
# Markdown in what follows is not looked for: more than any model writes at once.
LONGEST = 300_000
# Cells of all tables: a short row is filled up, so that a small text could make millions.
MOST_CELLS = 20_000

_LINK = re.compile(r"(?:https?://[^/?#\s]|mailto:)[^\s\x00-\x1f\x7f]+", re.IGNORECASE)
_LONGEST_BARE_LINK = 2_000  # characters
_SCHEME = re.compile(r"(?<![A-Za-z0-9])https?\Z", re.IGNORECASE)
_BREAK = re.compile(r"<br\s{0,9}/?>", re.IGNORECASE)
_RAISED = re.compile(r"<(su[bp])>(.{1,500}?)</\1>", re.IGNORECASE | re.DOTALL)
_TASK = re.compile(r"\[([ xX])\](?=\s)")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})([^`\n]*)$", re.MULTILINE)
# What ChatGPT's server puts where a source is cited, between private-use characters; and what the
# Assistants API puts there.
_CITATION = re.compile(
    r" ?(?:\ue200[a-z]{0,9}cite\ue202[^\ue200\ue201\n]{0,2000}\ue201"
    r"|【[^【】\n]{0,200}†[^【】\n]{0,200}】)"
)
_CITATION_SIGNS = re.compile("[\ue200-\ue20f]")
# Stands in for a pipe; Unicode says that no text has it.
_PIPE = "\ufdd0"

_PREFIX = re.compile(r"[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?")
_RULE = re.compile(r"[ \t>]*(?:\|[ \t]*)?:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*(?:\|[ \t]*)?")
_SEPARATOR = re.compile(r"(?<!\\)\|")
# In a table this means a pipe, in a formula a double one.
_ESCAPED = re.compile(r"(?<=\\)\|")
_TICKS = re.compile(r"(?<!`)`+")


def parse(text: str) -> list[Token]:
    """The tokens of ``text``, as markdown-it and its plugin for footnotes name them.

    Five are ours: ``math_inline`` and ``math_block``, whose content is a formula with its
    delimiters and which are ``hidden`` if it must not be typeset, ``too_deep``, text in which
    Markdown was not looked for, and ``sub_…`` and ``sup_…``, each pair around its content. An
    attribute ``href`` or ``src`` is an address that may be linked.
    """
    return _parser().parse(_hide_pipes(text), {"formulas": Formulas()})


def unfenced(text: str) -> str:
    """The inside of ``text`` if the whole of it is one fence of Markdown, else ``text``.

    Models are asked for Markdown and put their answer into a fence with that name, often with other
    fences of the same length inside.
    """
    inside = text.strip()
    opened: list[str] = []
    for fence in _FENCE.finditer(inside):
        marks, info = fence[1], fence[2].strip()
        if not opened and (fence.start() > 0 or info.lower() not in ("markdown", "md")):
            return text
        if info or not opened or marks[0] != opened[-1][0] or len(marks) < len(opened[-1]):
            opened.append(marks)
            continue
        opened.pop()
        if not opened:
            whole = fence.end() == len(inside)
            return inside[inside.index("\n") + 1 : fence.start()] if whole else text
    return text


def linkable(address: str) -> bool:
    """Whether ``address`` may be linked: http, https or mailto, with something after it.

    Nothing else: a link without a scheme would mean a file of the server that shows the notebook,
    and the other schemes can run or open things.
    """
    return _LINK.fullmatch(address) is not None


@functools.cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.footnote import footnote_plugin

    made = MarkdownIt("commonmark", {"html": False, "maxNesting": DEEPEST + 2})
    made.enable("strikethrough")
    made.disable(["html_block", "html_inline"])
    made.validateLink = linkable  # type: ignore[method-assign, assignment]  # so it is set
    # Where they stand: the plugin leaves out those at the end that no reference names.
    footnote_plugin(made, inline=False, move_to_end=False)
    around = ["paragraph", "reference", "blockquote", "list", "footnote_def"]
    made.block.ruler.before("code", "too_deep", _too_deep)
    made.block.ruler.before("fence", "math_block", _math_block, {"alt": around})
    made.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    made.enable("table")
    made.inline.ruler.before("escape", "math_inline", _math_inline)
    made.inline.ruler.after("text", "bare_link", _bare_link)
    made.inline.ruler.after("autolink", "few_elements", _few_elements)
    made.core.ruler.after("block", "sources", _as_written)
    made.core.ruler.after("inline", "tasks", _tasks)
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


def _as_written(state: StateCore) -> None:
    """Put the pipes back that `_hide_pipes` took out, and leave out the marks of citations."""
    for token in state.tokens:
        token.content = token.content.replace(_PIPE, "|")
        token.info = token.info.replace(_PIPE, "|")
        if token.type == "inline":
            token.content = _outside_code(token.content, _without_citations)


def _without_citations(text: str) -> str:
    return _CITATION_SIGNS.sub("", _CITATION.sub("", text))


def _tasks(state: StateCore) -> None:
    """Boxes for the items of a list of tasks.

    Ours, since the plugin's time grows with the square of a list's length: 15 s for 10,000 items
    (test_nesting_does_not_hang).
    """
    kinds = ["list_item_open", "paragraph_open", "inline"]
    for index, token in enumerate(state.tokens):
        if token.type != "inline" or not token.children:
            continue
        found = _TASK.match(token.content)
        first = token.children[0]
        if found is None or [near.type for near in state.tokens[index - 2 : index + 1]] != kinds:
            continue
        if first.type == "text" and first.content.startswith(found.group()):
            box = "☐" if found[1] == " " else "☑"
            first.content = box + first.content[found.end() :]


def _few_elements(state: StateInline, silent: bool) -> bool:
    """``<br>``, and ``<sub>`` and ``<sup>`` with their ends, each without attributes."""
    if state.src[state.pos] != "<":
        return False
    found = _BREAK.match(state.src, state.pos, state.posMax)
    if found is not None:
        if not silent:
            state.push("hardbreak", "br", 0)
        state.pos = found.end()
        return True
    found = _RAISED.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        kind, end = found[1].lower(), state.posMax
        state.push(f"{kind}_open", kind, 1)
        state.pos, state.posMax = found.start(2), found.end(2)
        state.md.inline.tokenize(state)
        state.push(f"{kind}_close", kind, -1)
        state.posMax = end
    state.pos = found.end()
    return True


def _bare_link(state: StateInline, silent: bool) -> bool:
    """An address on its own, as models write them, where linkify-it says that it ends.

    Not markdown-it's own rule, which looks back over all of the text before each ``://``
    (test_nesting_does_not_hang).
    """
    if state.linkLevel > 0 or not state.src.startswith("://", state.pos) or not state.md.linkify:
        return False
    scheme = _SCHEME.search(state.src[max(0, state.pos - 6) : state.pos])
    if scheme is None or not state.pending.endswith(scheme.group()):
        return False
    start = state.pos - len(scheme.group())
    longest = min(state.posMax, start + _LONGEST_BARE_LINK)
    found = state.md.linkify.match_at_start(state.src[start:longest])
    address = found.url.rstrip("*_~") if found is not None else ""  # these end an emphasis
    target = state.md.normalizeLink(address)
    if len(address) <= len(scheme.group()) + 3 or not linkable(target):
        return False
    if not silent:
        state.pending = state.pending[: -len(scheme.group())]
        state.push("link_open", "a", 1).attrs = {"href": target}
        state.push("text", "", 0).content = address
        state.push("link_close", "a", -1)
    state.pos = start + len(address)
    return True


def _hide_pipes(text: str) -> str:
    """``text``, of the same length, with `_PIPE` for each ``|`` in a table that separates no cells.

    GitHub's rules split a row at every ``|``, so that ``| Bayes | $P(A|B)$ | 0.5 |`` would lose a
    cell. Jupyter takes formulas out before it reads Markdown; here only their pipes are taken out,
    so that every place in the text stays where it is. What looks like a table in a block of code is
    changed, too; `_as_written` puts it back.
    """
    text = text.replace(_PIPE, "\ufffd")
    if "|" not in text:
        return text
    lines = text.split("\n")
    columns = 0
    for index, line in enumerate(lines):
        if "-" in line and "|" in line and index and _RULE.fullmatch(line):
            columns = len(_cells(line))
            lines[index - 1] = _row(lines[index - 1], columns, header=True)
        elif not line.strip(" \t>"):
            columns = 0
        elif columns and "|" in line:
            lines[index] = _row(line, columns)
    return "\n".join(lines)


def _row(line: str, columns: int, *, header: bool = False) -> str:
    """``line`` with ``columns`` cells, if it can be read so; the last one has what is too much.

    A row that has them as it is (``| $5 | $10 |``) stays; formulas go before code.
    """
    code = _code_spans(line)
    math = list(_formula_spans(line, code))
    line = _hidden(line, math, _ESCAPED)
    if len(_cells(line)) == columns:
        return line
    for spans in (math, code, sorted([*math, *code])):
        hidden = _hidden(line, spans)
        if len(_cells(hidden)) == columns:
            return hidden
    if header:  # not a table then: it stays text
        return line
    cells = _cells(hidden)
    if len(cells) < columns:
        return hidden
    return _hidden(hidden, [(cells[columns - 1][0], cells[-1][1])])


def _cells(line: str) -> list[tuple[int, int]]:
    """Where the cells of a row start and end, as markdown-it splits it."""
    found = _PREFIX.match(line)
    start, end = found.end() if found else 0, len(line.rstrip())
    start += line.startswith("|", start)
    ends = [mark.start() for mark in _SEPARATOR.finditer(line, start, end)]
    if not ends or ends[-1] != end - 1:
        ends.append(end)
    return list(zip([start, *(at + 1 for at in ends[:-1])], ends, strict=True))


def _hidden(
    line: str, spans: Iterable[tuple[int, int]], which: re.Pattern[str] = _SEPARATOR
) -> str:
    """``line`` without the pipes that are in ``spans``, which do not overlap, in their order."""
    parts, at = [], 0
    for start, end in spans:
        parts += [line[at:start], which.sub(_PIPE, line[start:end])]
        at = end
    return "".join([*parts, line[at:]])


def _formula_spans(line: str, code: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Where the formulas of a line start and end, outside its ``code``."""
    found = formulas(line) if "$" in line or "\\" in line else {}
    at = 0
    for start, end in sorted([*found.items(), *code]):
        if start >= at:
            at = end
            if line[start] != "`":
                yield start, end


def _code_spans(text: str) -> list[tuple[int, int]]:
    """Where code within a line of text starts and ends, its backticks included."""
    runs = [(run.start(), run.end()) for run in _TICKS.finditer(text)]
    left: dict[int, list[int]] = {}
    for index in range(len(runs) - 1, -1, -1):
        left.setdefault(runs[index][1] - runs[index][0], []).append(index)
    spans, at = [], -1
    for index, (start, end) in enumerate(runs):
        same = left[end - start]
        same.pop()
        if index <= at or text[max(0, start - 1) : start] == "\\":
            continue
        if same:
            at = same[-1]
            spans.append((start, runs[at][1]))
    return spans


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """``text`` with ``change`` made of each part of it that is no code."""
    if "`" not in text:
        return change(text)
    edges = [0, *itertools.chain.from_iterable(_code_spans(text)), len(text)]
    parts = [text[start:end] for start, end in itertools.pairwise(edges)]
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


@dataclass(frozen=True)
class CodeBlock:
    """A block of code of an answer; ``str`` of it is its text.

    Attributes:
        text: the code, without a line break at its end.
        language: the word that stands after the fence, as "python", or "".
    """

    text: str
    language: str = ""

    def __str__(self) -> str:
        return self.text


def language_of(info: str) -> str:
    """The language that the words after a fence name: "python" of "{.python} title=x"; or ""."""
    return (info.split() or [""])[0].strip("{}.")


def code_blocks(text: str) -> tuple[CodeBlock, ...]:
    """The fenced and the indented blocks of code in ``text``, Markdown, in order; never raises.

    Those within lists and quotes too, and one whose fence is not closed. What stands beyond
    `LONGEST` characters is not looked at, as it is not drawn as Markdown either.
    """
    try:
        tokens = parse(unfenced(text.replace("\r\n", "\n").replace("\r", "\n"))[:LONGEST])
    except Exception:  # an answer that was paid for can be used, whatever a library makes of it
        return ()
    return tuple(
        CodeBlock(token.content.removesuffix("\n"), language_of(token.info))
        for token in tokens
        if token.type in ("fence", "code_block")
    )
