"""Whose turn it is to be polled: with many jobs at one server, polls come evenly, never in bursts.

Every poll takes the interpreter from the cell that computes for a moment, and waits for it up to
5 ms. A hundred a second in small steps cost that cell next to nothing; in bursts they starve.
"""

from __future__ import annotations

import itertools
import math
import time

# More jobs than these take turns. Fewer may poll soon at first, and when they like.
FEW = 20
# Seconds. The few polls of one step wake the thread once together: a quarter less CPU than singly.
STEP = 0.05
# Multiples of it, without their whole part, are spread evenly over 0 to 1, however many there are.
_GOLDEN = 0.6180339887498949


class Crowd:
    """The jobs that are being polled at one server. On the loop thread only."""

    def __init__(self) -> None:
        self._size = 0
        self._places = itertools.count()

    @property
    def many(self) -> bool:
        """Whether there are so many jobs that each has to wait for its turn."""
        return self._size > FEW

    def join(self) -> Turn:
        """Count one more job, and give it its place."""
        self._size += 1
        return Turn(self, next(self._places) * _GOLDEN % 1)

    def _leave(self) -> None:
        self._size -= 1


class Turn:
    """One job's place in a crowd."""

    __slots__ = ("_crowd", "_first", "_place")

    def __init__(self, crowd: Crowd, place: float) -> None:
        self._crowd = crowd
        self._place = place
        self._first = True

    def wait(self, interval: float) -> float | None:
        """Seconds until the job's turn if it polls each ``interval``, or None if it needs none.

        More than 0 and at most 5/4 of ``interval``, or a step more; after a turn, ``interval``.
        """
        if not self._crowd.many:
            return None
        now = time.monotonic()
        ahead = (self._place * interval - now) % interval
        # Whoever was just asked is not asked again at once; who joins takes its place.
        if ahead < interval / 4 and not self._first:
            ahead += interval
        self._first = False
        step = min(STEP, interval / 100)
        wait = math.ceil((now + ahead) / step) * step - now
        return wait if wait > 0 else step

    def leave(self) -> None:
        """The job is polled no more."""
        self._crowd._leave()
