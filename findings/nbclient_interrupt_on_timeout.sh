#!/usr/bin/env bash
# Guess: nbclient's interrupt_on_timeout does what its help says: where a cell takes too long, "interrupt the kernel and
#   continue executing other cells rather than throwing an error and stopping". Without it there is a CellTimeoutError.
# Reality: the cell is interrupted, its KeyboardInterrupt counts as the cell's own error, and the notebook stops there
#   by a CellExecutionError; no other cell runs. Who catches CellTimeoutError, a TimeoutError, to know that time was up
#   no longer gets it. It goes on only with allow_errors=True, which passes over every other error as well.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "nbclient==0.11.0" "nbformat==5.11.1" "ipykernel==7.4.0"
cat > "$folder/try.py" <<'PY'
import sys
from importlib.metadata import version

import nbformat
from nbclient import NotebookClient

LONG = "import time\ntime.sleep(3600)"


def ran(**settings):
    """What the run raised, and what the cells after the long one said."""
    cells = [nbformat.v4.new_code_cell(source) for source in (LONG, "print('next')")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    # Seconds; only the long cell can be too long, however slow the machine.
    limit = {"timeout_func": lambda cell: 2 if "sleep" in cell.source else 240}
    try:
        NotebookClient(notebook, kernel_name="python3", **limit, **settings).execute()
        raised = None
    except Exception as error:
        raised = type(error).__name__
    return raised, [out.text.strip() for out in cells[1].get("outputs", ()) if out.output_type == "stream"]


print("nbclient", version("nbclient"), "ipykernel", version("ipykernel"))
print("its help:", " ".join(NotebookClient.interrupt_on_timeout.help.split()))
tried = {}, {"interrupt_on_timeout": True}, {"interrupt_on_timeout": True, "allow_errors": True}
seen = [ran(**settings) for settings in tried]
for settings, (raised, said) in zip(tried, seen):
    print(f"{settings}: raised {raised}, the next cell said {said}")
sys.exit(seen != [("CellTimeoutError", []), ("CellExecutionError", []), (None, ["next"])])
PY
cd "$folder"
export JUPYTER_CONFIG_DIR="$folder/config" JUPYTER_RUNTIME_DIR="$folder/runtime" JUPYTER_DATA_DIR="$folder/data"
export IPYTHONDIR="$folder/ipython"
"$folder/venv/bin/python" "$folder/try.py" 2> errors || { cat errors; exit 1; }
