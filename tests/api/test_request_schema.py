"""Request bodies of all kinds against the API's own description."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses.response_create_params import BackgroundOptions
from PIL import Image
from pydantic import TypeAdapter

from bgmagic.api.words import (
    EFFORTS,
    INCLUDABLE,
    MODES,
    SUMMARIES,
    TIERS,
    TOOLS,
    VERBOSITIES,
    WINDOWS,
)
from bgmagic.errors import BadInput
from bgmagic.submission.options import options
from bgmagic.submission.settings import SubmitSettings
from tests.api.test_citations import cited
from tests.api.test_request import CREATE, SCHEMA, texts
from tests.api.test_structured_output import Node, Point, Proof
from tests.conftest import asked

# What each option may hold that gets into a body; None where it stays out of it.
KINDS: dict[str, list[Any]] = {
    "model": ["gpt-5.2"],
    "effort": [None, *EFFORTS],
    "verbosity": [None, *VERBOSITIES],
    "summary": [None, *SUMMARIES],
    "mode": [None, *MODES],
    "max_tool_calls": [None, 1],
    "include": [(), INCLUDABLE],
    "metadata": [(), (("run", "pilot"), ("part", "3"))],
    "cache_key": [None, "study"],
    "instructions": [None, "Be strict."],
    "max_output_tokens": [None, 16, 10**6],
    "messages": [
        None,
        [
            {"role": "user", "content": [{"type": "input_text", "text": "1+1?"}]},
            # Short forms of it, {"role", "content": [{"type": "output_text", "text"}]}, are taken
            # by the API too, but its description has none of them.
            {
                "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                "content": [
                    {"type": "output_text", "text": "2", "annotations": [], "logprobs": []}
                ],
            },
        ],
        [{"role": "developer", "content": "Count."}, {"type": "item_reference", "id": "msg_1"}],
    ],
    "file": [
        (),
        (b"%PDF-1.7\n", b"text", Image.new("RGB", (2, 2))),
        ("https://example.org/a.png", "https://example.org/a.pdf"),
    ],
    "tool": [
        (),
        TOOLS,
        ({"type": "file_search", "vector_store_ids": ["vs_1"]},),
        (
            {
                "type": "mcp", "server_label": "docs", "server_url": "https://a.org/mcp",
                "require_approval": "never",
            },
        ),
    ],
    "schema": [
        None,
        Proof,
        Node,
        Point,
        {"type": "object", "properties": {"a": {"type": "integer"}}},
        {"type": "json_schema", "name": "x", "strict": False, "schema": {"type": "object"}},
    ],
    "param": [
        (),
        (("reasoning.context", "auto"), ("safety_identifier", "a"), ("tool_choice", "auto")),
    ],
    "window": [None, *WINDOWS],
    "tier": [None, *TIERS],
    "stream": [False, True],
}  # fmt: skip
# What says where and when a job runs and how it is shown, and is in no body; a conversation that goes
# on puts its turns there as --messages does.
ELSEWHERE = {
    "out", "continue_", "no_previous", "ask", "max_rounds", "batch", "poll", "deadline", "again", "reuse", "raw", "dry_run", "wait", "notify", "quiet",
    "each", "n", "sweep", "max_in_flight", "yes", "create_timeout", "over_budget",
}  # fmt: skip


def test_every_option_is_here() -> None:
    """Each option is either tried in the bodies below or known to be in none."""
    assert {option.name for option in options(SubmitSettings)} == KINDS.keys() | ELSEWHERE


@given(
    texts, st.fixed_dictionaries({name: st.sampled_from(kinds) for name, kinds in KINDS.items()})
)
def test_bodies_of_all_kinds(text: str, chosen: dict[str, Any]) -> None:
    """Whatever options come together, the body fits the API's description; what the API refuses
    together is refused before."""
    discounted = chosen["window"] in ("2h", "8h")
    if discounted and (chosen["stream"] or chosen["tier"] in ("flex", "priority")):
        with pytest.raises(BadInput, match=f"--window {chosen['window']}"):
            asked(text, SubmitSettings(**chosen))
        return
    body = asked(text, SubmitSettings(**chosen)).body
    options = body.pop("background_options", None)  # not in the description of 2026-03
    assert (options or {}).get("completion_window") == chosen["window"]
    if options is not None:
        # As the SDK's own types have it.
        TypeAdapter(BackgroundOptions).validate_python(options, strict=True)
        assert options.keys() == BackgroundOptions.__annotations__.keys()
    CREATE.validate(body)
    assert body["background"] is True
    assert "store" not in body
    assert body["input"][-1]["content"][0] == {"type": "input_text", "text": text}


PAIRS = [
    (one, two, first, second)
    for one, two in itertools.combinations(["messages", "file", "tool", "schema"], 2)
    for first in KINDS[one][1:]
    for second in KINDS[two][1:]
]


@pytest.mark.parametrize(("one", "two", "first", "second"), PAIRS)
def test_each_kind_beside_each_other(one: str, two: str, first: Any, second: Any) -> None:
    """Every kind of input, tool and format fits beside every kind of another."""
    CREATE.validate(asked("Why?", SubmitSettings(**{one: first, two: second})).body)


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (["input", -1, "content", 1], {"type": "input_file", "file_data": 5}),
        (["input", -1, "content", 1], {"type": "input_image", "image_url": "x", "detail": "fine"}),
        (["tools", 0], {"type": "code_interpreter"}),
        (["text", "format"], {"type": "json_schema", "schema": {}}),
    ],
)
def test_the_description_rejects_what_is_wrong(place: list[Any], wrong: dict[str, Any]) -> None:
    """The description that these tests check against does reject a wrong part of each kind."""
    settings = SubmitSettings(file=(b"text",), tool=("web_search",), schema=Point)
    body: Any = asked("Why?", settings).body
    CREATE.validate(body)
    inside = body
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = wrong
    assert list(CREATE.iter_errors(body))


def test_citations_of_the_tests_are_the_apis() -> None:
    """The annotations that the tests of citations make are as the API describes them."""
    import jsonschema

    from tests.api.test_citations import FILE, MADE, PATH, page

    check = jsonschema.Draft202012Validator(
        {"$ref": "#/$defs/Annotation", "$defs": SCHEMA["$defs"]}
    )
    for found in cited(("x", [page("A", "https://a.org"), FILE, MADE, PATH]))["output"][1][
        "content"
    ]:
        for annotation in found["annotations"]:
            check.validate(annotation)
