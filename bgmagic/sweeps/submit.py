"""Submits a sweep as a group of jobs, joins jobs that are there already, and attaches groups."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bgmagic.api.batch import assign_batches
from bgmagic.api.pricing import CostEstimate
from bgmagic.api.request import OutputType
from bgmagic.errors import BadInput
from bgmagic.jobs.group import JobDict, JobGroup, JobList
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import detach
from bgmagic.jobs.record import GroupPosition, JobRecord, Status, hashable
from bgmagic.submission.app import app, group_displays
from bgmagic.submission.lookup import DuplicateIndex, JobLookup
from bgmagic.submission.settings import SubmitSettings
from bgmagic.submission.submit import deadline_of
from bgmagic.sweeps.plan import SweepPlan, estimated_cost, plan_sweep, require_confirmation

if TYPE_CHECKING:
    from bgmagic.runtime.pacing import ConcurrencyLimiter
    from bgmagic.storage.database import StoredJob


@dataclass(frozen=True)
class SubmittedSweep:
    """A sweep that was submitted.

    Attributes:
        group: the jobs.
        joined: how many of them were there already, so that they were not sent.
        unknown: how many of these the server may or may not have accepted.
        plan: its plan.
    """

    group: JobGroup
    joined: int
    unknown: int
    plan: SweepPlan

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
        found = _joined(plan, _known_jobs(plan, join=join))
        missing = [index for index, job in enumerate(found) if job is None]
        if missing and not settings.over_budget and app.gate is not None:
            # If not even the first can be sent. The others wait at the line.
            app.gate.check(plan.prepared[missing[0]].request, plan.server.name)
        for index, job in zip(missing, _submitted(plan, missing), strict=True):
            found[index] = job
        jobs = [job for job in found if job is not None]
        unknown = sum(job.status == Status.UNKNOWN for job in jobs)
        return SubmittedSweep(_group(plan, jobs), len(jobs) - len(missing), unknown, plan)


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector while thousands of jobs are created: a full collection takes
    60 to 110 ms in a kernel, as long as everything else that this cell does."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _known_jobs(plan: SweepPlan, *, join: bool) -> DuplicateIndex:
    """The jobs that there are already for what is asked."""
    settings = plan.settings
    prints = set(_prints(plan, plan.server.name)) if settings.reuse else ()
    join = join and not settings.again
    return JobLookup().duplicates_of(settings.out, prints, join=join, reuse=settings.reuse)


def _prints(plan: SweepPlan, server: str) -> list[str]:
    """Compute the fingerprint of each job; once for the samples of one request."""
    made: dict[int, str] = {}
    for one in plan.prepared:
        if id(one) not in made:
            made[id(one)] = one.fingerprint(server)
    return [made[id(one)] for one in plan.prepared]


def _joined(plan: SweepPlan, known: DuplicateIndex) -> list[Job | None]:
    """Find, for each planned job, the job that is there already, and move it to its position."""
    if not known.jobs:
        return [None] * len(plan.prepared)
    manager = app.manager
    free = manager.store.available_owners()
    limiter = _limiter(plan.settings.max_in_flight)
    found: list[Job | None] = []
    prints = _prints(plan, plan.server.name)
    for fingerprint, one, position in zip(prints, plan.prepared, plan.positions, strict=True):
        known_one = known.take(fingerprint)
        if known_one is None or isinstance(known_one, Job):
            job = known_one
        else:
            output_type = one.request.output_type
            job = manager.attach(
                known_one, None, output_type, server=plan.server, limiter=limiter, free=free
            )
        if job is not None and _is_of(job, plan):
            manager.reposition(job, job_name(plan.name, position, plan.several), position)
        found.append(job)
    return found


def _is_of(job: Job, plan: SweepPlan) -> bool:
    """Whether the job belonged to this very variable; jobs of others are only read."""
    position, notebook = job.record.position, app.shell.notebook_path()
    theirs = position and (position.name, job.record.notebook)
    return theirs == (plan.settings.out, notebook)


def _submitted(plan: SweepPlan, indices: Sequence[int]) -> list[Job]:
    """Start the planned jobs at these indices."""
    from bgmagic.runtime.pacing import RunConfig

    manager, settings = app.manager, plan.settings
    now, notebook = time.time(), app.shell.notebook_path()
    records = [
        JobRecord(
            request=plan.prepared[index].request,
            partial=plan.prepared[index].partial,
            waits_for=plan.prepared[index].waits_for,
            server=plan.server.name,
            submitted_at=now,
            name=job_name(plan.name, plan.positions[index], plan.several),
            named=settings.out is not None,
            notebook=notebook,
            position=plan.positions[index],
        )
        for index in indices
    ]
    limiter = _limiter(settings.max_in_flight)
    of_kinds = {id(point.settings): point.settings for point in plan.points}
    config = RunConfig(
        plan.server,
        settings.poll,
        deadline_of(settings, *of_kinds.values()),
        limiter=limiter,
        create_timeout=settings.create_timeout,
        over_budget=settings.over_budget,
    )
    if settings.batch:
        names = assign_batches([record.request for record in records])
        records = [replace(one, batch=name) for one, name in zip(records, names, strict=True)]
    return manager.submit_all(records, config) if records else []


def _limiter(most: int) -> ConcurrencyLimiter:
    # Imported with the first sweep: `runtime` takes half of all import time.
    from bgmagic.runtime.pacing import ConcurrencyLimiter

    return ConcurrencyLimiter(most)


def job_name(name: str, position: GroupPosition, several: int) -> str:
    """Name one job of a group as its answer is named: ``critiques[3]``; of a dict
    ``critiques['a']``, or ``critiques['a'][1]`` with ``several`` jobs an item."""
    if position.kind != "dict":
        return f"{name}[{position.index}]"
    of_key = f"{name}[{hashable(position.key)!r}]"
    return of_key if several == 1 else f"{of_key}[{position.index % several}]"


def _group(plan: SweepPlan, jobs: Sequence[Job]) -> JobGroup:
    items = [plan.items.values[point.item] for point in plan.points]
    key = plan.positions[0].group
    if plan.items.kind != "dict":
        return JobList(key, plan.name, jobs, items, displays=group_displays)
    keys = [plan.items.keys[point.item] for point in plan.points]
    return JobDict(key, plan.name, jobs, items, displays=group_displays, keys=keys)


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
    ones sent.

    Args:
        key: the group's.
        name: the variable that is to hold it.
        output_type_of: returns the class that a job's structured output is read into.

    Raises:
        BadInput: none of its jobs can be attached; says why.
    """
    entries = JobLookup().group(key)
    free = app.manager.store.available_owners()
    limiter = _limiter(_position_of(entries[0]).in_flight)
    troubles: list[str] = []
    jobs = [_attached(entry, output_type_of(entry), limiter, free, troubles) for entry in entries]
    if troubles and len(troubles) == sum(entry.ended_at is None for entry in entries):
        raise BadInput(troubles[0])
    return _regrouped(key, name, entries, jobs)


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
