"""The file of the journal: its tables, how it is opened and brought up, and transactions on it.

Functions on a connection, for the thread that holds it; queueing and threads are journal.py's, what
is in a row entries.py's. With journal.py the only importer of sqlite3.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bgmagic.errors import BgmagicError

T = TypeVar("T")
Action = Callable[[sqlite3.Connection], Any]

BUSY_TIMEOUT = 5.0  # seconds the writer waits for other kernels
READ_TIMEOUT = 0.5  # seconds a reader waits for them: the caller may be a cell
READ_WAIT = 1.0  # seconds a read waits for what this process has queued

# Append only: a file that an older bgmagic left is brought up by the scripts it has not seen.
MIGRATIONS = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    INSERT INTO meta VALUES ('salt', lower(hex(randomblob(16))));
    CREATE TABLE blobs (hash TEXT PRIMARY KEY, text TEXT NOT NULL);
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, created_at REAL NOT NULL,
        notebook TEXT NOT NULL, name TEXT, server TEXT NOT NULL, organization TEXT, project TEXT,
        credentials TEXT NOT NULL, fingerprint TEXT NOT NULL, request_hash TEXT NOT NULL,
        input_hash TEXT, input_at INTEGER, sendable INTEGER NOT NULL, model TEXT NOT NULL,
        effort TEXT, poll_interval REAL, deadline REAL NOT NULL, status TEXT NOT NULL, owner TEXT,
        response_id TEXT, accepted_at REAL, started_at REAL, checked_at REAL, ended_at REAL,
        cancelling INTEGER NOT NULL, reason TEXT, output_tokens INTEGER, response_hash TEXT
    );
    CREATE INDEX jobs_created_at ON jobs (created_at);
    CREATE INDEX jobs_response_id ON jobs (response_id);
    CREATE INDEX jobs_fingerprint ON jobs (fingerprint);
    CREATE INDEX jobs_open ON jobs (owner) WHERE ended_at IS NULL
    """,
    "ALTER TABLE jobs ADD COLUMN draft TEXT",
    """
    ALTER TABLE jobs ADD COLUMN group_key TEXT;
    ALTER TABLE jobs ADD COLUMN group_name TEXT;
    ALTER TABLE jobs ADD COLUMN group_index INTEGER;
    ALTER TABLE jobs ADD COLUMN group_details TEXT;
    CREATE INDEX jobs_group ON jobs (group_key) WHERE group_key IS NOT NULL
    """,
)


class JournalError(BgmagicError):
    """The journal did not take a write; the job itself goes on."""


# What is wrong with one write and not with the file.
_ONES_OWN = (
    JournalError, TypeError, ValueError, OverflowError,
    sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
)  # fmt: skip


INHERITED: set[Path] = set()  # files that a parent process has open: not to be opened here
FORKED = (
    "this process was forked from one that uses the journal, and can't use it: start it with "
    "multiprocessing's spawn, or run bgmagic in the parent"
)


def inode_of(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def connect(path: Path | None, timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(
        path or ":memory:", timeout=timeout, isolation_level=None, check_same_thread=False
    )


def open_file(path: Path | None) -> sqlite3.Connection:
    """Open for writing, with everything brought up to date."""
    if path in INHERITED:
        raise JournalError(FORKED)
    if path is not None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The -wal and -shm beside it get the same mode from SQLite. An existing file is not opened
        # here: closing it would drop SQLite's own locks.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with contextlib.suppress(OSError):
            path.chmod(0o600)
    connection = connect(path, BUSY_TIMEOUT)
    try:
        _check_version(connection, path)
        wal = _use_wal(connection)
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if wal else 'FULL'}")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA cache_size = -256")  # KiB; rows are small, texts written once
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_version(connection: sqlite3.Connection, path: Path | None) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise JournalError(
            f"the journal {path} was written by a newer bgmagic and is left alone, so jobs would "
            "not survive a restart of this kernel: upgrade bgmagic, or set BGMAGIC_JOURNAL to "
            "another file"
        )
    return version


def _use_wal(connection: sqlite3.Connection) -> bool:
    until = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            return bool(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal")
        except sqlite3.OperationalError as error:
            # SQLite does not wait by itself while another kernel switches the same new file.
            if error_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                return False
            time.sleep(0.01)


def _migrate(connection: sqlite3.Connection, path: Path | None) -> None:
    if _check_version(connection, path) == len(MIGRATIONS):
        return
    connection.execute("BEGIN EXCLUSIVE")
    try:
        for script in MIGRATIONS[_check_version(connection, path) :]:
            for statement in script.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


def transact(connection: sqlite3.Connection, actions: list[Action]) -> list[Any]:
    outcomes: list[Any] = []
    connection.execute("BEGIN IMMEDIATE")
    try:
        for action in actions:
            connection.execute("SAVEPOINT one")
            try:
                outcomes.append(action(connection))
            except _ONES_OWN as error:
                connection.execute("ROLLBACK TO one")
                outcomes.append(JournalError(f"the journal did not take this: {error}"))
            connection.execute("RELEASE one")
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise
    return outcomes


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def error_code(error: Exception) -> int:
    """SQLite's primary result code, or 0."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def raising(error: Exception) -> Action:
    def action(_: sqlite3.Connection) -> None:
        raise error

    return action


def trouble_of(error: Exception, path: Path | None) -> str:
    code = error_code(error)
    if code == sqlite3.SQLITE_FULL:
        advice = "the disk is full: make room"
    elif code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        advice = "another program keeps it locked: end that one"
    else:
        what = error.strerror if isinstance(error, OSError) else error
        advice = f"{what}: make it writable, or set BGMAGIC_JOURNAL to another file"
    return (
        f"the journal {path} can't be used; jobs still run, but would not survive a restart of "
        f"this kernel: {advice}"
    )
