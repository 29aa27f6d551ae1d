"""When polls happen: with a clock of the test's own, since waiting is all there is to see."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.api.request import Request
from bgmagic.api.response import ResponseCompressor
from bgmagic.api.server import ServerConfig
from bgmagic.concurrency import Clock, Sleeper, TurnQueue, WakeEvent
from bgmagic.errors import ServerError
from bgmagic.jobs.job import Job
from bgmagic.jobs.record import JobRecord
from bgmagic.runtime import pacing
from bgmagic.runtime.pacing import (
    BUDGET_RETRY,
    LIMIT,
    AcceptedResponse,
    ConcurrencyLimiter,
    PollPacer,
    PollSchedule,
    ServerEndpoint,
)
from bgmagic.runtime.poll_gate import BURST, PollGate
from bgmagic.runtime.registry import MANY, Rush, Warmup
from bgmagic.runtime.watcher import ResponseWatcher
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.journal import Journal
from bgmagic.storage.owner_lock import OwnerLock
from bgmagic.transport.client import ResponsesClient
from bgmagic.transport.reply import Reply

seconds = st.floats(0, 1e9)


@given(
    interval=st.none() | st.floats(0.001, 89.99),
    steps=st.lists(
        st.tuples(st.just("reply"), st.none() | seconds)
        | st.tuples(st.just("failure"), st.none() | seconds)
        | st.tuples(st.just("soon"), st.none()),
        max_size=40,
    ),
    jitter=st.floats(0, 1),
)
def test_every_wait_is_between_zero_and_ninety(
    interval: float | None, steps: list[tuple[str, float | None]], jitter: float
) -> None:
    """Whatever the server wishes and however often it fails, each delay is above 0 and below 90 s."""
    delays = PollSchedule(interval, lambda: jitter)
    for kind, wish in steps:
        if kind == "soon":
            delays.soon()
            continue
        delay = delays.after_reply(wish) if kind == "reply" else delays.after_failure(wish)
        assert 0 < delay < 90
        if wish is not None:
            assert delay >= min(wish, 85.0)


def test_soon_at_first_then_every_ten_seconds() -> None:
    """Without --poll the waits are 1, 2, 4, 10, 10 s; with it they are as asked from the first on."""
    delays = PollSchedule(None, lambda: 0.5)
    assert [delays.after_reply() for _ in range(5)] == [1, 2, 4, 10, 10]
    asked = PollSchedule(25, lambda: 0.5)
    assert [asked.after_reply() for _ in range(2)] == [25, 25]


def test_failures_back_off_and_recover() -> None:
    """Failing polls wait ever longer, up to the limit, and an answer ends that."""
    delays = PollSchedule(10, lambda: 0.5)
    assert [delays.after_failure() for _ in range(8)] == [2, 4, 8, 16, 32, 64, 85, 85]
    assert delays.after_reply() == 10
    assert delays.after_failure() == 2


def test_cancelling_makes_polls_soon_again() -> None:
    """After `soon` the early delays begin again."""
    delays = PollSchedule(None, lambda: 0.5)
    for _ in range(9):
        delays.after_reply()
    delays.soon()
    assert delays.after_reply() == 1


class Time:
    """A clock that jumps."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.waits: list[float] = []

    def ring(self, sleeper: Sleeper, seconds: float) -> object:
        self.waits.append(seconds)
        self.at += seconds
        token = object()
        asyncio.get_running_loop().call_soon(sleeper.ring, token)
        return token

    def clock(self) -> Clock:
        return Clock(now=lambda: self.at, ring=self.ring)


class Server:
    """A client whose replies are those of a script, the last one over and over.

    Attributes:
        quick: whether polls need no task as long as nothing is new, which is always so then.
    """

    quick = False

    def __init__(self, replies: list[Reply | ServerError], time: Time, seconds: float) -> None:
        self._replies = itertools.chain(replies, itertools.repeat(replies[-1]))
        self._time, self._seconds = time, seconds
        self.compress = ResponseCompressor()

    def begin_poll(self, _response_id: str, told: Callable[..., None]) -> bool:
        if self.quick:
            asyncio.get_running_loop().call_soon(told, None, None)
        return self.quick

    def unchanged(self, _got: object, last: Reply | None) -> Reply | None:
        return last

    async def retrieve(
        self, _response_id: str, _last: Reply | None, _include: object, _asked: object
    ) -> Reply:
        self._time.at += self._seconds
        reply = next(self._replies)
        if isinstance(reply, ServerError):
            raise reply
        return reply


class Polls:
    """What polls a job: tells that it is to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    def begin_poll(self) -> None:
        self.begun.set()


class Unheard:
    """Whoever runs the job; nothing is asked of it here."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def run(
    replies: list[Reply | ServerError],
    deadline: float,
    hint: float | None = None,
    seconds: float = 0.0,
    turns: TurnQueue | None = None,
    trouble: str | None = None,
) -> tuple[Reply | None, Time, list[object]]:
    """Watch a response through ``replies``; what came of it, the waits, and each change of the job.

    Each reply takes so many ``seconds``; the journal has that ``trouble``.
    """
    time, heard = Time(), list[object]()
    record = JobRecord(Request("{}"), "https://host/v1", 0.0, status="queued")
    job = Job(record, Unheard())
    job.add_listener(lambda job: heard.append(job.record))
    store = JobStore(Journal(None), OwnerLock(None))
    store._trouble = trouble
    server: Any = Server(replies, time, seconds)
    endpoint = ServerEndpoint(server, PollPacer(), turns=turns or TurnQueue(1))
    accepted = AcceptedResponse(endpoint, "resp_1", Reply({}, hint), 1000.0)

    async def main() -> Reply | None:
        polls = Polls()
        watcher = ResponseWatcher(job, accepted, store, time.clock(), 10, polls)
        watcher.watch(1000 + deadline)
        while True:
            await polls.begun.wait()
            polls.begun.clear()
            reply = await watcher.poll()
            if watcher.is_over:
                return reply

    with pytest.MonkeyPatch.context() as patch:
        evenly = functools.partial(PollSchedule, jitter=lambda: 0.5)
        patch.setattr("bgmagic.runtime.watcher.PollSchedule", evenly)
        last = asyncio.run(main())
    store.close(1)
    return last, time, heard


def failure(retry_after: float | None = None) -> ServerError:
    return ServerError("no", maybe_accepted=True, retry_after=retry_after)


@pytest.mark.parametrize("status", ["completed", "failed", "incomplete", "cancelled"])
def test_terminal_statuses_end_the_polling(status: str) -> None:
    """Each of the four terminal statuses ends it."""
    end = Reply({"status": status})
    assert run([Reply({"status": "queued"}), end], 99)[0] is end


@pytest.mark.parametrize("status", ["queued", "dreaming", "unknown", "lost", None, 7, [], {}])
def test_other_statuses_are_polled_on(status: object) -> None:
    """Any other status, also one that is a word of ours or no word at all, is polled on."""
    end = Reply({"status": "completed"})
    last, _, heard = run([Reply({"status": status}), end], 99)
    assert last is end
    assert len(heard) == 1


def test_slow_answers_do_not_put_off_the_next_poll() -> None:
    """A poll that is answered or fails after a minute is followed by the next within 90 s of its start."""
    end = Reply({"status": "completed"})
    last, time, heard = run([*[failure()] * 9, Reply({}, 80.0), end], 1e6, seconds=60)
    assert last is end
    assert len(heard) == 10
    assert max(time.waits[1:]) + 60 < 90


def test_what_breaks_in_a_poll_without_a_task_is_not_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Polls that bring nothing new take no task and are repeated; what breaks in one, as a limit that can't
    be read, is logged, and the job is polled on in a task."""
    delays, end = iter([10.0, 10.0, 10.0]), Reply({"status": "completed"})
    monkeypatch.setattr(PollSchedule, "after_reply", lambda *_: next(delays))
    monkeypatch.setattr(Server, "quick", True)
    monkeypatch.setattr(Server, "unchanged", lambda *_: Reply({}))
    last, time, heard = run([end], 1e6)
    assert (last, time.waits, len(heard)) == (end, [10.0, 10.0, 10.0], 3)
    assert "was not polled" in caplog.text


def test_where_nobody_was_asked_the_limit_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that finds no connection, as after a wait for others, is put off no longer than until 85 s
    after the one before it."""
    put_off: list[float] = []

    class Turns(TurnQueue):
        def ask(self, sleeper: Sleeper, seconds: float) -> None:
            put_off.append(seconds)
            super().ask(sleeper, seconds)

    monkeypatch.setattr(Server, "quick", True)
    _, time, _ = run([Reply({"status": "completed"})], 1e6, turns=Turns(1))
    assert (time.waits, put_off) == ([10.0], [LIMIT - 10.0])


def test_failing_polls_never_end_the_job() -> None:
    """A thousand failing polls do not end it; the answer after them does."""
    end = Reply({"status": "completed"})
    last, time, heard = run([*[failure()] * 1000, end], 1e6)
    assert last is end
    assert len(heard) == 1000
    assert max(time.waits) < 90


GONE = ServerError("gone", maybe_accepted=True, status_code=404, from_api=True)
GATEWAY = ServerError("bad gateway", maybe_accepted=True, status_code=502)


@pytest.mark.parametrize("outage", [failure(), GATEWAY], ids=["refused", "gateway"])
def test_an_outage_does_not_delay_what_comes_after_it(outage: ServerError) -> None:
    """The delays of an outage are not those of the answers after it: a server that has forgotten the response is believed within 30 s of its first answer."""
    last, time, _ = run([*[outage] * 9, *[GONE] * 9], 1e6)
    assert last is None
    assert time.waits == [10, 2, 4, 8, 16, 32, 64, 85, 85, 85, 2, 4, 8, 16]


def test_the_servers_wishes_are_kept() -> None:
    """The poll hint and retry-after set the next wait."""
    end = Reply({"status": "completed"})
    _, time, _ = run(
        [failure(30.0), Reply({"status": "queued"}, poll_after=7.0), end], 999, hint=3.0
    )
    assert [round(wait) for wait in time.waits] == [3, 32, 7]


def test_deadline_ends_the_watch_after_one_more_poll() -> None:
    """At the deadline there is one more poll, and then no other."""
    last, time, heard = run([Reply({"status": "in_progress"})], 25)
    assert last is None
    assert time.waits == [10, 10, 5]
    assert len(heard) == 3


def test_answer_at_the_deadline_counts() -> None:
    """A job that has ended by the deadline's own poll is not given up."""
    end = Reply({"status": "completed"})
    assert run([Reply({"status": "queued"}), Reply({"status": "queued"}), end], 25)[0] is end


@pytest.mark.parametrize(
    ("jobs", "limit", "chosen", "between"),
    [
        (100, None, False, 10.0),
        (2_000, None, False, 10.0),
        (10_000, None, False, 50.0),
        (10_000, None, True, 10.0),  # the user's own interval, and no limit of theirs
        (10_000, 1_000.0, False, 10.0),
        (10_000, 250.0, True, 40.0),
        (100_000, None, False, 80.0),  # never 90 seconds or more, however many there are
    ],
)
def test_so_many_polls_a_second(
    jobs: int, limit: float | None, chosen: bool, between: float
) -> None:
    """Above so many polls a second of one server they are spread further, and stay even: within one
    round each job is polled, no second has many more than its share, and no wait reaches 90 s."""
    pacer = PollPacer(lambda: limit)
    slots = [pacer.join(chosen=chosen) for _ in range(jobs)]
    first = [slot.wait(10.0) or 0.0 for slot in slots]
    assert between * 0.95 < max(first) <= between * 1.25 + 0.1
    seconds = Counter(int(wait) for wait in first if wait < between)
    assert max(seconds.values()) <= jobs / between * 1.3 + 2
    assert all(0 < (slot.wait(10.0) or 0.0) < 90.0 for slot in slots)


def test_a_limit_is_set_while_jobs_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`BgMagics.polls_per_second` counts from the next second on, for jobs that run already, too."""
    now, limit = [100.0], [500.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    pacer = PollPacer(lambda: limit[0])
    slots = [pacer.join() for _ in range(10_000)]
    assert pacer.spread(10.0, chosen=False) == 20.0
    limit[0], now[0] = 125.0, 102.0
    assert pacer.spread(10.0, chosen=False) == 80.0
    for slot in slots[100:]:
        slot.leave()
    assert pacer.spread(10.0, chosen=False) == 10.0


@pytest.mark.parametrize(
    ("computes", "limit", "gone"),
    [
        (False, None, [100, 100]),
        (True, None, [40, 80, 99]),
        (True, 100.0, [20, 40, 60, 80, 99]),  # the user's own
        (True, 0.001, [1] * 10 + [99, 99]),  # after 2 s they go on in any case
    ],
)
def test_few_polls_a_second_beside_a_cell_that_computes(
    monkeypatch: pytest.MonkeyPatch, computes: bool, limit: float | None, gone: list[int]
) -> None:
    """While the cells' thread computes, polls go on at a rate that it hardly feels, in the order in
    which they asked, and none waits for long; without that, all at once."""
    used = itertools.count(0.0, float(computes))
    monkeypatch.setattr(pacing, "cells_time", lambda: next(used))
    gate, went, now = PollGate(lambda: limit), list[int](), [1000.05]

    async def poll(number: int) -> None:
        await gate.passed()
        went.append(number)

    async def main() -> list[int]:
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
        await gate.passed()  # finds out what the cells' thread has used so far
        now[0] += BURST
        tasks = [asyncio.create_task(poll(number)) for number in range(100)]
        told = []
        for step in range(len(gone)):
            for _ in range(4):  # the timer, those that it lets go, their end
                await asyncio.sleep(0)
            told.append(len(went))
            if not step and computes:
                tasks[-1].cancel()
            now[0] += BURST
        await asyncio.gather(*tasks, return_exceptions=True)
        return told

    assert asyncio.run(main()) == gone
    assert went == sorted(went)


class Sent:
    """Takes the place of connections: the ids of the responses that were asked for."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def get_soon(self, response_id: str, limit: float, told: Callable[..., object]) -> bool:
        self.ids.append(response_id)
        told(None, None)
        return True


def test_few_of_many_polls_without_a_task_wait_beside_a_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 1,000 polls that are due each second beside a computing cell 200 are made: where many wait
    already, one is left to wait for a turn, so that none of those loses its patience."""
    used, now, sent = itertools.count(0.0), [1000.05], Sent()
    monkeypatch.setattr(pacing, "cells_time", lambda: next(used))

    async def main() -> int:
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
        client = ResponsesClient(ServerConfig("http://127.0.0.1:9/v1", "sk-x"), PollGate())
        client._direct = sent  # type: ignore[assignment]
        left = 0
        for _ in range(50):  # ten seconds
            due = [client.begin_poll("resp_1", lambda *_: None) for _ in range(200)]
            left += due.count(False)
            now[0] += BURST
            for _ in range(4):
                await asyncio.sleep(0)
        await client.close()
        return left

    assert asyncio.run(main()) >= 7_500
    assert 1_900 <= len(sent.ids) <= 2_300


class Sleepers:
    """Those who ask for turns, by numbers: who has got one."""

    def __init__(self, turns: TurnQueue) -> None:
        self.turns = turns
        self.went: list[str] = []
        self.all = [Sleeping(self, str(number)) for number in range(6)]

    def ask(self, seconds: float) -> None:
        for one in self.all:
            self.turns.ask(one, seconds)


class Sleeping:
    def __init__(self, others: Sleepers, name: str) -> None:
        self.others, self.name = others, name

    def ring(self, token: object) -> None:
        assert token is self.others.turns
        self.others.went.append(self.name)


def test_turns_are_given_in_order_as_others_leave() -> None:
    """As long as so many jobs poll, or their ends are being written down, others wait: each goes as
    one leaves, in the order in which they asked, and who gives up is passed over."""

    async def main() -> None:
        some = Sleepers(TurnQueue(2))
        some.ask(LIMIT)
        assert some.went == ["0", "1"]
        some.turns.leave(some.all[2])
        assert some.went == ["0", "1"]
        for number, went in (1, "013"), (3, "0134"), (0, "01345"):
            some.turns.leave(some.all[number])
            assert "".join(some.went) == went

    asyncio.run(main())


def test_a_sweep_asks_its_budget_again_as_soon_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often its budget has held a sweep back, one of its jobs asks again after the same few
    seconds, so that a budget that is raised is noticed."""

    async def main() -> None:
        loop, now = asyncio.get_running_loop(), [1000.0]
        monkeypatch.setattr(loop, "time", lambda: now[0])
        limiter, wake = ConcurrencyLimiter(4), WakeEvent()
        for _ in range(9):
            asking = loop.create_task(limiter.acquire(0, wake))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert asking.done()
            limiter.put_off(wake, BUDGET_RETRY)
            now[0] += BUDGET_RETRY
            await asyncio.sleep(0)

    asyncio.run(main())


def test_no_turn_is_waited_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever holds up those who have the turns, the others go once their time is over."""
    monkeypatch.setattr("bgmagic.concurrency.LOOK", 0.02)

    async def main() -> None:
        some = Sleepers(TurnQueue(1))
        some.ask(0.02)
        assert some.went == ["0"]
        while len(some.went) < 6:
            await asyncio.sleep(0.02)
        assert some.went == list("012345")

    asyncio.run(asyncio.wait_for(main(), 30))


class PutOff(TurnQueue):
    """Remembers how long a poll may be put off, and gives turns at once."""

    def __init__(self) -> None:
        super().__init__(0)
        self.seconds: list[float] = []

    def ask(self, sleeper: Sleeper, seconds: float) -> None:
        self.seconds.append(seconds)
        super().ask(sleeper, 0)


@pytest.mark.parametrize(("trouble", "seconds"), [(None, LIMIT - 10), ("broken", 0.0)])
def test_no_poll_is_put_off_beyond_the_limit(trouble: str | None, seconds: float) -> None:
    """Ten seconds after the poll before, one may wait for a turn as long as the limit leaves; and not at
    all where the journal can't be written, since that would be waited for in vain."""
    end, turns = Reply({"status": "completed"}), PutOff()
    assert run([Reply({}), end], 1e6, turns=turns, trouble=trouble)[0] is end
    assert turns.seconds == [seconds, seconds]


def test_the_collector_rests_while_many_jobs_come_and_go() -> None:
    """Garbage is looked for less often only while many jobs begin or end at once, and then as
    before, or as the user has set it meanwhile."""
    before, rush = gc.get_threshold(), Rush()
    rush.begin(MANY - 1)
    assert gc.get_threshold() == before
    try:
        with rush:
            assert gc.get_threshold()[0] > before[0]
        assert gc.get_threshold() == before
        with rush:
            rush.reset()  # as a forked child does, which sends none of them
            assert gc.get_threshold() == before
            rush.begin(MANY)
        assert gc.get_threshold() == before
        with rush:
            gc.set_threshold(900)
        assert gc.get_threshold()[0] == 900
    finally:
        gc.set_threshold(*before)


def test_threads_hand_over_sooner_only_while_the_first_client_is_made() -> None:
    """The interpreter goes from thread to thread sooner only for the process's first client and
    its first request, and then as before, or as the user has set it meanwhile."""
    before = sys.getswitchinterval()

    async def make_clients(warmup: Warmup, *, clash: bool) -> float:
        with warmup:
            inside = sys.getswitchinterval()
        if clash:
            sys.setswitchinterval(0.002)
        warmup.end()
        after = sys.getswitchinterval()
        with warmup:
            assert sys.getswitchinterval() == after  # the second client has all there is
        assert inside < before
        return after

    try:
        assert asyncio.run(make_clients(Warmup(), clash=False)) == before
        assert asyncio.run(make_clients(Warmup(), clash=True)) == pytest.approx(0.002)
    finally:
        sys.setswitchinterval(before)
