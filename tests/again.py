"""Runs a few tests that failed beside others once more, by themselves: ``.ci/run`` after the whole suite,
and `tests.matrix` after each environment's.

``python -m tests.again STATUS LOG [OPTION…]`` is told how pytest ended, what it printed, and with which
options it is to run. It ends with 0 if each of these tests passed alone, and names it; with STATUS if
that is nothing to try again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MOST = 5  # more than these are no accident
FAILED = 1  # pytest's exit status where tests failed; others mean that it did not get through
CACHE = Path(".pytest_cache/v/cache/lastfailed")
# How pytest-xdist and pytest tell that a process or pytest itself broke down.
CRASHES = ("crashed while running", "node down:", "INTERNALERROR>")


def failed() -> set[str]:
    """The tests that failed when they were last run, and the files that could not be imported."""
    return set(json.loads(CACHE.read_text())) if CACHE.is_file() else set()


def hopeless(status: int, log: str, names: set[str]) -> str | None:
    """Why there is nothing to try again, if so."""
    if status != FAILED or not names:
        return f"the tests did not run to their end (status {status})"
    if any(crash in log for crash in CRASHES):
        return "a process of the tests crashed"
    if any("::" not in name for name in names):
        return "tests could not be collected"
    if len(names) > MOST:
        return f"{len(names)} tests failed, more than {MOST}"
    return None


def main(status: int, log: str, *options: str) -> int:
    """Try again what failed; gives the exit status of all of it."""
    names = failed()
    why = hopeless(status, log, names)
    if why is not None:
        print(f"Not tried again: {why}.", flush=True)
        return status
    print(f"Once more, by themselves: {len(names)} of the tests that failed.", flush=True)
    ended = subprocess.run([sys.executable, "-m", "pytest", "--last-failed", *options], check=False)
    # Where it did not get through, none has passed.
    twice = (
        (failed() & names) if ended.returncode == FAILED else names if ended.returncode else set()
    )
    for name in sorted(names):
        told = "failed twice" if name in twice else "failed beside others, passed alone"
        print(f"{told}: {name}", flush=True)
    return ended.returncode


if __name__ == "__main__":
    _, status, log, *options = sys.argv
    sys.exit(main(int(status), Path(log).read_text(errors="replace"), *options))
