"""The process's `App`: where jobs go, the journal, the manager, and what happens at exit."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bgmagic.errors import BadInput
from bgmagic.submission.converters import Converter, to_rate
from bgmagic.submission.options import configured, environment
from bgmagic.text import is_file_name, user_path

if TYPE_CHECKING:
    from bgmagic.api.server import ServerConfig
    from bgmagic.batches.runs import BatchRuns
    from bgmagic.concurrency import Clock
    from bgmagic.jobs.job import Job
    from bgmagic.jobs.record import SendGate, Variable
    from bgmagic.runtime.manager import JobManager
    from bgmagic.storage.database import StoredJob
    from bgmagic.storage.job_store import JobStore
    from bgmagic.submission.costs import Budget, BudgetGate
    from bgmagic.tools.functions import FunctionTool


def register_at_exit(function: Callable[[], object]) -> None:
    """Call ``function`` once as the process ends, while names can still be resolved.

    Handlers of atexit come too late for a job that is just being sent: by then the pools that
    asyncio resolves names in are closed. They are closed by a handler that concurrent.futures has
    registered like this one, as it is imported here; the last one registered is called first.
    """
    import concurrent.futures.thread  # noqa: F401 - registers its handler, which is to be the earlier one

    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(function)
    except RuntimeError:  # the process is ending already
        atexit.register(function)


def write_to_process_log(line: str) -> None:
    """Write ``line`` where the process's own log goes, also as a kernel ends."""
    # A kernel's stderr is a channel to its clients, and where it can, it takes what is written to
    # the real one there too. As it ends nobody reads that any more; this is what it keeps of it.
    real = getattr(sys.stderr, "_original_stdstream_copy", None)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if isinstance(real, int):
            os.write(real, f"{line}\n".encode())
        else:
            print(line, file=sys.__stderr__, flush=True)


def _make_card(job: Job) -> Any:
    # Imported when a card is shown: plain Python needs no widgets.
    from bgmagic.display.frontend import EARLY

    early = EARLY.get(job)

    def make() -> Any:
        with gc_paused():
            from bgmagic.display.card import Card

            return Card(job, history=_history, pick_up=_picked_up, early=early)

    return make() if early is None else early.widget(make)


def _make_batches(store: JobStore, clock: Clock, gate: SendGate | None) -> BatchRuns:
    # Imported with the first batch.
    from bgmagic.batches.runs import BatchRuns

    return BatchRuns(store, clock, gate)


class LazyGroupDisplays:
    """Shows groups; imports the displays when one is looked at."""

    def board(self, group: Any) -> Any:
        """The live board of ``group``, a widget."""
        from bgmagic.display.board import GroupBoard

        return GroupBoard(group)

    def bundle(self, group: Any) -> dict[str, Any]:
        """What ``group`` looks like now, as a MIME bundle that stays."""
        from bgmagic.display.outputs import group_bundle

        return group_bundle(group)


group_displays = LazyGroupDisplays()


def _picked_up(job: Job) -> Job:
    from bgmagic.runtime.attach import reattach

    return reattach(job, app.manager.store, app.manager.attach)


def _history(job: Job) -> dict[str, Any]:
    """How long the user's own earlier jobs of this model and effort took, in seconds."""
    import statistics

    asked, server = job.request, job.record.server
    took = app.manager.store.durations(server, asked.model, asked.effort)
    if not took:
        return {"count": 0}
    middle = statistics.median(took)
    return {"count": len(took), "median": middle, "low": min(took), "high": max(took)}


def journal_path(named: str) -> Path | None:
    """Resolve the file that a user calls the journal, so that ``%cd`` does not change it. A link
    becomes the file that it leads to, whose folder all kernels know; ":memory:" becomes None."""
    path = user_path(named)
    if not is_file_name(path):
        raise BadInput(f"no file can be called {named!r}")
    return None if named == ":memory:" else Path(os.path.realpath(path))


def default_path() -> Path | None:
    """Where the journal is: BGMAGIC_JOURNAL (":memory:" is None), else the user's data folder."""
    named = os.environ.get("BGMAGIC_JOURNAL")
    if named:
        return journal_path(named)
    import platformdirs

    return journal_path(f"{platformdirs.user_data_path('bgmagic')}{os.sep}journal.sqlite3")


def place() -> str:
    """Where a process without a notebook sends jobs from: its script, else the folder that it was
    in when this was first asked, with a separator at the end; "" if that folder is gone."""
    return _place(getattr(sys.modules.get("__main__"), "__file__", None))


@functools.cache  # who goes to another folder is still the same session
def _place(script: str | None) -> str:
    if script:
        return str(Path(script).resolve())
    try:
        return f"{Path.cwd()}{os.sep}"
    except OSError:
        return ""


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector while thousands of objects are made that stay, as by imports: a
    full collection takes 20 to 110 ms in a kernel, as long as everything else that a cell does."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class Shell(Protocol):
    """What the place that jobs are sent from gives: a notebook's shell, or nothing in a script."""

    def defaults(self) -> Mapping[str, Any]:
        """What the user has configured, options and other settings, by name; None is unset."""

    def notebook_path(self) -> str:
        """The notebook that cells are run in; without one, as `place` has it."""

    def variable(self, name: str) -> Variable | None:
        """The variable of that name, for a job and its answer; None where there are none."""

    def bind(self, name: str, value: Any) -> None:
        """Give ``name`` to ``value``."""

    def function(self, name: str) -> Callable[..., Any] | None:
        """The user's function that is called ``name`` now, or None."""

    def can_ask(self) -> bool:
        """Whether somebody is there who can allow or deny what a model wants to call."""

    def on_main_thread(self) -> Callable[[Callable[[], Any]], Future[Any]] | None:
        """What calls a function on the main thread, if the user wants that for tools; or None."""


class NoShell:
    """A script's shell: it has no variables, no notebook and no defaults of its own."""

    def defaults(self) -> Mapping[str, Any]:
        """Nothing: the environment alone has defaults."""
        return {}

    def notebook_path(self) -> str:
        """The script, or the folder."""
        return place()

    def variable(self, name: str) -> Variable | None:
        """None: a script binds its own variables."""
        return None

    def bind(self, name: str, value: Any) -> None:
        """Do nothing."""

    def function(self, name: str) -> None:
        """None: a script's functions are not looked for."""

    def can_ask(self) -> bool:
        """Nobody: a script runs by itself."""
        return False

    def on_main_thread(self) -> None:
        """None: a script's main thread does something else."""


class App:
    """What one process has: its shell, where its jobs go, its journal and its manager.

    Attributes:
        journal_path: where this process's journal is, once there is one; None is in memory.
        local_model: what jobs without a model of their own ask for, where `%bglocal` has set it.
        gate: holds jobs back that could go over the budget, once there is a manager.
    """

    def __init__(self) -> None:
        self.use_shell(NoShell)
        self.journal_path: Path | None = None
        self._used: ServerConfig | None = None
        self._local: ServerConfig | None = None
        self.local_model: str | None = None
        self._ends = False
        self._manager: JobManager | None = None
        self._making = threading.Lock()  # two threads may send the first jobs at once
        self.gate: BudgetGate | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        # The parent's thread, connections and journal are not the child's: it starts with none.
        self._manager, self._making = None, threading.Lock()

    def use_shell(self, make: Callable[[], Shell]) -> None:
        """Have ``make`` give the `shell` from now on, as it is first needed."""
        self._make_shell = make
        vars(self).pop("shell", None)

    @functools.cached_property
    def shell(self) -> Shell:
        """Where jobs are sent from: a notebook between `%load_ext` and `%unload_ext`."""
        return self._make_shell()

    @property
    def manager(self) -> JobManager:
        """Runs every job; made when first needed, with the journal that is configured by then."""
        return self._manager or self._only_manager()

    def _only_manager(self) -> JobManager:
        with self._making, gc_paused():
            if self._manager is None:
                self._manager = self._made(default_path())
            return self._manager

    # Where jobs go.

    def destination(self) -> ServerConfig:
        """Where a job that is submitted now goes: `%bglocal`, `use()`, else what is configured.

        Raises:
            BadInput: there is no key.
        """
        from bgmagic.api.server import ServerConfig

        address, _ = configured("base_url", self.shell.defaults(), environ := environment())
        return self._local or self._used or ServerConfig.from_environment(address, environ)

    def known_server(self) -> ServerConfig | None:
        """The server that is configured now, or None if there is none."""
        try:
            return self.destination()
        except BadInput:
            return None

    def secrets(self) -> tuple[str, ...]:
        """What must not be shown of the server that is configured now; none if there is none."""
        server = self.known_server()
        return () if server is None else server.secrets

    def use(self, server: ServerConfig | None) -> None:
        """Send the jobs from now on to ``server``; None means what is configured."""
        self._used = server
        self.use_local(None)

    def use_local(self, server: ServerConfig | None, model: str | None = None) -> None:
        """Send the jobs from now on to ``server``, the embedded one or another; None goes back.

        Args:
            model: what jobs that name no model ask for there.
        """
        self._local, self.local_model = server, model

    @property
    def local(self) -> ServerConfig | None:
        """The server that `%bglocal` has chosen, where jobs go there; else None."""
        return self._local

    # What is configured.

    def defaults(self) -> dict[str, Any]:
        """The values of options where none is given: `%config`'s; None is unset."""
        found = dict(self.shell.defaults())
        return found | {"model": found.get("model") or self.local_model}

    def setting(self, name: str, read: Converter) -> Any:
        """What `%config` or the environment has for ``name``, as ``read`` gives it; None if unset.

        Raises:
            BadInput: ``read`` can't take it.
        """
        value, label = configured(name, self.shell.defaults())
        return None if value is None else read(value, label)

    def budget(self) -> Budget | None:
        """What may be spent, by `%config` or BGMAGIC_BUDGET; None without a limit.

        Raises:
            BadInput: BGMAGIC_BUDGET is no budget.
        """
        from bgmagic.submission.costs import to_budget

        found: Budget | None = self.setting("budget", to_budget)
        return found

    def _polls_per_second(self) -> float | None:
        """The most polls a second of one server; None if unset. On the loop thread."""
        # Nobody could be told here that it is no number.
        with contextlib.suppress(BadInput):
            rate: float | None = self.setting("polls_per_second", to_rate)
            return rate
        return None

    # The functions that a model may call.

    def function_tool(self, given: Any, *, asks: bool = False) -> FunctionTool | None:
        """The tool of a function, or None if ``given`` is none; ``asks``: it needs somebody's word.

        Raises:
            BadInput: it has no signature that can be said in strict mode, or is only a name.
        """
        from bgmagic.tools.functions import FunctionTool, is_function

        shell, name = self.shell, given.strip() if isinstance(given, str) else ""
        if name and shell.function(name) is not None:
            raise BadInput(f"--tool {name}: for your function of that name write --tool ${name}")
        if not is_function(given):
            return None
        main, can_ask = shell.on_main_thread(), shell.can_ask()
        return FunctionTool.of(given, asks=asks, on_main=main, can_ask=can_ask)

    def _find_function(self, name: str) -> FunctionTool | None:
        with contextlib.suppress(BadInput):
            return self.function_tool(self.shell.function(name))
        return None

    # The journal.

    @property
    def has_manager(self) -> bool:
        """Whether this process runs jobs, or has looked for any."""
        return self._manager is not None

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

    def _made(self, path: Path | None) -> JobManager:
        # Here, and not for `%load_ext`: SQLite and what runs jobs take half of all import time.
        from bgmagic.runtime.manager import JobManager
        from bgmagic.storage.job_store import JobStore
        from bgmagic.storage.journal import Journal
        from bgmagic.storage.owner_lock import OwnerLock
        from bgmagic.submission.costs import BudgetGate

        folder = None if path is None else path.parent / "owners"
        store = JobStore(Journal(path), OwnerLock(folder))
        self.gate = BudgetGate(store, self.budget)
        made = JobManager(
            _make_card,
            store=store,
            destination=self.destination,
            gate=self.gate,
            make_batches=_make_batches,
            find_function=self._find_function,
            polls_per_second=self._polls_per_second,
        )
        self.journal_path = path
        if not self._ends:
            self._ends = True
            register_at_exit(self._end)
        return made

    def take_in(self, batch_id: str, name: str, *, named: bool) -> tuple[StoredJob, list[str]]:
        """Write down a batch that only the server knows; see `FoundBatch.take_in`. Gives one of its
        jobs, and the ids of the other batches of its sweep."""
        from bgmagic.batches.runs import FoundBatch

        found = FoundBatch(batch_id, self.destination(), self.manager.store)
        return found.take_in(name, self.shell.notebook_path(), named=named), found.others

    # As the process ends.

    def _end(self) -> None:
        """As the process ends: end the manager, and say which jobs it leaves behind."""
        if self._manager is None:
            return
        over = {job for job in self._manager.jobs() if job.done()}
        self._manager.close()
        left = [job for job in self._manager.jobs() if job not in over]  # a sweep made more
        unwritten = self._manager.feeds.unwritten()
        if left or unwritten:
            from bgmagic.jobs.outcome import shutdown_message

            if line := shutdown_message(left, self._is_stored, unwritten):
                write_to_process_log(line)

    def _is_stored(self, job: Job) -> bool:
        return self.journal_path is not None and self.manager.store.is_stored(job.record)


app = App()
