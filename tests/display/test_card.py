"""The card: what it says of a job, in messages to the browser and in plain text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anywidget
import ipywidgets
import pytest

from bgmagic.api.request import Request
from bgmagic.display import frontend
from bgmagic.display.board import GroupBoard, JobsBoard
from bgmagic.display.card import Card
from bgmagic.display.listing import _call, describe_live, snapshot, summary, table_row
from bgmagic.display.static_html import _steps
from bgmagic.errors import BadInput
from bgmagic.jobs.job import Job
from bgmagic.jobs.steps import Step
from bgmagic.runtime.manager import JobManager
from tests.jobs.test_job import LIMIT, SOON, eventually
from tests.support.kernels import Kernel
from tests.support.scripted import Script, ScriptedServer, response

Ask = Callable[..., Request]


@pytest.fixture
def shown(pointed: ScriptedServer) -> Any:
    made = JobManager(make_card=Card)
    yield made
    assert made.close(60)


def test_card_follows_the_job(shown: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """The card has name, model, effort and id, each status in the server's words, and the end."""
    pointed.polls = 10**6
    job = shown.submit(ask(effort="high"), name="critique", poll_interval=SOON)
    card = job.card
    assert card is job.card
    statuses: list[str] = []
    card.observe(lambda change: statuses.append(change["new"]["status"]), "view")
    eventually(lambda: card.view["status"] == "in_progress")
    expected = {
        "name": "critique",
        "model": "gpt-5.2-true",
        "effort": "high",
        "response_id": "resp_1",
    }
    assert expected.items() <= card.view.items()
    assert not card.view["done"]
    pointed.polls = 0
    job.result(LIMIT)
    eventually(lambda: card.view["done"])
    assert card.view["status"] == "completed"
    assert card.view["ended_at"] >= card.view["submitted_at"]


def test_card_is_an_ordinary_widget(shown: JobManager, ask: Ask) -> None:
    """job.card can stand in a box like any widget, and is drawn by what draws anywidget's own."""
    box = ipywidgets.VBox([shown.submit(ask(), poll_interval=SOON).card])
    assert isinstance(box.children[0], ipywidgets.DOMWidget)
    theirs, ours = anywidget.AnyWidget().get_state(), box.children[0].get_state()
    assert theirs.keys() <= ours.keys()
    names = [name for name in theirs if name.startswith(("_model", "_view"))]
    assert len(names) == 7
    assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}
    assert ours["_anywidget_id"] == "bgmagic.display.card.Card"


def test_card_tells_failures(shown: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """A failing poll and the final error are shown in words."""
    gate = Script(status=500, json={"error": {"message": "Overloaded."}})
    pointed.always["retrieve"] = gate
    job = shown.submit(ask(), poll_interval=SOON)
    eventually(lambda: "Overloaded." in job.card.view["message"])
    del pointed.always["retrieve"]
    error = {"code": "server_error", "message": "Broke."}
    pointed.ending = lambda rid, _: response(rid, "failed", error=error)
    assert job.exception(LIMIT)
    eventually(lambda: job.card.view["message"] == "server_error: Broke.")


def test_card_tells_how_long_earlier_jobs_took(pointed: ScriptedServer, ask: Ask) -> None:
    """From acceptance on the card has what the journal says of earlier jobs, asked off the loop thread,
    and nothing if that can't be read."""
    threads: list[str] = []

    def look_back(job: Job) -> dict[str, Any]:
        threads.append(threading.current_thread().name)
        if job.name == "broken":
            raise OSError("no journal")
        return {"count": 3, "median": 60.0, "low": 5.0, "high": 90.0}

    made = JobManager(make_card=lambda job: Card(job, history=look_back))
    pointed.polls = 10**6
    job, broken = (made.submit(ask(), name=name, poll_interval=SOON) for name in ("x", "broken"))
    eventually(lambda: job.card.view.get("history", {}).get("median") == 60.0)
    eventually(lambda: broken.card.view["status"] == "in_progress" and len(threads) == 2)
    assert broken.card.view["history"] == {}
    assert not any(name == "bgmagic" for name in threads)
    assert made.close(60)


def test_history_is_of_the_same_model_and_effort(in_kernel: Kernel, server: ScriptedServer) -> None:
    """The card's figures come from this user's own completed jobs of the same model and effort; without
    any there are none."""
    server.polls = 0
    for effort in ("low", "low", "high"):
        in_kernel.ok(f"%%bgresponse -o x -e {effort} --wait --again\nWhy?")
    server.polls = 10**6
    for effort, count in (("low", 2), ("high", 1), ("none", 0)):
        in_kernel.ok(f"%%bgresponse -o y_{effort} -e {effort}\nWhat?")
        in_kernel.until(f"y_{effort}.card.view.get('history')")
        assert in_kernel.value(f"y_{effort}.card.view['history']['count']") == str(count)
    assert in_kernel.value("'median' in y_none.card.view.get('history')") == "False"


def test_what_a_click_can_not_do_is_said(
    shown: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """Check again picks up only a detached job; why that can't be is said on the card; and each click is
    acknowledged, so that the page knows that it was heard."""
    pointed.polls, sending = 10**6, threading.Event()
    pointed.enqueue("create", Script(hold=sending))
    job = shown.submit(ask(), name="x", poll_interval=SOON, deadline=0.3)
    asked: list[Job] = []

    def refuse(which: Job) -> Job:
        asked.append(which)
        raise BadInput("another kernel follows it")

    card, sent = Card(job, pick_up=refuse), []
    card.send = lambda content, buffers=None: sent.append(content)
    card._handle_custom_msg({"action": "check"}, [])
    assert (asked, sent) == ([], [{"heard": "check"}])
    sending.set()
    eventually(lambda: card.view["status"] == "detached")
    card._handle_custom_msg({"action": "check"}, [])
    assert asked == [job]
    assert card.view["refused"] == "Another kernel follows it"
    assert sent[-1] == {"heard": "check"}


def test_only_the_buttons_message_cancels(
    shown: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """What the Cancel button sends cancels; any other message does nothing."""
    pointed.polls = 10**6
    job = shown.submit(ask(), poll_interval=SOON)
    eventually(job.running)
    for message in ("cancel", {"action": "boom"}, [], None, {"action": ["cancel"]}):
        job.card._handle_custom_msg(message, [])
    assert not job.record.cancelling
    job.card._handle_custom_msg({"action": "cancel"}, [])
    eventually(job.cancelled)
    assert pointed.count("cancel") == 1


def test_send_again_button(shown: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """Only an unknown job is sent again by its button, once, and the card goes on with the new one."""
    pointed.polls = 2
    done = shown.submit(ask(), poll_interval=SOON)
    done.result(LIMIT)
    done.card._handle_custom_msg({"action": "resend"}, [])
    assert pointed.count("create") == 1
    pointed.enqueue("create", Script(reset="after"))
    job = shown.submit(ask(), poll_interval=SOON)
    assert job.exception(LIMIT)
    eventually(lambda: job.card.view["status"] == "unknown")
    assert pointed.count("create") == 2
    job.card._handle_custom_msg({"action": "resend"}, [])
    job.card._handle_custom_msg({"action": "resend"}, [])
    eventually(lambda: job.card.view["status"] == "completed")
    assert pointed.count("create") == 3
    assert job.status == "unknown"


def test_who_is_asked_sees_all_of_a_call() -> None:
    """A call that needs somebody's word is shown to its end, whatever spaces stand before that; of one
    that is too long the card says how much more there is. Formulas in outputs stay text in the end."""
    padded = '{"path": "a.txt"' + " " * 90_000 + f', "text": "{"x" * 900}", "path": "/home"}}'
    step = Step("remove", padded, "c1", "asking", output="$$\\def\\x{1}$$")
    assert _call(step)["text"].endswith('"path": "/home"})')
    assert _call(replace(step, status="done"))["text"] == 'remove({"path": "a.txt"…'
    long = replace(step, arguments="y" * 100_000)
    assert _call(long)["text"].endswith("… and 80,008 more characters: .steps")
    assert "$$" not in _steps([step])
    assert "\\def" not in _steps([step])


def test_line_says_it_in_words(shown: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """Where no widget can be shown, one line has name, status, model, effort and time."""
    pointed.enqueue("create", Script(status=400, json={"error": {"message": "No."}}))
    job = shown.submit(ask(effort="low"), name="x")
    assert job.exception(LIMIT)
    told = r"x: failed \(gpt-5.2, effort low\), \d+ s: not accepted by the server: HTTP 400: No\."
    assert re.fullmatch(told, describe_live(job))
    assert snapshot(job)["message"] == "Not accepted by the server: HTTP 400: No."


def test_widget_and_plain_text_go_out_together(in_kernel: Kernel, server: ScriptedServer) -> None:
    """The display has a plain line beside the widget, for frontends without widgets."""
    server.polls = 10**6
    card, beside = in_kernel.ok("%%bgresponse -o x\nWhy?").displays[:2]
    assert card["text/plain"].startswith("x: ")
    assert "application/vnd.jupyter.widget-view+json" in card
    assert "%bgattach x" in beside["text/html"]
    assert "widget" not in str(list(beside))


def in_terminal(code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process where terminal IPython, ``shell``, has just sent the job ``x``."""
    before = (
        "from IPython.terminal.interactiveshell import TerminalInteractiveShell as Shell; "
        "shell = Shell.instance(colors='NoColor'); "
        "shell.run_line_magic('load_ext', 'bgmagic'); "
        "shell.run_cell('%%bgresponse -o x --poll 0.1\\nWhy?'); "
    )
    return subprocess.run(
        [sys.executable, "-c", before + code],
        capture_output=True,
        text=True,
        timeout=240,
        env=dict(os.environ),
    )


def test_terminal_gets_a_line(pointed: ScriptedServer) -> None:
    """In terminal IPython there is one line instead of a card, and the rest works."""
    ran = in_terminal(
        "shell.run_cell('%bgwait x'); shell.run_cell('x'); shell.run_cell('%%bgresponse -z\\nWhy?')"
    )
    assert "x: sent to gpt-5.2 in the background; %bgwait x waits for it" in ran.stdout, ran.stderr
    assert "x: completed after" in ran.stdout
    assert "the answer" in ran.stdout
    assert "UsageError: %%bgresponse has no option -z" in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr


def test_terminal_tells_the_end_at_the_next_prompt(pointed: ScriptedServer) -> None:
    """In terminal IPython a job that ended says so once, in a line before the next prompt."""
    ran = in_terminal(
        "shell.user_ns['x'].result(120); print('NEXT'); shell.run_cell('1'); shell.run_cell('2')"
    )
    after = ran.stdout.partition("NEXT")[2]
    assert after.count("x: completed") == 1, ran.stdout + ran.stderr


def test_marimo_draws_boards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook of marimo, which has no IPython, draws widgets; a script that imports marimo does not."""
    for runs, live in ((True, True), (False, False)):
        module = types.SimpleNamespace(running_in_notebook=lambda runs=runs: runs)
        monkeypatch.setitem(sys.modules, "marimo", module)
        assert frontend.current().live is live


def test_colours_are_the_frontends() -> None:
    """Each display takes its ink and paper from Jupyter or VS Code, and no colour that its style sheet does not define."""
    for widget in (Card, JobsBoard, GroupBoard):
        sheet = widget._css.default_value
        used, defined = (
            re.findall(r"var\((--bgmagic-\w+)", sheet),
            re.findall(r"(--bgmagic-\w+):", sheet),
        )
        assert set(used) <= set(defined)
        for name in (
            "--jp-ui-font-color1",
            "--vscode-editor-foreground",
            "--vscode-editor-background",
        ):
            assert name in sheet


def test_board_shows_an_answer_as_it_is_rendered(
    monkeypatch: pytest.MonkeyPatch, manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A row that is opened shows its answer as Markdown, in which nothing the model wrote is markup."""
    text = "It is **so**, <img src=x onerror=alert(1)>, $a^2$."
    pointed.ending = lambda rid, _: response(rid, "completed", text)
    job = manager.submit(ask(), name="x", poll_interval=SOON)
    job.result(LIMIT)
    board = JobsBoard(lambda _: None)
    sent: list[Any] = []
    monkeypatch.setattr(board, "send", sent.append)
    board.fill([table_row(job)], [job])
    board.show(job.record.key)
    (shown,) = [told["shown"] for told in sent if "shown" in told]
    assert "<strong>so</strong>" in shown["html"]
    assert "<math" in shown["html"]
    assert "<img" not in shown["html"]


def test_tables_say_statuses_in_words(manager: JobManager, ask: Ask) -> None:
    """A row, and the line above the table, have a status as cards say it, not as the API spells it."""
    job = manager.submit(ask(), name="x")
    assert job.result(LIMIT)
    row = replace(table_row(job), status="in_progress")
    assert row.cells[1] == "in progress"
    assert summary([row]) == "1 job, 1 in progress"


def test_board_follows_a_job_that_is_attached_again(
    monkeypatch: pytest.MonkeyPatch, manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """The row of a job whose deadline had passed moves on once the job is attached in the same kernel."""
    pointed.polls = 10**6
    job = manager.submit(ask(), name="x", poll_interval=SOON, deadline=0.1)
    eventually(lambda: job.status == "detached")
    board = JobsBoard(lambda _: None)
    monkeypatch.setattr(board, "send", lambda _: None)
    board.fill([table_row(job)], [job])
    manager.watch(board.follow)
    entry = manager.store.find(job.key)
    assert entry is not None
    hold = threading.Event()
    pointed.always["retrieve"] = Script(hold=hold)
    manager.attach(entry)
    eventually(lambda: "detached" not in board.plain_text())
    pointed.polls = 0
    hold.set()
    eventually(lambda: ": 1 job, 1 completed" in board.plain_text())


def test_card_tells_when_the_window_ends(
    shown: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A job in a window says until when, from acceptance on, and how much of it is left."""
    pointed.polls = 10**6
    job = shown.submit(ask(window="2h"), name="cheap", poll_interval=SOON)
    assert job.card.view["window_ends_at"] in (None, (job.record.accepted_at or 0) + 7200)
    eventually(lambda: job.card.view["status"] == "in_progress")
    view = job.card.view
    assert view["window"] == "2h"
    assert view["window_ends_at"] == view["accepted_at"] + 7200
    assert describe_live(job).endswith("left of its window of 2h")
    plain = shown.submit(ask(), poll_interval=SOON)
    eventually(lambda: plain.card.view["status"] == "in_progress")
    assert plain.card.view["window_ends_at"] is None
    assert plain.card.view["window"] == ""
