"""Tells people that a job or a sweep has ended: calls their function, or posts to their address.

The browser's own notification is the display's. What is posted has no prompt, answer or key in it,
and whatever goes wrong is one line in the log: the job is as it is.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from bgmagic.api.server import Webhook
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Job
from bgmagic.jobs.record import Status
from bgmagic.submission.app import app, register_at_exit
from bgmagic.submission.converters import BROWSER, to_notified
from bgmagic.text import count_each, count_jobs, duration, one_line

TIMEOUT = 10.0  # seconds a server has to take a message

DELAYS = (1.0, 4.0, 16.0)  # seconds before each of the three further tries

# Seconds that a process which ends waits for what is being told; a kernel is killed soon.
GRACE, KERNEL_GRACE = 10.0, 0.5

AT_ONCE = 4  # messages; the others wait

if TYPE_CHECKING:
    import ssl

logger = logging.getLogger("bgmagic")

_lock = threading.RLock()  # C's own: one of Python's an interrupt of a cell may leave locked
_news = threading.Condition(_lock)
_known: dict[tuple[str, int], Any] = {}  # what was asked for, by job or group and target
_due: dict[tuple[str, int], list[Job]] = {}  # that of it which was not told yet
_counts: dict[tuple[str, int], _Countdown] = {}
_ending = False
_posting = threading.Semaphore(AT_ONCE)


def notify_at_end(what: Job | JobGroup, targets: Sequence[Any], *, joined: bool) -> None:
    """Notify ``targets`` of the end; the browser's notification is left to the display.

    Args:
        joined: whether something was there already: what has ended then is no news.
    """
    if any(target != BROWSER for target in targets) and not (joined and what.done()):
        tell_at_end(what, targets)


def notify_as_configured(what: Job | JobGroup) -> None:
    """The same for what was attached: the journal keeps neither functions nor addresses.

    Raises:
        BadInput: BGMAGIC_NOTIFY is no target.
    """
    notify_at_end(what, app.setting("notify", to_notified) or (), joined=True)


def tell_at_end(what: Job | JobGroup, targets: Sequence[Any]) -> None:
    """Have each of ``targets`` told once when the job, or every job of the group, has ended.

    Args:
        targets: as `to_notified` gives them. The browser is left to the display, and so is what
            has ended before it could be asked for. One that an earlier cell named is told once.
    """
    jobs = list(what.jobs) if isinstance(what, JobGroup) else [what]
    key = what.key if isinstance(what, JobGroup) else what.record.key
    for target in targets:
        place = key, hash(target) if isinstance(target, Webhook) else id(target)
        with _lock:
            if target == BROWSER or place in _known:
                continue
            if not _known:
                register_at_exit(_wait_at_exit)
            _known[place], _due[place] = target, [*jobs]
            if _hand_over not in app.manager.registry.on_resent:
                app.manager.registry.on_resent.append(_hand_over)
            left = _counts[place] = _Countdown(len(jobs), functools.partial(_begin, place, what))
        for job in jobs:
            job.add_done_callback(left)


def _hand_over(job: Job, successor: Job) -> None:
    """Notify the targets of a job, and of its group, of the end of the job sent in its place."""
    position = job.record.position
    with _lock:
        named = [target for (key, _), target in _known.items() if key == job.record.key]
        group = position and position.group
        groups = {place: left for place, left in _counts.items() if place[0] == group}
        for place, left in groups.items():
            _due.setdefault(place, []).append(successor)
            left.add()
    tell_at_end(successor, named)
    for left in groups.values():
        successor.add_done_callback(left)


class _Countdown:
    """Calls a function with the last of several calls."""

    def __init__(self, count: int, then: Any) -> None:
        self._left = count
        self._then = then
        self._lock = threading.Lock()

    def add(self) -> None:
        """Await one call more; after the last one, the function is called once more."""
        with self._lock:
            self._left += 1

    def __call__(self, _: object) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._then()


def _begin(place: tuple[str, int], what: Job | JobGroup) -> None:
    if _ending and not _have_ended(_due.get(place, ())):
        return  # they go on without this process
    telling = threading.Thread(target=_tell, args=(place, what), name="bgmagic-notify", daemon=True)
    try:
        telling.start()
    except RuntimeError:  # some Pythons start none as they end; this one is no job's
        _tell(place, what)


def _tell(place: tuple[str, int], what: Job | JobGroup) -> None:
    target = _known[place]
    try:
        if isinstance(target, Webhook):
            with _posting:
                failed = _posted(target, message_of(what))
        else:
            failed = _called(target, what)
    except Exception as error:  # of a thread that nobody waits for
        failed = f"{type(error).__name__}: {error}"
    if failed:
        whom = str(target) if isinstance(target, Webhook) else _name_of(target)
        logger.warning(
            "%s has ended, but %s was not told: %s", what.name or "a job", whom, one_line(failed)
        )
    with _lock:
        _due.pop(place, None)
        _news.notify_all()


def _name_of(function: Any) -> str:
    return f"{getattr(function, '__name__', type(function).__name__)}()"


def _called(function: Any, what: Job | JobGroup) -> str:
    """Call it, and await what it gives if that is to be awaited; why that failed, or ""."""
    try:
        given = function(what)
        if inspect.isawaitable(given):
            asyncio.run(_awaited(given))
    except BaseException as error:  # one that exits ends nothing
        return f"{type(error).__name__}: {error}"
    return ""


async def _awaited(given: Any) -> None:
    await given


def message_of(what: Job | JobGroup) -> dict[str, Any]:
    """What is posted: ``name status seconds notebook``, of a group ``jobs`` too, and ``text``, the
    same as a sentence, which is what Slack and the like show."""
    jobs = list(what.jobs) if isinstance(what, JobGroup) else [what]
    records = [job.record for job in jobs]
    begun = min((record.submitted_at for record in records), default=0.0)
    ended = max((record.ended_at or time.time() for record in records), default=0.0)
    counts = Counter(job.status for job in jobs)
    status = one_line(jobs[0].status, 40) if len(counts) == 1 else count_each(counts)
    name = one_line(what.name or "", 80)
    notebook = PurePath(records[0].notebook).name if records else ""
    several = {"jobs": len(jobs)} if isinstance(what, JobGroup) else {}
    of = f" ({count_jobs(len(jobs))})" if several else ""
    where = f" in {notebook}" if notebook else ""
    seconds = max(0.0, ended - begun)
    return {
        "name": name,
        "status": status,
        "seconds": round(seconds, 1),
        "notebook": notebook,
        **several,
        "text": f"{name or 'A job'}{where}{of}: {status} after {duration(seconds)}",
    }


def _posted(target: Webhook, message: dict[str, Any]) -> str:
    """Post it, and again if that may help; why it failed, or ""."""
    failed = ""
    for delay in (0.0, *DELAYS):
        time.sleep(delay)
        failed, may_help = _post(target, message)
        if not failed or not may_help:
            break
    return failed


def _post(target: Webhook, message: dict[str, Any]) -> tuple[str, bool]:
    """Post it once: why that failed, or "", and whether another try may do."""
    import urllib.error  # most jobs tell nobody
    import urllib.request

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        """What is told, and the address, are for the host that the user named."""

        def redirect_request(self, *_: Any) -> None:
            return None

    request = urllib.request.Request(  # noqa: S310 - http and https only, by `read_webhook`
        target.url,
        data=json.dumps(message).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "bgmagic"},
    )
    proxies = [urllib.request.ProxyHandler({})] if target.is_local else []
    tls = urllib.request.HTTPSHandler(context=_trusted())
    try:
        opener = urllib.request.build_opener(NoRedirect, tls, *proxies)
        with opener.open(request, timeout=TIMEOUT) as reply:
            reply.read(1000)
    except urllib.error.HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            return f"it answered {error.code}, a redirect, which is not followed", False
        return f"it answered {error.code}", error.code >= 500 or error.code in (408, 425, 429)
    except urllib.error.URLError as error:  # its words have no address
        return f"it can't be reached: {type(error.reason).__name__}", True
    except Exception as error:
        return f"it can't be reached: {type(error).__name__}", True
    return "", False


def _trusted() -> ssl.SSLContext:
    """What the system trusts, also for Pythons that know no certificates, as python.org's."""
    import ssl

    try:
        import truststore  # the SDK's own client brings it
    except ImportError:
        return ssl.create_default_context()
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _wait_at_exit() -> None:
    """As the process ends: let what is being told be told; what has not ended is told nobody."""
    global _ending
    _ending = True
    grace = KERNEL_GRACE if "ipykernel" in sys.modules else GRACE
    with _lock:
        _news.wait_for(lambda: not any(map(_have_ended, _due.values())), grace)


def _have_ended(jobs: Sequence[Job]) -> bool:
    return all(job.done() and job.status != Status.DETACHED for job in jobs)
