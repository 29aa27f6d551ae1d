"""Runs every job of this kernel: submits, polls, cancels, and settles.

One `JobManager` a process. Its public methods can be called from any thread and never wait for the
network; the underscored ones run on the loop thread, which alone changes jobs. It knows neither
IPython nor widgets: displays are listeners, the user's variable is handed in.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bgmagic.client import Client, Reply
from bgmagic.errors import Accepted, BgmagicError, ServerError
from bgmagic.job import Job, Variable
from bgmagic.loop import CallbackThread, LoopThread
from bgmagic.poller import Clock, Delays, Watch, is_terminal, poll
from bgmagic.request import Request
from bgmagic.server import Server
from bgmagic.status import JobRecord, Status

logger = logging.getLogger("bgmagic")

# Seconds by which a cell goes before its own submission: importing the SDK and building a request
# would else compete with the end of the cell for the interpreter.
HEAD_START = 0.05
DEADLINE = 24 * 3600.0  # seconds from acceptance
EXIT_TIMEOUT = 1.5  # seconds; a kernel is killed about 2.6 s after it was asked to stop


@dataclass(frozen=True)
class _Accepted:
    """A response and who asks for it."""

    client: Client
    response_id: str
    reply: Reply
    at: float


@dataclass
class _Run:
    """What the loop thread keeps of a job while it runs."""

    delays: Delays
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    accepted: _Accepted | None = None
    cancel: asyncio.Task[None] | None = None


class JobManager:
    """All jobs of this process, on one loop thread."""

    def __init__(
        self, make_card: Callable[[Job], Any] | None = None, clock: Clock | None = None
    ) -> None:
        """Make a manager; its thread starts with the first job.

        Args:
            make_card: makes the live display of a job.
            clock: the poller's time.
        """
        self._make_card = make_card
        self._clock = clock or Clock()
        self._loop = LoopThread()
        self._callbacks = CallbackThread()
        self._clients: dict[Server, Client] = {}
        self._jobs: list[Job] = []
        self._runs: dict[Job, _Run] = {}
        # Where jobs go; None is the server that the environment names at submission.
        self.server: Server | None = None
        # Where they went before the embedded server was switched on.
        self.usual_server: Server | None = None
        atexit.register(self.close)

    def submit(
        self,
        request: Request,
        *,
        name: str | None = None,
        variable: Variable | None = None,
        poll_interval: float | None = None,
        deadline: float = DEADLINE,
    ) -> Job:
        """Start a job and return its handle at once.

        Args:
            name: what the user calls the job.
            variable: where the answer goes; holds the job from now on.
            poll_interval: seconds between polls; None means soon at first, then every 10.
            deadline: seconds after acceptance at which watching ends.

        Raises:
            BadInput: there is no server to send it to; nothing was sent.
        """
        server = self.server or Server.from_environment()
        record = JobRecord(
            request=request, server=server.address, submitted_at=self._clock.now(), name=name
        )
        job = Job(record, self, variable)
        # Before the job can possibly end: the answer replaces only what it finds there.
        if variable is not None:
            variable.hold(job)
        self._jobs.append(job)
        self._loop.run(self._run(job, server, Delays(poll_interval), deadline))
        return job

    def jobs(self) -> list[Job]:
        """All jobs of this process, oldest first."""
        return list(self._jobs)

    def close(self, timeout: float = EXIT_TIMEOUT) -> bool:
        """End the loop thread; jobs that still run are detached, not cancelled."""
        atexit.unregister(self.close)
        return self._loop.stop(timeout)

    # What a job asks for (job.Control).

    def cancel(self, job: Job) -> bool:
        """Pass the user's wish to cancel on; False if the job has ended."""
        if job.done():
            return False
        self._loop.call(lambda: self._want_cancel(job))
        return True

    def on_loop_thread(self) -> bool:
        """Whether the caller is the loop thread."""
        return self._loop.is_current()

    def call_back(self, function: Callable[[Any], object], job: Job) -> None:
        """Call ``function(job)`` off the loop thread."""
        self._callbacks.call(lambda: function(job))

    def make_card(self, job: Job) -> Any:
        """The live display of ``job``."""
        if self._make_card is None:
            raise BgmagicError("this manager was made without displays")
        return self._make_card(job)

    # On the loop thread.

    async def _run(self, job: Job, server: Server, delays: Delays, deadline: float) -> None:
        run = self._runs[job] = _Run(delays=delays)
        try:
            await self._carry(job, run, server, deadline)
        except asyncio.CancelledError:
            self._abandon(job, "the kernel is shutting down")
            raise
        except Exception as error:
            logger.exception("%r broke off", job)
            self._abandon(job, f"bgmagic itself failed with {type(error).__name__}: {error}")
        finally:
            if run.cancel is not None:
                run.cancel.cancel()
            del self._runs[job]

    async def _carry(self, job: Job, run: _Run, server: Server, deadline: float) -> None:
        """Carry a job from submission to its end."""
        await asyncio.sleep(HEAD_START)
        if _is_cancelling(job):
            self._settle(job, status=Status.CANCELLED)
            return
        job.advance(status=Status.SUBMITTING)
        accepted = run.accepted = await self._create(job, server)
        if accepted is None:
            return
        last: Reply | None = accepted.reply
        if not is_terminal(accepted.reply):
            if _is_cancelling(job):
                self._send_cancel(job, run, accepted)
            watch = self._watch(job, run, accepted, deadline)
            last = await poll(watch, run.delays, self._clock, accepted.reply.poll_after)
        if last is None:
            job.detach(_deadline_line(job, deadline))
        else:
            self._settle(job, **_news(job, last, self._clock.now()))

    async def _create(self, job: Job, server: Server) -> _Accepted | None:
        """POST the request; None if that ended the job."""
        try:
            client = self._clients.get(server) or self._clients.setdefault(server, Client(server))
            reply = await client.create(job.request)
        except ServerError as failure:
            certain = failure.accepted is Accepted.NO
            status = Status.FAILED if certain else Status.UNKNOWN
            self._settle(job, status=status, reason=_create_line(failure))
            return None
        response_id = reply.response.get("id")
        if not isinstance(response_id, str) or not response_id:
            reason = "the server answered without a response id, so the job can't be followed"
            self._settle(job, status=Status.UNKNOWN, response=reply.response, reason=reason)
            return None
        now = self._clock.now()
        job.advance(response_id=response_id, accepted_at=now, **_news(job, reply, now))
        return _Accepted(client, response_id, reply, now)

    def _watch(self, job: Job, run: _Run, accepted: _Accepted, deadline: float) -> Watch:
        return Watch(
            fetch=lambda: accepted.client.retrieve(accepted.response_id),
            on_reply=lambda reply: job.advance(**_news(job, reply, self._clock.now())),
            on_failure=lambda failure: job.advance(trouble=str(failure)),
            wake=run.wake,
            deadline=accepted.at + deadline,
        )

    def _settle(self, job: Job, **changes: Any) -> None:
        job.settle(ended_at=self._clock.now(), **changes)

    def _abandon(self, job: Job, reason: str) -> None:
        """End the watch of a job that can't be carried on, without losing what is known of it."""
        if job.done():
            return
        if job.record.response_id is None and job.record.status == Status.SUBMITTING:
            self._settle(job, status=Status.UNKNOWN, reason=f"{reason} while it was being sent")
        else:
            job.detach(reason)

    def _want_cancel(self, job: Job) -> None:
        if job.done() or job.record.cancelling:
            return
        job.advance(cancelling=True)
        run = self._runs.get(job)
        if run is not None and run.accepted is not None:
            self._send_cancel(job, run, run.accepted)

    def _send_cancel(self, job: Job, run: _Run, accepted: _Accepted) -> None:
        run.cancel = asyncio.create_task(self._cancel(job, run, accepted))

    async def _cancel(self, job: Job, run: _Run, accepted: _Accepted) -> None:
        """Ask the server to cancel until it has heard, then have the status polled.

        What the cancel call returns does not settle the job: a server may complete it after all,
        and refuses to cancel what has ended. The poll that follows tells which.
        """
        delays = Delays(1.0)
        while True:
            try:
                await accepted.client.cancel(accepted.response_id)
                break
            except ServerError as failure:
                job.advance(trouble=f"cancel: {failure}")
                if failure.status_code in _CANCEL_REFUSED:
                    break
                await asyncio.sleep(delays.after_failure(failure.retry_after))
        run.delays.soon()
        run.wake.set()


# Answers to a cancel that asking again will not change; the job has mostly just ended.
_CANCEL_REFUSED = frozenset({400, 401, 403, 404, 405, 409, 410, 422})


def _is_cancelling(job: Job) -> bool:
    return job.record.cancelling


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


def _create_line(failure: ServerError) -> str:
    if failure.accepted is Accepted.NO:
        return f"not accepted by the server: {failure}"
    return (
        "it is unclear whether the server accepted this job, and it was not sent again, "
        f"since that could be paid twice: {failure}"
    )


def _deadline_line(job: Job, deadline: float) -> str:
    return (
        f"it was still {job.record.status} {deadline / 3600:g} h after it was accepted, "
        f"the deadline; the server goes on with {job.response_id}"
    )
