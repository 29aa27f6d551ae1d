"""Refuses, for a job that has no text yet, everything that text can do.

An answer will stand in the same variable, so code written for it must fail with a message that says
what to wait for, and never give a wrong result. `LeanFuture` is how one waits for it.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from bgmagic.errors import NotReady, NotReadyAttribute
from bgmagic.text import duration, one_line

T = TypeVar("T")

# Set while an expression becomes a part of a prompt: a job that some object holds must not put its
# status where its answer belongs.
rendering_prompt: ContextVar[bool] = ContextVar("bgmagic_rendering_prompt", default=False)

# What an answer has: the methods of text, and what stands beside it.
_BESIDE = (
    "bundle", "citations", "code", "conversation", "data", "files", "images", "instructions", "job",
    "made_html", "made_text", "model",
)  # fmt: skip
_ATTRIBUTES: Mapping[str, str] = {
    **{name: f"do .{name}" for name in dir(str) if not name.startswith("_")},
    **{name: f"give .{name}" for name in _BESIDE},
}

_OPERATORS: Mapping[str, str] = {
    "__format__": "go into an f-string",
    "__len__": "tell its length",
    "__iter__": "be iterated",
    "__getitem__": "be indexed",
    "__contains__": "be searched",
    **dict.fromkeys(("__add__", "__radd__"), "be joined with +"),
    **dict.fromkeys(("__mul__", "__rmul__"), "be repeated with *"),
    **dict.fromkeys(("__mod__", "__rmod__"), "be formatted with %"),
    **dict.fromkeys(("__lt__", "__le__", "__gt__", "__ge__"), "be ordered"),
}


class TextPlaceholder:
    """Stands where a text will be, and refuses to be used as one."""

    def refusal(self, action: str) -> str:
        """Say why it can't do ``action`` now, and what to do instead; in one line."""
        raise NotImplementedError

    def refuse(self, action: str) -> NoReturn:
        """Refuse ``action``, which only text can do.

        Raises:
            NotReady: always.
        """
        raise NotReady(self.refusal(action))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            # Plain inequality would be a wrong result: the text may well equal `other` later.
            self.refuse("be compared with text")
        return self is other

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        return True

    if not TYPE_CHECKING:  # a type checker is to find a wrong attribute by itself

        def __getattr__(self, attribute: str) -> NoReturn:
            if attribute in _ATTRIBUTES:
                raise NotReadyAttribute(self.refusal(_ATTRIBUTES[attribute]))
            about = f"a {type(self).__name__} has no attribute {attribute!r}"
            raise AttributeError(about, name=attribute, obj=self)


def _refuser(action: str) -> Callable[..., NoReturn]:
    """Make an operator that refuses, by the name of what was tried."""

    def refuse(self: TextPlaceholder, *_: object) -> NoReturn:
        self.refuse(action)

    return refuse


for _operator, _action in _OPERATORS.items():
    setattr(TextPlaceholder, _operator, _refuser(_action))


def placeholder_repr(record: Any, status: str, elapsed: float, error: object) -> str:
    """What a job shows instead of a text: its status and what is known of it, in a line.

    Args:
        record: its `JobRecord`.
        elapsed: seconds.
        error: why it has no answer, or None.
    """
    shown = record.status_text if status == record.status else status
    words = ["Job", record.name or "", one_line(shown, 80), duration(elapsed)]
    if record.response_id or record.batch_id:
        words.append(one_line(record.response_id or record.batch_id))
    about = f": {error}" if error else f": {record.trouble}" if record.trouble else ""
    return f"<{' '.join(word for word in words if word)}{about}>"


def remedy_of(name: str | None, error: object, *, done: bool) -> str:
    """What to do instead of using a job as its text."""
    if done and not error:
        return "this is the job, its text is .result()"
    if error:
        return f"there is no answer: {error}"
    wait = f"%bgwait {name}" if name else ".result()"
    return f"wait for it with {wait} or `await`, or run this again later"


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


class _MadeWhenAsked:
    """A list that a future has only once somebody asks for it: of thousands few ever need one.

    Asked for with the lock of the futures held, as `concurrent.futures` does.
    """

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, future: Any, _: type | None = None) -> list[Any]:
        made: list[Any] = []
        setattr(future, self._name, made)
        return made


class _OneLock(_thread.RLock):  # type: ignore[misc]  # final in typeshed alone
    """A lock that no interrupt leaves locked. With a Python object for a lock, as a Condition is,
    an interrupt may come when that is locked and ``with`` has not begun yet."""

    def notify_all(self) -> None:
        """Nothing: nobody waits on it, but with a waiter of the future's own."""


class _Waiter:
    """Is told of the end of a future, as the waiters of `concurrent.futures` are."""

    def __init__(self) -> None:
        self.ended: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def add_result(self, future: object) -> None:
        self.ended.put(future)

    add_exception = add_cancelled = add_result


class LeanFuture(Future[T]):
    """A ``concurrent.futures.Future`` that can be awaited in any loop, and is light while nobody
    waits: locks and lists of its own would take three times what the rest of a job does."""

    # One lock for all of them: each holds it for an instant.
    _condition: threading.Condition = _OneLock()  # type: ignore[assignment]
    _waiters: list[Any] = _MadeWhenAsked()  # type: ignore[assignment]
    _done_callbacks: list[Any] = _MadeWhenAsked()  # type: ignore[assignment]

    def __init__(self) -> None:
        # Not by Future's own, which makes them.
        self._state, self._result, self._exception = "PENDING", None, None
        self._awaiting: AsyncWaiters | None = None

    def _check_may_wait(self) -> None:
        """Raise an error on a thread where waiting would never end."""
        raise NotImplementedError

    def done(self) -> bool:
        """Whether it has its result or its error."""
        return self._state == "FINISHED"

    def result(self, timeout: float | None = None) -> T:
        """The result, waiting up to ``timeout`` seconds for it."""
        error = self.exception(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del error, self  # its traceback would hold them
        return self._result  # type: ignore[return-value]  # it has one

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error, or None, waiting as ``result`` does."""
        if not self.done():
            self._check_may_wait()
            self._wait(timeout)
        if not self.done():
            raise TimeoutError
        return self._exception  # what has ended changes no more: without the lock

    def _wait(self, timeout: float | None) -> None:
        """As `concurrent.futures.wait`, in which an interrupt may leave the one lock locked."""
        waiter = _Waiter()
        with self._condition:
            if self.done():
                return
            self._waiters.append(waiter)
        try:
            with contextlib.suppress(queue.Empty):
                waiter.ended.get(timeout=None if timeout is None else max(timeout, 0))
        finally:
            with self._condition:
                self._waiters.remove(waiter)

    def __await__(self) -> Generator[Any, None, T]:
        if not self.done():
            self._check_may_wait()
            with self._condition:
                self._awaiting = self._awaiting or AsyncWaiters(self.done)
            yield from self._awaiting.wait()
        return super().result(0)

    def _wake(self) -> None:
        """Wake the coroutines that wait: it has ended, and needs less from now on."""
        with self._condition:
            del self._done_callbacks  # they were called
            if not self._waiters:
                del self._waiters
        if self._awaiting is not None:
            self._awaiting.wake()


F = TypeVar("F", bound="LeanFuture[Any]")


def as_completed(futures: Iterable[F], timeout: float | None = None) -> Iterator[F]:
    """As `concurrent.futures.as_completed`, in which an interrupt may leave the one lock locked.

    Raises:
        TimeoutError: some have not ended ``timeout`` seconds after the first was asked for.
    """
    end = None if timeout is None else time.monotonic() + timeout
    every, waiter = dict.fromkeys(futures), _Waiter()
    pending: dict[F, None] = {}
    try:
        for future in every:
            with future._condition:
                if not future.done():
                    pending[future] = None
                    future._waiters.append(waiter)
        yield from (future for future in every if future not in pending)
        while pending:
            next(iter(pending))._check_may_wait()
            left = None if end is None else max(end - time.monotonic(), 0)
            try:
                ended = waiter.ended.get(timeout=left)
            except queue.Empty:
                about = f"{len(pending)} (of {len(every)}) futures unfinished"
                raise TimeoutError(about) from None
            del pending[ended]
            yield ended
    finally:
        for future in pending:
            with future._condition, contextlib.suppress(ValueError):
                future._waiters.remove(waiter)


def _after_fork() -> None:
    LeanFuture._condition = _OneLock()  # type: ignore[assignment]  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
