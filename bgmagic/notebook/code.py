"""Takes a block of code out of an answer: what %bgcode puts into the next cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bgmagic.errors import BadInput
from bgmagic.jobs.group import JobGroup
from bgmagic.rendering.parser import CodeBlock, code_blocks
from bgmagic.submission.lookup import JobLookup
from bgmagic.text import and_more, one_line

# Languages for which IPython has a cell magic of its own; a cell without one is Python.
_CELL_MAGICS = {
    "bash": "bash", "sh": "sh", "shell": "sh", "zsh": "sh", "perl": "perl", "ruby": "ruby",
    "html": "html", "svg": "svg", "javascript": "javascript", "js": "javascript",
    "latex": "latex", "tex": "latex", "markdown": "markdown", "md": "markdown",
}  # fmt: skip

_LISTED = 12  # blocks that are named in one line


def cell_of(words: Sequence[str], namespace: Mapping[str, Any]) -> str:
    """The cell that ``%bgcode NAME [N]`` asks for.

    Raises:
        BadInput: there is no such answer or block, or it must be said which.
    """
    if not 1 <= len(words) <= 2:
        raise BadInput("name an answer, and which block of code in it: %bgcode NAME [N]")
    name = words[0]
    found = code_blocks(_text(name, namespace))
    if not found:
        raise BadInput(f"{name} has no block of code")
    if len(words) == 1 and len(found) > 1:
        raise BadInput(
            f"{name} has {len(found)} blocks of code: {_listed(found)}; %bgcode {name} N"
        )
    which = words[1] if len(words) == 2 else "1"
    if not which.isdecimal() or not 1 <= int(which) <= len(found):
        allowed = "1" if len(found) == 1 else f"1 to {len(found)}"
        raise BadInput(f"%bgcode {name} {one_line(which, 40)}: allowed is {allowed}")
    block = found[int(which) - 1]
    magic = _CELL_MAGICS.get(block.language.lower())
    return f"%%{magic}\n{block.text}" if magic else block.text


def _text(name: str, namespace: Mapping[str, Any]) -> str:
    held = namespace.get(name)
    if isinstance(held, JobGroup):
        raise BadInput(f"{name} is a group: %bgcode takes one of its answers, as {_first(held)}")
    if isinstance(held, str):
        return held
    job = JobLookup().job(name, namespace)
    if job is None:
        raise BadInput(f"there is no answer {name!r}, here or in the journal; see %bgjobs --all")
    if not job.done() or job.error:
        raise BadInput(job.refusal("give its code"))
    return str(job.result(0))


def _first(group: JobGroup) -> str:
    return str(group.jobs[0].name or f"{group.name}[0]") if group.jobs else f"{group.name}[0]"


def _listed(found: Sequence[CodeBlock]) -> str:
    told = [
        f"{number} {one_line(block.language, 20) or 'text'} ({_lines(block)})"
        for number, block in enumerate(found, 1)
    ]
    return and_more(told[:_LISTED], len(told))


def _lines(block: CodeBlock) -> str:
    count = block.text.count("\n") + 1
    return "1 line" if count == 1 else f"{count} lines"
