"""Submits a sweep as a group of jobs, joins jobs that are there already, and attaches groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bgmagic.api.batch import BatchAssigner
from bgmagic.api.pricing import CostEstimate
from bgmagic.api.request import OutputType
from bgmagic.errors import BadInput
from bgmagic.jobs.group import JobDict, JobGroup, JobList
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import detach
from bgmagic.jobs.record import GroupPosition, Status, hashable
from bgmagic.submission.app import app, gc_paused, group_displays
from bgmagic.submission.lookup import JobLookup
from bgmagic.submission.notify import notify_as_configured
from bgmagic.submission.settings import SubmitSettings, deadline_of
from bgmagic.sweeps.feed import SweepFeed, SweepJoiner, asked_by, job_name, make_limiter, record_at
from bgmagic.sweeps.grid import LazyList
from bgmagic.sweeps.plan import SweepPlan, estimated_cost, plan_sweep, require_confirmation
from bgmagic.values import dataclass

if TYPE_CHECKING:
    from bgmagic.runtime.pacing import ConcurrencyLimiter, RunConfig
    from bgmagic.storage.database import StoredJob


@dataclass(frozen=True)
class SubmittedSweep:
    """A sweep that was submitted.

    Attributes:
        group: the jobs.
        joined: how many of them were there already, so that they were not sent.
        unknown: how many of these the server may or may not have accepted.
        plan: its plan; of one that is rendered later, neither is known yet.
        may_join: whether jobs that are there already are looked for as it is rendered.
    """

    group: JobGroup
    joined: int
    unknown: int
    plan: SweepPlan
    may_join: bool = False

    def bill(self) -> CostEstimate:
        """Estimate the cost of the whole; imports the prices."""
        return estimated_cost(self.plan)


def submit_sweep(
    text: str, settings: SubmitSettings, name: str, namespace: Mapping[str, Any], *, join: bool
) -> SubmittedSweep:
    """Start the jobs of a sweep, or join those that there are already; returns at once.

    Args:
        text: the template; ``{{ item }}`` in it is the item that a job is for.
        name: the variable that is to hold the group.
        namespace: the variables that the template may name.
        join: whether jobs of this variable that still run are joined.

    Raises:
        BadInput: nothing was sent.
    """
    with gc_paused():
        plan = plan_sweep(text, settings, name, namespace)
        require_confirmation(plan)
        notebook = app.shell.notebook_path()
        joiner = SweepJoiner(plan, notebook, join=join)
        feeding = joiner.looks and app.manager.feeds.is_feeding((settings.out, notebook))
        if plan.later or feeding:
            return _submitted_later(plan, joiner, notebook)
        found: list[Job | None] = []
        for one in joiner.find(list(enumerate(plan.prepared))):
            if isinstance(one, BadInput):
                raise one
            found.append(one)
        missing = [index for index, job in enumerate(found) if job is None]
        if missing:
            _check_budget(plan, missing if settings.batch else missing[:1])
        for index, job in zip(missing, _submitted(plan, missing, notebook), strict=True):
            found[index] = job
        jobs = [job for job in found if job is not None]
        unknown = sum(job.status == Status.UNKNOWN for job in jobs)
        return SubmittedSweep(_group(plan, jobs), len(jobs) - len(missing), unknown, plan)


def _check_budget(plan: SweepPlan, indices: Sequence[int]) -> None:
    """Refuse the sweep if not even these jobs can be sent. The others wait at the line."""
    if not plan.settings.over_budget and app.gate is not None:
        app.gate.check([plan.prepared[index].request for index in indices], plan.server.name)


def _submitted_later(plan: SweepPlan, joiner: SweepJoiner, notebook: str) -> SubmittedSweep:
    """Have the jobs rendered, written down and sent on the loop thread, after the cell."""
    if not joiner.looks:
        _check_budget(plan, [0])

    def group_of(make: Callable[[int], Job]) -> JobGroup:
        return _group(plan, [None] * len(plan.points), make)

    config = _config(plan)
    feed = SweepFeed(plan, config, joiner, notebook, group_of)
    app.manager.feed(feed, config)
    return SubmittedSweep(feed.group, 0, 0, plan, joiner.looks)


def _submitted(plan: SweepPlan, indices: Sequence[int], notebook: str) -> list[Job]:
    """Start the planned jobs at these indices."""
    now = time.time()
    assigner = BatchAssigner() if plan.settings.batch else None
    records = [
        record_at(plan, index, asked_by(plan.prepared[index], assigner), now, notebook)
        for index in indices
    ]
    return app.manager.submit_all(records, _config(plan)) if records else []


def _config(plan: SweepPlan) -> RunConfig:
    from bgmagic.runtime.pacing import RunConfig

    settings = plan.settings
    kinds = plan.points[: plan.several]  # those of the first item are those of all
    return RunConfig(
        plan.server,
        settings.poll,
        deadline_of(settings, *(point.settings for point in kinds)),
        limiter=make_limiter(settings.max_in_flight),
        create_timeout=settings.create_timeout,
    )


def _group(
    plan: SweepPlan, jobs: Sequence[Job | None], make: Callable[[int], Job] | None = None
) -> JobGroup:
    points, given = plan.points, plan.items
    items = LazyList(len(points), lambda index: given.values[points[index].item])
    key = plan.positions[0].group
    if given.kind != "dict":
        return JobList(key, plan.name, jobs, items, displays=group_displays, make=make)
    keys = LazyList(len(points), lambda index: given.keys[points[index].item])
    return JobDict(key, plan.name, jobs, items, displays=group_displays, keys=keys, make=make)


# Groups of earlier kernels.


def load_group(key: str, name: str) -> JobGroup:
    """A group that the journal has, to be read: nothing of it is picked up."""
    lookup = JobLookup()
    entries = lookup.group(key)
    jobs = [lookup.here.get(entry.key) or app.manager.past(entry) for entry in entries]
    return _regrouped(key, name, entries, jobs)


def attach_group(
    key: str, name: str, output_type_of: Callable[[StoredJob], OutputType] = lambda _: None
) -> JobGroup:
    """Attach a group of the journal: jobs that have ended are settled, open ones followed, unsent
    ones sent. A batch of which nobody knew whether the server had made it is looked for again.

    Args:
        key: the group's.
        name: the variable that is to hold it.
        output_type_of: returns the class that a job's structured output is read into.

    Raises:
        BadInput: none of its jobs can be attached; says why.
    """
    entries = JobLookup().group(key)
    if any(entry.batch is not None for entry in entries):
        from bgmagic.storage.batches import reopen  # most groups are no batches

        if reopen(app.manager.store, entries):
            entries = JobLookup().group(key)
    free = app.manager.store.available_owners()
    limiter = make_limiter(_position_of(entries[0]).in_flight)
    troubles: list[str] = []
    jobs = [_attached(entry, output_type_of(entry), limiter, free, troubles) for entry in entries]
    if troubles and len(troubles) == sum(entry.ended_at is None for entry in entries):
        raise BadInput(troubles[0])
    group = _regrouped(key, name, entries, jobs)
    notify_as_configured(group)
    return group


def _regrouped(key: str, name: str, entries: Sequence[StoredJob], jobs: Sequence[Job]) -> JobGroup:
    positions = [_position_of(entry) for entry in entries]
    if positions[0].kind == "dict":
        keys = [hashable(position.key) for position in positions]
        # Also where only one of several of an item is the journal's.
        several = any(
            position.samples > 1
            or (entry.name and entry.name != job_name(str(position.name), position, 1))
            for entry, position in zip(entries, positions, strict=True)
        )
        return JobDict(key, name, jobs, displays=group_displays, keys=keys, several=several)
    return JobList(key, name, jobs, displays=group_displays)


def _attached(
    entry: StoredJob,
    output_type: OutputType,
    limiter: ConcurrencyLimiter,
    free: set[str | None],
    troubles: list[str],
) -> Job:
    try:
        return app.manager.attach(entry, None, output_type, limiter=limiter, free=free)
    except BadInput as error:
        troubles.append(str(error))
        job = app.manager.past(entry)
        # Nobody else has the handle yet, so this thread may change it.
        detach(job, str(error))
        return job


def _position_of(entry: StoredJob) -> GroupPosition:
    from bgmagic.runtime.attach import record_of

    position = record_of(entry).position
    assert position is not None  # noqa: S101 - the query asks for a group's jobs
    return position
