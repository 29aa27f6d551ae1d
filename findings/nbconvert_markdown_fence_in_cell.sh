#!/usr/bin/env bash
# Guess: `nbconvert --to markdown` makes a code block of each code cell, whatever is in it: where a cell has three
#   backticks itself, as a prompt or a file below a cell magic does, the fence around it is a longer one.
# Reality: the fence has three backticks, always. The first line of three backticks alone in the cell ends the block;
#   the rest of the cell is Markdown of the page, its lines `# ...` are headings, and the fence that was to close the
#   cell opens a block, which swallows what comes after: the next Markdown cell, and the next code cell.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "nbconvert==7.17.2" "nbformat==5.11.1" "markdown-it-py==4.0.0"
cat > "$folder/try.py" <<'PY'
import sys
from importlib.metadata import version

import nbformat
from markdown_it import MarkdownIt
from nbconvert import MarkdownExporter

PROMPT = """%%writefile prompt.md
What does this print?
```python
print(1)
```
# Form of the answer
One number.
"""


def blocks(source):
    """The page's code blocks and headings, as CommonMark reads it."""
    cells = [
        nbformat.v4.new_code_cell(source.strip()),
        nbformat.v4.new_markdown_cell("# Results"),
        nbformat.v4.new_code_cell("x = 1"),
    ]
    metadata = {"language_info": {"name": "python"}}  # as every notebook that was run has
    page, _ = MarkdownExporter().from_notebook_node(nbformat.v4.new_notebook(cells=cells, metadata=metadata))
    tokens = MarkdownIt("commonmark").parse(page)
    code = [token.content.strip() for token in tokens if token.type == "fence"]
    headings = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"]
    print("code blocks", code, "headings", headings)
    return code, headings


print("nbconvert", version("nbconvert"), "markdown-it-py", version("markdown-it-py"))
without = PROMPT.replace("```", "'''")
seen = [blocks(without), blocks(PROMPT)]
cut = PROMPT[: PROMPT.index("```\n#")].strip()
expected = [
    ([without.strip(), "x = 1"], ["Results"]),
    ([cut, "# Results\n\n\n```python\nx = 1"], ["Form of the answer"]),
]
sys.exit(seen != expected)
PY
cd "$folder"
export JUPYTER_CONFIG_DIR="$folder/config" JUPYTER_RUNTIME_DIR="$folder/runtime" JUPYTER_DATA_DIR="$folder/data"
"$folder/venv/bin/python" "$folder/try.py" 2> errors || { cat errors; exit 1; }
