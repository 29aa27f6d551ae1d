"""Many jobs as one: the group as a sequence, on its way to the server, joined and picked up again."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import itertools
import json
import pickle
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest

import bgmagic
from bgmagic.api.pricing import Terms, price_of_tokens
from bgmagic.api.response import TokenCounts
from bgmagic.errors import BadInput, BgmagicError, NotReady
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.outcome import JobCancelled, JobFailed
from bgmagic.runtime import pacing
from bgmagic.submission.app import NoShell, app
from bgmagic.sweeps.submit import attach_group
from bgmagic.text import dollars
from tests.jobs.test_job import LIMIT, SOON, eventually
from tests.support.scripted import Script, ScriptedServer, response
from tests.support.shell import FakeShell

NOTEBOOK = "/home/user/study.ipynb"
REFUSED = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
Ask = Callable[..., JobGroup]


@pytest.fixture
def kernel_of(pointed: ScriptedServer, tmp_path: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    """Makes this process the next kernel of a notebook: the last one's jobs are left behind."""
    path, made = tmp_path / "data" / "journal.sqlite3", []

    def begin() -> dict[str, Any]:
        end()
        app._manager = app._made(path)
        namespace: dict[str, Any] = {}
        app.shell = FakeShell(namespace, NOTEBOOK)
        made.append(app.manager)
        return namespace

    def end() -> None:
        if made:
            assert made.pop().close(60)
        app._manager = None

    yield begin
    end()
    app.shell = NoShell()


@pytest.fixture
def ask(kernel_of: Callable[[], dict[str, Any]]) -> Ask:
    """Sends a group whose jobs are polled often."""
    kernel_of()

    def ask(template: str = "Say {{ item }}", items: Any = None, **options: Any) -> JobGroup:
        return bgmagic.map(template, items, **{"poll": SOON, **options})

    return ask


def prompts(server: ScriptedServer) -> list[str]:
    """What was asked, in the order in which it arrived."""
    creates = [seen.body for seen in server.seen if seen.kind == "create"]
    return [body["input"][0]["content"][0]["text"].strip() for body in creates]


def letter(body: Any) -> str:
    """The end of what was asked."""
    return str(body["input"][0]["content"][0]["text"]).strip()[-1]


def echo(rid: str, body: Any) -> dict[str, Any]:
    """A response that says what was asked."""
    text = body["input"][0]["content"][0]["text"].strip()
    usage = {
        "input_tokens": 3,
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    return response(rid, "completed", f"re: {text}", usage=usage)


# As a collection.


def test_a_list_becomes_a_list_of_answers(ask: Ask, pointed: ScriptedServer) -> None:
    """Each item is asked once, the answers stand in the items' order, and the group is a sequence."""
    pointed.ending = echo
    group = ask(items=["a", "b", "c"])
    assert group.result(LIMIT) == ["re: Say a", "re: Say b", "re: Say c"]
    assert sorted(prompts(pointed)) == ["Say a", "Say b", "Say c"]
    assert list(group) == group.result() == group[:]
    assert (len(group), group[-1], group.index("re: Say b")) == (3, "re: Say c", 1)
    assert all(isinstance(answer, Answer) for answer in group)
    assert repr(group) == "<JobGroup group 3 jobs: 3 completed>"
    with pytest.raises(BgmagicError, match="pickle its answers"):
        pickle.dumps(group)


def test_a_dict_becomes_a_dict(ask: Ask, pointed: ScriptedServer) -> None:
    """The answers of a dict have its keys, whatever these are; several of one item are a list."""
    pointed.ending = echo
    group = ask(items={"x": "a", 7: "b", (1, 2): "c"})
    assert group.result(LIMIT) == {"x": "re: Say a", 7: "re: Say b", (1, 2): "re: Say c"}
    assert dict(group) == group.result()
    assert group.jobs[0].name == "group['x']"
    twice = ask(items={"x": "a", "y": "b"}, n=2)
    assert twice.result(LIMIT) == {"x": ["re: Say a"] * 2, "y": ["re: Say b"] * 2}


def test_rows_settings_and_samples_in_a_table(ask: Ask, pointed: ScriptedServer) -> None:
    """Rows of a DataFrame, two settings and two samples: all combined, and the table has a row for
    each with its columns, its settings, tokens and text; what is not known is missing."""
    pointed.ending = echo
    table = pandas.DataFrame({"q": ["a", "b"], "count": [1, 2]})
    sweep = {"effort": ["low", "high"], "temperature": [0]}
    group = ask("{{ item.q }}{{ item.count }} {{ who }}", table, n=2, sweep=sweep, fill={"who": "me"})  # fmt: skip
    group.result(LIMIT)
    bodies = [seen.body for seen in pointed.seen if seen.kind == "create"]
    assert sorted((b["input"][0]["content"][0]["text"], b["reasoning"]["effort"]) for b in bodies) == sorted(
        itertools.chain.from_iterable([pair] * 2 for pair in itertools.product(["a1 me", "b2 me"], ["low", "high"]))
    )  # fmt: skip
    assert {body["temperature"] for body in bodies} == {0}
    frame = group.to_frame()
    assert list(frame["item.q"]) == ["a"] * 4 + ["b"] * 4
    assert list(frame["effort"]) == ["low", "low", "high", "high"] * 2
    assert list(frame["sample"]) == [0, 1] * 4
    assert list(frame["text"])[:1] == ["re: a1 me"]
    assert (frame["tokens_in"].sum(), frame["tokens_out"].sum(), frame["tokens_reasoning"].sum()) == (24, 40, 16)  # fmt: skip
    assert set(frame["status"]) == {"completed"}
    assert (frame["seconds"] > 0).all()
    assert frame["price"].isna().all()
    assert frame["error"].isna().all()


def test_a_table_after_a_restart(
    ask: Ask, pointed: ScriptedServer, kernel_of: Callable[[], dict[str, Any]]
) -> None:
    """In the next kernel too a column of numbers is one, with what is missing missing; rows of different
    columns have theirs before how it went; the keys of a dict can be grouped by."""
    table = pandas.DataFrame({"n": [1.5, None], "k": pandas.array([1, None], dtype="Int64")})
    first = ask("{{ item.n }}", table)
    mixed = ask("{{ item.q }}", [{"q": "a"}, {"q": "b", "more": 1}])
    keyed = ask("{{ item }}", {(1, 2): "a"}, n=2)
    for group in (first, mixed, keyed):
        group.result(LIMIT)
    kernel_of()
    for before in (first, mixed, keyed):
        for group in (before, attach_group(before.key, "x")):
            frame = group.to_frame()
            if before is first:
                assert frame["item.n"].dtype == float
                assert frame["item.n"].sum() == 1.5
                assert list(frame["item.k"].isna()) == [False, True]
            elif before is mixed:
                assert list(frame.columns)[:2] == ["item.q", "item.more"]
                assert list(frame.columns)[-1] == "error"
            else:
                assert frame.groupby("key").size().to_dict() == {(1, 2): 2}


def test_a_dict_whose_journal_has_one_of_two(
    ask: Ask, pointed: ScriptedServer, kernel_of: Callable[[], dict[str, Any]]
) -> None:
    """A dict's group of two samples gives lists also where the journal has only one of them in it, since
    the other is an earlier sweep's."""
    ask(items={"a": "x"}, out="first").result(LIMIT)
    both = ask(items={"a": "x"}, n=2, out="both", reuse=True)
    both.result(LIMIT)
    assert pointed.count("create") == 2
    sweep = {"effort": ["low", "high"]}
    ask(items={"a": "x"}, effort="low", out="first").result(LIMIT)
    efforts = ask(items={"a": "x"}, sweep=sweep, out="efforts", reuse=True)
    one = ask(items={"a": "x"}, sweep={"effort": ["max"]}, out="one")
    assert (len(efforts.result(LIMIT)["a"]), one.result(LIMIT)) == (2, {"a": "the answer"})
    kernel_of()
    assert dict(attach_group(both.key, "both")) == {"a": ["the answer"]}
    assert dict(attach_group(efforts.key, "efforts")) == {"a": ["the answer"]}
    assert dict(attach_group(one.key, "one")) == {"a": "the answer"}


def test_columns_of_any_name(ask: Ask, pointed: ScriptedServer) -> None:
    """Columns may have the names of a dict's methods: the whole row, and each of them, goes into the text."""
    names = ["items", "values", "keys", "get", "count"]
    rows = [dict.fromkeys(names, number) for number in (1, 2)]
    group = ask("{{ item.items }}{{ item.values }}{{ item.get }}{{ item }}", rows)
    group.result(LIMIT)
    whole = ",".join(f'\n  "{name}": 1' for name in names)
    assert prompts(pointed)[0] == f"111{{{whole}\n}}"
    assert list(group.to_frame()["item.items"]) == [1, 2]


def test_jobs_stand_in_the_places_of_answers(ask: Ask, pointed: ScriptedServer) -> None:
    """Where there is no answer yet, or none came, the job stands in its place; retry_failed sends
    those again, in their places, and only those."""
    go = threading.Event()
    pointed.ending = lambda rid, body: (
        response(rid, "failed", error={"code": "server_error", "message": "no luck"})
        if letter(body) == "b"
        else echo(rid, body)
        if go.is_set() or letter(body) == "a"
        else response(rid, "in_progress")
    )
    group = ask(items=["a", "b", "c"])
    eventually(lambda: isinstance(group[0], Answer) and group.jobs[1].done())
    assert group[1] is group.jobs[1]
    assert isinstance(group[2], Job)
    assert group.failed == (group.jobs[1],)
    assert not group.done()
    with pytest.raises(NotReady):
        assert "no such answer" in group
    with pytest.raises(TimeoutError):
        group.result(0.01)
    go.set()
    with pytest.raises(JobFailed, match="no luck") as caught:
        group.result(LIMIT)
    assert caught.value.__notes__ == ["1 of 3 jobs ended without an answer; .failed has them all"]
    mixed = group.result(LIMIT, return_exceptions=True)
    assert [type(part) for part in mixed] == [Answer, JobFailed, Answer]
    pointed.ending = echo
    failed, before = group.jobs[1], pointed.count("create")
    retried = group.retry_failed()
    assert repr(retried) == "<1 job sent again>"
    (again,) = retried
    assert group.jobs[1] is again is not failed
    assert group.retry_failed() == ()  # pressed twice, sent once
    assert group.result(LIMIT) == ["re: Say a", "re: Say b", "re: Say c"]
    assert pointed.count("create") == before + 1
    beside = failed.resend()  # its place is another's by now
    assert beside.result(LIMIT) == beside.resend().result(LIMIT) == "re: Say b"
    assert group.jobs[1] is again


def test_what_may_have_been_accepted_is_not_retried(ask: Ask, pointed: ScriptedServer) -> None:
    """A job of which nobody knows whether it was accepted is sent again only on purpose."""
    pointed.enqueue("create", Script(reset="after"))
    group = ask(items=["a"])
    eventually(group.done)
    assert group.counts == {"unknown": 1}
    assert group.retry_failed() == ()
    assert pointed.count("create") == 1
    (again,) = group.retry_failed(unknown=True)
    assert again.result(LIMIT) == "the answer"


def test_waiting_for_all_of_them(ask: Ask, pointed: ScriptedServer) -> None:
    """`await`, `as_completed` and `async for` give every answer; to be cancelled while awaiting does
    not cancel a job."""
    pointed.ending = echo
    group = ask(items=list("abcd"))

    async def everything() -> tuple[Any, list[str]]:
        answers = await group
        ended = [str(job.result()) async for job in group.as_completed(LIMIT)]
        return answers, ended

    answers, ended = asyncio.run(everything())
    assert answers == sorted(ended) == [f"re: Say {letter}" for letter in "abcd"]
    assert sorted(job.result() for job in group.as_completed(LIMIT)) == answers
    pointed.polls = 10**6
    endless = ask(items=list("ef"))

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await endless
        with pytest.raises(TimeoutError):
            async for _ in endless.as_completed(0.1):
                pass

    asyncio.run(impatient())
    assert not any(job.record.cancelling for job in endless.jobs)


@pytest.mark.parametrize("how", ["result", "await"])
def test_what_is_retried_while_someone_waits_is_waited_for(
    ask: Ask, pointed: ScriptedServer, how: str
) -> None:
    """Who waits for a group whose failed job is sent again meanwhile gets the new answer."""
    refused = {"error": {"message": "no such model"}}
    pointed.enqueue("create", Script(status=400, json=refused))
    pointed.polls = 10**6
    group = ask(items=["a", "b"], max_in_flight=1)
    eventually(lambda: group.failed and group.jobs[1].running())

    async def awaited() -> Any:
        return await group

    def has_waiter(job: Job) -> bool:
        with job._condition:
            return bool(job._waiters or (job._awaiting and job._awaiting._sleepers))

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        wait = functools.partial(group.result, LIMIT)
        found = pool.submit(wait if how == "result" else lambda: asyncio.run(awaited()))
        # Once it waits for the second.
        second = group.jobs[1]
        eventually(lambda: has_waiter(second))
        gate = threading.Event()
        pointed.enqueue("create", Script(hold=gate))
        (again,) = group.retry_failed()
        pointed.polls, pointed.ending = 1, echo
        eventually(second.done)
        gate.set()
        assert found.result(LIMIT) == ["re: Say a", "re: Say b"]
        assert group.jobs == (again, second)


def test_garbage_is_not_collected_meanwhile(ask: Ask, pointed: ScriptedServer) -> None:
    """While a sweep is sent nothing is collected; afterwards Python does as before, also after an error."""
    seen: list[bool] = []

    class Item:
        def __str__(self) -> str:
            seen.append(gc.isenabled())
            return "a"

    ask(items=[Item()])
    with pytest.raises(BadInput):
        ask(items=[Item(), print])
    assert set(seen) == {False}
    assert gc.isenabled()
    gc.disable()
    try:
        ask(items=["a"])
        assert not gc.isenabled()
    finally:
        gc.enable()


# On the way to the server.


def test_so_many_at_once_and_the_others_wait(ask: Ask, pointed: ScriptedServer) -> None:
    """No more jobs than --max-in-flight are at the server; the others wait, in order, and each that
    ends makes room for one."""
    pointed.polls = 10**6
    group = ask(items=range(12), max_in_flight=4)
    eventually(lambda: sum(job.running() for job in group.jobs) == 4)
    assert group.counts["waiting"] == 8
    assert sorted(prompts(pointed)) == [f"Say {n}" for n in range(4)]
    running, watch = [len(prompts(pointed))], list[int]()

    def choose(kind: str) -> Script:
        """Count, as one is sent, those that the server has not said to have ended."""
        if kind == "create":
            had = list(pointed.responses.values())
            watch.append(1 + sum(one["status"] != "completed" for one in had))
        return Script()

    pointed.choose = choose
    pointed.ending = echo
    pointed.polls = 1
    assert len(group.result(LIMIT)) == 12
    assert len(watch) == 8
    assert max(watch) <= 4
    asked = [int(text.removeprefix("Say ")) for text in prompts(pointed)]
    assert sorted(asked) == list(range(12))
    # Those that are let go together may overtake each other, nobody else.
    assert all(abs(place - number) < 4 for place, number in enumerate(asked))
    assert running == [4]


def test_cancel_all(ask: Ask, pointed: ScriptedServer) -> None:
    """Cancelling the group cancels those at the server there, and those that wait here: they are never
    sent."""
    pointed.polls = 10**6
    group = ask(items=range(20), max_in_flight=3)
    eventually(lambda: sum(job.running() for job in group.jobs) == 3)
    assert group.cancel()
    eventually(group.done)
    assert group.counts == {"cancelled": 20}
    assert (pointed.count("create"), pointed.count("cancel")) == (3, 3)
    assert not group.cancel()
    with pytest.raises(JobCancelled):
        group.result(0)


def test_cancelled_before_it_was_written_down(ask: Ask, pointed: ScriptedServer) -> None:
    """A group that is cancelled in the same breath sends nothing."""
    busy = threading.Event()
    app.manager._loop.call(lambda: busy.wait(60))
    group = ask(items=range(50))
    group.cancel()
    busy.set()
    eventually(group.done)
    assert group.counts == {"cancelled": 50}
    assert pointed.count("create") == 0


def test_a_refusal_stops_the_whole_group(ask: Ask, pointed: ScriptedServer) -> None:
    """After a 429 nobody of the group sends before the time that the server wished is over; then the
    number at the server grows again, in order, and each job is accepted once."""
    shut_until = 0.0
    refused: list[float] = []

    def choose(kind: str) -> Script:
        nonlocal shut_until
        if kind != "create":
            return Script()
        now, count = time.monotonic(), pointed.count("create")
        if count == 6:
            shut_until = now + 0.4
        if now < shut_until:
            refused.append(now)
            left = {"retry-after-ms": str(int((shut_until - now) * 1000) + 20)}
            return Script(status=429, json=REFUSED, headers=left)
        return Script()

    pointed.choose, pointed.ending = choose, echo
    group = ask(items=range(30), max_in_flight=8)
    eventually(lambda: refused)
    assert group.result(LIMIT) == [f"re: Say {n}" for n in range(30)]
    # Only what was on its way when the first was refused.
    assert 1 <= len(refused) <= 8
    assert len(pointed.accepted) == 30
    later = [seen.at for seen in pointed.seen if seen.kind == "create" and seen.at > refused[-1]]
    assert min(later) >= shut_until


def test_refusals_without_a_wish_end_too(ask: Ask, pointed: ScriptedServer) -> None:
    """Refused without a retry-after, the group waits by itself, and all jobs are sent in the end."""
    pointed.enqueue("create", *[Script(status=429, json=REFUSED)] * 3)
    group = ask(items=range(5), max_in_flight=5)
    assert len(group.result(LIMIT)) == 5
    assert len(pointed.accepted) == 5


def test_no_wish_of_a_server_stops_a_group_for_ever(
    ask: Ask, pointed: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusals that arrive together and wish for years are heeded for no longer than one of them."""
    monkeypatch.setattr(pacing, "LIMIT", 0.2)
    years = {"retry-after": str(10**9)}
    pointed.enqueue("create", *[Script(status=429, json=REFUSED, headers=years)] * 5)
    group = ask(items=range(5), max_in_flight=5)
    assert len(group.result(LIMIT)) == 5


def test_a_server_that_fails_in_every_way(ask: Ask, pointed: ScriptedServer) -> None:
    """100 jobs at a server where one call in four is refused, dropped or garbled: none is accepted twice,
    each ends, and what is not known to be accepted is unknown."""
    dice = random.Random(7)
    left = {"retry-after-ms": "20"}
    faults = [
        Script(status=429, json=REFUSED, headers=left),
        Script(status=500, json=REFUSED),
        Script(reset="before"),
        Script(reset="after"),
        Script(truncate=5),
    ]
    pointed.ending = echo
    pointed.choose = lambda kind: dice.choice(faults) if dice.random() < 0.25 else Script()
    group = ask(items=range(100), max_in_flight=20)
    eventually(group.done, 60.0)
    asked = [
        json.loads(text)["input"][0]["content"][0]["text"] for text in pointed.accepted.values()
    ]
    assert len(asked) == len(set(asked))
    assert set(group.counts) == {"completed", "unknown"}
    assert {f"Say {n}" for n, answer in enumerate(group) if isinstance(answer, Answer)} <= set(
        asked
    )
    assert all(
        answer == f"re: Say {n}" for n, answer in enumerate(group) if isinstance(answer, Answer)
    )


def test_groups_that_wait_for_groups(ask: Ask, pointed: ScriptedServer) -> None:
    """The items of a sweep may be jobs that still run, and a prompt may hold a whole group: each job is
    sent when its own answers are there; one whose item failed ends as failed and is never sent."""
    go = threading.Event()
    pointed.ending = lambda rid, body: (
        response(rid, "failed", error={"message": "no luck"})
        if letter(body) == "b"
        else echo(rid, body)
        if go.is_set() or letter(body) == "a"
        else response(rid, "in_progress")
    )
    first = ask(items=list("abc"))
    eventually(lambda: first.jobs[0].running())
    second = ask("And {{ item }}", first)
    eventually(lambda: second.jobs[0].done() and second.jobs[1].done())
    assert second[0] == "re: And re: Say a"
    assert "no luck" in str(second.jobs[1].error)
    assert second.jobs[2].record.waits_for == ("group[2]",)
    third = ask("All: {{ group }}", None, n=2, fill={"group": [first[0], first[2]]})
    assert third.counts == {"waiting": 2}
    go.set()
    assert third.result(LIMIT) == ["re: All: - re: Say a\n- re: Say c"] * 2
    eventually(second.done)
    assert second[2] == "re: And re: Say c"
    assert pointed.count("create") == 7


# Before it costs.


def test_many_jobs_are_agreed_to(
    ask: Ask, pointed: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than confirm_above jobs are sent only with their very number; the line says how they come
    about and what they may cost. Nothing is sent before."""
    sweep = {"effort": ["low", "high"]}
    with pytest.raises(BadInput, match=r"these are 102 jobs \(51 items × 2 settings\): .*--yes 102") as caught:  # fmt: skip
        ask(items=range(51), sweep=sweep)
    assert "no price known" in str(caught.value)
    with pytest.raises(BadInput, match=r"these are 102 jobs, not 100"):
        ask(items=range(51), sweep=sweep, yes=100)
    with pytest.raises(BadInput, match=r"these are 3 jobs, not 2"):
        ask(items=range(3), yes=2)
    monkeypatch.setenv("BGMAGIC_CONFIRM_ABOVE", "2")
    with pytest.raises(BadInput, match="these are 3 jobs: "):
        ask(items=range(3))
    monkeypatch.setenv("BGMAGIC_CONFIRM_ABOVE", "many")
    with pytest.raises(BadInput, match="BGMAGIC_CONFIRM_ABOVE 'many': it must be a whole number"):
        ask(items=range(3))
    assert pointed.count("create") == 0
    monkeypatch.delenv("BGMAGIC_CONFIRM_ABOVE")
    assert len(ask(items=range(102), yes=102).result(LIMIT)) == 102


@pytest.mark.parametrize("options", [{"max_output_tokens": 1000}, {"param": {"max_output_tokens": 1000}}])  # fmt: skip
def test_the_most_it_can_cost(
    ask: Ask, pointed: ScriptedServer, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Where prices are known, the line has the most that all jobs can cost, however the bound was given."""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.openai.com/v1")
    one = price_of_tokens(Terms("gpt-5.2"), "https://api.openai.com/v1", TokenCounts(0, 1000))
    most = dollars((one or 0) * 200)
    with pytest.raises(BadInput, match=r"these are 200 jobs: at most .* for output, and about") as caught:  # fmt: skip
        ask(items=range(200), **options)
    assert f"at most {most} for output" in str(caught.value)


def test_requests_that_are_too_large_together(
    ask: Ask, pointed: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that would be in each of many requests is refused before it fills the memory."""
    monkeypatch.setattr("bgmagic.sweeps.plan.LARGEST", 3_000_000)
    large = [f"{number}" + "x" * 1_000_000 for number in range(4)]
    with pytest.raises(BadInput, match="these 4 jobs hold more than 3 MB together"):
        ask(items=large)
    assert pointed.count("create") == 0
    assert len(ask("Say it", n=4, fill={}).result(LIMIT)) == 4


@pytest.mark.parametrize(
    ("template", "items", "says"),
    [
        ("Say hello", ["a", "b"], "never names {{ item }}.*--n 2 instead"),
        (
            "{{ item.no }}",
            [{"q": 1}],
            "--each, item 0: line 1, {{ item.no }}: the row has no column 'no'; it has q",
        ),
        ("{{ item }}", {"x": bytes(3)}, "--each, item 'x': .*has no text"),
        ("{{ item }}", "text", "must be a list"),
        ("{{ other }}", ["a"], "there is no variable 'other'"),
        ("{{ item", ["a"], "has no }}"),
        ("{{ item }}", ["a", " "], "empty"),
        ("{{ item }}", (n / 0 for n in [1]), "going over it failed with ZeroDivisionError"),
    ],
)
def test_bad_input_sends_nothing(
    ask: Ask, pointed: ScriptedServer, template: str, items: Any, says: str
) -> None:
    """What can't be asked is one line that says which item, and nothing is sent."""
    with pytest.raises(BadInput, match=says) as caught:
        ask(template, items)
    assert "\n" not in str(caught.value)
    assert pointed.count("create") == 0


# Joined, and picked up again.


def test_the_same_sweep_again_joins_job_by_job(ask: Ask, pointed: ScriptedServer) -> None:
    """A sweep that is sent again while it runs joins it, the k-th sample the k-th; of those that have
    ended the answers are taken, the failed are sent anew; `again` sends all."""
    pointed.ending = lambda rid, body: (
        response(rid, "failed", error={"message": "no luck"})
        if letter(body) == "b"
        else echo(rid, body)
        if letter(body) == "a"
        else response(rid, "in_progress")
    )
    first = ask(items=list("abc"), n=2, out="x")
    eventually(lambda: sum(job.done() for job in first.jobs) == 4)
    assert pointed.count("create") == 6
    second = ask(items=list("abc"), n=2, out="x")
    eventually(lambda: pointed.count("create") == 8)
    joined = [one is two for one, two in zip(first.jobs, second.jobs, strict=True)]
    assert joined == [True, True, False, False, True, True]
    assert second.key != first.key
    eventually(lambda: all(job.record.position.group == second.key for job in second.jobs))
    eventually(lambda: len(second.failed) == 2)
    more = ask(items=list("cab"), n=1, out="x")
    assert more.jobs[0] is second.jobs[4]
    assert more.jobs[1] is second.jobs[0]
    eventually(lambda: more.jobs[0].name == "x[0]")
    eventually(lambda: pointed.count("create") == 9)
    ask(items=list("c"), out="x", again=True)
    ask(items=list("c"), out="y")
    ask(items=list("c"))
    eventually(lambda: pointed.count("create") == 12)


def test_a_sweep_run_again_and_again_while_the_loop_is_busy(
    ask: Ask, pointed: ScriptedServer
) -> None:
    """However quickly a growing sweep is run again, what its earlier runs asked is asked once, whether
    it still runs or has its answer."""
    pointed.polls = 10**6
    pointed.by_id["resp_1"] = Script(json=response("resp_1", "completed", "early"))
    first = ask(items=[1, 2, 3], out="study")
    eventually(first.jobs[0].done)
    eventually(lambda: pointed.count("create") == 3)
    busy = threading.Event()
    app.manager._loop.call(lambda: busy.wait(60))
    ask(items=[1, 2, 3, 4], out="study")
    third = ask(items=[1, 2, 3, 4, 5], out="study")
    busy.set()
    eventually(lambda: third.jobs[4].running())
    assert third[0] == "early"
    assert sorted(prompts(pointed)) == [f"Say {n}" for n in range(1, 6)]
    eventually(lambda: [job.name for job in third.jobs] == [f"study[{n}]" for n in range(5)])


def test_run_again_before_it_was_written_down(
    ask: Ask,
    pointed: ScriptedServer,
    kernel_of: Callable[[], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sweep that is run again in the same breath is joined without a false alarm about the journal,
    which has every job in its newest place."""
    pointed.polls, journal = 10**6, app.manager.store.journal
    changes: list[concurrent.futures.Future[Any]] = []
    change = journal.change
    monkeypatch.setattr(journal, "change", lambda *a, **k: changes.append(change(*a, **k)) or changes[-1])  # fmt: skip
    ask(items=range(60), out="x")
    second = ask(items=range(59, -1, -1), out="x")
    eventually(lambda: pointed.count("create") == 60)
    assert [change.exception(LIMIT) for change in changes] == [None] * len(changes)
    kernel_of()
    pointed.polls, pointed.ending = 0, echo
    third = attach_group(second.key, "x")
    assert third.result(LIMIT) == [f"re: Say {n}" for n in range(59, -1, -1)]
    assert pointed.count("create") == 60


def test_changed_before_it_was_written_down(
    ask: Ask, pointed: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent again, and given another place or cancelled in the same breath, gives no false
    alarm about the journal either, which has it as it is now."""
    pointed.enqueue("create", *[Script(status=400, json={"error": {"message": "no"}})] * 3)
    first = ask(items=[1, 2, 3], out="x")
    eventually(first.done)
    pointed.polls, journal = 10**6, app.manager.store.journal
    changes: list[concurrent.futures.Future[Any]] = []
    change = journal.change
    monkeypatch.setattr(journal, "change", lambda *a, **k: changes.append(change(*a, **k)) or changes[-1])  # fmt: skip
    busy = threading.Event()  # else the cancel may come too late
    app.manager._loop.call(lambda: busy.wait(60))
    first.retry_failed()
    second = ask(items=[3, 2, 1], out="x")
    second[0].cancel()
    busy.set()
    eventually(lambda: pointed.count("create") == 5)
    eventually(second[0].done)
    assert second[0].status == "cancelled"
    eventually(lambda: [job.status for job in second.jobs[1:]] == ["queued"] * 2)
    assert [change.exception(LIMIT) for change in changes] == [None] * len(changes)
    assert pointed.count("create") == 5
    entries = [journal.find(job.record.key) for job in second.jobs]
    assert [entry.group_index for entry in entries if entry] == [0, 1, 2]
    assert [entry.status for entry in entries if entry] == ["cancelled", "queued", "queued"]


def test_what_is_watched_no_more_is_joined(ask: Ask, pointed: ScriptedServer) -> None:
    """A sweep whose deadline has passed may still run at the server: run again, that is asked for its
    jobs, and none is sent twice; run again when all have ended, it is sent anew."""
    pointed.polls = 10**6
    pointed.enqueue("create", Script(json=response("resp_0", "completed", "early")))
    first = ask(items=[1, 2, 3], out="x", deadline=0.2)
    eventually(first.done)
    assert first.counts == {"detached": 2, "completed": 1}
    pointed.polls = 0
    second = ask(items=[1, 2, 3, 4], out="x")
    assert second.result(LIMIT) == ["early", "the answer", "the answer", "the answer"]
    assert pointed.count("create") == 4
    ask(items=[1, 2, 3, 4], out="x").result(LIMIT)
    assert pointed.count("create") == 8


def test_what_an_earlier_sweep_of_the_variable_still_asks_is_joined(
    ask: Ask, pointed: ScriptedServer
) -> None:
    """Back from other items to those that the variable's earlier group still runs: nothing is sent."""
    pointed.polls = 10**6
    first = ask(items=[1, 2], out="study")
    ask(items=[3], out="study")
    assert ask(items=[1, 2], out="study").jobs == first.jobs
    eventually(lambda: pointed.count("create") == 3)


def test_an_interrupted_sweep_is_free_to_run_again(
    ask: Ask, pointed: ScriptedServer, kernel_of: Callable[[], dict[str, Any]]
) -> None:
    """With --reuse a sweep that was interrupted is sent again for nothing: what has completed is given
    from the journal, sample by sample, what runs is followed, what waited is sent."""
    pointed.ending = lambda rid, body: (
        echo(rid, body) | {"output": response(rid, "completed", f"from {rid}")["output"]}
        if letter(body) == "a"
        else response(rid, "in_progress")
    )
    first = ask(items=list("ab"), n=3, out="x", max_in_flight=4)
    eventually(lambda: pointed.count("create") == 6 and sum(job.done() for job in first.jobs) == 3)
    said = sorted(first[:3])
    pointed.ending = echo
    kernel_of()
    second = ask(items=list("ab"), n=3, out="x", reuse=True)
    assert sorted(second[:3]) == said
    assert len(set(said)) == 3
    assert second.result(LIMIT)[3:] == ["re: Say b"] * 3
    assert pointed.count("create") == 6
    kernel_of()
    third = ask(items=list("ab"), n=4, out="x", reuse=True)
    assert sorted(third.result(LIMIT)[:3]) == said
    assert pointed.count("create") == 8


def test_the_next_kernel_sends_what_was_not_sent(
    ask: Ask, pointed: ScriptedServer, kernel_of: Callable[[], dict[str, Any]]
) -> None:
    """A group picked up by the next kernel is whole: answers from the journal, jobs that run followed,
    those not yet sent are sent; none is sent twice, and the table is the same."""
    pointed.ending = lambda rid, body: (
        response(rid, "in_progress") if letter(body) == "b" else echo(rid, body)
    )
    first = ask(items={"k1": "a", "k2": "b", "k3": "c"}, n=2, out="x", max_in_flight=2)
    eventually(lambda: pointed.count("create") == 4)
    eventually(lambda: first.counts.get("in_progress") == 2)
    assert first.counts == {"completed": 2, "in_progress": 2, "waiting": 2}
    kernel_of()
    assert first.counts == {"completed": 2, "detached": 4}
    second = attach_group(first.key, "x")
    assert list(second) == ["k1", "k2", "k3"]
    assert second["k1"] == ["re: Say a"] * 2
    pointed.ending = echo
    assert second.result(LIMIT) == {f"k{n}": [f"re: Say {c}"] * 2 for n, c in enumerate("abc", 1)}
    assert len(pointed.accepted) == pointed.count("create") == 6
    frame = second.to_frame()
    assert list(frame["key"]) == ["k1", "k1", "k2", "k2", "k3", "k3"]
    assert list(frame["item"]) == ["a", "a", "b", "b", "c", "c"]
    assert list(frame["sample"]) == [0, 1] * 3


def test_retried_jobs_stay_in_the_journals_group(
    ask: Ask, pointed: ScriptedServer, kernel_of: Callable[[], dict[str, Any]]
) -> None:
    """A job that was retried is the one that the next kernel finds in its place, and a failed one can
    be retried there too."""
    pointed.ending = lambda rid, body: response(rid, "failed", error={"message": "no luck"})
    first = ask(items=["a", "b"], out="x")
    eventually(first.done)
    first.retry_failed()
    eventually(lambda: first.done() and len(first.failed) == 2)
    kernel_of()
    pointed.ending = echo
    second = attach_group(first.key, "x")
    assert [job.record.key for job in second.jobs] == [job.record.key for job in first.jobs]
    second.retry_failed()
    assert second.result(LIMIT) == ["re: Say a", "re: Say b"]
    assert pointed.count("create") == 6
