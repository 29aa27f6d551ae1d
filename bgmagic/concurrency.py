"""Runs the loop thread and the callback thread, and wakes what waits on them; knows no job.

One asyncio loop runs on a daemon thread. The user's callbacks run on a second one, so that a
callback that blocks or raises delays no poll.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import math
import queue
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger("bgmagic")


# Seconds for which a name is looked up. Systems mostly ask two servers twice, for 5 s each time.
LOOKUP = 15.0


def on_own_thread(function: Callable[[], T], name: str) -> Future[T]:
    """Call what may block for long on a thread that nothing waits for, not even the process's end.

    Raises:
        RuntimeError: no thread can be started.
    """
    future: Future[T] = Future()

    def call() -> None:
        try:
            result = function()
        except BaseException as error:  # is the caller's to handle, whatever it is
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=call, name=name, daemon=True).start()
    return future


class NameLookups:
    """Looks names up for one event loop: each on a thread of its own, the same name once at a time.

    A name server that does not answer thus holds up nobody but who asks for its names, and takes
    one thread for each of them.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[Any, ...], Future[Any]] = {}

    async def addresses(self, host: Any, port: Any, **hints: Any) -> Any:
        """What `socket.getaddrinfo` gives.

        Raises:
            OSError: there is no such name, or it could not be found out in time.
        """
        asked = (host, port, *sorted(hints.items()))
        running = self._running.get(asked)
        if running is None:
            look = functools.partial(socket.getaddrinfo, host, port, **hints)
            running = self._running[asked] = on_own_thread(look, "bgmagic-lookup")
            running.add_done_callback(lambda _: self._running.pop(asked, None))
        shared = asyncio.shield(asyncio.wrap_future(running))
        shared.add_done_callback(_take_notice)
        try:
            async with asyncio.timeout(LOOKUP):
                return await shared
        except TimeoutError:
            shown = host.decode("ascii", "replace") if isinstance(host, bytes) else host
            raise OSError(f"looking up {shown} took more than {LOOKUP:.0f} s") from None


def _take_notice(future: asyncio.Future[Any]) -> None:
    """Know what a lookup ended with that nobody waits for any more."""
    if not future.cancelled():
        future.exception()


if sys.platform == "win32":
    _UsualLoop = asyncio.ProactorEventLoop
else:
    _UsualLoop = asyncio.SelectorEventLoop


class _Loop(_UsualLoop):
    """The platform's usual event loop, in which a slow name server holds up no other."""

    def __init__(self) -> None:
        super().__init__()
        self._lookups = NameLookups()

    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
        return await self._lookups.addresses(host, port, **hints)


class LoopThread:
    """Runs an event loop on a daemon thread, beside the kernel's own loop."""

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
        """Start ``coroutine`` and drop its result; many in a row wake the loop once."""
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
        """Start the coroutine that ``make`` returns, if the loop was started; else return None."""
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
                loop = _Loop()
                thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
                # A thread that can't start raises here, in the caller, with nothing half set up.
                thread.start()
                self._loop, self._thread = loop, thread
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    # One by one: what goes there is short; what is not has threads of its own.
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
    # The operating system closes connections that are still open at exit: no reason for a warning
    # in the user's last cell.
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
    """Lets loops await futures that another thread resolves, waking each loop once per batch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._landed: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}

    async def wait(self, future: Future[T]) -> T:
        """Await ``future``: its result or its error. Cancelling the wait leaves it alone."""
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
            return  # the loop is woken already and has not run yet
        try:
            loop.call_soon_threadsafe(self._deliver, loop)
        except RuntimeError:  # the loop is closed: nothing waits there any more
            with self._lock:
                self._landed.pop(loop, None)

    def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            landed = self._landed.pop(loop, [])
        for waiter in landed:
            if not waiter.done():
                waiter.set_result(None)


TICK = 0.05  # seconds; waits that end within the same ones share a timer

EXACT = 1.0  # seconds; shorter waits have timers of their own


class _Timers(threading.local):
    """The timers of one thread. Thousands of waits need few, and each timer would cost a place in
    asyncio's heap, a handle and a context.

    One context per thread, since two threads can't enter one at the same time.
    """

    def __init__(self) -> None:
        self.context = contextvars.Context()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticks: dict[int, list[asyncio.Future[None]]] = {}

    def end_at(
        self, loop: asyncio.AbstractEventLoop, at: float, waiter: asyncio.Future[None]
    ) -> None:
        """Resolve ``waiter`` within `TICK` seconds after the loop's time ``at``."""
        if loop is not self._loop:
            self._loop, self._ticks = loop, {}
        tick = math.ceil(at / TICK)
        waiters = self._ticks.get(tick)
        if waiters is None:
            waiters = self._ticks[tick] = []
            loop.call_at(tick * TICK, self._end, self._ticks, tick, context=self.context)
        waiters.append(waiter)

    @staticmethod
    def _end(ticks: dict[int, list[asyncio.Future[None]]], tick: int) -> None:
        for waiter in ticks.pop(tick):
            if not waiter.done():
                waiter.set_result(None)


_TIMERS = _Timers()


class WakeEvent:
    """Ends one job's wait early, or at its timeout. Lighter than an `asyncio.Event` with one."""

    __slots__ = ("_set", "_waiter")

    def __init__(self) -> None:
        self._set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """End the current wait, or else the next one."""
        self._set = True
        self._end(self._waiter)

    def clear(self) -> None:
        """Reset the event."""
        self._set = False

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until it is set, at most ``seconds``, and of long ones up to `TICK` more."""
        if self._set:
            return
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = None
        if seconds is not None and seconds >= EXACT:
            _TIMERS.end_at(loop, loop.time() + seconds, waiter)
        elif seconds is not None:
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
    """Gives the time for polls and deadlines; tests replace it.

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


# Seconds by which a limit may be noticed too late before it is taken for the process's own fault,
# and those that the wait goes on for then.
LATE = 1.0
LATE_GRACE = 5.0


class TimeLimit:
    """Limits one wait at a time, and can be shortened while it lasts. Belongs to one event loop."""

    __slots__ = ("_timeout",)

    def __init__(self) -> None:
        self._timeout: asyncio.Timeout | None = None

    @property
    def waiting(self) -> bool:
        """Whether something is waited for now."""
        return self._timeout is not None

    async def wait(self, seconds: float | None, awaitable: Awaitable[T]) -> T:
        """Wait for ``awaitable``, at most ``seconds`` if that is no None.

        Raises:
            TimeoutError: the time was over, or `shorten` ended it.
        """
        loop, timer = asyncio.get_running_loop(), None
        try:
            async with asyncio.timeout(None) as self._timeout:
                if seconds is not None:
                    due = loop.time() + seconds
                    timer = loop.call_later(seconds, self._expire, self._timeout, due)
                return await awaitable
        finally:
            self._timeout = None
            if timer is not None:
                timer.cancel()

    def shorten(self, seconds: float) -> None:
        """End the wait after ``seconds`` from now, unless it ends sooner."""
        timeout = self._timeout
        if timeout is not None and not timeout.expired():
            soon = asyncio.get_running_loop().time() + seconds
            timeout.reschedule(min(soon, timeout.when() or soon))

    def _expire(self, timeout: asyncio.Timeout, due: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if timeout is not self._timeout or timeout.expired():
            return
        if now - due > LATE:
            # The process was stopped, or a cell kept the interpreter: the result may be there.
            loop.call_later(LATE_GRACE, self._expire, timeout, now + LATE_GRACE)
        else:
            timeout.reschedule(now)
