"""What of a response goes into the next request's input."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from bgmagic.api.replay import previous_of, replayed_items
from bgmagic.api.request_body import build_request
from tests.api.test_request import CREATE
from tests.jobs.test_answer import hostile

HIDDEN = {"type": "reasoning", "id": "rs_1", "summary": []}
OPEN = HIDDEN | {"encrypted_content": "gAAA"}
SEARCH = {
    "type": "web_search_call", "id": "ws_1", "status": "completed",
    "action": {"type": "search", "query": "x", "queries": ["x"]},
}  # fmt: skip
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
SHELL = {
    "type": "shell_call", "id": "sh_1", "call_id": "call_2", "status": "completed",
    "action": {"commands": ["ls"], "timeout_ms": None, "max_output_length": None},
}  # fmt: skip
LISTED = {
    "type": "shell_call_output", "id": "sho_1", "call_id": "call_2", "status": "completed",
    "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
}  # fmt: skip
FOUND = {"type": "tool_search_call", "call_id": None, "execution": "server", "arguments": {}}
TOOLS = {"type": "tool_search_output", "call_id": None, "execution": "server", "tools": []}
COMPACT = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA"}
TEXT = {"type": "message", "role": "assistant", "content": "yes"}


def message(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text}], **more}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ([HIDDEN, message("yes")], [TEXT]),
        ([OPEN, message("yes")], [OPEN, TEXT]),
        ([HIDDEN, SEARCH, message("yes")], [TEXT]),
        ([OPEN, SEARCH, message("yes")], [OPEN, SEARCH, TEXT]),
        ([SEARCH, message("yes")], [SEARCH, TEXT]),
        ([OPEN, HIDDEN, SEARCH, message("yes")], [TEXT]),
        ([CALL, message("yes")], [TEXT]),
        ([COMPACT, OPEN, message("yes")], [COMPACT, OPEN, TEXT]),
        ([SHELL, LISTED | {"created_by": "x"}, message("yes")], [SHELL, LISTED, TEXT]),
        ([FOUND, TOOLS, message("yes")], [FOUND, TOOLS, TEXT]),
        ([SHELL, message("yes")], [TEXT]),
        ([SHELL, LISTED | {"call_id": "other"}, message("yes")], [TEXT]),
        ([{"type": "something_new"}, message("y"), message("es")], [TEXT]),
        (
            [message("so", phase="commentary"), SEARCH, message("yes", phase="final_answer")],
            [
                {**TEXT, "phase": "commentary", "content": "so"},
                SEARCH,
                {**TEXT, "phase": "final_answer"},
            ],
        ),
        ([], [TEXT]),
    ],
)
def test_what_may_be_sent_again_is(output: list[Any], expected: list[Any]) -> None:
    """Messages, reasoning with its content and what belongs to it go out again in their order, in the
    API's form; what only the server could look up, and calls without their output, stay out."""
    items = replayed_items("yes", {"output": output})
    assert items == expected
    CREATE.validate(build_request(items, model="gpt-5.2").body)


def test_calls_that_the_server_answered_leave_a_way_on() -> None:
    """What goes on from a response by its id has no call left to the client; one that the response has
    the output of is none, as of a shell at the server."""
    done = {"id": "r", "status": "completed", "previous_response_id": None}
    ways = [previous_of(done | {"output": out}, 1) for out in ([SHELL, LISTED], [FOUND, TOOLS])]
    assert [way and way.response_id for way in ways] == ["r", "r"]
    left = [SHELL], [CALL], [FOUND | {"execution": "client"}], [SHELL, LISTED | {"call_id": "x"}]
    assert not any(previous_of(done | {"output": out}, 1) for out in left)


@given(hostile)
def test_any_response_can_be_replayed(whole: dict[str, Any]) -> None:
    """Whatever JSON object a server calls a response, its items and its way on are read off it."""
    whole = {**whole, "id": "resp_1", "previous_response_id": None, "status": "completed"}
    assert isinstance(replayed_items("x", whole), list)
    assert replayed_items("x", {"output": [{"type": ["odd"]}]}) == [{**TEXT, "content": "x"}]
    previous_of(whole, 1)
