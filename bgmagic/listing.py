"""Jobs as rows of a table: those of this kernel as they are now, the others from the journal."""

from __future__ import annotations

import html
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bgmagic.answer import output_tokens
from bgmagic.errors import counted, readable
from bgmagic.status import Status

if TYPE_CHECKING:
    from bgmagic.entries import Entry
    from bgmagic.job import Job

HEADS = ("variable", "status", "model", "effort", "age", "took", "tokens out", "id")


@dataclass(frozen=True)
class Row:
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

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands under `HEADS`."""
        took = "" if self.ended_at is None else duration(self.ended_at - self.submitted_at)
        tokens = "" if self.tokens is None else str(self.tokens)
        age = duration(time.time() - self.submitted_at)
        asked = self.model, self.effort
        return (self.name, self.status, *asked, age, took, tokens, self.response_id)


def rows(jobs: Sequence[Job], entries: Sequence[Entry], alive: set[str]) -> list[Row]:
    """The jobs of this kernel and the journal's others, oldest first.

    Args:
        alive: the owners among the entries' that live; an open job of nobody alive is detached.
    """
    here = {job.record.key for job in jobs}
    others = [_of_entry(entry, alive) for entry in entries if entry.key not in here]
    return sorted([*others, *map(row_of, jobs)], key=lambda row: row.submitted_at)


def row_of(job: Job) -> Row:
    """A job of this kernel as it is now."""
    record = job.record
    return Row(
        key=record.key,
        name=readable(record.name or "", 80),
        status=readable(job.status, 40),
        model=readable(record.request.model, 80),
        effort=record.request.effort or "",
        submitted_at=record.submitted_at,
        ended_at=record.ended_at,
        tokens=output_tokens(record.response or {}),
        response_id=readable(record.response_id or "", 80),
        open=not job.done(),
        here=not job.done(),
    )


def _of_entry(entry: Entry, alive: set[str]) -> Row:
    ended = entry.ended_at is not None
    followed = ended or entry.owner in alive
    status = readable(entry.status, 40)
    return Row(
        key=entry.key,
        name=readable(entry.name or "", 80),
        status=status if followed else f"{Status.DETACHED} ({status})",
        model=readable(entry.model, 80),
        effort=entry.effort or "",
        submitted_at=entry.created_at,
        ended_at=entry.ended_at,
        tokens=entry.output_tokens,
        response_id=readable(entry.response_id or "", 80),
        open=not ended,
        here=False,
    )


def summary(listed: Sequence[Row]) -> str:
    """How many there are of each status: "12 jobs: 9 completed, 3 in_progress"."""
    counts = Counter(row.status for row in listed)
    told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    return f"{counted(len(listed))}: {told}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 12 min, 3.5 h, 4 d."""
    if seconds < 100:
        return f"{max(seconds, 0):.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} d"


def as_text(listed: Sequence[Row]) -> str:
    """The rows as a table in plain text."""
    lines = [HEADS, *(row.cells for row in listed)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_html(listed: Sequence[Row]) -> str:
    """The rows as an HTML table; every cell is escaped."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in HEADS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row.cells) + "</tr>"
        for row in listed
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
