"""The jobs of this process by their keys, the sweeps whose jobs are still to come, the number of
jobs that are just being sent or ended, and what runners share."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from bgmagic.api.server import ServerConfig
from bgmagic.concurrency import Clock
from bgmagic.jobs.job import Job
from bgmagic.jobs.record import SendGate
from bgmagic.runtime.dependencies import FindJob
from bgmagic.runtime.pacing import ServerEndpoint
from bgmagic.runtime.sending import TimeLimit
from bgmagic.storage.job_store import JobStore
from bgmagic.values import dataclass

if TYPE_CHECKING:
    from bgmagic.tools.functions import FunctionTool

# Finds the tool of a function that is defined now, by its name: for a job of an earlier kernel.
FindFunction: TypeAlias = "Callable[[str], FunctionTool | None]"


@dataclass(frozen=True)
class RunnerParts:
    """What all runners of one loop have, once; ``limits`` are those that no create needs now."""

    endpoint_of: Callable[[ServerConfig], ServerEndpoint]
    store: JobStore
    clock: Clock
    find: FindJob
    gate: SendGate | None
    find_function: FindFunction
    begin_poll: Callable[[Any], None]  # with the runner, whose file needs this one
    limits: list[TimeLimit] = field(default_factory=list)


class JobRegistry:
    """The jobs of this process; every method may be called from any thread."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._by_key: dict[str, Job] = {}
        self._past: weakref.WeakSet[Job] = weakref.WeakSet()
        self._past_lock = threading.Lock()
        self._successors: dict[str, str] = {}
        self.on_resent: list[Callable[[Job, Job], object]] = []  # called before that is started

    def add(self, job: Job) -> None:
        """Add a new job."""
        self._jobs.append(job)
        self._by_key[job.key] = job

    def drop(self, job: Job) -> None:
        """Remove a job."""
        self._jobs.remove(job)
        self._by_key.pop(job.key, None)

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        return list(self._jobs)

    def hold_past(self, job: Job) -> None:
        """Add a handle of a job of the journal that is only read, as long as somebody has it."""
        with self._past_lock:
            self._past.add(job)

    def with_past(self) -> list[Job]:
        """All handles of this process, those that are only read too."""
        with self._past_lock:
            return [*self._jobs, *self._past]

    def by_key(self) -> dict[str, Job]:
        """The jobs by their keys; of several with one key the newest."""
        return dict(self._by_key)

    def find(self, key: str) -> Job | None:
        """Find the job with this key; of several the newest, since a detached one may have been
        attached again."""
        return self._by_key.get(key)

    def mark_resent(self, job: Job, successor: Job) -> None:
        """Record that a job was sent again, as ``successor``."""
        self._successors[job.record.key] = successor.record.key
        for tell in self.on_resent:
            tell(job, successor)

    def latest_key(self, key: str) -> str:
        """The key of the job that was sent last in place of this one, or this key."""
        while key in self._successors:
            key = self._successors[key]
        return key


class JobFeed(Protocol):
    """The jobs of a group on their way to the loop thread."""

    @property
    def left(self) -> int:
        """Number of jobs that are not written down yet."""

    @property
    def name(self) -> str:
        """The group's variable."""

    @property
    def variable(self) -> tuple[str | None, str]:
        """The group's variable, if the user chose one, and its notebook."""

    @property
    def in_batch(self) -> bool:
        """Whether they go to the server in batches."""

    def chunks(self, pause: Callable[[], Awaitable[None]]) -> AsyncIterator[list[Job]]:
        """The jobs in lists that are to be written down together. On the loop thread.

        Those that have ended already are told of it once that is written down.

        Args:
            pause: awaited between slices of the work, so that others go on.
        """

    def make_all(self) -> None:
        """Make the handles of all its jobs, so that the process has them all. From any thread."""

    def abandon(self, reason: str) -> None:
        """Detach the jobs that were not written down, or have not ended."""


class JobFeeds(list[JobFeed]):
    """The groups some of whose jobs may still be to come."""

    def discard(self, feed: JobFeed) -> None:
        """Remove a group, if it is there."""
        with contextlib.suppress(ValueError):
            self.remove(feed)

    def is_feeding(self, variable: tuple[str | None, str]) -> bool:
        """Whether some jobs of that variable, in that notebook, are still to come."""
        return any(feed.left and feed.variable == variable for feed in self)

    def make_all(self) -> None:
        """Make the handles of all jobs that are still to come."""
        for feed in list(self):
            feed.make_all()

    def unwritten(self) -> dict[str, int]:
        """The number of jobs of each group that are not written down yet, by its name."""
        return {feed.name: feed.left for feed in self if feed.left}


MANY = 16  # jobs that are being sent or ended at once

# New objects after which the garbage collector looks for cycles meanwhile; Python's own default is
# 700 to 2,000. More, as none at all, would leave too many large objects of a cell's to lie about.
RARELY = 10_000


class Rush:
    """Counts the jobs that are being sent or ended. While they are many, the garbage collector
    looks for cycles less often: a sixth of all that a job takes was its looking at what stays."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()
        self._before: tuple[int, int, int] | None = None
        self._set: tuple[int, int, int] | None = None

    def reset(self) -> None:
        """In a forked child: nothing is sent here, and a thread of the parent has the lock."""
        self._lock = threading.Lock()
        self.end(self._count)

    def begin(self, count: int = 1) -> None:
        """So many more begin. Not from the main thread, which may be interrupted."""
        with self._lock:
            self._count += count
            if self._count >= MANY and self._before is None:
                self._slow_down()

    def end(self, count: int = 1) -> None:
        """So many are through."""
        with self._lock:
            self._count -= count
            if self._count < MANY and self._before is not None:
                # The user may have set another meanwhile.
                if gc.get_threshold() == self._set:
                    gc.set_threshold(*self._before)
                self._before = None

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()

    def _slow_down(self) -> None:
        self._before = gc.get_threshold()
        if 0 < self._before[0] < RARELY:  # zero is off
            gc.set_threshold(RARELY, *self._before[1:])
        self._set = gc.get_threshold()


rush = Rush()  # the collector is one for the whole process


# Seconds of computing after which a thread hands the interpreter to one that waits for it; Python's
# own default is 5 ms (`sys.getswitchinterval`). With that the first job of a kernel was accepted
# 2.1 to 9.1 s after its cell where the next one computed, with this after 1.3 to 2.2 s (six each).
SOON = 0.0002

FIRST = 2.0  # seconds after the SDK's import in which its first request is made, with what it loads


class Warmup:
    """Threads hand the interpreter over sooner while the SDK is imported and makes its first
    request: each of some thousand files that are read meanwhile lets a cell that computes go on,
    and is read on when that one hands over. Once in a process, on the loop thread."""

    def __init__(self) -> None:
        self._before: float | None = None
        self._set = 0.0
        self._begun = False

    def __enter__(self) -> None:
        if self._begun:
            return
        self._begun, self._before = True, sys.getswitchinterval()
        sys.setswitchinterval(min(self._before, SOON))
        self._set = sys.getswitchinterval()

    def __exit__(self, *_: object) -> None:
        """The import is over; the first request is about to be made."""
        if self._before is not None:
            asyncio.get_running_loop().call_later(FIRST, self.end)

    def end(self) -> None:
        """Threads hand over as before, or as the user has set it meanwhile."""
        if self._before is not None and sys.getswitchinterval() == self._set:
            sys.setswitchinterval(self._before)
        self._before = None


warmup = Warmup()  # the interval is one for the whole process


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=rush.reset)
    os.register_at_fork(after_in_child=warmup.end)
