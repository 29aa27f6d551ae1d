"""What is promised holds in every history that the simulation makes up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.conftest import missing
from tests.simulation.histories import many
from tests.simulation.vfs import library
from tests.simulation.world import OPERATIONS, World, fresh_journal, world_of

# One of the two tests here reaches far, the other shortens what it finds.
HISTORIES = int(os.environ.get("BGMAGIC_HISTORIES", "2000"))
EXAMPLES = int(os.environ.get("BGMAGIC_EXAMPLES", "150"))


@pytest.fixture(autouse=True)
def _another_disk() -> None:
    if library() is None:
        missing("a Python whose SQLite is a shared library")


def test_histories(capsys: pytest.CaptureFixture[str]) -> None:
    """In thousands of histories of kernels, hosts, disks and crashes nothing is accepted twice, nothing
    that was accepted is lost, and every job comes to an end."""
    seed = int(os.environ.get("BGMAGIC_SEED", "13"))
    found = many(HISTORIES, seed, os.cpu_count() or 1)
    with capsys.disabled():
        print(f"\n{HISTORIES} histories from seed {seed}, {found.counts['accepted']} jobs accepted")
    assert not found.kinds, f"python -m tests.simulation --histories {HISTORIES} --seed {seed}"


class History(RuleBasedStateMachine):
    """One history, whose steps hypothesis picks; its end is checked in the teardown."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self.world: World

    @initialize(seed=st.integers(0, 10**6))
    def begin(self, seed: int) -> None:
        self.world = self._stack.enter_context(world_of(seed, fresh_journal()))

    def teardown(self) -> None:
        with self._stack:
            if hasattr(self, "world"):
                self.world.end()


def _step(name: str) -> Callable[..., None]:
    @rule(pick=st.integers(0, 999))
    def step(self: Any, pick: int) -> None:
        getattr(self.world, name)(pick)

    step.__name__ = name
    return step


for _name in OPERATIONS:
    setattr(History, _name, _step(_name))

# What hypothesis finds it makes short: a failure names the fewest steps that it takes.
TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
