"""A real HTTP server on loopback that does what a test scripts, down to dropped connections.

Without a script it behaves like a small Responses API in background mode: a create is accepted as
``queued``, then polls say ``in_progress`` and at last ``completed``.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.support.batching import Files


@dataclass
class Script:
    """How the server answers one request.

    ``reset`` closes the connection without an answer, before or after the request took effect;
    ``truncate`` sends only so many bytes of the body; ``close`` ends the connection after the answer,
    without a word; ``hold`` is an event to wait for first.
    """

    status: int = 200
    json: Any = None
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    reset: str | None = None
    truncate: int | None = None
    close: bool = False
    delay: float = 0.0
    hold: threading.Event | None = None


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    kind: str
    path: str
    headers: dict[str, str]
    body: Any
    at: float


def response(
    response_id: str, status: str, text: str | None = None, **fields: Any
) -> dict[str, Any]:
    """A response object with one text output."""
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    output = [] if text is None else [{**message, "content": content}]
    base = {"id": response_id, "object": "response", "status": status, "model": "gpt-5.2-true"}
    return base | {"output": output, "error": None, "incomplete_details": None} | fields


BATCHING = ("upload", "content", "files", "batch", "batches", "batch_poll", "batch_cancel")

DROP = "drop"  # in a stream: end the connection here, once


def event(kind: str, number: int | None, **fields: Any) -> dict[str, Any]:
    """One event of a stream."""
    numbered = {} if number is None else {"sequence_number": number}
    return {"type": kind, **numbered, **fields}


def written(
    rid: str, pieces: list[str], *extra: Any, ending: str = "completed", after: int = 0
) -> list[Any]:
    """The stream of a response whose text comes in ``pieces``; ``extra`` goes before its end."""
    begun = response(rid, "in_progress")
    events = [
        event("response.created", 0, response=response(rid, "queued")),
        event("response.in_progress", 1, response=begun),
    ]
    deltas = [
        event("response.output_text.delta", 2 + n, delta=piece) for n, piece in enumerate(pieces)
    ]
    last = response(rid, ending, "".join(pieces), usage={"input_tokens": 3, "output_tokens": 2})
    end = event(f"response.{ending}", 2 + len(pieces), response=last)
    return [*events, *deltas[:after], *extra, *deltas[after:], end]


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """The file to trust, and what a server on 127.0.0.1 shows who connects to it."""
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = folder / "authority.pem"
    authority.cert_pem.write_to_path(trusted)
    return trusted, context


class ScriptedServer:
    """The server, on a thread of its own; a context manager."""

    def __init__(
        self, port: int = 0, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._port = port
        self._host = host
        self._tls = tls
        self.seen: list[Seen] = []
        self.responses: dict[str, dict[str, Any]] = {}
        self.scripts: dict[str, deque[Script]] = defaultdict(deque)
        self.always: dict[str, Script] = {}
        # How to answer where no script is queued, by kind.
        self.choose: Callable[[str], Script] = lambda kind: self.always.get(kind, Script())
        # How to answer what is asked of one response.
        self.by_id: dict[str, Script] = {}
        # The text that each response was asked for.
        self.accepted: dict[str, str] = {}
        # How many polls a response takes, and what it ends as.
        self.polls = 1
        self.ending: Callable[[str, Any], dict[str, Any]] = lambda rid, body: response(
            rid, "completed", "the answer", usage={"input_tokens": 3, "output_tokens": 2}
        )
        # What response objects look like on the wire, and what their ids are.
        self.shape: Callable[[dict[str, Any]], dict[str, Any]] = lambda whole: whole
        self.new_id: Callable[[int], str] = lambda number: f"resp_{number}"
        # The stream of a response, by its id: events, events of threading to wait for, and DROP.
        self.stream: Callable[[str], list[Any]] | None = None
        self._streams: dict[str, list[Any]] = {}
        self.batching = Files()
        self._bodies: dict[str, Any] = {}
        self._polled: dict[str, int] = defaultdict(int)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        start = asyncio.start_server(self._serve, self._host, self._port, ssl=self._tls)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    @property
    def base_url(self) -> str:
        assert self._server is not None
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{self._host}:{self._server.sockets[0].getsockname()[1]}/v1"

    def enqueue(self, kind: str, *scripts: Script) -> None:
        """Answer the next requests of ``kind`` (create, retrieve, cancel) like this."""
        self.scripts[kind].extend(scripts)

    def forget_connections(self) -> None:
        """Reset them all, as a server that restarts does; where the network is parted the other side
        does not hear of it."""

        def forget() -> None:
            for writer in self._writers:
                # Without this an orderly end would be sent again and again until it arrives.
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
                writer.transport.abort()

        self._loop.call_soon_threadsafe(forget)

    def count(self, kind: str) -> int:
        return sum(seen.kind == kind for seen in list(self.seen))

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {k.lower(): v for k, v in (h.split(": ", 1) for h in head[1:] if h)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        kind = self._kind(method, path)
        body = json.loads(raw) if raw and kind != "upload" else raw or None
        self.seen.append(Seen(kind, path, headers, body, time.monotonic()))
        script = self.by_id.get(self._id(path)) or self._script(kind)
        if script.hold is not None:
            while not script.hold.is_set():
                await asyncio.sleep(0.01)
        await asyncio.sleep(script.delay)
        if script.reset == "before":
            return False
        status, reply = (script.status, script.json)
        if reply is None and script.body is None:
            status, reply = (
                self._usual(kind, path, body, headers) if status == 200 else (status, None)
            )
            if isinstance(reply, bytes):
                script = replace(script, body=reply, headers=self._ranged(headers) | script.headers)
            reply = self.shape(reply) if status == 200 else reply
        if script.reset == "after":
            return False
        if self._streams_it(kind, path, body, status):
            await self._send_events(writer, reply["id"], path)
            return False
        if kind == "content" and script.body is not None:
            status = 206 if "content-range" in script.headers else status
        data = script.body if script.body is not None else json.dumps(reply).encode()
        kept = len(data) if script.truncate is None else script.truncate
        lines = {"content-type": "application/json", "content-length": str(len(data))}
        lines |= script.headers
        text = "".join(f"{key}: {value}\r\n" for key, value in lines.items())
        writer.write(f"HTTP/1.1 {status} OK\r\n{text}\r\n".encode("latin-1") + data[:kept])
        await writer.drain()
        return script.truncate is None and not script.close

    def _streams_it(self, kind: str, path: str, body: Any, status: int) -> bool:
        asked = (kind == "create" and (body or {}).get("stream")) or "stream=true" in path
        return bool(asked) and self.stream is not None and status == 200

    async def _send_events(self, writer: asyncio.StreamWriter, rid: str, path: str) -> None:
        assert self.stream is not None
        items = self._streams.setdefault(rid, self.stream(rid))
        found = parse_qs(path.partition("?")[2]).get("starting_after")
        after = int(found[0]) if found else -1
        head = "content-type: text/event-stream\r\nconnection: close\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode())
        for item in list(items):
            if item == DROP:
                items.remove(item)
                await writer.drain()
                return
            if isinstance(item, threading.Event):
                await writer.drain()
                while not item.is_set():
                    await asyncio.sleep(0.01)
            elif item.get("sequence_number", after + 1) > after:
                if "response" in item:
                    self.responses[rid] = item["response"]
                writer.write(f"event: {item['type']}\ndata: {json.dumps(item)}\n\n".encode())
                await writer.drain()

    @staticmethod
    def _kind(method: str, path: str) -> str:
        bare = path.partition("?")[0]
        if "/files" in bare:
            return "upload" if method == "POST" else "content" if "/content" in bare else "files"
        if "/batches" in bare:
            if method == "POST":
                return "batch_cancel" if bare.endswith("/cancel") else "batch"
            return "batches" if bare.endswith("/batches") else "batch_poll"
        if method == "POST":
            return "cancel" if path.endswith("/cancel") else "create"
        return "delete" if method == "DELETE" else "retrieve"

    @staticmethod
    def _id(path: str) -> str:
        return unquote(path.split("?")[0].removesuffix("/cancel").rpartition("/")[2])

    def _script(self, kind: str) -> Script:
        if self.scripts[kind]:
            return self.scripts[kind].popleft()
        return self.choose(kind)

    def _ranged(self, headers: dict[str, str]) -> dict[str, str]:
        start = headers.get("range", "").removeprefix("bytes=").rstrip("-")
        return {"content-range": f"bytes {start}-"} if start and self.batching.ranges else {}

    def _of_batches(
        self, kind: str, path: str, body: Any, headers: dict[str, str]
    ) -> tuple[int, Any]:
        files, query = self.batching, parse_qs(path.partition("?")[2])
        after, limit = query.get("after", [None])[0], int(query.get("limit", ["20"])[0])
        if kind == "upload":
            return files.upload(headers["content-type"], body)
        if kind == "content":
            file_id = path.split("/")[-2]
            if file_id not in files.files:
                return 404, {"error": {"message": f"No such File object: {file_id}"}}
            start = self._ranged(headers).get("content-range", "bytes 0-")
            return 200, files.files[file_id][1][int(start.split()[1].rstrip("-")) :]
        if kind == "files":
            return 200, files.listed([files.file_object(one) for one in files.files], after, limit)
        if kind == "batch":
            return files.create(body)
        if kind == "batches":
            return 200, files.listed(list(files.batches.values()), after, limit)
        return (files.cancel if kind == "batch_cancel" else files.poll)(self._id(path))

    def _usual(self, kind: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        if kind in BATCHING:
            return self._of_batches(kind, path, body, headers)
        if kind == "create":
            rid = self.new_id(len(self.responses) + 1)
            self._bodies[rid] = body
            self.accepted[rid] = json.dumps(body)
            self.responses[rid] = response(rid, "queued")
            return 200, self.responses[rid]
        rid = self._id(path)
        if rid not in self.responses:
            told = {
                "message": f"Response with id '{rid}' not found.",
                "type": "invalid_request_error",
            }
            return 404, {"error": told}
        current = self.responses[rid]["status"]
        if kind == "cancel" and current in ("queued", "in_progress"):
            self.responses[rid] = response(rid, "cancelled")
        elif kind == "retrieve" and current in ("queued", "in_progress"):
            self._polled[rid] += 1
            over = self._polled[rid] > self.polls
            self.responses[rid] = (
                self.ending(rid, self._bodies.get(rid)) if over else response(rid, "in_progress")
            )
        return 200, self.responses[rid]
