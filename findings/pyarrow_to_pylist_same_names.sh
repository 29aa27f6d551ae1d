#!/usr/bin/env bash
# Guess: an Arrow table may have two columns of one name, as its own join() gives them. What turns it into Python's dicts,
#   in which a name is there once only, refuses that, as table["x"] does, and as_py() of the same rows as structs.
# Reality: Table.to_pylist() and to_pydict() keep the last column of a name and leave the others out, without an error
#   or a warning: of 1, 10, 20 a row says {"id": 1, "x": 20}. num_columns says 3, and the CSV has all three.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "pyarrow==26.0.1"
"$folder/venv/bin/python" - <<'PY'
import sys
import warnings

import pyarrow
import pyarrow.csv

warnings.simplefilter("error")


def refusal(call):
    """The kind of error that the call ends in."""
    try:
        return call()
    except (KeyError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
        return type(error).__name__


print("pyarrow", pyarrow.__version__)
before = pyarrow.table({"id": [1], "x": [10]})
after = pyarrow.table({"id": [1], "x": [20]})
joined = before.join(after, "id")
written = pyarrow.BufferOutputStream()
pyarrow.csv.write_csv(joined, written)
seen = [joined.num_columns, written.getvalue().to_pybytes(), joined.to_pylist(), joined.to_pydict()]
print("columns: {}; CSV: {}; to_pylist(): {}; to_pydict(): {}".format(*seen))
seen += [refusal(lambda: joined["x"]), refusal(lambda: joined.to_struct_array()[0].as_py())]
sys.exit(seen != [
    3, b'"id","x","x"\n1,10,20\n', [{"id": 1, "x": 20}], {"id": [1], "x": [20]}, "KeyError", "ValueError"])
PY
