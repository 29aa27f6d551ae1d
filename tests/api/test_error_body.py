"""Bodies of error answers, in the words of many servers, as one line for people."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.api.error_body import read_error
from bgmagic.api.server import ServerConfig
from bgmagic.transport.reply import HTTPResponse, ReplyParser
from tests.jobs.test_answer import json_values

FORGOTTEN = "Response 'resp_1' is not here."
PROBLEM = {"type": "about:blank", "title": "Gone", "status": 404, "detail": FORGOTTEN}
FAULT = {"type": "missing", "loc": ["body", "model"], "msg": "Field required"}
MANY = [FAULT] * 7 + [{"loc": ["body", "input", 1, "type"], "msg": "Input should be 'a'"}]
LINES = "\n".join(
    [
        "239 validation errors:",
        "  {'type': 'string_type', 'loc': 'body.input', 'msg': 'Should be a string'}",
        *["  {'type': 'missing', 'loc': 'body.input.1.A.id', 'msg': 'Field required', 'input': 1}"]
        * 9,
    ]
)
PROVIDER = "litellm.BadRequestError: OpenAIException - " + json.dumps({"error": {"message": "No."}})

# Each: the body, what is said, and whether the API says it.
BODIES: dict[str, tuple[Any, str, bool]] = {
    "the API's own": ({"error": {"message": FORGOTTEN, "code": None}}, FORGOTTEN, True),
    "code as a number": ({"error": {"message": FORGOTTEN, "code": 404}}, FORGOTTEN, True),
    "bare": ({"message": FORGOTTEN}, FORGOTTEN, True),
    "an error that is text": ({"error": FORGOTTEN}, FORGOTTEN, True),
    "detail": ({"detail": FORGOTTEN}, FORGOTTEN, True),
    "detail with an error": ({"detail": {"error": {"message": FORGOTTEN}}}, FORGOTTEN, True),
    "problem+json": (PROBLEM, f"Gone: {FORGOTTEN}", True),
    "OAuth": ({"error": "invalid_token", "error_description": "It is old."}, "It is old.", True),
    "a fault": ({"detail": [FAULT]}, "body.model: Field required", True),
    "many faults": ({"detail": MANY}, "body.input.1.type: Input should be 'a'; and 7 more", True),
    "faults as lines": (
        {"error": {"message": LINES, "code": 400}},
        "239 validation errors: body.input.1.A.id: Field required; and 9 more",
        True,
    ),
    "Python within": (
        {"error": {"message": "400: {'error': '/responses: there is no model x.'}"}},
        "400: /responses: there is no model x.",
        True,
    ),
    "JSON within": ({"error": {"message": PROVIDER}}, "litellm.BadRequestError: OpenAIException: No.", True),
    "JSON as text": ({"detail": json.dumps({"error": {"message": "No."}})}, "No.", True),
    "about a schema": (
        {"error": {"message": "In 'a', {'title': 'A', 'type': 'x'} is no schema."}},
        "In 'a', {'title': 'A', 'type': 'x'} is no schema.",
        True,
    ),
    "no words": ({"error": {"code": 5, "kind": "quota"}}, "code 5, kind quota", False),
    "no such route": ({"detail": "Not Found"}, "Not Found", False),
    "no such route, as a problem": ({"title": "Not Found", "status": 404}, "Not Found", False),
    "nothing": ([], "the answer has no words", False),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_what_a_body_says(name: str) -> None:
    """Whichever server wrote the body, its words are the message, and no JSON; a router's "Not Found" is not the API's word."""
    body, message, from_api = BODIES[name]
    parser = ReplyParser(ServerConfig("http://127.0.0.1:9/v1", "sk-0123456789"))
    failure = parser.refusal(HTTPResponse(404, {}, json.dumps(body).encode()))
    assert str(failure) == f"HTTP 404: {message}"
    assert failure.from_api is from_api


@given(json_values)
def test_any_body_is_read(body: object) -> None:
    """Whatever JSON comes, a body gives a message that is no JSON object."""
    read = read_error(json.dumps(body))
    assert read.message
    assert not read.message.startswith('{"')


@given(st.text(max_size=200) | st.text("{}[]()'\":,-ab1\n ", max_size=200))
def test_any_message_stays_a_message(text: str) -> None:
    """A text that quotes no error is not changed, and nothing in it can make reading fail."""
    found = read_error(json.dumps({"error": {"message": text}})).message
    if text and "{" not in text and not text.strip().splitlines()[1:]:
        assert found == text


@pytest.mark.parametrize("text", ["{'a': " * 900 + "1" + "}" * 900, "{'a':" + "-" * 3900 + "1}"])
def test_deep_messages_are_left_alone(text: str) -> None:
    """What is nested too deep to be read stays as it is."""
    assert read_error(json.dumps({"error": {"message": text}})).message == text
