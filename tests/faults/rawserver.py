"""A server on loopback that answers byte by byte as a test says, and counts what it could send."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """One request as it arrived, and where its answer goes."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Send so much; raises once the other side has closed."""
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, status: int, body: bytes, *headers: str) -> None:
        """Send a whole answer."""
        lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers, "", ""]
        await self.send("\r\n".join(lines).encode() + body)


Handler = Callable[[Call], Awaitable[None]]


class RawServer:
    """Hands each request to ``handler``; a context manager.

    Attributes:
        calls: the requests so far.
        hung_up: how many answers the client has cut off.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.calls: list[Call] = []
        self.hung_up = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def count(self, method: str) -> int:
        return sum(call.method == method for call in list(self.calls))

    def __enter__(self) -> RawServer:
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ", 2)
                headers = {k.lower(): v for k, v in (h.split(": ", 1) for h in head[1:] if h)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                call = Call(method, path, headers, body, writer)
                self.calls.append(call)
                try:
                    await self._handler(call)
                except ConnectionError:
                    self.hung_up += 1
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
