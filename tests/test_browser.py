"""JupyterLab in a real browser: what the user sees, from a click's side."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Lab, chromium, jupyterlab, notebook, page
from tests.conftest import KEY, missing
from tests.scripted import Script, ScriptedServer, response
from tests.test_notebooks import NOTEBOOKS

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def _browser() -> None:
    for module in ("playwright", "jupyterlab"):
        if importlib.util.find_spec(module) is None:
            missing(f"the Python package {module}")
    if chromium() is None:
        missing("chromium (Debian: apt-get install chromium)")


def test_quickstart(embedded: dict[str, str], tmp_path: Path) -> None:
    """The quickstart in JupyterLab: the card changes while the kernel is free, the variable is used."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(NOTEBOOKS / "01_quickstart.ipynb", folder)
    with jupyterlab(folder, **embedded) as url, page() as opened:
        lab = Lab(opened, url.format("01_quickstart.ipynb"))
        lab.run(0)
        lab.run(1)
        opened.wait_for_selector("text=Jobs now go to SmolLM2-135M-Instruct", timeout=60_000)
        lab.run(2)
        card = lab.cell(2).locator(".bgmagic-card")
        card.wait_for()
        seen = [card.get_attribute("data-status")]
        opened.wait_for_function(
            "() => document.querySelector('.bgmagic-card').dataset.status === 'completed'",
            timeout=60_000,
        )
        assert seen[0] in ("waiting", "submitting", "queued", "in_progress", "completed")
        assert "fact" in card.inner_text()
        lab.run(5)
        lab.run(6)
        words = lab.cell(6).locator(".jp-OutputArea-output").inner_text()
        assert len(words.split()) > 5
        _picture(opened, "quickstart")


def test_card_lives(server: ScriptedServer, tmp_path: Path) -> None:
    """The card ticks, shows each status, and its Cancel button reaches the server while the kernel is
    free; what the server says stays text."""
    server.polls = 10**6
    hostile = "<img src=x onerror='window.fired=1'>"
    server.ending = lambda rid, _: response(rid, "failed", error={"code": "c", "message": hostile})
    cells = ["%load_ext bgmagic", "%%bgresponse -o critique -e xhigh --poll 0.2\nWhy?"]
    cells += ["%%bgresponse -o other --poll 0.2\nWhy?", "%%bgresponse -o third --poll 0.2\nWhy?"]
    path = notebook(tmp_path / "card.ipynb", cells)
    environment = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.base_url}
    with jupyterlab(tmp_path, **environment) as url, page() as opened:
        lab = Lab(opened, url.format(path.name))
        lab.run(0)
        lab.run(1)
        card = lab.cell(1).locator(".bgmagic-card")
        _status(lab, 1, "in_progress")
        text = card.inner_text()
        for part in ("critique", "in progress", "gpt-5.2-true", "effort xhigh", "resp_1", "Cancel"):
            assert part in text
        assert card.locator("[role=status]").inner_text() == "in progress"
        before = card.locator(".bgmagic-time").inner_text()
        opened.wait_for_function(
            "before => document.querySelector('.bgmagic-time').innerText !== before", arg=before
        )
        card.get_by_role("button").click()
        _status(lab, 1, "cancelled")
        assert server.count("cancel") == 1
        assert not card.get_by_role("button").is_visible()
        server.polls = 0
        lab.run(2)
        _status(lab, 2, "failed")
        assert hostile in lab.cell(2).locator(".bgmagic-message").inner_text()
        assert opened.evaluate("window.fired") is None
        server.enqueue("create", Script(reset="after"))
        lab.run(3)
        _status(lab, 3, "unknown")
        server.ending = lambda rid, _: response(rid, "completed", "after all")
        lab.cell(3).get_by_role("button", name="Send again").click()
        _status(lab, 3, "completed")
        assert server.count("create") == 4


def _status(lab: Lab, index: int, status: str) -> None:
    lab.cell(index).locator(f".bgmagic-card[data-status={status}]").wait_for(timeout=20_000)


def _picture(opened: Any, name: str) -> None:
    """Keep a screenshot where BGMAGIC_PICTURES asks for one; the README's picture comes from here."""
    folder = os.environ.get("BGMAGIC_PICTURES")
    if folder:
        opened.screenshot(path=Path(folder) / f"{name}.png")
