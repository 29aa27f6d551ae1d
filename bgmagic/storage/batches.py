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
from dataclasses import fields, replace
from enum import StrEnum
from typing import Any

from bgmagic.api.pricing import Billing
from bgmagic.api.redaction import kept_response
from bgmagic.api.request import Request
from bgmagic.api.response import Usage
from bgmagic.api.server import ServerConfig
from bgmagic.errors import BadInput
from bgmagic.jobs.record import JobRecord, Status
from bgmagic.storage.database import JournalError, StoredJob, add_entries
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.live_rows import Write, changed
from bgmagic.values import dataclass


class BatchState(StrEnum):
    """How far a batch has come. What follows each may have happened, or not."""

    INTENDED = "intended"  # its jobs are written down
    UPLOADING = "uploading"  # its file is being sent
    UPLOADED = "uploaded"  # the server has its file
    CREATING = "creating"  # the server is being asked to make it of that file
    CREATED = "created"  # the server has it
    ENDED = "ended"  # all that came of it is written down


_ORDER = tuple(BatchState)

_UNSENT = _ORDER[: _ORDER.index(BatchState.CREATING)]


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
        tried_at: when the server was last asked to make it; no other create has the same.
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

    @property
    def create(self) -> str:
        """Our own name of the newest create of it, or ""."""
        return "" if self.tried_at is None else f"{self.tried_at:.6f}"


_FIELDS = tuple(field.name for field in fields(StoredBatch))

_COLUMNS = ", ".join(_FIELDS)

_SAVE = f"INSERT OR REPLACE INTO batches ({_COLUMNS}) VALUES (:{', :'.join(_FIELDS)})"  # noqa: S608

_FIND = f"SELECT {_COLUMNS} FROM batches WHERE key = ?"  # noqa: S608

_OPEN = "batch = :batch AND ended_at IS NULL"

_OPEN_KEYS = f"SELECT key FROM jobs WHERE {_OPEN}"  # noqa: S608

_KEYS = "SELECT key, ended_at IS NULL FROM jobs WHERE batch = ?"

_WHOLE_OF = "WHERE key IN (SELECT value FROM json_each(:keys)) ORDER BY created_at, id"

# The same request, sent from another host after it was submitted here.
_SENT_LATER = """SELECT DISTINCT fingerprint FROM jobs WHERE notebook IS :notebook
    AND fingerprint IN (SELECT value FROM json_each(:prints)) AND created_at > :at
    AND (response_id IS NOT NULL OR ended_at IS NULL)"""

# Whether each job of an earlier batch has a later one in its place, as sending it again makes.
_SENT_AGAIN = """SELECT count(*) > 0 AND NOT EXISTS (
        SELECT group_index FROM jobs WHERE batch = :earlier EXCEPT
        SELECT group_index FROM jobs WHERE group_key = :group AND created_at >
            (SELECT max(created_at) FROM jobs WHERE batch = :earlier))
    FROM jobs WHERE batch = :earlier"""

_REOPEN = """UPDATE jobs SET ended_at = NULL, status = 'submitting', reason = NULL, owner = NULL
    WHERE status = 'unknown' AND ended_at IS NOT NULL
    AND key IN (SELECT value FROM json_each(:keys))"""

_KNOWN = "SELECT key FROM jobs WHERE key IN (SELECT value FROM json_each(?))"

FOUND_DEADLINE = 25 * 3600.0  # seconds: a batch has 24 hours, and its results come after that

TOGETHER = 500  # jobs of another host's file that are copied in one go


class BatchStore:
    """One process's batches in the journal. On the loop thread."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._put = store.journal.put
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

        return await self._store.is_committed(self._put(Write(add)))

    async def claim(self, key: str, now: float) -> StoredBatch | None:
        """Take the batch of a journal and its open jobs; None if a living kernel has it.

        A batch whose jobs are there and whose row is not may have been sent: its row could not be
        written. One of another host goes on in our own file.

        Raises:
            BadInput: it is another host's, which has not sent it.
            BgmagicError: the journal, or its folder, can't be written.
        """
        self._store.owner.acquire()
        own, there = await asyncio.to_thread(lambda: (self.find(key), self._elsewhere(key)))
        known = [*there, *([own] if own is not None else [])]
        if not await asyncio.to_thread(self._are_free, known):
            return None
        unknown = StoredBatch(key, now, BatchState.CREATING, tried_at=now)
        furthest = max(there, key=lambda one: _ORDER.index(one.state), default=unknown)
        if own is None and furthest.state in _UNSENT:
            raise BadInput(
                "its batch was not sent yet, and is another host's: only a kernel there can send "
                "it; once that host is gone for good, its cell with --again --reuse does so here"
            )
        seen = own.owner if own is not None else None
        taking = self._taking(replace(furthest, owner=None), {None, self.owner_id, seen}, now)
        taken: StoredBatch | None = await self._store.landing.wait(self._put(Write(taking)))
        if taken is not None and there:
            await self._copy(key)
        return taken

    def _taking(
        self, new: StoredBatch, free: Collection[str | None], now: float
    ) -> Callable[[sqlite3.Connection], StoredBatch | None]:
        """Takes a batch from one of ``free``; ``new`` is it where our file does not have it."""
        key, owner = new.key, self.owner_id

        def take(connection: sqlite3.Connection) -> StoredBatch | None:
            row = connection.execute(_FIND, (key,)).fetchone()
            found = new if row is None else _from_row(row)
            if found.owner not in free:
                return None
            taken = replace(_before_end(found, now), owner=owner)
            connection.execute(_SAVE, vars(taken))
            sql = f"UPDATE jobs SET owner = :owner WHERE {_OPEN}"  # noqa: S608
            connection.execute(sql, {"owner": owner, "batch": key})
            return taken

        return take

    def _elsewhere(self, key: str) -> list[StoredBatch]:
        """The batch with this key as the files of other hosts have it."""
        return [_from_row(row) for row in self._store.journal.read_others(_FIND, (key,))]

    def _are_free(self, batches: Sequence[StoredBatch]) -> bool:
        """Whether nobody follows them; of one that has ended its kernel may live on."""
        followed = (one for one in batches if one.state != BatchState.ENDED)
        return all(self._store.is_nobody(one.owner) for one in followed)

    async def _copy(self, key: str) -> None:
        """Have the open jobs of another host's batch in our own file, the one that we write."""
        journal = self._store.journal
        here = {row[0] for row in journal.read(_KEYS, (key,))}
        there = await asyncio.to_thread(journal.read_others, _KEYS, (key,))
        ended = {name for name, is_open in there if not is_open}
        left = list(dict.fromkeys(name for name, _ in there if name not in here | ended))
        for start in range(0, len(left), TOGETHER):
            some = json.dumps(left[start : start + TOGETHER])
            found = await asyncio.to_thread(journal.elsewhere, _WHOLE_OF, keys=some)
            ours = {entry.key: changed(entry, {"owner": self.owner_id}) for entry in found}
            await self._store.landing.wait(journal.add(*ours.values()))

    async def sent_elsewhere(self, records: Sequence[JobRecord]) -> list[str]:
        """Those of these unsent jobs, of one notebook, that were sent from another host since they
        were submitted; asks only if this kernel may have been taken for dead."""
        if not (records and self._store.is_shared and self._store.owner.was_away):
            return []
        prints = [record.fingerprint for record in records]
        at = min(record.submitted_at for record in records)
        values = {"prints": json.dumps(prints), "notebook": records[0].notebook, "at": at}
        sent = await asyncio.to_thread(self._store.journal.read_others, _SENT_LATER, values)
        return [record.key for record in records if (record.fingerprint,) in sent]

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
        await self._store.landing.wait(
            self._put(Write(save, changes=changes, batch=batch.key if jobs else ""))
        )

    async def try_to_save(self, batch: StoredBatch, **jobs: Any) -> bool:
        """Write down what no step waits for; whether that worked."""
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

        await self._store.is_committed(
            self._put(Write(release, changes={"owner": None}, batch=batch.key))
        )

    async def settle(self, changes: Iterable[tuple[str, Mapping[str, Any]]]) -> set[str]:
        """Write down how jobs have ended, by their keys, all in one go; waits until it is on disk
        or has failed. Gives the keys of those that are on disk."""
        change, responses = self._store.journal.change, self._store.responses
        writing = [(key, change(key, **columns)) for key, columns in changes]
        written = [key for key, future in writing if await self._store.is_committed(future)]
        return set(filter(responses.has, written))

    def ending(
        self, request: Request | None, change: Mapping[str, Any], now: float, server: ServerConfig
    ) -> tuple[dict[str, Any], bool]:
        """What is written down of a job that ends, and whether that is the whole response.

        Args:
            request: what it asked, where that is known.
            change: its status and reason, or response.
        """
        whole = False
        columns = {**change, "status": str(change["status"]), "ended_at": now, "checked_at": now}
        response = change.get("response")
        if response is not None:
            columns["response"], whole = kept_response(response, server.secrets)
            columns["output_tokens"] = Usage.of(response).output
            if request is not None:
                columns["billing"] = Billing.of(request, response).text
        return columns, whole

    def open_keys(self, key: str) -> list[str]:
        """The keys of the jobs of a batch that have not ended, by the journal."""
        return [row[0] for row in self._store.journal.read(_OPEN_KEYS, {"batch": key})]

    def is_sent_again(self, key: str, group: str) -> bool:
        """Whether all jobs of the batch with this key, one of ``group``, have been sent again."""
        asked = {"earlier": key, "group": group}
        return bool(self._store.journal.read(_SENT_AGAIN, asked)[0][0])

    def whole(self, keys: Collection[str]) -> list[StoredJob]:
        """The jobs with these keys, with their requests."""
        return self._select(_WHOLE_OF, keys=json.dumps(list(keys)))

    def find(self, key: str) -> StoredBatch | None:
        """The batch with this key, or None."""
        rows = self._store.journal.read(_FIND, (key,))
        return _from_row(rows[0]) if rows else None


def reopen(store: JobStore, entries: Iterable[StoredJob]) -> bool:
    """Open those of these jobs again that ended as unknown with their batch, so that attaching them
    looks for it once more; whether there are any."""
    keys = [one.key for one in entries if one.batch is not None and one.status == Status.UNKNOWN]
    if keys:
        values = {"keys": json.dumps(keys)}
        store.journal.put(Write(lambda db: db.execute(_REOPEN, values).rowcount)).result()
    return bool(keys)


def first_job(store: JobStore, key: str) -> StoredJob | None:
    """The first job of the batch with this key, or None."""
    found = store.journal.select("WHERE batch = :it ORDER BY id LIMIT 1", it=key)
    return found[0] if found else None


async def add_found(
    store: JobStore,
    records: Iterable[JobRecord],
    server: ServerConfig,
    batch: StoredBatch | None = None,
    every: Collection[str] = (),
) -> None:
    """Write down jobs that the server has, and at last their batch; those that are there stay as
    they are.

    Args:
        every: with the batch, the keys of all its jobs.

    Raises:
        JournalError: it can't be written, or jobs of it are not there any more.
    """
    credentials = await asyncio.to_thread(store.credentials, server)
    entries = [
        store.row_of(record, server, None, FOUND_DEADLINE, credentials) for record in records
    ]
    keys = json.dumps([entry.key for entry in entries])
    whole = json.dumps(list(every))
    elsewhere = {
        row[0] for some in (keys, whole) for row in store.journal.read_others(_KNOWN, (some,))
    }

    def add(connection: sqlite3.Connection) -> None:
        # Another kernel may be taking it in as well.
        known = elsewhere.union(row[0] for row in connection.execute(_KNOWN, (keys,)))
        new = (changed(entry, {"owner": None}) for entry in entries if entry.key not in known)
        add_entries(connection, new)
        if batch is not None:
            there = elsewhere.union(row[0] for row in connection.execute(_KNOWN, (whole,)))
            if not there.issuperset(every):
                raise JournalError("another kernel broke off taking it in; attach it again")
            connection.execute(_SAVE, vars(batch))

    await asyncio.wrap_future(store.journal.put(Write(add)))


def drop_found(store: JobStore, key: str) -> None:
    """Delete the jobs of an `add_found` that broke off before their batch was written down."""
    sql = "DELETE FROM jobs WHERE batch = :it AND :it NOT IN (SELECT key FROM batches)"
    store.journal.put(Write(lambda db: db.execute(sql, {"it": key}).rowcount))


def remake_by(store: JobStore, remake: Callable[[str], StoredJob | None]) -> None:
    """Make the rows that are not kept in memory, as those of jobs in batches, by ``remake`` where
    the file has lost them, or did not take a change."""
    store.journal.live.remake = remake


def made_row(
    store: JobStore,
    record: JobRecord,
    server: ServerConfig,
    interval: float | None,
    deadline: float,
) -> StoredJob:
    """What the journal has, or is to have, of an open job; reads nothing."""
    prints = (made for (_, known), made in tuple(store.salted_keys.items()) if known == server)
    credentials = server.name if server.is_local else next(prints, "")
    return store.row_of(record, server, interval, deadline, credentials)


class BatchIds:
    """The server's ids of the batches that ended jobs of a journal were in. From any thread."""

    def __init__(self, store: JobStore) -> None:
        self._journal = store.journal
        self._known: dict[str, str | None] = {}

    def of(self, entry: StoredJob) -> str | None:
        """That of the job's batch; None if it was in none, or has not ended."""
        if entry.batch is None or entry.ended_at is None:
            return None
        if entry.batch not in self._known:
            sql = "SELECT key, batch_id FROM batches WHERE batch_id IS NOT NULL"
            self._known |= dict(self._journal.rows(sql))
            self._known.setdefault(entry.batch, None)  # it was never made
        return self._known[entry.batch]


def _before_end(batch: StoredBatch, now: float) -> StoredBatch:
    """The batch as it was before it ended, if it has: its jobs are open, since their ends could not
    be written down, or since they are looked for again."""
    if batch.state != BatchState.ENDED:
        return batch
    state = BatchState.CREATED if batch.batch_id else BatchState.CREATING
    return replace(batch, state=state, tried_at=batch.tried_at or now)


def _from_row(row: Sequence[Any]) -> StoredBatch:
    return StoredBatch(**dict(zip(_FIELDS, row, strict=True)))
