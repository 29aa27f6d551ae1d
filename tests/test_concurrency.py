"""Futures of another thread, awaited on a loop; names that are looked up beside it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any
from unittest.mock import Mock

import pytest

from bgmagic.concurrency import FutureWaiter, LoopThread


def test_results_and_errors_come_with_one_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread resolves before the loop comes round wakes it once, and each waiter gets
    what is its own."""

    async def main() -> None:
        loop, landing = asyncio.get_running_loop(), FutureWaiter()
        wakes: list[object] = []
        usual = loop.call_soon_threadsafe

        def counted(*args: object) -> object:
            wakes.append(args)
            return usual(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        futures: list[Future[int]] = [Future() for _ in range(100)]
        waiting = [asyncio.ensure_future(landing.wait(future)) for future in futures]
        gone = asyncio.ensure_future(landing.wait(left := Future[int]()))
        await asyncio.sleep(0)
        gone.cancel()
        left.set_result(0)  # nobody waits any more
        for number, future in enumerate(futures[:-1]):
            future.set_result(number)
        futures[-1].set_exception(ValueError("no"))
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert found[:-1] == list(range(99))
        assert isinstance(found[-1], ValueError)
        assert len(wakes) == 1
        ready: Future[str] = Future()
        ready.set_result("already")
        assert await landing.wait(ready) == "already"

    asyncio.run(main())


def test_an_interrupted_start_holds_up_no_other(
    loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that is interrupted as it begins something keeps nothing from beginning later."""
    ran: list[int] = []

    async def work(number: int) -> int:
        ran.append(number)
        return number

    loop.start()
    with monkeypatch.context() as interrupted:
        wake = Mock(side_effect=KeyboardInterrupt)
        interrupted.setattr(loop._loop, "call_soon_threadsafe", wake)
        first = work(1)
        with pytest.raises(KeyboardInterrupt):
            loop.begin(first)
    first.close()
    loop.begin(work(2))
    assert loop.run(work(3)).result(60) == 3
    assert ran == [2, 3]


def test_loop_that_has_ended_harms_no_other() -> None:
    """What lands for a loop that is no more is dropped, and the next loop gets what is its own."""
    landing = FutureWaiter()
    late, on_time = Future[str](), Future[str]()

    async def leave() -> None:
        waiting = asyncio.ensure_future(landing.wait(late))
        await asyncio.sleep(0)
        waiting.cancel()

    async def stay() -> str:
        asyncio.get_running_loop().call_soon(on_time.set_result, "here")
        return await landing.wait(on_time)

    asyncio.run(leave())
    late.set_result("too late")
    assert asyncio.run(asyncio.wait_for(stay(), 60)) == "here"


class SlowNames:
    """`socket.getaddrinfo` that has no answer for some names until it is told to go on."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._usual = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *rest: Any, **hints: Any) -> Any:
        self.asked.append(host)
        self.begun.set()
        if host.endswith(".slow"):
            assert self.go_on.wait(60)
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self._usual("127.0.0.1", port, *rest, **hints)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowNames]:
    slow = SlowNames()
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    yield slow
    slow.go_on.set()


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    started = LoopThread()
    yield started
    assert started.stop(60)


async def look_up(host: str) -> Any:
    return await asyncio.get_running_loop().getaddrinfo(host, 80, type=socket.SOCK_STREAM)


def test_a_slow_name_holds_up_no_other(names: SlowNames, loop: LoopThread) -> None:
    """While some names are looked up in vain, another one is found, and other blocking calls are made;
    a name that many ask for at once is looked up once."""
    slow = [loop.run(look_up(f"{name}.slow")) for name in "aaab"]
    assert loop.run(look_up("fast")).result(60)[0][4] == ("127.0.0.1", 80)
    assert loop.run(asyncio.to_thread(lambda: "done")).result(60) == "done"
    assert not any(future.done() for future in slow)
    names.go_on.set()
    for future in slow:
        with pytest.raises(socket.gaierror, match="no such name"):
            future.result(60)
    assert sorted(names.asked) == ["a.slow", "b.slow", "fast"]
    with pytest.raises(socket.gaierror):
        loop.run(look_up("a.slow")).result(60)
    assert names.asked.count("a.slow") == 2


def test_looking_up_has_a_limit(
    names: SlowNames, loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that takes too long is an error that names it; asking again starts no second thread for
    it, and who stops waiting ends nobody else's wait."""
    patient = loop.run(look_up("a.slow"))
    assert names.begun.wait(60)
    loop.run(look_up("a.slow")).cancel()
    loop.run(asyncio.sleep(0)).result(60)  # by now the first one has read its limit
    monkeypatch.setattr("bgmagic.concurrency.LOOKUP", 0.05)
    for _ in range(3):
        with pytest.raises(OSError, match=r"looking up a\.slow took more than"):
            loop.run(look_up("a.slow")).result(60)
    names.go_on.set()
    with pytest.raises(socket.gaierror):
        patient.result(60)
    assert names.asked == ["a.slow"]


def test_a_process_ends_while_a_name_is_looked_up() -> None:
    """A lookup that hangs keeps no process from ending."""
    code = """if True:
        import asyncio, socket, threading
        from bgmagic.concurrency import LoopThread
        begun = threading.Event()
        def hang(*_, **__):
            begun.set()
            threading.Event().wait()
        socket.getaddrinfo = hang
        async def look_up():
            await asyncio.get_running_loop().getaddrinfo("a", 80)
        LoopThread().run(look_up())
        assert begun.wait(60)
    """
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_a_loop_that_ends_leaves_no_task_behind() -> None:
    """A task that is begun by one that is cancelled with its loop is cancelled, too, and not found pending by Python later."""
    loop, begun = LoopThread(), threading.Event()
    later: list[asyncio.Task[None]] = []

    async def first() -> None:
        try:
            begun.set()
            await asyncio.sleep(600)
        finally:
            later.append(asyncio.create_task(asyncio.sleep(600)))

    loop.begin(first())
    assert begun.wait(60)
    assert loop.stop(60)
    assert later[0].cancelled()
