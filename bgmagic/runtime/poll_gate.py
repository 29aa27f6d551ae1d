"""Bounds the polls a second beside a cell that computes, since each takes the interpreter."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from bgmagic.runtime import pacing

# Polls a second of one server beside a cell that computes, unless the user has set a limit: at 0.06
# to 0.1 ms each up to 2 % of its time (tests/benchmarks/README.md). As many as by default anyway.
BESIDE_CELL = float(pacing.POLLS_PER_SECOND)

# Seconds. The polls that were held back go on together, forty: two hand-overs of the interpreter
# for all of them, and 5 ms of it, the time that Python's threads have in turn.
BURST = 0.2

# Seconds for which a poll is held back. None is 90 s after the one before: see `pacing.LIMIT`.
PATIENCE = 2.0

# Polls that wait here without a turn. With those that have one (`pacing.TURNS`) they are fewer than
# may go on within `PATIENCE`: more would all lose it, and go on unbounded.
MOST = 150

COMPUTES = 0.1  # of the time that passes; on a busy machine a cell has not much of it


class PollGate:
    """Bounds the polls of one server beside a cell that computes. On the loop thread only."""

    def __init__(self, limit: Callable[[], float | None] = lambda: None) -> None:
        """Make it; ``limit`` tells the most polls a second, or None if the user has set none."""
        self._limit = limit
        self._waiting: deque[tuple[float, Callable[[], object]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at = -math.inf
        self._cell = 0.0  # CPU seconds of cells by then
        self._left = 0.0  # polls that may go on now

    @property
    def is_full(self) -> bool:
        """Whether so many wait that others should wait for a turn."""
        return len(self._waiting) >= MOST

    def ask(self, go: Callable[[], object]) -> None:
        """Call ``go`` once a poll may be made, at most `PATIENCE` seconds later."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._looked_at >= BURST / 2:
            self._look(now)
        if self._left >= 1 and not self._waiting:
            self._left -= 1
            go()
            return
        self._waiting.append((now + PATIENCE, go))
        if self._timer is None:
            self._timer = loop.call_at((now // BURST + 1) * BURST, self._let)

    async def passed(self) -> None:
        """Wait until a poll may be made, at most `PATIENCE` seconds."""
        waiter = asyncio.get_running_loop().create_future()
        self.ask(lambda: None if waiter.done() else waiter.set_result(None))
        await waiter

    def _let(self) -> None:
        """Let as many polls go on as may, in the order in which they asked."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._looked_at >= BURST / 2:
            self._look(now)
        while self._waiting and (self._left >= 1 or self._waiting[0][0] <= now):
            _, go = self._waiting.popleft()
            self._left = max(self._left - 1, 0.0)
            go()
        again = (now // BURST + 1) * BURST
        self._timer = loop.call_at(again, self._let) if self._waiting else None

    def _look(self, now: float) -> None:
        """Find out how many may go on."""
        passed = now - self._looked_at
        cell = pacing.cells_time()
        if cell - self._cell > passed * COMPUTES:
            rate = self._limit() or BESIDE_CELL
            self._left = min(self._left + passed * rate, max(1.0, rate * BURST))
        else:
            self._left = math.inf
        self._looked_at, self._cell = now, cell
