"""What a job shows in the notebook it was sent from, from submission to long after its end.

At first two outputs: the live card, and beside it one muted line for whoever finds the notebook
closed early. When the job has ended for good, both are replaced in place by plain HTML. How these
look is card.py's and finished.py's business.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from IPython.display import publish_display_data

from bgmagic.control import Listener
from bgmagic.display.board import Board
from bgmagic.display.card import Card, is_final
from bgmagic.display.finished import as_it_is, bundles, muted_line
from bgmagic.job import Job
from bgmagic.listing import Row

logger = logging.getLogger("bgmagic")


class Shown:
    """The two outputs of one cell, and the job that they show."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ids = f"bgmagic-{job.record.key}", f"bgmagic-{job.record.key}-line"
        # What is displayed later from another thread still belongs to this cell.
        self._context = contextvars.copy_context()
        self._replaced = False
        self._sent_again = False

    def show(self) -> None:
        """Display the job: live, or at once as it ended."""
        if is_final(self._job):
            self._publish(update=False)
            return
        card: Card = self._job.card
        card.on_follow.append(self._follow)
        card.on_finish = self.content
        # What is saved of it: how it stood then would read as if it were so for ever.
        _publish(card.bundle() | {"text/plain": f"{self._job.name or 'job'}: sent"}, self._ids[0])
        _publish(muted_line(self._job), self._ids[1])
        self._job.add_listener(self._changed)
        if self._job.done():
            self._changed(self._job)  # it ended before the listener was there
        _SHOWN.add(self)

    def content(self) -> Mapping[str, Any] | None:
        """What replaces the card and the line, or None as long as the job has not ended."""
        return bundles(self._job) if is_final(self._job) else None

    def send_again(self) -> None:
        """Replace once more, from the cell that runs now: for frontends that only hear that."""
        if is_final(self._job) and not self._sent_again:
            self._sent_again = True
            self._publish(update=True)

    def _follow(self, job: Job) -> None:
        self._job = job
        job.add_listener(self._changed)

    def _changed(self, job: Job) -> None:
        if job is not self._job or self._replaced or not is_final(job):
            return
        self._replaced = True
        try:
            # Rendering a long answer takes a while that the polls of others need not wait for.
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, self._replace)
        except RuntimeError:  # no loop here, or one that is shutting down
            self._replace()

    def _replace(self) -> None:
        try:
            self._context.copy().run(self._publish, update=True)
        except Exception:
            logger.exception("the end of %r can't be shown", self._job)

    def _publish(self, *, update: bool) -> None:
        content = bundles(self._job)
        _publish(content["answer"], self._ids[0], update=update)
        _publish(content["footer"], self._ids[1], update=update)


def show(job: Job) -> None:
    """Display ``job`` in the cell that runs now."""
    Shown(job).show()


def show_board(
    which: str,
    listed: Sequence[Row],
    jobs: Sequence[Job],
    find: Callable[[str], Job | None],
    watch: Callable[[Listener], None],
) -> None:
    """Display a live table, and beside it, folded, the same as it is now.

    Args:
        which: boards of the same name are one, however often they are shown.
        watch: has its argument told of each job that is new.
    """
    if which not in _BOARDS:
        _BOARDS[which] = Board(find)
        watch(_BOARDS[which].follow)
    board = _BOARDS[which]
    board.fill(listed, jobs)
    publish_display_data(board.bundle())  # type: ignore[no-untyped-call]  # IPython's
    publish_display_data(as_it_is(listed))  # type: ignore[no-untyped-call]  # IPython's


def send_again() -> None:
    """Show every job that has ended since it was shown once more, from the cell that runs now."""
    for shown in list(_SHOWN):
        shown.send_again()


_BOARDS: dict[str, Board] = {}
# Alive as long as its job listens to it.
_SHOWN: weakref.WeakSet[Shown] = weakref.WeakSet()


def _publish(data: Mapping[str, Any], display_id: str, *, update: bool = False) -> None:
    publish_display_data(  # type: ignore[no-untyped-call]  # IPython's
        dict(data), transient={"display_id": display_id}, update=update
    )
