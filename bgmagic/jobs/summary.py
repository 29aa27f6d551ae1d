"""Adds up the jobs of a group: counts, tokens, price, pace, the slowest and the failed.

Kept up to date job by job, so that a thousand jobs cost no more to show than those that changed.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bgmagic.api.pricing import Terms, price_of
from bgmagic.api.response import Usage
from bgmagic.jobs.job import Job
from bgmagic.text import one_line

SLOWEST = 5  # jobs that are shown as the slowest

REASONS = 20  # different reasons that are shown

NAMED = 6  # jobs that are named with a reason

PACE = 60.0  # seconds: the throughput is that of the newest so many

LENGTH = 160  # characters of a reason


@dataclass(frozen=True)
class JobFigures:
    """The figures of one job.

    Attributes:
        status: its status.
        ended_at: when it ended, seconds since the epoch, or None.
        tokens_in, tokens_out, tokens_reasoning: as the server counted them, or None.
        price: US dollars, or None where that is not known.
        reason: why it has no answer, or "".
    """

    status: str
    ended_at: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_reasoning: int | None = None
    price: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class FailureReason:
    """A reason why jobs have no answer.

    Attributes:
        status: what they ended as.
        text: the reason, in one line.
        jobs: those that ended so for this reason, in order.
    """

    status: str
    text: str
    jobs: Sequence[Job]

    @property
    def names(self) -> str:
        """The names of the first of these jobs."""
        first = [one_line(job.name or "", 80) for job in self.jobs[:NAMED]]
        more = len(self.jobs) - len(first)
        return ", ".join(first) + (f" and {more} more" if more else "")


class GroupSummary:
    """Keeps the sums of a group's jobs up to date."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = list(jobs)
        self._sums = [figures_of(job) for job in self._jobs]

    def take(self, index: int, job: Job) -> None:
        """Count the job at ``index`` as it is now."""
        self._jobs[index] = job
        self._sums[index] = figures_of(job)

    @property
    def size(self) -> int:
        """Number of jobs."""
        return len(self._jobs)

    @property
    def counts(self) -> dict[str, int]:
        """Number of jobs by status."""
        return dict(Counter(one.status for one in self._sums))

    @property
    def ended(self) -> int:
        """Number of jobs that have ended, or are no longer watched."""
        return sum(job.done() for job in self._jobs)

    def total(self, name: str) -> int | None:
        """The sum of ``tokens_in`` or another count; None if nobody counted."""
        known = [value for one in self._sums if (value := getattr(one, name)) is not None]
        return sum(known) if known else None

    @property
    def price(self) -> tuple[float | None, int]:
        """The price of the jobs so far (US dollars), and how many jobs have tokens and no known
        price."""
        known = [one.price for one in self._sums if one.price is not None]
        counted = sum(one.tokens_out is not None for one in self._sums)
        return (sum(known) if known else None), counted - len(known)

    def pace(self, now: float | None = None) -> float | None:
        """Jobs that ended a minute, over the newest `PACE` seconds; None before the first."""
        now = time.time() if now is None else now
        ended = (one.ended_at for one in self._sums)
        recent = [at for at in ended if at is not None and at > now - PACE]
        begun = min((job.record.submitted_at for job in self._jobs), default=now)
        span = min(PACE, now - begun)
        return len(recent) / span * 60 if recent and span > 0 else None

    def slowest(self) -> list[Job]:
        """Those of the jobs at the server that have taken longest, the slowest first; when all have
        ended, those that took longest."""
        running = [job for job in self._jobs if job.running()]
        chosen = running or [job for job in self._jobs if job.record.accepted_at is not None]
        return heapq.nlargest(SLOWEST, chosen, key=server_seconds)

    @property
    def failures(self) -> int:
        """Number of jobs that ended without an answer."""
        return sum(bool(one.reason) for one in self._sums)

    def reasons(self) -> list[FailureReason]:
        """The reasons why jobs have no answer, the most frequent first."""
        found: dict[tuple[str, str], list[Job]] = {}
        for job, one in zip(self._jobs, self._sums, strict=True):
            if one.reason:
                found.setdefault((one.status, one.reason), []).append(job)
        told = [FailureReason(*which, jobs) for which, jobs in found.items()]
        return sorted(told, key=lambda reason: -len(reason.jobs))[:REASONS]


def server_seconds(job: Job) -> float:
    """Seconds since the server accepted the job, or that it took from then on."""
    record = job.record
    begun = record.accepted_at or record.submitted_at
    return max(0.0, (record.ended_at or time.time()) - begun)  # the clock may be set back


def figures_of(job: Job) -> JobFigures:
    """Read the figures of ``job`` as it is now."""
    record = job.record
    response = record.response or {}
    status = one_line(job.status, 40)
    if not job.done():
        return JobFigures(status)
    reason = one_line(str(job.error), LENGTH) if job.error is not None else ""
    usage = Usage.of(response)
    price = price_of(response, record.server, Terms.of(record.request))
    return JobFigures(
        status,
        record.ended_at,
        tokens_in=usage.input,
        tokens_out=usage.output,
        tokens_reasoning=usage.reasoning,
        price=price,
        reason=reason,
    )
