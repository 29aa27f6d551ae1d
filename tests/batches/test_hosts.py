"""Batches of one journal folder that several hosts see: each has a file of its own there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bgmagic.errors import BadInput
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import Detached, JobFailed, JobUnknown
from bgmagic.runtime import manager
from bgmagic.runtime.manager import JobManager
from bgmagic.storage import filesystem, owner_lock
from bgmagic.storage.batches import BatchStore
from tests.batches.study import attached, attached_at_once, config_of, entries_of, manager_of, sent
from tests.jobs.test_job import LIMIT, eventually
from tests.support.scripted import Script, ScriptedServer

On = Callable[[str], JobManager]


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[On]:
    """Makes kernels on hosts of these names, with their journals in one folder."""
    monkeypatch.setattr(filesystem, "is_shared", lambda _: True)
    monkeypatch.setattr(manager, "SCRIPT_GRACE", 0.1)  # of kernels that end as a call is under way
    kernels: list[JobManager] = []

    def start(host: str) -> JobManager:
        with monkeypatch.context() as there:
            there.setattr(owner_lock.socket, "gethostname", lambda: host)
            kernels.append(manager_of(tmp_path / "journal.sqlite3"))
        return kernels[-1]

    yield start
    for kernel in kernels:
        kernel.close(60)


def answers(jobs: list[Job]) -> list[str]:
    return [str(job.result(LIMIT)) for job in jobs]


def left_running(kernel: JobManager, server: ScriptedServer, count: int = 6) -> None:
    """Have the kernel send a batch, and end while the server works on it."""
    server.batching.polls = 10_000
    jobs = sent(kernel, server, count)
    eventually(lambda: {job.status for job in jobs} == {"in_progress"})
    kernel.close()


def test_a_batch_of_another_host(on: On, server: ScriptedServer) -> None:
    """A batch that the server has from a host which is gone goes on at another with all its jobs, also
    where one is attached alone; when the host is back, it reads how they ended."""
    left_running(on("alpha"), server)
    server.batching.polls = 0
    beta = on("beta")
    entries = entries_of(beta)
    assert str(beta.attach(entries[3], server=config_of(server).server).result(LIMIT)) == "echo: q3"
    eventually(lambda: {entry.status for entry in entries_of(beta)} == {"completed"})
    beta.close()
    polls = server.count("batch_poll")
    for host in ("beta", "alpha", "gamma"):
        assert answers(attached(on(host), server)) == [f"echo: q{number}" for number in range(6)]
    assert (server.count("batch"), server.count("batch_poll")) == (1, polls)


def test_two_kernels_of_another_host_at_once(on: On, server: ScriptedServer) -> None:
    """Of two kernels of one host that attach another's batch at once, one follows it; one of a third
    host leaves it to that."""
    left_running(on("alpha"), server)
    kernels = [on("beta"), on("beta")]
    found = attached_at_once(kernels, server)
    eventually(lambda: any(all(job.done() for job in jobs) for jobs in found))
    (follows,) = (jobs for jobs in found if not jobs[0].done())
    eventually(lambda: follows[0].status == "in_progress")
    with pytest.raises((BadInput, Detached), match="another kernel"):
        answers(attached(on("gamma"), server))
    (other,) = (jobs for jobs in found if jobs is not follows)
    assert {type(job.error) for job in other} == {Detached}
    server.batching.polls = 0
    assert answers(follows) == [f"echo: q{number}" for number in range(6)]
    assert server.count("batch") == 1


@pytest.mark.parametrize("made", [True, False])
def test_a_create_of_another_host(on: On, server: ScriptedServer, made: bool) -> None:
    """A host that goes while it asks for a batch may have got one: another looks for it in the
    server's list, by our name in its metadata, and asks for none."""
    hold = threading.Event()
    server.enqueue("batch", Script(hold=hold, reset="after" if made else "before"))
    alpha = on("alpha")
    sent(alpha, server, 4)
    eventually(lambda: server.count("batch"))
    alpha.close()
    hold.set()
    if made:
        eventually(lambda: server.batching.batches)
    jobs = attached(on("beta"), server)
    eventually(lambda: all(job.done() for job in jobs))
    if made:
        assert answers(jobs) == [f"echo: q{number}" for number in range(4)]
    else:
        assert {type(job.error) for job in jobs} == {JobUnknown}
    assert server.count("batch") == 1


def test_an_unsent_batch_of_another_host(on: On, server: ScriptedServer) -> None:
    """A batch that its host has not sent is sent by no other, since that host may come back; one line
    says so, also where a create of it was refused."""
    server.always["batch"] = Script(status=429, json={"error": {"message": "no", "type": "x"}})
    alpha = on("alpha")
    jobs = sent(alpha, server, 3)
    eventually(lambda: server.count("batch") > 1 and jobs[0].status == "waiting")
    alpha.close()
    del server.always["batch"]
    beta = on("beta")
    with pytest.raises(BadInput, match="only a kernel there can send it"):
        attached(beta, server)
    assert not server.batching.batches
    assert answers(attached(on("alpha"), server)) == [f"echo: q{number}" for number in range(3)]


def test_a_batch_that_was_sent_elsewhere_meanwhile(
    on: On, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that was suspended before it asked for its batch does not send what its user has had
    sent from another host meanwhile, and says so."""
    let = threading.Event()
    server.enqueue("upload", Script(hold=let))
    alpha = on("alpha")
    jobs = sent(alpha, server, 4)
    eventually(lambda: server.count("upload") == 1)
    beta = on("beta")
    others = sent(beta, server, 2)
    assert answers(others) == ["echo: q0", "echo: q1"]
    monkeypatch.setattr(owner_lock.OwnerLock, "was_away", True)
    let.set()
    assert answers(jobs[2:]) == ["echo: q2", "echo: q3"]
    eventually(lambda: all(job.done() for job in jobs))
    assert {type(job.error) for job in jobs[:2]} == {JobFailed}
    assert "sent from another host" in str(jobs[0].error)
    assert set(server.batching.asked.values()) == {1}


def test_what_broke_off_is_copied_at_last(
    on: On, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that ended while it took another host's batch over left some of its jobs in that
    host's file alone: the next one has them all."""
    left_running(on("alpha"), server)
    copy = BatchStore._copy

    async def breaks_off(store: BatchStore, key: str) -> None:
        raise KeyError

    monkeypatch.setattr(BatchStore, "_copy", breaks_off)
    beta = on("beta")
    jobs = attached(beta, server)
    eventually(lambda: all(job.done() for job in jobs))
    beta.close()
    monkeypatch.setattr(BatchStore, "_copy", copy)
    server.batching.polls = 0
    again = on("beta")
    entry = entries_of(again)[0]
    assert str(again.attach(entry, server=config_of(server).server).result(LIMIT)) == "echo: q0"
    eventually(lambda: {one.status for one in entries_of(again)} == {"completed"})
