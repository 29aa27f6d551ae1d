"""What `%load_ext` adds: the names of the magics and the defaults that `%config` sets.

What they need is imported when one of them is first used or asked for its help, or before that
while the kernel is idle (`warming`): loading is quick, and so is the first cell.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import threading
from collections.abc import Callable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any

from IPython.core.completer import CompletionContext, SimpleMatcherResult, context_matcher
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, magics_class
from traitlets import Any as AnyTrait

from bgmagic.display import frontend
from bgmagic.notebook.blocking import MainThread, wake_on_signals
from bgmagic.submission.app import NoShell, app, default_path, gc_paused, journal_path, place
from bgmagic.submission.converters import Converter, to_count, to_duration, to_rate, to_switch
from bgmagic.submission.options import options
from bgmagic.submission.settings import SubmitSettings

if TYPE_CHECKING:
    from bgmagic.notebook.cell_magic import BgCellMagics
    from bgmagic.notebook.line_magics import BgLineMagics
    from bgmagic.notebook.shell import NotebookShell

# The magics, by kind. The classes in `cell_magic` and `line_magics` have them.
NAMES = {
    "cell": ("bgresponse",),
    "line": ("bgattach", "bgcancel", "bgcode", "bgcost", "bgjobs", "bglocal", "bgwait"),
}


class OptionTrait(AnyTrait):
    """A default set with ``%config BgMagics.name = value``; None means unset."""

    def __init__(self, about: str, convert: Converter) -> None:
        """Make the trait.

        Args:
            about: one sentence of help.
            convert: reads a value as the option would; raises BadInput.
        """
        super().__init__(None, allow_none=True, help=about)
        self.tag(config=True)
        self._convert = convert

    def validate(self, obj: Any, value: Any) -> Any:
        """Read the value, so that a wrong one is one line here and now."""
        if value is None:
            return None
        from bgmagic.notebook.shell import errors_as_one_line

        with errors_as_one_line():
            return self._convert(value, f"BgMagics.{self.name} =")


def _move_journal(value: Any, _label: str) -> Any:
    app.move_journal(journal_path(str(value)))
    return value


def _use_prices(value: Any, label: str) -> Any:
    from bgmagic.api.pricing import read_prices, set_own_prices

    set_own_prices(read_prices(value, label))
    return value


def _to_base_url(value: Any, label: str) -> str:
    from bgmagic.api.server import check_url

    check_url(str(value), label)
    return str(value).strip()


def _to_budget(value: Any, label: str) -> Any:
    from bgmagic.submission.costs import to_budget

    return to_budget(value, label)


def _traits() -> dict[str, OptionTrait]:
    """Make a trait for each option that `%config` can set, and for those that are no option."""
    found = {
        option.name: OptionTrait(option.help, option.read)
        for option in options(SubmitSettings)
        if option.configurable
    }
    return found | {
        "confirm_above": OptionTrait("jobs above which a sweep needs --yes (100)", to_count),
        "keep": OptionTrait("how long jobs that ended stay in the journal, as 90d", to_duration),
        "polls_per_second": OptionTrait("polls a second of one server, at most (200)", to_rate),
        "confirm_above_dollars": OptionTrait(
            "dollars above which what a cell can cost needs --yes; unset asks never", to_rate
        ),
        "tools_on_main_thread": OptionTrait(
            "call functions of --tool between cells, on the kernel's main thread (no)", to_switch
        ),
        "budget": OptionTrait('dollars to spend in a day, week or month, as "20/day"', _to_budget),
        "prices": OptionTrait(
            'prices of your own, {"my-model": {"input": 1.25, "output": 10}}, in dollars a million '
            "tokens",
            _use_prices,
        ),
        "base_url": OptionTrait("the server's address, as https://host/v1", _to_base_url),
        "journal": OptionTrait('the journal\'s file, or ":memory:" for none', _move_journal),
    }


@magics_class
class BgMagics(Magics):
    """The defaults of %%bgresponse's options, and all the magics once one of them is used."""

    # In a class's body this is what the class is made of (PEP 667).
    locals().update(_traits())

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._ipython = shell
        self.main = MainThread()
        self.matcher = _matcher(self)
        self.warming = Warming(WARMED if hasattr(shell, "kernel") else WARMED[:-WIDGETS])
        self.events: dict[str, Callable[..., None]] = {
            "pre_execute": self.warming.pause,
            "pre_run_cell": self.before_cell,
            "post_execute": self.warming.go_on,
            "post_run_cell": self.after_cell,
        }
        self.parts: dict[str, Magics] = {}
        self._notebook: NotebookShell | None = None

    @property
    def notebook(self) -> NotebookShell:
        """Binds variables and shows jobs; made when first needed."""
        if self._notebook is None:
            from bgmagic.notebook.shell import shell_of

            self._notebook = shell_of(self._ipython, self, self.main)
        return self._notebook

    def real(self, kind: str, name: str) -> Callable[..., Any]:
        """The code of a magic, imported when it is first asked for."""
        if kind not in self.parts:
            with gc_paused():
                part = _cell_magics() if kind == "cell" else _line_magics()
            self.parts[kind] = part(self._ipython, self.notebook)
        found: Callable[..., Any] = self.parts[kind].magics[kind][name]
        return found

    def before_cell(self, *_: object) -> None:
        """Ask what the next cell may wait for; IPython calls it before each."""
        if self._notebook is not None:
            self._notebook.before_cell()

    def after_cell(self, *_: object) -> None:
        """Show what may have been missed since the last cell; IPython calls it after each."""
        if self._notebook is not None:
            self._notebook.after_cell()


def _cell_magics() -> type[BgCellMagics]:
    from bgmagic.notebook.cell_magic import BgCellMagics

    return BgCellMagics


def _line_magics() -> type[BgLineMagics]:
    from bgmagic.notebook.line_magics import BgLineMagics

    return BgLineMagics


class LazyMagic:
    """A magic of which the code is imported when it is first called, or asked for its help."""

    _ipython_magic_no_var_expand = True  # what @no_var_expand sets

    def __init__(self, kind: str, name: str, magics: BgMagics) -> None:
        self.__name__ = name
        self._real = functools.partial(magics.real, kind, name)

    def __call__(self, _: BgMagics, *given: str) -> Any:
        return self._real()(*given)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]  # a docstring that is made later
        from bgmagic.notebook.parser import help_of

        return help_of(self._real())

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function itself, for those who look for its file and its source."""
        return self._real()


# What the first cells import, so that each piece takes some milliseconds; the last ones are the
# widgets, which a terminal has no use for.
WARMED = (
    "bgmagic.api.request_body",
    "bgmagic.jobs.group",
    "bgmagic.prompts.template",
    "bgmagic.prompts.to_text",
    "bgmagic.display.listing",
    "bgmagic.submission.submit",
    "bgmagic.notebook.cell_magic",
    "bgmagic.storage.job_store",
    "bgmagic.runtime.watcher",
    "bgmagic.runtime.manager",
    "bgmagic.notebook.line_magics",
    "ipywidgets",
    "bgmagic.rendering.markdown",
    "bgmagic.display.outputs",
    "bgmagic.display.board",
)
WIDGETS = 4  # at the end of them


class Warming:
    """Imports modules while the kernel is idle, on a thread of its own, one after the other.

    No cell runs meanwhile: one that is to run waits for the import that has begun, and the others
    wait for its end. So two threads never import at a time, and a process that a cell forks off
    inherits no lock of an import.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        """Make it.

        Args:
            modules: their names, those first that the others import.
        """
        self._left = list(reversed(modules))
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def go_on(self) -> None:
        """Import those that are left; after a cell."""
        if self._left and self._thread is None:
            self._stopped = threading.Event()
            # No daemon: a thread that is in an import as Python ends can make it crash.
            thread = threading.Thread(
                target=self._run, args=(self._stopped,), name="bgmagic-imports"
            )
            # Python may have no threads, or start none any more: the cells import what they need.
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def pause(self) -> None:
        """Import no more until `go_on`; before a cell."""
        thread = self._thread
        if thread is not None:
            self._stopped.set()
            # IPython would show the traceback of an interrupt, and run the cell all the same.
            with contextlib.suppress(KeyboardInterrupt):
                thread.join()
                self._thread = None

    def _run(self, stopped: threading.Event) -> None:
        # The reply to the cell goes first, and between two imports whatever else the kernel does.
        pause = REPLY
        while self._left and not stopped.wait(pause) and threading.main_thread().is_alive():
            pause = BREATH
            with contextlib.suppress(Exception):  # who needs it will be told what is wrong with it
                importlib.import_module(self._left.pop())
                if not self._left:
                    frontend.make_early_widgets()


REPLY, BREATH = 0.02, 0.002  # seconds


_OURS = re.compile(r"^\s*%%?bg\w+\s", re.MULTILINE)


def _matcher(magics: BgMagics) -> Callable[[CompletionContext], SimpleMatcherResult]:
    """Complete the lines of our magics; what that takes is imported with the first of them."""

    # Before all others: what they would find is thrown away then.
    @context_matcher(identifier="bgmagic", priority=1000)  # type: ignore[untyped-decorator]  # IPython's
    def bgmagic(context: CompletionContext) -> SimpleMatcherResult:
        if not _OURS.search(context.full_text):
            return SimpleMatcherResult(completions=[], matched_fragment="", suppress=False)
        from bgmagic.notebook.completion import complete

        return complete(context, magics.notebook.namespace)

    made: Callable[[CompletionContext], SimpleMatcherResult] = bgmagic
    return made


def load(shell: InteractiveShell) -> None:
    """Add the magics to ``shell``, once."""
    if _loaded(shell):
        return
    magics = BgMagics(shell)
    shell.register_magics(magics)
    for kind, names in NAMES.items():
        for name in names:
            # A method, as IPython has them.
            shell.magics_manager.magics[kind][name] = MethodType(
                LazyMagic(kind, name, magics), magics
            )
    for event, told in magics.events.items():
        shell.events.register(event, told)
    shell.Completer.custom_matchers.append(magics.matcher)
    app.use_shell(lambda: magics.notebook)
    if hasattr(shell, "kernel"):
        wake_on_signals()
        magics.main.learn()
        # Before the answer's own bundle, which knows of no frontend.
        _bundles(shell).for_type_by_name(
            "bgmagic", "Answer", lambda answer: answer.bundle(frontend.current().formulas)
        )
    if app.has_manager or _may_have_open(shell.user_ns):
        with gc_paused():
            from bgmagic.submission.lookup import open_jobs_line

            line = open_jobs_line("%bgattach --all follows them.")
        if line:
            print(line)


def _may_have_open(namespace: dict[str, Any]) -> bool:
    """Whether the journal may have open jobs of this notebook: a look at the file alone, since what
    reads jobs takes longer to import than all of the rest."""
    path = default_path()
    if path is None or not path.exists():
        return False
    from bgmagic.storage.filesystem import may_have_open

    return may_have_open(path, frontend.notebook_path(namespace) or place())


def _bundles(shell: InteractiveShell) -> Any:
    formatter: Any = shell.display_formatter
    return formatter.mimebundle_formatter


def unload(shell: InteractiveShell) -> None:
    """Remove the magics from ``shell``; jobs that run go on."""
    for magics in _loaded(shell):
        for kind, names in NAMES.items():
            for name in names:
                shell.magics_manager.magics[kind].pop(name, None)
        for event, told in magics.events.items():
            shell.events.unregister(event, told)
        magics.warming.pause()
        shell.Completer.custom_matchers.remove(magics.matcher)
        if hasattr(shell, "kernel"):
            # Show answers by their own bundle again.
            _bundles(shell).pop("bgmagic.Answer", None)
        configurables: list[Any] = shell.configurables
        for one in (magics, *magics.parts.values()):
            configurables.remove(one)
        shell.magics_manager.registry.pop(type(magics).__name__, None)
    app.use_shell(NoShell)


def _loaded(shell: InteractiveShell) -> list[BgMagics]:
    configurables: list[Any] = shell.configurables
    return [found for found in configurables if isinstance(found, BgMagics)]
