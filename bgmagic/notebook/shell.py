"""What the magics do to IPython's shell: bind variables, show jobs, print errors as one line."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.error import UsageError

from bgmagic.display.listing import describe_jobs, html_table, plain_table, split_by_group
from bgmagic.errors import BadInput, BgmagicError
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Answer, Job
from bgmagic.notebook.blocking import wait
from bgmagic.notebook.parser import options_help
from bgmagic.submission.app import app
from bgmagic.submission.costs import HEADS, PERIODS, costs_since, receipt, start_of
from bgmagic.submission.lookup import JobLookup, names_of, output_type_of
from bgmagic.submission.options import SubmitSettings, options

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from bgmagic.storage.database import StoredJob


@dataclass(frozen=True)
class NamespaceVariables:
    """The names that one job is given to, in one namespace.

    Attributes:
        namespace: the notebook's own dict, not a copy.
        names: every name that holds the job and then its answer.
    """

    namespace: dict[str, Any]
    names: Sequence[str]

    def assign(self, job: Job) -> None:
        """Bind the names to ``job``. On the main thread: a new key can break an iteration over
        the namespace that runs there."""
        for name in self.names:
            self.namespace[name] = job

    def replace(self, job: Job, successor: Job | Answer) -> None:
        """Bind those names to ``successor`` that still hold ``job``."""
        ns = self.namespace
        for name in self.names:
            # No call between test and assignment, so that no other thread gets in between.
            if name in ns and ns[name] is job:
                ns[name] = successor


class NotebookShell:
    """IPython's shell as the `App` needs it: its variables, its notebook, what `%config` holds."""

    def __init__(self, ipython: InteractiveShell, configured: Any) -> None:
        """Make it.

        Args:
            configured: has the defaults that `%config` sets as attributes: the magics.
        """
        self._ipython = ipython
        self._configured = configured

    @property
    def _namespace(self) -> dict[str, Any]:
        namespace: dict[str, Any] = self._ipython.user_ns
        return namespace

    def defaults(self) -> Mapping[str, Any]:
        """What `%config` holds for the options, by their names; None is unset."""
        names = [option.name for option in options(SubmitSettings) if option.configurable]
        names += ["confirm_above", "confirm_above_dollars", "budget"]
        return {name: getattr(self._configured, name) for name in names}

    def base_url(self) -> str | None:
        """The server's address that `%config` holds, or None."""
        found: str | None = self._configured.base_url
        return found

    def notebook_path(self) -> str:
        """The notebook's path where Jupyter servers and VS Code tell it, else ""."""
        path = os.environ.get("JPY_SESSION_NAME") or self._namespace.get("__vsc_ipynb_file__")
        return str(path or "")

    def variable(self, name: str) -> NamespaceVariables:
        """The variable of that name, and ``_bg``, which is always the newest job."""
        return NamespaceVariables(self._namespace, [name, "_bg"])

    def bind(self, name: str, value: Any) -> None:
        """Give ``name`` and ``_bg`` to ``value``."""
        self._namespace[name] = self._namespace["_bg"] = value


def show_group_of(shell: InteractiveShell, group: JobGroup, *, notify: bool = False) -> None:
    """Show a group in the cell that runs now, as its frontend can."""
    if hasattr(shell, "kernel"):
        # Imported with the first board: widgets take most of the time of loading this.
        from bgmagic.display.outputs import show_group

        show_group(group, notify=notify)
    else:
        print(repr(group))


def attach_groups(shell: InteractiveShell, entries: Sequence[StoredJob]) -> list[StoredJob]:
    """Pick up each group that has one of these jobs, or print why not; returns the other jobs."""
    groups = {entry.group_key: entry for entry in entries if entry.group_key is not None}
    for number, entry in enumerate(groups.values()):
        try:
            attach_named_group(
                shell, entry, entry.group_name or f"_bg{shell.execution_count}_g{number}"
            )
        except BadInput as error:
            print(error)
    return [entry for entry in entries if entry.group_key is None]


def tell_past(shell: InteractiveShell, entry: StoredJob, name: str) -> None:
    """Show the group of ``entry``, which no variable holds, from the journal."""
    from bgmagic.sweeps.submit import load_group

    assert entry.group_key is not None  # noqa: S101 - the callers look for one
    group = load_group(entry.group_key, name)
    if group.done():
        show_group_of(shell, group)
    else:  # a board of what others follow would not move
        print(f"{describe_jobs(group.jobs)}; %bgattach {name} gives {name} the group")


def attach_named_group(shell: InteractiveShell, entry: StoredJob, out: str | None) -> None:
    """Pick up the whole group of ``entry`` under its own name, or ``out``, and show it.

    Raises:
        BadInput: the name is taken, or none of its jobs can be picked up.
    """
    from bgmagic.sweeps.submit import attach_group

    assert entry.group_key is not None  # noqa: S101 - the callers look for one
    name = out or entry.group_name or f"_bg{shell.execution_count}"
    namespace: dict[str, Any] = shell.user_ns
    held = namespace.get(name)
    same = isinstance(held, JobGroup) and held.key == entry.group_key
    if name in namespace and not same:
        raise BadInput(f"{name} holds something else; %bgattach {name} -o OTHER")
    group = attach_group(entry.group_key, name, lambda found: output_type_of(found, namespace))
    namespace[name] = group
    missing = group.size - len(group.jobs)
    if missing > 0:
        print(
            f"{name}: {missing} of its {group.size} jobs came from other sweeps with --reuse, or "
            "were forgotten; run its cell again with --reuse for all"
        )
    show_group_of(shell, group)


# Jobs whose end a terminal is to be told, and those of which it has been.
UNANNOUNCED: list[Job] = []

ANNOUNCED: weakref.WeakSet[Job] = weakref.WeakSet()

F = TypeVar("F", bound=Callable[..., Any])


def with_options_help(settings: type[Any]) -> Callable[[F], F]:
    """Append the options to a magic's help, which Shift+Tab and ``?`` show."""

    def document(function: F) -> F:
        # Before Python 3.13 a docstring has the indentation of the code.
        text = inspect.cleandoc(function.__doc__ or "")
        function.__doc__ = f"{text}\n\nOptions:\n{options_help(settings)}\n"
        return function

    return document


@contextlib.contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Show an error of ours as one line."""
    # Exactly UsageError: IPython prints the traceback of a subclass.
    try:
        yield
    except BgmagicError as error:
        raise UsageError(str(error)) from None


def wait_and_tell(chosen: Sequence[Job], timeout: float | None) -> None:
    """Wait for jobs and print how each stands then."""
    pending = wait(chosen, timeout)
    for some in split_by_group(chosen):
        on = f", not done after {timeout:g} s; it goes on" if set(some) & set(pending) else ""
        print(f"{describe_jobs(some)}{on}")
        ANNOUNCED.update(job for job in some if job.done())
    if "bgmagic.display.outputs" in sys.modules:
        # Frontends without a live kernel connection only hear what the running cell displays.
        from bgmagic.display.outputs import republish

        republish()


def show_receipt(period: str, *, live: bool) -> None:
    """Show what jobs cost, as a table in a notebook and as text elsewhere.

    Raises:
        BadInput: there is no such period.
    """
    from IPython.display import display

    if period not in PERIODS:
        raise BadInput(f"%bgcost {period}: allowed are {', '.join(PERIODS)}")
    found = costs_since(app.manager.store, start_of(period, time.time()))
    lines = [line.cells for line in receipt(found)]
    if not found:
        print("No job has cost anything, as far as the journal knows.")
        return
    budget = app.budget()
    note = f"The budget is {budget}." if budget is not None else ""
    text = "\n".join(part for part in (plain_table(HEADS, lines), note) if part)
    if live:
        shown = {"text/html": html_table(HEADS, lines) + note, "text/plain": text}
        display(shown, raw=True)  # type: ignore[no-untyped-call]
    else:
        print(text)


def tell_open(remedy: str) -> None:
    """Say in one line which jobs of this notebook are still open, or nothing if none is."""
    found = JobLookup().open_jobs()
    if found:
        told = names_of(found)
        more = f" and {len(told) - 5} more" if len(told) > 5 else ""
        names = ", ".join(told[:5])
        jobs_are = "job is" if len(found) == 1 else "jobs are"
        print(f"{len(found)} {jobs_are} still open from this notebook: {names}{more}. {remedy}")
