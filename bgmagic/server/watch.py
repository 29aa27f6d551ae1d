"""Says that the journal has changed: nothing is looked at while nothing happens.

`watchfiles` has the events of Linux, macOS and Windows in one wheel each; SQLite has none between
processes. In a folder that other hosts may write there are none either: it is looked at now and
then, as it is where watchfiles is not installed.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from collections.abc import Callable, Iterator
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
    """Calls ``emit`` on the loop after each change of the journal at a path, once started."""

    def __init__(self, path: Path, emit: Callable[[], object]) -> None:
        self._path = path
        self._owners = path.parent / "owners"  # a kernel that ends lets its lock go there
        self._emit = emit
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin; ``emit`` is called on the loop that runs now. Does nothing if that has begun."""
        if self._thread is None:
            loop = asyncio.get_running_loop()
            # Not watchfiles' own awatch: its thread keeps Jupyter Server from ending, which tells
            # its extensions nothing then.
            self._thread = threading.Thread(
                target=self._run, args=(loop,), name="bgmagic-watch", daemon=True
            )
            self._thread.start()
            atexit.register(self.stop)

    def stop(self) -> None:
        """End, within a second."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(OSError):
            self._owners.mkdir(mode=0o700, parents=True, exist_ok=True)
        for _ in self._changes():
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
                loop.call_soon_threadsafe(self._emit)

    def _changes(self) -> Iterator[object]:
        # watchfiles is not installed, or the system has no watch left to give.
        with contextlib.suppress(ImportError, OSError, RuntimeError):
            if self._owners.is_dir() and not is_shared(self._path.parent):
                import watchfiles

                yield from watchfiles.watch(
                    self._path.parent,
                    self._owners,
                    watch_filter=lambda kind, name: self._tells(kind.name, Path(name)),
                    debounce=CALM, step=CALM // 4, recursive=False, raise_interrupt=False,
                    stop_event=self._stopped,
                )  # fmt: skip
        yield from self._looks()

    def _looks(self) -> Iterator[object]:
        before = self._stamp()
        while not self._stopped.wait(PAUSE):
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
