#!/usr/bin/env bash
# Guess: Series.to_list() and rows() give what is in a column, or refuse.
# Reality: of dates, durations and times with nanoseconds Polars gives Python's types, which have
# microseconds: the rest is gone without a word, and two unequal values become equal.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet polars==2.1.0
"$folder/venv/bin/python" -W error - <<'PY'
import sys

import polars as pl

print("polars", pl.__version__)
lost = []
for dtype in (pl.Datetime("ns"), pl.Duration("ns"), pl.Time):
    series = pl.Series([1000, 1999]).cast(dtype)
    first, second = series.to_list()
    print(dtype, series.n_unique(), "values, to_list():", first, second)
    lost.append(series.n_unique() == 2 and first == second)
sys.exit(0 if all(lost) else 1)
PY
