"""Going on with a job by another handle: one that is watched no more, one of an earlier kernel.

What these take from the journal and whether it may be; carrying the job is the manager's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bgmagic.answer import Answer
from bgmagic.control import Variable
from bgmagic.entries import Entry
from bgmagic.errors import BadInput
from bgmagic.job import Job
from bgmagic.ledger import Ledger
from bgmagic.plan import Plan
from bgmagic.server import Server
from bgmagic.status import Status


def past_plan(job: Job, ledger: Ledger, server: Server) -> Plan:
    """How to send the request of ``job`` again, which this kernel did not carry.

    Raises:
        BadInput: the journal does not keep the whole request, or it went to another server.
    """
    entry = ledger.journal.find(job.record.key)
    if entry is None or not entry.sendable:
        raise BadInput(f"the journal does not keep the request of {job!r}; run its cell again")
    if entry.server != server.name:
        raise BadInput(
            f"it was sent to {entry.server}, not to {server.name}; configure that one and try again"
        )
    return Plan(server, entry.poll_interval, entry.deadline)


@dataclass(frozen=True)
class Inherited:
    """The variables that still hold ``job``, for the handle that takes over."""

    job: Job

    def hold(self, successor: Job) -> None:
        """Give them to ``successor``."""
        self.job.hand_over(successor)

    def replace(self, job: Job, successor: Job | Answer) -> None:
        """Give those that hold ``job`` to its ``successor``."""
        for variable in self.job._variables:
            variable.replace(job, successor)


def picked_up(job: Job, ledger: Ledger, attach: Callable[[Entry, Variable], Job]) -> Job:
    """Follow the detached ``job`` again, by a new handle that takes its variables; gives that.

    Past its deadline the server is asked once.

    Args:
        attach: picks up what the journal has.

    Raises:
        BadInput: ``job`` is not detached, or can't be attached.
    """
    if job.status != Status.DETACHED:
        raise BadInput(f"{job!r} is not detached: there is nothing to pick up")
    entry = ledger.journal.find(job.record.key)
    if entry is None:
        raise BadInput(f"the journal does not have it; %bgattach {job.response_id} follows it")
    # Taken over before the new handle can possibly end, so that the answer finds it there.
    return attach(entry, Inherited(job))
