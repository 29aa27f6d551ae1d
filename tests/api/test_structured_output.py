"""Structured output: what is asked for, and what a reply is worth."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import itertools
import json
import pickle
import re
import sys
import threading
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Base64Str, BaseModel, ConfigDict, Field, HttpUrl, Json, field_validator
from typing_extensions import TypedDict  # Pydantic takes typing's own from Python 3.12 on

from bgmagic.api.request import Request
from bgmagic.api.request_body import build_request
from bgmagic.api.structured_output import (
    find_output_type,
    parse_output,
    response_format,
    unchecked_note,
)
from bgmagic.display.static_html import job_html
from bgmagic.errors import BadInput
from bgmagic.jobs.job import Answer
from bgmagic.jobs.outcome import InvalidAnswer
from bgmagic.runtime.manager import JobManager
from bgmagic.submission.settings import SubmitSettings
from tests.conftest import asked
from tests.support.kernels import Kernel, kernel
from tests.support.scripted import ScriptedServer, response


class Severity(enum.Enum):
    LOW = "low"
    HIGH = "high"


class Step(BaseModel):
    """One step of a proof."""

    text: str = Field(description="as it stands there", min_length=1)
    severity: Severity = Severity.LOW
    seen: date | None = None
    tags: set[str]


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    price: Decimal


class Proof(BaseModel):
    steps: list[Step]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    worst: Step = Field(description="the weakest")


class Node(BaseModel):
    value: int
    children: list[Node]


@dataclasses.dataclass
class Point:
    x: float
    y: float


class Pair(TypedDict):
    a: int
    b: int


def nodes(schema: Any) -> list[dict[str, Any]]:
    """Every object in a schema."""
    below = schema.values() if isinstance(schema, dict) else schema
    inner = [n for part in below if isinstance(part, dict | list) for n in nodes(part)]
    return [schema, *inner] if isinstance(schema, dict) else inner


@pytest.mark.parametrize("model", [Proof, Node, Point, Pair])
def test_a_class_becomes_a_strict_schema(model: type[Any]) -> None:
    """What is made of a class keeps to strict mode: every object closed, every field required, nothing it refuses."""
    form = response_format(model)
    assert (form["type"], form["name"], form["strict"]) == ("json_schema", model.__name__, True)
    schema = form["schema"]
    assert schema["type"] == "object"
    jsonschema.Draft202012Validator.check_schema(schema)
    for node in nodes(schema):
        if node.get("type") == "object" and "properties" in node:
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])
        if "$ref" in node:
            assert len(node) == 1
        refused = {"default", "oneOf", "allOf", "discriminator", "uniqueItems", "prefixItems"}
        assert not refused & node.keys()
        assert "(?" not in node.get("pattern", "") if isinstance(node.get("pattern"), str) else True


def test_what_a_class_says_is_kept() -> None:
    """Descriptions, choices, bounds and what may be null arrive at the model; the order is the class's own."""
    step = response_format(Proof)["schema"]["$defs"]["Step"]
    assert list(step["properties"]) == ["text", "severity", "seen", "tags"]
    assert step["description"] == "One step of a proof."
    assert step["properties"]["text"]["description"] == "as it stands there"
    assert step["properties"]["text"]["minLength"] == 1
    assert step["properties"]["seen"]["anyOf"] == [
        {"type": "string", "format": "date"},
        {"type": "null"},
    ]
    assert response_format(Proof)["schema"]["$defs"]["Severity"]["enum"] == ["low", "high"]


def test_optional_fields_of_a_json_schema_may_be_null() -> None:
    """In a JSON schema of the user's what was not required may be null, since strict mode knows no absent field."""
    given = {
        "title": "My answer!",
        "type": "object",
        "properties": {
            "must": {"type": "integer"},
            "may": {"type": "string", "default": "x"},
            "null_already": {"type": ["string", "null"]},
        },
        "required": ["must"],
    }
    before = json.dumps(given)
    form = response_format(given)
    assert form["name"] == "My_answer_"
    assert form["schema"]["required"] == ["must", "may", "null_already"]
    assert form["schema"]["properties"] == {
        "must": {"type": "integer"},
        "may": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "null_already": {"type": ["string", "null"]},
    }
    assert json.dumps(given) == before


def test_a_described_reference_to_itself_ends() -> None:
    """A schema that holds itself, with a description beside the reference, is rewritten once and refers on."""
    link = {"$ref": "#/$defs/link", "description": "the next one"}
    node = object_of(value={"type": "integer"}, next=link)
    given = {**object_of(first=link, all={"$ref": "#", "title": "t"}), "$defs": {"link": node}}
    form = response_format(given)["schema"]
    first = form["properties"]["first"]
    assert first["description"] == "the next one"
    assert first["properties"]["next"] == {"$ref": "#/$defs/link"}
    jsonschema.Draft202012Validator.check_schema(form)
    assert form == response_format(form)["schema"]


def test_the_apis_own_format_is_taken() -> None:
    """The format as the API writes it gives its name, and with strict false its schema unchanged."""
    own = {
        "type": "json_schema",
        "name": "mine",
        "description": "what for",
        "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    }
    strict = response_format(own)
    assert (strict["name"], strict["description"], strict["strict"]) == ("mine", "what for", True)
    assert strict["schema"]["additionalProperties"] is False
    loose = {**own, "strict": False, "schema": {"type": "object"}}
    assert response_format(loose) == loose


def object_of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


class Free(BaseModel):
    scores: dict[str, int]


class Loose(BaseModel):
    inner: list[Any]


class Row(BaseModel):
    pair: tuple[int, str]


endless: dict[str, Any] = {"type": "array"}
endless["items"] = endless


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (5, "takes a Pydantic model or a JSON schema as a dict, not int"),
        ("Proof", "not str"),
        (list[int], r"list\[int\] as the whole: put it into a field"),
        (
            int,
            r"int is no class that has fields; write it as a Pydantic model, class Int\(BaseModel\)",
        ),
        (Cat(kind="cat"), "an object of Cat; give the class Cat itself"),
        (Point(1, 2), "an object of Point; give the class Point itself"),
        (Free, r"an object with any keys \(at scores\): use a list of objects"),
        (Loose, r"may be anything \(at inner\[\]\): give it a type"),
        (Row, r"a tuple of several types or of any length \(at pair\): use an obj"),
        ({}, "may be anything: give it a type"),
        ({"type": "array", "items": {"type": "string"}}, "a list or a choice as the whole"),
        ({"anyOf": [object_of(), object_of()]}, "an object with any keys"),
        (object_of(a={"type": "strng"}), r"the type strng \(at a\): there are array, boolean"),
        (object_of(a={"$ref": "https://example.org/s"}), r"\$ref https://example.org/s \(at a\)"),
        (object_of(a={"$ref": "#/$defs/none"}), r"\$ref #/\$defs/none \(at a\): define it"),
        (object_of(a={"not": {"type": "string"}}), r"take not \(at a\)"),
        (object_of(a={"allOf": [{"minimum": 1}, {"maximum": 2}]}), r"allOf \(at a\)"),
        (object_of(a={"type": "array"}), r"a list of anything \(at a\)"),
        (object_of(a={"type": "array", "uniqueItems": True, "items": {"type": "null"}}), "unique"),
        (object_of(a={"type": "string", "pattern": "^(?!x)"}), r"pattern \(at a\)"),
        (object_of(a=True), r"may be anything \(at a\)"),
        ({"type": "object", "properties": [1]}, "properties that are no object"),
        ({**object_of(a={"type": "string"}), "required": 5}, "required that is no list"),
        (object_of(a={"type": [["string"]]}), r"the type \['string'\]"),
        (object_of(a={"enum": [{}], "type": {}}), r"a dict as a type"),
        (object_of(a=endless), "holds itself without end"),
    ],
)
def test_what_strict_mode_cannot_take_is_one_line(schema: Any, told: str) -> None:
    """What is no schema, or can't be said in strict mode, is one line with the place and what to do."""
    with pytest.raises(BadInput, match=told) as caught:
        response_format(schema)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("--schema")


schemas = st.recursive(
    st.fixed_dictionaries({"type": st.sampled_from(["string", "integer", "boolean", "null"])}),
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("array"), "items": inner})
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(lambda p: object_of(**p))
        | st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"anyOf": parts})
        | st.dictionaries(st.sampled_from(["type", "items", "$ref", "allOf", "enum"]), inner)
    ),
    max_leaves=8,
)


WORDS = ["required", "format", "properties", "$defs", "prefixItems", "enum", "const", "pattern"]
misplaced = st.dictionaries(
    st.sampled_from(WORDS), st.sampled_from([5, "a", None, [], [[]], [5], {}, {"a": 5}]), max_size=3
)


@given(st.builds(lambda inner, odd: object_of(a={**inner, **odd}) | odd, schemas, misplaced))
def test_what_stands_in_the_wrong_place_is_refused(schema: dict[str, Any]) -> None:
    """A schema that has anything in any place is sent, or one line; it is no traceback of ours."""
    told = "one line"
    try:
        response_format(schema)
    except BadInput as error:
        told = str(error)
    assert "\n" not in told


@given(schemas.map(lambda inner: object_of(a=inner)))
def test_any_schema_is_rewritten_or_refused(schema: dict[str, Any]) -> None:
    """Every JSON schema becomes one of strict mode or one BadInput, and being rewritten twice changes nothing."""
    try:
        form = response_format(schema)
    except BadInput:
        return
    assert response_format(form["schema"])["schema"] == form["schema"]


replies = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, "", "a"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["x", "a", ""]), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(schemas, replies)
def test_replies_are_judged_as_json_schema_says(schema: dict[str, Any], reply: Any) -> None:
    """What passes is what the reference implementation of JSON Schema lets pass."""
    try:
        form = response_format(object_of(a=schema))
    except BadInput:
        return
    value = {"a": reply}
    right = jsonschema.Draft202012Validator(form["schema"]).is_valid(value)
    try:
        assert parse_output(json.dumps(value), form) == value
    except ValueError:
        assert not right
    else:
        assert right


GOOD = '{"x": 1, "y": 2.5}'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no JSON", "Invalid JSON"),
        ('{"x": 1}', "^y: Field required$"),
        ('{"x": "a", "y": []}', r"^x: Input should be a valid number.* \(and 1 more\)$"),
        ("", "Invalid JSON"),
    ],
)
def test_a_wrong_reply_names_the_field(text: str, told: str) -> None:
    """A reply that does not fit its class is told with the field, in one line."""
    form = response_format(Point)
    assert parse_output(GOOD, form, Point) == Point(1.0, 2.5)
    with pytest.raises(ValueError, match=told) as caught:
        parse_output(text, form, Point)
    assert "\n" not in str(caught.value)


class Spot(BaseModel):
    at: tuple[int, str] = Field(description="row and column")


class Walk(BaseModel):
    stops: list[Spot]
    last: Spot = Field(description="where it ends")


PAIR: dict[str, Any] = {"prefixItems": [{"type": "integer"}, {"type": "string"}]}
LOOSE = [
    (PAIR | {"items": False}, [[1, "a"], [1], ["a", 1], [1, "a", 2]]),
    (PAIR | {"items": {"type": "null"}}, [[1, "a"], [1, "a", None], [1, "a", 2], [None]]),
    (Walk.model_json_schema(), [
        {"stops": [{"at": at}], "last": {"at": end}}
        for at in ([1, "a"], ["a", 1], [1, "a", 2])
        for end in ([1, "a"], [1])
    ]),
    ({"dependentRequired": {"a": ["b"]}}, [{"a": 1}, {"a": 1, "b": 1}, {"b": 1}]),
    ({"dependentSchemas": {"a": {"required": ["b"]}}, "allOf": [{"maxProperties": 2}]},
     [{"a": 1}, {"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1}]),
    ({"$ref": "#/$defs/n", "maximum": 5, "$defs": {"n": {"type": "integer"}}}, [3, 7, "a"]),
    ({"properties": {"prefixItems": {"const": {"prefixItems": [1]}}}}, [{"prefixItems": {"prefixItems": [1]}}, {"prefixItems": 1}]),
    ({"$defs": {"a/b": {"$anchor": "n", "type": "integer"}}, "properties": {"x": {"$ref": "#n"}}}, [{"x": 1}, {"x": "a"}]),
    ({"$dynamicAnchor": "node", "properties": {"v": {"type": "string"}, "c": {"items": {"$dynamicRef": "#node"}}}},
     [{"v": "a", "c": [{"v": "b"}]}, {"c": [{"c": [{"v": 1}]}]}]),
    ({"$schema": "https://json-schema.org/draft/2019-09/schema", "$recursiveAnchor": True, "properties": {"v": {"type": "string"}, "c": {"$recursiveRef": "#"}}},
     [{"c": {"v": "a"}}, {"c": {"v": 1}}]),
    ({"properties": {"a": {}}, "patternProperties": {"^x": {}}, "unevaluatedProperties": False}, [{"a": 1, "xy": 2}, {"b": 1}]),
    ({"unevaluatedProperties": {"type": "string"}}, [{"b": "a"}, {"b": 1}]),
    (PAIR | {"unevaluatedItems": False}, [[1, "a"], [1, "a", 2]]),
    ({"unevaluatedItems": {"type": "string"}}, [["a"], [1]]),
    ({"contains": {"type": "string"}, "minContains": 0, "items": {"type": ["string", "null"]}}, [[None], ["a"], [1]]),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}, [["a"], [1]]),
    *(({"pattern": pattern} | draft, ["$5", "5", "$", "a", "a$", "\\", "\\$", "]$", "€5"])
      for pattern in ("^[$€][0-9]+$", "^[^$]+$", r"^[\\$]+$", r"^\[?[]$]+$", r"^(\$|[$]?€)[0-9]", r"^[\$a]$")
      for draft in ({}, {"$schema": "http://json-schema.org/draft-07/schema#"})),
    ({"not": {"pattern": "[$]"}}, ["$5", "5"]),
    ({"patternProperties": {"^[$]x": {"type": "integer"}}, "additionalProperties": False}, [{"$x": 1}, {"$x": "a"}, {"x": 1}]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "values"), LOOSE)
def test_a_loose_schema_of_today_decides_as_it_says(
    schema: dict[str, Any], values: list[Any]
) -> None:
    """With strict false the words of JSON Schema's drafts after 7 count, as another validator reads them: a right reply is taken, a wrong one refused."""
    form = response_format({"type": "json_schema", "name": "x", "strict": False, "schema": schema})
    right = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema)
    expected = [right.is_valid(value) for value in values]
    taken = []
    for value in values:
        with contextlib.suppress(ValueError):
            taken.append(parse_output(json.dumps(value), form))
    assert taken == [value for value, valid in zip(values, expected, strict=True) if valid]
    assert len(set(expected)) == 2
    assert form["schema"] == schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"properties": {"a": {"contains": {}, "unevaluatedItems": False}}}, "unevaluatedItems"),
        ({"contains": {}, "minContains": 2, "maxContains": 3}, "maxContains and minContains"),
        ({"unevaluatedProperties": False, "unevaluatedItems": True, "minContains": 2}, ""),
        ({"properties": {"unevaluatedItems": {"type": "string"}}, "allOf": []}, ""),
        ({"properties": {"a": {"pattern": r"^\p{L}+$"}, "b": {"pattern": "^(?<year>[0-9]+)$"}}}, "pattern"),
        ({"patternProperties": {r"\p{L}": {"type": "integer"}}, "additionalProperties": False}, "patternProperties"),
        ({"allOf": 5, "$ref": "#/a", "definitions": {"a": {"maxContains": 1}}}, ""),
    ],
)  # fmt: skip
def test_what_a_loose_schema_says_and_nobody_checks_is_told(
    schema: dict[str, Any], words: str
) -> None:
    """Words by which a reply is not checked are named when the cell is sent."""
    form = {"type": "json_schema", "name": "x", "strict": False, "schema": schema}
    told = f"--schema: answers are not checked by {words}; the model alone is told"
    assert unchecked_note(form) == (told if words else "")
    if "attern" in words:  # Python has no such patterns: a right reply is taken all the same
        assert parse_output('{"a": "é"}', form) == {"a": "é"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no JSON", "it is not JSON: Expecting value"),
        ('{"x": 1, "y": NaN}', "JSON has no NaN"),
        ('{"x": 1}', r"must contain .*'y'"),
        ('{"x": 1, "y": "b"}', "^y must be number$"),
        ('{"x": 1, "y": 2, "z": 3}', "must not contain .*'z'"),
        ("[]", "^must be object$"),
    ],
)
def test_a_wrong_reply_to_a_json_schema_names_the_field(text: str, told: str) -> None:
    """Without the class the request's own JSON schema decides, and names the field too."""
    form = response_format(Point)
    assert parse_output(GOOD, form) == {"x": 1, "y": 2.5}
    with pytest.raises(ValueError, match=told):
        parse_output(text, form)


def test_nothing_is_fetched_to_validate() -> None:
    """A reference to another server, as an unstrict format may have, is an error and no request."""
    form = {"schema": {"$ref": "http://127.0.0.1:9/schema"}, "name": "x", "strict": False}
    with pytest.raises(
        ValueError, match=r"failed with LookupError: \$ref http://127\.0\.0\.1:9/schema is not"
    ):
        parse_output("{}", form)


class Exits(BaseModel):
    x: int

    @field_validator("x")
    @classmethod
    def leave(cls, value: int) -> int:
        if value == 1:
            sys.exit(3)
        raise RuntimeError(f"{threading.current_thread().name} says\nno")


def structured(text: str, form: Any) -> Any:
    return lambda rid, _: response(rid, "completed", text)


def submitted(manager: JobManager, schema: Any) -> Any:
    request = asked("Which?", SubmitSettings(schema=schema, verbosity="low"))
    return manager.submit(request, poll_interval=0.05)


def test_the_way_of_a_model(manager: JobManager, pointed: ScriptedServer) -> None:
    """The format is sent beside the verbosity, and the answer's data is an object of the class."""
    pointed.ending = structured(GOOD, Point)
    answer = submitted(manager, Point).result(60)
    assert answer == GOOD
    assert answer.data == Point(1.0, 2.5)
    sent = pointed.seen[0].body["text"]
    assert sent == {"format": response_format(Point), "verbosity": "low"}


def test_an_invalid_reply_is_no_answer(manager: JobManager, pointed: ScriptedServer) -> None:
    """A reply that does not fit ends the job without an answer; the error names the field and text holds the words."""
    pointed.ending = structured('{"x": 1}', Point)
    job = submitted(manager, Point)
    error = job.exception(20)
    assert isinstance(error, InvalidAnswer)
    assert str(error) == (
        "completed, but the text does not fit the schema: y: Field required; it is in .text"
    )
    assert job.text == '{"x": 1}'
    assert job.status == "completed"
    shown = job_html(job)
    assert "✓" not in shown
    assert "y: Field required" in shown
    assert shown.index("What was written:") < shown.index("<pre")


@pytest.mark.parametrize(
    ("value", "told"), [(1, "failed with SystemExit: 3"), (2, "RuntimeError: bgmagic says no")]
)
def test_a_validator_that_breaks_takes_nothing_along(
    manager: JobManager, pointed: ScriptedServer, value: int, told: str
) -> None:
    """A validator of the user's that raises anything, even SystemExit, ends its own job and no other."""
    pointed.ending = structured(json.dumps({"x": value}), Exits)
    job = submitted(manager, Exits)
    assert told in str(job.exception(20))
    pointed.ending = structured(GOOD, Point)
    assert submitted(manager, Point).result(60).data == Point(1.0, 2.5)


def test_a_resent_job_keeps_its_class(manager: JobManager, pointed: ScriptedServer) -> None:
    """Sending again reads the reply into the same class."""
    pointed.ending = structured('{"x": 1}', Point)
    first = submitted(manager, Point)
    first.exception(20)
    pointed.ending = structured(GOOD, Point)
    assert first.resend().result(60).data == Point(1.0, 2.5)


def test_params_point_at_schema() -> None:
    """The format can't be set by --param, and the line says by what instead."""
    for path in ("text.format", "text.format.type", "text"):
        with pytest.raises(BadInput, match=f"--param {path} can't be set: --schema"):
            build_request([], model="m", params=[(path, {})])
    assert build_request([], model="m", params=[("text.verbosity", "low")]).body["text"] == {
        "format": {"type": "text"},
        "verbosity": "low",
    }


def test_class_of_the_name_must_ask_for_the_same() -> None:
    """After a restart a class of that name is only used if it asks for exactly what was asked for."""
    form = response_format(Point)

    class Other(BaseModel):
        x: float

    Other.__name__ = "Point"
    assert find_output_type(form, {"Point": Point}) is Point
    assert find_output_type(form, {"Point": Other}) is None
    assert find_output_type(form, {"Point": 5}) is None
    assert find_output_type(form, {}) is None
    assert find_output_type(None, {"Point": Point}) is None


def test_data_survives_pickling() -> None:
    """A pickled answer brings its data along, as what JSON says of it where the class is not known there."""
    answer = Answer(GOOD, {"id": "resp_1"}, data=Point(1.0, 2.5))
    assert pickle.loads(pickle.dumps(answer)).data == Point(1.0, 2.5)

    class Hidden(BaseModel):
        x: float
        y: float

    local = Answer(GOOD, {}, data=Hidden(x=1, y=2.5))
    assert pickle.loads(pickle.dumps(local)).data == {"x": 1, "y": 2.5}
    gone = pickle.dumps(answer).replace(b"Point", b"Pount")
    copy = pickle.loads(gone)
    assert (copy, copy.data) == (GOOD, {"x": 1, "y": 2.5})
    assert pickle.loads(pickle.dumps(Answer("x", {}))).data is None


def test_structured_answers_are_shown_indented() -> None:
    """JSON that was asked for is shown to be read, not on one line, and its text stays what the model wrote."""
    shown = Answer(GOOD, {}, data=Point(1.0, 2.5))._repr_mimebundle_()
    assert shown["text/plain"] == GOOD
    assert shown["text/html"].count("\n") > 2
    assert "<pre" in shown["text/html"]
    assert "<pre" not in Answer(GOOD, {})._repr_mimebundle_()["text/html"]


def test_a_request_without_schema_has_none() -> None:
    """A text request, one from elsewhere and a strange body have no format to validate by."""
    assert build_request([], model="m").text_format is None
    for text in ("{}", '{"text": 5}', '{"text": {"format": {"type": "json_object"}}}'):
        assert Request(text).text_format is None


DEFINED = """
from pydantic import BaseModel
class Point(BaseModel):
    x: float
    y: float
"""


def test_in_kernels(server: ScriptedServer, lasting: dict[str, str]) -> None:
    """In a notebook .data is an object of the class; a reply that does not fit leaves the job; and after a restart .data is the dict, or the object again if the class is there."""
    server.ending = structured(GOOD, None)
    with kernel(**lasting) as first:
        first.ok(f"%load_ext bgmagic\n{DEFINED}")
        first.ok("%%bgresponse -o point --schema Point --wait\nWhere?")
        assert first.value("point.data") == "Point(x=1.0, y=2.5)"
        told = first.run("%%bgresponse -o other --schema Poit\nWhere?").said
        assert told == (
            "UsageError: --schema: there is no variable 'Poit' in this notebook (did you mean Point?)"
        )
        told = first.run("%%bgresponse -o other --schema point\nWhere?").said
        assert told == (
            "UsageError: --schema takes a Pydantic model or a JSON schema as a dict, not Answer"
        )
        server.ending = structured('{"x": 1}', None)
        ended = first.ok("%%bgresponse -o wrong --schema Point --wait\nWhere?")
        assert "does not fit the schema: y: Field required" in ended.stdout
        first.until("wrong.done()")
        assert first.value("wrong.text") == repr('{"x": 1}')
        assert first.run("await wrong").said.startswith("InvalidAnswer: completed, but the text")
    with kernel(**lasting) as second:
        second.ok("%load_ext bgmagic\n%bgattach point")
        assert second.value("(point, point.data)") == f"({GOOD!r}, {{'x': 1, 'y': 2.5}})"
        second.ok(f"del point\n{DEFINED}\n%bgattach point")
        assert second.value("point.data") == "Point(x=1.0, y=2.5)"
        second.ok("%%bgresponse -o point --schema Point --reuse --wait\nWhere?")
        assert second.value("point.data") == "Point(x=1.0, y=2.5)"
        assert server.count("create") == 2


def test_with_what_is_waited_for(in_kernel: Kernel, server: ScriptedServer) -> None:
    """A prompt that waits for an object takes its fields, and keeps its own files, tools and class until it is sent."""
    server.polls = 10**6
    server.ending = structured(GOOD, None)
    in_kernel.ok(DEFINED)
    in_kernel.ok("%%bgresponse -o point --schema Point\nWhere?")
    in_kernel.ok("note = b'Look closely.'")
    line = "-o after --schema Point --file $note --tool web_search"
    in_kernel.ok(f"%%bgresponse {line}\nAfter {{{{ point.data.x }}}}, where?")
    in_kernel.ok("note = b'too late'")
    in_kernel.ok("%%bgresponse -c after -o more\nGo on.")
    assert in_kernel.value("(after.status, more.status)") == "('waiting', 'waiting')"
    in_kernel.until("point.running()")
    server.polls = 0
    in_kernel.ok("%bgwait")
    assert in_kernel.value("(after.data, more.data)") == "(Point(x=1.0, y=2.5), None)"
    _, second, third = [seen.body for seen in server.seen if seen.kind == "create"]
    text, file = second["input"][0]["content"]
    assert text["text"] == "After 1.0, where?\n"
    assert file["file_data"] == "data:text/plain;base64,TG9vayBjbG9zZWx5Lg=="
    assert second["tools"] == [{"type": "web_search"}]
    assert second["text"]["format"]["name"] == "Point"
    assert third["input"][0] == second["input"][0]
    assert third["input"][1]["content"] == GOOD
    assert third["text"]["format"] == {"type": "text"}


CITY = """
from enum import Enum
from pydantic import BaseModel, Field
class Size(Enum):
    SMALL = "small"
    LARGE = "large"
class Street(BaseModel):
    name: str = Field(max_length=40)
class City(BaseModel):
    name: str = Field(max_length=40)
    size: Size
    people: int | None
    streets: list[Street] = Field(max_length=2)
"""


def test_on_the_embedded_model(embedded: dict[str, str]) -> None:
    """A real model's reply becomes an object of the class, with what is nested in it."""
    with kernel(**embedded) as started:
        started.ok(f"%load_ext bgmagic\n%bglocal\n{CITY}", limit=120)
        line = "-o paris --schema City --max-output-tokens 600"
        started.ok(f"%%bgresponse {line} --wait\nDescribe Paris briefly, with two streets.")
        assert started.value("(type(paris.data).__name__, type(paris.data.size).__name__)") == (
            "('City', 'Size')"
        )
        assert started.value("all(isinstance(s, Street) for s in paris.data.streets)") == "True"


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"x": 1, "y": 2.5}\n```',
        '```\r\n{"x": 1,\r\n"y": 2.5}\r\n```\r\n',
        '\n~~~~JSON\n{"x": 1, "y": 2.5}\n~~~~',
        '\ufeff{"x": 1, "y": 2.5}',
        '\ufeff\n```json\n{"x": 1, "y": 2.5}\n```\n',
    ],
)
def test_json_in_a_fence_or_after_a_mark_is_read(text: str) -> None:
    """One JSON text in a code fence, or after a byte-order mark, is read, with the class and without."""
    form = response_format(Point)
    assert parse_output(text, form, Point) == Point(1.0, 2.5)
    assert parse_output(text, form) == {"x": 1, "y": 2.5}


@pytest.mark.parametrize("given_", [Point, None])
@pytest.mark.parametrize(
    "text",
    [
        f"Here it is: {GOOD}",
        f"{GOOD} Anything else?",
        f"So:\n```json\n{GOOD}\n```",
        f"{GOOD}{GOOD}",
    ],
)
def test_words_around_json_are_told(text: str, given_: Any) -> None:
    """JSON with words around it is not guessed at: the server did not keep to the schema."""
    with pytest.raises(ValueError, match="the server did not keep to the schema"):
        parse_output(text, response_format(Point), given_)


class Place(NamedTuple):
    lat: float
    lon: float


class Thing:
    pass


class Callback(BaseModel):
    name: str
    call: Callable[[], int]


@dataclasses.dataclass
class Handle:
    name: str
    of: Thing


class Hints(BaseModel):
    model_config = ConfigDict(regex_engine="python-re")
    mixed: Literal["a", 1, None]
    decimal: Literal[0.5, 2]
    url: HttpUrl
    encoded: Base64Str
    inner: Json[dict[str, int]]
    tags: set[str] = Field(description="Short ones.")
    code: Annotated[str, Field(pattern=r"^(?!x)")]
    pair: tuple[int, int]
    place: Place


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    x: int


def test_what_hints_say_arrives() -> None:
    """Choices of several types get their types, a tuple of one type is a list of so many, and what
    strict mode has no word for stands in the description."""
    schema = response_format(Hints)["schema"]
    fields = schema["properties"]
    assert fields["mixed"]["type"] == ["string", "integer", "null"]
    assert fields["decimal"]["type"] == "number"
    assert "Format: uri." in fields["url"]["description"]
    assert "Format: base64." in fields["encoded"]["description"]
    assert fields["inner"]["description"] == "A text that is JSON."
    assert fields["tags"]["description"] == "Short ones. No item occurs twice."
    assert r"^(?!x)" in fields["code"]["description"]
    bounds = {"type": "array", "minItems": 2, "maxItems": 2}
    pair = {key: value for key, value in fields["pair"].items() if key != "title"}
    assert pair == {**bounds, "items": {"type": "integer"}}
    place = schema["$defs"]["Place"]
    assert (place["items"], place["maxItems"]) == ({"type": "number"}, 2)
    text = (
        '{"mixed": 1, "decimal": 2, "url": "https://a.org", "encoded": "YQ==", "code": "a",'
        '"inner": "{\\"a\\": 1}", "tags": ["a"], "pair": [1, 2], "place": [0.5, 1]}'
    )
    read = parse_output(text, response_format(Hints), Hints)
    assert (read.pair, read.place, read.inner) == ((1, 2), Place(0.5, 1.0), {"a": 1})


def test_choices_of_a_json_schema_get_their_types() -> None:
    """An enum or const without a type gets the types of its values."""
    given_ = object_of(a={"enum": ["x", 1, 2.5]}, b={"const": True}, c={"enum": [None]})
    fields = response_format(given_)["schema"]["properties"]
    assert [fields[name]["type"] for name in "abc"] == [["string", "number"], "boolean", "null"]


def test_extra_fields_are_sent_closed() -> None:
    """A class that allows extra fields, or a schema that does, is sent closed."""
    for given_ in (Open, object_of(x={"type": "integer"}) | {"additionalProperties": True}):
        form = response_format(given_)
        assert form["schema"]["additionalProperties"] is False
        assert list(form["schema"]["properties"]) == ["x"]


INNER = {"name": "mine", "schema": {"type": "object", "properties": {"a": {"type": "null"}}}}


@pytest.mark.parametrize(
    "given_",
    [
        {"type": "json_schema", "json_schema": INNER},
        {"format": {"type": "json_schema", **INNER}},
        {"type": "json_schema", **INNER},
        INNER,
    ],
)
def test_forms_of_other_endpoints_are_taken(given_: dict[str, Any]) -> None:
    """The form of chat completions, and what stands around the API's own, are taken for what they are."""
    form = response_format(given_)
    assert (form["type"], form["name"], form["strict"]) == ("json_schema", "mine", True)
    assert list(form["schema"]["properties"]) == ["a"]
    loose = {"type": "json_schema", "json_schema": {**INNER, "strict": False}}
    assert response_format(loose) == {"type": "json_schema", **INNER, "strict": False}


def nested(levels: int) -> dict[str, Any]:
    """So many objects within each other."""
    made = object_of(end={"type": "string"})
    for _ in range(levels - 1):
        made = object_of(inner=made)
    return made


def chained(levels: int) -> dict[str, Any]:
    """The same by references, each twice."""
    names = [f"N{number}" for number in range(levels)]
    defs: dict[str, Any] = {names[-1]: object_of(end={"type": "string"})}
    for name, below in itertools.pairwise(names):
        link = {"$ref": f"#/$defs/{below}"}
        defs[name] = object_of(a=link, b={"type": "array", "items": link})
    return {**defs.pop(names[0]), "$defs": defs}


@pytest.mark.parametrize(
    ("largest", "larger", "told"),
    [
        (nested(10), nested(11), "11 levels of objects within objects: it takes 10"),
        (chained(10), chained(30), "30 levels of objects within objects"),
        (
            object_of(**{f"f{n}": {"type": "null"} for n in range(5000)}),
            object_of(**{f"f{n}": {"type": "null"} for n in range(5001)}),
            "5,001 fields in all: it takes 5,000",
        ),
        (
            object_of(a={"enum": list(range(500))}, b={"enum": list(range(500))}),
            object_of(a={"enum": list(range(500))}, b={"enum": list(range(501))}),
            "1,001 values of choices in all: it takes 1,000",
        ),
        (
            object_of(a={"enum": ["x" * 119_999]}),
            object_of(a={"enum": ["x" * 120_000]}),
            "120,001 characters in names and choices",
        ),
    ],
)
def test_what_is_larger_than_the_api_takes_is_refused(
    largest: dict[str, Any], larger: dict[str, Any], told: str
) -> None:
    """A schema of just the size that the API takes is sent, a larger one refused before that."""
    assert response_format(largest)["strict"] is True
    with pytest.raises(BadInput, match=told):
        response_format(larger)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (object_of(a={"$ref": "#step"}), r"\$ref #step \(at a\): define it in \$defs"),
        (object_of(a={"$ref": "other.json#/$defs/A"}), r"\$ref other.json#/\$defs/A"),
        (
            object_of(a={"$ref": "#/components/A"}) | {"components": {"A": object_of()}},
            r"\$ref #/components/A: define it in \$defs",
        ),
        (object_of(a={"type": None}), r"a NoneType as a type \(at a\)"),
        (object_of(a={"enum": [[1]]}), r"a choice of lists or objects \(at a\)"),
        ({"type": "json_schema", "name": "x"}, "this format has no schema"),
        (list[Thing], r"take list\[Thing\] as the whole: put it into a field"),
        (int | str, r"int \| str as the whole"),
        (
            Callback,
            r"JSON can't hold its field call, which is Callable\[\[\], int\]; give it a type",
        ),
        (Handle, r"JSON can't hold its field of, which is Thing; give it a type such as str"),
    ],
)
def test_refusals_name_no_internal_class(schema: Any, told: str) -> None:
    """What can't be sent is told in the words of the user's own code."""
    with pytest.raises(BadInput, match=told) as caught:
        response_format(schema)
    line = str(caught.value)
    assert "\n" not in line
    assert not re.search(r"core_schema|GenericAlias|_Union|not type|tests\.|typing\.", line)
