"""Who watches a stream: gets each event once and in order, whatever becomes of connections."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgmagic.local.server import StreamingHandler
from tests.local.client import LONG, Client, text
from tests.local.stage import (
    CREATE,
    DELTA,
    Stage,
    deltas,
    everything,
    kinds,
    numbers,
    parse,
    stage,
    started,
    until,
)


def test_closing_the_connection_does_not_stop_the_response() -> None:
    """After its stream is dropped it goes on, can be polled as ever, and leaves no watcher behind."""

    async def run() -> None:
        async with stage() as at:
            before = len(asyncio.all_tasks())
            async with at.socket("POST", "/responses", CREATE) as reader:
                [created] = parse(await reader.readuntil(b"\n\n"))
                response_id = created["response"]["id"]
                assert len(asyncio.all_tasks()) > before
            await until(lambda: len(asyncio.all_tasks()) == before)
            at.puppet.say("still", " here")
            polled = (await at.get(f"responses/{response_id}"))[1]
            assert (polled["status"], polled["output"]) == ("in_progress", [])
            at.puppet.end()
            events = await at.watch(response_id)
            assert deltas(events) == "still here"
            assert await at.status(response_id) == "completed"

    asyncio.run(run())


@pytest.mark.parametrize("after", range(12))
def test_the_sdk_resumes_after_any_event(after: int) -> None:
    """`starting_after=N` gives what follows N and nothing else, live and when all is over."""

    async def run() -> None:
        async with stage() as at:
            response_id = await started(at, "one", " two", " three")
            live = None
            if after < 8:
                live = asyncio.create_task(at.watch(response_id, after))
            at.puppet.say("!")
            at.puppet.end()
            whole = await at.watch(response_id)
            assert numbers(whole) == list(range(13))
            assert await at.watch(response_id, after) == whole[after + 1 :]
            assert live is None or await live == whole[after + 1 :]
            assert await at.watch(response_id, 12) == []

    asyncio.run(run())


async def _cut(at: Stage, response_id: str, size: int, seen: list[dict[str, Any]]) -> None:
    """Watches on from what was seen, and is cut off after `size` bytes."""
    after = f"&starting_after={seen[-1]['sequence_number']}" if seen else ""
    path = f"/responses/{response_id}?stream=true{after}"
    async with at.socket("GET", path) as reader:
        seen += parse(await reader.read(size))


@settings(max_examples=25)
@given(
    pieces=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 2500), max_size=6),
    said=st.integers(0, 6),
)
def test_wherever_the_connection_breaks_each_event_comes_once_and_in_order(
    pieces: list[str], cuts: list[int], said: int
) -> None:
    """Cut at any byte, before and after the end, a resuming watcher has the whole stream."""

    async def run() -> None:
        async with stage() as at:
            response_id = await started(at)
            seen: list[dict[str, Any]] = []
            at.puppet.say(*pieces[:said])
            for size in cuts[:3]:
                await _cut(at, response_id, size, seen)
                at.puppet.say("(more)")
            at.puppet.say(*pieces[said:])
            at.puppet.end()
            for size in cuts[3:]:
                await _cut(at, response_id, size, seen)
            after = f"&starting_after={len(seen) - 1}" if seen else ""
            seen += parse(await at.wire(response_id, after))
            whole = parse(await at.wire(response_id))
            assert seen == whole
            assert numbers(whole) == list(range(len(whole)))
            assert deltas(whole) == text(whole[-1]["response"])

    asyncio.run(run())


def test_many_watch_one_response_and_a_slow_one_holds_up_nobody() -> None:
    """One who does not read delays neither the response nor the others, and still gets it all."""

    async def run() -> None:
        async with stage() as at:
            response_id = await started(at, "begin")
            path = f"/responses/{response_id}?stream=true"
            async with at.socket("GET", path) as slow:
                watchers = [asyncio.create_task(at.wire(response_id)) for _ in range(5)]
                gone = at.socket("GET", path)
                await gone.__aenter__()
                at.puppet.say(*["x" * 50_000] * 60)  # with the closing events, 15 MB
                await gone.__aexit__(None, None, None)
                at.puppet.end()
                seen = await asyncio.gather(*watchers)
                assert await at.status(response_id) == "completed"
                assert deltas(parse(seen[0])) == "begin" + "x" * 3_000_000
                assert set(seen) == {await slow.read()}

    asyncio.run(run())


def test_a_watcher_outlives_what_it_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dropped response is told to its end to who already watches, at the pace of the reader."""
    written: list[int] = []
    write = StreamingHandler.write
    monkeypatch.setattr(
        StreamingHandler,
        "write",
        lambda self, chunk: (written.append(len(chunk)), write(self, chunk))[1],
    )

    async def run() -> None:
        async with stage(kept=1) as at:
            response_id = await started(at, "begin")
            async with at.socket("GET", f"/responses/{response_id}?stream=true") as slow:
                at.puppet.say(*["x" * 100_000] * 140)  # with the closing events, 70 MB
                at.puppet.end()
                at.puppet.end()
                await everything(await at.create())
                assert (await at.get(f"responses/{response_id}"))[0] == 404
                assert sum(written) < 30_000_000
                assert kinds(parse(await slow.read()))[-1] == "response.completed"

    asyncio.run(run())


def test_the_real_model_streams_and_a_cut_is_mended(client: Client) -> None:
    """Over the real server: cut in mid-answer, resumed by the SDK, all once, equal to the stored text."""

    async def run() -> None:
        base_url, token = client.endpoint.base_url, client.endpoint.token
        async with openai.AsyncOpenAI(base_url=base_url, api_key=token) as sdk:
            seen: list[Any] = []
            stream = await sdk.responses.create(
                model="gpt-5.2", input=LONG, background=True, stream=True, max_output_tokens=60
            )
            async for event in stream:
                seen.append(event)
                if event.type == DELTA and len(seen) > 10:
                    break
            await stream.close()
            response_id = seen[0].response.id
            on = await sdk.responses.retrieve(
                response_id, stream=True, starting_after=seen[-1].sequence_number
            )
            seen += [event async for event in on]
            stored = await sdk.responses.retrieve(response_id)
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        assert seen[-1].response == stored
        assert stored.status == "incomplete"
        assert "".join(e.delta for e in seen if e.type == DELTA) == stored.output_text
        # A token is a piece, but for what waits for the rest of a character.
        assert 40 < sum(event.type == DELTA for event in seen) <= 60

    asyncio.run(run())
