"""This process's one manager and its journal, and the defaults that belong to a notebook.

What the manager does is its own business, what is sent submission.py's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgmagic.control import Variable
from bgmagic.errors import BadInput
from bgmagic.farewell import at_end, farewell, say
from bgmagic.job import Job

if TYPE_CHECKING:
    from bgmagic.manager import JobManager
    from bgmagic.server import Server


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
        bind: gives a name to a group of jobs, or None where there is no notebook.
        notebook: tells the notebook's path, or "".
        base_url: where jobs go, if `%config` says so; else BGMAGIC_BASE_URL or OPENAI_BASE_URL do.
        journal_path: where this process's journal is, once there is one; None is in memory.
    """

    def __init__(self) -> None:
        self.config: Mapping[str, Any] = {}
        self.hold: Callable[[str], Variable] | None = None
        self.bind: Callable[[str, Any], None] | None = None
        self.notebook: Callable[[], str] = str
        self.base_url: str | None = None
        self.journal_path: Path | None = None
        self._ends = False
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

    def _server(self) -> Server:
        from bgmagic.server import Server

        return Server.from_environment(self.base_url or os.environ.get("BGMAGIC_BASE_URL"))

    def _end(self) -> None:
        """As the process ends: end the manager, and say which jobs it leaves behind."""
        if self._manager is None:
            return
        left = [job for job in self._manager.jobs() if not job.done()]
        self._manager.close()
        line = farewell(left, self._written)
        if line:
            say(line)

    def _written(self, job: Job) -> bool:
        return self.journal_path is not None and self.manager.ledger.has(job.record)

    def has_journal(self) -> bool:
        """Whether there is a journal to read; asking makes none."""
        path = default_path()
        return self._manager is not None or (path is not None and path.exists())

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown of the server that is configured now; none if there is none."""
        try:
            return self.manager.destination().secrets
        except BadInput:
            return ()

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

    def _made(self, path: Path | None) -> JobManager:
        # Here, and not for `%load_ext`: SQLite and what runs jobs take half of all import time.
        from bgmagic.journal import Journal
        from bgmagic.ledger import Ledger
        from bgmagic.manager import JobManager
        from bgmagic.owners import Owner

        folder = None if path is None else path.parent / "owners"
        made = JobManager(make_card=_make_card, ledger=Ledger(Journal(path), Owner(folder)))
        made.named_by_environment = self._server
        self.journal_path = path
        if not self._ends:
            self._ends = True
            at_end(self._end)
        return made


session = Session()
