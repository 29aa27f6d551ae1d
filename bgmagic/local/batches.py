"""Files and batches of the embedded server: their states, their JSON and their paths.

A batch is a file of requests, a line each, of which as many are answered at a time as the model has
places for; its results are two files. Files are kept in memory, the newest as far as they fit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tornado.httputil import HTTPFile, HTTPInputError, parse_body_arguments

from bgmagic.local.request_body import parse_json, read_create, read_metadata
from bgmagic.local.responses import NO_PACE, ResponseStore
from bgmagic.local.server import BaseHandler, BodyHandler, Route, ServerState
from bgmagic.local.validation import BadRequest, choice, integer, refuse, text, unknown

# The API's bounds of a file of requests.
MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000

# Bytes of all files that are kept; the oldest go first.
MAX_FILES = 400_000_000

# Seconds after which a batch expires that is not done: the one window that the API knows.
WINDOW = 86400.0

ENDPOINT = "/v1/responses"

# Files, or batches, of a list: if nothing is said, and at most.
PAGE, MOST_OF_PAGE = 20, 100

# The fields of a create.
CREATE_BATCH = (
    "input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after",
)  # fmt: skip

OPEN = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(frozen=True)
class File:
    """A file that was uploaded, or that a batch has made."""

    filename: str
    purpose: str
    content: bytes = field(repr=False)
    id: str = field(default_factory=lambda: f"file-{secrets.token_hex(12)}")
    created_at: int = field(default_factory=lambda: int(time.time()))

    def json(self) -> dict[str, Any]:
        """The file object of the API."""
        return {
            "id": self.id, "object": "file", "bytes": len(self.content), "status": "processed",
            "created_at": self.created_at, "filename": self.filename, "purpose": self.purpose,
        }  # fmt: skip


class BadLine(Exception):
    """A line of a file of requests that is none."""

    def __init__(self, line: int | None, code: str, message: str) -> None:
        super().__init__(message)
        self.told = {"code": code, "line": line, "message": message, "param": None}


@dataclass(frozen=True)
class RequestLine:
    """A request of a batch."""

    custom_id: str
    body: Mapping[str, Any]


def read_lines(content: bytes) -> list[RequestLine]:
    """The requests of a file.

    Raises:
        BadLine: names the line that is wrong.
    """
    lines = [line for line in content.split(b"\n") if line.strip()]
    if not lines:
        raise BadLine(None, "empty_file", "The batch file is empty.")
    if len(lines) > MOST_REQUESTS:
        raise BadLine(None, "too_many_requests", f"More than {MOST_REQUESTS} requests.")
    found = [_line(number, raw) for number, raw in enumerate(lines, 1)]
    if len({line.custom_id for line in found}) < len(found):
        raise BadLine(None, "duplicate_custom_id", "Each custom_id must be there once.")
    if len({str(line.body.get("model")) for line in found}) > 1:
        raise BadLine(None, "mismatched_model", "All requests must ask the same model.")
    return found


def _line(number: int, raw: bytes) -> RequestLine:
    try:
        asked = parse_json(raw)
    except BadRequest:
        raise BadLine(number, "invalid_json_line", "This line is no JSON object.") from None
    custom_id, body = asked.get("custom_id"), asked.get("body")
    if not isinstance(custom_id, str) or not isinstance(body, dict):
        raise BadLine(number, "missing_required_parameter", "custom_id and body are needed.")
    if asked.get("method") != "POST" or asked.get("url") != ENDPOINT:
        raise BadLine(number, "invalid_url", f"The request must be a POST of {ENDPOINT}.")
    if body.get("background") or body.get("stream"):
        raise BadLine(number, "invalid_request", "No background and no stream in a batch.")
    return RequestLine(custom_id, body)


class Batch:
    """One batch from creation to its end."""

    def __init__(self, input_file_id: str, metadata: Mapping[str, str] | None) -> None:
        self.id = f"batch_{secrets.token_hex(12)}"
        self.status = "validating"
        self.results: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []
        self.total = self.completed = self.failed = 0
        self.output_file_id: str | None = None
        self.error_file_id: str | None = None
        self.cancelled = asyncio.Event()
        self.times = {"created_at": int(time.time())}
        self._input = input_file_id
        self._metadata = metadata

    def take(self, result: dict[str, Any]) -> None:
        """Count the result of a request, and keep it until the files are written."""
        self.results.append(result)
        if _status(result) == "cancelled":
            return  # with the batch: it is written as not done
        if result["response"]["status_code"] == 200:
            self.completed += 1
        else:
            self.failed += 1

    def move(self, status: str) -> None:
        """Take a status on, and when that was."""
        self.status = status
        self.times[f"{status}_at"] = int(time.time())

    def json(self) -> dict[str, Any]:
        """The batch object of the API."""
        errors = {"object": "list", "data": self.errors} if self.errors else None
        counts = {"total": self.total, "completed": self.completed, "failed": self.failed}
        return {
            "id": self.id, "object": "batch", "endpoint": ENDPOINT, "status": self.status,
            "completion_window": "24h", "input_file_id": self._input, "errors": errors,
            "output_file_id": self.output_file_id, "error_file_id": self.error_file_id,
            "request_counts": counts, "metadata": self._metadata,
            "expires_at": self.times["created_at"] + int(WINDOW), **self.times,
        }  # fmt: skip


class BatchShelf:
    """All files and batches of the server. On the event loop's thread.

    Args:
        responses: answers the requests.
        model: what the server runs.
        window: seconds after which a batch expires.
    """

    def __init__(self, responses: ResponseStore, model: str, window: float = WINDOW) -> None:
        self.files: dict[str, File] = {}
        self.batches: dict[str, Batch] = {}
        self.window = window
        self._responses = responses
        self._model = model
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, file: File) -> File:
        """Keep a file, and drop the oldest ones that do not fit beside it."""
        self.files[file.id] = file
        size = sum(len(one.content) for one in self.files.values())
        for old in [one for one in self.files.values() if one is not file]:
            if size <= MAX_FILES:
                break
            size -= len(old.content)
            del self.files[old.id]
        return file

    def file(self, file_id: str) -> File:
        """The file of that id.

        Raises:
            BadRequest: it is not known.
        """
        if file_id not in self.files:
            raise BadRequest(404, f"No such File object: {file_id[:80]}", param="id")
        return self.files[file_id]

    def batch(self, batch_id: str) -> Batch:
        """The batch of that id.

        Raises:
            BadRequest: it is not known.
        """
        if batch_id not in self.batches:
            raise BadRequest(404, f"No batch found with id '{batch_id[:80]}'.")
        return self.batches[batch_id]

    def create(self, body: Mapping[str, Any]) -> Batch:
        """Begin a batch.

        Raises:
            BadRequest: names the field that is wrong.
        """
        for name in body:
            if name not in CREATE_BATCH:
                unknown(name)
        choice(body, "endpoint", (ENDPOINT,), None)
        choice(body, "completion_window", ("24h",), None)
        file_id = text(body, "input_file_id")
        if file_id is None:
            name = "input_file_id"
            refuse(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        content = self.file(file_id).content
        metadata = read_metadata(body) if body.get("metadata") is not None else None
        batch = Batch(file_id, metadata)
        self.batches[batch.id] = batch
        task = asyncio.create_task(self._run(batch, content))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return batch

    async def _run(self, batch: Batch, content: bytes) -> None:
        await asyncio.sleep(0)  # its creator sees it validating
        try:
            lines = read_lines(content)
        except BadLine as error:
            batch.errors.append(error.told)
            batch.move("failed")
            return
        batch.total = len(lines)
        if not batch.cancelled.is_set():
            batch.move("in_progress")
        status = "completed"
        left = iter(lines)
        try:
            async with asyncio.timeout(self.window), asyncio.TaskGroup() as places:
                for _ in range(self._responses.parallel):
                    places.create_task(self._work(batch, left))
        except TimeoutError:
            status = "expired"
        if batch.cancelled.is_set():
            status = "cancelled"
        self._end(batch, lines, status)

    async def _work(self, batch: Batch, left: Iterator[RequestLine]) -> None:
        """Answer what is left of a batch, one after another; several of these do so at a time."""
        for number, line in enumerate(left):
            if batch.cancelled.is_set():
                break
            batch.take(await self._answer(batch, line))
            if number % 50 == 0:  # what is refused waits for nothing
                await asyncio.sleep(0)

    async def _answer(self, batch: Batch, line: RequestLine) -> dict[str, Any]:
        """The result of one request; raises nothing but CancelledError."""
        responses = self._responses
        try:
            params = read_create({**line.body, "background": True}, self._model)
            response = responses.create(params, NO_PACE)
        except BadRequest as problem:
            return _result(line.custom_id, problem.status, {"error": problem.error})
        stop = asyncio.create_task(batch.cancelled.wait())
        settled = asyncio.create_task(response.settled.wait())
        try:
            await asyncio.wait({stop, settled}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            settled.cancel()
            if response.open:
                response.stop()
        await response.settled.wait()
        body = response.json() | {"background": False}
        with contextlib.suppress(KeyError):  # it is in the file from now on
            responses.delete(response)
        return _result(line.custom_id, 200, body)

    def _end(self, batch: Batch, lines: Sequence[RequestLine], status: str) -> None:
        """Write the files, and settle the batch."""
        done = [one for one in batch.results if _status(one) != "cancelled"]
        good = [one for one in done if one["response"]["status_code"] == 200]
        bad = [one for one in done if one["response"]["status_code"] != 200]
        words = {"expired": "batch_expired", "cancelled": "batch_cancelled"}
        named = {one["custom_id"] for one in done}
        undone = [line.custom_id for line in lines if line.custom_id not in named]
        for custom_id in undone if status in words else []:
            error = {"code": words[status], "message": "This request was not done in its batch."}
            line = _result(custom_id, 0, {})
            bad.append({**line, "response": None, "error": error})
        batch.completed, batch.failed = len(good), len(bad)
        batch.output_file_id = self._written(batch, "output", good)
        batch.error_file_id = self._written(batch, "error", bad)
        batch.results = []
        batch.move(status)

    def _written(self, batch: Batch, kind: str, lines: Sequence[Mapping[str, Any]]) -> str | None:
        if not lines:
            return None
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        return self.add(File(f"{batch.id}_{kind}.jsonl", "batch_output", content)).id

    @staticmethod
    def cancel(batch: Batch) -> None:
        """Have the batch end with what is done."""
        if batch.status not in OPEN:
            raise BadRequest(409, f"Cannot cancel a batch with status '{batch.status}'.")
        batch.cancelled.set()
        batch.move("cancelling")


def _result(custom_id: str, status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    request_id = f"req_{secrets.token_hex(12)}"
    response = {"status_code": status, "request_id": request_id, "body": body}
    batch_id = f"batch_req_{secrets.token_hex(12)}"
    return {"id": batch_id, "custom_id": custom_id, "response": response, "error": None}


def _status(result: Mapping[str, Any]) -> object:
    return result["response"]["body"].get("status")


class StoreHandler(BaseHandler):
    """What the paths of files and batches have in common."""

    def initialize(self, state: ServerState, store: BatchShelf | None = None) -> None:
        super().initialize(state)
        assert store is not None  # noqa: S101 - `routes` gives it
        self.store = store

    def reply_list(self, found: Sequence[Mapping[str, Any]]) -> None:
        """Reply with the page, the newest first, that the query asks for."""
        given, after = self.query("limit"), self.query("after")
        limit = PAGE if given is None else integer(given, "limit", 1, MOST_OF_PAGE)
        newest = list(found)[::-1]
        if self.query("order") == "asc":
            newest.reverse()
        ids = [one["id"] for one in newest]
        if after is not None and after not in ids:
            refuse(f"There is none with the id '{after[:80]}'.", "after", "invalid_value")
        start = ids.index(after) + 1 if after is not None else 0
        page = newest[start : start + limit]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        more = start + limit < len(newest)
        self.reply({"object": "list", "data": page, "has_more": more, **ends})


class FilesHandler(StoreHandler, BodyHandler):
    """POST (an upload) and GET (the list) /v1/files."""

    most_body = MOST_BYTES + 10_000

    def get(self) -> None:
        purpose = self.query("purpose")
        files = [one for one in self.store.files.values() if purpose in (None, one.purpose)]
        self.reply_list([one.json() for one in files])

    def post(self) -> None:
        content = self.raw_body()
        fields: dict[str, list[bytes]] = {}
        files: dict[str, list[HTTPFile]] = {}
        kind = self.request.headers.get("Content-Type", "")
        if not kind.startswith("multipart/form-data"):
            refuse("The body of an upload must be multipart/form-data.", "file")
        try:
            parse_body_arguments(kind, content, fields, files)
        except HTTPInputError:
            refuse("The body of the upload is no multipart/form-data.", "file")
        purpose = fields.get("purpose", [b""])[-1].decode("utf-8", "replace")
        choice({"purpose": purpose or None}, "purpose", ("batch",), None)
        if "file" not in files:
            refuse("Missing required parameter: 'file'.", "file", "missing_required_parameter")
        given = files["file"][0]
        self.reply(self.store.add(File(given["filename"], purpose, given["body"])).json())


class FileHandler(StoreHandler):
    """GET and DELETE /v1/files/{id}."""

    def get(self, file_id: str) -> None:
        self.reply(self.store.file(file_id).json())

    def delete(self, file_id: str) -> None:
        del self.store.files[self.store.file(file_id).id]
        self.reply({"id": file_id, "object": "file", "deleted": True})


class ContentHandler(StoreHandler):
    """GET /v1/files/{id}/content, from a byte on with a Range header."""

    def get(self, file_id: str) -> None:
        content = self.store.file(file_id).content
        asked = self.request.headers.get("Range", "")
        start = asked.removeprefix("bytes=").removesuffix("-")
        self.set_header("Content-Type", "application/octet-stream")
        if len(start) < 20 and start.isdecimal() and asked.startswith("bytes="):
            if int(start) >= len(content):
                raise BadRequest(416, f"The file has {len(content)} bytes.")
            self.set_status(206)
            last = len(content) - 1
            self.set_header("Content-Range", f"bytes {int(start)}-{last}/{len(content)}")
            content = content[int(start) :]
        self.finish(content)


class BatchesHandler(StoreHandler, BodyHandler):
    """POST and GET (the list) /v1/batches."""

    def get(self) -> None:
        self.reply_list([batch.json() for batch in self.store.batches.values()])

    def post(self) -> None:
        self.reply(self.store.create(self.body()).json())


class BatchHandler(StoreHandler):
    """GET /v1/batches/{id}."""

    def get(self, batch_id: str) -> None:
        self.reply(self.store.batch(batch_id).json())


class CancelBatchHandler(StoreHandler):
    """POST /v1/batches/{id}/cancel."""

    def post(self, batch_id: str) -> None:
        batch = self.store.batch(batch_id)
        self.store.cancel(batch)
        self.reply(batch.json())


def routes(state: ServerState) -> list[Route]:
    """The paths of files and batches, with a store of their own."""
    shared = {"state": state, "store": BatchShelf(state.responses, state.model)}
    paths: dict[str, Callable[..., Any]] = {
        "/files": FilesHandler,
        "/files/([^/]+)": FileHandler,
        "/files/([^/]+)/content": ContentHandler,
        "/batches": BatchesHandler,
        "/batches/([^/]+)": BatchHandler,
        "/batches/([^/]+)/cancel": CancelBatchHandler,
    }
    return [(f"/v1{path}", handler, shared) for path, handler in paths.items()]
