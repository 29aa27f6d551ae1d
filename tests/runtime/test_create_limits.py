"""Creates that take too long, are cancelled, are sent on to others, or are answered by a stranger."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from bgmagic.api.request import Request
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import JobCancelled, JobFailed, JobUnknown
from bgmagic.runtime.manager import JobManager
from bgmagic.transport.client import AT_ONCE
from tests.conftest import KEY
from tests.jobs.test_job import LIMIT, SOON, eventually
from tests.support.scripted import Script, ScriptedServer

Ask = Callable[..., Request]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What creates wait for; opened in the end, so that the server can close."""
    event = threading.Event()
    yield event
    event.set()


def submitted(manager: JobManager, request: Request, **more: float) -> Job:
    return manager.submit(request, poll_interval=SOON, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [False, True])
def test_a_create_has_a_limit(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, gate: threading.Event, stream: bool
) -> None:
    """A create that is not answered in time is unknown, says after how long, and is sent once; with a
    stream, too."""
    submitted(manager, ask(stream=stream)).result(LIMIT)  # imports what the SDK needs
    pointed.enqueue("create", Script(hold=gate))
    job = submitted(manager, ask(stream=stream), create_timeout=0.5)
    with pytest.raises(JobUnknown, match=r"no answer from http://\S+ within 0\.5 s"):
        job.result(LIMIT)
    eventually(lambda: pointed.count("create") == 2)  # it may not have read it yet


def test_an_answer_that_came_while_the_process_was_stopped(
    manager: JobManager,
    pointed: ScriptedServer,
    ask: Ask,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the limit passes while nothing runs here, as in a suspended process, the answer that has
    come meanwhile counts."""
    monkeypatch.setattr("bgmagic.runtime.sending.LATE", 0.1)
    submitted(manager, ask()).result(LIMIT)
    pointed.enqueue("create", Script(hold=gate))
    job = submitted(manager, ask("stopped"), create_timeout=2.0)
    eventually(lambda: pointed.count("create") == 2)
    over = time.monotonic() + 2.2

    def stopped() -> None:
        gate.set()
        while time.monotonic() < over or "resp_2" not in pointed.responses:
            time.sleep(0.01)

    manager._loop.call(stopped)
    assert job.result(LIMIT) == "the answer"


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_create_ends_after_a_while(
    manager: JobManager,
    pointed: ScriptedServer,
    ask: Ask,
    gate: threading.Event,
    stream: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A create whose job is cancelled and that is not answered soon after is unknown: only with its id
    could the server be asked to cancel it."""
    monkeypatch.setattr("bgmagic.runtime.sending.CANCEL_GRACE", 0.05)
    pointed.enqueue("create", Script(hold=gate))
    job = submitted(manager, ask(stream=stream))
    eventually(lambda: pointed.count("create"))
    assert job.cancel()
    with pytest.raises(JobUnknown, match="it was cancelled while it was being sent"):
        job.result(LIMIT)
    assert (pointed.count("create"), pointed.count("cancel")) == (1, 0)


def test_a_job_that_waits_for_a_slot_is_cancelled_at_once(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, gate: threading.Event
) -> None:
    """Behind creates that are not answered, cancelling a job that was not sent ends it: nothing of it
    went to the server; and the others go on."""
    pointed.always["create"] = Script(hold=gate)
    busy = [submitted(manager, ask(f"{n}")) for n in range(AT_ONCE)]
    eventually(lambda: pointed.count("create") == AT_ONCE)
    behind = submitted(manager, ask("behind"))
    eventually(lambda: manager.store.is_stored(behind.record))
    assert behind.cancel()
    with pytest.raises(JobCancelled, match="before it was sent"):
        behind.result(LIMIT)
    assert not any(job.done() for job in busy)
    gate.set()
    for job in busy:
        assert job.result(LIMIT) == "the answer"
    assert pointed.count("create") == AT_ONCE


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("stream", [False, True])
def test_no_create_goes_to_another_origin(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, status: int, stream: bool
) -> None:
    """A redirect to another origin ends a create, names that origin and nothing else of the address,
    and nobody there hears of it; after a 303 the server may have taken it."""
    with ScriptedServer() as other:
        address = other.base_url.replace("//", "//bob:hunter2222@")
        moved = Script(status=status, headers={"location": f"{address}/responses?key=x"}, json={})
        pointed.enqueue("create", moved)
        job = submitted(manager, ask(stream=stream))
        kind = JobUnknown if status == 303 else JobFailed
        with pytest.raises(kind) as caught:
            job.result(LIMIT)
        assert f"{status}: the server sends it on to {other.base_url.removesuffix('/v1')};" in str(
            caught.value
        )
        assert "hunter2222" not in str(caught.value)
        assert other.seen == []
    assert len(pointed.seen) == 1


@pytest.mark.parametrize("status", [301, 302])
def test_no_create_becomes_a_get(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, status: int
) -> None:
    """A redirect that would make a GET of a create ends it on the same origin, too."""
    pointed.enqueue(
        "create", Script(status=status, headers={"location": "/v1/responses/resp_9"}, json={})
    )
    with pytest.raises(JobFailed, match="set it as the base URL"):
        submitted(manager, ask()).result(LIMIT)
    assert len(pointed.seen) == 1


def test_a_cancel_is_not_sent_on_either(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A cancel that is redirected to another origin stays here, and the job says why it failed."""
    pointed.polls = 10**6
    with ScriptedServer() as other:
        job = submitted(manager, ask())
        eventually(job.running)
        moved = {"location": f"{other.base_url}/responses/resp_1/cancel"}
        pointed.enqueue("cancel", Script(status=307, headers=moved, json={}))
        job.cancel()
        with pytest.raises(JobCancelled):
            job.result(LIMIT)
        assert other.seen == []
    assert pointed.count("cancel") == 2


def test_a_captive_portal_is_named(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """A web page in place of an answer leaves it open whether the create was accepted, and the line says
    what the page calls itself."""
    page = b"<!DOCTYPE html><html><head><title>Hotel\n Wi-Fi</title><body>Log in</body></html>"
    portal = Script(body=page, headers={"content-type": "text/html; charset=utf-8"})
    pointed.enqueue("create", portal)
    with pytest.raises(JobUnknown, match=r"with a web page \(text/html.*\).*: Hotel Wi-Fi$"):
        submitted(manager, ask()).result(LIMIT)
    assert pointed.count("create") == 1


def test_a_key_that_comes_in_two_deltas_is_hidden(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A key in the events of a stream is shown in no preview, also one that comes in pieces or escaped;
    the answer does not have it either."""
    from tests.support.scripted import response, written

    wait = threading.Event()
    pointed.polls = 10**6
    pieces = ["Key ", KEY[:9], KEY[9:], f" or {KEY} or ", "".join(f"&#{ord(c)};" for c in KEY), "!"]
    pointed.stream = lambda rid: written(rid, pieces, wait, after=len(pieces))
    job = submitted(manager, ask(stream=True))
    eventually(lambda: job.text.endswith("!"))
    assert job.text == "Key [secret] or [secret] or [secret]!"
    pointed.by_id["resp_1"] = Script(json=response("resp_1", "completed", f"It is {KEY}."))
    wait.set()
    assert job.result(LIMIT) == "It is [secret]."
