#!/usr/bin/env bash
# Guess: Markdown(text) shows the text. That "data" may be an address or a path, as the docstring has it, is for a text
#   that is one and nothing else; a sentence is shown, and so is a word.
# Reality: every text that begins with "http" is asked for on the network: an answer that begins with "httpx is …" ends
#   in ValueError, and nothing is shown. Every text that names something in the current folder is that file: the word
#   `notes` shows what is in the file `notes`. Latex, Pretty and Code do the same; a mimebundle, display(…, raw=True), is
#   shown as it is. What is shown depends on the folder, so what a program shows that it has not written itself goes
#   the second way. (ipython/ipython#14820 has the file.)
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ipython==9.18.1"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import os
import sys

import IPython
from IPython.display import Code, Latex, Markdown, Pretty

os.mkdir("work")
os.chdir("work")


def shown(kind, text):
    try:
        return kind(text).data
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"


print("IPython", IPython.__version__)
SENTENCE, WORD = "httpx is one, aiohttp another.", "notes"
seen = [(kind.__name__, shown(kind, SENTENCE), shown(kind, WORD)) for kind in (Markdown, Latex, Pretty, Code)]
with open(WORD, "w") as file:
    file.write("Call the dentist.")
seen = [(*before, shown(kind, WORD)) for kind, before in zip((Markdown, Latex, Pretty, Code), seen)]
for name, sentence, word, later in seen:
    print(f"{name}: {SENTENCE!r} gives {sentence!r}; {WORD!r} {word!r}, and {later!r} once a file is called so")
refused = f"ValueError: unknown url type: {SENTENCE!r}"
sys.exit(any(told[1:] != (refused, WORD, "Call the dentist.") for told in seen))
PY
