"""Starts and ends the runners of this process, and keeps the clients they share."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from bgmagic.api.server import ServerConfig
from bgmagic.concurrency import Clock
from bgmagic.errors import BgmagicError
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import SHUTDOWN, detach, settle
from bgmagic.jobs.record import GroupPosition, JobRecord, SendGate
from bgmagic.runtime import sending
from bgmagic.runtime.dependencies import FindJob
from bgmagic.runtime.pacing import Courtesy, PollPacer, RunConfig, ServerEndpoint
from bgmagic.runtime.poll_gate import PollGate
from bgmagic.runtime.registry import MANY, FindFunction, JobFeed, RunnerParts, rush, warmup
from bgmagic.runtime.runner import JobRunner
from bgmagic.storage.job_store import AT_ONCE, LET_OTHERS, JobStore
from bgmagic.transport.client import ResponsesClient

logger = logging.getLogger("bgmagic")

# Jobs of one group that are on their way to the server: each has a task, 2.6 kB, whose room Python
# doesn't give back. A hundred connections serve them (`transport.http11.MOST`).
MOST_BEGUN = 1000


class GivenJobs:
    """Jobs that are there already as a `JobFeed`: all are written down together."""

    name = ""
    variable = None, ""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self.left = len(jobs)
        self.in_batch = any(job.record.batch is not None for job in jobs[:1])

    async def chunks(self, _: Callable[[], Awaitable[None]]) -> AsyncIterator[list[Job]]:
        """All of them."""
        yield list(self._jobs)
        self.left = 0

    def make_all(self) -> None:
        """Nothing: they are made."""

    def abandon(self, reason: str) -> None:
        """Detach those that have not ended."""
        _detach(self._jobs, reason)


class GroupStart:
    """Stores the jobs of one group and starts them. On the loop thread."""

    def __init__(
        self,
        feed: JobFeed,
        config: RunConfig,
        store: JobStore,
        earlier: Sequence[GroupStart],
        batches: Batches | None = None,
    ) -> None:
        """Make it.

        Args:
            earlier: those whose jobs have to be stored before.
            batches: sends the jobs, if they go in batches.
        """
        self._batches = batches
        self._together: list[Job] = []
        self._feed = feed
        self._earlier = earlier
        self._config = config
        self._store = store
        self._courtesy = Courtesy()
        self._hurry = self._courtesy.hurry
        self._written = asyncio.Event()
        self._unsent: dict[Job, None] = {}  # in order
        self._begun: set[asyncio.Task[None]] = set()
        self._all_sent = asyncio.Event()
        self._context = contextvars.Context()  # asyncio would copy one for each task

    @property
    def variable(self) -> tuple[str | None, str]:
        """The group's variable and its notebook."""
        return self._feed.variable

    def close(self) -> None:
        """Store them now: the process is about to end."""
        self._hurry.set()

    async def written(self) -> None:
        """Wait until they are stored, or that has failed."""
        await self._written.wait()

    async def run(self, spawn: Callable[[Job], Coroutine[Any, Any, None]]) -> None:
        """Store the group and send its jobs."""
        self._spawn = spawn
        try:
            for start in self._earlier:
                await start.written()
            self._earlier = ()
            weight = MANY if self._feed.left >= MANY else 0
            rush.begin(weight)
            try:
                await self._feed_all()
            finally:
                rush.end(weight)
            self._written.set()
            if self._hurry.is_set():
                self._feed.abandon(SHUTDOWN)
            elif self._batches is not None:
                await self._batches.run(self._taken(), self._config)
            while self._begun:
                self._all_sent.clear()
                await self._all_sent.wait()
            if self._unsent:  # the process is about to end
                self._feed.abandon(SHUTDOWN)
        except asyncio.CancelledError:
            # Runners that have started have ended their jobs already.
            self._feed.abandon(SHUTDOWN)
            raise
        except Exception as error:
            logger.exception("the group %s broke off", self._feed.name)
            self._feed.abandon(f"bgmagic itself failed with {type(error).__name__}: {error}")
        finally:
            self._written.set()

    async def _feed_all(self) -> None:
        config, waited = self._config, False
        pause = LET_OTHERS if self._batches is None else self._courtesy.pause
        async for jobs in self._feed.chunks(pause):
            for job in jobs:
                self._store.buffer_until_inserted(job.record)
            if jobs and not waited:  # what is there already does not import the SDK
                waited = True
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), sending.START_DELAY)
            records = [job.record for job in jobs]
            if self._batches is not None:
                await self._batches.intend(records)
            if records:
                await self._store.insert_all(
                    records, config.server, config.poll_interval, config.deadline, pause
                )
            open_ones = [job for job in jobs if not _ended(job)]
            if self._batches is None:
                self._unsent |= dict.fromkeys(open_ones)
                await self._start()
            else:
                self._together += open_ones

    def _taken(self) -> list[Job]:
        """The jobs that go together, which are the batches' from now on."""
        taken, self._together = self._together, []
        return taken

    def hasten(self, job: Job) -> None:
        """Start ``job`` now if it waits to be started: its runner cancels it."""
        if job in self._unsent:
            self._begin(job)

    async def _start(self) -> None:
        """Start as many as may be: the others follow as these are accepted."""
        number = 0
        while self._begin_next():
            number += 1
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)  # the polls of others go on

    def _begin_next(self) -> bool:
        if not self._unsent or len(self._begun) >= MOST_BEGUN or self._hurry.is_set():
            return False
        self._begin(next(iter(self._unsent)))
        return True

    def _begin(self, job: Job) -> None:
        del self._unsent[job]
        task = asyncio.create_task(self._spawn(job))
        self._begun.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._sent, context=self._context)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._begun.discard(task)
        self._begin_next()
        if not self._begun:
            self._all_sent.set()


def _ended(job: Job) -> bool:
    """Whether the job ended before it could be sent; if so, its waiters hear of it now."""
    if job.outline.ended_at is None:
        return False
    settle(job)
    return True


def _detach(jobs: Sequence[Job], reason: str) -> None:
    for job in jobs:
        if not job.done():
            detach(job, reason)


class Batches(Protocol):
    """Runs the jobs that go to the server in batches. On the loop thread."""

    async def intend(self, records: Sequence[JobRecord]) -> None:
        """Store the batches of jobs that are about to be stored."""

    async def run(self, jobs: Sequence[Job], config: RunConfig) -> None:
        """Run the batches of new jobs, which are stored, to their ends."""

    async def attach(self, job: Job, config: RunConfig) -> None:
        """Go on with a job of the journal, and with the batch that it is in."""

    def request_cancel(self, job: Job) -> None:
        """Cancel a job."""

    def reconfigure(self, job: Job, config: RunConfig) -> None:
        """Go on with the batch of ``job`` with other credentials."""

    async def shutdown(self, grace: float) -> None:
        """End all runners within ``grace`` seconds or so."""


MakeBatches = Callable[[JobStore, Clock, SendGate | None], Batches]


class JobScheduler:
    """Starts and ends the runners of all jobs, as long as one loop runs."""

    def __init__(
        self,
        store: JobStore,
        clock: Clock,
        find: FindJob,
        gate: SendGate | None = None,
        make_batches: MakeBatches | None = None,
        find_function: FindFunction = lambda _: None,
        polls_per_second: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._polls_per_second = polls_per_second
        self._make_batches = make_batches
        self._batches: Batches | None = None
        self._gate = gate
        self._store = store
        self._clock = clock
        known = self._endpoint_of, store, clock, find, gate, find_function, self._poll
        self._parts = RunnerParts(*known)
        self._endpoints: dict[ServerConfig, ServerEndpoint] = {}
        self._runners: dict[Job, JobRunner] = {}
        self._decided: dict[Job, list[tuple[str | None, bool]]] = {}
        self._followed: dict[Job, asyncio.Future[None]] = {}
        self._starts: list[GroupStart] = []
        self._closing = self._stopped = False

    async def spawn(
        self, job: Job, config: RunConfig, *, attached: bool = False, intended: bool = False
    ) -> None:
        """Run a job; returns once it has ended, or is followed.

        Args:
            attached: whether the journal has it already, from another kernel.
            intended: whether it is stored already, with its whole group.
        """
        if job.record.batch is not None:
            await self._get_batches().attach(job, config)
            return
        runner = self._runners[job] = JobRunner(job, config, self._parts)
        if self._closing:
            runner.close()
        for call_id, allow in self._decided.pop(job, ()):
            runner.decide(call_id, allow=allow)
        await self._carry(runner, lambda: runner.run(attached=attached, intended=intended))

    def _poll(self, runner: JobRunner) -> None:
        if self._stopped:  # one that was stopped has given its turn to this one
            return
        runner.task = asyncio.create_task(self._carry(runner, runner.poll))

    async def _carry(self, runner: JobRunner, step: Callable[[], Awaitable[None]]) -> None:
        """Take a step of a runner: a poll, or what comes before. Raises only CancelledError."""
        runner.task = asyncio.current_task()
        try:
            await step()
        except asyncio.CancelledError:
            runner.detach(SHUTDOWN)
            raise
        except Exception as error:
            # In Python 3.12.0 and 3.12.1 no thread can be started as a process ends.
            level = logging.DEBUG if self._closing else logging.ERROR
            logger.log(level, "%r broke off", runner.job, exc_info=True)
            runner.detach(f"bgmagic itself failed with {type(error).__name__}: {error}")
        finally:
            runner.task = None
            if not runner.is_watched:
                self._ended(runner)

    async def follow(self, job: Job, config: RunConfig) -> None:
        """Run a job of the journal to its end, or until this is cancelled."""
        await self.spawn(job, config, attached=True)
        if job in self._runners:
            ended = self._followed[job] = asyncio.get_running_loop().create_future()
            try:
                await ended
            finally:
                if job in self._runners:
                    await self._stop([self._runners[job]])

    def _ended(self, runner: JobRunner) -> None:
        runner.release()
        self._runners.pop(runner.job, None)
        self._runners = self._runners or {}  # of thousands it would keep all its room
        ended = self._followed.pop(runner.job, None)
        if ended is not None and not ended.done():
            ended.set_result(None)

    async def _stop(self, runners: Sequence[JobRunner]) -> None:
        """Detach jobs at once."""
        tasks = [runner.task for runner in runners if runner.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for runner in runners:  # those that had no task, or one that had not begun
            runner.detach(SHUTDOWN)
            self._ended(runner)

    async def spawn_jobs(self, jobs: Sequence[Job], config: RunConfig) -> None:
        """Run jobs that are there already, and are written down together, to their ends."""
        await self.spawn_group(GivenJobs(jobs), config)

    async def spawn_group(self, feed: JobFeed, config: RunConfig) -> None:
        """Run the jobs of a group to their ends, as they come."""
        named = [] if isinstance(feed, GivenJobs) else self._starts
        earlier = [start for start in named if start.variable == feed.variable]
        batches = self._get_batches() if feed.in_batch else None
        start = GroupStart(feed, config, self._store, earlier, batches)
        self._starts.append(start)
        if self._closing:
            start.close()
        try:
            await start.run(functools.partial(self.spawn, config=config, intended=True))
        finally:
            self._starts.remove(start)

    def _get_batches(self) -> Batches:
        if self._batches is None:
            if self._make_batches is None:
                raise BgmagicError("this manager was made without batches")
            self._batches = self._make_batches(self._store, self._clock, self._gate)
        return self._batches

    async def reposition(
        self, job: Job, name: str, position: GroupPosition, server: ServerConfig
    ) -> None:
        """Move a job to another position in a group."""
        job.advance(name=name, position=position)
        self._store.update_position(job.record, server)

    def request_cancel(self, job: Job) -> None:
        """Cancel a job."""
        if job.record.batch is not None:
            self._get_batches().request_cancel(job)
        elif job in self._runners:
            self._runners[job].request_cancel()
        elif not job.done():
            job.advance(cancelling=True)  # its runner, which is about to start, will see that
            for start in self._starts:
                start.hasten(job)

    def decide(self, job: Job, call_id: str | None, *, allow: bool) -> None:
        """Let a call of a function run, or not, that waits for somebody's word; None is all."""
        if job in self._runners:
            self._runners[job].decide(call_id, allow=allow)
        elif not job.done():  # its runner is about to start: what was asked stands in the journal
            self._decided.setdefault(job, []).append((call_id, allow))

    def reconfigure(self, job: Job, config: RunConfig) -> None:
        """Go on with ``job``, which was accepted, at the same server with other credentials."""
        if job.record.batch is not None:
            self._get_batches().reconfigure(job, config)
        elif job in self._runners:
            self._runners[job].reconfigure(config)

    async def shutdown(self, grace: float) -> None:
        """End all runners.

        Args:
            grace: seconds in which new jobs may still be stored, and creates in flight may still
                return an id.
        """
        self._closing = True
        ending = (
            None if self._batches is None else asyncio.create_task(self._batches.shutdown(grace))
        )
        for runner in list(self._runners.values()):
            runner.close()
        for start in self._starts:
            start.close()
        awaited = [one for one in self._runners.values() if one.unstored or one.sending]
        under_way = [runner.task for runner in awaited if runner.task is not None]
        under_way += [asyncio.create_task(start.written()) for start in self._starts]
        try:
            if under_way:
                await asyncio.wait(under_way, timeout=grace)
        finally:
            self._stopped = True
            await self._stop(list(self._runners.values()))
        if ending is not None:
            await ending
        for endpoint in self._endpoints.values():
            await endpoint.client.close()
        warmup.end()

    def _endpoint_of(self, server: ServerConfig) -> ServerEndpoint:
        known = self._endpoints.get(server)
        if known is None:
            pacer = PollPacer(self._polls_per_second)
            with warmup:
                client = ResponsesClient(server, PollGate(self._polls_per_second))
            known = self._endpoints[server] = ServerEndpoint(client, pacer)
        return known
