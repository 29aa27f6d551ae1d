"""Points this process at the embedded model or at a server of one's own, and back; tells so."""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgmagic.api.error_body import failure_message, read_error
from bgmagic.api.request_body import build_request
from bgmagic.api.response import SERVER_TERMINAL
from bgmagic.errors import BadInput
from bgmagic.text import and_more, duration, one_line
from bgmagic.values import dataclass

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
    calls: str | None = None,
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
        calls: JSON, calls of functions that it makes first, by this script, where there are tools.
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
        headers=_pace(tokens_per_second, queue, calls, flex_refusals=flex_refusals),
    )
    app.use_local(server)
    _follow_there(app)
    what = ", a small model on this machine's CPU" if model is None else " on this machine's CPU"
    why = "for trying things out: its answers are often wrong" if model is None else "no network"
    print(
        f"Jobs now go to {endpoint.model}{what}.\n"
        f"No key, no cost, {why}.\n"
        "Cells that ask for a gpt- model run unchanged. %bglocal off goes back."
    )
    _tell_pace(server.headers)


def _follow_there(app: App) -> None:
    """Ask the embedded server that runs now for the jobs of one that has ended, whose port was
    another. Jobs that it does not know end as lost, and can be sent again."""
    if app.gate is None:  # no manager yet, and so no job
        return
    for job in app.manager.jobs():
        if not job.done() and app.local is not None and job.record.server == app.local.name:
            app.manager.follow_with_key_of_today(job)


def use_server_at(app: App, base_url: str) -> None:
    """Send the jobs from now on to the server at ``base_url``, and tell what was found there.

    No key goes there, and no header of the environment: those are for the user's usual server.

    Raises:
        BadInput: it can't be used; jobs go on to where they went.
    """
    from bgmagic.api.server import ServerConfig, check_url

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


def _pace(
    tokens_per_second: float | None,
    queue: float | None,
    calls: str | None,
    *,
    flex_refusals: bool,
) -> str:
    from bgmagic import local

    asked = {local.TOKENS_PER_SECOND_HEADER: tokens_per_second, local.QUEUE_HEADER: queue}
    asked[local.FLEX_REFUSALS_HEADER] = float(flex_refusals)
    lines = [f"{name}: {value!r}" for name, value in asked.items() if value]
    return "\n".join(lines + ([f"{local.CALLS_HEADER}: {calls}"] if calls else []))


def _tell_pace(headers: str) -> None:
    from bgmagic import local

    asked = dict(line.split(": ", 1) for line in headers.splitlines())
    if local.CALLS_HEADER in asked:
        print(
            "A script, for teaching: a cell with --tool $function gets these calls first, whatever "
            "it asks; the small model answers what came of them."
        )
    words = {
        local.TOKENS_PER_SECOND_HEADER: "at most {:g} tokens a second",
        local.QUEUE_HEADER: "{:g} s in the queue first",
        local.FLEX_REFUSALS_HEADER: "every other job of --tier flex refused at first",
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


# Seconds for the list of models; for an answer to the short job, from sending it to its end.
ANSWER, TRIED = 10.0, 60.0
_INTERVAL = 0.3  # seconds between two polls of the short job
_MOST = 1_000_000  # bytes of an answer that are read

_PROMPT = {"role": "user", "content": [{"type": "input_text", "text": "Say OK."}]}
# So many tokens every server takes; a model that reasons first ends as incomplete, which is an end.
_TOKENS = 16


@dataclass(frozen=True)
class ServerAbilities:
    """What was found at a server.

    Attributes:
        models: the names of its models, in its order; at least one.
        background: what became of a short job in background mode, a part of a sentence.
    """

    models: tuple[str, ...]
    background: str

    @property
    def named(self) -> str:
        """The models in a few words."""
        return and_more([one_line(name, 80) for name in self.models[:3]], len(self.models))


def check_server(base_url: str, key: str) -> ServerAbilities:
    """Look at the server at ``base_url``; takes as long as a short job there, `TRIED` at most.

    Raises:
        BadInput: it can't be used; the line says why and what to do.
    """
    base = base_url.rstrip("/")
    models = _models(base, key)
    begun = time.monotonic()
    asked = build_request([_PROMPT], model=models[0], max_output_tokens=_TOKENS).text
    # `transformers serve` streams where it is not told that it is not to.
    text = json.dumps({**json.loads(asked), "stream": False})
    try:
        response = _call(f"{base}/responses", key, TRIED, text)
    except TimeoutError:
        raise BadInput(
            f"{base} took a short job of {models[0]} and did not answer {_in(TRIED)}"
        ) from None
    at_once = response.get("status") in SERVER_TERMINAL
    response = _followed(f"{base}/responses", key, response, begun + TRIED)
    took = duration(time.monotonic() - begun)
    status = one_line(str(response.get("status")), 40)
    if status not in SERVER_TERMINAL:
        told = f"background mode took a short job, which is {status} after {took}"
    elif status not in ("completed", "incomplete"):
        why = _said(failure_message(response))
        raise BadInput(f"{base}: a short job of {models[0]} ended as {status}: {why}")
    elif at_once:
        told = f"it answers only when it is done, without background mode (a short job: {took})"
    else:
        told = f"background mode works (a short job: {took})"
    return ServerAbilities(models, told)


def _models(base: str, key: str) -> tuple[str, ...]:
    try:
        listed = _call(f"{base}/models", key, ANSWER).get("data")
    except TimeoutError:
        raise BadInput(f"{base} did not answer {_in(ANSWER)}") from None
    entries = listed if isinstance(listed, list) else []
    names = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    found = tuple(name for name in names if isinstance(name, str) and name)
    if not found:
        raise BadInput(f"{base} names no model at {base}/models; has it loaded one?")
    return found


def _followed(address: str, key: str, response: dict[str, Any], end: float) -> dict[str, Any]:
    """The response once it has ended, or as it is at ``end``."""
    where = f"{address}/{urllib.parse.quote(str(response.get('id')), safe='')}"
    while response.get("status") not in SERVER_TERMINAL and time.monotonic() < end:
        time.sleep(_INTERVAL)
        try:
            response = _call(where, key, ANSWER)
        except TimeoutError:
            continue
    return response


def _call(address: str, key: str, timeout: float, body: str | None = None) -> dict[str, Any]:
    """What the server answers, a JSON object.

    Raises:
        BadInput: it is none, or an error.
        TimeoutError: there was no answer within ``timeout`` seconds.
    """
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = None if body is None else body.encode()
    request = urllib.request.Request(address, data, headers)  # noqa: S310 - checked to be http
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - likewise
            found = json.loads(answer.read(_MOST))
    except urllib.error.HTTPError as error:
        raise BadInput(_refused(address, error, body)) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise TimeoutError from None
        told = f"nothing answers at {address}: {_said(error.reason)}; does the server run?"
        raise BadInput(told) from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, TimeoutError):
            raise
        raise BadInput(f"{address} broke off: {_said(error)}") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadInput(f"{address} answers with something that is no JSON object: is it an API?")
    return found


def _refused(address: str, error: urllib.error.HTTPError, body: str | None) -> str:
    """What an error status means, and what to do."""
    page = error.read(_MOST).decode("utf-8", "replace")
    words = f"{address} answers HTTP {error.code}: {_said(read_error(page).message or page)}"
    if error.code in (401, 403):
        return (
            f"{words}; %bglocal sends no key: with one, bgmagic.use(OpenAI(base_url=…, api_key=…))"
        )
    if error.code == 404 and body is None:
        return f"{words}; an address mostly ends in /v1"
    if body is not None:
        return f"{words}; vLLM needs VLLM_ENABLE_RESPONSES_API_STORE=1 for background mode"
    return words


def _said(words: object) -> str:
    return one_line(str(words or "it gives no reason"), 300).rstrip(".")


def _in(seconds: float) -> str:
    return f"within {duration(seconds)}"
