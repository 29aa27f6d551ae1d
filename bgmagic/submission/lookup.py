"""Finds the job that is there already: by the name in a magic, or by the request it makes.

A cell that is run again joins its job that still runs. A sweep that is run again joins, as long as
one of its jobs runs, all of them but those that failed; its k-th sample joins the k-th such job.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bgmagic.api.request import OutputType, Request
from bgmagic.api.server import ServerConfig
from bgmagic.errors import AnswerGone, BadInput
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.record import JobRecord, Status
from bgmagic.prompts.template import PartialPrompt
from bgmagic.submission.app import app, place
from bgmagic.submission.converters import to_duration
from bgmagic.text import and_more, duration
from bgmagic.values import dataclass

if TYPE_CHECKING:
    from bgmagic.storage.database import StoredJob


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
        if not wanted.is_for_variable_of(job.outline):  # a job of a batch is of a group
            continue
        prints = job.record.fingerprint, _fingerprint_when_complete(job, find)
        if wanted.fingerprint in prints:
            if job.status == Status.UNKNOWN:
                ended_at = job.record.ended_at or job.record.submitted_at
                raise BadInput(
                    "the very same request ended as unknown "
                    f"{duration(time.time() - ended_at)} ago and may have been "
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
    try:
        answers = {key: job.result(0) for key, job in needed.items() if job and _answered(job)}
        if answers.keys() != needed.keys():
            return None
        request = partial.complete(record.request, answers.__getitem__)
    except (BadInput, AnswerGone):
        return None
    return request.fingerprint(record.server)


def _answered(job: Job) -> bool:
    return job.done() and job.error is None


class DuplicateIndex:
    """The jobs that a sweep can join, by the fingerprint of their requests; each is given once."""

    def __init__(self) -> None:
        self.jobs: dict[str, list[Job | StoredJob]] = defaultdict(list)
        self.seen: set[str] = set()

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


@dataclass(frozen=True)
class Meaning:
    """What a word means among the jobs of the journal.

    Attributes:
        single: the job with this key, response id or variable, or None.
        group: a job of the newest group of this variable, or None.
    """

    single: StoredJob | None
    group: StoredJob | None

    def as_group(self, out: str | None) -> StoredJob | None:
        """A job of the group that the word means, or None where it means a single job.

        Args:
            out: the name that the user gave for what is found. With it a job that belongs to a
                group is meant by itself, without it its whole group.
        """
        single, group = self.single, self.group
        if single is not None and single.group_key is not None and out is None:
            return single
        # A variable that held a group and then a job means the job.
        older = group and single is not None and single.created_at > group.created_at
        return None if older else group


class JobLookup:
    """Finds jobs by word or by request, in this process and in the journal, as they are now."""

    def __init__(self) -> None:
        self._manager = app.manager
        self._store = app.manager.store
        self._notebook = app.shell.notebook_path()

    @cached_property
    def here(self) -> dict[str, Job]:
        """The jobs of this process by their keys; of several with one key the newest."""
        return self._manager.jobs_by_key()

    @cached_property
    def _watched_here(self) -> set[str]:
        # A job that is detached, as after its deadline, may still run at the server.
        return {key for key, job in self.here.items() if job.status != Status.DETACHED}

    # By word.

    def jobs(self, word: str, namespace: Mapping[str, Any]) -> Sequence[Job]:
        """The job, or those of the group, of this process that a variable or a response id means.

        Raises:
            BadInput: it means none.
        """
        held = namespace.get(word)
        if isinstance(held, JobGroup):
            return held.jobs
        job = held.job if isinstance(held, Answer) else held
        if isinstance(job, Job):
            return [job]
        # The variable may have been given to something else since; the newest of that name counts.
        positioned = self._manager.jobs_with_position()
        for job, position in reversed(positioned):
            if is_name(word, job.name) or word == job.response_id:
                return [job]
            if position is not None and position.name == word:
                of_group = [
                    (at, one) for one, at in positioned if at and at.group == position.group
                ]
                # Of those that were sent again the newest.
                newest = {at.index: one for at, one in of_group}
                return [newest[index] for index in sorted(newest)]
        raise BadInput(f"{word!r} is neither a variable with a job nor the id of one; see %bgjobs")

    def job(
        self, word: str, namespace: Mapping[str, Any], meaning: Meaning | None = None
    ) -> Job | None:
        """The one job that a word means, in this process or else in the journal; else None.

        Args:
            meaning: what `meaning_of` gave for the word, if that was asked already.
        """
        try:
            found = self.jobs(word, namespace)
        except BadInput:
            stored = (meaning or self.meaning_of(word)).single
            return None if stored is None else self._manager.find(stored.key)
        return found[0] if len(found) == 1 else None

    def meaning_of(self, word: str) -> Meaning:
        """What a word means among the jobs of the journal: a key or response id first, then a
        variable of this notebook, then one of any notebook. The id of a batch means its group.
        Reads the journal once, for items such as ``study[3]`` more often."""
        if word.startswith("batch_") and (of_batch := self._store.of_batch(word)):
            return Meaning(None, of_batch)
        found = self._store.meant(word, self._notebook)
        ours = sorted(found, key=lambda entry: entry.notebook != self._notebook)
        by_id = (entry for entry in found if word in (entry.key, entry.response_id))
        by_name = (entry for entry in ours if entry.name == word)
        of_group = (entry for entry in ours if entry.group_name == word)
        single = next(by_id, None) or next(by_name, None) or self._item(word)
        return Meaning(single, next(of_group, None))

    def _item(self, word: str) -> StoredJob | None:
        """The job that is called ``word``, as ``study['a']``, in the group of that variable."""
        name, bracket, _ = word.partition("[")
        first = self.meaning_of(name).group if bracket else None
        if first is None or first.group_key is None:
            return None
        jobs = self._store.group(first.group_key)
        return next((entry for entry in reversed(jobs) if is_name(word, entry.name)), None)

    # By what is open, past or of one group.

    def open_jobs(self) -> list[StoredJob]:
        """This notebook's open jobs that no living kernel follows, this one's too, newest first."""
        entries = self._store.listed(self._notebook, open_only=True)
        others = [entry for entry in entries if entry.key not in self._watched_here]
        # The owners are looked at once, and only if there are such jobs.
        free = self._store.available_owners() if others else set()
        return [entry for entry in others if entry.owner in free]

    def with_past(self, *, everywhere: bool = False) -> list[Job]:
        """The jobs of this process, and before them, to be read, the journal's others.

        Args:
            everywhere: those of all notebooks, else of this one.
        """
        notebook = None if everywhere else self._notebook
        entries = self._store.past(notebook, self.here.keys())
        return [*map(self._manager.past, entries), *self.here.values()]

    def group(self, key: str) -> list[StoredJob]:
        """The journal's jobs of a group in order; of those in one place the newest."""
        return list({entry.group_index: entry for entry in self._store.group(key)}.values())

    # By request.

    def running_duplicate(self, wanted: Submission) -> Job | None:
        """The newest job of this process that asks the same for the same variable, or None.

        Raises:
            BadInput: it ended as unknown, so it may have been accepted already.
        """
        return find_running_duplicate(wanted, self._manager.jobs(), self._manager.find)

    def stored_duplicate(
        self, wanted: Submission, output_type: OutputType, *, reuse: bool
    ) -> StoredJob | None:
        """The journal's job with this very request that makes sending it unnecessary, or None: one
        that is open since before a restart or, to ``reuse``, the newest that gave an answer.

        Raises:
            BadInput: it may have been accepted already.
        """
        store, name = self._store, wanted.name
        same = store.same_request(wanted.fingerprint, name=name, notebook=wanted.notebook)
        for entry in reversed(same):
            if entry.key in self._watched_here or (entry.name is None) != (name is None):
                continue
            if entry.status == Status.WAITING and not entry.sendable:
                continue  # never sent, and the journal can't send it: this cell can
            if store.is_unowned(entry):
                if entry.response_id is None and entry.status == Status.SUBMITTING:
                    raise BadInput(
                        "the very same request was being sent when its kernel ended, and may have "
                        "been accepted; --again sends it anew, at the risk of paying twice"
                    )
                return entry
        completed = store.completed([wanted.fingerprint]) if reuse else []
        past = self._manager.past
        answered = (one for one in reversed(completed) if not past(one, output_type).error)
        return next(answered, None)

    def duplicates_of(
        self,
        name: str | None,
        server: str,
        fingerprints: Collection[str],
        *,
        join: bool,
        reuse: bool,
    ) -> DuplicateIndex:
        """The jobs that the jobs of a sweep can join instead of being sent.

        Args:
            name: the sweep's variable; None if the user chose none.
            server: where the sweep goes, whatever is configured by now.
            join: offer the jobs of this variable's groups in which a job still runs.
            reuse: offer the completed jobs that asked one of ``fingerprints``.
        """
        known = DuplicateIndex()
        if join:
            known.add_jobs(self._running_groups(name, server))
            known.add_entries(self._open_groups(name))
        if reuse:
            known.add_entries(self._store.completed(fingerprints))
        return known

    def _running_groups(self, name: str | None, server: str) -> list[Job]:
        """The jobs of this variable's groups here in which one still runs, without the failed.

        A detached one still runs at the server. Of several jobs with one key, of which the older
        ones were detached and attached again, the newest counts.
        """
        positioned = self._manager.jobs_with_position()
        newest = {job.key: (job, position) for job, position in positioned}
        ours = [
            (position.group, job)
            for job, position in newest.values()
            if position is not None
            and (position.name, job.outline.notebook, job.outline.server)
            == (name, self._notebook, server)
        ]
        running = {group for group, job in ours if not job.done() or job.status == Status.DETACHED}
        found = [job for group, job in ours if group in running]
        return [job for job in found if job.error is None or job.status == Status.UNKNOWN]

    def _open_groups(self, name: str | None) -> list[StoredJob]:
        """The same of the groups that earlier kernels left open, from the journal."""
        found = self._store.open_groups(name, self._notebook)
        others = [entry for entry in found if entry.key not in self._watched_here]
        free = self._store.available_owners()
        return [entry for entry in others if _joinable(entry, free)]


def output_type_of(entry: StoredJob, namespace: Mapping[str, Any]) -> OutputType:
    """The class in ``namespace`` that the answer of a stored job is read into; None for text."""
    if '"json_schema"' not in entry.request:
        return None
    from bgmagic.api.structured_output import find_output_type

    return find_output_type(Request(entry.request).text_format, namespace)


def _joinable(entry: StoredJob, free: set[str | None]) -> bool:
    if entry.ended_at is not None:
        return entry.status in (Status.COMPLETED, Status.UNKNOWN)
    never_sent = entry.status == Status.WAITING and entry.response_id is None
    # What the journal can't send, the cell can.
    return entry.owner in free and (entry.sendable or not never_sent)


def open_jobs_line(remedy: str) -> str:
    """One line on the jobs of this notebook, script or folder that are still open, or ""."""
    found = JobLookup().open_jobs()
    if not found:
        return ""
    told = names_of(found)
    names = and_more(told[:5], len(told))
    jobs_are = "job is" if len(found) == 1 else "jobs are"
    return f"{len(found)} {jobs_are} still open from {_this_place()}: {names}. {remedy}"


def _this_place() -> str:
    path = app.shell.notebook_path()
    if path != place():
        return "this notebook"
    return "this folder" if path.endswith(os.sep) else "this script"


def names_of(entries: Sequence[StoredJob]) -> list[str]:
    """What the open jobs are called; those of a group together: "critiques (140 jobs)"."""
    counts = Counter(
        f"{entry.group_name or 'a sweep without a name'} ({{}} jobs)"
        if entry.group_key is not None
        else entry.name or entry.response_id or "unnamed"
        for entry in entries
    )
    return [name.format(count) for name, count in counts.items()]


def needed_keys() -> set[str]:
    """The keys of the jobs whose answers the journal's open jobs wait for."""
    return {key for text in app.manager.store.partials() for key in PartialPrompt(text).needs}


def forget_old_jobs() -> str | None:
    """Forget what ended longer ago than the user keeps, soon; gives a line on a large journal."""
    store = app.manager.store
    kept = app.setting("keep", to_duration)
    if kept is not None:
        store.forget_before(time.time() - kept, needed_keys())
    elif store.is_large():
        return (
            "it has grown beyond 1 GB: %bgjobs --forget --all removes what has ended, "
            'and %config BgMagics.keep = "90d" does so by itself'
        )
    return None
