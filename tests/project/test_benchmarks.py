"""The benchmarks still run; what they measure is for people to read."""

from __future__ import annotations

import pytest

from tests.benchmarks.__main__ import main


def test_load_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Each part of the load, as small as can be, fills its rows."""
    small = "--jobs 2 --poll 0.1 --cell 0.02 --polls 20 --most 1"
    main(["load", "growth", "endurance", *small.split()])
    table = capsys.readouterr().out
    assert table.count("2 jobs: ") == 12
    assert "1 jobs, one poll each 0.1 s" in table
    assert "memory over" in table


def test_a_part_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """A part alone prints its own rows below their heads, and no others."""
    main(["journal"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["figure", "bgmagic", "otherwise", "target"]
    assert len(rows) == 5
    assert all("journal" in row for row in rows)


def test_unknown_part_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A part that there is not is one line with those there are."""
    with pytest.raises(SystemExit):
        main(["lode"])
    assert "no part lode; there are prompt, loading, cpu" in capsys.readouterr().err
