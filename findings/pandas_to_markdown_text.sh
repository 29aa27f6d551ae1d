#!/usr/bin/env bash
# Guess: DataFrame.to_markdown() writes a column of text as it is, whatever it looks like: the column's dtype says that
#   it is text, and to_csv() and to_html() do so.
# Reality: tabulate, which pandas hands the table to, takes a column for numbers if each of its texts can be read as one,
#   and writes these with six digits: of the texts 1.10 and 1.9 the first becomes 1.1, an amount 19573561.06 becomes
#   1.95736e+07, a sample called 1e3 becomes 1000. Whole numbers stay, zeros in front too, so that most codes look right,
#   and where one cell of the column is no number, all stay. disable_numparse=True, handed on to tabulate, is the way.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "pandas==3.1.1" "tabulate==0.10.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import io
import sys
from importlib.metadata import version

import pandas

COLUMNS = {
    "version": ["1.10", "1.9"], "amount": ["19573561.06", "7.00"], "sample": ["1e3", "2e3"],
    "code": ["007", "010"], "mixed": ["1.10", "none"],
}


def cells(markdown):
    """The cells of each column, without the lines of the header."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    return {name: list(column) for name, column in zip(rows[0], zip(*rows[2:]))}


print("pandas", pandas.__version__, "tabulate", version("tabulate"))
frame = pandas.DataFrame(COLUMNS)
assert pandas.read_csv(io.StringIO(frame.to_csv(index=False)), dtype="str").to_dict("list") == COLUMNS
seen = cells(frame.to_markdown(index=False))
for name, texts in COLUMNS.items():
    print(f"{name} ({frame[name].dtype}): {texts} became {seen[name]}")
expected = COLUMNS | {
    "version": ["1.1", "1.9"], "amount": ["1.95736e+07", "7"], "sample": ["1000", "2000"]}
whole = cells(frame.to_markdown(index=False, disable_numparse=True))
sys.exit(seen != expected or whole != COLUMNS)
PY
