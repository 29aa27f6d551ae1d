"""Which kernels are alive: each holds a lock of the operating system for as long as it lives.

The lock goes with the process, however that ends, so nothing needs to be tidied up or timed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from bgmagic.errors import BgmagicError
from bgmagic.storage import filesystem

if TYPE_CHECKING:
    from filelock import BaseFileLock

# Seconds to try again for a lock that another kernel may hold just to see whether it can be taken.
ANOTHER_LOOK = 0.01


BEAT = 30.0  # seconds between signs of life, where locks are seen on one host only

# Seconds without one after which an owner on another host may be gone: as long as network file
# systems remember what they were told, and several signs.
SILENCE = 180.0


class OwnerError(BgmagicError):
    """This kernel can't show others that it is alive."""


def host_id() -> str:
    """What stands for this host in names of owners and files."""
    return filesystem.host_of_name(socket.gethostname())


class OwnerLock:
    """This process as one that follows jobs.

    The lock belongs to the process that took it: a forked child neither holds it nor keeps it.
    That a process is dead shows in its lock being free, to those on its own host. On a file system
    that several hosts share, others see only that its signs of life stay away. A suspended process
    is alive.

    Attributes:
        id: unique, made of the host, the process id and chance.
    """

    def __init__(self, folder: Path | None, only: str | None = None) -> None:
        """Make an owner whose lock is in ``folder``; for None there are no others to know of.

        Args:
            only: what one process of this host does at a time, instead of a name of its own.
        """
        self._host = host_id()
        self.id = f"{self._host}-{only or f'{os.getpid()}-{secrets.token_hex(6)}'}"
        self._folder = folder
        self._pid = os.getpid()
        self._lock: BaseFileLock | None = None
        self._sign = 0.0  # when the last sign of life was given, by the wall clock; 0 before
        self._was_away = False

    def acquire(self) -> None:
        """Take the lock, unless it is held already.

        Raises:
            OwnerError: the folder can't be written, or this is a forked child of the owner.
        """
        if os.getpid() != self._pid:
            raise OwnerError("this process was forked from a kernel; it can't follow its jobs")
        if self._folder is None or (self._lock is not None and self._path(self.id).exists()):
            return
        self.release()  # of a file that was deleted, so that others take this process for dead
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _lock(self._path(self.id))
            lock.acquire(blocking=False)
        except (OSError, RuntimeError) as error:
            # filelock's Timeout is an OSError too.
            raise OwnerError(
                f"{self._folder} can't be used, so other kernels won't know that this one is "
                f"alive: {error}; make it writable, or set BGMAGIC_JOURNAL to another file"
            ) from None
        self._lock, self._sign = lock, time.time()

    def dead_owners(self, others: Collection[str]) -> set[str]:
        """Those of these owners whose process is gone; their lock files are removed."""
        if self._folder is None or os.getpid() != self._pid:
            return set()
        return {
            other
            for other in others
            if other != self.id and not self.is_elsewhere(other) and self._is_gone(other)
        }

    def is_elsewhere(self, other: str | None) -> bool:
        """Whether this is an owner on another host, whose lock says nothing here."""
        return (
            other is not None
            and self._folder is not None
            and not other.startswith(f"{self._host}-")
            and filesystem.is_shared(self._folder)
        )

    def beat(self) -> None:
        """Give a sign of life to other hosts."""
        if self._lock is not None and os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                os.utime(self._lock.lock_file)
                self._was_away = self.was_away
                self._sign = time.time()

    @property
    def was_away(self) -> bool:
        """Whether other hosts have missed a sign of life at any time: the process was suspended,
        say, or the folder was out of reach."""
        return self._was_away or 0 < self._sign < time.time() - 2 * BEAT

    def is_silent(self, other: str) -> bool:
        """Whether an owner on another host has given no sign of life for long."""
        if self._folder is None or os.sep in other:
            return True
        self.beat()  # so that both times are by the clock of the file system's server
        try:
            last = self._path(other).stat().st_mtime
            now = self._path(self.id).stat().st_mtime if self._lock is not None else time.time()
        except OSError:
            return not self._path(other).exists()
        return now - last > SILENCE

    def release(self) -> None:
        """Let the lock go and remove its file; does nothing in a forked child."""
        if os.getpid() != self._pid:
            return
        lock, self._lock = self._lock, None
        if lock is not None:
            _remove(lock)

    def _path(self, owner: str) -> Path:
        assert self._folder is not None  # noqa: S101 - for the type checker
        return self._folder / f"{owner}.lock"

    def _is_gone(self, other: str) -> bool:
        path = self._path(other)
        if path.parent != self._folder or os.sep in other:
            return True
        until = time.monotonic() + ANOTHER_LOOK
        while path.exists():
            lock = _lock(path)
            try:
                lock.acquire(blocking=False)
            except (OSError, RuntimeError):
                if time.monotonic() > until:
                    return False
                time.sleep(ANOTHER_LOOK / 10)
            else:
                _remove(lock)
                return True
        # It is made before an owner's first job, and removed only by one who has the lock.
        return True


def _lock(path: Path) -> BaseFileLock:
    import filelock

    # Taken on one thread and let go on another. From filelock 4 on a forked child closes what it
    # inherited; before, the child kept the lock alive, or let its parent's go.
    return filelock.FileLock(path, thread_local=False)


def _remove(lock: BaseFileLock) -> None:
    """Remove a lock that is held, with its file."""
    # While it is held, so that nobody can be holding what is removed. One who has opened the file
    # by then gets a lock without a file, which filelock sees. Windows refuses; then it stays.
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink()
    with contextlib.suppress(OSError):
        lock.release()
