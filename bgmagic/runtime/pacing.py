"""Decides when and how a job may call its server.

`PollSchedule` computes delays and never waits. `PollPacer` spreads the polls of many jobs evenly.
`ConcurrencyLimiter` bounds the jobs of a sweep that are at the server. `Courtesy` paces the work
beside a cell. `ServerEndpoint` is what all jobs of one server share, and `RunConfig` what one job
was submitted with.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import field
from typing import TypeVar

from bgmagic.api.server import ServerConfig
from bgmagic.concurrency import TurnQueue, WakeEvent
from bgmagic.runtime.sending import ServerBehavior
from bgmagic.transport.client import CREATE_TIMEOUT, ResponsesClient
from bgmagic.transport.reply import Reply
from bgmagic.transport.streaming import EventStream
from bgmagic.values import dataclass

T = TypeVar("T")

# The user's specification of the API: poll usually every 10 seconds and always less than 90 apart.
INTERVAL = 10.0

# On a busy machine a wait ends late: 10,000 jobs each 89 s, beside ten other programs, had 91 s.
LIMIT = 85.0

# Most short jobs end within these; they cost three requests a job.
EARLY = (1.0, 2.0, 4.0)

# Seconds until a job that the budget holds back asks again; of a sweep one does.
BUDGET_RETRY = 5.0

SPREAD = 0.1  # a tenth more or less, so that jobs submitted together don't poll together for ever


class PollSchedule:
    """Computes the delay (s) before a job's next poll: always above 0 and below 90."""

    __slots__ = ("_early", "_failures", "_interval", "_jitter", "_polls", "_slot")

    def __init__(
        self,
        interval: float | None = None,
        jitter: Callable[[], float] = random.random,
        slot: Callable[[float], float | None] = lambda _: None,
    ) -> None:
        """Start the delays of one job.

        Args:
            interval: seconds between polls from the first one on; None means 1, 2, 4 and then
                every 10 seconds.
            jitter: gives numbers from 0 to 1.
            slot: returns the delay (s) until this job's slot, given its interval (s), or None if
                polls are not spread.
        """
        self._slot = slot
        self._interval = INTERVAL if interval is None else interval
        self._early = EARLY if interval is None else ()
        self._jitter = jitter
        self._polls = 0
        self._failures = 0

    def after_reply(self, hint: float | None = None) -> float:
        """Delay (s) after an answer, or before the first poll; ``hint``: the server's wish (s)."""
        self._failures = 0
        self._polls += 1
        if hint is not None:
            return self._at_least(max(hint, 0.1))
        slot = self._slot(self._interval)
        if slot is not None:
            return min(slot, LIMIT)
        early = self._polls <= len(self._early)
        return self._around(self._early[self._polls - 1] if early else self._interval)

    def after_failure(self, retry_after: float | None = None) -> float:
        """Delay (s) after a failed poll: doubling from a fifth of the interval.

        Never less than ``retry_after``, the server's wish, as long as that is below 90.
        """
        self._failures += 1
        backoff = self._interval / 5 * 2 ** min(self._failures - 1, 16)
        wished = max(self._around(backoff), self._at_least(retry_after or 0.0))
        slot = self._slot(self._interval)
        # Many jobs that fail together must not poll again together, and not at once.
        return wished if slot is None else min(max(wished, slot), LIMIT)

    def reached(self) -> None:
        """Begin the delays after failures anew: the server answers again."""
        self._failures = 0

    def slow(self) -> float:
        """Delay (s) while the server refuses the key: a user has to do something first."""
        return self._around(3 * self._interval)

    def soon(self) -> None:
        """Begin with the early delays again: something is about to change."""
        self._polls = 0

    def _around(self, seconds: float) -> float:
        return min(seconds * (1 + SPREAD * (2 * self._jitter() - 1)), LIMIT)

    def _at_least(self, seconds: float) -> float:
        # A server's wish is not undercut: it may count polls that come too soon.
        return min(seconds * (1 + SPREAD * self._jitter()), LIMIT)


# Up to so many jobs poll on their own schedule, soon at first; the polls of more are spread.
FEW = 20

# Seconds. The polls of one step wake the thread once: a quarter less CPU than one by one.
STEP = 0.1

# The fractional parts of its multiples are spread evenly over 0 to 1, however many there are.
_GOLDEN = 0.6180339887498949


# The most polls a second of one server, unless the user says otherwise. A GET counts against an
# account's rate limits, and ten times as many polls slow a cell that computes by a fifth.
POLLS_PER_SECOND = 200.0

WIDEST = 80.0  # seconds between two polls, however many jobs there are; with all else below LIMIT


class PollPacer:
    """Spreads the polls of one server's jobs evenly. On the loop thread only."""

    def __init__(self, limit: Callable[[], float | None] = lambda: None) -> None:
        """Make it; ``limit`` tells the most polls a second, or None if the user has set none."""
        self._size = 0
        self._places = itertools.count()
        self._limit = limit
        self._asked_at = -math.inf
        self._most: float | None = None

    def spread(self, interval: float, *, chosen: bool, now: float | None = None) -> float:
        """Seconds between two polls of a job that should be polled each ``interval``: more where
        the jobs are so many that their polls were above the limit.

        Args:
            chosen: whether the user chose the interval, which only a limit of the user's widens.
            now: the time by `time.monotonic`, if that is at hand.
        """
        now = time.monotonic() if now is None else now
        if now - self._asked_at > 1.0:  # each poll asks
            self._asked_at, self._most = now, self._limit()
        most = self._most or (math.inf if chosen else POLLS_PER_SECOND)
        return max(interval, min(self._size / most, WIDEST))

    @property
    def many(self) -> bool:
        """Whether there are so many jobs that their polls are spread."""
        return self._size > FEW

    def join(self, *, chosen: bool = False) -> PollSlot:
        """Add a job, and return its slot; ``chosen`` as in `spread`."""
        self._size += 1
        return PollSlot(self, next(self._places) * _GOLDEN % 1, chosen=chosen)

    def _leave(self) -> None:
        self._size -= 1


class PollSlot:
    """One job's place within the interval, from 0 to 1."""

    __slots__ = ("_chosen", "_first", "_pacer", "_position")

    def __init__(self, pacer: PollPacer, position: float, *, chosen: bool) -> None:
        self._pacer = pacer
        self._chosen = chosen
        self._position = position
        self._first = True

    def wait(self, interval: float) -> float | None:
        """Seconds until the slot of a job that polls each ``interval`` (s); None if jobs are few.

        Between 0 and 1.25 × interval (+ one step) before the first poll, about one interval after
        that.
        """
        if not self._pacer.many:
            return None
        now = time.monotonic()
        interval = self._pacer.spread(interval, chosen=self._chosen, now=now)
        ahead = (self._position * interval - now) % interval
        # A job that was just polled is not polled again at once; a new job may be.
        if ahead < interval / 4 and not self._first:
            ahead = min(ahead + interval, LIMIT - STEP)
        self._first = False
        step = min(STEP, interval / 100)
        wait = math.ceil((now + ahead) / step) * step - now
        return wait if wait > 0 else step

    __call__ = wait

    def leave(self) -> None:
        """Remove the job."""
        self._pacer._leave()


# Jobs that are polled at once, or whose ends are being written down: so long each has its whole
# response in memory, as 5 MB for 200 of 8 kB. Four polls wait behind each that is in flight.
TURNS = 200


class ConcurrencyLimiter:
    """Bounds the jobs of one group that are at the server; the others wait, in order.

    A job is identified by its `WakeEvent`, the object that resumes its runner.
    """

    def __init__(self, most: int) -> None:
        """Make a limiter for at most ``most`` jobs at once."""
        self._most = most
        self._limit = most
        self._inside: set[WakeEvent] = set()
        self._queue: list[tuple[int, int, WakeEvent]] = []
        self._asking: set[WakeEvent] = set()
        self._asked = 0
        self._delays = PollSchedule(5.0)
        self._opens_at = 0.0  # by the loop's clock
        self._holders: set[object] = set()

    def hold(self, holder: object) -> None:
        """Admit no job until ``holder`` lets them go on; those inside stay."""
        self._holders.add(holder)

    def let(self, holder: object) -> None:
        """Take the hold of ``holder`` back."""
        self._holders.discard(holder)
        self._admit()

    async def acquire(self, order: int, wake: WakeEvent) -> bool:
        """Wait for a slot, the lowest ``order`` first; False if ``wake`` was set otherwise.

        A job that has a slot already keeps it.
        """
        if wake in self._inside:
            return True
        self._asked += 1
        heapq.heappush(self._queue, (order, self._asked, wake))
        self._asking.add(wake)
        self._admit()
        await wake.wait()
        wake.clear()
        self._asking.discard(wake)
        return wake in self._inside

    def acquire_nowait(self, wake: WakeEvent) -> None:
        """Give a slot to a job that the server has already."""
        self._inside.add(wake)

    def release(self, wake: WakeEvent) -> None:
        """Free the slot: the job has ended, or is to try again later."""
        self._asking.discard(wake)
        self._inside.discard(wake)
        self._inside = self._inside or set()  # of thousands it would keep all its room
        self._admit()

    def on_accepted(self) -> None:
        """Raise the limit to two more than the server has, up to the most: it accepts jobs."""
        self._delays.after_reply(0.0)
        self._limit = min(self._most, max(self._limit, len(self._inside)) + 2)
        self._admit()

    def on_throttled(self, wake: WakeEvent, retry_after: float | None) -> None:
        """Admit no job for ``retry_after`` seconds, or for a delay that grows, and then one."""
        loop = asyncio.get_running_loop()
        closed = loop.time() < self._opens_at
        if retry_after is not None or not closed:
            # Refusals that arrive together count as one failure; no wait is above LIMIT.
            more = min(retry_after or 0.0, LIMIT)
            wait = more if closed else self._delays.after_failure(retry_after)
            self._close(wait)
        self._leave(wake)

    def put_off(self, wake: WakeEvent, seconds: float) -> None:
        """Admit no job for ``seconds``, and then one; it is not the server that refuses."""
        self._close(seconds)
        self._leave(wake)

    def _close(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._opens_at = max(self._opens_at, loop.time() + seconds)
        loop.call_at(self._opens_at, self._open)

    def _leave(self, wake: WakeEvent) -> None:
        self._inside.discard(wake)
        self._limit = len(self._inside)

    def _open(self) -> None:
        # Timers may go off a little early; one that a later refusal outdated does nothing.
        if asyncio.get_running_loop().time() >= self._opens_at - 0.01:
            self._opens_at = 0.0
            self._limit = max(self._limit, min(self._most, len(self._inside) + 1))
            self._admit()

    def _admit(self) -> None:
        if self._holders or asyncio.get_running_loop().time() < self._opens_at:
            return
        while self._queue and len(self._inside) < self._limit:
            _, _, wake = heapq.heappop(self._queue)
            if wake in self._asking:
                self._asking.discard(wake)
                self._inside.add(wake)
                wake.set()


SLICE = 20  # jobs that are changed in one go, a few milliseconds

LOOK = 0.01  # seconds in which it is looked whether a cell computes

LOOKS = 2  # of them, one after another

# Of the time that a computing cell has, the work on a batch takes one part in so many. The journal
# takes as long again on its own thread.
SHARE = 100

MOST_COUNTED = 0.1  # seconds of this thread's work that one pause makes up for


def cells_time() -> float:
    """CPU seconds of the thread that cells run on; where no other thread's can be read, as on
    Windows and macOS, those of the whole process."""
    clock_of = getattr(time, "pthread_getcpuclockid", None)
    cells = threading.main_thread().ident
    if clock_of is None or cells is None:
        return time.process_time()
    return time.clock_gettime(clock_of(cells))


async def _cell_computes() -> bool:
    """Whether a cell has computed for two looks in a row: one that waits for these very jobs
    computes for some milliseconds as some of them end."""
    for _ in range(LOOKS):
        before, begun = cells_time(), time.perf_counter()
        await asyncio.sleep(LOOK)
        # On a busy machine a cell that computes gets only a part of the time that passes.
        if cells_time() - before <= (time.perf_counter() - begun) / 10:
            return False
    return True


class Courtesy:
    """Leaves the interpreter to a cell that computes: a batch takes hours, and the work on it can
    take some minutes more. Without one, it is done as quickly as it can be.

    Attributes:
        hurry: ends pauses: the process is about to end.
    """

    def __init__(self) -> None:
        self.hurry = asyncio.Event()
        self._used = 0.0
        self._since = time.thread_time()

    async def pause(self) -> None:
        """Let others go first, and a computing cell for long."""
        # All that this thread did since, reading lines too; after an idle hour not all is ours.
        self._used += min(time.thread_time() - self._since, MOST_COUNTED)
        if self._used < 0.002:
            await asyncio.sleep(0)
        else:
            await self._wait(self._used * SHARE if await _cell_computes() else 0.0)
            self._used = 0.0
        self._since = time.thread_time()

    async def _wait(self, seconds: float) -> None:
        if not seconds or self.hurry.is_set():
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.hurry.wait(), seconds)

    async def slices(self, values: Sequence[T], size: int = SLICE) -> AsyncIterator[Sequence[T]]:
        """``values`` in slices, with a pause after each."""
        for start in range(0, len(values), size):
            yield values[start : start + size]
            await self.pause()


@dataclass(frozen=True, slots=True)
class ServerEndpoint:
    """How one server is called by all jobs of this process.

    Attributes:
        client: makes the calls.
        pacer: spreads the polls of many jobs evenly.
        behavior: what was seen of the server.
        turns: bounds the jobs that are polled at once.
    """

    client: ResponsesClient
    pacer: PollPacer
    behavior: ServerBehavior = field(default_factory=ServerBehavior)
    turns: TurnQueue = field(default_factory=lambda: TurnQueue(TURNS))


@dataclass(frozen=True, slots=True)
class AcceptedResponse:
    """A response that a server has accepted.

    Attributes:
        endpoint: that server.
        reply: the newest reply.
        at: when it accepted the job, seconds since the epoch.
        stream: the connection on which it was created, where its events still come.
    """

    endpoint: ServerEndpoint
    response_id: str
    reply: Reply
    at: float
    stream: EventStream | None = None


@dataclass(frozen=True)
class RunConfig:
    """The way in which a job is run.

    Attributes:
        server: where it goes, with which credentials.
        poll_interval: seconds between polls; None means soon at first, then every 10.
        deadline: seconds after acceptance at which watching ends, and after submission at which
            trying to send does.
        same_key: whether the server is asked with the credentials that it accepted the job with.
        limiter: what the jobs of its group go to the server by, or None.
        create_timeout: seconds that a create may take in all, from its turn to the server's answer.
    """

    server: ServerConfig
    poll_interval: float | None
    deadline: float
    same_key: bool = True
    limiter: ConcurrencyLimiter | None = None
    create_timeout: float = CREATE_TIMEOUT
