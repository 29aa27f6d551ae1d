"""What the panel in JupyterLab asks a notebook's kernel to do with a job of that notebook."""

from __future__ import annotations

from bgmagic.display.listing import sentence
from bgmagic.errors import BadInput, BgmagicError
from bgmagic.jobs.job import Job
from bgmagic.notebook.groups import cancelling_one
from bgmagic.notebook.shell import NamespaceVariables
from bgmagic.submission.app import app


def act(action: str, key: str) -> str:
    """Cancel a job, or send it again; gives one line that says what came of it.

    Args:
        action: ``cancel`` or ``resend``.
        key: our own name of the job.
    """
    try:
        return _cancel(key) if action == "cancel" else _resend(key)
    except BgmagicError as error:
        return str(error)


def _cancel(key: str) -> str:
    job = app.manager.jobs_by_key().get(key)
    if job is None:
        raise BadInput("This kernel does not follow it: attach it first.")
    return f"{sentence(cancelling_one(job))}." if job.cancel() else "It has ended."


def _resend(key: str) -> str:
    here = app.manager.jobs_by_key().get(key)
    job = here or app.manager.find(key)
    if job is None:
        raise BadInput("The journal has no such job any more.")
    # Clicks wait in a kernel that computes, from several pages: they ask for one and the same.
    if app.manager.registry.latest_key(key) != key:
        raise BadInput("It has been sent again already, as a job of its own in this list.")
    again = job.resend()
    return f"Sent again; {_given(here, again)}"


def _given(here: Job | None, again: Job) -> str:
    """Where the answer goes. A job of an earlier kernel has no variable yet."""
    name = again.name
    if here is not None or name is None:
        return f"{name} gets the answer, if it holds this job." if name else "see %bgjobs."
    variable = app.shell.variable(name)
    if not isinstance(variable, NamespaceVariables) or name in variable.namespace:
        return f"{name} holds something else: %bgattach {again.record.key} -o OTHER gives it."
    again.add_variable(variable)
    return f"{name} gets the answer."
