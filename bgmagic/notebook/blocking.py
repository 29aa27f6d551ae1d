"""Blocks a cell until jobs are done, while the kernel stays alive.

In a kernel the event loop runs inside the cell, so that the user's own tasks go on and a click on a
widget is handled. nest-asyncio2 makes that possible; it is imported with the first wait, since it
replaces asyncio's tasks for the whole process. Elsewhere the thread simply waits, and where the
archived nest_asyncio was applied first, too: that one loses what arrives during a nested run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from bgmagic.text import and_more, one_line

if TYPE_CHECKING:
    from bgmagic.jobs.job import Job
    from bgmagic.jobs.steps import Step
    from bgmagic.submission.app import App

# Set as the wait is over, one for each wait that goes on in a cell, the outermost first.
_waits: list[asyncio.Event] = []

_LOOK = 0.3  # seconds between two looks at what must not be put off until a wait is over

_SLICE = 0.1  # seconds; a plain wait is cut into slices so that Windows can be interrupted too


class WaitInterrupted(KeyboardInterrupt):
    """The user interrupted a wait; the jobs go on. One line in a notebook."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


def wait(
    jobs: Sequence[Job],
    timeout: float | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> list[Job]:
    """Block until all ``jobs`` are done, at most ``timeout`` seconds.

    Args:
        meanwhile: called again and again on this thread.

    Returns:
        the jobs that are not done yet.

    Raises:
        WaitInterrupted: the user interrupted the wait.
    """
    pending = [job for job in jobs if not job.done()]
    try:
        if pending and _can_nest():
            _wait_nested(_nested_loop(), pending, timeout, meanwhile)
        else:
            _wait_plainly(pending, timeout, meanwhile)
    except KeyboardInterrupt:
        left = [job.name or job.response_id or "a job" for job in jobs if not job.done()]
        raise WaitInterrupted(
            f"not waiting any longer; still going on: {and_more(left[:5], len(left))}"
        ) from None
    return [job for job in jobs if not job.done()]


def _can_nest() -> bool:
    """Whether there is a loop that can be run inside the cell without losing anything."""
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    by_archived = hasattr(asyncio, "_nest_patched") and not hasattr(asyncio, "_nest_asyncio2")
    # Other loops (uvloop) can't be nested at all.
    return isinstance(loop, asyncio.BaseEventLoop) and not by_archived


def _wait_plainly(
    jobs: Sequence[Job], timeout: float | None, meanwhile: Callable[[], object] | None
) -> None:
    end = None if timeout is None else time.monotonic() + timeout
    pending = [job for job in jobs if not job.done()]
    while pending and (end is None or time.monotonic() < end):
        if meanwhile is not None:
            meanwhile()
        until = time.monotonic() + _SLICE if end is None else min(time.monotonic() + _SLICE, end)
        # For one after another: to wait for all of thousands is work, and looks like a cell's.
        while pending and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                pending[-1].exception(left)
            while pending and pending[-1].done():
                pending.pop()


def _nested_loop() -> asyncio.AbstractEventLoop:
    """The running loop, which can be run inside the cell from now on."""
    import nest_asyncio2

    loop = asyncio.get_running_loop()
    nest_asyncio2.apply(loop)
    return loop


def _wait_nested(
    loop: asyncio.AbstractEventLoop,
    jobs: Sequence[Job],
    timeout: float | None,
    meanwhile: Callable[[], object] | None,
) -> None:
    with _defer_cells(), _handle_comms(), _interruptible():
        task = loop.create_task(_all_done(jobs, timeout))
        beside = None if meanwhile is None else loop.create_task(_repeat(meanwhile))
        try:
            loop.run_until_complete(task)
        finally:
            task.cancel()  # an interrupt leaves it unfinished
            if beside is not None:
                beside.cancel()


async def _all_done(jobs: Sequence[Job], timeout: float | None) -> None:
    waits = [asyncio.ensure_future(_quietly(job)) for job in jobs]
    try:
        await asyncio.wait(waits, timeout=timeout)
    finally:
        for task in waits:
            task.cancel()


async def _repeat(meanwhile: Callable[[], object]) -> None:
    while True:
        meanwhile()
        await asyncio.sleep(_LOOK)


async def _quietly(job: Awaitable[Any]) -> None:
    with contextlib.suppress(Exception):
        await job


@contextlib.contextmanager
def _defer_cells() -> Iterator[None]:
    """Run cells that arrive during the wait after those that arrived before it."""
    over = asyncio.Event()
    _waits.append(over)
    try:
        yield
    finally:
        _waits.remove(over)
        over.set()


@contextlib.contextmanager
def _handle_comms() -> Iterator[None]:
    """Let the kernel handle the messages of widgets during the wait."""
    kernel = _kernel()
    manager = getattr(getattr(kernel, "shell_channel_thread", None), "manager", None)
    if manager is not None and hasattr(manager, "set_on_recv_callback"):
        # ipykernel 7 handles all messages in one context, which the waiting cell has entered; those
        # that come meanwhile would be put off until it ends. This gives them another.
        manager.set_on_recv_callback(functools.partial(_take_message, kernel))
    queue = getattr(kernel, "msg_queue", None)
    if queue is None:
        yield
        return
    # ipykernel 6: the task that reads this queue is running the waiting cell.
    kept: list[Any] = []
    task = asyncio.get_running_loop().create_task(_take_comms(kernel, queue, kept))
    try:
        yield
    finally:
        task.cancel()
        while not queue.empty():
            kept.append(queue.get_nowait())
        for item in kept:
            queue.put_nowait(item)


async def _take_message(kernel: Any, subshell: str | None, message: Any) -> None:
    """Handle a message of ipykernel 7: those of widgets also while a cell holds the shell's lock.

    From 7.4 on ipykernel does that itself; before, it does for those on a subshell alone.
    """
    lock = getattr(kernel, "_main_asyncio_lock", None)
    held = subshell is None and lock is not None and lock.locked()
    if held and _is_comm(kernel, (message,)):
        # In a task of its own, and so in a context of its own: the message that the waiting cell
        # came with stays the current one there.
        await asyncio.create_task(kernel.dispatch_shell(message, subshell_id=None))
        return
    if held and _waits:
        # A cell that came just before the wait belongs to the waiting cell's context, and can only
        # queue for the lock when the wait is over. This one comes after it.
        await _waits[0].wait()
    await kernel.shell_main(subshell, message)


async def _take_comms(kernel: Any, queue: Any, kept: list[Any]) -> None:
    """Handle the messages of widgets; cells and the rest go to ``kept``, in their order."""
    while True:
        item = await queue.get()
        _, dispatch, arguments = item
        if not _is_comm(kernel, arguments):
            kept.append(item)
            continue
        # The handler makes its message the kernel's current one, and output goes to that.
        parent, idents = kernel.get_parent("shell"), kernel._parent_ident.get("shell", [])
        try:
            await dispatch(*arguments)
        finally:
            kernel.set_parent(idents, parent, "shell")


def _is_comm(kernel: Any, arguments: Any) -> bool:
    try:
        # Only the header: reading a message whole twice looks like a replay to the session.
        _, parts = kernel.session.feed_identities(arguments[0], copy=False)
        kind = kernel.session.unpack(parts[1].bytes)["msg_type"]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return False
    return str(kind).startswith("comm_")


def _kernel() -> Any:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let an interrupt raise here: a message handled during the wait resets the handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def wake_on_signals() -> None:
    """Let an interrupt reach a cell that awaits while nothing else happens in the kernel.

    ipykernel's own handler schedules the cancellation without waking the loop, so the interrupt of
    an idle ``await critique`` would be noticed only with the next message (its issue 881). A signal
    now writes a byte to a socket that the loop reads. Done once for a kernel, on its main thread;
    where someone has set such a socket before, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    with contextlib.suppress(NotImplementedError, RuntimeError):  # loops that read no sockets
        if before == -1:
            # The loop keeps both ends alive: the writer would else be closed as garbage.
            asyncio.get_running_loop().add_reader(ours, _drain, ours, theirs)
            return
    signal.set_wakeup_fd(before)
    ours.close()
    theirs.close()


def _drain(ours: socket.socket, _theirs: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        ours.recv(4096)


# Functions that a model calls.


def named_function(namespace: Mapping[str, Any], name: str) -> Callable[..., Any] | None:
    """The function that is called ``name``, under that variable or, if need be, another one."""
    for found in [namespace.get(name), *list(namespace.values())]:
        if callable(found) and not isinstance(found, type) and _has_name(found, name):
            function: Callable[..., Any] = found
            return function
    return None


def _has_name(value: object, name: str) -> bool:
    try:
        known = getattr(value, "__name__", None)
    except Exception:  # any object of the user's is asked: a proxy of nothing, say
        return False
    return isinstance(known, str) and known == name


class MainThread:
    """Calls functions on the thread that cells run on, between them."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[Callable[[], None]] = []

    def learn(self) -> None:
        """Take the loop that runs on this thread now, if there is one."""
        with contextlib.suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        """Call ``function`` there soon; in a terminal when the next cell has ended."""
        future: Future[Any] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    result = _interruptibly(function)
                except BaseException as error:  # the function is the user's
                    future.set_exception(error)
                else:
                    future.set_result(result)

        if self._loop is not None:
            self._loop.call_soon_threadsafe(run)
        else:
            self._waiting.append(run)
        return future

    def drain(self) -> None:
        """Call what waits."""
        while self._waiting:
            self._waiting.pop(0)()


def _interruptibly(function: Callable[[], Any]) -> Any:
    """Call ``function``, which an interrupt ends also between cells, where kernels ignore it."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    ):
        return function()
    running = True

    def interrupt(*_: object) -> None:
        if running:  # what comes later would end the kernel's loop
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        return function()
    finally:
        running = False
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def can_type() -> bool:
    """Whether somebody sits at this terminal."""
    return bool(sys.stdin is not None and sys.stdin.isatty())


class Questions:
    """What models want to call and somebody has to allow, of this process's jobs.

    Attributes:
        tells: whether a cell runs in which nobody is asked: then a line says that a job asks.
    """

    def __init__(self) -> None:
        self.tells = False
        self._jobs: dict[str, Job] | None = None
        self._answered: set[Any] = set()
        self._told: set[Any] = set()

    def start(self, app: App) -> None:
        """Follow the jobs that call functions from now on, and those there are."""
        if self._jobs is None:
            known = [job for job in app.manager.jobs() if job.outline.rounds is not None]
            self._jobs = {job.record.key: job for job in known}
            app.manager.watch(self._follow)

    def _follow(self, job: Job) -> None:
        if self._jobs is not None and job.record.rounds is not None:
            self._jobs[job.record.key] = job
            job.add_listener(self._changed)

    def _changed(self, job: Job) -> None:
        if job.done():
            (self._jobs or {}).pop(job.record.key, None)
        elif self.tells:
            how = "an interrupt (Ctrl+C) ends what this cell waits for, and you are asked then"
            self.tell([job], lambda _: how)

    def tell(self, jobs: Collection[Job], how: Callable[[Job], str]) -> None:
        """Print a line on each call of these jobs that waits for somebody's word, once."""
        for job, step in self._open():
            if job in jobs and (call := _id_of(job, step)) not in self._told:
                self._told.add(call)
                print(f"{_question(job, step)}: {how(job)}")

    def ask(self) -> bool:
        """Ask about each, here and now.

        Returns:
            whether each question was answered; what was not is asked again.
        """
        for job, step in self._open():
            # The loop thread may not know an answer yet.
            if (call := _id_of(job, step)) not in self._answered:
                if not _ask(job, step):
                    return False
                self._answered.add(call)
        return True

    def _open(self) -> Iterator[tuple[Job, Step]]:
        from bgmagic.jobs.steps import OPEN_QUESTIONS  # `%load_ext` needs none of it

        for job in list((self._jobs or {}).values()):
            for step in job.steps if not job.done() else ():
                if step.status in OPEN_QUESTIONS:
                    yield job, step


def _id_of(job: Job, step: Step) -> Any:
    return job.record.key, step.round, step.call_id, step.status


def _question(job: Job, step: Step) -> str:
    from bgmagic.jobs.steps import CallStatus

    call = f"{step.name}({one_line(step.arguments, 300)})"
    again = ", which may have run already, once more" if step.status == CallStatus.UNKNOWN else ""
    return f"{job.name or 'a job'}: its model wants to call {call}{again}"


def _ask(job: Job, step: Step) -> bool:
    try:
        said = input(f"{_question(job, step)} [y/N] ")
    except (EOFError, KeyboardInterrupt):
        return False
    if said.strip().lower() in ("y", "yes"):
        job.allow(step.call_id)
    else:
        job.deny(step.call_id)
    return True
