"""Input items: what was asked, listed page by page as the API lists it."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.local.conversations import ORDERS, Item, list_items
from tests.local.stage import problems, stage, until

TURNS: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "input_text", "text": t} for t in ("One", "and two")]},
    {"role": "assistant", "content": [{"type": "output_text", "text": "Three."}]},
    {"role": "user", "content": "Four?"},
]


def said(listed: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Role and texts of each item."""
    return [(i["role"], [part["text"] for part in i["content"]]) for i in listed["data"]]


GIVEN = [
    ("developer", ["Be brief."]),
    ("user", ["One", "and two"]),
    ("assistant", ["Three."]),
    ("user", ["Four?"]),
]


def test_the_input_is_listed_newest_first_while_it_runs_and_afterwards() -> None:
    """Roles and parts come back as given, without the instructions, in the API's form, always the same."""

    async def run() -> None:
        async with stage() as at:
            created = await at.create(input=TURNS, instructions="Not an item.", stream=False)
            path = f"responses/{created.id}/input_items"
            status, running = await at.get(path)
            assert status == 200
            assert problems("ResponseItemList", running) == []
            assert said(running) == GIVEN[::-1]
            assert running["has_more"] is False
            ids = [item["id"] for item in running["data"]]
            assert (running["first_id"], running["last_id"]) == (ids[0], ids[-1])
            assert len(set(ids)) == 4
            at.puppet.end()
            await until(lambda: not at.state.busy)
            assert await at.get(path) == (200, running)

    asyncio.run(run())


def test_the_sdk_pages_through_all_of_it() -> None:
    """Its own paging, by `after` and `has_more`, gives each item once in either order."""

    async def run() -> None:
        async with stage() as at:
            turns = [{"role": "user", "content": str(number)} for number in range(25)]
            created = await at.create(input=turns, stream=False)
            for more, first in [({}, 24), ({"order": "desc"}, 24), ({"order": "asc"}, 0)]:
                for limit in [{}, {"limit": 1}, {"limit": 5}, {"limit": 100}]:
                    asked: Any = {**more, **limit}
                    pages = at.sdk.responses.input_items.list(created.id, **asked)
                    seen = [int(item.content[0].text) async for item in pages]
                    assert seen == sorted(range(25), reverse=first == 24)
            first_page = await at.sdk.responses.input_items.list(created.id)
            assert (len(first_page.data), first_page.has_more) == (20, True)

    asyncio.run(run())


@given(
    st.lists(st.lists(st.text(max_size=5), max_size=3), min_size=1, max_size=30),
    st.integers(1, 100),
    st.sampled_from(ORDERS),
)
def test_pages_put_together_are_the_whole(texts: list[list[str]], limit: int, order: str) -> None:
    """Whatever the texts and the page's size, following `last_id` gives every item once, in order."""
    entries = [(f"msg_{n}", Item("user", tuple(parts))) for n, parts in enumerate(texts)]
    seen: list[list[str]] = []
    after = None
    while True:
        page = list_items(entries, order=order, limit=limit, after=after)
        seen += [parts for _, parts in said(page)]
        if not page["has_more"]:
            break
        assert len(page["data"]) == limit
        after = page["last_id"]
    assert seen == (texts if order == "asc" else texts[::-1])
    end = list_items(entries, order=order, limit=limit, after=page["last_id"])
    assert (end["data"], end["has_more"]) == ([], False)
    assert problems("ResponseItemList", end) == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("limit=-1", "limit"),
        ("order=newest", "order"), ("after=msg_none", "after"), ("after=", "after"),
    ],
)  # fmt: skip
def test_a_wrong_query_is_refused_by_name(query: str, param: str) -> None:
    """A limit, an order or an id that there is not is a 400."""

    async def run() -> None:
        async with stage() as at:
            created = await at.create(stream=False)
            status, body = await at.get(f"responses/{created.id}/input_items?{query}")
            assert (status, body["error"]["param"]) == (400, param)

    asyncio.run(run())


def test_items_of_one_response_are_not_anothers() -> None:
    """The same input twice has ids of its own each time, and a deleted response has no list."""

    async def run() -> None:
        async with stage() as at:
            made = [await at.create(stream=False) for _ in range(2)]
            pages = [await at.sdk.responses.input_items.list(each.id) for each in made]
            assert pages[0].data[0].id != pages[1].data[0].id
            await at.sdk.responses.delete(made[0].id)
            with pytest.raises(openai.NotFoundError):
                await at.sdk.responses.input_items.list(made[0].id)

    asyncio.run(run())


def test_the_input_that_is_kept_is_bounded() -> None:
    """Beyond so many bytes the oldest finished responses go; the newest stays, whatever its size."""

    async def run() -> None:
        async with stage(kept_input=3000) as at:
            made = []
            for size in (1000, 1000, 1000, 5000, 10):
                made.append(await at.create(input="x" * size, stream=False))
                at.puppet.end()
                await until(lambda: not at.state.busy)
                known = [at.state.responses.get(each.id) is not None for each in made]
                if size == 5000:
                    assert known == [False, False, False, True]
            assert known == [False, False, False, False, True]

    asyncio.run(run())
