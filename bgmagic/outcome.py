"""What a job that has ended gives: an answer, or the error that says why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bgmagic.answer import Answer, read_output
from bgmagic.errors import (
    InvalidAnswer,
    JobCancelled,
    JobError,
    JobFailed,
    JobIncomplete,
    JobLost,
    JobUnknown,
    NoAnswer,
    readable,
)
from bgmagic.status import Status

if TYPE_CHECKING:
    from bgmagic.job import Job


def outcome(job: Job) -> Answer | JobError:
    """What the terminal ``job`` ends with. An error text is never an answer."""
    record = job.record
    response = record.response or {}
    if record.status == Status.COMPLETED:
        return _completed(job, response)
    if record.status == Status.INCOMPLETE:
        reason = _field(response.get("incomplete_details"), "reason") or "the server gave no reason"
        partial = "the partial text is in .text" if job.text else "there is no text yet"
        return JobIncomplete(f"stopped early: {reason}; {partial}", job)
    if record.status == Status.CANCELLED:
        when = f" {record.reason}" if record.reason else ""
        return JobCancelled(f"it was cancelled{when}", job)
    if record.status == Status.UNKNOWN:
        return JobUnknown(record.reason or "the server's answer got lost", job)
    if record.status == Status.LOST:
        return JobLost(record.reason or "the server no longer knows it", job)
    code = _field(response.get("error"), "code")
    message = _field(response.get("error"), "message") or record.reason
    told = ": ".join(word for word in (code, message) if word) or "the server gave no reason"
    return JobFailed(told, job)


def _completed(job: Job, response: Mapping[str, Any]) -> Answer | NoAnswer:
    output = read_output(response)
    if output.refusal:
        return NoAnswer(f"completed, but the model refused: {readable(output.refusal)}", job)
    if not output.text.strip():
        return NoAnswer(f"completed, but without any text{_instead(response)}", job)
    form = job.request.format
    if form is None:
        return Answer(output.text, response, job)
    from bgmagic.schema import validated  # most answers are plain text

    try:
        data = validated(output.text, form, job.request.reader)
    except ValueError as error:
        told = f"completed, but the text does not fit the schema: {error}; it is in .text"
        return InvalidAnswer(told, job)
    return Answer(output.text, response, job, data=data)


def _instead(response: Mapping[str, Any]) -> str:
    """What the output has instead of text, if anything, as a part of a sentence."""
    output = response.get("output")
    items = output if isinstance(output, list) else []
    kinds = {str(item.get("type")) for item in items if isinstance(item, dict)}
    named = readable(", ".join(sorted(kinds - {"message", "reasoning"})), 100)
    return f"; .response has its output: {named}" if named else ""


def _field(value: object, key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    return "" if found is None else readable(str(found))
