"""Binding and replacing variables of a notebook.

A name is bound by the cell, on the main thread; a job's end replaces it from the loop thread, and
only if the name still holds that very job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bgmagic.answer import Answer
from bgmagic.job import Job


@dataclass(frozen=True)
class Variables:
    """The names that one job is given to, in one namespace.

    Attributes:
        namespace: the notebook's own dict, not a copy.
        names: every name that holds the job and then its answer.
    """

    namespace: dict[str, Any]
    names: Sequence[str]

    def hold(self, job: Job) -> None:
        """Bind the names to ``job``. On the main thread: a new key can break an iteration over
        the namespace that runs there."""
        for name in self.names:
            self.namespace[name] = job

    def replace(self, job: Job, successor: Job | Answer) -> None:
        """Bind those names to ``successor`` that still hold ``job``."""
        ns = self.namespace
        for name in self.names:
            # No call between test and assignment, so that no other thread gets in between.
            if name in ns and ns[name] is job:
                ns[name] = successor
