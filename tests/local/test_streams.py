"""Streams: which events there are, however a response ends, and what can be streamed at all."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.local.events import Transcript
from tests.local.client import LONG, Client, text
from tests.local.stage import (
    DELTA,
    Stage,
    deltas,
    everything,
    kinds,
    numbers,
    parse,
    problems,
    stage,
    started,
    until,
)

STARTS = ["response.created", "response.queued", "response.in_progress"]
OPENS = ["response.output_item.added", "response.content_part.added"]
CLOSES = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]


def test_the_sdk_reads_a_stream_as_it_is_written() -> None:
    """Creating with stream gives the events in the API's order, the first before there is text."""

    async def run() -> None:
        async with stage() as at:
            stream = await at.create()
            async with asyncio.timeout(60):
                first = [await anext(stream) for _ in STARTS]
            assert [event.type for event in first] == STARTS
            assert [event.response.status for event in first] == [
                "queued", "queued", "in_progress",
            ]  # fmt: skip
            at.puppet.say("Hello", ", ", "world")
            at.puppet.end()
            rest = await everything(stream)
            assert kinds(rest) == [*OPENS, DELTA, DELTA, DELTA, *CLOSES, "response.completed"]
            assert numbers(rest) == list(range(3, 12))
            assert deltas(rest) == "Hello, world" == text(rest[-1]["response"])

    asyncio.run(run())


async def _stop(at: Stage, response_id: str) -> None:
    at.puppet.end()


async def _length(at: Stage, response_id: str) -> None:
    at.puppet.end("length")


async def _fail(at: Stage, response_id: str) -> None:
    at.puppet.fail()


async def _cancel(at: Stage, response_id: str) -> None:
    await at.sdk.responses.cancel(response_id)


ENDINGS: list[tuple[Callable[[Stage, str], Awaitable[None]], str]] = [
    (_stop, "completed"), (_length, "incomplete"), (_fail, "failed"), (_cancel, "cancelled"),
]  # fmt: skip


@pytest.mark.parametrize(("end", "status"), ENDINGS, ids=[status for _, status in ENDINGS])
def test_stream_and_stored_response_agree_however_it_ends(
    end: Callable[[Stage, str], Awaitable[None]], status: str
) -> None:
    """Deltas, the closing events, the last event and a plain GET all tell the same text and status."""

    async def run() -> None:
        async with stage() as at:
            response_id = await started(at, "Gr", "üße\n\n", "\u2028data: x")
            live = asyncio.create_task(at.wire(response_id))
            await end(at, response_id)
            events = parse(await live)
            stored = (await at.get(f"responses/{response_id}"))[1]
            # The description has no event for the status cancelled.
            last = [] if status == "cancelled" else [f"response.{status}"]
            assert kinds(events) == [*STARTS, *OPENS, DELTA, DELTA, DELTA, *CLOSES, *last]
            assert numbers(events) == list(range(len(events)))
            assert stored["status"] == status
            assert deltas(events) == text(stored) == "Grüße\n\n\u2028data: x"
            done = events[8:11]
            assert done[0]["text"] == done[1]["part"]["text"] == text(stored)
            assert done[2]["item"] == stored["output"][0]
            assert not last or events[-1]["response"] == stored

    asyncio.run(run())


@pytest.mark.parametrize(("end", "status"), ENDINGS, ids=[status for _, status in ENDINGS])
def test_every_event_fits_the_api_description(
    end: Callable[[Stage, str], Awaitable[None]], status: str
) -> None:
    """Each event validates against the schema of its type in OpenAI's OpenAPI."""
    schemas = {
        kind: f"Response{name}Event"
        for kind, name in [
            ("response.created", "Created"), ("response.queued", "Queued"),
            ("response.in_progress", "InProgress"), ("response.completed", "Completed"),
            ("response.output_item.added", "OutputItemAdded"), (DELTA, "TextDelta"),
            ("response.content_part.added", "ContentPartAdded"), (CLOSES[0], "TextDone"),
            (CLOSES[1], "ContentPartDone"), (CLOSES[2], "OutputItemDone"),
            ("response.incomplete", "Incomplete"), ("response.failed", "Failed"),
        ]
    }  # fmt: skip

    async def run() -> None:
        async with stage() as at:
            response_id = await started(at, "some", " text")
            await end(at, response_id)
            for event in parse(await at.wire(response_id)):
                assert problems(schemas[event["type"]], event) == []

    asyncio.run(run())


def test_an_answer_without_text_still_has_its_message() -> None:
    """Completed with nothing said: the item is opened and closed without a delta, as it is stored."""

    async def run() -> None:
        async with stage() as at:
            at.puppet.end()
            events = await everything(await at.create())
            assert kinds(events) == [*STARTS, *OPENS, *CLOSES, "response.completed"]
            assert events[-2]["item"] == events[-1]["response"]["output"][0]

    asyncio.run(run())


def test_a_cancel_in_the_queue_ends_the_stream() -> None:
    """What never began has told only that it was created and queued, and its watcher is let go."""

    async def run() -> None:
        async with stage() as at:
            first = await started(at, "busy")
            stream = await at.create()
            created = await anext(stream)
            await at.sdk.responses.cancel(created.response.id)
            assert kinds(await everything(stream)) == STARTS[1:2]
            assert await at.status(first) == "in_progress"

    asyncio.run(run())


def test_a_deleted_response_lets_its_watchers_go() -> None:
    """Deleting stops it, and its stream ends as a cancelled one does."""

    async def run() -> None:
        async with stage() as at:
            response_id = await started(at, "a")
            live = asyncio.create_task(at.wire(response_id))
            await at.sdk.responses.delete(response_id)
            events = parse(await live)
            assert kinds(events)[-1] == CLOSES[-1]
            assert events[-1]["item"]["status"] == "incomplete"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("stream=true&starting_after=-1", "starting_after"),
        ("stream=true&starting_after=6", "starting_after"),
        ("stream=true&starting_after=1.5", "starting_after"),
        ("stream=true&starting_after=", "starting_after"),
        ("stream=true&starting_after=" + "9" * 5000, "starting_after"),
        ("stream=perhaps", "stream"),
    ],
)
def test_a_wrong_query_is_refused_by_name(query: str, param: str) -> None:
    """What is no number of an event there is, or makes no sense, is a 400 that says what is allowed."""

    async def run() -> None:
        async with stage() as at:
            response_id = await started(at, "a")
            status, body = await at.get(f"responses/{response_id}?{query}")
            assert (status, body["error"]["param"]) == (400, param)
            if "stream=true" in query:
                assert "an integer from 0 to 5" in body["error"]["message"]

    asyncio.run(run())


def test_only_what_was_created_with_stream_can_be_streamed() -> None:
    """Of a plain response a stream is refused, with what to do instead; polling it is as before."""

    async def run() -> None:
        async with stage() as at:
            created = await at.create(stream=False)
            at.puppet.say("plain")
            at.puppet.end()
            with pytest.raises(openai.BadRequestError, match="poll it"):
                await at.watch(created.id)
            await until(lambda: not at.state.busy)
            done = await at.sdk.responses.retrieve(created.id)
            assert (done.status, done.output_text) == ("completed", "plain")

    asyncio.run(run())


@given(st.lists(st.text(max_size=5)), st.booleans())
def test_a_closed_transcript_is_the_open_one(pieces: list[str], keep: bool) -> None:
    """Making it compact changes neither the text nor, where they are kept, its pieces."""
    transcript = Transcript()
    for piece in pieces:
        transcript.add(piece)
    given_ones = [piece for piece in pieces if piece]
    assert [transcript.piece(n) for n in range(len(transcript))] == given_ones
    transcript.close(keep_pieces=keep)
    transcript.add("too late")
    assert transcript.text == "".join(pieces)
    assert [transcript.piece(n) for n in range(len(transcript))] == (given_ones if keep else [])


def test_a_finished_stream_costs_little() -> None:
    """The longest answer the model gives is kept, with all its events, in under 50 KB."""
    tracemalloc.start()
    try:
        transcript = Transcript()
        for number in range(4096):
            transcript.add(f" {number:05}")
        transcript.close(keep_pieces=True)
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()


def test_the_real_model_is_cancelled_in_mid_stream(client: Client) -> None:
    """The stream ends, and has told exactly the text that the cancelled response keeps."""

    async def run() -> None:
        base_url, token = client.endpoint.base_url, client.endpoint.token
        async with openai.AsyncOpenAI(base_url=base_url, api_key=token) as sdk:
            seen: list[dict[str, Any]] = []
            stream = await sdk.responses.create(
                model="gpt-5.2", input=LONG, background=True, stream=True
            )
            async for event in stream:
                seen.append(json.loads(event.to_json()))
                if len(seen) == 20:
                    cancelled = await sdk.responses.cancel(seen[0]["response"]["id"])
            assert cancelled.status == "cancelled"
            assert deltas(seen) == cancelled.output_text
            assert kinds(seen)[-1] == CLOSES[-1]

    asyncio.run(run())
