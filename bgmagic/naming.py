"""Which jobs a word in a line means: a variable, an id, a group, one of a group.

In a line, quotes are the line's own: ``study['a']`` arrives as ``study[a]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bgmagic.answer import Answer
from bgmagic.errors import BadInput
from bgmagic.group import JobGroup
from bgmagic.job import Job
from bgmagic.session import session
from bgmagic.values import is_name

if TYPE_CHECKING:
    from bgmagic.entries import Entry


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
    placed = session.manager.placed()
    for job, place in reversed(placed):
        if is_name(name, job.name) or name == job.response_id:
            return [job]
        if place is not None and place.name == name:
            of_group = [(at, one) for one, at in placed if at and at.group == place.group]
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
        return session.manager.find(entry.key) if entry else None
    return found[0] if len(found) == 1 else None


def entry_named(which: str) -> Entry | None:
    """The journal's job with this id or, in this notebook first, this variable."""
    from bgmagic.entries import GROUP

    journal = session.manager.ledger.journal
    found = journal.find(which)
    if found is not None:
        return found
    for notebook in (session.notebook(), None):
        for entry in journal.entries(notebook=notebook, name=which, limit=1):
            return entry
    group, bracket, _ = which.partition("[")
    first = group_named(group) if bracket else None
    if first is None:
        return None
    jobs = journal.select(GROUP, group=first.group_key)
    return next((entry for entry in reversed(jobs) if is_name(which, entry.name)), None)


def group_named(name: str) -> Entry | None:
    """A job of the journal's newest group of that variable, in this notebook first."""
    from bgmagic.entries import GROUP_NAMED

    journal = session.manager.ledger.journal
    for notebook in (session.notebook(), None):
        for entry in journal.select(GROUP_NAMED, name=name, notebook=notebook):
            return entry
    return None
