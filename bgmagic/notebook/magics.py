"""%%bgresponse: reads the header line, submits the cell, binds the variables and shows the card.

`load` and `unload` add and remove all magics.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, magics_class, no_var_expand
from traitlets import Any as AnyTrait

from bgmagic.api.pricing import read_prices, set_own_prices
from bgmagic.api.server import check_url
from bgmagic.display.listing import describe_job
from bgmagic.errors import BadInput
from bgmagic.jobs.job import Job
from bgmagic.notebook.completion import matcher
from bgmagic.notebook.line_magics import BgLineMagics, tell_open
from bgmagic.notebook.parser import parse_line, with_options_help
from bgmagic.notebook.shell import (
    errors_as_one_line,
    shell_of,
)
from bgmagic.submission.app import NoShell, app
from bgmagic.submission.converters import (
    BROWSER,
    Converter,
    to_count,
    to_duration,
    to_rate,
    to_switch,
)
from bgmagic.submission.costs import to_budget
from bgmagic.submission.lookup import forget_old_jobs
from bgmagic.submission.notify import notify_at_end
from bgmagic.submission.options import options
from bgmagic.submission.settings import SubmitSettings
from bgmagic.submission.submit import (
    PreparedRequest,
    prepare_request,
    submit_or_join,
    submit_settings,
)
from bgmagic.text import count_jobs, user_path

if TYPE_CHECKING:
    from bgmagic.sweeps.submit import SubmittedSweep


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
        with errors_as_one_line():
            return self._convert(value, f"BgMagics.{self.name} =")


def _move_journal(value: Any, _label: str) -> Any:
    app.move_journal(None if value == ":memory:" else user_path(str(value)))
    return value


def _use_prices(value: Any, label: str) -> Any:
    set_own_prices(read_prices(value, label))
    return value


def _to_base_url(value: Any, label: str) -> str:
    check_url(str(value), label)
    return str(value)


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
        "budget": OptionTrait('dollars to spend in a day, week or month, as "20/day"', to_budget),
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
    """%%bgresponse, and the defaults of its options."""

    # In a class's body this is what the class is made of (PEP 667).
    locals().update(_traits())

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._told = self._tidied = False
        app.shell = self.notebook = shell_of(shell, self)
        self.matcher = matcher(self._namespace)

    @property
    def _namespace(self) -> dict[str, Any]:
        return self.notebook.namespace

    @no_var_expand
    @cell_magic
    @with_options_help(SubmitSettings)
    def bgresponse(self, line: str, cell: str) -> None:
        """Send this cell to a reasoning model in the background; the prompt is back at once.

        ::

            %%bgresponse -o critique --effort xhigh
            Find the three weakest steps in this proof: {{ proof }}

            %%bgresponse -o summary
            Summarise for a student: {{ critique }}

            %%bgresponse -c critique
            And which of them is the hardest to mend?

            %%bgresponse -o study --each questions --sweep effort=low,high --n 3
            Answer in one sentence: {{ item.question }}

        ``critique`` holds the job right away, and the answer, a str, when it is there. Meanwhile
        ``await critique`` and ``%bgwait critique`` wait for it and ``%bgcancel critique`` cancels.

        ::

            %%bgresponse -o fit --schema Fit --file $figure --file notes.pdf --tool web_search
            Which model fits these points best?

        ``fit.data`` is then a ``Fit``, a Pydantic model, and ``fit.citations`` what was found.
        ``{{ expression }}`` is filled in from the notebook's variables (Jinja, with len, str,
        round, sorted, min, max and sum): text as it is, a table as CSV, short values as a list,
        longer texts as numbered items, everything else as JSON. A job that still runs is waited
        for. Single braces are text. With ``--each``, ``--sweep`` and ``--n``, all combined,
        ``study`` is a group of jobs: a sequence of the answers, and ``study.to_frame()`` a table.

        A value that is exactly ``$name`` or ``{name}`` is that variable's value. Defaults:
        ``%config BgMagics.model = "…"`` or the environment variable BGMAGIC_MODEL, and so on.
        """
        with errors_as_one_line():
            given = parse_line(SubmitSettings, "%%bgresponse", line, self._namespace)
            settings = submit_settings(given)
            if settings.each is not None or settings.n is not None or settings.sweep:
                # A conversation that it goes on with stays what it is.
                named = settings if given.get("out") else replace(settings, out=None)
                self._send_group(cell, named)
                return
            if settings.batch:
                raise BadInput(
                    "--batch is for many jobs: add --each, --n or --sweep; for one, --window 8h "
                    "costs less. Nothing was sent"
                )
            if settings.yes not in (None, 1):
                raise BadInput(
                    f"--yes {settings.yes}: this is 1 job; --each, --n or --sweep make more. "
                    "Nothing was sent"
                )
            if settings.dry_run:
                place = app.known_server()
                self._tell_dry_run(prepare_request(cell, settings, self._namespace, place))
                return
            server = app.manager.destination()
            prepared = prepare_request(cell, settings, self._namespace, server)
            name = settings.out or self.notebook.numbered_name
            earlier = self._namespace.get(name)
            sent = submit_or_join(prepared, server, settings, name, app.shell.variable(name))
        self._tell_trouble()
        if prepared.note:
            print(prepared.note)
        if sent.note:
            print(f"{name}: {sent.note}")
        if sent.joined:
            print(f"{describe_job(sent.job)}: the identical request, joined; --again sends it anew")
        if sent.joined or any(job is earlier for job in prepared.needs):
            earlier = None  # nothing to be warned of
        if not settings.quiet:
            running = earlier if isinstance(earlier, Job) and not earlier.done() else None
            shown = BROWSER in settings.notify
            self.notebook.tell_sent(sent.job, running, notify=shown)
        notify_at_end(sent.job, settings.notify, joined=sent.joined)
        if settings.wait:
            self.notebook.wait_and_tell([sent.job], None)

    def _send_group(self, cell: str, settings: SubmitSettings) -> None:
        # Imported with the first sweep of a kernel.
        from bgmagic.sweeps.plan import dry_run
        from bgmagic.sweeps.submit import gc_paused, submit_sweep

        if settings.dry_run:
            print(dry_run(cell, settings, self._namespace))
            return
        name = settings.out or self.notebook.numbered_name
        with gc_paused():
            sent = submit_sweep(cell, settings, name, self._namespace, join=True)
            app.shell.bind(name, sent.group)
            self._tell_sent(sent, name, settings)
        if settings.wait:
            self.notebook.wait_and_tell(sent.group.jobs, None)

    def _tell_sent(self, sent: SubmittedSweep, name: str, settings: SubmitSettings) -> None:
        self._tell_trouble()
        if sent.plan.later:
            there = "; what is there already is joined" if sent.may_join else ""
            print(
                f"{name}: {count_jobs(len(sent.plan.points))}, rendered and checked as they are "
                f"sent; one whose item can't be used ends in {name}.failed{there}"
            )
        if sent.joined:
            all_of = f"{sent.joined} of {len(sent.group.jobs)} jobs"
            print(f"{name}: {all_of} are there already and were joined; --again sends all anew")
        if sent.unknown:
            print(
                f"{name}: {sent.unknown} of them may have been accepted or not, and were not sent "
                f"again; {name}.retry_failed(unknown=True) does, at the risk of paying twice"
            )
        if not settings.quiet:
            shown = BROWSER in settings.notify
            self.notebook.tell_sent_group(sent.group, sent.bill, notify=shown)
        notify_at_end(sent.group, settings.notify, joined=bool(sent.joined))

    @staticmethod
    def _tell_dry_run(prepared: PreparedRequest) -> None:
        from bgmagic.submission.dry_run import describe_request  # seldom needed

        if prepared.note:
            print(prepared.note)
        print(describe_request(prepared, app.secrets(), app.server_name()))

    def _tell_trouble(self) -> None:
        """Say once what is wrong with the journal, and again only after it was well."""
        trouble = app.manager.store.trouble
        if trouble and not self._told:
            print(f"Journal: {trouble}")
        self._told = bool(trouble)
        if not self._tidied:
            self._tidied = True
            with errors_as_one_line():
                note = forget_old_jobs()
            if note:
                print(f"Journal: {note}")


def load(shell: InteractiveShell) -> None:
    """Add the magics to ``shell``, once."""
    if not _loaded(shell):
        magics = BgMagics(shell)
        shell.register_magics(magics, BgLineMagics(shell, magics.notebook))
        shell.events.register("post_run_cell", magics.notebook.after_cell)
        shell.Completer.custom_matchers.append(magics.matcher)
        magics.notebook.start()
        if app.has_journal():
            tell_open("%bgattach --all follows them.")


def unload(shell: InteractiveShell) -> None:
    """Remove the magics from ``shell``; jobs that run go on."""
    for magics in _loaded(shell):
        for kind, names in magics.magics.items():
            for name in names:
                shell.magics_manager.magics[kind].pop(name, None)
        if isinstance(magics, BgMagics):
            shell.events.unregister("post_run_cell", magics.notebook.after_cell)
            shell.Completer.custom_matchers.remove(magics.matcher)
            magics.notebook.stop()
        configurables: list[Any] = shell.configurables
        configurables.remove(magics)
        shell.magics_manager.registry.pop(type(magics).__name__, None)
    app.shell = NoShell()


def _loaded(shell: InteractiveShell) -> list[Magics]:
    ours = BgMagics, BgLineMagics
    return [found for found in shell.configurables if isinstance(found, ours)]
