#!/usr/bin/env bash
# Guess: an expression in Jinja's ImmutableSandboxedEnvironment changes no dict.
# Reality: {{ d.name }} of a name that is not there is looked up by d["name"], too, and a
# defaultdict then has the key.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jinja2==3.1.6
"$folder/venv/bin/python" - <<'PY'
import collections
import sys
from importlib.metadata import version

from jinja2.sandbox import ImmutableSandboxedEnvironment

counts = collections.defaultdict(int)
ImmutableSandboxedEnvironment().compile_expression("counts.nosuch")(counts=counts)
print("jinja2", version("jinja2"), "after reading counts.nosuch:", dict(counts))
sys.exit(0 if dict(counts) == {"nosuch": 0} else 1)
PY
