"""Sends a sweep as a group of jobs, joins what there is of it already, and picks groups up again.

Shared by the magic and by plain Python, as submission.py is for one job. What a sweep asks is
asking.py's business, how its jobs are carried the manager's.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bgmagic.asking import Asked, ask, bill_of, check_agreed, factors
from bgmagic.errors import BadInput, counted
from bgmagic.group import JobDict, JobGroup, JobList
from bgmagic.job import Job
from bgmagic.joining import Known, completed, open_group, running_groups
from bgmagic.options import Settings
from bgmagic.place import Place, hashable
from bgmagic.pricing import Bill
from bgmagic.request import Reader
from bgmagic.session import session
from bgmagic.status import JobRecord, Status

if TYPE_CHECKING:
    from bgmagic.entries import Entry
    from bgmagic.lane import Lane


@dataclass(frozen=True)
class SentGroup:
    """What became of a sweep.

    Attributes:
        group: the jobs.
        joined: how many of them were there already, so that they were not sent.
        unknown: of how many of these nobody knows whether they were accepted.
        asked: what it asks.
    """

    group: JobGroup
    joined: int
    unknown: int
    asked: Asked

    def bill(self) -> Bill:
        """What the whole may cost; imports the prices."""
        return bill_of(self.asked)


def send_group(
    text: str, settings: Settings, name: str, namespace: Mapping[str, Any], *, join: bool
) -> SentGroup:
    """Start the jobs of a sweep, or join those that there are already; returns at once.

    Args:
        text: the template; ``{{ item }}`` in it is the item that a job is for.
        name: the variable that is to hold the group.
        namespace: the variables that the template may name.
        join: whether jobs of this variable that still run are joined.

    Raises:
        BadInput: nothing was sent.
    """
    with collecting_later():
        asked = ask(text, settings, name, namespace)
        check_agreed(asked)
        found = _joined(asked, _known(asked, join=join))
        missing = [index for index, job in enumerate(found) if job is None]
        for index, job in zip(missing, _submitted(asked, missing), strict=True):
            found[index] = job
        jobs = [job for job in found if job is not None]
        unknown = sum(job.status == Status.UNKNOWN for job in jobs)
        return SentGroup(_group(asked, jobs), len(jobs) - len(missing), unknown, asked)


@contextlib.contextmanager
def collecting_later() -> Iterator[None]:
    """Put garbage collection off: so many new objects bring on a collection of all there are,
    60 to 110 ms in a kernel, as long as everything else that this cell does."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def dry_run(text: str, settings: Settings, namespace: Mapping[str, Any]) -> str:
    """What a sweep would send: how many jobs, what they may cost, and the first of them.

    Raises:
        BadInput: there can't be such a sweep.
    """
    from bgmagic.dry_run import report

    asked = ask(text, settings, settings.out or "group", namespace)
    told = f"{counted(len(asked.composed))}{factors(asked)}: {bill_of(asked)}. The first:"
    return f"{told}\n{report(asked.composed[0], session.secrets())}"


def _known(asked: Asked, *, join: bool) -> Known:
    """The jobs that there are already for what is asked."""
    settings, manager, notebook = asked.settings, session.manager, session.notebook()
    server, known = manager.destination().name, Known()
    if join and not settings.again:
        known.add_jobs(running_groups(manager.placed(), server, settings.out, notebook))
        newest = {job.record.key: job for job in manager.jobs()}
        here = {key for key, job in newest.items() if job.status != Status.DETACHED}
        known.add_entries(open_group(manager.ledger, here, settings.out, notebook))
    if settings.reuse:
        known.add_entries(completed(manager.ledger, set(_prints(asked, server))))
    return known


def _prints(asked: Asked, server: str) -> list[str]:
    """The fingerprint of each job; those of one request are worked out once."""
    made: dict[int, str] = {}
    for one in asked.composed:
        if id(one) not in made:
            drafted = one.draft.text if one.draft else ""
            made[id(one)] = one.request.fingerprint(server, drafted)
    return [made[id(one)] for one in asked.composed]


def _joined(asked: Asked, known: Known) -> list[Job | None]:
    """The job that is there already for each that is asked, in its new place."""
    if not known.jobs:
        return [None] * len(asked.composed)
    manager = session.manager
    server, free = manager.destination().name, manager.ledger.free_owners()
    lane = _lane(asked.settings.max_in_flight)
    found: list[Job | None] = []
    prints = _prints(asked, server)
    for fingerprint, one, place in zip(prints, asked.composed, asked.places, strict=True):
        known_one = known.take(fingerprint)
        if known_one is None or isinstance(known_one, Job):
            job = known_one
        else:
            reader = one.request.reader
            job = manager.attach(known_one, None, reader, lane=lane, free=free)
        if job is not None and _is_of(job, asked):
            manager.relocate(job, titled(asked.name, place, asked.several), place)
        found.append(job)
    return found


def _is_of(job: Job, asked: Asked) -> bool:
    """Whether the job belonged to this very variable; what others have is only read."""
    place, notebook = job.record.place, session.notebook()
    theirs = place and (place.name, job.record.notebook)
    return theirs == (asked.settings.out, notebook)


def _submitted(asked: Asked, indices: Sequence[int]) -> list[Job]:
    """Start the jobs at these places."""
    from bgmagic.plan import Plan

    manager, settings = session.manager, asked.settings
    server, now, notebook = manager.destination(), time.time(), session.notebook()
    records = [
        JobRecord(
            request=asked.composed[index].request,
            draft=asked.composed[index].draft,
            waits_for=asked.composed[index].waits_for,
            server=server.name,
            submitted_at=now,
            name=titled(asked.name, asked.places[index], asked.several),
            named=settings.out is not None,
            notebook=notebook,
            place=asked.places[index],
        )
        for index in indices
    ]
    lane = _lane(settings.max_in_flight)
    plan = Plan(server, settings.poll, settings.deadline, lane=lane)
    return manager.submit_all(records, plan) if records else []


def _lane(most: int) -> Lane:
    # With the first sweep: what runs jobs takes half of all import time.
    from bgmagic.lane import Lane

    return Lane(most)


def titled(name: str, place: Place, several: int) -> str:
    """What one job of a group is called, as its answer is: ``critiques[3]``; of a dict
    ``critiques['a']``, or ``critiques['a'][1]`` with ``several`` jobs an item."""
    if place.kind != "dict":
        return f"{name}[{place.index}]"
    of_key = f"{name}[{hashable(place.key)!r}]"
    return of_key if several == 1 else f"{of_key}[{place.index % several}]"


def _group(asked: Asked, jobs: Sequence[Job]) -> JobGroup:
    items = [asked.items.values[point.item] for point in asked.points]
    key = asked.places[0].group
    if asked.items.kind != "dict":
        return JobList(key, asked.name, jobs, items)
    keys = [asked.items.keys[point.item] for point in asked.points]
    return JobDict(key, asked.name, jobs, items, keys=keys)


# Groups of earlier kernels.


def past_group(key: str, name: str) -> JobGroup:
    """A group that the journal has, to be read: nothing of it is picked up."""
    manager = session.manager
    here = {job.record.key: job for job in manager.jobs()}
    entries = _newest(key)
    jobs = [here.get(entry.key) or manager.past(entry) for entry in entries]
    return _regrouped(key, name, entries, jobs)


def attach_group(
    key: str, name: str, reader_of: Callable[[Entry], Reader] = lambda _: None
) -> JobGroup:
    """Pick up a group that the journal has: what has ended is given, what is open followed, what
    was not sent yet is sent.

    Args:
        key: the group's.
        name: the variable that is to hold it.
        reader_of: tells the class that a job's structured output is read into.

    Raises:
        BadInput: none of its jobs can be picked up; says why.
    """
    entries = _newest(key)
    free = session.manager.ledger.free_owners()
    lane = _lane(_place_of(entries[0]).in_flight)
    troubles: list[str] = []
    jobs = [_attached(entry, reader_of(entry), lane, free, troubles) for entry in entries]
    if troubles and len(troubles) == sum(entry.ended_at is None for entry in entries):
        raise BadInput(troubles[0])
    return _regrouped(key, name, entries, jobs)


def _newest(key: str) -> list[Entry]:
    """The journal's jobs of a group, in order; of those in one place the newest."""
    from bgmagic.entries import GROUP

    found = session.manager.ledger.journal.select(GROUP, group=key)
    return list({entry.group_index: entry for entry in found}.values())


def _regrouped(key: str, name: str, entries: Sequence[Entry], jobs: Sequence[Job]) -> JobGroup:
    places = [_place_of(entry) for entry in entries]
    if places[0].kind == "dict":
        keys = [hashable(place.key) for place in places]
        # Also where only one of several of an item is the journal's.
        several = any(
            place.samples > 1 or (entry.name and entry.name != titled(str(place.name), place, 1))
            for entry, place in zip(entries, places, strict=True)
        )
        return JobDict(key, name, jobs, keys=keys, several=several)
    return JobList(key, name, jobs)


def _attached(
    entry: Entry, reader: Reader, lane: Lane, free: set[str | None], troubles: list[str]
) -> Job:
    try:
        return session.manager.attach(entry, None, reader, lane=lane, free=free)
    except BadInput as error:
        troubles.append(str(error))
        job = session.manager.past(entry)
        # Nobody else has the handle yet, so this thread may change it.
        job.detach(str(error))
        return job


def _place_of(entry: Entry) -> Place:
    from bgmagic.ledger import record_of

    place = record_of(entry).place
    assert place is not None  # noqa: S101 - the query asks for a group's jobs
    return place
