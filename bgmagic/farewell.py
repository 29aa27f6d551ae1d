"""The end of a process that leaves jobs behind: when it is noticed, and what is said then.

What happens to the jobs is the manager's business.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  its handler must be registered before ours
import contextlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from bgmagic.errors import readable
from bgmagic.job import Job
from bgmagic.status import Status

NAMED = 5  # jobs that are named; more are counted
# These start no thread as a process ends (CPython issue 113964), so nothing more can be sent then.
NO_THREADS = (3, 12) <= sys.version_info < (3, 12, 2)
TOO_LATE = "This Python starts no thread as it ends; 3.12.2 does, and job.result() waits before."


def at_end(function: Callable[[], object]) -> None:
    """Call ``function`` once as the process ends, while names can still be resolved.

    Handlers of atexit come too late for a job that is just being sent: by then the pools that
    asyncio resolves names in are closed. They are closed by a handler that concurrent.futures has
    registered like this one, as it was imported above; the last one registered is called first.
    """
    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(function)
    except RuntimeError:  # the process is ending already
        atexit.register(function)


def farewell(left: Sequence[Job], written: Callable[[Job], bool]) -> str:
    """One line about the jobs among ``left`` that are not over, or "".

    Args:
        left: the jobs that had not ended when the process was about to.
        written: whether a journal that outlives the process has the job.
    """
    going_on = [job for job in left if job.status == Status.DETACHED]
    sent = [job for job in going_on if job.response_id]
    waiting = [job for job in going_on if not job.response_id and written(job)]
    unsent = [job for job in going_on if not job.response_id and job not in waiting]
    unclear = [job for job in left if job.status == Status.UNKNOWN]
    told = [
        _told(sent, "still at work at the server"),
        _told(waiting, "to be sent by the next kernel that attaches"),
        _how(sent + waiting, written),
        _told(unsent, "unsent and written down nowhere"),
        TOO_LATE if unsent and NO_THREADS else "",
        _told(unclear, "unknown, accepted by the server or not"),
    ]
    line = " ".join(part for part in told if part)
    return f"bgmagic: {line}" if line else ""


def _told(jobs: Sequence[Job], what: str) -> str:
    if not jobs:
        return ""
    named = [readable(job.name or job.response_id or "no name", 80) for job in jobs[:NAMED]]
    more = f" and {len(jobs) - NAMED} more" if len(jobs) > NAMED else ""
    count = "1 job is" if len(jobs) == 1 else f"{len(jobs)} jobs are"
    return f"{count} {what}: {', '.join(named)}{more}."


def _how(jobs: Sequence[Job], written: Callable[[Job], bool]) -> str:
    """What to type in another kernel to follow ``jobs``."""
    if not jobs:
        return ""
    if len(jobs) > NAMED:
        return "In another kernel, %load_ext bgmagic, then %bgjobs --all lists them."
    names = Counter(job.name for job in jobs)
    words = []
    for job in jobs:
        # The journal knows a job by its variable, the server by its id.
        by_name = job.record.named and names[job.name] == 1 and written(job)
        which = job.name if by_name else job.response_id or job.record.key
        words.append(readable(which or "", 400))
    return f"In another kernel, %load_ext bgmagic, then %bgattach {' '.join(words)}"


def say(line: str) -> None:
    """Write ``line`` where the process's own log goes, also as a kernel ends."""
    # A kernel's stderr is a channel to its clients, and where it can, it takes what is written to
    # the real one there too. As it ends nobody reads that any more; this is what it keeps of it.
    real = getattr(sys.stderr, "_original_stdstream_copy", None)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if isinstance(real, int):
            os.write(real, f"{line}\n".encode())
        else:
            print(line, file=sys.__stderr__, flush=True)
