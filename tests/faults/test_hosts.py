"""One journal in a folder that several hosts see, each with caches and locks of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.faulty_disk import FaultyDisk
from tests.faults.harness import Kernel, attach_all, exported, outcome, prompts_accepted, until
from tests.faults.homes import Homes, network_home, on, pair_of_hosts
from tests.support.scripted import Script, ScriptedServer


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Homes]:
    with network_home(tmp_path) as found:
        yield found


def test_two_hosts_write_at_once(server: ScriptedServer, homes: Homes) -> None:
    """Two hosts that send sweeps at the same time damage nothing: a later kernel on either of them
    tells of every job of both."""
    server.polls = 1
    server.choose = lambda kind: Script(delay=0.01 if kind == "create" else 0.0)
    with on("alpha", server, homes.one) as one, on("beta", server, homes.other) as other:
        one.sweep(150, max_in_flight=20)
        other.run(
            "sweep = bgmagic.map('item 1000{{ item }}.', range(150), yes=150, out='sweep', "
            "max_in_flight=20)"
        )
        assert one.settled()
        assert other.settled()
        assert one.value("trouble()") is None
        assert other.value("trouble()") is None
    for host, home in (("alpha", homes.one), ("beta", homes.other)):
        with on(host, server, home) as later:
            found = outcome(server, later)
            assert (found.accepted, found.twice, found.lost) == (300, 0, 0)
    assert not list(homes.one.rglob("*.damaged-*"))


def test_a_live_owner_on_another_host(server: ScriptedServer, homes: Homes) -> None:
    """While a kernel on one host sends a sweep, one on another host attaches all there is: it takes
    nothing from the living, and nothing is accepted twice."""
    server.polls = 0
    server.choose = lambda kind: Script(delay=0.05 if kind == "create" else 0.0)
    with on("alpha", server, homes.one) as one, on("beta", server, homes.other) as other:
        one.sweep(40, max_in_flight=4)
        assert until(lambda: len(server.accepted) >= 5)
        other.run("%bgattach --all")
        assert one.settled()
        assert one.statuses() == {"completed": 40}
        assert other.settled()
        found = outcome(server, other)
    assert (found.accepted, found.twice, found.lost) == (40, 0, 0)


def test_a_stopped_owner_on_another_host(server: ScriptedServer, homes: Homes) -> None:
    """A kernel that is suspended on one host lives: another host does not send its jobs, and it goes
    on with all of them when it wakes."""
    server.polls = 0
    server.choose = lambda kind: Script(delay=0.05 if kind == "create" else 0.0)
    with on("alpha", server, homes.one) as one, on("beta", server, homes.other) as other:
        one.sweep(40, max_in_flight=4)
        assert until(lambda: len(server.accepted) >= 5)
        one.stop()
        other.run("%bgattach --all")
        other.settled(5)
        one.resume()
        assert one.settled()
        found = outcome(server, other)
    assert (found.accepted, found.twice, found.lost) == (40, 0, 0)


def test_what_a_lost_host_had_not_sent(server: ScriptedServer, homes: Homes) -> None:
    """What a kernel had not sent when its host went down is sent from another by the user's word, which
    one line asks for; answers are not paid again, and when the host is back, nothing is sent twice."""
    server.polls = 0
    gone = threading.Event()  # what comes after the first three is answered when the host is down
    server.choose = lambda kind: Script(
        hold=gone if kind == "create" and server.count(kind) > 3 else None
    )
    with on("alpha", server, homes.one) as one:
        one.sweep(12, max_in_flight=3)
        assert until(lambda: one.statuses()["completed"] == 3)
        one.kill()
    gone.set()
    assert until(lambda: len(server.accepted) == server.count("create"))
    begun = set(prompts_accepted(server))
    for lock in (homes.one / "owners").glob("*.lock"):
        os.utime(lock, (0, 0))  # it has given no sign of life for long
    with on("beta", server, homes.other) as other:
        assert "only a kernel there can send it" in other.run("%bgattach sweep")
        assert prompts_accepted(server).keys() == begun
        again = "yes=12, out='sweep', again=True, reuse=True)"
        other.run(f"sweep = bgmagic.map('item {{{{ item }}}}.', range(12), {again}")
        assert other.settled()
        assert other.value("[str(answer) for answer in sweep]") == ["the answer"] * 12
    sent = prompts_accepted(server)
    assert len(sent) == 12
    assert [count for item, count in sent.items() if item not in begun] == [1] * (12 - len(begun))
    with on("alpha", server, homes.one) as back:
        back.run("%bgattach --all")
        assert back.settled()
        told = exported(back)
        assert "waiting" not in {job["status"] for job in told}
        assert "and then from another host" in str(told)
    assert prompts_accepted(server) == sent


def test_another_host_reads_what_ended(server: ScriptedServer, homes: Homes) -> None:
    """What a kernel on one host wrote down, one on another host reads, answers included."""
    server.polls = 0
    with on("alpha", server, homes.one) as one:
        one.sweep(5)
        assert one.settled()
    with on("beta", server, homes.other) as other:
        told = exported(other)
        assert [job["status"] for job in told] == ["completed"] * 5
        assert all("the answer" in str(job["response"]) for job in told)
        other.run("%bgattach sweep")
        assert other.value("[str(answer) for answer in sweep]") == ["the answer"] * 5


@pytest.mark.parametrize("seed", range(2))
def test_hosts_that_come_and_go(seed: int, tmp_path: Path) -> None:
    """One host sends a sweep and is killed, the other writes and attaches at a random moment, the first
    comes back: nothing is accepted twice, lost or damaged."""
    found = pair_of_hosts(tmp_path, seed)
    assert (found.twice, found.lost) == (0, 0), found
    assert not list(tmp_path.rglob("*.damaged-*"))


@pytest.mark.parametrize("kind", ["fuse.sshfs", "fuse.faulty"])
def test_no_shared_memory(kind: str, server: ScriptedServer, tmp_path: Path) -> None:
    """A folder where processes can share no memory has a journal all the same: jobs outlive their
    kernel there, whatever the table of mounts calls it."""
    server.polls = 10**6
    with FaultyDisk(tmp_path / "disk", kind=kind, direct=True) as disk:
        journal = disk.path / "journal.sqlite3"
        with Kernel(server.base_url, journal) as first:
            assert first.value("trouble()") is None
            first.sweep(10)
            assert until(lambda: first.statuses() == {"queued": 10})
            assert first.value("trouble()") is None
            first.kill()
        server.polls = 0
        with attach_all(server.base_url, journal) as second:
            found = outcome(server, second)
            assert second.statuses() == {"completed": 10}
    assert (found.accepted, found.twice, found.lost) == (10, 0, 0)
