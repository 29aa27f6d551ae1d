"""Follows one accepted response to its end: polls, listens where it streams, cancels.

Decides what each reply and each failed poll means for the job. When to ask is the poller's, how to
ask the client's; what comes of the end is course.py's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bgmagic.client import Client
from bgmagic.errors import ServerError
from bgmagic.job import Job
from bgmagic.ledger import Ledger
from bgmagic.listening import Listening
from bgmagic.poller import Clock, Delays, Wake, Watch, poll
from bgmagic.replies import Reply
from bgmagic.status import SERVER_TERMINAL, Preview, Status
from bgmagic.stream import Stream

# Servers have been seen to answer 404 now and then for a response they have. So many in a row, with
# growing waits between them, mean that it is gone.
LOST_AFTER = 5
# Answers to a cancel that asking again will not change; the job has mostly just ended.
CANCEL_REFUSED = frozenset({400, 401, 403, 404, 405, 409, 410, 422})


@dataclass(frozen=True, slots=True)
class Taken:
    """A response and who asks for it.

    Attributes:
        reply: what the server said last.
        at: when it accepted the job, seconds since the epoch.
        stream: the connection on which it was created, where its events still come.
    """

    client: Client
    response_id: str
    reply: Reply
    at: float
    stream: Stream | None = None


class Following:
    """Follows one response. All methods run on the loop thread."""

    def __init__(
        self,
        job: Job,
        accepted: Taken,
        ledger: Ledger,
        clock: Clock,
        poll_interval: float | None,
    ) -> None:
        self._job = job
        self._accepted = accepted
        self._ledger = ledger
        self._clock = clock
        self._turn = accepted.client.crowd.join()
        self._delays = Delays(poll_interval, turn=self._turn.wait)
        self._wake = Wake()
        self._missing = 0
        self._cancelling: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def gone(self) -> bool:
        """Whether the server has said often enough that it does not know the response."""
        return self._missing >= LOST_AFTER

    async def run(self, deadline: float) -> Reply | None:
        """Follow the response to its end.

        Args:
            deadline: when to stop following, seconds since the epoch.

        Returns:
            the terminal reply; None if the deadline came first or the response is `gone`.
        """
        if self._job.record.cancelling:
            self.cancel()
        if self._job.request.streams:
            self._listening = asyncio.create_task(self._listen())
        accepted = self._accepted
        watch = Watch(
            fetch=lambda last: accepted.client.retrieve(accepted.response_id, last),
            on_reply=self._heard,
            on_failure=self._failed,
            wake=self._wake,
            pack=accepted.client.pack,
            deadline=deadline,
        )
        try:
            return await poll(watch, self._delays, self._clock, accepted.reply.poll_after)
        finally:
            self._end()

    def _end(self) -> None:
        self._turn.leave()
        for task in (self._cancelling, self._listening):
            if task is not None:
                task.cancel()

    def _heard(self, reply: Reply) -> None:
        self._missing = 0
        if reply.response is self._job.record.response:
            self._job.advance(checked_at=self._clock.now(), trouble=None, offline=False)
            return
        changes = news(self._job, reply, self._clock.now())
        if changes["status"] != self._job.record.status:
            written = {name: changes[name] for name in ("status", "started_at", "checked_at")}
            self._ledger.note(self._job.record, **written)
        self._job.advance(**changes)

    def _failed(self, failure: ServerError) -> bool:
        """Take in a failed poll; whether to give up on the response."""
        gone = failure.status_code == 404 and failure.told
        self._missing = self._missing + 1 if gone else 0
        refused = failure.status_code in (401, 403)
        offline = failure.status_code is None
        about = "the key is refused" if refused else "the poll failed"
        goes_on = (
            "offline, the job goes on at the server" if offline else f"{about}, the job goes on"
        )
        self._job.advance(trouble=f"{goes_on}: {failure}", offline=offline)
        return self.gone

    # Listening.

    async def _listen(self) -> None:
        accepted = self._accepted
        listening = Listening(
            lambda after: accepted.client.follow(accepted.response_id, after),
            self._preview,
            self._hinted,
        )
        await listening.run(accepted.stream)

    def _preview(self, preview: Preview) -> None:
        if not self._job.done():
            self._job.advance(preview=preview)

    def _hinted(self, response: Mapping[str, Any]) -> None:
        """Take in a response object of the stream: what is terminal is polled, here and now."""
        status = response.get("status")
        if isinstance(status, str) and status in SERVER_TERMINAL:
            self._delays.soon()
            self._wake.set()
        elif status == Status.IN_PROGRESS and self._job.record.status == Status.QUEUED:
            # Only forwards: a stream that is read again tells of earlier states.
            self._heard(Reply(response))

    # Cancelling.

    def cancel(self) -> None:
        """Ask the server to cancel."""
        self._cancelling = asyncio.create_task(self._cancel())

    async def _cancel(self) -> None:
        """Ask the server to cancel until it has heard, then have the status polled.

        What the cancel call returns does not settle the job: a server may complete it after all,
        and refuses to cancel what has ended. The poll that follows tells which.
        """
        delays, missed, accepted = Delays(1.0), 0, self._accepted
        while True:
            try:
                await accepted.client.cancel(accepted.response_id)
                break
            except ServerError as failure:
                self._job.advance(trouble=f"the cancel failed: {failure}")
                missed += failure.status_code == 404
                if failure.status_code in CANCEL_REFUSED and missed != 1:
                    # The job has mostly just ended. If not, another cancel may be tried.
                    self._job.advance(cancelling=False)
                    self._ledger.note(self._job.record, cancelling=False)
                    break
                await asyncio.sleep(delays.after_failure(failure.retry_after))
        self._delays.soon()
        self._wake.set()


def news(job: Job, reply: Reply, now: float) -> dict[str, Any]:
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
        "offline": False,
    }
