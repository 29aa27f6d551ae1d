"""Has the server work on a batch, at most once: writes its file, uploads it, and makes the batch.

What is about to be asked is written down before it is asked. Where it is unclear whether the server
has made a batch, its list of batches tells: each carries our own name of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO, Any

from bgmagic.api.batch import KEY, BatchReport, request_line
from bgmagic.batches.work import BatchWork
from bgmagic.errors import ServerError
from bgmagic.jobs.outcome import SHUTDOWN, unclear
from bgmagic.jobs.record import SendGate, Status
from bgmagic.runtime.pacing import PollSchedule
from bgmagic.storage.batches import BatchState
from bgmagic.storage.database import JournalError
from bgmagic.transport.batches import CREATE_BATCH_TIMEOUT

# Seconds after a create without an answer at which its batch is looked for in the server's list. If
# it is not there at last, it may still be made later: the create is not repeated.
LOOK_UPS = (0.0, 5.0, 20.0, 60.0, CREATE_BATCH_TIMEOUT + 120.0, 600.0)

BEFORE = 86400.0  # seconds by which the server's clock may be behind ours

# Seconds until a batch that the budget holds back asks again: there are thousands to add up.
BUDGET_RETRY = 30.0

WRITE_RETRY = 10.0  # seconds between tries to write a step, or the file, down, at most

# Answers by which a server says that it has no batches, or no list of them.
NO_BATCHES = frozenset({404, 405, 501})

LINES = 200  # of a file, written in one go

_LOOKED_FOR = "the server may have made the batch, and is asked for its list"


class _Unwritable(Exception):
    """The file of requests can't be written to a temporary folder."""

    def __init__(self, failure: OSError) -> None:
        why = failure.strerror or str(failure)
        super().__init__(
            f"the file of its requests can't be written to the temporary folder: {why}; make room "
            "there, or set TMPDIR to another one before the kernel starts"
        )


class BatchSender:
    """Sends one batch. All methods run on the loop thread."""

    def __init__(self, work: BatchWork, gate: SendGate | None) -> None:
        """Make it; ``gate`` may hold the batch back."""
        self._work = work
        self._gate = gate
        self._old_file = work.batch.file_id  # of an earlier kernel
        self._uploaded_again = False

    async def run(self) -> BatchReport | None:
        """Have the server make the batch; None if it has been made before, or will not be."""
        work, delays = self._work, PollSchedule(5.0)
        give_up_at = work.clock.now() + work.config.deadline
        made: BatchReport | None = None
        while work.batch.state not in (BatchState.CREATED, BatchState.ENDED):
            if work.closing:
                work.stop(SHUTDOWN)
                return None
            left = give_up_at - work.clock.now()
            try:
                made = await self._next_step()
                continue
            except (JournalError, _Unwritable) as failure:
                wait, about = min(delays.after_failure(), WRITE_RETRY), str(failure)
            except ServerError as failure:
                if await self._ends_unsent(failure, left):
                    return None
                wait, about = delays.after_failure(failure.retry_after), str(failure)
            maybe_made = work.batch.state == BatchState.CREATING
            if left <= 0:
                told = "it may have been sent, or not" if maybe_made else "it was not sent"
                work.stop(f"{told}: {about}")
                return None
            if maybe_made:
                await work.tell(status=Status.SUBMITTING, trouble=f"{_LOOKED_FOR}: {about}")
            else:
                await work.tell(status=Status.WAITING, trouble=f"not sent yet: {about}")
            await work.clock.pause(work.wake, wait)
        return made

    async def _next_step(self) -> BatchReport | None:
        """Take the next step towards a batch; gives the batch once it is made.

        Raises:
            ServerError: a call failed; the state says whether it can have been accepted.
            JournalError: a step could not be written down, and was not taken.
            _Unwritable: there is no room for the file.
        """
        work = self._work
        if work.batch.state == BatchState.CREATING:
            return await self._look_up()
        if not work.results.left or work.all_cancelling:
            await work.end_all(Status.CANCELLED, "before it was sent")
        elif not await self._held_back():
            if work.adopted and (made := await self._made_before()):
                return await self._accepted(made)
            if sent := await work.store.sent_elsewhere([job.record for job in work.jobs]):
                # Its user had it sent from another host, as this kernel gave no sign of life.
                await work.end(sent, Status.FAILED, "not sent here: it was sent from another host")
                await work.save(state=BatchState.INTENDED, file_id=None)
            elif work.batch.file_id is None:
                await self._upload()
            elif any(job.outline.cancelling for job in work.jobs):
                # The file still has them: what is cancelled before it is sent is not sent.
                await work.save(state=BatchState.INTENDED, file_id=None)
            else:
                return await self._create(work.batch.file_id)
        return None

    async def _made_before(self) -> BatchReport | None:
        """The batch, if the server has it although the journal does not say so: a journal from a
        backup, or of a copy of the machine, is behind."""
        work = self._work
        try:
            found = await work.client.find(work.batch.key, work.batch.created_at - BEFORE)
        except ServerError as failure:
            if failure.status_code not in NO_BATCHES:
                raise
            found = []
        work.adopted = False  # it has been looked for
        return _chosen(found) if found else None

    async def _held_back(self) -> bool:
        """Wait a while if the budget holds the batch back; whether it did."""
        gate, work = self._gate, self._work
        if gate is None or work.batch.over_budget or not gate.is_set():
            return False
        records = [job.record for job in work.jobs]
        why = await asyncio.to_thread(gate.refusal_all, records)
        if why is None:
            return False
        await work.tell(status=Status.WAITING, trouble=f"not sent: {why}")
        await work.clock.pause(work.wake, BUDGET_RETRY)
        return True

    async def _upload(self) -> None:
        """Send the file of requests; one that the server may have already is looked for first."""
        work = self._work
        maybe_there = work.batch.state == BatchState.UPLOADING
        name = f"bgmagic-{work.batch.key}.jsonl"
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(tempfile.TemporaryFile())
                size = await self._write(file)
                file.seek(0)
            except OSError as failure:
                raise _Unwritable(failure) from None
            if not size:
                return  # there is nothing to send: the next step says so
            await work.save(state=BatchState.UPLOADING)
            file_id = await self._uploaded(name, size) if maybe_there else None
            work.sending = True
            try:
                file_id = file_id or await work.client.upload(name, file)
            except ServerError as failure:
                if not failure.maybe_accepted:
                    await work.save(state=BatchState.INTENDED)
                raise
            finally:
                work.sending = False
        await work.save(state=BatchState.UPLOADED, file_id=file_id)

    async def _uploaded(self, name: str, size: int) -> str | None:
        try:
            return await self._work.client.find_file(name, size)
        except ServerError as failure:
            # A second file costs nothing: only of one a batch is made.
            if failure.status_code in NO_BATCHES:
                return None
            raise

    async def _write(self, file: IO[bytes]) -> int:
        """Write the lines of all open requests that are not cancelled; gives the bytes."""
        work, size = self._work, 0
        cancelled = [job.key for job in work.jobs if job.outline.cancelling]
        await work.end(cancelled, Status.CANCELLED, "before it was sent")
        async for some in work.results.courtesy.slices(work.jobs, LINES):
            for job in some:
                size += file.write(request_line(job.key, job.request.text))
        absent = list(work.results.absent)
        for start in range(0, len(absent), LINES):
            entries = await asyncio.to_thread(work.store.whole, absent[start : start + LINES])
            why = "not sent: its request held a secret, which the journal does not keep"
            unsendable = [entry.key for entry in entries if not entry.sendable]
            await work.end(unsendable, Status.FAILED, why)
            for entry in entries:
                if entry.sendable:
                    size += file.write(request_line(entry.key, entry.request))
        return size

    async def _create(self, file_id: str) -> BatchReport | None:
        """Have the server make a batch of the file, once."""
        work = self._work
        # Before it is written down as asked: beside a computing cell this takes its time.
        await work.tell(status=Status.SUBMITTING, trouble=None)
        if work.closing or work.all_cancelling:
            return None
        # Also of two kernels of one machine and its copy, whose clocks may be coarse.
        tried = work.clock.now() + random.random() / 10  # noqa: S311 - no secret
        submitting, waiting = ({"status": str(one)} for one in (Status.SUBMITTING, Status.WAITING))
        work.sending = True  # from here on: what is written down as asked is asked
        try:
            await work.save(submitting, state=BatchState.CREATING, tried_at=tried)
            return await self._create_once(file_id, waiting)
        finally:
            work.sending = False

    async def _create_once(self, file_id: str, waiting: dict[str, str]) -> BatchReport | None:
        work = self._work
        try:
            batch = work.batch
            made = await work.client.create(file_id, batch.key, work.group, batch.create)
        except ServerError as failure:
            if failure.maybe_accepted:
                raise  # the next step is to look it up
            # Files live for 30 days, or shorter, or as long as their server runs. The requests are
            # here.
            gone = (400, 404) if file_id == self._old_file else (404,)
            if failure.status_code in gone and not self._uploaded_again:
                self._uploaded_again = True
                again = {"state": BatchState.INTENDED, "file_id": None, "tried_at": None}
                await self._note(again, waiting)
                return None
            await self._note({"state": BatchState.UPLOADED, "tried_at": None}, waiting)
            raise
        return await self._accepted(BatchReport.of(made))

    async def _look_up(self) -> BatchReport | None:
        """Find the batch that the server may have made; without one, its jobs end as unknown."""
        work = self._work
        tried = work.batch.tried_at or work.clock.now()
        for after, following in itertools.pairwise((*LOOK_UPS, math.inf)):
            while work.clock.now() < tried + after and not work.closing:
                await work.clock.pause(work.wake, tried + after - work.clock.now())
            if work.closing:
                return None
            if work.clock.now() >= tried + following:
                continue  # later, as in another kernel: the next one says all that this could
            try:
                found = await work.client.find(work.batch.key, work.batch.created_at - BEFORE)
            except ServerError as failure:
                if failure.status_code not in NO_BATCHES:
                    raise
                why = unclear(f"the server has no list of batches to look it up in: {failure}")
                await work.end_all(Status.UNKNOWN, why)
                return None
            if found:
                return await self._accepted(_chosen(found))
        await work.end_all(Status.UNKNOWN, _not_found(work.batch.key))
        return None

    async def _accepted(self, made: BatchReport) -> BatchReport:
        work = self._work
        now = work.accepted_at = work.clock.now()
        known: dict[str, Any] = {
            "state": BatchState.CREATED,
            "batch_id": made.batch_id,
        }
        # Of one that has ended each job has a status of its own, which its files tell.
        made = made if made.status else replace(made, status=Status.IN_PROGRESS)  # of a lean server
        status = {} if made.ended else {"status": made.status}
        await self._note(known, {**status, "accepted_at": now})
        there = {"batch_id": made.batch_id, "accepted_at": now, "checked_at": now}
        await work.tell(**status, **there, trouble=None)
        return made

    async def _note(self, known: dict[str, Any], jobs: dict[str, Any] | None = None) -> None:
        """Go on with what the server has said, also if the journal can't be written."""
        try:
            await self._work.save(jobs, **known)
        except JournalError:
            self._work.batch = replace(self._work.batch, **known)

    async def _ends_unsent(self, failure: ServerError, left: float) -> bool:
        """End all jobs if a call that failed so need not be repeated; returns whether it did."""
        work = self._work
        if work.batch.state == BatchState.CREATING:
            return False
        if failure.maybe_accepted or (failure.retryable and left > 0):
            return False
        told = f"not accepted by the server: {failure}"
        if failure.status_code in NO_BATCHES:
            told = f"{work.config.server.address} has no batches: leave out --batch ({failure})"
        await work.end_all(Status.FAILED, told)
        return True


def _chosen(found: Sequence[Mapping[str, Any]]) -> BatchReport:
    """Of several batches of one key, newest first, the first one made that may give answers."""
    reports = [BatchReport.of(one) for one in reversed(found)]
    return next((one for one in reports if one.may_answer), reports[0])


def _not_found(key: str) -> str:
    """That the server's list never had a batch which it may have been asked to make."""
    return (
        "it is unclear whether the server made this batch, and it was not asked again, since that "
        f"could be paid twice: {LOOK_UPS[-1] / 60:g} minutes later its list has none with the "
        f"metadata {KEY}={key}; %bgattach of the group looks for it again, and "
        "retry_failed(unknown=True) sends it on purpose, and cancels it if it turns up by then"
    )
