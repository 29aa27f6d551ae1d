"""What the journal has of a batch: how far it has come, who follows it, and its jobs together.

A batch is one row, whatever it holds: thousands of jobs are claimed, accepted and let go with one
write. Each state is written before the call that follows it, so that a kernel that comes later
knows what the server may have been asked.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from bgmagic.api.pricing import Billing
from bgmagic.api.request import Request
from bgmagic.api.response import Usage
from bgmagic.api.server import ServerConfig
from bgmagic.storage.database import JournalError, StoredJob
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.live_rows import Write


class BatchState(StrEnum):
    """How far a batch has come. What follows each may have happened, or not."""

    INTENDED = "intended"  # its jobs are written down
    UPLOADING = "uploading"  # its file is being sent
    UPLOADED = "uploaded"  # the server has its file
    CREATING = "creating"  # the server is being asked to make it of that file
    CREATED = "created"  # the server has it
    ENDED = "ended"  # all that came of it is written down


@dataclass(frozen=True)
class StoredBatch:
    """A batch as the journal has it. Times are seconds since the epoch.

    Attributes:
        key: our own name of it, which its metadata carries.
        created_at: when it was submitted.
        state: how far it has come.
        owner: the kernel that follows it.
        file_id: the server's id of the file with its requests.
        batch_id: the server's id of the batch.
        tried_at: when the server was last asked to make it.
        over_budget: whether it is sent whatever the budget says.
    """

    key: str
    created_at: float
    state: str = BatchState.INTENDED
    owner: str | None = None
    file_id: str | None = None
    batch_id: str | None = None
    tried_at: float | None = None
    over_budget: bool = False


_FIELDS = tuple(field.name for field in fields(StoredBatch))

_COLUMNS = ", ".join(_FIELDS)

_SAVE = f"INSERT OR REPLACE INTO batches ({_COLUMNS}) VALUES (:{', :'.join(_FIELDS)})"  # noqa: S608

_FIND = f"SELECT {_COLUMNS} FROM batches WHERE key = ?"  # noqa: S608

_OPEN = "batch = :batch AND ended_at IS NULL"

_OPEN_KEYS = f"SELECT key FROM jobs WHERE {_OPEN}"  # noqa: S608

_WHOLE_OF = "WHERE key IN (SELECT value FROM json_each(:keys)) ORDER BY created_at, id"


class BatchStore:
    """One process's batches in the journal. On the loop thread."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._put = store.journal._put
        self._select = store.journal.select

    @property
    def owner_id(self) -> str:
        """The id of this process as an owner."""
        return self._store.owner.id

    async def add(self, batches: Sequence[StoredBatch]) -> bool:
        """Write new batches down, before their jobs; False if the journal can't be written."""

        def add(connection: sqlite3.Connection) -> None:
            for batch in batches:
                connection.execute(_SAVE, vars(batch))

        return await self._store._done(self._put(Write(add)))

    async def claim(self, key: str, now: float) -> StoredBatch | None:
        """Take the batch of a journal and its open jobs; None if a living kernel has it.

        A batch whose jobs are there and whose row is not may have been sent: its row could not be
        written.

        Raises:
            BgmagicError: the journal, or its folder, can't be written.
        """
        self._store.owner.acquire()
        taken = await self._take(key, now, self._store._known_dead)
        return taken or await self._take(key, now, await asyncio.to_thread(self._store._dead))

    async def _take(self, key: str, now: float, dead: Collection[str]) -> StoredBatch | None:
        taking: Future[StoredBatch | None] = self._put(Write(self._taking(key, now, dead)))
        return await self._store._landing.wait(taking)

    def _taking(
        self, key: str, now: float, dead: Collection[str]
    ) -> Callable[[sqlite3.Connection], StoredBatch | None]:
        owner, free = self._store.owner.id, {None, self._store.owner.id, *dead}

        def take(connection: sqlite3.Connection) -> StoredBatch | None:
            row = connection.execute(_FIND, (key,)).fetchone()
            found = StoredBatch(key, now, BatchState.CREATING, tried_at=now)
            if row is not None:
                found = StoredBatch(**dict(zip(_FIELDS, row, strict=True)))
            if found.owner not in free:
                return None
            taken = replace(found, owner=owner)
            connection.execute(_SAVE, vars(taken))
            sql = f"UPDATE jobs SET owner = :owner WHERE {_OPEN}"  # noqa: S608
            connection.execute(sql, {"owner": owner, "batch": key})
            return taken

        return take

    async def save(self, batch: StoredBatch, **jobs: Any) -> None:
        """Write down how far a batch of ours has come, and give its open jobs these columns.

        Raises:
            JournalError: the journal does not take it, or another kernel has the batch by now.
        """
        if batch.owner != self._store.owner.id:
            batch = replace(batch, owner=self._store.owner.id)

        def save(connection: sqlite3.Connection) -> None:
            row = connection.execute(_FIND, (batch.key,)).fetchone()
            owner = None if row is None else row[_FIELDS.index("owner")]
            if owner not in (None, batch.owner):
                raise JournalError("another kernel follows this batch")
            connection.execute(_SAVE, vars(batch))
            if jobs:
                sets = ", ".join(f"{name} = :{name}" for name in jobs)
                sql = f"UPDATE jobs SET {sets} WHERE {_OPEN}"  # noqa: S608 - our own columns
                connection.execute(sql, {**jobs, "batch": batch.key})

        changes = jobs or None
        await self._store._landing.wait(
            self._put(Write(save, changes=changes, batch=batch.key if jobs else ""))
        )

    async def try_to_save(self, batch: StoredBatch, **jobs: Any) -> bool:
        """Write down what is no step of its own; whether that is done."""
        try:
            await self.save(batch, **jobs)
        except JournalError:
            return False
        return True

    async def release(self, batch: StoredBatch) -> None:
        """Let other kernels have the batch and its open jobs."""

        def release(connection: sqlite3.Connection) -> None:
            free = {"batch": batch.key, "owner": self.owner_id}
            connection.execute(
                "UPDATE batches SET owner = NULL WHERE key = :batch AND owner = :owner", free
            )
            sql = f"UPDATE jobs SET owner = NULL WHERE {_OPEN} AND owner = :owner"  # noqa: S608
            connection.execute(sql, free)

        await self._store._done(self._put(Write(release, changes={"owner": None}, batch=batch.key)))

    async def settle(self, changes: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Write down how jobs have ended, by their keys, all in one go; waits until it is on disk
        or has failed."""
        change = self._store.journal.change
        for writing in [change(key, **columns) for key, columns in changes]:
            await self._store._done(writing)

    def ending(
        self, request: Request | None, change: Mapping[str, Any], now: float, server: ServerConfig
    ) -> dict[str, Any]:
        """What is written down of a job that ends.

        Args:
            request: what it asked, where that is known.
            change: its status and reason, or response.
        """
        columns = {**change, "status": str(change["status"]), "ended_at": now, "checked_at": now}
        response = change.get("response")
        if response is not None:
            columns["response"] = self._store.redacted_response(response, server)
            columns["output_tokens"] = Usage.of(response).output
            if request is not None:
                columns["billing"] = Billing.of(request, response).text
        return columns

    def open_keys(self, key: str) -> list[str]:
        """The keys of the jobs of a batch that have not ended, by the journal."""
        return [row[0] for row in self._store.journal._read(_OPEN_KEYS, {"batch": key})]

    def whole(self, keys: Collection[str]) -> list[StoredJob]:
        """The jobs with these keys, with their requests."""
        return self._select(_WHOLE_OF, keys=json.dumps(list(keys)))

    def find(self, key: str) -> StoredBatch | None:
        """The batch with this key, or None."""
        rows = self._store.journal._read(_FIND, (key,))
        return StoredBatch(**dict(zip(_FIELDS, rows[0], strict=True))) if rows else None
