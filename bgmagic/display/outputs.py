"""The outputs of a cell that show a job, a group or a table, and replace it when it has ended."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from IPython import get_ipython
from IPython.display import publish_display_data

from bgmagic.display.board import GroupBoard, JobsBoard
from bgmagic.display.card import Card
from bgmagic.display.listing import TableRow, is_final, table_html, table_text
from bgmagic.display.static_html import (
    final_bundles,
    final_group_bundle,
    group_note_beside,
    note_beside,
    snapshot_table,
)
from bgmagic.jobs.interfaces import Listener
from bgmagic.jobs.job import Job

if TYPE_CHECKING:
    from bgmagic.jobs.group import JobGroup


def headless() -> bool:
    """Whether the cell that runs now was sent by a program (nbclient, and with it nbconvert and
    papermill): nobody can type there, and no page has named the cell."""
    kernel = getattr(get_ipython(), "kernel", None)
    parent = kernel.get_parent("shell") if kernel is not None else {}
    return (
        parent.get("content", {}).get("allow_stdin") is False
        and "cellId" not in parent.get("metadata", {})
    )  # fmt: skip


def hears_only_the_running_cell() -> bool:
    """Whether what other threads display may be lost, so that it is shown again after each cell."""
    return headless() or in_colab() or in_vscode()


def in_colab() -> bool:
    """Whether this is a kernel of Colab."""
    return "google.colab" in sys.modules


def in_vscode() -> bool:
    """Whether the notebook is open in VS Code, which leaves its path in the namespace."""
    shell = get_ipython()
    return shell is not None and "__vsc_ipynb_file__" in shell.user_ns


logger = logging.getLogger("bgmagic")


class CellOutput:
    """The two outputs of one cell, and the job that they show."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ids = f"bgmagic-{job.record.key}", f"bgmagic-{job.record.key}-line"
        self._live = not headless()
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
            publish(note_beside(self._job), self._ids[0])
            self._listen()
            return
        card: Card = self._job.card
        card.on_follow.append(self._follow)
        card.on_finish = self.content
        # What is saved of it: how it stood then would read as if it were so for ever.
        bundle = card.bundle() | {"text/plain": f"{self._job.name or 'job'}: sent"}
        publish(bundle, self._ids[0], metadata=card.metadata())
        publish(note_beside(self._job), self._ids[1])
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
        return final_bundles(self._job) if is_final(self._job) else None

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
        content = final_bundles(self._job)
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
    CellOutput(job).show()


def show_board(
    which: str,
    listed: Sequence[TableRow],
    jobs: Sequence[Job],
    find: Callable[[str], Job | None],
    watch: Callable[[Listener], None],
) -> None:
    """Display a live table, and beside it, folded, the same as it is now.

    Args:
        which: boards of the same name are one, however often they are shown.
        watch: has its argument told of each job that is new.
    """
    if headless():
        table = {"text/html": table_html(listed), "text/plain": table_text(listed)}
        publish_display_data(table)  # type: ignore[no-untyped-call]  # IPython's
        return
    if which not in _BOARDS:
        _BOARDS[which] = JobsBoard(find)
        watch(_BOARDS[which].follow)
    board = _BOARDS[which]
    board.fill(listed, jobs)
    publish_display_data(  # type: ignore[no-untyped-call]  # IPython's
        board.bundle(), metadata=board.metadata()
    )
    publish_display_data(snapshot_table(listed))  # type: ignore[no-untyped-call]  # IPython's


def after_cell() -> None:
    """Show again what a frontend that hears only the running cell has missed so far."""
    if hears_only_the_running_cell():
        republish()


def republish() -> None:
    """Show every job that has ended since it was shown once more, from the cell that runs now."""
    for shown in list(_SHOWN):
        shown.send_again()


_BOARDS: dict[str, JobsBoard] = {}

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


class GroupOutput:
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
            publish(final_group_bundle(self._group), self._ids[0])
            return
        if headless():
            publish(group_note_beside(self._group), self._ids[0])
            remember(self)
            _UNSEEN.append(self)  # no board holds it
            return
        board: GroupBoard = self._group.board
        if notify:
            board.notify()
        board.on_end.append(self._ended)
        board.on_finish = self._content
        publish(board.bundle(), self._ids[0], metadata=board.metadata())
        publish(group_note_beside(self._group), self._ids[1])
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
        return {
            "answer": final_group_bundle(self._group),
            "footer": {"text/html": "", "text/plain": ""},
        }


def group_bundle(group: JobGroup) -> dict[str, Any]:
    """What the group is shown as where a cell gives it: live, or as HTML that outlives the kernel.

    In a run without a page nobody could put that in a board's place at the end: one line.
    """
    if group.done():
        return dict(final_group_bundle(group))
    if headless():
        return {"text/plain": repr(group)}
    shown: dict[str, Any] = group.board.bundle()
    return shown


def show_group(group: JobGroup, *, notify: bool = False) -> None:
    """Display ``group`` in the cell that runs now."""
    GroupOutput(group).show(notify=notify)


# Shown in a run without a page, until it has ended.
_UNSEEN: list[GroupOutput] = []
