"""The job as the user's handle: Future, awaitable, and no text."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from openai.types.responses import Response, ResponseUsage

from bgmagic.api.request import Request
from bgmagic.api.response import decompressed
from bgmagic.api.structured_output import response_format
from bgmagic.display.static_html import final_bundles
from bgmagic.errors import BgmagicError, NotReady, ServerError
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.outcome import (
    Detached,
    JobCancelled,
    JobError,
    JobFailed,
    JobIncomplete,
    NoAnswer,
)
from bgmagic.jobs.record import JobRecord
from bgmagic.runtime.manager import JobManager
from tests.support.scripted import Script, ScriptedServer, response

Ask = Callable[..., Request]
SOON = 0.02  # seconds between polls in these tests
LIMIT = 120.0  # seconds until something must have happened, on a busy machine


def eventually(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.005)


@pytest.fixture
def send(manager: JobManager, ask: Ask) -> Callable[..., Job]:
    """Submits a job that is polled often."""

    def submit(text: str = "Why?", **options: Any) -> Job:
        return manager.submit(ask(text), **{"poll_interval": SOON, "name": "critique"} | options)

    return submit


def test_errors_pickle(pointed: ScriptedServer, send: Callable[..., Job]) -> None:
    """The error of a job goes from one process to another, as pools and joblib do it: it says the same and
    has the response's id, and only the live job stays behind."""
    pointed.ending = lambda rid, body: response(rid, "failed", error={"message": "no luck"})
    job = send()
    with pytest.raises(JobFailed) as caught:
        job.result(LIMIT)
    caught.value.add_note("in cell 3")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        kept = pickle.loads(pickle.dumps(caught.value, protocol))
        assert type(kept) is JobFailed
        assert str(kept) == str(caught.value)
        assert kept.response_id == job.response_id == "resp_1"
        assert kept.__notes__ == ["in cell 3"]
        assert kept.job is None
        assert kept._render_traceback_() == caught.value._render_traceback_()


def _subclasses(kind: type[BgmagicError]) -> list[type[BgmagicError]]:
    found = kind.__subclasses__()
    return [kind, *(each for child in found for each in _subclasses(child))]


def test_every_error_pickles(send: Callable[..., Job]) -> None:
    """Whatever bgmagic raises survives a pickle with its message and what it knows."""
    job = send()
    known = {"maybe_accepted": True, "status_code": 503, "code": "busy", "retryable": True}
    for kind in _subclasses(BgmagicError):
        if issubclass(kind, JobError):
            error: BgmagicError = kind("it is gone", job)
        elif issubclass(kind, ServerError):
            error = kind("it is gone", **known)
        else:
            error = kind("it is gone")
        kept = pickle.loads(pickle.dumps(error))
        assert (type(kept), str(kept)) == (kind, "it is gone")
        if issubclass(kind, ServerError):
            assert {name: getattr(kept, name) for name in known} == known


def test_result_is_the_answer(pointed: ScriptedServer, send: Callable[..., Job]) -> None:
    """A job that completes gives its text, usage and id, and one create was sent."""
    job = send()
    answer = job.result(LIMIT)
    assert isinstance(answer, Answer)
    assert answer == job.text == "the answer"
    assert answer.job is job
    assert job.done()
    assert not job.running()
    assert not job.cancelled()
    assert (job.status, job.error, job.exception()) == ("completed", None, None)
    assert job.response_id == answer.response_id == "resp_1"
    assert job.usage is not None
    assert job.usage.to_dict() == {"input_tokens": 3, "output_tokens": 2}
    assert pointed.count("create") == 1


USES: dict[str, Callable[[Any], object]] = {
    "f-string": lambda job: f"{job}",
    "format": lambda job: f"{job:>9}",
    "plus": lambda job: "a" + job,
    "plus after": lambda job: job + "a",
    "times": lambda job: job * 2,
    "percent": lambda job: job % 2,
    "len": len,
    "iteration": list,
    "index": lambda job: job[0],
    "in": lambda job: "a" in job,
    "equals": lambda job: job == "text",
    "order": lambda job: job < "text",
    "sorted": lambda job: sorted([job, job]),
    "method": lambda job: job.upper(),
    "split": lambda job: job.split(),
}


@pytest.mark.parametrize("use", USES)
def test_pending_job_is_no_text(
    pointed: ScriptedServer, send: Callable[..., Job], use: str
) -> None:
    """Every use of a running job as text raises one line with its status and what to do."""
    pointed.polls = 10**6
    job = send()
    eventually(lambda: job.status == "in_progress")
    with pytest.raises(
        NotReady, match=r"job 'critique' is in_progress.*%bgwait critique"
    ) as caught:
        USES[use](job)
    assert "\n" not in str(caught.value)


def test_what_answers_have_is_told_of_a_pending_job(
    pointed: ScriptedServer, send: Callable[..., Job]
) -> None:
    """Every public attribute of an answer is one of its job or raises one line; others don't exist."""
    pointed.polls = 10**6
    job = send()
    answer = Answer("text", {}, job)
    public = [name for name in {*dir(answer), *vars(answer)} if not name.startswith("_")]
    assert {"conversation", "data", "upper"} <= set(public)
    for name in public:
        if not hasattr(type(job), name):
            with pytest.raises(NotReady, match=rf"is \w+ and can't (do|give) \.{name}: "):
                getattr(job, name)
    with pytest.raises(AttributeError, match=r"^a Job has no attribute 'nosuch'$"):
        job.nosuch  # type: ignore[attr-defined]  # noqa: B018


def test_pending_job_shows_its_status(pointed: ScriptedServer, send: Callable[..., Job]) -> None:
    """str, repr and %s of a running job tell name, status and id; it is true and hashable."""
    pointed.polls = 10**6
    job = send()
    eventually(lambda: job.status == "in_progress")
    for shown in (str(job), repr(job), "%s" % job):  # noqa: UP031 - the use that is tested
        assert shown.startswith("<Job critique in_progress ")
        assert shown.endswith("resp_1>")
    assert job
    assert job in {job}
    assert job != 3
    assert not hasattr(job, "upper")
    assert job.running()
    with pytest.raises(AttributeError, match="no attribute 'answr'"):
        _ = job.answr
    with pytest.raises(BgmagicError, match="can't be pickled"):
        pickle.dumps(job)


def test_failed_job_says_so_where_text_is_expected(
    pointed: ScriptedServer, send: Callable[..., Job]
) -> None:
    """Using a failed job as text raises its failure, never gives it."""
    error = {"code": "server_error", "message": "The model broke."}
    pointed.ending = lambda rid, _: response(rid, "failed", error=error)
    job = send()
    with pytest.raises(JobFailed, match=r"^server_error: The model broke\."):
        job.result(LIMIT)
    with pytest.raises(NotReady, match="there is no answer: server_error"):
        job.strip()


REFUSAL = {"type": "message", "content": [{"type": "refusal", "refusal": "I won't."}]}


@pytest.mark.parametrize(
    ("ending", "kind", "told", "text"),
    [
        (response("r", "incomplete", "half", incomplete_details={"reason": "max_output_tokens"}),
         JobIncomplete, "stopped early: max_output_tokens; the partial text is in .text", "half"),
        (response("r", "incomplete"), JobIncomplete, "gave no reason; there is no text", ""),
        (response("r", "incomplete", "half", incomplete_details={"reason": "length"}), JobIncomplete,
         "^stopped early: it reached the limit of output tokens; the partial text is in", "half"),
        (response("r", "cancelled"), JobCancelled, "^the server cancelled it$", ""),
        (response("r", "failed"), JobFailed, "the server gave no reason", ""),
        (response("r", "failed", error={"message": ["?"]}), JobFailed, r"^\?$", ""),
        (response("r", "failed", error={"code": 7}), JobFailed, "^7$", ""),
        (response("r", "failed", error="odd"), JobFailed, "^odd$", ""),
        (response("r", "failed", error={"message": "400: {'error': 'no model x'}"}), JobFailed,
         "^400: no model x$", ""),
        (response("r", "completed", ""), NoAnswer, "without any text", ""),
        (response("r", "completed", " \n"), NoAnswer, "without any text", " \n"),
        (response("r", "completed"), NoAnswer, "without any text", ""),
        (response("r", "completed", output=None), NoAnswer, "without any text", ""),
        (response("r", "completed", output=[REFUSAL]), NoAnswer, r"the model refused: I won't\.", ""),
    ],
)  # fmt: skip
def test_endings_without_an_answer(
    pointed: ScriptedServer,
    send: Callable[..., Job],
    ending: dict[str, Any],
    kind: type[Exception],
    told: str,
    text: str,
) -> None:
    """Each ending that is no answer raises its own error, and keeps what text there is."""
    pointed.ending = lambda rid, _: ending | {"id": rid}
    job = send()
    with pytest.raises(kind, match=told) as caught:
        job.result(LIMIT)
    assert job.error is caught.value
    assert caught.value.job is job
    assert job.text == text
    assert job.status == ending["status"]
    assert job.cancelled() == (ending["status"] == "cancelled")


def test_it_is_a_future(send: Callable[..., Job]) -> None:
    """concurrent.futures waits for jobs as for any future."""
    jobs = [send() for _ in range(5)]
    finished = concurrent.futures.as_completed(jobs, LIMIT)
    assert {job.result() for job in finished} == {"the answer"}
    assert concurrent.futures.wait(jobs, LIMIT).not_done == set()


def test_result_times_out_and_the_job_goes_on(
    pointed: ScriptedServer, send: Callable[..., Job]
) -> None:
    """result(timeout) raises TimeoutError and leaves the job alone."""
    pointed.polls = 10**6
    job = send()
    with pytest.raises(TimeoutError):
        job.result(0.01)
    pointed.polls = 0
    assert job.result(LIMIT) == "the answer"


def test_await_in_several_loops(pointed: ScriptedServer, send: Callable[..., Job]) -> None:
    """Jobs can be awaited in one loop after another, also one that was awaited in a loop that closed."""
    pointed.polls = 10**6
    first = send()

    async def give_up() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(first, 0.05)

    async def both() -> list[Answer]:
        return list(await asyncio.gather(first, send()))

    asyncio.run(give_up())
    assert not first.done()
    pointed.polls = 0
    assert asyncio.run(both()) == ["the answer", "the answer"]
    assert pointed.count("cancel") == 0


def test_timeout_of_a_wait_does_not_cancel(
    pointed: ScriptedServer, send: Callable[..., Job]
) -> None:
    """asyncio.wait_for that times out leaves the job running, and no one waits in it any more."""
    pointed.polls = 10**6
    job = send()

    async def main() -> Answer:
        for _ in range(3):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job, 0.01)
        assert job._awaiting is not None
        assert not job._awaiting._sleepers
        pointed.polls = 0
        return await job

    assert asyncio.run(main()) == "the answer"


def test_awaiting_a_failed_job_raises(pointed: ScriptedServer, send: Callable[..., Job]) -> None:
    """`await` raises what the job ended with; a cancelled job does not look like a cancelled task."""
    pointed.ending = lambda rid, _: response(rid, "cancelled")

    async def main() -> None:
        await send()

    with pytest.raises(JobCancelled):
        asyncio.run(main())


def test_callbacks_run_off_the_loop_thread(manager: JobManager, send: Callable[..., Job]) -> None:
    """A callback may wait for another job: it is not on the thread that polls, and is called once."""
    seen: list[Any] = []
    job = send()
    job.add_done_callback(
        lambda done: seen.append((done, manager.why_not_wait(), send().result(LIMIT)))
    )
    eventually(lambda: seen)
    assert seen == [(job, "", "the answer")]
    job.add_done_callback(seen.append)
    eventually(lambda: len(seen) == 2)


def test_callback_that_raises_harms_nobody(
    send: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    """A callback's exception is logged, and the next one is called."""
    seen = threading.Event()
    job = send()
    job.add_done_callback(lambda _: 1 / 0)
    job.add_done_callback(lambda _: seen.set())
    assert seen.wait(LIMIT)
    assert "a done callback failed" in caplog.text


def test_callback_that_exits_ends_no_other(send: Callable[..., Job]) -> None:
    """sys.exit() in a callback does not stop the callbacks of other jobs."""
    send().add_done_callback(lambda _: sys.exit(3))
    seen = threading.Event()
    send().add_done_callback(lambda _: seen.set())
    assert seen.wait(LIMIT)


def test_forked_child_has_jobs_of_its_own(pointed: ScriptedServer) -> None:
    """A child that was forked submits with a thread of its own, and leaves the parent's alone."""
    script = """if True:
        import asyncio, os, sys, bgmagic
        first = bgmagic.submit("Why?", poll=0.05)
        child = os.fork()
        if child == 0:
            print("child:", bgmagic.submit("Why?", poll=0.05).result(60), len(bgmagic.jobs()))
            for wait in first.result, lambda: asyncio.run(asyncio.wait_for(first, None)):
                try: wait()
                except bgmagic.BgmagicError as error: print("child:", str(error)[:23])
            sys.exit(first.cancel())
        assert os.waitpid(child, 0)[1] == 0
        print("parent:", first.result(60), len(bgmagic.jobs()))
    """
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60
    )
    told = ["child: the answer 1", *["child: this process was forked"] * 2, "parent: the answer 1"]
    assert sorted(ran.stdout.splitlines()) == told
    assert ran.stderr == ""


def test_waiting_on_the_loop_thread_is_refused(
    manager: JobManager, pointed: ScriptedServer, send: Callable[..., Job]
) -> None:
    """A listener that waits for a job gets an error instead of stopping every poll for ever."""
    go, caught = threading.Event(), list[Exception]()
    pointed.enqueue("create", Script(hold=go))
    job = send()

    def wait(changed: Job) -> None:
        if not changed.done():
            try:
                changed.result(1)
            except BgmagicError as error:
                caught.append(error)

    job.add_listener(wait)
    go.set()
    job.result(LIMIT)
    assert "would never end" in str(caught[0])


def test_broken_display_harms_nobody(
    pointed: ScriptedServer, send: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    """A listener that raises is logged and the job goes on."""
    go = threading.Event()
    pointed.enqueue("create", Script(hold=go))
    job = send()
    job.add_listener(lambda _: 1 / 0)
    go.set()
    assert job.result(LIMIT) == "the answer"
    assert "display" in caplog.text


def test_detached_job(pointed: ScriptedServer, send: Callable[..., Job]) -> None:
    """At the deadline a job is detached: waiting raises, the server's status stays on record."""
    pointed.polls = 10**6
    pointed.responses["resp_1"] = response("resp_1", "in_progress")
    pointed.enqueue("create", Script(json=pointed.responses["resp_1"]))
    job = send(deadline=0.2)
    with pytest.raises(Detached, match=r"still in_progress .* the server goes on with resp_1"):
        job.result(LIMIT)
    assert (job.status, job.record.status) == ("detached", "in_progress")
    assert not job.cancelled()


def test_error_is_one_line_in_a_notebook(pointed: ScriptedServer, send: Callable[..., Job]) -> None:
    """IPython shows our errors as one line instead of a traceback."""
    pointed.enqueue("create", Script(status=400, json={"error": {"message": "No."}}))
    job = send()
    error = job.exception(LIMIT)
    assert isinstance(error, BgmagicError)
    assert error._render_traceback_() == ["JobFailed: not accepted by the server: HTTP 400: No."]


def test_record_changes_only_in_what_it_has() -> None:
    """A changed record is a new one, equal in all else; a name it does not have is an error."""
    old = JobRecord(request=Request("{}"), server="x", submitted_at=1.0, key="k")
    new = old.with_changes(status="queued", checked_at=2.0)
    assert new == replace(old, status="queued", checked_at=2.0)
    assert (old.status, old.checked_at) == ("waiting", None)
    with pytest.raises(TypeError, match="no stauts"):
        old.with_changes(stauts="queued")


def test_no_time_is_negative(pointed: ScriptedServer, send: Callable[..., Job]) -> None:
    """A clock that is set back while a job runs makes no time less than nothing, wherever it is told."""
    from bgmagic.display.listing import describe_job, table_row
    from bgmagic.display.static_html import footer_text
    from bgmagic.jobs.export import seconds_of, server_seconds

    job = send()
    job.result(LIMIT)
    record = job.record
    earlier = replace(record, submitted_at=record.submitted_at + 8 * 3600, accepted_at=8e10)
    job.record = earlier
    assert (job.elapsed, seconds_of(job), server_seconds(job)) == (0.0, 0.0, 0.0)
    for told in (repr(job), describe_job(job), footer_text(job), " ".join(table_row(job).cells)):
        assert "0 s" in told
        assert not re.search(r"-\d+ s", told)


def ended(pointed: ScriptedServer, *output: dict[str, Any], **fields: Any) -> None:
    """Have the server end its responses with this output."""
    pointed.ending = lambda rid, _: response(rid, "completed", **fields) | {"output": list(output)}


REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "content": []}
PART = {"type": "output_text", "annotations": [], "logprobs": []}


def said(text: str, phase: str) -> dict[str, Any]:
    content = [{**PART, "text": text}]
    return {"type": "message", "id": "m", "role": "assistant", "phase": phase, "content": content}


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ([REASONING], "completed, but only with reasoning and without any text: the model stopped"),
        ([said("Wait.", "commentary")], "completed, but with commentary only and no final answer"),
        ([], "completed, but without any text$"),
        (
            [{"type": "mcp_call"}, REASONING],
            r"without any text; \.response has its output: mcp_call",
        ),
    ],
)
def test_what_came_instead_of_text_is_told(
    pointed: ScriptedServer, send: Callable[..., Job], output: list[Any], told: str
) -> None:
    """A response without an answer says what came in its place, and leaves the job in the variable."""
    ended(pointed, *output)
    job = send()
    with pytest.raises(NoAnswer, match=told):
        job.result(LIMIT)
    assert job.text == ""


def test_commentary_can_be_read_without_an_answer(
    pointed: ScriptedServer, send: Callable[..., Job]
) -> None:
    """Commentary that no answer follows is in the job, and shown in its place."""
    ended(pointed, said("Let me see.", "commentary"))
    job = send()
    assert isinstance(job.exception(LIMIT), NoAnswer)
    assert job.commentary == "Let me see."
    assert "Let me see." in final_bundles(job)["answer"]["text/html"]


def test_data_come_from_the_final_answer(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """With a schema the final answer alone is read, whatever commentary comes before it."""
    ended(pointed, said("Checking.", "commentary"), said('{"a": 3}', "final_answer"))
    job = manager.submit(ask(text_format=response_format(SCHEMA)), poll_interval=SOON)
    answer = job.result(LIMIT)
    assert (answer.data, str(answer), answer.commentary) == ({"a": 3}, '{"a": 3}', "Checking.")
    assert job.commentary == "Checking."


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def test_response_and_usage_are_the_sdks(pointed: ScriptedServer, send: Callable[..., Job]) -> None:
    """A job's response and usage are the SDK's own objects; the record keeps plain JSON."""
    job = send()
    job.result(LIMIT)
    assert type(job.response) is Response
    assert (job.response.output_text, job.response.id) == ("the answer", "resp_1")
    assert type(job.usage) is ResponseUsage
    assert job.usage.output_tokens == 2
    assert (
        job.response.to_dict() == pointed.responses["resp_1"] == decompressed(job.record.response)
    )
    assert job.result().response == job.response
