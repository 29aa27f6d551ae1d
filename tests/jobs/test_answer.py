"""Answers, and reading output out of whatever a server calls a response."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bgmagic.api.response import Output, read_output
from bgmagic.jobs.job import Answer

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["output", "content", "type", "text", "refusal", "role", "x"]), inner
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
    assert answer.usage == {"input_tokens": 1, "output_tokens": 2}


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
