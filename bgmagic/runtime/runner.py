"""Runs one job on the loop thread: stores it, sends it at most once, watches it, settles it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bgmagic.api.response import is_terminal
from bgmagic.concurrency import WakeEvent
from bgmagic.errors import AnswerGone, BadInput, ServerError
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import (
    CLAIMED_ELSEWHERE,
    NOT_VISIBLE,
    SHUTDOWN,
    detach,
    past_deadline,
    settle,
    unclear,
    why_lost,
)
from bgmagic.jobs.record import LASTING_NOTES, Status
from bgmagic.prompts.template import PartialPrompt
from bgmagic.runtime import sending
from bgmagic.runtime.attach import adopted
from bgmagic.runtime.dependencies import DependencyWaiter, UnmetDependency
from bgmagic.runtime.pacing import BUDGET_RETRY, AcceptedResponse, PollSchedule, RunConfig
from bgmagic.runtime.registry import RunnerParts, rush
from bgmagic.runtime.watcher import ResponseWatcher
from bgmagic.storage.database import JournalError
from bgmagic.transport.reply import Reply

if TYPE_CHECKING:
    from bgmagic.runtime.calls import FunctionCalls

CLAIM_RETRY = 10.0  # seconds between tries to claim a job in a journal that fails, at most
NOTHING: Mapping[str, Any] = MappingProxyType({})  # instead of a response that is kept elsewhere
_NO_IDS = ("", ".", "..")  # the last two would ask for another address


class JobRunner:
    """Runs one job to its end; between polls it takes no task. On the loop thread only.

    Attributes:
        task: what runs it now, if anything does.
    """

    __slots__ = (
        "_calls", "_clock", "_closing", "_config", "_following", "_had_slot", "_hurry", "_limit",
        "_ours", "_parts", "_store", "_wake", "job", "sending", "task", "unstored",
    )  # fmt: skip

    def __init__(self, job: Job, config: RunConfig, parts: RunnerParts) -> None:
        self.job = job
        self.task: asyncio.Task[None] | None = None
        self._parts, self._store, self._clock = parts, parts.store, parts.clock
        self._had_slot = False
        self._ours = True
        # Shutdown waits for both: a job that is not stored would be lost, and a create that is cut
        # off may have been accepted.
        self.unstored = True
        self.sending = False
        self._hurry: WakeEvent | None = None
        self._config = config
        self._wake = WakeEvent()  # also what the limiter knows it by
        self._following: ResponseWatcher | None = None
        self._limit: sending.TimeLimit | None = None  # on what cancelling the job cuts short
        self._closing = False
        self._calls: FunctionCalls | None = None
        if job.record.rounds is not None:
            from bgmagic.runtime.calls import FunctionCalls  # few have functions to call

            known = config.server, self._wake, parts.find_function
            self._calls = FunctionCalls(job, parts.store, *known)

    def decide(self, call_id: str | None, *, allow: bool) -> None:
        """Let a call of a function run, or not, that waits for somebody's word; None is all."""
        if self._calls is not None:
            self._calls.decide(call_id, allow=allow)

    async def run(self, *, attached: bool = False, intended: bool = False) -> None:
        """Run the job until it has ended, or its response is watched (`is_watched`).

        Args:
            attached: whether the journal has the job already, from another kernel.
            intended: whether it is stored already, with its whole group.
        """
        self._watch(await self._begin(attached=attached, intended=intended))

    async def poll(self) -> None:
        """Poll the response that is watched; after its end, go on as `run` does."""
        watcher = self._following
        reply = None if watcher is None else await watcher.poll()
        if watcher is None or not watcher.is_over:
            return
        self._following = None
        watcher.close()
        try:
            goes_on = await (self._unseen(watcher) if reply is None else self._calls_more(reply))
        finally:
            watcher.leave_turn()
            await _close(watcher)
        self._watch(await self._next(self._clock.now()) if goes_on else None)

    def _watch(self, accepted: AcceptedResponse | None) -> None:
        if accepted is not None:
            parts = self.job, accepted, self._store, self._clock, self._config.poll_interval
            self._following = ResponseWatcher(*parts, self)
            self._following.watch(accepted.at + self._config.deadline)

    @property
    def is_watched(self) -> bool:
        """Whether its response is watched: `begin_poll` is called when the next poll is due."""
        return self._following is not None

    def begin_poll(self) -> None:
        """Have a task call `poll`."""
        self._parts.begin_poll(self)

    def release(self) -> None:
        """Let others of its group be sent: it has ended, or is watched no more."""
        if self._config.limiter is not None:
            self._config.limiter.release(self._wake)

    def request_cancel(self) -> None:
        """Cancel the job: at the server, or here if it was not sent."""
        if self.job.done() or self.job.record.cancelling:
            return
        self.job.advance(cancelling=True)
        self._store.update_soon(self.job.record, cancelling=True)
        if self._following is not None:
            self._following.cancel()
        elif self._limit is not None and self._limit.waiting:
            self._limit.shorten(sending.CANCEL_GRACE if self.sending else 0.0)
        elif not self.sending:
            self._wake.set()

    def reconfigure(self, config: RunConfig) -> None:
        """Poll and cancel from now on as ``config`` says: the key has been changed."""
        self._config = config
        if self._following is not None:
            self._following.use(self._parts.endpoint_of(config.server))

    def close(self) -> None:
        """Stop after the create that is in flight or about to be sent."""
        self._closing = True
        if self._hurry is not None:
            self._hurry.set()

    async def _begin(self, *, attached: bool, intended: bool) -> AcceptedResponse | None:
        """Send the job, or pick it up; gives the response to be watched, if there is one."""
        if attached:
            return await self._resume()
        if intended:
            self.unstored = False
        else:
            await self._persist()
        return await self._send()

    async def _persist(self) -> None:
        config = self._config
        self._store.buffer_until_inserted(self.job.record)
        self._hurry = WakeEvent()
        if not self._closing:
            await self._hurry.wait(sending.START_DELAY)
        known = config.server, config.poll_interval, config.deadline
        with sending.noted_unwritten(self.job):
            await self._store.insert(self.job.record, *known)

    async def _resume(self) -> AcceptedResponse | None:
        """Continue where another kernel left the job; gives the response to be watched."""
        record, config, self._ours = self.job.record, self._config, False
        self.unstored = False
        if record.request.is_empty:  # an id from elsewhere, of which the journal knows nothing
            await self._store.insert(record, config.server, config.poll_interval, config.deadline)
        waits = record.response_id is None and record.status == Status.WAITING
        calls = record.rounds is not None and bool(record.rounds.done)
        if waits and record.partial is None and not calls:
            return await self._send()  # whoever claims it first sends it
        if not await adopted(self.job, self._store, waits=waits):
            return None
        if waits:
            self._ours = True
            return await self._send()
        if record.response_id is None:
            reason = unclear("the kernel that was sending it ended before the server answered")
            await self._settle(status=Status.UNKNOWN, reason=reason)
            return None
        if config.limiter is not None:
            config.limiter.acquire_nowait(self._wake)
        endpoint = self._parts.endpoint_of(self._config.server)
        at = record.accepted_at or self._clock.now()
        return AcceptedResponse(endpoint, record.response_id, Reply(NOTHING, 0.1), at)

    async def _send(self) -> AcceptedResponse | None:
        """Send the request, once it is complete; gives the response to be watched."""
        since = self.job.record.submitted_at
        if self.job.record.partial is not None:
            if not await self._complete(PartialPrompt(self.job.record.partial)):
                return None
            since = self._clock.now()
        return await self._next(since)

    async def _next(self, since: float) -> AcceptedResponse | None:
        """Answer the calls of the round before, and send the request; gives the response to be
        watched, or None if the job has ended, or is watched no more."""
        while self._calls is None or await self._calls.answer():
            if self.job.record.rounds is not None and self.job.record.rounds.done:
                since = self._clock.now()
            accepted = await self._create(since + self._config.deadline)
            if accepted is None:
                return None
            ended = is_terminal(accepted.reply.response)
            if not ended and not self._closing:
                return accepted
            await _close(accepted)
            if not ended:
                self.detach(SHUTDOWN)
                return None
            if not await self._calls_more(accepted.reply):
                return None
            since = self._clock.now()
        return None

    async def _calls_more(self, reply: Reply) -> bool:
        """Whether the terminal ``reply`` calls functions; if not, the job is settled with it."""
        if self._calls is not None and await self._calls.take(reply):
            self._ours = True  # it was followed here
            return True
        changes = sending.record_changes(self.job, reply, self._clock.now())
        await self._settle(reply.text, **changes)
        return False

    # Submitting.

    async def _update_request(self) -> None:
        await self._store.update_request(self.job.record, self._config.server)

    async def _complete(self, partial: PartialPrompt) -> bool:
        """Complete the request with the awaited answers; False if that ended the job."""
        self.unstored = False  # it is stored, and may wait for long
        try:
            waiter = DependencyWaiter(self.job, self._parts.find, self._clock, self._wake)
            answer_of = await waiter.run(partial)
            if answer_of is not None:
                request = partial.complete(self.job.request, answer_of, self._config.server)
                self.job.advance(request=request, partial=None, waits_for=())
                await self._update_request()
        except (UnmetDependency, BadInput, AnswerGone) as unmet:
            if isinstance(unmet, UnmetDependency) and not unmet.ended:
                self._store.update_soon(self.job.record, owner=None)
                detach(self.job, str(unmet))
            else:
                await self._settle(status=Status.FAILED, reason=f"not sent: {unmet}", trouble=None)
            return False
        return True

    async def _create(self, give_up_at: float) -> AcceptedResponse | None:
        """POST the request, again only after a refusal that may pass; None if that ended it."""
        delays = PollSchedule(5.0)
        while not self.job.record.cancelling:
            if not await self._acquire_slot():
                continue
            if self._closing and not self.unstored:
                self.detach(SHUTDOWN)
                return None
            if self._config.limiter is not None and not self._had_slot:
                # It may have waited long for its slot: the deadline counts from there.
                self._had_slot, give_up_at = True, self._clock.now() + self._config.deadline
            if await self._held_back():
                continue
            try:
                taken = await self._send_in_time()
                if taken is not None or self.job.done():
                    return taken
            except JournalError as failure:
                wait = min(delays.after_failure(), CLAIM_RETRY, give_up_at - self._clock.now())
                if wait <= 0:
                    detach(self.job, f"it was not sent: {failure}")
                    return None
                # Sent ahead of the file it would be sent again after a crash.
                self.job.advance(trouble=f"not sent yet: {failure}")
                await self._clock.pause(self._wake, wait)
            except ServerError as failure:
                left = give_up_at - self._clock.now()
                ending = sending.ending_of(failure, left, closing=self._closing)
                if ending is not None:
                    await self._settle(**ending, trouble=None)
                    return None
                # Written down first: killed in between, what is said to wait would be unclear.
                await self._store.update(self.job.record, status=Status.WAITING)
                self.job.advance(
                    status=Status.WAITING, trouble=sending.why_not_yet(failure, self.job)
                )
                if self._config.limiter is not None:
                    self._config.limiter.on_throttled(self._wake, failure.retry_after)
                    continue
                wait = min(delays.after_failure(failure.retry_after), left)
                await self._clock.pause(self._wake, wait)
        await self._cancel_unsent()
        return None

    async def _cancel_unsent(self) -> None:
        try:
            if self._ours or await self._store.claim(self.job.record, ours=False):
                rounds = self.job.record.rounds
                called = rounds is not None and bool(rounds.done)
                reason = "while its functions ran" if called else "before it was sent"
                await self._settle(status=Status.CANCELLED, reason=reason, trouble=None)
            else:
                detach(self.job, CLAIMED_ELSEWHERE)
        except JournalError as error:
            detach(self.job, str(error))

    async def _held_back(self) -> bool:
        """Wait a while if the budget holds the job back; whether it did."""
        gate = self._parts.gate
        if gate is None or self.job.record.over_budget or not gate.is_set():
            return False
        why = await asyncio.to_thread(gate.refusal, self.job.record)
        if why is None:
            return False
        self.unstored = False  # it is written down, and may wait for long
        self.job.advance(status=Status.WAITING, trouble=f"not sent: {why}")
        if self._config.limiter is not None:
            self._config.limiter.put_off(self._wake, BUDGET_RETRY)
        else:
            await self._clock.pause(self._wake, BUDGET_RETRY)
        return True

    async def _acquire_slot(self) -> bool:
        """Wait until the group lets this job be sent; False if something else woke it."""
        limiter, at = self._config.limiter, self.job.record.position
        return limiter is None or await limiter.acquire(at.index if at else 0, self._wake)

    async def _send_in_time(self) -> AcceptedResponse | None:
        limits = self._parts.limits  # a job that is watched for hours needs none
        limit = self._limit = limits.pop() if limits else sending.TimeLimit()
        try:
            with rush:
                return await self._send_once(limit)
        finally:
            self._limit = None
            limits.append(limit)

    async def _send_once(self, limit: sending.TimeLimit) -> AcceptedResponse | None:
        endpoint = self._parts.endpoint_of(self._config.server)
        client = endpoint.client
        # Before the claim: a job that is claimed and not sent is unclear to the next kernel.
        if client.create_slots.locked():
            self.unstored = False  # the end of a process does not wait for that
        taking = client.create_slots.acquire()
        try:
            # Where there is room, which is mostly so, nothing waits that could be cut short.
            await (limit.wait(None, taking) if client.create_slots.locked() else taking)
        except TimeoutError:
            return None  # it is cancelled
        try:
            if self.job.record.cancelling:
                return None
            if self._closing and not self.unstored:
                self.detach(SHUTDOWN)
                return None
            # From here on shutdown waits: a job that is claimed and not sent is unclear.
            self.sending = True
            with sending.noted_unwritten(self.job):
                claimed = await self._store.claim(self.job.record, ours=self._ours)
            if not claimed:
                detach(self.job, CLAIMED_ELSEWHERE)
                return None
            self.job.advance(status=Status.SUBMITTING, trouble=None)
            what = self.job, client, endpoint.behavior, limit, self._config.create_timeout
            reply, stream = await sending.post_in_time(*what, self._update_request)
        finally:
            self.sending = self.unstored = False
            client.create_slots.release()
        response_id = reply.response.get("id")
        if not isinstance(response_id, str) or response_id in _NO_IDS:
            reason = "the server answered without a response id, so the job can't be followed"
            await self._settle(status=Status.UNKNOWN, response=reply.response, reason=reason)
            return None
        if self._config.limiter is not None:
            self._config.limiter.on_accepted()
        now = self._clock.now()
        changes = sending.record_changes(self.job, reply, now)
        known = {"response_id": response_id, "accepted_at": now, "status": changes["status"]}
        await self._store.update(self.job.record, **known)
        if not is_terminal(reply.response):
            changes["response"] = client.compress(reply.response, reply.text)
            reply = Reply(NOTHING, reply.poll_after)
        self.job.advance(response_id=response_id, accepted_at=now, **changes)
        if self._calls is None:  # else it is sent again
            self._store.may_be_remade(self.job.key)
        return AcceptedResponse(endpoint, response_id, reply, now, stream)

    # Watching.

    async def _unseen(self, watcher: ResponseWatcher) -> bool:
        """End the watching of a job whose end was not seen; False: it does not go on."""
        if watcher.is_lost and self._config.same_key:  # another key may be in use by now
            why = why_lost(self.job.record, watcher.refusal)
            await self._settle(status=Status.LOST, reason=why, trouble=None)
        else:
            self._store.update_soon(self.job.record, owner=None)
            why = NOT_VISIBLE if watcher.is_lost else past_deadline(self.job, self._config.deadline)
            detach(self.job, why)
        return False

    # Ending.

    async def _settle(self, text: str = "", **changes: Any) -> None:
        """End the job: in the journal first, then its variable, waiters and displays.

        Args:
            text: the response as JSON, if that is at hand.
        """
        changes["ended_at"] = self._clock.now()
        changes["notes"] = tuple(note for note in self.job.record.notes if note in LASTING_NOTES)
        with rush:
            stored = await self._store.end(self.job.record, self._config.server, text, changes)
            settle(self.job, stored=stored, **changes)

    def detach(self, reason: str) -> None:
        """Detach a job that can't go on here; one that was being sent ends as unknown."""
        watcher, self._following = self._following, None
        if watcher is not None:
            watcher.close()
            watcher.leave_turn()
        if self.job.done():
            return
        if self.job.record.status == Status.SUBMITTING and self.job.response_id is None:
            # Not written down: the journal's `submitting` of a dead kernel means the same.
            reason, now = unclear(f"{reason} while it was being sent"), self._clock.now()
            settle(self.job, status=Status.UNKNOWN, reason=reason, trouble=None, ended_at=now)
        else:
            detach(self.job, reason)


async def _close(accepted: AcceptedResponse | ResponseWatcher) -> None:
    if accepted.stream is not None:
        await accepted.stream.close()
