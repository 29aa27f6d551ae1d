"""The magics: notebook text in, jobs out.

Reads header lines, names variables, shows cards, and turns whatever is wrong into one line. How a
job is made and run is submission.py's and the manager's business.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from IPython.display import publish_display_data
from traitlets import All
from traitlets import Any as AnyTrait

from bgmagic import embedded
from bgmagic.answer import Answer
from bgmagic.blocking import wait, wake_on_signals
from bgmagic.errors import BadInput, BgmagicError
from bgmagic.header import parse
from bgmagic.job import Job
from bgmagic.namespace import Variables
from bgmagic.options import (
    CancelSettings,
    ListSettings,
    LocalSettings,
    Settings,
    WaitSettings,
    describe,
    options,
    read_option,
    settle,
)
from bgmagic.submission import jobs, send, session

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")


def _documented(settings: type[Any]) -> Callable[[F], F]:
    """Append the options to a magic's help, which Shift+Tab and ``?`` show."""

    def document(function: F) -> F:
        function.__doc__ = f"{function.__doc__}\n\nOptions:\n{describe(settings)}\n"
        return function

    return document


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    # Exactly UsageError: IPython prints the traceback of a subclass.
    try:
        yield
    except BgmagicError as error:
        raise UsageError(str(error)) from None


class Default(AnyTrait):
    """A default for an option, set with ``%config BgMagics.name = value``; None means unset."""

    def __init__(self, name: str) -> None:
        option = next(o for o in options(Settings) if o.name == name)
        super().__init__(None, allow_none=True, help=option.help)
        self.tag(config=True)

    def validate(self, obj: Any, value: Any) -> Any:
        """Read the value as the option would, so that a wrong one is one line here and now."""
        if value is None:
            return None
        with _one_line():
            return read_option(Settings, str(self.name), value, f"BgMagics.{self.name} =")


@magics_class
class BgMagics(Magics):
    """%%bgresponse and its line magics."""

    model = Default("model")
    effort = Default("effort")
    verbosity = Default("verbosity")
    instructions = Default("instructions")
    max_output_tokens = Default("max_output_tokens")
    poll = Default("poll")
    deadline = Default("deadline")
    wait = Default("wait")
    quiet = Default("quiet")

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell = shell
        self.observe(self._publish, All)
        self._publish()
        session.hold = lambda name: self._variables([name])
        session.notebook = self._notebook

    def _publish(self, _change: object = None) -> None:
        names = [option.name for option in options(Settings) if option.configurable]
        session.config = {name: getattr(self, name) for name in names}

    @property
    def _namespace(self) -> dict[str, Any]:
        namespace: dict[str, Any] = self._shell.user_ns
        return namespace

    def _notebook(self) -> str:
        # Where Jupyter servers and VS Code tell it; nobody else does.
        path = os.environ.get("JPY_SESSION_NAME") or self._namespace.get("__vsc_ipynb_file__")
        return str(path or "")

    def _variables(self, names: Sequence[str]) -> Variables:
        # _bg is always the newest job.
        return Variables(self._namespace, [*names, "_bg"])

    def _parse(self, settings: type[S], magic: str, line: str) -> S:
        return settle(
            settings, parse(settings, magic, line, self._namespace), config=session.config
        )

    @no_var_expand
    @cell_magic
    @_documented(Settings)
    def bgresponse(self, line: str, cell: str) -> None:
        """Send this cell to a reasoning model in the background; the prompt is back at once.

        ::

            %%bgresponse -o critique --effort xhigh
            Find the three weakest steps in this proof: …

        ``critique`` holds the job right away, and the answer, a str, when it is there. Meanwhile
        ``await critique`` and ``%bgwait critique`` wait for it and ``%bgcancel critique`` cancels.
        A value that is exactly ``$name`` or ``{name}`` is that variable's value. Defaults:
        ``%config BgMagics.model = "…"`` or the environment variable BGMAGIC_MODEL, and so on.
        """
        with _one_line():
            settings = self._parse(Settings, "%%bgresponse", line)
            name = settings.out or f"_bg{self._shell.execution_count}"
            earlier = self._namespace.get(name)
            sent = send(cell, settings, name, self._variables([name]))
        if sent.joined:
            print(f"{_line(sent.job)}: the identical request, joined; --again sends it anew")
        elif isinstance(earlier, Job) and not earlier.done():
            which = earlier.response_id or "not accepted yet"
            print(f"{name}: an earlier job for this name goes on ({which})", end="")
            print(f"; %bgcancel {earlier.response_id} cancels it" if earlier.response_id else "")
        if not settings.quiet:
            self._show(sent.job)
        if settings.wait:
            self._wait([sent.job], None)

    def _show(self, job: Job) -> None:
        if hasattr(self._shell, "kernel"):
            # The bundle as it is: asking every formatter in turn takes a third of a card's time.
            publish_display_data(job.card.bundle())  # type: ignore[no-untyped-call]  # IPython's
        else:
            asked = " ".join(word for word in (job.request.model, job.request.effort) if word)
            print(f"{job.name}: sent to {asked} in the background; %bgwait {job.name} waits for it")

    @no_var_expand
    @line_magic
    @_documented(WaitSettings)
    def bgwait(self, line: str) -> None:
        """Wait for jobs, while the kernel stays alive: ``%bgwait critique``.

        An interrupt ends the wait and leaves the jobs alone.
        """
        with _one_line():
            settings = self._parse(WaitSettings, "%bgwait", line)
            chosen = self._named(settings.names) or [job for job in jobs() if not job.done()]
        if chosen:
            self._wait(chosen, settings.timeout)
        else:
            print("No job is open.")

    def _wait(self, chosen: Sequence[Job], timeout: float | None) -> None:
        pending = wait(chosen, timeout)
        for job in chosen:
            goes_on = f", not done after {timeout:g} s; it goes on" if job in pending else ""
            print(f"{_line(job)}{goes_on}")

    @no_var_expand
    @line_magic
    @_documented(CancelSettings)
    def bgcancel(self, line: str) -> None:
        """Ask the server to cancel jobs: ``%bgcancel critique``, an id, or ``--all``."""
        with _one_line():
            settings = self._parse(CancelSettings, "%bgcancel", line)
            if not settings.names and not settings.all:
                raise BadInput("name what to cancel: %bgcancel NAME, a response id, or --all")
            chosen = jobs() if settings.all else self._named(settings.names)
        asked = [job for job in chosen if job.cancel()]
        for job in chosen:
            if job in asked:
                print(f"{job.name or job.response_id}: the server is asked to cancel it")
            elif not settings.all:
                print(f"{_line(job)}; there is nothing to cancel")
        if settings.all and not asked:
            print("No job is open.")

    @no_var_expand
    @line_magic
    @_documented(ListSettings)
    def bgjobs(self, line: str) -> None:
        """List the jobs of this kernel, or show some with what they gave: ``%bgjobs critique``."""
        with _one_line():
            settings = self._parse(ListSettings, "%bgjobs", line)
            chosen = self._named(settings.names)
        if chosen:
            for job in chosen:
                print(_line(job), job.text, sep="\n")
        else:
            print(_table(jobs()) if jobs() else "No jobs yet: %%bgresponse sends one.")

    @no_var_expand
    @line_magic
    @_documented(LocalSettings)
    def bglocal(self, line: str) -> None:
        """Use the embedded model: real, small, on this machine's CPU, no key needed.

        For first tries, teaching and tests. The first start fetches the weights once (93 MB).
        """
        with _one_line():
            words = self._parse(LocalSettings, "%bglocal", line).action
            actions = {"on": embedded.on, "off": embedded.off, "status": embedded.status}
            action = actions.get(words[0] if words else "on")
            if action is None or len(words) > 1:
                raise BadInput(f"%bglocal {' '.join(words)}: allowed are on, off and status")
            action(session.manager)

    def _named(self, names: Sequence[str]) -> list[Job]:
        """The jobs that variables or response ids name.

        Raises:
            BadInput: one of them names none.
        """
        return [self._job(name) for name in names]

    def _job(self, name: str) -> Job:
        held = self._namespace.get(name)
        job = held.job if isinstance(held, Answer) else held
        if isinstance(job, Job):
            return job
        # The name may have been given to something else since; the newest job of that name counts.
        for job in reversed(jobs()):
            if name in (job.name, job.response_id):
                return job
        raise BadInput(f"{name!r} is neither a variable with a job nor the id of one; see %bgjobs")


def _line(job: Job) -> str:
    about = f": {job.error}" if job.error else ""
    return f"{job.name or job.response_id}: {job.status} after {job.elapsed:.0f} s{about}"


def _table(listed: Sequence[Job]) -> str:
    """The jobs as a table in plain text, newest last."""
    heads = ("variable", "status", "model", "effort", "seconds", "id")
    rows = [
        (
            job.name or "",
            job.status,
            job.request.model,
            job.request.effort or "",
            f"{job.elapsed:.0f}",
            job.response_id or "",
        )
        for job in listed
    ]
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    lines = [
        [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        for row in [heads, *rows]
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in lines)


def load(shell: InteractiveShell) -> None:
    """Add the magics to ``shell``, once."""
    if not _loaded(shell):
        shell.register_magics(BgMagics(shell))
        if hasattr(shell, "kernel"):
            wake_on_signals()


def unload(shell: InteractiveShell) -> None:
    """Remove the magics from ``shell``; jobs that run go on."""
    for magics in _loaded(shell):
        for kind, names in magics.magics.items():
            for name in names:
                shell.magics_manager.magics[kind].pop(name, None)
        configurables: list[Any] = shell.configurables
        configurables.remove(magics)
        shell.magics_manager.registry.pop(type(magics).__name__, None)
    session.config, session.hold, session.notebook = {}, None, str


def _loaded(shell: InteractiveShell) -> list[BgMagics]:
    return [found for found in shell.configurables if isinstance(found, BgMagics)]
