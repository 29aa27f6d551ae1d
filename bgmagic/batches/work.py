"""One batch in this process: how far it has come, its jobs, and what is done with all of them.

Its results go into the journal and to its jobs some lines at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bgmagic.api.batch import BatchResult, key_of_request, read_result
from bgmagic.api.request import Request
from bgmagic.api.response import text_in
from bgmagic.api.server import ServerConfig
from bgmagic.concurrency import Clock, WakeEvent
from bgmagic.errors import BgmagicError
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import CLAIMED_ELSEWHERE, detach, settle
from bgmagic.jobs.record import LASTING_NOTES, Status
from bgmagic.runtime.pacing import Courtesy, RunConfig
from bgmagic.storage.batches import BatchState, BatchStore, StoredBatch
from bgmagic.storage.database import JournalError
from bgmagic.transport.batches import BatchesClient

logger = logging.getLogger("bgmagic")

TOGETHER = 100  # results that are written down with one commit

BYTES_TOGETHER = 1 << 20


class ResultCollector:
    """Takes the results of one batch in. On the loop thread.

    Attributes:
        jobs: the open jobs here, by the names of their requests.
        absent: the names of those that only the journal has.
        settled: of these, those that have ended since.
    """

    def __init__(
        self, key: str, jobs: Iterable[Job], store: BatchStore, now: Callable[[], float]
    ) -> None:
        self._batch = key
        self.jobs = {job.key: job for job in jobs}
        self.absent: set[str] = set()
        self.settled: set[str] = set()
        self._store = store
        self._now = now
        self.courtesy = Courtesy()

    @property
    def left(self) -> int:
        """How many requests have no result yet."""
        return len(self.jobs) + len(self.absent)

    async def read(self, client: BatchesClient, file_id: str, server: ServerConfig) -> None:
        """Take the results of a file in, those that are known already apart.

        Raises:
            ServerError: the file can't be read to its end; what was read is taken in.
        """
        size, found = 0, list[tuple[str, BatchResult]]()
        try:
            async for line in client.lines(file_id):
                size += len(line)
                result = read_result(client.parse(line))
                if result is not None and (key := self._key(result.custom_id)):
                    found.append((key, result))
                if len(found) >= TOGETHER or size > BYTES_TOGETHER:
                    taken, size, found = found, 0, []
                    await self._take(taken, server)
        finally:
            await self._take(found, server)

    def _key(self, custom_id: str) -> str:
        """Our name of the job of a request that has no result yet, or ""."""
        names = custom_id, key_of_request(self._batch, custom_id)
        return next((name for name in names if name in self.jobs or name in self.absent), "")

    async def _take(self, results: Sequence[tuple[str, BatchResult]], server: ServerConfig) -> None:
        # The last one counts, as a dict has it; a file has one line a request.
        changes = {key: self._changes(result) for key, result in results}
        await self.end(changes, server)

    def _changes(self, result: BatchResult) -> dict[str, Any]:
        response = result.response
        if response is not None:
            rid = text_in(response.get("id"))
            status = text_in(response.get("status"))
            return {"status": status, "response": response, "response_id": rid or None}
        if result.code == "batch_cancelled":
            return {"status": Status.CANCELLED, "reason": "with its batch"}
        return {"status": Status.FAILED, "reason": result.reason}

    async def end(self, changes: dict[str, dict[str, Any]], server: ServerConfig) -> None:
        """End jobs, by the names of their requests: in the journal first, then their variables."""
        if not changes:
            return
        now = self._now()
        requests = await self._requests(changes)
        endings = {
            key: self._store.ending(requests.get(key), change, now, server)
            for key, change in changes.items()
        }
        stored = await self._store.settle((key, columns) for key, (columns, _) in endings.items())
        async for some in self.courtesy.slices(list(changes.items())):
            for key, change in some:
                job = self.jobs.pop(key, None)
                if job is None:
                    self.absent.discard(key)
                    self.settled.add(key)
                elif not job.done():
                    _settle(job, change, now, stored=key in stored and endings[key][1])

    async def _requests(self, keys: Iterable[str]) -> dict[str, Request]:
        here = {key: self.jobs[key].request for key in keys if key in self.jobs}
        elsewhere = [key for key in keys if key in self.absent]
        if elsewhere:
            whole = await asyncio.to_thread(self._store.whole, elsewhere)
            here |= {entry.key: Request(entry.request) for entry in whole}
        return here


def _settle(job: Job, change: Mapping[str, Any], now: float, *, stored: bool) -> None:
    try:
        notes = tuple(note for note in job.outline.notes if note in LASTING_NOTES)
        told = {"ended_at": now, "checked_at": now, "trouble": None, "notes": notes}
        settle(job, stored=stored, **change, **told)
    except Exception as error:
        # A response that is none must not take the others with it.
        logger.exception("the result of %r can't be read", job)
        if not job.done():
            detach(job, f"bgmagic itself failed with {type(error).__name__}: {error}")


class BatchWork:
    """What sending and following a batch share. All methods run on the loop thread.

    Attributes:
        batch: how far it has come.
        results: its jobs, and what has come of them.
        config: how the server is called, as it is now.
        wake: ends a pause.
        closing: whether the process is about to end.
        adopted: whether it is of an earlier kernel, and may be known to the server.
        ending: whether all its jobs are about to end.
        sending: whether a call is under way that shutdown waits for.
        accepted_at: when the server took it, seconds since the epoch.
    """

    def __init__(
        self,
        key: str,
        jobs: Sequence[Job],
        config: RunConfig,
        client_of: Callable[[ServerConfig], BatchesClient],
        store: BatchStore,
        clock: Clock,
    ) -> None:
        self.batch = StoredBatch(
            key,
            clock.now(),
            owner=store.owner_id,
            over_budget=any(job.outline.over_budget for job in jobs[:1]),
        )
        self.results = ResultCollector(key, jobs, store, clock.now)
        self.config = config
        self.store = store
        self.clock = clock
        self.wake = WakeEvent()
        self.closing = self.sending = self.adopted = self.ending = False
        self.accepted_at: float | None = None
        self._client_of = client_of
        self._written = True

    @property
    def jobs(self) -> list[Job]:
        """The open jobs that are here."""
        return list(self.results.jobs.values())

    @property
    def group(self) -> str:
        """The key of the group that its jobs here are of, or ""."""
        position = next((job.record.position for job in self.jobs), None)
        return position.group if position else ""

    @property
    def client(self) -> BatchesClient:
        """Calls the server, with the credentials of the moment."""
        return self._client_of(self.config.server)

    @property
    def all_cancelling(self) -> bool:
        """Whether the user has asked to cancel every job of it that is open."""
        jobs = self.results.jobs.values()
        return not self.results.absent and all(job.outline.cancelling for job in jobs)

    async def adopt(self) -> bool:
        """Take the batch that another kernel has left; False if that can't be."""
        try:
            found = await self.store.claim(self.batch.key, self.clock.now())
        except BgmagicError as error:
            self.stop(str(error))
            return False
        if found is None:
            self.stop(CLAIMED_ELSEWHERE)
            return False
        self.batch, self.adopted = found, True
        accepted = [job.outline.accepted_at for job in self.jobs if job.outline.accepted_at]
        self.accepted_at = min(accepted, default=None)
        keys = await asyncio.to_thread(self.store.open_keys, found.key)
        self.results.absent = set(keys) - self.results.jobs.keys()
        await self.tell(batch_id=found.batch_id)
        return True

    async def save(self, jobs: dict[str, Any] | None = None, **changes: Any) -> None:
        """Write down how far it has come, before the next step.

        Args:
            jobs: columns that its open jobs get.

        Raises:
            JournalError: it can't be, and another kernel could take the step again.
        """
        changed = replace(self.batch, **changes)
        try:
            await self.store.save(changed, **(jobs or {}))
        except JournalError:
            # What the journal never took no other kernel knows of.
            if self._written:
                raise
        self.batch = changed

    def unwritten(self) -> None:
        """The journal did not take the batch: it is sent all the same."""
        self._written = False

    async def tell(self, **changes: Any) -> None:
        """Take ``changes`` into all records that do not say so already."""
        async for some in self.results.courtesy.slices(self.jobs, 100):
            for job in some:
                if job.done():
                    continue
                record = job.outline  # what all of a batch are told of is in that
                if any(getattr(record, name) != changes[name] for name in changes):
                    job.advance(**changes)

    async def end(self, keys: Sequence[str], status: str, reason: str) -> None:
        """End some of its jobs without a response."""
        for start in range(0, len(keys), 1000):
            some = keys[start : start + 1000]
            changes = {key: {"status": status, "reason": reason} for key in some}
            await self.results.end(changes, self.config.server)

    async def end_all(self, status: str, reason: str) -> None:
        """End all jobs that are open, and the batch with them."""
        self.ending = True
        await self.end([*self.results.jobs, *self.results.absent], status, reason)
        self.batch = replace(self.batch, state=BatchState.ENDED)
        await self.store.try_to_save(self.batch)

    def stop(self, reason: str) -> None:
        """Detach its jobs: nothing is known to have ended."""
        for job in self.jobs:
            if not job.done():
                detach(job, reason)
