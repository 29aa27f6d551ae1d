"""What the journal's folder can be trusted with: locks, shared memory, one host or several.

Where several hosts may share a folder, their locks and caches are their own: two that write one
SQLite file there destroy it. So each host has a file of its own and only reads those of others.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Types of file systems, as mount tables name them, that more than one host may have mounted. FUSE
# can lead anywhere (sshfs, s3fs, glusterfs, bindfs), but "fuseblk" is a disk of this host.
SHARED = frozenset(
    """9p afs afpfs acfs beegfs bgfs ceph cifs coda davfs drvfs fhgfs fuse gfs gfs2 glusterfs gpfs
    lustre mmfs ncpfs nfs nfs3 nfs4 ocfs2 orangefs osxfs panfs prl_fs pvfs2 quobyte shfs smb2 smb3
    smbfs vboxsf virtiofs vmhgfs webdav wekafs""".split()  # noqa: SIM905 - a list of words
)

_LOOKS = 5  # at a file that another host may be writing

_PAUSE = 0.02  # seconds between them

_LOOK_TIMEOUT = 0.2  # seconds that a look waits for another program's lock

_REMOTE_DRIVE = 4  # DRIVE_REMOTE of Windows' GetDriveTypeW


def is_shared(folder: Path) -> bool:
    """Whether several hosts may have ``folder`` mounted."""
    if sys.platform == "win32":
        import ctypes

        root = os.path.splitdrive(folder.absolute())[0]
        return root.startswith("\\\\") or (
            ctypes.windll.kernel32.GetDriveTypeW(f"{root}\\") == _REMOTE_DRIVE
        )
    kind = _type_of(os.path.realpath(folder))
    return kind in SHARED or kind.startswith("fuse.")


def _type_of(path: str) -> str:
    """The type of the file system in which ``path`` is or would be, or "" if nothing tells."""
    best, kind = "", ""
    for place, name in _mounts():
        inside = path == place or path.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):  # the last one mounted is what is seen
            best, kind = place, name.lower()
    return kind


def _mounts() -> Iterator[tuple[str, str]]:
    """Where file systems are mounted, and their types."""
    with contextlib.suppress(OSError):
        # proc(5): after six fields and optional ones a dash, then the type.
        known = Path("/proc/self/mountinfo")
        with known.open(encoding="utf-8", errors="surrogateescape") as table:
            for line in table:
                before, _, after = line.partition(" - ")
                yield _unescaped(before.split(" ")[4]), after.split(" ")[0]
        return
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        # macOS and the BSDs: "//me@server/home on /Volumes/home (smbfs, nodev)".
        listed = subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=5)
        for line in listed.stdout.splitlines():
            found = re.fullmatch(r".+ on (/.*) \((\w+).*\)", line)
            if found:
                yield found[1], found[2]


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def sync_folder(folder: Path) -> None:
    """Have the names in ``folder`` survive a power cut, where the system lets that be asked for."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def takes_wal(folder: Path) -> bool:
    """Whether SQLite's WAL works in ``folder``: SQLite says so before it has tried."""
    number, name = tempfile.mkstemp(".probe", "journal-", folder)
    os.close(number)
    try:
        with (
            contextlib.closing(sqlite3.connect(name, isolation_level=None)) as one,
            contextlib.closing(sqlite3.connect(name, isolation_level=None)) as other,
        ):
            one.execute("PRAGMA synchronous = OFF")
            if one.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                return False
            one.execute("CREATE TABLE probe (it)")
            one.execute("INSERT INTO probe VALUES (1)")
            return bool(other.execute("SELECT it FROM probe").fetchall() == [(1,)])
    except sqlite3.Error:
        return False
    finally:
        for end in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(OSError):
                Path(name + end).unlink()


def set_mode(connection: sqlite3.Connection, path: Path | None, timeout: float) -> None:
    """Have the file written by WAL, if its folder takes that; else with a rollback journal.

    Args:
        timeout: seconds to wait for other kernels.
    """
    if path is not None and _may_use_wal(connection, path):
        new = _mode(connection) != "wal"
        if _use_wal(connection, timeout) and new:
            # SQLite does not see to it that the rollback journal, which it deletes here, stays
            # deleted after a power cut: found again it would undo all that WAL has taken.
            sync_folder(path.parent)
    else:
        connection.execute("PRAGMA journal_mode = DELETE")


def _may_use_wal(connection: sqlite3.Connection, path: Path) -> bool:
    if is_shared(path.parent):
        return False
    # A file that is in this mode already has been written in it.
    return _mode(connection) == "wal" or takes_wal(path.parent)


def _mode(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def _use_wal(connection: sqlite3.Connection, timeout: float) -> bool:
    until = time.monotonic() + timeout
    while True:
        try:
            return bool(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal")
        except sqlite3.OperationalError as error:
            # SQLite does not wait by itself while another kernel switches the same new file.
            if error_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                return False
            time.sleep(0.01)


def why_no_file(path: Path) -> str:
    """Why there can be no journal at ``path``, where something else is; or ""."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return ""
    return "" if stat.S_ISREG(mode) else f"is a {'folder' if stat.S_ISDIR(mode) else 'device'}"


def is_damaged(path: Path, connect: Any, *, known: bool = True) -> bool:
    """Whether the file at ``path`` really holds no sound database.

    A disk that can't be read looks the same to SQLite, and so may a connection whose own memory of
    the file is off. No connection of this process may be open: closing a file drops SQLite's locks.

    Args:
        known: whether it was a journal; if that is not known, a text may be something else.
    """
    try:
        with path.open("rb") as file:
            if not known and _is_text(file.read(1 << 10)):
                return False
            while file.read(1 << 20):
                pass
    except OSError:
        return False
    try:
        with contextlib.closing(connect(path)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",))
    except sqlite3.DatabaseError as error:
        return error_code(error) in DAMAGED


def _is_text(begin: bytes) -> bool:
    with contextlib.suppress(UnicodeDecodeError):
        codecs.getincrementaldecoder("utf-8")().decode(begin)  # it may end within a character
        return b"\0" not in begin
    return False


def set_aside(path: Path) -> str | None:
    """Move a damaged file away, with what belongs to it; gives its new name, None if that fails."""
    aside = f"{path}.damaged-{time.time():.0f}"
    try:
        path.rename(aside)
        for end in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{end}").rename(f"{aside}{end}")
    except OSError:
        return None
    return aside


# What SQLite's errors mean.

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def error_code(error: Exception) -> int:
    """SQLite's primary result code, or 0."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def may_have_committed(error: Exception) -> bool:
    """Whether a commit that failed like this may be found in the file after a crash."""
    # A failed write ends it before the last page; after a failed sync anything may be there.
    code = getattr(error, "sqlite_errorcode", 0)
    if error_code(error) != sqlite3.SQLITE_IOERR:
        return False
    return code not in (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_READ)


def trouble_of(error: Exception, path: Path | None) -> str:
    code = error_code(error)
    if code == sqlite3.SQLITE_FULL:
        advice = "the disk is full: make room"
    elif code == sqlite3.SQLITE_NOTADB:
        advice = "it is no database, and is left alone: set BGMAGIC_JOURNAL to another file"
    elif code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        advice = "another program keeps it locked: end that one"
    else:
        what = error.strerror if isinstance(error, OSError) else error
        first = "move it away" if code in DAMAGED else "make it writable"
        advice = f"{what}: {first}, or set BGMAGIC_JOURNAL to another file"
    return (
        f"the journal {path} can't be used; jobs that it does not have still run, but would not "
        f"survive a restart of this kernel, and those it has wait to be sent: {advice}"
    )


# Files of hosts.


def own_file(path: Path, host: str) -> Path:
    """Where this host writes what is to be at ``path``."""
    mine = path.with_name(f"{path.stem}.{host}{path.suffix}")
    return mine if mine.exists() or is_shared(path.parent) else path


def may_have_open(path: Path, notebook: str, version: int | None = None) -> bool:
    """Whether the journal at ``path`` may have open jobs of ``notebook``.

    Asks the file alone, without all that opens a journal; True where that can't tell: where hosts
    share the folder, or if the file can't be read now or is of another bgmagic; where a ``version``
    is given, also if it is of another one or can't be written now.
    """
    if next(path.parent.glob(_names_of_hosts(path)), None) is not None or is_shared(path.parent):
        return True
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_LOOK_TIMEOUT)) as connection:
            # One that another program keeps locked is said to be so as it is opened.
            connection.execute("PRAGMA query_only = ON" if version is None else "BEGIN IMMEDIATE")
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (None, found):
                return True
            asked = "SELECT 1 FROM jobs WHERE notebook = ? AND ended_at IS NULL LIMIT 1"
            return connection.execute(asked, (notebook,)).fetchone() is not None
    except sqlite3.Error:
        return True


def _names_of_hosts(path: Path) -> str:
    """The pattern of the names of hosts' files: a host's part is 8 hexadecimal digits."""
    # As glob.escape does, which a first cell would have to import.
    stem, suffix = (re.sub(r"([*?[])", r"[\1]", part) for part in (path.stem, path.suffix))
    return f"{stem}.{'[0-9a-f]' * 8}{suffix}"


class OtherFiles:
    """The journals of other hosts beside this one's: read, never written, nor rolled back."""

    def __init__(self, path: Path, own: Path) -> None:
        """Find them.

        Args:
            path: what the user calls the journal.
            own: this host's.
        """
        self._path = path
        self._own = own
        self._open: dict[Path, tuple[Any, sqlite3.Connection]] = {}

    def read(self, sql: str, values: Any) -> list[tuple[Any, ...]]:
        """The rows of all of them; what can't be read is left out."""
        names = _names_of_hosts(self._path)
        found = {*self._path.parent.glob(names), self._path} - {self._own}
        return [
            row for path in sorted(found) if path.exists() for row in self._rows(path, sql, values)
        ]

    def close(self) -> None:
        """Let them go."""
        for _, connection in self._open.values():
            connection.close()
        self._open.clear()

    def _rows(self, path: Path, sql: str, values: Any) -> list[tuple[Any, ...]]:
        for look in range(_LOOKS):
            with contextlib.suppress(OSError, sqlite3.Error):
                before = _stamp(path)
                if not before:
                    return []
                if before[-1]:
                    # It is being written, or was as its host died.
                    if look == _LOOKS - 1:
                        return _copied(path, sql, values)
                else:
                    rows = self._connection(path, before).execute(sql, values).fetchall()
                    if _stamp(path) == before:
                        return rows
            self._forget(path)
            time.sleep(_PAUSE)
        return []

    def _connection(self, path: Path, stamp: Any) -> sqlite3.Connection:
        if path not in self._open or self._open[path][0] != stamp:
            self._forget(path)
            name = f"file:{_quoted(path)}?immutable=1"
            opened = sqlite3.connect(name, uri=True, check_same_thread=False)
            self._open[path] = stamp, opened
        return self._open[path][1]

    def _forget(self, path: Path) -> None:
        known = self._open.pop(path, None)
        if known is not None:
            known[1].close()


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path.absolute()))


def _stamp(path: Path) -> tuple[Any, ...]:
    """What changes with each commit to a file; at last whether it is in the middle of one."""
    # Opened anew, since a network file system looks at the server then. The header has a counter.
    with path.open("rb") as file:
        header = file.read(100)
        found = os.fstat(file.fileno())
    hot = False
    for end in ("-journal", "-wal"):
        with contextlib.suppress(OSError):
            hot = hot or Path(f"{path}{end}").stat().st_size > 0
    if not header:
        return ()
    return header, found.st_ino, found.st_size, found.st_mtime_ns, hot


def _copied(path: Path, sql: str, values: Any) -> list[tuple[Any, ...]]:
    """Rows of a copy, in which SQLite may roll back what its host did not end."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        for end in ("", "-journal", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{end}", f"{copy}{end}")
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            return connection.execute(sql, values).fetchall()


def host_of_name(name: str) -> str:
    """Eight digits that stand for a host of this name."""
    machine = b""
    for place in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError):
            machine = machine or Path(place).read_bytes().strip()
    # A host's name may hold anything; a file's may not. Some networks have many "localhost"s.
    return hashlib.blake2b(name.encode() + machine, digest_size=4).hexdigest()


def inode_of(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def leak(connection: sqlite3.Connection) -> None:
    """In a forked child: have Python never close it, which would drop the parent's locks."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _before_fork() -> None:
    # In the child another thread's import may hold a lock for ever; 5 ms of a script without forks.
    import ctypes  # noqa: F401


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
