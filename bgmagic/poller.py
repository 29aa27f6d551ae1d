"""When to ask again, and asking until the response is terminal.

`Delays` holds the rules and no clock; `Poller` waits and asks. Both are for one job. What the news
means for the job is the manager's business: the poller reports replies and failures and goes on. A
failing poll never ends it, only a terminal status and the deadline do.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bgmagic.errors import ServerError
from bgmagic.replies import Reply
from bgmagic.status import SERVER_TERMINAL

# The user's specification of the API: poll usually every 10 seconds and always less than 90 apart.
INTERVAL = 10.0
LIMIT = 89.0
# Most short jobs end within these; they cost three requests a job.
EARLY = (1.0, 2.0, 4.0)
SPREAD = 0.1  # a tenth more or less, so that jobs submitted together don't poll together for ever


class Delays:
    """How many seconds to wait before the next poll. Every delay is above 0 and below 90."""

    def __init__(
        self,
        interval: float | None = None,
        jitter: Callable[[], float] = random.random,
        turn: Callable[[float], float | None] = lambda _: None,
    ) -> None:
        """Start the delays of one job.

        Args:
            interval: seconds between polls from the first one on; None means 1, 2, 4 and then
                every 10 seconds.
            jitter: gives numbers from 0 to 1.
            turn: in a crowd, the seconds until this job's turn when it polls so often; else None.
        """
        self._turn = turn
        self._interval = INTERVAL if interval is None else interval
        self._early = EARLY if interval is None else ()
        self._jitter = jitter
        self._polls = 0
        self._failures = 0

    def after_reply(self, hint: float | None = None) -> float:
        """The delay after an answer, or before the first poll; ``hint`` is the server's wish."""
        self._failures = 0
        self._polls += 1
        if hint is not None:
            return self._at_least(max(hint, 0.1))
        turn = self._turn(self._interval)
        if turn is not None:
            return min(turn, LIMIT)
        early = self._polls <= len(self._early)
        return self._around(self._early[self._polls - 1] if early else self._interval)

    def after_failure(self, retry_after: float | None = None) -> float:
        """The delay after a failed poll: doubling from a fifth of the interval.

        Never less than ``retry_after``, the server's wish, as long as that is below 90.
        """
        self._failures += 1
        backoff = self._interval / 5 * 2 ** min(self._failures - 1, 16)
        wished = max(self._around(backoff), self._at_least(retry_after or 0.0))
        turn = self._turn(self._interval)
        # A crowd that fails together must not come back together, and not at once.
        return wished if turn is None else min(max(wished, turn), LIMIT)

    def slow(self) -> float:
        """The delay while the server refuses the key: a user has to do something first."""
        return self._around(3 * self._interval)

    def soon(self) -> None:
        """Begin with the early delays again: something is about to change."""
        self._polls = 0

    def _around(self, seconds: float) -> float:
        return min(seconds * (1 + SPREAD * (2 * self._jitter() - 1)), LIMIT)

    def _at_least(self, seconds: float) -> float:
        # A server's wish is not undercut: it may count polls that come too soon.
        return min(seconds * (1 + SPREAD * self._jitter()), LIMIT)


class _Here(threading.local):
    """What timers run in; else asyncio makes a copy of the context for each. A thread's own, since
    two can't be in one context at the same time."""

    def __init__(self) -> None:
        self.context = contextvars.Context()


_HERE = _Here()


class Wake:
    """What one job's waiting ends by, ahead of time. Lighter than an event and a timeout."""

    __slots__ = ("_set", "_waiter")

    def __init__(self) -> None:
        self._set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """End the wait; if nobody waits, the next one."""
        self._set = True
        self._end(self._waiter)

    def clear(self) -> None:
        """Take it back."""
        self._set = False

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until it is set, at most ``seconds``."""
        if self._set:
            return
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = None
        if seconds is not None:
            timer = loop.call_later(seconds, self._end, waiter, context=_HERE.context)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._waiter = None

    @staticmethod
    def _end(waiter: asyncio.Future[None] | None) -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


@dataclass(frozen=True)
class Clock:
    """Where the poller gets its time; tests put another in its place.

    Attributes:
        now: seconds since the epoch, by the wall clock, so that a suspended laptop counts.
        wait: wait to be woken at most so many seconds.
    """

    now: Callable[[], float] = time.time
    wait: Callable[[Wake, float], Awaitable[None]] = Wake.wait

    async def pause(self, wake: Wake, seconds: float) -> None:
        """Wait ``seconds``, or until ``wake`` is set, and clear it."""
        await self.wait(wake, seconds)
        wake.clear()


@dataclass(frozen=True, slots=True)
class Watch:
    """One response to be polled.

    Attributes:
        fetch: asks the server once, given the newest reply so far; raises ServerError.
        on_reply: is given each reply.
        on_failure: is given each failure; True gives the response up.
        wake: set to poll at once.
        deadline: the wall-clock time after which the watch ends, in seconds since the epoch.
        pack: makes a response that goes on small, given its JSON, too, or "".
    """

    fetch: Callable[[Reply | None], Awaitable[Reply]]
    on_reply: Callable[[Reply], None]
    on_failure: Callable[[ServerError], bool]
    wake: Wake
    deadline: float
    pack: Callable[[Mapping[str, Any], str], Mapping[str, Any]]


def is_terminal(reply: Reply) -> bool:
    """Whether the server will change this response no more."""
    status = reply.response.get("status")
    return isinstance(status, str) and status in SERVER_TERMINAL


async def poll(
    watch: Watch, delays: Delays, clock: Clock, hint: float | None = None
) -> Reply | None:
    """Poll until the response is terminal.

    Args:
        hint: seconds the server asked to wait before the first poll.

    Returns:
        the terminal reply, which is not reported to ``on_reply``; None if the deadline came first,
        one poll after it included, or the response was given up.
    """
    delay = delays.after_reply(hint)
    last: Reply | None = None
    while True:
        left = watch.deadline - clock.now()
        await clock.pause(watch.wake, max(0.0, min(delay, left)))
        late = clock.now() >= watch.deadline
        try:
            reply = await watch.fetch(last)
        except ServerError as failure:
            if watch.on_failure(failure):
                return None
            delay = delays.after_failure(failure.retry_after)
            if failure.status_code in (401, 403):
                delay = max(delay, delays.slow())
        else:
            if last is None or reply.response is not last.response:
                if is_terminal(reply):
                    return reply
                packed = watch.pack(reply.response, reply.text)
                reply = replace(reply, response=packed, text="")
            watch.on_reply(reply)
            last = reply
            delay = delays.after_reply(reply.poll_after)
        if late:
            return None
