"""What JupyterLab's extension costs: the page's start, and keys typed into code, a prompt and Markdown.

Two servers, with and without it, and what is compared takes turns, so that whatever else the machine
does falls on both; of the page its processor time is taken beside the clock's.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.measures import Row
from tests.support.browser import CHROMIUM_FLAGS, LIMIT, Lab, chromium, jupyterlab

CELLS, KEYS = 500, 20
FEWEST, MOST = 7, 24  # pairs of measurements of a part, whichever the time is enough for
PART = 75.0  # seconds that a part may take, once it has the fewest
TEXT = "Is **this** in the list? It's {{ len(rows) }} of them.\n\n- one\n- two\n\n" * 10
CODE, PROMPT, MARKDOWN = range(3)  # the cells that are typed into

Pair = tuple[float, float]  # ours and the other's, measured one after the other


def _notebook(path: Path) -> None:
    import nbformat

    v4 = nbformat.v4
    cells = [v4.new_code_cell(f"x = {TEXT!r}"), v4.new_code_cell(f"%%bgresponse -o a\n{TEXT}")]
    cells += [v4.new_markdown_cell(TEXT)]
    cells += [v4.new_code_cell(f"y{n} = {n}") for n in range(CELLS - len(cells))]
    made = v4.new_notebook(cells=cells)
    made.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(made, path)


class Page:
    """A tab, and the processor time that it takes."""

    def __init__(self, context: Any) -> None:
        self.tab = context.new_page()
        self._session = context.new_cdp_session(self.tab)
        self._session.send("Performance.enable")

    def busy(self) -> float:
        """Seconds of processor time of all threads of the tab's process so far."""
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        return float(next(each["value"] for each in metrics if each["name"] == "ProcessTime"))

    def type(self, index: int) -> float:
        """Milliseconds of processor time of a key in a cell."""
        cell = self.tab.locator(".jp-Notebook .jp-Cell").nth(index)
        cell.locator(".cm-content").click()
        self.tab.keyboard.press("Control+End")
        self.tab.wait_for_timeout(200)  # what the click has set off
        before = self.busy()
        for number in range(KEYS):
            self.tab.keyboard.press("ab c"[number % 4] if number % 4 != 2 else "Space")
            self.tab.wait_for_timeout(20)
        self.tab.wait_for_timeout(100)
        return (self.busy() - before) / KEYS * 1000


@contextlib.contextmanager
def _both() -> Iterator[tuple[Any, tuple[str, str]]]:
    """A browser, and the notebook's URL in JupyterLab with the extension and without."""
    from playwright.sync_api import sync_playwright

    with contextlib.ExitStack() as stack:
        urls = []
        for extension in (True, False):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _notebook(folder / "typing.ipynb")
            started = jupyterlab(folder, extension=extension)
            urls.append(stack.enter_context(started).format("typing.ipynb"))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(CHROMIUM_FLAGS))
        stack.callback(browser.close)
        yield browser.new_context(viewport={"width": 1200, "height": 900}), (urls[0], urls[1])


def _start(context: Any, url: str) -> tuple[float, float]:
    """Seconds by the clock and of processor time until the notebook's cells are there."""
    page = Page(context)
    begun = time.perf_counter()
    page.tab.goto(url)
    page.tab.wait_for_selector(".jp-Notebook .cm-content", timeout=LIMIT * 1000)
    taken = time.perf_counter() - begun, page.busy()
    page.tab.close()
    return taken


def _turns(ours: Callable[[], Any], other: Callable[[], Any]) -> list[tuple[Any, Any]]:
    """Both measured again and again, now the one first, now the other; the first pair is for warmth."""
    found: list[tuple[Any, Any]] = []
    end = time.monotonic() + PART
    while len(found) <= FEWEST or (len(found) <= MOST and time.monotonic() < end):
        if len(found) % 2:
            there = other()
            found.append((ours(), there))
        else:
            found.append((ours(), other()))
    return found[1:]


def _told(pairs: Sequence[Pair]) -> tuple[float, float, str]:
    """The medians, and how many times the other ours is: the median of the pairs and its quarters."""
    low, ratio, high = statistics.quantiles([ours / other for ours, other in pairs], n=4)
    mine, other = (statistics.median(each) for each in zip(*pairs, strict=True))
    return mine, other, f"{ratio:.3f} times (half of the pairs {low:.3f} to {high:.3f})"


def extension() -> list[Row]:
    """JupyterLab with the extension against the same without it."""
    if chromium() is None:
        return []
    with _both() as (context, urls):
        for url in urls * 2:  # a kernel each, and the browser's caches
            _start(context, url)
        starts = _turns(*(lambda url=url: _start(context, url) for url in urls))
        pages = []
        for url in urls:
            page = Page(context)
            Lab(page.tab, url)
            page.tab.locator(".jp-Notebook .jp-Cell").nth(MARKDOWN).dblclick()  # to its text
            pages.append(page)
        ours, theirs = pages

        def typed(*both: tuple[Page, int]) -> list[Pair]:
            def once(page: Page, index: int) -> float:
                page.tab.bring_to_front()
                return page.type(index)

            return _turns(*(lambda each=each: once(*each) for each in both))

        prompt = _told(typed((ours, PROMPT), (ours, MARKDOWN)))
        code = _told(typed((ours, CODE), (theirs, CODE)))
    clock, busy = (_told([(a[at], b[at]) for a, b in starts]) for at in (0, 1))
    where = f"in a notebook of {CELLS} cells"
    key = "processor time of a key typed into"
    return [
        Row(
            f"JupyterLab's start until a notebook of {CELLS} cells is there, processor time",
            f"{busy[0]:.2f} s: {busy[2]}", f"without {busy[1]:.2f} s", "1.01 times",
        ),
        Row(
            "the same by the clock",
            f"{clock[0]:.2f} s: {clock[2]}", f"without {clock[1]:.2f} s", "1.01 times",
        ),
        Row(
            f"{key} a prompt of {len(TEXT):,} characters, {where}",
            f"{prompt[0]:.1f} ms: {prompt[2]}", f"Markdown cell {prompt[1]:.1f} ms", "1.05 times",
        ),
        Row(
            f"{key} code, {where}",
            f"{code[0]:.1f} ms: {code[2]}", f"without {code[1]:.1f} ms", "",
        ),
    ]  # fmt: skip
