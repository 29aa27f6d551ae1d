"""Repeat a fault and print what became of the jobs: ``python -m tests.faults power-cut --times 1000``."""

from __future__ import annotations

import argparse
import errno
import functools
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.faults.faulty_disk import faulty
from tests.faults.harness import Outcome, require
from tests.faults.homes import pair_of_hosts
from tests.faults.journal_faults import (
    cannot_grow,
    crash_of_a_sweep,
    failing,
    full,
    locked,
    small_tmpfs,
)
from tests.faults.power import cut_of_a_sweep, ext4, posix


def _disk_error(code: int) -> Callable[[Path, int], Outcome]:
    return lambda folder, _: crash_of_a_sweep(folder / "disk", failing(write=code), on=faulty)


# Each gets an empty folder and the seed of its chance.
FAULTS: dict[str, Callable[[Path, int], Outcome]] = {
    "power-cut": functools.partial(cut_of_a_sweep, disk=posix),
    "power-cut-ext4": functools.partial(cut_of_a_sweep, disk=ext4),
    "hosts": pair_of_hosts,
    "full-disk": lambda folder, _: crash_of_a_sweep(folder / "disk", full, on=small_tmpfs),
    "cannot-grow": lambda folder, _: crash_of_a_sweep(folder, cannot_grow),
    "locked": lambda folder, _: crash_of_a_sweep(folder, locked),
    "eio": _disk_error(errno.EIO),
    "edquot": _disk_error(errno.EDQUOT),
}


def main(arguments: list[str]) -> int:
    """Run one fault so often; gives 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("fault", choices=sorted(FAULTS))
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the first; each has one more")
    asked = parser.parse_args(arguments)
    require()
    begun = time.monotonic()
    accepted = twice = lost = damaged = broken = 0
    for seed in range(asked.seed, asked.seed + asked.times):
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = FAULTS[asked.fault](Path(folder), seed)
            except Exception:
                broken += 1
                print(f"seed {seed}: broke off")
                traceback.print_exc()
                continue
            damaged += len(list(Path(folder).rglob("*.damaged-*")))
        accepted, twice, lost = accepted + found.accepted, twice + found.twice, lost + found.lost
        if found.twice or found.lost:
            print(f"seed {seed}: {found.accepted} accepted, {found.twice} twice, {found.lost} lost")
    took = time.monotonic() - begun
    print(
        f"{asked.fault}: {asked.times} times from seed {asked.seed}, {accepted} jobs accepted: "
        f"{twice} twice, {lost} lost, {damaged} files damaged, {broken} broke off ({took:.0f} s)"
    )
    return 1 if twice or lost or damaged or broken else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
