"""What a prompt looks like as it is typed: the extension for JupyterLab and Notebook, in a real browser."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bgmagic
from tests.support.browser import (
    PACKAGE,
    Lab,
    is_installed,
    jupyterlab,
    need_browser,
    notebook,
    page,
)

PROMPT = """%%bgresponse -o critique -e hgih --verbosty=low -i "Don't be long" --n 3
# Don't answer in one word

Is **this** in the list? it's {{ len(rows) + 1 }} rows, {{ table["it's"] | upper }}

```
{{ 'fenced' }}
```
"""
CODE = "for x in 'it': pass"

# The colour, weight and underline of the innermost element around a text in a cell.
_LOOK = """([index, text]) => {
  const cell = document.querySelectorAll('.jp-Notebook .jp-CodeCell')[index];
  const walker = document.createTreeWalker(cell.querySelector('.cm-content'), NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    if (!node.data.includes(text)) continue;
    const {color, fontWeight, textDecorationStyle} = getComputedStyle(node.parentElement);
    return [color, fontWeight, textDecorationStyle];
  }
  return null;
}"""


@pytest.fixture(autouse=True)
def _browser() -> None:
    need_browser()


class Looks:
    """The looks of the words in an open notebook; what goes wrong in the page is in ``errors``."""

    def __init__(self, opened: Any, url: str) -> None:
        self.errors: list[str] = []
        opened.on("console", lambda told: self.errors.append(told.text) if _is_ours(told) else None)
        self.lab = Lab(opened, url)
        self.page = opened

    def of(self, index: int, text: str) -> tuple[str, str, str]:
        found = self.page.evaluate(_LOOK, [index, text])
        assert found is not None, f"{text!r} stands by itself nowhere in cell {index}"
        return tuple(found)

    def wait(self, index: int, text: str, other: tuple[str, str, str], *, same: bool) -> None:
        """Wait until a text looks like ``other``, or no more."""
        test = f"([at, other, same]) => ((({_LOOK})(at) + '') === other + '') === same"
        self.page.wait_for_function(test, arg=[[index, text], list(other), same])


def _is_ours(told: Any) -> bool:
    return told.type == "error" and ("CodeMirror" in told.text or "bgmagic" in told.text)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL in JupyterLab of a notebook with code, a prompt and an empty cell; its server has
    Notebook, too."""
    need_browser()
    tmp_path = tmp_path_factory.mktemp("looks")
    path = notebook(tmp_path / "a.ipynb", [CODE, PROMPT, "", "%load_ext bgmagic"])
    with jupyterlab(tmp_path) as url:
        yield url.format(path.name)


@pytest.fixture(params=["lab/tree/", "notebooks/"], ids=["jupyterlab", "notebook"], scope="module")
def looks(request: pytest.FixtureRequest, address: str) -> Iterator[Looks]:
    """That notebook, in either program."""
    with page(viewport={"width": 1200, "height": 800}) as opened:
        found = Looks(opened, address.replace("lab/tree/", request.param))
        opened.wait_for_selector(".bgmagic-expression")
        yield found
        assert found.errors == []


# First: playwright has one browser at a time, and the fixture's stays until the last test that uses it.
def test_absence_changes_nothing(tmp_path: Path) -> None:
    """Without the extension a prompt is coloured as IPython's code is, and runs."""
    path = notebook(
        tmp_path / "a.ipynb", [CODE, "%load_ext bgmagic", "%%bgresponse --dry-run\nIs it in?"]
    )
    with jupyterlab(tmp_path, extension=False, OPENAI_API_KEY="none") as url, page() as opened:
        looks = Looks(opened, url.format(path.name))
        looks.lab.run(1)
        looks.lab.run(2)
        looks.lab.cell(2).get_by_text("Is it in?").last.wait_for()
        looks.wait(2, "in", looks.of(0, "in"), same=True)
        assert opened.locator(".bgpanel-panel").count() == 0


def test_prompt_is_coloured(looks: Looks) -> None:
    """The first line looks like options with the unknown ones marked, the rest like Markdown, and
    expressions like Python, fenced ones too; code cells look as ever."""
    for_, it, plain = looks.of(0, "for"), looks.of(0, "'it'"), looks.of(1, "Is ")
    assert looks.of(0, "in") == for_ != plain
    assert looks.of(1, "%%bgresponse") == for_
    assert looks.of(1, '"Don\'t be long"') == it
    assert len({looks.of(1, word) for word in ("-o", '"Don', "3", "critique", "Is ")}) == 5
    assert looks.of(1, "-o") == looks.of(1, "--n")
    marked = looks.page.locator(".bgmagic-unknown")
    assert marked.all_inner_texts() == ["hgih", "--verbosty=low"]
    assert {looks.of(1, text)[2] for text in ("hgih", "--verbosty")} == {"wavy"}
    told = marked.nth(1).get_attribute("title")
    assert "did you mean --verbosity?" in told
    # "in" and an apostrophe are words; a heading and bold text are Markdown's.
    assert looks.of(1, " in the list? it's ") == plain
    assert looks.of(1, "answer in one")[0] != plain[0]
    assert int(looks.of(1, "this")[1]) > int(plain[1])
    assert looks.of(1, '"it\'s"') == looks.of(1, "'fenced'") == it
    assert looks.of(1, "1")[0] == looks.of(1, "3")[0]


def test_switches_as_the_line_is_typed(looks: Looks) -> None:
    """A cell becomes a prompt as its first line is typed and stops being one as it is deleted; a word
    that may still become an option is not marked; Tab completes as in every cell."""
    lab, keyboard = looks.lab, looks.page.keyboard
    lab.run(3)
    lab.cell(2).locator(".cm-content").click()
    keyboard.type("x in y")
    keyword = looks.of(0, "in")
    looks.wait(2, "in", keyword, same=True)
    keyboard.press("Control+Home")
    keyboard.type("%%bgresponse\n")
    looks.wait(2, "x in y", keyword, same=False)
    keyboard.press("ArrowUp")
    keyboard.press("End")
    keyboard.type(" --verb")
    assert looks.page.locator(".jp-CodeCell:nth-of-type(3) .bgmagic-unknown").count() == 0
    keyboard.press("Tab")
    looks.page.locator(".jp-Completer").get_by_text("--verbosity").wait_for()
    keyboard.press("Enter")
    looks.wait(2, "--verbosity", looks.of(1, "-o"), same=True)
    lab.cell(2).locator(".cm-content").click()
    keyboard.press("Control+Home")
    keyboard.press("Shift+End")
    keyboard.press("Backspace")
    looks.wait(2, "in", keyword, same=True)


def test_what_pip_installs() -> None:
    """`pip install`, editable too, puts the whole extension where Jupyter looks for it, in 40 kB."""
    folder = PACKAGE / "labextension"
    about = json.loads((folder / "package.json").read_text())
    assert about["version"] == bgmagic.__version__
    assert (folder / about["jupyterlab"]["_build"]["load"]).is_file()
    assert sum(path.stat().st_size for path in folder.rglob("*.js")) <= 40_000
    try:
        importlib.metadata.version("bgmagic")
    except importlib.metadata.PackageNotFoundError:
        assert not os.environ.get("CI"), "CI runs what pip has installed"
        pytest.skip("bgmagic is not installed here")
    if not is_installed() and not os.environ.get("CI"):
        pytest.skip(
            "what is installed is older than the tree: pip install -e . brings it up to date"
        )
    assert is_installed()
