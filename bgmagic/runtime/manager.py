"""All jobs of this kernel: starts, cancels, sends again, and ends with the process.

One `JobManager` a process. Its public methods can be called from any thread and never wait for
the network; the scheduler runs the jobs on the loop thread, which alone changes them.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from bgmagic.api.request import OutputType, Request
from bgmagic.api.server import ServerConfig
from bgmagic.concurrency import CallbackThread, Clock, LoopThread
from bgmagic.errors import BadInput, BgmagicError
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import FORKED, POLLING, outcome_of, settle
from bgmagic.jobs.record import GroupPosition, JobRecord, Listener, SendGate, Status, Variable
from bgmagic.jobs.steps import FunctionRounds
from bgmagic.prompts.template import PartialPrompt
from bgmagic.runtime.attach import (
    VariableHandover,
    check_attachable,
    end_unbegun,
    fetch_cited,
    hold_again,
    past_job,
    record_of,
    row_now,
    stored_run_config,
    strange_record,
    with_key_of_today,
)
from bgmagic.runtime.pacing import ConcurrencyLimiter, RunConfig
from bgmagic.runtime.registry import FindFunction, JobFeed, JobFeeds, JobRegistry
from bgmagic.runtime.scheduler import JobScheduler, MakeBatches
from bgmagic.storage.batches import BatchIds, remake_by
from bgmagic.storage.database import StoredJob
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.journal import Journal
from bgmagic.storage.owner_lock import OwnerLock
from bgmagic.transport.client import CREATE_TIMEOUT

DEADLINE = 24 * 3600.0  # seconds from acceptance

# Seconds; a kernel is killed about 2.6 s after it was asked to stop, so both together stay below 2.
CREATE_GRACE = 1.3

SCRIPT_GRACE = 4.0  # nobody kills a script that ends, and importing the SDK may take a second of it

EXIT_TIMEOUT, JOURNAL_GRACE = 0.4, 0.3


class JobManager:
    """All jobs of this process, on one loop thread."""

    def __init__(
        self,
        make_card: Callable[[Job], Any] | None = None,
        clock: Clock | None = None,
        store: JobStore | None = None,
        destination: Callable[[], ServerConfig] = ServerConfig.from_environment,
        gate: SendGate | None = None,
        make_batches: MakeBatches | None = None,
        find_function: FindFunction = lambda _: None,
        polls_per_second: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Make a manager; its thread starts with the first job.

        Args:
            make_card: makes the live display of a job.
            clock: the time of polls and deadlines.
            store: where jobs are stored; without one, in this process's memory.
            destination: returns the server of a job that is submitted now; raises BadInput.
            gate: may hold jobs back before they are sent.
            make_batches, find_function: make what runs batches, find the function of a name now.
            polls_per_second: tells the most polls a second of one server, where it is set.
        """
        self._make_card = make_card
        self._clock = clock or Clock()
        self.store = store or JobStore(Journal(None), OwnerLock(None))
        self.responses = self.store.responses
        self.registry = held = JobRegistry()
        self.responses.on_forget = lambda keys: hold_again(held.with_past(), keys, self.responses)
        self._batch_ids = BatchIds(self.store)
        self._pid = os.getpid()
        self._loop, self._callbacks = LoopThread(), CallbackThread()
        remake_by(self.store, functools.partial(row_now, find=self.registry.find, store=self.store))
        self._moves: dict[Job, GroupPosition] = {}
        self.feeds = JobFeeds()
        parts = self.store, self._clock, self._needed, gate, make_batches, find_function
        self._new_scheduler = functools.partial(JobScheduler, *parts, polls_per_second)
        self._scheduler = self._new_scheduler()
        self._destination = destination
        self._newest: ServerConfig | None = None
        self._watchers: list[Listener] = []
        self._attaching = threading.Lock()
        atexit.register(self.close)

    def submit(
        self,
        request: Request,
        *,
        server: ServerConfig | None = None,
        name: str | None = None,
        named: bool = True,
        notebook: str = "",
        variable: Variable | None = None,
        poll_interval: float | None = None,
        deadline: float = DEADLINE,
        create_timeout: float = CREATE_TIMEOUT,
        partial: str | None = None,
        waits_for: tuple[str, ...] = (),
        over_budget: bool = False,
        rounds: FunctionRounds | None = None,
    ) -> Job:
        """Start a job and return its handle at once.

        Args:
            server: where it goes; None means the destination of the moment.
            partial, waits_for: JSON text of a `PartialPrompt`, the names of the jobs it waits for.
            name, named: what the job is called, and whether the user chose that.
            notebook, variable: where it was sent from, where the answer goes.
            poll_interval: seconds between polls; None means soon at first, then every 10.
            deadline: seconds after acceptance at which watching ends.
            create_timeout: seconds that sending may take, from the job's turn to the answer.
            over_budget: whether it is sent whatever the budget says.
            rounds: the functions that its model may call.

        Raises:
            BadInput: there is no server to send it to; nothing was sent.
        """
        server = server or self.destination()
        record = JobRecord(
            request=request, server=server.name, submitted_at=self._clock.now(), name=name,
            named=named, notebook=notebook, partial=partial, waits_for=waits_for, rounds=rounds,
            over_budget=over_budget,
        )  # fmt: skip
        self._loop.start()  # a thread that can't start is told before there is a job
        config = RunConfig(server, poll_interval, deadline, create_timeout=create_timeout)
        return self._start(record, config, variable)

    def submit_all(self, records: Sequence[JobRecord], config: RunConfig) -> list[Job]:
        """Start the jobs of a group and return their handles at once."""
        self._loop.start()
        jobs = [self._new(record, config) for record in records]
        self._begin(self._scheduler.spawn_jobs(jobs, config), jobs)
        return jobs

    def feed(self, feed: JobFeed, config: RunConfig) -> None:
        """Start the jobs of a group as they come. Its feed makes each by `make_job`."""
        self._loop.start()
        self.feeds.append(feed)
        self._begin(self._fed(feed, config), [])

    async def _fed(self, feed: JobFeed, config: RunConfig) -> None:
        try:
            await self._scheduler.spawn_group(feed, config)
        finally:
            if not feed.left:
                self.feeds.discard(feed)

    def make_job(self, record: JobRecord, config: RunConfig) -> Job:
        """Make the handle of a job that a feed is going to start. From any thread."""
        self.store.expect(record.key)
        self.registry.add(job := self._new(record, config))
        return job

    def drop(self, job: Job) -> None:
        """Forget a handle that `make_job` made: another job stands in its place."""
        self.registry.drop(job)

    def attach(
        self,
        entry: StoredJob,
        variable: Variable | None = None,
        output_type: OutputType = None,
        *,
        server: ServerConfig | None = None,
        limiter: ConcurrencyLimiter | None = None,
        free: Collection[str | None] | None = None,
    ) -> Job:
        """Attach a job of the journal, and return its handle at once.

        One that has ended is settled from the journal, without a call. An open one is followed at
        the server that is configured now, if that accepted it: no key goes to an address that was
        only read. ``output_type`` is the class that its structured output is read into.

        Raises:
            BadInput: another server has it, a living kernel follows it, or nobody may send it.
        """
        with self._attaching:  # a cell and a job that needs this one may attach it at the same time
            known = self.registry.find(entry.key)
            if known is not None and not known.done():
                if variable is not None:
                    known.add_variable(variable)
                self.follow_with_key_of_today(known)
                return known  # it is followed here already
            record = record_of(entry, output_type, self._batch_ids.of(entry))
            if entry.ended_at is not None:
                return self._settled(record, variable)
            server = server or self.destination()
            check_attachable(entry, self.store, server, free, self._clock.now())
            same_key = self.store.credentials(server) == entry.credentials
            config = RunConfig(server, entry.poll_interval, entry.deadline, same_key, limiter)
            return self._start(record, config, variable, attached=True)

    def follow_with_key_of_today(self, job: Job) -> None:
        """Have ``job``, which is followed here, polled with the key that is configured now."""
        config: RunConfig | None = job.run_config
        if config is None or not (job.response_id or job.record.batch):
            return
        new = with_key_of_today(config, self.destination)
        if new.server != config.server:
            new = replace(new, same_key=self._have_same_key(new.server, config))
            job.run_config = new
            self._loop.call(lambda: self._scheduler.reconfigure(job, new))

    def _have_same_key(self, server: ServerConfig, config: RunConfig) -> bool:
        of = self.store.credentials
        return config.same_key and of(server) == of(config.server)

    def find(self, key: str) -> Job | None:
        """Find the job with this key: of this kernel, else of the journal, to be read; or None."""
        known = self.registry.find(key)
        if known is not None:
            return known
        entry = self.store.find(key)
        return None if entry is None else self.past(entry)

    async def _needed(self, key: str) -> Job | None:
        """Find the job with this key, and follow it from now on if it has not ended."""
        found = self.registry.find(key)
        if found is not None and found.status != Status.DETACHED:
            return found
        entry = await asyncio.to_thread(self.store.find, key)
        if entry is None:
            return found
        if entry.ended_at is not None and found is None:
            return self.past(entry)
        heir = None if found is None else VariableHandover(found)
        return await asyncio.to_thread(self.attach, entry, heir)

    def follow(self, response_id: str, name: str, variable: Variable | None = None) -> Job:
        """Follow a response that the journal does not have, at the server configured now."""
        server = self.destination()
        record = strange_record(response_id, name, server, self._clock.now())
        return self._start(record, RunConfig(server, None, DEADLINE), variable, attached=True)

    def reposition(self, job: Job, name: str, position: GroupPosition, at: ServerConfig) -> None:
        """Move a job of the server ``at`` to another position: its sweep was submitted again."""
        # The next submission must find it there, even if the loop is still busy.
        self._moves[job] = position
        self._loop.run(self._scheduler.reposition(job, name, position, at))

    def past(self, entry: StoredJob, output_type: OutputType = None) -> Job:
        """Make a handle of a stored job, to be read; it is not one of this process."""
        batch, hold = self._batch_ids.of(entry), self.registry.hold_past
        return past_job(entry, self, output_type, batch, hold=hold)

    def _settled(self, record: JobRecord, variable: Variable | None) -> Job:
        job = Job(record, self)
        if variable is not None:
            job.add_variable(variable)
        self.registry.add(job)
        # Nobody else has the handle yet, so this thread may change it.
        settle(job, stored=self.responses.has(record.key))
        return job

    def _start(
        self,
        record: JobRecord,
        config: RunConfig,
        variable: Variable | None,
        *,
        attached: bool = False,
    ) -> Job:
        job = self._new(record, config)
        running = self._scheduler.spawn(job, config, attached=attached)
        self._begin(running, [job], variable, attached)
        return job

    def _begin(
        self,
        running: Coroutine[Any, Any, None],
        jobs: Sequence[Job],
        variable: Variable | None = None,
        attached: bool = False,
    ) -> None:
        self.store.expect(*(job.key for job in jobs if not attached))
        try:
            for job in jobs:
                self.registry.add(job)
            # Before the job can end: the answer replaces only this job in the variable.
            if variable is not None:
                jobs[0].add_variable(variable)
            self._loop.begin(running)
        except BaseException:  # an interrupt: what nobody runs must not wait for ever
            if self._loop.withdraw(running):
                end_unbegun(jobs, self._clock.now(), attached=attached)
            raise

    def _new(self, record: JobRecord, config: RunConfig) -> Job:
        job = Job(record, self)
        job.run_config = config
        for watcher in self._watchers:
            self._loop.call(functools.partial(watcher, job))
        return job

    def destination(self) -> ServerConfig:
        """The server of a job that is submitted now.

        Raises:
            BadInput: there is no key.
        """
        found = self._destination()
        # One object for all jobs that go there.
        self._newest = self._newest if found == self._newest else found
        return self._newest

    def watch(self, watcher: Listener) -> None:
        """Have ``watcher(job)`` called on the loop thread with each job that is new from now on."""
        self._watchers.append(watcher)

    def jobs(self) -> list[Job]:
        """All jobs of this process, oldest first."""
        return self.registry.jobs()

    def jobs_by_key(self) -> dict[str, Job]:
        """The jobs of this process by their keys; of several with one key the newest."""
        return self.registry.by_key()

    def close(self, timeout: float = EXIT_TIMEOUT) -> bool:
        """End the loop thread; jobs that still run are detached, not cancelled."""
        atexit.unregister(self.close)
        if os.getpid() != self._pid:
            return True  # a forked child: thread and journal belong to its parent
        grace = CREATE_GRACE if "ipykernel" in sys.modules else SCRIPT_GRACE
        winding_down = self._loop.run_if_started(lambda: self._scheduler.shutdown(grace))
        if winding_down is not None:
            with contextlib.suppress(
                concurrent.futures.TimeoutError, concurrent.futures.CancelledError
            ):
                winding_down.result(grace + 0.2)
        ended = self._loop.stop(timeout)
        self._scheduler = self._new_scheduler()
        self.store.close(JOURNAL_GRACE)
        return ended

    def jobs_with_position(self) -> list[tuple[Job, GroupPosition | None]]:
        """All jobs of this process, oldest first, each with its position in a group."""
        return [(job, self._moves.get(job, job.record.position)) for job in self.jobs()]

    # What a job asks for: `JobController`.

    ending_of = staticmethod(outcome_of)

    def cancel(self, job: Job) -> bool:
        """Request that the job be cancelled; False if it has ended."""
        if job.done() or os.getpid() != self._pid:
            return False
        self._loop.call(lambda: self._scheduler.request_cancel(job))
        return True

    def decide(self, job: Job, call_id: str | None, *, allow: bool) -> None:
        """Let a call of a function run, or not, that waits for somebody's word; None is all."""
        self._loop.call(lambda: self._scheduler.decide(job, call_id, allow=allow))

    def resend(self, job: Job) -> Job:
        """Send the request of a job that has ended again, as a new job with the same `RunConfig`.

        The new job replaces the old one in the variables that still hold it.

        Raises:
            BadInput: the job has not ended, or an earlier kernel's can't be sent from here.
        """
        if job.record.batch is not None:
            return self.resend_all([job])[0]
        new, config = self._successor(job, self._clock.now())
        self._begin(self._scheduler.spawn(new, config), [new])
        return new

    def resend_all(self, jobs: Sequence[Job]) -> list[Job]:
        """Send jobs again, as `resend` does; those of batches together in a new one."""
        from bgmagic.api.batch import BatchAssigner  # few are in batches

        batched = [job for job in jobs if job.record.batch is not None]
        assigner, now = BatchAssigner(), self._clock.now()  # one time, as it is one sweep
        made: dict[Job, Job] = {}
        config = None
        try:
            for job in batched:
                made[job], config = self._successor(job, now, assigner.name(job.request))
        finally:
            if config is not None:
                new = list(made.values())
                self._begin(self._scheduler.spawn_jobs(new, config), new)
        return [made[job] if job in made else self.resend(job) for job in jobs]

    def _successor(self, job: Job, now: float, batch: str | None = None) -> tuple[Job, RunConfig]:
        """A new job that asks the same and takes the variables, and how it is run."""
        if not job.done():
            raise BadInput(f"{job!r} has not ended; cancel it first to send it again")
        if job.record.is_unrendered:
            raise BadInput(
                f"{job!r}: it never became a request; mend its item and run the cell again"
            )
        known = job.run_config or stored_run_config(job, self.store, self.destination())
        config = with_key_of_today(known, self.destination)
        record = job.record.for_resend(config.server.name, now)
        if record.partial is not None:
            partial = PartialPrompt(record.partial).with_resent_jobs(self.registry.latest_key)
            record = replace(record, partial=partial.text)
        self.registry.mark_resent(job, new := self._new(replace(record, batch=batch), config))
        job.move_variables_to(new)
        return new, config

    def fetch_file(self, job: Job, file_id: str, container: str | None, limit: int) -> bytes:
        """The content of a file that the answer of ``job`` cites; a BgmagicError says why not."""
        return fetch_cited(job, self.destination(), file_id, container, limit)

    def why_not_wait(self) -> str:
        """Why the caller would wait for a job for ever, or ""."""
        polling = POLLING if self._loop.is_current() else ""
        return FORKED if os.getpid() != self._pid else polling

    def run_callback(self, function: Callable[[Any], object], job: Job) -> None:
        """Call ``function(job)`` soon, off the loop thread."""
        self._callbacks.call(lambda: function(job))

    def make_card(self, job: Job) -> Any:
        """The live display of ``job``."""
        if self._make_card is None:
            raise BgmagicError("this manager was made without displays")
        return self._make_card(job)
