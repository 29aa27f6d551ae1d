#!/usr/bin/env bash
# Guess: `%%capture` keeps what a cell prints, and nothing else about the cell changes: an error in it stops "Run All"
#   and whatever runs the notebook, and `await` works in it as in any cell.
# Reality: a cell under `%%capture` always succeeds. Its error is shown, the kernel answers "ok", and nbclient goes on
#   to the end, without an exception; `%%time` is not so. And `await` in it fails by a RuntimeError, since the loop runs
#   already, so that whatever it was to wait for and assign is missing in the cells after it, which run.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "ipython==9.18.1" "nbclient==0.11.0" "nbformat==5.11.1" "ipykernel==7.4.0"
cat > "$folder/try.py" <<'PY'
import sys
from importlib.metadata import version

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

AWAIT = "import asyncio\nx = await asyncio.sleep(0, 5)"


def ran(cell):
    """The error that is shown under a cell, whether it stopped the notebook, and what the next cell says of x."""
    cells = [nbformat.v4.new_code_cell(source) for source in (cell, "print('x' in globals())")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    try:
        NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
        stopped = False
    except CellExecutionError:
        stopped = True
    shown = [out.ename for out in cells[0].outputs if out.output_type == "error"]
    said = [out.text.strip() for out in cells[1].get("outputs", ())]
    print(repr(cell), "shows", shown, "stopped" if stopped else "went on", said)
    return shown, stopped, said


print("IPython", version("ipython"), "ipykernel", version("ipykernel"), "nbclient", version("nbclient"))
seen = [ran("x = 1 / 0"), ran("%%time\nx = 1 / 0"), ran("%%capture\nx = 1 / 0"), ran(AWAIT), ran(f"%%capture\n{AWAIT}")]
expected = [
    (["ZeroDivisionError"], True, []),
    (["ZeroDivisionError"], True, []),
    (["ZeroDivisionError"], False, ["False"]),
    ([], False, ["True"]),
    (["RuntimeError"], False, ["False"]),
]
sys.exit(seen != expected)
PY
cd "$folder"
export JUPYTER_CONFIG_DIR="$folder/config" JUPYTER_RUNTIME_DIR="$folder/runtime" JUPYTER_DATA_DIR="$folder/data"
export IPYTHONDIR="$folder/ipython"
"$folder/venv/bin/python" "$folder/try.py" 2> errors || { cat errors; exit 1; }
