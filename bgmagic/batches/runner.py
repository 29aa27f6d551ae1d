"""Runs one batch to its end: sends it, polls it, and takes in what has come of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bgmagic.api.batch import BatchReport, create_of, is_batch_of, key_of
from bgmagic.api.response import text_in
from bgmagic.batches.sender import BEFORE, BatchSender
from bgmagic.batches.work import BatchWork
from bgmagic.errors import ServerError
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import SHUTDOWN, past_deadline, settle
from bgmagic.jobs.record import Note, SendGate, Status
from bgmagic.runtime.attach import settle_as_stored
from bgmagic.runtime.pacing import LIMIT, RunConfig
from bgmagic.storage.batches import BatchState
from bgmagic.transport.batches import CREATE_BATCH_TIMEOUT

logger = logging.getLogger("bgmagic")

# Seconds between two polls of a batch: after something has changed, at first, and later. One poll
# is of all its jobs.
SOON, POLL, LATER_POLL = 10.0, 30.0, 60.0

LATER = 600.0  # seconds after acceptance from which polls come later

LOCAL_POLL = 2.0  # seconds, of the embedded server

FAILED_POLL = 5.0  # seconds after a poll that failed; doubled with each more

JOINING = 0.2  # seconds in which jobs of one batch are cancelled one after another

# Seconds after acceptance at which the server's list is looked through for a second batch, which a
# proxy that sends a create twice makes.
LOOKS_FOR_OTHERS = (0.0, CREATE_BATCH_TIMEOUT + 120.0)

LOST_AFTER = 5  # answers in a row that the server knows no such batch

REREADS = 5  # polls for which results are waited for that an ended batch does not have yet


class BatchRunner:
    """Runs one batch. All methods run on the loop thread."""

    def __init__(self, work: BatchWork, gate: SendGate | None) -> None:
        """Make it; ``gate`` may hold the batch back before it is sent."""
        self.work = work
        self._gate = gate
        self._report: BatchReport | None = None
        self._looks = list(LOOKS_FOR_OTHERS)
        self._cancel_sent = self._considering = self._troubled = self._unsaved = False

    async def run(self, *, attached: bool) -> None:
        """Run the batch to its end; raises nothing but CancelledError.

        Args:
            attached: whether the journal has it already, from another kernel.
        """
        work = self.work
        try:
            if attached and not await work.adopt():
                return
            self._report = await BatchSender(work, self._gate).run()
            if work.batch.state == BatchState.CREATED:
                self._consider_cancel()
                await self._follow()
        except asyncio.CancelledError:
            work.stop(SHUTDOWN)
            raise
        except Exception as error:
            logger.exception("a batch broke off")
            work.stop(f"bgmagic itself failed with {type(error).__name__}: {error}")

    def join(self, job: Job) -> None:
        """Go on with one more job of the batch, which the journal has."""
        key, results = job.record.key, self.work.results
        if key in results.settled:
            self._settle_from_journal(job)
            return
        results.absent.discard(key)
        results.jobs[key] = job
        if self._report is not None:
            batch_id = self.work.batch.batch_id
            accepted_at = self.work.accepted_at
            job.advance(status=self._report.status, accepted_at=accepted_at, batch_id=batch_id)

    def _settle_from_journal(self, job: Job) -> None:
        """End a job that has ended since the journal was read."""
        entry = next(iter(self.work.store.whole([job.record.key])), None)
        if entry is None:  # forgotten
            settle(job, status=Status.LOST, ended_at=self.work.clock.now())
        else:
            settle_as_stored(job, entry)

    def close(self) -> None:
        """Stop after the call that is under way."""
        self.work.closing = True
        self.work.wake.set()

    def reconfigure(self, config: RunConfig) -> None:
        """Call the server from now on as ``config`` says: the key has been changed."""
        self.work.config = config
        self.work.wake.set()

    # Cancelling.

    def request_cancel(self, job: Job) -> None:
        """Cancel a job; in a batch that the server has, with all the others only."""
        if job.done() or job.outline.cancelling:
            return
        job.advance(cancelling=True, notes=job.record.with_note(Note.ONE_OF_BATCH, there=False))
        if not self._considering:
            self._considering = True
            # Of a whole group, one after another is cancelled.
            asyncio.get_running_loop().call_later(JOINING, self._consider_cancel)

    def _consider_cancel(self) -> None:
        self._considering = False
        if self.work.batch.state == BatchState.CREATED and not self.work.all_cancelling:
            for job in self.work.jobs:
                if job.outline.cancelling and not self._cancel_sent:
                    job.advance(cancelling=False, notes=job.record.with_note(Note.ONE_OF_BATCH))
        self.work.wake.set()

    async def _cancel(self, batch_id: str) -> None:
        """Ask the server to cancel the batch, if all its jobs are to be cancelled, and once."""
        work = self.work
        if self._cancel_sent or not work.results.left or not work.all_cancelling:
            return
        try:
            await work.client.cancel(batch_id)
        except ServerError as failure:
            if failure.status_code not in (400, 404, 409):  # it has mostly just ended
                raise
        self._cancel_sent = True
        await work.store.try_to_save(work.batch, cancelling=True)

    async def _look_for_others(self) -> None:
        """Cancel a second batch that our create has made, and say so. Of batches that two kernels
        made, as those of a machine and its copy, follow the first."""
        work, age = self.work, self.work.clock.now() - (self.work.accepted_at or 0.0)
        due = [after for after in self._looks if age >= after]
        if not due:
            return
        self._looks = self._looks[len(due) :]
        since = work.batch.created_at - BEFORE
        with contextlib.suppress(ServerError):  # there may be no list
            found = await work.client.find(work.batch.key, since, work.group)
            for one in found:
                if await self._is_double(one):
                    if not BatchReport.of(one).ended:
                        with contextlib.suppress(ServerError):
                            await work.client.cancel(text_in(one.get("id")))
                    self._note(Note.BATCH_TWICE)
            await self._give_way([one for one in found if is_batch_of(one, work.batch.key)])

    def _note(self, note: Note) -> None:
        for job in self.work.jobs:
            job.advance(notes=job.outline.with_note(note))

    async def _give_way(self, found: Sequence[Mapping[str, Any]]) -> None:
        """Go on with the first of our batches that are of several creates; if that is another's,
        cancel ours. Nobody cancels what another kernel follows.

        Raises:
            ServerError: ours could not be cancelled, and is followed.
        """
        work = self.work
        ours = next((one for one in found if one.get("id") == work.batch.batch_id), None)
        others = [one for one in found if create_of(one) != work.batch.create]
        others = [one for one in others if BatchReport.of(one).may_answer and one is not ours]
        if ours is None or not others or not work.batch.create:
            return
        self._note(Note.BATCH_ELSEWHERE)
        first, is_ours = min(others, key=_made), create_of(ours) == work.batch.create
        if not is_ours or BatchReport.of(ours).ended or _made(ours) < _made(first):
            return
        await work.client.cancel(text_in(ours.get("id")))
        self._report = None
        work.batch = replace(work.batch, batch_id=text_in(first.get("id")))
        await work.store.try_to_save(work.batch)
        await work.tell(batch_id=work.batch.batch_id)

    async def _is_double(self, found: Mapping[str, Any]) -> bool:
        """Whether a batch of our name or group does the same work as ours and is our own create's:
        a second one of that, or one whose unknown jobs have all been sent again. Any other batch of
        the group may be the only one that does its work."""
        work, key = self.work, key_of(found)
        if found.get("id") == work.batch.batch_id or not create_of(found):
            return False
        if is_batch_of(found, work.batch.key):
            return create_of(found) == work.batch.create
        earlier = await asyncio.to_thread(work.store.find, key)
        return (
            earlier is not None
            and (earlier.state, earlier.batch_id) == (BatchState.ENDED, None)
            and earlier.create == create_of(found)
            and await asyncio.to_thread(work.store.is_sent_again, key, work.group)
        )

    # Watching.

    async def _follow(self) -> None:
        work = self.work
        accepted = work.accepted_at = work.accepted_at or work.clock.now()
        deadline = accepted + work.config.deadline
        missing, rereads, failures = 0, 0, 0
        delay = 0.0 if self._report is None else self._delay(soon=True)
        while True:
            await work.clock.pause(work.wake, delay)
            if work.closing:
                work.stop(SHUTDOWN)
                return
            late = work.clock.now() >= deadline
            try:
                report = await self._poll()
                missing = failures = 0
                if report.ended:
                    if await self._read(report) or rereads == REREADS:
                        await self._end_left(report)
                        return
                    rereads += 1
                delay = self._delay(soon=report.ended or self._cancel_sent)
            except ServerError as failure:
                failures += 1
                missing = missing + 1 if failure.status_code == 404 and failure.from_api else 0
                if missing == LOST_AFTER:
                    about = f"the server no longer knows this batch: {failure}"
                    await work.end_all(Status.LOST, about)
                    return
                self._troubled = True
                await work.tell(trouble=f"the poll failed, the batch goes on: {failure}")
                doubled = FAILED_POLL * 2.0 ** min(failures - 1, 4)
                if missing and work.config.server.is_local:
                    doubled = LOCAL_POLL  # one that was started anew knows nothing of it
                delay = min(max(doubled, failure.retry_after or 0.0), LIMIT)
            if late:
                await work.store.release(work.batch)
                self._stop_at_deadline()
                return

    async def _poll(self) -> BatchReport:
        """Ask the server how far the batch is.

        Raises:
            ServerError: it did not say.
        """
        work = self.work
        await self._look_for_others()
        batch_id, before = work.batch.batch_id or "", self._report
        await self._cancel(batch_id)
        report = BatchReport.of(await work.client.retrieve(batch_id))
        if not report.status:  # of a lean server
            report = replace(report, status=before.status if before else Status.IN_PROGRESS)
        self._report = report
        self._tell_counts(report)
        if report.ended:
            return report  # each of its jobs has a status of its own then
        changed = before is None or report.status != before.status
        if changed or self._unsaved:
            # It is told, and what can't be written down now is with the next poll.
            columns = {"status": report.status, "accepted_at": work.accepted_at}
            self._unsaved = not await work.store.try_to_save(work.batch, **columns)
        if changed or self._troubled:
            self._troubled = False
            now, accepted = work.clock.now(), work.accepted_at
            await work.tell(
                status=report.status, accepted_at=accepted, checked_at=now, trouble=None
            )
        return report

    def _tell_counts(self, report: BatchReport) -> None:
        """Note how far the batch is, in one of its jobs: in all, each poll would make thousands of
        changes."""
        job = next((one for one in self.work.results.jobs.values() if not one.done()), None)
        if job is not None and job.outline.batch_counts != report.counts:
            job.advance(batch_counts=report.counts)

    def _delay(self, *, soon: bool) -> float:
        """Seconds until the next poll: above 0 and below 90."""
        work = self.work
        age = work.clock.now() - (work.accepted_at or 0.0)
        usual = SOON if soon else POLL if age < LATER else LATER_POLL
        if work.config.server.is_local:
            usual = LOCAL_POLL
        interval = work.config.poll_interval or usual
        return min(interval * random.uniform(0.9, 1.1), LIMIT)  # noqa: S311 - no secret

    def _stop_at_deadline(self) -> None:
        work = self.work
        if work.jobs:
            work.stop(past_deadline(work.jobs[0], work.config.deadline))

    async def _read(self, report: BatchReport) -> bool:
        """Take in what an ended batch has; False if there should be more, which may be late.

        Raises:
            ServerError: a file can't be read to its end.
        """
        work = self.work
        for file_id in report.files:
            try:
                await work.results.read(work.client, file_id, work.config.server)
            except ServerError as failure:
                if failure.status_code != 404:
                    raise
        return not work.results.left or report.status == Status.FAILED

    async def _end_left(self, report: BatchReport) -> None:
        """End the jobs of which an ended batch has no result."""
        missing = f"the batch {report.batch_id} has ended, and its files have no line of this job"
        why = {
            "failed": (Status.FAILED, report.why or "the server refused the batch"),
            "expired": (Status.FAILED, "batch_expired: it was not done within 24 hours"),
            "cancelled": (Status.CANCELLED, "with its batch"),
        }
        await self.work.end_all(*why.get(report.status, (Status.LOST, missing)))


def _made(batch: Mapping[str, Any]) -> tuple[float, str]:
    """Sort key of batches: the order in which they were made, the same for all kernels."""
    at = batch.get("created_at")
    return (float(at) if isinstance(at, int | float) else 0.0, text_in(batch.get("id")))
