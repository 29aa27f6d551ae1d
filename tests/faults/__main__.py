"""Repeat a fault and print what became of the jobs: ``python -m tests.faults power-cut --times 1000``."""

from __future__ import annotations

import argparse
import errno
import functools
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.faults.faulty_disk import faulty
from tests.faults.harness import Outcome, require
from tests.faults.homes import pair_of_hosts
from tests.faults.journal_faults import (
    Fault,
    Folder,
    cannot_grow,
    crash_of_a_sweep,
    failing,
    full,
    locked,
    plain,
    small_tmpfs,
)
from tests.faults.power import cut_of_a_sweep, ext4, posix


def _crash(fault: Fault, on: Folder) -> Callable[[Path, int], Outcome]:
    return lambda folder, seed: crash_of_a_sweep(folder / "disk", fault, on=on, seed=seed)


# Each gets an empty folder and the seed of its chance.
FAULTS: dict[str, Callable[[Path, int], Outcome]] = {
    "power-cut": functools.partial(cut_of_a_sweep, disk=posix),
    "power-cut-ext4": functools.partial(cut_of_a_sweep, disk=ext4),
    "hosts": pair_of_hosts,
    "full-disk": _crash(full, small_tmpfs),
    "cannot-grow": _crash(cannot_grow, plain),
    "locked": _crash(locked, plain),
    "eio": _crash(failing(write=errno.EIO), faulty),
    "edquot": _crash(failing(write=errno.EDQUOT), faulty),
}


@dataclass(frozen=True)
class Once:
    """What one time came to.

    Attributes:
        outcome: None if it broke off.
        damaged: files that were set aside.
    """

    outcome: Outcome | None
    damaged: int = 0


def _once(fault: str, seed: int) -> Once:
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = FAULTS[fault](Path(folder), seed)
        except Exception:
            print(f"seed {seed}: broke off\n{traceback.format_exc()}", flush=True)
            return Once(None)
        once = Once(found, len(list(Path(folder).rglob("*.damaged-*"))))
    if found.twice or found.lost or once.damaged:
        print(f"seed {seed}: {once}", flush=True)
    return once


def main(arguments: list[str]) -> int:
    """Run one fault so often; gives 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("fault", choices=sorted(FAULTS))
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the first; each has one more")
    # Most of their time they wait: for a poll, for a file that takes nothing.
    parser.add_argument("--at-once", type=int, default=1, help="so many side by side")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin none after that")
    asked = parser.parse_args(arguments)
    require()
    begun = time.monotonic()

    def once(seed: int) -> Once | None:
        late = time.monotonic() > begun + 60 * asked.minutes
        return None if late else _once(asked.fault, seed)

    with ThreadPoolExecutor(asked.at_once) as pool:
        seeds = range(asked.seed, asked.seed + asked.times)
        all_of_them = [found for found in pool.map(once, seeds) if found]
    ended = [found.outcome for found in all_of_them if found.outcome]
    broken = len(all_of_them) - len(ended)
    damaged = sum(found.damaged for found in all_of_them)
    accepted, twice, lost, unwritten = (
        sum(getattr(outcome, what) for outcome in ended)
        for what in ("accepted", "twice", "lost", "never_written")
    )
    took = time.monotonic() - begun
    print(
        f"{asked.fault}: {len(all_of_them)} times from seed {asked.seed}, {accepted} jobs accepted: "
        f"{twice} twice, {lost} lost, {unwritten} never written (and told so), {damaged} files damaged, {broken} broke off ({took:.0f} s)"
    )
    return 1 if twice or lost or damaged or broken else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
