"""A process that is killed at each step of a round of calls: nothing is lost, nothing runs twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import JobUnknown
from bgmagic.submission.app import NoShell, app
from tests.conftest import KEY
from tests.jobs.test_job import LIMIT, eventually
from tests.runtime.test_calls import calling, outputs
from tests.runtime.test_dependencies import bodies, restart
from tests.support.scripted import Script, ScriptedServer, response
from tests.support.shell import FakeShell

# Calls book() once; what it does is written into a file, and with "slow" it never comes back.
CHILD = """
import sys, time, pathlib
import bgmagic
from bgmagic.submission.app import app
from tests.support.shell import FakeShell

def book(seat: str) -> str:
    "Book a seat."
    with open(sys.argv[1], "a") as ran:
        ran.write(seat + chr(10))
    if sys.argv[2] == "slow":
        time.sleep(600)
    return "booked " + seat

app.shell = FakeShell({})
job = bgmagic.submit("Book.", out="seat", tool=book, poll=0.02, ask=sys.argv[2] == "ask")
time.sleep(600)
"""

# Attaches the job, and allows the call with each line that it is given; says how that went.
ATTACHING = """
import sys, time
from bgmagic.errors import BgmagicError
from bgmagic.submission.app import app
from tests.support.shell import FakeShell

def book(seat: str) -> str:
    "Book a seat."
    with open(sys.argv[1], "a") as ran:
        ran.write(seat + chr(10))
    return "booked " + seat

app.shell = FakeShell({"book": book})
entry = app.manager.store.find(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
try:
    job = app.manager.attach(entry)
    while not job.done() and "Allow or Deny" not in str(job.record.waits_for):
        time.sleep(0.01)
    print(job.error or "asks", flush=True)
    for line in sys.stdin:
        job.allow(line.strip() or None)
    print(job.error or job.result(120), flush=True)
except BgmagicError as error:
    print(error, flush=True)
"""


@pytest.fixture
def seat(
    pointed: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The file in which the function leaves its traces."""
    monkeypatch.setenv("BGMAGIC_JOURNAL", str(tmp_path / "data" / "journal.sqlite3"))
    restart()  # what is left of an earlier test has that one's journal

    def ending(rid: str, body: Any) -> dict[str, Any]:
        told = {"previous_response_id": body.get("previous_response_id")}
        if outputs(body):
            return response(rid, "completed", "Booked.", **told)
        return calling(rid, [("book", {"seat": "4a"})], **told)

    pointed.ending = ending
    yield tmp_path / "ran"
    app.shell = NoShell()
    restart()


def killed(ran: Path, mode: str, until: Any) -> None:
    """Run the child until then, and kill it."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(ran), mode], env={**os.environ, "OPENAI_API_KEY": KEY})  # fmt: skip
    try:
        eventually(until)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(LIMIT)


def entry() -> Any:
    found = [one for one in app.manager.store.listed("") if one.name == "seat"]
    return app.manager.store.find(found[0].key) if found else None


def attached(ran: Path) -> Job:
    """The job in the next process, where the function is defined again."""

    def book(seat: str) -> str:
        """Book a seat."""
        with ran.open("a") as file:
            file.write(f"{seat}\n")
        return f"booked {seat}"

    app.shell = FakeShell({"book": book})
    return app.manager.attach(entry())


def statuses() -> list[str]:
    from bgmagic.jobs.steps import FunctionRounds

    found = entry()
    rounds = FunctionRounds.read(found.rounds) if found else None
    return [step.status for step in rounds.steps] if rounds else []


def test_killed_while_the_function_runs(pointed: ScriptedServer, seat: Path) -> None:
    """A function that was running is not run again by itself: somebody has to say so."""
    killed(seat, "slow", lambda: seat.exists() and seat.read_text())
    job = attached(seat)
    eventually(lambda: [step.status for step in job.steps] == ["unknown"])
    assert seat.read_text() == "4a\n"
    eventually(lambda: job.record.waits_for == ("your word on running book() once more",))
    job.deny()
    assert job.result(LIMIT) == "Booked."
    assert seat.read_text() == "4a\n"
    assert "it is not known whether this call was carried out" in outputs(bodies(pointed)[1])[0]


def test_killed_before_the_follow_up(pointed: ScriptedServer, seat: Path) -> None:
    """With its output written down and the follow-up refused for now, the next process sends that,
    and runs nothing."""
    busy = Script(status=429, json={"error": {"message": "later"}}, headers={"retry-after": "60"})
    pointed.enqueue("create", Script(), *[busy] * 50)
    killed(seat, "quick", lambda: len(bodies(pointed)) > 1 and entry().status == "waiting")
    pointed.scripts["create"].clear()
    assert statuses() == ["done"]
    assert attached(seat).result(LIMIT) == "Booked."
    assert seat.read_text() == "4a\n"
    assert outputs(bodies(pointed)[-1]) == ["booked 4a"]
    assert bodies(pointed)[-1]["previous_response_id"] == "resp_1"


def test_killed_as_the_follow_up_is_sent(pointed: ScriptedServer, seat: Path) -> None:
    """A follow-up of which nobody knows whether it was accepted is not sent again."""
    held = threading.Event()
    pointed.enqueue("create", Script(), Script(hold=held, reset="before"))
    killed(seat, "quick", lambda: len(bodies(pointed)) == 2)
    held.set()
    job = attached(seat)
    assert isinstance(job.exception(LIMIT), JobUnknown)
    assert (len(bodies(pointed)), seat.read_text()) == (2, "4a\n")
    assert job.steps[0].output == "booked 4a"


def test_killed_after_the_follow_up(pointed: ScriptedServer, seat: Path) -> None:
    """An accepted follow-up is followed to its end by the next process."""
    usual = pointed.ending
    pointed.ending = lambda rid, body: (
        usual(rid, body) if rid == "resp_1" else response(rid, "queued")
    )
    killed(seat, "quick", lambda: entry() and entry().response_id == "resp_2")
    pointed.ending = usual
    assert attached(seat).result(LIMIT) == "Booked."
    assert (len(bodies(pointed)), seat.read_text()) == (2, "4a\n")


def test_killed_while_it_asks(pointed: ScriptedServer, seat: Path) -> None:
    """What had not been allowed yet is asked for again: of two processes that attach it at once, one
    asks, and the other says in a line that it has it; clicks in both are one call."""
    killed(seat, "ask", lambda: statuses() == ["asking"])
    key = entry().key
    restart()
    command = [sys.executable, "-c", ATTACHING, str(seat), key]
    piped: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    kernels = [subprocess.Popen(command, env={**os.environ, "OPENAI_API_KEY": KEY}, **piped) for _ in "12"]  # fmt: skip
    try:
        for kernel in kernels:
            assert kernel.stdout.readline() == "ready\n"
        for kernel in kernels:
            kernel.stdin.write("\n")
            kernel.stdin.flush()
        told = [kernel.stdout.readline().strip() for kernel in kernels]
        assert told.count("asks") == 1, told
        (other,) = (line for line in told if line != "asks")
        assert "another kernel" in other
        ended = [kernel.communicate("\n\n", timeout=LIMIT)[0] for kernel in kernels]
        assert "Booked." in ended[told.index("asks")]
    finally:
        for kernel in kernels:
            kernel.kill()
            kernel.wait(LIMIT)
    assert (seat.read_text(), len(bodies(pointed))) == ("4a\n", 2)
