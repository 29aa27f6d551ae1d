"""What a server that somebody runs can do: its models, and a short job as a cell would send it."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from bgmagic.api.request import build_request
from bgmagic.api.response import SERVER_TERMINAL
from bgmagic.errors import BadInput
from bgmagic.text import duration, one_line

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
        more = f" and {len(self.models) - 3} more" if len(self.models) > 3 else ""
        return ", ".join(one_line(name, 80) for name in self.models[:3]) + more


def check_server(base_url: str, key: str) -> ServerAbilities:
    """Look at the server at ``base_url``; takes as long as a short job there, `TRIED` at most.

    Raises:
        BadInput: it can't be used; the line says why and what to do.
    """
    base = base_url.rstrip("/")
    models = _models(base, key)
    begun = time.monotonic()
    text = build_request([_PROMPT], model=models[0], max_output_tokens=_TOKENS).text
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
        error = response.get("error")
        why = error.get("message") if isinstance(error, dict) else None
        raise BadInput(f"{base}: a short job of {models[0]} ended as {status}: {_said(why)}")
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
    words = f"{address} answers HTTP {error.code}: {_said(_message(page))}"
    if error.code in (401, 403):
        return (
            f"{words}; %bglocal sends no key: with one, bgmagic.use(OpenAI(base_url=…, api_key=…))"
        )
    if error.code == 404 and body is None:
        return f"{words}; an address mostly ends in /v1"
    if body is not None:
        return f"{words}; vLLM needs VLLM_ENABLE_RESPONSES_API_STORE=1 for background mode"
    return words


def _message(page: str) -> object:
    try:
        found = json.loads(page)
    except (ValueError, RecursionError):
        return page
    error = found.get("error", found) if isinstance(found, dict) else page
    if not isinstance(error, dict):
        return error
    return error.get("message") or error.get("detail") or page


def _said(words: object) -> str:
    return one_line(str(words or "it gives no reason"), 300).rstrip(".")


def _in(seconds: float) -> str:
    return f"within {duration(seconds)}"
