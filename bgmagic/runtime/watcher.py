"""Watches one accepted response to its end: polls, listens to its stream, cancels.

`ResponseWatcher` waits and polls; `StreamListener` reads the events for the preview. A stream is
never the truth about a job: the answer is what a poll says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from bgmagic.api.response import SERVER_TERMINAL, is_terminal
from bgmagic.concurrency import Clock
from bgmagic.errors import ServerError
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import why_not_polled
from bgmagic.jobs.record import Note, Preview, Status
from bgmagic.runtime.pacing import LIMIT, AcceptedResponse, PollSchedule, ServerEndpoint
from bgmagic.runtime.sending import record_changes
from bgmagic.storage.job_store import JobStore
from bgmagic.transport.reply import HTTPResponse, Reply, without_half_characters
from bgmagic.transport.streaming import EventStream, PartialOutput, ServerSentEvent
from bgmagic.values import replace

logger = logging.getLogger("bgmagic")

# Seconds between two previews at least: people read no faster, browsers draw slower.
PREVIEW_INTERVAL = 0.1

REOPEN_DELAY = 5.0  # seconds between tries to open a stream again; the first ones come sooner
GIVE_UP_AFTER = 5  # tries in a row that brought no event
PREVIEW_SIZE = 64_000_000  # characters; no model writes so many, and the polls bring the answer

# Answers by which a server says that it will not stream this response.
_NOT_STREAMED = frozenset({200, 400, 405, 410, 415, 422, 501})


class StreamListener:
    """Reads one response's events, over several connections if need be. On the loop thread only."""

    def __init__(
        self,
        reopen: Callable[[int | None], Awaitable[EventStream]],
        on_preview: Callable[[Preview], None],
        on_response: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """Make the listener; `run` listens.

        Args:
            reopen: opens the stream after the event of that number, or from its beginning.
            on_preview: called with the output so far, at most ten times a second.
            on_response: called with each response object in the stream.
        """
        self._reopen = reopen
        self._on_preview = on_preview
        self._on_response = on_response
        self._partial = PartialOutput()
        self._number: int | None = None
        self.connected = False  # whether events come now
        self._told_at = 0.0
        self._due: asyncio.TimerHandle | None = None

    async def run(self, stream: EventStream | None) -> None:
        """Listen until the response has ended, or the server won't stream it (any more).

        Args:
            stream: the connection on which it was created, if that is still open.
        """
        delays, missed = PollSchedule(REOPEN_DELAY), 0
        if stream is not None:
            self._number = stream.number
        try:
            while missed < GIVE_UP_AFTER:
                known = self._number
                try:
                    if await self._read(stream or await self._reopened()):
                        return
                except ServerError as failure:
                    if failure.status_code in _NOT_STREAMED:
                        return
                missed = missed + 1 if self._number == known else 1
                stream = None
                await asyncio.sleep(delays.after_failure())
        finally:
            self._tell()

    async def _reopened(self) -> EventStream:
        if self._number is None:
            # Without numbers there is no event to go on from: all of them come again.
            self._partial = PartialOutput()
        return await self._reopen(self._number)

    async def _read(self, stream: EventStream) -> bool:
        """Take in what comes; whether there is no more to listen to."""
        self.connected = True
        try:
            async for event in stream:
                if self._is_new(event) and self._take(event):
                    return True
                if self._partial.size > PREVIEW_SIZE:
                    return True  # a stream without end
        finally:
            self.connected = False
            await stream.close()
        return False

    def _is_new(self, event: ServerSentEvent) -> bool:
        if event.number is None:
            return True
        if self._number is not None and event.number <= self._number:
            return False  # a server that begins anew
        self._number = event.number
        return True

    def _take(self, event: ServerSentEvent) -> bool:
        if self._partial.add(event):
            self._tell_soon()
        response = event.response
        if response is not None:
            self._on_response(response)
        status = response.get("status") if response is not None else None
        return isinstance(status, str) and status in SERVER_TERMINAL

    def _tell_soon(self) -> None:
        if self._due is None:
            loop = asyncio.get_running_loop()
            wait = max(0.0, self._told_at + PREVIEW_INTERVAL - loop.time())
            self._due = loop.call_later(wait, self._tell)

    def _tell(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due, self._told_at = None, asyncio.get_running_loop().time()
            partial = self._partial
            self._on_preview(Preview(partial.text, partial.reasoning, partial.commentary))


# Servers have been seen to answer 404 now and then for a response they have. So many in a row, with
# growing delays between them, mean that it is lost.
LOST_AFTER = 5

# Answers to a cancel that asking again will not change; the job has mostly just ended.
CANCEL_REFUSED = frozenset({400, 401, 403, 404, 405, 409, 410, 422})

# Answers by which a server says that it keeps no response to be asked for.
NOT_KEPT = frozenset({404, 405, 410, 501})

# No answer, or a gateway's that the server behind it gives none.
_UNREACHED = frozenset({None, 502, 503, 504})


class PollTask(Protocol):
    """Starts a task that polls."""

    def begin_poll(self) -> None:
        """Have a task call `ResponseWatcher.poll`."""


class ResponseWatcher:
    """Says when one response is to be polled, and polls it until it is terminal. Between polls it
    takes no task. All methods run on the loop thread.

    Attributes:
        is_over: whether polling has ended: the response is terminal or lost, or it is too late.
        refusal: how the server said last that it does not know the response, or "".
        stream: the connection on which it was created, where its events still come.
    """

    __slots__ = (
        "_asked", "_asked_at", "_asked_before", "_asked_of", "_cancelling", "_client", "_clock",
        "_deadline", "_delay", "_delays", "_endpoint", "_job", "_last", "_listener", "_listening",
        "_missing", "_poll_slot", "_polls", "_response_id", "_store", "_stream_end", "_token",
        "_turns", "_unreached", "_woken", "is_over", "refusal", "stream",
    )  # fmt: skip

    def __init__(
        self,
        job: Job,
        accepted: AcceptedResponse,
        store: JobStore,
        clock: Clock,
        poll_interval: float | None,
        polls: PollTask,
    ) -> None:
        self._job = job
        self._endpoint, self.stream = accepted.endpoint, accepted.stream
        self._response_id = accepted.response_id
        self._store, self._clock, self._polls = store, clock, polls
        self._client, self._turns = accepted.endpoint.client, accepted.endpoint.turns
        self._poll_slot = accepted.endpoint.pacer.join(chosen=poll_interval is not None)
        self._delays = PollSchedule(poll_interval, slot=self._poll_slot)
        self._token: object = None  # what is waited for; None while it is polled
        self._woken, self._deadline = False, 0.0
        self._delay = self._delays.after_reply(accepted.reply.poll_after)
        self._asked_at = self._asked_before = clock.now()
        # The client of the newest poll without a task, and its answer or failure if a task has to
        # go on with it. None: no such poll; two Nones: it has to be made again.
        self._asked_of = self._client
        self._asked: tuple[HTTPResponse | None, Exception | None] | None = None
        self._last: Reply | None = None
        self._missing, self._unreached = 0, False
        self._listener: StreamListener | None = None
        self._stream_end: Reply | None = None  # the response with which the stream ended
        self.is_over, self.refusal = False, ""
        self._cancelling: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the server has said often enough that it does not know the response."""
        return self._missing >= LOST_AFTER

    def use(self, endpoint: ServerEndpoint) -> None:
        """Call the server by ``endpoint`` from now on, at once for the first time."""
        self._client, self._missing = endpoint.client, 0
        if self._asked is not None:
            self._asked = None, None  # the new client does not know the secrets of the old one
        self._wake()

    def watch(self, deadline: float) -> None:
        """Begin; ``deadline``: when to stop following, seconds since the epoch."""
        self._deadline = deadline
        if self._job.record.cancelling:
            self.cancel()
        if self._job.request.streams:
            self._listening = asyncio.create_task(self._listen())
        self._wait()

    def ring(self, token: object) -> None:
        """Go on: the poll has its turn, or the wait for the next poll is over."""
        if token is self._turns:
            self._token = None
            if not any(self._asked or ()):
                self._asked_at, self._woken = self._clock.now(), False
            self._polls.begin_poll()
        elif token == self._token:
            self._due()

    def _on_answer(self, got: HTTPResponse | None, error: Exception | None) -> None:
        """Take the answer to a poll without a task; a task takes over if it is new."""
        if self.is_over:  # it was stopped meanwhile
            return
        if self._asked_of is not self._client:  # see `use`
            got = error = None
        if got is None and error is None:
            self._asked_at = self._asked_before
        self._asked_before = self._asked_at  # one number instead of two
        try:
            same = self._client.unchanged(got, self._last)
            if same is not None:
                self._keep(same)
                self._wait()
                return
            self._asked = got, error
        except Exception:  # ends the job if it comes again there
            logger.exception("%r was not polled", self._job)
        self._ask_turn()

    async def poll(self) -> Reply | None:
        """Poll once, or go on with a poll; gives the terminal reply, if there is one.

        If it `is_over`, others wait until `leave_turn`.
        """
        late = self._asked_at >= self._deadline
        ended = await self._poll()
        # One poll after the deadline is the last.
        self.is_over = ended is not None or late or self.is_lost
        if not self.is_over:
            self.leave_turn()
            self._wait()
        return ended

    def leave_turn(self) -> None:
        """Let others poll: the terminal reply is stored, or this was not the last poll."""
        self._turns.leave(self)

    def close(self) -> None:
        """Stop waiting and listening."""
        self._token, self.is_over = None, True
        self._poll_slot.leave()
        for task in (self._cancelling, self._listening):
            if task is not None:
                task.cancel()

    def _wait(self) -> None:
        """Wait until the next poll is due."""
        now = self._clock.now()
        # A poll may be answered late: the limit holds from one to the next.
        most = min(self._delay, self._deadline - now, self._asked_at + LIMIT - now)
        seconds = 0.0 if self._woken else max(0.0, most)
        self._token = self._clock.ring(self, seconds)

    def _wake(self) -> None:
        """Poll soon, and begin with the early delays again."""
        self._delays.soon()
        if self._token is None or any(self._asked or ()):
            self._woken = True  # a poll is under way, and the next one follows it
        elif self._token is self._turns:
            self._turns.take(self)
        else:
            self._due()

    def _due(self) -> None:
        """Poll without a task if possible; else as soon as this job has a turn."""
        now = self._clock.now()
        if now < self._deadline and not self._turns.is_full and not self._job.request.include:
            self._token, self._woken, self._asked_of = None, False, self._client
            self._asked_before, self._asked_at = self._asked_at, now
            if self._client.begin_poll(self._response_id, self._on_answer):
                return
            self._asked_at = self._asked_before
        self._ask_turn()

    def _ask_turn(self) -> None:
        self._token, patience = self._turns, self._asked_at + LIMIT - self._clock.now()
        # With a journal in trouble others may keep their turns for long: don't wait for one.
        self._turns.ask(self, 0.0 if self._store.trouble is not None else max(0.0, patience))

    async def _poll(self) -> Reply | None:
        last, asked, self._asked = self._last, self._asked, None
        try:
            include = self._job.request.include
            reply = await self._client.retrieve(self._response_id, last, include, asked)
        except ServerError as failure:
            if self._stream_end is not None and failure.status_code in NOT_KEPT:
                self._job.advance(notes=self._job.record.with_note(Note.FROM_STREAM))
                return self._stream_end
            self._delay = self._failed(failure)
            return None
        if last is None or reply.response is not last.response:
            if is_terminal(reply.response):
                self._learn(reply.response, polled=last is not None)
                return reply
            packed = self._client.compress(reply.response, reply.text)
            reply = replace(reply, response=packed, text="")
        self._keep(reply)
        return None

    def _keep(self, reply: Reply) -> None:
        self._heard(reply)
        self._last = reply
        self._delay = self._delays.after_reply(reply.poll_after)

    def _heard(self, reply: Reply) -> None:
        self._missing, self._unreached = 0, False
        record = self._job.record
        if reply.response is record.response:
            told: dict[str, Any] = {"checked_at": self._clock.now()}
            if record.trouble is not None or record.offline:
                told |= {"trouble": None, "offline": False}
            if (notes := self._notes(record.status)) != record.notes:
                told["notes"] = notes
            self._job.advance(**told)
            return
        changes = record_changes(self._job, reply, self._clock.now())
        changes["notes"] = self._notes(changes["status"])
        if changes["status"] != self._job.record.status:
            written = {name: changes[name] for name in ("status", "started_at", "checked_at")}
            self._store.update_soon(self._job.record, **written)
        self._job.advance(**changes)

    def _learn(self, response: Mapping[str, Any], *, polled: bool) -> None:
        """Note whether the server called the job queued until it completed."""
        queued = polled and self._job.record.status == Status.QUEUED
        if queued and response.get("status") == Status.COMPLETED:
            self._endpoint.behavior.says_queued = True

    def _notes(self, status: str) -> tuple[Note, ...]:
        there = status == Status.QUEUED and self._endpoint.behavior.says_queued
        record = self._job.record
        known = there or record.notes
        return record.with_note(Note.SAYS_QUEUED, there=there) if known else record.notes

    def _failed(self, failure: ServerError) -> float:
        """Record a failed poll; returns the delay (s) until the next one."""
        # Of an id from elsewhere it is enough that the server can't do anything with it.
        strange = self._job.record.status == Status.ATTACHED and failure.status_code in (400, 422)
        gone = (failure.status_code == 404 or strange) and failure.from_api
        self._missing = self._missing + 1 if gone else 0
        if self._listener is not None and self._listener.connected:
            self._missing = 0  # a response that is being streamed is not lost
        self.refusal = str(failure) if gone else ""
        unreached = failure.status_code in _UNREACHED
        if self._unreached and not unreached:
            self._delays.reached()  # the long delays were for a server that did not answer
        self._unreached = unreached
        trouble = why_not_polled(self._job.record, failure)
        self._job.advance(trouble=trouble, offline=failure.status_code is None)
        delay = self._delays.after_failure(failure.retry_after)
        refused = failure.status_code in (401, 403)
        return max(delay, self._delays.slow()) if refused else delay

    # Listening.

    async def _listen(self) -> None:
        self._listener = StreamListener(
            lambda after: self._client.follow(self._response_id, after),
            self._preview,
            self._hinted,
        )
        await self._listener.run(self.stream)

    def _preview(self, preview: Preview) -> None:
        if not self._job.done():
            # A key that came in two deltas is whole only here.
            hide = self._client.hide
            texts = (preview.text, preview.reasoning, preview.commentary)
            self._job.advance(preview=Preview(*map(hide, texts)))

    def _hinted(self, response: Mapping[str, Any]) -> None:
        """Handle a response object of the stream: a terminal one is polled at once."""
        status = response.get("status")
        if isinstance(status, str) and status in SERVER_TERMINAL:
            if isinstance(response.get("output"), list):
                self._stream_end = Reply(without_half_characters(response))
            self._wake()
        elif status == Status.IN_PROGRESS and self._job.record.status == Status.QUEUED:
            # Only forwards: a stream that is read again repeats earlier states.
            self._heard(Reply(response))

    # Cancelling.

    def cancel(self) -> None:
        """Ask the server to cancel."""
        self._cancelling = asyncio.create_task(self._cancel())

    async def _cancel(self) -> None:
        """Ask the server to cancel until it answers, then poll the status.

        The answer does not settle the job: a server may complete it after all, and refuses to
        cancel a response that has ended. The poll that follows decides.
        """
        delays, missed = PollSchedule(1.0), 0
        while True:
            try:
                await self._client.cancel(self._response_id)
                break
            except ServerError as failure:
                self._job.advance(trouble=f"the cancel failed: {failure}")
                missed += failure.status_code == 404
                if failure.status_code in CANCEL_REFUSED and missed != 1:
                    # The job has mostly just ended. If not, another cancel may be tried.
                    self._job.advance(cancelling=False)
                    self._store.update_soon(self._job.record, cancelling=False)
                    break
                await asyncio.sleep(delays.after_failure(failure.retry_after))
        self._wake()
