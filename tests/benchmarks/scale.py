"""Ten thousand jobs: this build, another commit's and what one would write, in turn in one run.

Each figure is the median of the repetitions. What other processes do on the machine meanwhile is in
all of them: the ratios count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.benchmarks.builds import HERE, Build, built, run
from tests.benchmarks.measures import Row
from tests.benchmarks.swarm import Swarm, swarming
from tests.benchmarks.ways import Way

if TYPE_CHECKING:
    from tests.benchmarks.load import Size

PIECES = 80  # of the computing cell, each timed
MANY = 100_000  # items of the second prompt
THREADS = 1000  # a thread a job is not measured with more
POLLS = 10  # of a job, in its CPU


def cpu_seconds() -> float:
    """CPU of this process and of the processes it has started."""
    import psutil

    me = psutil.Process()
    times = [one.cpu_times() for one in (me, *me.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def pieces(rounds: int) -> tuple[list[float], float]:
    """Seconds of each piece of a cell of pure Python, and the CPU its thread got in all of them."""
    cpu, found = time.thread_time(), []
    for _ in range(PIECES):
        begun, total = time.perf_counter(), 0
        for number in range(rounds // PIECES):
            total += number * number % 7
        found.append(time.perf_counter() - begun)
    return found, time.thread_time() - cpu


def measure(way: Way, swarm: Swarm, size: Size) -> dict[str, float]:
    """The life of many jobs: prompt, acceptance, polls, a cell beside them, their ends."""
    from tests.benchmarks.load import Polls, _memory, _until, _warm

    _warm(way, swarm)
    memory, connections = _memory(), swarm.counts()["connections"]
    created = swarm.counts()["creates"]
    rounds = int(2_000_000 * size.cell / sum(pieces(2_000_000)[0]))
    alone = statistics.median(pieces(rounds)[0])
    found: dict[str, float] = {}

    cpu, begun = cpu_seconds(), time.perf_counter()
    way.start(size.jobs, size.poll)
    found["prompt"] = time.perf_counter() - begun
    _until(lambda: swarm.counts()["creates"] == created + size.jobs, 0.1)
    found["accepted"] = time.perf_counter() - begun
    _until(lambda: way.accepted >= 1 + size.jobs, 0.25)
    sending = cpu_seconds() - cpu
    time.sleep(1.2 * size.poll)  # the first polls have taken their places

    idle, cpu = Polls(swarm), cpu_seconds()
    time.sleep(size.poll)
    found["idle"] = idle.rate()
    poll = (cpu_seconds() - cpu) / max(idle.count(), 1)
    found["poll"] = poll
    found["memory"] = _memory() - memory

    beside = Polls(swarm)
    taken, own = pieces(rounds)
    found["busy"] = beside.rate()
    found["cell"] = sum(taken) / own
    found["worst"] = max(taken) / alone

    cpu, at = cpu_seconds(), swarm.end()
    _until(lambda: way.ended() >= 1 + size.jobs, 0.25)
    found["last"] = time.time() - at
    ending = cpu_seconds() - cpu
    found["cpu"] = (sending + ending) / size.jobs + POLLS * poll
    found["connections"] = swarm.counts()["connections"] - connections
    found["left"] = _memory() - memory
    return found


FIGURES = (
    ("prompt", "time to prompt of the sweep's cell", "{:.3f} s", "at most 0.1 s"),
    ("accepted", "until all are accepted", "{:.2f} s", "at most 0.4x"),
    ("cell", "time of a cell of {cell:g} s, over its own CPU", "{:.3f}x", "at most 1.03x"),
    ("worst", "its slowest of 80 pieces, over one alone", "{:.2f}x", "at most 1.5x"),
    ("busy", "polls a second beside it", "{:.0f}", "{due:.0f} are due"),
    ("memory", "memory in flight", "{:+.0f} MiB", "at most 0.4x"),
    ("left", "memory when all have ended", "{:+.0f} MiB", "1.3x of {answers:.0f} MiB"),
    ("cpu", "CPU a job, ten polls included", "{:.2f} ms", "at most 0.5x"),
    ("poll", "CPU a poll", "{:.3f} ms", ""),
    ("connections", "connections", "{:,.0f}", "at most 100"),
    ("last", "from the last answer to the last variable", "{:.1f} s", ""),
)  # fmt: skip


def _once(build: Build, name: str, size: Size) -> dict[str, float]:
    with swarming(size.tls) as swarm:
        server = {"url": swarm.url, "control": swarm.control, "trusted": swarm.trusted}
        return run(build, "scale", way=name, swarm=server, size=size)


def against(size: Size, commit: str, times: int) -> Iterator[Row]:
    """A row for each figure: ours, and the other build's and other ways' in the same run."""
    with built(commit) as before:
        ways = {
            "ours": (HERE, "sweep", size.jobs),
            before.name: (before, "sweep", size.jobs),
            "aiohttp": (HERE, "aiohttp", size.jobs),
            f"{THREADS:,} threads": (HERE, "threads", min(THREADS, size.jobs)),
        }
        if not size.others:
            ways = dict(list(ways.items())[:2])
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for _ in range(times):
            for name, (build, way, jobs) in ways.items():
                found[name].append(_once(build, way, size.with_jobs(jobs)))
        starts: dict[str, list[dict[str, float]]] = {build.name: [] for build in (HERE, before)}
        for _ in range(times):
            for build in (HERE, before):
                starts[build.name].append(run(build, "start"))
    middle = {name: _medians(told) for name, told in found.items()}
    yield from _rows(middle, size)
    yield from start_rows({name: _medians(told) for name, told in starts.items()})


def _medians(told: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in told) for key in told[0]}


def _rows(found: dict[str, dict[str, float]], size: Size) -> Iterator[Row]:
    ours, *others = found
    words = {
        "cell": size.cell,
        "due": size.jobs / size.poll,
        "answers": size.jobs * 8400 / 2**20,
    }
    for key, about, form, target in FIGURES:
        scale = 1000 if "ms" in form else 1
        told = {name: form.format(one[key] * scale) for name, one in found.items()}
        if "x" in target and found[others[0]][key]:
            told[ours] += f" ({found[ours][key] / found[others[0]][key]:.2f}x)"
        beside = ", ".join(f"{name} {told[name]}" for name in others)
        what = f"{size.jobs:,} jobs: {about.format(**words)}"
        yield Row(what, told[ours], beside, target.format(**words))


STARTS = (
    ("import", "import bgmagic in a script", "at most 0.5x"),
    ("post", "that and what follows to its first POST, the SDK's imports apart", "at most 0.5x"),
    ("load", "%load_ext bgmagic, ipywidgets imported", "at most 0.5x"),
    ("typed", "first cell of a kernel, a second after that", "at most 0.5x"),
    ("cell", "first cell of a kernel, at once after that", "at most 0.5x"),
    ("both", "both together, at once, with a file as journal", "at most 0.5x"),
    ("cold", "first cell at once where nobody has imported ipywidgets", "at most 0.5x"),
    ("cold_both", "that and its %load_ext together", "at most 0.5x"),
    ("beside", "from a kernel's first cell to its POST's answer, if the next computes", "below 1x"),
    ("open", "%load_ext with 1,000 open jobs of 100,000", "at most 100 ms"),
    ("listed", "%bgjobs of 100,000", "at most 100 ms"),
    ("reused", "--reuse of a sweep of 1,000 of 100,000", "at most 0.3 s"),
    ("many", f"time to prompt of a sweep of {MANY:,}", "at most 100 ms"),
)


def start_rows(found: dict[str, dict[str, float]]) -> Iterator[Row]:
    """What begins: imports, the first cell, a long journal."""
    (_, ours), (other, before) = found.items()
    for key, about, target in STARTS:
        ratio = f" ({ours[key] / before[key]:.2f}x)" if "x" in target else ""
        yield Row(
            about,
            f"{ours[key] * 1000:.0f} ms{ratio}",
            f"{other} {before[key] * 1000:.0f} ms",
            target,
        )
