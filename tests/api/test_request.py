"""The request body: exactly what the API describes, and nothing it forbids."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.api.request import Request
from bgmagic.api.request_body import FORBIDDEN, RequestTemplate, build_request
from bgmagic.api.server import ServerConfig
from bgmagic.api.words import EFFORTS, VERBOSITIES
from bgmagic.errors import BadInput
from bgmagic.prompts.conversation import request_messages, user_message
from bgmagic.text import TextSharer

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
        (
            {"summary": "auto", "params": [("reasoning.summary", "concise")]},
            "summary is already set",
        ),
        ({"mode": "pro", "params": [("reasoning", {})]}, "reasoning.mode is already set"),
        ({"max_tool_calls": 2, "params": [("max_tool_calls", 3)]}, "max_tool_calls is already set"),
        ({"include": ["a"], "params": [("include", ["b"])]}, "include is already set"),
        ({"metadata": {"a": "b"}, "params": [("metadata.a", "c")]}, "metadata.a is already set"),
        ({"metadata": {"a": "b"}, "params": [("metadata", {})]}, "metadata.a is already set"),
        ({"cache_key": "a", "params": [("prompt_cache_key", "b")]}, "cache_key is already set"),
        ({"params": [("a.b", 1), ("a", 2)]}, "a.b is already set"),
        ({"params": [("a", 1), ("a.b", 2)]}, "a is already set"),
        ({"params": [("model.x", 1)]}, "model is not an object"),
        ({"params": [("a..b", 1)]}, "write KEY=VALUE"),
        ({"params": [("a", float("nan"))]}, "--param a: JSON has no nan"),
        ({"params": [("a", {"b": [object()]})]}, r"--param a\.b\[0\]: JSON can't hold an object"),
        ({"params": [("a", {(1,): 2})]}, "--param a: a tuple can't be a key in JSON"),
        ({"instructions": "half a pair \ud83d"}, r"U\+D83D"),
    ],
)
def test_bad_parameters_are_one_line(settings: dict[str, Any], told: str) -> None:
    """Fields set twice, values that JSON can't hold and half characters are each told in one line."""
    with pytest.raises(BadInput, match=told) as caught:
        body(**settings)
    assert "\n" not in str(caught.value)


def test_settings_of_long_work_have_their_fields() -> None:
    """Each stands where the API has it, beside what --param sets there; what is not given is left out."""
    made = body(
        effort="low", summary="auto", mode="pro", max_tool_calls=3, include=["a", "b", "a"],
        metadata={"run": "pilot"}, cache_key="study",
        params=[("reasoning.context", "auto"), ("metadata.part", 3)],
    )  # fmt: skip
    told = {"effort": "low", "summary": "auto", "mode": "pro", "context": "auto"}
    assert made["reasoning"] == told
    assert (made["max_tool_calls"], made["include"]) == (3, ["a", "b"])
    assert made["metadata"] == {"run": "pilot", "part": "3"}
    assert made["prompt_cache_key"] == "study"
    plain = body()
    assert not plain.keys() & {"reasoning", "include", "metadata", "max_tool_calls"}


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


def test_a_request_is_copied_and_pickled() -> None:
    """`job.request` can be taken elsewhere."""
    functions = {"look": {"type": "function", "name": "look"}}
    for request in (Request('{"model": "a"}'), Request('{"model": "a"}', functions=functions)):
        for copied in (copy.deepcopy(request), pickle.loads(pickle.dumps(request))):
            assert copied == request
            assert copied.fingerprint("server") == request.fingerprint("server")
            assert dict(copied.functions) == dict(request.functions)


def test_earlier_turns_come_first_and_unchanged() -> None:
    """--messages go before the cell, which is the last user turn, as they were given."""
    whole = {"type": "message", "id": "msg_1", "status": "completed"}
    earlier = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {**whole, "role": "assistant", "content": [{"type": "output_text", "text": "2"}]},
        {"type": "item_reference", "id": "msg_1"},
    ]
    assert request_messages("And 2+2?", earlier) == [*earlier, user_message("And 2+2?")]


PART = {"type": "output_text", "text": "Two"}
REFUSAL = {"type": "refusal", "refusal": "No."}


@pytest.mark.parametrize(
    ("given", "content"),
    [
        ({}, "Two, or 2."),
        ({"type": "message"}, "Two, or 2."),
        ({"phase": "final_answer"}, "Two, or 2."),
        ({"content": [PART, REFUSAL]}, [PART, REFUSAL]),
    ],
)
def test_short_turns_of_the_assistant(given: dict[str, Any], content: object) -> None:
    """An assistant's turn of `output_text` parts alone is sent as its text, with its type and phase, which all servers take and the API's description has; the user's own list stays as it is."""
    parts = [PART, {"type": "output_text", "text": ", or 2."}]
    turn = {"role": "assistant", "content": parts, **given}
    kept = json.dumps(turn)
    sent, _ = request_messages("Why?", [turn])
    assert sent == {**turn, "type": "message", "content": content}
    assert json.dumps(turn) == kept
    if isinstance(content, str):
        CREATE.validate(build_request([sent], model="gpt-5.2").body)


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


SECRET = "sk-0123456789abcdefghij"
SERVER = ServerConfig(base_url="https://host/v1", api_key=SECRET)
KEYS = st.text(max_size=3) | st.integers(-20, 20) | st.booleans() | st.none()
TEXTS = st.text(st.characters(codec="utf-8"), max_size=5) | st.just(f"my {SECRET}")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "model",
                "input",
                "text",
                "reasoning",
                "stream",
                "tools",
                "service_tier",
                "background_options",
                "max_output_tokens",
                "x",
            ]
        ),
        VALUES,
    ),
    TEXTS,
)
def test_a_request_is_the_same_made_or_read_back(body: dict[str, Any], partial: str) -> None:
    """What is worked out as a request is made is what its text gives: a job is known again after a
    restart, whatever odd keys, tuples and numbers were in its parameters."""
    made = Request.of(body, server=SERVER, partial=partial)
    read = Request(made.text)
    assert made.fingerprint(SERVER.name, partial) == read.fingerprint(SERVER.name, partial)
    assert made.holds_secret(SERVER.secrets) == read.holds_secret(SERVER.secrets)
    heads = [
        (one.model, one.effort, one.text_format, one.streams, one.window, one.tier, one.max_output_tokens)
        for one in (made, read)
    ]  # fmt: skip
    assert heads[0] == heads[1]
    assert made == read


@given(texts | st.just(f"my {SECRET}"), st.sampled_from([{}, {"user": SECRET}]))
def test_a_request_of_a_template_is_the_one_of_its_body(text: str, others: dict[str, Any]) -> None:
    """Requests of a sweep, of which only the prompt's text is put in, are those that each would be
    by itself: the same text, fingerprint, head, and whether a secret has to be taken out."""

    def asked(prompt: str) -> Request:
        settings = {"model": "m", "effort": "low", "params": tuple(others.items())}
        messages = [user_message("Before."), user_message(prompt, [{"type": "input_file"}])]
        return build_request(messages, **settings, stream=True, server=SERVER)

    filled, whole = RequestTemplate(asked("@here@"), "@here@", SERVER).filled(text), asked(text)
    assert filled.text == whole.text
    assert filled.fingerprint(SERVER.name) == whole.fingerprint(SERVER.name)
    assert filled.fingerprint(SERVER.name) == Request(whole.text).fingerprint(SERVER.name)
    assert filled.holds_secret(SERVER.secrets) == whole.holds_secret(SERVER.secrets)
    assert (filled.model, filled.effort, filled.streams) == ("m", "low", True)


def test_fingerprints_stay_what_they_were() -> None:
    """Journals hold fingerprints: one that changed would have a running cell sent twice."""
    body = {"model": "m", "input": [], "background": True, "stream": True}
    request = Request.of(body, server=SERVER)
    assert request.fingerprint(SERVER.name) == "c4f7b9f8baf1126cb95e19dec965bf16"
    of_batch = Request.of({"model": "m", "input": []}, server=SERVER)
    assert of_batch.fingerprint(SERVER.name) == "c4f7b9f8baf1126cb95e19dec965bf16"


def test_made_request_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What sending a request needs is there without parsing its text, which may hold large files."""
    made = build_request([user_message("Why?")], model="m", stream=True, server=SERVER)
    monkeypatch.setattr(Request, "body", property(lambda _: pytest.fail("it was parsed")))
    assert (made.model, made.effort, made.streams, made.text_format) == ("m", None, True, None)
    assert made.fingerprint(SERVER.name)
    assert not made.holds_secret(SERVER.secrets)


def test_later_changes_of_a_schema_change_no_request() -> None:
    """The user's own dicts are not the request's: what is checked is what was asked."""
    schema: dict[str, Any] = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    made = build_request([], model="m", text_format=schema)
    schema["schema"]["type"] = "array"
    assert made.text_format is not None
    assert made.text_format["schema"] == {"type": "object"}


def test_deep_nesting_is_told_in_one_line() -> None:
    """A parameter that is nested too deep for JSON is one line, not a traceback."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(BadInput):
        build_request([], model="m", params=[("x", deep)], server=SERVER)


def test_fields_that_are_text_go_as_text() -> None:
    """Numbers where the API takes text alone go as their digits, and one include as a list of one."""
    sent = body(
        params=[
            ("metadata", {"run": 3, "dose": 0.5, "blind": True, "site": "A"}),
            ("user", 42),
            ("safety_identifier", 7),
            ("include", "message.output_text.logprobs"),
        ]
    )
    assert sent["metadata"] == {"run": "3", "dose": "0.5", "blind": "true", "site": "A"}
    assert (sent["user"], sent["safety_identifier"]) == ("42", "7")
    assert sent["include"] == ["message.output_text.logprobs"]
    CREATE.validate(sent)
    assert body(params=[("metadata.run", 3), ("top_logprobs", 3)])["top_logprobs"] == 3


@pytest.mark.parametrize("value", [None, [1], {"a": 1}])
def test_metadata_that_is_no_text_is_refused(value: Any) -> None:
    """What metadata can't hold is told by its key before anything is sent."""
    with pytest.raises(BadInput, match=r"--param metadata\.run: it holds a .*; metadata is text"):
        body(params=[("metadata.run", value)])


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


@given(st.lists(st.text("ab€é", max_size=30), min_size=1, max_size=8))
def test_texts_that_share_their_ends_stay_what_they_are(texts: list[str]) -> None:
    """Whatever texts share, each is given back as it was, and says its length."""
    sharer = TextSharer()
    shared = [sharer.share(text) for text in texts]
    assert [str(one) for one in shared] == texts
    assert [len(one) for one in shared] == list(map(len, texts))


def test_requests_of_a_sweep_keep_once_what_they_share() -> None:
    """Thousands of requests with the same large instructions take the room of their own prompts."""
    asked = [
        build_request(
            [{"role": "user", "content": f"Say {n}"}], model="m", instructions="Be brief. " * 9000
        )
        for n in range(20)
    ]
    assert [json.loads(one.text)["input"][0]["content"] for one in asked] == [
        f"Say {n}" for n in range(20)
    ]
    kept = {id(part): len(part) for one in asked for part in one.shared_text.parts}
    assert sum(kept.values()) < 3 * asked[0].size
