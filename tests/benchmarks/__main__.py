"""Measures and prints one table; every row sets bgmagic against something else in the same run.

Quote ratios and differences, not single times: machines differ, and a busy one is slow in all rows.
"""

from __future__ import annotations

from tests.benchmarks.journal import journal_cost
from tests.benchmarks.keys import keys
from tests.benchmarks.measures import Row, cpu_a_poll, load_time, time_to_prompt
from tests.benchmarks.streaming import stream_end
from tests.benchmarks.traffic import traffic


def main() -> None:
    """Measure everything and print the table."""
    rows = [Row("figure", "bgmagic", "otherwise", "target")]
    rows += [*time_to_prompt(), *load_time(), *cpu_a_poll(), *traffic()]
    rows += [*stream_end(), *keys()]
    rows += [Row(*figures) for figures in journal_cost()]
    cells = [(row.figure, row.ours, row.other, row.target) for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    for row in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


if __name__ == "__main__":
    main()
