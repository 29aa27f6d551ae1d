"""Finds words in what was asked and answered: how a search is read, what it looks at, its snippet.

A search is text to be found, not a language: every character in it stands for itself, but for
spaces between words and double quotes around a phrase.
"""

from __future__ import annotations

import bisect
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bgmagic.errors import BadInput
from bgmagic.text import one_line
from bgmagic.values import dataclass

_WORD = re.compile(r'(?<!\S)"([^"]+)"(?!\S)|(\S+)')

# Accents (as NFKD sets them apart), what has no width, and what no file of SQLite's can hold.
_SILENT = re.compile("[\u0300-\u036f\u00ad\u200b-\u200d\u2060\ufeff\ud800-\udfff]")

# The keys under which a request or a response has what people read; not names, ids and files.
_READ = frozenset((
    "text", "content", "instructions", "input", "output", "arguments", "refusal", "code", "logs",
    "title", "url", "filename",
))  # fmt: skip

SNIPPET, BEFORE = 160, 50  # characters, in all and before what was found


def fold(text: str) -> str:
    """Write ``text`` as it is compared: no case, no accents, one space for any white space.

    As Unicode's caseless compatibility matching (chapter 3.13, D146), without the accents of
    Latin, Greek and Cyrillic letters; those of other scripts are letters.
    """
    line = " ".join(text.replace("\0", " ").split())
    if line.isascii():
        return line.lower()
    plain = unicodedata.normalize("NFKD", line).casefold()
    return unicodedata.normalize("NFC", _SILENT.sub("", plain))


def search_words(text: str, label: str) -> tuple[str, ...]:
    """The words and quoted phrases of a search, folded, each once.

    Args:
        label: what the text was given as, for the message.

    Raises:
        BadInput: there is none.
    """
    found = (fold(phrase or word).strip() for phrase, word in _WORD.findall(text))
    words = tuple(dict.fromkeys(word for word in found if word))
    if not words:
        raise BadInput(f"{label} has nothing to look for: write words, or phrases in quotes")
    return words


def asked_text(body: object) -> str:
    """What a request's body says: the instructions and the turns, without files and settings."""
    given = body if isinstance(body, Mapping) else {}
    return "\n".join(_texts([given.get("instructions"), given.get("input")], read=True))


def given_text(response: object) -> str:
    """What a response says: answer, commentary, refusal, and what tools were told and said."""
    given = response if isinstance(response, Mapping) else {}
    return "\n".join(_texts(given.get("output"), read=False))


def _texts(value: Any, *, read: bool) -> Iterator[str]:
    if isinstance(value, str):
        if read:
            yield value
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, read=read)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _texts(part, read=key in _READ)


@dataclass(frozen=True)
class Match:
    """Where a job has what was looked for.

    Attributes:
        place: "prompt" or "answer".
        before: the text in one line up to it, with "…" where it is cut.
        found: as it is written there.
        after: the text in one line from there.
    """

    place: str
    before: str
    found: str
    after: str

    def __str__(self) -> str:
        return f"{self.place}: {self.before}{self.found}{self.after}"


def match(words: Sequence[str], asked: str, given: str) -> Match | None:
    """Find the words of a search; None unless each is in what was asked or in what was answered.

    The snippet is of the text that has most of them, of two with as many of the answer.
    """
    texts = {"answer": fold(given), "prompt": fold(asked)}
    if not all(any(word in text for text in texts.values()) for word in words):
        return None
    counts = {place: sum(word in text for word in words) for place, text in texts.items()}
    place = max(counts, key=lambda one: counts[one])
    return _snippet(place, {"answer": given, "prompt": asked}[place], texts[place], words)


def _snippet(place: str, text: str, folded: str, words: Sequence[str]) -> Match:
    begin, word = min((at, word) for word in words if (at := folded.find(word)) >= 0)
    line = " ".join(text.replace("\0", " ").split())
    begin, end = _unfolded(line, folded, begin), _unfolded(line, folded, begin + len(word))
    first = max(0, begin - BEFORE)
    first = line.find(" ", first, begin) + 1 or first if first else 0
    last = max(end, first + SNIPPET)
    return Match(
        place,
        ("…" if first else "") + _shown(line[first:begin]),
        _shown(line[begin:end][:SNIPPET]),
        _shown(line[end:last]) + ("…" if last < len(line) else ""),
    )


def _unfolded(line: str, folded: str, at: int) -> int:
    """The place in ``line`` of what stands at ``at`` once it is folded."""
    if len(line) == len(folded):
        return at
    begin = there = 0  # where a word begins; no letter of one joins those of the next
    word = ""
    for word in line.split(" "):
        size = len(word if word.isascii() else fold(word))
        if there + size >= at:
            break
        begin, there = begin + len(word) + 1, there + size + 1
    # Its longest beginning that folds to no more than that.
    places = range(len(word) + 1)
    within = bisect.bisect_right(places, at - there, key=lambda n: len(fold(word[:n] + "|")) - 1)
    return begin + max(0, within - 1)


def _shown(text: str) -> str:
    """``text`` for a line of a terminal; spaces at its ends stay."""
    plain = one_line(text, SNIPPET)
    left = " " if text[:1].isspace() and plain else ""
    return f"{left}{plain}{' ' if text[-1:].isspace() else ''}"
