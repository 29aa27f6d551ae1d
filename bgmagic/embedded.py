"""Pointing this kernel at the embedded model and back, in words for the user.

How the server is started, found and reached is local/'s business, which knows nothing of jobs.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bgmagic.errors import BadInput

if TYPE_CHECKING:
    from bgmagic.manager import JobManager

_REMEDY = "the embedded server has ended; %bglocal starts it again"


def on(
    manager: JobManager, tokens_per_second: float | None = None, queue: float | None = None
) -> None:
    """Start or join the embedded server, and send the jobs from now on there.

    Args:
        tokens_per_second: how fast it may write; None is as fast as it can.
        queue: seconds that a response stays queued at least.

    Raises:
        BadInput: it can't be started; the line says what to do.
    """
    from bgmagic.local import discovery  # here and below: imported when someone wants it
    from bgmagic.server import Server

    with _one_line():
        endpoint = discovery.start_or_join(report=print, progress=_bar)
    if manager.server is None or not manager.server.isolated:
        manager.usual_server = manager.server
    manager.server = Server(
        base_url=endpoint.base_url,
        api_key=endpoint.token,
        isolated=True,
        remedy=_REMEDY,
        headers=_pace(tokens_per_second, queue),
    )
    print(
        f"Jobs now go to {endpoint.model}, a small model on this machine's CPU.\n"
        "No key, no cost, for trying things out: its answers are often wrong.\n"
        "Cells that ask for a gpt- model run unchanged. %bglocal off goes back."
    )
    _tell_pace(manager.server.headers)


def _pace(tokens_per_second: float | None, queue: float | None) -> str:
    from bgmagic.local import QUEUE_HEADER, TOKENS_PER_SECOND_HEADER

    asked = {TOKENS_PER_SECOND_HEADER: tokens_per_second, QUEUE_HEADER: queue}
    return "\n".join(f"{name}: {value!r}" for name, value in asked.items() if value)


def _tell_pace(headers: str) -> None:
    from bgmagic.local import QUEUE_HEADER, TOKENS_PER_SECOND_HEADER

    asked = dict(line.split(": ") for line in headers.splitlines())
    words = {
        TOKENS_PER_SECOND_HEADER: "at most {:g} tokens a second",
        QUEUE_HEADER: "{:g} s in the queue first",
    }
    slow = [told.format(float(asked[name])) for name, told in words.items() if name in asked]
    if slow:
        print(f"Slowed down, to watch: {', '.join(slow)}. %bglocal alone takes that back.")


def off(manager: JobManager) -> None:
    """Send the jobs from now on to the user's own server again."""
    if manager.server is None or not manager.server.isolated:
        print("The embedded model was not in use.")
        return
    manager.server = manager.usual_server
    print("Jobs go to your own server again. The embedded one ends by itself after an idle hour.")


def status(manager: JobManager) -> None:
    """Tell where jobs go, and whether the embedded server runs.

    Raises:
        BadInput: it can't be looked for.
    """
    from bgmagic.local import discovery

    with _one_line():
        endpoint = discovery.find()
    used = manager.server if manager.server is not None and manager.server.isolated else None
    runs = f"runs {endpoint.model} at {endpoint.base_url}" if endpoint else "is not running"
    print(f"The embedded server {runs}; jobs go {'there' if used else 'to your own server'}.")
    if used is not None:
        _tell_pace(used.headers)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    from bgmagic.local import LocalServerError

    try:
        yield
    except LocalServerError as error:
        raise BadInput(str(error)) from None


def _bar(done: int, total: int) -> None:
    """Draw a progress bar in place; bytes."""
    share = min(1.0, done / total) if total else 0.0
    drawn = "█" * round(30 * share)
    end = "\n" if share >= 1 else ""
    sys.stdout.write(f"\r{drawn:<30} {done / 1e6:.0f} of {total / 1e6:.0f} MB{end}")
    sys.stdout.flush()
