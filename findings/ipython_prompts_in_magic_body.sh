#!/usr/bin/env bash
# Guess: a cell magic is given the rest of its cell as it was typed. `>>> `, `... ` and `In [1]: ` are taken off
#   cells of Python alone, where a session is pasted; the text below `%%writefile` is a file's, not code.
# Reality: IPython takes them off before it looks whether the cell is a magic's. One line that begins with `>>>`
#   anywhere in the cell, indented or not, and each such line and each `...` loses its beginning, and its indentation
#   where all around have it. Of a Python session in a file, or in a prompt to a model, nobody can tell any more what
#   was typed and what was answered. Cells without such a line come as they are, `...` and all.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ipython==9.18.1"
cd "$folder"
export IPYTHONDIR="$folder/ipython"
"$folder/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
SESSION = "Why not 3.5?\n\n>>> 7 // 2\n3\n>>> if 1:\n...     print('...')\n"
NUMBERED = "In [1]: 7 // 2\n3\n"
NONE = "Go on:\n... and so on\n... till the end\n"


def written(text):
    shell.run_cell("%%writefile -a text\n" + text)
    found = Path("text").read_text()
    Path("text").unlink()
    return found


print("IPython", version("ipython"))
got = [written(text) for text in (SESSION, NUMBERED, NONE)]
for typed, found in zip((SESSION, NUMBERED, NONE), got):
    print(f"typed   {typed!r}\nwritten {found!r}")
expected = ["Why not 3.5?\n\n7 // 2\n3\nif 1:\n    print('...')\n", "7 // 2\n3\n", NONE]
sys.exit(got != expected)
PY
