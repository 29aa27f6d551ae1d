"""When to ask again, and asking until the response is terminal.

`Delays` holds the rules and no clock; `Poller` waits and asks. Both are for one job. What the news
means for the job is the manager's business: the poller reports replies and failures and goes on. A
failing poll never ends it, only a terminal status and the deadline do.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bgmagic.client import Reply
from bgmagic.errors import ServerError
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
        self, interval: float | None = None, jitter: Callable[[], float] = random.random
    ) -> None:
        """Start the delays of one job.

        Args:
            interval: seconds between polls from the first one on; None means 1, 2, 4 and then
                every 10 seconds.
            jitter: gives numbers from 0 to 1.
        """
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
        early = self._polls <= len(self._early)
        return self._around(self._early[self._polls - 1] if early else self._interval)

    def after_failure(self, retry_after: float | None = None) -> float:
        """The delay after a failed poll: doubling from a fifth of the interval.

        Never less than ``retry_after``, the server's wish, as long as that is below 90.
        """
        self._failures += 1
        backoff = self._interval / 5 * 2 ** min(self._failures - 1, 16)
        return max(self._around(backoff), self._at_least(retry_after or 0.0))

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


@dataclass(frozen=True)
class Clock:
    """Where the poller gets its time; tests put another in its place.

    Attributes:
        now: seconds since the epoch, by the wall clock, so that a suspended laptop counts.
        wait: wait for an event at most so many seconds.
    """

    now: Callable[[], float] = time.time
    wait: Callable[[asyncio.Event, float], Awaitable[None]] | None = None

    async def pause(self, wake: asyncio.Event, seconds: float) -> None:
        """Wait ``seconds``, or until ``wake`` is set, and clear it."""
        if self.wait is not None:
            await self.wait(wake, seconds)
        else:
            try:
                async with asyncio.timeout(seconds):
                    await wake.wait()
            except TimeoutError:
                pass
        wake.clear()


@dataclass(frozen=True)
class Watch:
    """One response to be polled.

    Attributes:
        fetch: asks the server once; raises ServerError.
        on_reply: is given each reply.
        on_failure: is given each failure; True gives the response up.
        wake: set to poll at once.
        deadline: the wall-clock time after which the watch ends, in seconds since the epoch.
    """

    fetch: Callable[[], Awaitable[Reply]]
    on_reply: Callable[[Reply], None]
    on_failure: Callable[[ServerError], bool]
    wake: asyncio.Event
    deadline: float


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
    while True:
        left = watch.deadline - clock.now()
        await clock.pause(watch.wake, max(0.0, min(delay, left)))
        late = clock.now() >= watch.deadline
        try:
            reply = await watch.fetch()
        except ServerError as failure:
            if watch.on_failure(failure):
                return None
            delay = delays.after_failure(failure.retry_after)
            if failure.status_code in (401, 403):
                delay = max(delay, delays.slow())
        else:
            if is_terminal(reply):
                return reply
            watch.on_reply(reply)
            delay = delays.after_reply(reply.poll_after)
        if late:
            return None
