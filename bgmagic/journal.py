"""The file that outlives the kernel: one SQLite database that all kernels of a user write to.

It stores what it is told, in the order it is told, and says when that is on disk. When to write
what, who follows a job and what may be sent again is the manager's; who is alive is `owners`';
secrets are taken out before anything comes here.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from bgmagic.errors import BgmagicError

T = TypeVar("T")
Action = Callable[[sqlite3.Connection], Any]

BUSY_TIMEOUT = 5.0  # seconds the writer waits for other kernels
READ_TIMEOUT = 0.5  # seconds a reader waits for them: the caller may be a cell
READ_WAIT = 1.0  # seconds a read waits for what this process has queued
SHARED_INPUT = 10_000  # characters of JSON from which an input is worth a place of its own

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
        cancelling INTEGER NOT NULL, reason TEXT, response_hash TEXT
    );
    CREATE INDEX jobs_created_at ON jobs (created_at);
    CREATE INDEX jobs_response_id ON jobs (response_id);
    CREATE INDEX jobs_fingerprint ON jobs (fingerprint);
    CREATE INDEX jobs_open ON jobs (owner) WHERE ended_at IS NULL
    """,
)


class JournalError(BgmagicError):
    """The journal did not take a write; the job itself goes on."""


@dataclass(frozen=True)
class Entry:
    """All that is kept of a job. Times are seconds since the epoch; None is "not yet" or "unset".

    Attributes:
        key: our own name of the job, unique.
        notebook: the notebook it belongs to, or "" where that is unknown.
        name: the variable that waits for the answer.
        server: its address without secrets, or "bgmagic.local".
        credentials: from `credentials_fingerprint`.
        fingerprint: of the request and its server.
        request: JSON text of the body, without secrets.
        sendable: False if something had to be taken out of the request.
        poll_interval: seconds.
        deadline: seconds after acceptance.
        owner: the kernel that follows it.
        response: JSON text, the whole response, once it is terminal.
    """

    key: str
    created_at: float
    notebook: str
    name: str | None
    server: str
    organization: str | None
    project: str | None
    credentials: str
    fingerprint: str
    request: str
    sendable: bool
    model: str
    effort: str | None
    poll_interval: float | None
    deadline: float
    status: str
    owner: str | None
    response_id: str | None = None
    accepted_at: float | None = None
    started_at: float | None = None
    checked_at: float | None = None
    ended_at: float | None = None
    cancelling: bool = False
    reason: str | None = None
    response: str | None = None


_FIELDS = tuple(field.name for field in fields(Entry))
_BOOLS = (_FIELDS.index("sendable"), _FIELDS.index("cancelling"))
_REQUEST = _FIELDS.index("request")
_BLOB = "(SELECT text FROM blobs WHERE hash = {}_hash)"
_BRIEF = ", ".join({"request": "''", "response": "NULL"}.get(name, name) for name in _FIELDS)
_WHOLE = ", ".join(
    _BLOB.format(name) if name in ("request", "response") else name for name in _FIELDS
) + ", input_at, {}".format(_BLOB.format("input"))
_SWEEP = """DELETE FROM blobs WHERE hash NOT IN (
    SELECT request_hash FROM jobs
    UNION SELECT input_hash FROM jobs WHERE input_hash IS NOT NULL
    UNION SELECT response_hash FROM jobs WHERE response_hash IS NOT NULL)"""
_OF = "(:notebook IS NULL OR notebook = :notebook) AND (:name IS NULL OR name = :name)"
_MAY_OWN = "(owner IS NULL OR owner = :owner OR owner IN (SELECT value FROM json_each(:dead)))"

# What is wrong with one write and not with the file.
_ONES_OWN = (
    JournalError, TypeError, ValueError, OverflowError,
    sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
)  # fmt: skip


class Journal:
    """The journal of this process; every method may be called from any thread.

    Writes are queued, never hold the caller up, and are committed in order by one thread. A write
    whose future is resolved survives the death of the process (kill -9); in WAL mode a power cut
    may take the newest ones, without damage to the rest. Writes that fail are not repeated, but
    later ones are tried anew. In a forked child nothing works and nothing hangs.
    """

    def __init__(self, path: Path | None) -> None:
        """Make a journal at ``path``, or in memory for None; opened with the first use."""
        self._path = path
        self._pid = os.getpid()
        self._news = threading.Condition()
        self._queue: list[tuple[Action, Future[Any]]] = []
        self._queued = self._done = 0
        self._closing = False
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._reading = threading.RLock()
        self._reader: tuple[object, sqlite3.Connection] | None = None
        self._salt: str | None = None
        self._failure: str | None = None
        self._notice: str | None = None
        _JOURNALS.add(self)

    @property
    def trouble(self) -> str | None:
        """One line for the user on what is off, else None.

        A failure is forgotten when a write succeeds again; that a damaged file was replaced is not.
        """
        return _FORKED if os.getpid() != self._pid else self._failure or self._notice

    @property
    def salt(self) -> str:
        """The file's own random salt; one of this process where the file can't be read."""
        if self._salt is None:
            ask = "SELECT value FROM meta WHERE key = 'salt'"
            rows = self._read(ask, wait=BUSY_TIMEOUT + READ_WAIT)
            self._salt = rows[0][0] if rows else secrets.token_hex(16)
        return str(self._salt)

    # Writing. Each future is resolved once the write is on disk, or fails with a JournalError.

    def add(self, entry: Entry) -> Future[None]:
        """Write a new job down."""
        return self._put(lambda connection: _add(connection, entry))

    def change(self, key: str, **columns: Any) -> Future[None]:
        """Change columns of a job.

        Raises:
            TypeError: there is no such column, or it is the key; at once.
        """
        unknown = [name for name in columns if name not in _FIELDS or name == "key"]
        if unknown or not columns:
            raise TypeError(f"{', '.join(unknown) or 'nothing'} can't be changed in the journal")
        return self._put(lambda connection: _change(connection, key, columns))

    def claim(self, key: str, owner: str, dead: Collection[str]) -> Future[bool]:
        """Take a waiting job to send it, if its owner is nobody, ``owner`` or one of ``dead``.

        True for one call only, whichever kernels try at once.
        """
        sql = "UPDATE jobs SET owner = :owner, status = 'submitting' WHERE status = 'waiting'"
        return self._take(sql, key, owner, dead)

    def adopt(self, key: str, owner: str, dead: Collection[str]) -> Future[bool]:
        """Take an open job that waits no more, to follow it, from the same; the status stays."""
        sql = "UPDATE jobs SET owner = :owner WHERE status != 'waiting' AND ended_at IS NULL"
        return self._take(sql, key, owner, dead)

    def forget(self, keys: Collection[str]) -> Future[int]:
        """Delete those of these jobs that have ended, with their texts; gives how many."""
        given = json.dumps(list(keys))
        return self._put(lambda connection: _forget(connection, given))

    # Reading. What can't be read is empty, and `trouble` says so.

    def find(self, key_or_response_id: str) -> Entry | None:
        """The whole entry; of several with this response id the newest."""
        where = "WHERE key = :it OR response_id = :it ORDER BY created_at DESC, id DESC LIMIT 1"
        found = self._entries(_WHOLE, where, {"it": key_or_response_id})
        return found[0] if found else None

    def entries(
        self,
        *,
        notebook: str | None = None,
        open_only: bool = False,
        name: str | None = None,
        limit: int | None = None,
    ) -> list[Entry]:
        """The jobs, newest first; ``request`` is "" and ``response`` None in all of them."""
        where = f"""WHERE {_OF} AND (ended_at IS NULL OR NOT :open)
            ORDER BY created_at DESC, id DESC LIMIT :limit"""
        limit = -1 if limit is None else limit
        values = {"notebook": notebook, "name": name, "open": open_only, "limit": limit}
        return self._entries(_BRIEF, where, values)

    def same(
        self,
        fingerprint: str,
        *,
        notebook: str | None = None,
        name: str | None = None,
        completed: bool = False,
    ) -> list[Entry]:
        """The open (or the ``completed``) jobs with this very request, whole, oldest first."""
        state = "status = 'completed' AND ended_at IS NOT NULL" if completed else "ended_at IS NULL"
        where = f"WHERE fingerprint = :it AND {_OF} AND {state} ORDER BY created_at, id"
        values = {"it": fingerprint, "notebook": notebook, "name": name}
        return self._entries(_WHOLE, where, values)

    def body(self, key: str) -> tuple[str, str | None] | None:
        """The texts of the request and the response."""
        found = self._entries(_WHOLE, "WHERE key = :it", {"it": key})
        return (found[0].request, found[0].response) if found else None

    def owners(self) -> set[str]:
        """Who follows, or followed, the jobs that have not ended."""
        sql = "SELECT DISTINCT owner FROM jobs WHERE ended_at IS NULL AND owner IS NOT NULL"
        return {row[0] for row in self._read(sql)}

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until all that is queued now is committed or refused.

        Returns:
            False if time ran out first.
        """
        self._check_process()
        if threading.current_thread() is self._thread:
            return not self._queue
        with self._news:
            due = self._queued
            return self._news.wait_for(lambda: self._done >= due, timeout)

    def close(self, timeout: float = 1.0) -> bool:
        """Commit what is queued and let the file go; False if ``timeout`` seconds did not do."""
        if os.getpid() != self._pid:
            return True
        with self._news:
            self._closing = True
            self._news.notify_all()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        if self._path is not None and self._reading.acquire(timeout=timeout):
            self._drop_reader()
            self._reading.release()
        return thread is None or not thread.is_alive()

    # Within.

    def _check_process(self) -> None:
        # Before any lock: a fork may have copied it while it was held.
        if os.getpid() != self._pid:
            raise JournalError(_FORKED)

    def _take(self, sql: str, key: str, owner: str, dead: Collection[str]) -> Future[bool]:
        values = {"key": key, "owner": owner, "dead": json.dumps(list(dead))}
        sql = f"{sql} AND key = :key AND {_MAY_OWN}"
        return self._put(lambda connection: connection.execute(sql, values).rowcount == 1)

    def _put(self, action: Action) -> Future[Any]:
        future: Future[Any] = Future()
        # So that nobody can cancel what is going to be written.
        future.set_running_or_notify_cancel()
        try:
            self._check_process()
            with self._news:
                self._start()
                self._queue.append((action, future))
                self._queued += 1
                self._news.notify_all()
        except JournalError as error:
            future.set_exception(error)
        return future

    def _start(self) -> None:
        if self._closing:
            raise JournalError("the journal is closed; nothing was written")
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name="bgmagic-journal", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise JournalError(f"the journal's thread can't start: {error}") from None
            self._thread = thread

    def _serve(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._queue or self._closing)
                batch, self._queue = self._queue, []
            if not batch:
                break
            outcomes = self._commit([action for action, _ in batch])
            bad = [outcome for outcome in outcomes if isinstance(outcome, JournalError)]
            self._failure = str(bad[0]) if bad else None
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, JournalError):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
            with self._news:
                self._done += len(batch)
                self._news.notify_all()
        if self._path is not None:
            self._drop_writer()

    def _commit(self, actions: list[Action], again: bool = True) -> list[Any]:
        """What became of each action: its result, or a JournalError."""
        try:
            with self._reading if self._path is None else contextlib.nullcontext():
                return _transaction(self._writer(), actions)
        except JournalError as error:
            return [error] * len(actions)
        except Exception as error:
            # Whatever it is: this thread must go on, and no future be left open.
            if again and _code(error) in _DAMAGED and self._set_aside():
                return self._commit(actions, again=False)
            if _code(error) == sqlite3.SQLITE_FULL and len(actions) > 1:
                # There may be room for the small ones.
                return [self._commit([action])[0] for action in actions]
            return [JournalError(_trouble(error, self._path))] * len(actions)

    def _writer(self) -> sqlite3.Connection:
        if self._connection is None or self._inode != _inode(self._path):
            # Also when somebody else moved a damaged file aside, or deleted it.
            self._drop_writer()
            self._connection = _open(self._path)
            self._inode, self._salt = _inode(self._path), None
        return self._connection

    def _drop_writer(self) -> None:
        connection, self._connection, self._inode = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _set_aside(self) -> bool:
        """Move a damaged file away, unless another kernel just did; whether that worked."""
        damaged = self._inode or _inode(self._path)
        self._drop_writer()
        if self._path is None or damaged is None or damaged != _inode(self._path):
            return self._path is not None
        aside = f"{self._path}.damaged-{time.time():.0f}"
        try:
            self._path.rename(aside)
            for end in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self._path}{end}").rename(f"{aside}{end}")
        except OSError:
            return False
        self._notice = (
            f"the journal was damaged and is now {aside}; a new one was begun, and the jobs from "
            "before are not in it"
        )
        return True

    def _read(self, sql: str, values: Any = (), wait: float = READ_WAIT) -> list[tuple[Any, ...]]:
        self._check_process()
        for _ in range(2):
            if self._connection is None or self._inode != _inode(self._path):
                self._put(lambda _: None)
            self.flush(wait)
            try:
                with self._reading:
                    return self._readable().execute(sql, values).fetchall()
            except sqlite3.Error as error:
                if _code(error) not in _DAMAGED:
                    self._failure = self._failure or _trouble(error, self._path)
                    break
                self._put(_raising(error))
        return []

    def _readable(self) -> sqlite3.Connection:
        connection, inode = self._connection, self._inode
        if connection is None:
            raise sqlite3.OperationalError("it is not open")
        if self._path is None:
            return connection
        if self._reader is None or self._reader[0] != inode:
            self._drop_reader()
            self._reader = inode, _connect(self._path, READ_TIMEOUT)
        return self._reader[1]

    def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with contextlib.suppress(sqlite3.Error):
                reader[1].close()

    def _entries(self, columns: str, where: str, values: Mapping[str, Any]) -> list[Entry]:
        sql = f"SELECT {columns} FROM jobs {where}"  # noqa: S608 - of our own constants
        return [_entry(row) for row in self._read(sql, values)]

    def _leak(self) -> None:
        """In a forked child: never let SQLite close what the parent uses; that could damage it."""
        for connection in (self._connection, self._reader and self._reader[1]):
            if connection is not None:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


_JOURNALS: weakref.WeakSet[Journal] = weakref.WeakSet()
_INHERITED: set[Path] = set()
_FORKED = (
    "this process was forked from one that uses the journal, and can't use it: start it with "
    "multiprocessing's spawn, or run bgmagic in the parent"
)


def _after_fork() -> None:
    for journal in list(_JOURNALS):
        journal._leak()
        if journal._path is not None:
            _INHERITED.add(journal._path)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# The file.


def _inode(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _connect(path: Path | None, timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(
        path or ":memory:", timeout=timeout, isolation_level=None, check_same_thread=False
    )


def _open(path: Path | None) -> sqlite3.Connection:
    """Open for writing, with everything brought up to date."""
    if path in _INHERITED:
        raise JournalError(_FORKED)
    if path is not None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The -wal and -shm beside it get the same mode from SQLite. An existing file is not opened
        # here: closing it would drop SQLite's own locks.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with contextlib.suppress(OSError):
            path.chmod(0o600)
    connection = _connect(path, BUSY_TIMEOUT)
    try:
        _check_version(connection, path)
        wal = _use_wal(connection)
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if wal else 'FULL'}")
        connection.execute("PRAGMA secure_delete = ON")
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
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until:
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


def _transaction(connection: sqlite3.Connection, actions: list[Action]) -> list[Any]:
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


_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: Exception) -> int:
    """SQLite's primary result code, or 0."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _raising(error: Exception) -> Action:
    def action(_: sqlite3.Connection) -> None:
        raise error

    return action


def _trouble(error: Exception, path: Path | None) -> str:
    code = _code(error)
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


# What is done to its rows.


def _add(connection: sqlite3.Connection, entry: Entry) -> None:
    columns = _stored(connection, {name: getattr(entry, name) for name in _FIELDS})
    names = ", ".join(columns)
    marks = ", ".join(f":{name}" for name in columns)
    sql = f"INSERT INTO jobs ({names}) VALUES ({marks})"  # noqa: S608 - names of our own columns
    connection.execute(sql, columns)


def _change(connection: sqlite3.Connection, key: str, changes: Mapping[str, Any]) -> None:
    columns = _stored(connection, changes)
    sets = ", ".join(f"{name} = :{name}" for name in columns)
    sql = f"UPDATE jobs SET {sets} WHERE key = :key"  # noqa: S608 - names of our own columns
    if connection.execute(sql, {**columns, "key": key}).rowcount != 1:
        raise JournalError(f"the job {key} is not in it, so it would not survive a restart")
    if "request" in changes or "response" in changes:
        connection.execute(_SWEEP)


def _forget(connection: sqlite3.Connection, keys: str) -> int:
    sql = """DELETE FROM jobs
        WHERE ended_at IS NOT NULL AND key IN (SELECT value FROM json_each(?))"""
    count = connection.execute(sql, (keys,)).rowcount
    connection.execute(_SWEEP)
    return count


def _stored(connection: sqlite3.Connection, values: Mapping[str, Any]) -> dict[str, Any]:
    """The table's columns for these, their large texts stored."""
    columns = dict(values)
    if "request" in columns:
        rest, part, at = _split(columns.pop("request"))
        columns["request_hash"] = _blob(connection, rest)
        columns["input_hash"] = None if part is None else _blob(connection, part)
        columns["input_at"] = at
    if "response" in columns:
        text = columns.pop("response")
        columns["response_hash"] = None if text is None else _blob(connection, text)
    return columns


def _blob(connection: sqlite3.Connection, text: str) -> str:
    key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    connection.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?)", (key, text))
    return key


def _split(request: str) -> tuple[str, str | None, int | None]:
    """A request without its input, the input, and where it goes back in."""
    if len(request) > SHARED_INPUT:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            part = json.dumps(json.loads(request)["input"], ensure_ascii=False)
            at = request.find(part)
            if len(part) > SHARED_INPUT and at >= 0:
                return request[:at] + request[at + len(part) :], part, at
    return request, None, None


def _entry(row: tuple[Any, ...]) -> Entry:
    values = list(row[: len(_FIELDS)])
    for index in _BOOLS:
        values[index] = bool(values[index])
    if len(row) > len(_FIELDS) and row[-1] is not None:
        at = row[-2]
        values[_REQUEST] = values[_REQUEST][:at] + row[-1] + values[_REQUEST][at:]
    entry = object.__new__(Entry)
    # Not by its constructor, which takes most of the time of a long listing in a frozen class.
    entry.__dict__.update(zip(_FIELDS, values, strict=True))
    return entry


def credentials_fingerprint(salt: str, secret: str) -> str:
    """What tells one key from another without giving it away: 32 hex digits, in about 2 ms."""
    made = hashlib.scrypt(secret.encode(), salt=salt.encode(), n=2**9, r=8, p=1, dklen=16)
    return made.hex()


def default_path() -> Path | None:
    """Where the journal is: BGMAGIC_JOURNAL (":memory:" is None), else the user's data folder."""
    named = os.environ.get("BGMAGIC_JOURNAL")
    if named:
        return None if named == ":memory:" else Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_path("bgmagic")) / "journal.sqlite3"
