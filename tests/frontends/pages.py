"""Programs with pages: documents that several share, servers that run the cells, dashboards."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

from tests.frontends.trial import LIMIT, Trial
from tests.support.browser import (
    CHROMIUM_FLAGS,
    Lab,
    _free_port,
    chromium,
    jupyterlab,
    notebook,
    outputs,
    patient,
    saved,
)
from tests.support.scripted import response

ASK, SWEEP = "%%bgresponse -o x\nWhy?", "%%bgresponse -o g --n 2\nWhy?"
ENDED = "import time\nwhile not (isinstance(x, str) and g.done()): time.sleep(0.05)"
# A button that asks, and shows what comes of it in an output of its own.
BUTTON = """import ipywidgets
out, button = ipywidgets.Output(), ipywidgets.Button(description="Ask")
def ask(_):
    with out:
        get_ipython().run_cell_magic("bgresponse", "-o later --again", "Why?")
button.on_click(ask)
ipywidgets.VBox([button, out])"""


@contextlib.contextmanager
def browsers(count: int) -> Iterator[list[Any]]:
    """Pages of so many people: none knows the others'."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(CHROMIUM_FLAGS))
        try:
            contexts = [browser.new_context() for _ in range(count)]
            for context in contexts:
                context.set_default_timeout(LIMIT * 1000)
                patient(context)
            yield [context.new_page() for context in contexts]
        finally:
            browser.close()


# A notebook of marimo: a job, a sweep, one that is cancelled, and the answer where that is awaited, which takes no click.
REACTIVE = """import marimo
app = marimo.App()

@app.cell
def _():
    import bgmagic
    job = bgmagic.submit("Why?", out=None)
    job.card
    return bgmagic, job

@app.cell
def _(bgmagic):
    bgmagic.map("Why {{ item }}?", ["a", "b"])
    return

@app.cell
def _(bgmagic):
    stopped = bgmagic.submit("Why not?", out=None)
    stopped.card
    return

@app.cell
def _():
    import marimo as mo
    wait = mo.ui.run_button(label="Wait")
    wait
    return mo, wait

@app.cell
async def _(job, mo, wait):
    mo.stop(not wait.value)
    answer = await job
    answer
    return
"""


END = """() => fetch('/api/kernels').then(found => found.json()).then(kernels =>
  Promise.all(kernels.map(({id}) => fetch(`/api/kernels/${id}`, {method: 'DELETE'}))))"""


@contextlib.contextmanager
def running(trial: Trial, command: list[str], log: str) -> Iterator[None]:
    """A server in the trial's folder, until the block ends; what it prints goes to ``log``."""
    with (trial.folder / log).open("wb") as told:
        process = subprocess.Popen(
            command, cwd=trial.folder, env=trial.whole_environment(), stdout=told, stderr=told
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)


def texts(page: Any, index: int) -> list[str]:
    """What stands in the outputs of a cell, in order, without those that are empty."""
    found = page.locator(".jp-Notebook .jp-CodeCell").nth(index).locator(".jp-OutputArea-output")
    return [text for text in (" ".join(each.split()) for each in found.all_inner_texts()) if text]


def collaboration(trial: Trial) -> str:
    """Three pages of one document: one sends, one was open then, one is opened later."""
    stopped = "%%bgresponse -o y\nWhy not?"
    path = notebook(
        trial.folder / "study.ipynb", ["%load_ext bgmagic", ASK, SWEEP, stopped, "%bgjobs"]
    )
    started = jupyterlab(trial.folder, python=str(trial.python), **trial.environment)
    with started as url, browsers(3) as pages:
        sends, watches, comes = pages
        trial.hold()
        lab = Lab(sends, url.format(path.name))
        Lab(watches, url.format(path.name))
        for index in range(5):
            lab.run(index)
        for index in (1, 2, 3):
            for page in (sends, watches):
                trial.until(
                    lambda p=page, i=index: len(texts(p, i)) == 2, f"two outputs of {index}"
                )
        Lab(comes, url.format(path.name))
        for page in pages:  # the same live display in each
            for index, kind in {1: "card", 2: "group-board", 3: "card", 4: "board"}.items():
                page.locator(".jp-CodeCell").nth(index).locator(f".bgmagic-{kind}").wait_for()
            page.locator(".bgmagic-card[data-status=in_progress]").nth(1).wait_for()
        cards = [page.locator(".jp-CodeCell").nth(3).locator(".bgmagic-card") for page in pages]
        for word in ("Cancel y", "Really cancel? y"):  # all pages, before the others' are heard
            buttons = [card.get_by_role("button", name=word).element_handle() for card in cards]
            for button in buttons:
                button.evaluate("button => button.click()")
        trial.until(lambda: trial.server.count("cancel"), "a cancel")
        trial.release()
        wanted = {1: "x completed the answer", 2: "g 2 jobs: 2 completed", 3: "y cancelled"}
        for page in pages:
            for index, words in wanted.items():
                trial.until(
                    lambda p=page, i=index, w=words: any(w in text for text in texts(p, i)),
                    f"{words!r} in page {pages.index(page) + 1}",
                )

        def seen_now() -> list[list[list[str]]]:
            return [[texts(page, index) for index in wanted] for page in pages]

        with contextlib.suppress(AssertionError):  # what is seen tells more
            trial.until(
                lambda: all([len(each) for each in page] == [2, 1, 2] for page in seen_now()), ""
            )
        for page in pages:
            page.wait_for_timeout(2000)  # whether something is added to it
        seen = seen_now()
        assert seen[0] == seen[1] == seen[2], seen
        assert [len(each) for each in seen[0]] == [2, 1, 2], seen
        assert "resp_1" in seen[0][0][1], seen
        assert trial.server.count("cancel") == 1, trial.server.count("cancel")
        saved(sends, path, 1, "the answer")
    return "the same in each page, live and when it has ended; three cancels are one"


def by_the_server(trial: Trial) -> str:
    """A server that runs the cells itself: lines, and no answer in another cell."""
    path = notebook(
        trial.folder / "study.ipynb",
        ["%load_ext bgmagic", ASK, SWEEP, ENDED, "6 * 7", "%bgjobs x"],
    )
    started = jupyterlab(trial.folder, python=str(trial.python), **trial.environment)
    with started as url, browsers(1) as (page,):
        trial.hold()
        lab = Lab(page, url.format(path.name))
        for index in range(3):
            lab.run(index)
        trial.until(lambda: all(texts(page, index) for index in (1, 2)), "the lines when sent")
        sent = [texts(page, index) for index in (1, 2)]
        assert sent[0] == ["x: sent to gpt-5.2 in the background; %bgwait x waits for it"], sent
        assert sent[1][0].startswith("<JobGroup g 2 jobs: "), sent
        assert len(sent[1]) == 1, sent
        trial.release()
        for index in (3, 4):  # that they have ended is told by the one or by the other
            lab.run(index)

        def told() -> str:
            return " ".join(texts(page, 3) + texts(page, 4))

        for words in ("x: completed after", "g: 2 jobs, 2 completed", "42"):
            trial.until(lambda w=words: w in told(), words)
        lab.run(5)
        trial.until(lambda: "the answer" in " ".join(texts(page, 5)), "the answer")
        assert told().count("x: completed after") == 1, told()
        assert "the answer" not in told(), told()
        assert [texts(page, index) for index in (1, 2)] == sent
        page.keyboard.press("Control+s")
        trial.until(lambda: "the answer" in str(outputs(path, 5)), "saved")
        assert not any("the answer" in str(outputs(path, index)) for index in (1, 2, 3, 4))
    return "a line when sent, a line in the next cell; no answer in another cell"


def jupyverse(trial: Trial) -> str:
    """Another server for JupyterLab's page: cards, a cancel, the ends in place."""
    cells = ["%load_ext bgmagic", ASK, SWEEP, "%%bgresponse -o y\nWhy not?"]
    path = notebook(trial.folder / "study.ipynb", cells)
    port = _free_port()
    command = [str(trial.python.parent / "jupyverse"), f"--port={port}", "--set=auth.mode=noauth"]
    command += ["--timeout=60"]
    with (
        running(trial, command, ".jupyverse.log"),
        browsers(1) as (page,),
    ):
        trial.hold()
        url = f"http://127.0.0.1:{port}/lab/tree/{path.name}"
        trial.until(lambda: _opened(page, f"http://127.0.0.1:{port}/api/kernelspecs"), "an answer")
        lab = Lab(page, url)
        for index in range(4):
            lab.run(index)
        for index, kind in {1: "card", 2: "group-board", 3: "card"}.items():
            lab.cell(index).locator(f".bgmagic-{kind}").wait_for()
        lab.cell(3).locator(".bgmagic-card[data-status=in_progress]").wait_for()
        for word in ("Cancel y", "Really cancel? y"):
            lab.cell(3).get_by_role("button", name=word).click()
        trial.until(lambda: trial.server.count("cancel"), "a cancel")
        trial.release()
        wanted = {1: "x completed the answer", 2: "g 2 jobs: 2 completed", 3: "y cancelled"}
        for index, words in wanted.items():
            trial.until(lambda i=index, w=words: any(w in text for text in texts(page, i)), words)
        saved(page, path, 1, "the answer")
        page.evaluate(END)  # it leaves its kernels as it ends
    return "cards, a cancel, the ends in their places, saved; the panel has no jobs (a Jupyter Server gives them)"


def voila(trial: Trial) -> str:
    """A job, a sweep, and a job of a button's handler, all of which end after the page was made."""
    trial.hold()
    trial.server.ending = lambda rid, _: response(rid, "completed", "It is **so**: $x^2$")
    path = notebook(trial.folder / "study.ipynb", ["%load_ext bgmagic", ASK, SWEEP, BUTTON])
    port = _free_port()
    command = [
        str(trial.python), "-m", "voila", str(path), "--no-browser", f"--port={port}",
        "--Voila.ip=127.0.0.1", "--show_tracebacks=True",
    ]  # fmt: skip
    with running(trial, command, ".voila.log"), browsers(1) as (page,):
        _dashboard(trial, page, f"http://127.0.0.1:{port}/")
    return "cards that fill themselves with the answer, of a handler's job, too"


def marimo(trial: Trial) -> str:
    """marimo: a card, a board and a cancel in its own page, and a notebook that it converts."""
    converted = notebook(trial.folder / "in.ipynb", ["%load_ext bgmagic", ASK])
    trial.run("marimo", "convert", converted.name, "-o", "out.py")
    text = (trial.folder / "out.py").read_text()
    assert "# %%bgresponse -o x" in text or "# magic command" in text, text
    trial.hold()
    trial.server.ending = lambda rid, _: response(rid, "completed", "It is **so**: $x^2$")
    (trial.folder / "study.py").write_text(REACTIVE)
    port = _free_port()
    command = [str(trial.python), "-m", "marimo", "run", "--headless", "--no-token"]
    command += [f"--port={port}", "study.py"]
    with running(trial, command, ".marimo.log"), browsers(1) as (page,):
        trial.until(lambda: _opened(page, f"http://127.0.0.1:{port}/"), "a page")
        cards = page.locator(".bgmagic-card")
        page.locator(".bgmagic-card[data-status=in_progress]").nth(1).wait_for()
        page.locator(".bgmagic-group-board").get_by_text("2 in progress").wait_for()
        for word in ("Cancel", "Really cancel?"):
            cards.nth(1).get_by_role("button", name=word).click()
        trial.until(lambda: trial.server.count("cancel"), "a cancel")
        page.locator(".bgmagic-card[data-status=cancelled]").wait_for()
        page.get_by_role("button", name="Wait").click()
        trial.release()
        page.locator(".bgmagic-card[data-status=completed]").wait_for()
        page.get_by_text("2 jobs: 2 completed").wait_for()
        page.locator("strong", has_text="so").wait_for()
        page.locator("math").first.wait_for()
    return (
        "`bgmagic.submit()` and `map()`: cards, boards and a cancel live, answers with formulas; "
        "`marimo convert` comments `%%bgresponse` out"
    )


def _opened(page: Any, url: str) -> bool:
    with contextlib.suppress(Exception):
        page.goto(url, wait_until="commit")
        return True
    return False


def _dashboard(trial: Trial, page: Any, url: str) -> None:
    trial.until(lambda: _opened(page, url), "a page")
    page.locator(".bgmagic-card").wait_for()
    page.locator(".bgmagic-group-board").wait_for()
    page.get_by_role("button", name="Ask").click()
    page.locator(".bgmagic-card").nth(1).wait_for()
    assert "Later" not in page.inner_text("body")
    trial.release()
    page.get_by_text("g 2 jobs: 2 completed").wait_for()
    trial.until(lambda: page.locator("strong", has_text="so").count() == 2, "two answers")
    assert page.locator("math").count() >= 2
    page.get_by_text("✓ x completed").wait_for()
    page.get_by_text("✓ later completed").wait_for()
    trial.until(lambda: page.locator(".bgmagic-card").count() == 0, "no card is left")
