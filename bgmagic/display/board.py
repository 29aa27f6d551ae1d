"""The live widgets of many jobs: the table of `%bgjobs`, and the board of a group."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import traitlets

from bgmagic.api.pricing import Terms, estimate_cost
from bgmagic.display.card import LiveWidget, script, style
from bgmagic.display.listing import TableRow, sentence, table_row, table_text
from bgmagic.display.static_html import dated_summary, final_group_bundles, text_html
from bgmagic.jobs.export import GroupSummary, server_seconds
from bgmagic.jobs.job import Job
from bgmagic.jobs.record import Note, Status
from bgmagic.jobs.steps import OPEN_QUESTIONS
from bgmagic.text import count_each, one_line

if TYPE_CHECKING:
    from bgmagic.jobs.group import JobGroup

TABLE_INTERVAL = 0.3  # seconds between two updates at least: calm to look at, whatever goes on


class JobsBoard(LiveWidget):
    """A live table of jobs.

    Attributes:
        rows: each job as JSON, oldest first, as it was when the board was made; a page that opens
            later is given the rows of that moment.
    """

    _esm = script("board.js")
    _css = style("board.css")
    shown = ("rows",)
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

    def fill(self, listed: Sequence[TableRow], jobs: Sequence[Job]) -> None:
        """Show ``listed``, and follow ``jobs``, those of them that this kernel has."""
        self._now = {row.key: dict(vars(row)) for row in listed}
        self.rows = list(self._now.values())
        for job in jobs:
            self.follow(job)

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """What a page that opens is given: the rows as they are now."""
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        return state | {"rows": list(self._now.values())} if "rows" in state else state

    @property
    def listed(self) -> list[TableRow]:
        """The rows as they are now."""
        return [TableRow(**row) for row in list(self._now.values())]

    def follow(self, job: Job) -> None:
        """Keep the row of ``job``, which may be new, up to date."""
        if self._jobs.get(job.record.key) is not job:  # one that was detached is attached anew
            self._jobs[job.record.key] = job
            job.add_listener(self._refresh)
        if self._row(job) != self._now.get(job.record.key):
            self._refresh(job)

    def _row(self, job: Job) -> dict[str, Any]:
        """The job as it is now, and why it is listed."""
        known = self._now.get(job.record.key, {})
        kept = {name: known[name] for name in ("notebook", "match") if name in known}
        return asdict(table_row(job)) | kept

    def _refresh(self, job: Job) -> None:
        self._changed[job.record.key] = job
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # not on the loop thread: with the next change
            return
        if not self._due:
            self._due = True
            loop.call_later(TABLE_INTERVAL, self._tell)

    def _tell(self) -> None:
        self._due = False
        changed, self._changed = self._changed, {}
        rows = {key: self._row(job) for key, job in changed.items()}
        news = [row for key, row in rows.items() if row != self._now.get(key)]
        self._now |= rows
        if news:
            self.send({"rows": news})

    def show(self, key: str) -> None:
        """Send what the job gave, as the answer is shown, and the error if it ended with one."""
        job = self._jobs.get(key) or self._find(key)
        if job is not None:
            trouble = job.error or job.record.trouble
            message = sentence(str(trouble)) if trouble else ""
            html = text_html(job, formulas="mathml")  # nobody typesets what stands in a widget
            self.send({"shown": {"key": key, "html": html, "message": message}})

    def cancel(self, key: str) -> None:
        """Ask the server to cancel a job of this kernel."""
        if key in self._jobs:
            self._jobs[key].cancel()
        self.send({"heard": key})

    def plain_text(self) -> str:
        """The table as text; with its time, since a saved notebook has it for ever."""
        listed = self.listed
        return f"{dated_summary(listed)}\n{table_text(listed)}"

    def click(self, action: str, key: str) -> None:
        """Show what the row's job gave, or cancel it."""
        if action == "show":
            self.show(key)
        elif action == "cancel":
            self.cancel(key)


INTERVAL = 0.4  # seconds between two updates at least


class GroupBoard(LiveWidget):
    """A live display of a group.

    Attributes:
        view: what the browser draws, see `snapshot`.
    """

    _esm = script("page.js", "group_board.js")
    _css = style("group_board.css")
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, group: JobGroup, **traits: Any) -> None:
        """Make the board; it follows the group from now on."""
        self._group = group
        self._changed: dict[int, Job] = {}
        self._taking = threading.Lock()
        self._due = False
        self._bill = ""
        self._asked = False
        self._was_done = group.done()
        self._notify = False
        # Called when all jobs have ended, and when some go on after a retry.
        self.on_done: list[Callable[[], None]] = []
        self._tally = GroupSummary(group.places)
        super().__init__(view=self._snapshot(), **traits)
        # Of a group that no cell has shown; its board was looked at by the name of its variable.
        self.on_finish = lambda _: final_group_bundles(group) if group.done() else None
        group.add_listener(self._refresh)

    @property
    def tally(self) -> GroupSummary:
        """What the jobs add up to, as shown."""
        return self._tally

    def _refresh(self, job: Job) -> None:
        self._changed[self._group.index_of(job)] = job
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # not on the loop thread: with the next change
            return
        if not self._due:
            self._due = True
            # Looking at all of them takes a while.
            loop.call_later(INTERVAL * max(1.0, self._tally.size / 1000), self._tell)
            if not self._asked and self._group.is_rendered:
                self._asked = True
                loop.run_in_executor(None, self._estimate).add_done_callback(self._estimated)

    def _tell(self) -> None:
        self._due = False
        self.catch_up()
        done = self._group.done()
        was_done, self._was_done = self._was_done, done
        if done != was_done:
            for tell in self.on_done:
                tell()

    def catch_up(self) -> None:
        """Take in what has changed, and tell the browser."""
        if not self._changed:
            return
        with self._taking:
            while self._changed:  # one by one: the loop thread may add some meanwhile
                self._tally.take(*self._changed.popitem())
        self.view = self._snapshot()

    def notify(self) -> None:
        """Have the browser show a desktop notification at the end, if its tab is hidden then."""
        self._notify = True
        self.view = self._snapshot()

    def _estimate(self) -> str:
        """Work out what the group may cost, which may import a list of prices."""
        return str(
            estimate_cost(
                (
                    Terms.of(job.request),
                    job.record.server,
                    job.request.max_output_tokens,
                    job.request.size,
                )
                for job in self._group.jobs
            )
        )

    def _estimated(self, found: asyncio.Future[str]) -> None:
        if not found.cancelled() and found.exception() is None:
            self._bill = found.result()
            self.view = self._snapshot()

    def _snapshot(self) -> dict[str, Any]:
        return group_snapshot(self._group, self._tally, self._bill) | {
            "notify": self._notify,
            "model_id": getattr(self, "comm", None) and self.model_id,
        }

    def plain_text(self) -> str:
        """The group in a line."""
        return repr(self._group)

    def click(self, action: str, key: str = "") -> None:
        """Cancel the group."""
        if action == "cancel":
            self.cancel()

    def cancel(self) -> None:
        """Cancel all jobs that have not ended."""
        self._group.cancel()


def group_snapshot(group: JobGroup, tally: GroupSummary, bill_text: str) -> dict[str, Any]:
    """What a board shows of a group, as JSON; times are seconds since the epoch."""
    price, unpriced = tally.price
    submitted = [job.outline.submitted_at for job in group.made]
    return {
        "key": group.key,
        "name": group.name,
        "size": tally.size,
        "ended": tally.ended,
        "done": tally.ended == tally.size,
        "counts": tally.counts,
        "batch": tally.batch_progress,
        # For the notification of the desktop.
        "status": f"all {tally.size} jobs have ended",
        "message": count_each(tally.counts),
        "cancelling": any(job.outline.cancelling and not job.done() for job in group.made),
        "pace": tally.pace(),
        "tokens_in": tally.total("tokens_in"),
        "tokens_out": tally.total("tokens_out"),
        "tokens_reasoning": tally.total("tokens_reasoning"),
        "price": price,
        "unpriced": unpriced,
        "bill": bill_text,
        "slowest": [
            {
                "name": one_line(job.name or "", 80),
                "status": one_line(job.status, 40),
                "seconds": server_seconds(job),
                "done": job.done(),
            }
            for job in tally.slowest()
        ],
        "failed": [
            {
                "status": reason.status,
                "reason": reason.text,
                "count": len(reason.jobs),
                "names": reason.names,
            }
            for reason in tally.reasons()
        ],
        "failures": tally.failures,
        "trouble": _trouble(group),
        "submitted_at": min(submitted, default=time.time()),
        "clock": time.time(),
    }


def _trouble(group: JobGroup) -> str:
    """What holds the group up just now: the newest trouble of a job that is not sent yet; else what
    it has cost that its user does not expect."""
    dear = ""
    for job in reversed(group.made):
        told = job.outline
        held = "" if job.done() else told.trouble or _question(job)
        if held:
            return one_line(held, 200)
        dear = (
            dear or next((note for note in _DEAR if note in told.notes), "") or _unclear(group, job)
        )
    return dear


def _question(job: Job) -> str:
    """Where a job that waits for its user's word can be given that, as after a restart, or ""."""
    if job.outline.rounds is None or all(step.status not in OPEN_QUESTIONS for step in job.steps):
        return ""
    return f"{job.name} waits for {job.record.waits_for[0]}: %bgjobs {job.name} shows its card"


def _unclear(group: JobGroup, job: Job) -> str:
    """How to find the batch of an unknown job that the server may have made, or ""."""
    told = job.outline
    if told.status != Status.UNKNOWN or told.batch is None:
        return ""
    at = told.position
    name = group.name if at is not None and at.name == group.name else job.key
    return f"%bgattach {name} asks the server's list for its batch again, and costs nothing"


_DEAR = (Note.BATCH_TWICE, Note.BATCH_ELSEWHERE)
