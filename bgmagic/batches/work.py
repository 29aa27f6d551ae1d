"""One batch in this process: how far it has come, its jobs, and what is done with all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from bgmagic.api.server import ServerConfig
from bgmagic.batches.results import ResultCollector
from bgmagic.concurrency import Clock, WakeEvent
from bgmagic.errors import BgmagicError
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import CLAIMED_ELSEWHERE, detach
from bgmagic.runtime.pacing import RunConfig
from bgmagic.storage.batches import BatchState, BatchStore, StoredBatch
from bgmagic.storage.database import JournalError
from bgmagic.transport.batches import BatchesClient


class BatchWork:
    """What sending and following a batch share. All methods run on the loop thread.

    Attributes:
        batch: how far it has come.
        results: its jobs, and what has come of them.
        config: how the server is called, as it is now.
        wake: ends a pause.
        closing: whether the process is about to end.
        adopted: whether it is of an earlier kernel, and may be known to the server.
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
            over_budget=any(job.record.over_budget for job in jobs[:1]),
        )
        self.results = ResultCollector(jobs, store, clock.now)
        self.config = config
        self.store = store
        self.clock = clock
        self.wake = WakeEvent()
        self.closing = self.sending = self.adopted = False
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
        return not self.results.absent and all(job.record.cancelling for job in jobs)

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
        if found.state == BatchState.ENDED:
            # Its jobs have not, since that could not be written down.
            state = BatchState.CREATED if found.batch_id else BatchState.CREATING
            found = replace(found, state=state, tried_at=found.tried_at or self.clock.now())
        self.batch, self.adopted = found, True
        accepted = [job.record.accepted_at for job in self.jobs if job.record.accepted_at]
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
                record = vars(job.record)
                if not job.done() and any(record[name] != changes[name] for name in changes):
                    job.advance(**changes)

    async def end(self, keys: Sequence[str], status: str, reason: str) -> None:
        """End some of its jobs without a response."""
        for start in range(0, len(keys), 1000):
            some = keys[start : start + 1000]
            changes = {key: {"status": status, "reason": reason} for key in some}
            await self.results.end(changes, self.config.server)

    async def end_all(self, status: str, reason: str) -> None:
        """End all jobs that are open, and the batch with them."""
        await self.end([*self.results.jobs, *self.results.absent], status, reason)
        self.batch = replace(self.batch, state=BatchState.ENDED)
        await self.store.try_to_save(self.batch)

    def stop(self, reason: str) -> None:
        """Detach its jobs: nothing is known to have ended."""
        for job in self.jobs:
            if not job.done():
                detach(job, reason)
