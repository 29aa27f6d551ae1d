"""Brings the results of a batch into the journal and to its jobs, some lines at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bgmagic.api.batch import BatchResult, read_result
from bgmagic.api.request import Request
from bgmagic.api.response import text_in
from bgmagic.api.server import ServerConfig
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import detach, settle
from bgmagic.jobs.record import LASTING_NOTES, Status
from bgmagic.runtime.pacing import Courtesy
from bgmagic.storage.batches import BatchStore
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

    def __init__(self, jobs: Iterable[Job], store: BatchStore, now: Callable[[], float]) -> None:
        self.jobs = {job.record.key: job for job in jobs}
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
        size, found = 0, list[BatchResult]()
        try:
            async for line in client.lines(file_id):
                size += len(line)
                result = read_result(client.parse(line))
                if result is not None and self._awaits(result.custom_id):
                    found.append(result)
                if len(found) >= TOGETHER or size > BYTES_TOGETHER:
                    taken, size, found = found, 0, []
                    await self._take(taken, server)
        finally:
            await self._take(found, server)

    def _awaits(self, custom_id: str) -> bool:
        return custom_id in self.jobs or custom_id in self.absent

    async def _take(self, results: Sequence[BatchResult], server: ServerConfig) -> None:
        # The last one counts, as a dict has it; a file has one line a request.
        newest = {result.custom_id: result for result in results}
        changes = {key: self._changes(result) for key, result in newest.items()}
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
        notes = tuple(note for note in job.record.notes if note in LASTING_NOTES)
        told = {"ended_at": now, "checked_at": now, "trouble": None, "notes": notes}
        settle(job, stored=stored, **change, **told)
    except Exception as error:
        # A response that is none must not take the others with it.
        logger.exception("the result of %r can't be read", job)
        if not job.done():
            detach(job, f"bgmagic itself failed with {type(error).__name__}: {error}")
