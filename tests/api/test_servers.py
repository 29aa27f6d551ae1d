"""Servers other than OpenAI's: where jobs go, as whom, and whole jobs with objects of other shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import bgmagic
from bgmagic.api.request import Request
from bgmagic.api.server import ServerConfig
from bgmagic.errors import BadInput
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import JobCancelled, JobIncomplete
from bgmagic.notebook.shell import NamespaceVariables
from bgmagic.runtime.manager import JobManager
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.journal import Journal
from bgmagic.storage.owner_lock import OwnerLock
from bgmagic.submission.app import app
from bgmagic.transport.sdk import server_from_client
from tests.conftest import KEY
from tests.jobs.test_job import LIMIT, eventually
from tests.support.kernels import Kernel
from tests.support.scripted import ScriptedServer, response

Ask = Callable[..., Request]

# Odd, but possible in a path: proxies put what they need to know into the id.
LONG = "resp_" + "bGl0ZWxsbTpjdXN0b21fbGxtX3Byb3ZpZGVyOm9wZW5haTttb2RlbF9pZDo5" * 5 + "+a=="


def lean(whole: dict[str, Any]) -> dict[str, Any]:
    """What a proxy answers that polls for its clients: five fields, at each step."""
    kept = {key: whole[key] for key in ("id", "object", "output", "status")}
    return {**kept, "metadata": {}}


def bare(whole: dict[str, Any]) -> dict[str, Any]:
    """Id, status and, at the end, texts without any of what usually stands beside them."""
    output = [
        {"type": "message", "content": [{"type": "output_text", "text": part["text"]}]}
        for item in whole["output"]
        for part in item["content"]
    ]
    small = {"id": whole["id"], "status": whole["status"]}
    return {**small, "output": output} if output else small


def nulls(whole: dict[str, Any]) -> dict[str, Any]:
    """Everything that may be null is."""
    open_ones = ("usage", "model", "error", "incomplete_details", "metadata", "created_at")
    return {**whole, **dict.fromkeys(open_ones), "output": whole["output"] or None}


def own_words(whole: dict[str, Any]) -> dict[str, Any]:
    """Words of the server's own on the way to the end."""
    words = {"queued": "pending", "in_progress": "running"}
    return {**whole, "status": words.get(whole["status"], whole["status"])}


def reasoning_first(whole: dict[str, Any]) -> dict[str, Any]:
    """As open models answer: reasoning as an item with text of its own, before the message."""
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}
    output = [{**thought, "id": "rs_1", "summary": []}, *whole["output"]] if whole["output"] else []
    return {**whole, "output": output}


SHAPES = {shape.__name__: shape for shape in (lean, bare, nulls, own_words, reasoning_first)}


@pytest.fixture
def kept(pointed: ScriptedServer, tmp_path: Path) -> Iterator[Callable[[], JobManager]]:
    """Makes managers that share a journal on disk."""
    made: list[JobManager] = []

    def make() -> JobManager:
        store = JobStore(Journal(tmp_path / "journal.sqlite3"), OwnerLock(tmp_path / "owners"))
        made.append(JobManager(store=store))
        return made[-1]

    yield make
    for manager in made:
        assert manager.close(60)


@pytest.mark.parametrize("long", [False, True], ids=["short id", "id of 300 characters"])
@pytest.mark.parametrize("shape", SHAPES)
def test_whole_jobs(
    pointed: ScriptedServer, kept: Callable[[], JobManager], ask: Ask, shape: str, long: bool
) -> None:
    """With objects of that shape a job is submitted, polled, ended, cancelled, stopped early, written down and picked up, as with OpenAI's own."""
    pointed.shape = SHAPES[shape]
    if long:
        pointed.new_id = lambda number: f"{LONG}{number}"
    first = kept()
    namespace: dict[str, Any] = {}

    def submit(name: str, manager: JobManager = first) -> Job:
        variable = NamespaceVariables(namespace, [name])
        return manager.submit(ask(name), name=name, variable=variable, poll_interval=0.02)

    done = submit("done")
    assert done.result(LIMIT) == "the answer"
    assert namespace["done"] == "the answer"
    assert done.response_id == pointed.new_id(1)
    assert done.status == "completed"
    assert namespace["done"].usage == done.usage
    assert (done.usage is None) == (shape in ("lean", "bare", "nulls"))

    pointed.polls = 10**6
    stopped = submit("stopped")
    working = "running" if shape == "own_words" else "in_progress"
    eventually(lambda: stopped.status == working)
    assert stopped.cancel()
    with pytest.raises(JobCancelled):
        stopped.result(LIMIT)

    left = submit("left")
    eventually(lambda: left.status == working)
    first.close(60)
    pointed.polls = 0
    second = kept()
    (entry,) = second.store.journal.entries(open_only=True)
    assert (entry.name, entry.response_id) == ("left", pointed.new_id(3))
    whole = second.store.journal.find(entry.key)
    assert whole is not None
    assert second.attach(whole).result(LIMIT) == "the answer"
    again = second.store.journal.find(pointed.new_id(1))
    assert again is not None
    assert second.attach(again).result(0) == "the answer"

    pointed.ending = lambda rid, body: response(
        rid, "incomplete", "half", incomplete_details={"reason": "max_output_tokens"}
    )
    with pytest.raises(JobIncomplete):
        submit("short", second).result(LIMIT)
    assert namespace["short"].text == "half"
    assert pointed.count("create") == 4


def test_bare_create_and_display(in_kernel: Kernel, server: ScriptedServer) -> None:
    """In a notebook such a job shows the model that was asked for, no tokens, and its long id."""
    server.shape, server.new_id = bare, lambda number: f"{LONG}{number}"
    ran = in_kernel.ok("%%bgresponse -o lean --wait\nWhy?")
    shown = "".join(display.get("text/html", "") for display in ran.displays)
    assert "gpt-5.2 ·" in shown
    assert "tokens" not in shown
    assert f"{LONG}1" in shown
    assert in_kernel.value("(str(lean), lean.usage, lean.model)") == "('the answer', None, None)"
    assert f"{LONG}1"[:60] in in_kernel.ok("%bgjobs").said + in_kernel.ok("%bgjobs lean").said


# Where jobs go.


def test_config_and_environment_name_the_server(in_kernel: Kernel, server: ScriptedServer) -> None:
    """%config BgMagics.base_url goes over BGMAGIC_BASE_URL, and that over OPENAI_BASE_URL, with the key that is set; what is no address, and a key in quotes, is one line."""
    with ScriptedServer() as second, ScriptedServer() as third:
        in_kernel.ok(f"%env BGMAGIC_BASE_URL={second.base_url}")
        in_kernel.ok("%%bgresponse --wait\nOne?")
        assert (server.count("create"), second.count("create")) == (0, 1)
        in_kernel.ok(f"%config BgMagics.base_url = {third.base_url!r}")
        in_kernel.ok("%%bgresponse --wait\nTwo?")
        assert (second.count("create"), third.count("create")) == (1, 1)
        assert third.seen[0].headers["authorization"] == f"Bearer {KEY}"
        ran = in_kernel.run("%config BgMagics.base_url = 'nonsense'")
        assert "BgMagics.base_url = 'nonsense' is no address" in ran.said
        assert len(ran.said.splitlines()) == 1
        in_kernel.ok(f'%env OPENAI_API_KEY="{KEY}"')
        ran = in_kernel.run("%%bgresponse\nThree?")
        assert ran.said == (
            "UsageError: OPENAI_API_KEY has quotes around its value, which count: "
            "%env OPENAI_API_KEY=… takes none"
        )
        in_kernel.ok("%env OPENAI_API_KEY=")
        ran = in_kernel.run("%%bgresponse\nThree?")
        assert ran.said == (
            "UsageError: no API key: set OPENAI_API_KEY (os.environ works, also now) to that of "
            f"{third.base_url}, or to any word if that asks for none, or try without: %bglocal, in IPython "
            "or a notebook, starts the embedded model"
        )
        in_kernel.ok("%config BgMagics.base_url = None")
        in_kernel.ok("%env BGMAGIC_BASE_URL=")
        in_kernel.ok(f"%env OPENAI_API_KEY={KEY}")
        in_kernel.ok("%%bgresponse --wait\nFour?")
        assert server.count("create") == 1


@pytest.fixture
def azure(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.base_url.removesuffix("/v1"))
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "az-key-123456")
    monkeypatch.setenv("OPENAI_API_VERSION", "2026-01-01")
    return server


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An app without jobs of other tests, and without the client that this one gives to `use()`."""
    monkeypatch.setattr(app, "_manager", None)
    yield
    app.manager.close(60)
    bgmagic.use(None)


@pytest.mark.usefixtures("fresh")
def test_azure_by_its_variables(azure: ScriptedServer) -> None:
    """With Azure's variables alone, a job goes where the SDK's AzureOpenAI() would send it, as whom it would, and is named alike."""
    assert bgmagic.submit("Why?", poll=0.02).result(LIMIT) == "the answer"
    create, *polls = azure.seen
    assert create.path == "/openai/responses?api-version=2026-01-01"
    assert all(seen.path == "/openai/responses/resp_1?api-version=2026-01-01" for seen in polls)
    assert {seen.headers["api-key"] for seen in azure.seen} == {"az-key-123456"}
    theirs = server_from_client(openai.AzureOpenAI())
    assert ServerConfig.from_environment().name == theirs.name
    bgmagic.use(openai.AzureOpenAI())
    assert bgmagic.submit("And?", poll=0.02).result(LIMIT) == "the answer"
    assert azure.seen[-1].path == "/openai/responses/resp_2?api-version=2026-01-01"


@pytest.mark.usefixtures("fresh")
def test_azure_by_token(azure: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Entra ID token goes out as such, and is a secret."""
    monkeypatch.delenv("AZURE_OPENAI_API_KEY")
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", "token-1234567")
    assert bgmagic.submit("Why?", poll=0.02).result(LIMIT) == "the answer"
    assert azure.seen[0].headers["authorization"] == "Bearer token-1234567"
    assert "token-1234567" in ServerConfig.from_environment().secrets
    assert "token-1234567" not in repr(ServerConfig.from_environment())


@pytest.mark.usefixtures("azure")
def test_azure_with_something_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Azure lacks is named in one line; with OpenAI's key, or an address, OpenAI's way is meant."""
    monkeypatch.delenv("OPENAI_API_VERSION")
    with pytest.raises(BadInput, match="OPENAI_API_VERSION"):
        ServerConfig.from_environment()
    monkeypatch.delenv("AZURE_OPENAI_API_KEY")
    with pytest.raises(BadInput, match=r"AZURE_OPENAI_API_KEY.*bgmagic\.use"):
        ServerConfig.from_environment()
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "nonsense")
    with pytest.raises(BadInput, match="AZURE_OPENAI_ENDPOINT 'nonsense' is no address"):
        ServerConfig.from_environment()
    with pytest.raises(BadInput, match=r"to that of http://127\.0\.0\.1:9/v1, or"):
        ServerConfig.from_environment("http://127.0.0.1:9/v1?code=secret")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert ServerConfig.from_environment().name == "https://api.openai.com/v1"
    assert server_from_client(openai.OpenAI()).name == "https://api.openai.com/v1"
