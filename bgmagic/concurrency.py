"""Threads and waiting: the loop thread, the callback thread, and what wakes a coroutine.

Nothing here knows a job. One asyncio loop runs on a daemon thread; callbacks of the user run on a
second one, so that one that blocks or raises never holds a poll up.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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
    loop.set_task_factory(_new_task)  # type: ignore[arg-type]  # it knows fewer options
    try:
        loop.run_forever()
    finally:
        loop.close()


# C's own, which asyncio.Task is in CPython until somebody replaces it.
_Task: type[asyncio.Task[Any]] = getattr(sys.modules.get("_asyncio"), "Task", asyncio.Task)


def _new_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """Make a task of C's class, whatever class stands in its place by now.

    The archived nest_asyncio puts Python's there for the whole process. From Python 3.14 on those
    are not counted as current on this thread, and every timeout in them raises.
    """
    return _Task(coroutine, loop=loop, **options)


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


class FutureWaiter:
    """Where futures of other threads land. Any number of loops may wait here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._landed: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}

    async def wait(self, future: Future[T]) -> T:
        """The result of ``future``, or what it raises; waiting no longer changes nothing of it."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        future.add_done_callback(lambda _: self._land(loop, waiter))
        await waiter
        return future.result()

    def _land(self, loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None]) -> None:
        with self._lock:
            landed = self._landed.setdefault(loop, [])
            landed.append(waiter)
        if len(landed) > 1:
            return  # it has been woken, and has not come yet
        try:
            loop.call_soon_threadsafe(self._deliver, loop)
        except RuntimeError:  # it has ended: nobody waits there any more
            with self._lock:
                self._landed.pop(loop, None)

    def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            landed = self._landed.pop(loop, [])
        for waiter in landed:
            if not waiter.done():
                waiter.set_result(None)


class _TimerContext(threading.local):
    """What timers run in; else asyncio makes a copy of the context for each. A thread's own, since
    two can't be in one context at the same time."""

    def __init__(self) -> None:
        self.context = contextvars.Context()


_TIMERS = _TimerContext()


class WakeEvent:
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
            timer = loop.call_later(seconds, self._end, waiter, context=_TIMERS.context)
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
    wait: Callable[[WakeEvent, float], Awaitable[None]] = WakeEvent.wait

    async def pause(self, wake: WakeEvent, seconds: float) -> None:
        """Wait ``seconds``, or until ``wake`` is set, and clear it."""
        await self.wait(wake, seconds)
        wake.clear()
