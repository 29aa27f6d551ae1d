"""A server for very many jobs, in a process of its own: as little time as possible goes into it.

It knows one kind of response, of about 9 KB, counts what it is asked, and ends all responses at once
when told to. HTTP is spoken by hand, so that its own time does not hide that of the clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.support.scripted import certificate, response

# A response of about 9 KB, most of it prose, which is neither easy nor hard to compress.
TEXT = (Path(__file__).parents[2] / "README.md").read_bytes()[:8_400].decode("ascii", "ignore")


class Counts:
    """What the server has been asked so far, and what it says of every response: all of them run, or
    all are over until the next create."""

    def __init__(self) -> None:
        self.connections = self.creates = self.polls = 0
        self.over = False
        self.gap = 0.0  # the longest time between two polls of one response that runs, in seconds
        self._polled: dict[bytes, float] = {}
        self._running = _parts("in_progress")
        self._ended = _parts("completed", usage={"input_tokens": 3, "output_tokens": 9})

    def polled(self, rid: bytes) -> None:
        self.polls += 1
        now = time.monotonic()
        if not self.over:
            self.gap = max(self.gap, now - self._polled.get(rid, now))
        self._polled[rid] = now

    def body(self, rid: bytes) -> bytes:
        """The response of that id, as it is now."""
        return rid.join(self._ended if self.over else self._running)


def _parts(status: str, **fields: Any) -> list[bytes]:
    whole = response("@id@", status, TEXT, **fields)
    return json.dumps(whole, ensure_ascii=False).encode().split(b"@id@")


class Speaker(asyncio.Protocol):
    """One connection."""

    def __init__(self, counts: Counts, counted: bool = True) -> None:
        self._counts = counts
        self._counted = counted
        self._left = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._counts.connections += self._counted

    def data_received(self, data: bytes) -> None:
        self._left += data
        while True:
            head, gap, rest = self._left.partition(b"\r\n\r\n")
            if not gap:
                return
            lower = head.lower()
            at = lower.find(b"content-length:")
            length = int(lower[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0
            if len(rest) < length:
                return
            self._left = rest[length:]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        method, path = head.split(b" ", 2)[:2]
        counts = self._counts
        if path.startswith(b"/end"):
            counts.over = True
            body = json.dumps({"at": time.time()}).encode()
        elif path.startswith(b"/counts"):
            told = {"connections": counts.connections, "creates": counts.creates}
            told |= {"polls": counts.polls, "gap": counts.gap}
            body = json.dumps({**told, "at": time.time()}).encode()
        elif method == b"POST":
            counts.creates += 1
            counts.over = False
            body = counts.body(b"resp_%d" % counts.creates)
        else:
            rid = path.rpartition(b"/")[2]
            counts.polled(rid)
            body = counts.body(rid)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % len(body) + body)


def _serve(pipe: Connection, tls: bool) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            trusted, context = certificate(Path(folder)) if tls else (None, None)
            counts = Counts()
            loop = asyncio.get_running_loop()
            server = await loop.create_server(
                lambda: Speaker(counts), "127.0.0.1", 0, ssl=context, backlog=5000
            )
            port = server.sockets[0].getsockname()[1]
            plain = await loop.create_server(lambda: Speaker(counts, False), "127.0.0.1", 0)
            asking = plain.sockets[0].getsockname()[1]
            scheme = "https" if tls else "http"
            pipe.send((f"{scheme}://127.0.0.1:{port}/v1", f"http://127.0.0.1:{asking}", trusted))
            with contextlib.suppress(EOFError):
                await loop.run_in_executor(None, pipe.recv)

    asyncio.run(main())


class Swarm:
    """The server as the measuring process sees it."""

    def __init__(self, url: str, control: str, trusted: Path | None) -> None:
        self.url = url
        self.control = control
        self.trusted = trusted

    def counts(self) -> dict[str, Any]:
        return self._ask("counts")

    def end(self) -> float:
        """End all responses; gives when, in seconds since the epoch."""
        return float(self._ask("end")["at"])

    def _ask(self, what: str) -> dict[str, Any]:
        handler = urllib.request.ProxyHandler({})
        with urllib.request.build_opener(handler).open(f"{self.control}/{what}") as answer:
            told: dict[str, Any] = json.load(answer)
        return told


@contextlib.contextmanager
def swarming(tls: bool = False) -> Iterator[Swarm]:
    """The server, running in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(theirs, tls), daemon=True)
    process.start()
    yield Swarm(*ours.recv())
    ours.send("stop")
    process.join(10)
