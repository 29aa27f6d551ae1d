"""The functions of plain Python: `submit`, `map`, `jobs`, `costs`, `use`, `export` and `tool`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from bgmagic.errors import BadInput, public
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.record import Variable
from bgmagic.jobs.steps import ASK_MARK
from bgmagic.submission.app import app
from bgmagic.submission.converters import to_prompt, to_values
from bgmagic.submission.lookup import JobLookup
from bgmagic.submission.notify import notify_at_end
from bgmagic.submission.options import names
from bgmagic.submission.settings import SubmitSettings
from bgmagic.submission.submit import (
    prepare_request,
    submit_or_join,
    submit_settings,
)
from bgmagic.text import kind_of, user_path

if TYPE_CHECKING:
    import pandas

F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger("bgmagic")


@public
def submit(
    prompt: str,
    *,
    out: str | None = None,
    model: str | None = None,
    effort: str | None = None,
    verbosity: str | None = None,
    summary: str | None = None,
    mode: str | None = None,
    instructions: str | None = None,
    max_output_tokens: int | None = None,
    max_tool_calls: int | None = None,
    window: str | None = None,
    tier: str | None = None,
    poll: float | None = None,
    deadline: float | str | None = None,
    create_timeout: float | str | None = None,
    messages: Sequence[Mapping[str, Any]] | None = None,
    continue_: Answer | Job | str | None = None,
    no_previous: bool | None = None,
    file: Any = None,
    tool: Any = None,
    ask: bool | None = None,
    max_rounds: int | None = None,
    schema: type[Any] | Mapping[str, Any] | None = None,
    include: str | Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
    cache_key: str | None = None,
    param: Mapping[str, Any] | None = None,
    stream: bool | None = None,
    over_budget: bool | None = None,
    again: bool | None = None,
    reuse: bool | None = None,
    notify: Any = None,
    fill: Mapping[str, Any] | None = None,
) -> Job:
    """Send a prompt in the background and return its job at once.

    Works in a script, in an asyncio program and in a notebook; shows nothing. What is None falls
    back to `%config`, the environment (``BGMAGIC_MODEL`` and so on) and then the server's default.

    Args:
        prompt: the text of the last user turn.
        out: in a notebook, the variable that is to hold the job and then the answer.
        model: any model the server knows (gpt-5.2).
        effort: none, minimal, low, medium, high, xhigh or max.
        verbosity: low, medium or high.
        summary: have the model sum up its reasoning: auto, concise or detailed.
        mode: standard or pro, which thinks longer and at a higher price.
        instructions: system text.
        max_output_tokens: end as incomplete after so many tokens, reasoning included.
        max_tool_calls: calls of the server's own tools in one response, at most.
        window: be done within "2h" or "8h", at a lower price, or "soonest".
        tier: "flex" is slower at a lower price, "priority" quicker at a higher one; or "default".
        poll: seconds between polls, more than 0 and less than 90.
        deadline: seconds, or text such as "12h", after acceptance until watching ends (24 h).
        create_timeout: seconds, or text such as "5m", that sending may take until the server has
            answered (120); after that the job is unknown.
        messages: earlier turns as the API takes them.
        continue_: the answer, or the job, whose conversation this goes on with; or its name.
        no_previous: send all turns of the conversation again, instead of the id of the response
            that the server has.
        file: a path, bytes, a PIL image, a matplotlib figure, or a list of these.
        tool: the type of a hosted tool, as "web_search", its dict, a function that the model may
            call, or a list of these.
        ask: have each call of a function wait for somebody's word; denied where nobody is.
        max_rounds: rounds of calls of functions, at most (10).
        schema: a Pydantic model or a JSON schema; the answer's ``data`` is the validated object.
        include: a further field of the response, as "web_search_call.action.sources", or a list of
            these.
        metadata: text by name that the server keeps with the response.
        cache_key: the same for requests that begin alike.
        param: any other field of the request body; keys may be dotted.
        stream: have ``job.text`` grow as the response is written.
        over_budget: send even though the budget is spent.
        again: with ``out``, send even though the identical request is still running.
        reuse: with ``out``, take the answer of this very request from the journal if it has one.
        notify: a function, which is given the job on a thread of its own when that has ended, or an
            https:// address, which is sent a POST of JSON, or a list of these.
        fill: what the ``{{ expressions }}`` in the prompt name; without it braces are text. A job
            that still runs is waited for.

    Raises:
        BadInput: an argument can't be used or there is no API key; nothing was sent.
    """
    given = _settings_given(locals())
    settings = submit_settings(given, from_python=True)
    prompt, fill = to_prompt(prompt, "prompt"), to_values(fill)
    variable = _notebook_variable(settings.out)
    server = app.manager.destination()
    prepared = prepare_request(prompt, settings, fill, server)
    app.manager.store.on_unwritten = _tell_unwritten
    sent = submit_or_join(prepared, server, settings, settings.out, variable)
    notify_at_end(sent.job, settings.notify, joined=sent.joined)
    return sent.job


@public
def map(
    template: str,
    items: Any = None,
    *,
    n: int | None = None,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    batch: bool | None = None,
    max_in_flight: int | None = None,
    yes: int | None = None,
    out: str | None = None,
    model: str | None = None,
    effort: str | None = None,
    verbosity: str | None = None,
    summary: str | None = None,
    mode: str | None = None,
    instructions: str | None = None,
    max_output_tokens: int | None = None,
    max_tool_calls: int | None = None,
    window: str | None = None,
    tier: str | None = None,
    poll: float | None = None,
    deadline: float | str | None = None,
    create_timeout: float | str | None = None,
    messages: Sequence[Mapping[str, Any]] | None = None,
    continue_: Any = None,
    no_previous: bool | None = None,
    file: Any = None,
    tool: Any = None,
    ask: bool | None = None,
    max_rounds: int | None = None,
    schema: Any = None,
    include: str | Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
    cache_key: str | None = None,
    param: Mapping[str, Any] | None = None,
    stream: bool | None = None,
    over_budget: bool | None = None,
    again: bool | None = None,
    reuse: bool | None = None,
    notify: Any = None,
    fill: Mapping[str, Any] | None = None,
) -> JobGroup:
    """Ask the same of many items in the background and return their group at once.

    ::

        group = bgmagic.map("Summarise: {{ item }}", texts, effort="low")
        answers = await group

    Args:
        template: the prompt; ``{{ item }}`` is the item, ``{{ item.column }}`` a column of a row.
        items: a list, a dict, a Series or a DataFrame; None for samples and settings alone.
        n: samples: each request n times.
        sweep: settings and the values of each, all combined: ``{"effort": ["low", "high"]}``.
        batch: send them as one batch of the provider's, at half the price, done within 24 hours.
        max_in_flight: jobs at the server at once (64); the others wait.
        yes: agree to a group of so many jobs; needed for more than ``confirm_above`` (100).
        out: in a notebook, the variable that is to hold the group.
        reuse: take the answers that the journal has of these very requests.
        notify: as for `bgmagic.submit`, once, when the last job has ended; a function is given the
            group.
        fill: what else the template may name.

    The other arguments are those of `bgmagic.submit`.

    Of more than 256 jobs only the first and the last are rendered before this returns. Items and
    variables are copied; one that can't be used is then the end of its own job, in ``failed``.

    Returns:
        the group: a sequence of the answers, or for a dict a mapping.

    Raises:
        BadInput: an argument can't be used, the number of jobs must be agreed to, or there is no
            API key; nothing was sent.
    """
    given = _settings_given(locals() | {"each": items})
    # Imported when used: most kernels send no sweep.
    from bgmagic.sweeps.submit import submit_sweep

    settings = submit_settings(given, from_python=True)
    template, fill = to_prompt(template, "template"), to_values(fill)
    _notebook_variable(settings.out)
    join = settings.out is not None
    app.manager.store.on_unwritten = _tell_unwritten
    sent = submit_sweep(template, settings, settings.out or "group", fill or {}, join=join)
    notify_at_end(sent.group, settings.notify, joined=bool(sent.joined))
    if settings.out is not None:
        app.shell.bind(settings.out, sent.group)
    return sent.group


@functools.lru_cache(maxsize=16)  # once for each cause; a cell says so itself
def _tell_unwritten(why: str) -> None:
    logger.warning("bgmagic: jobs of this process are not written down: %s", why)


def _settings_given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Pick those of a function's arguments that are options, by their names.

    Raises:
        BadInput: a notification is asked for that only a page can show.
    """
    if arguments.get("notify") is True:
        raise BadInput(
            "notify= takes a function or an https:// address; the browser tells of cells only"
        )
    return {name: arguments[name] for name in names(SubmitSettings) if name in arguments}


def _notebook_variable(name: str | None) -> Variable | None:
    """The notebook's variable that ``out=`` names, or None without ``out=``.

    Raises:
        BadInput: there is no notebook.
    """
    variable = None if name is None else app.shell.variable(name)
    if name is not None and variable is None:
        raise BadInput(
            "out= names a notebook variable: run %load_ext bgmagic there, or leave it out"
        )
    return variable


@public
def jobs(*, past: bool = False, search: str | None = None) -> list[Job]:
    """The jobs of this process, oldest first; or those that a search finds, newest first.

    Args:
        past: with those that other kernels of this notebook left in the journal before them; to be
            read, `%bgattach` follows one that is open.
        search: words, or phrases in double quotes: all jobs, of whatever notebook and kernel, that
            have each of them in the prompt or the answer. Case and accents make no difference,
            every other character stands for itself, and a part of a word is enough.

    Raises:
        BadInput: ``search`` has no words.
        BgmagicError: the journal can't be searched now.
    """
    if search is not None:
        if not isinstance(search, str):
            raise BadInput(f"search= takes text, not {kind_of(search)}")
        from bgmagic.submission.search import jobs_found

        return jobs_found(search, "search=")
    return JobLookup().with_past() if past else list(app.manager.jobs_by_key().values())


@public
def costs(period: str = "all") -> pandas.DataFrame:
    """What the jobs of all kernels cost, by the journal: a pandas DataFrame with one row a job.

    Prices are in US dollars; what is not known is missing, never 0. ``saved`` is what a window or a
    tier cost less than the standard price.

    Args:
        period: what ended "today", in the last "7d", or "all"; what is open is there always.

    Raises:
        BadInput: it is another period, or pandas is not installed.
    """
    import time

    from bgmagic.jobs.export import frame_of
    from bgmagic.submission.costs import PERIODS, cost_row, costs_since, start_of

    if period not in PERIODS:
        raise BadInput(f"costs() takes one of {', '.join(PERIODS)}, not {period!r}")
    since = start_of(period, time.time())
    return frame_of("costs()", [cost_row(cost) for cost in costs_since(app.manager.store, since)])


@public
def use(client: Any) -> None:
    """Send the jobs from now on with the settings of ``client``; None goes back to the environment.

    Jobs that are already sent stay with the server and the credentials that accepted them. The
    client itself is not used and can be closed.

    Args:
        client: an ``OpenAI``, ``AsyncOpenAI``, ``AzureOpenAI`` or ``AsyncAzureOpenAI`` of the SDK.

    Raises:
        BadInput: it is something else, or has a transport of its own.
    """
    from bgmagic.transport.sdk import server_from_client

    app.use(None if client is None else server_from_client(client))


@public
def export(
    path: str | PathLike[str],
    *,
    jobs: Job | Answer | JobGroup | Iterable[Job | Answer | JobGroup] | None = None,
    all: bool = False,
    overwrite: bool = False,
) -> int:
    """Write jobs to ``path``, a line of JSON each, oldest first, and return how many.

    A line has the prompt, the whole request and response, times (ISO 8601, UTC), tokens, the price
    in US dollars where it is known, and the error of a job that failed. Keys are not in it. The
    file is written whole or not at all; an earlier export is replaced, any other file is not.

    Args:
        jobs: which; None means all of this notebook, from the journal too.
        all: all in the journal, whatever notebook they are from.
        overwrite: replace ``path`` even if it is something else than an earlier export.

    Raises:
        BadInput: the file can't be written, or is something else.
    """
    from bgmagic.jobs.export import export_line, write_lines

    if not isinstance(path, str | PathLike):
        raise BadInput(f"export() takes the path of a file, not {kind_of(path)}")
    chosen = list(_jobs_of(jobs)) if jobs is not None else _everything(everywhere=all)
    secrets = app.secrets()
    lines = (export_line(job, secrets) for job in chosen)
    return write_lines(user_path(path), lines, overwrite=overwrite)


def _jobs_of(given: Any) -> Iterator[Job]:
    if isinstance(given, JobGroup):
        yield from given.jobs
    elif isinstance(given, Job):
        yield given
    elif isinstance(given, Answer) and given.job is not None:
        yield given.job
    elif isinstance(given, str) or not isinstance(given, Iterable):
        raise BadInput(f"jobs= takes jobs, answers and groups, not {type(given).__name__}")
    else:
        for part in given:
            yield from _jobs_of(part)


def _everything(*, everywhere: bool) -> list[Job]:
    """This notebook's jobs, or everybody's: those here, and the others from the journal."""
    found = JobLookup().with_past(everywhere=everywhere)
    return sorted(found, key=lambda job: job.record.submitted_at)


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(*, ask: bool = ...) -> Callable[[F], F]: ...
@public
def tool(function: F | None = None, /, *, ask: bool = False) -> F | Callable[[F], F]:
    """Mark a function for ``--tool $function``; it stays what it is. Of a method of an object,
    which takes no mark, it gives a function that calls it.

    ::

        @bgmagic.tool(ask=True)
        def send_mail(to: str, text: str) -> str:
            "Send a mail."

    Args:
        ask: have each call wait for a click on Allow or Deny, as with ``--ask``.

    Raises:
        BadInput: it is no function.
    """

    def mark(marked: F) -> F:
        given: object = marked
        if not callable(given) or isinstance(given, type):
            raise BadInput(f"bgmagic.tool marks a function, not {kind_of(given)}")
        try:
            setattr(marked, ASK_MARK, ask)
        except AttributeError:
            called: Any = functools.partial(marked)
            functools.update_wrapper(called, marked)
            setattr(called, ASK_MARK, ask)
            return cast("F", called)
        return marked

    return mark if function is None else mark(function)
