"""Finds jobs by the words in their prompts and answers, in this process and in the journal."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from bgmagic.display.listing import TableRow, table_rows
from bgmagic.errors import AnswerGone
from bgmagic.jobs.job import Job
from bgmagic.jobs.matching import Match, asked_text, given_text, match, search_words
from bgmagic.submission.app import app
from bgmagic.text import one_line
from bgmagic.values import dataclass

if TYPE_CHECKING:
    from bgmagic.storage.database import StoredJob


@dataclass(frozen=True)
class FoundJob:
    """A job that has what was looked for.

    Attributes:
        it: its handle if this process has it, else what the journal has of it.
        match: where it has what was looked for.
    """

    it: Job | StoredJob
    match: Match

    @property
    def submitted_at(self) -> float:
        """Seconds since the epoch."""
        return self.it.record.submitted_at if isinstance(self.it, Job) else self.it.created_at


def find_jobs(
    text: str,
    label: str,
    *,
    most: int | None = None,
    tell: Callable[[int], object] = lambda _: None,
) -> list[FoundJob]:
    """The jobs of all notebooks that have each word of ``text``, newest first.

    Args:
        label: what the text was given as, for the message.
        most: how many at most; None is all.
        tell: called with a number of texts before so many are read, if that takes a while.

    Raises:
        BadInput: there is nothing to look for.
        BgmagicError: the journal can't be searched now.
    """
    words = search_words(text, label)
    here = app.manager.jobs_by_key()
    stored = app.manager.store.search.find(words, most, tell)
    found = [
        FoundJob(here.get(entry.key, entry), at)
        for entry in stored.entries
        if (at := _of_entry(words, entry))
    ]
    found += [
        FoundJob(job, at)
        for key, job in here.items()
        if key not in stored.looked_at and (at := _of_job(words, job))
    ]
    return sorted(found, key=lambda one: one.submitted_at, reverse=True)[:most]


def jobs_found(text: str, label: str) -> list[Job]:
    """The handles of the same jobs: the index knows which they are, and nobody asks where in them.

    Raises:
        BadInput, BgmagicError: as `find_jobs`.
    """
    words = search_words(text, label)
    here = app.manager.jobs_by_key()
    stored = app.manager.store.search.find(words, None, lambda _: None)
    found = [here.get(entry.key) or app.manager.past(entry) for entry in stored.entries]
    found += [
        job
        for key, job in here.items()
        if key not in stored.looked_at and _of_job(words, job) is not None
    ]
    return sorted(found, key=lambda job: job.outline.submitted_at, reverse=True)


def _of_entry(words: Sequence[str], entry: StoredJob) -> Match | None:
    try:
        asked = asked_text(json.loads(entry.request))
        given = given_text(json.loads(entry.response or "null"))
    except (ValueError, RecursionError):  # as nobody of ours has written it
        return match(words, entry.request, entry.response or "")
    return match(words, asked, given)


def _of_job(words: Sequence[str], job: Job) -> Match | None:
    given = ""
    with contextlib.suppress(AnswerGone):  # found by what it asked, if that has the words
        given = f"{job.commentary}\n{job.text}"
    return match(words, asked_text(job.request.body), given)


def found_rows(found: Sequence[FoundJob], alive: set[str]) -> list[TableRow]:
    """What was found as the rows of a table, in its order; ``alive`` as `table_rows` takes it."""
    jobs = [one.it for one in found if isinstance(one.it, Job)]
    entries = [one.it for one in found if not isinstance(one.it, Job)]
    rows = {row.key: row for row in table_rows(jobs, entries, alive)}
    return [_found_row(one, rows) for one in found]


def _found_row(one: FoundJob, rows: Mapping[str, TableRow]) -> TableRow:
    about = one.it.record if isinstance(one.it, Job) else one.it
    at = one.match
    notebook = one_line(PurePath(about.notebook).name, 40)
    found = at.place, at.before, at.found, at.after
    return replace(rows[about.key], notebook=notebook, match=found)
