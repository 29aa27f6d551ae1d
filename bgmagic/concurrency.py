"""Runs the loop thread and the callback thread, and wakes what waits on them; knows no job.

One asyncio loop runs on a daemon thread. The user's callbacks run on a second one, so that a
callback that blocks or raises delays no poll.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
import math
import queue
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from concurrent import futures  # its thread pool is imported with its first use, on that thread
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol, TypeVar

T = TypeVar("T")
logger = logging.getLogger("bgmagic")

# Seconds for which a name is looked up. Systems mostly ask two servers twice, for 5 s each time.
LOOKUP = 15.0


def on_own_thread(function: Callable[[], T], name: str) -> Future[T]:
    """Call what may block for long on a thread that nothing waits for, not even the process's end;
    a RuntimeError says that none can be started."""
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

    A name server that does not answer holds up only who asks for its names, by a thread a name.
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
            look = functools.partial(_addresses_or_error, host, port, **hints)
            running = self._running[asked] = on_own_thread(look, "bgmagic-lookup")
            running.add_done_callback(lambda _: self._running.pop(asked, None))
        try:
            async with asyncio.timeout(LOOKUP):
                found = await asyncio.shield(asyncio.wrap_future(running))
        except TimeoutError:
            shown = host.decode("ascii", "replace") if isinstance(host, bytes) else host
            raise OSError(f"looking up {shown} took more than {LOOKUP:.0f} s") from None
        if isinstance(found, Exception):
            raise found
        return found


def _addresses_or_error(host: Any, port: Any, **hints: Any) -> Any:
    # asyncio would report an error that nobody waits for any more, anywhere in the user's cells.
    try:
        return socket.getaddrinfo(host, port, **hints)
    except Exception as error:
        return error


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
        """Start the thread now; a RuntimeError says that none can be started."""
        self._started()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``coroutine`` on the loop from any thread; never waits for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._started())

    def begin(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Start ``coroutine`` and drop its result; many in a row wake the loop once."""
        loop = self._started()
        with self._lock:
            if not self._begun:  # first of all: a cell may be interrupted before the next step
                loop.call_soon_threadsafe(self._begin)
            self._begun.append(coroutine)

    def withdraw(self, coroutine: Coroutine[Any, Any, object]) -> bool:
        """Close what `begin` was interrupted with, if it has not begun; whether that is so."""
        with self._lock:
            begun = [*self._begun, *(task.get_coro() for task in tuple(self._tasks))]
            if coroutine in begun or inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED:
                return False
            coroutine.close()
            return True

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
        """Cancel what runs, end the thread, and wait for that at most ``timeout`` seconds; whether
        it has ended. It is a daemon, so it can't keep the process alive."""
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
    loop.set_default_executor(futures.ThreadPoolExecutor(1, thread_name_prefix="bgmagic-blocking"))
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
    for _ in range(3):  # what ends may begin another, which would be reported as it is destroyed
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class CallbackThread:
    """Calls functions one after another, off the loop thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], object]) -> None:
        """Call ``function`` soon; what it raises is logged, as concurrent.futures does."""
        self._queue.put(function)
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # one that could not start
                name = "bgmagic-callbacks"
                self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                self._queue.get()()
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


class Sleeper(Protocol):
    """What is called after a time."""

    def ring(self, token: object) -> None:
        """The time is over for which `Clock.ring` gave this token, or a `TurnQueue` gives one."""


class _Timers(threading.local):
    """The timers of one thread, in a context of its own: two threads can't enter one at once.
    Thousands of waits need few; each would cost a place in asyncio's heap, a handle, a context."""

    def __init__(self) -> None:
        self.context = contextvars.Context()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticks: dict[int, tuple[int, list[Sleeper]]] = {}

    def ring(self, sleeper: Sleeper, seconds: float) -> object:
        """Call ``sleeper.ring`` on the running loop after ``seconds``, and of long times up to
        `TICK` more, with the token that this gives."""
        loop = asyncio.get_running_loop()
        if seconds < EXACT:
            token = object()
            loop.call_later(seconds, sleeper.ring, token, context=self.context)
            return token
        if loop is not self._loop:
            self._loop, self._ticks = loop, {}
        tick = math.ceil((loop.time() + seconds) / TICK)
        known = self._ticks.get(tick)
        if known is None:
            known = self._ticks[tick] = tick, []
            loop.call_at(tick * TICK, self._end, self._ticks, tick, context=self.context)
        known[1].append(sleeper)
        return known[0]  # one number for all of them

    @staticmethod
    def _end(ticks: dict[int, tuple[int, list[Sleeper]]], tick: int) -> None:
        for sleeper in ticks.pop(tick)[1]:
            try:
                sleeper.ring(tick)
            except Exception:  # must not keep others asleep
                logger.exception("%r did not wake", sleeper)


_TIMERS = _Timers()


class WakeEvent:
    """Ends one job's wait early, or at its timeout. Lighter than an `asyncio.Event` with one."""

    __slots__ = ("_set", "_token", "_waiter")

    def __init__(self) -> None:
        self._set = False
        self._waiter: asyncio.Future[None] | None = None
        self._token: object = None

    def set(self) -> None:
        """End the current wait, or else the next one."""
        self._set = True
        self._end()

    def clear(self) -> None:
        """Reset the event."""
        self._set = False

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until it is set, at most ``seconds``, and of long ones up to `TICK` more."""
        if self._set:
            return
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        self._token = None if seconds is None else _TIMERS.ring(self, seconds)
        try:
            await waiter
        finally:
            self._waiter = None

    def ring(self, token: object) -> None:
        """End the wait that has this token."""
        if token == self._token:
            self._end()

    def _end(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


LOOK = 1.0  # seconds between looks at who has waited too long for a turn


class TurnQueue:
    """Bounds what is under way at once. Belongs to one event loop."""

    def __init__(self, most: int) -> None:
        """Make it for ``most`` at once."""
        self._most = most
        self._inside: set[Sleeper] = set()
        self._queue: OrderedDict[Sleeper, float] = OrderedDict()  # with the loop's time to go
        self._looking: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        """Whether others have all turns."""
        return len(self._inside) >= self._most

    def ask(self, sleeper: Sleeper, seconds: float) -> None:
        """Ring ``sleeper``, with this as the token, once it has a turn: the first who asks first,
        and after ``seconds``, or one more, in any case."""
        if not self.is_full or seconds <= 0:
            self.take(sleeper)
        else:
            loop = asyncio.get_running_loop()
            self._queue[sleeper] = loop.time() + seconds
            self._looking = self._looking or loop.call_later(LOOK, self._look)

    def take(self, sleeper: Sleeper) -> None:
        """Give it a turn now."""
        self._queue.pop(sleeper, None)
        self._inside.add(sleeper)
        sleeper.ring(self)

    def leave(self, sleeper: Sleeper) -> None:
        """Take the turn back, if it has one, or waits for one."""
        self._inside.discard(sleeper)
        self._queue.pop(sleeper, None)
        while self._queue and len(self._inside) < self._most:
            self.take(next(iter(self._queue)))
        self._queue = self._queue or OrderedDict()  # of thousands it would keep all its room

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for sleeper in [one for one, at in self._queue.items() if at <= loop.time()]:
            self.take(sleeper)
        self._looking = loop.call_later(LOOK, self._look) if self._queue else None


class Clock(NamedTuple):
    """Gives the time for polls and deadlines; tests replace it.

    Attributes:
        now: seconds since the epoch, by the wall clock, so that a suspended laptop counts.
        wait: wait to be woken at most so many seconds.
        ring: call a sleeper after so many seconds; gives the token that it is called with.
    """

    now: Callable[[], float] = time.time
    wait: Callable[[WakeEvent, float], Awaitable[None]] = WakeEvent.wait
    ring: Callable[[Sleeper, float], object] = _TIMERS.ring

    async def pause(self, wake: WakeEvent, seconds: float) -> None:
        """Wait ``seconds``, or until ``wake`` is set, and clear it."""
        await self.wait(wake, seconds)
        wake.clear()
