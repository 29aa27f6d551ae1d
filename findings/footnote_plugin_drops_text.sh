#!/usr/bin/env bash
# The guess: with mdit-py-plugins' footnote_plugin a definition that no reference names is shown somewhere,
# or stays the paragraph that it is without the plugin.
# The reality: by default its text is in no token and so in no HTML: "[^2]: …" vanishes without a word.
# With move_to_end=False every definition stays where it was written.
# Exits with 1 if that changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check "mdit-py-plugins==0.7.0" "markdown-it-py==4.3.0"
"$place/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

from markdown_it import MarkdownIt
from mdit_py_plugins.footnote import footnote_plugin

print("mdit-py-plugins", version("mdit-py-plugins"))
text = "A claim[^1].\n\n[^1]: Smith 2020.\n\n[^2]: Jones 2021, pages 3 to 7.\n"


def contents(**options):
    parser = MarkdownIt("commonmark").use(footnote_plugin, **options)
    return " ".join(token.content for token in parser.parse(text))


seen = {
    "without the plugin both are shown": "Jones" in MarkdownIt("commonmark").render(text),
    "the named one is kept": "Smith" in contents(),
    "the one that nobody names is gone": "Jones" not in contents(),
    "move_to_end=False keeps it": "Jones" in contents(move_to_end=False),
}
for what, found in seen.items():
    print(f"{'yes' if found else 'NO '}  {what}")
sys.exit(0 if all(seen.values()) else 1)
PY
