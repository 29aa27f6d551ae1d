"""The embedded server's HTTP side around an engine that says what a test makes it say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from openai import AsyncOpenAI
from tornado.httpserver import HTTPServer

from bgmagic.local import batches, server
from bgmagic.local.engine import Engine, Generation
from bgmagic.local.responses import ResponseStore
from bgmagic.local.server import ServerState

# Seconds a test waits for what must come.
LIMIT = 120.0

DELTA = "response.output_text.delta"

CREATE = {"model": "gpt-5.2", "input": "Go on.", "background": True, "stream": True}


class Puppet(Engine):
    """An engine that gives the pieces it is handed, to whichever response has its turn."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str | Exception | Generation] = queue.SimpleQueue()
        self.heard: list[list[tuple[str, str]]] = []

    def say(self, *pieces: str) -> None:
        for piece in pieces:
            self._lines.put(piece)

    def end(self, stopped: Any = "stop") -> None:
        self._lines.put(Generation(stopped, 3, 5))

    def fail(self) -> None:
        self._lines.put(RuntimeError("broken"))

    def generate(
        self, messages: Sequence[Any], *, on_text: Callable[[str], bool], **_: Any
    ) -> Generation:
        self.heard.append([(each["role"], each["content"]) for each in messages])
        while True:
            try:
                line = self._lines.get(timeout=0.01)
            except queue.Empty:
                line = ""
            if isinstance(line, Generation):
                return line
            if isinstance(line, Exception):
                raise line
            if on_text(line):
                return Generation("asked", 3, 5)

    def count_tokens(self, messages: Sequence[Any]) -> int:
        """As many tokens as the messages have words."""
        return sum(len(message["content"].split()) for message in messages)


@dataclass(frozen=True)
class Stage:
    """A server on this very loop, and a client of it."""

    puppet: Puppet
    state: ServerState
    sdk: AsyncOpenAI

    async def create(self, *, headers: Mapping[str, str] | None = None, **fields: Any) -> Any:
        """What the SDK gives for a create: a stream, unless `stream` is False."""
        asked: Any = {**CREATE, **fields}
        return await self.sdk.responses.create(**asked, extra_headers=headers)

    async def watch(self, response_id: str, after: int | None = None) -> list[dict[str, Any]]:
        """All events of a replay by the SDK, as JSON."""
        more = {} if after is None else {"starting_after": after}
        stream = await self.sdk.responses.retrieve(response_id, stream=True, **more)  # type: ignore[call-overload]
        return await everything(stream)

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of a GET."""
        return await self.call("GET", path)

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the reply to a request with the token."""
        url = self.sdk.base_url.join(f"/{path}" if path == "openapi.json" else path)
        reply = await self.sdk._client.request(
            method, url, json=body, headers={"Authorization": f"Bearer {self.state.token}"}
        )
        return reply.status_code, reply.json()

    @contextlib.asynccontextmanager
    async def socket(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> AsyncIterator[asyncio.StreamReader]:
        """The reply to one raw request, past its head; leaving kills the connection."""
        sent = b"" if body is None else json.dumps(body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.state.port, limit=4096)
        head = (  # 1.0, so that the body comes as it is, not in chunks
            f"{method} /v1{path} HTTP/1.0\r\nHost: 127.0.0.1:{self.state.port}\r\n"
            f"Authorization: Bearer {self.state.token}\r\nContent-Length: {len(sent)}\r\n\r\n"
        )
        writer.write(head.encode() + sent)
        try:
            async with asyncio.timeout(LIMIT):
                said = await reader.readuntil(b"\r\n\r\n")
                assert b" 200 " in said.splitlines()[0]
                assert b"Content-Type: text/event-stream" in said
                yield reader
        finally:
            writer.transport.abort()

    async def wire(self, response_id: str, query: str = "") -> bytes:
        """All bytes of a replay."""
        async with self.socket("GET", f"/responses/{response_id}?stream=true{query}") as reader:
            return await reader.read()

    async def status(self, response_id: str) -> str:
        status: str = (await self.get(f"responses/{response_id}"))[1]["status"]
        return status


async def everything(stream: Any) -> list[dict[str, Any]]:
    """The stream's events as JSON, once it has ended."""
    async with asyncio.timeout(LIMIT):
        return [event.to_dict(mode="json") async for event in stream]


def parse(wire: bytes) -> list[dict[str, Any]]:
    """The complete events in bytes that may end in the middle of one."""
    events = []
    for frame in wire.split(b"\n\n")[:-1]:
        kind, data = frame.decode().split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        events.append(event)
    return events


def deltas(events: Sequence[Mapping[str, Any]]) -> str:
    """The text that the events add up to."""
    return "".join(e["delta"] for e in events if e["type"] == DELTA)


def kinds(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The type of each event."""
    return [event["type"] for event in events]


def numbers(events: Sequence[Mapping[str, Any]]) -> list[int]:
    """The sequence number of each event."""
    return [event["sequence_number"] for event in events]


async def started(at: Stage, *pieces: str) -> str:
    """The id of a streamed response that has given the pieces; its own stream was dropped."""
    at.puppet.say(*pieces)
    async with asyncio.timeout(LIMIT), await at.create() as stream:
        response_id: str = (await anext(stream)).response.id
        count = 0
        while count < len(pieces):
            count += (await anext(stream)).type == DELTA
    return response_id


async def until(condition: Callable[[], Any]) -> Any:
    """The condition's first true value."""
    async with asyncio.timeout(LIMIT):
        while not (value := condition()):
            await asyncio.sleep(0.002)
        return value


@contextlib.asynccontextmanager
async def stage(
    *, parallel: int = 1, puppet: Puppet | None = None, **kept: int
) -> AsyncIterator[Stage]:
    """A server on this loop, with nothing left of it afterwards."""
    puppet = puppet or Puppet()
    responses = ResponseStore(puppet, parallel=parallel, **kept)
    sockets = server.bind(0)
    state = ServerState(responses, "puppet", sockets[0].getsockname()[1])
    http = HTTPServer(server.application(state, batches.routes(state)), max_body_size=100_000)
    http.add_sockets(sockets)
    work = asyncio.create_task(responses.work())
    await asyncio.sleep(0)  # its own tasks are there now
    client = AsyncOpenAI(base_url=state.endpoint.base_url, api_key=state.token, max_retries=0)
    try:
        async with client:
            yield Stage(puppet, state, client)
    finally:
        http.stop()
        responses.stop_all()
        await until(lambda: not state.busy)
        work.cancel()
        await http.close_all_connections()


def validator(name: str) -> Draft202012Validator:
    """The API's own description of that name."""
    folder = Path(__file__).parent
    definitions: dict[str, Any] = {}
    for path in (folder.parent / "data" / "responses.schema.json", folder / "streams.schema.json"):
        definitions |= json.loads(path.read_text("utf-8"))["$defs"]
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})


def problems(name: str, value: Any) -> list[str]:
    """What the API's description finds wrong with a value."""
    return [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(value)]
