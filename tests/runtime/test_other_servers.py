"""What other servers were seen to do with jobs in the background, shape by shape, on the scripted server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bgmagic.api.request import Request
from bgmagic.display.listing import describe_job, snapshot
from bgmagic.display.static_html import footer_text
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import JobFailed, JobLost, JobUnknown
from bgmagic.jobs.record import Note
from bgmagic.runtime.manager import JobManager
from bgmagic.runtime.watcher import GIVE_UP_AFTER
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.journal import Journal
from bgmagic.storage.owner_lock import OwnerLock
from tests.jobs.test_job import LIMIT, SOON, eventually
from tests.support.kernels import Kernel
from tests.support.scripted import DROP, Script, ScriptedServer, response, written

Ask = Callable[..., Request]
PIECES = ["The ", "third ", "step."]
GONE = Script(status=404, json={"error": {"message": "File Not Found", "code": 404}})
BOTH = "This does not yet support 'stream' and 'background' together."


@pytest.fixture
def kept(pointed: ScriptedServer, tmp_path: Path) -> Iterator[JobManager]:
    """A manager with a journal on disk."""
    store = JobStore(Journal(tmp_path / "journal.sqlite3"), OwnerLock(tmp_path / "owners"))
    made = JobManager(store=store)
    yield made
    made.close(60)


# Streams.


def streams_asked(server: ScriptedServer) -> list[bool]:
    creates = [seen for seen in server.seen if seen.kind == "create"]
    return [seen.body.get("stream", False) for seen in creates]


@pytest.mark.parametrize(
    "refusal",
    [
        Script(status=400, json={"detail": BOTH}),
        Script(status=422, json={"detail": [{"loc": ["body", "stream"], "msg": "No."}]}),
        Script(status=501, body=b"<html>"),
    ],
    ids=["400", "422", "501"],
)
def test_a_server_that_does_not_stream(
    kept: JobManager, pointed: ScriptedServer, ask: Ask, refusal: Script
) -> None:
    """Where a server refuses to stream, the job is sent once without, follows by polls, says so on its card and below its answer, and is in the journal as it was sent."""
    go, seen = threading.Event(), list[str]()
    pointed.enqueue("create", replace(refusal, hold=go))
    job = kept.submit(ask(stream=True), poll_interval=SOON)
    job.add_listener(lambda changed: seen.append(snapshot(changed)["message"]))
    go.set()
    assert job.result(LIMIT) == "the answer"
    assert streams_asked(pointed) == [True, False]
    assert not any("stream=true" in one.path for one in pointed.seen)
    told = "sent without --stream, which this server refuses for it"
    assert told.capitalize() in seen
    assert told in footer_text(job)
    assert told in describe_job(job)
    entry = kept.store.journal.find(job.record.key)
    assert entry is not None
    assert not Request(entry.request).streams
    assert not job.request.streams


def test_what_a_server_does_not_stream_is_remembered(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A server that never streams background jobs is asked to stream once; one that won't for a model, once for that model."""
    pointed.enqueue(
        "create",
        Script(status=400, json={"error": {"message": "You may not stream this model."}}),
        *[Script()] * 3,
        Script(status=400, json={"detail": BOTH}),
    )
    for model in ("a", "a", "b", "c", "d", "a"):
        job = manager.submit(ask(stream=True, model=model), poll_interval=SOON)
        assert job.result(LIMIT) == "the answer"
    sent = zip(
        [s.body["model"] for s in pointed.seen if s.kind == "create"],
        streams_asked(pointed),
        strict=True,
    )
    assert [f"{model}{'+' if streamed else '-'}" for model, streamed in sent] == [
        *["a+", "a-", "a-", "b+", "c+", "c-", "d-", "a-"]
    ]


def test_a_refusal_after_the_refused_stream_counts(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """Without the stream it is sent once: what comes of that counts, be it unclear or a refusal; and a refusal for another reason is not tried again."""
    no_stream = Script(status=400, json={"detail": BOTH})
    no_model = Script(status=400, json={"error": {"message": "There is no such model."}})
    pointed.enqueue("create", no_model)
    failed = manager.submit(ask(stream=True)).exception(LIMIT)
    assert isinstance(failed, JobFailed)
    assert str(failed).endswith("HTTP 400: There is no such model.")
    pointed.enqueue("create", no_stream, Script(reset="after"))
    assert isinstance(manager.submit(ask(stream=True)).exception(LIMIT), JobUnknown)
    assert streams_asked(pointed) == [True, True, False]


@pytest.mark.parametrize(
    "told",
    [{"message": "The queue is full."}, {"error": {"message": "The queue is full.", "code": 5}}],
)
def test_a_stream_that_begins_with_an_error(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, told: dict[str, Any]
) -> None:
    """The error with which a stream begins is said in its words, without JSON."""
    body = f"data: {json.dumps({'type': 'error', **told})}\n\n".encode()
    pointed.enqueue("create", Script(body=body, headers={"content-type": "text/event-stream"}))
    failed = manager.submit(ask(stream=True)).exception(LIMIT)
    assert "begins with an error: The queue is full." in str(failed)
    assert "{" not in str(failed)


def unnumbered(rid: str, *extra: Any) -> list[Any]:
    """A stream whose events have no numbers."""
    whole = written(rid, PIECES, *extra, after=2)
    return [
        {key: value for key, value in one.items() if key != "sequence_number"}
        if isinstance(one, dict)
        else one
        for one in whole
    ]


def test_a_stream_of_a_server_that_keeps_nothing(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """Where every poll says 404, a stream goes on for as long as it comes, is asked for once at its end, and the response that it ended with is the answer, which says where it is from."""
    go = threading.Event()
    pointed.stream = lambda rid: unnumbered(rid, go)
    pointed.always["retrieve"] = GONE
    job = manager.submit(ask(stream=True), poll_interval=SOON)
    eventually(lambda: pointed.count("retrieve") > 7)
    eventually(lambda: job.text == "The third ")
    assert not job.done()
    go.set()
    assert job.result(LIMIT) == "The third step."
    assert (job.record.response or {})["usage"] == {"input_tokens": 3, "output_tokens": 2}
    assert Note.FROM_STREAM in footer_text(job)
    assert pointed.count("create") == 1


def test_a_kept_response_is_asked_for_at_the_streams_end(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """Where the server can be asked, what it says counts, and nothing is said of the stream; a failing poll alone does not make the stream's end the answer."""
    pointed.stream = lambda rid: written(rid, PIECES)
    polled = response("resp_1", "completed", "as polled")
    pointed.enqueue("retrieve", Script(status=500), Script(reset="before"), Script(json=polled))
    job = manager.submit(ask(stream=True), poll_interval=0.2)
    assert job.result(LIMIT) == "as polled"
    assert job.record.notes == ()


def test_a_stream_that_breaks_off_at_a_server_that_keeps_nothing(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its end a stream gives no answer: the job is lost, with what was written in its text."""
    monkeypatch.setattr("bgmagic.runtime.watcher.REOPEN_DELAY", SOON)
    pointed.stream = lambda rid: unnumbered(rid, DROP)
    told = threading.Event()
    pointed.always["retrieve"] = replace(GONE, hold=told)
    job = manager.submit(ask(stream=True), poll_interval=SOON)
    eventually(lambda: job.text == "The third ")
    told.set()
    assert isinstance(job.exception(LIMIT), JobLost)
    assert job.text == "The third "


def test_a_stream_without_a_byte(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answers 200 to a request for events, and breaks off before the first, is asked a few times, and the polls go on."""
    monkeypatch.setattr("bgmagic.runtime.watcher.REOPEN_DELAY", SOON)
    gate = threading.Event()
    pointed.polls = 10**6
    pointed.choose = lambda kind: Script(hold=gate if kind == "retrieve" else None)
    job = manager.submit(ask(stream=True), poll_interval=SOON)
    eventually(job.running)

    # The create was answered as JSON: the events are asked for by requests of their own.
    def asked() -> int:
        return sum("stream=true" in seen.path for seen in pointed.seen)

    eventually(lambda: asked() == 1)
    pointed.stream = lambda rid: [DROP] * 99
    gate.set()
    eventually(lambda: asked() == GIVE_UP_AFTER)
    pointed.polls = 0
    assert job.result(LIMIT) == "the answer"
    assert asked() == GIVE_UP_AFTER


# Creates.


def test_a_server_that_answers_when_it_is_done(in_kernel: Kernel, server: ScriptedServer) -> None:
    """A create that is not answered for a while says so; a cancel says what it does, and reaches the server as soon as there is an id."""
    gate = threading.Event()
    server.enqueue("create", Script(hold=gate))
    server.polls = 10**6
    in_kernel.ok("import bgmagic.runtime.sending as e; e.NO_ANSWER_AFTER = 0.05")
    in_kernel.ok("%%bgresponse -o x\nWhy?")
    eventually(lambda: "not answered yet" in in_kernel.value("x.record.note_text"))
    shown = in_kernel.value("x.card.view['message']")
    assert shown == "'The server has not answered yet; it may not know background mode'"
    assert in_kernel.ok("%bgcancel x").stdout == (
        "x: the server has not answered yet, so it can't be asked to cancel. The "
        "wish is kept; if no answer comes soon, the connection is closed and the job ends as unknown\n"
    )
    gate.set()
    in_kernel.ok("%bgwait x")
    assert in_kernel.value("(x.status, x.record.notes, str(x.error))") == (
        "('cancelled', (), 'it was cancelled')"
    )
    assert server.count("cancel") == 1


# Polls.


def test_a_server_that_says_queued_until_the_end(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """Once a job completed that had been called queued until then, others that are queued there say that this may be so."""
    queued = Script(json=response("resp_1", "queued"))
    pointed.enqueue("retrieve", queued, queued)
    pointed.polls = 0
    first = manager.submit(ask(), poll_interval=SOON)
    assert first.result(LIMIT) == "the answer"
    assert first.record.notes == ()
    pointed.always["retrieve"] = Script(json=response("resp_2", "queued"))
    second = manager.submit(ask("And?"), poll_interval=SOON)
    eventually(lambda: second.record.note_text == "this server may say queued while it works")
    assert snapshot(second)["message"] == "This server may say queued while it works"
    assert second.record.started_at is None
    pointed.always["retrieve"] = Script(json=response("resp_2", "in_progress"))
    eventually(lambda: second.status == "in_progress")
    assert second.record.notes == ()
    pointed.always.clear()
    assert second.result(LIMIT) == "the answer"


def test_a_cancel_that_is_only_written_down(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A cancel that the server notes while its model goes on ends the job as what the next poll says."""
    pointed.polls = 10**6
    noted: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "cancelled"}
    pointed.enqueue("cancel", Script(json=noted))
    job = manager.submit(ask(), poll_interval=50)
    eventually(job.running)
    pointed.enqueue("retrieve", Script(json=response("resp_1", "completed", "after all")))
    job.cancel()
    assert job.result(LIMIT) == "after all"


# Ids from elsewhere.


def follow(manager: JobManager, response_id: str) -> Job:
    return manager.follow(response_id, "x")


def test_an_attached_id_until_the_first_poll(manager: JobManager, pointed: ScriptedServer) -> None:
    """What is attached by its id is `attached` until the server has said a word of its own."""
    gate = threading.Event()
    pointed.responses["poll_1"] = response("poll_1", "in_progress")
    pointed.polls = 10**6
    pointed.always["retrieve"] = Script(hold=gate)
    job = follow(manager, "poll_1")
    eventually(lambda: pointed.count("retrieve") == 1)
    assert (job.status, job.response, job.record.started_at) == ("attached", None, None)
    gate.set()
    eventually(lambda: job.status == "in_progress")


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (404, {"detail": "Polling response not found or expired"}, "not found or expired"),
        (
            400,
            {"error": {"message": "There are no deployments.", "code": "400"}},
            "HTTP 400: There",
        ),
    ],
)
def test_an_attached_id_that_the_server_does_not_know(
    pointed: ScriptedServer,
    manager: JobManager,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    body: dict[str, Any],
    told: str,
) -> None:
    """An id that the server can do nothing with ends as lost, in the server's words."""
    monkeypatch.setattr("bgmagic.runtime.pacing.INTERVAL", SOON)
    pointed.always["retrieve"] = Script(status=status, json=body)
    with pytest.raises(JobLost, match=f"does not know a response of this id.*{told}"):
        follow(manager, "poll_1").result(LIMIT)
