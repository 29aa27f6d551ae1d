#!/usr/bin/env bash
# Guess: `marimo convert` replaces what only IPython understands, its magics, and says so there; what is Python already
#   stays as it is. IPython itself tells a magic from a line within a text by Python's own tokens.
# Reality: each line that begins with `%` counts as a magic, also within a text of several lines: LaTeX's comments, and
#   places for %-formatting. A line "%d rows" becomes two, a remark of marimo's and "# %d rows"; of "%env A=b" the code
#   that sets the variable stands in the text. It is Python all the same, and runs with another text. A line that goes
#   on an expression, `% 7`, is taken out as well, and what is left is no Python.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "marimo==0.25.2" "nbformat==5.11.1" \
  "ipython==9.18.1"
cat > "$folder/try.py" <<'PY'
import contextlib
import io
import subprocess
import sys
from importlib.metadata import version

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_notebook

REMARK = "\n# magic command not supported in marimo; please file an issue to add support\n"


def printed(cell):
    """What the cell prints in IPython, and what after `marimo convert`; None where that can't be run."""
    nbformat.write(new_notebook(cells=[new_code_cell(cell)]), "in.ipynb")
    command = [sys.executable, "-m", "marimo", "--yes", "convert", "in.ipynb", "--output", "out.py"]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
    after = subprocess.run([sys.executable, "out.py"], capture_output=True, text=True, timeout=120)
    with contextlib.redirect_stdout(io.StringIO()) as before:
        exec(TransformerManager().transform_cell(cell))
    return before.getvalue(), None if after.returncode else after.stdout


print("marimo", version("marimo"), "ipython", version("ipython"))
seen = [printed(f"t = {text}\nprint(t)") for text in (
    '"""Of %s:\n%d rows"""', '"""A file:\n%env A=b\n"""', '"""Of %s:\n- %d rows"""', "(100\n% 7)")]
for before, after in seen:
    print(f"{before!r} became {after!r}")
sys.exit(seen != [
    ("Of %s:\n%d rows\n", f"Of %s:{REMARK}# %d rows\n"),
    ("A file:\n%env A=b\n\n", "A file:\nimport os\nos.environ['A'] = 'b'\n\n"),
    ("Of %s:\n- %d rows\n", "Of %s:\n- %d rows\n"),
    ("2\n", None),
])
PY
cd "$folder"
"$folder/venv/bin/python" try.py
