"""Going on from earlier turns: previous responses, conversations, and what is counted and cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.local.conversations import (
    ROLES,
    ConversationStore,
    Item,
    pack_items,
    unpack_items,
    without_oldest,
)
from bgmagic.local.engine import PromptTooLong
from bgmagic.local.validation import BadRequest
from tests.local.client import Client, text
from tests.local.stage import Puppet, Stage, stage, until


async def answered(at: Stage, said: str, **fields: Any) -> str:
    """The id of a response that ended with that text."""
    at.puppet.say(said)
    at.puppet.end()
    created = await at.create(stream=False, **fields)
    await until(lambda: not at.state.busy)
    return str(created.id)


async def refused(at: Stage, **fields: Any) -> Mapping[str, Any]:
    """The error of a create that is refused with 400."""
    status, body = await at.call(
        "POST", "responses", {"model": "gpt-5.2", "background": True, **fields}
    )
    assert status == 400
    error: Mapping[str, Any] = body["error"]
    return error


def test_a_response_goes_on_from_another() -> None:
    """The model reads the earlier turns of the whole chain, without their instructions, and the id is echoed."""

    async def run() -> None:
        async with stage() as at:
            first = await answered(at, "Plum.", input="A fruit?", instructions="Be brief.")
            second = await answered(at, "Blue.", input="Its colour?", previous_response_id=first)
            await answered(
                at, "No.", input="Sure?", previous_response_id=second, instructions="Hm."
            )
            turns = [("user", "A fruit?"), ("assistant", "Plum."), ("user", "Its colour?")]
            assert at.puppet.heard[1] == turns
            assert at.puppet.heard[2] == [
                ("system", "Hm."), *turns, ("assistant", "Blue."), ("user", "Sure?"),
            ]  # fmt: skip
            stored = (await at.get(f"responses/{second}"))[1]
            assert stored["previous_response_id"] == first
            listed = (await at.get(f"responses/{second}/input_items"))[1]
            assert [item["content"][0]["text"] for item in listed["data"]] == ["Its colour?"]

    asyncio.run(run())


def test_a_chain_outlives_what_it_goes_on_from() -> None:
    """When the first response is deleted, the second can still be gone on from, with all turns."""

    async def run() -> None:
        async with stage() as at:
            first = await answered(at, "One.", input="1")
            second = await answered(at, "Two.", input="2", previous_response_id=first)
            await at.sdk.responses.delete(first)
            assert (await refused(at, input="x", previous_response_id=first))["code"] == (
                "previous_response_not_found"
            )
            await answered(at, "Three.", input="3", previous_response_id=second)
            assert [said for _, said in at.puppet.heard[-1]] == ["1", "One.", "2", "Two.", "3"]

    asyncio.run(run())


def test_a_response_that_runs_cannot_be_gone_on_from() -> None:
    """One that is queued or in progress is refused by its status; once it has ended it is taken."""

    async def run() -> None:
        async with stage() as at:
            running = await at.create(stream=False, input="Go on.")
            await until(lambda: at.puppet.heard)
            error = await refused(at, input="x", previous_response_id=running.id)
            assert error["param"] == "previous_response_id"
            assert "is in_progress: wait for its end" in error["message"]
            at.puppet.end()
            await until(lambda: not at.state.busy)
            await answered(at, "Yes.", input="x", previous_response_id=running.id)

    asyncio.run(run())


def test_a_conversation_grows_by_what_was_asked_and_answered() -> None:
    """Each response reads all its items and adds input and answer, as the SDK lists them."""

    async def run() -> None:
        async with stage() as at:
            made = await at.sdk.conversations.create(
                items=[{"type": "message", "role": "developer", "content": "Be brief."}],
                metadata={"notebook": "a"},
            )
            await answered(at, "Hi.", input="Hello", conversation=made.id)
            second = await answered(at, "Fine.", input="And?", conversation={"id": made.id})
            assert at.puppet.heard[1] == [
                ("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi."), ("user", "And?"),
            ]  # fmt: skip
            stored = (await at.get(f"responses/{second}"))[1]
            assert stored["conversation"] == {"id": made.id}
            seen: list[Any] = []
            async for item in at.sdk.conversations.items.list(made.id, order="asc", limit=2):
                seen.append(item)
            texts = [item.content[0].text for item in seen]
            assert texts == ["Be brief.", "Hello", "Hi.", "And?", "Fine."]
            assert len({item.id for item in seen}) == 5
            assert (await at.sdk.conversations.retrieve(made.id)).metadata == {"notebook": "a"}

    asyncio.run(run())


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_a_conversation_is_locked_while_a_response_runs(end: str) -> None:
    """A second response is refused until the first has ended, and one without an answer adds nothing."""

    async def run() -> None:
        async with stage() as at:
            made = await at.sdk.conversations.create()
            running = await at.create(stream=False, input="Go on.", conversation=made.id)
            error = await refused(at, input="x", conversation=made.id)
            assert (error["param"], error["code"]) == ("conversation", "conversation_locked")
            if end == "failed":
                at.puppet.fail()
                await until(lambda: not at.state.busy)
            else:
                await at.sdk.responses.cancel(running.id)
            assert await at.status(running.id) == end
            assert (await at.get(f"conversations/{made.id}/items"))[1]["data"] == []
            await answered(at, "Yes.", input="x", conversation=made.id)
            assert at.puppet.heard[-1] == [("user", "x")]

    asyncio.run(run())


def test_conversations_are_read_changed_and_deleted_by_the_sdk() -> None:
    """Items are added, read and removed one by one, metadata replaced, and a deleted one is a 404."""

    async def run() -> None:
        async with stage() as at:
            of = at.sdk.conversations
            made = await of.create()
            assert made.id.startswith("conv_")
            added = await of.items.create(
                made.id, items=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
            )
            first = added.data[0].id
            assert first is not None
            item: Any = await of.items.retrieve(first, conversation_id=made.id)
            assert item.content[0].text == "a"
            await of.items.delete(first, conversation_id=made.id)
            left = await of.items.list(made.id)
            assert [item.id for item in left.data] == [added.data[1].id]
            with pytest.raises(openai.NotFoundError):
                await of.items.retrieve(first, conversation_id=made.id)
            changed = await of.update(made.id, metadata={"a": "b"})
            assert (changed.id, changed.metadata) == (made.id, {"a": "b"})
            assert (await of.delete(made.id)).deleted is True
            with pytest.raises(openai.NotFoundError):
                await of.retrieve(made.id)
            status, _ = await at.call(
                "POST",
                "responses",
                {"model": "gpt-5.2", "background": True, "conversation": made.id},
            )
            assert status == 404

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": 5}, "items"), ({"items": [5]}, "items[0]"), ({"metadata": {"a": 1}}, "metadata.a"),
        ({"items": [{"role": "user", "content": "x"}] * 21}, "items"), ({"other": 1}, "other"),
    ],
)  # fmt: skip
def test_a_wrong_conversation_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    """What no conversation can be made of is a 400 that names the field."""

    async def run() -> None:
        async with stage() as at:
            status, reply = await at.call("POST", "conversations", body)
            assert (status, reply["error"]["param"]) == (400, param)

    asyncio.run(run())


def test_the_conversations_that_are_kept_are_bounded() -> None:
    """Beyond a number or so many bytes the oldest go; the newest stays, whatever its size."""
    store = ConversationStore(kept=3, kept_input=100)
    made = [store.create({}, pack_items([Item("user", ("x" * 10,))])) for _ in range(5)]
    with pytest.raises(BadRequest):
        store.get(made[1].id)
    assert [store.get(each.id) for each in made[2:]] == made[2:]
    big = store.create({}, pack_items([Item("user", ("x" * 500,))]))
    assert store.get(big.id) is big
    with pytest.raises(BadRequest):
        store.get(made[-1].id)


def test_tokens_are_counted_with_all_that_the_model_would_read() -> None:
    """Instructions, earlier turns and input count; nothing is generated and nothing is kept."""

    async def run() -> None:
        async with stage() as at:
            first = await answered(at, "two words", input="one")
            generated = len(at.puppet.heard)
            count = at.sdk.responses.input_tokens.count
            assert (await count(input="a b c")).input_tokens == 3
            whole = await count(
                model="gpt-5.2", input="a b c", instructions="d e", previous_response_id=first
            )
            assert whole.input_tokens == 8
            status, body = await at.call("POST", "responses/input_tokens", {"surprise": 1})
            assert (status, body["error"]["code"]) == (400, "unknown_parameter")
            assert len(at.puppet.heard) == generated

    asyncio.run(run())


def test_the_count_is_that_of_the_usage(client: Client) -> None:
    """The real model counts before as it does afterwards, and counts what would not fit."""
    asked = {"input": "Name three fruits.", "instructions": "Be brief."}
    counted = client.call("POST", "/responses/input_tokens", _json(asked)).body["input_tokens"]
    done = client.answer(max_output_tokens=16, **asked)
    assert counted == done["usage"]["input_tokens"]
    long = _json({"input": "the sea and the wind " * 2000})
    assert client.call("POST", "/responses/input_tokens", long).body["input_tokens"] > 4096


def test_the_real_model_reads_the_turns_before(client: Client) -> None:
    """Going on from a response gives the answer that the same turns give when they are spelt out."""
    first = client.answer(input="Name a fruit.", max_output_tokens=16)
    again = {"input": "And a colour.", "max_output_tokens": 16}
    went_on = client.answer(previous_response_id=first["id"], **again)
    turns = [
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": text(first)},
        {"role": "user", "content": "And a colour."},
    ]
    spelt_out = client.answer(**{**again, "input": turns})
    assert text(went_on) == text(spelt_out)
    assert went_on["usage"] == spelt_out["usage"]


def test_truncation_drops_the_oldest_turns(client: Client) -> None:
    """With `auto` a conversation beyond the context is answered from its end; disabled, it fails."""
    old = [{"role": "user", "content": "the sea and the wind " * 900}]
    turns = [*old, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Hello?"}]
    cut = client.answer(input=turns, truncation="auto", max_output_tokens=16)
    assert cut["truncation"] == "auto"
    assert text(cut) == text(client.answer(input=turns[1:], max_output_tokens=16))
    assert client.answer(input=turns, max_output_tokens=16)["status"] == "failed"
    assert client.answer(input=old, truncation="auto")["status"] == "failed"


def test_truncation_keeps_instructions_and_the_last_turn() -> None:
    """Messages go one by one from the oldest until the rest fits."""

    class Small(Puppet):
        def generate(self, messages: Sequence[Any], **options: Any) -> Any:
            if len(messages) > 2:
                self.heard.append([])
                raise PromptTooLong(len(messages), 2)
            return super().generate(messages, **options)

    async def run() -> None:
        async with stage(puppet=Small()) as at:
            turns = [{"role": "user", "content": str(n)} for n in range(4)]
            await answered(at, "x", input=turns, instructions="Be brief.", truncation="auto")
            assert at.puppet.heard == [[], [], [], [("system", "Be brief."), ("user", "3")]]

    asyncio.run(run())


@given(
    st.lists(st.tuples(st.sampled_from(sorted(ROLES)), st.lists(st.text())).map(
        lambda pair: Item(pair[0], tuple(pair[1]))
    ))
)  # fmt: skip
def test_packed_items_are_the_items(items: list[Item]) -> None:
    """Whatever the texts, what is unpacked is what was packed."""
    assert unpack_items(pack_items(items)) == items


@given(st.lists(st.sampled_from(["system", "user", "assistant"]), min_size=1, max_size=8))
def test_dropping_the_oldest_comes_to_an_end(roles: list[str]) -> None:
    """Each step drops one message that is no instruction, until only those and the last are left."""
    messages = [{"role": role, "content": str(n)} for n, role in enumerate(roles)]
    while (shorter := without_oldest(messages)) != messages:
        assert len(shorter) == len(messages) - 1
        messages = shorter
    assert messages[-1]["content"] == str(len(roles) - 1)
    assert {message["role"] for message in messages[:-1]} <= {"system"}


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode()
