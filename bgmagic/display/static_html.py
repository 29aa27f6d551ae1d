"""The HTML that stays when a job or a group has ended; it needs no kernel."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bgmagic.api.response import Usage, read_citations, sources, sources_text, word_in
from bgmagic.display.frontend import Formulas
from bgmagic.display.listing import (
    KEPT_CALL,
    TableRow,
    describe_live,
    model_of,
    sentence,
    summary,
    table_html,
    table_text,
)
from bgmagic.errors import AnswerGone, BgmagicError
from bgmagic.jobs.artifacts import made_html
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.outcome import InvalidAnswer, NoAnswer
from bgmagic.jobs.record import Status
from bgmagic.jobs.steps import CallStatus, Step
from bgmagic.rendering.escaping import inline_text
from bgmagic.text import (
    count_each,
    count_jobs,
    dollars,
    duration,
    one_line,
    without_controls,
)

if TYPE_CHECKING:
    from bgmagic.jobs.export import GroupSummary
    from bgmagic.jobs.group import JobGroup

_GREY = "--jp-ui-font-color2, var(--vscode-descriptionForeground, #757575)"
_RED = "--jp-error-color1, #d32f2f"
# The sign before a status, and its colour: a variable of Jupyter's and what stands in for it.
_MARKS = {
    Status.COMPLETED: ("✓", "--jp-success-color1, #388e3c"),
    Status.FAILED: ("✕", _RED),
    Status.LOST: ("✕", _RED),
    Status.INCOMPLETE: ("◐", "--jp-warn-color1, #f57c00"),
    Status.CANCELLED: ("⊘", _GREY),
}
_NO_MARK = "", _GREY

KEPT_ROWS = 100  # of a table that is saved in the notebook
KEPT_CHARACTERS = 200  # of an answer in the table of a group

_QUIET = f"color: var({_GREY}); font-size: 0.9em; overflow-wrap: anywhere"
_BESIDE = f"{_QUIET}; padding-left: 16px"  # under what stands in a frame

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


# A MIME bundle; and the two that stay of a job or a group: the ``answer``, the ``footer`` below it.
Bundle = dict[str, str]
FinalBundles = dict[str, Bundle]


def final_bundles(job: Job, formulas: Formulas = "mathjax") -> FinalBundles:
    """The ended ``job`` as MIME bundles: the ``answer``, and the ``footer`` below it.

    Args:
        formulas: as the frontend shows them.
    """
    written = _written(job)
    text = "\n".join(part for part in (describe_live(job), written) if part)
    return {
        "answer": {"text/html": job_html(job, formulas), "text/plain": text},
        "footer": _line(footer_text(job), _BESIDE),
    }


def _written(job: Job) -> str:
    """The text of ``job`` with what it cites, or why that can't be read."""
    try:
        answered = job.done() and job.error is None
        response = job.record.response or {}
        cited = job.result(0).citations if answered else read_citations(response)
        return without_controls(job.text) + sources_text(cited)
    except AnswerGone as gone:
        return str(gone)


def _line(text: str, style: str) -> Bundle:
    """A line of plain text as a bundle."""
    return {"text/html": f'<div style="{style}">{html.escape(text)}</div>', "text/plain": text}


def _beside(shown: str, text: str, key: str) -> Bundle:
    """What stands beside a live display, as HTML and as text; by ``key`` a page that was reloaded
    finds it again, and JupyterLab's extension, which hides the display where it is missing."""
    return {
        "text/html": f'<div data-bgmagic="{key}" style="{_BESIDE}">{shown}</div>',
        "text/plain": text,
    }


def job_html(job: Job, formulas: Formulas = "mathjax") -> str:
    """Status, the answer or the partial text, and for a failure its reason and what to do."""
    error = job.error
    mark = _MARKS.get(Status(job.status), _NO_MARK)
    if isinstance(error, NoAnswer):
        mark = _MARKS[Status.INCOMPLETE]  # completed, but not what was asked for
    parts = [] if error is None else [_reason(job, error)]
    shown = text_html(job, formulas)
    if shown:
        parts.append(f"<div>{shown}</div>")
    if job.steps:
        parts.append(_steps(job.steps))
    return _framed(mark, job.name or "", job.status, *parts)


def _steps(steps: Sequence[Step]) -> str:
    """The calls of the notebook's functions, folded; all of it is text."""
    items = "".join(
        f"<li><code>{html.escape(one_line(f'{step.name}({step.arguments})', KEPT_CALL))}</code> "
        f"{html.escape(f'{step.status}: ' if step.status != CallStatus.DONE else '→ ')}"
        f"{inline_text(one_line(step.output or '', KEPT_CALL))}</li>"
        for step in steps[:KEPT_ROWS]
    )
    count = "1 call" if len(steps) == 1 else f"{len(steps)} calls"
    title = f"{count} of functions of the notebook"
    if len(steps) > KEPT_ROWS:
        title += f", the first {KEPT_ROWS}"
    listed = f'<ol style="margin: 0">{items}</ol>'
    return f'<details style="{_QUIET}"><summary>{title}</summary>{listed}</details>'


def _framed(mark: tuple[str, str], name: str, about: str, *parts: str) -> str:
    """A frame with an edge in the mark's colour: a title in plain text, then HTML."""
    sign, colour = mark
    title = f'<span style="color: var({colour})">{sign}</span> <b>{html.escape(name)}</b>'
    edge = f"border-left: 4px solid var({colour}); padding: 2px 0 2px 12px"
    inside = f"<div>{title} {html.escape(about)}</div>{''.join(parts)}"
    return f'<div style="{edge}">{inside}</div>'


def text_html(job: Job, formulas: Formulas = "mathjax") -> str:
    """The text of ``job`` so far with its commentary and sources, or ""; see `to_html`."""
    # An answer has been read already; its response would have to be unpacked.
    answered = job.done() and job.error is None
    try:
        return _text_html(job, job.result(0) if answered else None, formulas)
    except AnswerGone as gone:
        return f"<p>{inline_text(str(gone))}</p>"


def _text_html(job: Job, answer: Answer | None, formulas: Formulas) -> str:
    response = job.record.response or {}
    cited = read_citations(response) if answer is None else answer.citations
    made = made_html(response) if answer is None else answer.made_html()
    from bgmagic.rendering.markdown import answer_html  # the first answer that is shown

    shown = answer_html(
        job.text,
        structured=job.request.text_format is not None,
        commentary=job.commentary,
        summary=job.summary,
        links=sources(cited),
        formulas=formulas,
    )
    return shown + made


def _reason(job: Job, error: BgmagicError) -> str:
    partial = "What was written until then:" if job.text.strip() else ""
    if isinstance(error, InvalidAnswer):
        partial = "What was written:"
    words = [inline_text(sentence(str(error)) + "."), html.escape(remedy(job)), partial]
    if isinstance(error, NoAnswer) and not partial:
        words = words[:2]
    shown = " ".join(word for word in words if word).replace("..", ".")
    return f'<p style="margin: 0; overflow-wrap: anywhere">{shown}</p>'


def remedy(job: Job) -> str:
    """What the user can do about an end without an answer, in one sentence, or ""."""
    response = job.record.response or {}
    codes = (
        word_in(response, "error", "code"),
        word_in(response, "incomplete_details", "reason"),
    )
    found = next((_REMEDIES[code] for code in codes if code in _REMEDIES), None)
    if found is None and isinstance(job.error, NoAnswer):
        return "Ask differently, and run the cell again."
    return found or _REMEDIES.get(job.status, "")


def footer_text(job: Job) -> str:
    """Model returned, effort, tokens, duration, id and date, in one line."""
    record = job.record
    effort = record.request.effort
    usage = Usage.of(record.paid_response or {})
    ended = record.ended_at or time.time()
    return _footer(
        model_of(job),
        f"effort {effort}" if effort else "",
        token_words(usage.input, usage.output, usage.reasoning),
        duration(ended - record.submitted_at, exact=True),
        one_line(record.response_id or record.batch_id or "not sent"),
        _date(ended),
        record.note_text,
    )


def _footer(*words: str) -> str:
    return " · ".join(word for word in words if word)


def _date(when: float) -> str:
    """Seconds since the epoch as a date and a time, of this machine's zone, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


def token_words(inside: int | None, outside: int | None, reasoning: int | None) -> str:
    """Tokens in words, reasoning apart; "" where the server counted none.

    Args:
        inside: of the prompt; None is not known, here and below.
        outside: of the output, those of reasoning included.
        reasoning: of that, those of reasoning.
    """
    of_these = f" ({reasoning:,} of them reasoning)" if reasoning and outside is not None else ""
    words = [
        f"{inside:,} tokens in" if inside is not None else "",
        f"{outside:,} out{of_these}" if outside is not None else "",
    ]
    return ", ".join(word for word in words if word)


def reattach_hint(name: str | None, it: str) -> str:
    """How to come back to what a variable holds; a later kernel knows only chosen names."""
    shows, follows = ("%bgjobs", "--all") if name is None else (f"%bgjobs {name}", name)
    return f"{shows} shows {it}, and %bgattach {follows} follows {it} in another kernel."


def note_beside(job: Job) -> Bundle:
    """The line that stands beside a live card, as a MIME bundle."""
    record = job.record
    effort = f", effort {record.request.effort}" if record.request.effort else ""
    sent = _date(record.submitted_at)
    asked = f"sent {sent} to {record.request.model}{effort}"
    if not record.request.model:  # picked up by its id: what was asked is not known here
        asked = f"{record.response_id}, followed since {sent}"
    which = (record.name if record.named else None) or record.response_id
    text = f"{record.name or 'job'}: {asked}. Later {reattach_hint(which, 'it')}"
    return _beside(html.escape(text), text, record.key)


def dated_summary(listed: Sequence[TableRow]) -> str:
    """When it is now, and how many jobs are of each status."""
    return f"As of {_date(time.time())}: {summary(listed)}"


def snapshot_table(listed: Sequence[TableRow], *, unfolded: bool = False) -> Bundle:
    """What stands beside a live board: the newest rows as they are now, in a fold, as a bundle."""
    # What was found has the newest first.
    newest = listed[:KEPT_ROWS] if listed[0].match else listed[-KEPT_ROWS:]
    title = dated_summary(listed)
    some = f", the newest {KEPT_ROWS} below" if len(listed) > KEPT_ROWS else ""
    told = f"<summary>{html.escape(title)}{some}</summary>"
    fold = "<details open>" if unfolded else "<details>"
    text = f"{title}\n{table_text(newest)}"
    return _beside(f"{fold}{told}{table_html(newest)}</details>", text, "table")


_COLUMNS = ("status", "text", "seconds", "tokens_out")


def final_group_bundles(group: JobGroup) -> FinalBundles:
    """The ended ``group`` as MIME bundles: all of it is the ``answer``, the ``footer`` is empty."""
    return {"answer": final_group_bundle(group), "footer": {"text/html": "", "text/plain": ""}}


def final_group_bundle(group: JobGroup) -> Bundle:
    """The group as it ended, as a MIME bundle."""
    from bgmagic.jobs.export import GroupSummary  # a job by itself needs none

    tally = GroupSummary(group.places)
    return {
        "text/html": group_html(group, tally),
        "text/plain": f"{group!r}\n{group_footer(group, tally)}",
    }


def group_html(group: JobGroup, tally: GroupSummary) -> str:
    """The counts, the failed with their reasons, the folded table, and the footer."""
    failed = tally.failures > 0
    mark = _MARKS[Status.FAILED if failed else Status.COMPLETED]
    counts = count_each(tally.counts)
    parts = [_failed(tally, group.name)] if failed else []
    parts += [_table(group), _line(group_footer(group, tally), _QUIET)["text/html"]]
    return _framed(mark, group.name, f"{count_jobs(tally.size)}: {counts}", *parts)


def _failed(tally: GroupSummary, name: str) -> str:
    items = "".join(
        f"<li>{len(reason.jobs)} {html.escape(reason.status)}: {inline_text(reason.text)} "
        f'<span style="{_QUIET}">({html.escape(reason.names)})</span></li>'
        for reason in tally.reasons()
    )
    title = html.escape(f"{tally.failures} without an answer; {_remedies(tally, name)}.")
    return f'<div>{title}</div><ul style="margin: 0; overflow-wrap: anywhere">{items}</ul>'


def _remedies(tally: GroupSummary, name: str) -> str:
    unknown, detached = (
        tally.counts.get(status, 0) for status in (Status.UNKNOWN, Status.DETACHED)
    )
    ways = []
    if tally.failures > unknown + detached:
        ways.append(f"{name}.retry_failed() sends them again")
    if unknown:
        ways.append(
            f"{name}.retry_failed(unknown=True) those too that may have been accepted, at the risk "
            "of paying twice"
        )
    if detached:
        ways.append(f"%bgattach {name} follows those that are detached")
    return ", ".join(ways)


def _table(group: JobGroup) -> str:
    from bgmagic.jobs import export

    jobs = group.jobs[:KEPT_ROWS]
    rows = [{"": job.name or ""} | export.job_row(job) for job in jobs]
    heads = _heads(rows)
    head = "".join(f"<th>{html.escape(_title(name))}</th>" for name in heads)
    body = "".join("<tr>" + "".join(_td(row, name) for name in heads) + "</tr>" for row in rows)
    some = f"The first {KEPT_ROWS} of {len(group.jobs)} jobs" if len(group.jobs) > KEPT_ROWS else ""
    title = some or f"All {len(group.jobs)} jobs"
    return (
        f'<details><summary>{title}</summary><div style="overflow-x: auto"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _heads(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The name, what was asked, and how it went."""
    asked = dict.fromkeys(name for row in rows for name in row)
    after = ("tokens_in", "tokens_reasoning", "price", "error")
    return [name for name in asked if name not in (*_COLUMNS, *after)] + list(_COLUMNS)


def _td(row: Mapping[str, Any], name: str) -> str:
    style = {"text": ' style="text-align: left; min-width: 30em"'}.get(name, "")
    if name not in (*_COLUMNS, ""):
        style = ' style="text-align: left"'
    return f"<td{style}>{inline_text(_cell(row, name))}</td>"


def _title(name: str) -> str:
    return {"tokens_out": "tokens out", "text": "answer"}.get(name, name)


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if name == "text" and row.get("error"):
        value = row["error"]
    if value is None:
        return ""
    if name == "seconds":
        return f"{value:.1f}"
    text = value if isinstance(value, str) else _as_json(value)
    return one_line(text, KEPT_CHARACTERS)


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
    price, unpriced = tally.price
    not_known = f", without {unpriced} whose price is not known" if unpriced else ""
    return _footer(
        token_words(*map(tally.total, ("tokens_in", "tokens_out", "tokens_reasoning"))),
        f"{dollars(price)}{not_known}" if price is not None else "",
        duration(ended - begun, exact=True),
        _date(ended),
    )


def group_note_beside(group: JobGroup) -> Bundle:
    """The line that stands beside a live board, as a bundle."""
    jobs = group.made or [group.job(0)]
    begun = min(job.record.submitted_at for job in jobs)
    # Those of other sweeps, taken over by --reuse, have positions in theirs.
    positions = [job.record.position for job in jobs]
    ours = (position for position in positions if position and position.group == group.key)
    position = next(ours, group.job(0).record.position)
    name = position.name if position is not None else None
    size = count_jobs(len(group.places))
    text = f"{group.name}: {size}, begun {_date(begun)}. Later {reattach_hint(name, 'them')}"
    return _beside(html.escape(text), text, group.key)
