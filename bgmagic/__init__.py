"""Send a notebook cell to a reasoning model in the background and go on working.

In a notebook, ``%load_ext bgmagic`` and then ``%%bgresponse``; in Python, ``bgmagic.submit(…)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgmagic.errors import BadInput, BgmagicError, NotReady, ServerError
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

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__version__ = "0.1.0"

__all__ = [
    "Answer",
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

# Tracebacks, pickles and help say bgmagic.Job, wherever the file lies that defines it. The price:
# `Job??` shows no source, since inspect looks for a class's in the file of its __module__, and
# nothing tells it of another.
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """``%load_ext bgmagic``: add the magics."""
    from bgmagic.notebook.magics import load

    load(ipython)


def unload_ipython_extension(ipython: InteractiveShell) -> None:
    """``%unload_ext bgmagic``: remove the magics. Jobs that run go on."""
    from bgmagic.notebook.magics import unload

    unload(ipython)
