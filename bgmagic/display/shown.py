"""What a job shows in the notebook it was sent from, from submission to long after its end.

At first two outputs: the live card, and beside it one muted line for whoever finds the notebook
closed early. When the job has ended for good, both are replaced in place by plain HTML. Where
nobody looks (a headless run) there is no card: the line alone, until the end takes its place. How
these look is card.py's and finished.py's business.
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
from bgmagic.display import frontend
from bgmagic.display.board import Board
from bgmagic.display.card import Card, is_final
from bgmagic.display.finished import as_it_is, bundles, muted_line
from bgmagic.job import Job
from bgmagic.listing import Row, as_html, as_text

logger = logging.getLogger("bgmagic")


class Shown:
    """The two outputs of one cell, and the job that they show."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ids = f"bgmagic-{job.record.key}", f"bgmagic-{job.record.key}-line"
        self._live = not frontend.headless()
        # What is displayed later from another thread still belongs to this cell.
        self._context = contextvars.copy_context()
        self._replaced = False
        self._sent_again = False

    def show(self) -> None:
        """Display the job: live, or at once as it ended."""
        if self._ended():
            self._publish(update=False)
            return
        if not self._live:
            publish(muted_line(self._job), self._ids[0])
            self._listen()
            return
        card: Card = self._job.card
        card.on_follow.append(self._follow)
        card.on_finish = self.content
        # What is saved of it: how it stood then would read as if it were so for ever.
        bundle = card.bundle() | {"text/plain": f"{self._job.name or 'job'}: sent"}
        publish(bundle, self._ids[0], metadata=card.metadata())
        publish(muted_line(self._job), self._ids[1])
        self._listen()

    def _listen(self) -> None:
        self._job.add_listener(self._changed)
        if self._job.done():
            self._changed(self._job)  # it ended before the listener was there
        _SHOWN.add(self)

    def _ended(self) -> bool:
        """Whether what is shown can stay; a button that nobody can click is no reason not to."""
        return is_final(self._job) if self._live else self._job.done()

    def content(self) -> Mapping[str, Any] | None:
        """What replaces the card and the line, or None as long as the job has not ended."""
        return bundles(self._job) if is_final(self._job) else None

    def send_again(self) -> None:
        """Replace once more, from the cell that runs now: for frontends that only hear that."""
        if self._sent_again:
            return
        if self._ended():
            self._sent_again = True
            self._publish(update=True)
        elif self._live:
            self._job.card.send_state(["view", "preview"])

    def _follow(self, job: Job) -> None:
        self._job = job
        job.add_listener(self._changed)

    def _changed(self, job: Job) -> None:
        if job is not self._job or self._replaced or not self._ended():
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
        if not self._live:
            both = {
                kind: f"{text}\n{content['footer'][kind]}"
                for kind, text in content["answer"].items()
            }
            publish(both, self._ids[0], update=update)
            return
        publish(content["answer"], self._ids[0], update=update)
        publish(content["footer"], self._ids[1], update=update)


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
    if frontend.headless():
        table = {"text/html": as_html(listed), "text/plain": as_text(listed)}
        publish_display_data(table)  # type: ignore[no-untyped-call]  # IPython's
        return
    if which not in _BOARDS:
        _BOARDS[which] = Board(find)
        watch(_BOARDS[which].follow)
    board = _BOARDS[which]
    board.fill(listed, jobs)
    publish_display_data(  # type: ignore[no-untyped-call]  # IPython's
        board.bundle(), metadata=board.metadata()
    )
    publish_display_data(as_it_is(listed))  # type: ignore[no-untyped-call]  # IPython's


def after_cell() -> None:
    """Show again what a frontend that hears only the running cell has missed so far."""
    if frontend.hears_only_the_running_cell():
        send_again()


def send_again() -> None:
    """Show every job that has ended since it was shown once more, from the cell that runs now."""
    for shown in list(_SHOWN):
        shown.send_again()


_BOARDS: dict[str, Board] = {}
# Alive as long as its job listens to it.
_SHOWN: weakref.WeakSet[Any] = weakref.WeakSet()


def remember(shown: Any) -> None:
    """Have `send_again` call the method of that name of ``shown``, as long as that lives."""
    _SHOWN.add(shown)


def publish(
    data: Mapping[str, Any],
    display_id: str,
    *,
    metadata: Mapping[str, Any] | None = None,
    update: bool = False,
) -> None:
    """Display ``data`` in the cell that runs now, or in place of what has this display id."""
    publish_display_data(  # type: ignore[no-untyped-call]  # IPython's
        dict(data),
        metadata=dict(metadata or {}),
        transient={"display_id": display_id},
        update=update,
    )
