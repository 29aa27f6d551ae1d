"""Folders that several hosts share: told by the table of mounts, and a file for each host there."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bgmagic.api.request import Request
from bgmagic.jobs.record import JobRecord
from bgmagic.storage import filesystem, owner_lock
from bgmagic.storage.filesystem import host_of_name, is_damaged, is_shared, own_file, takes_wal
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.journal import Journal
from bgmagic.storage.owner_lock import SILENCE, OwnerLock
from tests.storage.test_journal import TIMEOUT, entry, opened

MOUNTS = (
    ("/", "ext4"), ("/home", "nfs4"), ("/home/me/fast", "xfs"), ("/scratch dir", "lustre"),
    ("/mnt/stick", "fuseblk"), ("/mnt/far", "fuse.sshfs"), ("/mnt/c", "9p"), ("/home", "autofs"),
    ("/over", "nfs"), ("/over", "tmpfs"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "shared"),
    [
        ("/var/tmp", False), ("/home/me", False), ("/home/me/fast/x", False), ("/scratch dir", True),
        ("/scratch", False), ("/mnt/stick/a", False), ("/mnt/far/a/b", True), ("/mnt/c/Users", True),
        ("/over/a", False),
    ],
)  # fmt: skip
def test_the_table_of_mounts_tells(
    folder: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The innermost mount decides, of two at one place the last; a USB disk is this host's own."""
    monkeypatch.setattr(filesystem, "_mounts", lambda: iter(MOUNTS))
    assert is_shared(Path(folder)) is shared


def test_the_real_table_is_read() -> None:
    """Linux's own table names the file systems that are there, with the spaces of their places."""
    if not Path("/proc/self/mountinfo").exists():
        pytest.skip("no /proc/self/mountinfo")
    found = dict(filesystem._mounts())
    assert found["/proc"] == "proc"
    assert filesystem._unescaped(r"/a\040b") == "/a b"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder is one that several hosts share."""
    monkeypatch.setattr(filesystem, "is_shared", lambda _: True)


def _on(host: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be ``host`` from now on; gives its digits."""
    monkeypatch.setattr(owner_lock.socket, "gethostname", lambda: host)
    return host_of_name(host)


@pytest.mark.usefixtures("shared")
def test_a_file_for_each_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts write files of their own, in no WAL, and read the jobs of all, in one order."""
    path = tmp_path / "my [1] journal.sqlite3"
    digits = _on("alpha", monkeypatch)
    with opened(path) as one:
        one.add(entry("first", created_at=1.0), entry("third", created_at=3.0)).result(TIMEOUT)
        other_digits = _on("beta", monkeypatch)
        with opened(path) as other:
            other.add(entry("second", created_at=2.0, owner="b")).result(TIMEOUT)
            for journal in (one, other):
                assert [e.key for e in journal.entries()] == ["third", "second", "first"]
                assert [e.key for e in journal.entries(limit=2)] == ["third", "second"]
                assert journal.find("second") == entry("second", created_at=2.0, owner="b")
            assert (other.owners(), other.other_owners()) == ({"b"}, set())
    names = {found.name for found in tmp_path.iterdir()}
    assert names == {f"my [1] journal.{one}.sqlite3" for one in (digits, other_digits)}


@pytest.mark.usefixtures("shared")
def test_what_another_host_left_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose host died in the middle of a commit is read as it was before, and left as it is."""
    path = tmp_path / "journal.sqlite3"
    _on("alpha", monkeypatch)
    mine = own_file(path, owner_lock.host_id())
    with opened(path) as one:
        one.add(entry("one")).result(TIMEOUT)
    connection = sqlite3.connect(mine, isolation_level=None)
    connection.execute("PRAGMA cache_spill = 1")
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE jobs SET status = 'half'")
    connection.executemany(
        "INSERT INTO blobs VALUES (?, ?)", [(f"{n}", "x" * 5000) for n in range(99)]
    )
    left = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name.startswith(mine.name)}
    assert len(left) == 2, "the commit is in its middle"
    connection.execute("ROLLBACK")
    connection.close()
    for name, content in left.items():
        (tmp_path / name).write_bytes(content)
    _on("beta", monkeypatch)
    with opened(path) as other:
        assert other.find("one") == entry("one")
    assert {name: (tmp_path / name).read_bytes() for name in left} == left


@pytest.mark.usefixtures("shared")
def test_only_silence_tells_of_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner on another host is never dead by its lock; it is silent without signs for long."""
    _on("alpha", monkeypatch)
    there = OwnerLock(tmp_path)
    there.acquire()
    _on("beta", monkeypatch)
    here = OwnerLock(tmp_path)
    here.acquire()
    assert here.is_elsewhere(there.id)
    assert not here.is_silent(there.id)
    lock = tmp_path / f"{there.id}.lock"
    os.utime(lock, (1.0, lock.stat().st_mtime - 2 * SILENCE))
    assert here.is_silent(there.id)
    assert here.dead_owners([there.id]) == set()
    there.beat()
    assert not here.is_silent(there.id)
    there.release()
    assert here.is_silent(there.id)
    here.release()


def test_wal_is_tried(tmp_path: Path) -> None:
    """WAL is tried by a real write, which leaves nothing behind."""
    assert takes_wal(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_good_file_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a file whose content is no sound database is damaged, not one that can't be read."""
    path = tmp_path / "journal.sqlite3"
    with opened(path) as journal:
        journal.add(*[entry(f"{n}") for n in range(200)]).result(TIMEOUT)
    assert not is_damaged(path, sqlite3.connect)
    assert not is_damaged(tmp_path / "none", sqlite3.connect)
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
    assert is_damaged(path, sqlite3.connect)
    path.write_bytes(b"no database" * 1000)
    assert is_damaged(path, sqlite3.connect)
    assert not is_damaged(path, sqlite3.connect, known=False)  # it may be anything of the user's


def test_a_connection_that_is_off_sets_nothing_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When SQLite calls a sound file damaged, as after a failed read, it stays, and writes go on."""
    path = tmp_path / "journal.sqlite3"
    with opened(path) as journal:
        journal.add(entry("one")).result(TIMEOUT)
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raised = iter([error])

        def once(connection: sqlite3.Connection, *given: object, real=Journal.find) -> None:
            for found in raised:
                raise found

        from bgmagic.storage import database

        transact = database.transact
        monkeypatch.setattr(
            database, "transact", lambda c, actions: (once(c), transact(c, actions))[1]
        )
        journal.add(entry("two")).result(TIMEOUT)
        assert len(journal.entries()) == 2
        assert journal.trouble is None
    assert not list(tmp_path.glob("*.damaged-*"))


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("away", [0.0, 10.0, 70.0])
def test_who_was_suspended_looks_before_it_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: float
) -> None:
    """A kernel that wakes after its signs of life stayed away does not send a waiting job which its
    user had sent from another host meanwhile; its other jobs it sends."""
    path, late = tmp_path / "journal.sqlite3", 0.0
    monkeypatch.setattr(owner_lock, "time", SimpleNamespace(time=lambda: time.time() + late))
    _on("alpha", monkeypatch)
    store = JobStore(Journal(path), OwnerLock(tmp_path / "owners"))
    store.owner.acquire()
    mine = [entry(key, owner=store.owner.id, fingerprint=key, created_at=1.0) for key in "ab"]
    store.journal.add(*mine).result(TIMEOUT)
    _on("beta", monkeypatch)
    with opened(path) as other:
        again = entry("again", owner="o", fingerprint="a", created_at=2.0)
        other.add(again).result(TIMEOUT)
    late = away
    store.journal.change("b", checked_at=3.0).result(TIMEOUT)  # it gives a sign of life again
    try:
        records = [JobRecord(Request("{}"), "s", 1.0, key=key) for key in "ab"]
        sends = [asyncio.run(store.claim(record, ours=True)) for record in records]
        assert sends == [away < 60, True]
    finally:
        store.close(TIMEOUT)
