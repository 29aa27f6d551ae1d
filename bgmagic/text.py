"""Writes values as people read them: one line, counts, kinds, dollars, durations, near misses;
reads the paths that they write."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path


def user_path(given: str | os.PathLike[str]) -> Path:
    """The path ``given`` with ``~`` as the home folder; where there is no such user, as it is, as
    shells take it."""
    path = Path(given)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_file_name(path: Path) -> bool:
    """Whether a file can be called so: no null character, nor half of another one, is in it."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def one_line(text: str, most: int = 600) -> str:
    """Shorten ``text`` from elsewhere to one line of at most ``most`` characters.

    Control characters become spaces: a terminal would obey them.
    """
    plain = text[: 4 * most]
    if not plain.isprintable():
        plain = "".join(c if c.isprintable() else " " for c in plain)
    line = " ".join(plain.split())
    # Spaces may have hidden that there is more.
    cut = len(line) > most or text[4 * most :].strip()
    return f"{line[:most]}…" if cut else line


# Tabs and line breaks are shown as they are.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def without_controls(text: str) -> str:
    """``text`` with its control characters written out as ``\\x1b``: a terminal would obey them."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def count_jobs(count: int) -> str:
    """Write a number of jobs: "1 job", "20 jobs"."""
    return "1 job" if count == 1 else f"{count} jobs"


def and_more(first: Sequence[str], count: int) -> str:
    """List the ``first`` words of ``count`` in all: "a, b and 3 more"."""
    more = count - len(first)
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def count_each(counts: Mapping[str, int]) -> str:
    """Write numbers with their words, the largest first: "9 completed, 3 in_progress"."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {one_line(word, 40)}" for word, count in ordered)


def kind_of(value: object) -> str:
    """Name the type of ``value`` for a message: "a dict", "an int", "a class"."""
    its: type[object] = type(value)  # its `__class__` may be anything, and raise
    # As the class was made: a metaclass may say otherwise, or raise.
    name = "class" if issubclass(its, type) else str(vars(type)["__name__"].__get__(its))
    return f"{'an' if name[:1].lower() in tuple('aeiou') else 'a'} {name}"


def unreadable(label: str, value: object, error: Exception) -> str:
    """Say that ``value``, which ``label`` was given, raised ``error`` as it was looked at."""
    return f"{label} can't be {kind_of(value)} that raises {type(error).__name__} when it is read"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200  # characters


def shown(value: object) -> str:
    """Quote ``value`` for a message: its ``repr`` in one short line, whatever it is; its kind where
    it has none."""
    try:
        return one_line(_SHORT.repr(value), 200)
    except Exception:  # a number of thousands of digits, or an object of the user's
        return kind_of(value)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Suggest the word that was probably meant, as the end of a message; or ""."""
    import difflib  # only for a message

    if len(word) > 100:
        return ""  # text, and comparing it would take long
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def duration(seconds: float, *, exact: bool = False) -> str:
    """Seconds as people say them: 42 s, 12 min, 3.5 h, 4 d.

    Args:
        exact: to the second below an hour, else to the minute: 42 s, 12 min 5 s, 3 h 30 min.
    """
    seconds = max(seconds, 0)
    if exact:
        s = round(seconds)
        minutes, hours = s // 60 % 60, s // 3600
        if hours:
            return f"{hours} h {minutes} min"
        return f"{minutes} min {s % 60} s" if minutes else f"{s} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} d"


def dollars(amount: float | None) -> str:
    """Write an amount of US dollars with enough digits: $4.80, $0.0123; "" for None."""
    if amount is None:
        return ""
    return f"${amount:,.2f}" if amount >= 0.1 or amount == 0 else f"${amount:.3g}"


class SharedText:
    """A text whose beginning and end are those of others too, which are kept once for all."""

    __slots__ = ("_ends", "_own")

    def __init__(self, own: str, ends: tuple[str, str] = ("", "")) -> None:
        self._own, self._ends = own, ends

    @property
    def parts(self) -> tuple[str, str, str]:
        """Its beginning, what is its own, and its end."""
        start, end = self._ends
        return start, self._own, end

    def __str__(self) -> str:
        start, end = self._ends
        return f"{start}{self._own}{end}" if start or end else self._own

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def size(self) -> int:
        """Bytes of it in UTF-8."""
        return sum(len(part) if part.isascii() else len(part.encode()) for part in self.parts)


_LOOKS = frozenset({0, 2, 4, 8, 16, 32, 64, 128})


class TextSharer:
    """Makes texts share what they have in common with the one before. From any thread."""

    def __init__(self) -> None:
        self._newest = ""
        self._ends = "", ""
        self._count = 0

    def share(self, text: str) -> SharedText:
        """``text``, which is kept once where it is the same as others at its ends."""
        ends = start, end = self._ends
        self._count += 1
        fits = self._fits(text, start, end)
        # Those that come now may have more in common than the first two: looked at now and then.
        if not fits or self._count % 256 in _LOOKS:
            found = _common_ends(self._newest, text)
            if not fits or sum(map(len, found)) > len(start) + len(end) + 16:
                ends = start, end = self._ends = found
        self._newest = text
        return SharedText(text[len(start) : len(text) - len(end)], ends)

    def _fits(self, text: str, start: str, end: str) -> bool:
        room = len(text) >= len(start) + len(end)
        return bool(start or end) and room and text.startswith(start) and text.endswith(end)


def _common_ends(one: str, other: str) -> tuple[str, str]:
    """The longest beginning that both have, and the longest end of what is left of them."""
    room = min(len(one), len(other))
    start = _longest(room, lambda size: one.startswith(other[:size]))
    end = _longest(room - start, lambda size: one.endswith(other[len(other) - size :]))
    return other[:start], other[len(other) - end :]


def _longest(room: int, holds: Callable[[int], bool]) -> int:
    """The largest size up to ``room`` that ``holds``, which smaller ones do too. By halves."""
    least, most = 0, room
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if holds(middle) else (least, middle - 1)
    return least


class UnescapedText(str):
    """A word of a line that stood outside quotes and lost its backslashes there.

    Attributes:
        written: the word as it was written.
    """

    written: str
