"""POSTs one request in the form that its server takes: streamed or not, by its previous response or
with all turns.

What a server certainly did not accept for its form goes out once more in the next one, written down
before that. What was seen of a server is remembered as long as the process lives.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bgmagic.api.request import Request
from bgmagic.api.response import is_terminal
from bgmagic.concurrency import Clock
from bgmagic.errors import ServerError
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import unclear
from bgmagic.jobs.record import Note, Status
from bgmagic.transport.client import CREATE_TIMEOUT, ResponsesClient
from bgmagic.transport.reply import Reply
from bgmagic.transport.streaming import EventStream

T = TypeVar("T")

# Seconds before a new job is begun, in a notebook: importing the SDK would compete with the end of
# the cell for the interpreter.
START_DELAY = 0.05 if "IPython" in sys.modules else 0.0

# Seconds without an answer to a create after which the user is told: background mode answers within
# one or two, and a server that does not know it only when the response is there.
NO_ANSWER_AFTER = 10.0

# The same of the journal, which takes some milliseconds, and 5 s where it is locked.
NOT_WRITTEN_AFTER = 1.0

# Seconds that a create is given to end once its job is cancelled: only with its response id can the
# server be asked to cancel, else the job is `unknown`, and may go on there.
CANCEL_GRACE = 5.0

_ANSWERED = 512  # ids: many more than the connections on which copies of their answers can come

_UNENDED = hash("")  # the text of an answer that was not terminal

_ALL = ""  # instead of a model: all of them

# Words by which servers refuse a field that they do not know or may not use, whatever it holds.
_NEVER = (
    "unsupported", "not supported", "not support", "unknown", "unrecognized", "unexpected",
    "extra inputs", "not permitted", "not implemented", "not allowed", "cannot be used",
)  # fmt: skip


class ServerBehavior:
    """What was seen of one server in this process. On the loop thread only.

    Attributes:
        says_queued: whether a job completed there that it had called queued until then.
        takes_previous: whether a request may go on from a response by its id, as far as is known.
    """

    def __init__(self) -> None:
        self.says_queued = False
        # By the newest ids that creates got: when, by which request, when made, and how ended.
        self._answered: dict[str, tuple[float, int, str, int]] = {}
        self.takes_previous = True
        self._unstreamed: set[str] = set()

    def streams(self, model: str) -> bool:
        """Whether background jobs of ``model`` may be streamed, as far as is known."""
        return not self._unstreamed & {_ALL, model}

    def is_new(self, reply: Reply, request: Request) -> bool:
        """Whether this answer to the create of ``request`` is no copy of another's, shortly before,
        by something on the way.

        The id alone does not tell: Ollama draws it from a million, a cache answers the same request
        the same, and a server that was started anew, or that stands in for one, counts anew.
        """
        response_id, now = reply.response.get("id"), time.monotonic()
        if not isinstance(response_id, str):
            return True
        ended = reply.text if is_terminal(reply.response) else ""
        answered = now, hash(request), str(reply.response.get("created_at")), hash(ended)
        before = self._answered.get(response_id)
        if before is not None and now - before[0] <= CREATE_TIMEOUT and before[1] != answered[1]:
            both_ended = _UNENDED not in (before[3], answered[3])
            if before[2] == answered[2] and not (both_ended and before[3] != answered[3]):
                return False
        self._answered.pop(response_id, None)
        self._answered[response_id] = answered
        if len(self._answered) > _ANSWERED:
            del self._answered[next(iter(self._answered))]
        return True

    def refuses_stream(self, model: str, failure: ServerError) -> bool:
        """Whether ``failure`` of a create says so; remembered for the model, or the server.

        Such a create was certainly not accepted: 501 says that the server can't do that at all.
        """
        words = str(failure).lower()
        if failure.status_code != 501 and not (
            failure.status_code in (400, 422) and "stream" in words
        ):
            return False
        self._unstreamed.add(_ALL if "background" in words else model)
        return True

    def refuses_previous(self, request: Request, failure: ServerError) -> bool:
        """Whether ``failure`` of a create says that the server can't go on from the response that
        ``request`` names; remembered if it can't from any. It was certainly not accepted then."""
        if request.previous is None or failure.maybe_accepted or failure.status_code == 429:
            return False
        words = f"{failure.code} {failure}".lower().replace("_", " ")
        named = "previous response", request.previous.response_id.lower().replace("_", " ")
        if failure.status_code not in (400, 404, 410, 422) or not any(n in words for n in named):
            return False
        if any(never in words for never in _NEVER):
            self.takes_previous = False
        return True


# A limit that is noticed more than LATE seconds too late is the process's own fault: the wait then
# goes on for LATE_GRACE seconds.
LATE = 1.0
LATE_GRACE = 5.0

_CLOCK = Clock()


class TimeLimit:
    """Limits one wait at a time, and can be shortened while it lasts. Belongs to one event loop."""

    __slots__ = ("_due", "_timeout", "_token")

    def __init__(self) -> None:
        self._timeout: asyncio.Timeout | None = None
        self._due = 0.0  # by the loop's time
        self._token: object = None

    @property
    def waiting(self) -> bool:
        """Whether something is waited for now."""
        return self._timeout is not None

    async def wait(self, seconds: float | None, awaitable: Awaitable[T]) -> T:
        """Wait for ``awaitable``, at most ``seconds``; None is without a limit.

        Raises:
            TimeoutError: the time was over, or `shorten` ended it.
        """
        try:
            async with asyncio.timeout(None) as self._timeout:
                if seconds is not None:
                    self._set(seconds)
                return await awaitable
        finally:
            self._timeout = self._token = None

    def _set(self, seconds: float) -> None:
        self._due = asyncio.get_running_loop().time() + seconds
        # A timer that many share: one each would be half of what a wait takes.
        self._token = _CLOCK.ring(self, seconds)

    def shorten(self, seconds: float) -> None:
        """End the wait after ``seconds`` from now, unless it ends sooner."""
        timeout = self._timeout
        if timeout is not None and not timeout.expired():
            soon = asyncio.get_running_loop().time() + seconds
            timeout.reschedule(min(soon, timeout.when() or soon))

    def ring(self, token: object) -> None:
        """End the wait that has this token: its time is over."""
        timeout = self._timeout
        if token != self._token or timeout is None or timeout.expired():
            return
        now = asyncio.get_running_loop().time()
        if now - self._due > LATE:
            # The process was stopped, or a cell kept the interpreter: the result may be there.
            self._set(LATE_GRACE)
        else:
            timeout.reschedule(now)


class NotedWhenLate:
    """Has a job say so while something that it waits for takes long."""

    __slots__ = ("_job", "_note", "_seconds", "_waits")

    def __init__(self, job: Job, note: Note, seconds: float) -> None:
        self._job, self._note, self._seconds = job, note, seconds
        self._waits = True

    def __enter__(self) -> None:
        _CLOCK.ring(self, self._seconds)

    def __exit__(self, *_: object) -> None:
        self._waits = False
        if self._job.record.notes:
            self._tell(there=False)

    def ring(self, _: object) -> None:
        """Note that the create has waited for long, unless it has ended."""
        if self._waits:
            self._tell(there=True)

    def _tell(self, *, there: bool) -> None:
        notes = self._job.record.with_note(self._note, there=there)
        if notes != self._job.record.notes:
            self._job.advance(notes=notes)


def noted_unwritten(job: Job) -> NotedWhenLate:
    """Has ``job`` say so while the journal takes long to write it down."""
    return NotedWhenLate(job, Note.NOT_WRITTEN_YET, NOT_WRITTEN_AFTER)


async def send_as_taken(
    job: Job,
    behavior: ServerBehavior,
    send: Callable[[Request], Awaitable[tuple[Reply, T]]],
    store: Callable[[], Awaitable[None]],
) -> tuple[Reply, T]:
    """POST the request of ``job``; once more without streaming, or with all turns of its
    conversation, where the server refuses it as it is.

    Args:
        send: POSTs a request.
        store: writes down the request that the job has.

    Raises:
        ServerError: as ``send`` raised it.
    """
    if job.request.streams and not behavior.streams(job.request.model):
        await _change(job, store, Note.NOT_STREAMED, request=job.request.unstreamed())
    if job.record.outgoing.previous is not None and not behavior.takes_previous:
        await _change(job, store, None, **job.record.sent_whole)
    while True:
        request = job.record.outgoing
        try:
            reply, rest = await send(request)
        except ServerError as failure:
            if behavior.refuses_previous(request, failure):
                note = Note.SENT_WHOLE if behavior.takes_previous else Note.NOT_BY_PREVIOUS
                await _change(job, store, note, **job.record.sent_whole)
            elif request.streams and behavior.refuses_stream(request.model, failure):
                await _change(job, store, Note.NOT_STREAMED, request=job.request.unstreamed())
            else:
                raise
        else:
            if request.previous is not None:
                _check_read(job, behavior, reply)
            return reply, rest


async def _change(
    job: Job, store: Callable[[], Awaitable[None]], note: Note | None, **changes: Any
) -> None:
    notes = job.record.notes if note is None else job.record.with_note(note)
    job.advance(notes=notes, **changes)
    await store()


def _check_read(job: Job, behavior: ServerBehavior, reply: Reply) -> None:
    """Say so if the server passed over the response that the request goes on from."""
    response = reply.response
    if "previous_response_id" in response and response["previous_response_id"] is None:
        behavior.takes_previous = False
        job.advance(notes=job.record.with_note(Note.UNREAD))


async def post_in_time(
    job: Job,
    client: ResponsesClient,
    behavior: ServerBehavior,
    limit: TimeLimit,
    total: float,
    store: Callable[[], Awaitable[None]],
) -> tuple[Reply, EventStream | None]:
    """POST the request of ``job``, in the form that its server takes; gives its events, too, where
    it streams.

    Args:
        limit: what cancelling the job cuts short.
        total: seconds that it may take.
        store: writes down the request that the job has.

    Raises:
        ServerError: there was no answer, or it came too late.
    """

    async def post(request: Request) -> tuple[Reply, EventStream | None]:
        if request.streams:
            reply, stream = await client.create_streamed(request, total)
        else:
            reply, stream = await client.create(request, total), None
        if not behavior.is_new(reply, request):
            if stream is not None:
                await stream.close()
            client.refuse_anothers(200)
        return reply, stream

    most = min(CANCEL_GRACE, total) if job.record.cancelling else total
    try:
        with NotedWhenLate(job, Note.NO_ANSWER_YET, NO_ANSWER_AFTER):
            return await limit.wait(most, send_as_taken(job, behavior, post, store))
    except TimeoutError:
        address = client.address
        about = f"no answer from {address} within {total:g} s"
        if job.record.cancelling:
            about = f"it was cancelled while it was being sent, and {address} did not answer"
        raise ServerError(about, maybe_accepted=True) from None


def ending_of(failure: ServerError, left: float, *, closing: bool) -> dict[str, Any] | None:
    """How a job ends whose create failed so, if it must not be sent again; else None.

    Args:
        left: seconds in which it may be sent again.
        closing: whether the process is about to end.
    """
    if failure.maybe_accepted:
        return {"status": Status.UNKNOWN, "reason": unclear(str(failure))}
    if not failure.retryable:
        return {"status": Status.FAILED, "reason": f"not accepted by the server: {failure}"}
    if left <= 0 or closing:
        return {"status": Status.FAILED, "reason": f"never sent: {failure}"}
    return None


def why_not_yet(failure: ServerError, job: Job) -> str:
    """Why a job is not sent yet, in words for its card."""
    if failure.status_code == 429 and job.request.tier == "flex":
        return f"the flex tier has no room now; it waits and is sent again: {failure}"
    return f"not sent yet: {failure}"


def record_changes(job: Job, reply: Reply, now: float) -> dict[str, Any]:
    """Work out the changes that a reply makes to the record."""
    word = reply.response.get("status")
    # Lean servers leave the status out: the last one stays.
    status = sys.intern(word) if isinstance(word, str) and word else job.record.status
    started = job.record.started_at
    if started is None and status not in (Status.QUEUED, Status.SUBMITTING, Status.ATTACHED):
        started = now
    return {
        "response": reply.response,
        "status": status,
        "started_at": started,
        "checked_at": now,
        "trouble": None,
        "offline": False,
    }
