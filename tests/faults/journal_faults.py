"""What can happen to the folder of the journal while a sweep runs, each as a context manager."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from tests.faults.faulty_disk import FaultyDisk
from tests.faults.harness import (
    Kernel,
    Outcome,
    attach_all,
    exported,
    fill,
    outcome,
    prompts_accepted,
    tmpfs,
    until,
)
from tests.support.scripted import Script, ScriptedServer

COUNT = 60
BEFORE = 20  # jobs are accepted, then the fault begins
AFTER = 45  # and the kernel dies at so many, or when no more come
NO_MORE = 1.5  # seconds

# Given the running kernel and its journal, a fault lasts as long as the context.
Fault = Callable[[Kernel, Path], AbstractContextManager[object]]
Folder = Callable[[Path], AbstractContextManager[Path]]


@contextlib.contextmanager
def full(_: Kernel, journal: Path) -> Iterator[None]:
    """There is no room left for a byte."""
    filler = fill(journal.parent)
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def cannot_grow(kernel: Kernel, journal: Path) -> Iterator[None]:
    """No file of the kernel may grow (RLIMIT_FSIZE), as under a batch system's limit."""
    sizes = [path.stat().st_size for path in journal.parent.iterdir() if path.is_file()]
    kernel.run(f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({max(sizes)},) * 2)")
    yield


@contextlib.contextmanager
def locked(_: Kernel, journal: Path) -> Iterator[None]:
    """Another program has the file locked for writing, and does not let go."""
    other = sqlite3.connect(journal, isolation_level=None, timeout=10)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()


def failing(**rules: int) -> Fault:
    """The disk answers with errors: what fails how is `FaultyDisk.fail`'s to say."""

    @contextlib.contextmanager
    def fault(_: Kernel, journal: Path) -> Iterator[None]:
        disk = FaultyDisk.at(journal.parent)
        disk.fail(**rules)
        try:
            yield
        finally:
            disk.fail()

    return fault


@contextlib.contextmanager
def plain(folder: Path) -> Iterator[Path]:
    """The file system that is there anyway."""
    folder.mkdir()
    yield folder


def small_tmpfs(folder: Path) -> AbstractContextManager[Path]:
    """A file system in memory with room for the journal of a sweep."""
    return tmpfs(folder, "8m")


def crash_of_a_sweep(
    folder: Path, fault: Fault, *, on: Folder = contextlib.nullcontext, seed: int | None = None
) -> Outcome:
    """What becomes of a sweep when the journal fails in the middle of it and the kernel dies.

    Args:
        folder: an empty folder for the journal.
        fault: what happens to it once ``BEFORE`` jobs are accepted.
        on: makes the file system in which the folder is.
        seed: of the chance that chooses both moments and how many are sent at once; None for those
            that show most.
    """
    chance = random.Random(seed)
    before_fault = BEFORE if seed is None else chance.randrange(AFTER)
    no_more = NO_MORE if seed is None else chance.uniform(0.02, NO_MORE)
    at_once = 6 if seed is None else chance.choice((6, 20, COUNT))
    with ScriptedServer() as server, on(folder) as place:
        journal = place / "journal.sqlite3"
        server.polls = 0
        server.choose = lambda kind: Script(delay=0.02 if kind == "create" else 0.0)
        first = Kernel(server.base_url, journal)
        try:
            first.sweep(COUNT, max_in_flight=at_once)
            assert until(lambda: len(server.accepted) >= before_fault)
            with fault(first, journal):
                # From a seed any moment is good: after so long, however many are accepted.
                after = AFTER if seed is None else COUNT + 1
                until(lambda: len(server.accepted) >= after, no_more)
                told = None if seed is None else first.value("trouble()")
                first.kill()
            before = len(prompts_accepted(server))
            with attach_all(server.base_url, journal) as second:
                found = outcome(server, second)
                if told and found.lost == found.accepted and not exported(second):
                    found = replace(found, lost=0, never_written=found.lost)
            assert found.accepted >= before
            return found
        finally:
            first.close()
