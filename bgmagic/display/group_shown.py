"""What a group shows in the notebook it was sent from, from submission to long after its end.

At first its board, live, and beside it one muted line; when all jobs have ended, plain HTML in
place of both. Where nobody looks there is no board, as in shown.py. How these look is
group_board.py's and group_finished.py's business.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import uuid
from typing import TYPE_CHECKING, Any

from bgmagic.display import frontend
from bgmagic.display.group_board import GroupBoard
from bgmagic.display.group_finished import bundle, muted_line
from bgmagic.display.shown import publish, remember

if TYPE_CHECKING:
    from bgmagic.group import JobGroup

logger = logging.getLogger("bgmagic")


class ShownGroup:
    """The two outputs of one cell, and the group that they show."""

    def __init__(self, group: JobGroup) -> None:
        self._group = group
        which = f"bgmagic-{group.key}-{uuid.uuid4().hex[:8]}"
        self._ids = which, f"{which}-line"
        # What is displayed later from another thread still belongs to this cell.
        self._context = contextvars.copy_context()
        self._sent_again = False

    def show(self, *, notify: bool = False) -> None:
        """Display the group: live, or at once as it ended."""
        if self._group.done():
            publish(bundle(self._group), self._ids[0])
            return
        if frontend.headless():
            publish(muted_line(self._group), self._ids[0])
            remember(self)
            _UNSEEN.append(self)  # no board holds it
            return
        board: GroupBoard = self._group.board
        if notify:
            board.notify()
        board.on_end.append(self._ended)
        board.on_finish = self._content
        publish(board.bundle(), self._ids[0], metadata=board.metadata())
        publish(muted_line(self._group), self._ids[1])
        remember(self)
        board.catch_up()

    def send_again(self) -> None:
        """Replace once more, from the cell that runs now: for frontends that only hear that."""
        if self._group.done() and not self._sent_again:
            self._sent_again = True
            self._publish_end()
            if self in _UNSEEN:
                _UNSEEN.remove(self)

    def _ended(self) -> None:
        # A table of many rows takes a while that the polls of others need not wait for.
        asyncio.get_running_loop().run_in_executor(None, self._replace)

    def _replace(self) -> None:
        try:
            self._context.copy().run(self._publish_end)
        except Exception:
            logger.exception("the end of %r can't be shown", self._group)

    def _publish_end(self) -> None:
        content = self._content()
        publish(content["answer"], self._ids[0], update=True)
        publish(content["footer"], self._ids[1], update=True)

    def _content(self) -> dict[str, dict[str, str]]:
        """What replaces the board and the line."""
        return {"answer": bundle(self._group), "footer": {"text/html": "", "text/plain": ""}}


def as_it_is(group: JobGroup) -> dict[str, Any]:
    """What the group is shown as where a cell gives it: live, or as HTML that outlives the kernel.

    In a run without a page nobody could put that in a board's place at the end: one line.
    """
    if group.done():
        return dict(bundle(group))
    if frontend.headless():
        return {"text/plain": repr(group)}
    shown: dict[str, Any] = group.board.bundle()
    return shown


def show_group(group: JobGroup, *, notify: bool = False) -> None:
    """Display ``group`` in the cell that runs now."""
    ShownGroup(group).show(notify=notify)


# Shown in a run without a page, until it has ended.
_UNSEEN: list[ShownGroup] = []
