"""Values as people read them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.text import count_each, duration, one_line, user_path


@pytest.mark.parametrize(
    ("seconds", "short", "exact"),
    [
        (-1, "0 s", "0 s"),
        (42.4, "42 s", "42 s"),
        (59.6, "60 s", "1 min 0 s"),
        (725, "12 min", "12 min 5 s"),
        (12600, "3.5 h", "3 h 30 min"),
        (345600, "4 d", "96 h 0 min"),
    ],
)
def test_duration(seconds: float, short: str, exact: str) -> None:
    """A duration is one number with its unit, and where it is exact, two."""
    assert duration(seconds) == short
    assert duration(seconds, exact=True) == exact


@given(st.floats(0, 1e7))
def test_exact_duration_adds_up(seconds: float) -> None:
    """What an exact duration says is the time, to the second below an hour, else to the minute."""
    words = duration(seconds, exact=True).split()
    units = {"s": 1, "min": 60, "h": 3600}
    told = sum(int(n) * units[unit] for n, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(told - seconds) <= (0.5 if seconds < 3599 else 60)


def test_a_line_that_is_cut_says_so() -> None:
    """A text that is shortened ends with a sign of that, also where only spaces stood before the rest."""
    assert one_line("a" * 20, 10) == "a" * 10 + "…"
    assert one_line("a" + " " * 100 + "b", 10) == "a…"
    assert one_line("a" + " " * 100, 10) == "a"


def test_counts_come_largest_first() -> None:
    """Numbers stand with their words, the largest first, of equal ones as they came; a word is one line."""
    assert count_each({"failed": 1, "done": 12, "a\nb": 1}) == "12 done, 1 failed, 1 a b"
    assert count_each({}) == ""


def test_a_home_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is the home folder, and a path of a user who is not there is taken as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert user_path("~/a.txt") == tmp_path / "a.txt"
    assert user_path("~nobody-of-that-name/a.txt") == Path("~nobody-of-that-name/a.txt")
