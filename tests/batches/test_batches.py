"""Batches over real connections: made once, ended once, every answer in its place."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgmagic.api.server import ServerConfig
from bgmagic.batches import runs, sender
from bgmagic.batches.runs import BatchRuns, FoundBatch
from bgmagic.errors import BadInput
from bgmagic.jobs.export import export_line
from bgmagic.jobs.group import JobList
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import Detached, JobCancelled, JobFailed, JobLost, JobUnknown
from bgmagic.jobs.record import Note
from bgmagic.runtime import pacing
from bgmagic.runtime.manager import JobManager
from bgmagic.runtime.pacing import Courtesy
from bgmagic.storage import database
from bgmagic.storage.batches import BatchState, drop_found, reopen
from bgmagic.storage.job_store import AT_ONCE, JobStore
from bgmagic.submission.app import group_displays
from bgmagic.transport import batches
from tests.batches.study import (
    attached,
    attached_at_once,
    config_of,
    entries_of,
    fast_clock,
    manager_of,
    records_of,
    sent,
)
from tests.jobs.test_job import LIMIT, eventually
from tests.notebook.test_batches import made_elsewhere
from tests.support.batching import answer_of, failure_of
from tests.support.scripted import Script, ScriptedServer

NO = {"error": {"message": "no", "type": "x"}}

# What can go wrong with one call, whichever it is.
FAULTS: dict[str, Script] = {
    "reset before": Script(reset="before"),
    "reset after": Script(reset="after"),
    "500": Script(status=500, json=NO),
    "429": Script(status=429, json=NO, headers={"retry-after-ms": "5"}),
    "html": Script(body=b"<html>login</html>"),
    "cut off": Script(truncate=40),
}
CALLS = ("upload", "batch", "batch_poll", "content")

# When a batch that may have been made is looked for: now, and after a second on this clock.
LOOK_UPS = (0.0, 2000.0)

# Those of them after which it is not known whether a create was carried out, and it was not.
UNCLEAR = ("reset before", "500", "html")


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[JobManager]:
    """A kernel with a journal on disk."""
    made = manager_of(tmp_path / "journal.sqlite3")
    yield made
    assert made.close(60), "the loop thread did not end"


def answers(jobs: list[Job]) -> list[str]:
    return [str(job.result(LIMIT)) for job in jobs]


def echoes(count: int) -> list[str]:
    return [f"echo: q{number}" for number in range(count)]


def test_answers_come_from_one_file(kernel: JobManager, server: ScriptedServer) -> None:
    """A batch is one upload and one create, and its answers reach their jobs in whatever order."""
    jobs = sent(kernel, server, 30)
    assert answers(jobs) == echoes(30)
    assert server.count("upload") == server.count("batch") == 1
    assert server.count("create") == 0
    (batch,) = server.batching.batches.values()
    assert batch["metadata"]["bgmagic_group"] == "group-1"
    assert {export_line(job)["batch_id"] for job in jobs} == {"batch_1"}
    assert {entry.status for entry in entries_of(kernel)} == {"completed"}
    assert {entry.response_id for entry in entries_of(kernel)} == {
        f"resp_{job.record.key}" for job in jobs
    }


def test_each_model_has_its_own_batch(kernel: JobManager, server: ScriptedServer) -> None:
    """A file has one model: several models become several batches."""
    jobs = sent(kernel, server, 6, models=("gpt-5.2", "gpt-5"))
    assert answers(jobs) == echoes(6)
    models = [
        {line["body"]["model"] for line in server.batching.requests(key)}
        for key in server.batching.batches
    ]
    assert sorted(models, key=str) == [{"gpt-5"}, {"gpt-5.2"}]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_any_call(
    kernel: JobManager, server: ScriptedServer, call: str, fault: str
) -> None:
    """Whichever call fails in whichever way: no request is in two batches, and none is lost. Where
    nobody can know whether the batch was made, it is asked for once and its jobs are unknown."""
    server.enqueue(call, FAULTS[fault])
    jobs = sent(kernel, server, 12)
    if call == "batch" and fault in UNCLEAR:
        eventually(lambda: all(job.done() for job in jobs))
        assert {type(job.error) for job in jobs} == {JobUnknown}
        assert {entry.status for entry in entries_of(kernel)} == {"unknown"}
        assert server.count("batch") == 1
        return
    assert answers(jobs) == echoes(12)
    assert set(server.batching.asked.values()) == {1}
    assert len(server.batching.asked) == 12


def test_a_file_is_read_on_where_it_broke_off(kernel: JobManager, server: ScriptedServer) -> None:
    """Of a file that breaks off in its middle the rest is asked for, from the first line that is
    not known."""
    server.enqueue("content", Script(truncate=3000), Script(truncate=2000))
    jobs = sent(kernel, server, 12)
    assert answers(jobs) == echoes(12)
    ranges = [seen.headers.get("range") for seen in server.seen if seen.kind == "content"]
    assert ranges[0] is None
    assert all(found for found in ranges[1:])


def test_a_server_without_ranges_is_read_again(kernel: JobManager, server: ScriptedServer) -> None:
    """Where the server begins anew, what is known is passed over."""
    server.batching.ranges = False
    server.enqueue("content", Script(truncate=3000))
    assert answers(sent(kernel, server, 12)) == echoes(12)


def test_an_expired_batch_keeps_what_is_done(kernel: JobManager, server: ScriptedServer) -> None:
    """Of a batch that expires the done ones have answers, the others say so, and a retry sends
    just these, in a batch again."""
    server.batching.ending, server.batching.done = "expired", 0.5
    jobs = sent(kernel, server, 10)
    eventually(lambda: all(job.done() for job in jobs))
    assert answers(jobs[:5]) == echoes(5)
    assert [type(job.error) for job in jobs[5:]] == [JobFailed] * 5
    assert "batch_expired" in str(jobs[5].error)
    server.batching.ending, server.batching.done = "completed", 1.0
    again = kernel.resend_all(jobs[5:])
    assert answers(again) == echoes(10)[5:]
    assert [len(server.batching.requests(key)) for key in server.batching.batches] == [10, 5]


def test_lines_of_errors_end_their_jobs(kernel: JobManager, server: ScriptedServer) -> None:
    """A line of the error file ends its job with what it says, whatever its shape; the others have
    their answers."""

    def result(custom_id: str, body: Any) -> dict[str, Any]:
        line = answer_of(custom_id, body)
        number = int(line["response"]["body"]["output"][0]["content"][0]["text"].split("q")[1])
        if number == 1:
            return failure_of(custom_id, "rate_limit_exceeded", "too much")
        if number == 2:
            error = {"error": {"message": "bad tool", "code": "unsupported"}}
            return line | {"response": {"status_code": 400, "body": error}}
        if number == 3:
            failed = line["response"]["body"] | {"status": "failed", "output": []}
            failed["error"] = {"code": "server_error", "message": "broke"}
            return line | {"response": {"status_code": 200, "body": failed}}
        return line

    server.batching.result = result
    jobs = sent(kernel, server, 5)
    eventually(lambda: all(job.done() for job in jobs))
    assert answers([jobs[0], jobs[4]]) == ["echo: q0", "echo: q4"]
    told = [str(job.error) for job in jobs[1:4]]
    assert "rate_limit_exceeded: too much" in told[0]
    assert "HTTP 400: unsupported: bad tool" in told[1]
    assert told[2] == "server_error: broke"


def test_a_refused_batch_says_why(kernel: JobManager, server: ScriptedServer) -> None:
    """A batch that fails as a whole ends its jobs with the server's reason."""
    server.batching.ending = "failed"
    jobs = sent(kernel, server, 3)
    eventually(lambda: all(job.done() for job in jobs))
    assert {str(job.error) for job in jobs} == {"invalid_json_line: line 1 is no JSON"}


@pytest.mark.parametrize("errors", [["no"], {"data": [5]}, {"data": "no"}])
def test_odd_words_about_a_refusal(
    kernel: JobManager, server: ScriptedServer, errors: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch that fails with errors in a form of their own ends its jobs as failed all the same."""
    failed = {"id": "batch_1", "status": "failed", "errors": errors}
    server.always["batch_poll"] = Script(json=failed)
    jobs = sent(kernel, server, 2)
    eventually(lambda: all(job.done() for job in jobs))
    assert {str(job.error) for job in jobs} == {"the server refused the batch"}
    assert not caplog.records


def test_lean_answers(
    kernel: JobManager, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is followed whose create has an id alone; a list that is none is asked for again."""
    monkeypatch.setattr(sender, "LOOK_UPS", (0.0, 1000.0, 3000.0))
    server.enqueue("batch", Script(reset="after"))
    server.enqueue("batches", Script(json={"data": 5}), Script(json={"data": [{"id": "other"}, 5]}))
    jobs = sent(kernel, server, 2)
    assert answers(jobs) == echoes(2)
    server.enqueue("batch", Script(json={"id": "batch_1"}))
    hold = threading.Event()
    server.enqueue("batch_poll", Script(hold=hold))
    lean = sent(kernel, server, 2)
    eventually(lambda: all(job.record.batch_id for job in lean))
    assert {job.status for job in lean} == {"in_progress"}
    hold.set()


def test_a_request_without_a_line_is_lost(kernel: JobManager, server: ScriptedServer) -> None:
    """A completed batch whose files do not have a request ends that as lost."""
    records = records_of(server, 4)
    server.batching.missing = {records[2].key}
    jobs = kernel.submit_all(records, config_of(server))
    eventually(lambda: all(job.done() for job in jobs))
    assert isinstance(jobs[2].error, JobLost)
    assert str(jobs[3].result(0)) == "echo: q3"


def test_files_may_be_late(kernel: JobManager, server: ScriptedServer) -> None:
    """A batch that is completed and has no files yet is asked again, before anything is called lost; until
    then no job of it is called completed."""
    said = set()
    server.batching.polls = 10_000
    jobs = sent(kernel, server, 3)
    for job in jobs:
        job.add_listener(lambda one: said.add((one.done(), one.status)))
    eventually(lambda: server.batching.batches)
    server.batching.polls, server.batching.late = 0, 3
    server.batching.end("batch_1")
    assert answers(jobs) == echoes(3)
    assert (False, "completed") not in said


def test_a_batch_of_nothing(kernel: JobManager, server: ScriptedServer) -> None:
    """Where all jobs of a sweep are there already, as with --reuse, none is left for a batch."""
    asyncio.run(BatchRuns(kernel.store, fast_clock()).run([], config_of(server)))
    assert not server.seen


def test_two_kernels_take_in_one_batch(
    kernel: JobManager, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kernel has written down of a batch from elsewhere may go with what another one breaks off:
    it says so, and takes the whole batch in when asked again, but for a line that nobody can read."""
    found = FoundBatch(made_elsewhere(server, list("abc")), config_of(server).server, kernel.store)
    name, content = server.batching.files["file-1"]
    deep = b'{"custom_id": "d", "body": ' + b"[" * 10**5 + b"]" * 10**5 + b"}\n"
    server.batching.files["file-1"] = name, content + deep
    server.batching.polls = 10  # it does not read them either
    add = runs.add_found

    async def broken_off(store: JobStore, *given: Any) -> None:
        await add(store, *given)
        drop_found(store, "batch_1")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "TOGETHER", 2)
        patch.setattr(runs, "add_found", broken_off)
        with pytest.raises(BadInput, match="another kernel broke off taking it in; attach it"):
            found.take_in("x", "nb", named=True)
    first = found.take_in("x", "nb", named=True)
    assert len(kernel.store.group(str(first.group_key))) == 3


def test_a_server_without_batches(kernel: JobManager, server: ScriptedServer) -> None:
    """A server that knows no files ends the jobs with one line that says what to do."""
    server.always["upload"] = Script(status=404, json={"error": {"message": "Not Found"}})
    jobs = sent(kernel, server, 3)
    eventually(lambda: all(job.done() for job in jobs))
    assert {type(job.error) for job in jobs} == {JobFailed}
    assert "has no batches: leave out --batch" in str(jobs[0].error)


def test_a_create_that_can_not_be_looked_up_is_unknown(
    kernel: JobManager, server: ScriptedServer, tmp_path: Path
) -> None:
    """Where a create is unclear and the server has no list, the jobs are unknown, and not sent
    again; another kernel may look for them later, though the first one lives on."""
    server.enqueue("batch", Script(reset="after"))
    server.always["batches"] = Script(status=404, json=NO)
    jobs = sent(kernel, server, 3)
    eventually(lambda: all(job.done() for job in jobs))
    assert {type(job.error) for job in jobs} == {JobUnknown}
    del server.always["batches"]
    other = manager_of(tmp_path / "journal.sqlite3")
    try:
        # The jobs have ended a moment before their batch has, which lets another kernel have it.
        ended = "SELECT state FROM batches"
        eventually(lambda: other.store.journal.rows(ended) == [(BatchState.ENDED,)])
        assert reopen(other.store, entries_of(other))
        assert answers(attached(other, server)) == echoes(3)
    finally:
        other.close(60)
    assert server.count("batch") == 1


def test_a_batch_that_is_made_late_is_found(
    kernel: JobManager, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create that the server carries out only after the call was given up, and after it was looked
    for in vain, is found in its list: it is not asked for again."""
    monkeypatch.setattr(batches, "CREATE_BATCH_TIMEOUT", 0.2)
    monkeypatch.setattr(sender, "LOOK_UPS", LOOK_UPS)
    hold, made = threading.Event(), threading.Event()
    server.enqueue("batch", Script(hold=hold))
    # The last look-up finds it, however long the server takes.
    server.enqueue("batches", Script(), Script(hold=made))
    jobs = sent(kernel, server, 3)
    eventually(lambda: server.count("batches") == 2)
    assert not server.batching.batches
    hold.set()
    eventually(lambda: server.batching.batches)
    made.set()
    assert answers(jobs) == echoes(3)
    assert server.count("batch") == 1
    assert len(server.batching.batches) == 1


def test_a_batch_that_is_made_too_late_is_not_made_again(
    kernel: JobManager, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create that the server carries out after it was looked for at last is in one batch: its jobs
    are unknown, say what to look for, and are sent again by the user's word alone. It is cancelled
    once all have been, and not for a part of them: of the others it is the only one."""
    monkeypatch.setattr(batches, "CREATE_BATCH_TIMEOUT", 0.2)
    monkeypatch.setattr(sender, "LOOK_UPS", LOOK_UPS)
    hold = threading.Event()
    server.enqueue("batch", Script(hold=hold))
    jobs = sent(kernel, server, 3)
    eventually(lambda: "asked for its list" in str(jobs[0].record.trouble))
    assert jobs[0].status == "submitting"
    eventually(lambda: all(job.done() for job in jobs))
    assert {type(job.error) for job in jobs} == {JobUnknown}
    assert f"bgmagic={jobs[0].record.batch}; %bgattach" in str(jobs[0].error)
    assert "retry_failed(unknown=True)" in str(jobs[0].error)
    hold.set()
    eventually(lambda: server.batching.batches)
    assert server.batching.batches["batch_1"]["metadata"]["bgmagic"] == jobs[0].record.batch
    assert server.count("batch") == 1
    monkeypatch.setattr(batches, "CREATE_BATCH_TIMEOUT", 60.0)
    (first,) = kernel.resend_all(jobs[:1])
    assert answers([first]) == echoes(1)
    assert first.record.note_text == ""
    assert server.batching.batches["batch_1"]["status"] == "validating"
    again = kernel.resend_all(jobs[1:])
    assert answers([first, *again]) == echoes(3)
    assert server.count("batch") == 3
    eventually(lambda: server.batching.batches["batch_1"]["status"] == "cancelling")
    assert {job.record.note_text for job in again} == {Note.BATCH_TWICE}


def test_a_second_batch_is_cancelled(kernel: JobManager, server: ScriptedServer) -> None:
    """Where something on the way sends a create twice, the second batch is cancelled as soon as the
    server's list has it, and its jobs say so to their end; the other's answers are taken."""
    create = server.batching.create
    twice: Any = lambda body: [create(body), create(body)][0]  # noqa: E731
    server.batching.create = twice  # type: ignore[method-assign]
    jobs = sent(kernel, server, 3)
    assert answers(jobs) == echoes(3)
    both = server.batching.batches
    eventually(lambda: [both[key]["status"] for key in both] == ["completed", "cancelling"])
    assert list(both) == ["batch_1", "batch_2"]
    assert {job.record.note_text for job in jobs} == {Note.BATCH_TWICE}
    group = JobList("group-1", "study", jobs, displays=group_displays)
    assert group.board.view["trouble"] == Note.BATCH_TWICE


def test_a_journal_that_is_behind(server: ScriptedServer, tmp_path: Path) -> None:
    """A journal that was copied before its batch was sent, as with its machine or from a backup, does
    not have it made once more: the server's list is asked first."""
    path, copy = tmp_path / "journal.sqlite3", tmp_path / "copy" / "journal.sqlite3"
    server.always["batch"] = Script(status=429, json=NO)
    first = manager_of(path)
    jobs = sent(first, server, 3)
    eventually(lambda: "not sent yet" in str(jobs[0].record.trouble))
    first.close()
    shutil.copytree(path.parent, copy.parent, ignore=lambda *_: ["owners"])
    del server.always["batch"]
    for where in (path, copy):
        one = manager_of(where)
        assert answers(attached(one, server)) == echoes(3)
        one.close()
    assert len(server.batching.batches) == 1


@pytest.mark.parametrize("full", [False, True])
def test_a_journal_that_loses_a_batch(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """Where the file is gone while the server has a batch, or does not take its results at first, it has
    all of its jobs in the end: their rows are made anew of their handles."""
    path = tmp_path / "journal.sqlite3"
    server.batching.polls = 10_000
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.1)
    kernel, lock = manager_of(path), None
    jobs = sent(kernel, server, 4)
    eventually(lambda: {entry.status for entry in entries_of(kernel)} == {"in_progress"})
    own = kernel.store.journal.path
    assert own is not None
    if full:
        lock = sqlite3.connect(own)
        lock.execute("BEGIN IMMEDIATE")  # nobody else writes
    else:
        for found in own.parent.glob(f"{own.name}*"):
            found.unlink()
    server.batching.end("batch_1")
    assert answers(jobs) == echoes(4)
    if lock is not None:
        lock.rollback()
        lock.close()
    eventually(lambda: {entry.status for entry in entries_of(kernel)} == {"completed"})
    kernel.close(60)
    after = manager_of(path)
    try:
        assert answers(attached(after, server)) == echoes(4)
        assert server.count("batch") == 1
    finally:
        after.close(60)


def test_two_copies_of_a_journal_at_once(server: ScriptedServer, tmp_path: Path) -> None:
    """Two kernels with one journal, as of a machine and its copy, that have the server make their batch at
    the same time: the first one counts for both, and who had the other made cancels that and says so.
    Neither cancels what the other made."""
    folders = [tmp_path / "one", tmp_path / "two"]
    server.always["batch"] = Script(status=429, json=NO)
    first = manager_of(folders[0] / "journal.sqlite3")
    jobs = sent(first, server, 3)
    eventually(lambda: "not sent yet" in str(jobs[0].record.trouble))
    first.close()
    shutil.copytree(*folders, ignore=lambda *_: ["owners"])
    del server.always["batch"]
    hold, before = threading.Event(), server.count("batch")
    server.enqueue("batch", Script(hold=hold), Script(hold=hold))
    server.batching.polls = 10_000
    kernels = [manager_of(folder / "journal.sqlite3") for folder in folders]
    try:
        found = [attached(kernel, server) for kernel in kernels]
        eventually(lambda: server.count("batch") == before + 2)
        hold.set()
        both = [*found[0], *found[1]]
        eventually(lambda: {job.record.batch_id for job in both} == {"batch_1"})
        # The other one has seen the second too, or looked when that was cancelled.
        told = next(some for some in found if some[0].record.notes)
        assert {job.record.note_text for job in told} == {Note.BATCH_ELSEWHERE}
        server.batching.polls = 0
        server.batching.end("batch_1")
        assert [answers(some) for some in found] == [echoes(3)] * 2
        cancelled = [seen.path for seen in server.seen if seen.kind == "batch_cancel"]
        assert len(cancelled) == 1
        assert "batch_2" in cancelled[0]
        group = JobList("group-1", "study", told, displays=group_displays)
        assert group.board.view["trouble"] == Note.BATCH_ELSEWHERE
    finally:
        for one in kernels:
            one.close(60)


def test_a_file_that_the_server_forgot_is_sent_again(
    kernel: JobManager, server: ScriptedServer
) -> None:
    """A server that was started anew between upload and create gets the file once more."""
    server.enqueue("batch", Script(status=404, json={"error": {"message": "No such File object"}}))
    assert answers(sent(kernel, server, 3)) == echoes(3)
    assert [server.count(kind) for kind in ("upload", "batch")] == [2, 2]


def test_a_new_key_counts_for_a_batch(server: ScriptedServer, tmp_path: Path) -> None:
    """A batch whose key is refused goes on with a new one as soon as its jobs are attached with that."""
    kernel = manager_of(tmp_path / "journal.sqlite3")
    try:
        server.always["batch_poll"] = Script(status=401, json=NO)
        jobs = sent(kernel, server, 2)
        eventually(lambda: "the poll failed" in str(jobs[0].record.trouble))
        del server.always["batch_poll"]
        new = ServerConfig(server.base_url, "sk-new-0123456789abcdef")
        kernel._destination = lambda: new
        assert [kernel.attach(entry, server=new) for entry in entries_of(kernel)] == jobs
        assert answers(jobs) == echoes(2)
        assert server.seen[-1].headers["authorization"] == f"Bearer {new.api_key}"
    finally:
        kernel.close(60)


def test_cancelling_all_cancels_the_batch(kernel: JobManager, server: ScriptedServer) -> None:
    """Cancelling every job cancels the batch; what is done by then is kept."""
    server.batching.polls, server.batching.done = 10_000, 0.5
    jobs = sent(kernel, server, 6)
    eventually(lambda: {job.status for job in jobs} == {"in_progress"})
    assert all(job.cancel() for job in reversed(jobs))
    eventually(lambda: all(job.done() for job in jobs))
    assert answers(jobs[:3]) == echoes(3)
    assert [type(job.error) for job in jobs[3:]] == [JobCancelled] * 3
    assert server.count("batch_cancel") == 1


def test_one_job_of_a_batch_can_not_be_cancelled(
    kernel: JobManager, server: ScriptedServer
) -> None:
    """Cancelling one job of a batch at the server says that this can't be, as long as it is so, and
    changes nothing."""
    server.batching.polls = 10_000
    jobs = sent(kernel, server, 3)
    eventually(lambda: {job.status for job in jobs} == {"in_progress"})
    jobs[1].cancel()
    eventually(lambda: "can't be cancelled by itself" in jobs[1].record.note_text)
    assert not jobs[1].record.cancelling
    assert server.count("batch_cancel") == 0
    server.batching.batches["batch_1"]["status"] = "finalizing"
    eventually(lambda: jobs[1].status == "finalizing")
    assert "can't be cancelled by itself" in jobs[1].record.note_text
    for job in jobs:
        job.cancel()
    eventually(lambda: jobs[0].record.cancelling and jobs[1].record.cancelling)
    assert jobs[1].record.note_text == ""


def test_a_cancelled_job_is_left_out_before_the_upload(
    kernel: JobManager, server: ScriptedServer
) -> None:
    """A job that is cancelled before its batch is sent is no line of the file."""
    let = threading.Event()
    kernel._loop.call(lambda: let.wait(60))
    jobs = sent(kernel, server, 3)
    jobs[1].cancel()
    let.set()
    eventually(lambda: all(job.done() for job in jobs))
    assert isinstance(jobs[1].error, JobCancelled)
    assert set(server.batching.asked) == {jobs[0].record.key, jobs[2].record.key}


def test_a_cancelled_job_is_left_out_until_the_create(
    kernel: JobManager, server: ScriptedServer
) -> None:
    """A job that is cancelled while the file with it is uploaded is in no batch: another file goes up."""
    let = threading.Event()
    server.enqueue("upload", Script(hold=let))
    jobs = sent(kernel, server, 3)
    eventually(lambda: server.count("upload") == 1)
    jobs[1].cancel()
    eventually(lambda: jobs[1].record.cancelling)
    let.set()
    eventually(lambda: all(job.done() for job in jobs))
    assert isinstance(jobs[1].error, JobCancelled)
    assert set(server.batching.asked) == {jobs[0].record.key, jobs[2].record.key}
    assert [server.count(kind) for kind in ("upload", "batch")] == [2, 1]


@pytest.mark.parametrize("computes", [True, False])
def test_courtesy(monkeypatch: pytest.MonkeyPatch, computes: bool) -> None:
    """The work on a batch waits long for the thread of cells where that computes, and for no other
    thread of ours."""
    asked, spins, over = list[float](), threading.Event(), threading.Event()

    async def wait(_: Courtesy, seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr(Courtesy, "_wait", wait)

    async def work() -> None:
        assert spins.wait(LIMIT)
        courtesy = Courtesy()
        spun = time.thread_time()
        while time.thread_time() < spun + 0.03:
            pass
        await courtesy.pause()

    def spin() -> None:
        spins.set()
        while not over.is_set():
            pass

    def run() -> None:
        try:
            # On a busy machine the cell may not get its tenth of the time in every look.
            for _ in range(50 if computes else 1):
                asyncio.run(work())
                if asked[-1] > 0.5:
                    break
        finally:
            over.set()

    others = [threading.Thread(target=run)]
    if not computes:
        others.append(threading.Thread(target=spin))
    for thread in others:
        thread.start()
    if computes:
        spin()
    for thread in others:
        thread.join()
    assert (asked[-1] > 0.5) == computes
    if not computes:
        # A cell that waits for the batch computes for an instant as some of its jobs end.
        used = itertools.chain([0.0], itertools.repeat(1000.0))
        monkeypatch.setattr(pacing, "cells_time", lambda: next(used))
        asyncio.run(work())
        assert (len(asked), asked[-1]) == (2, 0.0)


def test_a_batch_is_written_down_at_its_pace(
    kernel: JobManager, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done before a batch is sent gives way to a cell as its results do: as its jobs are written
    into the journal, and as its file is; not between the note that it is asked for and its create: a
    kernel that ended there would leave it unclear."""
    uploads, unclear = list[int](), list[str]()

    async def pause(_: Courtesy) -> None:
        uploads.append(server.count("upload"))
        if not server.count("batch"):
            noted = kernel.store.journal.rows("SELECT state FROM batches")
            unclear.extend(state for (state,) in noted if state == "creating")

    monkeypatch.setattr(Courtesy, "pause", pause)
    assert answers(sent(kernel, server, 60)) == echoes(60)
    assert uploads.count(0) == 60 // AT_ONCE + 1
    assert not unclear


def test_no_room_for_the_file(
    kernel: JobManager,
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without a temporary folder for its file a batch waits, says why in one line, and is sent once
    there is one."""
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    jobs = sent(kernel, server, 2)
    eventually(lambda: "can't be written to the temporary folder" in str(jobs[1].record.trouble))
    assert {job.status for job in jobs} == {"waiting"}
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert answers(jobs) == echoes(2)
    assert not caplog.records


def test_two_kernels_attach_at_once(server: ScriptedServer, tmp_path: Path) -> None:
    """Of two kernels that attach the same batch at once, one follows it and the other says so."""
    path = tmp_path / "journal.sqlite3"
    server.batching.polls = 10_000
    first = manager_of(path)
    jobs = sent(first, server, 4)
    eventually(lambda: {job.status for job in jobs} == {"in_progress"})
    first.close()
    kernels = [manager_of(path), manager_of(path)]
    try:
        found = attached_at_once(kernels, server)
        server.batching.polls = 0
        eventually(lambda: all(job.done() for job in [*found[0], *found[1]]))
        ended = [all(isinstance(job.error, Detached) for job in jobs) for jobs in found]
        # The second may have come when all was over: then it has read the answers.
        assert ended.count(True) <= 1
        assert answers(found[ended.index(False)]) == echoes(4)
        assert server.count("batch") == 1
    finally:
        for one in kernels:
            one.close(60)


# What a kernel may be doing as it is killed: the call that is under way.
KILLED_AT = ("upload", "batch", "batch_poll", "content")

CHILD = """
import sys
from pathlib import Path
from tests.batches.study import config_of, manager_of, records_of
class Server: base_url = sys.argv[1]
manager = manager_of(Path(sys.argv[2]))
jobs = manager.submit_all(records_of(Server, 8), config_of(Server))
print("sent", flush=True)
for job in jobs:
    job.result(60)
"""


@pytest.mark.parametrize("call", KILLED_AT)
def test_a_kernel_that_is_killed(server: ScriptedServer, tmp_path: Path, call: str) -> None:
    """A kernel that is killed while any call is under way: the next one that attaches has all
    answers, and no request is in two batches."""
    path, hold = tmp_path / "journal.sqlite3", threading.Event()
    server.enqueue(call, Script(hold=hold))
    code = textwrap.dedent(CHILD)
    child = subprocess.Popen([sys.executable, "-c", code, server.base_url, str(path)])
    try:
        eventually(lambda: server.count(call))
    finally:
        child.kill()
        child.wait()
    hold.set()  # what was asked takes effect after all
    kernel = manager_of(path)
    try:
        jobs = attached(kernel, server)
        assert answers(jobs) == echoes(8)
        assert set(server.batching.asked.values()) == {1}
    finally:
        kernel.close(60)


def test_one_job_attached_brings_the_others(server: ScriptedServer, tmp_path: Path) -> None:
    """A kernel that attaches one job of an unsent batch sends the whole, and writes the answers of
    the others down."""
    path = tmp_path / "journal.sqlite3"
    server.always["upload"] = Script(status=500, json=NO)
    first = manager_of(path)
    sent(first, server, 5)
    eventually(lambda: server.count("upload"))
    first.close()
    del server.always["upload"]
    kernel = manager_of(path)
    try:
        config = config_of(server)
        job = kernel.attach(entries_of(kernel)[2], server=config.server)
        assert str(job.result(LIMIT)) == "echo: q2"
        eventually(lambda: {entry.status for entry in entries_of(kernel)} == {"completed"})
        others = [kernel.attach(entry, server=config.server) for entry in entries_of(kernel)]
        assert answers(others) == echoes(5)
        # So does an export of jobs that ended where nobody had their handles.
        past = [kernel.past(entry) for entry in entries_of(kernel)]
        assert {export_line(job)["batch_id"] for job in [*others, *past]} == {"batch_1"}
        assert set(server.batching.asked.values()) == {1}
    finally:
        kernel.close(60)


STEPS = st.lists(
    st.tuples(st.sampled_from([*CALLS, "batches", "files"]), st.sampled_from(sorted(FAULTS))),
    max_size=8,
)


@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    faults=STEPS,
    ending=st.sampled_from(["completed", "expired"]),
    done=st.sampled_from([0.0, 0.4, 1.0]),
    ranges=st.booleans(),
    leaves=st.sampled_from([None, *CALLS]),
)
def test_any_course_of_things(
    tmp_path_factory: pytest.TempPathFactory,
    faults: list[tuple[str, str]],
    ending: str,
    done: float,
    ranges: bool,
    leaves: str | None,
) -> None:
    """Whatever fails, in whatever order, and whenever the kernel goes: every request is in one
    batch at most, every job ends, and the answers are those of their requests. They are unknown
    only where nobody can know whether the batch was made."""
    path = tmp_path_factory.mktemp("any") / "journal.sqlite3"
    with ScriptedServer() as server:
        batching = server.batching
        batching.ending, batching.done, batching.ranges = ending, done, ranges
        for call, fault in faults:
            server.enqueue(call, FAULTS[fault])
        kernel = manager_of(path)
        try:
            jobs = sent(kernel, server, 7)
            if leaves is not None:
                eventually(lambda: server.count(leaves) or all(job.done() for job in jobs))
                kernel.close()
                kernel = manager_of(path)
                jobs = attached(kernel, server)
            eventually(lambda: all(job.done() for job in jobs))
            kept = round(7 * done - 0.49) if ending == "expired" else int(7 * done)
            assert all(count == 1 for count in batching.asked.values())
            if not batching.batches:
                assert {call for call, fault in faults if fault in UNCLEAR} & {"batch"}
                assert {type(job.error) for job in jobs} == {JobUnknown}
                return
            assert len(batching.asked) == 7
            told = [str(job.result(0)) if job.error is None else None for job in jobs]
            assert told[:kept] == echoes(7)[:kept]
            assert set(told[kept:]) <= {None}
        finally:
            kernel.close(60)
