"""Answers of ended jobs are left to the journal, and read there when somebody looks at them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pickle
import signal
import sqlite3
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest

import bgmagic
from bgmagic.api.response import StoredResponse
from bgmagic.concurrency import on_own_thread
from bgmagic.display.static_html import final_bundles
from bgmagic.errors import AnswerGone
from bgmagic.jobs import job as job_module
from bgmagic.jobs.export import export_line, to_frame
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.placeholder import LeanFuture, as_completed
from bgmagic.runtime import runner
from bgmagic.submission.app import NoShell, app
from bgmagic.submission.search import jobs_found
from tests.jobs.test_group import echo
from tests.jobs.test_job import LIMIT, SOON, eventually
from tests.support.scripted import ScriptedServer, response
from tests.support.shell import FakeShell

Ask = Callable[..., JobGroup]


@contextlib.contextmanager
def kernel_with(path: Path | None) -> Iterator[None]:
    """Makes this process a kernel with its journal there."""
    app._manager = app._made(path)
    app.shell = FakeShell({}, "/home/user/study.ipynb")
    yield
    assert app.manager.close(60)
    app._manager = None
    app.shell = NoShell()


@pytest.fixture
def journal(pointed: ScriptedServer, tmp_path: Path) -> Iterator[Path]:
    """This process's journal, in a file."""
    path = tmp_path / "data" / "journal.sqlite3"
    with kernel_with(path):
        yield path


@pytest.fixture
def ask(journal: Path, pointed: ScriptedServer) -> Ask:
    """Sends a group, and waits for its end."""
    pointed.ending = echo

    def ask(items: Any, **options: Any) -> JobGroup:
        group = bgmagic.map("Say {{ item }}", items, poll=SOON, **options)
        eventually(group.done)
        let_go()
        return group

    return ask


def let_go() -> None:
    """What nobody looks at any more is not held."""
    job_module._NEWEST.clear()
    gc.collect()


def held(group: JobGroup) -> list[Answer]:
    """The answers that are in memory."""
    gc.collect()
    return [answer for answer in job_module._HELD.values() if answer.job in group.jobs]


def test_an_answer_is_read_when_it_is_looked_at(ask: Ask) -> None:
    """A group holds no texts; each look gives the answer as it was, one object for all who have it."""
    group = ask(["a", "b", "c"])
    assert held(group) == []
    first = group[0]
    assert first == "re: Say a"
    assert first is group[0] is group.jobs[0].result() is asyncio.run(_awaited(group.jobs[0]))
    assert (first.job, first.response_id, first.model) == (group.jobs[0], "resp_1", "gpt-5.2-true")
    assert first.usage is not None
    assert first.usage.output_tokens == 5
    assert first.response.to_dict() == group.jobs[0].response.to_dict()  # type: ignore[union-attr]
    assert first.conversation[-1]["content"] == "re: Say a"
    assert held(group) == [first]
    assert list(group) == group[:] == group.result() == ["re: Say a", "re: Say b", "re: Say c"]
    assert group.jobs[2].text == "re: Say c"
    answer = weakref.ref(first)
    del first
    let_go()
    assert answer() is None
    assert [export_line(job)["text"] for job in group.jobs] == list(group)


async def _awaited(job: Job) -> Answer:
    return await job


def test_an_answer_in_a_variable_is_not_read_again(journal: Path, pointed: ScriptedServer) -> None:
    """What a variable holds is the answer for everybody; a journal that is gone takes nothing from it."""
    job = bgmagic.submit("Why?", out="x", poll=SOON)
    answer = job.result(LIMIT)
    let_go()
    journal.unlink()
    assert job.result() is answer
    assert job.text == answer == "the answer"
    assert job.usage is not None
    shown = final_bundles(job)["answer"]
    assert "the answer" in shown["text/plain"]
    assert "the answer" in shown["text/html"]
    assert answer.conversation[-1]["content"] == "the answer"
    assert pickle.loads(pickle.dumps(answer)) == "the answer"
    with pytest.raises(AnswerGone):
        _ = answer.response


def test_what_is_forgotten_stays_with_its_handle(ask: Ask) -> None:
    """Forgetting takes the texts out of the journal; the handles of this kernel still have them, and
    those that it made of the journal to be read."""
    group = ask(["a", "b"])
    keys = [job.record.key for job in group.jobs]
    entry = app.manager.store.find(keys[0])
    assert entry is not None
    past = app.manager.past(entry)
    assert isinstance(past.record.response, StoredResponse)
    assert app.manager.store.forget(keys).result(LIMIT) == 2
    let_go()
    assert app.manager.store.find(keys[0]) is None
    assert list(group) == ["re: Say a", "re: Say b"]
    assert group[0].response.to_dict()["id"] == "resp_1"
    assert past.result() == "re: Say a"


def test_what_is_forgotten_as_it_ends_stays_with_its_handle(
    journal: Path, pointed: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is forgotten when the journal has its end, and its handle not yet, keeps its answer."""
    pointed.ending = echo
    given = runner.settle

    def settle(job: Job, **told: Any) -> None:
        assert app.manager.store.forget([job.record.key]).result(LIMIT) == 1
        given(job, **told)

    monkeypatch.setattr(runner, "settle", settle)
    group = bgmagic.map("Say {{ item }}", ["a"], poll=SOON)
    eventually(group.done)
    let_go()
    assert list(group) == ["re: Say a"]
    assert group[0].response.to_dict()["id"] == "resp_1"


def test_what_is_forgotten_as_it_is_read_is_read(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks at an answer while another thread forgets its job gets it."""
    job = ask(["a"]).jobs[0]
    responses, given = app.manager.responses, app.manager.responses.read

    def read(key: str) -> str:
        assert app.manager.store.forget([key]).result(LIMIT) == 1
        return given(key)

    monkeypatch.setattr(responses, "read", read)
    assert job.result() == "re: Say a"


def test_a_job_that_needs_a_lost_answer_says_so(journal: Path, pointed: ScriptedServer) -> None:
    """It ends, not sent, with the reason; and cells that are sent meanwhile do not mind."""
    ended = set[str]()

    def ending(rid: str, _: Any) -> dict[str, Any]:
        return response(rid, "completed" if rid in ended else "in_progress", "text")

    pointed.polls, pointed.ending = 10**6, ending
    first, other = (bgmagic.submit(f"Say {name}", poll=SOON) for name in "ab")
    eventually(lambda: first.response_id and other.response_id)
    fill = {"first": first, "other": other}
    needing = bgmagic.submit("{{ first }} {{ other }}", out="c", fill=fill, poll=SOON)
    ended.add(str(first.response_id))
    pointed.polls = 1
    eventually(first.done)
    let_go()
    _forgotten_by_another(journal, f"key = '{first.record.key}'")
    ended.add(str(other.response_id))
    apart = bgmagic.submit("{{ other }} {{ first }}", out="c", fill={"first": "1", "other": "2"})
    assert apart.record.status != "failed"
    eventually(needing.done)
    assert needing.status == "failed"
    assert "not sent" in str(needing.error)
    assert "no longer has it" in str(needing.error)


def _forgotten_by_another(path: Path, which: str = "group_index = 0") -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"DELETE FROM jobs WHERE {which}")
    connection.close()


@pytest.mark.parametrize("how", ["another kernel forgot it", "the file is gone"])
def test_an_answer_that_the_journal_lost_is_said_to_be(ask: Ask, journal: Path, how: str) -> None:
    """One line says what is missing and where it was; all else that the group tells stays, and other
    answers are not lost with it."""
    group = ask(["a", "b"])
    if how == "the file is gone":
        journal.unlink()
    else:
        _forgotten_by_another(journal)
    lost = r"job .*\[0\].*journal\.sqlite3.*no longer has it.*%bgattach resp_1"
    with pytest.raises(AnswerGone, match=lost):
        group[0]
    with pytest.raises(AnswerGone):
        group.result()
    first, second = group.result(return_exceptions=True)
    assert isinstance(first, AnswerGone)
    assert how == "the file is gone" or second == "re: Say b"
    assert group.counts == {"completed": 2}
    row = to_frame(group.jobs).iloc[0]
    assert pandas.isna(row["text"])
    assert row["tokens_out"] == 5
    assert "no longer has it" in row["error"]
    assert "no longer has it" in export_line(group.jobs[0])["error"]
    assert group.jobs[0] in jobs_found("Say a", "--search")
    shown = final_bundles(group.jobs[0])["answer"]
    assert "no longer has it" in shown["text/html"]
    assert "no longer has it" in shown["text/plain"]


def test_an_answer_is_back_with_the_file(ask: Ask, journal: Path) -> None:
    """What could not be read of a damaged file is read once that is whole again."""
    group = ask(["a"])
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = journal.read_bytes()
    app.manager.responses.close()
    with journal.open("r+b") as file:
        file.write(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(AnswerGone, match="can't be read now"):
        group[0]
    with journal.open("r+b") as file:
        file.write(whole)
    assert group[0] == "re: Say a"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_is_told(ask: Ask) -> None:
    """In a forked child nothing hangs: what was not read before the fork is said to be the parent's."""
    group = ask(["a", "b"])
    first = group[0]
    child = os.fork()
    if child == 0:
        try:
            group[1]
        except AnswerGone as error:
            os._exit(0 if "forked" in str(error) and group[0] is first else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_without_a_file_the_handles_keep_all(pointed: ScriptedServer) -> None:
    """A journal in memory, or none that can be written, has nothing that could be read later."""
    pointed.ending = echo
    with kernel_with(None):
        group = bgmagic.map("Say {{ item }}", ["a"], poll=SOON)
        eventually(group.done)
        let_go()
        assert not group.jobs[0]._is_let_go
        assert list(group) == ["re: Say a"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="nothing interrupts here")
def test_an_interrupt_leaves_no_lock(ask: Ask) -> None:
    """Whoever is interrupted while answers are read, or jobs are waited for as they end, holds up no
    other job: all share one lock."""
    job = ask(["a"]).jobs[0]
    answer, armed, interrupts = job.result(), False, 0

    class Endless(LeanFuture[Any]):
        def _check_may_wait(self) -> None: ...

    waited = [Endless() for _ in range(20)]

    def interrupt(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False  # pytest tells of one that comes in a destructor: that is not interrupted
            raise KeyboardInterrupt

    given = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        while interrupts < 300:
            try:
                while job.error is None and job.result() is answer:
                    armed = True
                    with job._condition, contextlib.suppress(TimeoutError):
                        list(as_completed(waited, 0))
            except KeyboardInterrupt:
                interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, given)

    def take() -> bool:
        taken = job._condition.acquire(timeout=LIMIT)
        if taken:
            job._condition.release()
        return taken

    assert on_own_thread(take, "take").result(2 * LIMIT)


def _bytes_a_job(before: tracemalloc.Snapshot, count: int) -> float:
    gc.collect()
    ours = [tracemalloc.Filter(inclusive=True, filename_pattern="*/bgmagic/bgmagic/*")]
    now, then = (told.filter_traces(ours) for told in (tracemalloc.take_snapshot(), before))
    return sum(change.size_diff for change in now.compare_to(then, "filename")) / count


def test_memory_of_a_job(journal: Path, pointed: ScriptedServer) -> None:
    """A job of a sweep takes a few kB while it runs, and about two once it has ended, however long its
    answer is."""
    pointed.ending = lambda rid, body: response(rid, "completed", "lorem ipsum " * 700)
    pointed.polls, count = 10**6, 120
    eventually(bgmagic.map("Say {{ item }}", ["warm"]).running)
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        many = {"max_in_flight": count, "yes": count, "poll": 1}
        group = bgmagic.map("Say {{ item }}", list(range(count)), **many)
        eventually(lambda: all(job.running() for job in group.jobs))
        flight = _bytes_a_job(before, count)
        pointed.polls = 1
        eventually(group.done)
        let_go()
        assert (flight < 7000, _bytes_a_job(before, count) < 2500) == (True, True)
    finally:
        tracemalloc.stop()
