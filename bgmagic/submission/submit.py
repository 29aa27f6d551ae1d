"""Turns a prompt and settings into a request, and sends it as one job or joins the one there is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bgmagic.api.pricing import Billing, prices_of_environment
from bgmagic.api.request import Request, check_text
from bgmagic.api.request_body import build_request, check_no_turns, reading
from bgmagic.api.server import ServerConfig
from bgmagic.api.words import WINDOW_SECONDS
from bgmagic.errors import BadInput
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.record import Variable
from bgmagic.jobs.steps import FunctionRounds
from bgmagic.prompts.conversation import (
    History,
    check_all_turns_known,
    continuation_id,
    history,
    history_of_running,
    request_messages,
)
from bgmagic.prompts.template import PartialPrompt, RenderedPrompt, Substitution, render_prompt
from bgmagic.submission.app import app
from bgmagic.submission.converters import to_identifier, to_rate
from bgmagic.submission.lookup import JobLookup, Submission
from bgmagic.submission.options import resolve_settings
from bgmagic.submission.settings import SubmitSettings, deadline_of
from bgmagic.text import did_you_mean, dollars
from bgmagic.values import dataclass

if TYPE_CHECKING:
    from bgmagic.tools.functions import FunctionTool


@dataclass(frozen=True)
class PreparedRequest:
    """What is to be sent.

    Attributes:
        request: the request; with a partial prompt, as far as it is known.
        partial: JSON text of what is still to go into it, or None.
        needs: the running jobs that it waits for.
        substitutions: what the prompt's expressions became.
        note: what the user should be told, or "".
        rounds: the user's functions that the model may call; None without any.
    """

    request: Request
    partial: str | None = None
    needs: tuple[Job, ...] = ()
    substitutions: tuple[Substitution, ...] = ()
    note: str = ""
    rounds: FunctionRounds | None = None

    def fingerprint(self, server: str) -> str:
        """What it has in common with those that ask the same of the same server."""
        return self.request.fingerprint(server, self.partial or "")

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The names of the jobs that it waits for."""
        return tuple(job.name or job.response_id or "another job" for job in self.needs)


def prepare_request(
    prompt: str,
    settings: SubmitSettings,
    namespace: Mapping[str, Any] | None = None,
    server: ServerConfig | None = None,
) -> PreparedRequest:
    """The request that ``prompt`` becomes with these settings, as far as it is known now.

    Args:
        namespace: the variables that its expressions name; None takes braces as text.
        server: where it is going to be sent; None if it is not.

    Raises:
        BadInput: the prompt is empty, an expression fails, or a setting can't be used.
    """
    if settings.continue_ is None:
        return _prepared(prompt, settings, namespace, History(), server)
    check_no_turns(settings.param)
    name, held = _continued(settings.continue_, namespace or {})
    find = app.manager.find
    running = held if issubclass(type(held), Job) and not held.done() else None
    place = history_of_running(running, find) if running and running.name == settings.out else None
    if running is not None and place is not None and not settings.again:
        # The cell of the turn that still runs, run again: it is that turn, not one after it.
        again = _prepared(prompt, settings, namespace, place, server)
        if again.fingerprint(running.record.server) == running.record.fingerprint:
            return again
    return _prepared(prompt, settings, namespace, history(held, name, find), server)


def _prepared(
    prompt: str,
    settings: SubmitSettings,
    namespace: Mapping[str, Any] | None,
    earlier: History,
    server: ServerConfig | None,
) -> PreparedRequest:
    if settings.messages is not None and (earlier.messages or earlier.after):
        raise BadInput("--messages and --continue both give the turns before; give one of them")
    after = earlier.after
    waits = after is not None and not after.done()
    filled = render_prompt(prompt, None if settings.raw else namespace, waiting=waits)
    needs = [after] if after is not None and waits else []
    needs += [job for job in filled.needs if job is not after]
    messages, instructions, continues = earlier.messages, earlier.instructions, None
    previous = earlier.previous
    if after is not None and needs:
        continues = after.record.key
    elif after is not None:
        answer = after.result(0)
        messages, instructions = tuple(answer.conversation), answer.instructions
        previous = None if server is None else answer._previous(server.name, time.time())
        if server is not None and (previous is None or settings.no_previous or settings.batch):
            check_all_turns_known(after)
    by_previous = not settings.no_previous
    partial = PartialPrompt.of(filled, continues, by_previous=by_previous).text if needs else None
    known_earlier = settings.messages if earlier == History() else list(messages)
    request = _built(
        filled.text,
        settings,
        RequestParts.of(settings),
        known_earlier,
        instructions=instructions if settings.instructions is None else settings.instructions,
        continuation_id=continuation_id(after),
        previous=previous if by_previous and not settings.batch else None,
        server=server,
        partial=partial or "",
    )
    rounds = FunctionRounds.of(request, settings.max_rounds)
    return PreparedRequest(request, partial, tuple(needs), filled.inserted, earlier.note, rounds)


@dataclass(frozen=True)
class RequestParts:
    """What the requests of a sweep share beside their settings, read once.

    Attributes:
        files: the files as parts of the message.
        tools: the tools' entries, and
        functions: the user's functions among them, by name.
        structured: what structured output adds.
    """

    files: list[dict[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    functions: Mapping[str, FunctionTool]
    structured: dict[str, Any]

    @classmethod
    def of(cls, settings: SubmitSettings) -> RequestParts:
        """Read the files, tools and schema of ``settings``.

        Raises:
            BadInput: one of them can't be used.
        """
        return cls(_file_parts(settings), *_tools(settings), _structured(settings))


def prepare_shared(
    filled: RenderedPrompt, settings: SubmitSettings, parts: RequestParts, server: ServerConfig
) -> PreparedRequest:
    """The request of a prompt that waits for no job and goes on with no conversation.

    Raises:
        BadInput: the prompt is empty, or a setting can't be used.
    """
    messages, instructions = settings.messages, settings.instructions
    request = _built(
        filled.text, settings, parts, messages, instructions=instructions, server=server
    )
    return PreparedRequest(request, rounds=FunctionRounds.of(request, settings.max_rounds))


def _built(
    text: str,
    settings: SubmitSettings,
    parts: RequestParts,
    messages: Any,
    *,
    instructions: str | None,
    **rest: Any,
) -> Request:
    return build_request(
        request_messages(text, messages, parts.files),
        model=settings.model,
        effort=settings.effort,
        verbosity=settings.verbosity,
        instructions=instructions,
        max_output_tokens=settings.max_output_tokens,
        params=settings.param,
        stream=settings.stream,
        tools=parts.tools,
        functions=parts.functions,
        window=settings.window,
        tier=settings.tier,
        summary=settings.summary,
        mode=settings.mode,
        max_tool_calls=settings.max_tool_calls,
        include=settings.include,
        metadata=dict(settings.metadata),
        cache_key=settings.cache_key,
        batch=settings.batch,
        **parts.structured,
        **rest,
    )


# What most submissions don't have is imported when it is given.


def _file_parts(settings: SubmitSettings) -> list[dict[str, Any]]:
    if not settings.file:
        return []
    from bgmagic.prompts.inputs import file_parts

    return file_parts(settings.file)


def _tools(
    settings: SubmitSettings,
) -> tuple[Sequence[Mapping[str, Any]], dict[str, FunctionTool]]:
    """The entries of all tools, in order, and those of the user's functions by their names."""
    if not settings.tool:
        return (), {}
    from bgmagic.prompts.inputs import flat, tool_entries

    entries: list[Mapping[str, Any]] = []
    functions: dict[str, FunctionTool] = {}
    for given in flat(settings.tool, "--tool"):
        with reading("--tool", given):
            tool = app.function_tool(given, asks=settings.ask)
            if tool is None:
                entries += tool_entries([given])
                continue
        if tool.name in functions:
            raise BadInput(f"--tool: two functions are called {tool.name}; rename one of them")
        functions[tool.name] = tool
        entries.append(tool.entry)
    _check_functions(settings, functions)
    return entries, functions


def _check_functions(settings: SubmitSettings, functions: Mapping[str, FunctionTool]) -> None:
    if functions and settings.batch:
        raise BadInput(
            "--tool: a batch can't call functions of the notebook; leave out one of both"
        )
    many = settings.each is not None or settings.n is not None or settings.sweep
    asking = [name for name, tool in functions.items() if tool.asks]
    if many and asking:
        raise BadInput(
            f"--tool {asking[0]}: it asks before each call, which only a single job's card can; "
            "leave out --each, --n and --sweep, or the asking"
        )


def _structured(settings: SubmitSettings) -> dict[str, Any]:
    if settings.schema is None:
        return {}
    from bgmagic.api.structured_output import is_class, response_format

    with reading("--schema", settings.schema):
        output_type = settings.schema if is_class(settings.schema) else None
        return {"text_format": response_format(settings.schema), "output_type": output_type}


def submit_settings(given: Mapping[str, Any], *, from_python: bool = False) -> SubmitSettings:
    """The settings of a submission: what is given, then `%config`, the environment, the defaults.

    Raises:
        BadInput: a value can't be what it is given for.
    """
    settings = resolve_settings(
        SubmitSettings, given, config=app.defaults(), from_python=from_python
    )
    settings = _without_excluded_defaults(settings, given)
    if settings.continue_ is None:
        return settings
    # A conversation brings its own instructions, which a default does not replace.
    instructions = settings.instructions if given.get("instructions") is not None else None
    name = settings.out
    if name is None and type(settings.continue_) is str and not from_python:
        if "[" in settings.continue_:
            raise BadInput(
                f"--continue {settings.continue_}: name a variable for the new answer, as in "
                f"-c {settings.continue_} -o NAME"
            )
        name = to_identifier(settings.continue_, "--continue")
    return replace(settings, instructions=instructions, out=name)


def _without_excluded_defaults(
    settings: SubmitSettings, given: Mapping[str, Any]
) -> SubmitSettings:
    """The settings without the defaults that a given option excludes.

    A discounted window goes neither with a stream nor with another tier, and a batch with none of
    them; two that are both given, or both defaults, are left to be refused.
    """
    if settings.batch:
        defaults: dict[str, Any] = {"stream": False, "window": None, "tier": None}
        changes = {name: value for name, value in defaults.items() if given.get(name) is None}
        return replace(settings, **changes)
    if settings.window not in WINDOW_SECONDS:
        return settings
    told = {name for name, value in given.items() if value is not None}
    excluded: dict[str, Any] = {"stream": False} if settings.stream else {}
    if settings.tier not in (None, "default"):
        excluded["tier"] = None
    if "window" in told:
        return replace(settings, **{k: v for k, v in excluded.items() if k not in told})
    return replace(settings, window=None) if told & excluded.keys() else settings


def _continued(given: Any, namespace: Mapping[str, Any]) -> tuple[str, Any]:
    """The name and the value that --continue means; the journal knows names of earlier kernels."""
    if type(given) is not str:
        job = given.job if issubclass(type(given), Answer) else given
        return (job.name if issubclass(type(job), Job) else None) or "the answer", given
    if given in namespace:
        held = namespace[given]
        with reading(f"--continue {given}", held):
            is_group = isinstance(held, JobGroup)
        if is_group:
            one = held.jobs[0].name
            raise BadInput(
                f"--continue {given}: it holds a group; one of its answers can be gone on with, as "
                f"in -c {one} -o NAME"
            )
        return given, held
    check_text(given)
    job = JobLookup().job(given, {})
    if job is not None:
        return given, job
    near = did_you_mean(given, [name for name in namespace if name[:1] != "_"])
    raise BadInput(f"--continue: there is no variable {given!r}, and no job of that name{near}")


@dataclass(frozen=True)
class Submitted:
    """What became of a submission.

    Attributes:
        job: the job that was started, or the running one that it joined.
        joined: whether the journal or this kernel had the identical request, so that nothing was
            sent.
        note: what the user should be told of its price, or "".
    """

    job: Job
    joined: bool = False
    note: str = ""


def approve(request: Request, server: str, settings: SubmitSettings) -> str:
    """Let a new job pass what the user has said of money; what to tell of it, or "".

    Raises:
        BadInput: it costs more than is agreed to, or could go over the budget.
    """
    prices_of_environment()  # raises, where they can't be read
    limit = confirm_above_dollars()
    if limit is not None and settings.yes is None:
        most = Billing.of(request).most(server)
        if most is None or most > limit:
            raise BadInput(
                f"this {most_words(most)}, and BgMagics.confirm_above_dollars is {limit:g}. "
                "Nothing was sent; --yes 1 agrees to it, --max-output-tokens bounds it"
            )
    gate = app.gate
    return "" if settings.over_budget or gate is None else gate.check([request], server)


def most_words(most: float | None) -> str:
    """What a job or several can cost at most, as a verb: "can cost $5.60"."""
    return "has no known price or bound" if most is None else f"can cost {dollars(most)}"


def confirm_above_dollars() -> float | None:
    """US dollars above which the price needs to be agreed to; None asks never.

    Raises:
        BadInput: BGMAGIC_CONFIRM_ABOVE_DOLLARS is no number.
    """
    limit: float | None = app.setting("confirm_above_dollars", to_rate)
    return limit


def submit_or_join(
    prepared: PreparedRequest,
    server: ServerConfig,
    settings: SubmitSettings,
    name: str | None,
    variable: Variable | None,
) -> Submitted:
    """Start the job that asks this, or join the one that asks the same; returns at once.

    Without a variable (plain Python) nothing is joined: calling `submit` twice sends two jobs.

    Args:
        server: where it goes.
        name: what the job is called.
        variable: holds the job from now on, and then its answer.

    Raises:
        BadInput: nothing was sent.
    """
    notebook, manager = app.shell.notebook_path(), app.manager
    if variable is not None and not settings.again:
        fingerprint = prepared.fingerprint(server.name)
        lookup = JobLookup()
        wanted = Submission(server, notebook, settings.out, fingerprint)
        twin = lookup.running_duplicate(wanted)
        if twin is not None and not twin.done():
            twin.add_variable(variable)
            return Submitted(twin, joined=True)
        output_type = prepared.request.output_type
        known = lookup.stored_duplicate(wanted, output_type, reuse=settings.reuse)
        if known is not None:
            attached = manager.attach(known, variable, output_type, server=server)
            return Submitted(attached, joined=True)
    note = approve(prepared.request, server.name, settings)
    job = manager.submit(
        prepared.request,
        server=server,
        name=name,
        named=settings.out is not None,
        notebook=notebook,
        variable=variable,
        poll_interval=settings.poll,
        deadline=deadline_of(settings),
        create_timeout=settings.create_timeout,
        partial=prepared.partial,
        waits_for=prepared.waits_for,
        over_budget=settings.over_budget,
        rounds=prepared.rounds,
    )
    return Submitted(job, note=note)
