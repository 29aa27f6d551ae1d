"""Every option once: its flags, its type and default, what it takes and its help.

A settings class is a frozen dataclass whose fields are the options of one magic. `resolve_settings`
puts given values over those of `%config`, the environment and the defaults, in that order. Whatever
is wrong is one `BadInput` line that says what is allowed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from bgmagic.api.request import EFFORTS, TIERS, TOOLS, VERBOSITIES, WINDOWS
from bgmagic.submission.converters import (
    Converter,
    to_anything,
    to_choice,
    to_count,
    to_duration,
    to_identifier,
    to_interval,
    to_pairs,
    to_path,
    to_rate,
    to_several,
    to_string,
    to_swept,
    to_switch,
    to_tokens,
    to_word,
)

S = TypeVar("S")

_KNOWN: dict[type[Any], tuple[Option, ...]] = {}  # a sweep asks once for each of its jobs


@dataclass(frozen=True)
class Option:
    """One option of a magic.

    Attributes:
        name: its name in Python, in `%config` and, in capitals after BGMAGIC_, in the environment.
        flags: how it is written in a header line; none for words without a flag.
        metavar: what it takes; "" for a switch.
        help: one sentence.
        read: turns a value from anywhere into the setting, or raises BadInput with the given label.
        default: the setting where nothing is given.
        choices: the words it takes, if these are all.
        configurable: whether `%config` and the environment can set it.
        repeatable: whether it can be given more than once; the setting is a tuple then.
        variable: whether it takes the name of a variable and means its value.
        offered: words that completion offers; others may be allowed too.
    """

    name: str
    flags: tuple[str, ...]
    metavar: str
    help: str
    read: Converter
    default: Any
    choices: tuple[str, ...]
    configurable: bool
    repeatable: bool
    variable: bool
    offered: tuple[str, ...]


def _option(
    *flags: str,
    help: str,
    metavar: str = "",
    read: Converter | None = None,
    default: Any = None,
    choices: tuple[str, ...] = (),
    configurable: bool = False,
    repeatable: bool = False,
    variable: bool = False,
    offered: tuple[str, ...] = (),
) -> Any:
    """Declare an option as the field of a settings class."""
    converter = read or (to_choice(choices) if choices else to_string if metavar else to_switch)
    about: dict[str, Any] = {
        "flags": flags,
        "metavar": metavar or "|".join(choices),
        "help": help,
        "read": converter,
        "default": default,
        "choices": choices,
        "configurable": configurable,
        "repeatable": repeatable,
        "variable": variable,
        "offered": offered or choices,
    }
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class SubmitSettings:
    """How one job is sent and shown: the options of %%bgresponse."""

    out: str | None = _option(
        "-o", "--out", metavar="NAME", read=to_identifier,
        help="variable for the answer; without it _bgN, N being the cell's number",
    )  # fmt: skip
    model: str = _option(
        "-m", "--model", metavar="MODEL", read=to_word, default="gpt-5.2", configurable=True,
        help="any model the server knows",
    )  # fmt: skip
    effort: str | None = _option(
        "-e", "--effort", choices=EFFORTS, configurable=True,
        help="how long the model thinks",
    )  # fmt: skip
    verbosity: str | None = _option(
        "-v", "--verbosity", choices=VERBOSITIES, configurable=True,
        help="how long the answer is",
    )  # fmt: skip
    instructions: str | None = _option(
        "-i", "--instructions", metavar="TEXT", configurable=True,
        help="system text, quoted, or $NAME",
    )  # fmt: skip
    max_output_tokens: int | None = _option(
        "--max-output-tokens", metavar="N", read=to_tokens, configurable=True,
        help="end as incomplete after N tokens, reasoning included",
    )  # fmt: skip
    window: str | None = _option(
        "--window", choices=WINDOWS, configurable=True,
        help="be done within 2 or 8 hours, at a lower price; not with --stream",
    )  # fmt: skip
    tier: str | None = _option(
        "--tier", choices=TIERS, configurable=True,
        help="flex is slower at a lower price, priority quicker at a higher one",
    )  # fmt: skip
    poll: float | None = _option(
        "--poll", metavar="SECONDS", read=to_interval, configurable=True,
        help="seconds between polls, more than 0 and less than 90 (10, sooner at first)",
    )  # fmt: skip
    deadline: float = _option(
        "--deadline", metavar="DURATION", read=to_duration, default=86400.0, configurable=True,
        help="stop watching this long after acceptance, as 45m or 12h (24h); the job goes on",
    )  # fmt: skip
    create_timeout: float = _option(
        "--create-timeout", metavar="DURATION", read=to_duration, default=120.0, configurable=True,
        help="give up on sending after this long, as 30 or 5m (2m); the job is unknown then",
    )  # fmt: skip
    messages: Any = _option(
        "--messages", metavar="NAME", read=to_anything, variable=True,
        help="earlier turns, a list as the API takes it; the cell is the last user turn",
    )  # fmt: skip
    continue_: Any = _option(
        "-c", "--continue", metavar="NAME", read=to_anything,
        help="go on with the conversation whose last answer is in NAME; the new one goes there too",
    )  # fmt: skip
    file: tuple[Any, ...] = _option(
        "--file", metavar="PATH", read=to_several, default=(), repeatable=True,
        help="attach an image, a PDF or another document, or $NAME for what NAME holds; repeatable",
    )  # fmt: skip
    tool: tuple[Any, ...] = _option(
        "--tool", metavar="TYPE", read=to_several, default=(), repeatable=True, offered=TOOLS,
        help="a tool that the server runs, as web_search, or $NAME for its dict; repeatable",
    )  # fmt: skip
    schema: Any = _option(
        "--schema", metavar="NAME", read=to_anything, variable=True,
        help="a Pydantic model or a JSON schema; the answer's .data is the validated object",
    )  # fmt: skip
    param: tuple[tuple[str, Any], ...] = _option(
        "--param", metavar="KEY=VALUE", read=to_pairs, default=(), repeatable=True,
        help="any other request field, dotted, JSON or text: reasoning.summary=auto; repeatable",
    )  # fmt: skip
    stream: bool = _option(
        "--stream", default=False, configurable=True,
        help="show the output as it is written; the answer is the same",
    )  # fmt: skip
    each: Any = _option(
        "--each", metavar="NAME", read=to_anything, variable=True,
        help="a job for each item of a list, dict, Series or table: {{ item }}, {{ item.column }}",
    )  # fmt: skip
    n: int | None = _option(
        "--n", metavar="N", read=to_count,
        help="so many samples: the same request N times",
    )  # fmt: skip
    sweep: tuple[tuple[str, Any], ...] = _option(
        "--sweep", metavar="KEY=A,B", read=to_swept, default=(), repeatable=True,
        help="a job for each value: effort=low,high, or a request field; repeatable, all combined",
    )  # fmt: skip
    max_in_flight: int = _option(
        "--max-in-flight", metavar="N", read=to_count, default=64, configurable=True,
        help="jobs of a sweep at the server at once (64); the others wait",
    )  # fmt: skip
    yes: int | None = _option(
        "--yes", metavar="N", read=to_count,
        help="agree to N jobs; needed above BgMagics.confirm_above (100) and confirm_above_dollars",
    )  # fmt: skip
    over_budget: bool = _option(
        "--over-budget", default=False,
        help="send even though BgMagics.budget is spent",
    )  # fmt: skip
    again: bool = _option(
        "--again", default=False,
        help="send even though the identical request is still running, or may be",
    )  # fmt: skip
    reuse: bool = _option(
        "--reuse", default=False, configurable=True,
        help="take the answer from the journal if it has this very request, completed",
    )  # fmt: skip
    raw: bool = _option(
        "--raw", default=False,
        help="leave {{ }} in the text alone",
    )  # fmt: skip
    dry_run: bool = _option(
        "--dry-run", default=False,
        help="show the exact request that would be sent, and send nothing",
    )  # fmt: skip
    wait: bool = _option(
        "--wait", default=False, configurable=True,
        help="block until the job is done",
    )  # fmt: skip
    notify: bool = _option(
        "--notify", default=False, configurable=True,
        help="a desktop notification at the end, if the browser's tab is hidden then",
    )  # fmt: skip
    quiet: bool = _option(
        "--quiet", default=False, configurable=True,
        help="show no card",
    )  # fmt: skip


@dataclass(frozen=True)
class WaitSettings:
    """The options of %bgwait."""

    names: tuple[str, ...] = _option(
        metavar="NAME", read=to_anything, default=(), repeatable=True,
        help="variables that hold jobs; without any, all jobs that are not done",
    )  # fmt: skip
    timeout: float | None = _option(
        "--timeout", metavar="DURATION", read=to_duration,
        help="wait no longer than this, as 30 (seconds) or 5m",
    )  # fmt: skip


@dataclass(frozen=True)
class CancelSettings:
    """The options of %bgcancel."""

    names: tuple[str, ...] = _option(
        metavar="NAME|ID", read=to_anything, default=(), repeatable=True,
        help="variables that hold jobs, or response ids",
    )  # fmt: skip
    all: bool = _option("--all", default=False, help="every job that is not done")


@dataclass(frozen=True)
class ListSettings:
    """The options of %bgjobs."""

    names: tuple[str, ...] = _option(
        metavar="NAME", read=to_anything, default=(), repeatable=True,
        help="show these jobs with what they gave; without any, list all of this notebook",
    )  # fmt: skip
    all: bool = _option("--all", default=False, help="list the jobs of all notebooks")
    forget: bool = _option(
        "--forget", default=False,
        help="remove the jobs that have ended from the journal, these or all of this notebook",
    )  # fmt: skip


@dataclass(frozen=True)
class AttachSettings:
    """The options of %bgattach."""

    names: tuple[str, ...] = _option(
        metavar="ID|NAME", read=to_anything, default=(), repeatable=True,
        help="a response id from anywhere, or the variable of a job in the journal",
    )  # fmt: skip
    all: bool = _option(
        "--all", default=False,
        help="every open job of this notebook whose variable is free",
    )  # fmt: skip
    out: str | None = _option(
        "-o", "--out", metavar="NAME", read=to_identifier,
        help="another variable for the answer",
    )  # fmt: skip


@dataclass(frozen=True)
class CostSettings:
    """The options of %bgcost."""

    period: tuple[str, ...] = _option(
        metavar="today|7d|all", read=to_anything, default=(), repeatable=True,
        offered=("today", "7d", "all"),
        help="what ended since midnight (today), in the last 7 days, or ever",
    )  # fmt: skip


@dataclass(frozen=True)
class LocalSettings:
    """The options of %bglocal."""

    action: tuple[str, ...] = _option(
        metavar="on|off|status|URL", read=to_anything, default=(), repeatable=True,
        offered=("on", "off", "status"),
        help="start or join the embedded model, go back to your own server, tell, or use a vLLM "
        "or llama.cpp that runs at http://host:8000/v1",
    )  # fmt: skip
    model: Path | None = _option(
        "--model", metavar="PATH", read=to_path,
        help="a GGUF file of your own instead of the small model",
    )  # fmt: skip
    threads: int | None = _option(
        "--threads", metavar="N", read=to_count,
        help="CPU threads (1); here and below a server that runs already keeps what it has",
    )  # fmt: skip
    parallel: int | None = _option(
        "--parallel", metavar="N", read=to_count,
        help="responses that are written at a time (1); the others wait in its queue",
    )  # fmt: skip
    context: int | None = _option(
        "--context", metavar="N", read=to_tokens,
        help="tokens that a prompt and its answer may have together",
    )  # fmt: skip
    tokens_per_second: float | None = _option(
        "--tokens-per-second", metavar="N", read=to_rate,
        help="write no faster than this, so that one can watch; without it as fast as it can",
    )  # fmt: skip
    queue: float | None = _option(
        "--queue", metavar="DURATION", read=to_duration,
        help="stay queued this long first, as 5 (seconds) or 1m",
    )  # fmt: skip
    flex_refusals: bool = _option(
        "--flex-refusals", default=False,
        help="refuse every other job of --tier flex at first, as a full tier does",
    )  # fmt: skip


def options(settings: type[Any]) -> tuple[Option, ...]:
    """The options of a settings class, in the order in which they are declared."""
    if settings not in _KNOWN:
        _KNOWN[settings] = tuple(Option(name=f.name, **f.metadata) for f in fields(settings))
    return _KNOWN[settings]


def read_option(settings: type[Any], name: str, value: Any, label: str) -> Any:
    """The setting that ``value`` means for the option ``name``.

    Raises:
        BadInput: it can't be that; the line begins with ``label``.
    """
    return next(o for o in options(settings) if o.name == name).read(value, label)


def resolve_settings(
    settings: type[S],
    given: Mapping[str, Any],
    *,
    config: Mapping[str, Any] | None = None,
    from_python: bool = False,
) -> S:
    """Read what is given and fill in the rest.

    Args:
        given: values by option name; None counts as not given.
        config: the values of `%config`, likewise.
        from_python: whether messages name keyword arguments instead of flags.

    Raises:
        BadInput: a value can't be what it is given for, wherever it comes from.
    """
    values = {}
    for option in options(settings):
        value, label = given.get(option.name), _label(option, from_python)
        if value is None and option.configurable:
            value, label = _configured(option, config or {})
        values[option.name] = option.default if value is None else option.read(value, label)
    return settings(**values)


def _label(option: Option, from_python: bool) -> str:
    return f"{option.name}=" if from_python or not option.flags else option.flags[-1]


def _configured(option: Option, config: Mapping[str, Any]) -> tuple[Any, str]:
    value = config.get(option.name)
    if value is not None:
        return value, f"BgMagics.{option.name} ="
    variable = f"BGMAGIC_{option.name.upper()}"
    return os.environ.get(variable) or None, variable


def names(settings: type[Any]) -> tuple[str, ...]:
    """The options' names in Python."""
    return tuple(f.name for f in fields(settings))
