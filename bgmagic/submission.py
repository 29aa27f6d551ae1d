"""The one way in: settings and a prompt become a request, and the request a job.

Shared by the magic and by plain Python. What is particular to notebooks (names, cards, one-line
errors) is magics.py's business, where the one manager of this process lives session.py's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bgmagic.control import Variable
from bgmagic.errors import BadInput
from bgmagic.job import Job
from bgmagic.options import Settings, settle
from bgmagic.prompt import messages as as_messages
from bgmagic.request import Request, build_request
from bgmagic.session import session as session  # where magics look for it
from bgmagic.status import Status

if TYPE_CHECKING:
    from bgmagic.store import Entry


def make_request(prompt: str, settings: Settings) -> Request:
    """The request that asks ``prompt`` with ``settings``.

    Raises:
        BadInput: the prompt is empty, or messages or parameters can't be used.
    """
    return build_request(
        as_messages(prompt, settings.messages),
        model=settings.model,
        effort=settings.effort,
        verbosity=settings.verbosity,
        instructions=settings.instructions,
        max_output_tokens=settings.max_output_tokens,
        params=settings.param,
        stream=settings.stream,
    )


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


def send(prompt: str, settings: Settings, name: str | None, variable: Variable | None) -> Sent:
    """Start the job that asks ``prompt``, or join its twin that still runs; returns at once.

    A submission without a variable is never joined: who asks twice in Python means it.

    Raises:
        BadInput: nothing was sent.
    """
    request, manager = make_request(prompt, settings), session.manager
    if variable is not None and not settings.again:
        twin = manager.twin(request, name=settings.out, notebook=session.notebook())
        if twin is not None and twin.status == Status.UNKNOWN:
            raise BadInput(
                f"the very same request ended as unknown {_ago(twin)} ago and may have been "
                f"accepted; --again sends it anew, at the risk of paying twice"
            )
        if twin is not None and not twin.done():
            twin.give(variable)
            return Sent(twin, joined=True)
        known = _known(request, settings)
        if known is not None:
            return Sent(manager.attach(known, variable), joined=True)
    job = manager.submit(
        request,
        name=name,
        named=settings.out is not None,
        notebook=session.notebook(),
        variable=variable,
        poll_interval=settings.poll,
        deadline=settings.deadline,
    )
    return Sent(job)


def _known(request: Request, settings: Settings) -> Entry | None:
    """The journal's job with this very request that makes sending it unnecessary, or None: one
    that is open since before a restart or, with --reuse, the newest that completed.

    Raises:
        BadInput: it may have been accepted already.
    """
    manager = session.manager
    ledger = manager.ledger
    fingerprint = request.fingerprint(manager.destination().name)
    here = {job.record.key for job in manager.jobs()}
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
    return completed[-1] if completed else None


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
    param: Mapping[str, Any] | None = None,
    stream: bool | None = None,
    again: bool | None = None,
    reuse: bool | None = None,
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
        param: any other field of the request body; keys may be dotted.
        stream: have ``job.text`` grow as the response is written.
        again: with ``out``, send even though the identical request is still running.
        reuse: with ``out``, take the answer of this very request from the journal if it has one.

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
        "param": param,
        "stream": stream,
        "again": again,
        "reuse": reuse,
    }
    settings = settle(Settings, given, config=session.config, from_python=True)
    if not isinstance(prompt, str):
        raise BadInput(f"the prompt must be text, not {type(prompt).__name__}")
    variable = None
    if settings.out is not None:
        if session.hold is None:
            raise BadInput(
                "out= names a notebook variable: run %load_ext bgmagic there, or leave it out"
            )
        variable = session.hold(settings.out)
    return send(prompt, settings, settings.out, variable).job


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
