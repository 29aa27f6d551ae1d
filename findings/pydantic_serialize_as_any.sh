#!/usr/bin/env bash
# Guess: model_dump() leaves out what a subclass adds to the class that its field is declared with, and
#   serialize_as_any=True, which is there for that, adds these fields and changes nothing else.
# Reality: it asks the values alone how they are dumped, so a serializer that a field's type has (Annotated with
#   PlainSerializer) is not asked: what it shortens, rounds or replaces is dumped as it is. Since Pydantic 2.13
#   polymorphic_serialization=True does both.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "pydantic==2.14.4"
"$folder/venv/bin/python" -W error - <<'PY'
import sys
from typing import Annotated

from pydantic import VERSION, BaseModel, PlainSerializer

Percent = Annotated[float, PlainSerializer(lambda value: f"{value:.0%}")]


class Model(BaseModel):
    name: str


class Fitted(Model):
    slope: float


class Study(BaseModel):
    model: Model
    share: Percent
    shares: list[Percent]


study = Study(model=Fitted(name="line", slope=2.0), share=0.5, shares=[0.25])
print("pydantic", VERSION)
dumped = {}
for option in (None, "serialize_as_any", "polymorphic_serialization"):
    dumped[option] = study.model_dump(**({option: True} if option else {}))
    print(f"{option}: {dumped[option]}")
part, whole = {"name": "line"}, {"name": "line", "slope": 2.0}
as_described = {
    None: {"model": part, "share": "50%", "shares": ["25%"]},
    "serialize_as_any": {"model": whole, "share": 0.5, "shares": [0.25]},
    "polymorphic_serialization": {"model": whole, "share": "50%", "shares": ["25%"]},
}
sys.exit(dumped != as_described)
PY
