"""The record of a job at one moment, its position in a group, and the protocols around a job.

The protocols take a job as ``Any``: they stand below `Job`, which knows none of its users.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from bgmagic.api.request import Request
from bgmagic.api.response import (
    KeptResponse,
    ReadsResponses,
    decompressed,
    read_output,
    read_summary,
)
from bgmagic.api.server import is_openai
from bgmagic.api.words import WINDOW_SECONDS
from bgmagic.errors import public
from bgmagic.jobs.steps import FunctionRounds, with_all_usage
from bgmagic.text import and_more
from bgmagic.values import dataclass, with_changes

if TYPE_CHECKING:
    from bgmagic.api.batch import RequestCounts


class Variable(Protocol):
    """A variable that gets a job, and then its answer."""

    def assign(self, job: Any) -> None:
        """Assign the job, as it is submitted."""

    def replace(self, job: Any, successor: Any) -> None:
        """Assign ``successor``, an answer or a job, if the variable still holds ``job``."""


Listener = Callable[[Any], None]  # called with the job


class GroupDisplays(Protocol):
    """Shows groups. A group is ``Any`` here."""

    def board(self, group: Any) -> Any:
        """Make the live display of all jobs of ``group``, a widget."""

    def bundle(self, group: Any) -> dict[str, Any]:
        """Show ``group`` as it is now, as a MIME bundle."""


class SendGate(Protocol):
    """What may hold a job back before it is sent; may be asked from any thread."""

    def is_set(self) -> bool:
        """Whether anything can be held back at all; quick."""

    def refusal(self, record: Any) -> str | None:
        """Why the job of ``record`` can't be sent now, in one line; None lets it. Reads a file."""

    def refusal_all(self, records: Any) -> str | None:
        """The same of jobs that are sent together, all or none."""


class JobController(Protocol):
    """Runs jobs: what a job asks of its manager."""

    @property
    def responses(self) -> ReadsResponses:
        """Reads the responses of ended jobs that only the journal has."""

    def ending_of(self, job: Any, record: JobRecord) -> Any:
        """The answer, or the error, that ``record``, the last one of ``job``, means."""

    def cancel(self, job: Any) -> bool:
        """Request that the job be cancelled; False if it has ended."""

    def decide(self, job: Any, call_id: str | None, *, allow: bool) -> None:
        """Let a call of a function run, or not, that waits for somebody's word; None is all."""

    def resend(self, job: Any) -> Any:
        """Send the job again as a new one."""

    def resend_all(self, jobs: Any) -> list[Any]:
        """Send jobs again as new ones: those that were in a batch in a new one."""

    def why_not_wait(self) -> str:
        """Why the caller would wait for a job for ever, or ""."""

    def fetch_file(self, job: Any, file_id: str, container: str | None, limit: int) -> bytes:
        """The content of a file that the job's answer cites."""

    def run_callback(self, function: Callable[[Any], object], job: Any) -> None:
        """Call ``function(job)`` soon, off the loop thread."""

    def make_card(self, job: Any) -> Any:
        """Make the live display of ``job``, a widget."""


KEPT = 30 * 86400.0  # seconds for which OpenAI keeps a response (its guide to background mode)


@public
class Status(StrEnum):
    """The words for a status. A server may use others; those are shown and polled on."""

    WAITING = "waiting"
    SUBMITTING = "submitting"
    ATTACHED = "attached"
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    LOST = "lost"
    DETACHED = "detached"


class Note(StrEnum):
    """What else the user should know of a job, in words."""

    NOT_WRITTEN_YET = (
        "not sent yet: it waits until the journal has written it down, which takes long, as where "
        "another program keeps that locked"
    )
    NO_ANSWER_YET = "the server has not answered yet; it may not know background mode"
    SAYS_QUEUED = "this server may say queued while it works"
    NOT_STREAMED = "sent without --stream, which this server refuses for it"
    SENT_WHOLE = "sent with the whole conversation: the server no longer has the response before it"
    NOT_BY_PREVIOUS = (
        "sent with the whole conversation: this server, or the project of this key, goes on from "
        "no response by its id"
    )
    UNREAD = "this server did not read the turns before it; --no-previous sends them all"
    ONE_OF_BATCH = (
        "a request of a batch can't be cancelled by itself: cancel the group, and what is done by "
        "then is kept"
    )
    BATCH_TWICE = (
        "the server has made a second batch of it, which costs too: that was asked to be cancelled "
        "unless it had ended"
    )
    BATCH_ELSEWHERE = (
        "a kernel with a copy of this journal has had the server make the same batch: the first "
        "counts, and only the kernel that had the other made cancels that, which costs until then"
    )
    FROM_STREAM = (
        "taken from the end of its stream, since the server does not keep the response to be "
        "asked for"
    )


# Those that still matter when a job has ended.
LASTING_NOTES = frozenset(
    {
        Note.NOT_STREAMED,
        Note.FROM_STREAM,
        Note.SENT_WHOLE,
        Note.NOT_BY_PREVIOUS,
        Note.UNREAD,
        Note.BATCH_TWICE,
        Note.BATCH_ELSEWHERE,
    }
)


@dataclass(frozen=True)
class Preview:
    """The output of a streamed response so far.

    Attributes:
        text: the output text.
        reasoning: the summaries of the reasoning, if the server sends any.
        commentary: what the model says on its way to the answer.
    """

    text: str = ""
    reasoning: str = ""
    commentary: str = ""


@dataclass(frozen=True)
class JobRecord:
    """All that is known of a job at one moment. Times are seconds since the epoch, or None.

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
        partial: JSON text of a `PartialPrompt`, until the prompt is complete; then None.
        waits_for: the names of the jobs whose answers it waits for.
        notes: what else the user should know; not in the journal.
        position: its position in its group, if it belongs to one.
        over_budget: whether it is sent whatever the budget says.
        batch: our own name of the batch that it goes to the server in; None: it goes by itself.
        batch_id: the server's id of that batch, once this process has heard of it.
        batch_counts: how far its batch is at the server; one open job of a batch has it, for all.
        rounds: the functions that its model may call, and the calls so far; None without any.
    """

    # Of a sweep, and mostly of all jobs of a cell.
    ALIKE: ClassVar = (
        "server", "submitted_at", "named", "notebook", "reason", "trouble", "offline",
        "cancelling", "partial", "waits_for", "notes", "batch", "batch_id", "batch_counts",
        "over_budget", "rounds",
    )  # fmt: skip

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
    partial: str | None = None
    waits_for: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    position: GroupPosition | None = None
    batch: str | None = None
    batch_id: str | None = None
    batch_counts: RequestCounts | None = None
    over_budget: bool = False
    rounds: FunctionRounds | None = None
    key: str = field(default_factory=lambda: os.urandom(16).hex())

    def with_changes(self, **changes: Any) -> JobRecord:
        """Copy with ``changes``."""
        return with_changes(self, changes)

    def with_note(self, note: Note, *, there: bool = True) -> tuple[Note, ...]:
        """Its notes with ``note``, or without it."""
        others = tuple(one for one in self.notes if one != note)
        return (*others, note) if there else others

    def for_resend(self, server: str, at: float) -> JobRecord:
        """The record of a new job that asks the same, submitted at ``at``."""
        return JobRecord(
            request=self.request,
            server=server,
            submitted_at=at,
            name=self.name,
            named=self.named,
            notebook=self.notebook,
            partial=self.partial,
            position=self.position,
            over_budget=self.over_budget,
            rounds=None if self.rounds is None else self.rounds.fresh(),
        )

    @property
    def is_unrendered(self) -> bool:
        """Whether its item never became a prompt, or has not yet: there is nothing to send."""
        return self.request.text.startswith('{"model":') and not self.request.body.get("input")

    @property
    def outgoing(self) -> Request:
        """The request that is POSTed: the one that was asked, or that of its newest round."""
        return self.request if self.rounds is None else self.rounds.request(self.request)

    @property
    def whole_body(self) -> dict[str, Any]:
        """The body of that request, with all of its input."""
        return self.request.body if self.rounds is None else self.rounds.body(self.request)

    @property
    def sent_whole(self) -> dict[str, Any]:
        """The changes by which the server gets all of the input."""
        if self.rounds is None or not self.rounds.done:
            return {"request": self.request.whole()}
        return {"rounds": replace(self.rounds, whole=True)}

    @property
    def paid_response(self) -> Mapping[str, Any] | None:
        """The response with the tokens of all its rounds, as they are paid for; of a job that ended
        between two rounds, those that there were."""
        known = self.response or {}
        # All that tells a price is at hand.
        known = known.at_hand if isinstance(known, KeptResponse) else known
        return with_all_usage(self.rounds, known) or None

    @property
    def label(self) -> str:
        """The job's name in a sentence: "job 'critique'", or "this job"."""
        return f"job {self.name!r}" if self.name else "this job"

    @property
    def text(self) -> str:
        """The output text so far: partial of a job that streams or ended early, else mostly ""."""
        found = read_output(self.response or {}).text
        return found or (self.preview.text if self.preview else "")

    @property
    def commentary(self) -> str:
        """What the model said on its way to the answer so far, or ""."""
        found = read_output(self.response or {}).commentary
        return found or (self.preview.commentary if self.preview else "")

    @property
    def summary(self) -> str:
        """What the model says of its reasoning so far, where that was asked for, or ""."""
        found = read_summary(decompressed(self.response) or {})
        return found or (self.preview.reasoning if self.preview else "")

    @property
    def note_text(self) -> str:
        """The notes as a part of a sentence, or ""."""
        return "; ".join(self.notes)

    @property
    def fingerprint(self) -> str:
        """Hash that is equal for jobs that ask the same of the same server."""
        return self.request.fingerprint(self.server, self.partial or "")

    def is_expired(self, now: float) -> bool:
        """Whether the server keeps its response no more, as far as that is known."""
        return is_openai(self.server) and now - (self.ended_at or self.submitted_at) > KEPT

    @property
    def window_ends_at(self) -> float | None:
        """When the window that was asked for ends, or None without one and before acceptance."""
        if self.accepted_at is None:
            return None
        seconds = WINDOW_SECONDS.get(self.request.window)
        return None if seconds is None else self.accepted_at + seconds

    @property
    def status_text(self) -> str:
        """The status as people read it: "waiting for critique" where that is what it does."""
        if not self.waits_for or self.status != Status.WAITING:
            return self.status
        return f"waiting for {and_more(self.waits_for[:3], len(self.waits_for))}"


def hashable(key: Any) -> Any:
    """Make an item's key of JSON, which has no tuples, hashable."""
    return tuple(map(hashable, key)) if isinstance(key, list) else key


@dataclass(frozen=True)
class GroupPosition:
    """A job's position in its group.

    Attributes:
        group: our own name of the group, unique.
        name: the group's variable if the user chose one, else None.
        index: which of the group's jobs it is, from 0.
        size: how many jobs the group has.
        in_flight: how many of them are at the server at once, at most.
        kind: what the items are: "list", "dict", "rows", or "" where there are none.
        key: the item's key in a dict.
        item: the item as far as JSON can hold it.
        settings: the swept settings of this job, by name.
        sample: which of the samples of the same request it is, from 0.
        samples: how many there are.
    """

    ALIKE: ClassVar = "group", "name", "size", "in_flight", "kind", "samples"

    group: str
    name: str | None
    index: int
    size: int
    in_flight: int
    kind: str = ""
    key: Any = None
    item: Any = None
    settings: tuple[tuple[str, Any], ...] = ()
    sample: int = 0
    samples: int = 1

    def moved(self, index: int, sample: int, item: Any, key: Any) -> GroupPosition:
        """Another position of the same group and settings."""
        return with_changes(self, {"index": index, "sample": sample, "item": item, "key": key})

    @property
    def details(self) -> dict[str, Any]:
        """The fields without a column of their own in the journal."""
        fields = {name: getattr(self, name) for name in _DETAILS}
        return fields | {"settings": [list(pair) for pair in self.settings]}


_DETAILS = ("size", "in_flight", "kind", "key", "item", "sample", "samples")


def group_position(group: str, name: str | None, index: int, details: str) -> GroupPosition:
    """Make the position that the journal has stored."""
    fields: Mapping[str, Any] = json.loads(details)
    settings = tuple((str(key), value) for key, value in fields["settings"])
    return GroupPosition(
        group, name, index, settings=settings, **{key: fields[key] for key in _DETAILS}
    )
