"""Jobs as rows of a table: those of this kernel as they are now, the others from the journal."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bgmagic.errors import readable
from bgmagic.status import Status

if TYPE_CHECKING:
    from bgmagic.job import Job
    from bgmagic.store import Entry

HEADS = ("variable", "status", "model", "effort", "age", "took", "tokens out", "id")


@dataclass(frozen=True)
class Row:
    """One job.

    Attributes:
        created_at: when it was submitted, seconds since the epoch.
        cells: what stands under `HEADS`.
    """

    created_at: float
    cells: tuple[str, ...]


def rows(jobs: Sequence[Job], entries: Sequence[Entry], alive: set[str]) -> list[Row]:
    """The jobs of this kernel and the journal's others, oldest first.

    Args:
        alive: the owners among the entries' that live; an open job of nobody alive is detached.
    """
    here = {job.record.key for job in jobs}
    others = [_of_entry(entry, alive) for entry in entries if entry.key not in here]
    return sorted([*others, *map(_of_job, jobs)], key=lambda row: row.created_at)


def _of_job(job: Job) -> Row:
    record = job.record
    took = duration(job.elapsed) if job.done() else ""
    tokens = str((job.usage or {}).get("output_tokens", ""))
    return _row(
        record.submitted_at,
        record.name or "",
        job.status,
        record.request.model,
        record.request.effort or "",
        took,
        tokens,
        record.response_id or "",
    )


def _of_entry(entry: Entry, alive: set[str]) -> Row:
    ended = entry.ended_at
    followed = ended is not None or entry.owner in alive
    return _row(
        entry.created_at,
        entry.name or "",
        entry.status if followed else f"{Status.DETACHED} ({entry.status})",
        entry.model,
        entry.effort or "",
        "" if ended is None else duration(ended - entry.created_at),
        "" if entry.output_tokens is None else str(entry.output_tokens),
        entry.response_id or "",
    )


def _row(created_at: float, *cells: str) -> Row:
    name, status, model, effort, took, tokens, response_id = (readable(cell, 80) for cell in cells)
    age = duration(time.time() - created_at)
    return Row(created_at, (name, status, model, effort, age, took, tokens, response_id))


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
