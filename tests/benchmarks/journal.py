"""What the journal costs: a write, the caller of one, and a long listing."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bgmagic.display import listing
from bgmagic.notebook.line_magics import LISTED
from bgmagic.storage.database import StoredJob
from bgmagic.storage.journal import Journal

ROWS = 10_000
QUEUED = 500
BODY = '{"model": "gpt-5.2", "input": "' + "lorem ipsum " * 700 + '"}'  # about 8 kB


def _entry(number: int, request: str = BODY) -> StoredJob:
    return StoredJob(
        key=f"k{number}",
        created_at=float(number),
        notebook="a.ipynb",
        name="x",
        server="https://api.example/v1",
        organization=None,
        project=None,
        credentials="c" * 32,
        fingerprint=f"f{number}",
        request=request[:-2] + f'{number}"}}',
        sendable=True,
        model="gpt-5.2",
        effort="high",
        poll_interval=None,
        deadline=86_400.0,
        status="waiting",
        owner="me",
    )


@contextlib.contextmanager
def _journal(name: str | None) -> Iterator[Journal]:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(None if name is None else Path(folder) / name)
        journal.salt  # noqa: B018 - opens the file
        yield journal
        journal.close(30)


def _single(journal: Journal) -> float:
    """Median seconds from queueing one write to its being committed."""
    taken = []
    for number in range(200):
        begun = time.perf_counter()
        journal.add(_entry(number)).result(30)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _many(journal: Journal) -> tuple[float, float]:
    """Seconds a write takes when many are queued, and median seconds each call held its caller."""
    entries = [_entry(number) for number in range(1000, 1000 + QUEUED)]
    held = []
    begun = time.perf_counter()
    for entry in entries:
        before = time.perf_counter()
        journal.add(entry)
        held.append(time.perf_counter() - before)
    journal.flush(30)
    return (time.perf_counter() - begun) / QUEUED, statistics.median(held)


def _listing(journal: Journal) -> tuple[float, float]:
    """Median seconds of the table that %bgjobs shows of `ROWS` jobs, and of reading them all."""
    for number in range(ROWS):
        journal.add(_entry(number))
    journal.flush(60)
    tables, wholes = [], []
    for _ in range(5):
        begun = time.perf_counter()
        listed = listing.table_rows([], journal.entries(limit=LISTED), set())
        assert listing.table_html(listed).count("<tr>") == LISTED + 1
        assert listing.table_text(listed).count("\n") == LISTED
        tables.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        assert len(journal.entries()) == ROWS
        wholes.append(time.perf_counter() - begun)
    return statistics.median(tables), statistics.median(wholes)


def journal_cost() -> list[tuple[str, str, str, str]]:
    """Rows of (figure, on disk, in memory, target); the journal in memory is what a disk adds to."""
    figures: list[list[str]] = [[], [], [], [], []]
    for name in ("journal.sqlite3", None):
        with _journal(name) as journal:
            figures[0].append(f"{_single(journal) * 1e3:.2f} ms")
            amortised, held = _many(journal)
            figures[1].append(f"{amortised * 1e3:.2f} ms")
            figures[2].append(f"{held * 1e6:.0f} µs")
        with _journal(name) as journal:
            for place, seconds in enumerate(_listing(journal), 3):
                figures[place].append(f"{seconds * 1e3:.0f} ms")
    labels = (
        ("journal: one write of 8 kB, until it is committed (alone)", ""),
        (f"journal: the same, each of {QUEUED} queued at once", "< 1 ms"),
        ("journal: time that add() holds its caller", ""),
        (f"%bgjobs with {ROWS:,} jobs in the journal (the newest {LISTED})", "< 100 ms"),
        (f"journal: reading all {ROWS:,} of them", ""),
    )
    return [
        (label, ours, f"{memory} in memory", target)
        for (label, target), (ours, memory) in zip(labels, figures, strict=True)
    ]


if __name__ == "__main__":
    for row in journal_cost():
        print("  ".join(row))
