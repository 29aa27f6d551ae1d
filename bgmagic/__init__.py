"""Send a notebook cell to a reasoning model in the background and go on working.

In a notebook, ``%load_ext bgmagic`` and then ``%%bgresponse``; in Python, ``bgmagic.submit(…)``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from bgmagic.errors import AnswerGone, BadInput, BgmagicError, NotReady, ServerError
    from bgmagic.jobs.group import JobGroup
    from bgmagic.jobs.job import Answer, Job
    from bgmagic.jobs.outcome import (
        Detached,
        InvalidAnswer,
        JobCancelled,
        JobError,
        JobFailed,
        JobIncomplete,
        JobLost,
        JobUnknown,
        NoAnswer,
    )
    from bgmagic.jobs.record import Status
    from bgmagic.prompts.to_text import to_text
    from bgmagic.public import costs, export, jobs, map, submit, tool, use

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AnswerGone",
    "BadInput",
    "BgmagicError",
    "Detached",
    "InvalidAnswer",
    "Job",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobGroup",
    "JobIncomplete",
    "JobLost",
    "JobUnknown",
    "NoAnswer",
    "NotReady",
    "ServerError",
    "Status",
    "costs",
    "export",
    "jobs",
    "map",
    "submit",
    "to_text",
    "tool",
    "use",
]

# The modules that define these, imported when one of them is first asked for: `%load_ext` and a
# script's `import` cost next to nothing.
_HOMES = {
    "errors": "AnswerGone BadInput BgmagicError NotReady ServerError",
    "jobs.group": "JobGroup",
    "jobs.job": "Answer Job",
    "jobs.outcome": "Detached InvalidAnswer JobCancelled JobError JobFailed JobIncomplete JobLost "
    "JobUnknown NoAnswer",
    "jobs.record": "Status",
    "prompts.to_text": "to_text",
    "public": "costs export jobs map submit tool use",
}

# The import of the package ``jobs`` gives its name to it, once: now, so that it is the function's.
importlib.import_module("bgmagic.jobs")
globals().pop("jobs", None)  # a reload finds it gone already


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names.split():
            found = getattr(importlib.import_module(f"bgmagic.{home}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """``%load_ext bgmagic``: add the magics."""
    from bgmagic.notebook.magics import load

    load(ipython)


def unload_ipython_extension(ipython: InteractiveShell) -> None:
    """``%unload_ext bgmagic``: remove the magics. Jobs that run go on."""
    from bgmagic.notebook.magics import unload

    unload(ipython)
