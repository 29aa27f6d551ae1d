"""Every course of this process, and the connections they share; all of it on the loop thread.

The manager starts them from any thread; what one of them does is course.py's business.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence

from bgmagic.awaiting import Find
from bgmagic.client import Client
from bgmagic.convoy import Convoy
from bgmagic.course import Course
from bgmagic.job import Job
from bgmagic.ledger import Ledger
from bgmagic.place import Place
from bgmagic.plan import Plan
from bgmagic.poller import Clock
from bgmagic.server import Server


class Fleet:
    """The courses of jobs that have not ended, as long as one loop runs."""

    def __init__(self, ledger: Ledger, clock: Clock, find: Find) -> None:
        self._ledger = ledger
        self._clock = clock
        self._find = find
        self._clients: dict[Server, Client] = {}
        self._courses: dict[Job, tuple[Course, asyncio.Task[None]]] = {}
        self._convoys: set[Convoy] = set()
        self._closing = False

    async def carry(
        self, job: Job, plan: Plan, *, attached: bool = False, intended: bool = False
    ) -> None:
        """Carry a job to its end.

        Args:
            attached: whether the journal has it already, from another kernel.
            intended: whether it has been written down with its whole group.
        """
        course = Course(job, plan, self._client_of, self._ledger, self._clock, self._find)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in one
        self._courses[job] = course, task
        if self._closing:
            course.close()
        try:
            await course.run(attached=attached, intended=intended)
        finally:
            del self._courses[job]

    async def carry_all(self, jobs: Sequence[Job], plan: Plan) -> None:
        """Carry the jobs of a group to their ends."""
        convoy = Convoy(jobs, plan, self._ledger)
        self._convoys.add(convoy)
        if self._closing:
            convoy.close()
        try:
            await convoy.run(functools.partial(self.carry, plan=plan, intended=True))
        finally:
            self._convoys.discard(convoy)

    async def relocate(self, job: Job, name: str, place: Place, server: Server) -> None:
        """Give a job another place in a group."""
        job.advance(name=name, place=place)
        self._ledger.note_place(job.record, server)

    def want_cancel(self, job: Job) -> None:
        """Pass the wish to cancel on."""
        if job in self._courses:
            self._courses[job][0].want_cancel()
        elif not job.done():
            job.advance(cancelling=True)  # its course, which is about to begin, will see that

    async def wind_down(self, grace: float) -> None:
        """End every course.

        Args:
            grace: seconds in which those that set out may still be written down or sent, and bring
                their id home.
        """
        self._closing = True
        courses = list(self._courses.values())
        for course, _ in courses:
            course.close()
        for convoy in self._convoys:
            convoy.close()
        under_way = [task for course, task in courses if course.setting_out or course.sending]
        under_way += [asyncio.create_task(convoy.written()) for convoy in self._convoys]
        if under_way:
            await asyncio.wait(under_way, timeout=grace)
        tasks = [task for _, task in self._courses.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients.values():
            await client.close()

    def _client_of(self, server: Server) -> Client:
        return self._clients.get(server) or self._clients.setdefault(server, Client(server))
