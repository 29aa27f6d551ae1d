"""Told of the end: by a function or a POST, once, without anything secret, and never in the job's way."""

from __future__ import annotations

import http.server
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bgmagic
from bgmagic.errors import BadInput
from bgmagic.submission import notify
from bgmagic.submission.app import app
from bgmagic.submission.converters import BROWSER, to_notified
from tests.conftest import KEY
from tests.jobs.test_job import LIMIT, eventually
from tests.support.kernels import Kernel, kernel
from tests.support.scripted import Script, ScriptedServer, response


class Hook(http.server.ThreadingHTTPServer):
    """Takes POSTs on loopback and answers as it is told, in the end with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[int] = []
        self.url = f"http://127.0.0.1:{self.server_port}/hook/s3cr3t-token"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body))
        status = self.server.answers.pop(0) if self.server.answers else 200
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setattr(notify, "DELAYS", (0.01, 0.01, 0.01))
    with Hook() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def sending(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A script that sends to the scripted server, with a journal in memory."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("BGMAGIC_POLL", "0.05")
    monkeypatch.setenv("BGMAGIC_JOURNAL", ":memory:")
    monkeypatch.setattr(app, "_manager", None)
    yield server
    app.manager.close()


def test_a_post_tells_the_end(sending: ScriptedServer, hook: Hook) -> None:
    """One POST has name, status, seconds and notebook, and nothing of prompt, answer and key; after
    failures that may pass it is sent again, three times at most."""
    hook.answers = [500, 429, 503]
    job = bgmagic.submit("Why secretly?", notify=hook.url)
    assert job.result(LIMIT) == "the answer"
    eventually(lambda: len(hook.seen) == 4)
    assert {json.dumps(body) for _, body in hook.seen} == {json.dumps(hook.seen[0][1])}
    path, body = hook.seen[0]
    assert path == "/hook/s3cr3t-token"
    assert body.keys() == {"name", "status", "seconds", "notebook", "text"}
    assert body["status"] == "completed"
    assert "completed after" in body["text"]
    told = json.dumps(body)
    assert not any(word in told for word in ("secretly", "the answer", KEY, "s3cr3t"))


@pytest.mark.parametrize(
    ("answers", "said", "posts"),
    [
        ([404], "it answered 404", 1),
        ([302], "a redirect, which is not followed", 1),
        ([500] * 4, "it answered 500", 4),
    ],
)
def test_a_post_that_fails_is_one_line(
    answers: list[int], said: str, posts: int,
    sending: ScriptedServer, hook: Hook, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """What no other try can mend is tried once; the log has one line without the address."""
    hook.answers = answers
    with caplog.at_level(logging.DEBUG):
        assert bgmagic.submit("Why?", notify=hook.url).result(LIMIT) == "the answer"
        eventually(lambda: said in caplog.text)
    assert len(hook.seen) == posts
    assert "s3cr3t" not in caplog.text
    assert caplog.text.count("was not told") == 1
    assert "127.0.0.1" in caplog.text


def test_functions_are_called(sending: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    """A function gets the job once it has ended, also a failed one, off the loop thread; one that
    raises or exits is a line, and the others are called all the same, a coroutine function too."""
    got: list[Any] = []

    async def later(job: Any) -> None:
        got.append((job, job.done(), threading.current_thread().name))

    def leaves(job: Any) -> None:
        raise SystemExit("no\nmore")

    job = bgmagic.submit("Why?", notify=[leaves, later, print])
    assert job.result(LIMIT) == "the answer"
    eventually(lambda: bool(got) and "was not told" in caplog.text)
    assert got == [(job, True, "bgmagic-notify")]
    assert "leaves() was not told: SystemExit: no more" in caplog.text
    assert "Traceback" not in caplog.text
    sending.enqueue("create", Script(status=400, json={"error": {"message": "no"}}))
    failed = bgmagic.submit("Why not?", notify=later)
    eventually(lambda: len(got) == 2)
    assert (got[1], failed.status) == ((failed, True, "bgmagic-notify"), "failed")


def test_nobody_is_told_twice(sending: ScriptedServer, hook: Hook) -> None:
    """Cells that join a job, or attach it again, with the same target add no second message."""
    sending.polls = 10**6
    got: list[Any] = []
    later: list[Any] = []
    job = bgmagic.submit("Why?", notify=[got.append, hook.url])
    for _ in range(2):
        notify.notify_at_end(job, to_notified([hook.url], "x"), joined=True)
    sending.polls = 0
    assert job.result(LIMIT) == "the answer"
    eventually(lambda: bool(got and hook.seen and not notify._due))
    notify.notify_at_end(job, (later.append,), joined=True)  # it has ended: no news
    eventually(lambda: not notify._due)
    assert (len(got), len(hook.seen), later) == (1, 1, [])


def test_a_group_is_told_of_once(sending: ScriptedServer, hook: Hook) -> None:
    """A sweep is one message when its last job has ended, with how many there were."""
    got: list[Any] = []
    group = bgmagic.map("Why {{ item }}?", ["a", "b", "c"], notify=[hook.url, got.append])
    assert [job.result(LIMIT) for job in group.jobs] == ["the answer"] * 3
    eventually(lambda: len(hook.seen) == 1 and len(got) == 1)
    assert got == [group]
    assert (hook.seen[0][1]["jobs"], hook.seen[0][1]["status"]) == (3, "completed")
    assert "(3 jobs): completed" in hook.seen[0][1]["text"]


WRONG = [
    "http://example.org/hook",
    "ftp://example.org/hook",
    "https://",
    "https://user:pw@example.org/hook",
    "https://example.org/a b",
    "https://[::1/hook",
    "nobody",
    5,
]


def test_what_is_sent_again_is_told_again(sending: ScriptedServer, hook: Hook) -> None:
    """Who was to be told of a job is told of the one that is sent in its place, and of a group once
    more when those of it that were sent again have ended."""
    sending.enqueue("create", *[Script(status=400, json={"error": {"message": "no"}})] * 3)
    job = bgmagic.submit("Why?", notify=hook.url)
    assert job.exception(LIMIT)
    eventually(lambda: len(hook.seen) == 1)
    assert job.resend().exception(LIMIT)
    eventually(lambda: len(hook.seen) == 2)
    group = bgmagic.map("Say {{ item }}", ["a"], notify=hook.url)
    assert group[0].exception(LIMIT)
    eventually(lambda: len(hook.seen) == 3)
    group.retry_failed()
    assert group.result(LIMIT) == ["the answer"]
    eventually(lambda: len(hook.seen) == 4)
    told = [body["status"] for _, body in hook.seen]
    assert told == ["failed", "failed", "failed", "completed"]


@pytest.mark.parametrize("target", WRONG)
def test_wrong_targets(target: Any) -> None:
    """What nobody can be told at is one line, which has no more of an address than its host."""
    with pytest.raises(BadInput) as caught:
        to_notified(target, "--notify")
    said = str(caught.value)
    assert said.startswith("--notify")
    assert "\n" not in said
    assert "/hook" not in said
    assert "pw" not in said


def test_what_is_taken() -> None:
    """The browser, functions and addresses, alone or several; reading them twice changes nothing, and
    an address is not in any text of what it becomes."""
    found = to_notified([True, "1", print, "https://hooks.example/T0/x", "http://[::1]:8/y"], "x")
    assert found[:3] == (BROWSER, BROWSER, print)
    assert to_notified(found, "x") == found
    assert "T0" not in repr(found) + str(found[3])
    assert to_notified("0", "x") == to_notified(False, "x") == ()
    with pytest.raises(BadInput, match="of cells only"):
        bgmagic.submit("Why?", notify=True)


SCRIPT = """
import bgmagic, sys, threading
from bgmagic.submission import notify
notify.DELAYS = (0.01,)
over = threading.Event()
def told(job):
    over.wait(120)
    print("told", job.status, flush=True)
job = bgmagic.submit("Why?", notify=[told, sys.argv[1]])
forever = bgmagic.submit("And?", poll=60, notify=lambda job: print("never"))
job.result(120)
over.set()
"""


def test_a_script_that_ends_tells_first(server: ScriptedServer, hook: Hook, tmp_path: Path) -> None:
    """A script whose job has ended tells of that before it is gone, and nothing of one that goes on."""
    server.ending = lambda rid, body: response(
        rid, "in_progress" if "And?" in str(body) else "completed", "the answer"
    )
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, hook.url], capture_output=True, text=True, timeout=240,
        env={
            **os.environ, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.base_url,
            "BGMAGIC_JOURNAL": str(tmp_path / "j.sqlite3"), "BGMAGIC_POLL": "0.05",
        },
    )  # fmt: skip
    assert ran.stdout == "told completed\n", ran
    assert len(hook.seen) == 1
    assert b"s3cr3t" not in (tmp_path / "j.sqlite3").read_bytes()


def test_in_a_notebook(lasting: dict[str, str], server: ScriptedServer, hook: Hook) -> None:
    """--notify alone stays the browser's; with $NAME a function is called; %config names one for all
    jobs, attached ones too, whose own was not written down."""
    server.polls = 10**6
    with kernel(**lasting | {"JPY_SESSION_NAME": "/home/me/study.ipynb"}) as first:
        first.ok("%load_ext bgmagic")
        first.ok("got = []\ndef told(job): got.append((job.name, job.status))")
        first.ok("%%bgresponse --notify -o a --poll 0.1\nWhy?")
        first.ok(f"%%bgresponse -o b --notify $told --notify {hook.url} --poll 0.1\nWhy not?")
        said = first.run("%%bgresponse -o c --notify http://example.org/x\nWhy?").said
        assert "only https:// leaves this machine" in said
        assert "s3cr3t" not in first.ok("%config BgMagics").said
        first.until("b.running() and a.running()")
        first.manager.signal_kernel(9)
        eventually(lambda: not first.manager.is_alive())
    with kernel(**lasting | {"JPY_SESSION_NAME": "/home/me/study.ipynb"}) as second:
        _attach_with_config(second, hook)
        server.polls = 0
        second.ok("%bgwait")
        eventually(lambda: len(hook.seen) == 2)
        assert {body["name"] for _, body in hook.seen} == {"a", "b"}
        assert {body["notebook"] for _, body in hook.seen} == {"study.ipynb"}
        second.until("sorted(got) == ['a', 'b']")
        second.ok("%bgattach a -o z")
    assert len(hook.seen) == 2


def _attach_with_config(running: Kernel, hook: Hook) -> None:
    running.ok("%load_ext bgmagic")
    running.ok("got = []\ndef told(job): got.append(job.name)")
    running.ok(f"%config BgMagics.notify = [told, {hook.url!r}]")
    shown = running.ok("%config BgMagics").said
    assert "127.0.0.1" in shown
    assert "s3cr3t" not in shown
    running.ok("%bgattach --all")
