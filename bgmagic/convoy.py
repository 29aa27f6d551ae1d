"""Starts the jobs of a group together: all are written down in one go, then each is carried."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from bgmagic.course import HEAD_START, Plan
from bgmagic.job import Job
from bgmagic.ledger import AT_ONCE, Ledger

logger = logging.getLogger("bgmagic")


async def carry_all(
    jobs: Sequence[Job],
    plan: Plan,
    ledger: Ledger,
    carry: Callable[..., Coroutine[Any, Any, None]],
) -> None:
    """Write the group down and carry its jobs to their ends, on the loop thread.

    Args:
        carry: carries one job; takes ``intended=True``.
    """
    begun: set[asyncio.Task[None]] = set()
    try:
        await asyncio.sleep(HEAD_START)
        records = [job.record for job in jobs]
        await ledger.intend_all(records, plan.server, plan.poll_interval, plan.deadline)
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


def _detach(jobs: Sequence[Job], reason: str) -> None:
    for job in jobs:
        if not job.done():
            job.detach(reason)
