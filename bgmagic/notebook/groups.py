"""Groups: what cancelling some of their jobs does; those of earlier kernels, picked up or shown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from bgmagic.display.listing import describe_jobs, group_name
from bgmagic.errors import BadInput
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Job
from bgmagic.jobs.record import Note, Status
from bgmagic.notebook.shell import NotebookShell
from bgmagic.submission.app import app
from bgmagic.submission.lookup import output_type_of

if TYPE_CHECKING:
    from bgmagic.storage.database import StoredJob


def cancelled_name(some: Sequence[Job], asked: Sequence[Job]) -> str:
    """What the jobs ``asked`` to be cancelled, of the group ``some``, are called."""
    return group_name(some) if len(asked) > 1 else str(asked[0].name or asked[0].response_id)


def cancelling(jobs: Sequence[Job], asked: Collection[Job]) -> str:
    """What cancelling ``jobs``, of one group or a single one, does now.

    Args:
        asked: all jobs that were to be cancelled with them.
    """
    batches = {job.outline.batch for job in jobs if job.outline.accepted_at is not None} - {None}
    others = (job for job in app.manager.jobs() if batches and job.outline.batch in batches)
    if any(not job.done() and job not in asked for job in others):
        return Note.ONE_OF_BATCH
    if len(jobs) > 1:
        return f"{len(jobs)} jobs are cancelled, or asked to be"
    return cancelling_one(jobs[0])


def cancelling_one(job: Job) -> str:
    """What cancelling ``job``, which had not ended, does now."""
    if job.response_id is None and job.status in (Status.WAITING, Status.CANCELLED):
        return "it is not at the server, and is cancelled"
    if job.response_id is None and job.status == Status.SUBMITTING:
        return (
            "the server has not answered yet, so it can't be asked to cancel. The wish is kept; "
            "if no answer comes soon, the connection is closed and the job ends as unknown"
        )
    return "the server is asked to cancel it"


def attach_groups(shell: NotebookShell, entries: Sequence[StoredJob]) -> list[StoredJob]:
    """Attach each group that has one of these jobs, or print why not; returns the other jobs."""
    groups = {entry.group_key: entry for entry in entries if entry.group_key is not None}
    for number, entry in enumerate(groups.values()):
        try:
            attach_named_group(shell, entry, entry.group_name or f"{shell.numbered_name}_g{number}")
        except BadInput as error:
            print(error)
    return [entry for entry in entries if entry.group_key is None]


def tell_past(shell: NotebookShell, entry: StoredJob, name: str) -> None:
    """Show the group of ``entry``, which no variable holds, from the journal."""
    from bgmagic.sweeps.submit import load_group

    assert entry.group_key is not None  # noqa: S101 - the callers look for one
    group = load_group(entry.group_key, name)
    if group.done():
        shell.show_group(group)
    else:  # a board of what others follow would not move
        print(f"{describe_jobs(group.jobs)}; %bgattach {name} gives {name} the group")


def attach_named_group(shell: NotebookShell, entry: StoredJob, out: str | None) -> None:
    """Attach the whole group of ``entry`` under its own name, or ``out``, and show it.

    Raises:
        BadInput: the name is taken, or none of its jobs can be attached.
    """
    from bgmagic.sweeps.submit import attach_group

    assert entry.group_key is not None  # noqa: S101 - the callers look for one
    name = out or entry.group_name or shell.numbered_name
    namespace = shell.namespace
    held = namespace.get(name)
    same = isinstance(held, JobGroup) and held.key == entry.group_key
    if name in namespace and not same:
        which = entry.group_name if entry.group_name not in (None, out) else entry.group_key
        raise BadInput(f"{name} holds something else; %bgattach {which or name} -o OTHER")
    group = attach_group(entry.group_key, name, lambda found: output_type_of(found, namespace))
    namespace[name] = group
    missing = group.size - len(group.jobs)
    if missing > 0:
        print(
            f"{name}: {missing} of its {group.size} jobs came from other sweeps with --reuse, "
            "were not written down, so never sent, when their kernel ended, or were forgotten; run "
            "its cell again with --reuse for all"
        )
    shell.show_group(group)
