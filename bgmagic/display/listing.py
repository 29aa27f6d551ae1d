"""Jobs as text: a sentence, a line, or a table of many; and as the values that a card draws."""

from __future__ import annotations

import html
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bgmagic.api.response import Usage
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Job
from bgmagic.jobs.record import JobRecord, Status
from bgmagic.jobs.steps import OPEN_QUESTIONS, Step
from bgmagic.rendering.escaping import inline_text
from bgmagic.text import count_each, count_jobs, duration, one_line
from bgmagic.values import dataclass

if TYPE_CHECKING:
    from bgmagic.storage.database import StoredJob

HEADS = ("variable", "status", "model", "effort", "age", "took", "tokens out", "id")

FOUND_HEADS = ("variable", "status", "model", "age", "notebook", "id")


# Terminal statuses after which nothing is left to click: the card gives way to plain HTML.
FINAL = frozenset(
    {Status.COMPLETED, Status.FAILED, Status.INCOMPLETE, Status.CANCELLED, Status.LOST}
)


def sentence(text: str) -> str:
    """``text`` beginning with a capital, unless its first word is a code such as server_error."""
    first = text.partition(" ")[0]
    return text[:1].upper() + text[1:] if first.rstrip(",").isalpha() else text


def is_final(job: Job) -> bool:
    """Whether the job has ended, and nothing is left that a click could do."""
    return job.done() and job.status in FINAL


def model_of(job: Job) -> str:
    """The model that answers, once the server has named it, else the one that was asked."""
    named = (job.record.response or {}).get("model")
    return one_line(named, 80) if isinstance(named, str) and named else job.request.model


@dataclass(frozen=True)
class TableRow:
    """One job.

    Attributes:
        key: our own name of the job.
        name: its variable, or "".
        status: its status; of a job that nobody alive follows, with "detached" before it.
        model, effort: as asked for.
        submitted_at, ended_at: seconds since the epoch; None is "not yet".
        tokens: output tokens as the server counted them, or None.
        response_id: the server's id, or "".
        open: whether it has not ended.
        here: whether this kernel follows it.
        notebook: the notebook's name, where jobs of several are listed, else "".
        match: of a job that was searched for, where it has that: the place, and the text before
            it, of it and after it.
    """

    key: str
    name: str
    status: str
    model: str
    effort: str
    submitted_at: float
    ended_at: float | None
    tokens: int | None
    response_id: str
    open: bool
    here: bool
    notebook: str = ""
    match: tuple[str, str, str, str] | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands under `HEADS`, or `FOUND_HEADS` where it was searched for."""
        age, status = duration(time.time() - self.submitted_at), in_words(self.status)
        if self.match is not None:
            return (self.name, status, self.model, age, self.notebook, self.response_id)
        took = "" if self.ended_at is None else duration(self.ended_at - self.submitted_at)
        tokens = "" if self.tokens is None else str(self.tokens)
        asked = self.model, self.effort
        return (self.name, status, *asked, age, took, tokens, self.response_id)


def table_rows(
    jobs: Sequence[Job], entries: Sequence[StoredJob], alive: set[str]
) -> list[TableRow]:
    """The jobs of this kernel and the journal's others, oldest first.

    Args:
        alive: the owners among the entries' that live; an open job of nobody alive is detached.
    """
    here = {job.record.key for job in jobs}
    others = [_of_entry(entry, alive) for entry in entries if entry.key not in here]
    return sorted([*others, *map(table_row, jobs)], key=lambda row: row.submitted_at)


def table_row(job: Job) -> TableRow:
    """A job of this kernel as it is now."""
    record = job.record
    return TableRow(
        key=record.key,
        name=one_line(record.name or "", 80),
        status=one_line(job.status, 40),
        model=one_line(record.request.model, 80),
        effort=record.request.effort or "",
        submitted_at=record.submitted_at,
        ended_at=record.ended_at,
        tokens=Usage.of(record.paid_response or {}).output,
        response_id=one_line(record.response_id or "", 80),
        open=not job.done(),
        here=not job.done(),
    )


def _of_entry(entry: StoredJob, alive: set[str]) -> TableRow:
    ended = entry.ended_at is not None
    followed = ended or entry.owner in alive
    status = one_line(entry.status, 40)
    return TableRow(
        key=entry.key,
        name=one_line(entry.name or "", 80),
        status=status if followed else f"{Status.DETACHED} ({status})",
        model=one_line(entry.model, 80),
        effort=entry.effort or "",
        submitted_at=entry.created_at,
        ended_at=entry.ended_at,
        tokens=entry.output_tokens,
        response_id=one_line(entry.response_id or "", 80),
        open=not ended,
        here=False,
    )


def in_words(status: str) -> str:
    """A status as cards say it."""
    return status.replace("_", " ")


def summary(listed: Sequence[TableRow]) -> str:
    """How many there are of each status: "12 jobs, 9 completed, 3 in progress"."""
    counts = Counter(in_words(row.status) for row in listed)
    return f"{count_jobs(len(listed))}, {count_each(counts)}"


def table_text(listed: Sequence[TableRow]) -> str:
    """The rows as a table in plain text; what was found stands below each."""
    if not any(row.match for row in listed):
        return plain_table(HEADS, [row.cells for row in listed])
    head, *lines = plain_table(FOUND_HEADS, [row.cells for row in listed]).split("\n")
    for line, row in zip(lines, listed, strict=True):
        place, *parts = row.match or ("", "")
        head += f"\n{line}\n    {place}: {''.join(parts)}"
    return head


def table_html(listed: Sequence[TableRow]) -> str:
    """The rows as an HTML table; every cell is escaped."""
    if not any(row.match for row in listed):
        return html_table(HEADS, [row.cells for row in listed])
    head = "".join(f"<th>{cell}</th>" for cell in FOUND_HEADS)
    head += '<th style="text-align: left">found</th>'
    body = "".join(map(_found, listed))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _found(row: TableRow) -> str:
    place, before, found, after = map(inline_text, row.match or ("", "", "", ""))
    cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row.cells)
    shown = f"{place}: {before}<b>{found}</b>{after}"
    return f'<tr>{cells}<td style="text-align: left; min-width: 20em">{shown}</td></tr>'


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in plain text."""
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML; every cell is escaped."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def describe_job(job: Job) -> str:
    """A job in one line."""
    message = job.error or job.record.trouble or job.record.note_text
    about = f": {message}" if message else ""
    name = one_line(job.name or job.response_id or "job")
    return f"{name}: {one_line(job.status, 40)} after {duration(job.elapsed)}{about}"


def split_by_group(jobs: Iterable[Job]) -> list[list[Job]]:
    """The jobs in order, those of a group together where its first stands."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        position = job.record.position
        found.setdefault(position.group if position else job.record.key, []).append(job)
    return list(found.values())


def group_name(jobs: Sequence[Job]) -> str:
    """What the group of these jobs is called."""
    return (jobs[0].name or "group").partition("[")[0]


def describe_jobs(jobs: Sequence[Job]) -> str:
    """Jobs of one group, or one job, in one line."""
    if len(jobs) == 1:
        return describe_job(jobs[0])
    from bgmagic.jobs.export import batch_progress  # a job by itself needs none

    counts = count_each(Counter(job.status for job in jobs))
    longest = max(job.elapsed for job in jobs)
    failed = next((job for job in jobs if job.error), None)
    about = f"; {failed.name}: {one_line(str(failed.error), 200)}" if failed else held_up(jobs)
    progress = batch_progress(jobs)
    counts += f" (at the server {progress})" if progress else ""
    return f"{group_name(jobs)}: {len(jobs)} jobs, {counts}, after {duration(longest)}{about}"


def held_up(jobs: Iterable[Job]) -> str:
    """What keeps open jobs waiting, as the end of a sentence, or ""."""
    troubled = next((job for job in jobs if not job.done() and job.record.trouble), None)
    if troubled is None:
        return ""
    return f"; {troubled.name}: {one_line(str(troubled.record.trouble), 200)}"


def describe_live(job: Job) -> str:
    """A job in one line, with what its card says."""
    record = job.record
    effort = f", effort {record.request.effort}" if record.request.effort else ""
    asked = f"{model_of(job)}{effort}"
    words = f"{record.name or 'job'}: {one_line(job.status, 40)} ({asked})"
    words += f", {duration(job.elapsed)}"
    if record.window_ends_at is not None and not job.done():
        rest = duration(record.window_ends_at - time.time())
        words += f", {rest} left of its window of {record.request.window}"
    message = job.error or record.trouble or record.note_text
    return f"{words}: {message}" if message else words


class Drawn(Protocol):
    """A display of jobs that may have been drawn."""

    @property
    def drawn(self) -> bool:
        """Whether it is known that it was, so that it shows the end by itself."""


class EndingLines:
    """Says once of jobs that were sent that they have ended."""

    def __init__(self, remedy: str = "") -> None:
        """Make it; ``remedy`` says how to see what they gave, with ``{}`` for their name."""
        self._remedy = remedy
        self._open: list[tuple[Job | JobGroup, Drawn | None]] = []
        self._told: weakref.WeakSet[Job] = weakref.WeakSet()

    def expect(self, one: Job | JobGroup, shown: Drawn | None = None) -> None:
        """Print a line when ``one`` has ended, unless its display ``shown`` was drawn."""
        self._open.append((one, shown))

    def tell(self) -> None:
        """Print a line for those that have ended since."""
        for entry in list(self._open):
            one, shown = entry
            drawn = shown is not None and shown.drawn
            if not drawn and not one.done():
                continue
            self._open.remove(entry)
            jobs = one.jobs if isinstance(one, JobGroup) else [one]
            if not drawn and not self._told.issuperset(jobs):
                print(f"{describe_jobs(jobs)}{self._remedy.format(one.name)}")

    def told(self, jobs: Sequence[Job]) -> None:
        """Note that the user has been told how these ended."""
        self._told.update(job for job in jobs if job.done())


def sent_line(job: Job) -> str:
    """That a job was sent, and how to wait for it."""
    asked = " ".join(word for word in (job.request.model, job.request.effort) if word)
    waits = job.record.status_text if job.record.waits_for else ""
    sent = f"{waits}, then it goes to {asked}" if waits else f"sent to {asked}"
    return f"{job.name}: {sent} in the background; %bgwait {job.name} waits for it"


def sent_group_line(group: JobGroup, bill: Callable[[], object]) -> str:
    """That a group was sent, what it may cost, and how to wait for it."""
    cost = f", {bill()}" if group.is_rendered else ""
    return f"{group!r}{cost}; %bgwait {group.name} waits for them"


def earlier_line(job: Job, earlier: Job) -> str:
    """That another job for the same variable still runs."""
    return f"{job.name}: an earlier job for this name goes on: {earlier!r}"


# What a card shows.

KEPT_CALL = 600  # characters of a call of a function, and of its output
ASKED_CALL = 20_000  # characters of a call that somebody is asked about
CALLS = 12  # of functions that a card shows; more are told by the steps

# Characters of a preview that are sent: the end of it, since that is what is being read.
PREVIEWED = 4000


def snapshot(job: Job) -> dict[str, Any]:
    """What a card shows of a job, as JSON.

    Times are seconds since the epoch; ``clock`` is the kernel's time as the snapshot was taken, so
    that a browser whose clock differs still counts right.
    """
    record = job.record
    error = job.error
    return {
        "key": record.key,
        "name": record.name or "",
        "status": one_line(job.status, 40),
        "done": job.done(),
        "final": is_final(job),
        "model": model_of(job),
        "effort": record.request.effort or "",
        "response_id": one_line(record.response_id or "", 400),
        "cancelling": record.cancelling and not job.done(),
        "message": sentence(
            str(error) if error else record.trouble or _waits(job) or record.note_text
        ),
        "calls": [] if job.done() else [_call(step) for step in shown_steps(job.steps)],
        "called": record.rounds is not None and not record.rounds.is_answered,
        "offline": record.offline and not job.done(),
        "window": record.request.window if record.window_ends_at else "",
        "window_ends_at": record.window_ends_at,
        "submitted_at": record.submitted_at,
        "accepted_at": record.accepted_at,
        "started_at": record.started_at,
        "checked_at": record.checked_at,
        "ended_at": record.ended_at,
        "clock": time.time(),
    }


def shown_steps(steps: Sequence[Step]) -> Sequence[Step]:
    """The newest calls, and before them all that need somebody's word."""
    asked = [step for step in steps[:-CALLS] if step.status in OPEN_QUESTIONS]
    return [*asked, *steps[-CALLS:]]


def _call(step: Step) -> dict[str, Any]:
    """One call of a function, as plain text of which a card shows the beginning. A call that needs
    somebody's word is shown whole: what it would do may stand at its end."""
    asks = step.status in OPEN_QUESTIONS
    text = f"{step.name}({step.arguments})"
    if asks:
        text = " ".join(text.split())
        left = len(text) - ASKED_CALL
        text = f"{text[:ASKED_CALL]}… and {left:,} more characters: .steps" if left > 0 else text
    return {
        "key": step_key(step),
        "text": one_line(text, 2 * ASKED_CALL if asks else KEPT_CALL),
        "output": one_line(step.output or "", 300),
        "status": step.status,
        "asks": asks,
    }


def step_key(step: Step) -> str:
    """What a click on one of a job's calls names it by."""
    return f"{step.round} {step.call_id}"


def _waits(job: Job) -> str:
    words = job.record.status_text
    return "" if job.done() or words == job.record.status else words


def previewed(record: JobRecord) -> dict[str, str]:
    """The end of what a streamed response says so far, apart its reasoning and commentary."""
    preview = record.preview
    if preview is None or record.ended_at is not None:
        return {}
    # Summaries have bold titles; here they are plain text.
    texts = {
        "text": preview.text,
        "reasoning": preview.reasoning.replace("**", ""),
        "commentary": preview.commentary,
    }
    return {name: text[-PREVIEWED:] for name, text in texts.items() if text}
