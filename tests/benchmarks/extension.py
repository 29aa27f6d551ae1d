"""What JupyterLab's extension costs: the page's start, and keys typed into code, a prompt and Markdown."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.keys import CLOCK
from tests.benchmarks.measures import Row
from tests.support.browser import LIMIT, Lab, chromium, jupyterlab, page

CELLS, KEYS, STARTS = 500, 100, 7
TEXT = "Is **this** in the list? It's {{ len(rows) }} of them.\n\n- one\n- two\n\n" * 10


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


def _typed(tab: Any, index: int) -> float:
    """Milliseconds of a key in a cell until the frame after it is drawn, the median."""
    cell = tab.locator(".jp-Notebook .jp-Cell").nth(index)
    if index == 2:
        cell.dblclick()
    cell.locator(".cm-content").click()
    tab.keyboard.press("Control+End")
    tab.evaluate("window.taken = []")
    for number in range(KEYS):
        tab.keyboard.press("ab c"[number % 4] if number % 4 != 2 else "Space")
        tab.wait_for_timeout(20)
    tab.wait_for_function("keys => window.taken.length >= keys", arg=KEYS)
    return statistics.median(tab.evaluate("window.taken"))


def _measured(extension: bool) -> tuple[float, list[float]]:
    """Seconds until a notebook of one cell is there, and the keys in code, prompt and Markdown."""
    with (
        tempfile.TemporaryDirectory() as work,
        jupyterlab(Path(work), extension=extension) as address,
        page(viewport={"width": 1200, "height": 900}) as tab,
    ):
        _notebook(Path(work) / "typing.ipynb")
        url = address.format("typing.ipynb")
        starts = []
        for _ in range(STARTS):
            begun = time.perf_counter()
            tab.goto(url)
            tab.wait_for_selector(".jp-Notebook .cm-content", timeout=LIMIT * 1000)
            starts.append(time.perf_counter() - begun)
        Lab(tab, url)
        tab.evaluate(CLOCK)
        return statistics.median(starts[1:]), [_typed(tab, index) for index in range(3)]


def extension() -> list[Row]:
    """JupyterLab with the extension against the same without it."""
    if chromium() is None:
        return []
    bare, theirs = _measured(extension=False)
    start, ours = _measured(extension=True)
    return [
        Row(
            f"JupyterLab's start until a notebook of {CELLS} cells is there, median",
            f"{start:.2f} s: {start / bare:.2f} times that without",
            f"without {bare:.2f} s",
            "1.01 times",
        ),
        Row(
            f"a key typed into a prompt of {len(TEXT):,} characters, until it is drawn, median",
            f"{ours[1]:.1f} ms: {ours[1] / ours[2]:.2f} times a Markdown cell",
            f"Markdown cell {ours[2]:.1f} ms",
            "1.05 times",
        ),
        Row(
            f"a key typed into code, in a notebook of {CELLS} cells, median",
            f"{ours[0]:.1f} ms: {ours[0] / theirs[0]:.2f} times that without",
            f"without {theirs[0]:.1f} ms",
            "",
        ),
    ]
