#!/usr/bin/env bash
# Guess: in a notebook that nbclient runs (nbconvert, papermill) update_display() puts the new content in the place of
#   the display with that id, whenever it comes: the id is known, and a later cell's update is taken.
# Reality: what counts is which cell the message belongs to. A task that an earlier cell began still belongs to that
#   cell (ipykernel keeps that by context), and its update is dropped without a word while a later cell runs; the same
#   call in a thread without a context of its own, which counts as the running cell's, is taken.
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

SHOW = "import asyncio, threading\n_ = display('first', display_id='d')\n"
UPDATE = "from IPython.display import update_display\nupdate_display('second', display_id='d')\n"
TASK = """
from IPython.display import update_display
go, gone = asyncio.Event(), asyncio.Event()

async def later():
    await go.wait()
    update_display("second", display_id="d")
    gone.set()

task = asyncio.create_task(later())
"""
THREAD = """
from IPython.display import update_display
go, gone = threading.Event(), threading.Event()

def later():
    go.wait()
    update_display("second", display_id="d")
    gone.set()

threading.Thread(target=later).start()
"""


def saved(*cells):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(made, kernel_name="python3", timeout=120).execute()
    return made.cells[0].outputs[0].data["text/plain"]


print("nbclient", version("nbclient"), "ipykernel", version("ipykernel"))
seen = {
    "by a later cell": saved(SHOW, UPDATE),
    "by an earlier cell's task": saved(SHOW + TASK, "go.set()\nawait gone.wait()"),
    "by an earlier cell's thread": saved(SHOW + THREAD, "go.set()\ngone.wait()"),
}
for how, shown in seen.items():
    print(f"updated {how}: {shown}")
sys.exit(0 if list(seen.values()) == ["'second'", "'first'", "'second'"] else 1)
PY
cd "$folder"
export JUPYTER_CONFIG_DIR="$folder/config" JUPYTER_RUNTIME_DIR="$folder/runtime" JUPYTER_DATA_DIR="$folder/data"
export IPYTHONDIR="$folder/ipython"
"$folder/venv/bin/python" "$folder/try.py" 2> errors || { cat errors; exit 1; }
