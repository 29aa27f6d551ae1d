"""What a job takes of the memory: in flight, ended, and with all answers in a list; this build and
another commit's in turn, a fresh process and a fresh server for each.

What the process has beyond its start is told by the system, so that buffers and what the allocator
does not give back are in it; objects that the garbage collector follows are counted, since each of its
rounds visits them in the middle of somebody's cell.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.benchmarks.builds import HERE, built, run
from tests.benchmarks.measures import Row
from tests.benchmarks.swarm import Swarm, swarming
from tests.benchmarks.ways import Sweep

if TYPE_CHECKING:
    from tests.benchmarks.load import Size

BEFORE = "2439a04"  # the build that the aims are ratios to

FIGURES = (
    ("flight", "memory in flight", "{:+.0f} MiB", "at most 0.4x"),
    ("followed", "objects a job that the garbage collector follows", "{:.0f}", ""),
    ("ended", "memory when all have ended", "{:+.0f} MiB", ""),
    ("listed", "memory with all answers in a list", "{:+.0f} MiB", "at most 1.3x of {:.0f} MiB"),
)


def measure(swarm: Swarm, size: Size) -> dict[str, float]:
    """The figures of a sweep, in this process."""
    from tests.benchmarks.load import _memory, _until, _warm

    way = Sweep()
    _warm(way, swarm)
    memory, followed = _memory(), len(gc.get_objects())
    way.start(size.jobs, size.poll)
    _until(lambda: way.accepted >= 1 + size.jobs, 0.25)
    time.sleep(1.2 * size.poll)
    found = {"flight": _memory() - memory}
    found["followed"] = (len(gc.get_objects()) - followed) / size.jobs
    swarm.end()
    _until(lambda: way.ended() >= 1 + size.jobs, 0.25)
    found["ended"] = _memory() - memory
    held = [list(group) for group in way.groups]
    found["listed"] = _memory() - memory
    found["answers"] = sum(len(answer) for answers in held for answer in answers) / 2**20
    return found


def memory(size: Size) -> Iterator[Row]:
    """A row for each figure: ours, and the other build's."""
    jobs = f"{size.jobs:,} jobs: "
    with built(size.against or BEFORE) as before:
        found = {}
        for build in (HERE, before):
            with swarming() as swarm:
                server = {"url": swarm.url, "control": swarm.control, "trusted": None}
                found[build.name] = run(build, "memory", swarm=server, size=size)
    ours, other = found.values()
    for key, about, form, target in FIGURES:
        told = f"{form.format(ours[key])} ({ours[key] / other[key]:.2f}x)"
        beside = f"{before.name} {form.format(other[key])}"
        yield Row(f"{jobs}{about}", told, beside, target.format(ours["answers"]))
