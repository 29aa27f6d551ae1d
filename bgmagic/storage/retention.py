"""Forgets jobs that have ended: slice by slice, so that other kernels get their turns, and gives
the room back."""

from __future__ import annotations

import functools
import json
import sqlite3
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any

from bgmagic.storage import database
from bgmagic.storage.live_rows import Write, Written

SLICE = 200  # jobs

PAGES = 1000  # of 4 KiB, as SQLite has them

PAUSE = 0.03  # seconds between two slices: SQLite's own waiting looks about as often

LARGE = 1 << 30  # bytes of a journal of which the user is told


class Forgetting:
    """The jobs that are being forgotten.

    Attributes:
        total: how many they were, once all are.
    """

    def __init__(self, put: Callable[[Write], Future[Any]], keys: Collection[str]) -> None:
        """Begin.

        Args:
            put: queues a write.
            keys: the jobs; those that have not ended stay.
        """
        self.total: Future[int] = Written()
        self._put = put
        self._keys = list(keys)
        self._count = 0
        self._next()

    def _next(self) -> None:
        some, self._keys = self._keys[:SLICE], self._keys[SLICE:]
        if some:
            forgetting = functools.partial(_forget, keys=some)
            self._put(Write(forgetting)).add_done_callback(self._forgotten)
        else:
            self._put(Write(_give_room_back)).add_done_callback(self._shrunk)

    def _forgotten(self, done: Future[int]) -> None:
        error = done.exception()
        if error is not None:
            self.total.set_exception(error)
            return
        self._count += done.result()
        if self._keys:
            time.sleep(PAUSE)
        self._next()

    def _shrunk(self, done: Future[bool]) -> None:
        if done.exception() is None and done.result():
            time.sleep(PAUSE)
            self._next()
        else:
            self.total.set_result(self._count)


_DROP_BATCHES = """DELETE FROM batches WHERE state = 'ended'
    AND NOT EXISTS (SELECT 1 FROM jobs WHERE batch = batches.key)"""

_ENDED = "ended_at IS NOT NULL AND key IN (SELECT value FROM json_each(?))"


def _forget(connection: sqlite3.Connection, keys: Collection[str]) -> int:
    listed = json.dumps(list(keys))
    hashes = database.hashes(connection, _ENDED, listed)
    count = connection.execute(f"DELETE FROM jobs WHERE {_ENDED}", (listed,)).rowcount  # noqa: S608
    connection.execute(_DROP_BATCHES)
    database.drop_unused(connection, hashes)
    return count


def _give_room_back(connection: sqlite3.Connection) -> bool:
    """Make the file smaller by some pages; whether there are more to be had."""
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    if not free or connection.execute("PRAGMA auto_vacuum").fetchone() != (2,):
        return False
    for _ in range(min(free, PAGES)):
        # However many it is asked for: each page is a step of its own, and sqlite3 takes only one.
        connection.execute("PRAGMA incremental_vacuum(1)")
    return free > PAGES
