"""Groups of earlier kernels: picked up, or shown from the journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bgmagic.display.listing import describe_jobs
from bgmagic.errors import BadInput
from bgmagic.jobs.group import JobGroup
from bgmagic.notebook.shell import NotebookShell
from bgmagic.submission.lookup import output_type_of

if TYPE_CHECKING:
    from bgmagic.storage.database import StoredJob


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
        raise BadInput(f"{name} holds something else; %bgattach {name} -o OTHER")
    group = attach_group(entry.group_key, name, lambda found: output_type_of(found, namespace))
    namespace[name] = group
    missing = group.size - len(group.jobs)
    if missing > 0:
        print(
            f"{name}: {missing} of its {group.size} jobs came from other sweeps with --reuse, or "
            "were forgotten; run its cell again with --reuse for all"
        )
    shell.show_group(group)
