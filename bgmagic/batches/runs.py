"""The batches of this process: starts and ends their runners, and takes in batches that only the
server knows."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bgmagic.api import batch as api
from bgmagic.api.request import Request
from bgmagic.api.response import objects_in, text_in
from bgmagic.api.server import ServerConfig
from bgmagic.batches.runner import BatchRunner
from bgmagic.batches.sender import BEFORE
from bgmagic.batches.work import BatchWork
from bgmagic.concurrency import Clock, LoopThread
from bgmagic.errors import BadInput, ServerError
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import SHUTDOWN, detach
from bgmagic.jobs.record import GroupPosition, JobRecord, SendGate, Status
from bgmagic.runtime.pacing import RunConfig
from bgmagic.runtime.registry import warmup
from bgmagic.storage.batches import (
    BatchState,
    BatchStore,
    StoredBatch,
    add_found,
    drop_found,
    first_job,
)
from bgmagic.storage.database import JournalError, StoredJob
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
        if not jobs:  # all were there already
            return
        by_batch: dict[str, list[Job]] = {}
        for job in jobs:
            by_batch.setdefault(str(job.outline.batch), []).append(job)
        runs = [self._run(key, part, config) for key, part in by_batch.items()]
        del jobs, by_batch, job  # lists of tens of thousands, for a day
        await asyncio.gather(*runs)

    async def attach(self, job: Job, config: RunConfig) -> None:
        """Go on with a job of the journal, and with the batch that it is in."""
        key = str(job.outline.batch)
        while key in self._runners and not self._runners[key][1].done():
            runner, task = self._runners[key]
            if not runner.work.ending:
                runner.join(job)
                return
            await asyncio.wait([task])  # it takes no more, and whoever saw an end may be quick
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
            with warmup:
                known = self._clients[server] = BatchesClient(server)
        return known


def _detach(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if not job.done():
            detach(job, SHUTDOWN)


# Batches that only the server knows: of another machine, whose journal is lost, or of a colleague.

TOGETHER = 500  # requests that are written down with one commit

IN_FLIGHT = 64  # of their jobs at the server, where they are sent again by themselves

_NOT_OURS = frozenset({"background", "store", "stream"})  # fields that no request of a batch needs

_GONE = (404, 410)  # by which a server says that it does not have something, or no more


class FoundBatch:
    """A batch that the journal does not have; writes it down as if it had been sent from here.

    Attributes:
        others: once it is taken in, the ids of the batches of the same sweep that the server has
            and the journal has not, as far as the server lists them.
    """

    def __init__(self, batch_id: str, server: ServerConfig, store: JobStore) -> None:
        """Make it of the server's id; nothing is asked yet."""
        self._id = batch_id
        self._server = server
        self._store = store
        self.others: list[str] = []

    def take_in(self, name: str, notebook: str, *, named: bool) -> StoredJob:
        """Write it down with its requests, and give one of its jobs. Waits for it, on a loop of its
        own; nothing is sent.

        Args:
            name: what its group is called.
            notebook: where it is taken in.
            named: whether the user chose the name.

        Raises:
            BadInput: the server has no such batch, it can't be read, or not be written down.
        """
        loop = LoopThread("bgmagic-batch")
        try:
            return loop.run(self._taken_in(name, notebook, named=named)).result()
        except ServerError as failure:
            told = f"{self._id} can't be read at {self._server.address}: {failure}"
            raise BadInput(told) from None
        except JournalError as failure:
            raise BadInput(f"{self._id} can't be written down: {failure}") from None
        finally:
            loop.stop(1.0)

    async def _taken_in(self, name: str, notebook: str, *, named: bool) -> StoredJob:
        client = BatchesClient(self._server)
        try:
            found = await self._retrieved(client)
            # Ours after all, where nobody knew whether the server had made it.
            key = api.key_of(found)
            job = first_job(self._store, key) if key else None
            if job is None:
                group = GroupPosition(self._id, name if named else None, 0, 0, IN_FLIGHT)
                try:
                    await self._write(client, found, group, name, notebook)
                except BaseException:  # also an interrupt
                    drop_found(self._store, self._id)
                    raise
                job = self._store.of_batch(self._id)
                self.others = await self._of_same_sweep(client, found)
        finally:
            await client.close()
        if job is None:
            raise BadInput(
                f"{self._id}: its file of requests has expired, and it has no results that tell "
                "what they were"
            )
        return job

    async def _of_same_sweep(self, client: BatchesClient, found: Mapping[str, Any]) -> list[str]:
        group, made = api.group_of(found), found.get("created_at")
        if not group:
            return []
        since = float(made) - BEFORE if isinstance(made, int | float) else 0.0
        try:
            listed = await client.find(api.key_of(found), since, group)
        except ServerError:  # it is told besides
            return []
        ids = {text_in(one.get("id")) for one in listed} - {"", self._id}
        return sorted(one for one in ids if self._store.of_batch(one) is None)

    async def _retrieved(self, client: BatchesClient) -> dict[str, Any]:
        try:
            found = await client.retrieve(self._id)
        except ServerError as failure:
            if failure.status_code not in _GONE:
                raise
            raise BadInput(
                f"the journal has no job or batch {self._id!r}, and {self._server.address} no such "
                f"batch for this key: {failure}"
            ) from None
        endpoint = text_in(found.get("endpoint"))
        if endpoint not in ("", api.ENDPOINT):
            raise BadInput(
                f"{self._id} is a batch of {endpoint}, made by another program: only those of "
                f"{api.ENDPOINT} can be read here"
            )
        return found

    async def _write(
        self,
        client: BatchesClient,
        found: Mapping[str, Any],
        group: GroupPosition,
        name: str,
        notebook: str,
    ) -> None:
        made, counts = found.get("created_at"), api.RequestCounts.of(found)
        at = float(made) if isinstance(made, int | float) else time.time()
        like = JobRecord(
            request=Request("{}"),
            server=self._server.name,
            submitted_at=at,
            accepted_at=at,
            named=group.name is not None,
            notebook=notebook,
            status=Status.IN_PROGRESS,
            batch=self._id,
        )
        size, seen, some = counts.total if counts else 0, set[str](), list[JobRecord]()
        batch = StoredBatch(
            self._id,
            at,
            BatchState.CREATED,
            file_id=text_in(found.get("input_file_id")) or None,
            batch_id=self._id,
        )
        async for custom_id, body in self._requests(client, found):
            key = api.key_of_request(self._id, custom_id)
            if key in seen or len(seen) == api.MOST_REQUESTS:
                continue
            index = len(seen)
            seen.add(key)
            position = replace(group, index=index, size=size)
            request = self._request(body)
            changes = {"key": key, "request": request, "name": f"{name}[{index}]"}
            some.append(like.with_changes(**changes, position=position))
            if len(some) == TOGETHER:
                await add_found(self._store, some, self._server)
                some = []
        # The batch at last: without it, what broke off is taken in anew.
        await add_found(self._store, some, self._server, batch if seen else None, seen)

    def _request(self, body: Mapping[str, Any]) -> Request:
        """A request as bgmagic would have written it; of one that it can't read its model, which
        tells its price."""
        told = {key: value for key, value in body.items() if key not in _NOT_OURS}
        given = told.get("input")
        if isinstance(given, str):
            part = {"type": "input_text", "text": given}
            told["input"] = [{"role": "user", "content": [part]}]
        turns = objects_in(told.get("input"))
        unknown = {"model": text_in(body.get("model"))}
        readable = bool(turns) and turns == told["input"]
        try:
            return Request.of(told if readable else unknown, server=self._server)
        except BadInput:  # half a character, or nested too deep
            return Request.of(unknown, server=self._server)

    async def _requests(
        self, client: BatchesClient, found: Mapping[str, Any]
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """The requests, each as its name and its body; of a file that has expired, which is after
        30 days, what the results tell."""
        try:
            async for line in client.lines(text_in(found.get("input_file_id")) or "none"):
                told = api.read_json_line(line) or {}
                custom_id, body = text_in(told.get("custom_id")), told.get("body")
                if custom_id:
                    yield custom_id, body if isinstance(body, dict) else {"model": ""}
        except ServerError as failure:
            if failure.status_code not in _GONE:
                raise
        else:
            return
        for file_id in api.BatchReport.of(found).files:
            async for line in client.lines(file_id):
                result = api.read_result(client.parse(line))
                if result is not None:
                    model = text_in((result.response or {}).get("model"))
                    yield result.custom_id, {"model": model}
