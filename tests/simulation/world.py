"""One history: kernels on one or two hosts, a disk, a server, and what happens to them, step by step.

Each step is an operation of `World` with one number, which picks what it is about; the same operations
with the same seed give the same history. `end` heals everything, lets the user come back, and checks
what `DESIGN.md` promises.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.simulation import adapter
from tests.simulation.adapter import Kernel
from tests.simulation.disk import Disk, Process
from tests.simulation.vfs import disk_under_sqlite

HOSTS = ("alpha", "beta")
ROUNDS = 8  # in which everything must come to rest
MOST_KERNELS = 5
_EPOCH = 1_800_000_000.0
# What a write can fail with: no room, no room to grow, a quota or a broken disk, a sync that fails, a
# disk that can't be read either, another program's lock.
FAULTS: tuple[dict[str, int], ...] = (
    {"write": sqlite3.SQLITE_FULL},
    {"grow": sqlite3.SQLITE_FULL},
    {"write": sqlite3.SQLITE_IOERR_WRITE},
    {"sync": sqlite3.SQLITE_IOERR_FSYNC},
    {"read": sqlite3.SQLITE_IOERR_READ, "write": sqlite3.SQLITE_IOERR_WRITE},
)


class Broken(AssertionError):
    """A promise does not hold."""


@dataclass
class Post:
    """A create on its way to the server."""

    kernel: Kernel
    prompt: str
    answer: asyncio.Future[dict[str, Any]]


@dataclass
class SimulatedServer:
    """A server that may have accepted.

    Attributes:
        accepted: the responses, by prompt.
        status: of each response.
        polled: the responses that some kernel has asked for.
        under_way: creates that have not arrived, or whose answers have not.
    """

    world: World
    accepted: dict[str, list[str]] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    polled: set[str] = field(default_factory=set)
    under_way: list[Post] = field(default_factory=list)
    offline: bool = False

    async def create(self, prompt: str) -> dict[str, Any]:
        kernel = self.world.turn
        assert kernel is not None
        post = Post(kernel, prompt, asyncio.get_running_loop().create_future())
        self.under_way.append(post)
        return await post.answer

    def retrieve(self, response_id: str) -> dict[str, Any]:
        if self.offline:
            raise adapter.unclear()
        self.polled.add(response_id)
        return {"id": response_id, "status": self.status[response_id], "output": []}

    def accept(self, prompt: str) -> dict[str, Any]:
        response_id = f"resp_{len(self.status) + 1}"
        self.accepted.setdefault(prompt, []).append(response_id)
        self.status[response_id] = "queued"
        if len(self.accepted[prompt]) > 1:
            raise Broken(f"{prompt} was accepted twice")
        return {"id": response_id, "status": "queued"}


class World:
    """Everything there is in one history."""

    def __init__(self, seed: int, folder: Path, template: bytes | None) -> None:
        self.chance = random.Random(seed)
        self.elapsed = 0.0  # seconds; the time of day would be too coarse for a loop's timers
        self.disk = Disk(folder, self.chance)
        self.locks = adapter.locks()
        self.server = self.calls = SimulatedServer(self)
        self.turn: Kernel | None = None
        self.kernels: list[Kernel] = []
        self.stopped: set[Kernel] = set()
        self.prompts: dict[str, Kernel] = {}
        # Kernels whose users have been told that the journal fails.
        self.told: set[Kernel] = set()
        self.two_hosts = self.chance.random() < 0.3
        home = folder / "home"
        home.mkdir()
        for host in HOSTS:
            (folder / host).symlink_to(home)
        if template is not None:
            path = home / "journal.sqlite3"
            path.write_bytes(template)
            self.disk.contents[path.stat().st_ino].synced = bytearray(template)

    def now(self) -> float:
        """Seconds since the epoch."""
        return _EPOCH + self.elapsed

    # Operations. Each takes a number that picks what it is about.

    def start(self, pick: int) -> None:
        """A kernel starts."""
        if len(self.kernels) < MOST_KERNELS:
            self._start(HOSTS[pick % 2] if self.two_hosts else HOSTS[0])

    def submit(self, pick: int) -> None:
        """A cell sends one job."""
        with self._at(self._kernel(pick)) as kernel:
            kernel.submit(self._prompt(kernel))
            kernel.loop.settle()

    def submit_group(self, pick: int) -> None:
        """A cell sends a sweep of three, one or all at once."""
        with self._at(self._kernel(pick)) as kernel:
            kernel.submit_group([self._prompt(kernel) for _ in range(3)], 1 + pick // 7 % 2 * 2)
            kernel.loop.settle()

    def run(self, pick: int) -> None:
        """The loop of a kernel runs as far as it comes."""
        with self._at(self._kernel(pick)) as kernel:
            kernel.loop.settle()

    def commit(self, pick: int) -> None:
        """A kernel's journal commits what is queued, and its loop hears of it."""
        with self._at(self._kernel(pick)) as kernel:
            if kernel.journal.queued:
                kernel.journal.commit()
                self._hear(kernel)
            kernel.loop.settle()

    def commit_only(self, pick: int) -> None:
        """A kernel's journal commits what is queued; its loop does not come to hear of it yet."""
        with self._at(self._kernel(pick)) as kernel:
            if kernel.journal.queued:
                kernel.journal.commit()
                self._hear(kernel)

    def killed_while_committing(self, pick: int) -> None:
        """kill -9 in the middle of a commit."""
        self._broken_commit(pick, power=False)

    def power_cut_while_committing(self, pick: int) -> None:
        """The power goes in the middle of a commit."""
        self._broken_commit(pick, power=True)

    def arrive(self, pick: int) -> None:
        """A create arrives, is accepted, and its answer comes back."""
        post = self._post(pick)
        if post is not None:
            self._answer(post, self.server.accept(post.prompt))

    def arrive_unheard(self, pick: int) -> None:
        """A create arrives and is accepted; the answer is lost."""
        post = self._post(pick)
        if post is not None:
            self.server.accept(post.prompt)
            self._answer(post, adapter.unclear())

    def lose(self, pick: int) -> None:
        """A create does not arrive, or is refused, and its kernel knows."""
        post = self._post(pick)
        if post is not None:
            self._answer(post, adapter.unsent() if pick % 2 else adapter.refused())

    def finish(self, pick: int) -> None:
        """The server completes a response."""
        queued = [rid for rid, status in self.server.status.items() if status == "queued"]
        if queued:
            self.server.status[queued[pick % len(queued)]] = "completed"

    def attach_all(self, pick: int) -> None:
        """A user says %bgattach --all."""
        with self._at(self._kernel(pick)) as kernel:
            kernel.attach_all()
            kernel.loop.settle()
            self._hear(kernel)

    def cancel(self, pick: int) -> None:
        """A user cancels a job."""
        with self._at(self._kernel(pick)) as kernel:
            kernel.cancel(pick // 7)
            kernel.loop.settle()

    def kill(self, pick: int) -> None:
        """kill -9, or the kernel's own crash."""
        self._kill(self._kernel(pick))

    def power_cut(self, pick: int) -> None:
        """The power of a host goes."""
        self._cut(self._kernel(pick).process.host)

    def stop(self, pick: int) -> None:
        """A kernel is suspended, or goes on."""
        self.stopped ^= {self._kernel(pick)}

    def fault(self, pick: int) -> None:
        """The disk begins to fail, or another program locks the file; or that is over."""
        if self.disk.faults or self.disk.foreign:
            self.disk.faults, self.disk.foreign = {}, False
        elif pick % 6 < len(FAULTS):
            self.disk.faults = FAULTS[pick % 6]
        else:
            self.disk.foreign = True

    def network(self, _: int) -> None:
        """The server can't be reached by polls, or can again."""
        self.server.offline = not self.server.offline

    def wait(self, pick: int) -> None:
        """Time passes, and every kernel notices."""
        self.elapsed += (1.0, 12.0, 100.0)[pick % 3]
        for kernel in list(self.kernels):
            with self._at(kernel):
                kernel.loop.settle()

    # The end

    def end(self) -> None:
        """Heal everything, bring the user back on each host, and check what is promised.

        Raises:
            Broken: something that is promised does not hold.
        """
        self.disk.faults, self.disk.foreign = {}, False
        self.stopped, self.server.offline = set(), False
        self._rest()
        for host in HOSTS[: 1 + self.two_hosts]:
            with self._at(self._start(host)) as kernel:
                kernel.attach_all()
            self._rest()
        reader = self.kernels[-1]
        with self._at(reader):
            rows = reader.rows()
        for prompt, kernel in self.prompts.items():
            self._check(prompt, kernel, rows.get(prompt))

    def _check(self, prompt: str, kernel: Kernel, row: tuple[str, bool] | None) -> None:
        accepted = self.server.accepted.get(prompt, [])
        if row is None:
            if accepted and kernel not in self.told:
                raise Broken(f"{prompt} was accepted and is lost")
            return
        status, ended = row
        if not ended:
            raise Broken(f"{prompt} is {status} for ever")
        if status == "completed" and not accepted:
            raise Broken(f"{prompt} is completed and was never accepted")
        if accepted and status not in ("completed", "unknown"):
            raise Broken(f"{prompt} was accepted and is {status}")
        known = kernel not in self.told and accepted and accepted[0] in self.server.polled
        if known and status != "completed":
            raise Broken(f"{prompt} was polled, and its response id is lost")

    def _rest(self) -> None:
        for _ in range(ROUNDS):
            for kernel in list(self.kernels):
                with self._at(kernel):
                    kernel.loop.settle()
                    while kernel.journal.queued:
                        kernel.journal.commit()
                        kernel.loop.settle()
            for post in list(self.server.under_way):
                self.server.under_way.remove(post)
                self._answer(post, self.server.accept(post.prompt))
            self.server.status = dict.fromkeys(self.server.status, "completed")
            self.elapsed += 100.0

    # Within

    def _start(self, host: str) -> Kernel:
        process = Process(host)
        journal = self.disk.root / host / "journal.sqlite3"
        self.locks.process = self.disk.process = process
        kernel = Kernel(self, process, journal)
        self.kernels.append(kernel)
        return kernel

    def _kernel(self, pick: int) -> Kernel:
        able = [kernel for kernel in self.kernels if kernel not in self.stopped]
        return able[pick % len(able)] if able else self._start(HOSTS[0])

    def _prompt(self, kernel: Kernel) -> str:
        prompt = f"p{len(self.prompts)}"
        self.prompts[prompt] = kernel
        return prompt

    @contextlib.contextmanager
    def _at(self, kernel: Kernel) -> Iterator[Kernel]:
        """It is the turn of ``kernel``: what is opened, locked or asked is its doing."""
        self.turn = kernel
        self.locks.process = self.disk.process = kernel.process
        yield kernel
        if kernel.loop.failures:
            raise Broken(f"the kernel's loop failed: {kernel.loop.failures}")

    def _hear(self, kernel: Kernel) -> None:
        if kernel.trouble:
            self.told.add(kernel)

    def _broken_commit(self, pick: int, *, power: bool) -> None:
        with self._at(self._kernel(pick)) as kernel:
            if not kernel.journal.queued:
                return
            if power:
                self.disk.after(pick // 7 % 12, lambda: self._cut_disk(kernel.process.host))
            else:
                self.disk.after(pick // 7 % 12, lambda: self.disk.kill(kernel.process))
            kernel.journal.commit()
            self.disk.forget_after()
            if not kernel.process.dead:
                self._hear(kernel)
                kernel.loop.settle()
        self._bury()

    def _post(self, pick: int) -> Post | None:
        under_way = self.server.under_way
        return under_way.pop(pick % len(under_way)) if under_way else None

    def _answer(self, post: Post, answer: dict[str, Any] | Exception) -> None:
        if post.kernel.process.dead or post.answer.done():
            return
        with self._at(post.kernel) as kernel:
            if isinstance(answer, Exception):
                post.answer.set_exception(answer)
            else:
                post.answer.set_result(answer)
            if kernel not in self.stopped:
                kernel.loop.settle()

    def _kill(self, kernel: Kernel) -> None:
        self.disk.kill(kernel.process)
        self._bury()

    def _cut(self, host: str) -> None:
        self._cut_disk(host)
        self._bury()

    def _cut_disk(self, host: str) -> None:
        for kernel in self.kernels:
            if kernel.process.host == host:
                kernel.process.dead = True
        self.disk.cut(host, everything=not self.two_hosts)

    def _bury(self) -> None:
        for kernel in [kernel for kernel in self.kernels if kernel.process.dead]:
            self.kernels.remove(kernel)
            self.stopped.discard(kernel)
            kernel.die()

    def close(self) -> None:
        """Let everything go."""
        for kernel in list(self.kernels):
            self._kill(kernel)


# How often each happens, next to the others.
OPERATIONS: dict[str, int] = {
    "start": 2, "submit": 4, "submit_group": 4, "run": 3, "commit": 12, "commit_only": 2,
    "killed_while_committing": 1, "power_cut_while_committing": 1, "arrive": 8,
    "arrive_unheard": 1, "lose": 2, "finish": 3, "attach_all": 3, "cancel": 1, "kill": 2,
    "power_cut": 1, "stop": 1, "fault": 2, "network": 1, "wait": 3,
}  # fmt: skip


@contextlib.contextmanager
def world_of(seed: int, template: bytes | None = None) -> Iterator[World]:
    """A world in which everything is decided by ``seed`` and the operations."""
    folder = Path(tempfile.mkdtemp(dir=_memory(), prefix="simulation-"))
    world = World(seed, folder, template)
    try:
        with disk_under_sqlite(world.disk), adapter.in_place(world, seed):
            try:
                yield world
            finally:
                world.close()
    finally:
        _remove(folder)


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    folder.rmdir()


@functools.cache
def fresh_journal() -> bytes:
    """A journal without jobs, as most histories find it."""
    with world_of(0) as world:
        path = world.disk.root / HOSTS[0] / "journal.sqlite3"
        adapter.empty_journal(path)
        return path.read_bytes()
