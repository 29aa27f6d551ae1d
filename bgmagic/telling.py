"""Jobs in lines of text: one line a job, and one for all that belong to the same group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from bgmagic.errors import readable
from bgmagic.job import Job


def line_of(job: Job) -> str:
    """A job in one line."""
    about = f": {job.error}" if job.error else ""
    name = readable(job.name or job.response_id or "job")
    return f"{name}: {readable(job.status, 40)} after {job.elapsed:.0f} s{about}"


def apart(jobs: Iterable[Job]) -> list[list[Job]]:
    """The jobs in order, those of a group together where its first stands."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        place = job.record.place
        found.setdefault(place.group if place else job.record.key, []).append(job)
    return list(found.values())


def group_name(jobs: Sequence[Job]) -> str:
    """What the group of these jobs is called."""
    return (jobs[0].name or "group").partition("[")[0]


def line_of_many(jobs: Sequence[Job]) -> str:
    """Jobs of one group, or one job, in one line."""
    if len(jobs) == 1:
        return line_of(jobs[0])
    counts = Counter(readable(job.status, 40) for job in jobs)
    told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    longest = max(job.elapsed for job in jobs)
    failed = next((job for job in jobs if job.error), None)
    about = f"; {failed.name}: {readable(str(failed.error), 200)}" if failed else ""
    return f"{group_name(jobs)}: {len(jobs)} jobs, {told}, after {longest:.0f} s{about}"
