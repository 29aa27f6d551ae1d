"""The disk of the simulation: files, what of them is durable, locks and memory of each host.

The files are real ones in a folder of the machine's memory, so that code that looks at names, sizes
and inodes sees them; what a power cut leaves of them is known here. A host has locks and shared memory
of its own, as on a network file system; on one host they work.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.contents import put, resize

_NONE, _SHARED, _RESERVED, _PENDING, _EXCLUSIVE = range(5)
_SHM_UNLOCK, _SHM_SHARED = 1, 4
_SHM_SLOTS = 8
_PAGE = 4096


class DiskError(Exception):
    """An operation of the disk fails with this code of SQLite's."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(eq=False)
class Process:
    """A process on a host; once it is dead nothing that it has open does anything."""

    host: str
    dead: bool = False


@dataclass
class Content:
    """What is durable of a file.

    Attributes:
        synced: its bytes after the last sync.
        since: changes after that: by which host, where, and the bytes; None for a truncation.
    """

    synced: bytearray = field(default_factory=bytearray)
    since: list[tuple[str, int, bytes | None]] = field(default_factory=list)


@dataclass
class Memory:
    """The locks of one file on one host, and the memory that its processes share."""

    levels: dict[OpenFile, int] = field(default_factory=dict)
    pages: dict[int, Any] = field(default_factory=dict)
    mapped: set[OpenFile] = field(default_factory=set)
    shared: list[set[OpenFile]] = field(default_factory=lambda: [set() for _ in range(_SHM_SLOTS)])
    exclusive: list[OpenFile | None] = field(default_factory=lambda: [None] * _SHM_SLOTS)


class Disk:
    """All files below ``root``.

    Attributes:
        process: who opens files now.
        chance: decides what a power cut leaves, and SQLite's own randomness.
        faults: codes of SQLite by what fails with them: ``write grow sync read``.
        foreign: whether another program holds the lock that writers need.
        shares_memory: whether processes of a host can share memory here.
    """

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root = root
        self.process = Process("alpha")
        self.chance = chance
        self.faults: dict[str, int] = {}
        self.foreign = False
        self.shares_memory = True
        self.contents: dict[int, Content] = defaultdict(Content)
        self.memories: dict[tuple[str, int], Memory] = defaultdict(Memory)
        self.open_files: set[OpenFile] = set()
        self._deleted: list[tuple[str, Path, bytes]] = []
        self._left = 0
        self._then: Callable[[], None] | None = None

    def open(self, path: Path, *, create: bool) -> OpenFile:
        """Open a file as the present process."""
        if self.process.dead:
            raise DiskError(sqlite3.SQLITE_CANTOPEN)
        flags = os.O_RDWR | (os.O_CREAT if create else 0)
        try:
            number = os.open(path, flags, 0o600)
        except OSError:
            raise DiskError(sqlite3.SQLITE_CANTOPEN) from None
        return OpenFile(self, self.process, number)

    def temporary(self) -> Path:
        """The name of a file that nobody else opens."""
        return self.root / f"temporary-{self.chance.randrange(10**12)}"

    def delete(self, path: Path, *, durable: bool) -> None:
        """Delete a file; one whose folder is not synced may be there again after a power cut.

        Syncing other files does not help: on btrfs it does not, on ext4 and XFS it would.
        """
        self.step("write")
        with contextlib.suppress(FileNotFoundError):
            found = path.read_bytes()
            self.contents.pop(path.stat().st_ino, None)
            path.unlink()
            if not durable:
                self._deleted.append((self.process.host, path, found))

    def sync_names(self) -> None:
        """Make what the present host has deleted durable, as a sync of the folder does."""
        if not self.process.dead:
            self._deleted = [item for item in self._deleted if item[0] != self.process.host]

    def after(self, operations: int, then: Callable[[], None]) -> None:
        """Call ``then`` within the write or sync that is so many from now."""
        self._left, self._then = operations, then

    def forget_after(self) -> None:
        """Take `after` back, if it has not come to that."""
        self._then = None

    def step(self, kind: str) -> None:
        """One operation is about to happen: something may come before it, or it may fail."""
        if self._then is not None and kind in ("write", "sync"):
            self._left -= 1
            if self._left < 0:
                then, self._then = self._then, None
                then()
        if kind in self.faults:
            raise DiskError(self.faults[kind])

    def kill(self, process: Process) -> None:
        """End a process: what it wrote stays, its locks go."""
        process.dead = True
        for file in [file for file in self.open_files if file.process is process]:
            file.drop()

    def cut(self, host: str, *, everything: bool) -> None:
        """The power of ``host`` goes: its processes die, and what it had not synced is lost in any part.

        Args:
            everything: whether the disk is in that host, so that others' writes are lost, too.
        """
        for file in list(self.open_files):
            if file.process.host == host or everything:
                self.kill(file.process)
        kept = self.chance.choice((0.0, 0.5, 0.9, 1.0))
        known = {path.stat().st_ino: path for path in self.root.rglob("*") if path.is_file()}
        for inode, path in known.items():
            if inode in self.contents:
                self._leave(path, self.contents[inode], None if everything else host, kept)
        for owner, path, found in self._deleted:
            if (everything or owner == host) and not path.exists() and self.chance.random() < 0.5:
                path.write_bytes(found)
                self.contents[path.stat().st_ino].synced = bytearray(found)
        self._deleted = [item for item in self._deleted if not everything and item[0] != host]

    def _leave(self, path: Path, content: Content, host: str | None, kept: float) -> None:
        found = content.synced
        for owner, offset, data in content.since:
            safe = host is not None and owner != host
            if data is None:
                if safe or self.chance.random() < kept:
                    resize(found, offset)
                continue
            for start in range(0, len(data), _PAGE):
                if safe or self.chance.random() < kept:
                    put(found, offset + start, data[start : start + _PAGE])
        path.write_bytes(found)
        content.since = []


class OpenFile:
    """A file that a process has open."""

    def __init__(self, disk: Disk, process: Process, number: int) -> None:
        self._disk = disk
        self.process = process
        self._number = number
        inode = os.fstat(number).st_ino
        self._content = disk.contents[inode]
        self._memory = disk.memories[process.host, inode]
        disk.open_files.add(self)

    def _step(self, kind: str) -> None:
        self._disk.step(kind)
        if self.process.dead:
            raise DiskError(sqlite3.SQLITE_IOERR)

    def close(self) -> None:
        os.close(self._number)
        self.drop()

    def drop(self) -> None:
        """Let go of every lock."""
        self._memory.levels.pop(self, None)
        self.leave_shared_memory(delete=False)
        self._disk.open_files.discard(self)

    def read(self, amount: int, offset: int) -> bytes:
        self._step("read")
        return os.pread(self._number, amount, offset)

    def write(self, data: bytes, offset: int) -> None:
        if offset + len(data) > self.size():
            self._step("grow")
        self._step("write")
        os.pwrite(self._number, data, offset)
        self._content.since.append((self.process.host, offset, data))

    def truncate(self, size: int) -> None:
        self._step("write")
        os.ftruncate(self._number, size)
        self._content.since.append((self.process.host, size, None))

    def sync(self) -> None:
        self._step("sync")
        for _, offset, data in self._content.since:
            if data is None:
                resize(self._content.synced, offset)
            else:
                put(self._content.synced, offset, data)
        self._content.since = []

    def size(self) -> int:
        return os.fstat(self._number).st_size

    # Locks, as sqlite.org/lockingv3.html has them.

    def _others(self, level: int) -> bool:
        levels = self._memory.levels
        return any(held >= level for file, held in levels.items() if file is not self)

    def lock(self, level: int) -> None:
        self._step("lock")
        mine = self._memory.levels.get(self, _NONE)
        if level <= mine:
            return
        if level == _SHARED:
            busy = self._others(_PENDING)
        elif level == _RESERVED:
            busy = self._others(_RESERVED) or self._disk.foreign
        else:
            busy = self._others(_RESERVED) or self._disk.foreign
            if not busy and self._others(_SHARED):
                self._memory.levels[self] = _PENDING
                busy = True
        if busy:
            raise DiskError(sqlite3.SQLITE_BUSY)
        self._memory.levels[self] = level

    def unlock(self, level: int) -> None:
        if level == _NONE:
            self._memory.levels.pop(self, None)
        elif self in self._memory.levels:
            self._memory.levels[self] = level

    def is_reserved(self) -> bool:
        return self._others(_RESERVED)

    # Shared memory, as sqlite.org/walformat.html has it.

    def shared_memory(self, page: int, size: int, extend: bool) -> Any:
        if not self._disk.shares_memory:
            raise DiskError(sqlite3.SQLITE_IOERR_SHMMAP)
        self._step("memory")
        pages = self._memory.pages
        if page not in pages:
            if not extend:
                return None
            pages[page] = ctypes.create_string_buffer(size)
        self._memory.mapped.add(self)
        return pages[page]

    def lock_shared_memory(self, offset: int, count: int, flags: int) -> None:
        shared, exclusive = self._memory.shared, self._memory.exclusive
        slots = range(offset, offset + count)
        if flags & _SHM_UNLOCK:
            for slot in slots:
                shared[slot].discard(self)
                if exclusive[slot] is self:
                    exclusive[slot] = None
            return
        self._step("lock")
        alone = not flags & _SHM_SHARED
        for slot in slots:
            busy = exclusive[slot] not in (None, self)
            busy = busy or (alone and bool(shared[slot] - {self}))
            if busy or (slot == 0 and alone and self._disk.foreign):
                raise DiskError(sqlite3.SQLITE_BUSY)
        for slot in slots:
            if alone:
                exclusive[slot] = self
            else:
                shared[slot].add(self)

    def leave_shared_memory(self, delete: bool) -> None:
        memory = self._memory
        memory.mapped.discard(self)
        for slot in range(_SHM_SLOTS):
            memory.shared[slot].discard(self)
            if memory.exclusive[slot] is self:
                memory.exclusive[slot] = None
        if not memory.mapped:
            # The next one who comes finds nothing, as SQLite does when nobody has it open.
            memory.pages.clear()
