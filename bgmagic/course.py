"""The course of one job, from submission to its end, on the loop thread.

Decides what each reply and each failure means for the job: send again or not, poll on or not. When
to ask is the poller's, how to ask the client's, what the news do to the user's variable the job's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bgmagic.answer import output_tokens
from bgmagic.client import Client, Reply
from bgmagic.errors import Accepted, ServerError
from bgmagic.job import Job
from bgmagic.ledger import Ledger
from bgmagic.poller import Clock, Delays, Watch, is_terminal, poll
from bgmagic.server import Server
from bgmagic.status import Status

logger = logging.getLogger("bgmagic")

# Seconds by which a cell goes before its own submission: importing the SDK and building a request
# would else compete with the end of the cell for the interpreter.
HEAD_START = 0.05
# Servers have been seen to answer 404 now and then for a response they have. So many in a row, with
# growing waits between them, mean that it is gone.
LOST_AFTER = 5
RETENTION = (
    "the server no longer knows this response. Servers keep one for a limited time, OpenAI for 30 "
    "days and for about 10 minutes in projects with zero data retention"
)
# Answers to a cancel that asking again will not change; the job has mostly just ended.
CANCEL_REFUSED = frozenset({400, 401, 403, 404, 405, 409, 410, 422})


@dataclass(frozen=True)
class Plan:
    """How a job is to be carried.

    Attributes:
        server: where it goes, and as whom.
        poll_interval: seconds between polls; None means soon at first, then every 10.
        deadline: seconds after acceptance at which watching ends, and after submission at which
            trying to send does.
        same_key: whether the server is asked with the credentials that it accepted the job with.
    """

    server: Server
    poll_interval: float | None
    deadline: float
    same_key: bool = True


@dataclass(frozen=True)
class _Accepted:
    """A response and who asks for it."""

    client: Client
    response_id: str
    reply: Reply
    at: float


class Course:
    """Carries one job. All methods run on the loop thread."""

    def __init__(
        self,
        job: Job,
        plan: Plan,
        client_of: Callable[[Server], Client],
        ledger: Ledger,
        clock: Clock,
    ) -> None:
        self.job = job
        self._ledger = ledger
        self._ours = True
        # While a create is under way it must not be cut off: it may have been accepted.
        self.sending = False
        self._plan = plan
        self._client_of = client_of
        self._clock = clock
        self._wake = asyncio.Event()
        self._delays = Delays(plan.poll_interval)
        self._accepted: _Accepted | None = None
        self._cancelling: asyncio.Task[None] | None = None
        self._missing = 0
        self._closing = False

    async def run(self, *, attached: bool = False) -> None:
        """Carry the job to its end; never raises but for being cancelled.

        Args:
            attached: whether the journal has the job already, from another kernel.
        """
        try:
            if attached:
                await self._resume()
            else:
                await asyncio.sleep(HEAD_START)
                plan = self._plan
                await self._ledger.intend(
                    self.job.record, plan.server, plan.poll_interval, plan.deadline
                )
                await self._carry()
        except asyncio.CancelledError:
            self._abandon("the kernel is shutting down")
            raise
        except Exception as error:
            logger.exception("%r broke off", self.job)
            self._abandon(f"bgmagic itself failed with {type(error).__name__}: {error}")
        finally:
            if self._cancelling is not None:
                self._cancelling.cancel()

    def want_cancel(self) -> None:
        """The user wishes the job cancelled: at the server, or here if it was not sent."""
        if self.job.done() or self.job.record.cancelling:
            return
        self.job.advance(cancelling=True)
        self._ledger.note(self.job.record, cancelling=True)
        if self._accepted is not None:
            self._send_cancel(self._accepted)
        elif not self.sending:
            self._wake.set()

    def close(self) -> None:
        """Watch no further than the create that may be under way."""
        self._closing = True

    async def _resume(self) -> None:
        """Pick up where another kernel left the job."""
        record, plan, self._ours = self.job.record, self._plan, False
        if not record.request.body:  # an id from elsewhere, of which the journal knows nothing
            await self._ledger.intend(record, plan.server, plan.poll_interval, plan.deadline)
        if record.response_id is None and record.status == Status.WAITING:
            await self._carry()
        elif not await self._ledger.adopt(record):
            self.job.detach("another kernel follows it")
        elif record.response_id is None:
            reason = _unclear("the kernel that was sending it ended before the server answered")
            await self._settle(status=Status.UNKNOWN, reason=reason)
        else:
            client = self._client_of(self._plan.server)
            at = record.accepted_at or self._clock.now()
            self._accepted = _Accepted(client, record.response_id, Reply({}, 0.1), at)
            await self._follow(self._accepted)

    async def _carry(self) -> None:
        accepted = self._accepted = await self._create()
        if accepted is None:
            return
        if is_terminal(accepted.reply):
            await self._settle(**_news(self.job, accepted.reply, self._clock.now()))
        elif self._closing:
            self._abandon("the kernel is shutting down")
        else:
            await self._follow(accepted)

    # Submitting.

    async def _create(self) -> _Accepted | None:
        """POST the request, again only after a refusal that may pass; None if that ended it."""
        give_up_at = self.job.record.submitted_at + self._plan.deadline
        delays = Delays(5.0)
        while not self._is_cancelling():
            try:
                return await self._post()
            except ServerError as failure:
                left = give_up_at - self._clock.now()
                if await self._ends_unsent(failure, left):
                    return None
                self.job.advance(status=Status.WAITING, trouble=f"not sent yet: {failure}")
                await self._ledger.write(self.job.record, status=Status.WAITING)
                wait = min(delays.after_failure(failure.retry_after), left)
                await self._clock.pause(self._wake, wait)
        await self._settle(status=Status.CANCELLED, reason="before it was sent", trouble=None)
        return None

    async def _post(self) -> _Accepted | None:
        if not await self._ledger.claim(self.job.record, ours=self._ours):
            self.job.detach("another kernel sends it, or the journal can't say that none does")
            return None
        self.job.advance(status=Status.SUBMITTING)
        self.sending = True
        try:
            client = self._client_of(self._plan.server)
            reply = await client.create(self.job.request)
        finally:
            self.sending = False
        response_id = reply.response.get("id")
        if not isinstance(response_id, str) or not response_id:
            reason = "the server answered without a response id, so the job can't be followed"
            await self._settle(status=Status.UNKNOWN, response=reply.response, reason=reason)
            return None
        now = self._clock.now()
        status = _news(self.job, reply, now)["status"]
        await self._ledger.write(
            self.job.record, response_id=response_id, accepted_at=now, status=status
        )
        self.job.advance(response_id=response_id, accepted_at=now, **_news(self.job, reply, now))
        return _Accepted(client, response_id, reply, now)

    async def _ends_unsent(self, failure: ServerError, left: float) -> bool:
        """End the job if this failure of a create is not one to be repeated."""
        if failure.accepted is Accepted.UNCLEAR:
            reason = _unclear(str(failure))
            await self._settle(status=Status.UNKNOWN, reason=reason, trouble=None)
        elif not failure.passing:
            reason = f"not accepted by the server: {failure}"
            await self._settle(status=Status.FAILED, reason=reason, trouble=None)
        elif left <= 0 or self._closing:
            reason = f"never sent: {failure}"
            await self._settle(status=Status.FAILED, reason=reason, trouble=None)
        else:
            return False
        return True

    # Following.

    async def _follow(self, accepted: _Accepted) -> None:
        if self._is_cancelling():
            self._send_cancel(accepted)
        watch = Watch(
            fetch=lambda: accepted.client.retrieve(accepted.response_id),
            on_reply=self._heard,
            on_failure=self._failed,
            wake=self._wake,
            deadline=accepted.at + self._plan.deadline,
        )
        last = await poll(watch, self._delays, self._clock, accepted.reply.poll_after)
        if last is not None:
            await self._settle(**_news(self.job, last, self._clock.now()))
            return
        if self._missing >= LOST_AFTER and self._plan.same_key:
            await self._settle(status=Status.LOST, reason=RETENTION, trouble=None)
            return
        self._ledger.note(self.job.record, owner=None)
        if self._missing >= LOST_AFTER:
            self.job.detach("it is not visible with this key; another one had sent it")
        else:
            self.job.detach(_deadline_line(self.job, self._plan.deadline))

    def _heard(self, reply: Reply) -> None:
        self._missing = 0
        news = _news(self.job, reply, self._clock.now())
        if news["status"] != self.job.record.status:
            written = {name: news[name] for name in ("status", "started_at", "checked_at")}
            self._ledger.note(self.job.record, **written)
        self.job.advance(**news)

    def _failed(self, failure: ServerError) -> bool:
        """Take in a failed poll; whether to give up on the response."""
        gone = failure.status_code == 404 and failure.told
        self._missing = self._missing + 1 if gone else 0
        about = "the key is refused" if failure.status_code in (401, 403) else "the poll failed"
        self.job.advance(trouble=f"{about}, the job goes on: {failure}")
        return self._missing >= LOST_AFTER

    # Cancelling.

    def _send_cancel(self, accepted: _Accepted) -> None:
        self._cancelling = asyncio.create_task(self._cancel(accepted))

    async def _cancel(self, accepted: _Accepted) -> None:
        """Ask the server to cancel until it has heard, then have the status polled.

        What the cancel call returns does not settle the job: a server may complete it after all,
        and refuses to cancel what has ended. The poll that follows tells which.
        """
        delays, missed = Delays(1.0), 0
        while True:
            try:
                await accepted.client.cancel(accepted.response_id)
                break
            except ServerError as failure:
                self.job.advance(trouble=f"the cancel failed: {failure}")
                missed += failure.status_code == 404
                if failure.status_code in CANCEL_REFUSED and missed != 1:
                    # The job has mostly just ended. If not, another cancel may be tried.
                    self.job.advance(cancelling=False)
                    self._ledger.note(self.job.record, cancelling=False)
                    break
                await asyncio.sleep(delays.after_failure(failure.retry_after))
        self._delays.soon()
        self._wake.set()

    def _is_cancelling(self) -> bool:
        return self.job.record.cancelling

    # Ending.

    async def _settle(self, **changes: Any) -> None:
        """End the job: in the journal first, then for everybody."""
        changes["ended_at"] = self._clock.now()
        kept = ("status", "ended_at", "started_at", "checked_at", "reason")
        written = {name: changes[name] for name in kept if name in changes}
        if changes.get("response") is not None:
            written["response"] = self._ledger.texts(changes["response"], self._plan.server)
            written["output_tokens"] = output_tokens(changes["response"])
        await self._ledger.write(self.job.record, **written)
        self.job.settle(**changes)

    def _abandon(self, reason: str) -> None:
        """End the watch of a job that can't be carried on, without losing what is known of it."""
        if self.job.done():
            return
        if self.job.record.status == Status.SUBMITTING and self.job.response_id is None:
            # Not written down: the journal's `submitting` of a dead kernel means the same.
            reason, now = _unclear(f"{reason} while it was being sent"), self._clock.now()
            self.job.settle(status=Status.UNKNOWN, reason=reason, trouble=None, ended_at=now)
        else:
            self.job.detach(reason)


def _news(job: Job, reply: Reply, now: float) -> dict[str, Any]:
    """The changes of the record that a reply brings."""
    word = reply.response.get("status")
    # Lean servers leave the status out; then the word there is stays.
    status = word if isinstance(word, str) and word else job.record.status
    started = job.record.started_at
    if started is None and status not in (Status.QUEUED, Status.SUBMITTING):
        started = now
    return {
        "response": reply.response,
        "status": status,
        "started_at": started,
        "checked_at": now,
        "trouble": None,
    }


def _unclear(failure: str) -> str:
    return (
        "it is unclear whether the server accepted this job, and it was not sent again, since that "
        f"could be paid twice; job.resend() sends it on purpose: {failure}"
    )


def _deadline_line(job: Job, deadline: float) -> str:
    return (
        f"it was still {job.record.status} {deadline / 3600:g} h after it was accepted, "
        f"the deadline; the server goes on with {job.response_id}"
    )
