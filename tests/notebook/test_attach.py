"""Jobs that outlive their kernel: kernels killed at every step, and others that pick the jobs up."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import KEY
from tests.jobs.test_job import eventually
from tests.support.kernels import LIMIT, Kernel, kernel
from tests.support.scripted import Script, ScriptedServer

Start = Callable[..., contextlib.AbstractContextManager[Kernel]]


@pytest.fixture
def journal(lasting: dict[str, str]) -> Path:
    return Path(lasting["BGMAGIC_JOURNAL"])


@pytest.fixture
def start(lasting: dict[str, str]) -> Start:
    """Starts a kernel of the notebook, with the extension, on the shared journal."""

    @contextlib.contextmanager
    def started(**more: str):
        with kernel(**lasting | more) as running:
            running.greeting = running.ok("%load_ext bgmagic").said
            yield running

    return started


def kill(running: Kernel) -> None:
    """kill -9."""
    running.manager.signal_kernel(9)
    eventually(lambda: not running.manager.is_alive())


def killed_with_a_job(start: Start, until: str = "x.running()") -> None:
    """A kernel sends a job to ``x``, and is killed once ``until`` is so."""
    with start() as first:
        first.ok("%%bgresponse -o x\nWhy?")
        first.until(until)
        kill(first)


def test_killed_while_the_server_works(start: Start, server: ScriptedServer) -> None:
    """A kernel killed with a job accepted: the next says so, follows it and binds the answer."""
    server.polls = 10**6
    with start() as first:
        assert first.greeting == ""
        first.ok("%%bgresponse -o x\nWhy?")
        first.until("x.running()")
        kill(first)
    with start() as second:
        assert second.greeting == (
            "1 job is still open from this notebook: x. %bgattach --all follows them."
        )
        second.ok("%bgattach --all")
        assert second.value("type(x).__name__") == "'Job'"
        for nothing in ("%bgattach --all", "%bgattach"):
            assert second.ok(nothing).said.startswith("No open job is left to attach here;")
        server.polls = 0
        second.ok("%bgwait x")
        assert second.value("str(x)") == "'the answer'"
    assert server.count("create") == 1


def test_killed_after_the_answer(start: Start, server: ScriptedServer) -> None:
    """A job that had ended is given from the journal, without a call."""
    with start() as first:
        first.ok("%%bgresponse -o x --wait\nWhy?")
        kill(first)
    before = len(server.seen)
    with start() as second:
        assert second.greeting == ""
        assert second.ok("%bgattach x").said.startswith("x: completed")
        assert second.value("(str(x), x.model, x.usage.output_tokens)") == (
            "('the answer', 'gpt-5.2-true', 2)"
        )
        second.ok("del x")
        assert "the answer" in second.ok("%bgjobs x").said
        second.ok("%bgattach resp_1 -o y")
        assert second.value("str(y)") == "'the answer'"
    assert len(server.seen) == before


KILL = "import os, bgmagic.{room}\nbgmagic.{room}.{what} = lambda *_, **__: os.kill(os.getpid(), 9)"


def test_killed_before_the_intent(start: Start, server: ScriptedServer) -> None:
    """A kernel killed before it wrote anything down has sent nothing either."""
    with start() as first:
        first.ok(KILL.format(room="storage.job_store", what="JobStore.insert"))
        first.start("%%bgresponse -o x\nWhy?")
        eventually(lambda: not first.manager.is_alive())
    with start() as second:
        assert second.greeting == ""
    assert server.seen == []


def test_killed_between_answer_and_variable(start: Start, server: ScriptedServer) -> None:
    """A kernel killed as it was about to bind the variable has the answer written down already."""
    with start() as first:
        first.ok(KILL.format(room="notebook.shell", what="NamespaceVariables.replace"))
        first.start("%%bgresponse -o x\nWhy?")
        eventually(lambda: not first.manager.is_alive())
    before = len(server.seen)
    with start() as second:
        second.ok("%bgattach x")
        assert second.value("str(x)") == "'the answer'"
    assert len(server.seen) == before


def test_killed_between_acceptance_and_first_poll(start: Start, server: ScriptedServer) -> None:
    """A kernel killed before the first poll has the response id written down already."""
    with start() as first:
        first.ok(KILL.format(room="runtime.watcher", what="ResponseWatcher._poll"))
        first.start("%%bgresponse -o x\nWhy?")
        eventually(lambda: not first.manager.is_alive())
    assert server.count("retrieve") == 0
    with start() as second:
        second.ok("%bgattach x\n%bgwait x")
        assert second.value("str(x)") == "'the answer'"
    assert server.count("create") == 1


def test_killed_while_sending(start: Start, server: ScriptedServer) -> None:
    """A kernel killed between the POST and its answer: the job is unknown, and is not sent again."""
    gate = threading.Event()
    server.enqueue("create", Script(hold=gate))
    with start() as first:
        first.ok("%%bgresponse -o x\nWhy?")
        eventually(lambda: server.count("create"))
        kill(first)
    gate.set()
    with start() as second:
        twin = second.run("%%bgresponse -o x\nWhy?").said
        assert "was being sent when its kernel ended" in twin
        second.ok("%bgattach --all")
        second.until("x.done()")
        assert second.value("x.status") == "'unknown'"
        assert server.count("create") == 1
        second.ok("y = x.resend()")
        second.ok("await y")
    assert server.count("create") == 2


def test_killed_before_it_was_accepted(start: Start, server: ScriptedServer) -> None:
    """A job that the server had refused for now is sent by the next kernel, once."""
    refused = {"error": {"message": "Slow down.", "type": "requests"}}
    server.enqueue("create", Script(status=429, json=refused, headers={"retry-after": "60"}))
    killed_with_a_job(start, "x.record.trouble")
    with start() as second:
        second.ok("%bgattach x")
        second.ok("%bgwait x")
        assert second.value("str(x)") == "'the answer'"
    assert server.count("create") == 2


def test_wish_to_cancel_outlives_the_kernel(start: Start, server: ScriptedServer) -> None:
    """A cancel that could not reach the server before the kernel died is sent by the next one."""
    server.polls = 10**6
    server.always["cancel"] = Script(reset="before")
    with start() as first:
        first.ok("%%bgresponse -o x\nWhy?")
        first.until("x.running()")
        first.ok("x.cancel()")
        eventually(lambda: server.count("cancel"))
        first.until("x.record.trouble")
        first.ok("from bgmagic.submission.app import app\nkept = app.manager.store.journal.entries")
        first.until("kept()[0].cancelling")
        kill(first)
    del server.always["cancel"]
    with start() as second:
        second.ok("%bgattach x")
        second.until("x.done()")
        assert second.value("x.status") == "'cancelled'"


def test_two_kernels_attach_at_once(start: Start, server: ScriptedServer) -> None:
    """Two kernels that attach everything at the same time send a waiting job once, not twice."""
    refused = {"error": {"message": "Slow down.", "type": "requests"}}
    server.enqueue("create", Script(status=429, json=refused, headers={"retry-after": "60"}))
    killed_with_a_job(start, "x.record.trouble")
    with start() as one, start() as other:
        begun = [(k, k.start("%bgattach --all")) for k in (one, other)]
        for running, message in begun:
            running.finish(message)
        for running, _ in begun:
            running.until("'x' not in globals() or isinstance(x, str) or x.done()")
        held = sorted(k.value("isinstance(globals().get('x'), str)") for k in (one, other))
    assert held == ["False", "True"]
    assert server.count("create") == 2


def test_living_kernels_job_is_left_alone(start: Start, server: ScriptedServer) -> None:
    """Another kernel neither sees as open nor takes what a living one follows."""
    server.polls = 10**6
    with start() as first:
        first.ok("%%bgresponse -o x\nWhy?")
        first.until("x.running()")
        with start() as second:
            assert second.greeting == ""
            second.ok("%bgattach --all")
            assert second.value("'x' in globals()") == "False"
            assert "another kernel that is alive" in second.run("%bgattach x").said


def test_attaching_twice_is_attaching_once(start: Start, server: ScriptedServer) -> None:
    """A job that this kernel follows already is given to the other name too, and polled once."""
    server.polls = 10**6
    with start() as first:
        first.ok("%%bgresponse -o x\nWhy?")
        first.until("x.running()")
        first.ok("%bgattach x -o y")
        assert first.value("x is y") == "True"
        server.polls = 0
        first.ok("%bgwait")
        assert first.value("(str(x), str(y))") == "('the answer', 'the answer')"


def test_taken_names(start: Start, server: ScriptedServer) -> None:
    """--all binds only free names and lists the rest; a name that holds something else is refused."""
    server.polls = 10**6
    killed_with_a_job(start)
    with start() as second:
        second.ok("x = 'mine'")
        assert "x is taken; %bgattach resp_1 -o OTHER" in second.ok("%bgattach --all").said
        assert "x holds something else; %bgattach x -o OTHER" in second.run("%bgattach x").said
        second.ok("%bgattach x -o y")
        server.polls = 0
        second.ok("%bgwait y")
        assert second.value("(x, str(y))") == "('mine', 'the answer')"


def test_no_key_goes_to_an_address_from_the_journal(start: Start, server: ScriptedServer) -> None:
    """A job of another server than the configured one is refused, and that server hears nothing."""
    server.polls = 10**6
    killed_with_a_job(start)
    with ScriptedServer() as other, start(OPENAI_BASE_URL=other.base_url) as second:
        before = len(server.seen)
        said = second.run("%bgattach x").said
        assert f"x was sent to {server.base_url}, not to {other.base_url}" in said
        assert (len(server.seen), len(other.seen)) == (before, 0)


def test_other_key(start: Start, server: ScriptedServer) -> None:
    """Under another key a lasting 404 is not a lost job but one that this key can't see."""
    server.polls = 10**6
    killed_with_a_job(start)
    told = {"error": {"message": "Response with id 'resp_1' not found.", "type": "x"}}
    server.always["retrieve"] = Script(status=404, json=told)
    with start(OPENAI_API_KEY="sk-someone-else-0123456789") as second:
        second.ok("%bgattach x")
        second.until("x.done()")
        assert second.value("x.status") == "'detached'"
        assert "not visible with this key" in second.value("str(x.error)")
    del server.always["retrieve"]
    server.polls = 0
    with start() as third:
        third.ok("%bgattach x\n%bgwait x")
        assert third.value("str(x)") == "'the answer'"


def test_bare_id(start: Start, server: ScriptedServer) -> None:
    """A response id from anywhere is followed at the configured server, and is in the journal then."""
    server.responses["resp_else"] = {"id": "resp_else", "status": "in_progress"}
    with start() as first:
        first.ok("%bgattach resp_else -o x")
        first.ok("%bgwait x")
        assert first.value("str(x)") == "'the answer'"
        assert "has no job 'nothing'" in first.run("%bgattach nothing").said
        assert "has no job 'my_result_2'" in first.run("%bgattach my_result_2").said
        for wrong in ("..", "response", "resp_a/b", "resp_1/../x", "resp_..", "resp_a?b", "resp_ä"):
            (line,) = first.run(f"%bgattach {wrong}").said.splitlines()
            assert line.startswith("UsageError")
            assert "no response id" in line
        assert {seen.path.rpartition("/")[2] for seen in server.seen} == {"resp_else"}
        kill(first)
    with start() as second:
        second.ok("%bgattach resp_else -o y")
        assert second.value("str(y)") == "'the answer'"


@pytest.mark.parametrize(
    "response_id",
    [
        "litellm_poll_2638e750-168d-4193-8c11-cf6fa5bde7e0",
        "0b1c2d3e-168d-4193-8c11-cf6fa5bde7e0",
        "chatcmpl-9zQ2mXbK4LrT7vYp1WdN8sHc",
    ],
)
def test_bare_id_of_another_server(start: Start, server: ScriptedServer, response_id: str) -> None:
    """An id that does not begin with resp_ is followed as well, is `attached` until the first poll, and is found again by the next kernel."""
    server.responses[response_id] = {"id": response_id, "status": "in_progress"}
    server.polls = 10**6
    gate = threading.Event()
    server.always["retrieve"] = Script(hold=gate)
    with start() as first:
        first.ok(f"%bgattach {response_id} -o x")
        assert first.value("x.status") == "'attached'"
        assert "attached" in first.ok("print(x.card._repr_mimebundle_()[0]['text/plain'])").stdout
        gate.set()
        eventually(lambda: first.value("x.status") == "'in_progress'")
        kill(first)
    server.polls = 0
    with start() as second:
        second.ok(f"%bgattach {response_id} -o y\n%bgwait y")
        assert second.value("str(y)") == "'the answer'"


def test_the_line_beside_a_card_is_true(start: Start, server: ScriptedServer) -> None:
    """The command that stands beside a live card or board follows the job in another kernel, also where it has no name or only an id."""
    server.responses["resp_else"] = {"id": "resp_else", "status": "in_progress"}
    server.polls = 10**6
    kinds = ("%%bgresponse -o x\nOne?", "%%bgresponse\nTwo?", "%%bgresponse --n 2\nThree?")
    lines = []
    with start() as first:
        for code in (*kinds, "%bgattach resp_else"):
            lines.append(first.ok(code).displays[-1]["text/plain"])
        first.until("all(job.running() for job in __import__('bgmagic').jobs())")
        kill(first)
    assert "resp_else, followed since" in lines[-1]
    commands = [re.search(r"and (%bgattach \S+)", line)[1] for line in lines]
    assert commands == ["%bgattach x", *["%bgattach --all"] * 2, "%bgattach resp_else"]
    with start() as second:
        for command in dict.fromkeys(commands):
            second.ok(command)
        second.until("len([job for job in __import__('bgmagic').jobs() if job.running()]) == 5")


def test_same_cell_after_a_restart_joins(start: Start, server: ScriptedServer) -> None:
    """After a restart the same cell picks its running request up instead of paying twice."""
    server.polls = 10**6
    killed_with_a_job(start)
    with start() as second:
        assert "joined" in second.ok("%%bgresponse -o x\nWhy?").said
        server.polls = 0
        second.ok("%bgwait x")
        assert second.value("str(x)") == "'the answer'"
    assert server.count("create") == 1


def test_same_cell_after_its_deadline_joins(start: Start, server: ScriptedServer) -> None:
    """A job whose deadline has passed may still run: its cell, run again, asks for it and pays once."""
    server.polls = 10**6
    with start() as one:
        one.ok("%%bgresponse -o x --deadline 0.3\nWhy?")
        one.until("x.status == 'detached'")
        server.polls = 0
        assert "joined" in one.ok("%%bgresponse -o x\nWhy?").said
        one.ok("%bgwait x")
        assert one.value("str(x)") == "'the answer'"
        assert server.count("create") == 1
        one.ok("%%bgresponse -o x --wait\nWhy?")
        assert server.count("create") == 2


def test_reuse(start: Start, server: ScriptedServer, tmp_path: Path) -> None:
    """With --reuse, or %config, a request that completed before is not paid again."""
    with start() as first:
        first.ok("%%bgresponse -o x --wait\nWhy?")
        first.ok("%%bgresponse -o x --reuse\nWhy?")
        assert first.value("str(x)") == "'the answer'"
        # It is one job, however often it is taken: in lists, and in what is exported.
        first.ok(f"import bgmagic\n%cd -q {tmp_path}")
        assert first.value("[job.name for job in bgmagic.jobs()]") == "['x']"
        assert first.value("bgmagic.export('one.jsonl')") == "1"
        _, kept = first.ok("%bgjobs").displays
        assert kept["text/plain"].splitlines()[0].endswith(": 1 job, 1 completed")
    with start() as second:
        second.ok("%config BgMagics.reuse = True")
        assert "joined" in second.ok("%%bgresponse -o y\nWhy?").said
        assert second.value("str(y)") == "'the answer'"
        second.ok("%%bgresponse -o y --wait\nWhat else?")
        second.ok("%config BgMagics.reuse = None")
        second.ok("%%bgresponse -o y --wait\nWhy?")
    assert server.count("create") == 3


def test_restart_is_quick_and_clean(start: Start, server: ScriptedServer) -> None:
    """A restart while jobs run neither hangs nor cancels, and the next kernel picks them up."""
    server.polls = 10**6
    with start() as running:
        running.ok("%%bgresponse -o x\nWhy?")
        running.until("x.running()")
        running.manager.restart_kernel(now=False)
        running.client.wait_for_ready(timeout=LIMIT)
        assert "still open from this notebook: x" in running.ok("%load_ext bgmagic").said
        running.ok("%bgattach x")
        server.polls = 0
        running.ok("%bgwait x")
        assert running.value("str(x)") == "'the answer'"
    assert (server.count("create"), server.count("cancel")) == (1, 0)


def test_secrets_are_not_in_the_journal(
    start: Start, server: ScriptedServer, journal: Path
) -> None:
    """No key, token or header value gets into the journal's files, wherever it stood."""
    refused = {"error": {"message": f"Slow down, {KEY}.", "type": "requests"}}
    server.enqueue("create", Script(status=429, json=refused, headers={"retry-after": "60"}))
    tools = '[{"type": "mcp", "authorization": "tok-a1b2c3d4", "headers": {"X-A": "hdr-e5f6a7b8"}}]'
    with start(OPENAI_CUSTOM_HEADERS="X-Team: hdr-99887766") as first:
        cell = f"%%bgresponse -o x --param 'tools={tools}'\nMy key is {KEY}, hdr-99887766."
        first.ok(cell)
        first.until("x.record.trouble")
        first.ok("%%bgresponse -o y --wait\nWhy?")
        kill(first)
    sent = str([seen.body for seen in server.seen if seen.kind == "create"])
    written = b"".join(path.read_bytes() for path in journal.parent.glob("journal*"))
    for secret in (KEY, "tok-a1b2c3d4", "hdr-e5f6a7b8", "hdr-99887766"):
        assert secret in sent
        assert secret.encode() not in written
    assert b"Why?" in written
    with start() as second:
        said = second.run("%bgattach x").said
        assert "its request held a secret, which the journal does not keep" in said
        # What the line advises works: the cell sends it, since it was certainly not accepted.
        before = server.count("create")
        second.ok(cell)
        second.ok("%bgwait x")
        assert second.value("str(x)") == "'the answer'"
        assert server.count("create") == before + 1


def test_journal_that_cant_be_written(start: Start, server: ScriptedServer, tmp_path: Path) -> None:
    """Without a usable journal jobs run all the same, and the user is told once."""
    (tmp_path / "file").write_text("not a folder")
    with start(BGMAGIC_JOURNAL=str(tmp_path / "file" / "journal.sqlite3")) as running:
        said = running.ok("%%bgresponse -o x --wait\nWhy?").said
        assert "Journal: " in said
        assert running.value("str(x)") == "'the answer'"
        assert "Journal: " not in running.ok("%%bgresponse -o y --wait\nWhat?").said
        assert running.value("str(y)") == "'the answer'"


def test_listing_and_forgetting(start: Start, server: ScriptedServer) -> None:
    """%bgjobs lists this notebook's jobs, --all everybody's; --forget removes those that ended, also those that this kernel's variables hold."""
    with start(JPY_SESSION_NAME="/other.ipynb") as other:
        other.ok("%%bgresponse -o o --wait\nWhy?")
    server.polls = 10**6
    with start() as first:
        first.ok("%%bgresponse -o runs\nWhy not?")
        first.until("runs.running()")
        kill(first)
    server.polls = 0
    with start() as second:
        second.ok("%%bgresponse -o x --wait\nWhy?")

        def listed(flags: str) -> dict[str, str]:
            data = second.ok(f"%bgjobs {flags}").displays[1]
            lines = data["text/plain"].splitlines()[2:]  # below the time and the heads
            assert all(" 2 " in line for line in lines if "completed" in line), "tokens out"
            return {line.split()[0]: line.split()[1] for line in lines}

        assert listed("") == {"runs": "detached", "x": "completed"}
        assert listed("--all") == {"o": "completed", "runs": "detached", "x": "completed"}
        assert second.value("[j.name for j in __import__('bgmagic').jobs(past=True)]") == (
            "['runs', 'x']"
        )
        assert second.ok("%bgjobs --forget --all").said == "2 jobs that had ended are forgotten."
        assert listed("--all") == {"runs": "detached"}
        assert second.value("str(x)") == "'the answer'"
        second.ok("%%bgresponse -o y --wait\nWhy?")
        assert second.ok("%bgjobs y --forget").said == "1 job that had ended is forgotten."
        assert listed("") == {"runs": "detached"}
    with start() as third:
        assert "runs" in third.greeting
        assert third.ok("%bgjobs --all").displays[1]["text/plain"].count("completed") == 0
