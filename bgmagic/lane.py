"""How the jobs of one group get to the server: so many at once, in order, at the server's pace.

A course asks its lane for a turn before it sends, and leaves it when its job has ended. A refusal
that may pass stops the whole lane, not one job: after the time the server wishes one job tries, and
each that is accepted lets two more try. Everything runs on the loop thread.
"""

from __future__ import annotations

import asyncio
import heapq

from bgmagic.poller import LIMIT, Delays, Wake


class Lane:
    """The jobs of one group that are at the server, and those that wait their turn.

    Each is known by what wakes its course.
    """

    def __init__(self, most: int) -> None:
        """Make a lane for at most ``most`` jobs at once."""
        self._most = most
        self._limit = most
        self._inside: set[Wake] = set()
        self._queue: list[tuple[int, int, Wake]] = []
        self._asking: set[Wake] = set()
        self._asked = 0
        self._delays = Delays(5.0)
        self._opens_at = 0.0  # by the loop's clock

    async def turn(self, order: int, wake: Wake) -> bool:
        """Wait for a turn, the lowest ``order`` first; False if ``wake`` was set by someone else.

        Who is inside already has its turn.
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

    def enter(self, wake: Wake) -> None:
        """Count in a job that the server has already."""
        self._inside.add(wake)

    def leave(self, wake: Wake) -> None:
        """Make room: the job has ended, or is to try again later."""
        self._asking.discard(wake)
        self._inside.discard(wake)
        self._admit()

    def accepted(self) -> None:
        """The server takes jobs: try two more than there are, up to the most."""
        self._delays.after_reply(0.0)
        self._limit = min(self._most, max(self._limit, len(self._inside)) + 2)
        self._admit()

    def refused(self, wake: Wake, retry_after: float | None) -> None:
        """The server takes none now: let nobody try before ``retry_after`` seconds, or a delay that
        grows, are over, and then one.
        """
        loop = asyncio.get_running_loop()
        closed = loop.time() < self._opens_at
        if retry_after is not None or not closed:
            # Refusals that arrive together are one piece of news.
            # None is longer than the first, which is limited too.
            more = min(retry_after or 0.0, LIMIT)
            wait = more if closed else self._delays.after_failure(retry_after)
            self._opens_at = max(self._opens_at, loop.time() + wait)
            loop.call_at(self._opens_at, self._open)
        self._inside.discard(wake)
        self._limit = len(self._inside)

    def _open(self) -> None:
        # Timers may go off a little early; one that a later refusal outdated does nothing.
        if asyncio.get_running_loop().time() >= self._opens_at - 0.01:
            self._opens_at = 0.0
            self._limit = max(self._limit, min(self._most, len(self._inside) + 1))
            self._admit()

    def _admit(self) -> None:
        if asyncio.get_running_loop().time() < self._opens_at:
            return
        while self._queue and len(self._inside) < self._limit:
            _, _, wake = heapq.heappop(self._queue)
            if wake in self._asking:
                self._asking.discard(wake)
                self._inside.add(wake)
                wake.set()
