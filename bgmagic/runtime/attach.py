"""Continues a job under another handle: a detached one, or one of an earlier kernel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from bgmagic.api.request import OutputType, Previous, Request
from bgmagic.api.response import ReadsResponses, StoredResponse
from bgmagic.api.server import ServerConfig
from bgmagic.errors import BadInput, BgmagicError, Unsendable
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.outcome import detach, settle
from bgmagic.jobs.record import (
    GroupPosition,
    JobController,
    JobRecord,
    Status,
    Variable,
    group_position,
)
from bgmagic.jobs.steps import FunctionRounds
from bgmagic.runtime.pacing import RunConfig
from bgmagic.storage.batches import made_row
from bgmagic.storage.database import StoredJob
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.live_rows import changed
from bgmagic.values import dataclass


def record_of(
    entry: StoredJob, output_type: OutputType = None, batch_id: str | None = None
) -> JobRecord:
    """What the journal knows of a job, as a record.

    Args:
        output_type: the class of its answer.
        batch_id: the server's id of the batch that it was in.
    """
    previous = None if entry.previous is None else Previous.read(entry.previous)
    return JobRecord(
        key=entry.key,
        request=Request(entry.request, output_type, previous),
        server=entry.server,
        submitted_at=entry.created_at,
        name=entry.name,
        named=entry.name is not None,
        notebook=entry.notebook,
        status=entry.status,
        accepted_at=entry.accepted_at,
        started_at=entry.started_at,
        checked_at=entry.checked_at,
        ended_at=entry.ended_at,
        response_id=entry.response_id,
        response=None if entry.response is None else json.loads(entry.response),
        reason=entry.reason,
        cancelling=entry.cancelling,
        partial=entry.draft,
        position=_position(entry),
        batch=entry.batch,
        batch_id=batch_id,
        over_budget=entry.over_budget,
        rounds=FunctionRounds.read(entry.rounds),
    )


def past_job(
    entry: StoredJob,
    controller: JobController,
    output_type: OutputType = None,
    batch_id: str | None = None,
    *,
    hold: Callable[[Job], object] | None = None,
) -> Job:
    """A handle of a stored job, to be read; the rest is of `record_of`.

    Args:
        hold: is given the handle if the response of that is going to be left to the journal, for
            `hold_again`; without it, the handle keeps the response.
    """
    job = Job(record_of(entry, output_type, batch_id), controller)
    if entry.ended_at is not None:
        if hold is not None:
            hold(job)
        settle(job, stored=hold is not None and controller.responses.has(entry.key))
    return job


_TOGETHER = 100  # responses that are read in one go


def hold_again(jobs: Sequence[Job], keys: Collection[str], responses: ReadsResponses) -> None:
    """Have the handles of the jobs with these keys hold what the journal is going to lose."""
    alone = [job for job in jobs if isinstance(job.record.response, StoredResponse)]
    alone = [job for job in alone if job.record.key in keys]
    for start in range(0, len(alone), _TOGETHER):
        some = alone[start : start + _TOGETHER]
        found = responses.read_all([job.record.key for job in some])
        for job in some:
            if job.record.key in found:
                job.hold_again(found[job.record.key])


def end_unbegun(jobs: Sequence[Job], now: float, *, attached: bool) -> None:
    """End jobs whose cell was interrupted before they were begun; ``attached`` ones stay open in
    the journal."""
    for job in jobs:
        if attached:
            detach(job, "the cell was interrupted")
        else:
            reason = "not sent: the cell was interrupted"
            settle(job, status=Status.FAILED, reason=reason, ended_at=now)


def strange_record(response_id: str, name: str, server: ServerConfig, now: float) -> JobRecord:
    """The record of a response at ``server`` that the journal does not have."""
    return JobRecord(
        request=Request("{}"),
        server=server.name,
        submitted_at=now,
        accepted_at=now,
        name=name,
        response_id=response_id,
        status=Status.ATTACHED,
    )


def settle_as_stored(job: Job, entry: StoredJob) -> None:
    """End ``job`` as the journal says that it has ended; its name and place stay."""
    ended = record_of(entry, job.request.output_type)
    settle(job, **{name: getattr(ended, name) for name in _OF_THE_END})


async def adopted(job: Job, store: JobStore, *, waits: bool) -> bool:
    """Take over the job of another kernel; whether that worked. If not, the job ends as the
    journal says, or is detached."""
    try:
        if await store.adopt(job.record, waits=waits):
            return True
        entry = await asyncio.to_thread(store.find, job.record.key)
        if entry is not None and entry.ended_at is not None:  # while this one was about to
            settle_as_stored(job, entry)
        else:
            detach(job, "another kernel follows it")
    except BgmagicError as error:
        detach(job, str(error))
    return False


# The fields that the end of a job in another kernel may have changed since it was read here.
_OF_THE_END = (
    "status", "request", "partial", "rounds", "response_id", "accepted_at", "started_at",
    "checked_at", "ended_at", "response", "reason",
)  # fmt: skip


def row_now(key: str, find: Callable[[str], Job | None], store: JobStore) -> StoredJob | None:
    """The job of this process with this key as the journal is to have it now; None if it has ended,
    or is not run here. On the journal's thread."""
    job = find(key)
    config: RunConfig | None = None if job is None else job.run_config
    if job is None or config is None or job.outline.ended_at is not None:
        return None
    record = job.record
    made = made_row(store, record, config.server, config.poll_interval, config.deadline)
    seen = {"started_at": record.started_at, "checked_at": record.checked_at}
    # Who follows it no more has let others have it.
    return changed(made, seen | ({"owner": None} if job.status == Status.DETACHED else {}))


class NoController:
    """Does nothing for a job: it is only read, or watched, and nobody else has its handle."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a job that is only read has no {name}")


def _position(entry: StoredJob) -> GroupPosition | None:
    if entry.group_key is None or entry.group_index is None or entry.group_details is None:
        return None
    return group_position(entry.group_key, entry.group_name, entry.group_index, entry.group_details)


def check_attachable(
    entry: StoredJob,
    store: JobStore,
    server: ServerConfig,
    free: Collection[str | None] | None,
    now: float,
) -> None:
    """Check that this process may attach the open job ``entry`` at ``server``.

    Args:
        free: the owners whose jobs may be taken, where they are known.
        now: seconds since the epoch; a job that nobody may send any more ends then.

    Raises:
        BadInput: another server accepted it, a living kernel follows it, or nobody may send it.
    """
    try:
        _check(entry, store, server, free)
    except Unsendable as error:
        store.mark_unsendable(entry, str(error), now)
        raise


def _check(
    entry: StoredJob, store: JobStore, server: ServerConfig, free: Collection[str | None] | None
) -> None:
    which = entry.name or entry.response_id or entry.key
    if entry.server != server.name:
        embedded = entry.server == "bgmagic.local"
        how = "%bglocal switches to it" if embedded else "configure that one and attach again"
        raise BadInput(f"{which} was sent to {entry.server}, not to {server.name}: {how}")
    if not (store.is_unowned(entry) if free is None else entry.owner in free):
        raise BadInput(f"{which} is followed by another kernel that is alive")
    # Of a batch, whose jobs wait until it is asked for, the server's list tells if it was made.
    in_batch = entry.batch is not None and entry.status != Status.WAITING
    if entry.response_id is None and not in_batch and store.is_elsewhere(entry):
        raise BadInput(
            f"{which} was submitted on another host: only a kernel there can send it, or tell "
            "if it was sent; once that host is gone for good, its cell with --again (a sweep's "
            "with --again --reuse) sends it from here: what it was just sending is paid twice"
        )
    if entry.response_id is None and entry.status == Status.WAITING and not entry.sendable:
        raise Unsendable(
            f"{which} can't be sent: its request held a secret, which the journal does not "
            "keep; run its cell again"
        )
    # Where several hosts share the journal's folder, users may have this host's jobs sent from
    # another once its kernels are gone. When one comes back, it is not to pay for them again.
    unsent = entry.response_id is None and entry.status == Status.WAITING
    if unsent and (later := store.sent_elsewhere(entry)):
        raise Unsendable(
            f"{which} was not sent here, and then from another host; %bgattach "
            f"{later[0].response_id or later[0].key} follows that one"
        )


def stored_run_config(job: Job, store: JobStore, server: ServerConfig) -> RunConfig:
    """Make the `RunConfig` to send a job of an earlier kernel again.

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


def with_key_of_today(config: RunConfig, destination: Callable[[], ServerConfig]) -> RunConfig:
    """``config`` with the credentials configured now, if they are for the same server."""
    try:
        today = destination()
    except BadInput:  # no key any more
        return config
    same = today.name == config.server.name
    return replace(config, server=today, same_key=True) if same else config


@dataclass(frozen=True)
class VariableHandover:
    """Moves the variables that still hold a detached job to the job that replaces it."""

    job: Job

    def assign(self, successor: Job) -> None:
        """Assign ``successor`` to the variables that still hold the detached job."""
        self.job.move_variables_to(successor)

    def replace(self, job: Job, successor: Job | Answer) -> None:
        """Assign ``successor`` to the variables that still hold ``job``."""
        for variable in self.job._variables:
            variable.replace(job, successor)


def reattach(job: Job, store: JobStore, attach: Callable[[StoredJob, Variable], Job]) -> Job:
    """Attach the detached ``job`` again; returns the new handle, which gets its variables.

    Past its deadline it is polled once.

    Args:
        attach: attaches a job of the journal.

    Raises:
        BadInput: ``job`` is not detached, or can't be attached.
    """
    if job.status != Status.DETACHED:
        raise BadInput(f"{job!r} is not detached: there is nothing to pick up")
    entry = store.find(job.record.key)
    if entry is None:
        raise BadInput(f"the journal does not have it; %bgattach {job.response_id} follows it")
    # Moved before the new handle can end, so that its answer finds it in the variables.
    return attach(entry, VariableHandover(job))


def fetch_cited(
    job: Job, server: ServerConfig, file_id: str, container: str | None, limit: int
) -> bytes:
    """Fetch a file that the answer of ``job`` cites from ``server``; waits for it.

    Raises:
        BgmagicError: the job was sent to another server, or the file can't be had.
    """
    from bgmagic.transport.sdk import fetch_file  # few answers have any

    if server.name != job.record.server:
        raise BadInput(f"{file_id} is at {job.record.server}, and jobs go to {server.name} now")
    return fetch_file(server, file_id, container, limit)
