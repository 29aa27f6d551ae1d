"""The coroutines that await a job, in any event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator


class AsyncWaiters:
    """Those that wait for one job; may be used from any thread.

    Not asyncio.wrap_future: it passes a timeout's cancellation on to the job, and a loop that has
    closed in between makes it fail in the thread that settles the job.
    """

    def __init__(self, done: Callable[[], bool]) -> None:
        """Make them, of the job that ``done`` tells to have ended."""
        self._done = done
        self._sleepers: tuple[Callable[[], None], ...] = ()
        self._lock = threading.Lock()

    def wait(self) -> Generator[object, None, None]:
        """Wait in the running loop until `wake` was called; not at all if the job has ended."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def release() -> None:
            if not woken.done():
                woken.set_result(None)

        def wake() -> None:
            # A closed loop refuses: nothing waits there any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(release)

        with self._lock:
            waiting = not self._done()
            if waiting:
                self._sleepers += (wake,)
        if waiting:
            try:
                yield from woken.__await__()
            finally:
                with self._lock:
                    self._sleepers = tuple(one for one in self._sleepers if one is not wake)

    def wake(self) -> None:
        """Wake all: the job has ended."""
        with self._lock:
            sleepers = self._sleepers
        for wake in sleepers:
            wake()
