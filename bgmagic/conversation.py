"""The turns before the one that is asked now, for --continue.

A conversation is whatever a job was asked and answered, from the job itself or from the journal, so
that it goes on when the server has forgotten it. What it becomes in a request is composing.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bgmagic.answer import Answer
from bgmagic.errors import BadInput, Detached
from bgmagic.job import Job
from bgmagic.values import kind_of


@dataclass(frozen=True)
class Earlier:
    """The turns before.

    Attributes:
        messages: those that are known now, as the API takes them.
        instructions: the system text that they were asked with.
        after: the job whose conversation comes before these messages, if its key is known.
        note: what the user should be told about where it goes on, or "".
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    instructions: str | None = None
    after: Job | None = None
    note: str = ""

    @property
    def waits(self) -> bool:
        """Whether that job is still running."""
        return self.after is not None and not self.after.done()


def earlier_turns(held: object, name: str, find: Callable[[str], Job | None]) -> Earlier:
    """The conversation that an answer or a job ends.

    After a turn that gave no answer, the one before it.

    Args:
        held: what the variable ``name`` holds.
        find: gives a job by its key, or None.

    Raises:
        BadInput: it holds neither, or there is no answer to go on from.
    """
    if isinstance(held, Answer) and held.job is None:
        return Earlier(tuple(held.conversation), held.instructions)
    job = held.job if isinstance(held, Answer) else held
    if not isinstance(job, Job):
        raise BadInput(
            f"--continue {name}: it holds {kind_of(held)}, no answer of a job; earlier turns of "
            "your own go in with --messages"
        )
    if not job.request.body:
        raise BadInput(
            f"--continue {name}: it was attached by its id, so what was asked is not known here; "
            "give the turns with --messages"
        )
    if not job.done() or job.error is None:
        return Earlier(after=job)
    if isinstance(job.error, Detached):
        raise BadInput(f"--continue {name}: {job.error}; %bgattach {name} follows it again")
    return _before(job, name, find)


def _before(job: Job, name: str, find: Callable[[str], Job | None]) -> Earlier:
    """The conversation before the turn of ``job``, which gave no answer."""
    note = f"{name} is {job.status}; this goes on from the answer before it"
    draft, body = job.record.draft, job.request.body
    messages = tuple(body["input"][:-1])
    if draft is not None and draft.continues is not None:
        before = find(draft.continues)
        if before is not None:
            found = earlier_turns(before, name, find)
            return Earlier(found.messages, found.instructions, found.after, note)
    elif messages:
        return Earlier(messages, body.get("instructions"), note=note)
    raise BadInput(
        f"--continue {name}: it is {job.status}, and there is no answer before it to go on from; "
        f"run its own cell again"
    )


def same_place(job: Job, find: Callable[[str], Job | None]) -> Earlier | None:
    """The turns that ``job``, a turn of a conversation that still runs, was asked after."""
    draft, body = job.record.draft, job.request.body
    if draft is not None and draft.continues is not None:
        before = find(draft.continues)
        return None if before is None else Earlier(after=before)
    messages = tuple(body.get("input", [])[:-1])
    return Earlier(messages, body.get("instructions")) if messages else None
