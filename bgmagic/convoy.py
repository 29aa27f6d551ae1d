"""The jobs of a group together: they are written down in one go, then each is carried.

Everything here is on the loop thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from bgmagic.course import HEAD_START
from bgmagic.job import Job
from bgmagic.ledger import AT_ONCE, Ledger
from bgmagic.plan import Plan

logger = logging.getLogger("bgmagic")


class Convoy:
    """The jobs of one group on their way; on the loop thread."""

    def __init__(self, jobs: Sequence[Job], plan: Plan, ledger: Ledger) -> None:
        self._jobs = jobs
        self._plan = plan
        self._ledger = ledger
        self._hurry = asyncio.Event()
        self._written = asyncio.Event()

    def close(self) -> None:
        """Write them down now: the process is about to end."""
        self._hurry.set()

    async def written(self) -> None:
        """Wait until they are written down, or that has failed."""
        await self._written.wait()

    async def run(self, carry: Callable[[Job], Coroutine[Any, Any, None]]) -> None:
        """Write the group down and carry its jobs to their ends."""
        jobs, plan = self._jobs, self._plan
        for job in jobs:
            self._ledger.expect(job.record)
        begun: set[asyncio.Task[None]] = set()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), HEAD_START)
            records = [job.record for job in jobs]
            await self._ledger.intend_all(records, plan.server, plan.poll_interval, plan.deadline)
            self._written.set()
            if self._hurry.is_set():
                _detach(jobs, "the kernel is shutting down")
                return
            for number, job in enumerate(jobs, 1):
                task = asyncio.create_task(carry(job))
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
            self._written.set()


def _detach(jobs: Sequence[Job], reason: str) -> None:
    for job in jobs:
        if not job.done():
            job.detach(reason)
