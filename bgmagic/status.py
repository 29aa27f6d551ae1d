"""The words for a status, and what is known of a job at one moment.

Values only: who moves a job from one to the next is the manager.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from bgmagic.place import Place
from bgmagic.request import Request

if TYPE_CHECKING:
    from bgmagic.draft import Draft


class Status(StrEnum):
    """The words for a status. A server may use others; those are shown and polled on."""

    WAITING = "waiting"
    SUBMITTING = "submitting"
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    LOST = "lost"
    DETACHED = "detached"


# The statuses that the server changes no more (its OpenAPI description, Response.status).
SERVER_TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.INCOMPLETE, Status.CANCELLED})


@dataclass(frozen=True)
class Preview:
    """What a streamed response says so far.

    Attributes:
        text: the output text.
        reasoning: the summaries of the reasoning, if the server sends any.
    """

    text: str = ""
    reasoning: str = ""


@dataclass(frozen=True)
class JobRecord:
    """What is known of a job at one moment. Times are seconds since the epoch, or None.

    Attributes:
        key: our own name of the job, unique.
        request: the request body.
        server: the name of the server it goes to.
        name: the variable that waits for the answer, or None.
        named: whether the user chose that name.
        notebook: the notebook it was sent from, or "".
        status: the server's word verbatim once there is one, before that a local one.
        submitted_at: when the cell ran.
        accepted_at: when the server gave an id.
        started_at: when the server first said something else than ``queued``.
        checked_at: when the server last answered.
        ended_at: when the job became terminal. None means it has not: whether a job is terminal is
            never read off the status word, since a server may use any word.
        response_id: the server's id.
        response: the newest response object.
        reason: why the job was not or perhaps not accepted, in one line.
        trouble: what went wrong with the newest call, while the job goes on.
        offline: whether the newest call got no answer at all.
        preview: what a streamed response says so far; the response is the truth once it has ended.
        cancelling: whether the user has asked to cancel.
        draft: what is still to go into the request, which is not sent before; or None.
        waits_for: the names of the jobs whose answers it waits for.
        place: where it stands in its group, if it belongs to one.
    """

    request: Request
    server: str
    submitted_at: float
    name: str | None = None
    named: bool = False
    notebook: str = ""
    status: str = Status.WAITING
    accepted_at: float | None = None
    started_at: float | None = None
    checked_at: float | None = None
    ended_at: float | None = None
    response_id: str | None = None
    response: Mapping[str, Any] | None = None
    reason: str | None = None
    trouble: str | None = None
    offline: bool = False
    preview: Preview | None = None
    cancelling: bool = False
    draft: Draft | None = None
    waits_for: tuple[str, ...] = ()
    place: Place | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def but(self, **changes: Any) -> JobRecord:
        """The same with ``changes``. By hand: a poll mostly changes one time, of 25 fields."""
        unknown = changes.keys() - self.__dict__.keys()
        if unknown:
            raise TypeError(f"a record has no {', '.join(sorted(unknown))}")
        changed = object.__new__(JobRecord)
        changed.__dict__.update(self.__dict__, **changes)
        return changed

    def anew(self, server: str, at: float) -> JobRecord:
        """The record of a new job that asks the same, submitted at ``at``."""
        return JobRecord(
            request=self.request,
            server=server,
            submitted_at=at,
            name=self.name,
            named=self.named,
            notebook=self.notebook,
            draft=self.draft,
            place=self.place,
        )

    @property
    def fingerprint(self) -> str:
        """What it has in common with those that ask the same of the same server."""
        return self.request.fingerprint(self.server, self.draft.text if self.draft else "")

    @property
    def words(self) -> str:
        """The status as people read it: "waiting for critique" where that is what it does."""
        if not self.waits_for or self.status != Status.WAITING:
            return self.status
        first, more = self.waits_for[:3], len(self.waits_for) - 3
        return f"waiting for {', '.join(first)}{f' and {more} more' if more > 0 else ''}"
