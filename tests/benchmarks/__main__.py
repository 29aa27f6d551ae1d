"""Measures and prints one table; every row sets bgmagic against something else in the same run.

Quote ratios and differences, not single times: machines differ, and a busy one is slow in all rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from tests.benchmarks import load
from tests.benchmarks.batches import batches
from tests.benchmarks.extension import extension
from tests.benchmarks.hops import hops
from tests.benchmarks.journal import journal_cost, search_cost
from tests.benchmarks.keys import keys
from tests.benchmarks.measures import Row, cpu_a_poll, load_time, time_to_prompt
from tests.benchmarks.streaming import stream_end
from tests.benchmarks.traffic import traffic


def main(arguments: list[str] | None = None) -> None:
    """Measure what is named, or everything, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="what to measure (all but the hour)"
    )
    load.add_options(parser)
    asked = vars(parser.parse_args(arguments))
    names = asked.pop("parts")
    parts: dict[str, Callable[[], Iterable[Row]]] = {
        "prompt": time_to_prompt,
        "loading": load_time,
        "cpu": cpu_a_poll,
        "traffic": traffic,
        "stream": stream_end,
        "keys": keys,
        "extension": extension,
        "hops": hops,
        "batch": batches,
        "journal": lambda: (Row(*figures) for figures in journal_cost()),
        "search": lambda: (Row(*figures) for figures in search_cost()),
        **load.parts(load.Size(**asked)),
    }
    unknown = [name for name in names if name not in parts]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")
    rows = [Row("figure", "bgmagic", "otherwise", "target")]
    for name in names or [part for part in parts if part != "hour"]:
        rows += parts[name]()
    cells = [(row.figure, row.ours, row.other, row.target) for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    for row in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


if __name__ == "__main__":
    main()
