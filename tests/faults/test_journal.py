"""The journal fails while a sweep runs, then the kernel dies: nothing is paid twice, nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from pathlib import Path

import pytest

from tests.faults.faulty_disk import FaultyDisk, faulty
from tests.faults.harness import Kernel, attach_all, exported, fill, outcome, require, tmpfs, until
from tests.faults.journal_faults import (
    COUNT,
    Fault,
    cannot_grow,
    crash_of_a_sweep,
    failing,
    full,
    locked,
    small_tmpfs,
)
from tests.support.scripted import Script, ScriptedServer

DISK_ERRORS = {
    "EIO on write": failing(write=errno.EIO),
    "EIO on sync": failing(sync=errno.EIO),
    "EIO on read and write": failing(read=errno.EIO, write=errno.EIO),
    "EDQUOT": failing(write=errno.EDQUOT),
    "ENOSPC": failing(write=errno.ENOSPC),
    "read-only": failing(write=errno.EROFS, create=errno.EROFS),
}


@pytest.mark.parametrize("fault", [cannot_grow, locked])
def test_a_crash_while_the_file_takes_nothing(fault: Fault, tmp_path: Path) -> None:
    """The kernel dies when its journal could not grow, or was locked by another program, in the
    middle of a sweep: the next one pays for nothing twice and misses nothing."""
    require()
    found = crash_of_a_sweep(tmp_path, fault)
    assert (found.twice, found.lost) == (0, 0), found


def test_a_crash_while_the_disk_is_full(tmp_path: Path) -> None:
    """The kernel dies when a real file system had no byte left, in the middle of a sweep: the next one
    pays for nothing twice and misses nothing."""
    require()
    found = crash_of_a_sweep(tmp_path / "disk", full, on=small_tmpfs)
    assert (found.twice, found.lost) == (0, 0), found


@pytest.mark.parametrize("fault", DISK_ERRORS.values(), ids=DISK_ERRORS.keys())
def test_a_crash_while_the_disk_fails(fault: Fault, tmp_path: Path) -> None:
    """The kernel dies when the disk answered with errors, in the middle of a sweep: the next one pays
    for nothing twice and misses nothing, and the journal is not taken for damaged."""
    require()
    found = crash_of_a_sweep(tmp_path / "disk", fault, on=faulty)
    assert (found.twice, found.lost) == (0, 0), found


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A folder on a file system of 8 MB: the write-ahead log alone takes up to 4 before it is moved."""
    require()
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(tmpfs(tmp_path / "disk", "8m"))


def test_room_again(server: ScriptedServer, small_disk: Path) -> None:
    """Jobs that were accepted while there was no room are in the file once there is, and the kernel
    says that something is wrong until they are."""
    journal = small_disk / "journal.sqlite3"
    server.polls = 10**6
    with Kernel(server.base_url, journal) as kernel:
        kernel.sweep(3)
        assert until(lambda: len(server.accepted) == 3)
        filler = fill(small_disk)
        kernel.run("more = bgmagic.map('item 1{{ item }}.', range(30), yes=30, out='more')")
        assert until(lambda: len(server.accepted) == 33)
        assert until(lambda: kernel.value("trouble()"))
        filler.unlink()
        kernel.run("one = bgmagic.submit('item 99.')")
        assert until(lambda: len(server.accepted) == 34)
        assert until(lambda: kernel.value("trouble()") is None)
        kernel.kill()
    server.polls = 0
    with attach_all(server.base_url, journal) as second:
        assert outcome(server, second).lost == 0
        assert len(exported(second)) == 34


def test_trouble_stays_until_all_is_written(server: ScriptedServer, small_disk: Path) -> None:
    """While one write that failed has not been made up for, a later one that worked does not silence
    the kernel."""
    journal = small_disk / "journal.sqlite3"
    server.polls = 10**6
    with Kernel(server.base_url, journal) as kernel:
        kernel.sweep(1)
        assert until(lambda: len(server.accepted) == 1)
        filler = fill(small_disk)
        big = "item 1." + 400_000 * "x"  # more room than there will be
        kernel.run(f"big = bgmagic.submit({big!r})")
        assert until(lambda: len(server.accepted) == 2)
        assert until(lambda: kernel.value("trouble()"))
        # Room for something small, none for what is missing.
        os.truncate(filler, filler.stat().st_size - 250_000)
        for number in (2, 3):  # what comes of the first is known once the second is written
            kernel.run(f"small = bgmagic.submit('item {number}.')")
            assert until(lambda: f"item {number}." in str(_rows(journal)))  # noqa: B023 - at once
        assert kernel.value("trouble()"), "a job is not written down, and nothing says so"


def _rows(journal: Path) -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(journal, timeout=60)) as connection:
        return connection.execute("SELECT text FROM blobs").fetchall()


@pytest.mark.parametrize("how", ["deleted", "replaced by an empty one", "overwritten"])
def test_the_journal_goes_while_jobs_run(how: str, server: ScriptedServer, tmp_path: Path) -> None:
    """The file is deleted, replaced or damaged while jobs run: the kernel writes what it knows into
    the new one, and the next kernel has all of them."""
    require()
    journal = tmp_path / "journal.sqlite3"
    server.polls = 10**6
    with Kernel(server.base_url, journal) as kernel:
        kernel.sweep(40)
        assert until(lambda: len(server.accepted) == 40)
        assert until(lambda: len(_open_ids(journal)) == 40)
        _harm(journal, how)
        kernel.run("one = bgmagic.submit('item 40.')")
        assert until(lambda: len(server.accepted) == 41)
        assert until(lambda: len(_open_ids(journal)) == 41), len(_open_ids(journal))
        kernel.kill()
    server.polls = 0
    with attach_all(server.base_url, journal) as second:
        found = outcome(server, second)
    assert (found.accepted, found.twice, found.lost) == (41, 0, 0)


def _harm(journal: Path, how: str) -> None:
    if how == "overwritten":
        journal.write_bytes(b"this was a database" * 5000)
        return
    for path in journal.parent.glob("journal.sqlite3*"):
        path.unlink()
    if how != "deleted":
        journal.touch()


def _open_ids(journal: Path) -> list[str]:
    try:
        with contextlib.closing(sqlite3.connect(journal, timeout=60)) as connection:
            sql = "SELECT response_id FROM jobs WHERE response_id IS NOT NULL"
            return [row[0] for row in connection.execute(sql)]
    except sqlite3.Error:
        return []


def test_what_was_never_written_may_run(server: ScriptedServer, small_disk: Path) -> None:
    """Jobs that never got into a full journal are sent all the same, each once, and the user is told
    that they would not survive."""
    server.polls = 0
    fill(small_disk)
    with Kernel(server.base_url, small_disk / "journal.sqlite3") as kernel:
        kernel.sweep(COUNT)
        assert kernel.settled()
        assert kernel.statuses() == {"completed": COUNT}
        assert "would not survive" in kernel.value("trouble()")
    assert len(server.accepted) == COUNT


def test_a_slow_disk(server: ScriptedServer, tmp_path: Path) -> None:
    """A disk that takes 50 ms for each sync holds up a sweep of 60 by commits for many jobs at once:
    all end, each accepted once."""
    server.polls = 0
    server.always["create"] = Script(delay=0.01)
    with FaultyDisk(tmp_path / "disk") as disk:
        disk.slow(0.05)
        with Kernel(server.base_url, disk.path / "journal.sqlite3") as kernel:
            kernel.sweep(COUNT)
            assert kernel.settled()
            assert kernel.statuses() == {"completed": COUNT}
            assert outcome(server, kernel).twice == 0
