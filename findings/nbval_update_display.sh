#!/usr/bin/env bash
# Guess: a notebook that gives the same outputs each time, was run a moment ago and saved by nbclient passes nbval,
#   which runs it again and compares.
# Reality: nbval leaves update_display() out: it compares what a display showed at first with what was saved, which is
#   what it shows in the end. Whatever shows progress in its own display and then its result fails, for ever, and
#   sanitizing can't help. A display that is never updated passes.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "nbval==0.11.0" "pytest==9.2.0" "nbclient==0.11.0" \
  "nbformat==5.11.1" "ipykernel==7.4.0" "ipython==9.18.1" "jupyter_client==8.10.0"
cat > "$folder/try.py" <<'PY'
import re
import subprocess
import sys
from importlib.metadata import version

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

SHOW = "shown = display('0 of 2', display_id=True)"
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}


def checked(name, *cells):
    """What the display of a notebook shows that is run and saved, what nbval says, and what it compared."""
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=KERNEL)
    NotebookClient(notebook, timeout=60).execute()
    nbformat.write(notebook, name)
    command = [sys.executable, "-m", "pytest", "--quiet", "--nbval", "-p", "no:cacheprovider", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    compared = re.findall(r'"(\'.*\')" == "(\'.*\')"', done.stdout)
    print(f"{name}: saved as {notebook.cells[0].outputs[0].data['text/plain']}; pytest ended with {done.returncode}; "
          f"saved and seen again: {compared}")
    return notebook.cells[0].outputs[0].data["text/plain"], done.returncode, compared


print("nbval", version("nbval"), "nbclient", version("nbclient"), "ipykernel", version("ipykernel"))
seen = [checked("plain.ipynb", SHOW), checked("updated.ipynb", SHOW + "\nshown.update('2 of 2')")]
sys.exit(seen != [("'0 of 2'", 0, []), ("'2 of 2'", 1, [("'2 of 2'", "'0 of 2'")])])
PY
cd "$folder"
PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/python" try.py
