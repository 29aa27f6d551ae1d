"""The request body: exactly what the API describes, and nothing it forbids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.api.request import EFFORTS, FORBIDDEN, VERBOSITIES, build_request
from bgmagic.errors import BadInput
from bgmagic.prompts.conversation import request_messages, user_message

SCHEMA = json.loads((Path(__file__).parents[1] / "data" / "responses.schema.json").read_text())
CREATE = jsonschema.Draft202012Validator(
    {"$ref": "#/$defs/CreateResponse", "$defs": SCHEMA["$defs"]}
)

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


def body(**settings: Any) -> dict[str, Any]:
    return build_request([user_message("Why?")], **{"model": "gpt-5.2", **settings}).body


def test_least_body_is_exact() -> None:
    """With nothing but a prompt, the body has these five things and no more."""
    assert body() == {
        "model": "gpt-5.2",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Why?"}]}],
        "background": True,
        "text": {"format": {"type": "text"}},
    }


def test_schema_rejects_a_wrong_body() -> None:
    """The schema these tests check against does reject a wrong effort."""
    assert list(CREATE.iter_errors(body() | {"reasoning": {"effort": "hgh"}}))


@given(
    text=texts,
    effort=st.none() | st.sampled_from(EFFORTS),
    verbosity=st.none() | st.sampled_from(VERBOSITIES),
    instructions=st.none() | texts,
    tokens=st.none() | st.integers(16, 10**6),
    metadata=st.dictionaries(
        st.text("abc", min_size=1, max_size=9), st.text(max_size=20), max_size=3
    ),
)
def test_every_body_is_what_the_api_describes(
    text: str,
    effort: str | None,
    verbosity: str | None,
    instructions: str | None,
    tokens: int | None,
    metadata: dict[str, str],
) -> None:
    """Whatever is asked with whatever settings, the body fits the API's schema, runs in the background
    and never stores."""
    made = build_request(
        request_messages(text),
        model="gpt-5.2",
        effort=effort,
        verbosity=verbosity,
        instructions=instructions,
        max_output_tokens=tokens,
        params=[("metadata", metadata), ("reasoning.summary", "auto")],
    ).body
    CREATE.validate(made)
    assert made["background"] is True
    assert "store" not in made
    assert "stream" not in made
    assert made["input"][-1]["content"][0]["text"] == text
    assert made["text"]["format"] == {"type": "text"}


@pytest.mark.parametrize("field", sorted(FORBIDDEN))
@pytest.mark.parametrize("tail", ["", ".x"])
def test_forbidden_fields_are_refused(field: str, tail: str) -> None:
    """What is not the user's to set is refused by name, also below it."""
    with pytest.raises(BadInput, match=rf"--param {field} can't be set"):
        body(params=[(field + tail, True)])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"effort": "low", "params": [("reasoning.effort", "high")]},
            "reasoning.effort is already",
        ),
        ({"effort": "low", "params": [("reasoning", {})]}, "reasoning.effort is already set"),
        ({"params": [("a.b", 1), ("a", 2)]}, "a.b is already set"),
        ({"params": [("a", 1), ("a.b", 2)]}, "a is already set"),
        ({"params": [("model.x", 1)]}, "model is not an object"),
        ({"params": [("a..b", 1)]}, "write KEY=VALUE"),
        ({"params": [("a", float("nan"))]}, "can't be written as JSON"),
        ({"params": [("a", object())]}, "can't be written as JSON"),
        ({"instructions": "half a pair \ud83d"}, r"U\+D83D"),
    ],
)
def test_bad_parameters_are_one_line(settings: dict[str, Any], told: str) -> None:
    """Fields set twice, values that JSON can't hold and half characters are each told in one line."""
    with pytest.raises(BadInput, match=told) as caught:
        body(**settings)
    assert "\n" not in str(caught.value)


def test_params_reach_nested_fields() -> None:
    """A dotted parameter is set beside what is there already."""
    made = body(effort="low", params=[("reasoning.summary", "auto"), ("model", "o9")])
    assert made["reasoning"] == {"effort": "low", "summary": "auto"}
    assert made["model"] == "o9"


def test_request_is_frozen() -> None:
    """Changing a body that was read changes nothing of the request."""
    request = build_request([user_message("Why?")], model="gpt-5.2")
    request.body["input"].clear()
    assert request.body["input"]


def test_earlier_turns_come_first_and_unchanged() -> None:
    """--messages go before the cell, which is the last user turn."""
    earlier = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "2"}]},
        {"type": "item_reference", "id": "msg_1"},
    ]
    assert request_messages("And 2+2?", earlier) == [*earlier, user_message("And 2+2?")]


@pytest.mark.parametrize(
    ("earlier", "told"),
    [
        ("hi", "must be a list like"),
        ({"role": "user"}, "must be a list like"),
        (["hi"], "item 0 is a str"),
        ([{"role": "me", "content": "x"}], "role 'me'; allowed are user, assistant"),
        ([{"role": "user"}], "item 0 has no content"),
        ([{"role": "user", "content": ["x"]}], "content part needs a type"),
    ],
)
def test_bad_earlier_turns_are_one_line(earlier: Any, told: str) -> None:
    """Earlier turns of another shape are told with the place and the shape."""
    with pytest.raises(BadInput, match=told):
        request_messages("x", earlier)


def test_empty_cell_is_refused() -> None:
    """A cell without a prompt is refused."""
    with pytest.raises(BadInput, match="the cell is empty"):
        request_messages(" \n ")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"window": "2h", "stream": True}, "--window 2h can't be streamed: leave out --stream or"),
        ({"window": "8h", "tier": "flex"}, "standard tier only: leave out --tier flex or --window"),
        ({"window": "2h", "params": [("service_tier", "priority")]}, "standard tier only"),
        (
            {"tier": "flex", "params": [("background_options.completion_window", "2h")]},
            "--window 2h",
        ),
        ({"tier": "flex", "params": [("service_tier", "default")]}, "service_tier is already set"),
        ({"window": "2h", "params": [("background_options", {})]}, "is already set; give it once"),
    ],
)
def test_windows_exclude_streams_and_other_tiers(settings: dict[str, Any], told: str) -> None:
    """What the API would refuse together is one line before anything is sent, however it was given."""
    with pytest.raises(BadInput, match=told) as caught:
        body(**settings)
    assert "\n" not in str(caught.value)


def test_windows_and_tiers_in_the_body() -> None:
    """A window and a tier arrive as the API takes them; "soonest" goes with a stream and with flex."""
    assert body(tier="flex")["service_tier"] == "flex"
    made = body(window="soonest", tier="flex", stream=True)
    assert made["background_options"]["completion_window"] == "soonest"
    assert body(window="8h", tier="default")["service_tier"] == "default"


def test_a_conversation_in_a_window_has_one_id() -> None:
    """All that begin with the same message share their continuation id, others don't, the user's own
    goes before, and without a window there is none."""

    def sent(*texts: str, **settings: Any) -> Any:
        turns = [user_message(text) for text in texts]
        made = build_request(turns, **{"model": "gpt-5.2", "window": "2h", **settings}).body
        return made.get("background_options", {}).get("continuation_id")

    assert sent("Why?") == sent("Why?", "And then?") == sent("Why?", window="8h")
    assert (
        len({sent("Why?"), sent("What?"), sent("Why?", continuation_id="of an earlier turn")}) == 3
    )
    mine = [("background_options.continuation_id", "mine")]
    assert sent("Why?", params=mine) == "mine"
    assert sent("Why?", window=None) is None
    only = [("background_options.completion_window", "8h")]
    assert sent("Why?", window=None, params=only) == sent("Why?")
