"""What the journal costs: a write, the caller of one, and a long listing."""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bgmagic.display import listing
from bgmagic.notebook.line_magics import LISTED
from bgmagic.storage.database import StoredJob
from bgmagic.storage.journal import Journal
from bgmagic.storage.search import JournalSearch

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


LOOKED_FOR = ("ipsum", "zebrafish", "zz")  # in all of them, in ten, in ten and too short for FTS5


def _searching(journal: Journal) -> list[float]:
    """Seconds of a first search of `ROWS` jobs, of FTS5's being told of them, and the median of one
    afterwards, of `%bgjobs --search` without its display, for each of `LOOKED_FOR`."""
    for number in range(ROWS):
        rare = " zebrafish pizza" if number % 1000 == 7 else ""
        asked = json.dumps({"model": "m", "input": f"{number}{rare} " + "lorem ipsum " * 330})
        said = [{"type": "output_text", "text": "dolor sit amet " * 130 + str(number)}]
        journal.add(
            replace(
                _entry(number),
                request=asked,
                response=json.dumps({"output": [{"type": "message", "content": said}]}),
                status="completed",
                ended_at=float(number),
            )
        )
    journal.flush(120)
    search = JournalSearch(journal)
    begun = time.perf_counter()
    search.find(("zebrafish",), LISTED, print)
    taken = [time.perf_counter() - begun]
    while search.is_being_told():
        time.sleep(0.05)
    taken.append(time.perf_counter() - begun)
    for word in LOOKED_FOR:
        times = []
        for _ in range(7):
            begun = time.perf_counter()
            found = search.find((word,), LISTED, print).entries
            times.append(time.perf_counter() - begun)
            assert len(found) == (LISTED if word == "ipsum" else 10)
        taken.append(statistics.median(times))
    search.close()
    return taken


def search_cost() -> list[tuple[str, str, str, str]]:
    """Rows of (figure, on disk, "", target)."""
    with _journal("journal.sqlite3") as journal:
        first, told, *each = _searching(journal)
    what = f"%bgjobs --search with {ROWS:,} jobs of 6 kB"
    return [
        (f"{what}: the first, which reads all", f"{first:.1f} s", "", ""),
        (f"{what}: until FTS5 knows them, meanwhile", f"{told:.0f} s", "", ""),
        *(
            (f"{what}: {word}", f"{seconds * 1e3:.0f} ms", "", "< 200 ms")
            for word, seconds in zip(LOOKED_FOR, each, strict=True)
        ),
    ]


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
