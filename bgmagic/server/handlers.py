"""`/bgmagic/jobs` and `/bgmagic/jobs/KEY`: they only read, for whom the server lets in."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

from bgmagic.server.rows import JobRows
from bgmagic.server.watch import SCHEMA, JournalWatch
from bgmagic.storage.filesystem import trouble_of
from bgmagic.storage.reader import JournalReader
from bgmagic.submission.app import default_path


class Jobs:
    """What the handlers share: the journal's rows, read on one thread, and its news."""

    def __init__(self, path: Path | None, root: Path | None, emit: Any) -> None:
        """Open nothing yet.

        Args:
            path: the journal; None if it is in the kernels' memory only.
            root: the folder that the server's paths count from.
            emit: tells the pages that the journal has changed.
        """
        self._path = path
        self._thread = ThreadPoolExecutor(1, "bgmagic-reader")
        self._reader = None if path is None else JournalReader(path)
        self._rows = None if self._reader is None else JobRows(self._reader, root)
        self._watch = None if path is None else JournalWatch(path, emit)

    async def listed(self, since: float | None) -> dict[str, Any]:
        """The jobs, or the news, see `JobRows.listed`; from now on changes are told."""
        if self._rows is None or self._watch is None:
            return {"jobs": [], "count": 0, "at": 0.0}
        self._watch.start()
        return await self._run(self._rows.listed, since)  # type: ignore[no-any-return]

    async def one(self, key: str) -> dict[str, Any] | None:
        """One job, see `JobRows.one`."""
        return None if self._rows is None else await self._run(self._rows.one, key)

    async def _run(self, function: Any, value: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, function, value)
        except sqlite3.Error as error:
            raise web.HTTPError(503, reason=trouble_of(error, self._path)[:200]) from None

    async def close(self) -> None:
        """Let the journal go."""
        if self._watch is not None:
            await self._watch.stop()
        if self._reader is not None:
            self._reader.close()
        self._thread.shutdown(wait=False)


class _Handler(APIHandler):
    auth_resource = "bgmagic"

    def initialize(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def _finish(self, told: object) -> None:
        self.set_header("Cache-Control", "no-store")
        self.finish(told)


class ListHandler(_Handler):
    """The jobs of all notebooks, or with ``?since=`` their news."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Give them as JSON."""
        given = self.get_query_argument("since", None)
        try:
            since = None if given is None else float(given)
        except ValueError:
            raise web.HTTPError(400, reason="since= takes seconds since the epoch") from None
        self._finish(await self.jobs.listed(since))


class JobHandler(_Handler):
    """One job with its prompt and its answer."""

    @web.authenticated
    @authorized
    async def get(self, key: str) -> None:
        """Give it as JSON."""
        found = await self.jobs.one(key)
        if found is None:
            raise web.HTTPError(404, reason="the journal has no such job")
        self._finish(found)


def add_handlers(server: Any) -> None:
    """Add them to a `ServerApp`, and the event by which pages hear that the journal has changed."""
    server.event_logger.register_event_schema(SCHEMA)

    def emit() -> None:
        server.event_logger.emit(schema_id=SCHEMA["$id"], data={})

    root = getattr(server.contents_manager, "root_dir", None)
    jobs = Jobs(default_path(), Path(root) if root else None, emit)
    server.bgmagic_jobs = jobs
    base = url_path_join(server.web_app.settings["base_url"], "bgmagic", "jobs")
    about = {"jobs": jobs}
    server.web_app.add_handlers(
        ".*$", [(base, ListHandler, about), (url_path_join(base, r"([\w-]+)"), JobHandler, about)]
    )
