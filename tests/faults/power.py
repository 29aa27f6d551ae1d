"""The power goes while a sweep is sent: what the disk holds then is all that the next kernel has.

Two disks: a `FaultyDisk` itself, which promises what POSIX does, and ext4 on a loop device whose image
is on a `FaultyDisk`, where the blocks that were not flushed are lost one by one. Both start from a real
journal of a real kernel; nothing knows where SQLite syncs.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.faulty_disk import FaultyDisk
from tests.faults.harness import Kernel, Outcome, attach_all, mounted, outcome, system, until
from tests.support.scripted import Script, ScriptedServer

COUNT = 60
IMAGE = 16 << 20  # bytes; the least that ext4 has a journal of its own in


@dataclass(frozen=True)
class Powered:
    """A folder on a disk that can lose its power.

    Attributes:
        disk: what it is on.
        cut: gives the folder as it is found after a cut now, given an empty folder and a seed.
    """

    folder: Path
    disk: FaultyDisk
    cut: Callable[[Path, int], AbstractContextManager[Path]]


@contextlib.contextmanager
def posix(folder: Path) -> Iterator[Powered]:
    """A disk that loses whatever was not synced, in any part."""
    with FaultyDisk(folder / "disk") as disk:

        @contextlib.contextmanager
        def cut(target: Path, seed: int) -> Iterator[Path]:
            disk.cut(target, seed)
            yield target

        yield Powered(disk.path, disk, cut)


@contextlib.contextmanager
def ext4(folder: Path) -> Iterator[Powered]:
    """ext4 on a disk that loses whatever was not flushed, in any part."""
    with FaultyDisk(folder / "disk") as disk:
        image = disk.path / "image"
        image.write_bytes(bytes(IMAGE))
        system("mkfs.ext4", "-q", image)
        with mounted(folder / "ext4", "mount", "-o", "loop", image, folder / "ext4") as used:
            system("sync", "-f", used)

            @contextlib.contextmanager
            def cut(target: Path, seed: int) -> Iterator[Path]:
                disk.cut(target, seed)
                there = target / "ext4"
                with mounted(there, "mount", "-o", "loop", target / "image", there):
                    yield there

            yield Powered(used, disk, cut)


def cut_of_a_sweep(
    folder: Path, seed: int, disk: Callable[[Path], AbstractContextManager[Powered]] = posix
) -> Outcome:
    """What becomes of a sweep of 60 when the power goes at a random moment of it."""
    chance = random.Random(seed)
    with ScriptedServer() as server, disk(folder) as powered:
        ends = chance.random() < 0.5
        server.polls = 0 if ends else 10**6
        moment = chance.randrange(COUNT + 1)  # from before the first is accepted to the end
        server.choose = lambda kind: Script(delay=0.02 if kind == "create" else 0.0)
        if chance.random() < 0.7:
            powered.disk.write_back(chance.choice((0.01, 0.05, 0.2)), seed)
        first = Kernel(server.base_url, powered.folder / "journal.sqlite3")
        try:
            first.begin(_sweep(chance.choice((12, 64)) if ends else 64))
            assert until(lambda: len(server.accepted) >= moment)
            time.sleep(chance.random() * 0.1)
            first.stop()
            before = set(server.accepted)
            with powered.cut(folder / "after", seed) as found:
                first.kill()
                server.polls = 0
                with attach_all(server.base_url, found / "journal.sqlite3") as second:
                    assert set(server.accepted) >= before
                    return outcome(server, second)
        finally:
            first.close()


def _sweep(at_once: int) -> str:
    return (
        f"sweep = bgmagic.map('item {{{{ item }}}}.', range({COUNT}), yes={COUNT}, out='sweep', "
        f"max_in_flight={at_once})"
    )
