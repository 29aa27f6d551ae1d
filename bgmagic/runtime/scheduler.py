"""Starts and ends the runners of this process, and keeps the clients they share."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from bgmagic.api.server import ServerConfig
from bgmagic.concurrency import Clock
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import detach
from bgmagic.jobs.record import GroupPosition
from bgmagic.runtime.dependencies import FindJob
from bgmagic.runtime.runner import START_DELAY, JobRunner, RunConfig
from bgmagic.storage.job_store import AT_ONCE, JobStore
from bgmagic.transport.client import ResponsesClient

logger = logging.getLogger("bgmagic")


class BatchStart:
    """The jobs of one group on their way; on the loop thread."""

    def __init__(self, jobs: Sequence[Job], plan: RunConfig, ledger: JobStore) -> None:
        self._jobs = jobs
        self._plan = plan
        self._ledger = ledger
        self._hurry = asyncio.Event()
        self._written = asyncio.Event()

    def close(self) -> None:
        """Write them down now: the process is about to end."""
        self._hurry.set()

    async def written(self) -> None:
        """Wait until they are written down, or that has failed."""
        await self._written.wait()

    async def run(self, carry: Callable[[Job], Coroutine[Any, Any, None]]) -> None:
        """Write the group down and carry its jobs to their ends."""
        jobs, plan = self._jobs, self._plan
        for job in jobs:
            self._ledger.expect(job.record)
        begun: set[asyncio.Task[None]] = set()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), START_DELAY)
            records = [job.record for job in jobs]
            await self._ledger.intend_all(records, plan.server, plan.poll_interval, plan.deadline)
            self._written.set()
            if self._hurry.is_set():
                _detach(jobs, "the kernel is shutting down")
                return
            for number, job in enumerate(jobs, 1):
                task = asyncio.create_task(carry(job))
                begun.add(task)  # the loop itself keeps only weak references
                task.add_done_callback(begun.discard)
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)  # the polls of others go on
            while begun:
                await asyncio.wait(begun)
        except asyncio.CancelledError:
            # Courses that have begun have ended their jobs already.
            _detach(jobs, "the kernel is shutting down")
            raise
        except Exception as error:
            logger.exception("a group of %d jobs broke off", len(jobs))
            _detach(jobs, f"bgmagic itself failed with {type(error).__name__}: {error}")
        finally:
            self._written.set()


def _detach(jobs: Sequence[Job], reason: str) -> None:
    for job in jobs:
        if not job.done():
            detach(job, reason)


class JobScheduler:
    """The courses of jobs that have not ended, as long as one loop runs."""

    def __init__(self, ledger: JobStore, clock: Clock, find: FindJob) -> None:
        self._ledger = ledger
        self._clock = clock
        self._find = find
        self._clients: dict[ServerConfig, ResponsesClient] = {}
        self._courses: dict[Job, tuple[JobRunner, asyncio.Task[None]]] = {}
        self._convoys: set[BatchStart] = set()
        self._closing = False

    async def carry(
        self, job: Job, plan: RunConfig, *, attached: bool = False, intended: bool = False
    ) -> None:
        """Carry a job to its end.

        Args:
            attached: whether the journal has it already, from another kernel.
            intended: whether it has been written down with its whole group.
        """
        course = JobRunner(job, plan, self._client_of, self._ledger, self._clock, self._find)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in one
        self._courses[job] = course, task
        if self._closing:
            course.close()
        try:
            await course.run(attached=attached, intended=intended)
        finally:
            del self._courses[job]

    async def carry_all(self, jobs: Sequence[Job], plan: RunConfig) -> None:
        """Carry the jobs of a group to their ends."""
        convoy = BatchStart(jobs, plan, self._ledger)
        self._convoys.add(convoy)
        if self._closing:
            convoy.close()
        try:
            await convoy.run(functools.partial(self.carry, plan=plan, intended=True))
        finally:
            self._convoys.discard(convoy)

    async def relocate(
        self, job: Job, name: str, place: GroupPosition, server: ServerConfig
    ) -> None:
        """Give a job another place in a group."""
        job.advance(name=name, place=place)
        self._ledger.note_place(job.record, server)

    def want_cancel(self, job: Job) -> None:
        """Pass the wish to cancel on."""
        if job in self._courses:
            self._courses[job][0].want_cancel()
        elif not job.done():
            job.advance(cancelling=True)  # its course, which is about to begin, will see that

    async def wind_down(self, grace: float) -> None:
        """End every course.

        Args:
            grace: seconds in which those that set out may still be written down or sent, and bring
                their id home.
        """
        self._closing = True
        courses = list(self._courses.values())
        for course, _ in courses:
            course.close()
        for convoy in self._convoys:
            convoy.close()
        under_way = [task for course, task in courses if course.setting_out or course.sending]
        under_way += [asyncio.create_task(convoy.written()) for convoy in self._convoys]
        if under_way:
            await asyncio.wait(under_way, timeout=grace)
        tasks = [task for _, task in self._courses.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients.values():
            await client.close()

    def _client_of(self, server: ServerConfig) -> ResponsesClient:
        return self._clients.get(server) or self._clients.setdefault(
            server, ResponsesClient(server)
        )
