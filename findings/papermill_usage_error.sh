#!/usr/bin/env bash
# Guess: where a cell fails, papermill's PapermillExecutionError says with what, as nbclient's error does, which it is
#   built on: the class and the message stand in `ename` and `evalue`, and so in the log of whatever runs notebooks.
# Reality: it says what an output of kind "error" says. A magic that refuses its line with IPython's UsageError leaves
#   none, only a line of stderr: `evalue` is "", the traceback empty, and the message names nothing but the cell's
#   number. Any other exception of the same magic is told.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "papermill==2.7.0" "nbclient==0.11.0" "nbformat==5.11.1" "ipykernel==7.4.0" "ipython==9.18.1"
cat > "$folder/try.py" <<'PY'
import sys
from importlib.metadata import version

import nbformat
import papermill
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

MAGIC = """
from IPython.core.error import UsageError
from IPython.core.magic import register_line_magic

@register_line_magic
def ask(line):
    raise {}("there is no model m")
"""


def told(kind):
    cells = [nbformat.v4.new_code_cell(source) for source in (MAGIC.format(kind), "%ask")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, "in.ipynb")
    by_nbclient = by_papermill = None
    try:
        NotebookClient(notebook, timeout=120).execute()
    except CellExecutionError as error:
        by_nbclient = "no model m" in str(error)
    try:
        papermill.execute_notebook("in.ipynb", "out.ipynb", progress_bar=False)
    except papermill.PapermillExecutionError as error:
        by_papermill = error.ename, error.evalue, "no model m" in str(error)
    print(f"{kind}: the message is in nbclient's error: {by_nbclient}; papermill's: {by_papermill}")
    return by_nbclient, by_papermill


print("papermill", version("papermill"), "nbclient", version("nbclient"), "IPython", version("ipython"))
usage, value = told("UsageError"), told("ValueError")
expected = (True, ("CellExecutionError", "", False)), (True, ("ValueError", "there is no model m", True))
sys.exit((usage, value) != expected)
PY
cd "$folder"
export JUPYTER_CONFIG_DIR="$folder/config" JUPYTER_RUNTIME_DIR="$folder/runtime" JUPYTER_DATA_DIR="$folder/data"
export IPYTHONDIR="$folder/ipython"
"$folder/venv/bin/python" "$folder/try.py" 2> errors || { cat errors; exit 1; }
