"""What is measured, each figure beside what a user would do otherwise, in the same run."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from tests.support.kernels import Kernel, kernel
from tests.support.scripted import Script, ScriptedServer, response

KEY = "sk-benchmark-0123456789"
ACCEPTS_AFTER = 2.0  # seconds the server takes to accept a create in the first rows
TEXT = "lorem ipsum " * 700  # a response of about 9 KB


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    figure: str
    ours: str
    other: str
    target: str


def _serve(pipe: Connection, accepts_after: float, polls: int) -> None:
    with ScriptedServer() as server:
        server.polls = polls
        server.always["create"] = Script(delay=accepts_after)
        if polls > 10**6:
            server.always["retrieve"] = Script(json=response("resp_1", "in_progress", TEXT))
        pipe.send(server.base_url)
        pipe.recv()


def _received(pipe: Connection, process: Any) -> Any:
    """What a child process sends, or an error if it ends without."""
    while not pipe.poll(0.2):
        if not process.is_alive():
            raise RuntimeError("a child process of the benchmark ended early")
    return pipe.recv()


@contextlib.contextmanager
def serving(accepts_after: float = 0.0, polls: int = 1) -> Iterator[str]:
    """A scripted server in a process of its own, so that its time is not ours; gives its URL."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs, accepts_after, polls), daemon=True
    )
    process.start()
    yield _received(ours, process)
    ours.send("stop")
    process.join(10)


def cell_times(running: Kernel, cells: list[str], times: int) -> list[float]:
    """The median seconds from sending each cell to its reply, the cells taken in turn."""
    taken: list[list[float]] = [[] for _ in cells]
    for _ in range(times):
        for cell, seconds in zip(cells, taken, strict=True):
            seconds.append(running.ok(cell).seconds)
    return [statistics.median(seconds) for seconds in taken]


BLOCKING = """
import openai, time
client = openai.OpenAI()
answer = client.responses.create(model='gpt-5.2', input='Why?', background=True)
while answer.status in ('queued', 'in_progress'):
    time.sleep(1)
    answer = client.responses.retrieve(answer.id)
"""


def time_to_prompt() -> list[Row]:
    """How long a cell keeps the prompt, with a server that takes its time to accept."""
    with (
        serving(ACCEPTS_AFTER, polls=0) as url,
        kernel(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=url) as running,
    ):
        running.ok("%load_ext bgmagic")
        cells = ["pass", "%%bgresponse -o x\nWhy?", "%%bgresponse -o x --quiet\nWhy?"]
        first = running.ok(cells[1]).seconds
        running.ok("%bgwait --timeout 60")
        empty, card, quiet = cell_times(running, cells, 40)
        blocking = running.ok(BLOCKING).seconds
    more, target = (card - empty) * 1000, "at most 5 ms more"
    return [
        Row(
            f"time to prompt, median of 40 (server accepts after {ACCEPTS_AFTER:g} s)",
            f"{card * 1000:.1f} ms",
            f"empty cell {empty * 1000:.1f} ms: {more:+.1f} ms",
            target,
        ),
        Row(
            "the same, without a card",
            f"{quiet * 1000:.1f} ms",
            f"{(quiet - empty) * 1000:+.1f} ms",
            target,
        ),
        Row(
            "the same, first cell of a kernel",
            f"{first * 1000:.1f} ms",
            f"{(first - empty) * 1000:+.1f} ms",
            "",
        ),
        Row(
            "the same, against the loop with time.sleep",
            f"{card:.3f} s",
            f"blocking loop {blocking:.1f} s: {blocking / card:.0f} times",
            "",
        ),
    ]


def load_time() -> list[Row]:
    """How long %load_ext takes in a fresh kernel that has ipywidgets already."""
    times, imports = [], []
    for _ in range(5):
        with kernel() as running:
            clock = (
                "import time; begun = time.perf_counter(); {}; print(time.perf_counter() - begun)"
            )
            running.ok("import ipywidgets")
            times.append(
                float(
                    running.ok(
                        clock.format("get_ipython().run_line_magic('load_ext', 'bgmagic')")
                    ).stdout
                )
            )
            imports.append(float(running.ok(clock.format("import openai")).stdout))
    ours, theirs = statistics.median(times) * 1000, statistics.median(imports) * 1000
    return [
        Row(
            "%load_ext, median of 5",
            f"{ours:.0f} ms",
            f"import openai {theirs:.0f} ms",
            "at most 60 ms",
        )
    ]


def _ours(count: int, seconds: float) -> Callable[[], int]:
    import bgmagic

    jobs = [bgmagic.submit("Why?", poll=1) for _ in range(count)]
    while not all(job.running() for job in jobs):
        time.sleep(0.01)
    seen: list[object] = []
    for job in jobs:
        job.add_listener(seen.append)

    def measure() -> int:
        before = len(seen)
        time.sleep(seconds)
        return len(seen) - before

    return measure


def _theirs(count: int, seconds: float) -> Callable[[], int]:
    """One task a job with AsyncOpenAI, as one writes it."""
    import openai

    polled = 0

    async def follow(client: openai.AsyncOpenAI) -> None:
        nonlocal polled
        made = await client.responses.create(model="gpt-5.2", input="Why?", background=True)
        while True:
            await asyncio.sleep(1)
            await client.responses.retrieve(made.id)
            polled += 1

    async def main() -> int:
        client = openai.AsyncOpenAI()
        tasks = [asyncio.create_task(follow(client)) for _ in range(count)]
        await asyncio.sleep(3)
        before, begun = polled, time.process_time()
        await asyncio.sleep(seconds)
        global _theirs_cpu
        _theirs_cpu = time.process_time() - begun
        for task in tasks:
            task.cancel()
        return polled - before

    return lambda: asyncio.run(main())


_theirs_cpu = 0.0


def _cpu_of(kind: str, url: str, pipe: Connection) -> None:
    os.environ.update(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=url)
    if kind == "ours":
        measure = _ours(50, 10.0)
        begun = time.process_time()
        polls = measure()
        pipe.send((polls, time.process_time() - begun))
    else:
        polls = _theirs(50, 10.0)()
        pipe.send((polls, _theirs_cpu))


def cpu_a_poll() -> list[Row]:
    """CPU time of one poll of a 9 KB response, 50 jobs at once, one poll a second each."""
    figures = {}
    with serving(polls=10**9) as url:
        for kind in ("ours", "theirs"):
            ours, theirs = multiprocessing.Pipe()
            context = multiprocessing.get_context("spawn")
            process = context.Process(target=_cpu_of, args=(kind, url, theirs))
            process.start()
            polls, seconds = _received(ours, process)
            process.join()
            figures[kind] = seconds / polls * 1000
    return [
        Row(
            "CPU a poll, 50 jobs, 9 KB",
            f"{figures['ours']:.2f} ms",
            f"a task a job with AsyncOpenAI {figures['theirs']:.2f} ms",
            "",
        )
    ]
