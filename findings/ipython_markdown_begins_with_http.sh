#!/usr/bin/env bash
# Guess: Markdown(text) shows the text. That "data" may be an address, as the docstring has it, is for a text that is one
#   and nothing else; a sentence is shown.
# Reality: every text that begins with "http" is taken for an address. An answer that begins with "httpx is …" ends in
#   ValueError, and nothing is shown; with a blank before it, it is shown. Latex, Pretty and Code do the same. A
#   mimebundle, display({"text/markdown": text}, raw=True), is shown whatever it begins with, so that what a program
#   has not written itself goes that way.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ipython==9.18.1"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import IPython
from IPython.display import Code, Latex, Markdown, Pretty


def shown(kind, text):
    try:
        return kind(text).data
    except ValueError as error:
        return f"ValueError: {error}"


print("IPython", IPython.__version__)
SENTENCE = "httpx is one, aiohttp another."
wrong = False
for kind in (Markdown, Latex, Pretty, Code):
    gave, moved = shown(kind, SENTENCE), shown(kind, f" {SENTENCE}")
    print(f"{kind.__name__}: {SENTENCE!r} gives {gave!r}, with a blank before it {moved!r}")
    wrong |= (gave, moved) != (f"ValueError: unknown url type: {SENTENCE!r}", f" {SENTENCE}")
sys.exit(wrong)
PY
