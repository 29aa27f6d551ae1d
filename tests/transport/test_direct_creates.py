"""Creates mean the same whether the SDK sends them or what it sent is repeated; each goes out once."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from bgmagic.api.request import Request
from bgmagic.api.server import ServerConfig
from bgmagic.errors import ServerError
from bgmagic.transport.client import ResponsesClient
from tests.conftest import KEY
from tests.jobs.test_job import LIMIT
from tests.support.scripted import Script, ScriptedServer, response
from tests.transport.test_poll_paths import server_by

Ask = Callable[..., Request]
told = {"error": {"message": f"no, {KEY}", "type": "x", "code": "y"}}
WHOLE = json.dumps(response("resp_7", "queued")).encode()


@contextlib.asynccontextmanager
async def client_of(server: ServerConfig) -> AsyncIterator[ResponsesClient]:
    client = ResponsesClient(server)
    try:
        yield client
    finally:
        await client.close()


def outcome(failure: ServerError) -> tuple[Any, ...]:
    # Where nothing was heard of it, the two have words of their own for that.
    told = str(failure) if failure.status_code is not None else ""
    return (
        told,
        failure.maybe_accepted,
        failure.status_code,
        failure.code,
        failure.retry_after,
        failure.retryable,
    )


@pytest.mark.parametrize(
    "script",
    [
        *(Script(status=status, json=told) for status in (400, 401, 404, 408, 409, 413, 422, 500)),
        Script(status=429, json=told, headers={"retry-after": "7"}),
        Script(status=503, body=b"<html>busy</html>", headers={"content-type": "text/html"}),
        Script(reset="before"),
        Script(reset="after"),
        Script(truncate=10),
        Script(close=True, truncate=0),
        Script(body=b"<html>hi</html>", headers={"content-type": "text/html"}),
        Script(body=b"{nonsense"),
        Script(body=b"", close=True),
        Script(json=[]),
        Script(status=304, body=b""),
        Script(status=301, headers={"location": "https://elsewhere.invalid/v1/responses"}),
        Script(status=303, headers={"location": "/v1/responses/resp_1"}),
        Script(status=307, headers={"location": "http://elsewhere.invalid/v1/responses"}),
        Script(status=308, headers={"location": "http://[", "x-a": "b"}),
    ],
    ids=lambda script: f"{script.status}-{script.reset}-{script.truncate}-{script.headers}"[:50],
)
def test_failures_mean_the_same(server: ScriptedServer, ask: Ask, script: Script) -> None:
    """Whatever goes wrong with a create is told in the same words, and is as certain or unclear, as it
    is for the SDK's; and it arrives once."""

    async def failed(creates_before: int) -> tuple[Any, ...]:
        async with client_of(ServerConfig(server.base_url, KEY)) as client:
            for _ in range(creates_before):
                await client.create(ask())
            server.enqueue("create", script)
            count = server.count("create")
            with pytest.raises(ServerError) as caught:
                await client.create(ask())
            assert server.count("create") == count + 1
            direct = "x-stainless-lang" not in server.seen[-1].headers
            assert direct == bool(creates_before)
            return outcome(caught.value)

    assert asyncio.run(failed(1)) == asyncio.run(failed(0))


@pytest.mark.parametrize(
    "script",
    [
        Script(body=gzip.compress(WHOLE), headers={"content-encoding": "gzip"}),
        Script(body=zlib.compress(WHOLE), headers={"content-encoding": "deflate"}),
        Script(
            body=gzip.compress(WHOLE[:9]) + gzip.compress(WHOLE[9:]),
            headers={"content-encoding": "gzip"},
        ),
        Script(body=WHOLE, close=True),
        Script(body=WHOLE, status=202),
        Script(status=307, headers={"location": "/v1/responses"}),
    ],
    ids=["gzip", "deflate", "two of gzip", "closed after it", "202", "moved within"],
)
def test_answers_mean_the_same(server: ScriptedServer, ask: Ask, script: Script) -> None:
    """However an answer is packed or framed, it is read as the SDK reads it."""

    async def main() -> None:
        for before in (0, 1):
            async with client_of(ServerConfig(server.base_url, KEY)) as client:
                for _ in range(before):
                    await client.create(ask())
                server.enqueue("create", script)
                reply = await client.create(ask())
                assert reply.response["status"] == "queued"
                if not script.close:  # one that is closing just now may take the next with it
                    assert (await client.create(ask())).response["status"] == "queued"

    asyncio.run(main())


@pytest.mark.parametrize("way", ["straight", "sdk", "azure", "embedded", "proxy"])
def test_who_sends(
    server: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The second create carries what the first did; a client of the user's own, Azure and a proxy
    stay with the SDK."""

    async def main() -> None:
        async with client_of(server_by(way, server, monkeypatch)) as client:
            for number in range(3):
                await client.create(ask(f"{number} {'x' * 100_000}"))

    asyncio.run(main())
    first, *others = server.seen
    for seen in others:
        assert seen.path == first.path
        names = ("authorization", "api-key", "content-type", "user-agent", "accept", "host")
        assert [seen.headers.get(name) for name in names] == [
            first.headers.get(name) for name in names
        ]
        assert ("x-stainless-lang" not in seen.headers) == (way in ("straight", "embedded"))
    texts = [seen.body["input"][0]["content"][0]["text"] for seen in server.seen]
    assert [text[:2] for text in texts] == ["0 ", "1 ", "2 "]
    assert {len(text) for text in texts} == {100_002}


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def raw(answer: Answer, use: Callable[[str], Awaitable[None]]) -> None:
    """A server that speaks as ``answer`` does, once a connection."""

    async def main() -> None:
        made = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with made:
            await use(f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}/v1")

    asyncio.run(main())


def test_a_connection_closed_since_is_seen_before_the_post(ask: Ask) -> None:
    """A server that closes its connections just after each answer gets every create once, over a new
    one, even if the loop has had no time to hear of it."""
    bodies: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        bodies.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(WHOLE), WHOLE))
        writer.write_eof()
        try:
            await reader.read()
        finally:
            writer.close()

    async def use(url: str) -> None:
        async with client_of(ServerConfig(url, KEY)) as client:
            for number in range(6):
                await client.create(ask(str(number)))

    raw(answer, use)
    assert len(bodies) == 6


def test_nothing_is_sent_where_nobody_listens_any_more(ask: Ask) -> None:
    """A server that has gone since the first create has certainly not taken the next."""

    async def use(url: str) -> None:
        async with client_of(ServerConfig(url, KEY)) as client:
            await client.create(ask())
            closing.set()
            await closed.wait()
            with pytest.raises(ServerError) as caught:
                await client.create(ask())
            assert not caught.value.maybe_accepted
            assert caught.value.retryable

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"length: ")[2].split(b"\r\n")[0]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(WHOLE), WHOLE))
        await closing.wait()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def main() -> None:
        made = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = made.sockets[0].getsockname()[1]

        async def end() -> None:
            await closing.wait()
            made.close()
            closed.set()

        ending = asyncio.create_task(end())
        await use(f"http://127.0.0.1:{port}/v1")
        await asyncio.gather(ending, *answering)

    closing, closed, answering = asyncio.Event(), asyncio.Event(), set[Any]()
    asyncio.run(main())


def test_many_creates_at_once_take_few_connections(server: ScriptedServer, ask: Ask) -> None:
    """All but the first repeat it as soon as it is being sent, whether or not it is answered."""
    hold = threading.Event()
    server.enqueue("create", Script(hold=hold))

    async def main() -> None:
        async with client_of(ServerConfig(server.base_url, KEY)) as client:

            async def create() -> None:
                async with client.create_slots:
                    await client.create(ask())

            made = [asyncio.create_task(create()) for _ in range(120)]
            async with asyncio.timeout(LIMIT):
                await asyncio.wait(made[1:])
                hold.set()
                await asyncio.gather(*made)

    try:
        asyncio.run(main())
    finally:
        hold.set()
    assert server.count("create") == 120
    assert sum("x-stainless-lang" in seen.headers for seen in server.seen) == 1
    assert server.connections <= 51


def test_creates_do_not_go_where_a_cancel_went(server: ScriptedServer, ask: Ask) -> None:
    """A cancel that the SDK sends while the first create is being made is not what creates repeat."""

    async def main() -> None:
        async with client_of(ServerConfig(server.base_url, KEY)) as client:
            cancelled = asyncio.Event()

            async def hold_creates(request: Any) -> None:
                if not request.url.path.endswith("/cancel"):
                    await cancelled.wait()

            http = client._sdk._client
            http.event_hooks = {
                **http.event_hooks,
                "request": [hold_creates, *http.event_hooks["request"]],
            }
            first = asyncio.create_task(client.create(ask()))
            async with asyncio.timeout(LIMIT):
                while client._learning is None:
                    await asyncio.sleep(0)
                with contextlib.suppress(ServerError):
                    await client.cancel("resp_77")
                cancelled.set()
                await first
                await client.create(ask())

    asyncio.run(main())
    assert [seen.path.rpartition("/v1/")[2] for seen in server.seen] == [
        "responses/resp_77/cancel",
        "responses",
        "responses",
    ]
