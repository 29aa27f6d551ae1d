"""All that the simulation and the fault tests import of the package's inner modules.

`Kernel` is the package's own manager, journal and owner, put on a loop and a disk that the simulation
steps: nothing of what they decide is told again here. When modules of the package move, this file is
the one to change.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import random
import signal
import types
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from bgmagic.api import redaction
from bgmagic.api.request import Request
from bgmagic.api.request_body import build_request
from bgmagic.api.response import ResponseCompressor
from bgmagic.api.server import ServerConfig
from bgmagic.concurrency import Clock
from bgmagic.errors import BadInput, ServerError
from bgmagic.jobs.job import Job
from bgmagic.jobs.record import GroupPosition, JobRecord
from bgmagic.prompts.conversation import user_message
from bgmagic.runtime import scheduler, sending
from bgmagic.runtime.manager import JobManager
from bgmagic.runtime.pacing import ConcurrencyLimiter, RunConfig
from bgmagic.storage import database, filesystem, owner_lock
from bgmagic.storage.database import JournalError
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.journal import Journal
from bgmagic.storage.owner_lock import OwnerLock
from bgmagic.submission.app import app
from bgmagic.transport.reply import Reply
from tests.simulation.disk import Disk, Process
from tests.simulation.loop import SteppedLoop

SERVER = ServerConfig(base_url="http://simulated.example/v1", api_key="sk-test-0123456789abcdef")
NOTEBOOK = "/home/user/study.ipynb"


# For the fault tests, in a process of their own.


def trouble_of_session() -> str | None:
    """What this process tells its user about the journal, or None."""
    return app.manager.store.trouble


def bound_answers(size: int) -> None:
    """Let answers of servers have at most so many bytes, on the wire and unpacked."""
    from bgmagic.runtime import watcher
    from bgmagic.transport import bounded

    bounded.BODY = watcher.PREVIEW_SIZE = size


def limit_polls(seconds: float) -> None:
    """Have this process wait so long for the answer to a poll."""
    from bgmagic.transport import client

    client.POLL_TIMEOUT = seconds  # type: ignore[misc]


def stop_before_posting() -> None:
    """Suspend this process between the claim of its next job and its POST."""
    from bgmagic.transport.client import ResponsesClient

    create = ResponsesClient.create

    async def stopped(*given: Any) -> Any:
        ResponsesClient.create = create  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGSTOP)
        return await create(*given)

    ResponsesClient.create = stopped  # type: ignore[method-assign]


# For the simulation.


class Calls(Protocol):
    """What answers the calls of the kernel whose turn it is."""

    def create(self, prompt: str) -> Coroutine[Any, Any, dict[str, Any]]:
        """Accept a job, sooner or later, or raise what `unsent`, `refused` or `unclear` make."""

    def retrieve(self, response_id: str) -> dict[str, Any]:
        """Tell of a response, or raise the same."""


def unsent() -> Exception:
    """The request did not reach the server."""
    return ServerError("no route", maybe_accepted=False, retryable=True)


def refused() -> Exception:
    """The server did not take it, and may later."""
    return ServerError("HTTP 429: slow down", maybe_accepted=False, status_code=429, retryable=True)


def unclear() -> Exception:
    """Nobody knows whether the server took it."""
    return ServerError("the connection was closed", maybe_accepted=True)


class _Client:
    """In the place of the package's client: `Calls` instead of a network."""

    address = "the server"

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.compress = ResponseCompressor()
        self.create_slots = asyncio.Semaphore(50)

    async def create(self, request: Request, _total: float) -> Reply:
        prompt = request.body["input"][-1]["content"][0]["text"]
        return Reply(await self._calls.create(prompt))

    def begin_poll(self, _response_id: str, _told: object) -> bool:
        return False

    async def retrieve(
        self,
        response_id: str,
        _last: Reply | None = None,
        _include: object = (),
        _asked: object = None,
    ) -> Reply:
        return Reply(self._calls.retrieve(response_id))

    async def cancel(self, response_id: str) -> Reply:
        return Reply(self._calls.retrieve(response_id))

    async def close(self) -> None:
        """There is nothing to close."""


class _Journal(Journal):
    """The journal, without its thread: the simulation says when it commits what is queued."""

    def _start(self) -> None:
        if self._closing:
            raise JournalError("the journal is closed; nothing was written")

    @property
    def queued(self) -> bool:
        """Whether there is something to be committed."""
        return bool(self._queue or self.live)

    def commit(self) -> None:
        """Commit what is queued, as one turn of the thread's own loop does."""
        batch, self._queue = self._queue, []
        self._write(batch)

    def flush(self, timeout: float) -> bool:
        while self._queue:
            self.commit()
        return True

    def close(self, timeout: float = 1.0) -> bool:
        self.flush(timeout)
        self.drop()
        return True

    def drop(self) -> None:
        """Forget the connections of a process that has died."""
        self._drop_writer()
        self._drop_reader()


class _LoopThread:
    """In the place of the manager's thread: its loop, which the simulation steps."""

    def __init__(self, loop: SteppedLoop) -> None:
        self._loop = loop

    def start(self) -> None:
        """It has no thread to start."""

    def begin(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._loop.keep(self._loop.create_task(coroutine))

    def run(self, coroutine: Coroutine[Any, Any, object]) -> Future[object]:
        self.begin(coroutine)
        return Future()

    def call(self, function: Callable[[], object]) -> None:
        self._loop.call_soon(function)

    def is_current(self) -> bool:
        return True


class _Locks:
    """Locks of owners' files, as each host for itself has them; in the place of filelock."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], Process] = {}
        self.process = Process("alpha")

    def lock(self, path: Path) -> _Lock:
        return _Lock(self, path, self.process)


class _Lock:
    def __init__(self, locks: _Locks, path: Path, process: Process) -> None:
        self.lock_file = str(path)
        self._locks = locks
        self._process = process
        self._name = process.host, path.name

    def acquire(self, blocking: bool = False) -> None:
        holder = self._locks.held.get(self._name)
        if holder is not None and not holder.dead:
            raise OSError("another process holds it")
        Path(self.lock_file).touch()
        self._locks.held[self._name] = self._process

    def release(self) -> None:
        self._locks.held.pop(self._name, None)


class World(Protocol):
    """What a kernel needs to know of the world."""

    locks: _Locks
    elapsed: float
    two_hosts: bool
    disk: Disk
    calls: Calls

    def now(self) -> float:
        """Seconds since the epoch."""


class Kernel:
    """A process with the package in it, on a host of the simulation."""

    def __init__(self, world: World, process: Process, journal: Path) -> None:
        self.process = process
        self._world = world
        self.loop = SteppedLoop(lambda: world.elapsed)
        with _host_named(process.host):
            self.journal = _Journal(journal)
            owner = OwnerLock(journal.parent / "owners")
        self._store = JobStore(self.journal, owner)
        self._manager = JobManager(
            clock=Clock(now=world.now), store=self._store, destination=lambda: SERVER
        )
        atexit.unregister(self._manager.close)
        self._manager._loop = _LoopThread(self.loop)  # type: ignore[assignment]

    @property
    def trouble(self) -> str | None:
        """What the user is told about the journal."""
        return self._store.trouble

    def jobs(self) -> list[Job]:
        return self._manager.jobs()

    def submit(self, prompt: str) -> None:
        """Send one job."""
        self._manager.submit(_request(prompt), name=prompt, notebook=NOTEBOOK)

    def submit_group(self, prompts: list[str], at_once: int) -> None:
        """Send a group of jobs."""
        count = len(prompts)
        records = [
            JobRecord(
                request=_request(prompt),
                server=SERVER.name,
                submitted_at=self._world.now(),
                name=prompt,
                named=True,
                notebook=NOTEBOOK,
                position=GroupPosition(prompts[0], None, index, count, at_once),
            )
            for index, prompt in enumerate(prompts)
        ]
        self._manager.submit_all(
            records, RunConfig(SERVER, None, 86_400.0, True, ConcurrencyLimiter(at_once))
        )

    def attach_all(self) -> None:
        """Pick up all that is open and may be picked up."""
        for entry in self.journal.entries(open_only=True):
            whole = self.journal.find(entry.key)
            if whole is not None and whole.ended_at is None:
                with contextlib.suppress(BadInput):
                    self._manager.attach(whole)

    def cancel(self, pick: int) -> None:
        """Cancel one of its jobs."""
        jobs = self.jobs()
        if jobs:
            self._manager.cancel(jobs[pick % len(jobs)])

    def die(self) -> None:
        """Take back what Python holds of a process that has died."""
        self.loop.abandon()
        self.journal.drop()

    def rows(self) -> dict[str, tuple[str, bool]]:
        """Status, and whether it has ended, of each prompt in the journal."""
        return {
            str(entry.name): (str(entry.status), entry.ended_at is not None)
            for entry in self.journal.entries()
        }


def _request(prompt: str) -> Request:
    return build_request([user_message(prompt)], model="gpt-5.2")


@contextlib.contextmanager
def _host_named(name: str) -> Iterator[None]:
    known = owner_lock.socket
    owner_lock.socket = types.SimpleNamespace(gethostname=lambda: name)  # type: ignore[assignment]
    try:
        yield
    finally:
        owner_lock.socket = known


@contextlib.contextmanager
def in_place(world: World, seed: int) -> Iterator[None]:
    """Put the simulation's parts in the places of the package's that need the real world."""
    put: list[tuple[Any, str, Any]] = [
        (scheduler, "ResponsesClient", lambda *_: _Client(world.calls)),
        (sending, "START_DELAY", 0.0),
        (owner_lock, "_lock", world.locks.lock),
        (owner_lock, "ANOTHER_LOOK", 0.0),
        (filesystem, "is_shared", lambda _: world.two_hosts),
        (filesystem, "takes_wal", lambda _: True),
        (filesystem, "_PAUSE", 0.0),
        (filesystem, "sync_folder", lambda _: world.disk.sync_names()),
        # A key is stretched so that nobody finds it out, which takes longer than a whole history.
        (redaction, "credentials_fingerprint", lambda salt, key: f"{salt} {key}"),
        (database, "BUSY_TIMEOUT", 0.0),
        (database, "READ_TIMEOUT", 0.0),
    ]
    known = [(place, name, getattr(place, name)) for place, name, _ in put]
    for place, name, part in put:
        setattr(place, name, part)
    state = random.getstate()
    random.seed(seed)  # the jitter of polls
    try:
        yield
    finally:
        random.setstate(state)
        for place, name, part in known:
            setattr(place, name, part)


def empty_journal(path: Path) -> None:
    """Make a journal without jobs at ``path``, as a kernel that has ended left it."""
    journal = _Journal(path)
    journal.entries()
    journal.close()


locks = _Locks
