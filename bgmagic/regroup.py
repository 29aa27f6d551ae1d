"""Groups in a notebook: shown, and picked up again by name from the journal.

Which jobs a group has and how they are carried is grouping.py's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bgmagic.errors import BadInput
from bgmagic.group import JobGroup
from bgmagic.naming import group_named
from bgmagic.request import Reader, Request
from bgmagic.session import session
from bgmagic.telling import line_of_many

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from bgmagic.entries import Entry


def show(shell: InteractiveShell, group: JobGroup, *, notify: bool = False) -> None:
    """Show a group in the cell that runs now, as its frontend can."""
    if hasattr(shell, "kernel"):
        # Imported with the first board: widgets take most of the time of loading this.
        from bgmagic.display.group_shown import show_group

        show_group(group, notify=notify)
    else:
        print(repr(group))


def attach_groups(shell: InteractiveShell, entries: Sequence[Entry]) -> list[Entry]:
    """Pick up each group that has one of these jobs, or print why not; returns the other jobs."""
    groups = {entry.group_key: entry for entry in entries if entry.group_key is not None}
    for number, entry in enumerate(groups.values()):
        try:
            attach(shell, entry, entry.group_name or f"_bg{shell.execution_count}_g{number}")
        except BadInput as error:
            print(error)
    return [entry for entry in entries if entry.group_key is None]


def named(entries: Sequence[Entry]) -> list[str]:
    """What the open jobs are called; those of a group together: "critiques (140 jobs)"."""
    counts = Counter(
        f"{entry.group_name or 'a sweep without a name'} ({{}} jobs)"
        if entry.group_key is not None
        else entry.name or entry.response_id or "unnamed"
        for entry in entries
    )
    return [name.format(count) for name, count in counts.items()]


def keys_of(key: str) -> list[str]:
    """The keys of all jobs that the journal has of a group."""
    from bgmagic.entries import GROUP

    return [entry.key for entry in session.manager.ledger.journal.select(GROUP, group=key)]


def tell_past(shell: InteractiveShell, entry: Entry, name: str) -> None:
    """Show the group of ``entry``, which no variable holds, from the journal."""
    from bgmagic.grouping import past_group

    assert entry.group_key is not None  # noqa: S101 - the callers look for one
    group = past_group(entry.group_key, name)
    if group.done():
        show(shell, group)
    else:  # a board of what others follow would not move
        print(f"{line_of_many(group.jobs)}; %bgattach {name} gives {name} the group")


def newest(which: str, single: Entry | None, out: str | None) -> Entry | None:
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


def _reader(entry: Entry, namespace: Mapping[str, Any]) -> Reader:
    """The notebook's class that the answer of a job is read into, if it is structured."""
    if '"json_schema"' not in entry.request:
        return None
    from bgmagic.schema import class_of

    return class_of(Request(entry.request).format, namespace)


def attach(shell: InteractiveShell, entry: Entry, out: str | None) -> None:
    """Pick up the whole group of ``entry`` under its own name, or ``out``, and show it.

    Raises:
        BadInput: the name is taken, or none of its jobs can be picked up.
    """
    from bgmagic.grouping import attach_group

    assert entry.group_key is not None  # noqa: S101 - the callers look for one
    name = out or entry.group_name or f"_bg{shell.execution_count}"
    namespace: dict[str, Any] = shell.user_ns
    held = namespace.get(name)
    same = isinstance(held, JobGroup) and held.key == entry.group_key
    if name in namespace and not same:
        raise BadInput(f"{name} holds something else; %bgattach {name} -o OTHER")
    group = attach_group(entry.group_key, name, lambda found: _reader(found, namespace))
    namespace[name] = group
    missing = group.size - len(group.jobs)
    if missing > 0:
        print(
            f"{name}: {missing} of its {group.size} jobs came from other sweeps with --reuse, or "
            "were forgotten; run its cell again with --reuse for all"
        )
    show(shell, group)
