"""Servers that trickle, never stop, unpack to gigabytes, send on to others, or quote the key."""

from __future__ import annotations

import asyncio
import gzip
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Kernel, exported, until
from tests.faults.rawserver import Call, Handler, RawServer
from tests.support.scripted import ScriptedServer, response

MEGABYTE = 1 << 20
BOUND = 1 * MEGABYTE  # of an answer, in these tests; users' is far more
PLENTY = 64 * MEGABYTE  # what the servers here are willing to send
LIMIT = "2"  # seconds that a create may take in all, where its answer does not come to its end
SHORT = {"BGMAGIC_CREATE_TIMEOUT": LIMIT}


def running(base_url: str, journal: Path, **more: str) -> Kernel:
    """A kernel that takes answers of at most ``BOUND``."""
    kernel = Kernel(base_url, journal, **more)
    kernel.run(f"from tests.simulation import adapter; adapter.bound_answers({BOUND})")
    return kernel


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


def usual(call: Call, status: str = "completed") -> bytes:
    """What a well-behaved server answers to this call."""
    if call.method == "POST":
        return json.dumps(response("resp_1", "queued")).encode()
    return json.dumps(response("resp_1", status, "the answer")).encode()


def first(odd: Handler, method: str) -> Handler:
    """Answers the first call with ``method`` oddly, and others as usual."""
    done = []

    async def handler(call: Call) -> None:
        if call.method == method and not done:
            done.append(call)
            await odd(call)
        else:
            await call.reply(200, usual(call))

    return handler


async def trickling(call: Call) -> None:
    """A byte of the answer now and then, as long as the client listens."""
    await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await call.send(b" ")
        await asyncio.sleep(0.05)


async def silent(call: Call) -> None:
    """The request is read, and nothing follows, not even an end."""
    await asyncio.Event().wait()


async def early_hints(call: Call) -> None:
    """Words before the answer, without end."""
    while True:
        await call.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await asyncio.sleep(0.001)


def without_end(before: bytes, piece: bytes) -> Handler:
    """Sends ``piece`` again and again, up to ``PLENTY``, and then waits."""

    async def handler(call: Call) -> None:
        await call.send(before)
        for _ in range(PLENTY // len(piece)):
            await call.send(piece)
        await asyncio.Event().wait()

    return handler


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_CHUNK = b"%x\r\n%s\r\n" % (65_536, b" " * 65_536)
ENDLESS = {
    "a body in chunks": without_end(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", _CHUNK),
    "a body until the end": without_end(_HEAD + b"\r\n", b" " * 65_536),
    "headers": without_end(_HEAD, b"X-More: " + b"x" * 1000 + b"\r\n"),
    "one header": without_end(_HEAD + b"X-More: ", b"x" * 65_536),
}


async def bomb(call: Call) -> None:
    """64 kB that unpack to 64 MB."""
    packed = gzip.compress(b" " * PLENTY)
    await call.reply(200, packed, "Content-Type: application/json", "Content-Encoding: gzip")


HOPELESS = {"trickling": trickling, "silent": silent, "1xx without end": early_hints}


@pytest.mark.parametrize("odd", HOPELESS.values(), ids=HOPELESS.keys())
def test_a_create_has_a_limit_in_all(odd: Handler, journal: Path) -> None:
    """A create whose answer does not come to its end is over after its limit: the job is unknown, it
    says why, and it is not sent again."""
    whys = [f"{LIMIT} s"]
    if odd is early_hints:  # they reach the bound on headers or the time
        whys.append("64 kB of headers")
    odd = first(odd, "POST")
    with RawServer(odd) as server, running(server.base_url, journal, **SHORT) as kernel:
        kernel.run("job = bgmagic.submit('item 1.')")
        assert until(lambda: kernel.value("job.done()"))
        assert kernel.value("str(job.status)") == "unknown"
        said = kernel.value("str(job.error)")
        assert any(why in said for why in whys), said
        assert server.count("POST") == 1


def test_creates_that_trickle_hold_up_no_others(journal: Path) -> None:
    """Fifty creates whose answers trickle are unknown after their limit, and a job that waited for a
    slot behind them is sent."""
    posts = []

    async def handler(call: Call) -> None:
        if call.method == "POST":
            posts.append(call)
        if call.method == "POST" and len(posts) <= 50:
            await trickling(call)
        await call.reply(200, usual(call))

    with RawServer(handler) as server, running(server.base_url, journal, **SHORT) as kernel:
        kernel.sweep(50)
        assert until(lambda: len(posts) == 50)
        kernel.run("import os; os.environ['BGMAGIC_CREATE_TIMEOUT'] = '600'")
        kernel.run("job = bgmagic.submit('item 50.')")
        assert until(lambda: kernel.value("job.done()"))
        assert kernel.value("str(job.status)") == "completed"
        assert kernel.statuses() == {"unknown": 50, "completed": 1}


def test_a_cancelled_create_gives_its_slot_up(journal: Path) -> None:
    """Cancelling a job while its create trickles ends the wait at once: it is unknown, since the
    server may have it."""
    odd = first(trickling, "POST")
    with RawServer(odd) as server, running(server.base_url, journal) as kernel:
        kernel.run("job = bgmagic.submit('item 1.')")
        assert until(lambda: server.count("POST"))
        kernel.run("job.cancel()")
        assert until(lambda: kernel.value("job.done()"))
        assert kernel.value("str(job.status)") == "unknown"
        assert until(lambda: server.hung_up), "the connection is still held"


@pytest.mark.parametrize("odd", [*ENDLESS.values(), bomb], ids=[*ENDLESS.keys(), "a gzip bomb"])
def test_a_create_is_answered_without_end(odd: Handler, journal: Path) -> None:
    """An answer to a create that is too long is cut off where the bound is: the job is unknown and says
    that the answer was too large."""
    with (
        RawServer(first(odd, "POST")) as server,
        running(server.base_url, journal) as kernel,
    ):
        before = kernel.memory()
        kernel.run("job = bgmagic.submit('item 1.')")
        assert until(lambda: kernel.value("job.done()"))
        assert kernel.value("str(job.status)") == "unknown"
        assert "too large" in kernel.value("str(job.error)")
        assert kernel.memory() - before < PLENTY // 2


@pytest.mark.parametrize("odd", [*ENDLESS.values(), bomb], ids=[*ENDLESS.keys(), "a gzip bomb"])
def test_a_poll_is_answered_without_end(odd: Handler, journal: Path) -> None:
    """An answer to the first poll that is too long is cut off where the bound is, and the next poll
    brings the job's answer."""
    with RawServer(first(odd, "GET")) as server, running(server.base_url, journal) as kernel:
        before = kernel.memory()
        kernel.run("job = bgmagic.submit('item 1.')")
        assert until(lambda: kernel.value("job.done()"))
        assert kernel.value("job.text") == "the answer"
        assert server.count("POST") == 1
        assert kernel.memory() - before < PLENTY // 2


def _event(text: str) -> bytes:
    told = {"type": "response.output_text.delta", "sequence_number": 2, "delta": text}
    return f"event: {told['type']}\ndata: {json.dumps(told)}\n\n".encode()


_CREATED = {
    "type": "response.created",
    "sequence_number": 0,
    "response": response("resp_1", "queued"),
}
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
STREAMS = {
    "deltas": _event("x" * 60_000),
    "one line": b"x" * 65_536,
    "comments": b": still here\n\n" * 5_000,
}


@pytest.mark.parametrize("piece", STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_without_end(piece: bytes, journal: Path) -> None:
    """A stream that never ends is left where the bound is, and polls bring the answer."""
    created = f"event: response.created\ndata: {json.dumps(_CREATED)}\n\n".encode()
    odd = without_end(_STREAM + created, piece)
    with RawServer(first(odd, "POST")) as server, running(server.base_url, journal) as kernel:
        before = kernel.memory()
        kernel.run("job = bgmagic.submit('item 1.', stream=True)")
        assert until(lambda: kernel.value("job.done()"))
        assert kernel.value("job.text") == "the answer"
        assert kernel.memory() - before < PLENTY // 2


@pytest.fixture
def elsewhere() -> Iterator[ScriptedServer]:
    """A server of somebody else."""
    with ScriptedServer() as started:
        yield started


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_create_sent_on_to_another_origin(
    status: int, elsewhere: ScriptedServer, journal: Path
) -> None:
    """A create that is redirected to another origin is not carried there: the job fails, naming that
    address, and the other server hears nothing of it. After a 303, which has something to look at, the
    server may have taken it: the job is unknown."""

    async def redirect(call: Call) -> None:
        await call.reply(status, b"", f"Location: {elsewhere.base_url}/responses")

    with RawServer(redirect) as server, running(server.base_url, journal) as kernel:
        kernel.run("job = bgmagic.submit('a secret prompt')")
        assert until(lambda: kernel.value("job.done()"))
        assert elsewhere.seen == []
        assert kernel.value("str(job.status)") == ("unknown" if status == 303 else "failed")
        assert elsewhere.base_url.removeprefix("http://").removesuffix("/v1") in kernel.value(
            "str(job.error)"
        )


def test_a_poll_sent_on_to_another_origin(elsewhere: ScriptedServer, journal: Path) -> None:
    """The key does not go to another origin to which polls are redirected."""

    async def handler(call: Call) -> None:
        if call.method == "POST":
            await call.reply(200, usual(call))
        else:
            await call.reply(307, b"", f"Location: {elsewhere.base_url}/responses/resp_1")

    with RawServer(handler) as server, running(server.base_url, journal) as kernel:
        kernel.run("job = bgmagic.submit('item 1.')")
        assert until(lambda: server.count("GET") >= 2)
        kernel.run("job.cancel()")
        assert not any("authorization" in seen.headers for seen in elsewhere.seen)


ODD_KEY = "sk-te/st+0123456789abc"
QUOTED = {
    "as it is": ODD_KEY,
    "a slash escaped": ODD_KEY.replace("/", "\\/"),
    "unicode escapes": ODD_KEY.replace("+", "\\u002b").replace("/", "\\u002F"),
    "all escaped": "".join(f"\\u{ord(letter):04x}" for letter in ODD_KEY),
    "percent-encoded": urllib.parse.quote(ODD_KEY, safe=""),
    "percent-encoded, small": urllib.parse.quote(ODD_KEY, safe="").replace("%2F", "%2f"),
}


@pytest.mark.parametrize("form", QUOTED.values(), ids=QUOTED.keys())
@pytest.mark.parametrize("where", ["a refusal", "an answer"])
def test_the_key_is_quoted(form: str, where: str, journal: Path) -> None:
    """However a server quotes the key, it is neither shown nor written down nor exported."""
    about = f'"Incorrect API key provided: {form}."'

    async def handler(call: Call) -> None:
        if where == "a refusal":
            await call.reply(400, b'{"error": {"message": %s, "type": "x"}}' % about.encode())
        else:
            text = usual(call).replace(b'"the answer"', about.encode())
            await call.reply(200, text)

    with RawServer(handler) as server:
        with running(server.base_url, journal, OPENAI_API_KEY=ODD_KEY) as kernel:
            kernel.run("job = bgmagic.submit('item 1.')")
            assert until(lambda: kernel.value("job.done()"))
            shown = kernel.value("[str(job.error), job.text, str(job.response), repr(job)]")
            told = json.dumps([shown, exported(kernel)])
        for path in journal.parent.glob("journal*"):
            told += path.read_bytes().decode("latin-1")
    for secret in (ODD_KEY, form, json.dumps(ODD_KEY)[1:-1], json.dumps(form)[1:-1]):
        assert secret not in told


PORTAL = b"<!DOCTYPE html><html><title>Welcome to Hotel Wi-Fi</title><body>Log in</body></html>"


async def captive_portal(call: Call) -> None:
    """What hotels answer to everything."""
    await call.reply(200, PORTAL, "Content-Type: text/html; charset=utf-8")


def test_a_captive_portal_answers_the_create(journal: Path) -> None:
    """A captive portal's page in place of a create's answer: the job is unknown, it says what came, and
    it is not sent again."""
    with RawServer(captive_portal) as server, running(server.base_url, journal) as kernel:
        kernel.run("job = bgmagic.submit('item 1.')")
        assert until(lambda: kernel.value("job.done()"))
        assert kernel.value("str(job.status)") == "unknown"
        assert "text/html" in kernel.value("str(job.error)")
        assert server.count("POST") == 1


def test_a_captive_portal_answers_polls(journal: Path) -> None:
    """A captive portal's page in place of polls' answers is never the job's: it goes on until the
    server itself is there again."""
    portal = [True]

    async def handler(call: Call) -> None:
        if call.method == "GET" and portal[0]:
            await captive_portal(call)
        else:
            await call.reply(200, usual(call))

    with RawServer(handler) as server, running(server.base_url, journal) as kernel:
        kernel.run("job = bgmagic.submit('item 1.')")
        assert until(lambda: server.count("GET") >= 3)
        assert not kernel.value("job.done()")
        portal[0] = False
        assert until(lambda: kernel.value("job.done()"))
        assert kernel.value("job.text") == "the answer"
