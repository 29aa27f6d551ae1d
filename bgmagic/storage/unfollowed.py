"""Jobs whose kernels are gone, for a process that polls them without owning them.

In the journal such a job stays detached, so that a kernel may attach it at any moment. Its end is
written down only if nobody has done either by then; so is the new name of its notebook.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from bgmagic.api.server import ServerConfig
from bgmagic.jobs.record import JobRecord
from bgmagic.storage import database
from bgmagic.storage.database import StoredJob
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.journal import Journal
from bgmagic.storage.owner_lock import OwnerLock
from bgmagic.storage.reader import ONE, JournalReader

# What a server has accepted alone. Functions run where they were named, and a batch keeps its
# results for a month: both are a kernel's.
ACCEPTED = """WHERE ended_at IS NULL AND response_id IS NOT NULL AND owner IS NOT NULL
    AND batch IS NULL AND rounds IS NULL ORDER BY created_at, id"""


# Of a notebook, or of the notebooks of a folder; what has come since of one process alone.
_SENT_FROM = """SELECT key, owner, notebook FROM jobs
    WHERE (notebook = :old OR instr(notebook, :old || :separator) = 1)
    AND notebook NOT IN (SELECT value FROM json_each(:but))
    AND (created_at <= :before OR instr(owner, :process || '-') = 1)"""


def move_jobs(
    path: Path,
    old: str,
    new: str,
    before: float,
    *,
    process: str = "",
    but: Collection[str] = (),
) -> int:
    """Write ``new`` as the notebook of the jobs of ``old``, a notebook or a folder of them, that no
    kernel follows: one that lives knows the old name alone.

    Args:
        path: the journal; if it is not there, or of another bgmagic, nothing is done.
        before: seconds since the epoch; of jobs sent later only those of ``process``, which is the
            host and process that an owner begins with: another notebook may have the old name.
        but: notebooks of the folder whose jobs stay where they are.

    Returns:
        How many there were.

    Raises:
        sqlite3.Error: the journal can't be written now.
    """
    reader = JournalReader(path)
    asked = {"old": old, "separator": os.sep, "before": before}
    asked |= {"but": json.dumps(list(but)), "process": process}
    moved = 0

    def move(connection: sqlite3.Connection) -> None:
        nonlocal moved
        rows = connection.execute(_SENT_FROM, asked).fetchall()
        gone = reader.gone({owner for _, owner, _ in rows if owner})
        follow = [row for row in rows if row[1] is None or row[1] in gone]
        changes = [(new + was[len(old) :], key) for key, _, was in follow]
        connection.executemany("UPDATE jobs SET notebook = ? WHERE key = ?", changes)
        moved = len(changes)

    if reader.path.exists():
        _write(reader.path, move)
    return moved


class UnfollowedJobs(JobStore):
    """What `runtime` is given for such jobs instead of a kernel's store: nothing is inserted,
    claimed or adopted, and only an end is written.

    Attributes:
        unwritten: the keys of jobs of which the end could not be written: they are open still.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(Journal(None), OwnerLock(None))
        self._reader = JournalReader(path)
        self._owners: dict[str, str | None] = {}
        self.unwritten: set[str] = set()

    def found(self) -> list[StoredJob]:
        """Those that this host's kernels have left, without their requests.

        Raises:
            sqlite3.Error: the journal can't be read now.
        """
        entries = self._reader.select(ACCEPTED)
        gone = self._reader.gone({entry.owner for entry in entries if entry.owner})
        return [entry for entry in entries if entry.owner in gone]

    def whole(self, entry: StoredJob) -> StoredJob | None:
        """The whole entry, if it is as it was; from now on its end may be written."""
        self.journal.known_salt = self._reader.salt()
        for found in self._reader.select(ONE, brief=False, it=entry.key):
            if (found.owner, found.ended_at) == (entry.owner, None):
                self._owners[entry.key] = entry.owner
                return found
        return None

    async def insert(
        self, record: JobRecord, server: ServerConfig, interval: float | None, deadline: float
    ) -> None:
        """Nothing is sent from here."""
        raise AssertionError("a job that is only watched is not inserted")

    async def claim(self, record: JobRecord, *, ours: bool) -> bool:
        """No: nothing is sent from here."""
        return False

    async def adopt(self, record: JobRecord, *, waits: bool = False) -> bool:
        """Whether it was accepted; its row stays as it is."""
        return not waits and record.response_id is not None

    async def update(self, record: JobRecord, **changes: Any) -> bool:
        """Write its end, if its kernel is gone and no other has it; nothing is to be read there."""
        if "ended_at" in changes:
            try:
                await asyncio.to_thread(self._end, record.key, changes)
            except sqlite3.Error:
                self.unwritten.add(record.key)
        return False

    def update_soon(self, record: JobRecord, **changes: Any) -> None:
        """Write nothing: it has not ended."""

    def _end(self, key: str, changes: dict[str, Any]) -> None:
        def end(connection: sqlite3.Connection) -> None:
            asked = "SELECT 1 FROM jobs WHERE key = ? AND owner IS ? AND ended_at IS NULL"
            if connection.execute(asked, (key, self._owners.get(key))).fetchone():
                database.change_entry(connection, key, changes)

        _write(self._reader.path, end)

    def close(self, timeout: float = 0.0) -> None:
        """Let the file go."""
        super().close(timeout)
        self._reader.close()


def _write(path: Path, action: Callable[[sqlite3.Connection], object]) -> None:
    connection = database.connect(path, database.BUSY_TIMEOUT)
    try:
        # Brought up to date by kernels alone.
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == len(database.MIGRATIONS):
            connection.execute("PRAGMA synchronous = EXTRA")
            database.transact(connection, [action])
    finally:
        connection.close()
