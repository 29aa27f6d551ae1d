"""JupyterLab in a real browser: what the user sees, from a click's side."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEY
from tests.notebooks import NOTEBOOKS, blank
from tests.rendering.test_markdown import HOSTILE
from tests.support.browser import (
    Lab,
    Open,
    jupyterlab,
    need_browser,
    notebook,
    outputs,
    page,
    saved,
    status,
)
from tests.support.scripted import Script, ScriptedServer, response, written


@pytest.fixture(autouse=True)
def _browser() -> None:
    need_browser()


def test_quickstart(embedded: dict[str, str], tmp_path: Path) -> None:
    """The quickstart in JupyterLab: the card changes while the kernel is free, the variable is used."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    blank(NOTEBOOKS / "01_quickstart.ipynb", folder)
    with jupyterlab(folder, **embedded) as url, page() as opened:
        lab = Lab(opened, url.format("01_quickstart.ipynb"))
        lab.run(0)
        lab.run(1)
        opened.wait_for_selector("text=Jobs now go to SmolLM2-135M-Instruct")
        lab.run(2)
        finished = lab.cell(2).get_by_text("✓ fact completed")
        finished.wait_for()
        assert lab.cell(2).locator(".bgmagic-card").count() == 0
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
        status(lab, 1, "in_progress")
        text = card.inner_text()
        for part in ("critique", "in progress", "gpt-5.2-true", "effort xhigh", "resp_1", "Cancel"):
            assert part in text
        assert card.locator("[role=status]").inner_text() == "in progress"
        before = card.locator(".bgmagic-time").inner_text()
        opened.wait_for_function(
            "before => document.querySelector('.bgmagic-time').innerText !== before", arg=before
        )
        card.get_by_role("button", name="Cancel critique").click()
        sure = card.get_by_role("button", name="Really cancel? critique")
        sure.wait_for()
        assert server.count("cancel") == 0
        sure.click()
        lab.cell(1).get_by_text("⊘ critique cancelled").wait_for()
        assert server.count("cancel") == 1
        server.polls = 0
        lab.run(2)
        lab.cell(2).get_by_text("✕ other failed").wait_for()
        assert hostile in lab.cell(2).locator(".jp-OutputArea").inner_text()
        assert opened.evaluate("window.fired") is None
        server.enqueue("create", Script(reset="after"))
        lab.run(3)
        status(lab, 3, "unknown")
        server.ending = lambda rid, _: response(rid, "completed", "after all")
        lab.cell(3).get_by_role("button", name="Send again").click()
        lab.cell(3).get_by_text("after all").wait_for()
        assert lab.cell(3).locator(".bgmagic-card").count() == 0
        assert server.count("create") == 4


def test_end_is_saved_as_plain_html(server: ScriptedServer, lab_with: Open) -> None:
    """A job that ended while its page was open is saved as HTML with answer and footer, no widget."""
    server.ending = lambda rid, _: response(
        rid, "completed", "It is **so**.", usage={"input_tokens": 3, "output_tokens": 1200}
    )
    lab, path = lab_with("%%bgresponse -o critique -e high\nWhy?")
    lab.run(1)
    lab.cell(1).get_by_text("It is so.").wait_for()
    html = saved(lab.page, path, 1, "<strong>so</strong>", gone="%bgattach")
    for part in ("critique", "completed", "gpt-5.2-true", "effort high", "1,200 out", "resp_1"):
        assert part in html


def test_reload_keeps_the_card_alive_and_the_end_is_html(
    server: ScriptedServer, lab_with: Open
) -> None:
    """After a reload the card is live, with its preview of what it knows; a job that ends then is saved
    as plain HTML, never as a widget without a kernel."""
    server.polls = 10**6
    lab, path = lab_with("%%bgresponse -o critique\nWhy?")
    lab.run(1)
    status(lab, 1, "in_progress")
    while not outputs(path, 1):
        lab.page.keyboard.press("Control+s")
        lab.page.wait_for_timeout(300)
    lab = Lab(lab.page, lab.page.url.partition("?")[0])
    status(lab, 1, "in_progress")
    assert "Later %bgjobs critique shows it" in lab.cell(1).locator(".jp-OutputArea").inner_text()
    server.polls = 0
    lab.cell(1).get_by_text("the answer").first.wait_for()
    saved(lab.page, path, 1, "the answer")


def test_card_by_keyboard_alone(server: ScriptedServer, lab_with: Open) -> None:
    """Cancel works with the keyboard: Enter asks, Escape takes it back, Enter twice cancels."""
    server.polls = 10**6
    lab, _ = lab_with("%%bgresponse -o critique\nWhy?")
    lab.run(1)
    status(lab, 1, "in_progress")
    button = lab.cell(1).locator(".bgmagic-buttons button").last
    button.focus()
    lab.page.keyboard.press("Enter")
    lab.cell(1).get_by_text("Really cancel?").wait_for()
    lab.page.keyboard.press("Escape")
    lab.cell(1).get_by_text("Cancel", exact=True).wait_for()
    lab.page.keyboard.press("Enter")
    lab.cell(1).get_by_text("Really cancel?").wait_for()
    lab.page.keyboard.press("Enter")
    lab.cell(1).get_by_text("⊘ critique cancelled").wait_for()
    assert server.count("cancel") == 1


def test_board_lives(server: ScriptedServer, lab_with: Open) -> None:
    """The board shows new jobs and changes, sorts, filters, opens a row and cancels one; nothing that a
    model wrote becomes markup."""
    server.polls = 0
    server.ending = lambda rid, body: response(
        rid,
        "in_progress" if "long" in str(body["input"]) else "completed",
        "<img src=x onerror='window.fired=1'> done",
    )
    lab, _ = lab_with(
        "%%bgresponse -o alpha --quiet\nshort", "%bgjobs",
        "%%bgresponse -o beta --quiet\nlong",
    )  # fmt: skip
    for index in (1, 2, 3):
        lab.run(index)
    board = lab.cell(2).locator(".bgmagic-board")
    board.locator("tr[data-status=completed]").wait_for()
    board.locator("tr[data-status=in_progress]").wait_for()
    names = board.locator("tbody .bgmagic-open")
    assert names.all_inner_texts() == ["beta", "alpha"]
    board.get_by_role("button", name="variable").click()
    assert names.all_inner_texts() == ["alpha", "beta"]
    board.get_by_role("button", name="completed 1").click()
    assert board.locator("tbody tr:visible .bgmagic-open").all_inner_texts() == ["alpha"]
    board.get_by_role("button", name="alpha", exact=True).click()
    board.get_by_text("onerror").wait_for()
    board.get_by_role("button", name="all 2").click()
    for _ in range(2):
        board.locator("tr[data-status=in_progress] .bgmagic-cancel").click()
    lab.page.wait_for_timeout(1)
    end = time.monotonic() + 60
    while server.count("cancel") == 0 and time.monotonic() < end:
        lab.page.wait_for_timeout(100)
    assert server.count("cancel") == 1
    assert lab.page.evaluate("window.fired") is None


def test_preview_grows(server: ScriptedServer, lab_with: Open) -> None:
    """With --stream the card shows the text as it is written, and the answer replaces it at the end."""
    go = threading.Event()
    server.stream = lambda rid: written(
        rid, ["Firstly ", "<b>this</b>", ", and that."], go, after=2
    )
    lab, _ = lab_with("%%bgresponse -o critique --stream --poll 60\nWhy?")
    lab.run(1)
    lab.cell(1).locator(".bgmagic-preview").get_by_text("Firstly <b>this</b>").wait_for()
    go.set()
    lab.cell(1).get_by_text("✓ critique completed").wait_for()
    assert "and that." in lab.cell(1).locator(".jp-OutputArea").inner_text()


def test_nothing_hostile_fires(server: ScriptedServer, lab_with: Open) -> None:
    """The hostile corpus, rendered in an executed notebook: no script runs, nothing but this machine is
    asked for anything; shown raw, the very same trap fires."""
    shown = f"""from IPython.display import HTML, display
from bgmagic.rendering.markdown import to_html
texts = [text.replace("fired=1", "window.fired=1") for text in {HOSTILE!r}]
for start in range(0, len(texts), 5):  # JupyterLab shows no more than 50 outputs
    display(HTML("".join(map(to_html, texts[start:start + 5]))))
print("all shown")"""
    raw = "display(HTML('<img src=x onerror=window.fired=1>'))"
    lab, _ = lab_with(shown, raw)
    asked: list[str] = []
    lab.page.on("request", lambda request: asked.append(request.url))
    lab.run(1)
    lab.cell(1).get_by_text("all shown", exact=True).wait_for()
    lab.page.locator("mjx-container").first.wait_for()
    assert lab.page.evaluate("window.fired") is None
    links = lab.cell(1).locator(".jp-OutputArea a").evaluate_all("all => all.map(a => a.href)")
    assert all(link.startswith(("http://", "https://", "mailto:")) for link in links)
    outside = [url for url in asked if not url.startswith(("http://127.0.0.1", "blob:", "data:"))]
    assert outside == []
    lab.run(2)
    lab.page.wait_for_function("() => window.fired === 1")


def test_mathml_is_drawn_and_nothing_hostile_fires() -> None:
    """Without a typesetter a browser draws formulas as MathML, and nothing of the hostile corpus runs or loads."""
    from bgmagic.rendering.markdown import to_html

    formulas = r"$$\frac{a}{b}$$ $$\begin{aligned}a&=b\\&=c\end{aligned}$$"
    texts = [text.replace("fired=1", "window.fired=1") for text in HOSTILE]
    shown = "".join(to_html(text, formulas="mathml") for text in [formulas, *texts])
    with page() as opened:
        asked: list[str] = []
        opened.on("request", lambda request: asked.append(request.url))
        opened.set_content(f"<!doctype html>{shown}", wait_until="networkidle")
        above, below = (opened.locator("mfrac > *").nth(n).bounding_box() for n in (0, 1))
        assert above["y"] + above["height"] <= below["y"] + 1
        first, second = (opened.locator("mtr").nth(n).bounding_box() for n in (0, 1))
        assert first["y"] < second["y"]
        assert opened.evaluate("window.fired") is None
        assert asked == []


def _picture(opened: Any, name: str) -> None:
    """Keep a screenshot where BGMAGIC_PICTURES asks for one; the README's picture comes from here."""
    folder = os.environ.get("BGMAGIC_PICTURES")
    if folder:
        opened.screenshot(path=Path(folder) / f"{name}.png")
