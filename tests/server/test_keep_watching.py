"""Jobs without a kernel, followed by Jupyter Server: real kernels, a real server, a scripted API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jupyter_server")

from bgmagic.api.server import ServerConfig
from bgmagic.runtime.attach import record_of
from bgmagic.runtime.manager import JobManager
from bgmagic.server.handlers import BgmagicServer
from bgmagic.server.keep_watching import KeepWatching
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.journal import Journal
from bgmagic.storage.owner_lock import OwnerLock
from bgmagic.storage.unfollowed import UnfollowedJobs
from tests.conftest import KEY
from tests.jobs.test_job import eventually
from tests.server.test_jobs import job
from tests.support.kernels import Kernel, kernel
from tests.support.scripted import ScriptedServer, response

GONE = "kernel-1-gone"  # no such lock: its kernel is dead

Opened = Callable[[Path], KeepWatching]


@pytest.fixture
def keeper(server: ScriptedServer) -> Iterator[Opened]:
    """Keeps watching a journal, with the key of the tests."""
    with contextlib.ExitStack() as stack:

        def opened(path: Path) -> KeepWatching:
            made = KeepWatching(path, ServerConfig(server.base_url, KEY))
            stack.callback(made.stop)
            made.start()
            return made

        yield opened


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal on a file."""
    made = Journal(tmp_path / ".journal.sqlite3")
    yield made
    made.close()


def accepted(api: ScriptedServer, key: str, **columns: Any) -> Any:
    """A job that the server has accepted from a kernel that is gone."""
    api.responses[f"resp_{key}"] = response(f"resp_{key}", "in_progress")
    where = {"server": ServerConfig(api.base_url, KEY).name, "poll_interval": 0.1}
    mine = {"owner": GONE, "response_id": f"resp_{key}", "status": "in_progress"}
    times = {"accepted_at": time.time(), "deadline": 3600.0}
    return job(key, **where | mine | times | columns)


def ended(journal: Journal, key: str) -> bool:
    found = journal.find(key)
    return found is not None and found.ended_at is not None


def test_from_kernel_to_kernel(
    server: ScriptedServer, lasting: dict[str, str], keeper: Opened
) -> None:
    """A job whose kernel lives is left to it. Once that is killed it is followed; a kernel that comes
    back takes it as always, and is left alone; killed again, its end gets into the journal, from
    where the next one has the answer without a call. It was sent once."""
    server.polls = 10**6
    path = Path(lasting["BGMAGIC_JOURNAL"])
    keep = keeper(path)
    for cell in ("%%bgresponse -o x\nWhy?", "%bgattach x"):
        with kernel(**lasting) as running:
            running.ok("%load_ext bgmagic")
            running.ok(cell)
            running.until("x.running()")
            eventually(lambda: not keep.keys)
            _kill(running)
            _heard(path, lambda: len(keep.keys) == 1)
    server.polls = 0
    reader = Journal(path)
    eventually(lambda: not reader.entries(open_only=True, name="x"))
    reader.close()
    asked = server.count("retrieve")
    with kernel(**lasting) as last:
        last.ok("%load_ext bgmagic")
        assert last.ok("%bgattach x").said.startswith("x: completed")
        assert last.value("str(x)") == "'the answer'"
    assert (server.count("create"), server.count("retrieve")) == (1, asked)


def _kill(running: Kernel) -> None:
    running.manager.signal_kernel(9)
    eventually(lambda: not running.manager.is_alive())


def _heard(path: Path, condition: Callable[[], object]) -> None:
    """Wait until a condition holds, and change the journal now and then: a kernel that is killed says
    nothing, and nobody says when the watching has begun."""
    journal = Journal(path)
    for _ in range(60):
        journal.add(job(f"other-{time.monotonic_ns()}")).result(60)
        with contextlib.suppress(AssertionError):
            eventually(condition, 1.0)
            break
    else:
        raise AssertionError("never came true")
    journal.close()


def test_what_is_left_alone(server: ScriptedServer, journal: Journal, keeper: Opened) -> None:
    """Nothing is sent, and of nothing that was not accepted, goes elsewhere, calls functions, is in
    a batch or has passed its deadline with its kernel is the server asked."""
    server.polls = 1
    lock = OwnerLock(Path(str(journal.path)).parent / "owners")
    lock.acquire()
    unsent = {"response_id": None, "accepted_at": None}
    journal.add(
        accepted(server, "odd", group_key="g", group_index=0, group_details="no JSON"),
        accepted(server, "mine"),
        accepted(server, "waiting", status="waiting", **unsent),
        accepted(server, "submitting", status="submitting", **unsent),
        accepted(server, "elsewhere", server="other.example"),
        accepted(server, "functions", rounds='{"done": []}'),
        accepted(server, "batched", batch="b"),
        accepted(server, "late", owner=None),
        accepted(server, "alive", owner=lock.id),
    ).result(60)
    keep = keeper(Path(str(journal.path)))
    eventually(lambda: ended(journal, "mine"))
    assert {key for key, _ in keep._seen} == {"mine", "odd"}
    (found,) = [entry for entry in journal.entries() if entry.ended_at is not None]
    whole = journal.find(found.key)
    assert whole is not None
    assert (whole.key, whole.status, whole.owner) == ("mine", "completed", GONE)
    assert "the answer" in str(whole.response)
    assert whole.billing is not None
    lock.release()
    assert {seen.kind for seen in server.seen} == {"retrieve"}
    assert {seen.path.partition("?")[0].rpartition("/")[2] for seen in server.seen} == {"resp_mine"}


def test_one_at_a_time(server: ScriptedServer, journal: Journal, keeper: Opened) -> None:
    """Of two servers one follows the jobs; the other does once that has ended."""
    server.polls = 10**6
    journal.add(accepted(server, "first")).result(60)
    path = Path(str(journal.path))
    one = keeper(path)
    eventually(lambda: one.keys == {"first"})
    two = keeper(path)
    journal.add(accepted(server, "second")).result(60)
    _heard(path, lambda: one.keys == {"first", "second"})
    assert two.keys == set()
    one.stop()
    _heard(path, lambda: two.keys == {"first", "second"})


def test_an_end_that_came_too_late(server: ScriptedServer, journal: Journal) -> None:
    """An end is not written over what a kernel has by then; and a kernel that attaches a job just as
    its end is written down has the answer from there."""
    path = Path(str(journal.path))
    first = accepted(server, "first")
    journal.add(first).result(60)
    watching = UnfollowedJobs(path)
    assert [entry.key for entry in watching.found()] == ["first"]
    assert watching.whole(first) is not None
    assert journal.adopt("first", "kernel-2-new", [GONE], False).result(60)
    over = {
        "status": "completed",
        "ended_at": 5.0,
        "response": json.dumps(response("r", "completed", "A")),
    }
    asyncio.run(watching.update(record_of(first), **over))
    assert not ended(journal, "first")
    second = accepted(server, "second")
    journal.add(second).result(60)
    assert watching.whole(second) is not None
    asyncio.run(watching.update(record_of(second), **over))
    assert ended(journal, "second")
    watching.close()
    store = JobStore(Journal(path), OwnerLock(path.parent / "owners"))
    manager = JobManager(store=store, destination=lambda: ServerConfig(server.base_url, KEY))
    assert manager.attach(second).result(30) == "A"
    manager.close()
    assert server.seen == []


def test_in_jupyter_server(
    server: ScriptedServer, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is off unless whoever runs Jupyter Server sets it; then the panel is told which jobs are
    followed, their ends get into the journal, and the server ends as it is told to."""
    from tests.support.browser import jupyter_server

    assert not BgmagicServer().keep_watching
    monkeypatch.setenv("BGMAGIC_KEEP_WATCHING", "1")
    assert BgmagicServer().keep_watching
    server.polls = 10**6
    journal.add(accepted(server, "first")).result(60)
    key = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.base_url}
    wanted = ("--BgmagicServer.keep_watching=True",)
    with jupyter_server(tmp_path, arguments=wanted, **key) as running:

        def row() -> dict[str, Any]:
            url = f"{running.base}/bgmagic/jobs?token={running.token}"
            with urllib.request.urlopen(url) as reply:
                (found,) = json.loads(reply.read())["jobs"]
            return dict(found)

        eventually(lambda: row().get("watched"))
        assert "followed" not in row()
        server.polls = 0
        eventually(lambda: ended(journal, "first"))
        journal.add(accepted(server, "second")).result(60)
        running.process.terminate()
        assert running.process.wait(60) is not None
    assert KEY not in (tmp_path / ".lab.log").read_text()
