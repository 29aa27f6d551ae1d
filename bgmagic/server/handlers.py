"""`/bgmagic/jobs` and `/bgmagic/jobs/KEY`: they only read, for whom the server lets in.

What is written is where a notebook is now that was renamed here.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.ioloop import IOLoop
from traitlets import Bool, default
from traitlets.config import Configurable

from bgmagic.errors import BadInput
from bgmagic.server.watch import SCHEMA, JournalWatch
from bgmagic.storage.owner_lock import host_id
from bgmagic.submission.app import default_path

if TYPE_CHECKING:
    from bgmagic.server.keep_watching import KeepWatching
    from bgmagic.server.rows import JobRows


# What Jupyter Server tells of files and of kernels.
CONTENTS = "https://events.jupyter.org/jupyter_server/contents_service/v1"
KERNELS = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"

SHUTDOWN = 1.0  # seconds from a kernel's end until it is gone from the server's list, or started


class Jobs:
    """What the handlers share: the journal's rows, read on one thread, and its news."""

    def __init__(
        self,
        path: Path | None,
        root: Path | None,
        emit: Any,
        watched: Callable[[], Collection[str]] = tuple,
        renames: Renames | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            path: the journal; None if it is in the kernels' memory only.
            root: the folder that the server's paths count from.
            emit: tells the pages that the journal has changed.
            watched: gives the keys of the jobs that this server follows.
            renames: gives the notebooks of its kernels, see `JobRows.listed`.
        """
        self._watched = watched
        self._renames = renames
        self._path = path
        self._root = root
        self._thread = ThreadPoolExecutor(1, "bgmagic-reader")
        self._rows: JobRows | None = None
        self._watch = None if path is None else JournalWatch(path, emit)

    async def listed(self, since: float | None) -> dict[str, Any]:
        """The jobs, or the news, see `JobRows.listed`; from now on changes are told."""
        if self._watch is None:
            return {"jobs": [], "count": 0, "at": 0.0}
        self._watch.start()
        homes: dict[str, str] = {}
        if self._renames is not None:
            homes = await self._renames.homes()
            if since is not None and since <= self._renames.last:
                since = None  # jobs that ended long ago are news, too: of another notebook
        found: dict[str, Any] = await self._run(lambda rows: rows.listed(since, homes))
        watched = set(self._watched())
        for row in found["jobs"] if watched else ():
            if row["key"] in watched:
                row["watched"] = True
        return found

    async def one(self, key: str) -> dict[str, Any] | None:
        """One job, see `JobRows.one`."""
        return None if self._path is None else await self._run(lambda rows: rows.one(key))

    async def _run(self, ask: Callable[[JobRows], Any]) -> Any:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, lambda: ask(self._made()))
        except (sqlite3.Error, OSError) as error:  # its folder, too, may be out of reach
            raise web.HTTPError(503, reason=f"the journal can't be read now: {error}") from None

    def _made(self) -> JobRows:
        # Imported with the first request, on the reader's thread: Jupyter Server starts without it.
        if self._rows is None:
            from bgmagic.server.rows import JobRows
            from bgmagic.storage.reader import JournalReader

            assert self._path is not None  # noqa: S101 - for the type checker
            self._rows = JobRows(JournalReader(self._path), self._root)
        return self._rows


@dataclass(frozen=True)
class _Rename:
    """What is due when a kernel's process is gone: that knows its notebook's old name alone."""

    old: str
    new: str
    at: float
    process: str  # as `home_of` has it


class Renames:
    """Has the jobs of a notebook that is renamed or moved in this server follow it: those without a
    kernel at once, the others once their kernel has ended or restarted, which tells it the new
    name.

    Attributes:
        last: when jobs last did, in seconds since the epoch.
    """

    def __init__(self, server: Any, path: Path, root: Path) -> None:
        """Listen; the journal and the folder are as for `Jobs`."""
        self._server = server
        self._path = path
        self._root = root
        self._due: list[_Rename] = []
        self._lock = asyncio.Lock()  # what is asked after a rename comes after what that does
        self.last = 0.0
        for schema in (CONTENTS, KERNELS):
            server.event_logger.add_listener(schema_id=schema, listener=self._heard)
        atexit.register(self._finish)

    async def homes(self) -> dict[str, str]:
        """The notebooks of the server's kernels as they are called now, by host and process.

        A kernel is told the name that its notebook had as it began, and no other.
        """
        homes = await _homes(self._server)
        async with self._lock:
            gone = [due for due in self._due if due.process not in homes]
            if gone:
                self._due = [due for due in self._due if due.process in homes]
                await asyncio.to_thread(self._move, gone)
        return homes

    async def _heard(self, logger: Any, schema_id: str, data: dict[str, Any]) -> None:
        if data["action"] == "shutdown":  # for a restart, too
            await asyncio.sleep(SHUTDOWN)
            await self.homes()
        if data["action"] != "rename":
            return
        # Asked for now: while others are written, its kernels' sessions take the new name, too.
        homes = asyncio.ensure_future(_homes(self._server))
        async with self._lock:
            old, new = (data[name].strip("/") for name in ("source_path", "path"))
            now, stay, moved = time.time(), [], []
            for process, path in (await homes).items():
                if path == old or path.startswith(f"{old}/"):
                    stay.append(self._full(path))
                    is_now = self._full(new + path[len(old) :])
                    moved.append(_Rename(stay[-1], is_now, now, process))
            named = _Rename(self._full(old), self._full(new), now, "")
            before = self._taken(named, {due.process for due in moved})
            self._due += moved
            await asyncio.to_thread(self._move, [*before, named], stay)

    def _taken(self, named: _Rename, but: Collection[str]) -> list[_Rename]:
        """The renames that go first when another notebook takes a name that living kernels still
        have: jobs there without a kernel move now. Later that name means the jobs of these kernels
        alone."""
        within = f"{named.new}{os.sep}"
        kernels = {
            due.process
            for due in self._due
            if due.process not in but and (due.old == named.new or due.old.startswith(within))
        }
        taken = [due for due in self._due if due.process in kernels]
        self._due = [replace(due, at=0.0) if due in taken else due for due in self._due]
        return [replace(due, process="") for due in taken]

    def _full(self, path: str) -> str:
        return str(self._root / path)

    def _move(self, renames: Collection[_Rename], but: Collection[str] = ()) -> None:
        # Imported with the first: Jupyter Server starts without it.
        from bgmagic.storage.unfollowed import move_jobs

        for each in renames:
            try:
                names = each.old, each.new
                if move_jobs(self._path, *names, each.at, process=each.process, but=but):
                    self.last = time.time()
            except (sqlite3.Error, OSError):  # they keep the name that they were sent under
                self._server.log.debug("bgmagic's journal can't be written", exc_info=True)

    def _finish(self) -> None:
        if self._due:  # nothing is imported as the server ends
            self._move(self._due)


class _Handler(APIHandler):
    auth_resource = "bgmagic"

    def initialize(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def _finish(self, value: object) -> None:
        self.set_header("Cache-Control", "no-store")
        self.finish(value)


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


class BgmagicServer(Configurable):
    """What whoever runs Jupyter Server may set, in its configuration."""

    keep_watching = Bool(
        default_value=False,
        help="Follow accepted jobs whose kernels are gone, with the key of the server's own "
        "environment; BGMAGIC_KEEP_WATCHING=1 does the same.",
    ).tag(config=True)

    @default("keep_watching")
    def _from_environment(self) -> bool:
        from bgmagic.submission.converters import to_switch

        name = "BGMAGIC_KEEP_WATCHING"
        return to_switch(os.environ.get(name, ""), name)


def add_handlers(server: Any) -> None:
    """Add them to a `ServerApp`, and the event by which pages hear that the journal has changed."""
    server.event_logger.register_event_schema(SCHEMA)

    def emit() -> None:
        server.event_logger.emit(schema_id=SCHEMA["$id"], data={})

    root = getattr(server.contents_manager, "root_dir", None)
    path = default_path()
    loop = IOLoop.current()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
            loop.add_callback(emit)

    keeper = _keeper(server, path, tell)
    watched: Callable[[], Collection[str]] = tuple if keeper is None else lambda: keeper.keys
    folder = Path(root) if root else None
    renames = Renames(server, path, folder) if path and folder else None
    jobs = Jobs(path, folder, emit, watched, renames)
    base = url_path_join(server.web_app.settings["base_url"], "bgmagic", "jobs")
    about = {"jobs": jobs}
    server.web_app.add_handlers(
        ".*$", [(base, ListHandler, about), (url_path_join(base, r"([\w-]+)"), JobHandler, about)]
    )


async def _homes(server: Any) -> dict[str, str]:
    """The notebooks of the server's kernels, by host and process as `home_of` has them."""
    found: dict[str, str] = {}
    sessions = []
    with contextlib.suppress(Exception):  # of another manager than Jupyter Server's own
        sessions = await server.session_manager.list_sessions()
    for session in sessions:
        with contextlib.suppress(Exception):  # a kernel elsewhere, behind a gateway, has no process
            kernel = server.kernel_manager.get_kernel(session["kernel"]["id"])
            if session["type"] == "notebook":
                found[f"{host_id()}-{kernel.provisioner.pid}"] = session["path"]
    return found


def _keeper(server: Any, path: Path | None, tell: Callable[[], object]) -> KeepWatching | None:
    """What follows the jobs without kernels, if that is configured, and started."""
    try:
        if path is None or not BgmagicServer(parent=server).keep_watching:
            return None
        # Imported where it is wanted: Jupyter Server starts without it.
        from bgmagic.api.server import ServerConfig
        from bgmagic.server.keep_watching import KeepWatching

        where = ServerConfig.from_environment(os.environ.get("BGMAGIC_BASE_URL"))
    except BadInput as error:
        server.log.warning("bgmagic keeps watching no jobs without a kernel: %s", error)
        return None
    keeper = KeepWatching(path, where, tell)
    keeper.start()
    atexit.register(keeper.stop)
    server.log.info("bgmagic follows jobs without a kernel at %s", where.name)
    return keeper
