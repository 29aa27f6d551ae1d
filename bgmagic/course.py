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
from bgmagic.client import Client
from bgmagic.errors import Accepted, ServerError
from bgmagic.following import Following, Taken, news
from bgmagic.job import Job
from bgmagic.ledger import Ledger
from bgmagic.poller import Clock, Delays, Wake, is_terminal
from bgmagic.replies import Reply
from bgmagic.request import Request
from bgmagic.server import Server
from bgmagic.status import Status
from bgmagic.stream import Stream

logger = logging.getLogger("bgmagic")

# Seconds by which a cell goes before its own submission: importing the SDK and building a request
# would else compete with the end of the cell for the interpreter.
HEAD_START = 0.05
RETENTION = (
    "the server no longer knows this response. Servers keep one for a limited time, OpenAI for 30 "
    "days and for about 10 minutes in projects with zero data retention"
)


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
        self._wake = Wake()
        self._following: Following | None = None
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

    def want_cancel(self) -> None:
        """The user wishes the job cancelled: at the server, or here if it was not sent."""
        if self.job.done() or self.job.record.cancelling:
            return
        self.job.advance(cancelling=True)
        self._ledger.note(self.job.record, cancelling=True)
        if self._following is not None:
            self._following.cancel()
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
            await self._follow(Taken(client, record.response_id, Reply({}, 0.1), at))

    async def _carry(self) -> None:
        accepted = await self._create()
        if accepted is None:
            return
        try:
            if is_terminal(accepted.reply):
                await self._settle(**news(self.job, accepted.reply, self._clock.now()))
            elif self._closing:
                self._abandon("the kernel is shutting down")
            else:
                await self._follow(accepted)
        finally:
            if accepted.stream is not None:
                await accepted.stream.close()

    # Submitting.

    async def _create(self) -> Taken | None:
        """POST the request, again only after a refusal that may pass; None if that ended it."""
        give_up_at = self.job.record.submitted_at + self._plan.deadline
        delays = Delays(5.0)
        while not self.job.record.cancelling:
            try:
                taken = await self._post()
                if taken is not None or self.job.done():
                    return taken
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

    async def _post(self) -> Taken | None:
        client = self._client_of(self._plan.server)
        # Waited for first: what is claimed and not sent is unclear to the next kernel.
        async with client.creating:
            if self.job.record.cancelling:
                return None
            if self._closing:
                self._abandon("the kernel is shutting down")
                return None
            if not await self._ledger.claim(self.job.record, ours=self._ours):
                self.job.detach("another kernel sends it, or the journal can't say that none does")
                return None
            self.job.advance(status=Status.SUBMITTING)
            self.sending = True
            try:
                reply, stream = await _sent(client, self.job.request)
            finally:
                self.sending = False
        response_id = reply.response.get("id")
        if not isinstance(response_id, str) or not response_id:
            reason = "the server answered without a response id, so the job can't be followed"
            await self._settle(status=Status.UNKNOWN, response=reply.response, reason=reason)
            return None
        now = self._clock.now()
        changes = news(self.job, reply, now)
        status = changes["status"]
        await self._ledger.write(
            self.job.record, response_id=response_id, accepted_at=now, status=status
        )
        if not is_terminal(reply):
            changes["response"] = client.pack(reply.response)
            reply = Reply({}, reply.poll_after)  # held as long as the job runs
        self.job.advance(response_id=response_id, accepted_at=now, **changes)
        return Taken(client, response_id, reply, now, stream)

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

    async def _follow(self, accepted: Taken) -> None:
        plan = self._plan
        following = self._following = Following(
            self.job, accepted, self._ledger, self._clock, plan.poll_interval
        )
        last = await following.run(accepted.at + plan.deadline)
        if last is not None:
            await self._settle(**news(self.job, last, self._clock.now()))
        elif following.gone and plan.same_key:
            await self._settle(status=Status.LOST, reason=RETENTION, trouble=None)
        else:
            self._ledger.note(self.job.record, owner=None)
            hidden = "it is not visible with this key; another one had sent it"
            self.job.detach(hidden if following.gone else _deadline_line(self.job, plan.deadline))

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


async def _sent(client: Client, request: Request) -> tuple[Reply, Stream | None]:
    if request.streams:
        return await client.create_streamed(request)
    return await client.create(request), None


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
