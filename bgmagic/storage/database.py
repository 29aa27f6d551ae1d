"""The SQLite file: opening, migrations, transactions, and how a job becomes a row and back.

Functions on a connection. A new column of a job is a migration and a field of `StoredJob`. Texts
that many jobs share are stored once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bgmagic.api.redaction import hidden
from bgmagic.errors import BgmagicError
from bgmagic.jobs.record import GroupPosition
from bgmagic.storage import filesystem
from bgmagic.values import dataclass, fields

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
    CREATE INDEX jobs_created_at ON jobs (created_at); CREATE INDEX jobs_fingerprint ON
        jobs (fingerprint); CREATE INDEX jobs_response_id ON jobs (response_id);
    CREATE INDEX jobs_open ON jobs (owner) WHERE ended_at IS NULL
    """,
    "ALTER TABLE jobs ADD COLUMN draft TEXT",
    """
    ALTER TABLE jobs ADD COLUMN group_key TEXT; ALTER TABLE jobs ADD COLUMN group_name TEXT;
    ALTER TABLE jobs ADD COLUMN group_index INTEGER; ALTER TABLE jobs ADD COLUMN group_details TEXT;
    CREATE INDEX jobs_group ON jobs (group_key) WHERE group_key IS NOT NULL
    """,
    """CREATE INDEX jobs_request ON jobs (request_hash);
    CREATE INDEX jobs_input ON jobs (input_hash) WHERE input_hash IS NOT NULL;
    CREATE INDEX jobs_response ON jobs (response_hash) WHERE response_hash IS NOT NULL
    """,
    "ALTER TABLE jobs ADD COLUMN billing TEXT; CREATE INDEX jobs_ended_at ON jobs (ended_at)",
    "ALTER TABLE jobs ADD COLUMN previous TEXT; ALTER TABLE jobs ADD COLUMN rounds TEXT",
    """
    ALTER TABLE jobs ADD COLUMN batch TEXT;
    CREATE INDEX jobs_batch ON jobs (batch) WHERE batch IS NOT NULL;
    CREATE TABLE batches (
        key TEXT PRIMARY KEY, created_at REAL NOT NULL, state TEXT NOT NULL, owner TEXT,
        file_id TEXT, batch_id TEXT, tried_at REAL, over_budget INTEGER NOT NULL
    )
    """,
    "ALTER TABLE jobs ADD COLUMN over_budget INTEGER NOT NULL DEFAULT 0",
    """DROP INDEX jobs_open;
    CREATE INDEX jobs_open_at ON jobs (created_at, owner) WHERE ended_at IS NULL;
    CREATE INDEX jobs_notebook ON jobs (notebook, created_at);
    CREATE INDEX jobs_name ON jobs (name, created_at) WHERE name IS NOT NULL;
    CREATE INDEX jobs_group_name ON jobs (group_name, created_at) WHERE group_name IS NOT NULL""",
)


class JournalError(BgmagicError):
    """The journal did not take a write; the job itself goes on."""


class WriteDeferred(JournalError):
    """The file could not take new jobs now; the journal writes them as soon as it can."""


class MissingRow(JournalError):
    """The job that was to be changed is not in the file."""


# What is wrong with one write and not with the file.
ROW_ERRORS = (
    JournalError, TypeError, ValueError, OverflowError,
    sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
)  # fmt: skip


OPEN_IN_PARENT: set[Path] = set()  # files that a parent process has open: not to be opened here

FORKED = (
    "this process was forked from one that uses the journal, and can't use it: start it with "
    "multiprocessing's spawn, or run bgmagic in the parent"
)


def connect(path: Path | None, timeout: float) -> sqlite3.Connection:
    return sqlite3.connect(
        path or ":memory:", timeout=timeout, isolation_level=None, check_same_thread=False
    )


def open_file(path: Path | None) -> sqlite3.Connection:
    """Open for writing, all brought up to date; a JournalError says why that can't be."""
    if path in OPEN_IN_PARENT:
        raise JournalError(FORKED)
    if path is not None:
        if why := filesystem.why_no_file(path):
            raise JournalError(_left_alone(path, why))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The -wal and -shm beside it get the same mode from SQLite. An existing file is not opened
        # here: closing it would drop SQLite's own locks.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            filesystem.sync_folder(path.parent)
        with contextlib.suppress(OSError):
            mode = path.stat().st_mode
            if ~mode & 0o600:  # of a new one by an odd umask
                path.chmod(mode & 0o777 | 0o600)
    connection = connect(path, BUSY_TIMEOUT)
    try:
        _check_ours(connection, path)
        _check_version(connection, path)
        if path is not None:
            with contextlib.suppress(OSError):
                path.chmod(0o600)
        # What is resolved survives a power cut. EXTRA: with a rollback journal FULL leaves out the
        # sync of the folder by which the deleted journal can't come back and undo the commit.
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # writes into a file without tables
        filesystem.set_mode(connection, path, BUSY_TIMEOUT)
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA cache_size = -2048")  # KiB: hashes go all over their indices
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_version(connection: sqlite3.Connection, path: Path | None) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        why = "was written by a newer bgmagic"
        raise JournalError(_left_alone(path, why, "upgrade bgmagic, or "))
    return version


def _check_ours(connection: sqlite3.Connection, path: Path | None) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    columns = {row[1] for row in connection.execute("PRAGMA table_info(jobs)")}
    if (version or pages > 1) and "key" not in columns:
        raise JournalError(_left_alone(path, "is another program's database"))


def _left_alone(path: Path | None, why: str, also: str = "") -> str:
    return (
        f"the journal {path} {why} and is left alone, so jobs would not survive a restart of this "
        f"kernel: {also}set BGMAGIC_JOURNAL to another file"
    )


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
        roll_back(connection)
        raise


def transact(connection: sqlite3.Connection, actions: list[Action]) -> list[Any]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        try:
            outcomes = [action(connection) for action in actions]
        except ROW_ERRORS:
            # Rare: only then each has a savepoint, two statements more.
            roll_back(connection)
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_outcome(connection, action) for action in actions]
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise
    return outcomes


def _outcome(connection: sqlite3.Connection, action: Action) -> Any:
    """The action's result, or what is wrong with it alone."""
    connection.execute("SAVEPOINT one")
    try:
        outcome = action(connection)
    except ROW_ERRORS as error:
        connection.execute("ROLLBACK TO one")
        outcome = JournalError(f"the journal did not take this: {error}")
    connection.execute("RELEASE one")
    return outcome


def roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def raising(error: Exception) -> Action:
    """Raises it once, for what is wrong with the file to be mended: by then it is no failure."""
    left = [error]

    def action(_: sqlite3.Connection) -> None:
        if left:
            raise left.pop()

    return action


SHARED_INPUT = 10_000  # characters of JSON from which an input is worth a place of its own


@dataclass(frozen=True)
class StoredJob:
    """All that is kept of a job. Times are seconds since the epoch; None is "not yet" or "unset".

    Attributes:
        key: our own name of the job, unique.
        notebook: the notebook it belongs to, or "" where that is unknown.
        name: the variable that waits for the answer.
        server: its address without secrets, or "bgmagic.local".
        credentials: from `credentials_fingerprint`.
        fingerprint: of the request and its server.
        request: JSON text of the body, without secrets; a `SharedText` in what is to be written.
        sendable: False if something had to be taken out of the request.
        poll_interval: seconds.
        deadline: seconds after acceptance.
        owner: the kernel that follows it.
        response: JSON text, the whole response, once it is terminal.
        draft: JSON text of a `PartialPrompt`, until the request is complete.
        group_key: the group it belongs to; ``group_index`` is its index in that.
        group_name: that group's variable, if the user chose one.
        group_details: JSON text, the other fields of its `GroupPosition`.
        previous: JSON text, what the server has already of the request's input.
        rounds: JSON text, the functions that the model may call, and what came of its calls.
        billing: JSON text, what tells the job's price: see `api.pricing.Billing`.
        batch: the batch that it goes to the server in.
        over_budget: whether it is sent whatever the budget says.
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
    output_tokens: int | None = None
    response: str | None = None
    draft: str | None = None
    group_key: str | None = None
    group_name: str | None = None
    group_index: int | None = None
    group_details: str | None = None
    billing: str | None = None
    previous: str | None = None
    rounds: str | None = None
    batch: str | None = None
    over_budget: bool = False


FIELDS = tuple(field.name for field in fields(StoredJob))

_BOOLS = tuple(map(FIELDS.index, ("sendable", "cancelling", "over_budget")))
_REQUEST = FIELDS.index("request")
_LARGE = frozenset({"request", "response"})

_BLOB = "(SELECT text FROM blobs WHERE hash = {}_hash)"

_LONG = {"request": "''", "response": "NULL", "draft": "NULL", "rounds": "NULL"}

BRIEF = ", ".join(_LONG.get(name, name) for name in FIELDS)

WHOLE = ", ".join(_BLOB.format(name) if name in _LARGE else name for name in FIELDS)
WHOLE += ", input_at, {}".format(_BLOB.format("input"))

_DROP_UNUSED = """DELETE FROM blobs WHERE hash IN (SELECT value FROM json_each(?))
    AND NOT EXISTS (SELECT 1 FROM jobs WHERE request_hash = blobs.hash)
    AND NOT EXISTS (SELECT 1 FROM jobs WHERE input_hash = blobs.hash)
    AND NOT EXISTS (SELECT 1 FROM jobs WHERE response_hash = blobs.hash)"""

_HASHES = "request_hash", "input_hash", "response_hash"

_HASHES_OF = "SELECT request_hash, input_hash, response_hash FROM jobs WHERE "

DURATIONS = """SELECT ended_at - accepted_at FROM jobs
    WHERE server = ? AND model = ? AND effort IS ? AND status = 'completed'
    AND batch IS NULL AND ended_at > accepted_at ORDER BY created_at DESC LIMIT 200"""

OWNERS = "SELECT DISTINCT owner FROM jobs WHERE ended_at IS NULL AND owner IS NOT NULL"


_as_json = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes an encoder each time


def position_columns(position: GroupPosition | None, secrets: tuple[str, ...]) -> dict[str, Any]:
    """The columns of a job's position in its group."""
    if position is None:
        return {}
    return {
        "group_key": position.group,
        "group_name": position.name,
        "group_index": position.index,
        "group_details": hidden(_as_json(position.details), secrets),
    }


def add_entry(connection: sqlite3.Connection, entry: StoredJob) -> None:
    columns = _stored(connection, entry.__dict__)
    connection.execute(_inserting(tuple(columns)), columns)


@functools.lru_cache(8)
def _inserting(names: tuple[str, ...]) -> str:
    marks = ", ".join(f":{name}" for name in names)
    return f"INSERT INTO jobs ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - our own columns


def add_entries(connection: sqlite3.Connection, added: Iterable[StoredJob]) -> None:
    for entry in added:
        add_entry(connection, entry)


def change_entry(connection: sqlite3.Connection, key: str, changes: Mapping[str, Any]) -> None:
    columns = _stored(connection, changes)
    now = {name: columns[name] for name in _HASHES if name in columns}
    before = _hashes_of(connection, key) if now else {}
    sql = _updating(tuple(columns))
    if connection.execute(sql, {**columns, "key": key}).rowcount != 1:
        raise MissingRow(f"the job {key} is not in it, so it would not survive a restart")
    replaced = {before[name] for name in now if before[name] != now[name]}
    drop_unused(connection, replaced - {None})


@functools.lru_cache(64)
def _updating(names: tuple[str, ...]) -> str:
    sets = ", ".join(f"{name} = :{name}" for name in names)
    return f"UPDATE jobs SET {sets} WHERE key = :key"  # noqa: S608 - names of our own columns


def _hashes_of(connection: sqlite3.Connection, key: str) -> dict[str, Any]:
    row = connection.execute(_HASHES_OF + "key = ?", (key,)).fetchone()
    return dict.fromkeys(_HASHES) if row is None else dict(zip(_HASHES, row, strict=True))


def hashes(connection: sqlite3.Connection, which: str, value: str) -> set[str]:
    rows = connection.execute(_HASHES_OF + which, (value,))
    return {found for row in rows for found in row if found}


def drop_unused(connection: sqlite3.Connection, hashes: Collection[str]) -> None:
    if hashes:
        connection.execute(_DROP_UNUSED, (json.dumps(list(hashes)),))


def _stored(connection: sqlite3.Connection, values: Mapping[str, Any]) -> dict[str, Any]:
    """The table's columns for these, their large texts stored."""
    columns = dict(values)
    if "request" in columns:
        rest, part, at = _split(str(columns.pop("request")))
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


def from_row(row: tuple[Any, ...]) -> StoredJob:
    values = list(row[: len(FIELDS)])
    for index in _BOOLS:
        values[index] = bool(values[index])
    if len(row) > len(FIELDS) and row[-1] is not None:
        at = row[-2]
        values[_REQUEST] = values[_REQUEST][:at] + row[-1] + values[_REQUEST][at:]
    entry = object.__new__(StoredJob)
    # Not by its constructor, which takes most of the time of a long listing in a frozen class.
    entry.__dict__.update(zip(FIELDS, values, strict=True))
    return entry
