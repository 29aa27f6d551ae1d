"""Binds variables, shows jobs and prints errors in IPython's shell, for the magics."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import ModuleType
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from bgmagic.display import frontend
from bgmagic.display.listing import (
    Drawn,
    EndingLines,
    TableRow,
    describe_job,
    describe_jobs,
    earlier_line,
    html_table,
    plain_table,
    sent_group_line,
    sent_line,
    split_by_group,
    table_text,
)
from bgmagic.errors import BgmagicError
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.record import Listener
from bgmagic.notebook.blocking import (
    MainThread,
    Questions,
    can_type,
    named_function,
    wait,
)
from bgmagic.submission.app import app, gc_paused, place
from bgmagic.submission.costs import HEADS, Receipt
from bgmagic.text import without_controls
from bgmagic.values import dataclass

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from bgmagic.display.static_html import Bundle


@dataclass(frozen=True)
class NamespaceVariables:
    """The variables of one namespace that get a job and its answer.

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


class NotebookShell(abc.ABC):
    """IPython's shell as the `App` and the magics need it.

    Its variables, its notebook, what `%config` holds, and how jobs are shown there: as widgets and
    HTML by a `KernelShell`, as lines of text by a `TerminalShell`.
    """

    def __init__(self, ipython: InteractiveShell, configured: Any, main: MainThread) -> None:
        """Make it.

        Args:
            configured: has the defaults that `%config` sets as attributes: the magics.
            main: calls functions between cells.
        """
        self._ipython = ipython
        self._configured = configured
        self._settable: list[str] = []
        self._main = main
        self._questions = Questions()

    @property
    def namespace(self) -> dict[str, Any]:
        """The notebook's variables: its own dict, not a copy."""
        namespace: dict[str, Any] = self._ipython.user_ns
        return namespace

    @property
    def numbered_name(self) -> str:
        """The variable of a job for which the user chose none: ``_bg`` and the cell's number."""
        return f"_bg{self._ipython.execution_count}"

    def defaults(self) -> Mapping[str, Any]:
        """What `%config` has set, by its names; None is unset."""
        if not self._settable:
            self._settable = self._configured.trait_names(config=True)
        return {name: getattr(self._configured, name) for name in self._settable}

    def notebook_path(self) -> str:
        """The notebook's path where Jupyter servers and VS Code set it, else as `place` has it."""
        return frontend.notebook_path(self.namespace) or place()

    def variable(self, name: str) -> NamespaceVariables:
        """The variable of that name, and ``_bg``, which is always the newest job."""
        return NamespaceVariables(self.namespace, [name, "_bg"])

    def bind(self, name: str, value: Any) -> None:
        """Give ``name`` and ``_bg`` to ``value``."""
        self.namespace[name] = self.namespace["_bg"] = value

    def put_in_next_cell(self, text: str) -> None:
        """Put ``text`` into a new cell below, or at the next prompt of a terminal."""
        self._ipython.set_next_input(text)

    def function(self, name: str) -> Callable[..., Any] | None:
        """The user's function that is called ``name`` now, or None."""
        return named_function(self.namespace, name)

    def on_main_thread(self) -> Callable[[Callable[[], Any]], Future[Any]] | None:
        """What calls a function between cells, if `%config` says so; or None."""
        return self._main.call if self._configured.tools_on_main_thread else None

    # How jobs are shown.

    def can_ask(self) -> bool:
        """Whether somebody is there who can allow or deny what a model wants to call."""
        self._questions.start(app)
        return self._types()

    @abc.abstractmethod
    def _types(self) -> bool:
        """Whether somebody is there who can be asked by a line at the prompt."""

    @abc.abstractmethod
    def show(self, job: Job) -> None:
        """Show a job in the cell that runs now, and there its end."""

    @abc.abstractmethod
    def tell_sent(self, job: Job, earlier: Job | None, *, notify: bool) -> None:
        """Show a job that was just submitted.

        Args:
            earlier: a job for the same variable that still runs.
            notify: whether the end is a notification of the desktop too, where that can be.
        """

    @abc.abstractmethod
    def show_result(self, job: Job, *, here: bool) -> None:
        """Show a job with what it gave; ``here`` is whether this kernel can follow it."""

    @abc.abstractmethod
    def show_group(self, group: JobGroup) -> None:
        """Show a group in the cell that runs now."""

    @abc.abstractmethod
    def tell_sent_group(self, group: JobGroup, bill: Callable[[], object], *, notify: bool) -> None:
        """Show a group that was just submitted; ``bill`` says what it may cost."""

    @abc.abstractmethod
    def show_table(
        self,
        which: str,
        rows: Sequence[TableRow],
        jobs: Sequence[Job],
        find: Callable[[str], Job | None],
        watch: Callable[[Listener], None],
    ) -> None:
        """Show a table of jobs.

        Args:
            which: the table's name: the same one is shown again; "" is a table without new jobs.
            rows: all of it, as it is now.
            jobs: those of them that this kernel has.
            find: gives a job of the journal by its key.
            watch: has its argument told of each job that is new.
        """

    @abc.abstractmethod
    def show_receipt(self, make: Callable[[], Receipt], jobs: Sequence[Job]) -> None:
        """Show what jobs cost, which changes as ``jobs`` end."""

    def before_cell(self, *_: object) -> None:
        """Ask what has come up since the last cell, which the next may wait for; IPython calls it
        before each."""
        if self._types():
            self._questions.ask()

    @abc.abstractmethod
    def after_cell(self, *_: object) -> None:
        """Show what may have been missed since the last cell; IPython calls it after each."""

    def wait_and_tell(self, jobs: Sequence[Job], timeout: float | None) -> None:
        """Wait for jobs and print how each stands then; ``timeout`` in seconds."""
        waited = frozenset(jobs)
        pending = wait(jobs, timeout, lambda: self._meanwhile(waited))
        for some in split_by_group(jobs):
            on = f", not done after {timeout:g} s; it goes on" if set(some) & set(pending) else ""
            print(f"{describe_jobs(some)}{on}")

    def _meanwhile(self, jobs: Collection[Job]) -> None:
        """Do what a wait for ``jobs`` must not put off until the cell has ended: ask, or say that
        a job asks."""
        if not self._types():
            self._questions.tell(jobs, _where_to_click)
        elif not self._questions.ask():
            raise KeyboardInterrupt


def _where_to_click(job: Job) -> str:
    card = f"the card that %bgjobs {job.name} shows" if job.outline.position else "its card"
    return f"click Allow or Deny on {card}"


class KernelShell(NotebookShell):
    """The shell of a kernel, whose frontend shows widgets and HTML.

    The displays are imported with the first of them: widgets take most of the time of loading this.
    Where it is not known that the frontend shows them, lines say what was sent and what has ended.
    """

    def __init__(self, ipython: InteractiveShell, configured: Any, main: MainThread) -> None:
        super().__init__(ipython, configured, main)
        self._lines = EndingLines("; %bgjobs {} shows it")

    def can_ask(self) -> bool:
        """Somebody who looks at the card, or types in a console; not a program that runs cells."""
        return super().can_ask() or frontend.current().live

    def _types(self) -> bool:
        """In a console; where there are cards, these ask."""
        return frontend.current().hears == "next cell" and frontend.takes_input()

    def show(self, job: Job) -> None:
        """Show its card, or its end."""
        self._show(job, describe_job(job))

    def tell_sent(self, job: Job, earlier: Job | None, *, notify: bool) -> None:
        """Show its card, or its end."""
        line = sent_line(job)
        if earlier is not None:
            line += f"\n{earlier_line(job, earlier)}"
        self._show(job, line, earlier, notify=notify)

    def _show(
        self, job: Job, line: str, earlier: Job | None = None, *, notify: bool = False
    ) -> None:
        shown = _outputs().show(job, earlier=earlier, notify=notify, line=line)
        self._expect(job, shown)

    def show_result(self, job: Job, *, here: bool) -> None:
        """Show its card or its end; in text what another kernel may follow."""
        if here or job.done():
            self.show(job)
        else:
            _print_result(job)

    def show_group(self, group: JobGroup) -> None:
        """Show its board, or its end."""
        self._show_group(group, repr(group))

    def tell_sent_group(self, group: JobGroup, bill: Callable[[], object], *, notify: bool) -> None:
        """Show its board, which works out the bill by itself."""
        line = sent_group_line(group, bill) if frontend.current().hears == "next cell" else ""
        self._show_group(group, line, notify=notify)

    def _show_group(self, group: JobGroup, line: str, *, notify: bool = False) -> None:
        self._expect(group, _outputs().show_group(group, notify=notify, line=line))

    def _expect(self, one: Job | JobGroup, shown: Drawn) -> None:
        if frontend.current().hears == "next cell" and not one.done():
            self._lines.expect(one, shown)

    def show_table(
        self,
        which: str,
        rows: Sequence[TableRow],
        jobs: Sequence[Job],
        find: Callable[[str], Job | None],
        watch: Callable[[Listener], None],
    ) -> None:
        """Show a live table."""
        _outputs().show_board(which, rows, jobs, find, watch)

    def show_receipt(self, make: Callable[[], Receipt], jobs: Sequence[Job]) -> None:
        """Show an HTML table."""

        def bundle() -> Bundle:
            lines, note = make()
            return {
                "text/html": html_table(HEADS, lines) + note,
                "text/plain": _table_with_note(lines, note),
            }

        _outputs().LiveTable(bundle, jobs).show()

    def after_cell(self, *_: object) -> None:
        """Show again, or say, what the frontend may not have heard from another thread."""
        frontend.after_cell()
        if self._types():
            self._questions.ask()
        self._lines.tell()

    def wait_and_tell(self, jobs: Sequence[Job], timeout: float | None) -> None:
        """Also show again what ended meanwhile, and remember whose end was told."""
        super().wait_and_tell(jobs, timeout)
        self._lines.told(jobs)
        # Frontends without a live kernel connection only hear what the running cell displays.
        frontend.republish()


class TerminalShell(NotebookShell):
    """IPython in a terminal: a line when a job is sent, and one at the prompt after its end."""

    def __init__(self, ipython: InteractiveShell, configured: Any, main: MainThread) -> None:
        super().__init__(ipython, configured, main)
        self._lines = EndingLines()

    def _types(self) -> bool:
        return can_type()

    def show(self, job: Job) -> None:
        """Print a line."""
        print(describe_job(job))
        if not job.done():
            self._lines.expect(job)

    def tell_sent(self, job: Job, earlier: Job | None, *, notify: bool) -> None:
        """Print a line."""
        print(sent_line(job))
        self._lines.expect(job)
        if earlier is not None:
            print(earlier_line(job, earlier))

    def show_result(self, job: Job, *, here: bool) -> None:
        """Print a line and the text."""
        _print_result(job)

    def show_group(self, group: JobGroup) -> None:
        """Print a line."""
        print(repr(group))

    def tell_sent_group(self, group: JobGroup, bill: Callable[[], object], *, notify: bool) -> None:
        """Print a line with the bill."""
        print(sent_group_line(group, bill))
        self._lines.expect(group)

    def show_table(
        self,
        which: str,
        rows: Sequence[TableRow],
        jobs: Sequence[Job],
        find: Callable[[str], Job | None],
        watch: Callable[[Listener], None],
    ) -> None:
        """Print the table."""
        print(table_text(rows))

    def show_receipt(self, make: Callable[[], Receipt], jobs: Sequence[Job]) -> None:
        """Print the table."""
        print(_table_with_note(*make()))

    def after_cell(self, *_: object) -> None:
        """Say in a line before the next prompt which jobs have ended since."""
        self._questions.tells = False
        self._main.drain()
        self._questions.ask()
        self._lines.tell()

    def before_cell(self, *_: object) -> None:
        """Also say, as long as the cell runs, that a job asks."""
        super().before_cell()
        self._questions.tells = True

    def _meanwhile(self, jobs: Collection[Job]) -> None:
        """Also call what is to be called on this thread."""
        self._main.drain()
        super()._meanwhile(jobs)

    def wait_and_tell(self, jobs: Sequence[Job], timeout: float | None) -> None:
        """Also remember whose end was told."""
        told, self._questions.tells = self._questions.tells, False
        try:
            super().wait_and_tell(jobs, timeout)
        finally:
            self._questions.tells = told
        self._lines.told(jobs)


def shell_of(ipython: InteractiveShell, configured: Any, main: MainThread) -> NotebookShell:
    """The shell that shows jobs as ``ipython`` can; the rest as for `NotebookShell`."""
    kind = KernelShell if hasattr(ipython, "kernel") else TerminalShell
    return kind(ipython, configured, main)


def _outputs() -> ModuleType:
    """The displays: the first cell that shows something imports them, and with them the widgets."""
    with gc_paused():
        from bgmagic.display import outputs
    return outputs


def _print_result(job: Job) -> None:
    print(describe_job(job), without_controls(job.text), sep="\n")


def _table_with_note(lines: Sequence[Sequence[str]], note: str) -> str:
    return f"{plain_table(HEADS, lines)}\n{note}".rstrip()


@contextlib.contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Show an error of ours as one line."""
    # Exactly UsageError: IPython prints the traceback of a subclass. It is no output of kind error.
    try:
        yield
    except BgmagicError as error:
        if frontend.current().is_program:
            raise  # one line, too: see its class
        raise UsageError(str(error)) from None
