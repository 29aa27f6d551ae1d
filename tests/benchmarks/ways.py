"""Ways to have very many jobs in flight from one Python process: ours, and those one writes oneself.

Each is started with a number of jobs and seconds between polls; gives what tells how many were
accepted, and what waits for the last answer. A process measures one of them only.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

PROMPT = "Why? " * 40
BACKGROUND = {"model": "gpt-5.2", "input": PROMPT, "background": True}


class Way:
    """A started one.

    Attributes:
        accepted: how many jobs have their response id.
        answers: the texts that have come.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.answers: list[str] = []

    def start(self, count: int, interval: float) -> None:
        """Submit ``count`` jobs and follow them; returns as soon as it can."""
        raise NotImplementedError

    def ended(self) -> int:
        return len(self.answers)


class Ours(Way):
    """bgmagic's own jobs, the journal in a file."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Any] = []
        self._accepted = self._ended = 0

    def start(self, count: int, interval: float) -> None:
        import bgmagic

        self.jobs += [bgmagic.submit(f"{n} {PROMPT}", poll=interval) for n in range(count)]

    @property
    def accepted(self) -> int:
        # Asked often, so not of all jobs each time: that would take the interpreter from them.
        self._accepted = self._from(self._accepted, lambda job: job.record.accepted_at is not None)
        return self._accepted

    @accepted.setter
    def accepted(self, _: int) -> None:
        pass

    def ended(self) -> int:
        self._ended = self._from(self._ended, lambda job: job.done())
        return self._ended

    def _from(self, first: int, holds: Callable[[Any], bool]) -> int:
        """How many jobs from the first one on it holds for, given that it does for ``first``."""
        while first < len(self.jobs) and holds(self.jobs[first]):
            first += 1
        return first


class Sweep(Way):
    """bgmagic's own jobs as the cell of one sweep starts them."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[Any] = []

    def start(self, count: int, interval: float) -> None:
        import bgmagic

        items = [f"{len(self.groups)} {number}" for number in range(count)]
        asked = {"yes": count, "max_in_flight": count, "poll": interval}
        self.groups.append(bgmagic.map(f"{{{{ item }}}} {PROMPT}", items, **asked))  # type: ignore[arg-type]

    @property
    def accepted(self) -> int:
        local = ("waiting", "submitting")
        counts = [group.counts for group in self.groups]
        return sum(n for told in counts for status, n in told.items() if status not in local)

    @accepted.setter
    def accepted(self, _: int) -> None:
        pass

    def ended(self) -> int:
        return sum(group.counts.get("completed", 0) for group in self.groups)


class Threads(Way):
    """A thread a job, with the SDK's ordinary client."""

    def start(self, count: int, interval: float) -> None:
        import openai

        client = openai.OpenAI()

        def follow() -> None:
            answer = client.responses.create(**BACKGROUND)  # type: ignore[call-overload]
            self.accepted += 1
            while answer.status in ("queued", "in_progress"):
                time.sleep(interval)
                answer = client.responses.retrieve(answer.id)
            self.answers.append(answer.output_text)

        for _ in range(count):
            threading.Thread(target=follow, daemon=True).start()


class Tasks(Way):
    """A task a job with AsyncOpenAI, on the loop of one thread."""

    aiohttp = False

    def __init__(self) -> None:
        super().__init__()
        # Kept, since one that is collected complains of its open connections.
        self._clients: list[Any] = []

    def start(self, count: int, interval: float) -> None:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._all(count, interval), loop)

    async def _all(self, count: int, interval: float) -> None:
        import openai

        transport = openai.DefaultAioHttpClient() if self.aiohttp else None
        client = openai.AsyncOpenAI(http_client=transport)
        self._clients.append(client)

        async def follow() -> None:
            answer = await client.responses.create(**BACKGROUND)  # type: ignore[call-overload]
            self.accepted += 1
            while answer.status in ("queued", "in_progress"):
                await asyncio.sleep(interval)
                answer = await client.responses.retrieve(answer.id)
            self.answers.append(answer.output_text)

        await asyncio.gather(*(follow() for _ in range(count)))


class AiohttpTasks(Tasks):
    """The same over the SDK's aiohttp transport."""

    aiohttp = True


def blocking(interval: float, accepted: Callable[[], object]) -> float:
    """Seconds that the loop everybody writes takes for one job, which ends once ``accepted``."""
    import openai

    client = openai.OpenAI()
    begun = time.perf_counter()
    answer = client.responses.create(**BACKGROUND)  # type: ignore[call-overload]
    accepted()
    while answer.status in ("queued", "in_progress"):
        time.sleep(interval)
        answer = client.responses.retrieve(answer.id)
    return time.perf_counter() - begun


WAYS: dict[str, Callable[[], Way]] = {
    "ours": Ours,
    "sweep": Sweep,
    "threads": Threads,
    "tasks": Tasks,
    "aiohttp": AiohttpTasks,
}
