#!/usr/bin/env bash
# Guess: what is below `%%writefile`, `%%html` or any other cell magic is text, and jupytext, whose formats are made for
#   the way there and back, takes it as such: a notebook that goes to .py or .md and back has the cells that it had.
# Reality: three quotes in such a text (a question on docstrings) count as the beginning of a Python string. In
#   py:percent, py:light and Markdown all cells below, down to the next three quotes or the end, become part of that one
#   cell, their markers and fences too: their code is text then, and never run. Nothing warns, but for --test. MyST's
#   Markdown is right.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  "jupytext==1.19.6" "nbformat==5.11.1" "markdown-it-py==4.3.0" "mdit-py-plugins==0.7.0" "PyYAML==6.0.4"
cat > "$folder/try.py" <<'PY'
import subprocess
import sys
from importlib.metadata import version

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

CELLS = ["a = 1", '%%writefile note.txt\nA docstring begins with """ and a line.', "b = 2", "c = 3"]


def there_and_back(form, suffix):
    """The cells of a notebook that jupytext wrote as `form` and read again, and what `--test` said of it."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [new_code_cell(cell) for cell in CELLS]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), "in.ipynb")
    for options in (["--to", form, "--output", f"text{suffix}", "in.ipynb"],
                    ["--to", "ipynb", "--output", "out.ipynb", f"text{suffix}"]):
        done = subprocess.run([sys.executable, "-m", "jupytext", *options], capture_output=True, text=True, check=True)
        assert "warn" not in (done.stdout + done.stderr).lower(), done
    tested = subprocess.run([sys.executable, "-m", "jupytext", "--to", form, "--test", "in.ipynb"], capture_output=True)
    return [cell.source for cell in nbformat.read("out.ipynb", 4).cells], tested.returncode


print("jupytext", version("jupytext"))
seen = {form: there_and_back(form, suffix)
        for form, suffix in {"py:percent": ".py", "py:light": ".py", "markdown": ".md", "md:myst": ".md"}.items()}
for form, (cells, tested) in seen.items():
    print(f"{form}: {len(CELLS)} cells became {len(cells)}; the second is {cells[1]!r}; --test ended with {tested}")
swallowed = {
    "py:percent": CELLS[1] + "\n\n# %%\nb = 2\n\n# %%\nc = 3",
    "py:light": CELLS[1] + "\n\nb = 2\n\nc = 3",
    "markdown": CELLS[1] + "\n```\n\n```python\nb = 2\n```\n\n```python\nc = 3\n```",
}
expected = {form: ([CELLS[0], cell], 1) for form, cell in swallowed.items()} | {"md:myst": (CELLS, 0)}
sys.exit(seen != expected)
PY
cd "$folder"
"$folder/venv/bin/python" try.py
