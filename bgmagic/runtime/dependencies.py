"""Waits for the jobs whose answers a request needs, on the loop thread.

A job can only need older ones, so no two ever wait for each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bgmagic.concurrency import Clock, WakeEvent
from bgmagic.errors import BadInput, Unsendable
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.outcome import Detached
from bgmagic.prompts.template import PartialPrompt

# Finds a job by its key: here, or in the journal. None if it is nowhere.
FindJob = Callable[[str], Awaitable[Job | None]]

RETRY = 5.0  # seconds between looks at a job that another kernel follows


class UnmetDependency(Exception):
    """A job that is needed ended without an answer; the message says which and why.

    Attributes:
        ended: whether that job has ended; False if it is only no longer watched.
    """

    def __init__(self, message: str, *, ended: bool = True) -> None:
        super().__init__(message)
        self.ended = ended


class DependencyWaiter:
    """Waits for the jobs whose answers one job needs."""

    def __init__(self, job: Job, find: FindJob, clock: Clock, wake: WakeEvent) -> None:
        """Make the waiter; `run` waits.

        Args:
            wake: set to check the job again, as when it is to be cancelled.
        """
        self._job = job
        self._find = find
        self._clock = clock
        self._wake = wake

    async def run(self, partial: PartialPrompt) -> Callable[[str], Answer] | None:
        """Wait until all answers are there.

        Returns:
            a function from a job's key to its answer; None if the job is to be cancelled.

        Raises:
            UnmetDependency: one of the jobs has no answer, or is no longer watched.
        """
        needed: dict[str, Job] = {}
        again: set[str] = set()
        while not self._job.record.cancelling:
            for key in partial.needs:
                known = needed.get(key)
                if known is not None and (key in again or not isinstance(known.error, Detached)):
                    continue
                if known is not None:
                    again.add(key)  # another kernel was faster: its answer is as good
                found = await self._found(key)
                if found is None:
                    return None
                needed[key] = found
                found.add_listener(self._heard)
            for job in needed.values():
                _check(job)
            open_jobs = [job for job in needed.values() if not job.done()]
            self._tell(open_jobs)
            if not open_jobs:
                return lambda key: needed[key].result(0)
            await self._wake.wait()
            self._wake.clear()
        return None

    async def _found(self, key: str) -> Job | None:
        """Find the job with this key, once this kernel may watch it; None to cancel."""
        while not self._job.record.cancelling:
            try:
                found = await self._find(key)
            except Unsendable as error:
                raise UnmetDependency(f"what it needs never comes: {error}") from None
            except BadInput as error:  # another kernel follows it, or another server is configured
                self._job.advance(trouble=str(error))
                await self._clock.pause(self._wake, RETRY)
                continue
            if self._job.record.trouble is not None:
                self._job.advance(trouble=None)
            if found is None:
                raise UnmetDependency(
                    "it needs the answer of a job that is no longer in the journal"
                )
            return found
        return None

    def _heard(self, job: Job) -> None:
        if job.done():
            self._wake.set()

    def _tell(self, jobs: list[Job]) -> None:
        names = tuple(job.name or job.response_id or "another job" for job in jobs)
        if names != self._job.record.waits_for:
            self._job.advance(waits_for=names)


def _check(job: Job) -> None:
    error = job.error
    if error is None:
        return
    name = job.name or "the other job"
    if isinstance(error, Detached):
        raise UnmetDependency(f"it needs {name}: {error}", ended=False)
    raise UnmetDependency(f"it needs the answer of {name}, which is {job.status}: {error}")
