"""What a job and a group need from those around them: protocols, so that neither knows them.

A job is ``Any`` here, since these stand below `Job`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Variable(Protocol):
    """Where the answer goes."""

    def assign(self, job: Any) -> None:
        """Put the job there, as it is submitted."""

    def replace(self, job: Any, successor: Any) -> None:
        """Put the answer, or the job that takes over, there, if that very job still is there."""


Listener = Callable[[Any], None]  # called with the job


class GroupDisplays(Protocol):
    """What shows a group; made when it is first looked at. A group is ``Any`` here."""

    def board(self, group: Any) -> Any:
        """The live display of all jobs of ``group``, a widget."""

    def bundle(self, group: Any) -> dict[str, Any]:
        """What ``group`` looks like now, as a MIME bundle that stays."""


class SendGate(Protocol):
    """What may hold a job back before it is sent; may be asked from any thread."""

    def is_set(self) -> bool:
        """Whether anything can be held back at all; quick."""

    def refusal(self, record: Any) -> str | None:
        """Why the job of ``record`` can't be sent now, in one line; None lets it. Reads a file."""


class JobController(Protocol):
    """What a job needs from whoever runs it."""

    def cancel(self, job: Any) -> bool:
        """Pass the wish to cancel on; False if the job is past it."""

    def resend(self, job: Any) -> Any:
        """Send the job again as a new one."""

    def on_loop_thread(self) -> bool:
        """Whether the caller is the thread that must never wait for a job."""

    def run_callback(self, function: Callable[[Any], object], job: Any) -> None:
        """Call ``function(job)`` soon, off the loop thread."""

    def make_card(self, job: Any) -> Any:
        """The live display of ``job``, a widget."""
