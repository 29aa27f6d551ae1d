"""Follows accepted jobs whose kernels are gone, where whoever runs Jupyter Server has asked for it.

Some servers forget a response after ten minutes. What it takes is the poller of a kernel, on a
thread beside the server's; what it gives is the end in the journal. It owns no job: the journal has
them as detached, a kernel attaches them as always, and is then left to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import TimeoutError as TooLate
from pathlib import Path

from bgmagic.api.server import ServerConfig
from bgmagic.concurrency import Clock, LoopThread
from bgmagic.jobs.job import Job
from bgmagic.runtime.attach import NoController, record_of
from bgmagic.runtime.pacing import RunConfig
from bgmagic.runtime.scheduler import JobScheduler
from bgmagic.server.watch import JournalWatch
from bgmagic.storage.database import StoredJob
from bgmagic.storage.owner_lock import OwnerError, OwnerLock
from bgmagic.storage.unfollowed import UnfollowedJobs

logger = logging.getLogger("bgmagic")

# Seconds until it looks again when nothing is heard: of a kernel that was killed nothing is.
PAUSE = 30.0

CALM = 0.5  # seconds between looks, at least

EXIT_TIMEOUT = 1.0  # seconds that the end may take


class KeepWatching:
    """Follows the jobs of one journal at one server, on a thread of its own, once started.

    Of several Jupyter Servers on a host one does it at a time.
    """

    def __init__(
        self, path: Path, server: ServerConfig, tell: Callable[[], object] = lambda: None
    ) -> None:
        """Make it.

        Args:
            path: the journal; it need not be there yet.
            server: whose jobs are followed, with whose key.
            tell: called on that thread when others are followed than before.
        """
        self._path = path
        self._server = server
        self._tell = tell
        self._loop = LoopThread("bgmagic-keep-watching")
        self._claim = OwnerLock(path.parent / "owners", only="keeps-watching")
        self._store = UnfollowedJobs(path)
        self._scheduler = JobScheduler(self._store, Clock(), _no_job)
        self._watch: JournalWatch | None = None
        # By key and owner: of a kernel that attached a job and is gone, too, it is followed again.
        self._tasks: dict[tuple[str, str | None], asyncio.Task[None]] = {}
        self._seen: set[tuple[str, str | None]] = set()

    @property
    def keys(self) -> set[str]:
        """The jobs that are followed now. From any thread."""
        return {key for key, _ in list(self._tasks)}

    def start(self) -> None:
        """Begin."""
        self._loop.begin(self._run())

    def stop(self) -> None:
        """End, within a second or so; the jobs stay as they are."""
        if self._watch is not None:
            self._watch.stop()
        ending = self._loop.run_if_started(lambda: self._scheduler.shutdown(0.0))
        if ending is not None:
            with contextlib.suppress(TooLate, asyncio.CancelledError):
                ending.result(EXIT_TIMEOUT)
        self._loop.stop(EXIT_TIMEOUT)
        self._claim.release()
        self._store.close()

    async def _run(self) -> None:
        news = asyncio.Event()
        self._watch = JournalWatch(self._path, news.set)
        self._watch.start()
        while True:
            news.clear()
            try:
                await self._look()
            except (sqlite3.Error, OSError):
                logger.debug("the journal can't be read now", exc_info=True)
            await asyncio.sleep(CALM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), PAUSE)

    async def _look(self) -> None:
        """Follow what has come, and leave what has ended or has a kernel again."""
        found = await asyncio.to_thread(self._store.found)
        wanted = {
            (entry.key, entry.owner): entry for entry in found if entry.server == self._server.name
        }
        before = self.keys
        gone = [task for which, task in self._tasks.items() if which not in wanted]
        for task in gone:
            task.cancel()
        if gone:
            await asyncio.wait(gone)
        new = [which for which in wanted if which not in self._seen]
        ours = bool(new) and await asyncio.to_thread(self._is_ours)
        if ours:
            for which in new:
                try:
                    await self._begin(which, wanted[which])
                except (ValueError, TypeError, LookupError, AttributeError):
                    # SQLite keeps anything in any column, and others are not to suffer for it.
                    self._seen.add(which)
                    logger.warning("job %s of the journal can't be read", which[0], exc_info=True)
        if self.keys != before:
            self._tell()

    def _is_ours(self) -> bool:
        try:
            self._claim.acquire()
        except OwnerError:  # another server of this host does it
            return False
        return True

    async def _begin(self, which: tuple[str, str | None], brief: StoredJob) -> None:
        entry = await asyncio.to_thread(self._store.whole, brief)
        if entry is None:
            return
        self._seen.add(which)
        known = await asyncio.to_thread(self._store.credentials, self._server)
        same_key = known == entry.credentials
        config = RunConfig(self._server, entry.poll_interval, entry.deadline, same_key)
        job = Job(record_of(entry), NoController())
        task = asyncio.create_task(self._scheduler.follow(job, config))
        self._tasks[which] = task
        task.add_done_callback(lambda _: self._over(which))

    def _over(self, which: tuple[str, str | None]) -> None:
        del self._tasks[which]
        if which[0] in self._store.unwritten:
            self._store.unwritten.discard(which[0])
            self._seen.discard(which)  # once more


async def _no_job(key: str) -> Job | None:
    """None: accepted jobs wait for no other."""
    return None
