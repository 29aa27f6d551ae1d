"""The HTML that stays when a job or a group has ended; it needs no kernel."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bgmagic.api.response import Usage, read_citations, word_in
from bgmagic.display.listing import TableRow, describe_live, model_of, sentence, summary, table_html
from bgmagic.errors import BgmagicError
from bgmagic.jobs.export import job_row
from bgmagic.jobs.job import Job, sources_html
from bgmagic.jobs.outcome import InvalidAnswer, NoAnswer
from bgmagic.jobs.record import Status
from bgmagic.jobs.summary import GroupSummary
from bgmagic.rendering.markdown import as_markdown, to_html
from bgmagic.text import count_jobs, dollars, one_line

if TYPE_CHECKING:
    from bgmagic.jobs.group import JobGroup

_MARKS = {
    Status.COMPLETED: ("✓", "--jp-success-color1, #388e3c"),
    Status.FAILED: ("✕", "--jp-error-color1, #d32f2f"),
    Status.LOST: ("✕", "--jp-error-color1, #d32f2f"),
    Status.INCOMPLETE: ("◐", "--jp-warn-color1, #f57c00"),
    Status.CANCELLED: ("⊘", "--jp-ui-font-color2, #757575"),
}

KEPT_ROWS = 100  # of a table that is saved in the notebook

_QUIET = (
    "color: var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #757575)); "
    "font-size: 0.9em; padding-left: 16px; overflow-wrap: anywhere"
)

# What to do about an end, by its status, the server's `error.code` (OpenAPI: ResponseErrorCode) or
# the reason in `incomplete_details`.
_REMEDIES = {
    "rate_limit_exceeded": "Wait a little and run the cell again.",
    "server_error": "That was the server's failure: run the cell again.",
    "invalid_prompt": "Change the prompt; the same one would be refused again.",
    "insufficient_quota": "Check the plan and billing of the account behind the API key.",
    "max_output_tokens": "Raise --max-output-tokens (it counts reasoning too), or lower --effort.",
    "length": "Raise --max-output-tokens (it counts reasoning too), or lower --effort.",
    "content_filter": "The server's content filter stopped it: change the prompt.",
    Status.FAILED: "Run the cell again to send it anew.",
    Status.INCOMPLETE: "Run the cell again for a whole answer.",
    Status.CANCELLED: "Run the cell again to send it anew.",
    Status.LOST: "Run the cell again to send it anew; it is paid for again.",
}


def final_bundles(job: Job) -> dict[str, dict[str, str]]:
    """The ended ``job`` as MIME bundles: the ``answer``, and the ``footer`` below it."""
    text = "\n".join(part for part in (describe_live(job), job.text) if part)
    return {
        "answer": {"text/html": answer_html(job), "text/plain": text},
        "footer": {"text/html": footer_html(job), "text/plain": footer_text(job)},
    }


def answer_html(job: Job) -> str:
    """Status, the answer or the partial text, and for a failure its reason and what to do."""
    mark, colour = _MARKS.get(Status(job.status), ("", "--jp-ui-font-color2, #757575"))
    if isinstance(job.error, NoAnswer):
        mark, colour = _MARKS[Status.INCOMPLETE]  # completed, but not what was asked for
    name = html.escape(job.name or "")
    title = f'<span style="color: var({colour})">{mark}</span> <b>{name}</b>'
    parts = [f"<div>{title} {html.escape(job.status)}</div>"]
    error = job.error
    if error is not None:
        parts.append(_reason(job, error))
    if job.text.strip():
        text = as_markdown(job.text, structured=job.request.text_format is not None)
        below = sources_html(read_citations(job.response or {}))
        parts.append(f"<div>{to_html(text)}{below}</div>")
    edge = f"border-left: 4px solid var({colour}); padding: 2px 0 2px 12px"
    return f'<div style="{edge}">{"".join(parts)}</div>'


def _reason(job: Job, error: BgmagicError) -> str:
    partial = "What was written until then:" if job.text.strip() else ""
    if isinstance(error, InvalidAnswer):
        partial = "What was written:"
    words = [html.escape(sentence(str(error)) + "."), html.escape(remedy(job)), partial]
    if isinstance(error, NoAnswer) and not partial:
        words = words[:2]
    shown = " ".join(word for word in words if word).replace("..", ".")
    return f'<p style="margin: 0; overflow-wrap: anywhere">{shown}</p>'


def remedy(job: Job) -> str:
    """What the user can do about an end without an answer, in one sentence, or ""."""
    response = job.response or {}
    codes = (
        word_in(response, "error", "code"),
        word_in(response, "incomplete_details", "reason"),
    )
    found = next((_REMEDIES[code] for code in codes if code in _REMEDIES), None)
    if found is None and isinstance(job.error, NoAnswer):
        return "Ask differently, and run the cell again."
    return found or _REMEDIES.get(job.status, "")


def footer_html(job: Job) -> str:
    """The footer as HTML."""
    return f'<div style="{_QUIET}">{html.escape(footer_text(job))}</div>'


def footer_text(job: Job) -> str:
    """Model returned, effort, tokens, duration, id and date, in one line."""
    record = job.record
    effort = record.request.effort
    ended = record.ended_at or time.time()
    words = [
        model_of(job),
        f"effort {effort}" if effort else "",
        token_words(Usage.of(record.response or {})),
        exact_duration(ended - record.submitted_at),
        one_line(record.response_id or "not sent"),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(ended)),
        record.note_text,
    ]
    return " · ".join(word for word in words if word)


def token_words(usage: Usage) -> str:
    """The tokens of ``usage`` in words, reasoning apart; "" where the server counted none."""
    inside, outside, reasoning = usage.input, usage.output, usage.reasoning
    if inside is None and outside is None:
        return ""
    words = [f"{inside:,} tokens in" if inside is not None else ""]
    words.append(f"{outside:,} out" if outside is not None else "")
    said = ", ".join(word for word in words if word)
    return f"{said} ({reasoning:,} of them reasoning)" if reasoning else said


def exact_duration(seconds: float) -> str:
    """Seconds as people say them, to the second."""
    s = max(0, round(seconds))
    if s < 60:
        return f"{s} s"
    minutes, hours = s // 60 % 60, s // 3600
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {s % 60} s"


def reattach_hint(name: str | None, it: str) -> str:
    """How to come back to what a variable holds; a later kernel knows only chosen names."""
    shows, follows = ("%bgjobs", "--all") if name is None else (f"%bgjobs {name}", name)
    return f"{shows} shows {it}, and %bgattach {follows} follows {it} in another kernel."


def note_beside(job: Job) -> dict[str, str]:
    """The line that stands beside a live card, as a MIME bundle."""
    record = job.record
    effort = f", effort {record.request.effort}" if record.request.effort else ""
    sent = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.submitted_at))
    asked = f"sent {sent} to {record.request.model}{effort}"
    if not record.request.model:  # picked up by its id: what was asked is not known here
        asked = f"{record.response_id}, followed since {sent}"
    which = (record.name if record.named else None) or record.response_id
    text = f"{record.name or 'job'}: {asked}. Later {reattach_hint(which, 'it')}"
    # By this mark a page that was reloaded finds the line again.
    marked = f'<div data-bgmagic="{record.key}" style="{_QUIET}">{html.escape(text)}</div>'
    return {"text/html": marked, "text/plain": text}


def snapshot_table(listed: Sequence[TableRow]) -> dict[str, str]:
    """What stands beside a live board: the newest rows as they are now, folded, as a bundle."""
    newest = listed[-KEPT_ROWS:]
    when = time.strftime("%Y-%m-%d %H:%M")
    title = html.escape(f"{when}, {summary(listed)}")
    some = f", the newest {KEPT_ROWS} below" if len(listed) > KEPT_ROWS else ""
    folded = f"<details><summary>{title}{some}</summary>{table_html(newest)}</details>"
    return {"text/html": f'<div style="{_QUIET}">{folded}</div>', "text/plain": title}


KEPT_GROUP_ROWS = 100  # of the table that is saved in the notebook

LENGTH = 200  # characters of an answer in it

_QUIET_NOTE = "color: var(--jp-ui-font-color2, #757575); font-size: 0.9em"

_COLUMNS = ("status", "text", "seconds", "tokens_out")


def final_group_bundle(group: JobGroup) -> dict[str, str]:
    """The group as it ended, as a MIME bundle."""
    tally = GroupSummary(group.jobs)
    return {
        "text/html": group_html(group, tally),
        "text/plain": f"{group!r}\n{group_footer(group, tally)}",
    }


def group_html(group: JobGroup, tally: GroupSummary) -> str:
    """The counts, the failed with their reasons, the folded table, and the footer."""
    failed = tally.failures > 0
    mark, colour = ("✕", "--jp-error-color1, #d32f2f") if failed else _DONE
    counts = ", ".join(f"{count} {status}" for status, count in tally.counts.items())
    title = f'<span style="color: var({colour})">{mark}</span> <b>{html.escape(group.name)}</b>'
    parts = [f"<div>{title} {count_jobs(tally.size)}: {html.escape(counts)}</div>"]
    if failed:
        parts.append(_failed(tally, group.name))
    parts.append(_table(group))
    parts.append(f'<div style="{_QUIET_NOTE}">{html.escape(group_footer(group, tally))}</div>')
    edge = f"border-left: 4px solid var({colour}); padding: 2px 0 2px 12px"
    return f'<div style="{edge}">{"".join(parts)}</div>'


_DONE = ("✓", "--jp-success-color1, #388e3c")


def _failed(tally: GroupSummary, name: str) -> str:
    items = "".join(
        f"<li>{len(reason.jobs)} {html.escape(reason.status)}: {html.escape(reason.text)} "
        f'<span style="{_QUIET_NOTE}">({html.escape(reason.names)})</span></li>'
        for reason in tally.reasons()
    )
    title = html.escape(f"{tally.failures} without an answer; {_remedies(tally, name)}.")
    return f'<div>{title}</div><ul style="margin: 0; overflow-wrap: anywhere">{items}</ul>'


def _remedies(tally: GroupSummary, name: str) -> str:
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
    jobs = group.jobs[:KEPT_GROUP_ROWS]
    rows = [{"": job.name or ""} | job_row(job) for job in jobs]
    heads = _heads(rows)
    head = "".join(f"<th>{html.escape(_title(name))}</th>" for name in heads)
    body = "".join("<tr>" + "".join(_td(told, name) for name in heads) + "</tr>" for told in rows)
    some = (
        f"The first {KEPT_GROUP_ROWS} of {len(group.jobs)} jobs"
        if len(group.jobs) > KEPT_GROUP_ROWS
        else ""
    )
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
    return one_line(text, LENGTH)


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def group_footer(group: JobGroup, tally: GroupSummary) -> str:
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
        exact_duration(ended - begun),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(ended)),
    ]
    return " · ".join(word for word in words if word)


def group_note_beside(group: JobGroup) -> dict[str, str]:
    """The line that stands beside a live board, as a bundle."""
    begun = min(job.record.submitted_at for job in group.jobs)
    sent = time.strftime("%Y-%m-%d %H:%M", time.localtime(begun))
    position = group.jobs[0].record.position
    name = position.name if position is not None else None
    jobs = count_jobs(len(group.jobs))
    text = f"{group.name}: {jobs}, begun {sent}. Later {reattach_hint(name, 'them')}"
    # By this mark a page that was reloaded finds the line again.
    marked = f'<div data-bgmagic="{group.key}" style="{_QUIET_NOTE}">{html.escape(text)}</div>'
    return {"text/html": marked, "text/plain": text}
