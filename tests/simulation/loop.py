"""An asyncio loop that runs as far as it is told, in a time of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

_ENOUGH = 20_000  # steps; what needs more goes round in circles
SOON = 0.2  # seconds: timers so near belong to the same moment


class _NoSelector:
    """No network, and so nothing to wait for."""

    def select(self, _: float | None) -> list[Any]:
        return []


class SteppedLoop(asyncio.BaseEventLoop):
    """Runs what is ready when `settle` is called; blocking calls run at once, in place."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now
        self._ahead = 0.0  # seconds that it is before the world's time, within one moment
        self._selector = _NoSelector()
        self._mine: set[asyncio.Task[Any]] = set()
        self.set_exception_handler(self._remember)
        self.failures: list[str] = []

    def time(self) -> float:
        return self._now() + self._ahead

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Hold a task as long as it runs."""
        self._mine.add(task)
        task.add_done_callback(self._mine.discard)

    def settle(self) -> None:
        """Run until nothing is ready, and what becomes so in a moment."""
        asyncio.events._set_running_loop(self)
        try:
            for _ in range(_ENOUGH):
                if not self._ready and not self._next():
                    self._ahead = 0.0
                    return
                self._run_once()
        finally:
            asyncio.events._set_running_loop(None)
        raise AssertionError("the loop does not come to rest")

    def _next(self) -> bool:
        scheduled = [timer for timer in self._scheduled if not timer.cancelled()]
        if not scheduled:
            return False
        due = min(timer.when() for timer in scheduled)
        if due > self._now() + SOON:
            return False
        self._ahead = max(self._ahead, due - self._now())
        return True

    def abandon(self) -> None:
        """Forget everything: its process has died."""
        asyncio.events._set_running_loop(self)
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            # Now, while there is a loop: what a coroutine does at its end may ask for it.
            with contextlib.suppress(Exception):
                task.get_coro().close()  # type: ignore[union-attr]
        asyncio.events._set_running_loop(None)
        self._mine.clear()
        self._ready.clear()
        self._scheduled.clear()
        self.close()

    def _remember(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(str(context.get("exception") or context["message"]))

    # What BaseEventLoop leaves to those that have a selector.

    def _process_events(self, event_list: list[Any]) -> None:
        assert not event_list

    def _write_to_self(self) -> None:
        """Nothing waits that had to be woken."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future
