"""The embedded server's own OpenAPI description, as `GET /openapi.json` serves it.

It describes what this server takes and gives, a subset of the API's own description; the limits
are those that requests are checked against.
"""

from __future__ import annotations

from typing import Any

from bgmagic.local import (
    FLEX_REFUSALS_HEADER,
    QUEUE_HEADER,
    TOKENS_PER_SECOND_HEADER,
    discovery,
)
from bgmagic.local.conversations import MAX_PAGE_SIZE, ORDERS, PAGE_SIZE, ROLES
from bgmagic.local.request_body import (
    EFFORTS,
    IDENTIFIER,
    IGNORED_OBJECTS,
    INCLUDES,
    MAX_INTEGER,
    MAX_NEW_ITEMS,
    METADATA_KEY,
    METADATA_PAIRS,
    METADATA_VALUE,
    MIN_OUTPUT_TOKENS,
    REASONING_CONTEXTS,
    SUMMARIES,
    TIERS,
    TRUNCATIONS,
    VERBOSITIES,
)
from bgmagic.local.validation import WINDOWS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
ANY_OBJECT: Schema = {"type": "object"}


def describe(base_url: str, model: str) -> dict[str, Any]:
    """The description of the server at that address, which runs that model."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "bgmagic.local",
            "version": discovery.package_version() or "0",
            "description": f"The Responses API's background mode, answered by {model}.",
        },
        "servers": [{"url": base_url}],
        "security": [{"token": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
    }


def _paths() -> dict[str, Any]:
    response, conversation = _path_parameter("response_id"), _path_parameter("conversation_id")
    item = _path_parameter("item_id")
    paging = [
        _query("order", _words(ORDERS)),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE,
                         "default": PAGE_SIZE}),
        _query("after", TEXT),
    ]  # fmt: skip
    watching = [
        _query("stream", _words(("true", "false"))),
        _query("starting_after", COUNT),
    ]
    pace = [
        {"name": TOKENS_PER_SECOND_HEADER, "in": "header",
         "schema": {"type": "number", "exclusiveMinimum": 0}},
        {"name": QUEUE_HEADER, "in": "header", "schema": {"type": "number", "minimum": 0}},
        {"name": FLEX_REFUSALS_HEADER, "in": "header", "schema": TEXT},
    ]  # fmt: skip
    added = {**_array(_ref("Item")), "maxItems": MAX_NEW_ITEMS}
    new = _object({"items": _nullable(added), "metadata": _nullable(_ref("Metadata"))})
    return {
        "/responses": {
            "post": _call("Response", pace, _ref("CreateResponse"), stream=True),
        },
        "/responses/input_tokens": {"post": _call("InputTokens", [], _ref("CountInputTokens"))},
        "/responses/{response_id}": {
            "get": _call("Response", [response, *watching], stream=True),
            "delete": _call("Deleted", [response]),
        },
        "/responses/{response_id}/cancel": {"post": _call("Response", [response])},
        "/responses/{response_id}/input_items": {"get": _call("ItemList", [response, *paging])},
        "/conversations": {"post": _call("Conversation", [], new)},
        "/conversations/{conversation_id}": {
            "get": _call("Conversation", [conversation]),
            "post": _call("Conversation", [conversation], _object({"metadata": _ref("Metadata")})),
            "delete": _call("Deleted", [conversation]),
        },
        "/conversations/{conversation_id}/items": {
            "get": _call("ItemList", [conversation, *paging]),
            "post": _call("ItemList", [conversation], _object({"items": added}, "items")),
        },
        "/conversations/{conversation_id}/items/{item_id}": {
            "get": _call("Message", [conversation, item]),
            "delete": _call("Conversation", [conversation, item]),
        },
        **_batch_paths(),
        "/health": {"get": _call("Health", [_query("nonce", TEXT)])},
    }


def _batch_paths() -> dict[str, Any]:
    file, batch = _path_parameter("file_id"), _path_parameter("batch_id")
    paging = [_query(name, TEXT) for name in ("after", "order")]
    paging += [_query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20})]
    upload = _object({"file": TEXT, "purpose": _words(("batch",))}, "file", "purpose")
    create = {
        "input_file_id": TEXT,
        "endpoint": _words(("/v1/responses",)),
        "completion_window": _words(("24h",)),
    }
    new = {**create, "metadata": _nullable(_ref("Metadata")), "output_expires_after": {}}
    add, content = _call("File", [], upload), _call("BatchResult", [file])
    for described in (add["requestBody"], content["responses"]["200"]):
        told = described["content"].pop("application/json")
        kind = "multipart/form-data" if described is add["requestBody"] else "application/jsonl"
        described["content"][kind] = told
    return {
        "/files": {"post": add, "get": _call("FileList", [*paging, _query("purpose", TEXT)])},
        "/files/{file_id}": {"get": _call("File", [file]), "delete": _call("Deleted", [file])},
        "/files/{file_id}/content": {"get": content},
        "/batches": {
            "post": _call("Batch", [], _object(new, *create)),
            "get": _call("BatchList", paging),
        },
        "/batches/{batch_id}": {"get": _call("Batch", [batch])},
        "/batches/{batch_id}/cancel": {"post": _call("Batch", [batch])},
    }


def _call(
    reply: str, parameters: list[Schema], body: Schema | None = None, *, stream: bool = False
) -> dict[str, Any]:
    """One operation: its parameters, its body, and its reply or the error object."""
    content = {"application/json": {"schema": _ref(reply)}}
    if stream:
        content["text/event-stream"] = {"schema": _ref("Event")}
    errors = {"application/json": {"schema": _ref("Error")}}
    operation: dict[str, Any] = {
        "parameters": parameters,
        "responses": {
            "200": {"description": "The reply.", "content": content},
            "default": {"description": "What is wrong.", "content": errors},
        },
    }
    if body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return operation


def _schemas() -> dict[str, Schema]:
    return {**_request_schemas(), **_reply_schemas(), **_batch_schemas()}


def _request_schemas() -> dict[str, Schema]:
    message = _object(
        {
            "type": _words(("message",)),
            "role": _words(tuple(ROLES)),
            "content": {"anyOf": [TEXT, _array(_ref("InputPart"))]},
        },
        "role", "content",
    )  # fmt: skip
    part = _object({"type": _words(("input_text", "output_text")), "text": TEXT}, "type", "text")
    prompt = {
        "model": TEXT,
        "input": {"anyOf": [TEXT, {**_array(_ref("Item")), "minItems": 1}]},
        "instructions": TEXT,
        "previous_response_id": TEXT,
        "conversation": {"anyOf": [TEXT, _object({"id": TEXT}, "id")]},
        "parallel_tool_calls": FLAG,
        "reasoning": _ref("Reasoning"),
        "text": _ref("TextSettings"),
        "tool_choice": _words(("auto", "none")),
        "tools": _array(ANY_OBJECT),
        "truncation": _words(TRUNCATIONS),
    }
    create = prompt | dict.fromkeys(sorted(IGNORED_OBJECTS), ANY_OBJECT)
    create |= {
        "background": {"const": True},
        "background_options": _object(
            {"completion_window": _words(tuple(WINDOWS)), "continuation_id": TEXT}
        ),
        "context_management": _array(ANY_OBJECT),
        "include": _array(_words(INCLUDES)),
        "max_output_tokens": {"type": "integer", "minimum": MIN_OUTPUT_TOKENS},
        "max_tool_calls": {"type": "integer", "minimum": 0, "maximum": MAX_INTEGER},
        "metadata": _ref("Metadata"),
        "prompt_cache_key": TEXT,
        "prompt_cache_retention": _words(("in_memory", "24h")),
        "safety_identifier": {"type": "string", "maxLength": IDENTIFIER},
        "service_tier": _words(TIERS),
        "stream": FLAG,
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_logprobs": {"type": "integer", "const": 0},
        "top_p": {"type": "number", "minimum": 0, "maximum": 1},
        "user": TEXT,
    }
    return {
        "CreateResponse": _object(_all_nullable(create), "model", "background"),
        "CountInputTokens": _object(_all_nullable(prompt | {"personality": TEXT})),
        "Item": message,
        "InputPart": part,
        "Metadata": {
            "type": "object",
            "maxProperties": METADATA_PAIRS,
            "propertyNames": {"maxLength": METADATA_KEY},
            "additionalProperties": {"type": "string", "maxLength": METADATA_VALUE},
        },
        "Reasoning": _object(
            _all_nullable(
                {
                    "context": _words(REASONING_CONTEXTS),
                    "effort": _words(EFFORTS),
                    "generate_summary": _words(SUMMARIES),
                    "mode": TEXT,
                    "summary": _words(SUMMARIES),
                }
            )
        ),
        "TextSettings": _object(
            _all_nullable({"format": _ref("Format"), "verbosity": _words(VERBOSITIES)})
        ),
        "Format": _object(
            _all_nullable(
                {
                    "type": _words(("text", "json_schema")),
                    "name": TEXT,
                    "schema": ANY_OBJECT,
                    "strict": FLAG,
                    "description": TEXT,
                }
            )
        ),
    }


def _reply_schemas() -> dict[str, Schema]:
    statuses = ("queued", "in_progress", "completed", "incomplete", "failed", "cancelled")
    part = _object(
        {"type": _words(("input_text", "output_text")), "text": TEXT, "annotations": _array({}),
         "logprobs": _array({})},
        "type", "text",
    )  # fmt: skip
    message = _object(
        {
            "id": TEXT,
            "type": _words(("message",)),
            "role": _words(tuple(ROLES)),
            "status": _words(("in_progress", "completed", "incomplete")),
            "content": _array(part),
        },
        "id", "type", "role", "status", "content",
    )  # fmt: skip
    always: dict[str, Schema] = {
        "id": TEXT,
        "object": _words(("response",)),
        "status": _words(statuses),
        "created_at": COUNT,
        "completed_at": _nullable(COUNT),
        "error": _nullable(_object({"code": TEXT, "message": TEXT}, "code", "message")),
        "incomplete_details": _nullable(_object({"reason": TEXT}, "reason")),
        "output": _array(_ref("Message")),
        "model": TEXT,
        "background": {"const": True},
        "store": {"const": True},
    }
    error = {name: _nullable(TEXT) for name in ("param", "code")} | {"type": TEXT, "message": TEXT}
    details = {"input_tokens_details": ANY_OBJECT, "output_tokens_details": ANY_OBJECT}
    tokens = dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), COUNT)
    page = {"first_id": TEXT, "last_id": TEXT, "has_more": FLAG}
    lists = {"object": _words(("list",)), "data": _array(_ref("Message"))}
    usage = _object({**tokens, **details}, *tokens, *details)
    return {
        "Response": _object(
            {**always, "conversation": _nullable(_object({"id": TEXT}, "id")), "usage": usage},
            *always,
        ),
        "Message": message,
        "ItemList": _object({**lists, **page}, *lists, *page),
        "Event": _object({"type": TEXT, "sequence_number": COUNT}, "type", "sequence_number"),
        "InputTokens": _object(
            {"object": _words(("response.input_tokens",)), "input_tokens": COUNT},
            "object", "input_tokens",
        ),
        "Conversation": _object(
            {"id": TEXT, "object": _words(("conversation",)), "created_at": COUNT,
             "metadata": _ref("Metadata")},
            "id", "object", "created_at", "metadata",
        ),
        "Deleted": _object(
            {"id": TEXT, "object": TEXT, "deleted": {"const": True}}, "id", "object", "deleted"
        ),
        "Health": _object({"name": TEXT, "pid": COUNT, "proof": TEXT}, "name", "pid"),
        "Error": _object({"error": _object(error, *error)}, "error"),
    }  # fmt: skip


def _batch_schemas() -> dict[str, Schema]:
    statuses = (
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling",
        "cancelled",
    )  # fmt: skip
    file = {"id": TEXT, "object": _words(("file",)), "bytes": COUNT, "created_at": COUNT,
            "filename": TEXT, "purpose": _words(("batch", "batch_output"))}  # fmt: skip
    batch = {
        "id": TEXT, "object": _words(("batch",)), "endpoint": TEXT, "completion_window": TEXT,
        "status": _words(statuses), "input_file_id": TEXT, "created_at": COUNT,
        "output_file_id": _nullable(TEXT), "error_file_id": _nullable(TEXT),
        "errors": _nullable(ANY_OBJECT), "metadata": _nullable(_ref("Metadata")),
        "request_counts": _object(dict.fromkeys(("total", "completed", "failed"), COUNT)),
    }  # fmt: skip
    result = {"id": TEXT, "custom_id": TEXT, "response": _nullable(ANY_OBJECT),
              "error": _nullable(ANY_OBJECT)}  # fmt: skip

    def listed(name: str) -> Schema:
        page = {"object": _words(("list",)), "data": _array(_ref(name)), "has_more": FLAG}
        return _object(page, *page)

    return {
        "File": _object(file, *file), "FileList": listed("File"),
        "Batch": _object(batch, *batch), "BatchList": listed("Batch"),
        "BatchResult": _object(result, *result),
    }  # fmt: skip


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _words(words: tuple[str, ...]) -> Schema:
    return {"type": "string", "enum": list(words)}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _all_nullable(properties: dict[str, Schema]) -> dict[str, Schema]:
    return {name: _nullable(schema) for name, schema in properties.items()}


def _object(properties: dict[str, Schema], *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "schema": schema}


def _path_parameter(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": TEXT}
