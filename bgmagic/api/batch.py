"""The Batch API's files as values: lines of requests, and what the lines of results say.

A batch is a file of requests to one endpoint, for one model, that the provider works on within 24
hours. Its results come in two files, one line a request, in any order.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from bgmagic.api.error_body import failure_message
from bgmagic.api.request import Request
from bgmagic.api.response import is_terminal, objects_in, text_in
from bgmagic.errors import BadInput
from bgmagic.text import one_line
from bgmagic.values import dataclass

# The bounds of one file (OpenAI's guide to Batch, openai 3.57).
MOST_REQUESTS = 50_000

MOST_BYTES = 200_000_000

ENDPOINT = "/v1/responses"

WINDOW = "24h"

# The metadata of a batch that have our own name of it, of the group that its jobs belong to, and of
# the create that made it.
KEY, _GROUP, _MADE_BY = "bgmagic", "bgmagic_group", "bgmagic_create"

# Statuses after which a batch changes no more.
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})

_WITHOUT_ANSWERS = frozenset({"failed", "cancelled", "cancelling", "expired"})

_OURS = re.compile("[0-9a-f]{32}")

# JSON allows these within a text, and what reads a file by lines may take them for their ends.
_LINE_ENDS = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"}


def request_line(custom_id: str, body: str) -> bytes:
    """A line of the file of requests.

    Args:
        custom_id: our own name of the request, which its result has as well.
        body: the request as JSON, without background mode and stream.
    """
    for sign, written in _LINE_ENDS.items():
        if sign in body:
            body = body.replace(sign, written)
    head = f'{{"custom_id": "{custom_id}", "method": "POST", "url": "{ENDPOINT}", "body": '
    return f"{head}{body}}}\n".encode()


# Bytes around the body, and for what is written longer in it than it is.
_AROUND = len(request_line("0" * 32, "")) + 100


class BatchAssigner:
    """Names the batch that each request goes into: one model, and the bounds of a file, each."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, int, int]] = {}

    def name(self, request: Request) -> str:
        """Our own name of the batch of the next request.

        Raises:
            BadInput: it is too large for any file.
        """
        size = len(request.text.encode()) + _AROUND
        if size > MOST_BYTES:
            raise BadInput(
                f"a request has {size / 1e6:.0f} MB, and the file of a batch may have "
                f"{MOST_BYTES / 1e6:.0f}; give a large --file by its http(s) address"
            )
        name, count, used = self._open.get(request.model, ("", 0, 0))
        if not name or count == MOST_REQUESTS or used + size > MOST_BYTES:
            name, count, used = uuid.uuid4().hex, 0, 0
        self._open[request.model] = name, count + 1, used + size
        return name


@dataclass(frozen=True)
class BatchResult:
    """What became of one request.

    Attributes:
        custom_id: our own name of the request.
        response: the response object, where there is one that has ended; else None.
        reason: why there is none, in words, or "".
        code: the server's word for that, or "".
    """

    custom_id: str
    response: Mapping[str, Any] | None = None
    reason: str = ""
    code: str = ""


def read_result(line: Mapping[str, Any]) -> BatchResult | None:
    """What a line of an output or error file says; None if it is about no request."""
    custom_id = text_in(line.get("custom_id"))
    if not custom_id:
        return None
    given = line.get("response")
    answer: Mapping[str, Any] = given if isinstance(given, dict) else {}
    body = answer.get("body")
    status = answer.get("status_code")
    if isinstance(body, dict) and status in (200, None) and {"output", "status"} & body.keys():
        response = body if body.get("status") else {**body, "status": "completed"}
        if is_terminal(response):
            return BatchResult(custom_id, response)
        return BatchResult(custom_id, None, f"its response is only {response['status']}")
    error = next((found for found in _errors(line, body) if found), {})
    code = one_line(text_in(error.get("code")), 80)
    message = failure_message({"error": error}) or one_line(text_in(error.get("message")))
    at = f"HTTP {status}" if isinstance(status, int) and status != 200 else ""
    words = [word for word in (at, code, message) if word]
    return BatchResult(custom_id, None, ": ".join(words) or "the server gave no reason", code)


def _errors(line: Mapping[str, Any], body: object) -> list[Mapping[str, Any]]:
    places = [body.get("error") if isinstance(body, dict) else None, line.get("error")]
    return [found for found in places if isinstance(found, dict)]


@dataclass(frozen=True)
class RequestCounts:
    """How many requests of a batch are done, as the server counts them: of ``total`` some are
    ``completed``, others ``failed``."""

    total: int
    completed: int
    failed: int

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> RequestCounts | None:
        """Read the API's batch object; None if it has no such counts, or none yet."""
        told = batch.get("request_counts")
        given = [told.get(field.name) for field in fields(cls)] if isinstance(told, dict) else []
        counts = [one for one in given if type(one) is int and one >= 0]
        if len(counts) < 3 or not 0 < counts[0] >= counts[1] + counts[2]:
            return None
        return cls(*counts)


def progress_text(counts: Iterable[RequestCounts]) -> str:
    """How far batches are together: "120 of 200 done, 3 failed"."""
    several = list(counts)
    total, completed, failed = (
        sum(getattr(one, field.name) for one in several) for field in fields(RequestCounts)
    )
    return f"{completed + failed:,} of {total:,} done" + (f", {failed:,} failed" if failed else "")


@dataclass(frozen=True)
class BatchReport:
    """What the server says of a batch.

    Attributes:
        batch_id: the server's id.
        status: its word verbatim.
        files: the ids of the output file and the error file, those that there are.
        why: why it failed as a whole, or "".
        counts: how many of its requests are done, where the server says so.
    """

    batch_id: str
    status: str
    files: tuple[str, ...] = ()
    why: str = ""
    counts: RequestCounts | None = None

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> BatchReport:
        """Read the API's batch object, whatever its shape."""
        files = (text_in(batch.get("output_file_id")), text_in(batch.get("error_file_id")))
        listed = batch.get("errors")
        errors = objects_in(listed.get("data") if isinstance(listed, dict) else listed)
        words = [
            one_line(text_in(one.get(name))) for one in errors[:1] for name in ("code", "message")
        ]
        return cls(
            batch_id=text_in(batch.get("id")),
            status=text_in(batch.get("status")),
            files=tuple(file for file in files if file),
            why=": ".join(word for word in words if word),
            counts=RequestCounts.of(batch),
        )

    @property
    def ended(self) -> bool:
        """Whether it changes no more."""
        return self.status in ENDED

    @property
    def may_answer(self) -> bool:
        """Whether each of its requests has an answer, or may get one."""
        return self.status not in _WITHOUT_ANSWERS


def metadata_of(key: str, group: str, create: str) -> dict[str, str]:
    """What a batch carries of ours: our own names of it, of the create that makes it and, if there
    is one, of its group."""
    return {KEY: key, _MADE_BY: create} | ({_GROUP: group} if group else {})


def key_of(batch: Mapping[str, Any]) -> str:
    """Our own name of a batch object, by its metadata, or ""."""
    return _own_name(batch, KEY)


def group_of(batch: Mapping[str, Any]) -> str:
    """Our own name of the group that a batch object's jobs belong to, by its metadata, or ""."""
    return _own_name(batch, _GROUP)


def key_of_request(batch_id: str, custom_id: str) -> str:
    """Our own name of a request of a batch that was made elsewhere: the id that bgmagic gave it
    there; a foreign id with the batch's before it, since another batch may have the same."""
    return custom_id if _OURS.fullmatch(custom_id) else f"{batch_id}/{custom_id}"


def create_of(batch: Mapping[str, Any]) -> str:
    """Our own name of the create that made a batch object, by its metadata, or "".

    A create that is sent twice on its way makes two batches; so do two kernels, as of a machine and
    its copy, but by two creates.
    """
    return _own_name(batch, _MADE_BY)


def is_batch_of(batch: Mapping[str, Any], key: str, group: str = "") -> bool:
    """Whether a batch object is, by its metadata, the one we call ``key``, or one of ``group``."""
    return _own_name(batch, KEY) == key or bool(group and _own_name(batch, _GROUP) == group)


def _own_name(batch: Mapping[str, Any], name: str) -> str:
    metadata = batch.get("metadata")
    return text_in(metadata.get(name)) if isinstance(metadata, dict) else ""


def read_json_line(raw: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None if it is none, as one cut off, or is nested too deep."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
