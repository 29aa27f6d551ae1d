"""Points this process at the embedded model or at a server of one's own, and back; tells so."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bgmagic.errors import BadInput
from bgmagic.text import one_line

if TYPE_CHECKING:
    from bgmagic.submission.app import App

NO_KEY = "none"  # the SDK wants some word
_HINT = "the embedded server has ended; %bglocal starts it again"


def use_local_model(
    app: App,
    tokens_per_second: float | None = None,
    queue: float | None = None,
    *,
    flex_refusals: bool = False,
    model: Path | None = None,
    threads: int | None = None,
    parallel: int | None = None,
    context: int | None = None,
) -> None:
    """Start or join the embedded server, and send the jobs from now on there.

    Args:
        tokens_per_second: how fast it may write; None is as fast as it can.
        queue: seconds that a response stays queued at least.
        flex_refusals: whether it refuses every other response in the flex tier.
        model: a GGUF file of the user's own; None for the small model.
        threads: CPU threads; here and below None stands for the default, or for what runs.
        parallel: responses answered at a time.
        context: tokens of prompt and answer together.

    Raises:
        BadInput: it can't be started, or runs with other settings; the line says what to do.
    """
    from bgmagic.api.server import ServerConfig
    from bgmagic.local import discovery  # here and below: imported when someone wants it

    with _one_line():
        endpoint = discovery.start_or_join(
            model=model,
            threads=threads,
            parallel=parallel,
            context=context,
            report=print,
            progress=_bar,
        )
    server = ServerConfig(
        base_url=endpoint.base_url,
        api_key=endpoint.token,
        is_local=True,
        hint=_HINT,
        headers=_pace(tokens_per_second, queue, flex_refusals=flex_refusals),
    )
    app.use_local(server)
    what = ", a small model on this machine's CPU" if model is None else " on this machine's CPU"
    why = "for trying things out: its answers are often wrong" if model is None else "no network"
    print(
        f"Jobs now go to {endpoint.model}{what}.\n"
        f"No key, no cost, {why}.\n"
        "Cells that ask for a gpt- model run unchanged. %bglocal off goes back."
    )
    _tell_pace(server.headers)


def use_server_at(app: App, base_url: str) -> None:
    """Send the jobs from now on to the server at ``base_url``, and tell what was found there.

    No key goes there, and no header of the environment: those are for the user's usual server.

    Raises:
        BadInput: it can't be used; jobs go on to where they went.
    """
    from bgmagic.api.server import ServerConfig, check_url
    from bgmagic.notebook.server_check import check_server

    check_url(base_url, "%bglocal")
    server = ServerConfig(base_url=base_url, api_key=NO_KEY)
    if server.address != base_url.rstrip("/"):
        raise BadInput(f"%bglocal {server.address}: without a password or a query, please")
    found = check_server(server.address, NO_KEY)
    app.use_local(server, found.models[0])
    print(
        f"Jobs now go to {server.address}, which has {found.named}; {found.background}. "
        f"Cells without -m ask for {one_line(found.models[0], 80)}; %bglocal off goes back."
    )


def _pace(tokens_per_second: float | None, queue: float | None, *, flex_refusals: bool) -> str:
    from bgmagic.local import FLEX_REFUSALS_HEADER, QUEUE_HEADER, TOKENS_PER_SECOND_HEADER

    asked = {TOKENS_PER_SECOND_HEADER: tokens_per_second, QUEUE_HEADER: queue}
    asked[FLEX_REFUSALS_HEADER] = float(flex_refusals)
    return "\n".join(f"{name}: {value!r}" for name, value in asked.items() if value)


def _tell_pace(headers: str) -> None:
    from bgmagic.local import FLEX_REFUSALS_HEADER, QUEUE_HEADER, TOKENS_PER_SECOND_HEADER

    asked = dict(line.split(": ") for line in headers.splitlines())
    words = {
        TOKENS_PER_SECOND_HEADER: "at most {:g} tokens a second",
        QUEUE_HEADER: "{:g} s in the queue first",
        FLEX_REFUSALS_HEADER: "every other job of --tier flex refused at first",
    }
    slow = [told.format(float(asked[name])) for name, told in words.items() if name in asked]
    if slow:
        print(f"Slowed down, to watch: {', '.join(slow)}. %bglocal alone takes that back.")


def use_own_server(app: App) -> None:
    """Send the jobs from now on to the user's own server again."""
    used = app.local
    if used is None:
        print("The embedded model was not in use.")
        return
    app.use_local(None)
    ends = " The embedded one ends by itself after an idle hour." if used.is_local else ""
    print(f"Jobs go to your own server again.{ends}")


def print_status(app: App) -> None:
    """Tell where jobs go, and whether the embedded server runs.

    Raises:
        BadInput: it can't be looked for.
    """
    from bgmagic.local import discovery

    with _one_line():
        endpoints = discovery.find_all()
    used = app.local
    address = used.address if used else None
    # The one that jobs go to last: what is said of them follows it.
    endpoints.sort(key=lambda endpoint: endpoint.base_url == address)
    runs = [f"runs {endpoint.model} at {endpoint.base_url}" for endpoint in endpoints]
    told = " and ".join(runs) or "is not running"
    there = "to your own server" if used is None else "there" if used.is_local else f"to {address}"
    print(f"The embedded server {told}; jobs go {there}.")
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
