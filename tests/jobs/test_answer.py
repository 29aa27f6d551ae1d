"""Answers, and reading output out of whatever a server calls a response."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.lib.pretty import pretty
from openai.types.responses import Response, ResponseUsage

from bgmagic.api.response import Output, read_output
from bgmagic.jobs.job import Answer

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["output", "content", "type", "text", "refusal", "role", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
part = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["output_text", "refusal", "other"]) | json_values,
        "text": json_values,
        "refusal": json_values,
    },
)
hostile = st.fixed_dictionaries(
    {
        "output": json_values
        | st.lists(st.fixed_dictionaries({"content": st.lists(part) | json_values}))
    }
)


@given(hostile | st.dictionaries(st.text(max_size=8), json_values))
def test_reading_is_total(response: dict[str, Any]) -> None:
    """Whatever JSON object comes, reading its output gives two texts and never raises."""
    output = read_output(response)
    assert isinstance(output.text, str)
    assert isinstance(output.refusal, str)


def test_text_parts_are_joined_and_others_left_out() -> None:
    """All output texts are joined as the SDK joins them; reasoning and tool items are not text."""
    response = {
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "message", "content": [{"type": "output_text", "text": "a"}]},
            {"type": "message", "content": [{"type": "output_text", "text": "b"}, {"type": "x"}]},
        ]
    }
    assert read_output(response) == Output("ab", "")


def made(text: str) -> Answer:
    usage = {"input_tokens": 1, "output_tokens": 2}
    return Answer(text, {"id": "resp_1", "model": "gpt-x", "usage": usage})


def test_answer_is_a_str_with_its_origin() -> None:
    """An answer is text for every purpose, and says where it came from."""
    answer = made("two words")
    assert answer == "two words"
    assert answer.split() == ["two", "words"]
    assert json.dumps([answer]) == '["two words"]'
    assert type(str(answer)) is str
    assert (answer.response_id, answer.model) == ("resp_1", "gpt-x")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (1, 2)
    assert answer.usage.to_dict() == {"input_tokens": 1, "output_tokens": 2}


@given(st.text())
def test_pickled_answer_keeps_its_origin(text: str) -> None:
    """An answer survives pickling with its text, id, model and usage."""
    copy = pickle.loads(pickle.dumps(made(text)))
    assert isinstance(copy, Answer)
    assert (copy, copy.response_id, copy.model, copy.usage) == (
        text,
        "resp_1",
        "gpt-x",
        made("").usage,
    )


def test_awaiting_an_answer_gives_it() -> None:
    """`await name` works after the answer has come."""
    answer = made("done")

    async def wait() -> Answer:
        return await answer

    assert asyncio.run(wait()) is answer


@given(st.text(st.sampled_from("<>&\"'a/script")))
def test_display_is_never_markup(text: str) -> None:
    """Nothing of an answer gets into the notebook's HTML as a tag."""
    bundle = made(text)._repr_mimebundle_()
    assert bundle["text/plain"] == text
    tags = set(re.findall(r"</?([^ >]*)", bundle["text/html"]))
    assert tags <= {"div", "p", "blockquote", "pre", "code", "span", "a", "ul", "li", "br"}


def test_marimo_gets_formulas_drawn() -> None:
    """marimo, whose pages typeset no HTML, is given formulas as MathML."""
    kind, html = made("so: $x^2$")._mime_()
    assert kind == "text/html"
    assert "<msup>" in html


def test_odd_origin_is_none() -> None:
    """Fields of the wrong type are not passed on."""
    answer = Answer("x", {"id": 7, "model": None, "usage": []})
    assert (answer.response_id, answer.model, answer.usage) == (None, None, None)


@given(st.text(st.sampled_from("a \n\t\x00\x07\x08\r\x1b[]\x7f\x9b\x9d")))
def test_a_terminal_gets_no_control_characters(text: str) -> None:
    """What a terminal shows of an answer has its control characters written out; the text keeps them."""
    from IPython.lib.pretty import pretty

    answer = made(text)
    for shown in (pretty(answer), answer._repr_mimebundle_()["text/plain"]):
        assert not set(shown) & set("\x00\x07\x08\r\x1b\x7f\x9b\x9d")
        assert shown.replace("\\x1b", "\x1b").count("\x1b") == text.count("\x1b")
        assert (shown.count("\n"), shown.count("\t")) == (text.count("\n"), text.count("\t"))
    assert answer == text


def message(text: str, phase: str | None = None, **fields: Any) -> dict[str, Any]:
    """A message of an output."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    told = {} if phase is None else {"phase": phase}
    base = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    return base | {"content": [part | fields]} | told


@pytest.mark.parametrize(
    ("messages", "text", "commentary"),
    [
        ([("commentary", "Checking."), ("final_answer", "3.")], "3.", "Checking."),
        ([("commentary", "a"), ("commentary", "b"), ("final_answer", "c")], "c", "a\n\nb"),
        ([("final_answer", "a"), ("final_answer", "b")], "ab", ""),
        ([("commentary", "a"), (None, "b")], "b", "a"),
        ([(None, "a"), ("final_answer", "b")], "b", "a"),
        ([("commentary", "a")], "", "a"),
        ([(None, "a"), (None, "b")], "ab", ""),
        ([("later", "a"), (None, "b")], "ab", ""),
    ],
)
def test_text_is_the_final_answer(
    messages: list[tuple[str | None, str]], text: str, commentary: str
) -> None:
    """The text is the final answer where there is one, else all that is not commentary."""
    output = [message(said, phase) for phase, said in messages]
    assert read_output({"output": output}) == Output(text, "", commentary)


def phased(**fields: Any) -> dict[str, Any]:
    output = [message("Let me *check*.", "commentary"), message("It is 3.", "final_answer")]
    return {"id": "resp_1", "model": "gpt-x", "output": output, "usage": None} | fields


def test_conversation_keeps_phases() -> None:
    """The next turn sends each message with its phase, and without one where the server told none."""
    asked = {"input": [{"role": "user", "content": "Slope?"}], "instructions": "Brief."}
    answer = Answer("It is 3.", phased(), None, asked)
    said = [
        {"type": "message", "role": "assistant", "phase": phase, "content": text}
        for phase, text in (("commentary", "Let me *check*."), ("final_answer", "It is 3."))
    ]
    assert answer.conversation == [*asked["input"], *said]
    copy = pickle.loads(pickle.dumps(answer))
    assert (copy.conversation, copy.instructions) == (answer.conversation, "Brief.")
    plain = Answer("ab", {"output": [message("a"), message("b")]})
    assert plain.conversation == [{"type": "message", "role": "assistant", "content": "ab"}]


def test_commentary_is_shown_folded() -> None:
    """Commentary stands folded before the answer, as Markdown, and is no part of its text."""
    answer = Answer("It is 3.", phased())
    assert (str(answer), answer.commentary) == ("It is 3.", "Let me *check*.")
    html = answer._repr_mimebundle_()["text/html"]
    folded, _, after = html.partition("</details>")
    assert "<summary>Commentary</summary>" in folded
    assert "Let me <em>check</em>." in folded
    assert "<p>It is 3.</p>" in after
    assert "<details" not in made("It is 3.")._repr_mimebundle_()["text/html"]


def test_summary_of_the_reasoning_is_shown_folded() -> None:
    """The model's summary of its reasoning stands folded above the answer, safe as all it writes;
    reasoning without one, and other parts, show nothing."""
    parts = [{"type": "summary_text", "text": told} for told in ("**Plan.** <b>x</b>", "Check.")]
    thought = {"type": "reasoning", "id": "rs_1", "summary": [*parts, {"type": "x", "text": "no"}]}
    answer = Answer("It is 3.", {"output": [thought, message("It is 3.")]})
    assert answer.summary == "**Plan.** <b>x</b>\n\nCheck."
    folded, _, after = answer._repr_mimebundle_()["text/html"].partition("</details>")
    assert "<summary>Reasoning summary</summary>" in folded
    assert "<strong>Plan.</strong> &lt;b&gt;x" in folded
    assert "<p>It is 3.</p>" in after
    bare = Answer("It is 3.", {"output": [{**thought, "summary": []}, message("It is 3.")]})
    assert (bare.summary, "<details" in bare._repr_mimebundle_()["text/html"]) == ("", False)


def test_response_is_the_sdks_own() -> None:
    """The response is the SDK's own class, with fields that it does not know; its dict is what came."""
    whole = phased(usage={"input_tokens": 4, "output_tokens": 9, "cost": 0.5}, vendor={"a": [1]})
    answer = Answer("It is 3.", whole)
    for held in (answer, pickle.loads(pickle.dumps(answer))):
        assert type(held.response) is Response
        assert type(held.usage) is ResponseUsage
        assert held.response.output[1].content[0].text == "It is 3."
        assert held.response.vendor == {"a": [1]}
        assert (held.usage.output_tokens, held.usage.cost) == (9, 0.5)
        assert held.response.to_dict() == whole
        assert (held.commentary, held.model) == ("Let me *check*.", "gpt-x")


@given(hostile | st.dictionaries(st.text(max_size=8) | st.just("_fields_set"), json_values))
def test_response_is_made_of_anything(response: dict[str, Any]) -> None:
    """Whatever JSON object a server calls a response, the SDK's class is made of it."""
    assert type(Answer("x", response).response) is Response


def test_importing_leaves_the_sdk_alone() -> None:
    """Neither the package nor an answer imports the SDK before its response is looked at."""
    code = (
        "import sys, bgmagic; from bgmagic.jobs.job import Answer; a = Answer('x', {'id': 'r'});"
        "print('openai' in sys.modules); a.response; print('openai' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "True"]


def test_sources_stand_in_plain_text() -> None:
    """What an answer cites is listed under it in plain text too, each once; the text is without it."""
    pages = [
        {"type": "url_citation", "title": title, "url": url, "start_index": 0, "end_index": 1}
        for title, url in (("Wet\nwater", "https://a.org/w"), ("", "https://b.org"))
    ]
    answer = Answer("Water.", {"output": [message("Water.", annotations=[*pages, pages[0]])]})
    told = "Water.\n\nSources:\n- Wet water https://a.org/w\n- https://b.org"
    assert answer._repr_mimebundle_()["text/plain"] == told
    assert pretty(answer) == told
    assert pretty([answer]) == "['Water.']"
    assert str(answer) == "Water."
