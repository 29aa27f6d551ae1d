"""A file system in memory that fails as a test says, and that can lose its power.

Served over FUSE by a process of its own: a test that waits for its own file system would hang. Reads,
writes and syncs can be made to fail with any errno, syncs to be slow; `cut` gives what a disk may
hold after the power went: all that was synced, and of the rest any part.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.harness import ROOT, require


class FaultyDisk:
    """A file system at ``target``; a context manager."""

    _all: dict[Path, FaultyDisk] = {}  # noqa: RUF012 - by where they are mounted

    def __init__(self, target: Path, *, kind: str = "fuse.faulty", direct: bool = False) -> None:
        """Make one; it is mounted when entered.

        Args:
            kind: its type in the table of mounts.
            direct: without a page cache, so that no two processes can share memory there.
        """
        self.path = target
        self._kind = kind
        self._direct = direct
        self._process: subprocess.Popen[str] | None = None

    @classmethod
    def at(cls, path: Path) -> FaultyDisk:
        """The one that is mounted at ``path``."""
        return cls._all[path]

    def __enter__(self) -> FaultyDisk:
        require()
        self.path.mkdir(parents=True, exist_ok=True)
        served = [sys.executable, "-m", "tests.faults.fuse_server", str(self.path), self._kind]
        self._process = subprocess.Popen(
            [*served, "direct" if self._direct else "cached"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._heard()
        self._all[self.path] = self
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        del self._all[self.path]
        subprocess.run(["umount", "-l", self.path], check=False)
        self._process.kill()
        self._process.communicate()

    def fail(self, **rules: int) -> None:
        """From now on answer with these errnos, and with none for no rules.

        Args:
            rules: by ``read``, ``write``, ``grow`` (a write beyond the end), ``sync``, ``create``
                (also rename and unlink).
        """
        self._order(fail=rules)

    def slow(self, seconds: float) -> None:
        """Let each sync take so long."""
        self._order(sync_takes=seconds)

    def write_back(self, share: float, seed: int) -> None:
        """After this share of all writes sync some file unasked, as every kernel does now and then."""
        self._order(write_back=share, seed=seed)

    def cut(self, target: Path, seed: int) -> None:
        """Write to ``target`` what may be found here after a power cut now; chance by ``seed``."""
        self._order(cut=str(target), seed=seed)

    def _order(self, **asked: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        self._heard()

    def _heard(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the file system's process has ended"


@contextlib.contextmanager
def faulty(target: Path) -> Iterator[Path]:
    """A `FaultyDisk` at ``target``, to be found again by `FaultyDisk.at`."""
    with FaultyDisk(target):
        yield target
