"""The one way in: settings and a prompt become a request, and the request a job.

Shared by the magic and by plain Python. What is particular to notebooks (names, cards, one-line
errors) is magics.py's business.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bgmagic.answer import Answer
from bgmagic.composing import Composed, compose
from bgmagic.control import Variable
from bgmagic.conversation import Earlier, earlier_turns, same_place
from bgmagic.errors import BadInput
from bgmagic.group import JobGroup
from bgmagic.job import Job
from bgmagic.joining import twin_of
from bgmagic.naming import job_named
from bgmagic.options import Settings, settle
from bgmagic.session import session
from bgmagic.status import Status
from bgmagic.template import compile_template, literal
from bgmagic.values import read_identifier, similar

if TYPE_CHECKING:
    from bgmagic.entries import Entry


def settings_of(given: Mapping[str, Any], *, from_python: bool = False) -> Settings:
    """The settings of a submission: what is given, then `%config`, the environment, the defaults.

    Raises:
        BadInput: a value can't be what it is given for.
    """
    settings = settle(Settings, given, config=session.config, from_python=from_python)
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
        name = read_identifier(settings.continue_, "--continue")
    return replace(settings, instructions=instructions, out=name)


def compose_prompt(
    prompt: str, settings: Settings, namespace: Mapping[str, Any] | None
) -> Composed:
    """The request that ``prompt`` becomes with these settings, or the draft of one.

    Args:
        namespace: the variables that its expressions name; None if it has none.

    Raises:
        BadInput: there can't be such a request.
    """
    template = None if settings.raw or namespace is None else compile_template(prompt)

    def composed(earlier: Earlier | None) -> Composed:
        waiting = earlier is not None and earlier.waits
        if template is None:
            return compose(literal(prompt), settings, earlier)
        return compose(template.fill(namespace or {}, waiting=waiting), settings, earlier)

    if settings.continue_ is None:
        return composed(None)
    name, held = _continued(settings.continue_, namespace or {})
    find = session.manager.find
    running = held if isinstance(held, Job) and not held.done() else None
    place = same_place(running, find) if running and running.name == settings.out else None
    if running is not None and place is not None and not settings.again:
        # The cell of the turn that still runs, run again: it is that turn, not one after it.
        again = composed(place)
        draft = again.draft.text if again.draft else ""
        if again.request.fingerprint(running.record.server, draft) == running.record.fingerprint:
            return again
    return composed(earlier_turns(held, name, find))


def _continued(given: object, namespace: Mapping[str, Any]) -> tuple[str, object]:
    """The name and the value that --continue means; the journal knows names of earlier kernels."""
    if type(given) is not str:
        job = given.job if isinstance(given, Answer) else given
        return (job.name if isinstance(job, Job) else None) or "the answer", given
    if given in namespace:
        held = namespace[given]
        if isinstance(held, JobGroup):
            one = held.jobs[0].name
            raise BadInput(
                f"--continue {given}: it holds a group; one of its answers can be gone on with, as "
                f"in -c {one} -o NAME"
            )
        return given, held
    job = job_named(given, {})
    if job is not None:
        return given, job
    near = similar(given, [name for name in namespace if name[:1] != "_"])
    raise BadInput(f"--continue: there is no variable {given!r}, and no job of that name{near}")


@dataclass(frozen=True)
class Sent:
    """What became of a submission.

    Attributes:
        job: the job that was started, or the running one that it joined.
        joined: whether the journal or this kernel had the identical request, so that nothing was
            sent.
    """

    job: Job
    joined: bool = False


def send(
    composed: Composed, settings: Settings, name: str | None, variable: Variable | None
) -> Sent:
    """Start the job that asks this, or join its twin that still runs; returns at once.

    A submission without a variable is never joined: who asks twice in Python means it.

    Raises:
        BadInput: nothing was sent.
    """
    request, draft, manager = composed.request, composed.draft, session.manager
    if variable is not None and not settings.again:
        server, jobs_here = manager.destination().name, manager.jobs()
        wanted = request.fingerprint(server, draft.text if draft else "")
        where = server, settings.out, session.notebook()
        twin = twin_of(wanted, jobs_here, *where, manager.find)
        if twin is not None and twin.status == Status.UNKNOWN:
            raise BadInput(
                f"the very same request ended as unknown {_ago(twin)} ago and may have been "
                f"accepted; --again sends it anew, at the risk of paying twice"
            )
        if twin is not None and not twin.done():
            twin.give(variable)
            return Sent(twin, joined=True)
        known = _known(composed, settings)
        if known is not None:
            return Sent(manager.attach(known, variable, request.reader), joined=True)
    job = manager.submit(
        request,
        name=name,
        named=settings.out is not None,
        notebook=session.notebook(),
        variable=variable,
        poll_interval=settings.poll,
        deadline=settings.deadline,
        draft=draft,
        waits_for=composed.waits_for,
    )
    return Sent(job)


def _known(composed: Composed, settings: Settings) -> Entry | None:
    """The journal's job with this very request that makes sending it unnecessary, or None: one
    that is open since before a restart or, with --reuse, the newest that gave an answer.

    Raises:
        BadInput: it may have been accepted already.
    """
    manager = session.manager
    ledger = manager.ledger
    draft = composed.draft.text if composed.draft else ""
    fingerprint = composed.request.fingerprint(manager.destination().name, draft)
    # What is watched here no more, as after its deadline, may still run at the server.
    newest = {job.record.key: job for job in manager.jobs()}
    here = {key for key, job in newest.items() if job.status != Status.DETACHED}
    notebook = session.notebook()
    for entry in reversed(ledger.journal.same(fingerprint, notebook=notebook, name=settings.out)):
        if entry.key in here or (entry.name is None) != (settings.out is None):
            continue
        if entry.status == Status.WAITING and not entry.sendable:
            continue  # never sent, and the journal can't send it: this cell can
        if ledger.free(entry):
            if entry.response_id is None and entry.status == Status.SUBMITTING:
                raise BadInput(
                    "the very same request was being sent when its kernel ended, and may have been "
                    "accepted; --again sends it anew, at the risk of paying twice"
                )
            return entry
    completed = ledger.journal.same(fingerprint, completed=True) if settings.reuse else []
    reader = composed.request.reader
    answered = (entry for entry in reversed(completed) if not manager.past(entry, reader).error)
    return next(answered, None)


def _ago(job: Job) -> str:
    seconds = time.time() - (job.record.ended_at or job.record.submitted_at)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def submit(
    prompt: str,
    *,
    out: str | None = None,
    model: str | None = None,
    effort: str | None = None,
    verbosity: str | None = None,
    instructions: str | None = None,
    max_output_tokens: int | None = None,
    poll: float | None = None,
    deadline: float | str | None = None,
    messages: Sequence[Mapping[str, Any]] | None = None,
    continue_: Answer | Job | str | None = None,
    file: Any = None,
    tool: Any = None,
    schema: type[Any] | Mapping[str, Any] | None = None,
    param: Mapping[str, Any] | None = None,
    stream: bool | None = None,
    again: bool | None = None,
    reuse: bool | None = None,
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
        instructions: system text.
        max_output_tokens: end as incomplete after so many tokens, reasoning included.
        poll: seconds between polls, more than 0 and less than 90.
        deadline: seconds, or text such as "12h", after acceptance until watching ends (24 h).
        messages: earlier turns as the API takes them.
        continue_: the answer, or the job, whose conversation this goes on with; or its name.
        file: a path, bytes, a PIL image, a matplotlib figure, or a list of these.
        tool: the type of a hosted tool, as "web_search", its dict, or a list of these.
        schema: a Pydantic model or a JSON schema; the answer's ``data`` is the validated object.
        param: any other field of the request body; keys may be dotted.
        stream: have ``job.text`` grow as the response is written.
        again: with ``out``, send even though the identical request is still running.
        reuse: with ``out``, take the answer of this very request from the journal if it has one.
        fill: what the ``{{ expressions }}`` in the prompt name; without it braces are text. A job
            that still runs is waited for.

    Raises:
        BadInput: an argument can't be used or there is no API key; nothing was sent.
    """
    given: dict[str, Any] = {
        "out": out,
        "model": model,
        "effort": effort,
        "verbosity": verbosity,
        "instructions": instructions,
        "max_output_tokens": max_output_tokens,
        "poll": poll,
        "deadline": deadline,
        "messages": messages,
        "continue_": continue_,
        "file": file,
        "tool": tool,
        "schema": schema,
        "param": param,
        "stream": stream,
        "again": again,
        "reuse": reuse,
    }
    settings = settings_of(given, from_python=True)
    if not isinstance(prompt, str):
        raise BadInput(f"the prompt must be text, not {type(prompt).__name__}")
    variable = None
    if settings.out is not None:
        if session.hold is None:
            raise BadInput(
                "out= names a notebook variable: run %load_ext bgmagic there, or leave it out"
            )
        variable = session.hold(settings.out)
    composed = compose_prompt(prompt, settings, fill)
    return send(composed, settings, settings.out, variable).job


def jobs(*, past: bool = False) -> list[Job]:
    """The jobs of this process, oldest first.

    Args:
        past: with those that other kernels of this notebook left in the journal before them; to be
            read, `%bgattach` follows one that is open.
    """
    manager = session.manager
    here = manager.jobs()
    if not past:
        return here
    known = {job.record.key for job in here}
    journal = manager.ledger.journal
    entries = reversed(journal.entries(notebook=session.notebook()))
    whole = (journal.find(entry.key) for entry in entries if entry.key not in known)
    return [manager.past(entry) for entry in whole if entry is not None] + here


def use(client: Any) -> None:
    """Send the jobs from now on with the settings of ``client``; None goes back to the environment.

    Jobs that are already sent stay with the server and the credentials that accepted them. The
    client itself is not used and can be closed.

    Args:
        client: an ``OpenAI``, ``AsyncOpenAI``, ``AzureOpenAI`` or ``AsyncAzureOpenAI`` of the SDK.

    Raises:
        BadInput: it is something else, or has a transport of its own.
    """
    from bgmagic.sdk import server_of

    session.manager.server = None if client is None else server_of(client)
