"""Carrying jobs over real connections: accepted once, ended once, delivered in order."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgmagic.api.request import Request
from bgmagic.api.server import ServerConfig
from bgmagic.errors import BadInput
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.outcome import (
    Detached,
    JobCancelled,
    JobFailed,
    JobIncomplete,
    JobLost,
    JobUnknown,
    forgotten,
)
from bgmagic.jobs.record import JobRecord
from bgmagic.notebook.shell import NamespaceVariables
from bgmagic.runtime.manager import JobManager
from bgmagic.runtime.pacing import PollSchedule, RunConfig
from bgmagic.runtime.runner import JobRunner
from bgmagic.runtime.watcher import ResponseWatcher
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.journal import Journal
from bgmagic.storage.owner_lock import OwnerLock
from tests.conftest import KEY
from tests.jobs.test_answer import hostile, json_values
from tests.jobs.test_job import LIMIT, SOON, eventually
from tests.support.scripted import Script, ScriptedServer, response

Ask = Callable[..., Request]
told = {"error": {"message": "no", "type": "x"}}

# What can happen to a create, and whether the server may have accepted it.
CREATES: dict[str, tuple[Script, bool | None]] = {
    "accepted": (Script(), True),
    "400": (Script(status=400, json=told), False),
    "401": (Script(status=401, json=told), False),
    "429": (Script(status=429, json=told, headers={"retry-after-ms": "5"}), True),
    "quota": (Script(status=429, json={"error": {"code": "insufficient_quota"}}), False),
    "500": (Script(status=500, json=told), None),
    "503 html": (Script(status=503, body=b"<html>"), None),
    "reset before": (Script(reset="before"), None),
    "reset after": (Script(reset="after"), None),
    "truncated": (Script(truncate=5), None),
    "html": (Script(body=b"<html>"), None),
    "no id": (Script(json={"object": "response", "status": "queued"}), None),
    "dots for an id": (Script(json={"id": "..", "object": "response", "status": "queued"}), None),
    "odd id": (Script(json={"id": 7, "status": "queued"}), None),
}
FAULTS = [
    Script(status=404, json=told),
    Script(status=401, json=told),
    Script(status=429, json=told, headers={"retry-after-ms": "5"}),
    Script(status=500, json=told),
    Script(status=502, body=b"<html>"),
    Script(reset="before"),
    Script(truncate=7),
    Script(body=b"nonsense"),
    Script(json=[]),
    Script(json=None, body=b"null"),
]
statuses = (
    st.sampled_from(["queued", "in_progress", "dreaming", "unknown", "", None, 3]) | json_values
)
terminal = ("completed", "failed", "incomplete", "cancelled")
odd_replies = hostile.flatmap(
    lambda base: st.builds(
        lambda status, extra: Script(json=base | extra | {"status": status}),
        statuses.filter(lambda word: word not in terminal),
        st.fixed_dictionaries({}, optional={"error": json_values, "usage": json_values}),
    )
)
endings = st.builds(
    lambda base, status, extra: base | extra | {"status": status},
    hostile | st.just(response("r", "completed", "fine")),
    st.sampled_from(terminal),
    st.fixed_dictionaries(
        {}, optional={"error": json_values, "incomplete_details": json_values, "usage": json_values}
    ),
)


@pytest.mark.parametrize("begun", [False, True])
def test_an_interrupted_cell_leaves_no_job_waiting(
    manager: JobManager,
    pointed: ScriptedServer,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    begun: bool,
) -> None:
    """A cell that is interrupted as it sends leaves a job that is sent, or one that has ended and says
    that it was not; the variable has it, and running it again sends it."""
    names: dict[str, object] = {}
    begin = manager._loop.begin

    def interrupted(running: Any) -> None:
        if begun:
            begin(running)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(manager._loop, "begin", interrupted)
        with pytest.raises(KeyboardInterrupt):
            manager.submit(ask(), variable=NamespaceVariables(names, ["x"]), poll_interval=SOON)
    (job,) = manager.jobs()
    if begun:
        assert job.result(LIMIT) == "the answer"
    else:
        assert names["x"] is job
        assert str(job.exception(0)) == "not sent: the cell was interrupted"
        assert job.resend().result(LIMIT) == "the answer"
    assert pointed.count("create") == 1


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    create=st.sampled_from(sorted(CREATES)) | st.just("accepted"),
    replies=st.lists(st.sampled_from(FAULTS) | odd_replies, max_size=6),
    ending=endings,
)
def test_any_course_of_things(
    manager: JobManager,
    pointed: ScriptedServer,
    ask: Ask,
    create: str,
    replies: list[Script],
    ending: dict[str, Any],
) -> None:
    """Whatever the server does: one POST a job (two after a refusal that passes), it ends, and only
    an answer gets into its variable."""
    script, accepted = CREATES[create]
    before = pointed.count("create")
    pointed.scripts["retrieve"].clear()
    pointed.enqueue("create", script)
    pointed.enqueue("retrieve", *replies)
    pointed.polls, pointed.ending = 0, lambda rid, _: ending | {"id": rid}
    namespace: dict[str, Any] = {"other": 1}
    job = manager.submit(
        ask(),
        name="x",
        variable=NamespaceVariables(namespace, ["x"]),
        poll_interval=SOON,
    )
    failure = job.exception(LIMIT)
    posts = 2 if create == "429" else 1
    assert pointed.count("create") == before + posts
    assert namespace["other"] == 1
    if accepted is True:
        assert job.status == ending["status"]
        assert job.response_id is not None
    else:
        assert job.status == ("failed" if accepted is False else "unknown")
    if failure is None:
        assert namespace["x"] is job.result()
        assert isinstance(namespace["x"], Answer)
        assert namespace["x"].strip()
        assert job.status == "completed"
    else:
        assert namespace["x"] is job
        assert "\n" not in repr(type(failure)(str(failure), job))


def test_delivery_order(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """At the end the variable is bound first, then whoever waits is woken, then displays are told."""
    order: list[str] = []

    class Variable:
        def assign(self, job: Job) -> None:
            order.append("hold")

        def replace(self, job: Job, answer: Answer) -> None:
            order.append(f"variable, done={job.done()}")

    go = threading.Event()
    pointed.enqueue("create", Script(hold=go))
    job = manager.submit(ask(), variable=Variable(), poll_interval=SOON)
    job.add_listener(lambda told: order.append("display") if told.done() else None)
    go.set()
    job.result(LIMIT)
    eventually(lambda: "display" in order)
    assert order == ["hold", "variable, done=False", "display"]


def test_variable_given_to_something_else_stays(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A name that was rebound, deleted or given to a newer job is not touched by the older one."""
    pointed.polls = 10**6
    namespace: dict[str, Any] = {}

    def submit(name: str) -> Job:
        return manager.submit(
            ask(), name=name, variable=NamespaceVariables(namespace, [name]), poll_interval=SOON
        )

    rebound, deleted, older = submit("rebound"), submit("deleted"), submit("newer")
    newer = submit("newer")
    namespace["rebound"] = "mine"
    del namespace["deleted"]
    pointed.polls = 0
    for job in (rebound, deleted, older, newer):
        job.result(LIMIT)
    assert namespace["rebound"] == "mine"
    assert "deleted" not in namespace
    assert namespace["newer"].job is newer


def test_the_answer_to_another_create_is_not_taken(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A create that gets the response of a job of before, since something on the way has answered that
    one's twice, may have been accepted: it is not told the other's answer, and not sent again."""
    first = manager.submit(ask("One?"), poll_interval=SOON)
    assert first.result(LIMIT) == "the answer"
    pointed.enqueue("create", Script(json=response(str(first.response_id), "queued")))
    second, third = (manager.submit(ask("Two?"), poll_interval=SOON) for _ in range(2))
    ended = [(job.exception(LIMIT), job.status) for job in (second, third)]
    (unclear,) = [error for error, status in ended if status == "unknown"]
    assert isinstance(unclear, JobUnknown)
    assert "the response of another job" in str(unclear)
    assert sorted(status for _, status in ended) == ["completed", "unknown"]
    assert pointed.count("create") == 3
    # What answers the same request the same, as a cache does, is still taken.
    pointed.enqueue("create", Script(json=response(str(first.response_id), "queued")))
    assert manager.submit(ask("One?"), poll_interval=SOON).result(LIMIT) == "the answer"


@pytest.mark.parametrize("differs", ["created_at", "text", "request"])
def test_an_id_that_comes_again_is_no_copy_by_itself(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, differs: str
) -> None:
    """Ollama draws ids from a million, caches give the same request the same answer, and stand-ins
    call each response alike: what was made at another time, says something else, or was asked the
    same is taken."""
    for at in range(2):
        text = f"answer {at}" if differs == "text" else "an answer"
        fields = {"created_at": at if differs == "created_at" else 0}
        pointed.enqueue("create", Script(json=response("resp_1", "completed", text, **fields)))
        question = "Why?" if differs == "request" else f"Question {at}?"
        assert manager.submit(ask(question), poll_interval=SOON).result(LIMIT) == text


def test_unclear_create_is_never_sent_again(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A create whose connection dropped ends as unknown, says why, and is not repeated."""
    pointed.enqueue("create", Script(reset="after"))
    job = manager.submit(ask(), poll_interval=SOON)
    with pytest.raises(JobUnknown, match=r"unclear whether the server accepted .* not sent again"):
        job.result(LIMIT)
    assert pointed.count("create") == 1


def test_refused_create_tells_the_servers_words(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A refused create ends as failed, with what the server said."""
    pointed.enqueue("create", Script(status=400, json={"error": {"message": "No model x."}}))
    with pytest.raises(JobFailed, match=r"not accepted by the server: HTTP 400: No model x\."):
        manager.submit(ask(), poll_interval=SOON).result(LIMIT)


def test_response_that_is_finished_at_once(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A server that answers the create with the finished response is not polled."""
    pointed.enqueue("create", Script(json=response("resp_now", "completed", "quick")))
    assert manager.submit(ask()).result(LIMIT) == "quick"
    assert pointed.count("retrieve") == 0


def test_lean_create(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """A create that answers with nothing but an id is followed; no status is made up for it."""
    pointed.responses["lean"] = response("lean", "in_progress")
    gate = threading.Event()
    pointed.enqueue("create", Script(json={"id": "lean"}))
    pointed.enqueue("retrieve", Script(hold=gate))
    job = manager.submit(ask(), poll_interval=SOON)
    eventually(lambda: job.response_id == "lean")
    assert job.status == "submitting"
    gate.set()
    assert job.result(LIMIT) == "the answer"


def test_cancel(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """cancel() asks the server once; the job ends as the server says."""
    pointed.polls = 10**6
    job = manager.submit(ask(), poll_interval=SOON)
    eventually(job.running)
    assert job.cancel()
    assert job.cancel()
    with pytest.raises(JobCancelled):
        job.result(LIMIT)
    assert pointed.count("cancel") == 1
    assert not job.cancel()


def test_cancel_before_the_server_has_answered(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A cancel while the create is under way leaves it alone, and is sent once the id is known."""
    gate = threading.Event()
    pointed.polls = 10**6
    pointed.enqueue("create", Script(hold=gate))
    job = manager.submit(ask(), poll_interval=SOON)
    eventually(lambda: pointed.count("create"))
    assert job.cancel()
    eventually(lambda: job.record.cancelling)
    gate.set()
    with pytest.raises(JobCancelled):
        job.result(LIMIT)
    assert (pointed.count("create"), pointed.count("cancel")) == (1, 1)


def test_cancel_that_comes_too_late(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """A job that completes although it was to be cancelled gives its answer."""
    pointed.polls = 10**6
    job = manager.submit(ask(), poll_interval=50)
    eventually(job.running)
    pointed.polls = 0
    pointed.enqueue("cancel", Script(status=400, json=told))
    job.cancel()
    assert job.result(LIMIT) == "the answer"


def test_cancelled_that_turns_completed(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """After a cancel the status is polled once more, and what that says counts."""
    pointed.polls = 10**6
    job = manager.submit(ask(), poll_interval=50)
    eventually(job.running)
    pointed.enqueue("retrieve", Script(json=response("resp_1", "completed", "after all")))
    job.cancel()
    assert job.result(LIMIT) == "after all"


@pytest.mark.parametrize("fault", [Script(reset="before"), Script(status=500, json=told)])
def test_cancel_is_repeated_until_heard(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, fault: Script
) -> None:
    """A cancel that did not get through is sent again: repeating it changes nothing."""
    pointed.polls = 10**6
    pointed.enqueue("cancel", fault)
    job = manager.submit(ask(), poll_interval=SOON)
    eventually(job.running)
    job.cancel()
    with pytest.raises(JobCancelled):
        job.result(LIMIT)
    assert pointed.count("cancel") == 2


def test_refused_cancel_can_be_tried_again(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A cancel that the server refuses is not taken for done: the user can cancel again."""
    pointed.polls = 10**6
    pointed.enqueue("cancel", Script(status=400, json=told), *[not_found()] * 2)
    job = manager.submit(ask(), poll_interval=SOON)
    eventually(job.running)
    for sent in (1, 3):
        job.cancel()
        eventually(lambda: pointed.count("cancel") == sent)  # noqa: B023 - called in this round
        eventually(lambda: not job.record.cancelling)
        assert not job.done()
    job.cancel()
    with pytest.raises(JobCancelled):
        job.result(LIMIT)


def not_found(rid: str = "resp_1") -> Script:
    message = f"Response with id '{rid}' not found."
    return Script(status=404, json={"error": {"message": message, "type": "invalid_request_error"}})


def test_some_404s_are_tolerated(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """A few 404s in a row do not end a job that the server has after all."""
    pointed.enqueue("retrieve", *[not_found()] * 4, Script(), *[not_found()] * 4)
    pointed.polls = 2
    assert manager.submit(ask(), poll_interval=SOON).result(LIMIT) == "the answer"


def test_lasting_404_is_lost(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """A response that the server no longer knows ends as lost, with what may be the cause of that."""
    pointed.always["retrieve"] = not_found()
    job = manager.submit(ask(), poll_interval=SOON)
    with pytest.raises(JobLost, match=r"no longer knows.*in memory.*restarts"):
        job.result(LIMIT)
    assert (job.status, job.response_id) == ("lost", "resp_1")
    assert pointed.count("retrieve") == 5


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://api.openai.com/v1", "30 days.*10 minutes"),
        ("https://eu.api.openai.com/v1", "30 days"),
        ("https://api.openai.com.example.org/v1", "in memory"),
        ("bgmagic.local", "in memory"),
    ],
)
def test_only_openai_keeps_for_30_days(url: str, told: str) -> None:
    """What is said of a response that a server forgot is true of that server."""
    assert re.search(told, forgotten(url))


@pytest.mark.parametrize(
    "message",
    ["Response 'resp_1' not found. Use 'client.list()'.", "Polling response not found or expired"],
)
def test_a_server_that_says_detail_forgets_too(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, message: str
) -> None:
    """A 404 in FastAPI's form that names the response makes the job lost; one that says there is no such route does not."""
    route = Script(status=404, json={"detail": "Not Found"})
    pointed.enqueue("retrieve", *[route] * 9)
    assert manager.submit(ask(), poll_interval=SOON).result(LIMIT) == "the answer"
    pointed.always["retrieve"] = Script(status=404, json={"detail": message})
    with pytest.raises(JobLost, match="in memory"):
        manager.submit(ask(), poll_interval=SOON).result(LIMIT)


def test_cancel_of_what_has_ended(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """A server that refuses to cancel what has ended, with 409, has its status polled, and the refusal is told in words."""
    pointed.polls = 10**6
    refusal = {"detail": "Cannot cancel response 'resp_1' with status 'incomplete'"}
    pointed.enqueue("cancel", Script(status=409, json=refusal))
    troubles: list[str | None] = []
    job = manager.submit(ask(), poll_interval=50)
    job.add_listener(lambda changed: troubles.append(changed.record.trouble))
    eventually(job.running)
    ended = response("resp_1", "incomplete", "half", incomplete_details={"reason": "length"})
    pointed.enqueue("retrieve", Script(json=ended))
    job.cancel()
    assert isinstance(job.exception(LIMIT), JobIncomplete)
    assert f"the cancel failed: HTTP 409: {refusal['detail']}" in troubles


def test_a_proxys_404_is_not_the_servers(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A 404 page that is not in the API's words never makes a job lost."""
    page = Script(status=404, body=b"<html>Portal</html>", headers={"content-type": "text/html"})
    pointed.enqueue("retrieve", *[page] * 9)
    assert manager.submit(ask(), poll_interval=SOON).result(LIMIT) == "the answer"


def test_refused_create_that_passes_is_sent_again(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A 429 is certainly not accepted: the job waits, says so, and is sent again."""
    go, gate = threading.Event(), threading.Event()
    slow_down = {"error": {"message": "Slow down.", "type": "requests"}}
    pointed.enqueue(
        "create",
        Script(status=429, json=slow_down, headers={"retry-after-ms": "50"}, hold=go),
        Script(hold=gate),
    )
    seen: list[tuple[str, str | None]] = []
    job = manager.submit(ask(), poll_interval=SOON)
    job.add_listener(lambda changed: seen.append((changed.status, changed.record.trouble)))
    go.set()
    eventually(lambda: pointed.count("create") == 2)
    assert ("waiting", "not sent yet: HTTP 429: Slow down.") in seen
    gate.set()
    assert job.result(LIMIT) == "the answer"


def test_a_full_flex_tier_is_waited_for(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """Flex's 429 is no end: the job waits, says that the tier has no room, and is sent again."""
    full = {"error": {"message": "Resource unavailable.", "code": "resource_unavailable"}}
    go, soon = threading.Event(), {"retry-after-ms": "20"}
    pointed.enqueue("create", Script(status=429, json=full, headers=soon, hold=go))
    seen: list[tuple[str, str | None]] = []
    job = manager.submit(ask(tier="flex"), poll_interval=SOON)
    job.add_listener(lambda changed: seen.append((changed.status, changed.record.trouble)))
    go.set()
    assert job.result(LIMIT) == "the answer"
    words = (
        "the flex tier has no room now; it waits and is sent again: HTTP 429: Resource unavailable."
    )
    assert ("waiting", words) in seen
    sent = [one.body for one in pointed.seen if one.kind == "create"]
    assert [body["service_tier"] for body in sent] == ["flex", "flex"]


def test_no_connection_yet(manager: JobManager, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not listen yet gets the job when it does; until then the job says so."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
    monkeypatch.setattr("bgmagic.runtime.runner.PollSchedule", lambda *_: PollSchedule(SOON))
    job = manager.submit(ask(), poll_interval=SOON)
    eventually(lambda: (job.record.trouble or "").startswith("not sent yet: no answer from"))
    assert job.record.status in ("waiting", "submitting")
    with ScriptedServer(port) as late:
        assert job.result(LIMIT) == "the answer"
        assert late.count("create") == 1


def test_never_sent(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """At the deadline a job that was always refused ends as failed: never sent."""
    pointed.always["create"] = Script(status=429, json=told, headers={"retry-after-ms": "20"})
    job = manager.submit(ask(), poll_interval=SOON, deadline=0.3)
    with pytest.raises(JobFailed, match="never sent: HTTP 429"):
        job.result(LIMIT)


def test_cancel_of_a_job_that_waits_to_be_sent(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """Cancelling a job that was not accepted yet ends it here, and nothing more is sent."""
    pointed.always["create"] = Script(status=429, json=told, headers={"retry-after": "60"})
    job = manager.submit(ask(), poll_interval=SOON)
    eventually(lambda: job.status == "waiting" and job.record.trouble)
    job.cancel()
    with pytest.raises(JobCancelled, match="before it was sent"):
        job.result(LIMIT)
    assert (pointed.count("create"), pointed.count("cancel")) == (1, 0)


def test_resend(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """resend() sends the same request as a new job, which takes only the names that hold the old."""
    pointed.enqueue("create", Script(reset="after"))
    namespace: dict[str, Any] = {}
    variable = NamespaceVariables(namespace, ["x", "y"])
    old = manager.submit(ask(), name="x", variable=variable, poll_interval=SOON)
    with pytest.raises(JobUnknown):
        old.result(LIMIT)
    namespace["y"] = "mine"
    new = old.resend()
    assert new is not old
    assert new.result(LIMIT) == "the answer"
    assert old.status == "unknown"
    assert namespace == {"x": "the answer", "y": "mine"}
    bodies = [seen.body for seen in pointed.seen if seen.kind == "create"]
    assert bodies[0] == bodies[1]


def test_running_job_is_not_resent(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """resend() of a job that has not ended is refused."""
    pointed.polls = 10**6
    job = manager.submit(ask(), poll_interval=SOON)
    with pytest.raises(BadInput, match="has not ended"):
        job.resend()


def set_by_the_end(monkeypatch: pytest.MonkeyPatch, event: threading.Event) -> None:
    """Have ``event`` set once a manager has begun to end, which then waits for as long as it takes."""
    close = JobRunner.close
    monkeypatch.setattr(JobRunner, "close", lambda runner: (close(runner), event.set()))
    for grace in ("CREATE_GRACE", "SCRIPT_GRACE"):
        monkeypatch.setattr(f"bgmagic.runtime.manager.{grace}", LIMIT)


def test_shutdown_waits_for_the_id(
    pointed: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create under way at the end gets a moment to bring its id home."""
    gate = threading.Event()
    pointed.enqueue("create", Script(hold=gate))
    manager = JobManager()
    job = manager.submit(ask(), poll_interval=SOON)
    eventually(lambda: pointed.count("create"))
    set_by_the_end(monkeypatch, gate)
    assert manager.close(60)
    assert (job.status, job.response_id) == ("detached", "resp_1")


def test_trouble_shows_and_goes(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """A failing poll is told on the job while it lasts, in the server's words."""
    go, refusal = threading.Event(), {"error": {"message": "Bad key."}}
    pointed.enqueue("retrieve", Script(status=401, json=refusal, hold=go))
    seen: list[str | None] = []
    job = manager.submit(ask(), poll_interval=SOON)
    job.add_listener(lambda changed: seen.append(changed.record.trouble))
    go.set()
    job.result(LIMIT)
    assert "the key is refused, the job goes on: HTTP 401: Bad key." in seen
    assert job.record.trouble is None


def test_refused_key_says_how_a_new_one_counts(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A job with a variable says what to type once there is a new key; one without a chosen name by
    its id."""
    pointed.polls = 10**6
    pointed.always["retrieve"] = Script(status=401, json={"error": {"message": "Bad key."}})
    chosen = manager.submit(ask("One?"), name="x", poll_interval=SOON)
    numbered = manager.submit(ask("Two?"), name="_bg3", named=False, poll_interval=SOON)
    eventually(lambda: chosen.record.trouble and numbered.record.trouble)
    told = "; once a new one is set, %bgattach {} follows it with that"
    assert str(chosen.record.trouble).endswith(told.format("x"))
    assert str(numbered.record.trouble).endswith(told.format(numbered.response_id))


NEW_KEY = "sk-fresh-0123456789"


def _keys(server: ScriptedServer, kind: str) -> list[str]:
    return [seen.headers["authorization"][7:] for seen in server.seen if seen.kind == kind]


def test_attach_follows_with_a_new_key(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that this kernel still polls with its old key is polled with the new one after an attach,
    by the same handle; not before, and not where another server is configured. What the server says
    of the old key meanwhile does not show it."""
    pointed.polls = 10**6
    job = manager.submit(ask(), name="x", poll_interval=SOON)
    eventually(lambda: pointed.count("retrieve"))
    entry = manager.store.journal.find(job.record.key)
    assert entry is not None
    monkeypatch.setenv("OPENAI_API_KEY", NEW_KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert manager.attach(entry) is job
    monkeypatch.setenv("OPENAI_BASE_URL", pointed.base_url)
    before = pointed.count("retrieve")
    eventually(lambda: pointed.count("retrieve") > before + 2)
    assert set(_keys(pointed, "retrieve")) == {KEY}
    go, asked, told = threading.Event(), threading.Event(), list[str | None]()
    monkeypatch.setattr(go, "is_set", lambda: asked.set() or threading.Event.is_set(go))
    refusal = {"error": {"message": f"Bad key {KEY}."}}
    pointed.enqueue("retrieve", Script(status=401, json=refusal, hold=go))
    assert asked.wait(LIMIT)
    job.add_listener(lambda changed: told.append(changed.record.trouble))
    assert manager.attach(entry) is job
    manager._loop.run(asyncio.sleep(0)).result(LIMIT)
    go.set()
    eventually(lambda: _keys(pointed, "retrieve")[-1] == NEW_KEY)
    pointed.polls = 0
    assert job.result(LIMIT) == "the answer"
    assert _keys(pointed, "retrieve")[-1] == NEW_KEY
    assert _keys(pointed, "create") == [KEY]
    assert KEY not in str(told)


def test_followed_with_another_key_it_is_not_lost(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response that a new key does not see is not called lost: the old one had sent it."""
    monkeypatch.setattr("bgmagic.runtime.watcher.LOST_AFTER", 2)
    pointed.polls = 10**6
    job = manager.submit(ask(), name="x", poll_interval=SOON)
    eventually(lambda: pointed.count("retrieve"))
    entry = manager.store.journal.find(job.record.key)
    assert entry is not None
    pointed.always["retrieve"] = Script(status=404, json={"error": {"message": "Not found."}})
    monkeypatch.setenv("OPENAI_API_KEY", NEW_KEY)
    manager.attach(entry)
    with pytest.raises(Detached, match="it is not visible with this key"):
        job.result(LIMIT)


def test_resend_takes_the_key_of_today(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was refused for its key is sent again with the key that is set by then, and stays with its
    server where another one is configured or there is no key."""
    pointed.enqueue("create", *[Script(status=401, json={"error": {"message": "Bad key."}})] * 3)
    job = manager.submit(ask(), poll_interval=SOON)
    with pytest.raises(JobFailed):
        job.result(LIMIT)
    with ScriptedServer() as other:
        monkeypatch.setenv("OPENAI_API_KEY", NEW_KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", other.base_url)
        with pytest.raises(JobFailed):
            job.resend().result(LIMIT)
        assert other.seen == []
    monkeypatch.setenv("OPENAI_BASE_URL", pointed.base_url)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(JobFailed):
        job.resend().result(LIMIT)
    monkeypatch.setenv("OPENAI_API_KEY", NEW_KEY)
    assert job.resend().result(LIMIT) == "the answer"
    assert _keys(pointed, "create") == [KEY, KEY, KEY, NEW_KEY]


def test_job_stays_with_its_server(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is polled where and as whom it was accepted, whatever is configured later."""
    pointed.polls = 8
    with ScriptedServer() as other:
        first = manager.submit(ask(), poll_interval=SOON)
        monkeypatch.setenv("OPENAI_BASE_URL", other.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-another-987654")
        second = manager.submit(ask(), poll_interval=SOON)
        assert first.result(LIMIT) == second.result(LIMIT) == "the answer"
        assert {seen.headers["authorization"] for seen in pointed.seen} == {f"Bearer {KEY}"}
        assert {seen.headers["authorization"] for seen in other.seen} == {
            "Bearer sk-another-987654"
        }
        assert (pointed.count("create"), other.count("create")) == (1, 1)


def test_no_key_is_told_before_anything_is_done(
    manager: JobManager, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key submitting raises, no job is made, and a key put there later works."""
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(BadInput, match="OPENAI_API_KEY"):
        manager.submit(ask())
    assert manager.jobs() == []
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert manager.submit(ask(), poll_interval=SOON).result(LIMIT) == "the answer"


def test_submitting_never_waits(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """submit() returns while the server has not even accepted the connection's request."""
    gate = threading.Event()
    pointed.always["create"] = Script(hold=gate)
    jobs = [manager.submit(ask(), poll_interval=SOON) for _ in range(20)]
    assert not any(job.done() for job in jobs)
    gate.set()
    assert {job.result(LIMIT) for job in jobs} == {"the answer"}
    assert pointed.count("create") == 20


def test_one_thread_for_many_jobs(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """A hundred jobs at once are followed by one thread, each is sent once and each ends."""
    pointed.polls = 10**6
    jobs = [manager.submit(ask(), poll_interval=0.2) for _ in range(100)]
    eventually(lambda: sum(job.running() for job in jobs) > 50)
    ours = [thread.name for thread in threading.enumerate() if thread.name == "bgmagic"]
    assert len(ours) == 1
    pointed.polls = 0
    assert {job.result(LIMIT) for job in jobs} == {"the answer"}
    assert pointed.count("create") == 100


def test_close_detaches(pointed: ScriptedServer, ask: Ask) -> None:
    """Closing ends the thread, cancels nothing at the server, and tells those who wait."""
    pointed.polls = 10**6
    gate = threading.Event()
    manager = JobManager()
    running = manager.submit(ask(), poll_interval=SOON)
    eventually(running.running)
    pointed.enqueue("create", Script(hold=gate))
    under_way = manager.submit(ask(), poll_interval=SOON)
    eventually(lambda: pointed.count("create") == 2)
    assert manager.close(60)
    gate.set()
    assert running.status == "detached"
    assert under_way.status == "unknown"
    assert "while it was being sent" in str(under_way.error)
    assert pointed.count("cancel") == 0


def test_deadline_is_from_acceptance(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """The time a create takes is not taken off the deadline."""
    gate = threading.Event()
    pointed.enqueue("create", Script(hold=gate))
    job = manager.submit(ask(), poll_interval=SOON, deadline=1.5)
    end = time.monotonic() + 1.7
    eventually(lambda: time.monotonic() > end)
    gate.set()
    assert job.result(LIMIT) == "the answer"


def test_bug_of_ours_ends_in_words(
    manager: JobManager,
    pointed: ScriptedServer,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Even if our own code breaks while carrying a job, whoever waits is told, with the id kept."""
    monkeypatch.setattr(ResponseWatcher, "_poll", lambda *_: 1 / 0)
    job = manager.submit(ask(), poll_interval=SOON)
    assert "ZeroDivisionError" in str(job.exception(LIMIT))
    assert (job.status, job.response_id) == ("detached", "resp_1")
    assert "broke off" in caplog.text


def test_closed_manager_can_be_used_again(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """After close() a new submission gets connections of its own."""
    assert manager.submit(ask(), poll_interval=SOON).result(LIMIT) == "the answer"
    assert manager.close(60)
    manager.store = JobStore(Journal(None), OwnerLock(None))
    assert manager.submit(ask(), poll_interval=SOON).result(LIMIT) == "the answer"


def test_job_of_a_lean_poll_knows_its_id(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """An answer has the response id even if the polled object leaves it out."""
    lean = response("x", "completed", "lean")
    del lean["id"]
    pointed.enqueue("retrieve", Script(json=lean))
    assert manager.submit(ask(), poll_interval=SOON).result(LIMIT).response_id == "resp_1"


def test_odd_status_is_shown_harmlessly(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A status is kept verbatim, and shown without what a terminal would obey."""
    gate = threading.Event()
    odd = "\x1b[2J\nfoo"
    pointed.enqueue("retrieve", Script(json={"id": "resp_1", "status": odd}), Script(hold=gate))
    job = manager.submit(ask(), poll_interval=SOON)
    eventually(lambda: job.status == odd)
    assert repr(job).isprintable()
    gate.set()
    job.result(LIMIT)


def test_destination_is_asked_for(ask: Ask) -> None:
    """Jobs go where the manager's own destination says, whatever the environment names."""
    with ScriptedServer() as own:
        server = ServerConfig(own.base_url, "token-123456", is_local=True)
        manager = JobManager(destination=lambda: server)
        assert manager.submit(ask(), poll_interval=SOON).result(LIMIT) == "the answer"
        assert own.count("create") == 1
        assert manager.close(60)


def test_what_is_claimed_is_sent(
    pointed: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group's job that is being claimed as the process ends goes out: the next kernel could not
    tell whether it had."""
    manager, closing, claiming = JobManager(), threading.Event(), threading.Event()
    usual = JobStore.claim

    async def claim(store: JobStore, record: JobRecord, *, ours: bool) -> bool:
        claiming.set()
        taken = await usual(store, record, ours=ours)
        await asyncio.to_thread(closing.wait, LIMIT)
        return taken

    monkeypatch.setattr(JobStore, "claim", claim)
    server = manager.destination()
    record = JobRecord(request=ask(), server=server.name, submitted_at=time.time())
    (job,) = manager.submit_all([record], RunConfig(server, SOON, 60.0))
    assert claiming.wait(LIMIT)
    set_by_the_end(monkeypatch, closing)
    assert manager.close(60)
    assert pointed.count("create") == 1
    assert job.response_id == "resp_1"


def test_jobs_that_end_together_are_written_down_few_at_a_time(
    pointed: ScriptedServer, tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many jobs that end at once no more have their responses in memory than the journal takes at a
    time, and all of them get their answers."""
    monkeypatch.setattr("bgmagic.runtime.pacing.TURNS", 2)
    now, most = set[str](), 0
    usual = JobStore.end

    async def end(store: JobStore, record: JobRecord, *others: Any) -> bool:
        nonlocal most
        now.add(record.key)
        most = max(most, len(now))
        stored = await usual(store, record, *others)
        now.remove(record.key)
        return stored

    monkeypatch.setattr(JobStore, "end", end)
    store = JobStore(Journal(tmp_path / "journal.sqlite3"), OwnerLock(tmp_path / "owners"))
    manager = JobManager(store=store)
    pointed.polls = 0
    jobs = [manager.submit(ask(), poll_interval=SOON) for _ in range(12)]
    assert [job.result(LIMIT) for job in jobs] == ["the answer"] * 12
    assert most <= 2
    assert manager.close(60)


def test_who_waits_for_a_turn_is_not_polled_as_the_process_ends(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing ends the poll that has the only turn, and gives it to nobody: all jobs are detached."""
    monkeypatch.setattr("bgmagic.runtime.pacing.TURNS", 1)
    hold = threading.Event()
    pointed.always["retrieve"] = Script(hold=hold)
    jobs = [manager.submit(ask(), poll_interval=SOON) for _ in range(4)]
    eventually(lambda: all(job.response_id for job in jobs) and pointed.count("retrieve") == 1)
    assert manager.close(60)
    hold.set()
    assert [job.status for job in jobs] == ["detached"] * 4
    assert pointed.count("retrieve") == 1
    assert all(job.record.trouble is None for job in jobs)
