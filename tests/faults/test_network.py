"""Networks that lose packets, part in the middle of a request, or change; names that do not resolve."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Kernel, attach_all, outcome, require, until
from tests.faults.hosts import HOST, NETWORK, RESOLVER
from tests.faults.link import HERE, Link
from tests.support.scripted import Script, ScriptedServer


@pytest.fixture
def link() -> Iterator[Link]:
    with Link() as made:
        yield made


@pytest.fixture
def far(link: Link) -> Iterator[ScriptedServer]:
    """A server at the other end of the link."""
    with ScriptedServer(host=HERE) as started:
        started.polls = 1
        yield started


@pytest.fixture
def kernel(link: Link, far: ScriptedServer, tmp_path: Path) -> Iterator[Kernel]:
    """A kernel behind the link."""
    place = {NETWORK: link.namespace}
    with Kernel(far.base_url, tmp_path / "journal.sqlite3", **place) as started:
        yield started


def test_a_partition_in_the_middle_of_posts(
    link: Link, far: ScriptedServer, kernel: Kernel
) -> None:
    """The network parts while creates are under way, and comes back: every job ends, each was accepted
    once."""
    parted = threading.Event()
    far.choose = lambda kind: Script(hold=parted if kind == "create" else None)
    kernel.sweep(40, max_in_flight=10)
    assert until(lambda: far.count("create") >= 10)
    link.cut = True
    parted.set()
    assert not until(lambda: far.count("create") > 10, 1.0)
    link.cut = False
    assert kernel.settled()
    found = outcome(far, kernel)
    assert (found.accepted, found.twice, found.lost) == (40, 0, 0)
    assert kernel.statuses() == {"completed": 40}


def test_a_third_of_the_packets_is_lost(link: Link, far: ScriptedServer, kernel: Kernel) -> None:
    """With three packets in ten lost every job of a sweep ends, each was accepted once."""
    link.loss = 0.3
    kernel.sweep(10)
    assert kernel.settled()
    found = outcome(far, kernel)
    assert (found.accepted, found.twice, found.lost) == (10, 0, 0)
    assert kernel.statuses() == {"completed": 10}


def test_packets_take_half_a_second(link: Link, far: ScriptedServer, kernel: Kernel) -> None:
    """Over a line that takes a second there and back a sweep of 30 is sent and ends."""
    link.delay = 0.5
    kernel.sweep(30)
    assert kernel.settled()
    assert kernel.statuses() == {"completed": 30}


def test_the_address_changes(link: Link, far: ScriptedServer, kernel: Kernel) -> None:
    """The kernel's address goes while jobs run and another comes, as from Wi-Fi to Ethernet: the jobs
    are polled on from there and end."""
    far.polls = 10**6
    kernel.run("from tests.simulation import adapter; adapter.limit_polls(3.0)")
    kernel.sweep(10)
    assert until(lambda: far.count("retrieve") >= 10)
    link.move(None)
    assert until(lambda: "no answer" in str(kernel.value("[repr(job) for job in sweep.jobs]")))
    link.move("10.77.77.9")
    far.polls = 0
    assert kernel.settled()
    assert kernel.statuses() == {"completed": 10}


def test_killed_behind_a_partition(
    link: Link, far: ScriptedServer, kernel: Kernel, tmp_path: Path
) -> None:
    """The network parts while creates are under way and the kernel dies before it is back: the next one
    sends none of them again and knows of each."""
    parted = threading.Event()
    far.choose = lambda kind: Script(hold=parted if kind == "create" else None)
    kernel.sweep(20, max_in_flight=10)
    assert until(lambda: far.count("create") >= 10)
    link.cut = True
    parted.set()
    assert until(lambda: len(far.accepted) >= 10)
    kernel.kill()
    link.cut = False
    place = {NETWORK: link.namespace}
    with attach_all(far.base_url, tmp_path / "journal.sqlite3", **place) as second:
        found = outcome(far, second)
    assert (found.accepted, found.twice, found.lost) == (20, 0, 0)


def test_half_open_connections(link: Link, far: ScriptedServer, kernel: Kernel) -> None:
    """The server restarts behind a partition, so that the kernel keeps connections of which the server
    knows nothing: jobs that run are polled on over others, and those that are sent then are accepted
    once or tell that it is unclear."""
    far.polls = 10**6
    kernel.sweep(10)
    assert until(lambda: far.count("retrieve") >= 20)
    link.cut = True
    far.forget_connections()
    kernel.run("more = bgmagic.map('item 10{{ item }}.', range(10), yes=10, out='more')")
    assert until(lambda: kernel.statuses()["submitting"] == 10)
    link.cut = False
    far.polls = 0
    assert kernel.settled()
    ends = kernel.value("[str(job.status) for job in [*sweep.jobs, *more.jobs]]")
    assert ends[:10] == ["completed"] * 10
    assert set(ends[10:]) <= {"completed", "unknown"}
    found = outcome(far, kernel)
    assert (found.accepted, found.twice, found.lost) == (ends.count("completed"), 0, 0)


@pytest.fixture
def silent_resolver() -> Iterator[str]:
    """The address of a name server that never answers."""
    require()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.9.9.9", 53))
        yield "127.9.9.9"


def test_a_name_server_that_does_not_answer(
    silent_resolver: str, server: ScriptedServer, tmp_path: Path
) -> None:
    """While the name of one server is looked up in vain, jobs to another are sent and end."""
    place = {HOST: "alpha", RESOLVER: silent_resolver}
    healthy = server.base_url.replace("127.0.0.1", "localhost")
    with Kernel("http://silent.example/v1", tmp_path / "journal.sqlite3", **place) as kernel:
        kernel.run("slow = bgmagic.submit('item 1.')")
        assert until(lambda: kernel.value("str(slow.status)") == "submitting")
        kernel.run(f"import os; os.environ['OPENAI_BASE_URL'] = {healthy!r}")
        kernel.run("quick = bgmagic.submit('item 2.')")
        assert until(lambda: kernel.value("quick.done()"))
        assert kernel.value("str(quick.status)") == "completed"
        assert kernel.value("str(slow.status)") == "submitting"
        kernel.kill()


def test_stopped_between_claim_and_post(server: ScriptedServer, tmp_path: Path) -> None:
    """A kernel that is suspended between the claim and the POST keeps its job: another kernel does not
    send it, and when it wakes it does, once."""
    require()
    journal = tmp_path / "journal.sqlite3"
    server.polls = 0
    with Kernel(server.base_url, journal) as first:
        first.run("from tests.simulation import adapter; adapter.stop_before_posting()")
        first.begin("job = bgmagic.submit('item 1.')")
        assert until(first.is_stopped)
        with attach_all(server.base_url, journal, 2) as second:
            assert server.count("create") == 0
            first.resume()
            assert until(lambda: server.count("retrieve"))
            assert outcome(server, second).twice == 0
        assert server.count("create") == 1


def test_killed_while_stopped_between_claim_and_post(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """A kernel that dies while it is suspended between the claim and the POST leaves a job that is
    unknown: the next kernel says so and does not send it."""
    require()
    journal = tmp_path / "journal.sqlite3"
    first = Kernel(server.base_url, journal)
    with contextlib.closing(first):
        first.run("from tests.simulation import adapter; adapter.stop_before_posting()")
        first.begin("job = bgmagic.submit('item 1.')")
        assert until(first.is_stopped)
        first.kill()
    with attach_all(server.base_url, journal) as second:
        assert second.statuses() == {"unknown": 1}
    assert server.count("create") == 0
