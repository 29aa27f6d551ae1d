"""Programs with pages: documents that several share, servers that run the cells, dashboards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.frontends.trial import Trial
from tests.support.browser import (
    CHROMIUM_FLAGS,
    Lab,
    chromium,
    jupyterlab,
    notebook,
    outputs,
    saved,
)

ASK = "%%bgresponse -o x\nWhy?"
SWEEP = "%%bgresponse -o g --n 2\nWhy?"


@contextlib.contextmanager
def browsers(count: int) -> Iterator[list[Any]]:
    """Pages of so many people: none knows the others'."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(CHROMIUM_FLAGS))
        try:
            yield [browser.new_context().new_page() for _ in range(count)]
        finally:
            browser.close()


def texts(page: Any, index: int) -> list[str]:
    """What stands in the outputs of a cell, in order, without those that are empty."""
    found = page.locator(".jp-Notebook .jp-CodeCell").nth(index).locator(".jp-OutputArea-output")
    return [text for text in (" ".join(each.split()) for each in found.all_inner_texts()) if text]


def collaboration(trial: Trial) -> str:
    """Three pages of one document: one sends, one was open then, one is opened later."""
    path = notebook(
        trial.folder / "study.ipynb", ["%load_ext bgmagic", ASK, SWEEP, ASK.replace("x", "y")]
    )
    started = jupyterlab(trial.folder, python=str(trial.python), **trial.environment)
    with started as url, browsers(3) as (sends, watches, comes):
        trial.hold()
        lab = Lab(sends, url.format(path.name))
        Lab(watches, url.format(path.name))
        for index in range(4):
            lab.run(index)
        for index, name in ((1, "x"), (2, "g"), (3, "y")):
            trial.until(lambda i=index: len(texts(sends, i)) == 2, f"two outputs of {name}")
            trial.until(lambda i=index: len(texts(watches, i)) == 2, f"{name} in the second page")
        later = Lab(comes, url.format(path.name))
        later.cell(3).locator(".bgmagic-card").wait_for()
        # Both who see the card cancel the job.
        for page in (sends, comes):
            card = page.locator(".jp-CodeCell").nth(3).locator(".bgmagic-card")
            card.get_by_role("button", name="Cancel y").click()
        for page in (sends, comes):
            card = page.locator(".jp-CodeCell").nth(3).locator(".bgmagic-card")
            with contextlib.suppress(Exception):  # the first one may have been quick
                card.get_by_role("button", name="Really cancel? y").click(timeout=5000)
        trial.until(lambda: trial.server.count("cancel"), "a cancel")
        trial.release()
        seen = {}
        for title, page in (("first", sends), ("second", watches), ("third", comes)):
            for index, wanted in ((1, "x completed the answer"), (2, "g 2 jobs: 2 completed")):
                trial.until(
                    lambda p=page, i=index, w=wanted: any(w in t for t in texts(p, i)),
                    f"{wanted!r} in the {title} page, but {texts(page, index)}",
                )
            trial.until(
                lambda p=page: "cancelled" in " ".join(texts(p, 3)),
                f"the cancelled one in the {title} page",
            )
            page.wait_for_timeout(2500)  # whether something is added to it
            seen[title] = [texts(page, index) for index in (1, 2, 3)]
        assert seen["first"] == seen["second"] == seen["third"], seen
        (answer, footer), group, _ = seen["first"]
        assert "resp_1" in footer, seen
        assert "the answer" in answer, seen
        assert len(group) == 1, seen
        assert trial.server.count("cancel") == 1, trial.server.count("cancel")
        saved(sends, path, 1, "the answer")
        assert len(outputs(path, 1)) == 2, outputs(path, 1)
    return "the same in all pages at the end, and one cancel"
