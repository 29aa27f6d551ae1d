#!/usr/bin/env bash
# Guess: `default` is an annotation: a validator passes over it, or, as fastjsonschema says of itself, fills it in where a
#   value was left out, once it is known to fit. Whether a value fits does not depend on it.
# Reality: fastjsonschema fills it into the caller's own value while it checks. A `default` in one branch of `oneOf` is
#   there when the next is tried, so that a right value is refused (two branches match) and a wrong one taken; what a
#   branch of `anyOf` filled in stays, though that branch failed; `required` of a field with a default never fails in
#   what follows its `properties`. With `use_default=False` all are as jsonschema has them.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "fastjsonschema==2.22.3" "jsonschema==4.26.0"
"$folder/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

import fastjsonschema
import jsonschema

UNIT = {"properties": {"unit": {"default": "m"}}}
UNIT_AND_X = {"properties": {"unit": {"default": "m"}, "x": {"type": "string"}}}
CASES = {
    "oneOf, a right value": ({"oneOf": [UNIT, {"required": ["unit"]}]}, {}),
    "oneOf, a wrong value": ({"oneOf": [UNIT_AND_X, {"required": ["unit"]}]}, {"x": 2}),
    "anyOf": ({"anyOf": [UNIT_AND_X, {"required": ["x"]}]}, {"x": 2}),
    "allOf": ({"allOf": [UNIT, {"required": ["unit"]}]}, {}),
}


def by(check, value):
    """Whether the value fits, and what it is then."""
    try:
        check(value)
    except (fastjsonschema.JsonSchemaValueException, jsonschema.ValidationError):
        return "refused", value
    return "taken", value


print(*(f"{name} {version(name)}" for name in ("fastjsonschema", "jsonschema")))
seen = {}
for name, (schema, value) in CASES.items():
    fast = by(fastjsonschema.compile(schema), dict(value))
    without = by(fastjsonschema.compile(schema, use_default=False), dict(value))
    other = by(jsonschema.Draft7Validator(schema).validate, dict(value))
    print(f"{name}: {fast[0]}, the value is then {fast[1]}; use_default=False: {without[0]}; jsonschema: {other[0]}")
    seen[name] = fast, without == other, other[0]
sys.exit(
    seen
    != {
        "oneOf, a right value": (("refused", {"unit": "m"}), True, "taken"),
        "oneOf, a wrong value": (("taken", {"x": 2, "unit": "m"}), True, "refused"),
        "anyOf": (("taken", {"x": 2, "unit": "m"}), True, "taken"),
        "allOf": (("taken", {"unit": "m"}), True, "refused"),
    }
)
PY
