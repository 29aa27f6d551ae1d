"""What every magic says in the same way: its help, errors in one line, how jobs ended or stand.

The magics themselves are magics.py's and line_magics.py's, a job in a line of text telling.py's.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.error import UsageError

from bgmagic import regroup
from bgmagic.blocking import wait
from bgmagic.errors import BgmagicError
from bgmagic.header import describe
from bgmagic.job import Job
from bgmagic.session import session
from bgmagic.submission import jobs
from bgmagic.telling import apart, line_of_many

if TYPE_CHECKING:
    from bgmagic.entries import Entry

# Jobs whose end a terminal is to be told, and those of which it has been.
UNTOLD: list[Job] = []
TOLD: weakref.WeakSet[Job] = weakref.WeakSet()

F = TypeVar("F", bound=Callable[..., Any])


def documented(settings: type[Any]) -> Callable[[F], F]:
    """Append the options to a magic's help, which Shift+Tab and ``?`` show."""

    def document(function: F) -> F:
        # Before Python 3.13 a docstring has the indentation of the code.
        text = inspect.cleandoc(function.__doc__ or "")
        function.__doc__ = f"{text}\n\nOptions:\n{describe(settings)}\n"
        return function

    return document


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Show an error of ours as one line."""
    # Exactly UsageError: IPython prints the traceback of a subclass.
    try:
        yield
    except BgmagicError as error:
        raise UsageError(str(error)) from None


def wait_and_tell(chosen: Sequence[Job], timeout: float | None) -> None:
    """Wait for jobs and print how each stands then."""
    pending = wait(chosen, timeout)
    for some in apart(chosen):
        on = f", not done after {timeout:g} s; it goes on" if set(some) & set(pending) else ""
        print(f"{line_of_many(some)}{on}")
        TOLD.update(job for job in some if job.done())
    if "bgmagic.display.shown" in sys.modules:
        # Frontends without a live kernel connection only hear what the running cell displays.
        from bgmagic.display.shown import send_again

        send_again()


def open_entries() -> list[Entry]:
    """This notebook's open jobs that no living kernel follows, newest first."""
    ledger = session.manager.ledger
    entries = ledger.journal.entries(notebook=session.notebook(), open_only=True)
    here = {job.record.key for job in jobs()}
    return [entry for entry in entries if entry.key not in here and ledger.free(entry)]


def tell_open(remedy: str) -> None:
    """Say in one line which jobs of this notebook are still open, or nothing if none is."""
    found = open_entries()
    if found:
        told = regroup.named(found)
        more = f" and {len(told) - 5} more" if len(told) > 5 else ""
        names = ", ".join(told[:5])
        jobs_are = "job is" if len(found) == 1 else "jobs are"
        print(f"{len(found)} {jobs_are} still open from this notebook: {names}{more}. {remedy}")
