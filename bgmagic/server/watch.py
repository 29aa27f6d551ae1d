"""Says that the journal has changed: nothing is looked at while nothing happens.

`watchfiles` has the events of Linux, macOS and Windows in one wheel each; SQLite has none between
processes. In a folder that other hosts may write there are none either: it is looked at now and
then, as it is where watchfiles is not installed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from bgmagic.storage.filesystem import is_shared

# Jupyter's events reach every page over the connection that it has already.
SCHEMA: dict[str, Any] = {
    "$id": "https://bgmagic.invalid/events/journal/v1",
    "version": "1",
    "title": "Journal changed",
    "description": "Jobs of bgmagic were sent, or have changed; /bgmagic/jobs has them.",
    "type": "object",
    "properties": {},
}

CALM = 200  # milliseconds for which changes are collected

PAUSE = 5.0  # seconds between looks where there are no events


class JournalWatch:
    """Calls ``emit`` after each change of the journal at a path, once it has been started."""

    def __init__(self, path: Path, emit: Callable[[], object]) -> None:
        self._path = path
        self._owners = path.parent / "owners"  # a kernel that ends lets its lock go there
        self._emit = emit
        self._task: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()

    def start(self) -> None:
        """Begin, in the running loop; does nothing if that has begun."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End."""
        self._stopped.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        with contextlib.suppress(OSError):
            self._owners.mkdir(mode=0o700, parents=True, exist_ok=True)
        async for _ in self._changes():
            self._emit()

    async def _changes(self) -> AsyncIterator[object]:
        try:
            import watchfiles
        except ImportError:
            looks = self._looks()
        else:
            if self._owners.is_dir() and not is_shared(self._path.parent):
                async for change in watchfiles.awatch(
                    self._path.parent,
                    self._owners,
                    watch_filter=lambda kind, name: self._tells(kind.name, Path(name)),
                    debounce=CALM, step=CALM // 4, recursive=False, stop_event=self._stopped,
                ):  # fmt: skip
                    yield change
                return
            looks = self._looks()
        async for look in looks:
            yield look

    async def _looks(self) -> AsyncIterator[object]:
        before = self._stamp()
        while not self._stopped.is_set():
            await asyncio.sleep(PAUSE)
            now = self._stamp()
            if now != before:
                before = now
                yield now

    def _tells(self, kind: str, path: Path) -> bool:
        if path.parent.name == self._owners.name:
            return kind == "deleted"
        return self._is_journal(path.name)

    def _is_journal(self, name: str) -> bool:
        # Not its shared memory, which each reader changes.
        return name.startswith(self._path.stem) and not name.endswith("-shm")

    def _stamp(self) -> list[tuple[str, int, int]]:
        found = []
        with contextlib.suppress(OSError):
            for path in sorted(self._path.parent.iterdir()):
                if self._is_journal(path.name):
                    about = path.stat()
                    found.append((path.name, about.st_size, about.st_mtime_ns))
        return found
