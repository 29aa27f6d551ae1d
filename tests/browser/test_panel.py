"""The panel of background jobs in JupyterLab: what it shows, what its buttons do, what ends elsewhere."""

from __future__ import annotations

import importlib.util
import re
import time
from pathlib import Path
from typing import Any

import pytest

from bgmagic.storage.journal import Journal
from tests.browser.test_displays import press_until
from tests.browser.test_prompt_colours import Looks
from tests.conftest import KEY
from tests.server.test_jobs import billing, job, response_text
from tests.support.browser import barriers, jupyterlab, need_browser, notebook, page
from tests.support.scripted import ScriptedServer

OLD = 10_000
HOSTILE = "It is **so**. <img src=x onerror='window.fired=1'>"

# A page that draws all the time: only what sets a time for it is ever called.
NEVER_IDLE = """const idle = requestIdleCallback;
  window.requestIdleCallback = (run, about) => about?.timeout ? idle(run, about) : 0;"""


@pytest.fixture(autouse=True)
def _browser() -> None:
    need_browser()


class Panel:
    """The panel on a page."""

    def __init__(self, opened: Any) -> None:
        self.page = opened
        self.rows = opened.locator(".bgpanel-row")
        self.detail = opened.locator(".bgpanel-detail")

    def row(self, name: str, status: str) -> Any:
        """The row of a job, once it has that status."""
        found = self.rows.filter(has_text=name).filter(has_text=status).first
        found.wait_for()
        return found

    def press(self, label: str, sure: str = "") -> None:
        """Click a button of the job that is shown, and the one that it becomes."""
        for name in filter(None, (label, sure)):
            self.detail.get_by_role("button", name=name, exact=True).click()


def test_a_session(server: ScriptedServer, tmp_path: Path) -> None:
    """Jobs of all notebooks are listed, the running ones first and ten thousand without drawing them;
    one is found, read, cancelled, sent again, attached where its kernel was shut down, and cancelled
    and gone to after its notebook was renamed, once with its kernel and once without; the end of one is told elsewhere, and nothing is asked for while
    nothing happens. A script's job is no notebook's, and says so; the palette gives the panel the focus."""
    _fill(tmp_path)
    server.polls = 10**6
    sent = "%%bgresponse -o {} --poll 0.2\nWhy {}?"
    cells = ["%load_ext bgmagic", *(sent.format(name, name) for name in ("mine", "later"))]
    go = tmp_path / "go"
    busy = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.05)"
    path = notebook(tmp_path / "study.ipynb", [*cells, busy])
    notebook(tmp_path / "other.ipynb", ["1"])
    environment = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.base_url}
    size = {"width": 1400, "height": 800}
    with jupyterlab(tmp_path, **environment) as url, page(viewport=size) as opened:
        asked: list[str] = []
        opened.on("request", lambda request: asked.append(request.url))
        opened.add_init_script(NEVER_IDLE)
        looks, panel = Looks(opened, url.format(path.name)), Panel(opened)
        lab = looks.lab
        lab.run(0)
        lab.run(1)
        opened.get_by_role("button", name="1 job runs").click()
        opened.wait_for_function("() => document.activeElement.className === 'bgpanel-list'")
        panel.row("mine", "in progress")
        opened.wait_for_function(
            f"() => document.querySelector('.bgpanel-row').ariaSetSize > {OLD}"
        )
        assert "mine" in panel.rows.first.inner_text()
        assert panel.rows.count() < 60
        opened.get_by_label("Search jobs").fill("other critique")
        opened.wait_for_function("() => document.querySelectorAll('.bgpanel-row').length === 1")
        critique = panel.row("critique", "completed")
        if importlib.util.find_spec("genai_prices"):  # an extra, which the lowest JupyterLab lacks
            assert re.search(r"\$\d+\.\d\d", critique.inner_text())
        critique.click()
        panel.detail.locator("strong", has_text="so").wait_for()
        assert "onerror" in panel.detail.inner_text()
        assert barriers(opened, ".bgpanel-panel") == []
        opened.get_by_label("Search jobs").fill("")
        opened.get_by_label("Which jobs").select_option("this notebook")
        opened.wait_for_function("() => document.querySelectorAll('.bgpanel-row').length === 1")

        panel.row("mine", "in progress").click()
        lab.run(3, finish=False)
        panel.press("Cancel")
        lab.cell(3).locator(".cm-content").focus()  # as JupyterLab 4.2 does after a cell was run
        panel.press("Really cancel?")
        panel.detail.get_by_text("The kernel is busy").wait_for()
        go.touch()
        panel.row("mine", "cancelled").click()
        assert server.count("cancel") == 1
        panel.press("Send again", "Really send again?")
        panel.row("mine", "in progress")
        panel.detail.get_by_text("Sent again").wait_for()
        assert server.count("create") == 2

        lab.run(2)
        panel.row("later", "in progress")
        press_until(
            opened.locator(".jp-DirListing-item", has_text="other.ipynb").dblclick,
            opened.locator(".jp-NotebookPanel:visible").get_by_text("1", exact=True),
        )
        server.polls = 0
        opened.get_by_label("Which jobs").select_option("all jobs")
        panel.row("later", "completed")
        opened.locator("#jp-main-statusbar .jp-Notification-Status").click()
        told = opened.locator(
            ".jp-Notification-List-Item", has_text="later: completed (study.ipynb)"
        )
        told.get_by_role("button", name="Show answer").click()
        panel.detail.get_by_text("the answer").wait_for()
        opened.keyboard.press("Escape")
        panel.press("Attach here")  # in the other notebook, from the journal
        opened.locator(".jp-NotebookPanel:visible .jp-OutputArea").get_by_text(
            "the answer"
        ).wait_for()
        assert server.count("create") == 3

        for _ in range(10):  # what the last end has set off may come late
            quiet = len(asked)
            opened.wait_for_timeout(1500)
            if not any("bgmagic/jobs" in url for url in asked[quiet:]):
                break
        else:
            raise AssertionError("it asks again and again though nothing happens")

        panel.press("Go to cell")
        opened.locator(".jp-NotebookPanel:visible .jp-mod-active", has_text="Why later?").wait_for()
        server.polls = 10**6
        lab.run(1)
        panel.row("mine", "in progress")
        lab.shut_down()
        panel.row("mine", "detached").click()
        panel.press("Attach here")  # which starts a kernel
        opened.locator(".bgmagic-card[data-status=in_progress]").last.wait_for()
        panel.row("mine", "in progress")

        _rename(opened, "study.ipynb", "renamed")
        panel.row("renamed.ipynb", "in progress").click()
        panel.press("Cancel", "Really cancel?")
        panel.row("renamed.ipynb", "cancelled")
        lab.shut_down()
        _rename(opened, "renamed.ipynb", "again")
        panel.row("again.ipynb", "cancelled").click()
        opened.locator(".lm-DockPanel-tabBar .lm-TabBar-tab", has_text="other.ipynb").click()
        panel.press("Go to cell")
        opened.locator(".jp-NotebookPanel:visible .jp-mod-active", has_text="mine").wait_for()
        opened.reload()
        panel.row("again.ipynb", "cancelled")  # the panel is open again
        opened.get_by_label("Search jobs").fill("alone")
        panel.row("alone", "failed").click()
        panel.press("Go to cell")
        panel.detail.get_by_text("No notebook here shows it").wait_for()
        panel.press("Send again", "Really send again?")
        panel.detail.get_by_text("run its cell or script again").wait_for()
        opened.keyboard.press("Control+Shift+C")
        opened.keyboard.type("Show Background")
        opened.keyboard.press("Enter")
        opened.wait_for_function("() => document.activeElement.className === 'bgpanel-list'")
        assert opened.evaluate("window.fired") is None
        assert looks.errors == []


def _rename(opened: Any, old: str, new: str) -> None:
    def press() -> None:
        opened.locator(".jp-DirListing-item", has_text=old).click()
        opened.keyboard.press("F2")

    press_until(press, opened.locator(".jp-DirListing-editor:focus"))
    opened.keyboard.type(new)
    opened.keyboard.press("Enter")


def _fill(folder: Path) -> None:
    """A journal with jobs of other notebooks, many of them."""
    journal, now = Journal(folder / ".journal.sqlite3"), time.time()
    ended: dict[str, Any] = {
        "status": "completed",
        "created_at": now - 90_000,
        "ended_at": now - 89_000,
    }
    other = str(folder / "other.ipynb")
    old = [job(f"old{n}", notebook="/far/away.ipynb", **ended) for n in range(OLD)]
    paid = {"billing": billing("gpt-5.2"), "response_id": "resp_1"}
    read = job("critique", notebook=other, response=response_text(HOSTILE), **paid, **ended)
    (folder / "run.py").touch()
    alone = job("alone", notebook=str(folder / "run.py"), **{**ended, "status": "failed"})
    journal.add(*old, read, alone).result(60)
    journal.close(60)
