"""What stays in the notebook of a job that has ended: plain HTML that needs no kernel.

It must still read well with every style stripped, as code-hosting sites do. What the model wrote
goes through render.py, all other text is escaped here. When it is shown is shown.py's business.
"""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from typing import Any

from bgmagic.answer import as_markdown, sources_html
from bgmagic.citations import read_citations
from bgmagic.display.card import line, model_of, sentence
from bgmagic.errors import InvalidAnswer, JobError, NoAnswer, readable
from bgmagic.job import Job
from bgmagic.listing import Row, as_html, summary
from bgmagic.rendering.markdown import to_html
from bgmagic.status import Status

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
    "content_filter": "The server's content filter stopped it: change the prompt.",
    Status.FAILED: "Run the cell again to send it anew.",
    Status.INCOMPLETE: "Run the cell again for a whole answer.",
    Status.CANCELLED: "Run the cell again to send it anew.",
    Status.LOST: "Run the cell again to send it anew; it is paid for again.",
}


def bundles(job: Job) -> dict[str, dict[str, str]]:
    """The ended ``job`` as MIME bundles: the ``answer``, and the ``footer`` below it."""
    text = "\n".join(part for part in (line(job), job.text) if part)
    return {
        "answer": {"text/html": answer_html(job), "text/plain": text},
        "footer": {"text/html": footer_html(job), "text/plain": footer(job)},
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
        text = as_markdown(job.text, structured=job.request.format is not None)
        below = sources_html(read_citations(job.response or {}))
        parts.append(f"<div>{to_html(text)}{below}</div>")
    edge = f"border-left: 4px solid var({colour}); padding: 2px 0 2px 12px"
    return f'<div style="{edge}">{"".join(parts)}</div>'


def _reason(job: Job, error: JobError) -> str:
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
        _field(response.get("error"), "code"),
        _field(response.get("incomplete_details"), "reason"),
    )
    found = next((_REMEDIES[code] for code in codes if code in _REMEDIES), None)
    if found is None and isinstance(job.error, NoAnswer):
        return "Ask differently, and run the cell again."
    return found or _REMEDIES.get(job.status, "")


def footer_html(job: Job) -> str:
    """The footer as HTML."""
    return f'<div style="{_QUIET}">{html.escape(footer(job))}</div>'


def footer(job: Job) -> str:
    """Model returned, effort, tokens, duration, id and date, in one line."""
    record = job.record
    effort = record.request.effort
    ended = record.ended_at or time.time()
    words = [
        model_of(job),
        f"effort {effort}" if effort else "",
        tokens(job.usage or {}),
        duration(ended - record.submitted_at),
        readable(record.response_id or "not sent"),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(ended)),
    ]
    return " · ".join(word for word in words if word)


def tokens(usage: dict[str, Any]) -> str:
    """The tokens of ``usage`` in words, reasoning apart; "" where the server counted none."""
    inside, outside = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    details = usage.get("output_tokens_details")
    reasoning = _count(details, "reasoning_tokens") if isinstance(details, dict) else None
    if inside is None and outside is None:
        return ""
    words = [f"{inside:,} tokens in" if inside is not None else ""]
    words.append(f"{outside:,} out" if outside is not None else "")
    said = ", ".join(word for word in words if word)
    return f"{said} ({reasoning:,} of them reasoning)" if reasoning else said


def duration(seconds: float) -> str:
    """Seconds as people say them, to the second."""
    s = max(0, round(seconds))
    if s < 60:
        return f"{s} s"
    minutes, hours = s // 60 % 60, s // 3600
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {s % 60} s"


def later(name: str | None, it: str) -> str:
    """How to come back to what a variable holds; a later kernel knows only chosen names."""
    shows, follows = ("%bgjobs", "--all") if name is None else (f"%bgjobs {name}", name)
    return f"{shows} shows {it}, and %bgattach {follows} follows {it} in another kernel."


def muted_line(job: Job) -> dict[str, str]:
    """The line that stands beside a live card, as a MIME bundle."""
    record = job.record
    effort = f", effort {record.request.effort}" if record.request.effort else ""
    sent = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.submitted_at))
    asked = f"sent {sent} to {record.request.model}{effort}"
    if not record.request.model:  # picked up by its id: what was asked is not known here
        asked = f"{record.response_id}, followed since {sent}"
    which = (record.name if record.named else None) or record.response_id
    text = f"{record.name or 'job'}: {asked}. Later {later(which, 'it')}"
    # By this mark a page that was reloaded finds the line again.
    marked = f'<div data-bgmagic="{record.key}" style="{_QUIET}">{html.escape(text)}</div>'
    return {"text/html": marked, "text/plain": text}


def as_it_is(listed: Sequence[Row]) -> dict[str, str]:
    """What stands beside a live board: the newest rows as they are now, folded, as a bundle."""
    newest = listed[-KEPT_ROWS:]
    when = time.strftime("%Y-%m-%d %H:%M")
    title = html.escape(f"{when}, {summary(listed)}")
    some = f", the newest {KEPT_ROWS} below" if len(listed) > KEPT_ROWS else ""
    folded = f"<details><summary>{title}{some}</summary>{as_html(newest)}</details>"
    return {"text/html": f'<div style="{_QUIET}">{folded}</div>', "text/plain": title}


def _field(value: object, key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def _count(usage: dict[str, Any], key: str) -> int | None:
    found = usage.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) else None
