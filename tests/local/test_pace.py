"""A slow pace for teaching: what may be asked for, and that it holds up neither cancel nor others."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import RateLimitError

from bgmagic.local import (
    FLEX_REFUSALS_HEADER,
    QUEUE_HEADER,
    TOKENS_PER_SECOND_HEADER,
    responses,
)
from bgmagic.local.validation import WINDOWS, BadRequest, Processing
from tests.local.client import LONG, Client, text
from tests.local.stage import deltas, everything, stage, until

RATE, QUEUE = TOKENS_PER_SECOND_HEADER, QUEUE_HEADER
AGES = "1000000"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *((RATE, value, "a number above 0") for value in ("0", "-1", "fast", "", "nan", "inf")),
        *((QUEUE, value, "seconds, 0 or more") for value in ("-1", "soon", "", "nan", "inf")),
    ],
)
def test_a_wrong_pace_is_refused_and_says_what_is_allowed(
    client: Client, name: str, value: str, allowed: str
) -> None:
    """A 400 names the header, and nothing is created."""
    reply = client.post(headers={name: value})
    assert (reply.status, reply.error["param"]) == (400, name)
    assert allowed in reply.error["message"]
    assert client.jobs() == {"queued": 0, "in_progress": 0}


@given(st.text(max_size=12) | st.floats().map(str) | st.integers().map(str))
def test_any_header_is_a_pace_or_refused(value: str) -> None:
    """Whatever a header holds, the numbers that come of it are finite and within what is allowed."""
    for name in (RATE, QUEUE):
        with contextlib.suppress(BadRequest):
            asked = responses.read_pace({name: value})
            assert asked.tokens_per_second is None or 0 < asked.tokens_per_second < math.inf
            assert 0 <= asked.queue < math.inf


def test_no_header_is_no_pace() -> None:
    """Without headers nothing waits."""
    assert responses.read_pace({}) == responses.Pace()
    assert list(itertools.islice(responses.pauses(None), 3)) == [0, 0, 0]


def test_pauses_keep_the_rate_and_a_late_model_does_not_hurry() -> None:
    """Each piece is due a step after the one before, and after a delay the steps go on from there."""
    times = iter([100.0, 100.0, 100.1, 100.25, 109.0, 109.0])
    pauses = responses.pauses(4, lambda: next(times))
    seen = list(itertools.islice(pauses, 5))
    assert seen == pytest.approx([0, 0.15, 0.25, 0, 0.25])


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_pauses_of_any_rate_are_no_less_than_nothing(rate: float) -> None:
    """The smallest and the largest number give a pause, not an error."""
    for pause in itertools.islice(responses.pauses(rate), 3):
        assert pause >= 0


def test_a_response_held_in_the_queue_lets_others_pass() -> None:
    """It stays queued for its time while later ones are answered; a short time passes by itself."""

    async def run() -> None:
        async with stage() as at:
            held = await at.create(stream=False, headers={QUEUE: AGES})
            for headers in (None, {QUEUE: "0.01"}, {QUEUE: "0"}):
                at.puppet.end()
                passing = await at.create(stream=False, headers=headers)
                assert passing.status == "queued"
                await until(lambda: at.state.responses.count("completed") > 0)
                await until(lambda: at.state.responses.count("queued") == 1)
                await until(lambda: at.state.responses.count("in_progress") == 0)
                assert await at.status(passing.id) == "completed"
            assert await at.status(held.id) == "queued"
            assert at.state.busy

    asyncio.run(run())


def test_cancel_in_a_held_queue_is_at_once_and_frees_it() -> None:
    """The stream ends, the response is settled, and it counts as finished: the next one drops it."""

    async def run() -> None:
        async with stage(kept=1) as at:
            stream = await at.create(headers={QUEUE: AGES})
            created = await anext(stream)
            cancelled = await at.sdk.responses.cancel(created.response.id)
            assert cancelled.status == "cancelled"
            assert len(await everything(stream)) == 1
            at.puppet.end()
            await everything(await at.create())
            status, _ = await at.get(f"responses/{created.response.id}")
            assert status == 404

    asyncio.run(run())


@pytest.mark.parametrize("rate", ["0.00001", "5e-324"])
def test_cancel_between_two_tokens_is_at_once(rate: str) -> None:
    """While the next token is hours away the server answers, cancels, and goes on with the next."""

    async def run() -> None:
        async with stage() as at:
            at.puppet.say("first", " second")
            stream = await at.create(headers={RATE: rate})
            seen: list[Any] = [await anext(stream) for _ in range(6)]
            assert seen[-1].delta == "first"
            response_id = seen[0].response.id
            assert await at.status(response_id) == "in_progress"
            async with asyncio.timeout(60):
                cancelled = await at.sdk.responses.cancel(response_id)
            assert cancelled.status == "cancelled"
            rest = await everything(stream)
            assert "first" + deltas(rest) == cancelled.output_text
            at.puppet.end()
            assert (await everything(await at.create()))[-1]["type"] == "response.completed"

    asyncio.run(run())


def test_a_pace_changes_no_text(client: Client) -> None:
    """The real model says the same at a pace as without, and its tokens are counted the same."""
    asked = {"input": LONG, "max_output_tokens": 16}
    free = client.answer(**asked)
    slow = client.create(headers={RATE: "40", QUEUE: "0.05"}, **asked)
    assert slow["status"] == "queued"
    paced = client.wait(slow["id"])
    assert text(paced) == text(free)
    assert paced["usage"] == free["usage"]


def test_the_real_model_is_cancelled_between_two_tokens(client: Client) -> None:
    """A cancel finds it waiting, and keeps only the little that it had said."""
    slow = client.create(headers={RATE: "0.01"}, input=LONG)
    client.wait(slow["id"], "in_progress")
    cancelled = client.cancel(slow["id"])
    assert cancelled["status"] == "cancelled"
    assert cancelled.get("usage", {}).get("output_tokens", 0) <= 2
    assert client.jobs() == {"queued": 0, "in_progress": 0}


def test_a_window_waits_a_little_and_a_follow_up_less() -> None:
    """A response in a window stays queued for its seconds, half of them where a related one came
    before, and the request's own pace if that is longer."""
    processing = Processing()
    assert [processing.queue(window, None) for window in WINDOWS] == list(WINDOWS.values())
    assert processing.queue("8h", "proof") == WINDOWS["8h"]
    assert processing.queue("8h", "proof") == WINDOWS["8h"] / 2
    assert processing.queue("8h", "another") == WINDOWS["8h"]

    async def run() -> None:
        async with stage() as at:
            window = {"completion_window": "8h", "continuation_id": "proof"}
            held = await at.create(stream=False, extra_body={"background_options": window})
            assert at.state.responses.get(held.id).pace.queue == WINDOWS["8h"]
            at.puppet.end()
            passing = await at.create(stream=False)
            await until(lambda: at.state.responses.count("completed") > 0)
            assert await at.status(passing.id) == "completed"
            assert await at.status(held.id) == "queued"
            slower = await at.create(
                stream=False, headers={QUEUE: AGES}, extra_body={"background_options": window}
            )
            assert at.state.responses.get(slower.id).pace.queue == float(AGES)

    asyncio.run(run())


def test_the_flex_tier_is_full_now_and_then() -> None:
    """Where a header wishes so, every other response in the flex tier is refused with the API's 429,
    and only of that tier; the response tells the tier that served it."""

    async def run() -> None:
        async with stage() as at:
            headers = {FLEX_REFUSALS_HEADER: "1"}
            seen: list[str] = []
            for tier in ("flex", "default", "flex", "flex", "priority", "flex"):
                try:
                    made = await at.create(stream=False, headers=headers, service_tier=tier)
                    seen.append(made.service_tier)
                except RateLimitError as error:
                    seen.append(str(error.code))
            full = "resource_unavailable"
            assert seen == [full, "default", "flex", full, "priority", "flex"]
            unhindered = await at.create(stream=False, service_tier="flex")
            assert unhindered.service_tier == "flex"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background_options": {"completion_window": "3h"}},
         "background_options.completion_window"),
        ({"background_options": {"window": "2h"}}, "background_options.window"),
        ({"background_options": {"continuation_id": 5}}, "background_options.continuation_id"),
        ({"background_options": {"completion_window": "2h"}, "stream": True}, "stream"),
        ({"background_options": {"completion_window": "8h"}, "service_tier": "flex"},
         "service_tier"),
    ],
)  # fmt: skip
def test_what_a_window_excludes_is_refused(fields: dict[str, Any], param: str) -> None:
    """A window that there is not, that is streamed, or in another tier is a 400 naming the field."""

    async def run() -> None:
        async with stage() as at:
            body = {"model": "puppet", "input": "Why?", "background": True} | fields
            status, reply = await at.call("POST", "responses", body)
            assert (status, reply["error"]["param"]) == (400, param)

    asyncio.run(run())
