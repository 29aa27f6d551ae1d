"""The one way in: settings and a prompt become a request, and the request a job.

Shared by the magic and by plain Python, and where the one manager of this process lives. What is
particular to notebooks (names, cards, one-line errors) is magics.py's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bgmagic.client import server_of
from bgmagic.errors import BadInput
from bgmagic.job import Job, Variable
from bgmagic.manager import JobManager
from bgmagic.options import Settings, settle
from bgmagic.prompt import messages as as_messages
from bgmagic.request import Request, build_request


def _make_card(job: Job) -> Any:
    # Imported when a card is shown: plain Python needs no widgets.
    from bgmagic.display.card import Card

    return Card(job)


class Session:
    """This process's manager, and the defaults that `%config` holds while the extension is loaded.

    Attributes:
        manager: runs every job.
        config: option names and values set with `%config`; empty without the extension.
        hold: makes the variable for ``submit(out=…)``, or None where there is no notebook.
    """

    def __init__(self) -> None:
        self.manager = JobManager(make_card=_make_card)
        self.config: Mapping[str, Any] = {}
        self.hold: Callable[[str], Variable] | None = None


session = Session()


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
    )


def send(prompt: str, settings: Settings, name: str | None, variable: Variable | None) -> Job:
    """Start the job that asks ``prompt``; returns at once.

    Raises:
        BadInput: nothing was sent.
    """
    return session.manager.submit(
        make_request(prompt, settings),
        name=name,
        variable=variable,
        poll_interval=settings.poll,
        deadline=settings.deadline,
    )


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
    return send(prompt, settings, settings.out, variable)


def jobs() -> list[Job]:
    """All jobs of this process, oldest first."""
    return session.manager.jobs()


def use(client: Any) -> None:
    """Send the jobs from now on with the settings of ``client``; None goes back to the environment.

    Jobs that are already sent stay with the server and the credentials that accepted them. The
    client itself is not used and can be closed.

    Args:
        client: an ``OpenAI``, ``AsyncOpenAI``, ``AzureOpenAI`` or ``AsyncAzureOpenAI`` of the SDK.

    Raises:
        BadInput: it is something else, or has a transport of its own.
    """
    session.manager.server = None if client is None else server_of(client)
