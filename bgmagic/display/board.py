"""The board: many jobs as one live table, an ordinary widget.

Follows the jobs of this kernel and whatever is submitted later, and sends the browser the rows that
changed, a few times a second at most. board.js draws, sorts and filters them, text only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import anywidget
import traitlets

from bgmagic.display.card import sentence
from bgmagic.display.widgets import hear_beside_cells, joined
from bgmagic.job import Job
from bgmagic.listing import Row, as_text, row_of

INTERVAL = 0.3  # seconds between two updates at least: calm to look at, whatever goes on


class Board(anywidget.AnyWidget):
    """A live table of jobs.

    Attributes:
        rows: each job as JSON, oldest first, as it was when the board was made; a page that opens
            later is given the rows of that moment.
    """

    _esm = joined("elements.js", "board.js")
    _css = joined("theme.css", "board.css")
    rows: traitlets.List[Any] = traitlets.List().tag(sync=True)

    def __init__(self, find: Callable[[str], Job | None], **traits: Any) -> None:
        """Make a board without jobs.

        Args:
            find: gives a job of the journal by its key, to show what it gave.
        """
        self._now: dict[str, dict[str, Any]] = {}
        self._jobs: dict[str, Job] = {}
        self._changed: dict[str, Job] = {}
        self._due = False
        self._find = find
        super().__init__(**traits)
        hear_beside_cells(self)
        self.on_msg(_clicked)

    def fill(self, listed: Sequence[Row], jobs: Sequence[Job]) -> None:
        """Show ``listed``, and follow ``jobs``, those of them that this kernel has."""
        self._now = {row.key: asdict(row) for row in listed}
        self.rows = list(self._now.values())
        for job in jobs:
            self.follow(job)

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """What a page that opens is given: the rows as they are now."""
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        return state | {"rows": list(self._now.values())} if "rows" in state else state

    def follow(self, job: Job) -> None:
        """Keep the row of ``job``, which may be new, up to date."""
        if job.record.key not in self._jobs:
            self._jobs[job.record.key] = job
            job.add_listener(self._refresh)
        if job.record.key not in self._now or row_of(job) != Row(**self._now[job.record.key]):
            self._refresh(job)

    def _refresh(self, job: Job) -> None:
        self._changed[job.record.key] = job
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # not on the loop thread: with the next change
            return
        if not self._due:
            self._due = True
            loop.call_later(INTERVAL, self._tell)

    def _tell(self) -> None:
        self._due = False
        changed, self._changed = self._changed, {}
        rows = {key: asdict(row_of(job)) for key, job in changed.items()}
        news = [row for key, row in rows.items() if row != self._now.get(key)]
        self._now |= rows
        if news:
            self.send({"rows": news})

    def show(self, key: str) -> None:
        """Send what the job gave: its text, and the error if it ended with one."""
        job = self._jobs.get(key) or self._find(key)
        if job is not None:
            trouble = job.error or job.record.trouble
            told = sentence(str(trouble)) if trouble else ""
            self.send({"shown": {"key": key, "text": job.text, "message": told}})

    def cancel(self, key: str) -> None:
        """Ask the server to cancel a job of this kernel."""
        if key in self._jobs:
            self._jobs[key].cancel()
        self.send({"heard": key})

    def bundle(self) -> dict[str, Any]:
        """What displaying the board sends: the widget, and a table for where there are none."""
        found = super()._repr_mimebundle_()
        data: dict[str, Any] = found[0] if isinstance(found, tuple) else {}
        return data | {"text/plain": as_text([Row(**row) for row in self._now.values()])}

    def metadata(self) -> dict[str, Any]:
        """What goes beside it where a frontend (Colab) must be told who draws such widgets."""
        found = super()._repr_mimebundle_()
        return dict(found[1]) if isinstance(found, tuple) else {}

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.bundle(), self.metadata()


def _clicked(board: Board, message: Any, _buffers: Any) -> None:
    # Any page script could send a message, so only what the table sends is understood.
    action = message.get("action") if isinstance(message, dict) else None
    key = message.get("key") if isinstance(message, dict) else None
    if isinstance(key, str) and action == "show":
        board.show(key)
    elif isinstance(key, str) and action == "cancel":
        board.cancel(key)
