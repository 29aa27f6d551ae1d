"""The file that outlives the kernel: one SQLite database that all kernels of a user write to.

It stores what it is given, in that order, and says when that is on disk. What is written when is
`job_store`'s, which takes secrets out; who is alive is `owner_lock`'s.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import sqlite3
import threading
import weakref
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from bgmagic.storage import database, filesystem, live_rows
from bgmagic.storage.database import FORKED, JournalError, StoredJob
from bgmagic.storage.filesystem import OtherFiles
from bgmagic.storage.live_rows import LiveRows, Write
from bgmagic.storage.owner_lock import host_id
from bgmagic.storage.reader import SAME, has_no_open, newest_first
from bgmagic.storage.retention import Forgetting

_CHANGEABLE = frozenset(database.FIELDS) - {"key"}

RETRY = 0.25, 5.0  # seconds between tries to write what could not be: the first, and the longest


class Journal:
    """The journal of this process; every method may be called from any thread.

    Writes are queued, never hold the caller up, and are committed in order by one thread. A write
    whose future is resolved survives the death of the process (kill -9) and a power cut. What can't
    be written of an open job fails, and is written as soon as it can be, also into a file that had
    to be begun anew. In a forked child nothing works and nothing hangs.
    """

    def __init__(self, path: Path | None) -> None:
        """Make a journal at ``path``, or in memory for None; opened with the first use."""
        self._path = None if path is None else filesystem.own_file(path, host_id())
        self.path = self._path  # this host's file; None in memory
        self.given = path  # what it is one of
        self._others = OtherFiles(path, self._path) if path and self._path else None
        self.live = LiveRows()
        # C's own: one of Python's an interrupt of a cell may leave locked. See `_OneLock`.
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._queue: list[Write] = []
        self._newest: Future[Any] | None = None  # of what was queued last
        self._closing, self._pid = False, os.getpid()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._reading = threading.RLock()
        self._reader: tuple[object, sqlite3.Connection] | None = None
        self.known_salt: str | None = None  # `salt`, where that has been read
        # Called on the journal's thread now and then, at least each `pause` seconds.
        self.on_turn: Callable[[], object] = lambda: None
        self.pause: float | None = None
        self._failure: str | None = None
        self._notice: str | None = None
        _JOURNALS.add(self)

    @property
    def trouble(self) -> str | None:
        """One line for the user on what is off, else None.

        A failure is forgotten when all that could not be written is; that a damaged file was
        replaced is not.
        """
        return FORKED if os.getpid() != self._pid else self._failure or self._notice

    @property
    def salt(self) -> str:
        """The file's own random salt; one of this process where the file can't be read."""
        if self.known_salt is None:
            ask = "SELECT value FROM meta WHERE key = 'salt'"
            rows = self.read(ask, wait=database.BUSY_TIMEOUT + database.READ_WAIT)
            self.known_salt = rows[0][0] if rows else secrets.token_hex(16)
        return str(self.known_salt)

    # Writing. Each future is resolved once the write is on disk, or fails with a JournalError.

    def add(self, *added: StoredJob) -> Future[None]:
        """Write new jobs down, all of them or none."""
        adding = functools.partial(database.add_entries, added=added)
        return self.put(Write(adding, added=added))

    def change(self, key: str, **columns: Any) -> Future[None]:
        """Change columns of a job.

        Raises:
            TypeError: there is no such column, or it is the key; at once.
        """
        unknown = columns.keys() - _CHANGEABLE
        if unknown or not columns:
            raise TypeError(f"{', '.join(unknown) or 'nothing'} can't be changed in the journal")
        changing = functools.partial(database.change_entry, key=key, changes=columns)
        return self.put(Write(changing, key, changes=columns))

    def claim(self, key: str, owner: str, dead: Collection[str]) -> Future[bool]:
        """Take a waiting job to send it, if its owner is nobody, ``owner`` or one of ``dead``.

        True for one call only, whichever kernels try at once: then the file says so. It is also
        True for a job that this process has added, and that certainly never got into the file.
        """
        return self.put(self.live.claiming(key, owner, dead))

    def adopt(self, key: str, owner: str, dead: Collection[str], waits: bool) -> Future[bool]:
        """Take an open job from the same owners, if it still ``waits`` (or waits no more)."""
        return self.put(live_rows.adopting(key, owner, dead, waits))

    def is_unsaved(self, key: str) -> bool:
        """Whether what is known of an open job of this process could not be written yet."""
        return self.live.is_unsaved(key)

    def forget(self, keys: Collection[str]) -> Future[int]:
        """Delete those of these jobs that have ended, with their texts, slice by slice; gives how
        many they were."""
        return Forgetting(self.put, keys).total

    # Reading. What can't be read is empty, and `trouble` says so.

    def find(self, key_or_response_id: str) -> StoredJob | None:
        """The whole entry; of several with this response id the newest."""
        where = "WHERE key = :it OR response_id = :it ORDER BY created_at DESC, id DESC LIMIT 1"
        return next(iter(self.select(where, it=key_or_response_id)), None)

    def entries(
        self,
        *,
        notebook: str | None = None,
        open_only: bool = False,
        name: str | None = None,
        limit: int = -1,
    ) -> list[StoredJob]:
        """The jobs, newest first; ``request`` is "" and ``response`` None in all of them."""
        where = newest_first(notebook=notebook, name=name, open_only=open_only)
        values = {"notebook": notebook, "name": name, "limit": limit}
        found = self._entries(database.BRIEF, where, values)
        return found[:limit] if limit >= 0 else found  # each host's file has as many

    def same(
        self, fingerprint: str, *, notebook: str | None = None, name: str | None = None
    ) -> list[StoredJob]:
        """The open jobs with this very request, whole, oldest first."""
        first = self._newest is None and notebook is not None
        if first and has_no_open(self.given, notebook or ""):
            return []  # a first cell need not wait for it to be opened
        return self.select(SAME, it=fingerprint, notebook=notebook, name=name)

    def select(self, where: str, *, brief: bool = False, **values: Any) -> list[StoredJob]:
        """The jobs that one of reader.py's conditions picks; ``brief`` as `entries` has them."""
        return self._entries(database.BRIEF if brief else database.WHOLE, where, values)

    def durations(self, server: str, model: str, effort: str | None) -> list[float]:
        """Seconds from acceptance to completion of the newest such jobs, at most 200."""
        return [row[0] for row in self.read(database.DURATIONS, (server, model, effort))]

    def ended_before(self, at: float) -> list[str]:
        """The keys of the jobs that ended before that, in seconds since the epoch."""
        return [row[0] for row in self.read("SELECT key FROM jobs WHERE ended_at < ?", (at,))]

    def size(self) -> int:
        """Bytes of the file."""
        with contextlib.suppress(OSError):
            return 0 if self._path is None else self._path.stat().st_size
        return 0

    def owners(self) -> set[str]:
        """Who follows, or followed, the jobs that have not ended."""
        return {row[0] for row in self.read(database.OWNERS)}

    def other_owners(self) -> set[str]:
        """The same in the files of other hosts."""
        return {row[0] for row in self.read_others(database.OWNERS)}

    def rows(self, sql: str, values: Any = ()) -> list[tuple[Any, ...]]:
        """The rows of any query, those of other hosts' files after ours."""
        return [*self.read(sql, values), *self.read_others(sql, values)]

    def elsewhere(self, where: str, **values: Any) -> list[StoredJob]:
        """The whole jobs in the files of other hosts that one of reader.py's conditions picks."""
        sql = f"SELECT {database.WHOLE} FROM jobs {where}"  # noqa: S608 - our own columns
        return [database.from_row(row) for row in self.read_others(sql, values)]

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until all that is queued now is committed or refused;
        False if that did not do."""
        self._check_process()
        if threading.current_thread() is self._thread:
            return not self._queue
        try:
            if self._newest is not None:
                self._newest.exception(timeout)
        except TimeoutError:
            return False
        return True

    def close(self, timeout: float = 1.0) -> bool:
        """Commit what is queued and let the file go; False if ``timeout`` seconds did not do."""
        if os.getpid() != self._pid:
            return True
        with self._lock:
            self._closing = True
            self._news.notify_all()
        thread = self._thread
        if thread and thread.is_alive() and thread is not threading.current_thread():
            thread.join(timeout)
        if self._path is not None and self._reading.acquire(timeout=timeout):
            self._drop_reader()
            if self._others is not None:
                self._others.close()
            self._reading.release()
        return thread is None or not thread.is_alive()

    def _check_process(self) -> None:
        # Before any lock: a fork may have copied it while it was held.
        if os.getpid() != self._pid:
            raise JournalError(FORKED)

    def put(self, write: Write) -> Future[Any]:
        """Queue a write; all other ways to write end here."""
        try:
            self._check_process()
            with self._lock:
                self._start()
                self._queue.append(write)
                self._newest = write.future
                self._news.notify_all()
        except JournalError as error:
            write.future.set_exception(error)
        return write.future

    def _start(self) -> None:
        if self._closing:
            raise JournalError("the journal is closed; nothing was written")
        if self._thread is None or not self._thread.is_alive():
            # Kept before it is started: an interrupt may come when it has been.
            self._thread = threading.Thread(target=self._serve, name="bgmagic-journal", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:
                raise JournalError(f"the journal's thread can't start: {error}") from None

    def _serve(self) -> None:
        wait, longest = RETRY
        while True:
            with self._lock:
                self._news.wait_for(
                    lambda: self._queue or self._closing, wait if self.live else self.pause
                )
                batch, self._queue = self._queue, []
            self.on_turn()
            if batch or self.live:
                self._write(batch)
                wait = min(2 * wait, longest) if self.live else RETRY[0]
            if self._closing and not batch:
                break
        if self._path is not None:
            self._drop_writer()

    def _write(self, batch: list[Write]) -> None:
        """Commit what is queued, after what could not be committed before."""
        outcomes = self._commit(batch)
        bad = [outcome for outcome in outcomes if isinstance(outcome, JournalError)]
        if bad or not self.live:
            self._failure = str(bad[0]) if bad else None
        for write, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, JournalError):
                write.future.set_exception(outcome)
            else:
                write.future.set_result(outcome)

    def _commit(self, batch: list[Write], again: bool = True) -> list[Any]:
        """What became of each write: its result, or a JournalError."""
        saving: list[Write] = []
        try:
            with self._reading if self._path is None else contextlib.nullcontext():
                connection = self._writer()
                saving = self.live.savings()
                return self._transacted(connection, saving, batch)
        except JournalError as error:
            return [self.live.failed(write, error, maybe=False) for write in batch]
        except Exception as error:
            # Whatever it is: this thread must go on, and no future be left open.
            code = filesystem.error_code(error)
            if again and code in filesystem.DAMAGED and self._set_aside():
                return self._commit(batch, again=False)
            if code == sqlite3.SQLITE_FULL and len(saving) + len(batch) > 1:
                # There may be room for the small ones.
                return self._committed_singly(saving, batch)
            return self._failed(error, saving, batch)

    def _transacted(
        self, connection: sqlite3.Connection, saving: list[Write], batch: list[Write]
    ) -> list[Any]:
        both = [*saving, *batch]
        outcomes = database.transact(connection, [write.action for write in both])
        if self._path is None:
            return [
                outcome is not None if write.claims else outcome
                for write, outcome in zip(both, outcomes, strict=True)
            ]
        for write, outcome in zip(saving, outcomes, strict=False):
            self.live.saved(write, outcome)
        left = zip(batch, outcomes[len(saving) :], strict=True)
        return [self.live.committed(write, outcome) for write, outcome in left]

    def _committed_singly(self, saving: list[Write], batch: list[Write]) -> list[Any]:
        """Commit one job after another: what is about one job comes together, and in its order."""
        jobs: dict[str, tuple[list[Write], list[Write]]] = {}
        for which, writes in enumerate((saving, batch)):
            for write in writes:
                first = (write.keys or [""])[0]
                jobs.setdefault(first, ([], []))[which].append(write)
        outcomes: dict[int, Any] = {}
        for unsaved, writes in jobs.values():
            try:
                found = self._transacted(self._writer(), unsaved, writes)
            except Exception as error:
                found = self._failed(error, unsaved, writes)
            outcomes.update(zip(map(id, writes), found, strict=True))
        return [outcomes[id(write)] for write in batch]

    def _failed(self, error: Exception, saving: list[Write], batch: list[Write]) -> list[Any]:
        failure = JournalError(filesystem.trouble_of(error, self._path))
        self._failure = str(failure)
        maybe = filesystem.may_have_committed(error)
        if filesystem.error_code(error) == sqlite3.SQLITE_IOERR:
            self._drop_writer()  # what it remembers may not be what the disk has
        outcomes = [self.live.failed(write, failure, maybe) for write in batch]
        claimed = {w.key for w, outcome in zip(batch, outcomes, strict=True) if outcome is True}
        for write in saving:
            if maybe and write.key not in claimed:
                self.live.doubt(write)
        return outcomes

    def _writer(self) -> sqlite3.Connection:
        if self._connection is None or self._inode != filesystem.inode_of(self._path):
            # Also when somebody else moved a damaged file aside, or deleted it.
            known = self._inode
            self._drop_writer()
            self._connection = database.open_file(self._path)
            self._inode, self.known_salt = filesystem.inode_of(self._path), None
            if self._inode != (known or self._inode):
                self.live.forget_file()
        return self._connection

    def _drop_writer(self) -> None:
        connection, self._connection, self._inode = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _set_aside(self) -> bool:
        """Move a damaged file away, unless another kernel just did; whether that worked."""
        known, damaged = self._inode, self._inode or filesystem.inode_of(self._path)
        self._drop_writer()
        with self._reading:
            self._drop_reader()
        if self._path is None or damaged is None or damaged != filesystem.inode_of(self._path):
            return self._path is not None
        connect = functools.partial(database.connect, timeout=5.0)
        if not filesystem.is_damaged(self._path, connect, known=known is not None):
            return True  # what was wrong was the connection, or the disk
        self.live.forget_file()
        aside = filesystem.set_aside(self._path)
        if aside is None:
            return False
        self._notice = (
            f"the journal was damaged and is now {aside}; a new one was begun, and the jobs from "
            "before are not in it, but for those that this kernel runs: a cell whose request is "
            "still running is sent anew, %bgattach ID follows it by the server's id instead"
        )
        return True

    def read(
        self, sql: str, values: Any = (), wait: float = database.READ_WAIT
    ) -> list[tuple[Any, ...]]:
        """The rows of a query in this host's file; waits so long for what was queued before."""
        self._check_process()
        for last in (False, True):
            if self._connection is None or self._inode != filesystem.inode_of(self._path):
                self.put(Write(lambda _: None))
            self.flush(wait)
            try:
                with self._reading:
                    return self._readable().execute(sql, values).fetchall()
            except sqlite3.Error as error:
                if last or filesystem.error_code(error) not in filesystem.DAMAGED:
                    self._failure = self._failure or filesystem.trouble_of(error, self._path)
                    break
                self.put(Write(database.raising(error)))
        return []

    def _readable(self) -> sqlite3.Connection:
        connection, inode = self._connection, self._inode
        if connection is None:
            raise sqlite3.OperationalError("it is not open")
        if self._path is None:
            return connection
        if self._reader is None or self._reader[0] != inode:
            self._drop_reader()
            self._reader = inode, database.connect(self._path, database.READ_TIMEOUT)
        return self._reader[1]

    def _drop_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with contextlib.suppress(sqlite3.Error):
                reader[1].close()

    def _entries(self, columns: str, where: str, values: Mapping[str, Any]) -> list[StoredJob]:
        sql = f"SELECT {columns} FROM jobs {where}"  # noqa: S608 - of our own constants
        found = [database.from_row(row) for row in self.read(sql, values)]
        others = [database.from_row(row) for row in self.read_others(sql, values)]
        return live_rows.merged(found, others, where) if others else found

    def read_others(self, sql: str, values: Any = ()) -> list[tuple[Any, ...]]:
        """The rows of a query in the files of other hosts."""
        if self._others is None:
            return []
        with self._reading:
            return self._others.read(sql, values)

    def _leak(self) -> None:
        """In a forked child: never let SQLite close what the parent uses; that could damage it."""
        for connection in (self._connection, self._reader and self._reader[1]):
            if connection is not None:
                filesystem.leak(connection)


_JOURNALS: weakref.WeakSet[Journal] = weakref.WeakSet()


def _after_fork() -> None:
    for journal in list(_JOURNALS):
        journal._leak()
        if journal._path is not None:
            database.OPEN_IN_PARENT.add(journal._path)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
