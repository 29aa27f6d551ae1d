"""Writes jobs as tables and as lines of JSON, and sums groups up. No key gets into any of it."""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgmagic.api.pricing import Terms, price_of
from bgmagic.api.redaction import without_secrets
from bgmagic.api.response import Usage, decompressed, read_output
from bgmagic.errors import AnswerGone, BadInput
from bgmagic.jobs.job import Job, ahead
from bgmagic.jobs.record import Status, hashable
from bgmagic.text import and_more, is_file_name, one_line
from bgmagic.values import dataclass

if TYPE_CHECKING:
    import pandas

FORMAT = 1  # of an exported line; another number means other fields


# Tables.


def to_frame(jobs: Sequence[Job], items: Sequence[Any] | None = None) -> pandas.DataFrame:
    """A pandas DataFrame with one row a job, in order.

    Args:
        items: each job's item as it was given; None means what the journal kept of them.

    Raises:
        BadInput: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise BadInput("to_frame() makes a pandas DataFrame: pip install pandas") from None
    rows = [
        job_row(job, _MISSING if items is None else items[index])
        for index, job in enumerate(ahead(jobs))
    ]
    # Rows may differ in their columns; what was asked comes before how it went.
    columns = dict.fromkeys(name for row in rows for name in row)
    made = pandas.DataFrame(rows, columns=sorted(columns, key=_order))
    whole = [name for name in made.columns if name.startswith("tokens_") or name == "sample"]
    # Whole numbers, also where some are not known.
    return made.astype(dict.fromkeys(whole, "Int64") | {"seconds": float, "price": float})


def frame_of(caller: str, rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """A pandas DataFrame of rows that all have the same columns.

    Raises:
        BadInput: pandas is not installed; the line begins with ``caller``.
    """
    try:
        import pandas
    except ImportError:
        raise BadInput(f"{caller} makes a pandas DataFrame: pip install pandas") from None
    made = pandas.DataFrame(rows)
    whole = [name for name in made.columns if name.startswith("tokens_")]
    dollars = [name for name in ("price", "saved", "ended_at") if name in made.columns]
    return made.astype(dict.fromkeys(whole, "Int64") | dict.fromkeys(dollars, float))


def _order(column: str) -> int:
    return 0 if column.startswith("item.") else 2 if column == "error" else 1


_MISSING: Any = object()


def job_row(job: Job, item: Any = _MISSING) -> dict[str, Any]:
    """Make a job's row: its item, its swept settings, how it went and its answer."""
    position, response = job.record.position, job.record.paid_response or {}
    row: dict[str, Any] = {}
    if position is not None:
        row |= _item(position.item if item is _MISSING else item, position.kind, position.key)
        row |= dict(position.settings)
        if position.samples > 1:
            row["sample"] = position.sample
    return row | {
        "status": job.status,
        "seconds": seconds_of(job),
        **_tokens(response),
        "price": price_of(response, job.record.server, Terms.of(job.request)),
        **_given(job),
    }


def _given(job: Job) -> dict[str, Any]:
    """The text and, if there are any, the data of the answer; or why there is none."""
    answered = job.done() and job.error is None
    try:
        text, data = job.text, job.result(0).data if answered else None
    except AnswerGone as gone:
        return {"text": None, "error": str(gone)}
    fields = {"text": text if answered or text else None} | ({} if data is None else {"data": data})
    return fields | {"error": str(job.error) if job.error else None}


def _tokens(response: Mapping[str, Any]) -> dict[str, int | None]:
    usage = Usage.of(response)
    return {
        "tokens_in": usage.input,
        "tokens_out": usage.output,
        "tokens_reasoning": usage.reasoning,
    }


def seconds_of(job: Job) -> float | None:
    """Seconds from acceptance to the end; None if one of them is not known."""
    accepted, ended = job.record.accepted_at, job.record.ended_at
    # The clock may have been set back meanwhile.
    return None if accepted is None or ended is None else max(0.0, ended - accepted)


def _item(item: Any, kind: str, key: Any) -> dict[str, Any]:
    if kind == "rows" and isinstance(item, dict):
        # A table's own columns, set apart from ours. A column may be called "get".
        return {f"item.{name}": dict.get(item, name) for name in item}
    keyed = {"key": hashable(key)} if kind == "dict" else {}
    return keyed | ({"item": item} if kind else {})


# Lines of JSON.


def export_line(job: Job, secrets: Collection[str] = ()) -> dict[str, Any]:
    """Make a job's line of an export, as JSON.

    Args:
        secrets: values that are removed, wherever they stand.
    """
    record, gone, response = job.record, "", None
    try:
        response = decompressed(record.response)
    except AnswerGone as error:
        gone = str(error)
    body, _ = without_secrets(record.request.body, secrets)
    position = record.position
    line = {
        "bgmagic": FORMAT,
        "key": record.key,
        "name": record.name,
        "notebook": record.notebook,
        "server": record.server,
        "status": job.status,
        "prompt": prompt_of(body),
        "text": read_output(response or {}).text,
        "error": str(job.error) if job.error else gone or None,
        "response_id": record.response_id,
        "batch_id": record.batch_id,
        "model": (record.response or {}).get("model") or record.request.model,
        "submitted_at": _time(record.submitted_at),
        "accepted_at": _time(record.accepted_at),
        "started_at": _time(record.started_at),
        "ended_at": _time(record.ended_at),
        "seconds": seconds_of(job),
        **_tokens(record.paid_response or {}),
        "price": price_of(record.paid_response, record.server, Terms.of(record.request)),
        "group": None
        if position is None
        else {"group": position.group, "index": position.index} | position.details,
        "body": body,
        "response": response,
    }
    return _clean(line, secrets)


def _clean(line: dict[str, Any], secrets: Collection[str]) -> dict[str, Any]:
    """Remove the secrets from a line: a server may have quoted one."""
    found, _ = without_secrets({"input": line}, secrets)
    cleaned: dict[str, Any] = found["input"]
    return cleaned


def prompt_of(body: Mapping[str, Any], *, others: bool = False) -> str:
    """The text of the last user turn of a request, or "".

    Args:
        others: tell of its other parts as well, by their types: "[input_image]".
    """
    given = body.get("input")
    if isinstance(given, str):
        return given
    turns = [turn for turn in given if isinstance(turn, dict)] if isinstance(given, list) else []
    asked = next((turn for turn in reversed(turns) if turn.get("role") == "user"), {})
    content = asked.get("content")
    if isinstance(content, str):
        return content
    parts = [part for part in content if isinstance(part, dict)] if content else []
    texts = (part.get("text", f"[{part.get('type')}]" if others else None) for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str))


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]], *, overwrite: bool = False) -> int:
    """Write lines of JSON to ``path``, all of them or, if that fails, none; returns how many.

    An earlier export is replaced. Any other file is left alone, unless ``overwrite``.

    Raises:
        BadInput: there is another file, or the place can't be written to.
    """
    if not is_file_name(path):
        raise BadInput(f"no file can be called {str(path)!r}")
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"{path} is no file, so it can't be replaced by one")
        if not overwrite and not _is_ours(path):
            raise BadInput(f"{path} is no export of bgmagic; overwrite=True replaces it anyway")
        return _replace(path, lines)
    except OSError as error:
        raise BadInput(f"{path} can't be written: {error.strerror or error}") from None


def _is_ours(path: Path) -> bool:
    if not path.exists():
        return True
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.read(20)
    return not first or first.startswith('{"bgmagic": ')


def _replace(path: Path, lines: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    # Beside it, so that one rename puts it in place.
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            for line in lines:
                file.write(_written(line) + "\n")
                count += 1
        Path(beside).chmod(0o666 & ~_umask())
        Path(beside).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(beside).unlink()
        raise
    return count


def _written(line: Mapping[str, Any]) -> str:
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which a server may well have sent
        text = json.dumps(line)
    return text


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


SLOWEST = 5  # jobs that are shown as the slowest

REASONS = 20  # different reasons that are shown

NAMED = 6  # jobs that are named with a reason

PACE = 60.0  # seconds: the throughput is that of the newest so many

LENGTH = 160  # characters of a reason


@dataclass(frozen=True)
class JobFigures:
    """The figures of one job.

    Attributes:
        status: its status.
        ended_at: when it ended, seconds since the epoch, or None.
        tokens_in, tokens_out, tokens_reasoning: as the server counted them, or None.
        price: US dollars, or None where that is not known.
        reason: why it has no answer, or "".
    """

    status: str
    ended_at: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_reasoning: int | None = None
    price: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class FailureReason:
    """A reason why jobs have no answer.

    Attributes:
        status: what they ended as.
        text: the reason, in one line.
        jobs: those that ended so for this reason, in order.
    """

    status: str
    text: str
    jobs: Sequence[Job]

    @property
    def names(self) -> str:
        """The names of the first of these jobs."""
        first = [one_line(job.name or "", 80) for job in self.jobs[:NAMED]]
        return and_more(first, len(self.jobs))


def batch_progress(jobs: Iterable[Job]) -> str:
    """How far the batches of these jobs are at the server, as it counts, or ""."""
    counts = [job.outline.batch_counts for job in jobs if not job.done()]
    known = [one for one in counts if one is not None]
    if not known:
        return ""
    from bgmagic.api.batch import progress_text  # most groups are no batches

    return progress_text(known)


class GroupSummary:
    """Keeps the sums of a group's jobs up to date."""

    def __init__(self, jobs: Sequence[Job | None]) -> None:
        self.size = len(jobs)
        # Of those that have a handle; the others wait, and have no figures.
        self._made = {index: job for index, job in enumerate(jobs) if job is not None}
        self._figures = {index: figures_of(job) for index, job in self._made.items()}
        # Jobs that tell how far their batches are: few, of thousands.
        self._telling = {
            index: job for index, job in self._made.items() if job.outline.batch_counts is not None
        }

    def take(self, index: int, job: Job) -> None:
        """Count the job at ``index`` as it is now."""
        self._made[index] = job
        self._figures[index] = figures_of(job)
        if job.outline.batch_counts is not None:
            self._telling[index] = job

    @property
    def _jobs(self) -> Collection[Job]:
        return self._made.values()

    @property
    def _sums(self) -> Collection[JobFigures]:
        return self._figures.values()

    @property
    def counts(self) -> dict[str, int]:
        """Number of jobs by status."""
        counts = Counter(one.status for one in self._sums)
        if len(self._made) < self.size:
            counts[str(Status.WAITING)] += self.size - len(self._made)
        return dict(counts)

    @property
    def ended(self) -> int:
        """Number of jobs that have ended, or are no longer watched."""
        return sum(job.done() for job in self._jobs)

    def total(self, name: str) -> int | None:
        """The sum of ``tokens_in`` or another count; None if nobody counted."""
        known = [value for one in self._sums if (value := getattr(one, name)) is not None]
        return sum(known) if known else None

    @property
    def price(self) -> tuple[float | None, int]:
        """The price of the jobs so far (US dollars), and how many jobs have tokens and no known
        price."""
        known = [one.price for one in self._sums if one.price is not None]
        counted = sum(one.tokens_out is not None for one in self._sums)
        return (sum(known) if known else None), counted - len(known)

    @property
    def batch_progress(self) -> str:
        """How far its batches are at the server, as that counts, or ""."""
        return batch_progress(self._telling.values())

    def pace(self, now: float | None = None) -> float | None:
        """Jobs that ended a minute, over the newest `PACE` seconds; None before the first."""
        now = time.time() if now is None else now
        ended = (one.ended_at for one in self._sums)
        recent = [at for at in ended if at is not None and at > now - PACE]
        begun = min((job.outline.submitted_at for job in self._jobs), default=now)
        span = min(PACE, now - begun)
        return len(recent) / span * 60 if recent and span > 0 else None

    def slowest(self) -> list[Job]:
        """Those of the jobs at the server that have taken longest, the slowest first; when all have
        ended, those that took longest."""
        running = [job for job in self._jobs if job.running()]
        chosen = running or [job for job in self._jobs if job.outline.accepted_at is not None]
        return heapq.nlargest(SLOWEST, chosen, key=server_seconds)

    @property
    def failures(self) -> int:
        """Number of jobs that ended without an answer."""
        return sum(bool(one.reason) for one in self._sums)

    def reasons(self) -> list[FailureReason]:
        """The reasons why jobs have no answer, the most frequent first."""
        found: dict[tuple[str, str], list[Job]] = {}
        for index, one in sorted(self._figures.items()):
            if one.reason:
                found.setdefault((one.status, one.reason), []).append(self._made[index])
        failures = [FailureReason(*which, jobs) for which, jobs in found.items()]
        return sorted(failures, key=lambda reason: -len(reason.jobs))[:REASONS]


def server_seconds(job: Job) -> float:
    """Seconds since the server accepted the job, or that it took from then on."""
    record = job.outline
    begun = record.accepted_at or record.submitted_at
    return max(0.0, (record.ended_at or time.time()) - begun)  # the clock may be set back


_OPEN: dict[str, JobFigures] = {}  # of thousands that have not ended one object a status


def figures_of(job: Job) -> JobFigures:
    """Read the figures of ``job`` as it is now."""
    status = one_line(job.status, 40)
    if not job.done():
        return _OPEN.setdefault(status, JobFigures(status))
    record = job.record
    response = record.paid_response or {}
    reason = one_line(str(job.error), LENGTH) if job.error is not None else ""
    usage = Usage.of(response)
    price = price_of(response, record.server, Terms.of(record.request))
    counts = usage.input, usage.output, usage.reasoning
    return JobFigures(status, record.ended_at, *counts, price, reason)
