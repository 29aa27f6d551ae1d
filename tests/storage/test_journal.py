"""The journal: what was written outlives whatever happens to the processes, the file and the disk."""

from __future__ import annotations

import contextlib
import dataclasses
import dis
import functools
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.api.redaction import credentials_fingerprint, without_secrets
from bgmagic.errors import BadInput
from bgmagic.storage import database as module
from bgmagic.storage import filesystem
from bgmagic.storage.database import JournalError, StoredJob
from bgmagic.storage.journal import Journal
from bgmagic.storage.reader import COMPLETED
from bgmagic.submission.app import default_path, journal_path
from tests.support.processes import begun, line

TIMEOUT = 60  # seconds until a test gives up on what should come


def kept_texts(journal: Journal, key: str) -> tuple[str, str | None] | None:
    """The request and the response of a job."""
    found = journal.find(key)
    return found and (found.request, found.response)


def entry(key: str = "one", **changes: Any) -> StoredJob:
    """An entry that has just been submitted."""
    plain = StoredJob(
        key=key,
        created_at=1.5,
        notebook="a.ipynb",
        name="x",
        server="https://api.example/v1",
        organization=None,
        project=None,
        credentials="c",
        fingerprint="f",
        request='{"input": "Why?"}',
        sendable=True,
        model="gpt-5.2",
        effort=None,
        poll_interval=None,
        deadline=60.0,
        status="waiting",
        owner=None,
    )
    return dataclasses.replace(plain, **changes)


def brief(whole: StoredJob) -> StoredJob:
    """What a listing says of it."""
    return dataclasses.replace(whole, request="", response=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with opened(path) as made:
        yield made


@contextlib.contextmanager
def opened(path: Path | None) -> Iterator[Journal]:
    made = Journal(path)
    try:
        yield made
    finally:
        assert made.close(TIMEOUT), "the journal's thread did not end"


PRELUDE = """
import os, signal, sys, threading
from pathlib import Path
from bgmagic.storage.journal import *
from tests.storage.test_journal import entry
path, arguments = Path(sys.argv[1]), sys.argv[2:]
journal = Journal(path)
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def go():
    say("ready")
    sys.stdin.readline()
"""


def start(code: str, path: Path, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own that runs ``code``."""
    return begun(PRELUDE + code, path, *arguments)


def race(code: str, path: Path, count: int) -> list[list[str]]:
    """What each of ``count`` processes says that run ``code`` and are let go at the same time."""
    processes = [start(code, path, str(number)) for number in range(count)]
    for process in processes:
        assert line(process) == "ready"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=TIMEOUT)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    return said


# Writing and reading.


def test_write_is_on_disk_when_its_future_is_resolved(journal: Journal, path: Path) -> None:
    """Another connection sees a job as soon as its future is resolved, and then each change."""
    journal.add(entry()).result(TIMEOUT)
    with opened(path) as other:
        assert other.find("one") == entry()
        journal.change("one", status="queued", response_id="resp_1").result(TIMEOUT)
        assert other.find("resp_1") == entry(status="queued", response_id="resp_1")


def test_reads_see_what_was_queued(journal: Journal) -> None:
    """A read sees everything that this process queued before it, without waiting for a future."""
    for number in range(50):
        journal.add(entry(f"k{number}", created_at=float(number)))
        journal.change(f"k{number}", status="queued")
        assert journal.entries(limit=1)[0].status == "queued"
    assert journal.flush(TIMEOUT)


def test_memory_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal in memory does the same, leaves nothing on disk and shares nothing."""
    monkeypatch.chdir(tmp_path)
    with opened(None) as one, opened(None) as other:
        one.add(entry())
        assert one.find("one") == entry()
        assert one.entries() == [brief(entry())]
        assert other.entries() == []
        assert one.salt != other.salt
    assert list(tmp_path.iterdir()) == []


def test_only_columns_can_be_changed(journal: Journal) -> None:
    """A column that is not there, and the key, are refused at once; every other one can be changed."""
    journal.add(entry())
    for columns in ({"colour": 1}, {"key": "two"}, {"status=''--": 1}, {}):
        with pytest.raises(TypeError):
            journal.change("one", **columns)
    changed = entry(notebook="b", sendable=False, cancelling=True, request="{}", response="[]")
    values = {name: value for name, value in vars(changed).items() if name != "key"}
    journal.change("one", **values).result(TIMEOUT)
    assert journal.find("one") == changed


def test_one_bad_write_spoils_no_other(journal: Journal, path: Path) -> None:
    """A write that can't be done fails alone, with a JournalError, and leaves nothing half written."""
    futures = [
        journal.add(entry("good")),
        journal.add(entry("good")),
        journal.change("nobody", status="queued"),
        journal.add(entry("half", response="half", request="\ud800")),
        journal.add(entry("good", response="leftover")),
        journal.add(entry("dict", name={})),
        journal.change("good", status="queued"),
    ]
    failed = [isinstance(future.exception(TIMEOUT), JournalError) for future in futures]
    assert failed == [False, True, True, True, True, True, False]
    assert [found.key for found in journal.entries()] == ["good"]
    assert journal.close(TIMEOUT)
    assert b"leftover" not in path.read_bytes()


def test_listing(journal: Journal) -> None:
    """Jobs are listed newest first, without their texts, by notebook, name, state and number."""
    for number, (notebook, name) in enumerate([("a", "x"), ("b", "x"), ("a", "y"), ("a", None)]):
        journal.add(entry(str(number), created_at=9.0, notebook=notebook, name=name, response="{}"))
    journal.change("2", ended_at=10.0, status="completed")

    def keys(**which: Any) -> str:
        return "".join(found.key for found in journal.entries(**which))

    assert keys() == "3210"
    assert keys(notebook="a") == "320"
    assert keys(name="x") == "10"
    assert keys(notebook="a", open_only=True, limit=1) == "3"
    assert keys(open_only=True) == "310"
    assert keys(limit=0) == ""
    assert {(found.request, found.response) for found in journal.entries()} == {("", None)}
    assert kept_texts(journal, "0") == (entry().request, "{}")
    assert kept_texts(journal, "none") is None


def test_ten_thousand_jobs(journal: Journal) -> None:
    """Ten thousand jobs with long texts are all listed, in order and equal to what was written."""
    written = [
        entry(f"k{i}", created_at=float(i), response=f"{i}" * 100, sendable=i % 2 == 0)
        for i in range(10_000)
    ]
    for one in written:
        journal.add(one)
    assert journal.flush(TIMEOUT)
    assert journal.entries() == [brief(one) for one in reversed(written)]


def test_same_request(journal: Journal) -> None:
    """The same request is found open or completed, oldest first and whole, and never when it failed."""
    for number, status in enumerate(["queued", "completed", "failed", "completed", "waiting"]):
        ended = 5.0 if status in ("completed", "failed") else None
        one = entry(str(number), created_at=float(number), status=status, ended_at=ended)
        journal.add(one)
    journal.add(entry("other", fingerprint="g"))
    assert [found.key for found in journal.same("f")] == ["0", "4"]
    assert [found.key for found in journal.select(COMPLETED, fingerprints='["f"]')] == ["1", "3"]
    assert journal.same("f")[0].request == entry().request
    assert journal.same("f", notebook="b.ipynb") == journal.same("f", name="y") == []


def test_newest_of_several_with_one_response_id(journal: Journal) -> None:
    """Where several jobs have one response id, the newest is found."""
    for number in (1, 3, 2):
        journal.add(entry(str(number), created_at=float(number), response_id="resp_1"))
    found = journal.find("resp_1")
    assert found is not None
    assert found.key == "3"
    assert journal.find("resp_2") is None


def test_forget_takes_ended_jobs_with_their_kept_texts(journal: Journal, path: Path) -> None:
    """Forgetting deletes ended jobs only, and every text that no other job needs."""
    shared = json.dumps({"input": "s" * 20_000})
    for key in ("open", "one", "two"):
        journal.add(entry(key, request=shared, response=f"response of {key}"))
    journal.change("one", ended_at=2.0)
    journal.change("two", ended_at=2.0)
    assert journal.forget(["open", "one", "nobody"]).result(TIMEOUT) == 1
    assert {found.key for found in journal.entries()} == {"open", "two"}
    assert kept_texts(journal, "two") == (shared, "response of two")
    assert kept_texts(journal, "open") == (shared, "response of open")
    assert journal.close(TIMEOUT)
    assert b"response of one" not in path.read_bytes()
    assert b"response of two" in path.read_bytes()


def test_large_input_is_stored_once(journal: Journal, path: Path) -> None:
    """A long input that many different requests share takes its place only once."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
    bodies = [
        json.dumps({"model": "m", "input": [text], "seed": i}, ensure_ascii=False)
        for i in range(20)
    ]
    for number, body in enumerate(bodies):
        journal.add(entry(str(number), request=body))
    assert [kept_texts(journal, str(number)) for number in range(20)] == [
        (body, None) for body in bodies
    ]
    assert journal.close(TIMEOUT)
    assert path.stat().st_size < 4 * len(text.encode())


# Who may send and follow.


@pytest.mark.parametrize(
    ("status", "owner", "ended", "claimed", "adopted"),
    [
        ("waiting", None, None, True, False),
        ("waiting", "me", None, True, False),
        ("waiting", "dead", None, True, False),
        ("waiting", "alive", None, False, False),
        ("submitting", None, None, False, True),
        ("submitting", "dead", None, False, True),
        ("submitting", "alive", None, False, False),
        ("queued", "me", None, False, True),
        ("queued", "dead", None, False, True),
        ("queued", "alive", None, False, False),
        ("completed", "dead", 3.0, False, False),
    ],
)
def test_whose_jobs_can_be_taken(
    journal: Journal, status: str, owner: str, ended: float | None, claimed: bool, adopted: bool
) -> None:
    """Waiting jobs are claimed and other open ones adopted, from nobody, oneself or the dead only."""
    for key in ("claim", "adopt", "wait"):
        journal.add(entry(key, status=status, owner=owner, ended_at=ended))
    assert journal.claim("claim", "me", ["dead", "gone"]).result(TIMEOUT) is claimed
    assert journal.adopt("adopt", "me", ["dead", "gone"], False).result(TIMEOUT) is adopted
    assert journal.adopt("wait", "me", ["dead", "gone"], True).result(TIMEOUT) is claimed
    expected = ("submitting", "me") if claimed else (status, owner)
    found = [journal.find(key) for key in ("claim", "adopt", "wait")]
    assert [(one.status, one.owner) for one in found if one] == [
        expected,
        (status, "me" if adopted else owner),
        (status, "me" if claimed else owner),
    ]
    assert journal.claim("nobody", "me", []).result(TIMEOUT) is False


def test_claim_is_won_once(journal: Journal, path: Path) -> None:
    """Of two processes that claim the same 200 jobs at the same time, exactly one gets each."""
    for number in range(200):
        journal.add(entry(f"k{number}", owner="dead"))
    assert journal.flush(TIMEOUT)
    code = """
go()
for number in range(200):
    if journal.claim(f"k{number}", arguments[0], ["dead"]).result(): say(number)
"""
    one, other = race(code, path, 2)
    assert sorted(map(int, one + other)) == list(range(200))
    assert {found.owner for found in journal.entries(limit=200)} <= {"0", "1"}


def test_owners_of_open_jobs(journal: Journal) -> None:
    """Only those who follow a job that has not ended are owners."""
    journal.add(entry("1", owner="a"))
    journal.add(entry("2", owner="b", ended_at=1.0))
    journal.add(entry("3", owner=None))
    assert journal.owners() == {"a"}


# Many at once.


def test_many_threads_and_processes(path: Path) -> None:
    """Sixteen threads in two processes write to one new file at once, and nothing is missing."""
    code = """
go()
def write(thread):
    for number in range(50):
        journal.add(entry(f"{arguments[0]}-{thread}-{number}")).result()
threads = [threading.Thread(target=write, args=(thread,)) for thread in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
say(journal.trouble)
"""
    assert race(code, path, 2) == [["None"]] * 2
    with opened(path) as journal:
        expected = {f"{p}-{t}-{n}" for p in range(2) for t in range(8) for n in range(50)}
        assert {found.key for found in journal.entries()} == expected


def test_migration_is_raced(tmp_path: Path) -> None:
    """Six processes that open the same ten new files at once all get in, and agree on their salts."""
    code = """
go()
for number in range(10):
    journal = Journal(path / str(number))
    journal.add(entry(arguments[0])).result()
    say(journal.salt)
"""
    said = race(code, tmp_path, 6)
    assert [len(set(salts)) for salts in zip(*said, strict=True)] == [1] * 10
    for number in range(10):
        with opened(tmp_path / str(number)) as journal:
            assert len(journal.entries()) == 6


def test_order_of_many_threads(journal: Journal) -> None:
    """Each thread's writes are done in its order, and a callback of a future may read and write."""
    seen: list[str] = []

    def write(key: str) -> None:
        journal.add(entry(key))
        for number in range(100):
            done = journal.change(key, reason=str(number))
        done.add_done_callback(lambda _: seen.append(str(journal.find(key).reason)))  # type: ignore[union-attr]
        journal.change(key, model="last").result(TIMEOUT)

    threads = [threading.Thread(target=write, args=(f"k{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert seen == ["99"] * 8
    assert {(found.reason, found.model) for found in journal.entries()} == {("99", "last")}


def test_kill_loses_nothing_that_was_resolved(path: Path) -> None:
    """After kill -9 of a writing process, every write it had said was resolved can be read."""
    code = """
go()
for number in range(10**9):
    key = f"k{number}"
    journal.add(entry(key, request="r" * 5000))
    journal.change(key, status="queued").add_done_callback(lambda _, key=key: say(key))
    journal.flush(1)
"""
    process = start(code, path)
    assert line(process) == "ready"
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    said = [line(process) for _ in range(200)]
    process.kill()
    said += [key for key in process.communicate()[0].split("\n")[:-1] if key]
    with opened(path) as journal:
        found = {one.key: one.status for one in journal.entries()}
        assert len(said) >= 200
        assert {found.get(key) for key in said} == {"queued"}
        assert journal.trouble is None


def test_fork_leaves_the_parent_alone(path: Path) -> None:
    """A forked child can't use the journal, says so without hanging, and its end harms nothing."""
    code = """
journal.add(entry("before")).result()
journal.entries()
with journal._reading, journal._news:
    child = os.fork()
if child == 0:
    def raises(call):
        try: call()
        except JournalError: return True
    failed = journal.add(entry("child")).exception(5), Journal(path).add(entry("new")).exception(5)
    ok = all(isinstance(error, JournalError) for error in failed)
    ok = ok and raises(journal.entries) and raises(lambda: journal.flush(1)) and journal.close()
    say("child", ok and "forked" in journal.trouble)
    del journal
    sys.exit()
os.waitpid(child, 0)
journal.add(entry("after")).result()
say("parent", *sorted(one.key for one in journal.entries()), journal.trouble, journal.close(60))
"""
    process = start(code, path)
    said = process.communicate(timeout=TIMEOUT)[0].splitlines()
    assert said == ["child True", "parent after before None True"]
    with opened(path) as journal:
        assert len(journal.entries()) == 2


def test_forked_child_never_closes_the_file(path: Path) -> None:
    """A forked child that outlives its killed parent leaves the file as it is when it ends itself."""
    code = """
journal.add(entry("before")).result()
journal.entries()
child = os.fork()
if child:
    say("parent")
    os.read(0, 1)
os.read(0, 1)
before = sorted(os.listdir(path.parent))
del journal
say(*before)
sys.exit()
"""
    process = start(code, path)
    assert line(process) == "parent"
    process.kill()
    process.wait(TIMEOUT)
    said = process.communicate("\n", timeout=TIMEOUT)[0].split()
    assert said == sorted(found.name for found in path.parent.iterdir())
    assert path.name + "-wal" in said
    with opened(path) as journal:
        assert journal.find("before") == entry("before")


def _interrupted(call: Callable[[], object], at: int) -> bool:
    """Whether ``call``, interrupted after so many calls of its own, had as many."""
    left, before = at, sys.gettrace()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        ours = frame.f_code.co_filename.endswith(("journal.py", "threading.py", "placeholder.py"))
        frame.f_trace_opcodes, frame.f_trace_lines = ours, False
        # Python looks for signals behind calls: there, and not in between.
        if event == "opcode" and frame.f_lasti in _behind_calls(frame.f_code):
            left -= 1
            if left < 0:
                sys.settrace(before)
                raise KeyboardInterrupt
        return trace if ours else None

    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for one as settrace is called
    with contextlib.suppress(KeyboardInterrupt):
        sys.settrace(trace)
        call()
    sys.settrace(before)
    return left < 0


@functools.cache
def _behind_calls(code: CodeType) -> set[int]:
    steps = list(dis.get_instructions(code))
    return {two.offset for one, two in itertools.pairwise(steps) if one.opname.startswith("CALL")}


def test_an_interrupt_holds_up_no_write(journal: Journal) -> None:
    """Wherever a read or a write of a cell is interrupted, the journal takes what comes next."""

    def both() -> None:
        journal.change("0", status="queued")
        journal.find("0")

    journal.add(entry("0")).result(TIMEOUT)
    for _ in range(3):  # from Python 3.13 on steps are told of once they have been asked for
        _interrupted(both, 10**6)
    at = 0
    while _interrupted(both, at):
        at += 1
        journal.add(entry(str(at))).result(10)
    assert at > 10
    assert len(journal.entries()) == at + 1


def test_close(path: Path) -> None:
    """Closing commits what is queued, ends the thread, and later writes fail instead of hanging."""
    journal = Journal(path)
    for number in range(500):
        journal.add(entry(str(number)))
    assert journal.close(TIMEOUT)
    assert isinstance(journal.add(entry("late")).exception(TIMEOUT), JournalError)
    assert journal.entries() == []
    assert journal.flush(TIMEOUT)
    assert "bgmagic-journal" not in {thread.name for thread in threading.enumerate()}
    assert not path.with_name(path.name + "-wal").exists()
    assert Journal(path).close(TIMEOUT)
    with opened(path) as again:
        assert len(again.entries()) == 500


# The file.


def test_modes(journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder and the files are the user's alone, also one that had been opened to others."""
    journal.add(entry()).result(TIMEOUT)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    modes = {found.name: found.stat().st_mode & 0o777 for found in path.parent.iterdir()}
    assert modes == {path.name + end: 0o600 for end in ("", "-wal", "-shm")}
    assert journal.close(TIMEOUT)
    with monkeypatch.context() as patch:
        # From the first moment, not only once it is put right.
        patch.setattr(Path, "chmod", lambda *_: None)
        with opened(path.with_name("new")) as new:
            new.add(entry()).result(TIMEOUT)
        assert path.with_name("new").stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with opened(path) as again:
        again.add(entry("two")).result(TIMEOUT)
        assert path.stat().st_mode & 0o777 == 0o600


def test_salt_is_the_files(journal: Journal, path: Path) -> None:
    """The salt stays with the file, and differs from that of another file."""
    salt = journal.salt
    assert len(salt) >= 32
    with opened(path) as again, opened(path.with_name("other")) as other:
        assert again.salt == salt != other.salt


def test_newer_file_is_left_alone(path: Path) -> None:
    """A file of a newer version is not touched, and the user is told what to do."""
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("CREATE TABLE jobs (key TEXT)")
        newer.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with opened(path) as journal:
        with pytest.raises(JournalError, match="upgrade bgmagic, or set BGMAGIC_JOURNAL"):
            journal.add(entry()).result(TIMEOUT)
        assert journal.entries() == []
        assert "newer" in str(journal.trouble)
    assert path.read_bytes() == before


def test_older_file_is_brought_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that an older version left keeps its jobs when a later script runs on it."""
    with opened(path) as older:
        older.add(entry()).result(TIMEOUT)
    later = (*module.MIGRATIONS, "CREATE TABLE later (a); INSERT INTO later VALUES (1)")
    monkeypatch.setattr(module, "MIGRATIONS", later)
    with opened(path) as journal:
        assert journal.find("one") == entry()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute(
            "SELECT a, user_version FROM later, pragma_user_version"
        ).fetchall() == [(1, len(later))]


@pytest.mark.parametrize("damage", ["all", "middle", "middle, read first"])
def test_damaged_file_is_set_aside(path: Path, damage: str) -> None:
    """A damaged file is moved aside, whole, a new one begun, and the user is told where it is: also of one
    that is only read before, as by the cell that looks for its job there."""
    with opened(path) as journal:
        for number in range(500):
            journal.add(entry(str(number), request=f"{number}" * 500))
    content = bytearray(path.read_bytes())
    spoilt = slice(0, None) if damage == "all" else slice(4096, None)
    content[spoilt] = b"\xa5" * len(content[spoilt])
    path.write_bytes(content)
    with opened(path) as journal:
        if damage.endswith("first"):
            assert journal.entries() == []
            assert journal.flush(TIMEOUT)
            assert "is now" in str(journal.trouble)
        journal.add(entry("new")).result(TIMEOUT)
        journal.entries()
        journal.add(entry("newer")).result(TIMEOUT)
        assert {found.key for found in journal.entries()} <= {"new", "newer"}
        assert "newer" in {found.key for found in journal.entries()}
        (aside,) = path.parent.glob("*.damaged-*")
        assert str(aside) in str(journal.trouble)
    assert aside.read_bytes()[4096:] == content[4096:]


def _folder(place: Path) -> None:
    place.mkdir(0o755)


def _songs(place: Path) -> None:
    with contextlib.closing(sqlite3.connect(place)) as connection:
        connection.execute("CREATE TABLE songs (title)")


def _version(place: Path) -> None:
    with contextlib.closing(sqlite3.connect(place)) as connection:
        connection.execute("PRAGMA user_version = 3")


def _table(place: Path) -> None:
    place.write_text("ä,b\n" * 1000)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fifos and file modes")
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (_folder, "is a folder"),
        (os.mkfifo, "is a device"),
        (_songs, "another program's database"),
        (_version, "another program's database"),
        (_table, "it is no database"),
    ],
)
def test_what_is_no_journal_is_left_alone(
    path: Path, make: Callable[[Path], None], told: str
) -> None:
    """What stands where the journal is to be and is something else stays as it is, its mode too;
    the jobs run, and the user is told in a line to set another file."""
    path.parent.mkdir()
    make(path)
    if not path.is_dir():
        path.chmod(0o644)
    before = path.stat().st_mode, path.read_bytes() if path.is_file() else b""
    with opened(path) as journal:
        error = journal.add(entry()).exception(TIMEOUT)
        assert isinstance(error, JournalError)
        assert told in str(error)
        assert "left alone" in str(error)
        assert "set BGMAGIC_JOURNAL to another file" in str(journal.trouble)
        assert journal.claim("one", "me", []).result(TIMEOUT) is True
        assert journal.entries() == []
    assert (path.stat().st_mode, path.read_bytes() if path.is_file() else b"") == before
    assert list(path.parent.iterdir()) == [path]


def test_damage_while_open(journal: Journal, path: Path) -> None:
    """A file that is spoilt while it is used is set aside as well, and what follows is kept."""
    for number in range(300):
        journal.add(entry(str(number), request=f"{number}" * 500))
    journal.entries()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.write(b"\xa5" * path.stat().st_size)
    until = time.monotonic() + TIMEOUT
    while "damaged" not in str(journal.trouble):
        assert time.monotonic() < until
        # What the connections remember of the file may hide the damage for a while.
        journal.add(entry(f"more{time.monotonic()}", request="x" * 5000)).exception(TIMEOUT)
        kept_texts(journal, str(len(journal.entries())))
    journal.add(entry("after")).result(TIMEOUT)
    assert journal.find("after") == entry("after")


def test_deleted_file_is_begun_anew(journal: Journal, path: Path) -> None:
    """After the user deletes the file under a running kernel, its open jobs are in a new one, and the
    later ones."""
    journal.add(entry()).result(TIMEOUT)
    assert journal.entries()
    salt = journal.salt
    for found in list(path.parent.iterdir()):
        found.unlink()
    assert journal.entries() == [brief(entry())]
    journal.add(entry("two")).result(TIMEOUT)
    with opened(path) as other:
        assert other.find("one") == entry()
        assert {found.key for found in other.entries()} == {"one", "two"}
        assert journal.salt == other.salt != salt
    journal.change("one", status="queued").result(TIMEOUT)
    with pytest.raises(JournalError, match="would not survive"):
        journal.change("three", status="queued").result(TIMEOUT)
    assert "would not survive" in str(journal.trouble)


def test_unusable_place(tmp_path: Path) -> None:
    """Where no file can be made, writes fail with one line, reads are empty, and nothing is raised."""
    (tmp_path / "file").write_text("")
    with opened(tmp_path / "file" / "journal.sqlite3") as journal:
        error = journal.add(entry()).exception(TIMEOUT)
        assert isinstance(error, JournalError)
        assert journal.find("one") is kept_texts(journal, "one") is None
        assert journal.entries() == journal.same("f") == []
        assert journal.owners() == set()
        assert journal.salt == journal.salt
        assert journal.claim("two", "me", []).exception(TIMEOUT) is not None
        # What certainly never got into the file may run, once.
        assert journal.claim("one", "me", []).result(TIMEOUT) is True
        assert journal.claim("one", "me", []).exception(TIMEOUT) is not None
        trouble = str(journal.trouble)
        assert "still run, but would not survive a restart of this kernel" in trouble
        assert "set BGMAGIC_JOURNAL" in trouble
        assert "\n" not in trouble


@pytest.mark.skipif(os.geteuid() == 0, reason="file modes do not bind root")
def test_read_only_folder(tmp_path: Path) -> None:
    """In a folder that can't be written, the writes fail and say so."""
    tmp_path.chmod(0o500)
    with opened(tmp_path / "journal.sqlite3") as journal:
        assert isinstance(journal.add(entry()).exception(TIMEOUT), JournalError)
    tmp_path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="file modes do not bind root")
@pytest.mark.parametrize("mode", [0o400, 0o000, 0o644])
def test_file_of_another_mode(path: Path, mode: int) -> None:
    """A journal that its user can't write, or others can read, is theirs alone and written again."""
    for _ in range(2):
        with opened(path) as journal:
            journal.add(entry(str(time.monotonic_ns()))).result(TIMEOUT)
        path.chmod(mode)
    with opened(path) as journal:
        assert len(journal.entries()) == 2
        assert path.stat().st_mode & 0o777 == 0o600


def test_locked_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that another program locks out fails, says so, and is written once that has ended."""
    monkeypatch.setattr(module, "BUSY_TIMEOUT", 0.05)
    with opened(path) as journal:
        journal.add(entry()).result(TIMEOUT)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert "locked" in str(journal.add(entry("two")).exception(TIMEOUT))
            assert "locked" in str(journal.trouble)
            assert [found.key for found in journal.entries()] == ["one"]
            other.execute("COMMIT")
        journal.add(entry("three")).result(TIMEOUT)
        assert journal.trouble is None
        assert {found.key for found in journal.entries()} == {"one", "two", "three"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 400 kB."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let root mount a small disk")
    try:
        yield place
    finally:
        # Lazily: a mount that stays because a failed test has a file open would break later runs.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_full_disk(small_disk: Path) -> None:
    """On a full disk what does not fit fails and says so, what fits is kept, room is used again, and
    the journal says that something is wrong for as long as something is missing."""
    filler = small_disk / "filler"
    with opened(small_disk / "journal.sqlite3") as journal:
        journal.add(entry()).result(TIMEOUT)
        filler.write_bytes(b"x" * 100_000)
        large, small = journal.add(entry("two", response="r" * 400_000)), journal.add(entry("3"))
        assert "the disk is full: make room" in str(large.exception(TIMEOUT))
        small.result(TIMEOUT)
        assert isinstance(journal.add(entry("4", response="r" * 400_000)).exception(), JournalError)
        assert "the disk is full: make room" in str(journal.trouble)
        assert {found.key for found in journal.entries()} == {"one", "3"}
        filler.unlink()
        journal.add(entry("5", response="r" * 20_000)).result(TIMEOUT)
        assert "the disk is full: make room" in str(journal.trouble)
        assert {found.key for found in journal.entries()} == {"one", "3", "5"}
        for key in ("two", "4"):
            journal.change(key, response="r").exception(TIMEOUT)
        journal.add(entry("6")).result(TIMEOUT)
        assert journal.trouble is None
        assert len(journal.entries()) == 6


def test_where_wal_can_not_be_had(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without WAL the journal works the same, in the old mode, with its syncs, the folder's too."""
    monkeypatch.setattr(filesystem, "_may_use_wal", lambda *_: False)
    with opened(path) as journal, opened(path) as other:
        journal.add(entry()).result(TIMEOUT)
        other.add(entry("two")).result(TIMEOUT)
        assert len(journal.entries()) == 2
        assert not path.with_name(path.name + "-wal").exists()
        connection = journal._connection
        assert connection is not None
        assert connection.execute("PRAGMA synchronous").fetchone() == (3,)


# Any content.

texts = st.text(st.characters(exclude_categories=["Cs"]))
times = st.floats(0, 1e12) | st.none()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


@st.composite
def requests(draw: st.DrawFn) -> str:
    """JSON texts of bodies, some with a long input, however they are spaced and escaped."""
    body = draw(st.dictionaries(texts, json_values, max_size=3))
    long = draw(texts.filter(bool)) * draw(st.sampled_from([1, 20_000]))
    body["input"] = draw(st.sampled_from([long, [long], {"a": long}, None]))
    layout = draw(st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}]))
    return json.dumps(body, ensure_ascii=draw(st.booleans()), **layout)


entries = st.builds(
    StoredJob,
    key=st.just("one"),
    created_at=st.floats(0, 1e12),
    name=texts | st.none(),
    request=requests() | texts,
    sendable=st.booleans(),
    deadline=st.floats(0) | st.integers(0, 10**15),
    effort=texts | st.none(),
    response=texts | json_values.map(json.dumps) | st.none(),
    cancelling=st.booleans(),
    **dict.fromkeys(("notebook", "server", "credentials", "fingerprint", "model", "status"), texts),
    **dict.fromkeys(
        ("organization", "project", "owner", "response_id", "reason"), texts | st.none()
    ),
    **dict.fromkeys(
        ("poll_interval", "accepted_at", "started_at", "checked_at", "ended_at"), times
    ),
)


@given(entries)
def test_any_entry_comes_back(one: StoredJob) -> None:
    """Any entry, whatever unicode and JSON it holds, is read back exactly as it was written."""
    with opened(None) as journal:
        journal.add(dataclasses.replace(one, request="{}", response=None)).result(TIMEOUT)
        journal.change("one", request=one.request, response=one.response).result(TIMEOUT)
        assert journal.find("one") == one
        assert kept_texts(journal, "one") == (one.request, one.response)
        assert journal.entries() == [brief(one)]


@given(
    json_values, st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12), st.data()
)
def test_no_secret_is_in_the_file(value: Any, secret: str, data: st.DataObject) -> None:
    """Wherever in a body a secret is, no byte of it is in the files of the journal."""
    secret = f"<{secret}>"
    key = data.draw(st.sampled_from(["input", "tools", "metadata", "instructions", "x"]))
    around = data.draw(texts)
    hidden = data.draw(
        st.sampled_from([secret, around + secret, [value, {secret: 1}], {"headers": {"a": secret}}])
    )
    body, found = without_secrets({"model": "m", "y": value, key: [hidden, value]}, [secret])
    assert found
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite3"
        with opened(path) as journal:
            journal.add(entry(request=json.dumps(body, ensure_ascii=False))).result(TIMEOUT)
            stored = b"".join(file.read_bytes() for file in Path(folder).iterdir())
        for form in (secret, json.dumps(secret)[1:-1]):
            assert form.encode() not in stored


# The rest.


def test_credentials_fingerprint() -> None:
    """A fingerprint tells keys and salts apart, is always the same, and does not hold the key."""
    made = credentials_fingerprint("salt", "sk-secret")
    assert made == credentials_fingerprint("salt", "sk-secret")
    assert (
        len(
            {
                made,
                credentials_fingerprint("pepper", "sk-secret"),
                credentials_fingerprint("salt", ""),
            }
        )
        == 3
    )
    assert len(bytes.fromhex(made)) == 16


def test_default_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """BGMAGIC_JOURNAL names the file, or memory; else it is in the user's data folder."""
    monkeypatch.setenv("BGMAGIC_JOURNAL", ":memory:")
    assert default_path() is None
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BGMAGIC_JOURNAL", "~/j")
    assert default_path() == tmp_path / "j"
    with pytest.raises(BadInput, match=r"^no file can be called '\\ud800'"):
        journal_path("\ud800")
    # Wherever a cell goes afterwards, and by whatever link a kernel knows it.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BGMAGIC_JOURNAL", "j")
    assert default_path() == tmp_path / "j"
    with contextlib.suppress(OSError):  # Windows lets few make one
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "link").symlink_to("../j")
        monkeypatch.setenv("BGMAGIC_JOURNAL", str(tmp_path / "elsewhere" / "link"))
        assert default_path() == tmp_path / "j"
    monkeypatch.delenv("BGMAGIC_JOURNAL")
    found = default_path()
    assert found is not None
    assert found.name == "journal.sqlite3"
    assert "bgmagic" in found.parts
