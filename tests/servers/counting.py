"""A proxy on loopback that passes everything through and writes down what was asked and answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

T = TypeVar("T")

# Headers that belong to one connection, and those that aiohttp sets anew.
OWN = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "date", "server"}
LONGEST = 64 << 20  # bytes of a body


@dataclass
class Exchange:
    """One request and its reply.

    Attributes:
        at: seconds since the epoch.
        status: the reply's status; None while there is none, and if there never was.
        whole: whether the reply came to its end.
    """

    at: float
    method: str
    path: str
    body: bytes
    status: int | None = None
    reply: bytearray = field(default_factory=bytearray)
    whole: bool = False

    @property
    def create(self) -> bool:
        """Whether it asks for a new response."""
        return self.method == "POST" and self.path.partition("?")[0].endswith("/responses")

    def line(self, step: str) -> str:
        """Itself as a line of JSON."""
        return json.dumps({
            "step": step, "at": round(self.at, 3), "request": f"{self.method} {self.path}",
            "body": self.body.decode("utf-8", "replace"), "status": self.status,
            "reply": self.reply.decode("utf-8", "replace"), "whole": self.whole,
        })  # fmt: skip


class CountingProxy:
    """Stands on one port for a server on another; on a thread of its own.

    It listens only between `open` and `shut`: a server that is down refuses connections, and a proxy
    that took them in its place would turn "refused" into "dropped".
    """

    def __init__(self, port: int, upstream: int) -> None:
        self.port = port
        self.exchanges: list[Exchange] = []
        self._upstream = f"http://127.0.0.1:{upstream}"
        self._runner: web.AppRunner | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Listen."""
        self._do(self._open())

    def shut(self) -> None:
        """Drop every connection and refuse new ones."""
        self._do(self._shut())

    def close(self) -> None:
        """End for good."""
        self.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def creates(self) -> list[Exchange]:
        """All requests for a new response, in their order."""
        return [exchange for exchange in self.exchanges if exchange.create]

    def accepted_twice(self) -> int:
        """How many requests the server accepted more than once; the steps send none twice on purpose."""
        accepted = [one for one in self.creates() if one.status is not None and one.status < 300]
        return sum(count > 1 for count in Counter(one.body for one in accepted).values())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _open(self) -> None:
        app = web.Application(client_max_size=LONGEST)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        # A client that hangs up is passed on, too: some servers stop working then.
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=0.01,  # 0 would be without end
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def _shut(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        exchange = Exchange(time.time(), request.method, request.path_qs, await request.read())
        self.exchanges.append(exchange)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in OWN}
        endless = aiohttp.ClientTimeout(total=None)
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            async with (
                aiohttp.ClientSession(auto_decompress=False, timeout=endless) as session,
                session.request(
                    request.method, self._upstream + request.path_qs, data=exchange.body,
                    headers=headers, allow_redirects=False,
                ) as reply,
            ):  # fmt: skip
                return await self._answer(request, exchange, reply)
        # The server hung up: so does its proxy, without a word of its own.
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _answer(
        self, request: web.Request, exchange: Exchange, reply: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        kept = [(k, v) for k, v in reply.headers.items() if k.lower() not in OWN]
        answer = web.StreamResponse(status=reply.status, reason=reply.reason)
        answer.headers.extend(kept)
        exchange.status = reply.status
        await answer.prepare(request)
        async for piece in reply.content.iter_any():
            exchange.reply += piece
            await answer.write(piece)
        await answer.write_eof()
        exchange.whole = True
        return answer
