"""Protocols of what a job and a group call: variables, listeners, displays, the controller.

A job is ``Any`` here, since these stand below `Job`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Variable(Protocol):
    """A variable that gets a job, and then its answer."""

    def assign(self, job: Any) -> None:
        """Assign the job, as it is submitted."""

    def replace(self, job: Any, successor: Any) -> None:
        """Assign ``successor``, an answer or a job, if the variable still holds ``job``."""


Listener = Callable[[Any], None]  # called with the job


class GroupDisplays(Protocol):
    """Shows groups. A group is ``Any`` here."""

    def board(self, group: Any) -> Any:
        """Make the live display of all jobs of ``group``, a widget."""

    def bundle(self, group: Any) -> dict[str, Any]:
        """Show ``group`` as it is now, as a MIME bundle."""


class SendGate(Protocol):
    """What may hold a job back before it is sent; may be asked from any thread."""

    def is_set(self) -> bool:
        """Whether anything can be held back at all; quick."""

    def refusal(self, record: Any) -> str | None:
        """Why the job of ``record`` can't be sent now, in one line; None lets it. Reads a file."""


class JobController(Protocol):
    """Runs jobs: what a job asks of its manager."""

    def cancel(self, job: Any) -> bool:
        """Request that the job be cancelled; False if it has ended."""

    def resend(self, job: Any) -> Any:
        """Send the job again as a new one."""

    def on_loop_thread(self) -> bool:
        """Whether the caller runs on the loop thread, which must never wait for a job."""

    def run_callback(self, function: Callable[[Any], object], job: Any) -> None:
        """Call ``function(job)`` soon, off the loop thread."""

    def make_card(self, job: Any) -> Any:
        """Make the live display of ``job``, a widget."""
