"""What a cell shows of a job, a group or a table, and what replaces it when it has ended."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bgmagic.display import frontend
from bgmagic.display.frontend import EarlyWidget, Formulas, publish
from bgmagic.display.listing import TableRow, is_final, snapshot, table_html, table_text
from bgmagic.display.static_html import (
    Bundle,
    FinalBundles,
    final_bundles,
    final_group_bundle,
    final_group_bundles,
    group_note_beside,
    note_beside,
    snapshot_table,
)
from bgmagic.jobs.job import Job
from bgmagic.jobs.record import Listener
from bgmagic.text import count_jobs

if TYPE_CHECKING:
    from bgmagic.display.board import GroupBoard, JobsBoard
    from bgmagic.display.card import Card, LiveWidget
    from bgmagic.jobs.group import JobGroup

REFRESH = 1.0  # seconds after an end until a table is made anew, for all that ended by then
MOST_WATCHED = 1000  # jobs whose ends a table waits for

logger = logging.getLogger("bgmagic")


class Content(Protocol):
    """A job or a group, as `CellOutput` shows it."""

    @property
    def display_id(self) -> str:
        """The display id of its first output."""

    @property
    def title(self) -> str:
        """What it is, in a few words that stay true."""

    def done(self) -> bool:
        """Whether all of it has ended."""

    def final(self) -> bool:
        """Whether it has ended, and a click could do nothing more."""

    def widget(self) -> LiveWidget:
        """Its live display."""

    def early(self, on_made: Callable[[], object]) -> EarlyWidget | None:
        """Its live display, drawn before it is there, or None; ``on_made`` is told once it is."""

    def note(self) -> Bundle:
        """The line that stands beside the live display."""

    def ending(self, formulas: Formulas) -> FinalBundles:
        """What replaces the live display and the line; ``formulas`` as the frontend shows them."""

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Have ``listener()`` called whenever `done` or `final` may be another."""


class CellOutput:
    """The outputs of one cell: a live display and a line, which the end replaces.

    Where the frontend shows no line beside a display it is one output: that, or the line, and then
    the end.
    """

    def __init__(self, content: Content, line: str = "") -> None:
        """Make it, for the frontend of the cell that runs now.

        Args:
            line: what a frontend shows that can't draw the live display.
        """
        self._content = content
        self._line = line
        self._ids = content.display_id, f"{content.display_id}-line"
        self._frontend = frontend.current()
        self._live = self._frontend.live
        self._paired = self._frontend.shows == "card and line"
        self._widget: LiveWidget | None = None
        # What is displayed later from another thread still belongs to this cell.
        self._context = contextvars.copy_context()
        self._replaced = False
        self._republished = False

    @property
    def drawn(self) -> bool:
        """Whether it is known that the live display was drawn."""
        return self._widget is not None and self._widget.drawn

    def show(self) -> None:
        """Display the content: live, or at once as it ended."""
        if self._ended():
            self._publish_end(update=False)
            return
        if self._frontend.shows == "html":
            publish(self._content.note(), self._ids[0])
        elif self._frontend.shows == "line":
            publish({"text/plain": self._line})
            return
        else:
            self._show_live()
        frontend.remember(self, keep=self._frontend.shows == "html")
        self._content.add_listener(self._changed)
        self._changed()  # it may have ended before the listener was there

    def _show_live(self) -> None:
        shown = self._content.early(self._take_widget) or self._take_widget()
        # A saved notebook keeps this: a status in it would read as if it were so for ever.
        text = self._line if self._frontend.shows == "line or card" else self._content.title
        publish(shown.bundle() | {"text/plain": text}, self._ids[0], metadata=shown.metadata())
        if self._paired:
            publish(self._content.note(), self._ids[1])

    def _take_widget(self) -> LiveWidget:
        widget = self._widget = self._content.widget()
        widget.on_finish = lambda formulas: self._ending(formulas) if self._ended() else None
        widget.on_drawn.append(self._changed)
        return widget

    def republish(self) -> bool:
        """Display it once more, from the cell that runs now; whether it has ended.

        For frontends that hear only that cell. The end is displayed again once.
        """
        ended = self._ended()
        if self._frontend.hears == "next cell":
            return ended
        if ended and not self._republished:
            self._publish_end(update=True)
        elif not ended and self._widget is not None:
            self._widget.resend()
        self._republished = ended
        return ended

    def _ended(self) -> bool:
        """Whether what is shown can stay, buttons that nobody can click left aside."""
        return self._content.final() if self._live or self.drawn else self._content.done()

    def _changed(self) -> None:
        if self._frontend.replaces == "if drawn" and not self.drawn:
            return
        ended = self._ended()
        start, self._replaced = ended and not self._replaced, ended
        if start:
            replace = functools.partial(self._context.copy().run, self._publish_end, update=True)
            _start(replace, f"the end of {self._content.title!r} can't be shown")

    def _ending(self, formulas: Formulas | None = None) -> FinalBundles:
        return self._content.ending(formulas or self._frontend.formulas)

    def _publish_end(self, *, update: bool) -> None:
        content = self._ending()
        answer, footer = content["answer"], content["footer"]
        if not self._paired:
            one = {kind: f"{text}\n{footer[kind]}".rstrip() for kind, text in answer.items()}
            publish(one, self._ids[0], update=update)
            return
        publish(answer, self._ids[0], update=update)
        if update and self._widget is not None and self._widget.shared:
            # In JupyterLab a page appends what another one of the document has put in the place of
            # an output, and removes what then stands there. Only so both are in order there.
            publish(answer, self._ids[0], update=update)
        if update or footer["text/plain"]:
            publish(footer, self._ids[1], update=update)


def _start(work: Callable[[], object], trouble: str) -> None:
    """Do ``work``, which takes a while, on another thread of the loop; an exception is logged."""

    def done() -> None:
        try:
            work()
        except Exception:
            logger.exception(trouble)

    try:
        asyncio.get_running_loop().run_in_executor(None, done)
    except RuntimeError:  # no loop here, or one that is shutting down
        done()


class JobContent:
    """A job as the content of a cell's outputs; follows its card to another job."""

    def __init__(self, job: Job, earlier: Job | None, *, notify: bool) -> None:
        self._job = job
        self._earlier = earlier
        self._notify = notify
        self._listeners: list[Callable[[], None]] = []
        self.display_id = f"bgmagic-{job.record.key}"

    @property
    def title(self) -> str:
        """The variable."""
        return f"{self._job.name or 'job'}: sent"

    def done(self) -> bool:
        """Whether the job has ended."""
        return self._job.done()

    def final(self) -> bool:
        """Whether its end needs no card."""
        return is_final(self._job)

    def widget(self) -> Card:
        """Its card."""
        card: Card = self._job.card
        card.on_follow.append(self._follow)
        if self._earlier is not None:
            card.mention(self._earlier)
        if self._notify:
            card.notify()
        return card

    def early(self, on_made: Callable[[], object]) -> EarlyWidget | None:
        """The card as it is now; made with the job's first change, or as a cell shows it again."""
        job, known = self._job, self._job.record
        if job in frontend.EARLY or not frontend.draws_early():
            return None
        state = {
            "_anywidget_id": "bgmagic.display.card.Card",
            "_esm": frontend.script_text(*frontend.CARD_SCRIPTS),
            "_css": frontend.style_text(frontend.CARD_STYLE),
            "view": snapshot(job),
            "preview": {},
        }
        early = EarlyWidget(job, state, lambda: job.card, on_made)

        def changed(job: Job) -> None:
            if job.record is not known and not early.made:
                _start(early.look, f"the card of {self.title!r} can't be made")

        job.add_listener(changed)
        changed(job)  # it may have before the listener was there
        return early

    def note(self) -> Bundle:
        """How to find the job again."""
        return note_beside(self._job)

    def ending(self, formulas: Formulas) -> FinalBundles:
        """The answer, or why there is none, and the footer."""
        return final_bundles(self._job, formulas)

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called after each change of the job."""
        self._listeners.append(listener)
        self._job.add_listener(self._changed)

    def _follow(self, job: Job) -> None:
        self._job = job
        job.add_listener(self._changed)

    def _changed(self, job: Job) -> None:
        if job is self._job:
            for listener in self._listeners:
                listener()


class GroupContent:
    """A group as the content of a cell's outputs."""

    def __init__(self, group: JobGroup, *, notify: bool) -> None:
        self._group = group
        self._notify = notify
        self._board: GroupBoard | None = None
        # A group can be shown live in one cell and as it ended in another.
        self.display_id = f"bgmagic-{group.key}-{uuid.uuid4().hex[:8]}"

    @property
    def title(self) -> str:
        """The variable, and how many jobs there are."""
        return f"{self._group.name}: {count_jobs(len(self._group.places))} sent"

    def done(self) -> bool:
        """Whether all jobs have ended."""
        return self._group.done()

    def final(self) -> bool:
        """The same: what can be sent again has no button."""
        return self._group.done()

    def widget(self) -> GroupBoard:
        """Its board."""
        board: GroupBoard = self._group.board
        if self._notify:
            board.notify()
        board.catch_up()
        self._board = board
        return board

    def early(self, on_made: Callable[[], object]) -> None:
        """None: few kernels begin with one."""

    def note(self) -> Bundle:
        """How to find the group again."""
        return group_note_beside(self._group)

    def ending(self, formulas: Formulas) -> FinalBundles:
        """The group as it ended, in whose table formulas are text; nothing stands beside it."""
        return final_group_bundles(self._group)

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called when all jobs have ended, and when some go on after a retry.

        The board looks at all of them, and not at each change. Without one nobody does.
        """
        if self._board is not None:
            self._board.on_done.append(listener)


class LiveTable:
    """A table that is made anew as jobs end, until all of them have."""

    def __init__(self, make: Callable[[], Bundle], jobs: Sequence[Job]) -> None:
        """Make it, for the frontend of the cell that runs now; ``make`` gives what it shows now."""
        self._make = make
        self._open = set([job for job in jobs if not job.done()][:MOST_WATCHED])
        self._id = f"bgmagic-{uuid.uuid4().hex}"
        self._context = contextvars.copy_context()
        self._due = self._stale = False
        self._pause = REFRESH

    def show(self) -> None:
        """Display it."""
        publish(self._make(), self._id)
        if frontend.current().replaces == "outputs":
            frontend.remember(self, keep=False)
            for job in list(self._open):
                job.add_listener(self._changed)
                self._changed(job)  # it may have ended before the listener was there

    def republish(self) -> bool:
        """Display it once more, from the cell that runs now, if jobs have ended since it last was;
        whether it will not change."""
        if self._stale:
            self._stale = False
            self._publish()
        return not self._open

    def _publish(self) -> None:
        begun = time.thread_time()
        publish(self._make(), self._id, update=True)
        # Of thousands of jobs it takes a while, which a cell that computes would feel.
        self._pause = max(REFRESH, 50 * (time.thread_time() - begun))

    def _changed(self, job: Job) -> None:
        if job not in self._open or not job.done():
            return
        self._open.discard(job)
        self._stale = True
        if self._due:  # thousands may end at once
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no loop here, or one that is shutting down
            self._update()
            return
        self._due = True
        loop.call_later(self._pause, self._update)

    def _update(self) -> None:
        self._due = False
        make = functools.partial(self._context.copy().run, self._publish)
        _start(make, "a table can't be shown")


def show(
    job: Job, *, earlier: Job | None = None, notify: bool = False, line: str = ""
) -> CellOutput:
    """Display ``job`` in the cell that runs now.

    Args:
        earlier: a job for the same variable that still runs; the card offers to cancel it.
        notify: whether the page shows a desktop notification at the end.
        line: what a frontend shows that can't draw the card.
    """
    shown = CellOutput(JobContent(job, earlier, notify=notify), line)
    shown.show()
    return shown


def show_group(group: JobGroup, *, notify: bool = False, line: str = "") -> CellOutput:
    """Display ``group`` in the cell that runs now; ``notify`` and ``line`` as in `show`."""
    shown = CellOutput(GroupContent(group, notify=notify), line)
    shown.show()
    return shown


def group_bundle(group: JobGroup) -> dict[str, Any]:
    """What the group is shown as where a cell gives it: live, or as HTML that outlives the kernel.

    In a run without a page nobody could put that in a board's place at the end: one line.
    """
    if group.done():
        return dict(final_group_bundle(group))
    if not frontend.current().live:
        return {"text/plain": repr(group)}
    return dict(group.board.bundle())


def show_board(
    which: str,
    listed: Sequence[TableRow],
    jobs: Sequence[Job],
    find: Callable[[str], Job | None],
    watch: Callable[[Listener], None],
) -> None:
    """Display a live table, and beside it a copy for saved notebooks, as of the last end.

    Args:
        which: boards of the same name are one, however often they are shown; "" is a new one.
        find: gives a job of the journal by its key.
        watch: has its argument told of each job that is new.
    """
    here = frontend.current()
    if not here.live:
        publish({"text/html": table_html(listed), "text/plain": table_text(listed)})
        return
    board = _BOARDS.get(which)
    if board is None:
        from bgmagic.display.board import JobsBoard  # a job by itself needs none

        board = JobsBoard(find)
        if which:
            _BOARDS[which] = board
            watch(board.follow)
    board.fill(listed, jobs)
    # Jupyter's pages hide the copy as long as they have the table: there it need not be small.
    text = {"text/plain": f"{count_jobs(len(listed))} listed"} if here.shares else {}
    publish(board.bundle() | text, metadata=board.metadata())
    LiveTable(lambda: snapshot_table(board.listed, unfolded=here.shares), jobs).show()


_BOARDS: dict[str, JobsBoard] = {}
