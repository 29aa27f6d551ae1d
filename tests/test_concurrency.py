"""Futures of another thread, awaited on a loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from bgmagic.concurrency import FutureWaiter


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
    assert asyncio.run(asyncio.wait_for(stay(), 10)) == "here"
