"""What stays in the notebook of a group whose jobs have ended: plain HTML that needs no kernel.

The counts, what they cost, and a folded table with a row a job. All text is escaped here, nothing
of it is read as Markdown. When it is shown is group_shown.py's business.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bgmagic.display.finished import duration, later
from bgmagic.errors import counted, readable
from bgmagic.pricing import dollars
from bgmagic.record import row
from bgmagic.status import Status
from bgmagic.tally import Tally

if TYPE_CHECKING:
    from bgmagic.group import JobGroup

KEPT_ROWS = 100  # of the table that is saved in the notebook
LENGTH = 200  # characters of an answer in it
_QUIET = "color: var(--jp-ui-font-color2, #757575); font-size: 0.9em"
_COLUMNS = ("status", "text", "seconds", "tokens_out")


def bundle(group: JobGroup) -> dict[str, str]:
    """The group as it ended, as a MIME bundle."""
    tally = Tally(group.jobs)
    return {"text/html": as_html(group, tally), "text/plain": f"{group!r}\n{footer(group, tally)}"}


def as_html(group: JobGroup, tally: Tally) -> str:
    """The counts, the failed with their reasons, the folded table, and the footer."""
    failed = tally.failures > 0
    mark, colour = ("✕", "--jp-error-color1, #d32f2f") if failed else _DONE
    counts = ", ".join(f"{count} {status}" for status, count in tally.counts.items())
    title = f'<span style="color: var({colour})">{mark}</span> <b>{html.escape(group.name)}</b>'
    parts = [f"<div>{title} {counted(tally.size)}: {html.escape(counts)}</div>"]
    if failed:
        parts.append(_failed(tally, group.name))
    parts.append(_table(group))
    parts.append(f'<div style="{_QUIET}">{html.escape(footer(group, tally))}</div>')
    edge = f"border-left: 4px solid var({colour}); padding: 2px 0 2px 12px"
    return f'<div style="{edge}">{"".join(parts)}</div>'


_DONE = ("✓", "--jp-success-color1, #388e3c")


def _failed(tally: Tally, name: str) -> str:
    items = "".join(
        f"<li>{len(reason.jobs)} {html.escape(reason.status)}: {html.escape(reason.text)} "
        f'<span style="{_QUIET}">({html.escape(reason.names)})</span></li>'
        for reason in tally.reasons()
    )
    title = html.escape(f"{tally.failures} without an answer; {_remedies(tally, name)}.")
    return f'<div>{title}</div><ul style="margin: 0; overflow-wrap: anywhere">{items}</ul>'


def _remedies(tally: Tally, name: str) -> str:
    unknown, detached = (
        tally.counts.get(status, 0) for status in (Status.UNKNOWN, Status.DETACHED)
    )
    told = []
    if tally.failures > unknown + detached:
        told.append(f"{name}.retry_failed() sends them again")
    if unknown:
        told.append(
            f"{name}.retry_failed(unknown=True) those too that may have been accepted, at the risk "
            "of paying twice"
        )
    if detached:
        told.append(f"%bgattach {name} follows those that are detached")
    return ", ".join(told)


def _table(group: JobGroup) -> str:
    jobs = group.jobs[:KEPT_ROWS]
    rows = [{"": job.name or ""} | row(job) for job in jobs]
    heads = _heads(rows)
    head = "".join(f"<th>{html.escape(_title(name))}</th>" for name in heads)
    body = "".join("<tr>" + "".join(_td(told, name) for name in heads) + "</tr>" for told in rows)
    some = f"The first {KEPT_ROWS} of {len(group.jobs)} jobs" if len(group.jobs) > KEPT_ROWS else ""
    title = some or f"All {len(group.jobs)} jobs"
    return (
        f'<details><summary>{title}</summary><div style="overflow-x: auto"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _heads(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The name, what was asked, and how it went."""
    asked = dict.fromkeys(name for told in rows for name in told)
    after = ("tokens_in", "tokens_reasoning", "price", "error")
    return [name for name in asked if name not in (*_COLUMNS, *after)] + list(_COLUMNS)


def _td(told: Mapping[str, Any], name: str) -> str:
    style = {"text": ' style="text-align: left; min-width: 30em"'}.get(name, "")
    if name not in (*_COLUMNS, ""):
        style = ' style="text-align: left"'
    return f"<td{style}>{html.escape(_cell(told, name))}</td>"


def _title(name: str) -> str:
    return {"tokens_out": "tokens out", "text": "answer"}.get(name, name)


def _cell(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    if name == "text" and told.get("error"):
        value = told["error"]
    if value is None:
        return ""
    if name == "seconds":
        return f"{value:.1f}"
    text = value if isinstance(value, str) else _as_json(value)
    return readable(text, LENGTH)


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def footer(group: JobGroup, tally: Tally) -> str:
    """Tokens, price, duration and date, in one line."""
    records = [job.record for job in group.jobs]
    begun = min(record.submitted_at for record in records)
    ended = max((record.ended_at or record.submitted_at for record in records), default=begun)
    inside, outside = tally.total("tokens_in"), tally.total("tokens_out")
    reasoning = tally.total("tokens_reasoning")
    price, unpriced = tally.price
    of_these = f" ({reasoning:,} of them reasoning)" if reasoning else ""
    not_known = f", without {unpriced} whose price is not known" if unpriced else ""
    words = [
        f"{inside:,} tokens in" if inside is not None else "",
        f"{outside:,} out{of_these}" if outside is not None else "",
        f"{dollars(price)}{not_known}" if price is not None else "",
        duration(ended - begun),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(ended)),
    ]
    return " · ".join(word for word in words if word)


def muted_line(group: JobGroup) -> dict[str, str]:
    """The line that stands beside a live board, as a bundle."""
    begun = min(job.record.submitted_at for job in group.jobs)
    sent = time.strftime("%Y-%m-%d %H:%M", time.localtime(begun))
    place = group.jobs[0].record.place
    name = place.name if place is not None else None
    text = f"{group.name}: {counted(len(group.jobs))}, begun {sent}. Later {later(name, 'them')}"
    # By this mark a page that was reloaded finds the line again.
    marked = f'<div data-bgmagic="{group.key}" style="{_QUIET}">{html.escape(text)}</div>'
    return {"text/html": marked, "text/plain": text}
