"""Finding the job that is there already: by a word, by its request; and how often SQLite is read."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

import bgmagic
from bgmagic.notebook import magics
from bgmagic.storage import database
from bgmagic.storage.database import StoredJob
from bgmagic.submission.app import app
from bgmagic.submission.lookup import JobLookup
from tests.jobs.test_job import LIMIT, eventually
from tests.storage.test_journal import entry
from tests.support.scripted import ScriptedServer
from tests.support.shell import FakeShell

HERE, THERE = "/home/user/here.ipynb", "/home/user/there.ipynb"


@pytest.fixture(autouse=True)
def _own_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BGMAGIC_JOURNAL", str(tmp_path / "journal.sqlite3"))
    monkeypatch.setattr(app, "_manager", None)
    monkeypatch.setattr(app, "shell", FakeShell(notebook=HERE))
    yield
    app.manager.close(60)


def restart() -> None:
    """What a new kernel has: no job, and the journal."""
    app.manager.close(60)
    app._manager = None


def stored(*jobs: StoredJob) -> JobLookup:
    for job in jobs:
        app.manager.store.journal.add(job).result(LIMIT)
    return JobLookup()


def made(key: str, **columns: Any) -> StoredJob:
    return replace(entry(), key=key, response_id=f"resp_{key}", notebook=HERE, **columns)


def test_threads_that_send_the_first_jobs_share_one_manager() -> None:
    """Of a program whose threads begin at once all jobs are listed, in one journal."""
    count = 8
    together = threading.Barrier(count)

    def first(_: int) -> object:
        together.wait(LIMIT)
        return app.manager

    with ThreadPoolExecutor(count) as pool:
        assert len(set(pool.map(first, range(count)))) == 1


def test_a_word_means_an_id_then_a_variable_here_then_one_elsewhere() -> None:
    """A key or response id goes before a variable, this notebook's before a newer one of another."""
    lookup = stored(
        made("1", name="x", created_at=1.0),
        replace(made("2", name="x", created_at=2.0), notebook=THERE),
        replace(made("3", name="y", created_at=3.0), notebook=THERE),
        made("resp_9", name="resp_1", created_at=9.0),
    )
    found = {word: lookup.meaning_of(word).single for word in ("x", "y", "2", "resp_1", "z")}
    keys = {word: None if job is None else job.key for word, job in found.items()}
    assert keys == {"x": "1", "y": "3", "2": "2", "resp_1": "1", "z": None}


def test_a_word_means_a_group_unless_a_job_of_that_name_is_newer() -> None:
    """The variable of a group means the group, and a later job of that name itself; with a name of
    its own an item of a group is meant by itself."""
    of_group = {"group_key": "g", "group_name": "study", "group_details": "{}"}
    lookup = stored(
        made("1", name="study['a']", created_at=1.0, group_index=0, **of_group),
        made("2", name="study['b']", created_at=2.0, group_index=1, **of_group),
    )
    group = lookup.meaning_of("study").as_group(None)
    assert group is not None
    assert group.group_key == "g"
    item = lookup.meaning_of("study[a]")
    assert item.single is not None
    assert item.single.key == "1"
    assert item.as_group(None) is item.single
    assert item.as_group("mine") is None
    lookup = stored(made("3", name="study", created_at=3.0))
    assert lookup.meaning_of("study").as_group(None) is None


def test_open_jobs_are_those_that_nobody_alive_follows(pointed: ScriptedServer) -> None:
    """What this kernel follows is not open for it to pick up; what a dead one left is."""
    pointed.polls = 10**6
    app.shell.notebook = HERE  # type: ignore[attr-defined]
    bgmagic.submit("here", out="mine")
    eventually(lambda: pointed.count("create") == 1)
    lookup = stored(made("1", name="left", ended_at=None, owner="gone"))
    assert [job.key for job in lookup.open_jobs()] == ["1"]


def test_past_jobs_are_read_at_once(
    pointed: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`jobs(past=True)` reads the journal once, however many there are, oldest first."""
    stored(*(made(str(n), name=f"x{n}", created_at=float(n)) for n in range(5)))
    bgmagic.submit("new", out="new").result(LIMIT)
    reads = _counted(monkeypatch)
    names = [job.name for job in bgmagic.jobs(past=True)]
    assert names == ["x0", "x1", "x2", "x3", "x4", "new"]
    assert len(reads) == 1


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SELECTs that SQLite is asked from now on, of whole statements."""
    reads: list[str] = []
    journal, read = app.manager.store.journal, database.connect

    def note(statement: str) -> None:
        if statement.lstrip().startswith("SELECT"):
            reads.append(statement)

    def connect(path: Path | None, timeout: float) -> sqlite3.Connection:
        connection = read(path, timeout)
        connection.set_trace_callback(note)
        return connection

    monkeypatch.setattr(database, "connect", connect)
    journal._drop_reader()
    return reads


@pytest.fixture
def ipython(monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """IPython without a kernel, with the magics."""
    # It puts its own module there; without it no test after this can start a process.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    shell = InteractiveShell()
    magics.load(shell)
    yield shell
    magics.unload(shell)


def test_attach_reads_the_journal_four_times(
    pointed: ScriptedServer, ipython: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`%bgattach NAME` of an open job asks SQLite for the job, for the owners, for the salt, and, once
    it is taken, for what may have to be written again."""
    pointed.polls = 10**6
    ipython.run_cell_magic("bgresponse", "-o critique --poll 0.1", "Why?")  # type: ignore[no-untyped-call]
    eventually(lambda: pointed.count("retrieve") > 0)
    restart()
    ipython.user_ns.clear()
    reads = _counted(monkeypatch)
    polls = pointed.count("retrieve")
    ipython.run_line_magic("bgattach", "critique")
    eventually(lambda: pointed.count("retrieve") > polls)
    job = ipython.user_ns["critique"]
    eventually(lambda: len(reads) >= 4)
    assert len(reads) == 4, reads
    pointed.polls = 0
    assert job.result(LIMIT) == "the answer"
