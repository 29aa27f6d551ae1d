"""The batches of this process: starts and ends the runner of each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from bgmagic.api.server import ServerConfig
from bgmagic.batches.runner import BatchRunner
from bgmagic.batches.work import BatchWork
from bgmagic.concurrency import Clock
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import SHUTDOWN, detach
from bgmagic.jobs.record import JobRecord, SendGate
from bgmagic.runtime.pacing import RunConfig
from bgmagic.storage.batches import BatchStore, StoredBatch
from bgmagic.storage.job_store import JobStore
from bgmagic.transport.batches import BatchesClient

JOINING = 0.2  # seconds in which jobs of one batch are attached one after another


class BatchRuns:
    """Runs batches, as long as one loop runs. All methods run on the loop thread."""

    def __init__(self, store: JobStore, clock: Clock, gate: SendGate | None = None) -> None:
        """Make it; ``gate`` may hold batches back before they are sent."""
        self._store = BatchStore(store)
        self._clock = clock
        self._gate = gate
        self._clients: dict[ServerConfig, BatchesClient] = {}
        self._runners: dict[str, tuple[BatchRunner, asyncio.Task[None]]] = {}
        self._joining: dict[str, list[Job]] = {}
        self._written: dict[str, bool] = {}  # whether the journal has taken a new batch
        self._hurry = asyncio.Event()

    async def intend(self, records: Sequence[JobRecord]) -> None:
        """Store the batches of jobs that are about to be stored."""
        new = {str(record.batch) for record in records} - self._written.keys()
        if new:
            now, over = self._clock.now(), records[0].over_budget
            owner = self._store.owner_id
            batches = [StoredBatch(key, now, owner=owner, over_budget=over) for key in new]
            self._written |= dict.fromkeys(new, await self._store.add(batches))

    async def run(self, jobs: Sequence[Job], config: RunConfig) -> None:
        """Run the batches of new jobs, which are stored, to their ends."""
        by_batch: dict[str, list[Job]] = {}
        for job in jobs:
            by_batch.setdefault(str(job.outline.batch), []).append(job)
        runs = [self._run(key, part, config) for key, part in by_batch.items()]
        del jobs, by_batch, job  # lists of tens of thousands, for a day
        await asyncio.gather(*runs)

    async def attach(self, job: Job, config: RunConfig) -> None:
        """Go on with a job of the journal, and with the batch that it is in."""
        key = str(job.outline.batch)
        if key in self._runners and not self._runners[key][1].done():
            self._runners[key][0].join(job)
            return
        first = key not in self._joining
        self._joining.setdefault(key, []).append(job)
        if first:
            # They come one by one.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), JOINING)
            jobs = self._joining.pop(key)
            if self._hurry.is_set():
                _detach(jobs)
                return
            await self._run(key, jobs, config, attached=True)

    async def _run(
        self,
        key: str,
        jobs: Sequence[Job],
        config: RunConfig,
        *,
        attached: bool = False,
    ) -> None:
        work = BatchWork(key, jobs, config, self._client_of, self._store, self._clock)
        if not self._written.pop(key, True):
            work.unwritten()
        del jobs
        runner = BatchRunner(work, self._gate)
        task = asyncio.create_task(runner.run(attached=attached))
        self._runners[key] = runner, task
        try:
            await task
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        finally:
            if self._runners[key][1] is task:
                del self._runners[key]

    def request_cancel(self, job: Job) -> None:
        """Cancel a job: with its whole batch, or before that is sent."""
        key = str(job.outline.batch)
        if key in self._runners:
            self._runners[key][0].request_cancel(job)
        elif not job.done():
            job.advance(cancelling=True)  # its runner, which is about to start, will see that

    def reconfigure(self, job: Job, config: RunConfig) -> None:
        """Go on with the batch of ``job`` at the same server with other credentials."""
        key = str(job.outline.batch)
        if key in self._runners:
            self._runners[key][0].reconfigure(config)

    async def shutdown(self, grace: float) -> None:
        """End all runners; their jobs are detached.

        Args:
            grace: seconds in which calls in flight may still be answered.
        """
        self._hurry.set()
        running = list(self._runners.values())
        for runner, _ in running:
            runner.close()
        calling = [task for runner, task in running if runner.work.sending]
        if calling:
            await asyncio.wait(calling, timeout=grace)
        tasks = [task for _, task in self._runners.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients.values():
            await client.close()

    def _client_of(self, server: ServerConfig) -> BatchesClient:
        known = self._clients.get(server)
        if known is None:
            known = self._clients[server] = BatchesClient(server)
        return known


def _detach(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if not job.done():
            detach(job, SHUTDOWN)
