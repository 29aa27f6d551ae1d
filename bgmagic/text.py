"""Writes values as people read them: one line, counts, kinds, dollars, durations, near misses;
reads the paths that they write."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path


def user_path(given: str | os.PathLike[str]) -> Path:
    """The path ``given`` with ``~`` as the home folder; where there is no such user, as it is, as
    shells take it."""
    path = Path(given)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def one_line(text: str, most: int = 600) -> str:
    """Shorten ``text`` from elsewhere to one line of at most ``most`` characters.

    Control characters become spaces: a terminal would obey them.
    """
    plain = "".join(c if c.isprintable() else " " for c in text[: 4 * most])
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


def kind_of(value: object) -> str:
    """Name the type of ``value`` for a message: "a dict", "an int", "a class"."""
    name = "class" if isinstance(value, type) else type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Suggest the word that was probably meant, as the end of a message; or ""."""
    import difflib  # only for a message

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
