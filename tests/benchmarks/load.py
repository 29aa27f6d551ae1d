"""A thousand jobs in flight: what they cost the cell that computes meanwhile, and the machine.

Each way runs in a fresh process against a fresh server in a process of its own; the cell is timed
in the very same process before the jobs and after them, and beside them in between.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from tests.benchmarks.measures import KEY, _received
from tests.benchmarks.swarm import Swarm, swarming
from tests.benchmarks.ways import WAYS, Way

LIMIT = 300.0  # seconds after which something is broken


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        jobs: in flight at once.
        poll: seconds between two polls of a job.
        cell: seconds the computing cell takes alone.
    """

    jobs: int = 1000
    poll: float = 10.0
    cell: float = 17.0
    tls: bool = False


def _cell(rounds: int) -> float:
    """Seconds that a cell of pure Python takes."""
    begun, total = time.perf_counter(), 0
    for number in range(rounds):
        total += number * number % 7
    return time.perf_counter() - begun


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


def _measure(way: Way, swarm: Swarm, size: Size) -> dict[str, float]:
    found: dict[str, float] = {}
    way.start(1, 0.05)
    _until(lambda: way.accepted == 1)
    swarm.end()
    _until(lambda: way.ended() == 1)
    before, threads = _memory(), _threads()
    rounds = int(2_000_000 * size.cell / _cell(2_000_000))
    alone = [_cell(rounds)]
    made = swarm.counts()["connections"]

    begun, cpu = time.perf_counter(), time.process_time()
    way.start(size.jobs, size.poll)
    found["prompt"] = time.perf_counter() - begun
    _until(lambda: way.accepted == 1 + size.jobs)
    found["accepted"] = time.perf_counter() - begun
    found["create cpu"] = (time.process_time() - cpu) / size.jobs
    time.sleep(1.2 * size.poll)  # the first polls have taken their places

    polled, cpu, begun = swarm.counts()["polls"], time.process_time(), time.perf_counter()
    time.sleep(2 * size.poll)
    count = swarm.counts()["polls"] - polled
    found["cpu a poll"] = (time.process_time() - cpu) / max(count, 1)
    found["idle rate"] = count / (time.perf_counter() - begun)
    found["memory"] = _memory() - before
    found["threads"] = _threads() - threads

    polled = swarm.counts()["polls"]
    busy = _cell(rounds)
    found["busy rate"] = (swarm.counts()["polls"] - polled) / busy
    found["peak threads"] = _threads()
    at = swarm.end()
    _until(lambda: way.ended() == 1 + size.jobs)
    found["last"] = time.time() - at
    found["connections"] = swarm.counts()["connections"] - made
    alone.append(_cell(rounds))
    found["slower"] = busy / statistics.mean(alone)
    found["left"] = _memory() - before
    return found


def _child(name: str, swarm: Swarm, size: Size, pipe: Connection) -> None:
    os.environ.update(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=swarm.url)
    if swarm.trusted is not None:
        os.environ["SSL_CERT_FILE"] = str(swarm.trusted)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BGMAGIC_JOURNAL"] = str(Path(folder) / "journal.sqlite3")
        pipe.send(_measure(WAYS[name](), swarm, size))
        if name == "ours":
            from bgmagic.submission import session

            session.manager.close(10)
    sys.stdout.flush()
    os._exit(0)  # threads of the other ways may still sleep


def measure(name: str, size: Size) -> dict[str, float]:
    """The figures of one way, in a fresh process."""
    with swarming(size.tls) as swarm:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_child, args=(name, swarm, size, theirs)
        )
        process.start()
        found: dict[str, float] = _received(ours, process)
        process.join()
        return found


if __name__ == "__main__":
    import argparse

    p = argparse.ArgumentParser()
    p.add_argument("ways", nargs="*", default=list(WAYS))
    p.add_argument("--jobs", type=int, default=1000)
    p.add_argument("--poll", type=float, default=10)
    p.add_argument("--cell", type=float, default=17)
    p.add_argument("--tls", action="store_true")
    a = p.parse_args()
    for w in a.ways:
        got = measure(w, Size(a.jobs, a.poll, a.cell, a.tls))
        print(w, {k: round(v, 5 if v < 0.1 else 3) for k, v in got.items()}, flush=True)
