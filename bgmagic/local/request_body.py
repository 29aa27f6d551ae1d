"""Request bodies: JSON becomes `CreateParams`, or a `BadRequest` that names the wrong field.

Errors have the API's own wording and codes, so that a notebook that works here works there. What
this server can't do (tools, images, earlier responses) is refused, not ignored. `reasoning` and
`text.verbosity` are validated and echoed but change nothing: the model does not reason, and writes
as much as it likes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from bgmagic.local.validation import (
    BadRequest,
    choice,
    invalid_type,
    number,
    only,
    refuse,
    typed,
    unknown,
)

# The values and limits are those of the API's OpenAPI description.
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
SUMMARIES = ("auto", "concise", "detailed")
VERBOSITIES = ("low", "medium", "high")
MIN_OUTPUT_TOKENS = 16
METADATA_PAIRS, METADATA_KEY, METADATA_VALUE = 16, 64, 512

# Fields that are used, ignored and refused.
READ = {"background", "input", "instructions", "max_output_tokens", "metadata", "model"}
READ |= {"parallel_tool_calls", "reasoning", "store", "stream", "temperature", "text"}
READ |= {"tool_choice", "tools", "top_p", "truncation"}
HARMLESS = {"background_options", "include", "max_tool_calls", "prompt_cache_key"}
HARMLESS |= {"prompt_cache_options", "prompt_cache_retention", "safety_identifier"}
HARMLESS |= {"service_tier", "user"}
BEYOND = {"context_management", "conversation", "moderation", "previous_response_id", "prompt"}
BEYOND |= {"stream_options", "top_logprobs"}

ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}

# The API's own limits of a page: at most, and by default.
MAX_PAGE_SIZE = 100
PAGE_SIZE = 20
ORDERS = ("asc", "desc")


@dataclass(frozen=True)
class CreateParams:
    """One accepted create: what to generate, and the settings that its response repeats.

    Attributes:
        messages: the conversation in the words of chat templates, instructions first.
        max_output_tokens: None for as many as the context holds.
        echo: the fields every state of the response carries unchanged.
        items: the input as `pack_items` stores it.
        stream: whether its events can be streamed.
        schema: the JSON schema that the answer has to fit, or None for plain text.
    """

    messages: tuple[Mapping[str, str], ...]
    max_output_tokens: int | None
    temperature: float
    top_p: float
    echo: Mapping[str, Any]
    items: bytes = b"[]"
    stream: bool = False
    schema: Mapping[str, Any] | None = None


def parse_json(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises:
        BadRequest: it is not one, or no text that can be encoded again.
    """
    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(body, ensure_ascii=False).encode("utf-8")  # a lone surrogate is no text
    except (ValueError, RecursionError):
        refuse("We could not parse the JSON body of your request.")
    if not isinstance(body, dict):
        refuse("The body of your request must be a JSON object.")
    return body


def read_create(body: Mapping[str, Any], model: str) -> CreateParams:
    """The body as an `CreateParams` to the named model.

    Raises:
        BadRequest: names the field that is wrong.
    """
    given = {name: value for name, value in body.items() if value is not None}
    _check_fields(given)
    _check_mode(given)
    _check_model(given, model)
    instructions = typed(given, "instructions", str, None)
    items = read_input(given)
    messages = chat_messages(items)
    if instructions is not None:
        messages.insert(0, {"role": "system", "content": instructions})
    limit = _limit(given)
    temperature = number(given, "temperature", 2, default=0.0)
    top_p = number(given, "top_p", 1, default=1.0)
    text = _text(given)
    return CreateParams(
        messages=tuple(messages),
        max_output_tokens=limit,
        temperature=temperature,
        top_p=top_p,
        items=pack_items(items),
        stream=typed(given, "stream", bool, False),
        schema=text["format"].get("schema"),
        echo={
            "model": model,
            "background": True,
            "instructions": instructions,
            "max_output_tokens": limit,
            "metadata": _metadata(given),
            "parallel_tool_calls": typed(given, "parallel_tool_calls", bool, True),
            "reasoning": _reasoning(given),
            "service_tier": "default",
            "temperature": temperature,
            "text": text,
            "tool_choice": choice(given, "tool_choice", ("auto", "none"), "auto"),
            "tools": [],
            "top_p": top_p,
            "truncation": choice(given, "truncation", ("disabled",), "disabled"),
        },
    )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _check_fields(given: Mapping[str, Any]) -> None:
    for name in given:
        if name in BEYOND:
            refuse(
                f"Unsupported parameter: '{name}' is not supported by this local server.",
                name,
                "unsupported_parameter",
            )
        if name not in READ | HARMLESS:
            unknown(name)


def _check_mode(given: Mapping[str, Any]) -> None:
    if given.get("background") is not True:
        refuse(
            'This local server only does background mode: send "background": true.',
            "background",
            "unsupported_value",
        )
    if "store" in given:
        refuse(
            "'store' can't be given with background mode: leave it out.",
            "store",
            "unsupported_parameter",
        )
    if typed(given, "tools", list, []):
        refuse("Tools are not supported with this local model.", "tools", "unsupported_parameter")


def _check_model(given: Mapping[str, Any], model: str) -> None:
    asked = typed(given, "model", str, None)
    if asked is None:
        refuse("Missing required parameter: 'model'.", "model", "missing_required_parameter")
    if asked != model and not asked.startswith("gpt-"):
        raise BadRequest(
            404,
            f"The model '{asked}' does not exist: this local server runs {model}.",
            param="model",
            code="model_not_found",
        )


def _limit(given: Mapping[str, Any]) -> int | None:
    limit = given.get("max_output_tokens")
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool):
        invalid_type("max_output_tokens", "an integer", limit)
    if limit < MIN_OUTPUT_TOKENS:
        refuse(
            f"Invalid 'max_output_tokens': integer below minimum value. Expected a value >="
            f" {MIN_OUTPUT_TOKENS}, but got {limit} instead.",
            "max_output_tokens",
            "integer_below_min_value",
        )
    return limit


def _metadata(given: Mapping[str, Any]) -> dict[str, str]:
    pairs: dict[str, Any] = typed(given, "metadata", dict, {})
    if len(pairs) > METADATA_PAIRS:
        refuse(f"Invalid 'metadata': at most {METADATA_PAIRS} pairs.", "metadata")
    for key, value in pairs.items():
        if not isinstance(value, str):
            invalid_type(f"metadata.{key[:METADATA_KEY]}", "a string", value)
        if len(key) > METADATA_KEY or len(value) > METADATA_VALUE:
            refuse(
                f"Invalid 'metadata': keys have at most {METADATA_KEY} characters and values"
                f" {METADATA_VALUE}.",
                "metadata",
                "string_above_max_length",
            )
    return pairs


def _reasoning(given: Mapping[str, Any]) -> dict[str, Any]:
    settings = typed(given, "reasoning", dict, {})
    only(settings, "reasoning", ("effort", "summary"))
    return {
        "effort": choice(settings, "effort", EFFORTS, None, "reasoning", needed=False),
        "summary": choice(settings, "summary", SUMMARIES, None, "reasoning", needed=False),
    }


def _text(given: Mapping[str, Any]) -> dict[str, Any]:
    settings = typed(given, "text", dict, {})
    only(settings, "text", ("format", "verbosity"))
    return {
        "format": _format(typed(settings, "format", dict, {}, "text")),
        "verbosity": choice(settings, "verbosity", VERBOSITIES, "medium", "text"),
    }


def _format(shape: Mapping[str, Any]) -> dict[str, Any]:
    """The form of the answer: plain text, or JSON that fits a schema."""
    where = "text.format"
    if choice(shape, "type", ("text", "json_schema"), "text", where) == "text":
        return {"type": "text"}
    only(shape, where, ("type", "name", "schema", "strict", "description"))
    for name, kind in (("name", str), ("schema", dict)):
        if typed(shape, name, kind, None, where) is None:
            path = f"{where}.{name}"
            refuse(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
    return {
        "type": "json_schema",
        "name": shape["name"],
        "schema": shape["schema"],
        "strict": typed(shape, "strict", bool, False, where),
        "description": typed(shape, "description", str, None, where),
    }


@dataclass(frozen=True)
class Item:
    """One message of the input: its role as given, and the texts of its parts."""

    role: str
    texts: tuple[str, ...]


def read_input(given: Mapping[str, Any]) -> tuple[Item, ...]:
    """The items of a body's `input`.

    Raises:
        BadRequest: names the part that is wrong.
    """
    value = given.get("input")
    if isinstance(value, str):
        return (Item("user", (value,)),)
    if value is None or value == []:
        refuse("Missing required parameter: 'input'.", "input", "missing_required_parameter")
    if not isinstance(value, list):
        invalid_type("input", "a string or an array of messages", value)
    return tuple(_item(item, f"input[{number}]") for number, item in enumerate(value))


def chat_messages(items: Sequence[Item]) -> list[dict[str, str]]:
    """The items in the words of chat templates."""
    return [{"role": ROLES[item.role], "content": "\n".join(item.texts)} for item in items]


def pack_items(items: Sequence[Item]) -> bytes:
    """The items as JSON, whose size is what it costs to keep them."""
    kept = [[item.role, *item.texts] for item in items]
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()


def list_items(
    packed: bytes, seed: str, *, order: str, limit: int, after: str | None
) -> dict[str, Any]:
    """One page of the items, as the API lists them.

    Args:
        packed: the items as `pack_items` gives them.
        seed: the part of the ids that no other response's items have.
        order: `asc` as they were given, or `desc`, newest first.
        limit: how many at most.
        after: the id of the last item of the page before.

    Raises:
        BadRequest: no item has the id `after`.
    """
    kept = json.loads(packed)
    numbers = range(len(kept)) if order == "asc" else range(len(kept) - 1, -1, -1)
    start = 0 if after is None else numbers.index(_item_number(seed, after, len(kept))) + 1
    here = numbers[start : start + limit]
    data = [_item_json(_item_id(seed, number), *kept[number]) for number in here]
    return {
        "object": "list",
        "data": data,
        # An empty page has no ids, and the description wants strings.
        "first_id": data[0]["id"] if data else "",
        "last_id": data[-1]["id"] if data else "",
        "has_more": start + limit < len(kept),
    }


def _item(item: Any, where: str) -> Item:
    if not isinstance(item, dict):
        invalid_type(where, "an object", item)
    choice(item, "type", ("message",), "message", where)
    role = choice(item, "role", ROLES, None, where)
    content = item.get("content")
    if isinstance(content, str):
        return Item(role, (content,))
    if not isinstance(content, list):
        invalid_type(f"{where}.content", "a string or an array of text parts", content)
    parts = enumerate(content)
    return Item(role, tuple(_part_text(part, role, f"{where}.content[{n}]") for n, part in parts))


def _part_text(part: Any, role: str, where: str) -> str:
    if not isinstance(part, dict):
        invalid_type(where, "an object", part)
    choice(part, "type", (_part_type(role),), None, where)
    text = part.get("text")
    if not isinstance(text, str):
        invalid_type(f"{where}.text", "a string", text)
    return text


def _part_type(role: str) -> str:
    return "output_text" if role == "assistant" else "input_text"


def _item_id(seed: str, number: int) -> str:
    return f"msg_{seed}{number:08x}"


def _item_number(seed: str, item_id: str, count: int) -> int:
    number = next((n for n in range(count) if _item_id(seed, n) == item_id), None)
    if number is None:
        refuse(f"No input item has the id '{item_id[:80]}': give one of this list.", "after")
    return number


def _item_json(item_id: str, role: str, *texts: str) -> dict[str, Any]:
    kind = _part_type(role)
    # Parts written by a model have these two, empty or not.
    more: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
    return {
        "id": item_id,
        "type": "message",
        "role": role,
        "status": "completed",
        "content": [{"type": kind, "text": text, **more} for text in texts],
    }
