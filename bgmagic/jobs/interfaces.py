"""What a job needs from those around it: where its answer goes, who runs it, who listens.

Descriptions only, so that the job knows none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from bgmagic.jobs.job import Answer, Job


class Variable(Protocol):
    """Where the answer goes."""

    def hold(self, job: Job) -> None:
        """Put the job there, as it is submitted."""

    def replace(self, job: Job, successor: Job | Answer) -> None:
        """Put the answer, or the job that takes over, there, if that very job still is there."""


Listener = Callable[["Job"], None]


class JobController(Protocol):
    """What a job needs from whoever runs it."""

    def cancel(self, job: Job) -> bool:
        """Pass the wish to cancel on; False if the job is past it."""

    def resend(self, job: Job) -> Job:
        """Send the job again as a new one."""

    def on_loop_thread(self) -> bool:
        """Whether the caller is the thread that must never wait for a job."""

    def call_back(self, function: Callable[[Any], object], job: Job) -> None:
        """Call ``function(job)`` soon, off the loop thread."""

    def make_card(self, job: Job) -> Any:
        """The live display of ``job``, a widget."""
