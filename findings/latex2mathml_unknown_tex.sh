#!/usr/bin/env bash
# The guess: latex2mathml.convert() raises on TeX that it doesn't know, as it does on unbalanced braces
# (it has a dozen exceptions), so catching them is enough to fall back to the source.
# The reality: an unknown command becomes an identifier that is called like it, and the environment
# `aligned`, the most common one of models and MathJax users, loses its rows: "&" becomes an identifier
# and "\\" a line break that browsers (MathML Core) ignore. No error, no warning; `align*` is a table.
# Exits with 1 if that changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check "latex2mathml==3.81.1"
"$place/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

from latex2mathml.converter import convert

print("latex2mathml", version("latex2mathml"))
rows = r"a &= b \\ c &= d"
seen = {
    r"unknown command is an identifier": r"<mi>\dag</mi>" in convert(r"A^\dag"),
    r"aligned has no table": "<mtable" not in convert(rf"\begin{{aligned}} {rows} \end{{aligned}}"),
    r"aligned shows its ampersands": "<mi>&" in convert(rf"\begin{{aligned}} {rows} \end{{aligned}}"),
    r"align* is a table": convert(rf"\begin{{align*}} {rows} \end{{align*}}").count("<mtr>") == 2,
}
for what, found in seen.items():
    print(f"{'yes' if found else 'NO '}  {what}")
sys.exit(0 if all(seen.values()) else 1)
PY
