"""The power goes in the middle of a sweep: what was accepted is known, and nothing is paid twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.faults.harness import require
from tests.faults.power import Powered, cut_of_a_sweep, ext4, posix

Disk = Callable[[Path], AbstractContextManager[Powered]]
SEEDS = range(int(os.environ.get("BGMAGIC_POWER_CUTS", "4")))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("disk", [posix, ext4])
def test_a_power_cut(disk: Disk, seed: int, tmp_path: Path) -> None:
    """After a power cut at any moment of a sweep the next kernel knows of every job that was accepted,
    sends none of them again, and finds the file undamaged."""
    require("mkfs.ext4")
    found = cut_of_a_sweep(tmp_path, seed, disk)
    assert (found.twice, found.lost) == (0, 0), found
    assert not list(tmp_path.rglob("*.damaged-*"))
