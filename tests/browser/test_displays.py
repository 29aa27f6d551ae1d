"""The displays in JupyterLab and Notebook 7: accessible, calm, heard, and readable afterwards."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nbconvert import HTMLExporter

from tests.support.browser import LIMIT, Lab, Open, barriers, outputs, saved, status
from tests.support.scripted import Script, ScriptedServer, event, response, written

ANSWER = "| a | b |\n|---|---|\n| 1 | $x^2$ |\n\n```python\nx = 'a long line of code' * 1000 + 'and so on, further and further to the right, over the edge'\n```"


def wait_until(lab: Lab, condition: Callable[[], bool], limit: float = LIMIT) -> None:
    """Wait for something outside the page."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "never so"
        lab.page.wait_for_timeout(50)


def press_until(press: Callable[[], None], shown: Any) -> None:
    """Press something until what it shows was seen: it may come too early, or be seen too late on a busy machine."""
    for _ in range(10):
        with contextlib.suppress(Exception):
            press()
        with contextlib.suppress(Exception):
            return shown.wait_for(timeout=5000)
    raise AssertionError(f"never shown: {shown}")


def by_prompt(rid: str, body: Any) -> dict[str, Any]:
    """A response ends as the first word of its prompt says."""
    word = body["input"][-1]["content"][0]["text"].split()[0]
    if word == "failed":
        return response(rid, word, error={"code": "server_error", "message": "It broke."})
    if word == "incomplete":
        why = {"reason": "max_output_tokens"}
        return response(rid, word, "Only so", incomplete_details=why)
    return response(rid, word, ANSWER if word == "completed" else None)


def animation(lab: Lab, index: int) -> str:
    icon = lab.cell(index).locator(".bgmagic-top .bgmagic-icon")
    return str(icon.evaluate("icon => getComputedStyle(icon).animationName"))


@pytest.mark.parametrize(
    ("theme", "app"), [("light", "jupyterlab"), ("dark", "jupyterlab"), ("light", "notebook")]
)
def test_no_barriers(theme: str, app: str, server: ScriptedServer, lab_with: Open) -> None:
    """axe-core finds nothing wrong within cards of several states, the board and what is left, in both
    themes and in Notebook 7, whose right sidebar has the panel, too; the dark theme is dark; a wish for reduced motion stops the icon. A finished
    answer's code has a button that copies it, by the keyboard too."""
    server.polls, server.ending = 0, by_prompt
    words = ("queued", "in_progress", "completed", "failed", "incomplete", "in_progress")
    thought = event("response.reasoning_summary_text.delta", 2, delta="Let me see.")
    server.stream = lambda rid: [*written(rid, ["So "])[:2], thought, threading.Event()]
    cells = [f"%%bgresponse -o a{n} -e low\n{word} {n}" for n, word in enumerate(words)]
    cells[1] = cells[1].replace("-e low", "-e low --stream")
    motion = "reduce" if theme == "dark" else "no-preference"
    lab, _ = lab_with(*cells, "%bgjobs", theme=theme, app=app, reduced_motion=motion)
    for index, word in enumerate(words, 1):
        if index == len(words):
            server.enqueue("create", Script(reset="after"))
        lab.run(index)
        if word in ("queued", "in_progress"):
            status(lab, index, "unknown" if index == len(words) else word)
        else:
            lab.cell(index).locator("b", has_text=f"a{index - 1}").wait_for()
    lab.cell(2).get_by_text("Let me see.").wait_for()
    lab.run(7)
    lab.cell(7).locator(".bgmagic-board tr[data-status=unknown]").wait_for()
    lab.cell(7).get_by_role("button", name="a2", exact=True).click()
    lab.cell(7).locator(".bgmagic-shown math").get_by_text("2").wait_for()
    assert animation(lab, 2) == ("none" if theme == "dark" else "bgmagic-turn")
    found = barriers(lab.page, ".bgmagic-card")
    found += barriers(lab.page, ".bgmagic-board")
    # The copy of the board, too, which is seen where there is none.
    lab.page.add_style_tag(content=".jp-OutputArea-child { display: table !important; }")
    lab.page.evaluate(
        """() => document.querySelectorAll('.jp-RenderedHTMLCommon > div').forEach(
            found => found.classList.add('under-test'))"""
    )
    assert lab.page.locator(".under-test").count() >= 8
    code = lab.cell(3).locator(".under-test pre")
    code.focus()
    lab.page.keyboard.press("Tab")
    copy = lab.cell(3).get_by_role("button", name="Copy this code")
    assert copy.evaluate("button => button === document.activeElement")
    found += barriers(lab.page, ".under-test")
    assert found == []
    paper = (
        lab.cell(2)
        .locator(".bgmagic-card")
        .evaluate(
            "card => getComputedStyle(card).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
        )
    )
    assert (sum(paper) < 200) == (theme == "dark"), paper
    lab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    press_until(lambda: lab.page.keyboard.press("Enter"), copy.get_by_text("Copied"))
    assert lab.page.evaluate("navigator.clipboard.readText()").startswith("x = 'a long line")
    lab.cell(1).locator(".cm-content").click()
    copy.wait_for(state="detached")
    if app == "notebook":  # JupyterLab's panel has tests of its own
        lab.page.locator(".lm-MenuBar-itemLabel", has_text="View").click()
        lab.page.get_by_text("Right Sidebar", exact=True).hover()
        lab.page.get_by_text("Show Background jobs").click()
        lab.page.locator(".bgpanel-row", has_text="unknown").click()
        lab.page.locator(".bgpanel-detail").get_by_role("button", name="Send again").wait_for()
        assert barriers(lab.page, ".bgpanel-panel") == []


@pytest.mark.parametrize("app", ["jupyterlab", "notebook"])
def test_click_while_a_cell_computes(
    app: str, server: ScriptedServer, lab_with: Open, tmp_path: Path
) -> None:
    """Cancel reaches the server while a cell computes; where the kernel makes the click wait, the card
    says so at once, and it counts when the cell has ended."""
    server.polls = 10**6
    go = tmp_path / "go"
    busy = f"while not go({str(go)!r}): sum(range(10_000))"
    lab, _ = lab_with(
        "from os.path import exists as go",
        "%%bgresponse -o a\nWhy?",
        busy,
        "%%bgresponse -o b\nWhy?",
        "b.card.comm._reply_subshell_for = lambda *_: None  # as frontends without subshells do",
        busy,
        app=app,
    )
    lab.run(1)
    lab.run(2)
    status(lab, 2, "in_progress")
    lab.run(3, finish=False)
    for name in ("Cancel a", "Really cancel? a"):
        lab.cell(2).get_by_role("button", name=name).click()
    lab.cell(2).get_by_text("⊘ a cancelled").wait_for()
    assert server.count("cancel") == 1
    assert lab.cell(3).locator(".jp-InputPrompt").inner_text() == "[*]:"
    lab.interrupt(3)
    lab.run(4)
    status(lab, 4, "in_progress")
    lab.run(5)
    lab.run(6, finish=False)
    for name in ("Cancel b", "Really cancel? b"):
        lab.cell(4).get_by_role("button", name=name).click()
    lab.cell(4).get_by_role("button", name="Waiting for the kernel… b").wait_for()
    lab.cell(4).get_by_text("No answer from the kernel yet.").wait_for()
    assert server.count("cancel") == 1
    go.touch()
    lab.cell(4).get_by_text("⊘ b cancelled").wait_for()
    assert server.count("cancel") == 2


STUB = """
window.asked = [];
window.Notification = class {
  static permission = 'granted';
  static requestPermission() { return Promise.resolve('granted'); }
  constructor(title, more) { window.asked.push([title, more.body]); }
};
window.away = away => Object.defineProperty(document, 'hidden', {value: away, configurable: true});
"""


def test_notice_copy_and_offline(server: ScriptedServer, lab_with: Open) -> None:
    """The response id can be copied; --notify asks the browser for a notification at the end, only if the tab is hidden then, and only
    for jobs that asked; a card whose polls fail says that the job goes on, until they work again."""
    server.polls = 10**6
    lab, _ = lab_with(
        *(f"%%bgresponse -o {name} {flag}\n{name}" for name, flag in
          (("seen", "--notify"), ("hidden", "--notify"), ("quiet", ""))),
    )  # fmt: skip
    lab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    lab.page.evaluate(STUB)
    for index in (1, 2, 3):
        lab.run(index)
        status(lab, index, "in_progress")
    lab.cell(2).get_by_role("button", name="Copy the response id resp_2").click()
    lab.page.wait_for_function("async () => await navigator.clipboard.readText() === 'resp_2'")
    server.always["retrieve"] = Script(reset="before")
    told = lab.cell(1).locator(".bgmagic-message")
    told.get_by_text("Offline, the job goes on at the server: no answer").wait_for()
    assert animation(lab, 1) == "none"
    del server.always["retrieve"]
    told.wait_for(state="hidden")
    assert animation(lab, 1) == "bgmagic-turn"
    for rid, away in (("resp_1", False), ("resp_3", True), ("resp_2", True)):
        lab.page.evaluate("away => window.away(away)", away)
        server.responses[rid] = response(rid, "completed", f"the answer of {rid}")
        lab.page.get_by_text(f"the answer of {rid}").first.wait_for()
    ((title, body),) = lab.page.evaluate("window.asked")
    assert title == "hidden: completed"
    assert re.match(r"after \d+:\d\d", body)


MANY = """from ipywidgets import VBox
import bgmagic
jobs = [bgmagic.submit(f"Why {n}?", poll=5) for n in range(200)]
VBox([job.card for job in jobs])"""
THOUSAND = """from dataclasses import replace
from bgmagic.display.board import JobsBoard
from bgmagic.display.listing import table_row
some = table_row(jobs[0])
board = JobsBoard(lambda key: None)
board.fill([replace(some, key=str(n), name=f"row_{n}", submitted_at=n) for n in range(1000)], jobs)
board"""


def test_many_cards_and_rows(server: ScriptedServer, lab_with: Open) -> None:
    """200 live cards all tick, and a board of 1,000 rows and them sorts, while keys typed into a cell
    land in it; a card displayed twice in a box shows the same, also after a click on one."""
    server.polls = 10**6
    lab, _ = lab_with(MANY, THOUSAND, "x = 1", "VBox([jobs[0].card, jobs[0].card])")
    lab.run(1)
    lab.page.wait_for_function(
        "() => document.querySelectorAll('.bgmagic-card[data-status=in_progress]').length === 200",
    )
    lab.cell(3).locator(".cm-content").click()
    lab.page.keyboard.press("End")
    lab.page.keyboard.type("234567890", delay=30)
    assert lab.cell(3).locator(".cm-content").inner_text() == "x = 1234567890"
    # JupyterLab draws nothing that is out of sight, and such a text is empty for `innerText`.
    before = lab.cell(1).locator(".bgmagic-time").last.text_content()
    lab.page.wait_for_function(
        "before => [...document.querySelectorAll('.bgmagic-time')].at(-1).textContent !== before",
        arg=before,
    )
    lab.run(2)
    board = lab.cell(2).locator(".bgmagic-board")
    board.get_by_role("button", name="all 1200").wait_for()
    board.get_by_role("button", name="variable").click()
    first = board.locator("tbody tr:visible .bgmagic-open").first
    board.get_by_role("button", name="variable").click()
    assert first.inner_text() == "row_999"
    lab.run(4)
    twice = lab.cell(4).locator(".bgmagic-card[data-status=in_progress]")
    wait_until(lab, lambda: twice.count() == 2)
    twice.first.get_by_role("button", name="Cancel").click()
    twice.first.get_by_role("button", name="Really cancel?").click()
    ended = lab.cell(4).locator(".bgmagic-card[data-status=cancelled]")
    wait_until(lab, lambda: ended.count() == 2)
    server.polls = 0
    board.get_by_role("button", name="completed 199").wait_for()
    assert server.count("cancel") == 1


@pytest.mark.parametrize("app", ["jupyterlab", "notebook"])
def test_saved_and_opened_without_its_kernel(
    app: str, server: ScriptedServer, lab_with: Open
) -> None:
    """A card is live, asks before it cancels, and survives a reload; then the notebook is saved, its
    kernel shut down and opened again: ends are there as HTML, for a job that was still open the
    line that says how to find it, for a table its rows as they were; nothing says that a widget is missing."""
    server.polls = 10**6
    lab, path = lab_with(
        "%%bgresponse -o ended\nWhy?", "%%bgresponse -o stopped\nWhy?", "%%bgresponse -o going\nWhy?",
        "%bgjobs", app=app,
    )  # fmt: skip
    for index in (1, 2, 3):
        lab.run(index)
        status(lab, index, "in_progress")
    lab.run(4)
    lab.cell(4).locator(".bgmagic-board").get_by_role(
        "button", name="stopped", exact=True
    ).wait_for()
    copy = lab.cell(4).locator("details", has_text="As of")
    copy.wait_for(state="hidden")
    for name in ("Cancel stopped", "Really cancel? stopped"):
        lab.cell(2).get_by_role("button", name=name).click()
    lab.cell(2).get_by_text("⊘ stopped cancelled").wait_for()
    assert server.count("cancel") == 1
    saved(lab.page, path, 2, "stopped")
    lab = Lab(lab.page, lab.page.url.partition("?")[0])
    status(lab, 1, "in_progress")
    server.responses["resp_1"] = response("resp_1", "completed", "It is **so**.")
    lab.cell(1).get_by_text("It is so.").wait_for()
    saved(lab.page, path, 1, "<strong>so</strong>")
    converted, _ = HTMLExporter().from_filename(str(path))
    for part in ("<strong>so</strong>", "gpt-5.2-true", "stopped", "Later %bgjobs going shows it"):
        assert part in converted
    kinds = [kind for data in outputs(path, 3) for kind in data]
    assert "application/vnd.jupyter.widget-view+json" in kinds
    lab.page.evaluate(
        """async () => {
          const base = location.origin + '/api/kernels';
          const headers = {'X-XSRFToken': document.cookie.match(/_xsrf=([^;]*)/)?.[1] ?? ''};
          for (const kernel of await (await fetch(base)).json())
            await fetch(`${base}/${kernel.id}`, {method: 'DELETE', headers});
        }"""
    )
    before = len(server.seen)
    lab = Lab(lab.page, lab.page.url.partition("?")[0])
    for index in (1, 2):
        shown = lab.cell(index).locator(".jp-OutputArea")
        wait_until(lab, lambda: "widget" not in shown.inner_text())  # noqa: B023 - at once
    assert lab.cell(1).locator("strong").inner_text() == "so"
    assert "gpt-5.2-true" in lab.cell(1).locator(".jp-OutputArea").inner_text()
    line = "Later %bgjobs going shows it, and %bgattach going follows it in another kernel"
    lab.cell(3).locator(".jp-OutputArea").get_by_text(line).wait_for()
    copy.get_by_role("cell", name="in progress").first.wait_for()
    for index in (3, 4):
        broken = lab.cell(index).locator(".jp-OutputArea-output.jupyter-widgets")
        broken.wait_for(state="attached")
        assert not broken.is_visible(), broken.inner_text()
    assert len(server.seen) == before


BOARDS = {3: "group-board", 4: "board"}


def test_restarted_kernel(server: ScriptedServer, lab_with: Open) -> None:
    """When the kernel is restarted a live card says whether the job goes on and how to follow it, and has
    no button that nobody would hear; one that waited says that the server does not have it. Boards call
    detached what was open, and have no such button either."""
    server.polls = 10**6
    cells = "%%bgresponse -o critique\nWhy?", "%%bgresponse -o more\nAfter {{ critique }}"
    cells += "%%bgresponse -o study --n 2\nSay a", "%bgjobs"
    lab, _ = lab_with(*cells, viewport={"width": 1280, "height": 1600})
    for index in (1, 2, 3, 4):
        lab.run(index)
    status(lab, 1, "in_progress")
    lab.cell(3).get_by_text("2 in progress").wait_for()
    lab.restart()
    lab.cell(1).get_by_text("%bgattach critique follows it in the next one").wait_for()
    status(lab, 1, "detached")
    assert lab.cell(1).locator(".bgmagic-buttons button:visible").count() == 0
    told = "the server does not have the job yet. %bgattach more sends it in the next one"
    lab.cell(2).get_by_text(told).wait_for()
    group, board = (lab.cell(n).locator(f".bgmagic-{kind}") for n, kind in BOARDS.items())
    group.get_by_text("2 detached").wait_for()
    group.get_by_text("%bgattach in the next one follows the jobs that are open").wait_for()
    board.get_by_text("%bgjobs in the next one shows how things stand").wait_for()
    board.get_by_role("button", name="detached 4").wait_for()
    for shown in (group, board):
        assert "in progress" not in shown.inner_text()
        assert "elapsed" not in shown.inner_text()
        assert shown.locator("button:visible", has_text="Cancel").count() == 0


def test_detached_card_checks_again(server: ScriptedServer, lab_with: Open) -> None:
    """A job past its deadline keeps its card; Check again asks the server, and the end takes its place."""
    server.polls = 10**6
    lab, _ = lab_with("%%bgresponse -o critique --deadline 1s\nWhy?", "critique.upper()")
    lab.run(1)
    status(lab, 1, "detached")
    again = lab.cell(1).get_by_role("button", name="Check again critique")
    asked = server.count("retrieve")
    again.click()
    wait_until(lab, lambda: server.count("retrieve") > asked)
    status(lab, 1, "detached")
    server.responses["resp_1"] = response("resp_1", "completed", "after all")
    # Until the first check has ended a second one is none.
    press_until(lambda: again.click(timeout=5000), lab.cell(1).get_by_text("after all"))
    lab.run(2)
    lab.cell(2).get_by_text("AFTER ALL").wait_for()
