"""What the API's own description and the server's own say of every path, checked on its replies."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bgmagic.local import openapi
from bgmagic.local.batches import routes
from bgmagic.local.server import ServerState, application
from tests.local.stage import CREATE, Stage, parse, problems, stage, until

FUNCTION = {
    "type": "function",
    "name": "weather",
    "description": "Of a place.",
    "parameters": {"type": "object", "properties": {}},
    "strict": True,
}

# Every field of a create but `store` (never with background mode), `prompt` (none is stored) and
# one of `previous_response_id` and `conversation`, which exclude each other.
EVERYTHING: dict[str, Any] = {
    "background": True,
    "context_management": [{"type": "compaction", "compact_threshold": 1000}],
    "conversation": None,
    "include": ["message.output_text.logprobs"],
    "input": [{"type": "message", "role": "user", "content": "Go on.", "phase": None}],
    "instructions": "Be brief.",
    "max_output_tokens": 16,
    "max_tool_calls": 0,
    "metadata": {"a": "b"},
    "model": "gpt-5.2",
    "moderation": {"model": "omni-moderation-latest"},
    "parallel_tool_calls": False,
    "previous_response_id": None,
    "prompt": None,
    "prompt_cache_key": "key",
    "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
    "prompt_cache_retention": "in_memory",
    "reasoning": {
        "context": "auto",
        "effort": "none",
        "generate_summary": "auto",
        "mode": "standard",
        "summary": "auto",
    },
    "safety_identifier": "someone",
    "service_tier": "auto",
    "store": None,
    "stream": False,
    "stream_options": {"include_obfuscation": True},
    "temperature": 1,
    "text": {
        "format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}},
        "verbosity": "low",
    },
    "tool_choice": "none",
    "tools": [FUNCTION],
    "top_logprobs": 0,
    "top_p": 0.5,
    "truncation": "auto",
    "user": "someone",
}

EVENTS = {
    "response.created": "ResponseCreatedEvent",
    "response.queued": "ResponseQueuedEvent",
    "response.in_progress": "ResponseInProgressEvent",
    "response.output_item.added": "ResponseOutputItemAddedEvent",
    "response.content_part.added": "ResponseContentPartAddedEvent",
    "response.output_text.delta": "ResponseTextDeltaEvent",
    "response.output_text.done": "ResponseTextDoneEvent",
    "response.content_part.done": "ResponseContentPartDoneEvent",
    "response.output_item.done": "ResponseOutputItemDoneEvent",
    "response.completed": "ResponseCompletedEvent",
}


def described_fields() -> set[str]:
    """The names of all fields of a create in the API's description."""
    path = Path(__file__).parents[1] / "data" / "responses.schema.json"
    definitions = json.loads(path.read_text("utf-8"))["$defs"]

    def fields(schema: dict[str, Any]) -> set[str]:
        if "$ref" in schema:
            return fields(definitions[schema["$ref"].rpartition("/")[2]])
        parts = [fields(part) for part in schema.get("allOf", [])]
        return set(schema.get("properties", {})).union(*parts)

    return fields(definitions["CreateResponse"])


def test_a_create_with_all_fields_is_accepted_and_fits_the_description() -> None:
    """All that the API's description knows goes in at once, and what comes out fits it in each state."""
    assert set(EVERYTHING) == described_fields()
    sent = {name: value for name, value in EVERYTHING.items() if value is not None}
    assert problems("CreateResponse", sent) == []

    async def run() -> None:
        async with stage() as at:
            status, created = await at.call("POST", "responses", EVERYTHING)
            assert (status, problems("Response", created)) == (200, [])
            for name in ("metadata", "safety_identifier", "prompt_cache_key", "user", "tools",
                         "top_p", "max_tool_calls", "truncation", "reasoning"):  # fmt: skip
                assert created[name] == EVERYTHING[name]
            at.puppet.say("done")
            at.puppet.end()
            await until(lambda: not at.state.busy)
            done = (await at.get(f"responses/{created['id']}"))[1]
            assert (done["status"], problems("Response", done)) == ("completed", [])

    asyncio.run(run())


@pytest.mark.parametrize("name", sorted(described_fields()))
def test_no_field_of_the_description_is_unknown(name: str) -> None:
    """Each is taken or refused for a reason of its own, never as if the API had no such field."""

    async def run() -> None:
        async with stage() as at:
            _, body = await at.call("POST", "responses", {**CREATE, "stream": False, name: 10**9})
            assert (body["error"] or {}).get("code") != "unknown_parameter"

    asyncio.run(run())


# What the Open Responses schema of a response requires and OpenAI's does not.
OPEN_RESPONSES = (
    "previous_response_id", "presence_penalty", "frequency_penalty", "top_logprobs",
    "max_tool_calls", "store", "safety_identifier", "prompt_cache_key", "completed_at", "usage",
)  # fmt: skip


def test_the_fields_of_open_responses_are_there_in_each_state() -> None:
    """Its required fields are in a response from the first reply to the last, with their types."""

    async def run() -> None:
        async with stage() as at:
            created = (await at.call("POST", "responses", {**CREATE, "stream": False}))[1]
            at.puppet.end()
            await until(lambda: not at.state.busy)
            for state in (created, (await at.get(f"responses/{created['id']}"))[1]):
                assert set(OPEN_RESPONSES) <= set(state)
                assert (state["presence_penalty"], state["frequency_penalty"]) == (0, 0)
                assert (state["store"], state["top_logprobs"]) == (True, 0)

    asyncio.run(run())


async def replies(at: Stage) -> dict[tuple[str, str], list[Any]]:
    """Replies of every path and method, by method and path as the descriptions write them."""
    seen: dict[tuple[str, str], list[Any]] = {}

    async def ask(method: str, template: str, body: Any = None, query: str = "", **ids: str) -> Any:
        status, reply = await at.call(method, template.lstrip("/").format(**ids) + query, body)
        assert status == 200, reply
        seen.setdefault((method.lower(), template), []).append(reply)
        return reply

    response, conversation = "/responses/{response_id}", "/conversations/{conversation_id}"
    items = conversation + "/items"
    created = await ask("POST", "/responses", {**CREATE, "stream": False, "input": "a"})
    running = await ask("POST", "/responses", {**CREATE, "stream": False})
    for each in (created, running):
        await ask("GET", response, response_id=each["id"])
    await ask("POST", response + "/cancel", response_id=running["id"])
    at.puppet.say("done")
    at.puppet.end()
    await until(lambda: not at.state.busy)
    await ask("GET", response, response_id=created["id"])
    for query in ("", "?limit=1&order=asc"):
        await ask("GET", response + "/input_items", query=query, response_id=created["id"])
    await ask("POST", "/responses/input_tokens", {"input": "one two"})
    await ask("DELETE", response, response_id=created["id"])
    turn = {"role": "user", "content": "x"}
    made = await ask("POST", "/conversations", {"items": [turn], "metadata": {"a": "b"}})
    of = {"conversation_id": made["id"]}
    await ask("GET", conversation, **of)
    await ask("POST", conversation, {"metadata": {}}, **of)
    added = await ask("POST", items, {"items": [{"role": "assistant", "content": "y"}]}, **of)
    await ask("GET", items, **of)
    item_id = added["data"][0]["id"]
    await ask("GET", items + "/{item_id}", item_id=item_id, **of)
    await ask("DELETE", items + "/{item_id}", item_id=item_id, **of)
    await ask("DELETE", conversation, **of)
    batch, file = "/batches/{batch_id}", "/files/{file_id}"
    asked = {"model": "gpt-5.2", "input": "x"}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": asked}
    content = json.dumps(line).encode()
    uploaded = await at.sdk.files.create(file=("a.jsonl", content), purpose="batch")
    seen["post", "/files"] = [uploaded.to_dict()]
    begin = {"endpoint": "/v1/responses", "completion_window": "24h", "input_file_id": uploaded.id}
    at.puppet.say("done")
    at.puppet.end()
    begun = await ask("POST", "/batches", begin | {"metadata": {"a": "b"}})
    while (await ask("GET", batch, batch_id=begun["id"]))["status"] != "completed":
        await asyncio.sleep(0.01)
    ended = (await ask("GET", "/batches"))["data"][0]
    # A file of one line is JSON.
    await ask("GET", file + "/content", file_id=ended["output_file_id"])
    stopped = await ask("POST", "/batches", begin)
    await ask("POST", batch + "/cancel", batch_id=stopped["id"])
    await ask("GET", "/files", query="?limit=1")
    await ask("GET", file, file_id=uploaded.id)
    await ask("DELETE", file, file_id=uploaded.id)
    await ask("GET", "/health")
    await ask("GET", "/health", query=f"?nonce={'0' * 32}")
    return seen


DESCRIBED = {
    ("post", "/responses"): "Response",
    ("get", "/responses/{response_id}"): "Response",
    ("post", "/responses/{response_id}/cancel"): "Response",
    ("get", "/responses/{response_id}/input_items"): "ResponseItemList",
    ("post", "/responses/input_tokens"): "TokenCountsResource",
}


def test_replies_of_every_path_fit_the_api_description() -> None:
    """What the API describes, it describes as this server replies; items of conversations too."""

    async def run() -> None:
        async with stage() as at:
            seen = await replies(at)
            for call, name in DESCRIBED.items():
                for reply in seen[call]:
                    assert problems(name, reply) == []
            for reply in seen["get", "/conversations/{conversation_id}/items"]:
                assert problems("ResponseItemList", reply) == []

    asyncio.run(run())


def test_streams_with_a_schema_fit_the_api_description() -> None:
    """Each event of a response with a JSON schema and a function, live and again, fits its type."""

    async def run() -> None:
        async with stage() as at:
            at.puppet.say('{"a"', ": 1}")
            at.puppet.end()
            async with at.socket("POST", "/responses", EVERYTHING | {"stream": True}) as reader:
                live = parse(await reader.read())
            again = parse(await at.wire(live[0]["response"]["id"]))
            assert again == live
            assert {event["type"] for event in live} == set(EVENTS)
            for event in live:
                assert problems(EVENTS[event["type"]], event) == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "responses/none", None), ("DELETE", "responses/none", None),
        ("POST", "responses/none/cancel", None), ("GET", "responses/none/input_items", None),
        ("POST", "responses", {}), ("POST", "responses", [1]), ("POST", "responses/compact", {}),
        ("POST", "responses/input_tokens", {"input": 5}), ("GET", "responses/input_tokens", None),
        ("GET", "conversations/none", None), ("DELETE", "conversations/none", None),
        ("POST", "conversations/none/items", {}), ("DELETE", "conversations/none/items", None),
        ("GET", "conversations/none/items/none", None), ("GET", "health?nonce=short", None),
        ("PATCH", "responses", None), ("GET", "nowhere", None), ("GET", "files/none", None),
        ("DELETE", "files/none", None), ("GET", "files/none/content", None), ("POST", "files", {}),
        ("GET", "files?limit=0", None), ("POST", "batches", {}), ("GET", "batches/none", None),
        ("POST", "batches/none/cancel", None), ("GET", "batches?after=none", None),
    ],
)  # fmt: skip
def test_errors_of_every_path_fit_the_api_description(method: str, path: str, body: Any) -> None:
    """Whatever is wrong, the reply is the API's error object, never a server error."""

    async def run() -> None:
        async with stage() as at:
            status, reply = await at.call(method, path, body)
            assert 400 <= status < 500
            assert problems("ErrorResponse", reply) == []

    asyncio.run(run())


def test_the_description_is_served_with_the_token_only() -> None:
    """It lies beside /v1, names this server and its model, and needs the token as all paths do."""

    async def run() -> None:
        async with stage() as at:
            status, described = await at.call("GET", "openapi.json")
            assert (status, described["openapi"]) == (200, "3.1.0")
            assert described["servers"] == [{"url": at.state.base_url}]
            assert "puppet" in described["info"]["description"]
            reply = await at.sdk._client.get(
                at.state.base_url.removesuffix("/v1") + "/openapi.json"
            )
            assert reply.status_code == 401

    asyncio.run(run())


def test_the_servers_own_description_is_true() -> None:
    """It has exactly the paths that are served, its schemas are sound, and each reply fits its own."""
    described = openapi.describe("http://127.0.0.1:1/v1", "m")
    schemas = described["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    referred = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert referred == set(schemas)

    async def run() -> None:
        async with stage() as at:
            seen = await replies(at)
            calls = {(m, path) for path, item in described["paths"].items() for m in item}
            assert calls == set(seen)
            for (method, path), bodies in seen.items():
                reply = described["paths"][path][method]["responses"]["200"]["content"]
                kind = "application/jsonl" if path.endswith("/content") else "application/json"
                check = checker(described, reply[kind]["schema"])
                for body in bodies:
                    assert [error.message for error in check.iter_errors(body)] == []

    asyncio.run(run())


def test_every_route_is_described() -> None:
    """No path of the application is missing from the server's own description."""
    state = ServerState(None, "m", 1)  # type: ignore[arg-type]
    patterns = [
        rule.matcher.regex.pattern
        for rule in application(state, routes(state)).wildcard_router.rules
    ]
    served = {re.sub(r"\(\[\^/\]\+\)", "{}", pattern.rstrip("$")) for pattern in patterns}
    paths = openapi.describe("", "m")["paths"]
    described = {re.sub(r"\{\w+\}", "{}", f"/v1{path}") for path in paths}
    beside = {"/openapi.json", "/v1/responses/compact", ".*"}
    assert {path.replace("\\", "") for path in served} - beside == described


def checker(described: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    """A validator of one schema of the description."""
    return Draft202012Validator({**schema, "components": described["components"]})


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({}, True), ({name: v for name, v in EVERYTHING.items() if name not in
                      ("store", "prompt")}, True),
        ({"background": False}, False), ({"temperature": 3}, False), ({"input": 5}, False),
        ({"input": []}, False), ({"max_output_tokens": 15}, False), ({"top_logprobs": 1}, False),
        ({"reasoning": {"effort": "extreme"}}, False), ({"metadata": {"a": "x" * 513}}, False),
        ({"conversation": {}}, False), ({"safety_identifier": "x" * 65}, False),
        ({"text": {"verbosity": "chatty"}}, False), ({"service_tier": "gold"}, False),
        ({"include": ["everything"]}, False), ({"truncation": "some"}, False),
        ({"background_options": {"completion_window": "2h", "continuation_id": "x"}}, True),
        ({"background_options": {"completion_window": "3h"}}, False),
    ],
)  # fmt: skip
def test_the_own_description_takes_what_the_server_takes(
    fields: dict[str, Any], fits: bool
) -> None:
    """A body fits the server's own description exactly when the server accepts it."""
    described = openapi.describe("", "m")
    check = checker(described, {"$ref": "#/components/schemas/CreateResponse"})
    sent = {**CREATE, "stream": False, **fields}
    assert check.is_valid(sent) is fits

    async def run() -> None:
        async with stage() as at:
            status, _ = await at.call("POST", "responses", sent)
            assert (status == 200) is fits

    asyncio.run(run())
