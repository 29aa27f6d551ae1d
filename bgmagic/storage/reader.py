"""Reads the journal without ever writing, making or migrating it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from bgmagic.errors import AnswerGone
from bgmagic.storage import database, filesystem, live_rows
from bgmagic.storage.database import FIELDS, StoredJob
from bgmagic.storage.filesystem import OtherFiles
from bgmagic.storage.owner_lock import OwnerLock, host_id

LISTED = "ORDER BY created_at DESC, id DESC LIMIT :limit"

# What may have changed since a moment: all that is open, and what has ended since.
NEWS = "WHERE ended_at IS NULL OR ended_at >= :since ORDER BY created_at DESC, id DESC"

ONE = "WHERE key = :it"

GROUP = "WHERE group_key = :group ORDER BY group_index, created_at, id"

# What a word may mean: an id, a variable, or the variable of a group, each in the notebook and
# anywhere. A word is one of few candidates, so all of them come with one read.
_NEWEST = "(SELECT id FROM jobs WHERE {} ORDER BY created_at DESC, id DESC LIMIT 1)"

MEANT = "WHERE id IN ({}) ORDER BY created_at DESC, id DESC".format(
    ", ".join(
        _NEWEST.format(condition)
        for condition in (
            "key = :word OR response_id = :word",
            "name = :word AND notebook = :notebook",
            "name = :word",
            "group_name = :word AND notebook = :notebook",
            "group_name = :word",
        )
    )
)

PAST = """WHERE (:notebook IS NULL OR notebook = :notebook)
    AND key NOT IN (SELECT value FROM json_each(:known)) ORDER BY created_at, id"""

OPEN_GROUPS = """WHERE group_key IN (SELECT group_key FROM jobs
    WHERE ended_at IS NULL AND notebook = :notebook AND group_name IS :name)
    ORDER BY created_at, id"""

# What was paid since then, and what is being paid for, or was in part: in rounds before a next one.
BILLED = """WHERE (ended_at >= :since
    OR (ended_at IS NULL AND (status != 'waiting' OR instr(billing, '"response"'))))
    AND key NOT IN (SELECT value FROM json_each(:known)) ORDER BY created_at, id"""

DRAFTED = "WHERE draft IS NOT NULL AND ended_at IS NULL ORDER BY created_at, id"

OF_BATCH = """WHERE batch IN (SELECT key FROM batches WHERE batch_id = :it) ORDER BY id LIMIT 1"""

# The same request, sent later; of a job that was not sent at all.
SENT_LATER = """WHERE fingerprint = :it AND notebook IS :notebook AND created_at > :at
    AND (response_id IS NOT NULL OR ended_at IS NULL)"""

COMPLETED = """WHERE fingerprint IN (SELECT value FROM json_each(:fingerprints))
    AND status = 'completed' AND ended_at IS NOT NULL ORDER BY created_at, id"""


OF = "(:notebook IS NULL OR notebook = :notebook) AND (:name IS NULL OR name = :name)"

SAME = f"WHERE fingerprint = :it AND {OF} AND ended_at IS NULL ORDER BY created_at, id"

_RESPONSES = """SELECT key, text FROM jobs JOIN blobs ON hash = response_hash
    WHERE key IN (SELECT value FROM json_each(?))"""


def newest_first(*, notebook: str | None, name: str | None, open_only: bool) -> str:
    """The condition of a listing, with what is asked alone, so that an index serves it."""
    asked = {"notebook = :notebook": notebook, "name = :name": name}
    parts = [part for part, value in asked.items() if value is not None]
    parts += ["ended_at IS NULL"] if open_only else []
    where = f"WHERE {' AND '.join(parts)} " if parts else ""
    return where + LISTED


class JournalReader:
    """Reads the journal at a path; may be used from any thread, one at a time.

    A file of an older bgmagic is read as far as it goes, without what has come since.
    """

    def __init__(self, path: Path) -> None:
        """Make a reader; the file need not be there."""
        self.path = filesystem.own_file(path, host_id())
        self._others = OtherFiles(path, self.path)
        self._owner = OwnerLock(path.parent / "owners")
        self._lock = threading.Lock()
        self._open: tuple[object, sqlite3.Connection] | None = None

    def select(self, where: str, *, brief: bool = True, **values: Any) -> list[StoredJob]:
        """The jobs that a condition picks; ``brief`` as those of `Journal.entries` are.

        Raises:
            sqlite3.Error: the file can't be read.
        """
        columns = database.BRIEF if brief else database.WHOLE
        with self._lock:
            connection = self._connection()
            if connection is None:
                found = []
            else:
                sql = f"SELECT {_known(connection, columns)} FROM jobs {where}"  # noqa: S608 - our own
                found = [database.from_row(row) for row in connection.execute(sql, values)]
            sql = f"SELECT {columns} FROM jobs {where}"  # noqa: S608 - our own constants
            others = [database.from_row(row) for row in self._others.read(sql, values)]
        return live_rows.merged(found, others, where) if others else found

    def responses(self, keys: Collection[str]) -> dict[str, str]:
        """The responses, as JSON, of those of these jobs that have one, by their keys.

        Raises:
            sqlite3.Error: the file can't be read.
        """
        asked = (json.dumps(list(keys)),)
        with self._lock:
            connection = self._connection()
            rows = [] if connection is None else connection.execute(_RESPONSES, asked).fetchall()
            if len(rows) < len(keys):
                rows = [*self._others.read(_RESPONSES, asked), *rows]
        return dict(rows)

    def count(self) -> int:
        """How many jobs this host's file has."""
        with self._lock:
            connection = self._connection()
            if connection is None:
                return 0
            return int(connection.execute("SELECT count(*) FROM jobs").fetchone()[0])

    def followed(self, owners: set[str]) -> set[str]:
        """Those of these owners whose kernels live."""
        away = {owner for owner in owners if self._owner.is_elsewhere(owner)}
        silent = {owner for owner in away if self._owner.is_silent(owner)}
        return owners - silent - self._owner.dead_owners(owners - away)

    def gone(self, owners: set[str]) -> set[str]:
        """Those of these owners whose kernels ran on this host and are gone."""
        return self._owner.dead_owners(owners)

    def salt(self) -> str | None:
        """The salt of the file's fingerprints of credentials; None without a file."""
        with self._lock:
            connection = self._connection()
            if connection is None:
                return None
            found = connection.execute("SELECT value FROM meta WHERE key = 'salt'").fetchone()
        return str(found[0]) if found else None

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._drop()
            self._others.close()

    def _connection(self) -> sqlite3.Connection | None:
        inode = filesystem.inode_of(self.path)
        if self._open is None or self._open[0] != inode:
            self._drop()
            if inode is None:
                return None
            # Not mode=ro: that can't make the shared memory of a file that nobody has open.
            connection = database.connect(self.path, database.READ_TIMEOUT)
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA cache_size = -256")  # KiB; an eighth of SQLite's own
            if not _columns(connection):  # a kernel is just making it
                connection.close()
                return None
            self._open = inode, connection
        return self._open[1]

    def _drop(self) -> None:
        known, self._open = self._open, None
        if known is not None:
            with contextlib.suppress(sqlite3.Error):
                known[1].close()


class StoredResponses:
    """The responses that the journal has of ended jobs, so that their handles need not keep them.
    From any thread."""

    def __init__(self, path: Path | None) -> None:
        """Make it of the journal at ``path``; one in memory, None, has them only as handles do."""
        self._reader = None if path is None else JournalReader(path)
        self._pid = os.getpid()
        self._forgotten: set[str] = set()
        # Called with the keys of jobs before the journal forgets them.
        self.on_forget: Callable[[Collection[str]], object] = lambda _: None

    def has(self, key: str) -> bool:
        """Whether the journal keeps the job's response, as far as this process knows."""
        return self._reader is not None and key not in self._forgotten

    def forget(self, keys: Collection[str]) -> None:
        """The journal is about to forget these jobs."""
        self._forgotten.update(keys)
        self.on_forget(set(keys))

    def read(self, key: str) -> str:
        """The response of the job with this key, as JSON.

        Raises:
            AnswerGone: the journal has it no more, or can't be read.
        """
        found = self.read_all([key]).get(key)
        if found is None:
            raise self._gone("no longer has it: it was forgotten there, or the file was removed")
        return found

    def read_all(self, keys: Collection[str]) -> Mapping[str, str]:
        """Those of several, by their keys, that are there.

        Raises:
            AnswerGone: the journal can't be read.
        """
        if self._reader is None or not keys:
            return {}
        if os.getpid() != self._pid:
            raise self._gone("can't be read in a process that was forked; read it before that")
        try:
            return self._reader.responses(keys)
        except sqlite3.Error as error:
            self._reader.close()  # the file may be mended, and what was read of it is damaged
            raise self._gone(f"can't be read now: {error}") from None

    def close(self) -> None:
        """Let the file go; what is asked later opens it again."""
        if self._reader is not None:
            self._reader.close()

    def _gone(self, why: str) -> AnswerGone:
        path = None if self._reader is None else self._reader.path
        return AnswerGone(f"only the journal, {path}, had this answer, and {why}")


def _columns(connection: sqlite3.Connection) -> set[str]:
    return {row[1] for row in connection.execute("PRAGMA table_info(jobs)")}


def _known(connection: sqlite3.Connection, columns: str) -> str:
    """The columns, those that the file does not have yet as NULL."""
    has = _columns(connection)
    for name in FIELDS:
        if name not in has and name not in ("request", "response"):
            columns = columns.replace(f", {name},", ", NULL,").replace(f", {name}", ", NULL")
    return columns


def has_no_open(path: Path | None, notebook: str) -> bool:
    """Whether a journal that is not open yet surely has no open jobs of ``notebook``, and can be
    written as far as can be seen; one in memory has none."""
    if path is None:
        return True
    writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return writable and not filesystem.may_have_open(path, notebook, len(database.MIGRATIONS))
