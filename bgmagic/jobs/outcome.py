"""Ends jobs, with the answer or the error that says why there is none, and tells of those left."""

from __future__ import annotations

import concurrent.futures
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bgmagic.api.replay import leaves_calls
from bgmagic.api.response import objects_in, read_output, word_in
from bgmagic.api.server import is_openai
from bgmagic.errors import BgmagicError, ServerError, public
from bgmagic.jobs.artifacts import images_in
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.record import JobRecord, Status
from bgmagic.text import and_more, count_jobs, one_line
from bgmagic.values import as_dict


@public
class JobError(BgmagicError):
    """A job that ended, or is no longer watched, without an answer.

    Attributes:
        job: which one; None in an error that was unpickled, as in one from a process of a pool.
        response_id: the server's id of its response when it was raised, or None.
    """

    def __init__(self, message: str, job: Job) -> None:
        super().__init__(message)
        self.job = job
        self.response_id = job.response_id


@public
class JobFailed(JobError):
    """The server failed at the job, or certainly did not accept it."""


@public
class JobIncomplete(JobError):
    """The server stopped early; ``job.text`` holds what there was by then."""


# Not asyncio's CancelledError: awaiting a cancelled job must not look like the awaiting task
# itself being cancelled.
@public
class JobCancelled(JobError, concurrent.futures.CancelledError):
    """The job was cancelled."""


@public
class JobUnknown(JobError):
    """The server may or may not have accepted the job; it is not sent again on its own."""


@public
class JobLost(JobError):
    """The server accepted the job and no longer knows it: most likely it has expired."""


@public
class NoAnswer(JobError):
    """The job completed, but what came is a refusal or has no text."""


@public
class InvalidAnswer(NoAnswer):
    """The job completed, but its text, which is in ``job.text``, does not fit the schema."""


@public
class Detached(JobError):
    """The job is still open at the server, but this kernel no longer watches it."""


def forgotten(server: str) -> str:
    """Say that the server of this address no longer knows a response, and why that may be."""
    if is_openai(server):
        why = (
            "OpenAI keeps one for 30 days, and for about 10 minutes in projects with zero data "
            "retention"
        )
    else:
        why = (
            "one that keeps responses in memory forgets them when it restarts, others after a time "
            "that their settings say"
        )
    return f"the server no longer knows this response: {why}"


CLAIMED_ELSEWHERE = "another kernel sends it, or the journal can't say that none does"

SHUTDOWN = "the kernel is shutting down"

POLLING = "this thread polls the jobs; waiting for one here would never end"

FORKED = (
    "this process was forked from the one that follows the job, and never hears of its end: wait "
    "for it there, or start this process with multiprocessing's spawn and give it the answer"
)

NOT_VISIBLE = "it is not visible with this key; another one had sent it"


def why_lost(record: JobRecord, words: str) -> str:
    """Say that the server does not know a job's response; ``words``: how it says so."""
    if record.status == Status.ATTACHED:  # it has never said anything else of this id
        return f"the server does not know a response of this id, or no longer; it says: {words}"
    return forgotten(record.server)


# Words of other servers for why they stopped early; the API's own are told as they are.
_INCOMPLETE = {"length": "it reached the limit of output tokens"}


def unclear(failure: str) -> str:
    """Say that ``failure`` leaves it open whether the server accepted the job."""
    return (
        "it is unclear whether the server accepted this job, and it was not sent again, since that "
        f"could be paid twice; job.resend() sends it on purpose: {failure}"
    )


def past_deadline(job: Job, deadline: float) -> str:
    """Say that the job had not ended ``deadline`` seconds after its acceptance."""
    unit, size = next(((u, s) for u, s in (("h", 3600), ("min", 60)) if deadline >= s), ("s", 1))
    return (
        f"it was still {job.record.status} {deadline / size:g} {unit} after it was accepted, "
        f"the deadline; the server goes on with {job.response_id}"
    )


def why_not_polled(record: JobRecord, failure: ServerError) -> str:
    """Say why a poll failed, for a job that goes on."""
    if failure.status_code is None:
        return f"offline, the job goes on at the server: {failure}"
    if failure.status_code not in (401, 403):
        return f"the poll failed, the job goes on: {failure}"
    # A new key does not count by itself for this job, which stays with its own.
    which = record.name if record.named else record.response_id
    hint = f"; once a new one is set, %bgattach {which} follows it with that" if record.name else ""
    return f"the key is refused, the job goes on: {failure}{hint}"


def settle(job: Job, *, stored: bool = False, **changes: Any) -> None:
    """End ``job`` with its last ``changes``, which make it terminal, and deliver its ending.

    Args:
        stored: whether the journal has its response just so, to be read there when it is looked at.
    """
    record = job.record.with_changes(**changes)
    job.settle(record, outcome_of(job, record), stored=stored)


def detach(job: Job, reason: str) -> None:
    """Stop watching ``job``: its waiters get ``reason``; its record stays as it is."""
    job.detach(Detached(f"{job.record.label} is no longer watched: {reason}", job))


def mirror(job: Job, source: Job) -> None:
    """Have the handle ``job`` say and end as ``source``, which stands in its place, does."""

    def tell(_: Job) -> None:
        if job.done():
            return
        if source.status == Status.DETACHED and source.error is not None:
            job.detach(source.error)
        elif source.done():
            job.settle(source.record, source.error or source.result(0))
        else:
            job.advance(**as_dict(source.record))

    if job.record.cancelling:
        source.cancel()
    source.add_listener(tell)
    tell(source)


def outcome_of(job: Job, record: JobRecord) -> Answer | JobError:
    """Make the answer or error that ``record``, the last one of ``job``, means."""
    response = record.response or {}
    if record.status == Status.COMPLETED:
        return _completed(job, record, response)
    if record.status == Status.INCOMPLETE:
        reason = word_in(response, "incomplete_details", "reason") or "the server gave no reason"
        reason = _INCOMPLETE.get(reason, reason)
        partial = "the partial text is in .text" if record.text else "there is no text yet"
        return JobIncomplete(f"stopped early: {reason}; {partial}", job)
    if record.status == Status.CANCELLED:
        if record.reason:
            return JobCancelled(f"it was cancelled {record.reason}", job)
        # A server that shuts down says so, too, of what nobody asked it to cancel.
        by_us = "it was cancelled" if record.cancelling else "the server cancelled it"
        return JobCancelled(by_us, job)
    if record.status == Status.UNKNOWN:
        return JobUnknown(record.reason or "the server's answer got lost", job)
    if record.status == Status.LOST:
        return JobLost(record.reason or "the server no longer knows it", job)
    from bgmagic.api.error_body import failure_message  # most jobs don't fail

    code = word_in(response, "error", "code")
    message = failure_message(response) or record.reason
    told = ": ".join(word for word in (code, message) if word) or "the server gave no reason"
    return JobFailed(told, job)


def _completed(job: Job, record: JobRecord, response: Mapping[str, Any]) -> Answer | NoAnswer:
    output = read_output(response)
    if output.refusal:
        return NoAnswer(f"completed, but the model refused: {one_line(output.refusal)}", job)
    # An image may be all that was asked for.
    if not output.text.strip() and (record.request.text_format or not images_in(response)):
        return NoAnswer(f"completed, but {_without_text(record, response)}", job)
    form = record.request.text_format
    if form is None:
        return Answer(output.text, response, job, commentary=output.commentary)
    from bgmagic.api.structured_output import parse_output  # most answers are plain text

    try:
        data = parse_output(output.text, form, record.request.output_type)
    except ValueError as error:
        reason = f"completed, but the text does not fit the schema: {error}; it is in .text"
        return InvalidAnswer(reason, job)
    return Answer(output.text, response, job, data=data, commentary=output.commentary)


def _without_text(record: JobRecord, response: Mapping[str, Any]) -> str:
    """What the output has instead of an answer, and where that is, as a part of a sentence."""
    rounds = record.rounds
    if rounds is not None and rounds.is_used_up and leaves_calls(response):
        return (
            f"after {len(rounds.done)} rounds of calls the model still asks for more: --max-rounds "
            "lets it go on; the calls are in .steps"
        )
    if record.preview is not None and record.preview.text.strip():
        return "the response has no text; what was streamed before is in .text, in this kernel only"
    if read_output(response).commentary.strip():
        return "with commentary only and no final answer; what it says is in .commentary"
    kinds = {str(item.get("type")) for item in objects_in(response.get("output"))}
    if kinds == {"reasoning"}:
        return (
            "only with reasoning and without any text: the model stopped there, or the server's "
            "parser took the answer for reasoning; .response has it"
        )
    named = one_line(", ".join(sorted(kinds - {"message", "reasoning"})), 100)
    return "without any text" + (f"; .response has its output: {named}" if named else "")


# As a process ends.

NAMED = 5  # jobs that are named; more are counted

# Pythons that start no thread as a process ends (CPython issue 113964): nothing can be sent then.
NO_THREADS = (3, 12) <= sys.version_info < (3, 12, 2)
TOO_LATE = "This Python starts no thread as it ends; 3.12.2 does, and job.result() waits before."


def shutdown_message(
    left: Sequence[Job], written: Callable[[Job], bool], unwritten: Mapping[str, int] | None = None
) -> str:
    """One line about the jobs among ``left`` that are not over, or "".

    Args:
        left: the jobs that had not ended when the process was about to.
        written: whether a journal that outlives the process has the job.
        unwritten: how many jobs of which sweeps were not written down yet, so never sent.
    """
    # On a slow machine the loop thread may not have come to detach them.
    begun = {job for job in left if not job.done() and job.status == Status.SUBMITTING}
    alive = (job for job in left if job not in begun)
    going_on = [job for job in alive if job.status == Status.DETACHED or not job.done()]
    # A job of a batch gets its own id with its answer.
    sent = [job for job in going_on if job.response_id or job.record.accepted_at]
    others = set(going_on).difference(sent)
    waiting = [job for job in going_on if job in others and written(job)]
    others.difference_update(waiting)
    counted = tuple(f"{name}[" for name in unwritten or ())  # handles of these are among them
    unsent = [job for job in going_on if job in others and not str(job.name).startswith(counted)]
    unclear = [job for job in left if job.status == Status.UNKNOWN or job in begun]
    parts = [
        _named(sent, "still at work at the server"),
        _named(waiting, "to be sent by the next kernel that attaches"),
        _how(sent + waiting, written),
        _named(unsent, "unsent and written down nowhere"),
        TOO_LATE if unsent and NO_THREADS else "",
        _named(unclear, "unknown, accepted by the server or not"),
        *(
            f"{count_jobs(count)} of {one_line(name, 80)} were not written down yet and are "
            "not sent; its cell, run again, sends them."
            for name, count in (unwritten or {}).items()
        ),
    ]
    line = " ".join(part for part in parts if part)
    return f"bgmagic: {line}" if line else ""


def _named(jobs: Sequence[Job], what: str) -> str:
    if not jobs:
        return ""
    named = [one_line(job.name or job.response_id or "no name", 80) for job in jobs[:NAMED]]
    count = "1 job is" if len(jobs) == 1 else f"{len(jobs)} jobs are"
    return f"{count} {what}: {and_more(named, len(jobs))}."


def _how(jobs: Sequence[Job], written: Callable[[Job], bool]) -> str:
    """What to type in another kernel to follow ``jobs``."""
    if not jobs:
        return ""
    if len(jobs) > NAMED:
        return "In another kernel, %load_ext bgmagic, then %bgjobs --all lists them."
    names = Counter(job.name for job in jobs)
    words = []
    for job in jobs:
        # The journal knows a job by its variable, the server by its id.
        by_name = job.record.named and names[job.name] == 1 and written(job)
        which = job.name if by_name else job.response_id or job.record.key
        words.append(one_line(which or "", 400))
    return f"In another kernel, %load_ext bgmagic, then %bgattach {' '.join(words)}"
