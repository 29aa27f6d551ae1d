"""The board of a group: what it tells the page, and what the user sees in a real JupyterLab."""

# ruff: noqa: F811 - fixtures of another file are used by their names
from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bgmagic.display.board import GroupBoard
from bgmagic.display.static_html import KEPT_ROWS, final_group_bundle
from bgmagic.jobs.export import NAMED, GroupSummary
from tests.jobs.test_export import done_job
from tests.jobs.test_group import Ask, ask, echo, kernel_of, letter  # noqa: F401
from tests.jobs.test_job import LIMIT, eventually
from tests.support.browser import Lab, Open, lab_with, outputs, saved  # noqa: F401
from tests.support.scripted import Script, ScriptedServer, response

HOSTILE = "<img src=x onerror='window.fired=1'>"
USAGE = {"input_tokens": 10, "output_tokens": 20, "output_tokens_details": {"reasoning_tokens": 5}}


def ending(rid: str, body: Any) -> dict[str, Any]:
    """Completed for a, failed for b, running for ever for c."""
    which = letter(body)
    if which == "b":
        return response(rid, "failed", error={"code": "server_error", "message": HOSTILE})
    return response(rid, "completed" if which == "a" else "in_progress", HOSTILE, usage=USAGE)


def test_a_board_adds_up_what_its_jobs_are(ask: Ask, pointed: ScriptedServer) -> None:
    """Counts by status, tokens, the slowest, and the failed by their reasons; what has no price is not
    0; many changes are few messages."""
    pointed.ending, go = ending, threading.Event()
    pointed.always["create"] = Script(hold=go)
    group = ask("Say {{ item }}", ["a", "b", "c"], n=20, max_in_flight=50)
    board: GroupBoard = group.board
    seen: list[Any] = []
    changes: list[Any] = []
    board.observe(lambda change: seen.append(change), "view")
    group.add_listener(changes.append)
    go.set()
    eventually(lambda: board.view["counts"].get("failed") == 20)
    eventually(lambda: board.view["counts"] == {"completed": 20, "failed": 20, "in_progress": 20})
    view = board.view
    assert (view["size"], view["ended"], view["done"], view["failures"]) == (60, 40, False, 20)
    assert (view["tokens_in"], view["tokens_out"], view["tokens_reasoning"]) == (200, 400, 100)
    assert (view["price"], view["unpriced"]) == (None, 20)
    (reason,) = view["failed"]
    assert (reason["count"], reason["status"]) == (20, "failed")
    assert reason["reason"] == f"server_error: {HOSTILE}"
    assert reason["names"].endswith(f"and {20 - NAMED} more")
    assert len(view["slowest"]) == 5
    assert all(job["status"] == "in progress".replace(" ", "_") for job in view["slowest"])
    assert view["pace"] > 0
    eventually(lambda: "no price known" in board.view["bill"])
    assert len(changes) > 120
    assert len(seen) < len(changes) / 3
    json.dumps(view)
    board._handle_custom_msg({"action": "cancel"}, [])
    eventually(group.done)
    eventually(lambda: board.view["done"])
    assert board.view["counts"]["cancelled"] == 20


def test_a_refusal_is_told_on_the_board(ask: Ask, pointed: ScriptedServer) -> None:
    """What holds the group up, a 429, stands on its board, and goes when that is over."""
    told = {"error": {"message": "too many requests", "code": "rate_limit_exceeded"}}
    pointed.enqueue("create", Script(status=429, json=told, headers={"retry-after": "1"}))
    group = ask("{{ item }}", ["a", "b"])
    board = group.board
    eventually(lambda: "too many requests" in board.view["trouble"])
    group.result(LIMIT)
    eventually(lambda: board.view["done"])
    assert board.view["trouble"] == ""


def test_what_stays_is_plain(ask: Ask, pointed: ScriptedServer) -> None:
    """When all have ended: counts, reasons and a folded table of a bounded number of rows, with every
    text of the server escaped; the group shows itself so from then on."""
    pointed.ending = lambda rid, body: ending(rid, body) if letter(body) != "c" else echo(rid, body)
    group = ask("Say {{ item }}", list("abc") * 50, yes=150)
    group.result(LIMIT, return_exceptions=True)
    shown = final_group_bundle(group)
    page = shown["text/html"]
    assert set(re.findall(r"<(\w+)", page)) == {
        "div", "span", "b", "ul", "li", "details", "summary", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert html.escape(HOSTILE) in page
    assert page.count("<tr>") == KEPT_ROWS + 1
    assert f"The first {KEPT_ROWS} of 150 jobs" in page
    assert "50 without an answer; group.retry_failed() sends them again." in page
    assert "100 completed" in shown["text/plain"]
    assert "1,500 out" not in page
    assert group._repr_mimebundle_()[0] == shown
    assert GroupSummary(group.jobs).price == (None, 100)


def test_only_remedies_that_help_are_named(
    ask: Ask, pointed: ScriptedServer, kernel_of: Callable[[], dict[str, Any]]
) -> None:
    """What stays says how to go on: what may have been accepted is sent again only on purpose, and what
    another kernel has can only be attached."""
    pointed.enqueue("create", Script(reset="after"))
    group = ask("Say {{ item }}", ["a"], out="x")
    eventually(group.done)
    page = final_group_bundle(group)["text/html"]
    assert "x.retry_failed() sends" not in page
    assert "x.retry_failed(unknown=True) those too that may have been accepted" in page
    pointed.polls = 10**6
    left = ask("Say {{ item }}", ["a"], out="y")
    eventually(lambda: left.jobs[0].running())
    kernel_of()
    page = final_group_bundle(left)["text/html"]
    assert "1 without an answer; %bgattach y follows those that are detached." in page


def test_prices_of_some() -> None:
    """The price so far is that of the jobs whose price is known, and it is said of how many it is not."""
    usage = {"input_tokens": 1000, "output_tokens": 500}
    known = done_job({"model": "gpt-5.2", "usage": usage, "output": []})
    unknown = done_job({"model": "dream-9", "usage": usage, "output": []})
    price, unpriced = GroupSummary([known, known, unknown]).price
    assert price == pytest.approx(2 * (known.price or 0))
    assert price
    assert (unpriced, unknown.price) == (1, None)


def test_board_in_a_notebook(server: ScriptedServer, lab_with: Open) -> None:
    """One board for a sweep: it counts live, Cancel all asks once more and Escape takes that back; at the
    end plain HTML is saved in its place. Nothing that a server wrote is ever markup."""
    server.ending = ending
    cells = (
        "letters = list('abc') * 8",
        "%%bgresponse -o study --each letters --max-in-flight 12\nSay {{ item }}",
        "study.counts",
        "%%bgresponse -o unseen --n 2 --quiet\nSay {{ 'c' }}",
        "unseen",
        "unseen.cancel()",
    )
    lab, path = lab_with(*cells)
    lab.run(1)
    lab.run(2)
    board = lab.cell(2).locator(".bgmagic-group-board")
    board.get_by_text("16 of 24 jobs").wait_for()
    assert lab.cell(2).locator(".bgmagic-card").count() == 0
    assert board.locator(".bgmagic-group-count").all_inner_texts() == [
        "8 completed", "8 failed", "8 in progress",
    ]  # fmt: skip
    board.get_by_text("8 without an answer").click()
    assert HOSTILE in board.locator(".bgmagic-group-failed").inner_text()
    cancel = board.get_by_role("button")
    cancel.focus()
    lab.page.keyboard.press("Enter")
    board.get_by_text("Really cancel 8 jobs?").wait_for()
    lab.page.keyboard.press("Escape")
    board.get_by_text("Cancel all", exact=True).wait_for()
    assert server.count("cancel") == 0
    cancel.click()
    board.get_by_text("Really cancel 8 jobs?").click()
    title = "study 24 jobs: 8 completed, 8 failed, 8 cancelled"
    lab.cell(2).get_by_text(title).wait_for()
    assert server.count("cancel") == 8
    assert board.count() == 0
    saved(lab.page, path, 2, "All 24 jobs", gone="%bgattach")
    assert lab.page.evaluate("window.fired") is None
    # Looked at by its variable alone.
    lab.run(4)
    lab.run(5)
    lab.cell(5).locator(".bgmagic-group-board").get_by_text("2 in progress").wait_for()
    lab.run(6)
    lab.cell(5).get_by_text("unseen 2 jobs: 2 cancelled").wait_for()
    assert "All 2 jobs" in saved(lab.page, path, 5, "unseen")


def test_reload_keeps_the_board_alive(server: ScriptedServer, lab_with: Open) -> None:
    """After a reload of the page the board is live, and what ends then is saved as plain HTML too."""
    server.polls = 10**6
    lab, path = lab_with("%%bgresponse -o study --n 3\nSay a")
    lab.run(1)
    lab.cell(1).locator(".bgmagic-group-board").get_by_text("3 in progress").wait_for()
    while not outputs(path, 1):
        lab.page.keyboard.press("Control+s")
        lab.page.wait_for_timeout(300)
    lab = Lab(lab.page, lab.page.url.partition("?")[0])
    board = lab.cell(1).locator(".bgmagic-group-board")
    board.get_by_text("3 in progress").wait_for()
    server.polls = 0
    lab.cell(1).get_by_text("study 3 jobs: 3 completed").wait_for()
    assert board.count() == 0
    saved(lab.page, path, 1, "All 3 jobs", gone="%bgattach study")
