#!/usr/bin/env bash
# Guess: rich's Console(file=...) writes to that file, in a notebook as in a script, and `stderr=True` to stderr: the
#   argument says where. So does rich.print(file=...), and a RichHandler on such a Console keeps a log of a long run.
# Reality: in a notebook a Console has no file. Whatever it was given, it shows each text as an output of the running
#   cell; the file stays empty, without an error, and the log with it. redirect_stdout() does not get it either. With
#   force_jupyter=False the same Console writes to its file.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "rich==15.0.0" "nbclient==0.11.0" "nbformat==5.11.1" "ipykernel==7.4.0"
cat > "$folder/try.py" <<'PY'
import subprocess, sys
from importlib.metadata import version

import nbformat
from nbclient import NotebookClient

WORDS = "loading", "training", "saving", "testing", "done"
CODE = f"WORDS = {WORDS}" + """
import contextlib, io, logging
import rich
from rich.console import Console
from rich.logging import RichHandler

console, printed, logged, redirected, forced = (io.StringIO() for _ in range(5))
Console(file=console).print("loading")
rich.print("training", file=printed)
log = logging.getLogger("run")
log.propagate = False
log.addHandler(RichHandler(console=Console(file=logged)))
log.warning("saving")
with contextlib.redirect_stdout(redirected):
    rich.print("testing")
Console(file=forced, force_jupyter=False).print("done")
files = [file.getvalue() for file in (console, printed, logged, redirected, forced)]
print([word in text for word, text in zip(WORDS, files)], [text == "" for text in files])
"""


def in_script():
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def in_notebook():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    NotebookClient(notebook, kernel_name="python3", timeout=240).execute()
    outputs = notebook.cells[0].outputs
    shown = [out.data["text/plain"] for out in outputs if out.output_type == "display_data"]
    said = "".join(out.text for out in outputs if out.output_type == "stream" and out.name == "stdout").strip()
    return said, [word in text for word, text in zip(WORDS, shown)]


print("rich", version("rich"), "ipykernel", version("ipykernel"))
script, (notebook, shown) = in_script(), in_notebook()
print("in a script, the text is in its file, the file is empty:  ", script)
print("in a notebook, the text is in its file, the file is empty:", notebook)
print("in a notebook, shown as outputs of the cell instead:      ", shown)
everywhere, nowhere = f"{[True] * 5} {[False] * 5}", f"{[False] * 4 + [True]} {[True] * 4 + [False]}"
sys.exit((script, notebook, shown) != (everywhere, nowhere, [True] * 4))
PY
cd "$folder"
export JUPYTER_CONFIG_DIR="$folder/config" JUPYTER_RUNTIME_DIR="$folder/runtime" JUPYTER_DATA_DIR="$folder/data"
export IPYTHONDIR="$folder/ipython"
"$folder/venv/bin/python" "$folder/try.py" 2> errors || { cat errors; exit 1; }
