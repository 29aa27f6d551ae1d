"""Why a job is watched no more or has no answer, in words: one line each, with what to do."""

from __future__ import annotations

from bgmagic.job import Job

RETENTION = (
    "the server no longer knows this response. Servers keep one for a limited time, OpenAI for 30 "
    "days and for about 10 minutes in projects with zero data retention"
)
TAKEN = "another kernel sends it, or the journal can't say that none does"
HIDDEN = "it is not visible with this key; another one had sent it"


def unclear(failure: str) -> str:
    """That ``failure`` leaves it open whether the server accepted the job."""
    return (
        "it is unclear whether the server accepted this job, and it was not sent again, since that "
        f"could be paid twice; job.resend() sends it on purpose: {failure}"
    )


def past_deadline(job: Job, deadline: float) -> str:
    """That ``deadline`` seconds after its acceptance the job had not ended."""
    unit, size = next(((u, s) for u, s in (("h", 3600), ("min", 60)) if deadline >= s), ("s", 1))
    return (
        f"it was still {job.record.status} {deadline / size:g} {unit} after it was accepted, "
        f"the deadline; the server goes on with {job.response_id}"
    )
