"""The one way in: settings and a prompt become a request, and the request a job.

Shared by the magic and by plain Python, and where the one manager of this process lives. What is
particular to notebooks (names, cards, one-line errors) is magics.py's business.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgmagic.control import Variable
from bgmagic.errors import BadInput
from bgmagic.job import Job
from bgmagic.options import Settings, settle
from bgmagic.prompt import messages as as_messages
from bgmagic.request import Request, build_request
from bgmagic.status import Status

if TYPE_CHECKING:
    from bgmagic.manager import JobManager
    from bgmagic.store import Entry


def _make_card(job: Job) -> Any:
    # Imported when a card is shown: plain Python needs no widgets.
    from bgmagic.display.card import Card

    return Card(job, history=_history, pick_up=_picked_up)


def _picked_up(job: Job) -> Job:
    from bgmagic.again import picked_up

    return picked_up(job, session.manager.ledger, session.manager.attach)


def _history(job: Job) -> dict[str, Any]:
    """How long the user's own earlier jobs of this model and effort took, in seconds."""
    import statistics

    asked, server = job.request, job.record.server
    journal = session.manager.ledger.journal
    took = journal.durations(server, asked.model, asked.effort)
    if not took:
        return {"count": 0}
    middle = statistics.median(took)
    return {"count": len(took), "median": middle, "low": min(took), "high": max(took)}


def default_path() -> Path | None:
    """Where the journal is: BGMAGIC_JOURNAL (":memory:" is None), else the user's data folder."""
    named = os.environ.get("BGMAGIC_JOURNAL")
    if named:
        return None if named == ":memory:" else Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_path("bgmagic")) / "journal.sqlite3"


class Session:
    """This process's manager, and the defaults that `%config` holds while the extension is loaded.

    Attributes:
        config: option names and values set with `%config`; empty without the extension.
        hold: makes the variable for ``submit(out=…)``, or None where there is no notebook.
        notebook: tells the notebook's path, or "".
    """

    def __init__(self) -> None:
        self.config: Mapping[str, Any] = {}
        self.hold: Callable[[str], Variable] | None = None
        self.notebook: Callable[[], str] = str
        self._manager: JobManager | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        # The parent's thread, connections and journal are not the child's: it starts with none.
        self._manager = None

    @property
    def manager(self) -> JobManager:
        """Runs every job; made when first needed, with the journal that is configured by then."""
        if self._manager is None:
            self._manager = self._made(default_path())
        return self._manager

    def has_journal(self) -> bool:
        """Whether there is a journal to read; asking makes none."""
        path = default_path()
        return self._manager is not None or (path is not None and path.exists())

    def move_journal(self, path: Path | None) -> None:
        """Keep the journal at ``path``, or in this process's memory only for None.

        Raises:
            BadInput: there are jobs already, which are written down elsewhere.
        """
        if self._manager is not None:
            if self._manager.jobs():
                raise BadInput("the journal can only be moved before the first job of a kernel")
            self._manager.close()
        self._manager = self._made(path)

    @staticmethod
    def _made(path: Path | None) -> JobManager:
        # Here, and not for `%load_ext`: SQLite and what runs jobs take half of all import time.
        from bgmagic.journal import Journal
        from bgmagic.ledger import Ledger
        from bgmagic.manager import JobManager
        from bgmagic.owners import Owner

        folder = None if path is None else path.parent / "owners"
        return JobManager(make_card=_make_card, ledger=Ledger(Journal(path), Owner(folder)))


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
