"""A thousand jobs in flight: what they cost the cell that computes meanwhile, and the machine.

Each way runs in a fresh process against a fresh server in a process of its own. What the cell loses
is told by its own clock of CPU: what it took beyond that it waited. A second figure compares it with
the same cell before the jobs and after them, which on a shared machine differ by a tenth and more
without any jobs. `growth` goes from one job to ten thousand, `endurance` polls a hundred thousand
times.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.benchmarks.measures import KEY, Row, _received
from tests.benchmarks.memory import memory
from tests.benchmarks.scale import against
from tests.benchmarks.swarm import Swarm, swarming
from tests.benchmarks.ways import WAYS, Way, blocking

LIMIT = 300.0  # seconds without an event after which something is broken


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        jobs: in flight at once.
        poll: seconds between two polls of a job.
        cell: seconds that the computing cell takes alone.
        tls: whether the server is reached by https.
        polls: how many polls the endurance takes.
        most: with how many jobs the growth ends.
        against: a commit whose build is measured in the same run, or "".
        times: how often, for the medians.
        others: whether that is done with what one would write oneself, too.
        seconds: how long the hour is.
    """

    jobs: int = 1000
    poll: float = 10.0
    cell: float = 17.0
    tls: bool = False
    polls: int = 100_000
    most: int = 10_000
    against: str = ""
    times: int = 3
    others: bool = True
    seconds: float = 3600.0

    def with_jobs(self, jobs: int) -> Size:
        """The same with another number of jobs."""
        return replace(self, jobs=jobs)


def _cell(rounds: int) -> tuple[float, float]:
    """Seconds that a cell of pure Python takes, and seconds of CPU that its thread gets in them."""
    begun, cpu, total = time.perf_counter(), time.thread_time(), 0
    for number in range(rounds):
        total += number * number % 7
    return time.perf_counter() - begun, time.thread_time() - cpu


def _memory() -> float:
    """MiB that this process holds in memory now."""
    import psutil

    gc.collect()
    return float(psutil.Process().memory_info().rss) / 2**20


def _threads() -> int:
    import psutil

    return int(psutil.Process().num_threads())


def _until(happened: Callable[[], bool], pause: float = 0.005) -> None:
    limit = time.monotonic() + LIMIT
    while not happened():
        if time.monotonic() > limit:
            raise RuntimeError("the benchmark waits for something that does not happen")
        time.sleep(pause)


class Polls:
    """Polls since it was made, by the server's count, and the CPU they took this process."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._polls = swarm.counts()["polls"]
        self._cpu, self._begun = time.process_time(), time.perf_counter()

    def count(self) -> int:
        return int(self._swarm.counts()["polls"]) - self._polls

    def rate(self) -> float:
        """Polls a second."""
        return self.count() / (time.perf_counter() - self._begun)

    def cpu(self) -> float:
        """Seconds of CPU a poll."""
        return (time.process_time() - self._cpu) / max(self.count(), 1)


def _warm(way: Way, swarm: Swarm) -> int:
    """Have one job end, so that what is loaded once is loaded; gives the threads before it."""
    threads = _threads()
    way.start(1, 0.05)
    _until(lambda: way.accepted == 1)
    swarm.end()
    _until(lambda: way.ended() == 1)
    return threads


def _in_flight(way: Way, swarm: Swarm, size: Size) -> dict[str, float]:
    threads = _warm(way, swarm)
    memory = _memory()
    rounds = int(2_000_000 * size.cell / _cell(2_000_000)[0])
    alone = [_cell(rounds)[0]]
    connections = swarm.counts()["connections"]
    found: dict[str, float] = {}

    begun = time.perf_counter()
    way.start(size.jobs, size.poll)
    found["prompt"] = time.perf_counter() - begun
    _until(lambda: way.accepted == 1 + size.jobs)
    found["accepted"] = time.perf_counter() - begun
    time.sleep(1.2 * size.poll)  # the first polls have taken their places

    idle = Polls(swarm)
    time.sleep(2 * size.poll)
    found["cpu"] = idle.cpu()
    found["idle"] = idle.rate()
    found["memory"] = _memory() - memory

    beside = Polls(swarm)
    busy, own = _cell(rounds)
    found["busy"] = beside.rate()
    found["threads"] = _threads() - threads
    at = swarm.end()
    _until(lambda: way.ended() == 1 + size.jobs)
    found["last"] = time.time() - at
    found["connections"] = swarm.counts()["connections"] - connections
    alone.append(_cell(rounds)[0])
    found["cell"], found["alone"] = busy / own, busy / statistics.mean(alone)
    found["left"] = _memory() - memory
    return found


def _growth(way: Way, swarm: Swarm, size: Size) -> dict[str, float]:
    _warm(way, swarm)
    memory = _memory()
    begun = time.perf_counter()
    way.start(size.jobs, size.poll)
    _until(lambda: way.accepted == 1 + size.jobs)
    accepted = time.perf_counter() - begun
    time.sleep(1.2 * size.poll)
    polls = Polls(swarm)
    time.sleep(max(size.poll, 5.0))
    found = {"accepted": accepted, "cpu": polls.cpu(), "rate": polls.rate()}
    found["memory"] = _memory() - memory
    at = swarm.end()
    _until(lambda: way.ended() == 1 + size.jobs)
    found["last"] = time.time() - at
    found["left"] = _memory() - memory
    return found


def _endurance(way: Way, swarm: Swarm, size: Size) -> dict[str, float]:
    _warm(way, swarm)
    way.start(size.jobs, size.poll)
    _until(lambda: way.accepted == 1 + size.jobs)
    polls = Polls(swarm)
    _until(lambda: polls.count() >= size.polls / 10, 0.2)
    memory, begun = _memory(), polls.count()
    _until(lambda: polls.count() >= size.polls, 0.2)
    found = {"polls": polls.count() - begun, "grown": _memory() - memory, "cpu": polls.cpu()}
    return found | {"connections": swarm.counts()["connections"]}


def _hour(way: Way, swarm: Swarm, size: Size) -> dict[str, float]:
    _warm(way, swarm)
    before = _memory()
    way.start(size.jobs, size.poll)
    _until(lambda: way.accepted == 1 + size.jobs)
    polls, until = Polls(swarm), time.monotonic() + size.seconds
    memory = []
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, size.seconds / 60))
        memory.append(_memory())
    settled = memory[len(memory) // 12 :]  # each job has been polled a few times by then
    found = {
        "in flight": settled[0] - before,
        "grown": settled[-1] - settled[0],
        "spread": max(settled) - min(settled),
        "polls": polls.count(),
        "cpu": polls.cpu(),
        "gap": swarm.counts()["gap"],
    }
    at = swarm.end()
    _until(lambda: way.ended() == 1 + size.jobs)
    return found | {"last": time.time() - at, "connections": swarm.counts()["connections"]}


def _blocking(_: Way, swarm: Swarm, size: Size) -> dict[str, float]:
    return {"each": blocking(size.poll, swarm.end)}


Measure = Callable[[Way, Swarm, Size], dict[str, float]]


def _child(measure: Measure, name: str, swarm: Swarm, size: Size, pipe: Connection) -> None:
    os.environ.update(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=swarm.url)
    if swarm.trusted is not None:
        os.environ["SSL_CERT_FILE"] = str(swarm.trusted)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BGMAGIC_JOURNAL"] = str(Path(folder) / "journal.sqlite3")
        pipe.send(measure(WAYS[name](), swarm, size))
        if name == "ours":
            from bgmagic.submission.app import app

            app.manager.close(10)
    os._exit(0)  # threads of the other ways still sleep


def _measured(measure: Measure, name: str, size: Size) -> dict[str, float]:
    """The figures of one way, in a fresh process."""
    with swarming(size.tls) as swarm:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_child, args=(measure, name, swarm, size, theirs)
        )
        process.start()
        found: dict[str, float] = _received(ours, process)
        process.join()
        return found


# What each figure is called, how it is written, and what it should be.
FIGURES = (
    ("cell", "time of a cell of {size.cell:g} s, over its own CPU", "{:.3f}x", "at most 1.02x"),
    ("alone", "the same, over such a cell before and after (noisy)", "{:.2f}x", ""),
    ("busy", "polls a second while it computes", "{:.0f}", "{due:.0f} are due"),
    ("threads", "threads", "{:.0f}", "at most 3"),
    ("memory", "memory", "{:+.0f} MiB", "at most +15 MiB"),
    ("left", "memory when all have ended, answers of 8 kB included", "{:+.0f} MiB", ""),
    ("connections", "connections opened", "{:,.0f}", "at most 100"),
    ("cpu", "CPU a poll", "{:.2f} ms", "at most 0.35 ms"),
    ("accepted", "submitted and accepted", "{:.2f} s", "at most 1.0 s"),
    ("prompt", "until the last submit() has returned", "{:.2f} s", "at most 0.1 s"),
    ("last", "from the last answer to the last variable", "{:.1f} s", "one poll: {size.poll:g} s"),
)


def load(size: Size) -> Iterator[Row]:
    """Ours against a thread a job, a task a job, and that over the SDK's aiohttp transport."""
    if size.against:
        yield from against(size, size.against, size.times)
        return
    found = {name: _measured(_in_flight, name, size) for name in WAYS if name != "sweep"}
    each = _measured(_blocking, "threads", size)["each"]
    what = f"{size.jobs:,} jobs{', https' if size.tls else ''}: "
    for key, about, form, target in FIGURES:
        scale = 1000 if key == "cpu" else 1
        told = {name: form.format(figures[key] * scale) for name, figures in found.items()}
        others = ", ".join(f"{name} {told[name]}" for name in found if name != "ours")
        names = {"size": size, "due": size.jobs / size.poll}
        yield Row(what + about.format(**names), told["ours"], others, target.format(**names))
    yield Row(
        what + "the prompt is back after",
        f"{found['ours']['prompt']:.2f} s",
        f"loop with time.sleep {each:.1f} s for each job",
        "",
    )


def growth(size: Size) -> Iterator[Row]:
    """From one job to many: time, memory and CPU."""
    count = 1
    while count <= size.most:
        one = Size(jobs=count, poll=size.poll, tls=size.tls)
        ours = _measured(_growth, "ours", one)
        yield Row(
            f"{count:,} jobs, one poll each {size.poll:g} s: accepted, CPU a poll, memory",
            f"{ours['accepted']:.2f} s, {ours['cpu'] * 1000:.2f} ms, {ours['memory']:+.1f} MiB",
            f"{ours['rate']:.0f} polls/s; all ended after {ours['last']:.1f} s, "
            f"then {ours['left']:+.1f} MiB",
            "",
        )
        count *= 10


def endurance(size: Size) -> Iterator[Row]:
    """Very many polls, one after another."""
    ours = _measured(_endurance, "ours", size)
    yield Row(
        f"memory over {ours['polls']:,.0f} polls, {size.jobs:,} jobs",
        f"{ours['grown']:+.1f} MiB",
        f"{ours['cpu'] * 1000:.2f} ms CPU a poll, {ours['connections']:.0f} connections",
        "no growth",
    )


def hour(size: Size) -> Iterator[Row]:
    """Jobs that take long, each polled as rarely as it may be."""
    ours = _measured(_hour, "ours", size)
    yield Row(
        f"memory over {size.seconds:,.0f} s, {size.jobs:,} jobs, a poll each {size.poll:.0f} s",
        f"{ours['grown']:+.1f} MiB, between the least and the most {ours['spread']:.1f} MiB",
        f"{ours['in flight']:+.1f} MiB in flight, {ours['polls']:,.0f} polls, "
        f"{ours['cpu'] * 1000:.2f} ms CPU each, {ours['connections']:.0f} connections",
        "no growth",
    )
    yield Row("longest time between two polls of a job", f"{ours['gap']:.1f} s", "", "< 90 s")
    yield Row("from the end at the server to the last variable", f"{ours['last']:.1f} s", "", "")


def parts(size: Size) -> dict[str, Callable[[], Iterator[Row]]]:
    """What can be measured here, by name."""
    quick = Size(jobs=min(size.jobs, 500), poll=min(size.poll, 1.0), polls=size.polls, tls=size.tls)
    return {
        "load": lambda: load(size),
        "memory": lambda: memory(size),
        "growth": lambda: growth(size),
        "endurance": lambda: endurance(quick),
        "hour": lambda: hour(size),
    }


def add_options(parser: Any) -> None:
    """Options for how much is measured."""
    usual = Size()
    parser.add_argument("--jobs", type=int, default=usual.jobs)
    parser.add_argument("--poll", type=float, default=usual.poll, help="seconds")
    parser.add_argument("--cell", type=float, default=usual.cell, help="seconds")
    parser.add_argument("--tls", action="store_true", help="load over https")
    parser.add_argument("--polls", type=int, default=usual.polls, help="of the endurance")
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="of the hour")
    parser.add_argument("--against", default=usual.against, help="commit of another build")
    parser.add_argument("--times", type=int, default=usual.times, help="for medians, with that")
    parser.add_argument(
        "--alone", dest="others", action="store_false", help="without the other ways, with that"
    )
    parser.add_argument("--most", type=int, default=usual.most, help="jobs the growth ends with")
