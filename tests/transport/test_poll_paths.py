"""Polls mean the same whichever way they go, over TLS and proxies too, and creates go out once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response

from bgmagic.api.request import Request
from bgmagic.api.response import CompressedResponse, ResponseCompressor
from bgmagic.api.server import ServerConfig
from bgmagic.errors import ServerError
from bgmagic.runtime import pacing
from bgmagic.runtime.manager import JobManager
from bgmagic.runtime.pacing import FEW, PollPacer, PollSchedule
from bgmagic.transport import sdk
from bgmagic.transport.client import AT_ONCE, ResponsesClient
from bgmagic.transport.reply import Reply
from bgmagic.transport.sdk import server_from_client
from tests.conftest import KEY
from tests.jobs.test_answer import json_values
from tests.jobs.test_job import LIMIT, eventually
from tests.runtime.test_manager import set_by_the_end
from tests.support.scripted import Script, ScriptedServer, certificate, response

Ask = Callable[..., Request]
WAYS = ["straight", "quick", "sdk", "azure", "embedded", "proxy"]
told = {"error": {"message": "no", "type": "x", "code": "y"}}


def server_by(way: str, scripted: ScriptedServer, patch: pytest.MonkeyPatch) -> ServerConfig:
    """The scripted server, asked in that way."""
    url = scripted.base_url
    if way == "embedded":
        return ServerConfig(url, KEY, is_local=True, hint="start it again")
    if way == "sdk":
        return server_from_client(openai.OpenAI(api_key=KEY, base_url=url))
    if way == "azure":
        azure = openai.AzureOpenAI(api_key=KEY, api_version="2026-01-01", azure_endpoint=url)
        return server_from_client(azure)
    if way == "proxy":
        patch.setenv("HTTP_PROXY", url.removesuffix("/v1"))
        return ServerConfig("http://models.invalid/v1", KEY)
    return ServerConfig(url, KEY)


class QuickClient(ResponsesClient):
    """Polls without a task first, as jobs are, and goes on with what that brings."""

    async def retrieve(
        self,
        response_id: str,
        last: Reply | None = None,
        include: tuple[str, ...] = (),
        asked: Any = None,
    ) -> Reply:
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not include and self.begin_poll(response_id, lambda *one: told.set_result(one)):
            asked = await told
        return await super().retrieve(response_id, last, include, asked)


def with_client(
    server: ServerConfig,
    use: Callable[[ResponsesClient], Awaitable[Any]],
    kind: type[ResponsesClient] = QuickClient,
) -> Any:
    """What ``use`` gives, called with a client that has polled once."""

    async def main() -> Any:
        client = kind(server)
        try:
            await client.retrieve("resp_0")
            return await use(client)
        finally:
            await client.close()

    return asyncio.run(main())


@pytest.fixture
def polled(server: ScriptedServer) -> ScriptedServer:
    """The scripted server, with a response that goes on."""
    server.responses["resp_0"] = response("resp_0", "in_progress")
    server.polls = 10**9
    return server


@pytest.mark.parametrize("way", WAYS)
def test_polls_carry_what_the_sdk_sends(
    polled: ScriptedServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The second poll has the first one's address and credentials, on the same connection; only
    with nothing in between does it leave the SDK out."""
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: blue")
    server = server_by(way, polled, monkeypatch)
    if way == "straight":
        server = ServerConfig(polled.base_url, KEY, organization="org-1", headers="X-Team: blue")
    kind = QuickClient if way == "quick" else ResponsesClient
    with_client(server, lambda client: client.retrieve("resp_0"), kind)
    first, second = polled.seen
    assert first.path == second.path
    assert first.path.startswith("http://models.invalid/" if way == "proxy" else "/v1/")
    for name in ("authorization", "api-key", "openai-organization", "x-team", "user-agent"):
        assert first.headers.get(name) == second.headers.get(name), name
    assert KEY in str(second.headers)
    if way == "straight":
        assert (second.headers["x-team"], second.headers["openai-organization"]) == (
            "blue",
            "org-1",
        )
    straight = way in ("straight", "quick", "embedded")
    assert ("x-stainless-lang" not in second.headers) == straight
    assert polled.connections == (2 if straight else 1)


# Each failure of a poll: what the server does, and what is told of it.
FAILURES: dict[str, tuple[Script, dict[str, Any]]] = {
    "404": (Script(status=404, json=told), {"status_code": 404, "from_api": True, "code": "y"}),
    "404 page": (Script(status=404, body=b"<html>"), {"status_code": 404, "from_api": False}),
    "401": (Script(status=401, json=told), {"status_code": 401}),
    "429": (
        Script(status=429, json=told, headers={"retry-after": "7"}),
        {"status_code": 429, "retry_after": 7.0},
    ),
    "500": (Script(status=500, json=told), {"status_code": 500, "retry_after": None}),
    "key": (
        Script(status=400, json={"error": {"message": f"Key {KEY}\nis bad"}}),
        {"status_code": 400},
    ),
    "reset": (Script(reset="before"), {"status_code": None}),
    "truncated": (Script(truncate=7), {"status_code": None}),
    "nonsense": (Script(body=f"{{{KEY}".encode()), {"status_code": 200}),
    "deep": (Script(body=b"[" * 100_000), {"status_code": 200}),
    "nested": (
        Script(body=b'{"id":' * 50_000 + b"1" + b"}" * 50_000),
        {"status_code": 200},
    ),
    "html": (
        Script(body=b"<html>", headers={"content-type": f"text/{KEY}"}),
        {"status_code": 200},
    ),
    "list": (Script(json=[]), {"status_code": 200}),
    "empty": (Script(body=b""), {"status_code": 200}),
    "odd encoding": (
        Script(body=b"\xff\xfe", headers={"content-encoding": "gzip"}),
        {"status_code": None},
    ),
    "no http": (Script(headers={"content-length": "minus one"}), {"status_code": None}),
}


@pytest.mark.parametrize("way", WAYS)
def test_failures_mean_the_same_on_all_ways(
    polled: ScriptedServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A poll that fails is told in one line without secrets, the same whichever way it went, and
    the next one is not harmed."""
    server = server_by(way, polled, monkeypatch)

    async def all_of_them(client: ResponsesClient) -> None:
        for name, (script, expected) in FAILURES.items():
            if (script.reset and way != "proxy") or name == "no http":
                # A GET on a kept connection is sent once more: it takes two. What is no HTTP the
                # SDK asks for again, so this comes last.
                polled.enqueue("retrieve", script)
            polled.enqueue("retrieve", script)
            with pytest.raises(ServerError) as caught:
                await client.retrieve("resp_0")
            failure = caught.value
            assert {key: getattr(failure, key) for key in expected} == expected, name
            assert str(failure).isprintable(), name
            assert KEY[:12] not in str(failure), name
            assert len(str(failure)) < 700, name
            polled.scripts["retrieve"].clear()
            assert (await client.retrieve("resp_0")).response["status"] == "in_progress", name

    with_client(server, all_of_them, QuickClient if way == "quick" else ResponsesClient)


@pytest.mark.parametrize("way", ["straight", "sdk"])
def test_hints_and_odd_answers(
    polled: ScriptedServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The server's hint is passed on, half a character is replaced and a key blanked out."""
    hint = {"openai-poll-after-ms": "2500"}
    odd = f'{{"id": "resp_0", "output": "half \\ud83d of it, \\uD83D\\uDE00, {KEY}"}}'
    polled.enqueue("retrieve", Script(), Script(body=odd.encode(), headers=hint))
    server = server_by(way, polled, monkeypatch)
    reply: Reply = with_client(server, lambda client: client.retrieve("resp_0"))
    assert reply.poll_after == 2.5
    assert reply.response["output"] == "half \ufffd of it, \N{GRINNING FACE}, [secret]"


def test_unchanged_response_is_the_same_object(polled: ScriptedServer) -> None:
    """A poll that brings nothing new gives the reply there is, with a hint that is new."""

    async def twice(client: ResponsesClient) -> None:
        first = await client.retrieve("resp_0")
        assert await client.retrieve("resp_0", first) is first
        polled.always["retrieve"] = Script(headers={"openai-poll-after-ms": "500"})
        hinted = await client.retrieve("resp_0", first)
        assert hinted.response is first.response
        assert hinted.poll_after == 0.5
        polled.responses["resp_0"]["status"] = "completed"
        assert (await client.retrieve("resp_0", hinted)).response["status"] == "completed"

    with_client(ServerConfig(polled.base_url, KEY), twice)


def test_the_answer_to_another_poll_is_none(polled: ScriptedServer, ask: Ask) -> None:
    """What a kept connection brings of another response, since some proxy has answered a poll twice, is
    not taken: it is asked again, and once more later if that brings a third one. Of a server whose ids
    always differ, the first poll alone is repeated. A create that gets it may have been accepted. Nothing
    at all is not taken for what was said before, also after that."""

    async def use(client: ResponsesClient, *steps: tuple[str, ...]) -> list[Any]:
        got = []
        for names in steps:
            begun = polled.count("retrieve")
            polled.enqueue("retrieve", *(Script(json=response(name, "queued")) for name in names))
            try:
                told = (await client.retrieve("r2")).response["id"]
            except ServerError as failure:
                told = str(failure.status_code)
            assert client._pool is not None
            kept = len(client._pool._idle)  # more may come where one was answered twice
            got.append((told, polled.count("retrieve") - begun, kept))
        return got

    async def post(client: ResponsesClient) -> bool:
        await client.retrieve("resp_0")
        assert client._pool is not None
        assert client._pool._idle
        polled.enqueue("create", Script(json=polled.responses["resp_0"]))
        with pytest.raises(ServerError, match="another job") as told:
            await client.create(ask())
        assert not client._pool._idle
        return told.value.maybe_accepted

    async def empty(client: ResponsesClient) -> None:
        begun = polled.count("retrieve")
        for name in ("r2", "other", "r2"):
            polled.enqueue("retrieve", Script(json=response(name, "queued")))
        await client.retrieve("r2")
        last = await client.retrieve("r2")
        assert polled.count("retrieve") == begun + 3
        polled.enqueue("retrieve", Script(body=b""))
        with pytest.raises(ServerError):
            await client.retrieve("r2", last)

    server = ServerConfig(polled.base_url, KEY)
    assert with_client(server, post)
    with_client(server, empty)
    steps = ("other", "r2"), ("r2",), ("other", "third"), ("other", "r2")
    told = with_client(server, lambda client: use(client, *steps))
    assert told == [("r2", 2, 0), ("r2", 1, 1), ("200", 2, 0), ("r2", 2, 0)]
    ids = map(str, itertools.count())
    polled.shape = lambda whole: whole | {"id": next(ids)}
    told = with_client(server, lambda client: use(client, ("other",), ("third",)))
    assert told == [("other", 1, 1), ("third", 1, 1)]


def test_redirects_and_odd_ids_are_the_sdks(polled: ScriptedServer, ask: Ask) -> None:
    """A redirect is followed, and an id that an address can't hold as it is goes out encoded."""
    polled.responses["other"] = response("other", "queued", "elsewhere")

    async def odd(client: ResponsesClient) -> None:
        moved = Script(status=307, headers={"location": "/v1/responses/other"})
        polled.by_id["resp_0"] = moved
        assert (await client.retrieve("resp_0")).response["id"] == "other"
        assert (await client.retrieve("resp_0")).response["id"] == "other"
        # Once in vain without the SDK, which from then on is asked at once.
        assert len(polled.seen) == 1 + 1 + 2 + 2
        polled.enqueue("create", Script(status=307, headers={"location": "/v1/responses"}))
        assert (await client.create(ask())).response["status"] == "queued"
        with pytest.raises(ServerError):
            await client.retrieve("a b/../c?d")
        assert polled.seen[-1].path == "/v1/responses/a%20b%2F..%2Fc%3Fd"

    with_client(ServerConfig(polled.base_url, KEY), odd)


def test_silent_poll_over_a_kept_connection_gives_up(
    polled: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll that gets no answer over a connection that others have used ends in time, too, and the next
    one goes over another."""
    over = threading.Event()

    async def polls(client: ResponsesClient) -> None:
        for _ in range(2):
            await client.retrieve("resp_0")
        with monkeypatch.context() as patch:
            patch.setattr("bgmagic.transport.direct.POLL_TIMEOUT", 0.1)
            polled.by_id["resp_0"] = Script(hold=over)
            with pytest.raises(ServerError, match=r"no answer from .* within"):
                await client.retrieve("resp_0")
        over.set()
        del polled.by_id["resp_0"]
        assert (await client.retrieve("resp_0")).response["id"] == "resp_0"

    with_client(ServerConfig(polled.base_url, KEY), polls)


def test_redirect_leaves_other_polls_alone(polled: ScriptedServer) -> None:
    """A poll that is under way as another one is redirected gets its answer."""
    gate = threading.Event()
    polled.responses["resp_1"] = response("resp_1", "in_progress")
    polled.by_id["resp_1"] = Script(hold=gate, json=response("resp_1", "queued"))
    polled.by_id["resp_2"] = Script(status=307, headers={"location": "/v1/responses/resp_0"})

    async def both(client: ResponsesClient) -> None:
        slow = asyncio.create_task(client.retrieve("resp_1"))
        async with asyncio.timeout(60):
            while not any(seen.path.endswith("resp_1") for seen in polled.seen):
                await asyncio.sleep(0.001)
        assert (await client.retrieve("resp_2")).response["id"] == "resp_0"
        gate.set()
        assert (await slow).response["status"] == "queued"

    with_client(ServerConfig(polled.base_url, KEY), both)


@pytest.mark.parametrize("way", ["straight", "sdk", "azure"])
def test_redirects_take_no_secret_to_another_host(
    polled: ScriptedServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A redirect to another host is followed without the key and without what custom headers hold; one
    on the same host with them."""
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway: Bearer my-own-secret-1234")
    with ScriptedServer() as other:
        other.responses["resp_1"] = response("resp_1", "queued", "elsewhere")
        polled.responses["resp_1"] = response("resp_1", "queued", "here")

        async def moved(client: ResponsesClient) -> None:
            for place in (other.base_url, polled.base_url):
                to = {"location": f"{place}/responses/resp_1"}
                polled.by_id["resp_0"] = Script(status=307, headers=to)
                assert (await client.retrieve("resp_0")).response["id"] == "resp_1"

        server = server_by(way, polled, monkeypatch)
        headers = "X-Gateway: Bearer my-own-secret-1234"
        with_client(replace(server, headers=headers) if way == "straight" else server, moved)
        assert other.seen
        for seen in other.seen:
            assert not {KEY, "my-own-secret-1234"} & set(" ".join(seen.headers.values()).split())
        assert "my-own-secret-1234" in polled.seen[-1].headers["x-gateway"]


def test_user_and_password_go_along(polled: ScriptedServer) -> None:
    """A user and password in the base URL are sent with each poll, as the SDK sends them."""
    server = ServerConfig(polled.base_url.replace("http://", "http://bob:p%40ssw0rd1@"), KEY)
    with_client(server, lambda client: client.retrieve("resp_0"))
    first, second = polled.seen
    assert first.headers["authorization"].startswith("Basic ")
    assert first.headers["authorization"] == second.headers["authorization"]


@pytest.mark.parametrize("way", ["straight", "embedded"])
def test_server_that_has_gone(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Polls of a server that does not listen any more say so, with what to do about it."""
    with contextlib.ExitStack() as stack:
        polled = stack.enter_context(ScriptedServer())
        polled.responses["resp_0"] = response("resp_0", "in_progress")
        server = server_by(way, polled, monkeypatch)

        async def ended(client: ResponsesClient) -> str:
            stack.close()
            with pytest.raises(ServerError) as caught:
                await client.retrieve("resp_0")
            return str(caught.value)

        words = with_client(server, ended)
    assert words.startswith(f"no answer from {server.address}: ")
    assert words.endswith(server.hint)
    assert words.isprintable()


# TLS


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A file to trust, and a server's own side of it."""
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("way", ["straight", "sdk"])
def test_tls(
    trusted: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, way: str, ask: Ask
) -> None:
    """A certificate that does not verify is one clear line, and nothing was sent; with
    SSL_CERT_FILE creates and polls go through."""
    authority, context = trusted
    with ScriptedServer(tls=context) as polled:
        polled.responses["resp_0"] = response("resp_0", "in_progress")
        server = server_by(way, polled, monkeypatch)
        for method, argument in (("create", ask()), ("retrieve", "resp_0")):

            async def refused(
                client: ResponsesClient, method: str = method, argument: Any = argument
            ) -> None:
                with pytest.raises(ServerError, match="CERTIFICATE_VERIFY_FAILED") as caught:
                    await getattr(client, method)(argument)
                assert not caught.value.maybe_accepted
                assert not caught.value.retryable
                assert str(caught.value).isprintable()
                assert " object at " not in str(caught.value)

            asyncio.run(closing(server, refused))
        assert not polled.seen
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))

        async def accepted(client: ResponsesClient) -> None:
            assert (await client.create(ask())).response["status"] == "queued"
            for _ in range(2):
                assert (await client.retrieve("resp_0")).response["id"] == "resp_0"

        asyncio.run(closing(server, accepted))
        assert ("x-stainless-lang" not in polled.seen[-1].headers) == (way == "straight")

        async def moved(client: ResponsesClient) -> None:
            assert (await client.retrieve("resp_0")).response["id"] == "resp_0"

        with ScriptedServer() as plain:  # by HTTP, where certificates are loaded for that alone
            there = f"{polled.base_url}/responses/resp_0"
            plain.by_id["resp_0"] = Script(status=307, headers={"location": there})
            asyncio.run(closing(server_by(way, plain, monkeypatch), moved))
        assert polled.seen[-1].path == "/v1/responses/resp_0"


async def closing(server: ServerConfig, use: Callable[[ResponsesClient], Awaitable[None]]) -> None:
    client = ResponsesClient(server)
    try:
        await use(client)
    finally:
        await client.close()


# Creates over kept connections


def test_create_on_a_connection_that_closes_is_sent_once(server: ScriptedServer, ask: Ask) -> None:
    """A server that closes a kept connection as a create arrives has it once: it is unclear."""

    async def main(client: ResponsesClient) -> None:
        await client.create(ask())
        for reset in ("before", "after"):
            await client.create(ask())
            server.enqueue("create", Script(reset=reset))
            before = server.count("create")
            with pytest.raises(ServerError) as caught:
                await client.create(ask())
            assert caught.value.maybe_accepted
            assert server.count("create") == before + 1
        assert server.connections == 3  # one of the SDK's, and two that were reset

    asyncio.run(closing(ServerConfig(server.base_url, KEY), main))


def _idle(client: ResponsesClient) -> int:
    """Connections that the next create would use."""
    session = client._sdk._client._transport._session  # type: ignore[attr-defined]
    pools = session.connector._conns.values() if session else ()
    of_sdk = sum(protocol.is_connected() for pool in pools for protocol, _ in pool)
    own = client._pool._idle if client._pool is not None else []
    return of_sdk + sum(connection.open for connection in own)


async def _none_idle(client: ResponsesClient) -> None:
    while _idle(client):
        await asyncio.sleep(0.001)


def test_connections_that_closed_while_idle_harm_no_create(
    server: ScriptedServer, ask: Ask
) -> None:
    """A server that closes connections whenever it likes gets every create over a new one."""
    server.always["create"] = Script(close=True)

    async def main(client: ResponsesClient) -> None:
        for _ in range(30):
            assert (await client.create(ask())).response["status"] == "queued"
            async with asyncio.timeout(60):
                await _none_idle(client)

    asyncio.run(closing(ServerConfig(server.base_url, KEY), main))
    assert server.count("create") == server.connections == 30


def test_creates_take_no_old_connection(server: ScriptedServer, ask: Ask) -> None:
    """A connection is used again at once, and no more when it was idle for longer than servers wait."""

    async def main(client: ResponsesClient) -> None:
        for _ in range(4):
            await client.create(ask())
        assert server.connections == 2  # the SDK's and ours
        assert client._pool is not None
        for connection in client._pool._idle:
            connection.idle_since -= sdk.CREATE_KEPT
        await client.create(ask())
        assert server.connections == 3

    asyncio.run(closing(ServerConfig(server.base_url, KEY), main))


def test_creates_wait_for_each_other(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """Only so many creates are under way at once; a job behind them waits, and can be cancelled
    without having been sent. All of them take three threads."""
    before, gate = set(threading.enumerate()), threading.Event()
    pointed.always["create"] = Script(hold=gate)
    jobs = [manager.submit(ask(str(n)), poll_interval=0.2) for n in range(AT_ONCE + 3)]
    eventually(lambda: pointed.count("create") == AT_ONCE)
    waiting = [job for job in jobs if job.status == "waiting"]
    assert len(waiting) == 3
    waiting[0].cancel()
    eventually(lambda: waiting[0].record.cancelling)
    gate.set()
    for job in jobs:
        if job is not waiting[0]:
            assert job.result(LIMIT) == "the answer"
    eventually(waiting[0].done)
    assert waiting[0].status == "cancelled"
    assert pointed.count("create") == AT_ONCE + 2
    # Of the creates (the last two may find theirs closed), the SDK's polls, and those without it.
    assert pointed.connections <= 3 * AT_ONCE + 2
    threads = set(threading.enumerate()) - before
    assert len([thread for thread in threads if thread.name.startswith("bgmagic")]) <= 3


def test_closing_sends_nothing_more(
    pointed: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of a kernel the jobs that wait for their create are not sent any more."""
    manager, gate = JobManager(), threading.Event()
    pointed.always["create"] = Script(hold=gate)
    jobs = [manager.submit(ask(str(n))) for n in range(AT_ONCE + 3)]
    eventually(lambda: pointed.count("create") == AT_ONCE)
    set_by_the_end(monkeypatch, gate)
    assert manager.close(60)
    assert pointed.count("create") == AT_ONCE
    assert sum(job.record.status == "waiting" for job in jobs) == 3


# Turns


@given(count=st.integers(FEW + 1, 300), interval=st.floats(0.1, 80), begun=st.floats(1, 1e6))
def test_turns_are_even(count: int, interval: float, begun: float) -> None:
    """However many jobs join at one moment, each tenth of the interval has its share of the polls,
    from the first round on; then each job polls exactly once an interval."""
    now = begun
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pacing.time, "monotonic", lambda: now)
        together = PollPacer()
        turns = [together.join(chosen=True) for _ in range(count)]  # no limit of ours
        waits = [turn.wait(interval) or 0.0 for turn in turns]
        assert all(0 < wait <= 1.02 * interval for wait in waits)
        for tenth in range(10):
            due = sum(tenth < wait / interval * 10 <= tenth + 1 for wait in waits)
            assert abs(due - count / 10) <= 3 + count / 50
        for turn, wait in zip(turns, waits, strict=True):
            now = begun + wait
            again = turn.wait(interval)
            assert again == pytest.approx(interval, rel=0.02)
            now += again + interval / 5  # a slow answer: the next poll keeps the turn
            assert turn.wait(interval) == pytest.approx(0.8 * interval, rel=0.03)
        for turn in turns[FEW:]:
            turn.leave()
        assert turns[0].wait(interval) is None


def test_early_polls_are_left_out_in_a_crowd() -> None:
    """With more than 20 jobs the first polls wait for their turn; a failed one waits for it, too."""
    delays = PollSchedule(None, lambda: 0.5, slot=lambda interval: 0.7 * interval)
    assert [delays.after_reply() for _ in range(3)] == [7, 7, 7]
    assert [delays.after_failure() for _ in range(4)] == [7, 7, 8, 16]
    assert delays.after_reply(3.0) == pytest.approx(3.15)
    alone = PollSchedule(None, lambda: 0.5, slot=PollPacer().join().wait)
    assert alone.after_reply() == 1


# What is kept of a response


@given(st.lists(st.dictionaries(st.text(), json_values), min_size=1, max_size=3))
def test_packed_is_the_same_object(values: list[dict[str, Any]]) -> None:
    """A packed response reads as it was, whatever others were packed before it."""
    pack = ResponseCompressor()
    for value, packed in [(value, pack(value)) for value in values]:
        assert packed.decompress() == value
        assert dict(packed) == value
        assert len(packed) == len(value)
    assert CompressedResponse(values[0]).decompress() == values[0]


@pytest.mark.parametrize("said", [f"your key {KEY}", "half \ud83d of one", "plain", "[" * 300])
def test_packed_is_what_was_read(polled: ScriptedServer, said: str) -> None:
    """What is packed of a reply is what was read of it: no key, and no half characters."""
    told = response("resp_0", "in_progress", error={"message": said, "nested": [[]] * len(said)})
    polled.always["retrieve"] = Script(body=json.dumps(told).encode())
    reply = with_client(
        ServerConfig(polled.base_url, KEY), lambda client: client.retrieve("resp_0")
    )
    packed = ResponseCompressor()(reply.response, reply.text)
    assert packed.decompress() == reply.response
    assert KEY not in f"{packed.decompress()}{reply.text}"
    assert json.dumps(packed.decompress(), ensure_ascii=False).encode()


def test_what_responses_share_takes_no_room() -> None:
    """Of long instructions that all jobs have, the second one's copy takes next to nothing."""
    words = (hashlib.sha256(b"%d" % n).hexdigest() for n in range(120))
    shared = {"instructions": " ".join(words), "tools": []}
    pack = ResponseCompressor()
    sizes = [len(pack({"id": f"resp_{n}", **shared})._data) for n in range(3)]
    assert max(sizes) < 300
    assert len(CompressedResponse(shared)._data) > 3000


def test_what_an_answer_has_takes_no_room_twice(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """Of the response of a job that has ended, the answer's text and the instructions are not kept
    once more; who asks for the response gets it whole."""
    words = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(240)]
    told, text = " ".join(words[:120]), "\u00fc\u4e2d " + " ".join(words[120:])
    pointed.polls = 0
    ended = response("resp_1", "completed", text, instructions=told)
    pointed.always["retrieve"] = Script(json=ended)
    job = manager.submit(ask(instructions=told), poll_interval=0.05)
    assert job.result(LIMIT) == text
    eventually(lambda: isinstance(job.record.response, CompressedResponse))
    packed = job.record.response
    assert isinstance(packed, CompressedResponse)
    assert len(packed._data) < 400
    assert job.record.response == ended


def test_job_gives_the_newest_response(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """While a job runs, its response is the SDK's own, and gives a dict that JSON can hold."""
    pointed.polls = 10**9
    job = manager.submit(ask(), poll_interval=0.05)
    eventually(lambda: job.status == "in_progress")
    assert type(job.response) is Response
    assert json.loads(json.dumps(job.response.to_dict()))["id"] == job.response_id
    checked = job.record.checked_at or 0.0
    eventually(lambda: (job.record.checked_at or 0.0) > checked)
    assert job.response.status == "in_progress"


SOURCES, LOGPROBS = "web_search_call.action.sources", "message.output_text.logprobs"


@pytest.mark.parametrize("way", WAYS)
def test_polls_include_what_each_job_asked(
    polled: ScriptedServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Every poll asks for what its own job wants included, whoever polled first and by whatever way."""

    async def ask_both(client: ResponsesClient) -> None:
        polled.seen.clear()
        for include in ((SOURCES, LOGPROBS), (), ("a&b=c d\r\n",), ()):
            await client.retrieve("resp_0", include=include)

    server = server_by(way, polled, monkeypatch)
    with_client(server, ask_both)
    queries = [parse_qs(seen.path.partition("?")[2]) for seen in polled.seen]
    found = [query.get("include[]", []) for query in queries]
    assert found == [[SOURCES, LOGPROBS], [], ["a&b=c d\r\n"], []]
    assert all(query.keys() <= {"include[]", "api-version"} for query in queries)


def test_first_poll_with_include_is_not_repeated_for_others(polled: ScriptedServer) -> None:
    """What the first poll of all includes is not asked for again by those that repeat it."""

    async def ask_both(server: ServerConfig) -> None:
        client = ResponsesClient(server)
        for include in ((SOURCES,), (), (LOGPROBS,)):
            await client.retrieve("resp_0", include=include)
        await client.close()

    asyncio.run(ask_both(ServerConfig(polled.base_url, KEY)))
    paths = [seen.path.partition("?")[2] for seen in polled.seen]
    assert paths == [f"include%5B%5D={SOURCES}", "", f"include%5B%5D={LOGPROBS}"]


@pytest.mark.parametrize("status", [400, 422])
def test_refused_include_is_left_out_and_remembered(polled: ScriptedServer, status: int) -> None:
    """A server that refuses an include is asked without it, once and for all; a poll that fails
    anyway, and other includes, are no reason to leave it out."""
    refused = Script(status=status, json=told)

    async def polls(client: ResponsesClient) -> None:
        polled.seen.clear()
        polled.enqueue("retrieve", refused, refused)
        with pytest.raises(ServerError):
            await client.retrieve("resp_0", include=(SOURCES,))
        polled.enqueue("retrieve", refused)
        for _ in range(2):
            assert (await client.retrieve("resp_0", include=(SOURCES,))).response["id"] == "resp_0"
        await client.retrieve("resp_0", include=(LOGPROBS,))

    with_client(ServerConfig(polled.base_url, KEY), polls)
    asked = [seen.path.partition("=")[2] for seen in polled.seen]
    assert asked == [SOURCES, "", SOURCES, "", "", LOGPROBS]


def test_included_sources_arrive(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """What a request includes is asked for by its polls, but for the encrypted reasoning, and is in
    the response; a request without includes polls as before."""
    wanted = ["reasoning.encrypted_content", SOURCES]
    job = manager.submit(ask(params=[("include", wanted)]), poll_interval=0.02)
    plain = manager.submit(ask("Else?"), poll_interval=0.02)
    assert job.result(LIMIT) == plain.result(LIMIT) == "the answer"
    polls = [seen.path for seen in pointed.seen if seen.kind == "retrieve"]
    assert {path.partition("?")[2] for path in polls if job.response_id in path} == {
        f"include%5B%5D={SOURCES}"
    }
    assert {path.partition("?")[2] for path in polls if plain.response_id in path} == {""}
    assert pointed.seen[0].body["include"] == wanted
