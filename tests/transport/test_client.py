"""Every failure of a call, on real connections: what it means and that no secret is in its words."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest

from bgmagic.api.request import Request
from bgmagic.api.server import ServerConfig
from bgmagic.errors import BadInput, ServerError
from bgmagic.transport.client import ResponsesClient
from bgmagic.transport.reply import Reply
from bgmagic.transport.sdk import server_from_client
from tests.conftest import KEY
from tests.support.scripted import Script, ScriptedServer, response

Ask = Callable[..., Request]


def call(server: ServerConfig, method: str, *arguments: Any) -> Reply:
    """Make one call with a client of its own."""

    async def main() -> Reply:
        client = ResponsesClient(server)
        try:
            reply: Reply = await getattr(client, method)(*arguments)
            return reply
        finally:
            await client.close()

    return asyncio.run(main())


def refused(server: ServerConfig, request: Request) -> ServerError:
    with pytest.raises(ServerError) as caught:
        call(server, "create", request)
    return caught.value


def error_body(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}


def test_create_sends_exactly_the_body(pointed: ScriptedServer, ask: Ask) -> None:
    """The body arrives exactly as it was built, unknown fields included, with the key, once."""
    request = ask(params=[("new_field", {"a": [1]})])
    reply = call(ServerConfig.from_environment(), "create", request)
    assert reply.response["status"] == "queued"
    assert [seen.body for seen in pointed.seen] == [request.body]
    assert pointed.seen[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429])
def test_refusals_are_certain(pointed: ScriptedServer, ask: Ask, status: int) -> None:
    """These statuses mean that the create was not accepted; it is sent once, and told verbatim."""
    pointed.enqueue("create", Script(status=status, json=error_body("No such model.", "model_x")))
    failure = refused(ServerConfig.from_environment(), ask())
    assert not failure.maybe_accepted
    assert (failure.status_code, failure.code) == (status, "model_x")
    assert "No such model." in str(failure)
    assert pointed.count("create") == 1


@pytest.mark.parametrize(
    "script",
    [
        Script(status=408, json=error_body("slow")),
        Script(status=409, json=error_body("conflict")),
        Script(status=500, json=error_body("oops")),
        Script(status=503, body=b"<html>busy</html>", headers={"content-type": "text/html"}),
        Script(reset="before"),
        Script(reset="after"),
        Script(truncate=10),
        Script(body=b"<html>hi</html>", headers={"content-type": "text/html"}),
        Script(body=b"{nonsense"),
        Script(body=b"[" * 100_000),
        Script(body=b""),
        Script(json=[]),
        Script(json="queued"),
        Script(body=b"\xff\xfe", headers={"content-encoding": "gzip"}),
    ],
    ids=lambda script: f"{script.status}-{script.reset}-{(script.body or b'')[:9]!r}-{script.json}"[
        :60
    ],
)
def test_everything_else_is_unclear(pointed: ScriptedServer, ask: Ask, script: Script) -> None:
    """A dropped, garbled or 5xx answer may hide an accepted create: unclear, one line, sent once."""
    pointed.enqueue("create", script)
    failure = refused(ServerConfig.from_environment(), ask())
    assert failure.maybe_accepted
    assert "\n" not in str(failure)
    assert pointed.count("create") == 1


def test_nobody_listens(ask: Ask) -> None:
    """A connection that is refused means that nothing was sent."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    failure = refused(ServerConfig(f"http://127.0.0.1:{port}/v1", KEY, hint="start it"), ask())
    assert not failure.maybe_accepted
    assert str(failure).endswith("start it")


def test_odd_scheme(ask: Ask) -> None:
    """A base URL that is none means that nothing was sent."""
    assert not refused(ServerConfig("htp://127.0.0.1/v1", KEY), ask()).maybe_accepted


@pytest.mark.parametrize("key", ["sk-\u201cquoted\u201d-key", "sk-line\nbreak-key"])
def test_key_that_no_header_can_hold(pointed: ScriptedServer, ask: Ask, key: str) -> None:
    """A key with odd characters is not sent, and not shown in the message."""
    failure = refused(ServerConfig(pointed.base_url, key), ask())
    assert not failure.maybe_accepted
    assert "odd characters in the API key" in str(failure)
    assert "sk-" not in str(failure)


def test_secrets_are_taken_out_of_messages(pointed: ScriptedServer, ask: Ask) -> None:
    """A server that quotes the key, a custom header or a password has it blanked out."""
    port = pointed.base_url.split(":")[2]
    server = ServerConfig(
        f"http://user:hunter2222@127.0.0.1:{port}", KEY, headers="X-Proxy: Bearer tok-987654321"
    )
    told = f"key {KEY}, header tok-987654321, password hunter2222"
    pointed.enqueue("create", Script(status=400, json=error_body(told)))
    failure = refused(server, ask())
    assert str(failure) == "HTTP 400: key [secret], header [secret], password [secret]"
    assert "hunter2222" not in server.address + repr(server)
    assert KEY not in repr(server)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after(
    pointed: ScriptedServer, ask: Ask, headers: dict[str, str], seconds: float | None
) -> None:
    """The server's wish to wait is read in all its forms, and nonsense is no wish."""
    pointed.enqueue("create", Script(status=429, json=error_body("slow down"), headers=headers))
    assert refused(ServerConfig.from_environment(), ask()).retry_after == seconds


def test_poll_hint(pointed: ScriptedServer, ask: Ask) -> None:
    """The server's hint when to poll is passed on, in seconds."""
    pointed.enqueue("create", Script(headers={"openai-poll-after-ms": "2500"}))
    assert call(ServerConfig.from_environment(), "create", ask()).poll_after == 2.5


def test_silent_poll_gives_up(pointed: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that gets no answer ends after its own timeout, with a line that says so."""
    monkeypatch.setattr("bgmagic.transport.client.POLL_TIMEOUT", 0.2)
    over = threading.Event()
    pointed.enqueue("retrieve", Script(hold=over))
    with pytest.raises(ServerError, match=r"no answer from http://127.0.0.1:\d+/v1 within"):
        call(ServerConfig.from_environment(), "retrieve", "resp_1")
    over.set()


def test_isolated_server_gets_nothing_of_the_environment(
    pointed: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded server gets its token, and neither key, ids, headers nor a proxy's traffic."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-mine")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: sk-mine\nAuthorization: Bearer sk-mine")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    call(ServerConfig(pointed.base_url, "token-123456", is_local=True), "create", ask())
    headers = pointed.seen[0].headers
    assert headers["authorization"] == "Bearer token-123456"
    assert "mine" not in str(headers)
    assert KEY not in str(headers)


def test_environment_is_what_the_sdk_means(
    pointed: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's variables mean what they always mean."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: blue")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-of-the-organization")  # for other calls
    call(ServerConfig.from_environment(), "create", ask())
    headers = pointed.seen[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["openai-organization"] == "org-1"
    assert headers["openai-project"] == "proj-1"
    assert headers["x-team"] == "blue"


def test_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key there is one line that names the variable and the embedded model."""
    with pytest.raises(BadInput, match=r"OPENAI_API_KEY.*%bglocal"):
        ServerConfig.from_environment()
    monkeypatch.setenv("OPENAI_API_KEY", "  ")
    with pytest.raises(BadInput, match="OPENAI_API_KEY"):
        ServerConfig.from_environment()


def sdk_clients(base_url: str) -> dict[str, Any]:
    plain = {"api_key": "sk-own-12345", "base_url": base_url, "default_headers": {"X-Team": "red"}}
    azure = {"api_key": "az-own-12345", "api_version": "2026-01-01", "azure_endpoint": base_url}
    return {
        "OpenAI": openai.OpenAI(**plain, organization="org-2"),
        "AsyncOpenAI": openai.AsyncOpenAI(**plain, organization="org-2"),
        "provider": openai.OpenAI(
            **plain | {"api_key": lambda: "sk-own-12345"}, organization="org-2"
        ),
        "AzureOpenAI": openai.AzureOpenAI(**azure),
        "AsyncAzureOpenAI": openai.AsyncAzureOpenAI(**azure),
    }


@pytest.mark.parametrize(
    "kind", ["OpenAI", "AsyncOpenAI", "provider", "AzureOpenAI", "AsyncAzureOpenAI"]
)
def test_own_clients_settings_are_taken_over(server: ScriptedServer, ask: Ask, kind: str) -> None:
    """Of the user's own client, the address, key, ids, headers and queries are used."""
    call(server_from_client(sdk_clients(server.base_url)[kind]), "create", ask())
    seen = server.seen[0]
    if "Azure" in kind:
        assert seen.headers["api-key"] == "az-own-12345"
        assert seen.path == "/v1/openai/responses?api-version=2026-01-01"
    else:
        assert seen.headers["authorization"] == "Bearer sk-own-12345"
        assert seen.headers["x-team"] == "red"
        assert seen.headers["openai-organization"] == "org-2"


def test_own_clients_are_sent_once(server: ScriptedServer, ask: Ask) -> None:
    """A client that retries is not retried here."""
    server.always["create"] = Script(reset="after")
    for client in sdk_clients(server.base_url).values():
        before = server.count("create")
        assert refused(server_from_client(client), ask()).maybe_accepted
        assert server.count("create") == before + 1


@pytest.mark.parametrize("kind", ["OpenAI", "AsyncOpenAI", "AzureOpenAI", "AsyncAzureOpenAI"])
def test_a_provider_that_fails_is_no_maybe(server: ScriptedServer, ask: Ask, kind: str) -> None:
    """Where the client's own provider gives no key, as after a login has expired, nothing was sent, for certain."""

    def expired() -> str:
        raise LookupError("log in again")

    async def expired_too() -> str:
        return expired()

    provider: Any = expired_too if kind.startswith("Async") else expired
    if "Azure" in kind:
        azure = {"azure_ad_token_provider": provider, "api_version": "2026-01-01"}
        client = getattr(openai, kind)(**azure, azure_endpoint=server.base_url)
    else:
        client = getattr(openai, kind)(api_key=provider, base_url=server.base_url)
    failure = refused(server_from_client(client), ask())
    assert not failure.maybe_accepted
    assert "this client's provider gave no key: LookupError: log in again" in str(failure)
    assert not server.seen


class Team(openai.OpenAI):
    """A client that is made of something else than the SDK's own, as companies have them."""

    def __init__(self, team: str) -> None:
        super().__init__(api_key=f"sk-{team}-12345")


def test_use_refuses_what_it_cant_take_over() -> None:
    """Something else than a client, and one with a transport of its own, are refused in one line."""
    with pytest.raises(BadInput, match="not str"):
        server_from_client("sk-123")
    with pytest.raises(BadInput, match=r"can't copy a Team \(.*; give a client of the SDK's own"):
        server_from_client(Team("blue"))
    own = openai.OpenAI(api_key="sk-1", http_client=openai.DefaultHttpxClient(verify=False))
    with pytest.raises(BadInput, match="HTTPS_PROXY and SSL_CERT_FILE"):
        server_from_client(own)
    queried = openai.OpenAI(api_key="sk-1", base_url="http://x/v1?code=secret-1")
    with pytest.raises(BadInput, match="this client's base_url 'http://x/v1' has a query"):
        server_from_client(queried)


def test_no_secret_slips_through_the_cracks(pointed: ScriptedServer, ask: Ask) -> None:
    """Neither a cut message, a header, a query, a percent-encoded password nor a response shows it."""
    server = ServerConfig.from_environment()
    long = "x" * 590 + KEY
    pointed.enqueue("create", Script(status=400, json=error_body(long)))
    pointed.enqueue("create", Script(status=400, body=long.encode()))
    pointed.enqueue("create", Script(body=long.encode(), headers={"content-type": f"text/{KEY}"}))
    for _ in range(3):
        told = str(refused(server, ask()))
        assert KEY[:12] not in told
        assert len(told) < 700
    pointed.enqueue("create", Script(json={"id": "r", "error": {"message": f"Key {KEY}"}}))
    assert call(server, "create", ask()).response["error"]["message"] == "Key [secret]"
    port = pointed.base_url.split(":")[2]
    url = f"http://bob:p%40ssw0rd1@127.0.0.1:{port}?code=query-secret-9"
    pointed.enqueue("create", Script(status=400, json=error_body("p@ssw0rd1 query-secret-9")))
    assert "[secret] [secret]" in str(refused(ServerConfig(url, KEY), ask()))


@pytest.mark.parametrize("kind", ["environment", "own", "azure"])
def test_no_log_holds_a_secret(
    pointed: ScriptedServer,
    ask: Ask,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With all loggers at DEBUG, those of the SDK and its transport too, no key, header or password of the address is logged; the password is sent all the same."""
    address = pointed.base_url.replace("http://", "http://bob:p%40ssw0rd1@")
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Four: four-123456789")
    if kind == "azure":
        monkeypatch.delenv("OPENAI_API_KEY")
        monkeypatch.delenv("OPENAI_BASE_URL")
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", address)
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_API_VERSION", "2026-01-01")
    server = (
        server_from_client(openai.OpenAI()) if kind == "own" else ServerConfig.from_environment()
    )
    with caplog.at_level(logging.DEBUG):
        call(server, "create", ask())
        call(server, "retrieve", "resp_1")
        pointed.enqueue("create", Script(status=401, json=error_body(f"Incorrect key: {KEY}")))
        refused(server, ask("Gone?"))
    assert "/responses" in caplog.text
    for secret in (KEY, "p@ssw0rd1", "p%40ssw0rd1", "four-123456789"):
        assert secret not in caplog.text
    user = base64.b64encode(b"bob:p@ssw0rd1").decode()
    assert {seen.headers["authorization"] for seen in pointed.seen} == {f"Basic {user}"}


@pytest.mark.parametrize("kind", ["key", "azure"])
def test_provided_credentials_are_secrets_too(server: ScriptedServer, ask: Ask, kind: str) -> None:
    """A key that a provider gives is blanked out as a fixed one is."""
    given = "provided-token-123456789"
    client: Any = openai.OpenAI(api_key=lambda: given, base_url=server.base_url)
    if kind == "azure":
        client = openai.AzureOpenAI(
            azure_ad_token_provider=lambda: given,
            api_version="2026-01-01",
            azure_endpoint=server.base_url,
        )
    server.enqueue("create", Script(status=401, json=error_body(f"Bad: {given}")))
    assert str(refused(server_from_client(client), ask())) == "HTTP 401: Bad: [secret]"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("ALL_PROXY", "foo://127.0.0.1"),
        ("SSL_CERT_FILE", "/nowhere/cert.pem"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_settings_that_make_no_client_are_no_maybe(
    pointed: ScriptedServer,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    """Proxy and certificate settings that can't work mean that nothing was sent, for certain."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ServerError) as caught:
        ResponsesClient(ServerConfig("https://example.invalid/v1", KEY))
    assert not caught.value.maybe_accepted
    assert "can't be used" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://[::1/v1", "is no address"),
        ("htp://x/v1", "is no address"),
        ("http://x:99999/v1", "is no address"),
        ("nonsense", "is no address"),
        ("https://a..b/v1", "is no address"),
        (f"https://{'x' * 64}.org/v1", "is no address"),
        (f"https://{'ü' * 64}.org/v1", "is no address"),
        (
            "https://bob:eight@x/v1?key=nine",
            "'https://x/v1' has a query: leave out .*default_query",
        ),
        ("https://bob:eight?nine@x/v1", "is no address"),
        ("https://x/openai/responses?api-version=1", "has a query"),
        ("https://x/v1/responses/", "is the address of one call: leave out its end"),
    ],
)
def test_odd_base_url_is_one_line(monkeypatch: pytest.MonkeyPatch, url: str, told: str) -> None:
    """A base URL that is none, or more than one, is told before anything is sent."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(BadInput, match=rf"^OPENAI_BASE_URL .*{told}") as caught:
        ServerConfig.from_environment()
    assert "eight" not in str(caught.value)
    assert "nine" not in str(caught.value)


def test_a_mark_before_json_is_passed_over(pointed: ScriptedServer, ask: Ask) -> None:
    """An answer with a byte-order mark before it is an answer: a create can't be asked again."""
    server, mark = ServerConfig.from_environment(), b"\xef\xbb\xbf"
    for kind in ("create", "retrieve"):
        marked = mark + json.dumps(response("resp_1", "queued", "\ufeffa")).encode()
        pointed.enqueue(kind, Script(body=marked))
    for reply in (call(server, "create", ask()), call(server, "retrieve", "resp_1")):
        assert reply.response["id"] == "resp_1"
        assert reply.response["output"][0]["content"][0]["text"] == "\ufeffa"
        assert reply.text[:1] == "{"
    pointed.enqueue("create", Script(status=400, body=mark + json.dumps(error_body("no")).encode()))
    assert str(refused(server, ask())) == "HTTP 400: no"


@pytest.mark.parametrize("script", [Script(reset="after"), Script(truncate=10)])
def test_a_connection_that_ends_early_is_told_in_words(
    pointed: ScriptedServer, ask: Ask, script: Script
) -> None:
    """What is said of it has nothing of the objects of a library in it."""
    pointed.enqueue("create", script)
    told = str(refused(ServerConfig.from_environment(), ask()))
    assert told.endswith(": the connection was closed before the answer was over (ReadError)")


@pytest.mark.parametrize("space", [" ", "\n", "\t "])
def test_blanks_around_an_address_are_no_part_of_it(
    monkeypatch: pytest.MonkeyPatch, space: str
) -> None:
    """A configured address that was copied with blanks around it is the address without."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = ServerConfig.from_environment(f"{space}http://127.0.0.1:9/v1{space}")
    assert made.base_url == "http://127.0.0.1:9/v1"


@pytest.mark.parametrize("query", ["?", "?code=a@secret-1", "/?code=secret-1#part"])
def test_query_in_base_url_is_one_line(monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    """A query in the base URL, behind which the SDK would put the path, is refused, without its text and the password."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://bob:secret-1@x/v1{query}")
    with pytest.raises(BadInput, match=r"OPENAI_BASE_URL 'http://x/v1' has a query") as caught:
        ServerConfig.from_environment()
    assert "default_query" in str(caught.value)
    assert "secret-1" not in str(caught.value)


def test_job_goes_out_as_whom_it_was_submitted(
    pointed: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids, headers and keys are those of the submission, not those of the moment it is sent."""
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: blue")
    server = ServerConfig.from_environment()
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: red")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-red")
    call(server, "create", ask())
    assert pointed.seen[0].headers["x-team"] == "blue"
    assert "openai-organization" not in pointed.seen[0].headers
    client = openai.OpenAI(api_key="sk-first-123", base_url=pointed.base_url)
    taken = server_from_client(client)
    client.api_key = "sk-second-456"
    call(taken, "create", ask())
    assert pointed.seen[1].headers["authorization"] == "Bearer sk-first-123"


def test_odd_encodings_and_half_characters(pointed: ScriptedServer, ask: Ask) -> None:
    """A charset that decodes nothing is no crash, and half a character is replaced when read."""
    odd = {"content-type": "text/html; charset=hex"}
    pointed.enqueue("create", Script(body=b"zz", headers=odd))
    assert refused(ServerConfig.from_environment(), ask()).maybe_accepted
    half = b'{"id": "r", "output": "half \\ud83d of it"}'
    pointed.enqueue("create", Script(body=half))
    text = call(ServerConfig.from_environment(), "create", ask()).response["output"]
    assert text == "half \ufffd of it"


def test_messages_are_one_short_line_without_escapes(pointed: ScriptedServer, ask: Ask) -> None:
    """What a server says can neither obey-me a terminal nor fill a notebook."""
    pointed.enqueue("create", Script(status=400, json=error_body("\x1b[2Jred\n" * 100_000)))
    told = str(refused(ServerConfig.from_environment(), ask()))
    assert told.isprintable()
    assert len(told) < 700
