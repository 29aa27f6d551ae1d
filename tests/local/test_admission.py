"""Who may ask, and what is turned down: in the API's shape, and never with a server error."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.local.client import Client

TURN = {"role": "user", "content": "x"}


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer sk-wrong", "Basic abc", "é"])
def test_only_the_servers_own_token_opens_it(client: Client, authorization: str) -> None:
    """Every path, health too, needs the token, and the refusal does not show what was offered."""
    for method, path in [("GET", "/health"), ("POST", "/responses"), ("GET", "/responses/x")]:
        reply = client.call(method, path, b"{}", {"Authorization": authorization})
        assert reply.status == 401
        assert reply.error["code"] == "invalid_api_key"
        assert "sk-wrong" not in json.dumps(reply.body)
        assert client.endpoint.token not in json.dumps(reply.body)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1"]
)
def test_a_foreign_host_header_is_refused(client: Client, host: str) -> None:
    """A web page that points its own name at this machine gets nowhere, even with the token."""
    for path in ("/health", "/responses"):
        reply = client.call("GET", path, headers={"Host": host.format(port=client.port)})
        assert reply.status == 403
        assert "Host" in reply.error["message"]


def test_localhost_is_this_server_too(client: Client) -> None:
    """A client that says localhost is served."""
    reply = client.call("GET", "/health", headers={"Host": f"localhost:{client.port}"})
    assert reply.status == 200
    assert reply.body["pid"] == client.endpoint.pid


def test_no_reply_allows_another_origin(client: Client) -> None:
    """A browser gets no CORS header from any reply, and no answer to its preflight."""
    origin = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    replies = [
        client.call("GET", "/health", headers=origin),
        client.call("OPTIONS", "/responses", headers=origin),
        client.call("POST", "/responses", b"{}", origin),
        client.call("GET", "/responses/none", headers=origin),
        client.call("GET", "/health", headers=origin | {"Authorization": ""}),
    ]
    assert [reply.status for reply in replies] == [200, 405, 400, 404, 401]
    for reply in replies:
        names = [name.lower() for name in reply.headers]
        assert not [name for name in names if name.startswith("access-control")]


def test_every_reply_has_a_request_id_of_its_own(client: Client) -> None:
    """Successes and refusals carry x-request-id, as the API's replies do."""
    replies = [client.call("GET", path) for path in ("/health", "/health", "/responses/x", "/no")]
    ids = {reply.headers["X-Request-Id"] for reply in replies}
    assert len(ids) == 4


def test_unknown_paths_and_methods_are_refused_in_the_same_shape(client: Client) -> None:
    """What is not there answers with the API's error object."""
    assert client.call("GET", "/chat/completions").error["type"] == "invalid_request_error"
    for method, path in [("PUT", "/responses"), ("GET", "/responses"), ("POST", "/health"),
                         ("GET", "/responses/x/cancel")]:  # fmt: skip
        reply = client.call(method, path)
        assert reply.status == 405
        assert reply.error["message"]


REFUSED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"model": None}, "model", "missing_required_parameter"),
    ({"model": 5}, "model", "invalid_type"),
    ({"input": None}, "input", "missing_required_parameter"),
    ({"input": []}, "input", "missing_required_parameter"),
    ({"input": 5}, "input", "invalid_type"),
    ({"input": ["x"]}, "input[0]", "invalid_type"),
    ({"input": [TURN, {"role": "user"}]}, "input[1].content", "invalid_type"),
    ({"input": [{"role": "king", "content": "x"}]}, "input[0].role", "invalid_value"),
    ({"input": [{"type": "reasoning"}]}, "input[0].type", "invalid_value"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content[0].type",
        "invalid_value",
    ),
    (
        {"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]},
        "input[0].content[0].type",
        "invalid_value",
    ),
    ({"background": None}, "background", "unsupported_value"),
    ({"background": False}, "background", "unsupported_value"),
    ({"background": "true"}, "background", "unsupported_value"),
    ({"store": True}, "store", "unsupported_parameter"),
    ({"store": False}, "store", "unsupported_parameter"),
    ({"stream": True, "background": None}, "background", "unsupported_value"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"tools": [{"type": "web_search"}]}, "tools", "unsupported_parameter"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"previous_response_id": 5}, "previous_response_id", "invalid_type"),
    (
        {"previous_response_id": "resp_1", "conversation": "conv_1"},
        "previous_response_id",
        "mutually_exclusive_parameters",
    ),
    ({"conversation": 5}, "conversation", "invalid_type"),
    ({"conversation": {}}, "conversation.id", "invalid_type"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
    ({"tools": [{"type": "web_search"}], "tool_choice": "none"}, "tools[0].type", "invalid_value"),
    ({"tools": [5], "tool_choice": "none"}, "tools[0]", "invalid_type"),
    (
        {"tools": [{"type": "function"}], "tool_choice": "none"},
        "tools[0].name",
        "missing_required_parameter",
    ),
    ({"top_logprobs": 1}, "top_logprobs", "invalid_value"),
    ({"max_tool_calls": -1}, "max_tool_calls", "invalid_value"),
    ({"safety_identifier": "x" * 65}, "safety_identifier", "string_above_max_length"),
    ({"service_tier": "gold"}, "service_tier", "invalid_value"),
    ({"include": ["everything"]}, "include[0]", "invalid_value"),
    ({"user": 5}, "user", "invalid_type"),
    ({"reasoning": {"effort": "extreme"}}, "reasoning.effort", "invalid_value"),
    ({"reasoning": {"depth": 3}}, "reasoning.depth", "unknown_parameter"),
    ({"reasoning": "high"}, "reasoning", "invalid_type"),
    ({"text": {"verbosity": "chatty"}}, "text.verbosity", "invalid_value"),
    ({"text": {"format": {"type": "json_object"}}}, "text.format.type", "invalid_value"),
    (
        {"text": {"format": {"type": "json_schema", "schema": {}}}},
        "text.format.name",
        "missing_required_parameter",
    ),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": []}}},
        "text.format.schema",
        "invalid_type",
    ),
    ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
    ({"max_output_tokens": True}, "max_output_tokens", "invalid_type"),
    ({"max_output_tokens": 20.5}, "max_output_tokens", "invalid_type"),
    ({"temperature": 2.1}, "temperature", "invalid_value"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"top_p": -1}, "top_p", "invalid_value"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ({"metadata": {"a": "x" * 513}}, "metadata", "string_above_max_length"),
    ({"metadata": {str(n): "x" for n in range(17)}}, "metadata", None),
    ({"instructions": ["x"]}, "instructions", "invalid_type"),
    ({"truncation": "some"}, "truncation", "invalid_value"),
    ({"surprise": 1}, "surprise", "unknown_parameter"),
]


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED, ids=lambda value: str(value)[:50])
def test_a_wrong_field_is_named(
    client: Client, fields: dict[str, Any], param: str, code: str | None
) -> None:
    """A body the API would not take, or this server can't honour, is refused by the field."""
    reply = client.post(**fields)
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)
    assert reply.error["type"] == "invalid_request_error"
    assert "\n" not in reply.error["message"]


def test_an_unknown_model_is_refused_and_the_true_one_named(client: Client) -> None:
    """A name that is neither the model's own nor a gpt model's gets the API's model_not_found."""
    for name in ("claude-9", "o3", "smollm", ""):
        reply = client.post(model=name)
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")
        assert reply.error["param"] == "model"
        assert "SmolLM2-135M-Instruct" in reply.error["message"]


# Complete but for half a character, which JSON can write down and no text can hold.
SURROGATE = b'{"model": "gpt-5.2", "background": true, "input": "\\ud800"}'


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"NaN", b'{"a": Infinity}', b"9" * 5000,
     b"[" * 100_000, b'{"a":' * 50_000, SURROGATE],
    ids=lambda body: str(body[:12]),
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_refused(client: Client, body: bytes) -> None:
    """Broken, nested without end or not encodable: 400, and nothing else happens."""
    assert client.call("POST", "/responses", body).status == 400


def test_a_body_that_is_too_large_is_refused_cleanly(client: Client) -> None:
    """Its sender gets to read the 413, and the same body in pieces gets it too."""
    reply = client.call("POST", "/responses", b"x" * 10_000_001)
    assert reply.status == 413
    assert "10000000 bytes" in reply.error["message"]
    pieces = (b"x" * 1_000_000 for _ in range(11))
    assert client.call("POST", "/responses", pieces).status == 413  # type: ignore[arg-type]


def test_a_client_that_goes_away_does_no_harm(client: Client) -> None:
    """Half a request, or none, leaves the server answering."""
    for part in (
        b"",
        b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
        b"\0",
    ):
        with socket.create_connection(("127.0.0.1", client.port)) as raw:
            raw.sendall(part)
    assert client.call("GET", "/health").status == 200


words = st.sampled_from(
    ["user", "assistant", "message", "input_text", "output_text", "text", "none", "low", "auto",
     "gpt-5.2", "\0", "<|im_start|>"]
) | st.text(max_size=8)  # fmt: skip
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words
keys = words | st.sampled_from(["role", "content", "type", "format", "effort", "verbosity"])
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
fields = st.sampled_from(
    ["model", "input", "instructions", "reasoning", "text", "metadata", "max_output_tokens",
     "temperature", "top_p", "tools", "tool_choice", "stream", "store", "user", "include",
     "truncation", "parallel_tool_calls"]
) | words  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(fields, values, max_size=5))
def test_hostile_bodies_are_accepted_or_refused_but_never_break_it(
    client: Client, body: dict[str, Any]
) -> None:
    """Whatever the fields hold, the reply is 200, 400 or 404, and the server lives on."""
    sent = {"model": "gpt-5.2", "input": "x", "background": True, **body}
    reply = client.call("POST", "/responses", json.dumps(sent).encode())
    assert reply.status in (200, 400, 404)
    if reply.status == 200:
        assert client.call("DELETE", f"/responses/{reply.body['id']}").status == 200
    else:
        assert reply.error["message"]


turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer"]), "content": st.text()}
)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text() | st.lists(turns, min_size=1, max_size=3))
def test_hostile_input_never_fails_on_the_servers_side(client: Client, value: Any) -> None:
    """What is accepted as input is also answered: no accepted value makes the model's side fail."""
    reply = client.post(input=value, max_output_tokens=16)
    assert reply.status in (200, 400)
    if reply.status == 200:
        assert client.wait(reply.body["id"])["status"] in ("completed", "incomplete")


def test_the_server_has_survived_all_this(client: Client) -> None:
    """After the tests above it is still the same process, with nothing left to do."""
    health = client.call("GET", "/health").body
    assert health["pid"] == client.endpoint.pid
    assert health["jobs"] == {"queued": 0, "in_progress": 0}
