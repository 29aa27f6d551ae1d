#!/usr/bin/env bash
# Guess: fastjsonschema, which knows drafts 4, 6 and 7 of JSON Schema, refuses to compile a schema whose `$schema` names
#   2020-12; or of its newer words it checks less, so that at least every value that fits is taken.
# Reality: it compiles it as draft 7 without a word. `prefixItems`, by which Pydantic says a tuple, is passed over, so
#   wrong items are taken; `items: false` beside it, "no items after these", is read as "no items at all", so a right
#   value is refused; and `maximum` beside a `$ref` doesn't count.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "fastjsonschema==2.22.3" "jsonschema==4.26.0" "pydantic==2.14.4"
"$folder/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

import fastjsonschema
import jsonschema
from pydantic import BaseModel


class Spot(BaseModel):
    at: tuple[int, str]


TODAY = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
PAIR = {"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}
CASES = {
    "Pydantic's tuple[int, str]": (TODAY | Spot.model_json_schema(), {"at": ["one", 2]}, (True, False)),
    "items: false": (TODAY | PAIR, [1, "two"], (False, True)),
    "beside a $ref": (
        TODAY | {"$ref": "#/$defs/n", "maximum": 5, "$defs": {"n": {"type": "integer"}}}, 7, (True, False)
    ),
}


def fast(schema, value):
    try:
        fastjsonschema.compile(schema)(value)
    except fastjsonschema.JsonSchemaValueException:
        return False
    return True


for name in ("fastjsonschema", "jsonschema", "pydantic"):
    print(name, version(name))
same = []
for name, (schema, value, expected) in CASES.items():
    seen = fast(schema, value), jsonschema.Draft202012Validator(schema).is_valid(value)
    print(f"{name}: fastjsonschema takes {value}: {seen[0]}; by draft 2020-12 it fits: {seen[1]}")
    same.append(seen == expected)
sys.exit(0 if all(same) else 1)
PY
