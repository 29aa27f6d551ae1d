#!/usr/bin/env bash
# Guess: a magic that raises a subclass of IPython's UsageError is answered with one line, as for UsageError: an
#   `except` and isinstance() take the one for the other, and a library can have an error class of its own.
# Reality: the one line is for exactly UsageError. Of a subclass the whole traceback is shown, through the library's
#   own frames. (Any class with a method `_render_traceback_` can say itself what is shown.)
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

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

shell = InteractiveShell.instance(colors="nocolor")


class NoSuchModel(UsageError):
    pass


class Own(Exception):
    def _render_traceback_(self):
        return [f"own: {self}"]


def shown(kind):
    def magic(line):
        raise kind("there is no model m")

    shell.register_magic_function(magic, "line", "ask")
    with capture_output() as captured:
        shell.run_cell("%ask")
    return (captured.stdout + captured.stderr).strip().splitlines()


print("IPython", version("ipython"))
seen = {kind.__name__: shown(kind) for kind in (UsageError, NoSuchModel, Own)}
for name, lines in seen.items():
    print(f"{name}: {len(lines)} line(s), the last one: {lines[-1]}")
subclass = seen["NoSuchModel"]
alone = len(seen["UsageError"]) == 1 and seen["Own"] == ["own: there is no model m"]
sys.exit(0 if alone and len(subclass) > 3 and "Traceback" in "".join(subclass) else 1)
PY
