"""The jobs of a group together: they are written down in one go, then each is carried.

Everything here is on the loop thread but `plan_anew`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from bgmagic.course import HEAD_START, Course, Plan
from bgmagic.errors import BadInput
from bgmagic.job import Job
from bgmagic.ledger import AT_ONCE, Ledger
from bgmagic.place import Place
from bgmagic.server import Server
from bgmagic.status import JobRecord

logger = logging.getLogger("bgmagic")

CROWD = 20  # jobs followed at once; of more, each begins with the usual interval


async def carry_all(
    jobs: Sequence[Job],
    plan: Plan,
    ledger: Ledger,
    carry: Callable[..., Coroutine[Any, Any, None]],
    ending: asyncio.Event,
    setting_out: set[asyncio.Task[Any]],
) -> None:
    """Write the group down and carry its jobs to their ends, on the loop thread.

    Args:
        carry: carries one job; takes ``intended=True``.
        ending: set as the process ends; a group is written down then, and left to the next one.
        setting_out: holds this task until the group is written down.
    """
    begun: set[asyncio.Task[None]] = set()
    ours = asyncio.current_task()
    assert ours is not None  # noqa: S101 - a coroutine always runs in one
    setting_out.add(ours)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), HEAD_START)
        records = [job.record for job in jobs]
        await ledger.intend_all(records, plan.server, plan.poll_interval, plan.deadline)
        if ending.is_set():
            _detach(jobs, "the kernel is shutting down")
            return
        setting_out.discard(ours)
        for number, job in enumerate(jobs, 1):
            task = asyncio.create_task(carry(job, intended=True))
            begun.add(task)  # the loop itself keeps only weak references
            task.add_done_callback(begun.discard)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)  # the polls of others go on
        while begun:
            await asyncio.wait(begun)
    except asyncio.CancelledError:
        # Courses that have begun have ended their jobs already.
        _detach(jobs, "the kernel is shutting down")
        raise
    except Exception as error:
        logger.exception("a group of %d jobs broke off", len(jobs))
        _detach(jobs, f"bgmagic itself failed with {type(error).__name__}: {error}")
    finally:
        setting_out.discard(ours)


def _detach(jobs: Sequence[Job], reason: str) -> None:
    for job in jobs:
        if not job.done():
            job.detach(reason)


def crowded(courses: Iterable[tuple[Course, object]]) -> bool:
    """Whether so many jobs are followed that each need not be looked after so often at first."""
    followed = (course for course, _ in courses if course.followed)
    return sum(1 for _ in itertools.islice(followed, CROWD + 1)) > CROWD


async def relocate(job: Job, name: str, place: Place, ledger: Ledger, server: Server) -> None:
    """Give a job another place in a group."""
    job.advance(name=name, place=place)
    ledger.note_place(job.record, server)


def plan_anew(record: JobRecord, ledger: Ledger, server: Server, deadline: float) -> Plan:
    """The plan for sending a job again that an earlier kernel ended.

    Raises:
        BadInput: its request held a secret, so that the journal does not have it whole.
    """
    entry = ledger.journal.find(record.key)
    if entry is not None and not entry.sendable:
        raise BadInput("its request held a secret, which the journal does not keep")
    return Plan(server, None, deadline)
