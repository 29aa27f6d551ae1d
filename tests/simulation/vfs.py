"""SQLite's own library on a disk of ours: a VFS (sqlite.org/vfs.html) in Python, by ctypes.

`sqlite3` keeps working as it does, but every read, write, sync and lock goes through `Disk`, which
knows what was synced and can fail at any of them. Needs a Python whose `_sqlite3` uses a SQLite that
is a shared library; `library` tells.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sqlite3
from collections.abc import Callable, Iterator
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_double, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

from tests.simulation.disk import Disk, DiskError, OpenFile

_OK, _IOERR = 0, sqlite3.SQLITE_IOERR
_CREATE, _MAIN_DB = 0x4, 0x100
_CONTROL_UNKNOWN = 12  # SQLITE_NOTFOUND: no such file control
_NAME = b"simulated"


class _File(ctypes.Structure):
    _fields_ = (("methods", c_void_p), ("number", c_int64))


_F = POINTER(_File)
_OUT_INT, _OUT_64 = POINTER(c_int), POINTER(c_int64)
_METHODS = (
    ("xClose", CFUNCTYPE(c_int, _F)),
    ("xRead", CFUNCTYPE(c_int, _F, c_void_p, c_int, c_int64)),
    ("xWrite", CFUNCTYPE(c_int, _F, c_void_p, c_int, c_int64)),
    ("xTruncate", CFUNCTYPE(c_int, _F, c_int64)),
    ("xSync", CFUNCTYPE(c_int, _F, c_int)),
    ("xFileSize", CFUNCTYPE(c_int, _F, _OUT_64)),
    ("xLock", CFUNCTYPE(c_int, _F, c_int)),
    ("xUnlock", CFUNCTYPE(c_int, _F, c_int)),
    ("xCheckReservedLock", CFUNCTYPE(c_int, _F, _OUT_INT)),
    ("xFileControl", CFUNCTYPE(c_int, _F, c_int, c_void_p)),
    ("xSectorSize", CFUNCTYPE(c_int, _F)),
    ("xDeviceCharacteristics", CFUNCTYPE(c_int, _F)),
    ("xShmMap", CFUNCTYPE(c_int, _F, c_int, c_int, c_int, POINTER(c_void_p))),
    ("xShmLock", CFUNCTYPE(c_int, _F, c_int, c_int, c_int)),
    ("xShmBarrier", CFUNCTYPE(None, _F)),
    ("xShmUnmap", CFUNCTYPE(c_int, _F, c_int)),
)


class _Methods(ctypes.Structure):
    _fields_ = (("version", c_int), *_METHODS)


_VFS_CALLS = (
    ("xOpen", CFUNCTYPE(c_int, c_void_p, c_char_p, _F, c_int, _OUT_INT)),
    ("xDelete", CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)),
    ("xAccess", CFUNCTYPE(c_int, c_void_p, c_char_p, c_int, _OUT_INT)),
    ("xFullPathname", CFUNCTYPE(c_int, c_void_p, c_char_p, c_int, c_void_p)),
    ("xDlOpen", c_void_p),
    ("xDlError", c_void_p),
    ("xDlSym", c_void_p),
    ("xDlClose", c_void_p),
    ("xRandomness", CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)),
    ("xSleep", CFUNCTYPE(c_int, c_void_p, c_int)),
    ("xCurrentTime", CFUNCTYPE(c_int, c_void_p, POINTER(c_double))),
    ("xGetLastError", CFUNCTYPE(c_int, c_void_p, c_int, c_char_p)),
)


class _VFS(ctypes.Structure):
    _fields_ = (
        ("version", c_int),
        ("size_of_file", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        *_VFS_CALLS,
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The SQLite that `sqlite3` uses, or None where that is no shared library."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    for line in maps.read_text().splitlines():
        if "libsqlite3.so" in line:
            return ctypes.CDLL(line.split()[-1])
    return None


def _guarded(call: Callable[..., int | None]) -> Callable[..., int]:
    """A callback of SQLite's that tells failures by their codes, and lets nothing else through."""

    @functools.wraps(call)
    def guarded(*given: Any) -> int:
        try:
            return call(*given) or _OK
        except DiskError as error:
            return error.code

    return guarded


@contextlib.contextmanager
def disk_under_sqlite(disk: Disk) -> Iterator[None]:
    """Put ``disk`` under SQLite for as long as the context lasts."""
    with _vfs().on(disk):
        yield


@functools.cache
def _vfs() -> _SimulatedVFS:
    return _SimulatedVFS()


class _SimulatedVFS:
    """The one VFS of this process: making all its callbacks takes as long as a short history."""

    def __init__(self) -> None:
        found = library()
        assert found is not None
        self._sqlite = found
        self._sqlite.sqlite3_vfs_find.restype = c_void_p
        self._disk: Disk
        self._files: dict[int, OpenFile] = {}
        self._next = 0
        calls = [kind(_guarded(getattr(self, f"_{name}"))) for name, kind in _METHODS[:-2]]
        calls.append(_METHODS[-2][1](lambda _: None))
        calls.append(_METHODS[-1][1](_guarded(self._xShmUnmap)))
        self._methods = _Methods(2, *calls)
        own = [
            c_void_p() if kind is c_void_p else kind(_guarded(getattr(self, f"_{name}")))
            for name, kind in _VFS_CALLS
        ]
        self._kept = (calls, own)
        self._vfs = _VFS(1, ctypes.sizeof(_File), 512, None, _NAME, None, *own)

    @contextlib.contextmanager
    def on(self, disk: Disk) -> Iterator[None]:
        """Be SQLite's default, over ``disk``."""
        self._disk = disk
        usual = self._sqlite.sqlite3_vfs_find(None)
        assert not self._sqlite.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)
        try:
            yield
        finally:
            self._sqlite.sqlite3_vfs_unregister(ctypes.byref(self._vfs))
            self._sqlite.sqlite3_vfs_register(c_void_p(usual), 1)

    # Files

    def _of(self, file: Any) -> OpenFile:
        return self._files[file.contents.number]

    def _xClose(self, file: Any) -> None:
        self._files.pop(file.contents.number).close()

    def _xRead(self, file: Any, buffer: int, amount: int, offset: int) -> int:
        found = self._of(file).read(amount, offset)
        ctypes.memmove(buffer, found, len(found))
        if len(found) < amount:
            ctypes.memset(buffer + len(found), 0, amount - len(found))
            return sqlite3.SQLITE_IOERR_SHORT_READ
        return _OK

    def _xWrite(self, file: Any, buffer: int, amount: int, offset: int) -> None:
        self._of(file).write(ctypes.string_at(buffer, amount), offset)

    def _xTruncate(self, file: Any, size: int) -> None:
        self._of(file).truncate(size)

    def _xSync(self, file: Any, _: int) -> None:
        self._of(file).sync()

    def _xFileSize(self, file: Any, size: Any) -> None:
        size[0] = self._of(file).size()

    def _xLock(self, file: Any, level: int) -> None:
        self._of(file).lock(level)

    def _xUnlock(self, file: Any, level: int) -> None:
        self._of(file).unlock(level)

    def _xCheckReservedLock(self, file: Any, found: Any) -> None:
        found[0] = self._of(file).is_reserved()

    def _xFileControl(self, *_: Any) -> int:
        return _CONTROL_UNKNOWN

    def _xSectorSize(self, _: Any) -> int:
        return 4096

    def _xDeviceCharacteristics(self, _: Any) -> int:
        return 0x1000  # SQLITE_IOCAP_POWERSAFE_OVERWRITE, as for files on Unix

    def _xShmMap(self, file: Any, page: int, size: int, extend: int, found: Any) -> None:
        memory = self._of(file).shared_memory(page, size, bool(extend))
        found[0] = None if memory is None else ctypes.addressof(memory)

    def _xShmLock(self, file: Any, offset: int, count: int, flags: int) -> None:
        self._of(file).lock_shared_memory(offset, count, flags)

    def _xShmUnmap(self, file: Any, delete: int) -> None:
        self._of(file).leave_shared_memory(bool(delete))

    # Names

    def _xOpen(self, _: Any, name: bytes | None, file: Any, flags: int, told: Any) -> None:
        file.contents.methods = None
        path = self._disk.temporary() if name is None else Path(os.fsdecode(name))
        opened = self._disk.open(path, create=bool(flags & _CREATE))
        self._next += 1
        self._files[self._next] = opened
        file.contents.number = self._next
        file.contents.methods = ctypes.addressof(self._methods)
        if told:
            told[0] = flags

    def _xDelete(self, _: Any, name: bytes, sync_folder: int) -> None:
        self._disk.delete(Path(os.fsdecode(name)), durable=bool(sync_folder))

    def _xAccess(self, _: Any, name: bytes, __: int, found: Any) -> None:
        found[0] = Path(os.fsdecode(name)).exists()

    def _xFullPathname(self, _: Any, name: bytes, size: int, buffer: int) -> None:
        full = os.fsencode(Path(os.fsdecode(name)).absolute()) + b"\0"
        if len(full) > size:
            raise DiskError(sqlite3.SQLITE_CANTOPEN)
        ctypes.memmove(buffer, full, len(full))

    def _xRandomness(self, _: Any, amount: int, buffer: int) -> int:
        ctypes.memmove(buffer, self._disk.chance.randbytes(amount), amount)
        return amount

    def _xSleep(self, _: Any, microseconds: int) -> int:
        return microseconds  # whoever holds a lock here holds it until it is its turn again

    def _xCurrentTime(self, _: Any, julian_day: Any) -> None:
        julian_day[0] = 2_461_000.5

    def _xGetLastError(self, *_: Any) -> None:
        return None
