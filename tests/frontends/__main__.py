"""`python -m tests.frontends NAME…`: bgmagic in each program named; prints one table.

Installs each in an environment of its own, if it is not there yet. What fails beside another is tried
once more, by itself; ends with 1 if any failed then.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

from bgmagic.local import weights
from tests.frontends.programs import PROGRAMS
from tests.frontends.trial import installed, tried, version


def main(arguments: list[str] | None = None) -> int:
    """Try what is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.frontends", description=__doc__)
    parser.add_argument(
        "names", nargs="+", metavar="NAME", choices=[*PROGRAMS, "all"],
        help="all, or some of " + ", ".join(PROGRAMS),
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, help="for the environments (the user's cache)")
    asked = parser.parse_args(arguments)
    folder = (asked.folder or weights.cache_folder() / "frontends").expanduser().absolute()
    names = list(PROGRAMS) if "all" in asked.names else list(dict.fromkeys(asked.names))
    with ThreadPoolExecutor(max_workers=2) as pool:  # they mostly wait
        rows = list(pool.map(lambda name: row(name, folder), names))
    for at, name in enumerate(names):
        if not rows[at][0]:
            print(f"{name}: once more, by itself", file=sys.stderr, flush=True)
            rows[at] = row(name, folder)
    print("| program | version | tried | result |", "|---|---|---|---|", sep="\n")
    print(*(line for _, line in rows), sep="\n")
    return 0 if all(well for well, _ in rows) else 1


def row(name: str, folder: Path) -> tuple[bool, str]:
    """Whether a program did well, and its line in the table."""
    program, begun = PROGRAMS[name], time.monotonic()
    python = installed(name, program, folder)
    ready = time.monotonic()
    well, said = tried(name, program, folder)
    took = f"{ready - begun:.0f} s to install, {time.monotonic() - ready:.0f} s to try"
    print(f"{name}: {said if well else f'FAILED: {said}'} ({took})", file=sys.stderr, flush=True)
    number = version(python, program.needs[0])
    result = said if well else f"**NO**: {said}"
    return well, f"| {program.title} | {number} | {date.today():%Y-%m-%d} | {result} |"


if __name__ == "__main__":
    sys.exit(main())
