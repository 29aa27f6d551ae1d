"""What of a response can be sent again as the input of a later request.

The API's description has the items that an input may have (`InputItem`). A server that does not
keep a response has not its items either: nothing is sent by an id that only it could look up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bgmagic.api.request import Previous
from bgmagic.api.response import objects_in, output_messages, text_in

# What the server's own tools did: complete in itself, so that it may be sent again. Calls that the
# client has to answer are not: without their output they are refused.
_SERVER_CALLS = frozenset(
    {
        "code_interpreter_call", "compaction", "file_search_call", "image_generation_call",
        "mcp_call", "mcp_list_tools", "program", "program_output", "web_search_call",
    }
)  # fmt: skip

# Calls that a response leaves to the client, but for those of which it has the output as well: the
# shell may run at the server, and so may the search for tools.
_CLIENT_CALLS = frozenset(
    {
        "apply_patch_call", "computer_call", "custom_tool_call", "function_call",
        "local_shell_call", "mcp_approval_request", "shell_call", "tool_search_call",
    }
)  # fmt: skip

_OUTPUT = "_output"  # ends the type of an item that answers a call

# How ids of LiteLLM's polling begin: by one a response can be read, and no more. A turn sent by it
# is taken, and the model never sees what came before.
_POLLING_IDS = "litellm_poll_"


def assistant_turn(text: str, phase: str = "") -> dict[str, Any]:
    """The turn of the assistant that said ``text``, as the input of a request has it.

    With its type and plain text: a form that the API's description has (EasyInputMessage), and that
    all servers took that were tried. vLLM and llama.cpp refuse ``output_text`` parts that have no
    id and no status beside them.
    """
    extra = {"phase": phase} if phase else {}
    return {"type": "message", "role": "assistant", **extra, "content": text}


class Turns(list[dict[str, Any]]):
    """The turns of a conversation, as the API takes them.

    Attributes:
        previous_response_id: the response that the server went on from, so that it had its own
            reasoning too; None where the turns were sent whole.
    """

    previous_response_id: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)  # a pickle names no file that may move


def conversation_of(asked: Mapping[str, Any], text: str, response: Mapping[str, Any]) -> Turns:
    """The turns of a request with this body, and of ``response`` with its answer ``text``."""
    turns = [dict(turn) for turn in objects_in(asked.get("input"))]
    made = Turns([*turns, *replayed_items(text, response)])
    made.previous_response_id = text_in(response.get("previous_response_id")) or None
    return made


def replayed_items(text: str, response: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The items of ``response``, whose answer is ``text``, as the input of the next turn.

    Messages go as text with their phase, a form that all servers take; one message where the server
    told no phases. Reasoning goes with its encrypted content only, which a background response
    mostly lacks. A call of the server's own tools belongs to the reasoning before it: without that
    it is refused.
    """
    output = objects_in(response.get("output"))
    answered = answered_calls(output)
    reasoning = [item for item in output if item.get("type") == "reasoning"]
    hidden = any(not text_in(item.get("encrypted_content")) for item in reasoning)
    said = output_messages(response)
    phased = any(phase for phase, _ in said)
    if not phased:
        said = [("", text)] if text else []
    turns = iter(said)
    found: list[dict[str, Any]] = []
    for item in output:
        kind = text_in(item.get("type"))
        if kind == "message":
            found += [assistant_turn(part, phase) for phase, part in _next(turns)]
        elif not hidden and (
            kind == "reasoning" or kind in _SERVER_CALLS or pair_of(item) in answered
        ):
            # Who made it is told, and not taken.
            found.append({key: value for key, value in item.items() if key != "created_by"})
    return found + [assistant_turn(part, phase) for phase, part in turns]


def _next(turns: Any) -> list[tuple[str, str]]:
    return [turn for turn in [next(turns, None)] if turn is not None]


def leaves_calls(response: Mapping[str, Any]) -> bool:
    """Whether the response waits for the client to answer a call."""
    output = objects_in(response.get("output"))
    answered = answered_calls(output)
    calls = [item for item in output if text_in(item.get("type")) in _CLIENT_CALLS]
    return any(pair_of(item) not in answered for item in calls)


def pair_of(item: Mapping[str, Any]) -> tuple[str, str]:
    """What a call and its output have in common: the kind of call, and its id; that of a search for
    tools at the server is null."""
    kind = text_in(item.get("type")).removesuffix(_OUTPUT).removesuffix("_call")
    return kind, text_in(item.get("call_id"))


def answered_calls(output: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """The calls among these items that would be the client's, and whose outputs are there too."""
    outputs = {pair_of(item) for item in output if text_in(item.get("type")).endswith(_OUTPUT)}
    calls = (item for item in output if text_in(item.get("type")) in _CLIENT_CALLS)
    return {pair_of(item) for item in calls} & outputs if outputs else outputs


def previous_of(response: Mapping[str, Any], items: int) -> Previous | None:
    """How a request goes on from ``response``, where that can be done by its id; else None.

    A server that knows the way says in each response what that goes on from, or null: one that does
    not might leave the earlier turns out in silence. LiteLLM's polling says null and does so too.

    Args:
        items: how many input items the conversation has up to this response.
    """
    response_id = text_in(response.get("id"))
    names_previous = "previous_response_id" in response and response.get("store") is not False
    usable = names_previous and bool(response_id) and not response_id.startswith(_POLLING_IDS)
    usable = usable and response.get("status") == "completed"
    return Previous(response_id, items) if usable and not leaves_calls(response) else None
