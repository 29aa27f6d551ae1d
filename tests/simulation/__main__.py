"""Play many histories: ``python -m tests.simulation --histories 1000000 --seed 1``.

Prints the seed, what the histories had in them, and how many break a promise; the first of each kind is
shortened and printed step by step. The same seed gives the same histories.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time

from tests.simulation.histories import broken, many, shortened, steps_of
from tests.simulation.vfs import library
from tests.simulation.world import fresh_journal


def main(arguments: list[str]) -> int:
    """Play what is asked for; gives 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=None, help="else another one each time")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args(arguments)
    if library() is None:
        print("this Python has a SQLite of its own built in, which can't be given another disk")
        return 2
    seed = random.randrange(10**6) if asked.seed is None else asked.seed
    print(f"seed {seed}")
    begun = time.monotonic()
    found = many(asked.histories, seed, asked.processes)
    took = time.monotonic() - begun
    template = fresh_journal()
    for kind, number in found.kinds.most_common():
        print(f"{number} histories: {kind}")
        _tell(found.first[kind], template)
    steps = ", ".join(f"{count} {name}" for name, count in sorted(found.counts.items()))
    print(f"{steps}\n{sum(found.kinds.values())} broke a promise ({took:.0f} s)")
    return 1 if found.kinds else 0


def _tell(seed: int, template: bytes) -> None:
    steps = steps_of(seed)
    if broken(seed, steps, template):
        steps = shortened(seed, steps, template)
    print(f"  seed {seed}: {steps}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
