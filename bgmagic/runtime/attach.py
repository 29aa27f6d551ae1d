"""Continues a job under another handle: a detached one, or one of an earlier kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bgmagic.api.server import ServerConfig
from bgmagic.errors import BadInput
from bgmagic.jobs.interfaces import Variable
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.record import Status
from bgmagic.runtime.runner import RunConfig
from bgmagic.storage.database import StoredJob
from bgmagic.storage.job_store import JobStore


def stored_run_config(job: Job, store: JobStore, server: ServerConfig) -> RunConfig:
    """How to send the request of ``job`` again, which this kernel did not carry.

    Raises:
        BadInput: the journal does not keep the whole request, or it went to another server.
    """
    entry = store.find(job.record.key)
    if entry is None or not entry.sendable:
        raise BadInput(f"the journal does not keep the request of {job!r}; run its cell again")
    if entry.server != server.name:
        raise BadInput(
            f"it was sent to {entry.server}, not to {server.name}; configure that one and try again"
        )
    return RunConfig(server, entry.poll_interval, entry.deadline)


@dataclass(frozen=True)
class VariableHandover:
    """The variables that still hold ``job``, for the handle that takes over."""

    job: Job

    def assign(self, successor: Job) -> None:
        """Give them to ``successor``."""
        self.job.move_variables_to(successor)

    def replace(self, job: Job, successor: Job | Answer) -> None:
        """Give those that hold ``job`` to its ``successor``."""
        for variable in self.job._variables:
            variable.replace(job, successor)


def reattach(job: Job, store: JobStore, attach: Callable[[StoredJob, Variable], Job]) -> Job:
    """Follow the detached ``job`` again, by a new handle that takes its variables; gives that.

    Past its deadline the server is asked once.

    Args:
        attach: picks up what the journal has.

    Raises:
        BadInput: ``job`` is not detached, or can't be attached.
    """
    if job.status != Status.DETACHED:
        raise BadInput(f"{job!r} is not detached: there is nothing to pick up")
    entry = store.find(job.record.key)
    if entry is None:
        raise BadInput(f"the journal does not have it; %bgattach {job.response_id} follows it")
    # Taken over before the new handle can possibly end, so that the answer finds it there.
    return attach(entry, VariableHandover(job))
