"""Request bodies: JSON becomes `CreateParams`, or a `BadRequest` that names the wrong field.

Errors have the API's own wording and codes, so that a notebook that works here works there. What
this server can't do (calling tools, images, stored prompts) is refused, not ignored. Fields that
only set a hosted model's effort, cache or bookkeeping are validated and echoed, and change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from bgmagic.local.conversations import ROLES, Item, Prompt, pack_items, part_type
from bgmagic.local.validation import (
    BadRequest,
    ScriptedCall,
    choice,
    invalid_type,
    number,
    only,
    read_background_options,
    refuse,
    served_tier,
    text,
    typed,
    unknown,
    whole,
    without_calls,
)

# The values and limits are those of the API's OpenAPI description.
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
SUMMARIES = ("auto", "concise", "detailed")
REASONING_CONTEXTS = ("auto", "current_turn", "all_turns")
VERBOSITIES = ("low", "medium", "high")
TIERS = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
TRUNCATIONS = ("auto", "disabled")
INCLUDES = (
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url",
    "code_interpreter_call.outputs", "reasoning.encrypted_content", "message.output_text.logprobs",
)  # fmt: skip
MIN_OUTPUT_TOKENS = 16
MAX_INTEGER = 2**31 - 1
METADATA_PAIRS, METADATA_KEY, METADATA_VALUE = 16, 64, 512
IDENTIFIER = 64
# Items that one call may add to a conversation.
MAX_NEW_ITEMS = 20

# The fields of a create, and of a count of its tokens.
PROMPT_FIELDS = {"conversation", "input", "instructions", "model", "previous_response_id"}
PROMPT_FIELDS |= {"parallel_tool_calls", "reasoning", "text", "tool_choice", "tools", "truncation"}
CREATE_FIELDS = PROMPT_FIELDS | {"background", "max_output_tokens", "max_tool_calls", "metadata"}
CREATE_FIELDS |= {"prompt_cache_key", "safety_identifier", "service_tier", "stream", "user"}
CREATE_FIELDS |= {"temperature", "top_logprobs", "top_p", "background_options"}
COUNT_FIELDS = PROMPT_FIELDS | {"personality"}
# Fields whose effect nobody would miss here: there is no cache, no tool and no compaction. The SDK
# (3.57) knows three that the description lacks: access_programs, image and background_options.
IGNORED_OBJECTS = {"access_programs", "image", "moderation"}
IGNORED_OBJECTS |= {"prompt_cache_options", "stream_options"}
IGNORED_FIELDS = IGNORED_OBJECTS | {"context_management", "include", "prompt_cache_retention"}
REFUSED_FIELDS = {
    "prompt": "'prompt' is not supported: this local server stores no prompts.",
    "store": "'store' can't be given with background mode: leave it out.",
}


@dataclass(frozen=True)
class CreateParams:
    """One accepted create: what to generate, and the settings that its response repeats.

    Attributes:
        max_output_tokens: None for as many as the context holds.
        echo: the fields every state of the response carries unchanged.
        stream: whether its events can be streamed.
        schema: the JSON schema that the answer has to fit, or None for plain text.
        truncate: whether the oldest messages go where not all fit.
        window: how soon it is to be there, "soonest", "2h" or "8h".
        continuation_id: what related requests have in common, or None.
        calls: of functions, that it makes instead of answering: a script.
    """

    prompt: Prompt
    max_output_tokens: int | None
    temperature: float
    top_p: float
    echo: Mapping[str, Any]
    stream: bool = False
    schema: Mapping[str, Any] | None = None
    truncate: bool = False
    window: str = "soonest"
    continuation_id: str | None = None
    calls: tuple[ScriptedCall, ...] = ()


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


def read_create(
    body: Mapping[str, Any], model: str, calls: tuple[ScriptedCall, ...] | None = None
) -> CreateParams:
    """The params of a create for the named model.

    Args:
        calls: of functions, that a response makes whose body has tools and no outputs yet; None
            refuses tools.

    Raises:
        BadRequest: names the field that is wrong.
    """
    answered = False
    if calls is not None:
        body, answered = without_calls(dict(body))
    given = _given(body, CREATE_FIELDS)
    _check_mode(given)
    _check_model(given, model)
    _check_ignored(given)
    prompt = _prompt(given)
    settings = _settings(given, scripted=calls is not None)
    scripted = calls if calls and settings["tools"] and not answered else ()
    window, continuation_id = read_background_options(given)
    return CreateParams(
        prompt=prompt,
        max_output_tokens=settings["max_output_tokens"],
        temperature=settings["temperature"],
        top_p=settings["top_p"],
        stream=typed(given, "stream", bool, False),
        schema=settings["text"]["format"].get("schema"),
        truncate=settings["truncation"] == "auto",
        window=window,
        continuation_id=continuation_id,
        calls=scripted,
        echo={
            "model": model,
            "instructions": prompt.instructions,
            "previous_response_id": prompt.previous_response_id,
            "conversation": {"id": prompt.conversation} if prompt.conversation else None,
            **settings,
        },
    )


def read_count(body: Mapping[str, Any], model: str) -> Prompt:
    """The prompt whose tokens are to be counted for the named model.

    Raises:
        BadRequest: names the field that is wrong.
    """
    given = _given(body, COUNT_FIELDS)
    if "model" in given:
        _check_model(given, model)
    text(given, "personality")
    _text(given), _reasoning(given), _tools(given)
    choice(given, "truncation", TRUNCATIONS, "disabled")
    typed(given, "parallel_tool_calls", bool, True)
    return _prompt(given)


def read_conversation(body: Mapping[str, Any]) -> tuple[dict[str, str] | None, bytes]:
    """The metadata, if there are any, and the items that a conversation is made of or given."""
    given = _given(body, {"items", "metadata"})
    metadata = read_metadata(given) if "metadata" in given else None
    items = typed(given, "items", list, [])
    if len(items) > MAX_NEW_ITEMS:
        refuse(f"Invalid 'items': at most {MAX_NEW_ITEMS} at a time.", "items", "invalid_value")
    return metadata, pack_items(_items(items, "items"))


def _given(body: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """The fields that are not null, all of them known."""
    given = {name: value for name, value in body.items() if value is not None}
    for name in given:
        if name in REFUSED_FIELDS and known is CREATE_FIELDS:
            refuse(REFUSED_FIELDS[name], name, "unsupported_parameter")
        if name not in known and not (known is CREATE_FIELDS and name in IGNORED_FIELDS):
            unknown(name)
    return given


def _prompt(given: Mapping[str, Any]) -> Prompt:
    previous = text(given, "previous_response_id")
    conversation = _conversation(given)
    if previous is not None and conversation is not None:
        refuse(
            "Mutually exclusive parameters: give either 'previous_response_id' or 'conversation'.",
            "previous_response_id",
            "mutually_exclusive_parameters",
        )
    goes_on = previous is not None or conversation is not None
    items = () if goes_on and "input" not in given else read_input(given)
    return Prompt(pack_items(items), text(given, "instructions"), previous, conversation)


def _conversation(given: Mapping[str, Any]) -> str | None:
    value = given.get("conversation")
    if isinstance(value, dict):
        only(value, "conversation", ("id",))
        value = value.get("id")
        if not isinstance(value, str):
            invalid_type("conversation.id", "a string", value)
    return text({"conversation": value}, "conversation")


def _settings(given: Mapping[str, Any], *, scripted: bool = False) -> dict[str, Any]:
    """The settings as the response repeats them, defaults included."""
    tool_choice, tools = _tools(given, scripted=scripted)
    settings = {
        "background": True,
        "frequency_penalty": 0.0,
        "max_output_tokens": _limit(given),
        "max_tool_calls": whole(given, "max_tool_calls", 0, MAX_INTEGER),
        "metadata": read_metadata(given),
        "parallel_tool_calls": typed(given, "parallel_tool_calls", bool, True),
        "presence_penalty": 0.0,
        "prompt_cache_key": text(given, "prompt_cache_key"),
        "reasoning": _reasoning(given),
        "safety_identifier": text(given, "safety_identifier", IDENTIFIER),
        "service_tier": served_tier(given),
        "store": True,
        "temperature": number(given, "temperature", 2, default=0.0),
        "text": _text(given),
        "tool_choice": tool_choice,
        "tools": tools,
        "top_logprobs": whole(given, "top_logprobs", 0, 0) or 0,
        "top_p": number(given, "top_p", 1, default=1.0),
        "truncation": choice(given, "truncation", TRUNCATIONS, "disabled"),
    }
    # The description has no null for this one.
    return settings | ({"user": text(given, "user")} if "user" in given else {})


def _check_ignored(given: Mapping[str, Any]) -> None:
    choice(given, "service_tier", TIERS, "auto")
    choice(given, "prompt_cache_retention", ("in_memory", "24h"), "in_memory")
    for name in sorted(IGNORED_OBJECTS):
        typed(given, name, dict, {})
    typed(given, "context_management", list, [])
    for number_, value in enumerate(typed(given, "include", list, [])):
        choice({f"include[{number_}]": value}, f"include[{number_}]", INCLUDES, None)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _check_mode(given: Mapping[str, Any]) -> None:
    if given.get("background") is not True:
        refuse(
            'This local server only does background mode: send "background": true.',
            "background",
            "unsupported_value",
        )


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


def read_metadata(given: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a body, {} without any."""
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


def _tools(given: Mapping[str, Any], *, scripted: bool = False) -> tuple[str, list[dict[str, Any]]]:
    """The tool choice and the tools, of which none is ever called but by a script."""
    tool_choice: str = choice(given, "tool_choice", ("auto", "none"), "auto")
    tools = typed(given, "tools", list, [])
    if tools and tool_choice != "none" and not scripted:
        refuse(
            "Tools are not supported with this local model: leave them out, or send"
            ' "tool_choice": "none".',
            "tools",
            "unsupported_parameter",
        )
    return tool_choice, [_tool(tool, f"tools[{n}]") for n, tool in enumerate(tools)]


def _tool(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        invalid_type(where, "an object", tool)
    choice(tool, "type", ("function",), None, where)
    name = typed(tool, "name", str, None, where)
    if name is None:
        path = f"{where}.name"
        refuse(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")
    return {
        "type": "function",
        "name": name,
        "description": typed(tool, "description", str, None, where),
        "parameters": typed(tool, "parameters", dict, None, where),
        "strict": typed(tool, "strict", bool, None, where),
    }


def _reasoning(given: Mapping[str, Any]) -> dict[str, Any]:
    settings = typed(given, "reasoning", dict, {})
    only(settings, "reasoning", ("context", "effort", "generate_summary", "mode", "summary"))
    mode = typed(settings, "mode", str, None, "reasoning")
    words = {
        "effort": EFFORTS, "summary": SUMMARIES, "context": REASONING_CONTEXTS,
        "generate_summary": SUMMARIES,
    }  # fmt: skip
    chosen = {
        name: choice(settings, name, allowed, None, "reasoning", needed=False)
        for name, allowed in words.items()
    }
    always = {name: chosen[name] for name in ("effort", "summary")}
    rest = {name: value for name, value in (chosen | {"mode": mode}).items() if value is not None}
    return always | rest


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
    description = typed(shape, "description", str, None, where)
    return {
        "type": "json_schema",
        "name": shape["name"],
        "schema": shape["schema"],
        "strict": typed(shape, "strict", bool, False, where),
        # Left out where there is none: the API's description has no null for it.
        **({"description": description} if description is not None else {}),
    }


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
    return _items(value, "input")


def _items(values: Sequence[Any], where: str) -> tuple[Item, ...]:
    return tuple(_item(value, f"{where}[{n}]") for n, value in enumerate(values))


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
    choice(part, "type", (part_type(role),), None, where)
    text = part.get("text")
    if not isinstance(text, str):
        invalid_type(f"{where}.text", "a string", text)
    return text
