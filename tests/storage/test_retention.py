"""Forgetting: in slices, with the room given back, and by itself where the user wants that."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgmagic.storage import retention
from bgmagic.storage.journal import Journal
from tests.storage.test_journal import TIMEOUT, entry, opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def full(path: Path) -> Iterator[Journal]:
    """A journal with 1,000 ended jobs, each with texts of its own, and an open one."""
    with opened(path) as journal:
        old = [
            entry(f"{n}", request=f"{n} " * 1000, response=f"{n}: " * 1000, ended_at=float(n + 1))
            for n in range(1000)
        ]
        journal.add(*old).result(TIMEOUT)
        journal.add(entry("open", ended_at=None, status="queued")).result(TIMEOUT)
        yield journal


def test_the_file_shrinks(full: Journal, path: Path) -> None:
    """What is forgotten leaves neither rows nor texts, and the file gives its room back."""
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = path.stat().st_size
        assert full.forget([f"{n}" for n in range(1000)]).result(TIMEOUT) == 1000
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert path.stat().st_size < before / 10
        assert other.execute("SELECT key FROM jobs").fetchall() == [("open",)]
        assert other.execute("SELECT count(*) FROM blobs").fetchone() == (1,)


def test_others_get_their_turns(full: Journal, path: Path) -> None:
    """While a thousand jobs are forgotten another kernel's write comes in between."""
    with opened(path) as other:
        other.add(entry("first")).result(TIMEOUT)
        forgetting = full.forget([f"{n}" for n in range(1000)])
        other.add(entry("between")).result(TIMEOUT)
        assert not forgetting.done()
        assert forgetting.result(TIMEOUT) == 1000
        assert other.find("between") is not None


def test_texts_that_others_share_stay(path: Path) -> None:
    """A text that an open job has, too, is kept when the others are forgotten."""
    with opened(path) as journal:
        same = "x" * 20_000
        journal.add(entry("ended", request=same, ended_at=1.0)).result(TIMEOUT)
        journal.add(entry("open", request=same, ended_at=None)).result(TIMEOUT)
        assert journal.forget(["ended", "open"]).result(TIMEOUT) == 1
        found = journal.find("open")
        assert found is not None
        assert found.request == same


def test_what_ended_before(full: Journal) -> None:
    """The jobs that ended before a time are told, open ones never."""
    assert sorted(full.ended_before(3.0)) == ["0", "1"]
    assert len(full.ended_before(time.time())) == 1000


def test_a_failure_ends_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the journal can't be written, forgetting fails with the journal's own line."""
    monkeypatch.setattr(retention, "PAUSE", 0.0)
    journal = Journal(path / "a file" / "journal.sqlite3")
    path.write_text("in the way")
    try:
        assert "can't be used" in str(journal.forget(["one"]).exception(TIMEOUT))
    finally:
        journal.close(TIMEOUT)
