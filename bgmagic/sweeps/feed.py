"""Hands the jobs of a large sweep to the loop thread as they are rendered, after the cell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bgmagic.api.batch import BatchAssigner
from bgmagic.api.request import Request
from bgmagic.api.request_body import build_request
from bgmagic.errors import BadInput
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import detach
from bgmagic.jobs.record import GroupPosition, JobRecord, Status, hashable
from bgmagic.submission.app import app
from bgmagic.submission.lookup import DuplicateIndex, JobLookup
from bgmagic.submission.submit import PreparedRequest
from bgmagic.sweeps.plan import SweepPlan
from bgmagic.values import dataclass

if TYPE_CHECKING:
    from bgmagic.runtime.pacing import ConcurrencyLimiter, RunConfig

SLICE = 0.003  # seconds of rendering in one go: the polls of others, and the cell, go on

CHUNKS = 32, 512  # jobs written in one transaction: at first, so that the first is soon sent; later


def job_name(name: str, position: GroupPosition, several: int) -> str:
    """Name one job of a group as its answer is named: ``critiques[3]``; of a dict
    ``critiques['a']``, or ``critiques['a'][1]`` with ``several`` jobs an item."""
    if position.kind != "dict":
        return f"{name}[{position.index}]"
    of_key = f"{name}[{hashable(position.key)!r}]"
    return of_key if several == 1 else f"{of_key}[{position.index % several}]"


def asked_by(prepared: PreparedRequest, assigner: BatchAssigner | None = None) -> dict[str, Any]:
    """What a record has of what its job asks.

    Args:
        assigner: names the batch that it goes in, if it does.

    Raises:
        BadInput: its request is too large for a batch.
    """
    return {
        "request": prepared.request,
        "partial": prepared.partial,
        "waits_for": prepared.waits_for,
        "rounds": prepared.rounds,
        "batch": None if assigner is None else assigner.name(prepared.request),
    }


def record_at(
    plan: SweepPlan, index: int, asked: Mapping[str, Any], at: float, notebook: str
) -> JobRecord:
    """The record of a new job of a sweep, submitted ``at``; ``asked`` is of `asked_by`."""
    position = plan.positions[index]
    return JobRecord(
        server=plan.server.name,
        submitted_at=at,
        name=job_name(plan.name, position, plan.several),
        named=plan.settings.out is not None,
        notebook=notebook,
        position=position,
        over_budget=plan.settings.over_budget,
        **asked,
    )


def make_limiter(most: int) -> ConcurrencyLimiter:
    """What bounds the jobs of one group at the server."""
    # Imported with the first sweep: `runtime` takes half of all import time.
    from bgmagic.runtime.pacing import ConcurrencyLimiter

    return ConcurrencyLimiter(most)


class SweepJoiner:
    """Finds the jobs that are there already for what a sweep asks, and moves them to its group."""

    def __init__(self, plan: SweepPlan, notebook: str, *, join: bool) -> None:
        """Make it; nothing is looked up yet.

        Args:
            notebook: the one that the sweep is of.
            join: whether jobs of this variable that still run are joined.
        """
        self._plan = plan
        self._notebook = notebook
        self._joins = join and not plan.settings.again
        self._known: DuplicateIndex | None = None
        self._free: set[str | None] | None = None
        self._limiter = make_limiter(plan.settings.max_in_flight)

    @property
    def looks(self) -> bool:
        """Whether there can be any."""
        return self._joins or self._plan.settings.reuse

    def find(self, prepared: Sequence[tuple[int, PreparedRequest]]) -> list[Job | BadInput | None]:
        """The job that asks the same for each of these places, or why that can't be attached, or
        None. Reads the journal."""
        if not self.looks:
            return [None] * len(prepared)
        plan, settings = self._plan, self._plan.settings
        prints = _prints([one for _, one in prepared], plan.server.name)
        lookup = JobLookup()
        known = self._known
        if known is None:
            out = settings.out
            known = lookup.duplicates_of(out, plan.server.name, (), join=self._joins, reuse=False)
            self._known = known
        if settings.reuse:
            reused = lookup.duplicates_of(
                settings.out, plan.server.name, set(prints), join=False, reuse=True
            )
            for entries in reused.jobs.values():
                known.add_entries(entry for entry in entries if not isinstance(entry, Job))
        if not known.jobs:
            return [None] * len(prepared)
        found: list[Job | BadInput | None] = []
        for fingerprint, (index, one) in zip(prints, prepared, strict=True):
            try:
                found.append(self._taken(known, fingerprint, index, one))
            except BadInput as error:
                found.append(error)
        return found

    def _taken(
        self, known: DuplicateIndex, fingerprint: str, index: int, one: PreparedRequest
    ) -> Job | None:
        plan, manager = self._plan, app.manager
        found = known.take(fingerprint)
        if found is not None and not isinstance(found, Job):
            if self._free is None:
                self._free = manager.store.available_owners()
            found = manager.attach(
                found,
                None,
                one.request.output_type,
                server=plan.server,
                limiter=self._limiter,
                free=self._free,
            )
        if found is not None and self._is_of_variable(found):
            position = plan.positions[index]
            name = job_name(plan.name, position, plan.several)
            manager.reposition(found, name, position, plan.server)
        return found

    def _is_of_variable(self, job: Job) -> bool:
        """Whether the job belonged to this very variable; jobs of others are only read."""
        position = job.record.position
        theirs = position and (position.name, job.record.notebook)
        return theirs == (self._plan.settings.out, self._notebook)


def _prints(prepared: Sequence[PreparedRequest], server: str) -> list[str]:
    """Compute the fingerprint of each; once for the samples of one request."""
    made: dict[int, str] = {}
    for one in prepared:
        if id(one) not in made:
            made[id(one)] = one.fingerprint(server)
    return [made[id(one)] for one in prepared]


@dataclass(frozen=True)
class _Rendered:
    """What became of one place: its request, or why there is none."""

    index: int
    prepared: PreparedRequest | None
    error: str = ""


class SweepFeed:
    """The jobs of one large sweep on their way to the loop thread; a `JobFeed`.

    Attributes:
        variable: the sweep's variable and notebook: feeds of the same go one after another, so that
            each finds what the ones before it have sent.
        group: the jobs.
    """

    def __init__(
        self,
        plan: SweepPlan,
        config: RunConfig,
        joiner: SweepJoiner,
        notebook: str,
        group_of: Callable[[Callable[[int], Job]], JobGroup],
    ) -> None:
        """Make the feed and its group.

        Args:
            config: how the jobs are run.
            joiner: finds those that are there already.
            group_of: makes the group, given what makes the handle at an index.
        """
        self.variable = plan.settings.out, notebook
        self._plan = plan
        self._config = config
        self._joiner = joiner
        self._notebook = notebook
        self._at = time.time()
        self._written = 0
        self._assigner = BatchAssigner() if plan.settings.batch else None
        self._ready: dict[int, JobRecord] = {}
        self._unrendered: dict[int, PreparedRequest] = {}
        self._over = ""
        self._holding: list[ConcurrencyLimiter] = []
        self.group = group_of(self._handle)
        if joiner.looks:
            self.group.add_listener(self._hold_earlier)

    @property
    def name(self) -> str:
        """The variable, or the name the group has instead."""
        return self._plan.name

    @property
    def in_batch(self) -> bool:
        """Whether they go to the server in batches."""
        return self._assigner is not None

    @property
    def left(self) -> int:
        """Number of jobs that are not written down yet."""
        return len(self._plan.points) - self._written

    def _hold_earlier(self, job: Job) -> None:
        """Once a job is cancelled here, stop the feeds before this one from sending until it is
        known which of their jobs this group joins, and so cancels too."""
        if self._holding or self._over or self.group.is_rendered or not job.record.cancelling:
            return
        feeds = list(app.manager.feeds)
        for feed in feeds[: feeds.index(self)] if self in feeds else ():
            if isinstance(feed, SweepFeed) and feed.variable == self.variable:
                limiter = feed._config.limiter
                if limiter is not None:
                    limiter.hold(self)
                    self._holding.append(limiter)

    def _let_earlier(self) -> None:
        for limiter in self._holding:
            limiter.let(self)
        self._holding = []

    def _handle(self, index: int) -> Job:
        """The handle of a job, which may be needed before its prompt is rendered."""
        record = self._ready.get(index)
        if record is None:
            settings = self._plan.points[index].settings
            empty = self._unrendered.get(id(settings))
            if empty is None:
                request: Request = build_request((), model=settings.model, effort=settings.effort)
                empty = self._unrendered[id(settings)] = PreparedRequest(request)
            record = record_at(self._plan, index, asked_by(empty), self._at, self._notebook)
        job = app.manager.make_job(record, self._config)
        if self._over:
            detach(job, self._over)
        return job

    async def chunks(self, pause: Callable[[], Awaitable[None]]) -> AsyncIterator[list[Job]]:
        """The new jobs in order, rendered, in lists that are to be written down together.

        Those that were there already take their places. What can't be asked ends with the reason,
        as soon as that is written down.
        """
        index, count, (size, largest) = 0, len(self._plan.points), CHUNKS
        while index < count:
            until = min(index + size, count)
            rendered: list[_Rendered] = []
            begun = time.monotonic()
            while index < until:
                rendered.append(self._rendered(index))
                index += 1
                if time.monotonic() - begun > SLICE:
                    await pause()
                    begun = time.monotonic()
            yield await self._new_jobs(rendered)
            self._written = index
            size = min(2 * size, largest)
        self.group.is_rendered = True
        # After what was cancelled has heard of it.
        asyncio.get_running_loop().call_soon(self._let_earlier)

    def _rendered(self, index: int) -> _Rendered:
        try:
            return _Rendered(index, self._plan.prepared[index])
        except BadInput as error:
            return _Rendered(index, None, f"not sent: {error}")

    async def _new_jobs(self, rendered: list[_Rendered]) -> list[Job]:
        asked = [(one.index, one.prepared) for one in rendered if one.prepared is not None]
        found: dict[int, Job | BadInput | None] = {}
        if asked and self._joiner.looks:
            jobs = await asyncio.to_thread(self._joiner.find, asked)
            found = {index: job for (index, _), job in zip(asked, jobs, strict=True)}
        new: list[Job] = []
        for one in rendered:
            known = found.get(one.index)
            if isinstance(known, BadInput):
                new.append(self._new_job(replace(one, error=f"not sent: {known}")))
            elif known is not None:
                self._join(one.index, known)
            else:
                new.append(self._new_job(one))
        return new

    def _join(self, index: int, job: Job) -> None:
        earlier = self.group.places[index]
        if earlier is not None:  # before it has the key of the other job, as all that job says
            app.manager.drop(earlier)
        self.group.join(index, job)

    def _new_job(self, one: _Rendered) -> Job:
        job, error = self.group.places[one.index], one.error
        asked: dict[str, Any] = {}
        try:
            # Of what is cancelled too: it can be sent again.
            assigner = None if error else self._assigner
            asked = {} if one.prepared is None else asked_by(one.prepared, assigner)
        except BadInput as failure:
            error = f"not sent: {failure}"
        if error or (job is not None and job.outline.cancelling):
            ended = {"status": Status.FAILED, "reason": error, "ended_at": time.time()}
            if not error:
                ended |= {"status": Status.CANCELLED, "reason": "before it was sent"}
            job = job or self.group.job(one.index)
            job.record = job.record.with_changes(**ended, **asked)
        elif job is None:
            # In one go: the handle is new, and nobody has to be told of a change.
            self._ready[one.index] = record_at(
                self._plan, one.index, asked, self._at, self._notebook
            )
            job = self.group.job(one.index)
            del self._ready[one.index]
        # Also if somebody needed the handle just before.
        if not job.outline.ended_at and job.request is not asked["request"]:
            job.advance(**asked)
        return job

    def make_all(self) -> None:
        """Make the handles of all its jobs."""
        self.group.jobs  # noqa: B018 - that makes them

    def abandon(self, reason: str) -> None:
        """Detach the jobs that were not written down, those too whose handles are made later."""
        self._over = reason
        self._let_earlier()
        for job in self.group.made:
            if not job.done():
                detach(job, reason)
