"""Notebooks run by programs: what the saved file holds, and what the log says of jobs left open."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.conftest import KEY
from tests.support.kernels import kernel
from tests.support.scripted import Script, ScriptedServer

# Each as a user types it, in a process of its own.
TOOLS = {
    "jupyter execute": ["jupyter", "execute", "--output=out.ipynb", "in.ipynb"],
    "nbconvert": ["nbconvert", "--execute", "--to=notebook", "--output=out", "in.ipynb"],
    "papermill": ["papermill", "--no-progress-bar", "in.ipynb", "out.ipynb"],
}


def run(
    tool: str, folder: Path, server: ScriptedServer, *cells: str, **environment: str
) -> tuple[dict[str, list[Any]], str]:
    """Execute a notebook; its outputs by each cell's first line, and the log."""
    written = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    written.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(written, folder / "in.ipynb")
    ours = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.base_url, "BGMAGIC_POLL": "0.1"}
    ours["BGMAGIC_JOURNAL"] = str(folder / "journal.sqlite3")
    ran = subprocess.run(
        [sys.executable, "-m", *TOOLS[tool]],
        cwd=folder, env={**os.environ, **ours, **environment}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    saved = nbformat.read(folder / "out.ipynb", as_version=4)
    assert "widgets" not in saved.metadata
    return {cell.source.splitlines()[0]: cell.outputs for cell in saved.cells}, ran.stderr


def html(outputs: list[Any]) -> str:
    """The one display of a cell; no widget is in it, which would be dead in the file."""
    assert len(outputs) == 1
    assert set(outputs[0].data) == {"text/html", "text/plain"}
    return str(outputs[0].data["text/html"])


@pytest.mark.parametrize("tool", TOOLS)
def test_saved_file_holds_the_ends(tool: str, server: ScriptedServer, tmp_path: Path) -> None:
    """By %bgwait, --wait, await or just a later cell, each answer is in the cell that asked; a job left open is in the journal and the log says how to follow it."""
    server.polls = 3
    server.enqueue("create", Script(), Script(reset="after"))
    outputs, log = run(
        tool, tmp_path, server,
        "%load_ext bgmagic",
        "%%bgresponse -o two --wait\nFirst?",
        "%%bgresponse -o four\nSecond?",
        "%bgwait",
        # From here on nothing but the end of some cell tells how the jobs ended.
        "%%bgresponse -o one\nThird?",
        "while not isinstance(one, str): __import__('time').sleep(0.05)",
        "%%bgresponse -o three\nFourth?",
        "print(await three)",
        "%%bgresponse -o many --n 3\nFifth?",
        "many",
        "len(await many)",
        "%bgjobs",
        "%%bgresponse -o five --poll 80\nFifth, and the notebook ends here?",
        "while not five.response_id: __import__('time').sleep(0.05)",
    )  # fmt: skip
    for name in ("one", "two", "three"):
        (shown,) = [outputs[head] for head in outputs if head.startswith(f"%%bgresponse -o {name}")]
        ended = shown if name != "two" else [out for out in shown if out.output_type != "stream"]
        assert "completed" in html(ended), name
        assert "the answer" in html(ended), name
        assert "resp_" in html(ended), name
    assert "unknown" in html(outputs["%%bgresponse -o four"])
    many = html(outputs["%%bgresponse -o many --n 3"])
    assert many.count("the answer") >= 3
    assert not any("widget" in kind for kind in outputs["many"][0].data)
    assert outputs["many"][0].data["text/plain"].startswith("<JobGroup many 3 jobs: ")
    table = html(outputs["%bgjobs"])
    assert table.startswith("<table>")
    assert table.count("completed") == 6
    left = html(outputs["%%bgresponse -o five --poll 80"])
    assert "%bgattach five follows it in another kernel" in left
    said = [line for line in log.splitlines() if line.startswith("bgmagic: ")]
    assert said == [
        "bgmagic: 1 job is still at work at the server: five. In another kernel, %load_ext bgmagic, "
        "then %bgattach five"
    ]
    server.polls = 0
    with kernel(
        OPENAI_API_KEY=KEY, OPENAI_BASE_URL=server.base_url, BGMAGIC_POLL="0.1",
        BGMAGIC_JOURNAL=str(tmp_path / "journal.sqlite3"),
    ) as other:  # fmt: skip
        other.ok("%load_ext bgmagic")
        other.ok("%bgattach five")
        other.until("isinstance(five, str)")
    assert server.count("create") == 8


def test_wait_by_environment(server: ScriptedServer, tmp_path: Path) -> None:
    """With BGMAGIC_WAIT=1 every %%bgresponse waits, so that the next cell has its answer."""
    server.polls = 3
    cells = ["%load_ext bgmagic", "%%bgresponse -o one\nFirst?", "print(one.upper())"]
    outputs, log = run("jupyter execute", tmp_path, server, *cells, BGMAGIC_WAIT="1")
    assert outputs["print(one.upper())"][0].text == "THE ANSWER\n"
    assert "bgmagic:" not in log
