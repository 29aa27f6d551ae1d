"""One asyncio loop on one daemon thread, and a second thread for the user's callbacks.

Both start when first used. What runs on the loop is the manager's business; a callback of the user
may block or raise without holding up a single poll.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
logger = logging.getLogger("bgmagic")


class LoopThread:
    """An event loop that runs beside the kernel's own."""

    def __init__(self, name: str = "bgmagic") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._begun: list[Coroutine[Any, Any, object]] = []
        self._tasks: set[asyncio.Task[object]] = set()  # the loop itself holds tasks only weakly

    def start(self) -> None:
        """Start the thread now.

        Raises:
            RuntimeError: no thread can be started.
        """
        self._started()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``coroutine`` on the loop from any thread; never waits for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._started())

    def begin(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """The same for one whose result nobody wants; wakes the loop once for many in a row."""
        loop = self._started()
        with self._lock:
            first = not self._begun
            self._begun.append(coroutine)
        if first:
            loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        with self._lock:
            begun, self._begun = self._begun, []
        for coroutine in begun:
            task = asyncio.get_running_loop().create_task(coroutine)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def run_if_started(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T] | None:
        """Start what ``make`` gives on the loop, if that runs; else None."""
        loop = self._loop
        return None if loop is None else asyncio.run_coroutine_threadsafe(make(), loop)

    def call(self, function: Callable[[], object]) -> None:
        """Call ``function`` on the loop soon; does nothing if the loop has never run or ended."""
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)

    def is_current(self) -> bool:
        """Whether the caller runs on this thread."""
        return threading.current_thread() is self._thread

    def stop(self, timeout: float) -> bool:
        """Cancel what runs, end the thread, and wait for that at most ``timeout`` seconds.

        Returns:
            whether the thread has ended; it is a daemon, so it can't keep the process alive.
        """
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return True
        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(_cancel_all(), loop).add_done_callback(
                lambda _: loop.call_soon_threadsafe(loop.stop)
            )
        thread.join(timeout)
        return not thread.is_alive()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
                # A thread that can't start raises here, in the caller, with nothing half set up.
                thread.start()
                self._loop, self._thread = loop, thread
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    # One by one: looking up names for many connections would else start a thread for each.
    loop.set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="bgmagic-blocking"))
    loop.set_exception_handler(_report)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Connections that are still open when the process ends are closed by the operating system:
    # nothing to fill a user's last cell with.
    if not {"client_session", "connector", "client_connection"} & context.keys():
        loop.default_exception_handler(context)


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class CallbackThread:
    """Calls functions one after another, off the loop thread."""

    def __init__(self, name: str = "bgmagic-callbacks") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], object]) -> None:
        """Call ``function`` soon; what it raises is logged, as concurrent.futures does."""
        self._queue.put(function)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        while True:
            function = self._queue.get()
            try:
                function()
            except BaseException:  # a callback that exits must not end those of other jobs
                logger.exception("a done callback failed")
