"""%%bgresponse: reads the header line, submits the cell, binds the variables and shows the card.

Imported with the first cell, or when its help is asked for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, magics_class, no_var_expand

from bgmagic.display.listing import describe_job
from bgmagic.errors import BadInput
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Job
from bgmagic.notebook.parser import as_typed, parse_line, with_options_help
from bgmagic.notebook.shell import NotebookShell, errors_as_one_line
from bgmagic.submission.app import app, gc_paused
from bgmagic.submission.converters import BROWSER
from bgmagic.submission.lookup import forget_old_jobs
from bgmagic.submission.settings import SubmitSettings
from bgmagic.submission.submit import (
    PreparedRequest,
    Submitted,
    prepare_request,
    submit_or_join,
    submit_settings,
)
from bgmagic.text import count_jobs

if TYPE_CHECKING:
    from bgmagic.api.server import ServerConfig
    from bgmagic.sweeps.submit import SubmittedSweep


def _notify(what: Job | JobGroup, settings: SubmitSettings, *, joined: bool) -> None:
    if settings.notify:
        from bgmagic.submission.notify import notify_at_end  # few have it

        notify_at_end(what, settings.notify, joined=joined)


def _check_single(settings: SubmitSettings) -> None:
    """Refuse for a single job what only many can have."""
    if settings.batch:
        raise BadInput(
            "--batch is for many jobs: add --each, --n or --sweep; for one, --window 8h costs "
            "less. Nothing was sent"
        )
    if settings.yes not in (None, 1):
        raise BadInput(
            f"--yes {settings.yes}: this is 1 job; --each, --n or --sweep make more. "
            "Nothing was sent"
        )


@magics_class
class BgCellMagics(Magics):
    """%%bgresponse."""

    def __init__(self, shell: InteractiveShell, notebook: NotebookShell) -> None:
        super().__init__(shell)
        self._notebook = notebook
        self._told = self._tidied = False

    @property
    def _namespace(self) -> dict[str, Any]:
        return self._notebook.namespace

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
        cell = as_typed(cell, self._last_cell())
        with errors_as_one_line():
            given = parse_line(SubmitSettings, "%%bgresponse", line, self._namespace)
            settings = submit_settings(given)
            if settings.each is not None or settings.n is not None or settings.sweep:
                # A conversation that it goes on with stays what it is.
                named = settings if given.get("out") else replace(settings, out=None)
                self._send_group(cell, named)
                return
            _check_single(settings)
            if settings.dry_run:
                known = app.known_server()
                self._tell_dry_run(prepare_request(cell, settings, self._namespace, known), known)
                return
            server = app.manager.destination()
            prepared = prepare_request(cell, settings, self._namespace, server)
            name = settings.out or self._notebook.numbered_name
            earlier = self._namespace.get(name)
            sent = submit_or_join(prepared, server, settings, name, app.shell.variable(name))
        self._tell_sent(sent, prepared, name, earlier, settings)
        _notify(sent.job, settings, joined=sent.joined)
        if settings.wait:
            self._notebook.wait_and_tell([sent.job], None)

    def _tell_sent(
        self,
        sent: Submitted,
        prepared: PreparedRequest,
        name: str,
        earlier: Any,
        settings: SubmitSettings,
    ) -> None:
        """Show the job; ``earlier`` is what its variable held before."""
        self._tell_trouble()
        _tell_notes(prepared)
        if sent.note:
            print(f"{name}: {sent.note}")
        if sent.joined:
            print(f"{describe_job(sent.job)}: the identical request, joined; --again sends it anew")
        if sent.joined or any(job is earlier for job in prepared.needs):
            earlier = None  # nothing to be warned of
        if not settings.quiet:
            running = earlier if isinstance(earlier, Job) and not earlier.done() else None
            shown = BROWSER in settings.notify
            self._notebook.tell_sent(sent.job, running, notify=shown)

    def _last_cell(self) -> str:
        """The newest cell of the history as it was typed: this one, if it is recorded."""
        history = getattr(self.shell, "history_manager", None)
        typed: list[str] = getattr(history, "input_hist_raw", [])
        return typed[-1] if typed else ""

    def _send_group(self, cell: str, settings: SubmitSettings) -> None:
        # Imported with the first sweep of a kernel.
        from bgmagic.sweeps.plan import dry_run
        from bgmagic.sweeps.submit import submit_sweep

        if settings.dry_run:
            print(dry_run(cell, settings, self._namespace))
            return
        name = settings.out or self._notebook.numbered_name
        with gc_paused():
            sent = submit_sweep(cell, settings, name, self._namespace, join=True)
            app.shell.bind(name, sent.group)
            self._tell_sent_group(sent, name, settings)
        if settings.wait:
            self._notebook.wait_and_tell(sent.group.jobs, None)

    def _tell_sent_group(self, sent: SubmittedSweep, name: str, settings: SubmitSettings) -> None:
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
            self._notebook.tell_sent_group(sent.group, sent.bill, notify=shown)
        _notify(sent.group, settings, joined=bool(sent.joined))

    @staticmethod
    def _tell_dry_run(prepared: PreparedRequest, server: ServerConfig | None) -> None:
        from bgmagic.submission.dry_run import describe_request  # seldom needed

        _tell_notes(prepared)
        secrets, name = ((), None) if server is None else (server.secrets, server.name)
        print(describe_request(prepared, secrets, name))

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


def _tell_notes(prepared: PreparedRequest) -> None:
    form = prepared.request.text_format
    if form is not None and form.get("strict") is False:
        from bgmagic.api.structured_output import unchecked_note

        if note := unchecked_note(form):
            print(note)
    if prepared.note:
        print(prepared.note)
