#!/usr/bin/env bash
# Guess: Pydantic reads JSON that is still being written (allow_partial) without what is not whole yet: half a string is
#   left out unless "trailing-strings" is asked for, `tru` is, so a value that is there has come to its end, and stays.
# Reality: a number is taken as far as it has come. An amount of 1250.75 is 1, 12, 125 and 1250 on its way, is missing
#   at "1250." and is there again at 1250.7; the same validated, where it fits the type and its bounds each time. Whoever
#   acts on the first value that a streamed object has, or shows it, acts on another number.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "pydantic==2.14.4" "jiter==0.19.0"
"$folder/venv/bin/python" - <<'PY'
import itertools
import sys
from importlib.metadata import version
from typing import Annotated

import jiter
from annotated_types import Gt
from pydantic import TypeAdapter
from pydantic_core import from_json
from typing_extensions import TypedDict


class Order(TypedDict, total=False):
    customer: str
    total: Annotated[float, Gt(0)]
    paid: bool


WHOLE = '{"customer": "Ada Lovelace", "total": 1250.75, "paid": true}'
READERS = {
    "pydantic_core.from_json": lambda text: from_json(text, allow_partial=True),
    "TypeAdapter.validate_json": lambda text: TypeAdapter(Order).validate_json(text, experimental_allow_partial=True),
    "jiter.from_json": lambda text: jiter.from_json(text.encode(), partial_mode=True),
}


def states(read, field):
    """What a field is as the text grows, each value once in turn; None where it is missing."""
    values = (read(WHOLE[:end]).get(field) for end in range(1, len(WHOLE) + 1))
    return [value for value, _ in itertools.groupby(values)]


print(*(f"{name} {version(name)}" for name in ("pydantic", "jiter")), sep=", ")
totals = {}
for name, read in READERS.items():
    totals[name] = states(read, "total")
    print(f"{name}: total is", *totals[name], sep=" ")
customer, paid = (states(READERS["pydantic_core.from_json"], field) for field in ("customer", "paid"))
print("from_json: customer is", *customer, "and paid is", *paid)
grows = all(values == [None, 1, 12, 125, 1250, None, 1250.7, 1250.75] for values in totals.values())
sys.exit(0 if grows and (customer, paid) == ([None, "Ada Lovelace"], [None, True]) else 1)
PY
