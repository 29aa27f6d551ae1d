"""The line magics: wait for jobs, cancel, list and attach them, and use the embedded model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand

from bgmagic.display import listing
from bgmagic.display.listing import describe_jobs, split_by_group
from bgmagic.errors import BadInput
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Job
from bgmagic.notebook import groups, local_model
from bgmagic.notebook.parser import parse_line, with_options_help
from bgmagic.notebook.shell import (
    NamespaceVariables,
    NotebookShell,
    errors_as_one_line,
)
from bgmagic.submission.app import app
from bgmagic.submission.converters import is_like_response_id, to_response_id
from bgmagic.submission.costs import (
    PERIODS,
    Receipt,
    costs_since,
    receipt,
    receipt_cells,
    start_of,
)
from bgmagic.submission.lookup import JobLookup, needed_keys, open_jobs_line, output_type_of
from bgmagic.submission.notify import notify_as_configured
from bgmagic.submission.options import resolve_settings
from bgmagic.submission.settings import (
    AttachSettings,
    CancelSettings,
    CodeSettings,
    CostSettings,
    ListSettings,
    LocalSettings,
    WaitSettings,
)
from bgmagic.text import count_jobs, one_line

if TYPE_CHECKING:
    from bgmagic.storage.database import StoredJob

LISTED = 500  # jobs of the journal in one table; more would be no table any more

NONE_LEFT = "No open job is left to attach here; %bgjobs --all lists those of all notebooks."

S = TypeVar("S")


def _tell_reading(count: int) -> None:
    print(f"Reading {count:,} prompts and answers for the search; the next one need not.")


@magics_class
class BgLineMagics(Magics):
    """The line magics that go with %%bgresponse."""

    def __init__(self, shell: InteractiveShell, notebook: NotebookShell) -> None:
        super().__init__(shell)
        self._notebook = notebook
        self._forgotten: set[str] = set()

    @property
    def _namespace(self) -> dict[str, Any]:
        return self._notebook.namespace

    def _parse(self, settings: type[S], magic: str, line: str) -> S:
        given = parse_line(settings, magic, line, self._namespace)
        return resolve_settings(settings, given, config=app.shell.defaults())

    @no_var_expand
    @line_magic
    @with_options_help(WaitSettings)
    def bgwait(self, line: str) -> None:
        """Wait for jobs, while the kernel stays alive: ``%bgwait critique``.

        An interrupt ends the wait and leaves the jobs alone.
        """
        with errors_as_one_line():
            settings = self._parse(WaitSettings, "%bgwait", line)
            if not settings.names:
                app.manager.feeds.make_all()
            chosen = self._named(settings.names) or [
                job for job in app.manager.jobs() if not job.done()
            ]
        if chosen:
            self._notebook.wait_and_tell(chosen, settings.timeout)
        else:
            print("No job is open.")

    @no_var_expand
    @line_magic
    @with_options_help(CancelSettings)
    def bgcancel(self, line: str) -> None:
        """Ask the server to cancel jobs: ``%bgcancel critique``, an id, or ``--all``."""
        with errors_as_one_line():
            settings = self._parse(CancelSettings, "%bgcancel", line)
            if not settings.names and not settings.all:
                raise BadInput("name what to cancel: %bgcancel NAME, a response id, or --all")
            if settings.all:
                app.manager.feeds.make_all()  # what a sweep has not come to is not sent either
            chosen = app.manager.jobs() if settings.all else self._named(settings.names)
        # The last first, as a group does.
        asked = {job for job in reversed(chosen) if job.cancel()}
        for some in split_by_group(chosen):
            left = [job for job in some if job in asked]
            if left:
                print(f"{groups.cancelled_name(some, left)}: {groups.cancelling(left, asked)}")
            elif not settings.all:
                print(f"{describe_jobs(some)}; there is nothing to cancel")
        if settings.all and not asked:
            print("No job is open.")

    @no_var_expand
    @line_magic
    @with_options_help(ListSettings)
    def bgjobs(self, line: str) -> None:
        """List this notebook's jobs, or show some with what they gave: ``%bgjobs critique``.

        ``%bgjobs --search "dark matter"`` finds prompts and answers of all notebooks that have both
        words, in any case and with or without accents; quotes within the quotes make them one.
        """
        with errors_as_one_line():
            settings = self._parse(ListSettings, "%bgjobs", line)
            if settings.search is not None:
                self._search(settings)
            elif settings.forget:
                self._forget(settings)
            elif settings.names:
                for name in settings.names:
                    self._tell_named(name)
            else:
                self._list(all_notebooks=settings.all)

    def _search(self, settings: ListSettings) -> None:
        from bgmagic.submission.search import find_jobs, found_rows  # few sessions search

        if settings.forget or settings.names:
            other = "--forget" if settings.forget else settings.names[0]
            raise BadInput(
                f"--search lists what it finds and takes no {other}: name the jobs in a %bgjobs of "
                'their own, and quote several words as in --search "dark matter"'
            )
        text = settings.search or ""
        found = find_jobs(text, "--search", most=LISTED, tell=_tell_reading)
        trouble = app.manager.store.trouble
        if trouble:
            print(f"Journal: {trouble}")
        if not found:
            where = "of this kernel" if trouble else "in the journal"
            print(f"No prompt or answer {where} has {one_line(text, 80)}.")
            return
        if len(found) == LISTED:
            print(f"The newest {LISTED} that have it; another word leaves fewer.")
        rows = found_rows(found, app.manager.store.alive())
        here = [one.it for one in found if isinstance(one.it, Job)]
        self._notebook.show_table("", rows, here, self._past, lambda _: None)

    def _tell_named(self, name: str) -> None:
        group = self._namespace.get(name)
        if isinstance(group, JobGroup):
            self._notebook.show_group(group)
            return
        lookup = JobLookup()
        meaning = lookup.meaning_of(name)
        job, first = lookup.job(name, self._namespace, meaning), meaning.group
        newer = first is not None and (job is None or first.created_at > job.record.submitted_at)
        if first is not None and newer:
            groups.tell_past(self._notebook, first, name)
        else:
            found = _found(job, name)
            self._notebook.show_result(found, here=found in app.manager.jobs())

    def _list(self, *, all_notebooks: bool) -> None:
        store = app.manager.store
        notebook = None if all_notebooks else app.shell.notebook_path()
        entries = store.listed(notebook, limit=LISTED)
        known = app.manager.jobs_by_key()
        here = [job for key, job in known.items() if key not in self._forgotten]
        found = listing.table_rows(here, entries, store.alive())
        if len(entries) == LISTED:
            print(f"The newest {LISTED}; older ones are in the journal too.")
        if not found:
            print("No jobs yet: %%bgresponse sends one.")
        else:
            which = "all" if all_notebooks else "this notebook"
            self._notebook.show_table(which, found, here, self._past, app.manager.watch)

    @staticmethod
    def _past(key: str) -> Job | None:
        entry = app.manager.store.find(key)
        return app.manager.past(entry) if entry else None

    def _forget(self, settings: ListSettings) -> None:
        store = app.manager.store
        if settings.names:
            keys = [key for name in settings.names for key in self._keys(name)]
        else:
            notebook = None if settings.all else app.shell.notebook_path()
            keys = [entry.key for entry in store.listed(notebook)]
        needed = needed_keys()
        going = [key for key in keys if key not in needed]
        count = store.forget(going).result()
        # This kernel's variables still hold theirs. Some may have ended while they were forgotten.
        ended_here = {key for key, job in JobLookup().here.items() if job.done()}
        self._forgotten |= ended_here.intersection(going)
        are = "is" if count == 1 else "are"
        print(f"{count_jobs(count)} that had ended {are} forgotten.")
        kept = [entry for key in needed.intersection(keys) if (entry := store.find(key))]
        ended = sum(entry.ended_at is not None for entry in kept)
        if ended:
            print(f"{ended} more are kept: open jobs need their answers.")

    def _keys(self, name: str) -> list[str]:
        """The jobs that a name means, of a group also those in whose places others are."""
        held, lookup = self._namespace.get(name), JobLookup()
        key = held.key if isinstance(held, JobGroup) else None
        if key is None:
            meaning = lookup.meaning_of(name)
            job = lookup.job(name, self._namespace, meaning)
            if job is not None or meaning.group is None or meaning.group.group_key is None:
                return [_found(job, name).record.key]
            key = meaning.group.group_key
        return [entry.key for entry in app.manager.store.group(key)]

    @no_var_expand
    @line_magic
    @with_options_help(CodeSettings)
    def bgcode(self, line: str) -> None:
        """Put a block of code of an answer into a new cell below: ``%bgcode critique 2``.

        Without a number the only one there is. In a terminal it stands at the next prompt. A script
        of the shell gets ``%%bash`` or the like before it; nothing is run.
        """
        from bgmagic.notebook.code import cell_of  # parsing Markdown is for who wants it

        with errors_as_one_line():
            settings = self._parse(CodeSettings, "%bgcode", line)
            cell = cell_of(settings.words, self._namespace)
        self._notebook.put_in_next_cell(cell)

    @no_var_expand
    @line_magic
    @with_options_help(AttachSettings)
    def bgattach(self, line: str) -> None:
        """Pick up jobs of an earlier kernel: ``%bgattach critique``, an id, or ``--all``.

        A finished one is given from the journal without a call; an open one is polled on and shown.
        """
        with errors_as_one_line():
            settings = self._parse(AttachSettings, "%bgattach", line)
            if settings.all:
                self._attach_all()
            elif settings.names:
                for name in settings.names:
                    self._attach(name, settings.out)
            else:
                print(open_jobs_line("Name one, or --all.") or NONE_LEFT)

    def _attach_all(self) -> None:
        wanted = [*self._nameless(), *JobLookup().open_jobs()]
        if not wanted:
            print(NONE_LEFT)
        single = groups.attach_groups(self._notebook, wanted)
        found = sorted(single, key=lambda entry: entry.created_at)
        newest = {entry.name: entry.key for entry in found}
        needed = needed_keys()
        for number, entry in enumerate(found):
            name = entry.name or f"{self._notebook.numbered_name}_{number}"
            older = entry.name is not None and newest[name] != entry.key
            if older and entry.key in needed:
                continue  # an earlier turn, which the later one has followed
            if older or not self._is_free(name, entry):
                rest = entry.response_id or entry.key
                print(f"{name} is taken; %bgattach {rest} -o OTHER gives it another variable")
                continue
            try:
                self._take_key(entry.key, name)
            except BadInput as error:
                print(error)

    def _is_free(self, name: str, entry: StoredJob | None) -> bool:
        """Whether the variable is there to be given, or has this very job."""
        held = self._namespace.get(name, self)
        return held is self or (isinstance(held, Job) and held.key == (entry and entry.key))

    def _nameless(self) -> list[StoredJob]:
        """Jobs that are followed already, since others need them, and whose variable is free, as
        that of their group is."""
        followed = [job.record for job in app.manager.jobs() if job.has_no_variable]
        wanted = [
            record.key
            for record in followed
            if record.named
            and (record.position.name if record.position else record.name) not in self._namespace
        ]
        return [entry for key in wanted if (entry := app.manager.store.find(key))]

    def _attach(self, which: str, out: str | None) -> None:
        meaning = JobLookup().meaning_of(which)
        entry, group = meaning.single, meaning.as_group(out)
        if group is not None:
            groups.attach_named_group(self._notebook, group, out)
            return
        name = out or (entry.name if entry else None) or self._notebook.numbered_name
        if not self._is_free(name, entry):
            raise BadInput(f"{name} holds something else; %bgattach {which} -o OTHER")
        if entry is not None:
            self._take(entry, name)
        elif which.startswith("batch_"):
            batch_id = to_response_id(which, "%bgattach")
            first, others = app.take_in(batch_id, name, named=out is not None)
            groups.attach_named_group(self._notebook, first, name)
            if others:
                told = ", ".join(others[:5]) + ("" if len(others) <= 5 else " …")
                print(
                    f"{name} is one batch of its sweep, which has {len(others)} more: {told}. "
                    "%bgattach ID -o OTHER gives each its own variable"
                )
        elif is_like_response_id(which):
            response_id = to_response_id(which, "%bgattach")
            variable = NamespaceVariables(self._namespace, [name])
            job = app.manager.follow(response_id, name, variable)
            notify_as_configured(job)
            self._notebook.show(job)
        else:
            known = len(app.manager.store.listed(app.shell.notebook_path()))
            raise BadInput(
                f"the journal has no job {which!r} (of {known}; %bgjobs --all lists them), and "
                "it is no response id, as resp_68a9c0… or litellm_poll_26b9…"
            )

    def _take_key(self, key: str, name: str) -> None:
        entry = app.manager.store.find(key)  # whole, and as it is by now
        if entry is not None:
            self._take(entry, name)

    def _take(self, entry: StoredJob, name: str) -> None:
        variable = NamespaceVariables(self._namespace, [name])
        output_type = output_type_of(entry, self._namespace)
        job = app.manager.attach(entry, variable, output_type)
        notify_as_configured(job)
        self._notebook.show(job)

    @no_var_expand
    @line_magic
    @with_options_help(CostSettings)
    def bgcost(self, line: str) -> None:
        """What the jobs of all your kernels cost: ``%bgcost`` (today), ``%bgcost 7d`` or ``all``.

        By notebook, model and window. Jobs of ``%bglocal`` cost nothing and are left out, and so is
        what ``%bgjobs --forget`` has removed. ``bgmagic.costs()`` has one row a job.
        """
        with errors_as_one_line():
            words = self._parse(CostSettings, "%bgcost", line).period
            _show_receipt(self._notebook, " ".join(words) or "today")

    @no_var_expand
    @line_magic
    @with_options_help(LocalSettings)
    def bglocal(self, line: str) -> None:
        """Use the embedded model: real, small, on this machine's CPU, no key needed.

        For first tries, teaching and tests. The first start fetches the weights once (93 MB).
        ``%bglocal --tokens-per-second 15 --queue 5`` makes each status slow enough to watch.
        ``%bglocal --model qwen3-8b.gguf --threads 8 --parallel 4`` runs a model of your own, and
        ``%bglocal http://host:8000/v1`` uses a vLLM or llama.cpp that somebody runs.
        """
        with errors_as_one_line():
            settings = self._parse(LocalSettings, "%bglocal", line)
            _use_local(settings)

    def _named(self, names: Sequence[str]) -> list[Job]:
        lookup = JobLookup()
        return [job for name in names for job in lookup.jobs(name, self._namespace)]


def _found(job: Job | None, name: str) -> Job:
    """The job that was looked for.

    Raises:
        BadInput: there is none.
    """
    if job is None:
        raise BadInput(f"there is no job {name!r}, here or in the journal; see %bgjobs --all")
    return job


def _show_receipt(notebook: NotebookShell, period: str) -> None:
    """Show what jobs cost.

    Raises:
        BadInput: there is no such period.
    """
    if period not in PERIODS:
        raise BadInput(f"%bgcost {period}: allowed are {', '.join(PERIODS)}")
    store = app.manager.store
    found = [costs_since(store, start_of(period, time.time()))]
    if not found[0]:
        print("No job has cost anything, as far as the journal knows.")
        return
    budget = app.budget()
    note = f"The budget is {budget}." if budget is not None else ""

    def make() -> Receipt:
        costs = found.pop() if found else costs_since(store, start_of(period, time.time()))
        return receipt_cells(receipt(costs)), note

    notebook.show_receipt(make, app.manager.jobs())


def _use_local(settings: LocalSettings) -> None:
    """Do what %bglocal is asked for."""
    word = " ".join(settings.action) or "on"
    paced = settings.tokens_per_second or settings.queue or settings.flex_refusals or settings.calls
    names = ("model", "threads", "parallel", "context")
    engine = {name: getattr(settings, name) for name in names}
    given = [f"--{name}" for name, value in engine.items() if value is not None]
    is_url = word.startswith(("http://", "https://"))
    if word not in ("on", "off", "status") and not is_url:
        raise BadInput(
            f"%bglocal {word}: allowed are on, off, status, and an address as http://host:8000/v1"
        )
    if paced and word != "on":
        raise BadInput(f"%bglocal {word} takes no pace; %bglocal --queue 5 does")
    if given and word != "on":
        raise BadInput(f"%bglocal {word} takes no {given[0]}; %bglocal alone does")
    if is_url:
        local_model.use_server_at(app, word)
    elif word == "on":
        local_model.use_local_model(
            app,
            settings.tokens_per_second,
            settings.queue,
            flex_refusals=settings.flex_refusals,
            calls=settings.calls,
            **engine,
        )
    elif word == "off":
        local_model.use_own_server(app)
    else:
        local_model.print_status(app)
