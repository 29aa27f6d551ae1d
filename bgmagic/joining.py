"""Which jobs there are already that ask the very same, so that nothing is paid for twice.

A cell that is run again joins its job that still runs; a sweep that is run again joins, as long as
one of its jobs runs, all of them but those that failed. The k-th sample joins the k-th such job.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bgmagic.errors import BadInput
from bgmagic.job import Job
from bgmagic.place import Place
from bgmagic.status import Status

if TYPE_CHECKING:
    from bgmagic.entries import Entry
    from bgmagic.ledger import Ledger


def twin_of(
    fingerprint: str,
    jobs: Sequence[Job],
    server: str,
    name: str | None,
    notebook: str,
    find: Callable[[str], Job | None],
) -> Job | None:
    """The newest of ``jobs`` with this fingerprint that is for the same variable.

    Args:
        name: the variable that the user chose; None stands for all that were not chosen.
        find: gives a job by its key, or None.
    """
    for job in reversed(jobs):
        record = job.record
        chosen = record.name if record.named else None
        if (chosen, record.notebook, record.server) != (name, notebook, server):
            continue
        if record.place is not None:
            continue
        if record.fingerprint == fingerprint or _to_be(job, find) == fingerprint:
            return job
    return None


def _to_be(job: Job, find: Callable[[str], Job | None]) -> str | None:
    """The fingerprint that a job is about to have, if the answers it waited for are there."""
    record = job.record
    if record.draft is None or job.done():
        return None
    needed = {key: find(key) for key in record.draft.needs}
    answers = {key: found.result(0) for key, found in needed.items() if found and _answered(found)}
    if answers.keys() != needed.keys():
        return None
    try:
        request = record.draft.finish(record.request, answers.__getitem__)
    except BadInput:
        return None
    return request.fingerprint(record.server)


def _answered(job: Job) -> bool:
    return job.done() and job.error is None


@dataclass
class Known:
    """The jobs that a sweep can join, by the fingerprint of their requests; each is given once."""

    jobs: dict[str, list[Job | Entry]] = field(default_factory=lambda: defaultdict(list))

    seen: set[str] = field(default_factory=set)

    def add_jobs(self, jobs: Iterable[Job]) -> None:
        """Offer jobs of this kernel."""
        for job in jobs:
            self._add(job.record.fingerprint, job.record.key, job)

    def add_entries(self, entries: Iterable[Entry]) -> None:
        """Offer jobs of the journal."""
        for entry in entries:
            self._add(entry.fingerprint, entry.key, entry)

    def _add(self, fingerprint: str, key: str, job: Job | Entry) -> None:
        if key not in self.seen:
            self.seen.add(key)
            self.jobs[fingerprint].append(job)

    def take(self, fingerprint: str) -> Job | Entry | None:
        """The next job with this request, or None."""
        left = self.jobs.get(fingerprint)
        return left.pop(0) if left else None


def running_groups(
    placed: Iterable[tuple[Job, Place | None]], server: str, name: str | None, notebook: str
) -> list[Job]:
    """The jobs of this variable's groups here in which one still runs, without the failed.

    One that is watched no more still runs at the server; whoever picked it up has its key.

    Args:
        placed: all jobs, oldest first, each with its place in a group.
    """
    newest = {job.record.key: (job, place) for job, place in placed}
    ours = [
        (place.group, job)
        for job, place in newest.values()
        if place is not None
        and (place.name, job.record.notebook, job.record.server) == (name, notebook, server)
    ]
    running = {group for group, job in ours if not job.done() or job.status == Status.DETACHED}
    found = [job for group, job in ours if group in running]
    return [job for job in found if job.error is None or job.status == Status.UNKNOWN]


def open_group(ledger: Ledger, here: set[str], name: str | None, notebook: str) -> list[Entry]:
    """The same of the groups that earlier kernels left open, from the journal."""
    from bgmagic.entries import OPEN_GROUPS

    found = ledger.journal.select(OPEN_GROUPS, notebook=notebook, name=name)
    others = [entry for entry in found if entry.key not in here]
    free = ledger.free_owners()
    return [entry for entry in others if _joinable(entry, free)]


def completed(ledger: Ledger, fingerprints: Iterable[str]) -> list[Entry]:
    """The journal's completed jobs that asked one of these, oldest first."""
    from bgmagic.entries import COMPLETED

    return ledger.journal.select(COMPLETED, fingerprints=json.dumps(list(fingerprints)))


def _joinable(entry: Entry, free: set[str | None]) -> bool:
    if entry.ended_at is not None:
        return entry.status in (Status.COMPLETED, Status.UNKNOWN)
    never_sent = entry.status == Status.WAITING and entry.response_id is None
    # What the journal can't send, the cell can.
    return entry.owner in free and (entry.sendable or not never_sent)
