"""Finds the job that is there already: by the name in a magic, or by the request it makes.

A cell that is run again joins its job that still runs. A sweep that is run again joins, as long as
one of its jobs runs, all of them but those that failed; its k-th sample joins the k-th such job.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bgmagic.api.request import OutputType
from bgmagic.api.server import ServerConfig
from bgmagic.errors import BadInput
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.record import GroupPosition, JobRecord, Status
from bgmagic.prompts.template import PartialPrompt
from bgmagic.submission.app import app

if TYPE_CHECKING:
    from bgmagic.storage.database import StoredJob
    from bgmagic.storage.job_store import JobStore


def is_name(given: str, name: str | None) -> bool:
    """Whether ``given`` is the name of a job, with or without the quotes that its key has."""
    return name is not None and given.translate(_QUOTES) == name.translate(_QUOTES)


_QUOTES = str.maketrans("", "", "'\"")


@dataclass(frozen=True)
class Submission:
    """What is about to be sent, as far as its duplicates are told by it.

    Attributes:
        server: where it goes.
        notebook: where it is sent from, or "".
        name: the variable given with ``-o``; None stands for all jobs sent without ``-o``.
        fingerprint: of the request, at that server.
    """

    server: ServerConfig
    notebook: str
    name: str | None
    fingerprint: str

    def is_for_variable_of(self, record: JobRecord) -> bool:
        """Whether a job has the same variable, notebook and server, and belongs to no group."""
        chosen = record.name if record.named else None
        theirs = chosen, record.notebook, record.server
        return record.position is None and theirs == (self.name, self.notebook, self.server.name)


def find_running_duplicate(
    wanted: Submission, jobs: Sequence[Job], find: Callable[[str], Job | None]
) -> Job | None:
    """The newest of ``jobs`` that asks the same for the same variable.

    Args:
        find: gives a job by its key, or None.

    Raises:
        BadInput: it ended as unknown, so it may have been accepted already.
    """
    for job in reversed(jobs):
        if not wanted.is_for_variable_of(job.record):
            continue
        prints = job.record.fingerprint, _fingerprint_when_complete(job, find)
        if wanted.fingerprint in prints:
            if job.status == Status.UNKNOWN:
                raise BadInput(
                    f"the very same request ended as unknown {_ago(job)} ago and may have been "
                    f"accepted; --again sends it anew, at the risk of paying twice"
                )
            return job
    return None


def _fingerprint_when_complete(job: Job, find: Callable[[str], Job | None]) -> str | None:
    """The fingerprint that a job is about to have, if the answers it waited for are there."""
    record = job.record
    if record.partial is None or job.done():
        return None
    partial = PartialPrompt(record.partial)
    needed = {key: find(key) for key in partial.needs}
    answers = {key: found.result(0) for key, found in needed.items() if found and _answered(found)}
    if answers.keys() != needed.keys():
        return None
    try:
        request = partial.complete(record.request, answers.__getitem__)
    except BadInput:
        return None
    return request.fingerprint(record.server)


def _answered(job: Job) -> bool:
    return job.done() and job.error is None


@dataclass
class DuplicateIndex:
    """The jobs that a sweep can join, by the fingerprint of their requests; each is given once."""

    jobs: dict[str, list[Job | StoredJob]] = field(default_factory=lambda: defaultdict(list))

    seen: set[str] = field(default_factory=set)

    def add_jobs(self, jobs: Iterable[Job]) -> None:
        """Offer jobs of this kernel."""
        for job in jobs:
            self._add(job.record.fingerprint, job.record.key, job)

    def add_entries(self, entries: Iterable[StoredJob]) -> None:
        """Offer jobs of the journal."""
        for entry in entries:
            self._add(entry.fingerprint, entry.key, entry)

    def _add(self, fingerprint: str, key: str, job: Job | StoredJob) -> None:
        if key not in self.seen:
            self.seen.add(key)
            self.jobs[fingerprint].append(job)

    def take(self, fingerprint: str) -> Job | StoredJob | None:
        """The next job with this request, or None."""
        left = self.jobs.get(fingerprint)
        return left.pop(0) if left else None


def running_groups(
    positioned: Iterable[tuple[Job, GroupPosition | None]],
    server: str,
    name: str | None,
    notebook: str,
) -> list[Job]:
    """The jobs of this variable's groups here in which one still runs, without the failed.

    One that is watched no more still runs at the server; whoever picked it up has its key.

    Args:
        positioned: all jobs, oldest first, each with its position in a group.
    """
    newest = {job.record.key: (job, position) for job, position in positioned}
    ours = [
        (position.group, job)
        for job, position in newest.values()
        if position is not None
        and (position.name, job.record.notebook, job.record.server) == (name, notebook, server)
    ]
    running = {group for group, job in ours if not job.done() or job.status == Status.DETACHED}
    found = [job for group, job in ours if group in running]
    return [job for job in found if job.error is None or job.status == Status.UNKNOWN]


def open_group(store: JobStore, here: set[str], name: str | None, notebook: str) -> list[StoredJob]:
    """The same of the groups that earlier kernels left open, from the journal."""
    from bgmagic.storage.database import OPEN_GROUPS

    found = store.journal.select(OPEN_GROUPS, notebook=notebook, name=name)
    others = [entry for entry in found if entry.key not in here]
    free = store.available_owners()
    return [entry for entry in others if _joinable(entry, free)]


def completed_with(store: JobStore, fingerprints: Iterable[str]) -> list[StoredJob]:
    """The journal's completed jobs that asked one of these, oldest first."""
    from bgmagic.storage.database import COMPLETED

    return store.journal.select(COMPLETED, fingerprints=json.dumps(list(fingerprints)))


def _joinable(entry: StoredJob, free: set[str | None]) -> bool:
    if entry.ended_at is not None:
        return entry.status in (Status.COMPLETED, Status.UNKNOWN)
    never_sent = entry.status == Status.WAITING and entry.response_id is None
    # What the journal can't send, the cell can.
    return entry.owner in free and (entry.sendable or not never_sent)


def jobs_named(name: str, namespace: Mapping[str, Any]) -> Sequence[Job]:
    """The job, or those of the group, of this kernel that a variable or a response id names.

    Raises:
        BadInput: it names none.
    """
    held = namespace.get(name)
    if isinstance(held, JobGroup):
        return held.jobs
    job = held.job if isinstance(held, Answer) else held
    if isinstance(job, Job):
        return [job]
    # The name may have been given to something else since; the newest of that name counts.
    positioned = app.manager.jobs_with_position()
    for job, position in reversed(positioned):
        if is_name(name, job.name) or name == job.response_id:
            return [job]
        if position is not None and position.name == name:
            of_group = [(at, one) for one, at in positioned if at and at.group == position.group]
            # Of those that were sent again the newest.
            newest = {at.index: one for at, one in of_group}
            return [newest[index] for index in sorted(newest)]
    raise BadInput(f"{name!r} is neither a variable with a job nor the id of one; see %bgjobs")


def job_named(name: str, namespace: Mapping[str, Any]) -> Job | None:
    """The one job that a name or an id means, in this kernel or else in the journal."""
    try:
        found = jobs_named(name, namespace)
    except BadInput:
        entry = entry_named(name)
        return app.manager.find(entry.key) if entry else None
    return found[0] if len(found) == 1 else None


def entry_named(which: str) -> StoredJob | None:
    """The journal's job with this id or, in this notebook first, this variable."""
    from bgmagic.storage.database import GROUP

    journal = app.manager.store.journal
    found = journal.find(which)
    if found is not None:
        return found
    for notebook in (app.shell.notebook_path(), None):
        for entry in journal.entries(notebook=notebook, name=which, limit=1):
            return entry
    group, bracket, _ = which.partition("[")
    first = group_named(group) if bracket else None
    if first is None:
        return None
    jobs = journal.select(GROUP, group=first.group_key)
    return next((entry for entry in reversed(jobs) if is_name(which, entry.name)), None)


def group_named(name: str) -> StoredJob | None:
    """A job of the journal's newest group of that variable, in this notebook first."""
    from bgmagic.storage.database import GROUP_NAMED

    journal = app.manager.store.journal
    for notebook in (app.shell.notebook_path(), None):
        for entry in journal.select(GROUP_NAMED, name=name, notebook=notebook):
            return entry
    return None


def stored_duplicate(
    wanted: Submission, output_type: OutputType, *, reuse: bool
) -> StoredJob | None:
    """The journal's job with this very request that makes sending it unnecessary, or None: one
    that is open since before a restart or, to ``reuse``, the newest that gave an answer.

    Raises:
        BadInput: it may have been accepted already.
    """
    manager = app.manager
    store = manager.store
    # What is watched here no more, as after its deadline, may still run at the server.
    newest = {job.record.key: job for job in manager.jobs()}
    here = {key for key, job in newest.items() if job.status != Status.DETACHED}
    same = store.journal.same(wanted.fingerprint, notebook=wanted.notebook, name=wanted.name)
    for entry in reversed(same):
        if entry.key in here or (entry.name is None) != (wanted.name is None):
            continue
        if entry.status == Status.WAITING and not entry.sendable:
            continue  # never sent, and the journal can't send it: this cell can
        if store.is_unowned(entry):
            if entry.response_id is None and entry.status == Status.SUBMITTING:
                raise BadInput(
                    "the very same request was being sent when its kernel ended, and may have been "
                    "accepted; --again sends it anew, at the risk of paying twice"
                )
            return entry
    completed = store.journal.same(wanted.fingerprint, completed=True) if reuse else []
    answered = (one for one in reversed(completed) if not manager.past(one, output_type).error)
    return next(answered, None)


def _ago(job: Job) -> str:
    seconds = time.time() - (job.record.ended_at or job.record.submitted_at)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def names_of(entries: Sequence[StoredJob]) -> list[str]:
    """What the open jobs are called; those of a group together: "critiques (140 jobs)"."""
    counts = Counter(
        f"{entry.group_name or 'a sweep without a name'} ({{}} jobs)"
        if entry.group_key is not None
        else entry.name or entry.response_id or "unnamed"
        for entry in entries
    )
    return [name.format(count) for name, count in counts.items()]


def group_keys(key: str) -> list[str]:
    """The keys of all jobs that the journal has of a group."""
    from bgmagic.storage.database import GROUP

    return [entry.key for entry in app.manager.store.journal.select(GROUP, group=key)]


def group_meant(which: str, single: StoredJob | None, out: str | None) -> StoredJob | None:
    """A job of the group that ``which`` means, or None.

    Args:
        single: the job that it means: its group is meant where that job gets no name of its own,
            ``out``; and a group of that name only if it is newer.
    """
    if single is not None and single.group_key is not None and out is None:
        return single
    entry = group_named(which)
    older = entry and single is not None and single.created_at > entry.created_at
    return None if older else entry


def needed_keys(store: JobStore) -> set[str]:
    """The keys of the jobs whose answers the journal's open jobs wait for."""
    return {key for text in store.partials() for key in PartialPrompt(text).needs}
