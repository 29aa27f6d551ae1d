#!/usr/bin/env bash
# Guess: in euporie update_display() puts the new content in the place of the display with that id, or at
#   worst leaves the old one; the cells after it show their outputs as always.
# Reality: with euporie 2.10.4 the display keeps its old content, and every later cell of the run shows and
#   saves no output at all; nothing says so, and it ends with 0.
# Ends with 1 when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet euporie==2.10.4 ipykernel==7.4.0 nbformat==5.10.4
cat > "$folder/try.py" <<'PY'
import subprocess, sys
from importlib.metadata import version
import nbformat

SHOW = "_ = display('first', display_id='d')"
UPDATE = "from IPython.display import update_display\nupdate_display('second', display_id='d')"


def saved(*cells):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(made, "in.ipynb")
    command = [sys.executable, "-m", "euporie.preview", "--run", "--save", "in.ipynb"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    outputs = [cell.outputs for cell in nbformat.read("in.ipynb", 4).cells]
    return [[out.get("text") or out.data["text/plain"] for out in cell] for cell in outputs]


print("euporie", version("euporie"))
plain, updated = saved(SHOW, "6 * 7", "print('later')"), saved(SHOW, UPDATE, "6 * 7", "print('later')")
print("without an update:", plain)
print("with one:         ", updated)
sys.exit(0 if plain == [["'first'"], ["42"], ["later\n"]] and updated == [["'first'"], [], [], []] else 1)
PY
cd "$folder"
PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/python" "$folder/try.py"
