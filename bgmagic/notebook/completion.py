"""Completes the lines of our magics at Tab: options, choices, variables, jobs and paths.

For IPython's completer, in the terminal and in JupyterLab. The completions follow from the options
themselves; finding them is fast, and never raises.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from IPython.core.completer import (
    CompletionContext,
    SimpleCompletion,
    SimpleMatcherResult,
)

from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Answer, Job
from bgmagic.prompts.expressions import IPYTHON_NAMES
from bgmagic.submission.app import app
from bgmagic.submission.lookup import JobLookup
from bgmagic.submission.options import Option, options
from bgmagic.submission.settings import (
    AttachSettings,
    CancelSettings,
    CodeSettings,
    CostSettings,
    ListSettings,
    LocalSettings,
    SubmitSettings,
    WaitSettings,
)
from bgmagic.text import user_path
from bgmagic.values import dataclass

MAGICS: Mapping[str, type[Any]] = {
    "%%bgresponse": SubmitSettings,
    "%bgwait": WaitSettings,
    "%bgcancel": CancelSettings,
    "%bgjobs": ListSettings,
    "%bgcode": CodeSettings,
    "%bgattach": AttachSettings,
    "%bgcost": CostSettings,
    "%bglocal": LocalSettings,
}

MOST = 500  # of a folder's files; nobody reads on

_MAGIC = re.compile(r"\s*(%%?bg\w+)\s")

Offer = tuple[str, str]  # the text and its kind


@dataclass(frozen=True)
class Typed:
    """The line of a magic as far as it is written.

    Attributes:
        words: those that are complete, without their quotes.
        raw: the word at the cursor as it stands there.
        word: the same without its quotes.
        quote: the quote that is open in it, or "".
    """

    words: tuple[str, ...]
    raw: str
    word: str
    quote: str


def complete(context: CompletionContext, namespace: Mapping[str, Any]) -> SimpleMatcherResult:
    """What IPython's completer is offered at its cursor, with the variables of ``namespace``."""
    try:
        at = context.cursor_line, context.cursor_position
        raw, offers = completions_at(context.full_text, *at, namespace)
    except Exception:  # nothing is worth a traceback under a cell that is being written
        raw, offers = context.token, []
    found = [SimpleCompletion(text, type=kind) for text, kind in offers]
    return SimpleMatcherResult(completions=found, matched_fragment=raw, suppress=bool(found))


def completions_at(
    cell: str, line: int, column: int, namespace: Mapping[str, Any]
) -> tuple[str, list[Offer]]:
    """Find what can stand at the cursor, and the text before it that this replaces.

    Args:
        line: the cursor's line, from 0.
        column: the characters before it in that line.
    """
    lines = cell.split("\n")
    before = lines[line][:column]
    found = _MAGIC.match(before)
    settings = MAGICS.get(found[1]) if found else None
    if found is None or settings is None:
        return "", []
    if found[1].startswith("%%") and any(text.strip() for text in lines[:line]):
        return "", []  # a cell magic is one on its first line only
    typed = _typed(before[found.end() :])
    return _at(typed, settings, namespace)


def _typed(text: str) -> Typed:
    """Split as the shell does, with an open quote allowed at the end."""
    words, word, quote, start = [], "", "", None
    for place, char in enumerate(text):
        if not quote and char.isspace():
            if start is not None:
                words.append(word)
            word, start = "", None
            continue
        start = place if start is None else start
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        else:
            word += char
    return Typed(tuple(words), "" if start is None else text[start:], word, quote)


def _at(typed: Typed, settings: type[Any], namespace: Mapping[str, Any]) -> tuple[str, list[Offer]]:
    every = options(settings)
    by_flag = {flag: option for option in every for flag in option.flags}
    before = by_flag.get(typed.words[-1]) if typed.words else None
    flag, equals, rest = typed.word.partition("=")
    begins_flag = typed.word.startswith("-") and before is not None and before.is_also_switch
    if before is not None and before.metavar and not begins_flag:
        return typed.raw, list(_values(before, typed, namespace))
    if equals and flag in by_flag and by_flag[flag].metavar:
        raw = typed.raw.partition("=")[2]
        inner = Typed(typed.words, raw, rest, typed.quote)
        return raw, list(_values(by_flag[flag], inner, namespace))
    offers = [] if typed.word.startswith("-") else list(_words(every, settings, typed))
    if typed.word.startswith("-") or not (typed.word or offers):
        offers += _flags(every, typed)
    return typed.raw, offers


def _flags(every: tuple[Option, ...], typed: Typed) -> Iterator[Offer]:
    for option in every:
        if option.repeatable or not set(option.flags) & set(typed.words):
            flags = option.flags if typed.word.startswith("-") else option.flags[-1:]
            yield from ((flag, "option") for flag in flags if flag.startswith(typed.word))


def _values(option: Option, typed: Typed, namespace: Mapping[str, Any]) -> Iterator[Offer]:
    """Find the values that the option may have."""
    if typed.word.startswith("$"):
        names = _names(namespace, typed.word[1:])
        yield from ((f"${name}", "instance") for name in names)
    elif option.metavar == "PATH":
        yield from ((path, "path") for path in _paths(typed))
    elif option.offered:
        yield from ((word, "value") for word in option.offered if word.startswith(typed.word))
    elif option.takes_variable:
        yield from ((name, "instance") for name in _names(namespace, typed.word))


def _words(every: tuple[Option, ...], settings: type[Any], typed: Typed) -> Iterator[Offer]:
    """Find what may stand without a flag: the words of an action, or jobs."""
    for option in every:
        if not option.flags:
            words = option.offered or tuple(_jobs(settings))
            fresh = [word for word in words if word not in typed.words]
            yield from ((word, "value") for word in fresh if word.startswith(typed.word))


def _jobs(settings: type[Any]) -> list[str]:
    """Find the jobs that a magic takes, the newest first, by variable or else by id."""
    if not app.has_journal():
        return []
    if settings is AttachSettings:
        found = [entry.name or entry.response_id for entry in JobLookup().open_jobs()]
    else:
        past = settings in (CodeSettings, ListSettings)
        told = [job for job in reversed(app.manager.jobs()) if past or not job.done()]
        found = [job.name or job.response_id for job in told]
    return list(dict.fromkeys(name for name in found if name))


def _names(namespace: Mapping[str, Any], begun: str) -> list[str]:
    """Find the user's variables, those with jobs and answers first."""
    found = [
        (name, value)
        for name, value in list(namespace.items())
        if name.startswith(begun)
        and (begun or not name.startswith("_"))
        and name not in IPYTHON_NAMES
        and not isinstance(value, ModuleType)
    ]
    found.sort(key=lambda item: (not isinstance(item[1], Job | Answer | JobGroup), item[0].lower()))
    return [name for name, _ in found]


def _paths(typed: Typed) -> list[str]:
    folder, _, begun = typed.word.rpartition("/")
    shown = f"{folder}/" if "/" in typed.word else ""
    place = user_path(shown or ".")
    found = []
    with os.scandir(place) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(begun) and (begun.startswith(".") or not name.startswith(".")):
                found.append(_quoted(shown + name, typed.quote, folder=entry.is_dir()))
    return sorted(found, key=str.lower)[:MOST]


def _quoted(path: str, quote: str, *, folder: bool) -> str:
    """Quote ``path`` as it has to be; the quote of a folder stays open for what is in it."""
    if not quote:
        quote = "" if shlex.quote(path.replace("~", "")) == path.replace("~", "") else "'"
    end = "/" if folder else quote
    return f"{quote}{path}{end}"
