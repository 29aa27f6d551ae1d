#!/usr/bin/env bash
# Guess: jsonschema, which passes the official tests, takes 19.99 and 0.07 for multiples of 0.01: JSON's numbers are
#   decimal, the tests have 0.0075 as a multiple of 0.0001, and an amount in cents is what `multipleOf` is for.
# Reality: it divides floats and wants a whole number. 0.07 / 0.01 is 7.000000000000001, so 0.07 is refused, and so is
#   one in seven of the amounts up to 100.00. fastjsonschema and Pydantic (multiple_of, which writes that schema) take
#   each of them: the same answer is valid or not by who checks it.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "jsonschema==4.26.0" "fastjsonschema==2.22.3" "pydantic==2.14.4"
"$folder/venv/bin/python" - <<'PY'
import json
import sys
from importlib.metadata import version
from typing import Annotated

import fastjsonschema
import jsonschema
from pydantic import Field, TypeAdapter, ValidationError

amount = TypeAdapter(Annotated[float, Field(multiple_of=0.01)])
schema = amount.json_schema()
fast = fastjsonschema.compile(schema)
REFUSED = jsonschema.ValidationError, fastjsonschema.JsonSchemaValueException, ValidationError
CHECKS = {
    "jsonschema": jsonschema.Draft202012Validator(schema).validate,
    "fastjsonschema": fast,
    "pydantic": amount.validate_python,
}


def fits(check, value):
    try:
        check(value)
    except REFUSED:
        return False
    return True


amounts = [json.loads(f"{cents // 100}.{cents % 100:02}") for cents in range(1, 10_001)]
refused = {name: [value for value in amounts if not fits(check, value)] for name, check in CHECKS.items()}
print(schema)
for name, values in refused.items():
    print(f"{name} {version(name)} refuses {len(values)} of {len(amounts)}: {values[:6]}")
none_else = not refused["fastjsonschema"] and not refused["pydantic"]
neither = not any(fits(check, 0.075) for check in CHECKS.values())  # which is a multiple for nobody
sys.exit(not (len(refused["jsonschema"]) == 1363 and none_else and neither))
PY
