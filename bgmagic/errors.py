"""Everything bgmagic raises, as one tree.

    BgmagicError
    ├── BadInput (ValueError)        the cell or the call is wrong; nothing was sent
    │   └── Unsendable               a job of the journal's, whose request held a secret
    ├── NotReady (TypeError)         a job was used as if it were its text
    ├── ServerError                  one call to the server failed; says whether it was accepted
    └── JobError                     a job did not end with an answer; has .job
        ├── JobFailed                the server failed at it, or refused to take it
        ├── JobIncomplete            stopped early; the partial text is in job.text
        ├── JobCancelled (concurrent.futures.CancelledError)
        ├── JobUnknown               it is unclear whether the server accepted it
        ├── JobLost                  accepted, but the server no longer knows it
        ├── NoAnswer                 completed, but with a refusal or without any text
        │   └── InvalidAnswer        completed, but the text in job.text does not fit its schema
        └── Detached                 still open at the server, and no longer watched from here

A message holds what is wrong and what to do about it; in a notebook each of them is one line.
"""

from __future__ import annotations

import concurrent.futures
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bgmagic.job import Job


def readable(text: str, most: int = 600) -> str:
    """``text`` from elsewhere as one line of at most ``most`` characters, for people to read.

    Control characters go: a terminal would obey them.
    """
    plain = "".join(c if c.isprintable() else " " for c in text[: 4 * most])
    line = " ".join(plain.split())
    return line if len(line) <= most else f"{line[:most]}…"


def counted(count: int) -> str:
    """So many jobs, as people say it: "1 job", "20 jobs"."""
    return "1 job" if count == 1 else f"{count} jobs"


class BgmagicError(Exception):
    """Anything bgmagic raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        # IPython asks for this instead of formatting a traceback through our own frames.
        return [f"{type(self).__name__}: {self}"]


class BadInput(BgmagicError, ValueError):
    """The cell, the option or the argument can't be used; nothing was sent."""


class Unsendable(BadInput):
    """The journal has not the whole request of a job that was never sent: it held a secret."""


class NotReady(BgmagicError, TypeError):
    """A job was used as text before (or without) there being an answer."""


class NotReadyAttribute(NotReady, AttributeError):
    """The same for an attribute of answers; an AttributeError too, so that ``hasattr`` works."""


class Accepted(Enum):
    """Whether the server took a request that failed."""

    NO = "no"
    UNCLEAR = "unclear"


class ServerError(BgmagicError):
    """One call to the server did not give a response object.

    Attributes:
        accepted: whether a create that failed like this can have been accepted. Reading calls
            change nothing at the server, so there it says nothing.
        status_code: the HTTP status, or None where no HTTP answer came.
        code: the server's own error code, verbatim, or None.
        passing: whether the very same call may well succeed later.
        told: whether the server itself said so, in the API's words; a proxy's page does not count.
        retry_after: seconds the server asked to wait before the next call, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        accepted: Accepted,
        status_code: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        passing: bool = False,
        told: bool = False,
    ) -> None:
        super().__init__(message)
        self.accepted = accepted
        self.status_code = status_code
        self.code = code
        self.retry_after = retry_after
        self.passing = passing
        self.told = told


class JobError(BgmagicError):
    """A job that ended, or is no longer watched, without an answer."""

    def __init__(self, message: str, job: Job) -> None:
        super().__init__(message)
        self.job = job


class JobFailed(JobError):
    """The server failed at the job, or certainly did not accept it."""


class JobIncomplete(JobError):
    """The server stopped early; ``job.text`` holds what there was by then."""


# Not asyncio's CancelledError: awaiting a cancelled job must not look like the awaiting task
# itself being cancelled.
class JobCancelled(JobError, concurrent.futures.CancelledError):
    """The job was cancelled."""


class JobUnknown(JobError):
    """The server may or may not have accepted the job; it is not sent again on its own."""


class JobLost(JobError):
    """The server accepted the job and no longer knows it: most likely it has expired."""


class NoAnswer(JobError):
    """The job completed, but what came is a refusal or has no text."""


class InvalidAnswer(NoAnswer):
    """The job completed, but its text, which is in ``job.text``, does not fit the schema."""


class Detached(JobError):
    """The job is still open at the server, but this kernel no longer watches it."""
