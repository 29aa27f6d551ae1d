"""What `%load_ext` adds: the names of the magics and the defaults that `%config` sets.

What they need is imported when one of them is first used or asked for its help, or before that
while the kernel is idle (`warming`): loading is quick, and so is the first cell.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any

from IPython.core.completer import CompletionContext, SimpleMatcherResult, context_matcher
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, magics_class
from traitlets import Any as AnyTrait

from bgmagic.display import frontend
from bgmagic.notebook.blocking import MainThread, wake_on_signals
from bgmagic.submission.app import NoShell, app, default_path, place
from bgmagic.submission.converters import Converter, to_count, to_duration, to_rate, to_switch
from bgmagic.submission.options import options
from bgmagic.submission.settings import SubmitSettings
from bgmagic.text import user_path

if TYPE_CHECKING:
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
    app.move_journal(None if value == ":memory:" else user_path(str(value)))
    return value


def _use_prices(value: Any, label: str) -> Any:
    from bgmagic.api.pricing import read_prices, set_own_prices

    set_own_prices(read_prices(value, label))
    return value


def _to_base_url(value: Any, label: str) -> str:
    from bgmagic.api.server import check_url

    check_url(str(value), label)
    return str(value)


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
        self.parts: tuple[Magics, ...] = ()
        self.matcher = _matcher(self)
        self._notebook: NotebookShell | None = None

    @property
    def notebook(self) -> NotebookShell:
        """Binds variables and shows jobs; made when first needed."""
        if self._notebook is None:
            from bgmagic.notebook.shell import shell_of

            self._notebook = shell_of(self._ipython, self, self.main)
        return self._notebook

    @functools.cached_property
    def real(self) -> dict[str, Callable[..., Any]]:
        """The magics by their names."""
        from bgmagic.notebook.cell_magic import BgCellMagics
        from bgmagic.notebook.line_magics import BgLineMagics

        self.parts = tuple(
            part(self._ipython, self.notebook) for part in (BgCellMagics, BgLineMagics)
        )
        tables = [table for part in self.parts for table in part.magics.values()]
        return {name: magic for table in tables for name, magic in table.items()}

    def before_cell(self, *_: object) -> None:
        """Ask what the next cell may wait for; IPython calls it before each."""
        if self._notebook is not None:
            self._notebook.before_cell()

    def after_cell(self, *_: object) -> None:
        """Show what may have been missed since the last cell; IPython calls it after each."""
        if self._notebook is not None:
            self._notebook.after_cell()


class LazyMagic:
    """A magic of which the code is imported when it is first called, or asked for its help."""

    _ipython_magic_no_var_expand = True  # what @no_var_expand sets

    def __init__(self, name: str, magics: BgMagics) -> None:
        self.__name__ = name
        self._magics = magics

    def __call__(self, _: BgMagics, *given: str) -> Any:
        return self._magics.real[self.__name__](*given)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]  # a docstring that is made later
        return self._magics.real[self.__name__].__doc__

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function itself, for those who look for its file and its source."""
        return self._magics.real[self.__name__]


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
            shell.magics_manager.magics[kind][name] = MethodType(LazyMagic(name, magics), magics)
    shell.events.register("pre_run_cell", magics.before_cell)
    shell.events.register("post_run_cell", magics.after_cell)
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
        from bgmagic.notebook.line_magics import tell_open

        tell_open("%bgattach --all follows them.")


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
        shell.events.unregister("pre_run_cell", magics.before_cell)
        shell.events.unregister("post_run_cell", magics.after_cell)
        shell.Completer.custom_matchers.remove(magics.matcher)
        if hasattr(shell, "kernel"):
            # Show answers by their own bundle again.
            _bundles(shell).pop("bgmagic.Answer", None)
        configurables: list[Any] = shell.configurables
        for one in (magics, *magics.parts):
            configurables.remove(one)
        shell.magics_manager.registry.pop(type(magics).__name__, None)
    app.use_shell(NoShell)


def _loaded(shell: InteractiveShell) -> list[BgMagics]:
    return [found for found in shell.configurables if isinstance(found, BgMagics)]
