"""Histories made up by chance: one, many on several processors, and a bad one made short."""

from __future__ import annotations

import multiprocessing
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.simulation.world import OPERATIONS, Broken, fresh_journal, world_of

Step = tuple[str, int]

BATCH = 50  # histories


def steps_of(seed: int, most: int = 30) -> list[Step]:
    """The operations of the history with this seed."""
    chance = random.Random(seed)
    names, weights = list(OPERATIONS), list(OPERATIONS.values())
    count = chance.randint(5, most)
    return [(name, chance.randrange(10**6)) for name in chance.choices(names, weights, k=count)]


def play(seed: int, steps: Sequence[Step], template: bytes) -> Counter[str]:
    """Play one history to its end, and count what it had in it.

    Args:
        template: the journal that is there at first, in nine of ten histories.

    Raises:
        Broken: a promise does not hold.
    """
    with world_of(seed, template if seed % 10 else None) as world:
        for name, pick in steps:
            getattr(world, name)(pick)
        world.end()
        counts = Counter(name for name, _ in steps)
        counts["jobs"] = len(world.prompts)
        counts["accepted"] = len(world.server.accepted)
        return counts


def broken(seed: int, steps: Sequence[Step], template: bytes) -> str | None:
    """How a history breaks a promise, or None."""
    try:
        play(seed, steps, template)
    except Broken as error:
        return str(error)
    return None


def shortened(seed: int, steps: Sequence[Step], template: bytes) -> list[Step]:
    """A history that breaks something still, and from which no step can be left out."""
    left = list(steps)
    at = 0
    while at < len(left):
        fewer = left[:at] + left[at + 1 :]
        if broken(seed, fewer, template):
            left = fewer
        else:
            at += 1
    return left


@dataclass
class Found:
    """What came of some histories.

    Attributes:
        counts: of steps, jobs and histories.
        kinds: how many histories broke a promise in which way.
        first: the seed of the first of each.
    """

    counts: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)

    def add(self, more: Found) -> None:
        """Count others in."""
        self.counts += more.counts
        self.kinds += more.kinds
        for kind, seed in more.first.items():
            self.first[kind] = min(seed, self.first.get(kind, seed))


def histories(seeds: Sequence[int], template: bytes) -> Found:
    """Play the histories of these seeds."""
    found = Found()
    for seed in seeds:
        found.counts["histories"] += 1
        try:
            found.counts += play(seed, steps_of(seed), template)
        except Exception as error:
            kind = _kind(f"{type(error).__name__}: {error}")
            found.kinds[kind] += 1
            found.first.setdefault(kind, seed)
    return found


def _kind(about: str) -> str:
    return re.sub(r"\bp\d+\b", "a job", about).splitlines()[0][:160]


_TEMPLATE = b""


def _prepare() -> None:
    global _TEMPLATE
    _TEMPLATE = fresh_journal()


def _batch(seeds: Sequence[int]) -> Found:
    return histories(seeds, _TEMPLATE)


def many(count: int, seed: int, processes: int) -> Found:
    """Play ``count`` histories on so many processors."""
    found = Found()
    chance = random.Random(seed)
    seeds = [chance.randrange(10**12) for _ in range(count)]
    batches = [seeds[at : at + BATCH] for at in range(0, count, BATCH)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _prepare) as pool:
        for more in pool.imap_unordered(_batch, batches):
            found.add(more)
    return found
