"""The notebooks, executed headless on the embedded model."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.mark.timeout(300)
def test_quickstart(embedded: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell of the quickstart runs without a key, and what it promises is in its outputs."""
    for name, value in embedded.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOKS / "01_quickstart.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = {
        cell.source.splitlines()[0]: "".join(
            output.get("text", "") or output.get("data", {}).get("text/plain", "")
            for output in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    assert "Jobs now go to SmolLM2-135M-Instruct" in shown["%bglocal"]
    assert shown["%%bgresponse -o fact"].startswith("fact: ")
    assert "fact: completed after" in shown["%bgwait fact"]
    assert len(shown["fact"].split()) > 5
    words = shown['print(len(fact.split()), "words by", fact.model)']
    assert "words by SmolLM2-135M-Instruct" in words
    assert shown["import asyncio"].startswith("cats: ")
    essay = shown['print("status:", essay.status)']
    assert "status: incomplete" in essay
    assert "max_output_tokens" in essay
    assert essay.partition("text:")[2].strip()


def test_notebooks_are_committed_without_leftovers() -> None:
    """No notebook holds an output or a count from somebody's machine."""
    for path in NOTEBOOKS.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None
