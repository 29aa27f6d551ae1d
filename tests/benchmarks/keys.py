"""What live displays cost whoever types into a cell beside them, in a real JupyterLab."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from tests.benchmarks.measures import KEY, Row, serving
from tests.support.browser import Lab, chromium, jupyterlab, notebook, page

CARDS, KEYS = 200, 120
OURS = f"""%load_ext bgmagic
import bgmagic, ipywidgets
jobs = [bgmagic.submit(f"Why {{n}}?", poll=10) for n in range({CARDS})]
ipywidgets.VBox([job.card for job in jobs])"""
THEIRS = f"""import ipywidgets, threading, time
boxes = [
    [ipywidgets.Label(text) for text in ("critique", "queued", "0:00", "gpt-5.2", "resp_1", "")]
    for _ in range({CARDS})
]
def tick():
    for second in range(1, 10**6):
        for labels in boxes:
            labels[2].value = f"{{second // 60}}:{{second % 60:02}}"
        time.sleep(1)
threading.Thread(target=tick, daemon=True).start()
ipywidgets.VBox([
    ipywidgets.HBox([*labels, ipywidgets.Button(description="Cancel")]) for labels in boxes
])"""
# From a key until the frame after it is drawn.
CLOCK = """() => {
  window.taken = [];
  document.addEventListener('keydown', () => {
    const begun = performance.now();
    requestAnimationFrame(() => setTimeout(() => window.taken.push(performance.now() - begun)));
  }, true);
}"""


def _typed(lab: Lab) -> list[float]:
    lab.cell(1).locator(".cm-content").click()
    lab.page.evaluate("window.taken = []")
    for number in range(KEYS):
        lab.page.keyboard.press(str(number % 10))
        lab.page.wait_for_timeout(40)
    lab.page.wait_for_function("keys => window.taken.length >= keys", arg=KEYS)
    found: list[float] = lab.page.evaluate("window.taken")
    return sorted(found)


def _told(taken: list[float]) -> str:
    return f"{statistics.median(taken):.0f} ms (95 %: {taken[int(len(taken) * 0.95)]:.0f} ms)"


def _beside(display: str, ready: str) -> tuple[list[float], list[float]]:
    """Milliseconds of each key before and after ``display`` is shown."""
    with (
        serving(polls=10**9) as url,
        tempfile.TemporaryDirectory() as work,
        jupyterlab(Path(work), OPENAI_API_KEY=KEY, OPENAI_BASE_URL=url) as address,
        page() as tab,
    ):
        notebook(Path(work) / "typing.ipynb", [display, ""])
        lab = Lab(tab, address.format("typing.ipynb"))
        tab.evaluate(CLOCK)
        before = _typed(lab)
        lab.run(0)
        tab.wait_for_function(
            "([ready, count]) => document.querySelectorAll(ready).length >= count",
            arg=[ready, CARDS],
        )
        return before, _typed(lab)


def keys() -> list[Row]:
    """Typing beside live cards, beside boxes of widgets that are set each second, and without."""
    if chromium() is None:
        return []
    bare, ours = _beside(OURS, ".bgmagic-card[data-status=in_progress]")
    _, theirs = _beside(THEIRS, ".widget-button")
    ratio = statistics.median(ours) / statistics.median(bare)
    return [
        Row(
            f"a key typed beside {CARDS} live cards, until it is drawn, median",
            f"{_told(ours)}: {ratio:.1f} times that without",
            f"without {_told(bare)}; beside {CARDS} boxes set each second {_told(theirs)}",
            "",
        )
    ]


if __name__ == "__main__":
    print(keys())
