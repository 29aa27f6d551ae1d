"""The harness for real servers, tried on the scripted one: what its proxy counts, and its table."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.servers.__main__ import Result, table
from tests.servers.counting import CountingProxy
from tests.servers.serving import free_port
from tests.support.scripted import Script, ScriptedServer


@pytest.fixture
def proxy(server: ScriptedServer) -> Iterator[CountingProxy]:
    """A proxy that listens in front of the scripted server."""
    made = CountingProxy(free_port(), urlsplit(server.base_url).port or 0)
    made.open()
    yield made
    made.close()


def ask(proxy: CountingProxy, **body: Any) -> Any:
    """Create a response by way of the proxy."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{proxy.port}/v1/responses", json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    return json.load(urllib.request.urlopen(request, timeout=10))


def test_accepted_twice_is_counted(proxy: CountingProxy, server: ScriptedServer) -> None:
    """A request that was refused first and then accepted counts once; one accepted twice is found."""
    server.scripts["create"].append(Script(429, json={"error": {"message": "later"}}))
    with pytest.raises(urllib.error.HTTPError):
        ask(proxy, model="m", input="a", background=True)
    accepted = ask(proxy, model="m", input="a", background=True)
    assert (accepted["object"], len(proxy.creates()), proxy.accepted_twice()) == ("response", 2, 0)
    ask(proxy, model="m", input="a", background=True)
    assert (len(proxy.creates()), proxy.accepted_twice()) == (3, 1)


def test_dropped_and_refused_stay_what_they_are(
    proxy: CountingProxy, server: ScriptedServer
) -> None:
    """A connection that the server drops is dropped, and while the proxy is shut, refused."""
    server.scripts["create"].append(Script(reset="after"))
    with pytest.raises((ConnectionError, urllib.error.URLError)) as dropped:
        ask(proxy, model="m", input="b", background=True)
    assert "refused" not in str(dropped.value)
    assert proxy.exchanges[-1].status is None
    proxy.shut()
    with pytest.raises(urllib.error.URLError, match="refused"):
        ask(proxy, model="m", input="c", background=True)
    proxy.open()
    assert ask(proxy, model="m", input="d", background=True)["object"] == "response"


def test_the_table_says_what_failed() -> None:
    """A step that does not hold stands out, with what was seen, and is not among those that hold."""
    results = [Result("a job", True, "", 1.0), Result("cancel", False, "still queued", 45.0)]
    rows = table({"ogx": results}).splitlines()
    assert "| a job | yes |" in rows
    assert "| cancel | **NO**: still queued |" in rows
    assert rows[-1] == "| holds | 1 of 2 |"
