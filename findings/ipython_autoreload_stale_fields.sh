#!/usr/bin/env bash
# Guess: under `%autoreload 2` an edited module is run again: a default that is changed, or a field that is added, in a
#   dataclass, a NamedTuple or a Pydantic model is there in the next cell; or autoreload says that it failed.
# Reality: where only literals have changed within functions and classes, autoreload puts these into the old ones, and
#   does not run the module. A class gets its new attributes, but what a decorator or a metaclass makes of them stays:
#   `limit: int = 5` gives Settings.limit 5 and Settings().limit 1, an added field with a default is unknown, and a model
#   goes on to validate by, and to give out, its old JSON schema. Nothing is said, and importing the class once more gives
#   the same one; importlib.reload() gives the new one.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ipython==9.18.1" "pydantic==2.14.4"
cd "$folder"
IPYTHONDIR="$folder" "$folder/venv/bin/python" - 2>&1 <<'PY'
import contextlib
import io
import os
import sys
import time

import IPython
import pydantic
from IPython.core.interactiveshell import InteractiveShell

MODULE = """from dataclasses import dataclass
from typing import NamedTuple
from pydantic import BaseModel
def plain(): return {value}
@dataclass
class Settings:
    limit: int = {value}{more}
class Point(NamedTuple):
    limit: int = {value}{more}
class Fit(BaseModel):
    limit: int = {value}
"""
ASK = """
from lab import Fit, Point, Settings, plain
seen = {
    "a function": plain(), "Settings.limit": Settings.limit, "Settings().limit": Settings().limit,
    "fields of Settings": list(Settings.__dataclass_fields__), "fields of Point": list(Point._fields),
    "Fit().limit": Fit().limit,
    "the schema of Fit": Fit.model_json_schema()["properties"]["limit"]["default"],
}
"""
sys.path.insert(0, "")
shell = InteractiveShell.instance()


def seen(cell=""):
    """What a cell sees that imports the classes once more, and what it says."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        shell.run_cell(cell + ASK).raise_error()
    assert not said.getvalue(), said.getvalue()
    return shell.user_ns["seen"]


def save(later, **parts):
    with open("lab.py", "w") as file:
        file.write(MODULE.format(**parts))
    os.utime("lab.py", (time.time() + later,) * 2)  # another moment, however quick this is


print("IPython", IPython.__version__, "pydantic", pydantic.VERSION)
save(0, value=1, more="")
for magic in ("%load_ext autoreload", "%autoreload 2"):
    shell.run_cell(magic).raise_error()
first = seen()
seen()
save(2, value=5, more="\n    name: str = ''")
edited, reloaded = seen(), seen("import importlib, lab; importlib.reload(lab)")
for what in first:
    print(f"{what}: {first[what]}; edited {edited[what]}; after importlib.reload() {reloaded[what]}")
new = dict.fromkeys(first, 5) | {f"fields of {name}": ["limit", "name"] for name in ("Settings", "Point")}
sys.exit(edited != first | {"a function": 5, "Settings.limit": 5} or reloaded != new)
PY
