"""Whose turn it is to be polled: with many jobs at one server, polls come evenly, never in bursts.

Every poll takes the interpreter from the cell that computes for a moment, and waits for it up to
5 ms. A hundred a second in even steps cost that cell next to nothing; in bursts they starve.
"""

from __future__ import annotations

import itertools
import time

# More jobs than these take turns. Fewer may poll soon at first, and when they like.
FEW = 20
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

        More than 0 and at most 5/4 of ``interval``; on its turn, exactly ``interval``.
        """
        if not self._crowd.many:
            return None
        ahead = (self._place * interval - time.monotonic()) % interval
        # Whoever was just asked is not asked again at once; who joins takes its place.
        soon = ahead < interval / 4 and not self._first
        self._first = False
        return max(ahead + interval if soon else ahead, interval / 1000)

    def leave(self) -> None:
        """The job is polled no more."""
        self._crowd._leave()
