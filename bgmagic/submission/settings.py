"""Every option once: its flags, its type and default, what it takes and its help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bgmagic.api.words import (
    EFFORTS,
    INCLUDABLE,
    MODES,
    SUMMARIES,
    TIERS,
    TOOLS,
    VERBOSITIES,
    WINDOW_SECONDS,
    WINDOWS,
)
from bgmagic.submission.converters import (
    to_anything,
    to_calls,
    to_count,
    to_duration,
    to_identifier,
    to_included,
    to_interval,
    to_metadata,
    to_notified,
    to_pairs,
    to_path,
    to_rate,
    to_several,
    to_swept,
    to_tokens,
    to_word,
)
from bgmagic.submission.options import option
from bgmagic.values import dataclass


@dataclass(frozen=True)
class SubmitSettings:
    """How one job is sent and shown: the options of %%bgresponse."""

    out: str | None = option(
        "-o", "--out", metavar="NAME", read=to_identifier,
        help="variable for the answer; without it _bgN, N being the cell's number",
    )  # fmt: skip
    model: str = option(
        "-m", "--model", metavar="MODEL", read=to_word, default="gpt-5.2", configurable=True,
        help="any model the server knows",
    )  # fmt: skip
    effort: str | None = option(
        "-e", "--effort", choices=EFFORTS, configurable=True,
        help="how long the model thinks",
    )  # fmt: skip
    verbosity: str | None = option(
        "-v", "--verbosity", choices=VERBOSITIES, configurable=True,
        help="how long the answer is",
    )  # fmt: skip
    summary: str | None = option(
        "--summary", choices=SUMMARIES, configurable=True,
        help="have the model sum up its reasoning: folded above the answer, live with --stream",
    )  # fmt: skip
    mode: str | None = option(
        "--mode", choices=MODES, configurable=True,
        help="pro thinks longer and at a higher price, where the model can",
    )  # fmt: skip
    instructions: str | None = option(
        "-i", "--instructions", metavar="TEXT", configurable=True,
        help="system text, quoted, or $NAME",
    )  # fmt: skip
    max_output_tokens: int | None = option(
        "--max-output-tokens", metavar="N", read=to_tokens, configurable=True,
        help="end as incomplete after N tokens, reasoning included",
    )  # fmt: skip
    max_tool_calls: int | None = option(
        "--max-tool-calls", metavar="N", read=to_count, configurable=True,
        help="calls of the server's own tools in one response, at most",
    )  # fmt: skip
    window: str | None = option(
        "--window", choices=WINDOWS, configurable=True,
        help="be done within 2 or 8 hours, at a lower price; not with --stream",
    )  # fmt: skip
    tier: str | None = option(
        "--tier", choices=TIERS, configurable=True,
        help="flex is slower at a lower price, priority quicker at a higher one",
    )  # fmt: skip
    poll: float | None = option(
        "--poll", metavar="SECONDS", read=to_interval, configurable=True,
        help="seconds between polls, more than 0 and less than 90 (10, sooner at first)",
    )  # fmt: skip
    deadline: float = option(
        "--deadline", metavar="DURATION", read=to_duration, default=86400.0, configurable=True,
        help="stop watching this long after acceptance, as 45m or 12h (24h); the job goes on",
    )  # fmt: skip
    create_timeout: float = option(
        "--create-timeout", metavar="DURATION", read=to_duration, default=120.0, configurable=True,
        help="give up on sending after this long, as 30 or 5m (2m); the job is unknown then",
    )  # fmt: skip
    messages: Any = option(
        "--messages", metavar="NAME", read=to_anything, variable=True,
        help="earlier turns, a list as the API takes it; the cell is the last user turn",
    )  # fmt: skip
    continue_: Any = option(
        "-c", "--continue", metavar="NAME", read=to_anything,
        help="go on with the conversation whose last answer is in NAME; the new one goes there too",
    )  # fmt: skip
    no_previous: bool = option(
        "--no-previous", default=False, configurable=True,
        help="send all turns again; without it the server goes on from the response that it has",
    )  # fmt: skip
    file: tuple[Any, ...] = option(
        "--file", metavar="PATH", read=to_several, default=(), repeatable=True,
        help="attach an image, a PDF or another document, or $NAME for what NAME holds; repeatable",
    )  # fmt: skip
    tool: tuple[Any, ...] = option(
        "--tool", metavar="TYPE", read=to_several, default=(), repeatable=True, offered=TOOLS,
        help="a tool that the server runs, as web_search, or $NAME for its dict or for a function "
        "of yours that the model may call; repeatable",
    )  # fmt: skip
    ask: bool = option(
        "--ask", default=False, configurable=True,
        help="have each call of your functions wait for a click on Allow or Deny",
    )  # fmt: skip
    max_rounds: int = option(
        "--max-rounds", metavar="N", read=to_count, default=10, configurable=True,
        help="rounds of calls of your functions, at most (10)",
    )  # fmt: skip
    schema: Any = option(
        "--schema", metavar="NAME", read=to_anything, variable=True,
        help="a Pydantic model or a JSON schema; the answer's .data is the validated object",
    )  # fmt: skip
    include: tuple[str, ...] = option(
        "--include", metavar="NAME", read=to_included, default=(), repeatable=True,
        configurable=True, offered=INCLUDABLE,
        help="further fields of the response, as web_search_call.action.sources; repeatable",
    )  # fmt: skip
    metadata: tuple[tuple[str, str], ...] = option(
        "--metadata", metavar="KEY=VALUE", read=to_metadata, default=(), repeatable=True,
        configurable=True,
        help="text that the server keeps with the response, as run=pilot; repeatable",
    )  # fmt: skip
    cache_key: str | None = option(
        "--cache-key", metavar="TEXT", read=to_word, configurable=True,
        help="the same for requests that begin alike, so that the server finds that in its cache",
    )  # fmt: skip
    param: tuple[tuple[str, Any], ...] = option(
        "--param", metavar="KEY=VALUE", read=to_pairs, default=(), repeatable=True,
        help="any other request field, dotted, JSON or text: reasoning.summary=auto; repeatable",
    )  # fmt: skip
    stream: bool = option(
        "--stream", default=False, configurable=True,
        help="show the output as it is written; the answer is the same",
    )  # fmt: skip
    each: Any = option(
        "--each", metavar="NAME", read=to_anything, variable=True,
        help="a job for each item of a list, dict, Series or table: {{ item }}, {{ item.column }}",
    )  # fmt: skip
    n: int | None = option(
        "--n", metavar="N", read=to_count,
        help="N samples: the same request N times",
    )  # fmt: skip
    sweep: tuple[tuple[str, Any], ...] = option(
        "--sweep", metavar="KEY=A,B", read=to_swept, default=(), repeatable=True,
        help="a job for each value: effort=low,high, or a request field; repeatable, all combined",
    )  # fmt: skip
    batch: bool = option(
        "--batch", default=False,
        help="send a sweep as one batch: half the price, done within 24 hours",
    )  # fmt: skip
    max_in_flight: int = option(
        "--max-in-flight", metavar="N", read=to_count, default=64, configurable=True,
        help="jobs of a sweep at the server at once (64); the others wait",
    )  # fmt: skip
    yes: int | None = option(
        "--yes", metavar="N", read=to_count,
        help="agree to N jobs; needed above BgMagics.confirm_above (100) and confirm_above_dollars",
    )  # fmt: skip
    over_budget: bool = option(
        "--over-budget", default=False,
        help="send even though BgMagics.budget is spent",
    )  # fmt: skip
    again: bool = option(
        "--again", default=False,
        help="send even though the identical request is still running, or may be",
    )  # fmt: skip
    reuse: bool = option(
        "--reuse", default=False, configurable=True,
        help="take the answer from the journal if it has this very request, completed",
    )  # fmt: skip
    raw: bool = option(
        "--raw", default=False,
        help="leave {{ }} in the text alone",
    )  # fmt: skip
    dry_run: bool = option(
        "--dry-run", default=False,
        help="show the exact request that would be sent, and send nothing",
    )  # fmt: skip
    wait: bool = option(
        "--wait", default=False, configurable=True,
        help="block until the job is done",
    )  # fmt: skip
    notify: tuple[Any, ...] = option(
        "--notify", metavar="[TARGET]", read=to_notified, default=(), repeatable=True,
        configurable=True,
        help="tell of the end: the browser if its tab is hidden then, $NAME a function, which is "
        "given the job, or an https:// address, by a POST of JSON; repeatable",
    )  # fmt: skip
    quiet: bool = option(
        "--quiet", default=False, configurable=True,
        help="show no card",
    )  # fmt: skip


BATCH_WINDOW = 24 * 3600.0  # seconds in which a batch is done, or expires

AFTER_WINDOW = 3600.0  # seconds that a job is watched beyond the window it was to be done in


def deadline_of(*asked: SubmitSettings) -> float:
    """Seconds after acceptance until watching ends: beyond the window that is asked for, always.

    Told by the settings: reading the requests of a large sweep would take too long.
    """
    windows = [WINDOW_SECONDS.get(_window_of(settings), 0.0) for settings in asked]
    windows += [BATCH_WINDOW for settings in asked if settings.batch]
    later = [seconds + AFTER_WINDOW for seconds in windows if seconds]
    return max([*later, *(settings.deadline for settings in asked)])


def _window_of(settings: SubmitSettings) -> str:
    fields = dict(settings.param)
    whole = fields.get("background_options")
    inner = whole.get("completion_window") if isinstance(whole, dict) else None
    return str(settings.window or fields.get("background_options.completion_window") or inner)


@dataclass(frozen=True)
class WaitSettings:
    """The options of %bgwait."""

    names: tuple[str, ...] = option(
        metavar="NAME", read=to_anything, default=(), repeatable=True,
        help="variables that hold jobs; without any, all jobs that are not done",
    )  # fmt: skip
    timeout: float | None = option(
        "--timeout", metavar="DURATION", read=to_duration,
        help="wait no longer than this, as 30 (seconds) or 5m",
    )  # fmt: skip


@dataclass(frozen=True)
class CancelSettings:
    """The options of %bgcancel."""

    names: tuple[str, ...] = option(
        metavar="NAME|ID", read=to_anything, default=(), repeatable=True,
        help="variables that hold jobs, or response ids",
    )  # fmt: skip
    all: bool = option("--all", default=False, help="every job that is not done")


@dataclass(frozen=True)
class ListSettings:
    """The options of %bgjobs."""

    names: tuple[str, ...] = option(
        metavar="NAME", read=to_anything, default=(), repeatable=True,
        help="show these jobs with what they gave; without any, list all of this notebook",
    )  # fmt: skip
    all: bool = option("--all", default=False, help="list the jobs of all notebooks")
    search: str | None = option(
        "--search", metavar="TEXT",
        help="find the jobs of all notebooks with these words in prompt or answer, newest first",
    )  # fmt: skip
    forget: bool = option(
        "--forget", default=False,
        help="remove the jobs that have ended from the journal, these or all of this notebook",
    )  # fmt: skip


@dataclass(frozen=True)
class CodeSettings:
    """The options of %bgcode."""

    words: tuple[str, ...] = option(
        metavar="NAME [N]", read=to_anything, default=(), repeatable=True,
        help="a variable with an answer, and which of its blocks of code, from 1",
    )  # fmt: skip


@dataclass(frozen=True)
class AttachSettings:
    """The options of %bgattach."""

    names: tuple[str, ...] = option(
        metavar="ID|NAME", read=to_anything, default=(), repeatable=True,
        help="a response or batch id from anywhere, or the variable of jobs in the journal",
    )  # fmt: skip
    all: bool = option(
        "--all", default=False,
        help="every open job of this notebook whose variable is free",
    )  # fmt: skip
    out: str | None = option(
        "-o", "--out", metavar="NAME", read=to_identifier,
        help="another variable for the answer",
    )  # fmt: skip


@dataclass(frozen=True)
class CostSettings:
    """The options of %bgcost."""

    period: tuple[str, ...] = option(
        metavar="today|7d|all", read=to_anything, default=(), repeatable=True,
        offered=("today", "7d", "all"),
        help="what ended since midnight (today), in the last 7 days, or ever",
    )  # fmt: skip


@dataclass(frozen=True)
class LocalSettings:
    """The options of %bglocal."""

    action: tuple[str, ...] = option(
        metavar="on|off|status|URL", read=to_anything, default=(), repeatable=True,
        offered=("on", "off", "status"),
        help="start or join the embedded model, go back to your own server, tell, or use a vLLM "
        "or llama.cpp that runs at http://host:8000/v1",
    )  # fmt: skip
    model: Path | None = option(
        "--model", metavar="PATH", read=to_path,
        help="a GGUF file of your own instead of the small model",
    )  # fmt: skip
    threads: int | None = option(
        "--threads", metavar="N", read=to_count,
        help="CPU threads (1); here and below a server that runs already keeps what it has",
    )  # fmt: skip
    parallel: int | None = option(
        "--parallel", metavar="N", read=to_count,
        help="responses that are written at a time (1); the others wait in its queue",
    )  # fmt: skip
    context: int | None = option(
        "--context", metavar="N", read=to_tokens,
        help="tokens that a prompt and its answer may have together",
    )  # fmt: skip
    tokens_per_second: float | None = option(
        "--tokens-per-second", metavar="N", read=to_rate,
        help="write no faster than this, so that one can watch; without it as fast as it can",
    )  # fmt: skip
    queue: float | None = option(
        "--queue", metavar="DURATION", read=to_duration,
        help="stay queued this long first, as 5 (seconds) or 1m",
    )  # fmt: skip
    calls: str | None = option(
        "--calls", metavar="JSON", read=to_calls,
        help="a script, for teaching: calls of functions that a cell with --tool gets first, as "
        """'[{"name": "look_up", "arguments": {"city": "Bern"}}]'""",
    )  # fmt: skip
    flex_refusals: bool = option(
        "--flex-refusals", default=False,
        help="refuse every other job of --tier flex at first, as a full tier does",
    )  # fmt: skip
