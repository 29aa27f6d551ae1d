"""The file that outlives the kernel: one SQLite database that all kernels of a user write to.

It stores what it is told, in the order it is told, and says when that is on disk. When to write
what, who follows a job and what may be sent again is the manager's; who is alive is `owners`';
secrets are taken out before anything comes here.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from bgmagic.storage import database
from bgmagic.storage.database import FORKED, Action, JournalError, StoredJob

T = TypeVar("T")


class Journal:
    """The journal of this process; every method may be called from any thread.

    Writes are queued, never hold the caller up, and are committed in order by one thread. A write
    whose future is resolved survives the death of the process (kill -9); in WAL mode a power cut
    may take the newest ones, without damage to the rest. Writes that fail are not repeated, but
    later ones are tried anew. In a forked child nothing works and nothing hangs.
    """

    def __init__(self, path: Path | None) -> None:
        """Make a journal at ``path``, or in memory for None; opened with the first use."""
        self._path = path
        self._pid = os.getpid()
        self._news = threading.Condition()
        self._queue: list[tuple[Action, Future[Any]]] = []
        self._queued = self._done = 0
        self._closing = False
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._reading = threading.RLock()
        self._reader: tuple[object, sqlite3.Connection] | None = None
        self.known_salt: str | None = None  # `salt`, where that has been read
        self._failure: str | None = None
        self._notice: str | None = None
        _JOURNALS.add(self)

    @property
    def trouble(self) -> str | None:
        """One line for the user on what is off, else None.

        A failure is forgotten when a write succeeds again; that a damaged file was replaced is not.
        """
        return FORKED if os.getpid() != self._pid else self._failure or self._notice

    @property
    def salt(self) -> str:
        """The file's own random salt; one of this process where the file can't be read."""
        if self.known_salt is None:
            ask = "SELECT value FROM meta WHERE key = 'salt'"
            rows = self._read(ask, wait=database.BUSY_TIMEOUT + database.READ_WAIT)
            self.known_salt = rows[0][0] if rows else secrets.token_hex(16)
        return str(self.known_salt)

    # Writing. Each future is resolved once the write is on disk, or fails with a JournalError.

    def add(self, *added: StoredJob) -> Future[None]:
        """Write new jobs down, all of them or none."""
        return self._put(lambda connection: database.add_entries(connection, added))

    def change(self, key: str, **columns: Any) -> Future[None]:
        """Change columns of a job.

        Raises:
            TypeError: there is no such column, or it is the key; at once.
        """
        unknown = [name for name in columns if name not in database.FIELDS or name == "key"]
        if unknown or not columns:
            raise TypeError(f"{', '.join(unknown) or 'nothing'} can't be changed in the journal")
        return self._put(lambda connection: database.change_entry(connection, key, columns))

    def claim(self, key: str, owner: str, dead: Collection[str]) -> Future[bool]:
        """Take a waiting job to send it, if its owner is nobody, ``owner`` or one of ``dead``.

        True for one call only, whichever kernels try at once.
        """
        sql = "UPDATE jobs SET owner = :owner, status = 'submitting' WHERE status = 'waiting'"
        return self._take(sql, key, owner, dead)

    def adopt(self, key: str, owner: str, dead: Collection[str], waits: bool) -> Future[bool]:
        """Take an open job that still ``waits``, or waits no more, from the same; it stays so."""
        sql = database.ADOPT.format("=" if waits else "!=")
        return self._take(sql, key, owner, dead)

    def forget(self, keys: Collection[str]) -> Future[int]:
        """Delete those of these jobs that have ended, with their texts; gives how many."""
        return self._put(lambda connection: database.forget_entries(connection, keys))

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
        where = f"""WHERE {database.OF} AND (ended_at IS NULL OR NOT :open)
            ORDER BY created_at DESC, id DESC LIMIT :limit"""
        values = {"notebook": notebook, "name": name, "open": open_only, "limit": limit}
        return self._entries(database.BRIEF, where, values)

    def same(
        self,
        fingerprint: str,
        *,
        notebook: str | None = None,
        name: str | None = None,
    ) -> list[StoredJob]:
        """The open jobs with this very request, whole, oldest first."""
        return self.select(database.SAME, it=fingerprint, notebook=notebook, name=name)

    def select(self, where: str, **values: Any) -> list[StoredJob]:
        """The whole jobs that one of database.py's conditions picks."""
        return self._entries(database.WHOLE, where, values)

    def billed(self, since: float, known: Collection[str]) -> list[StoredJob]:
        """The jobs that ended since then or are at the server, without request and response, but
        those with ``known`` keys."""
        values = {"since": since, "known": json.dumps(list(known))}
        return self._entries(database.BRIEF, database.BILLED, values)

    def durations(self, server: str, model: str, effort: str | None) -> list[float]:
        """Seconds from acceptance to completion of the newest such jobs, at most 200."""
        return [row[0] for row in self._read(database.DURATIONS, (server, model, effort))]

    def owners(self) -> set[str]:
        """Who follows, or followed, the jobs that have not ended."""
        sql = "SELECT DISTINCT owner FROM jobs WHERE ended_at IS NULL AND owner IS NOT NULL"
        return {row[0] for row in self._read(sql)}

    def flush(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds until all that is queued now is committed or refused.

        Returns:
            False if time ran out first.
        """
        self._check_process()
        if threading.current_thread() is self._thread:
            return not self._queue
        with self._news:
            due = self._queued
            return self._news.wait_for(lambda: self._done >= due, timeout)

    def close(self, timeout: float = 1.0) -> bool:
        """Commit what is queued and let the file go; False if ``timeout`` seconds did not do."""
        if os.getpid() != self._pid:
            return True
        with self._news:
            self._closing = True
            self._news.notify_all()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        if self._path is not None and self._reading.acquire(timeout=timeout):
            self._drop_reader()
            self._reading.release()
        return thread is None or not thread.is_alive()

    # Within.

    def _check_process(self) -> None:
        # Before any lock: a fork may have copied it while it was held.
        if os.getpid() != self._pid:
            raise JournalError(FORKED)

    def _take(self, sql: str, key: str, owner: str, dead: Collection[str]) -> Future[bool]:
        values = {"key": key, "owner": owner, "dead": json.dumps(list(dead))}
        sql = f"{sql} AND key = :key AND {database.MAY_OWN}"
        return self._put(lambda connection: connection.execute(sql, values).rowcount == 1)

    def _put(self, action: Action) -> Future[Any]:
        future: Future[Any] = Future()
        # So that nobody can cancel what is going to be written.
        future.set_running_or_notify_cancel()
        try:
            self._check_process()
            with self._news:
                self._start()
                self._queue.append((action, future))
                self._queued += 1
                self._news.notify_all()
        except JournalError as error:
            future.set_exception(error)
        return future

    def _start(self) -> None:
        if self._closing:
            raise JournalError("the journal is closed; nothing was written")
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name="bgmagic-journal", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise JournalError(f"the journal's thread can't start: {error}") from None
            self._thread = thread

    def _serve(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._queue or self._closing)
                batch, self._queue = self._queue, []
            if not batch:
                break
            outcomes = self._commit([action for action, _ in batch])
            bad = [outcome for outcome in outcomes if isinstance(outcome, JournalError)]
            self._failure = str(bad[0]) if bad else None
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, JournalError):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
            with self._news:
                self._done += len(batch)
                self._news.notify_all()
        if self._path is not None:
            self._drop_writer()

    def _commit(self, actions: list[Action], again: bool = True) -> list[Any]:
        """What became of each action: its result, or a JournalError."""
        try:
            with self._reading if self._path is None else contextlib.nullcontext():
                return database.transact(self._writer(), actions)
        except JournalError as error:
            return [error] * len(actions)
        except Exception as error:
            # Whatever it is: this thread must go on, and no future be left open.
            if again and database.error_code(error) in database.DAMAGED and self._set_aside():
                return self._commit(actions, again=False)
            if database.error_code(error) == sqlite3.SQLITE_FULL and len(actions) > 1:
                # There may be room for the small ones.
                return [self._commit([action])[0] for action in actions]
            return [JournalError(database.trouble_of(error, self._path))] * len(actions)

    def _writer(self) -> sqlite3.Connection:
        if self._connection is None or self._inode != database.inode_of(self._path):
            # Also when somebody else moved a damaged file aside, or deleted it.
            self._drop_writer()
            self._connection = database.open_file(self._path)
            self._inode, self.known_salt = database.inode_of(self._path), None
        return self._connection

    def _drop_writer(self) -> None:
        connection, self._connection, self._inode = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _set_aside(self) -> bool:
        """Move a damaged file away, unless another kernel just did; whether that worked."""
        damaged = self._inode or database.inode_of(self._path)
        self._drop_writer()
        if self._path is None or damaged is None or damaged != database.inode_of(self._path):
            return self._path is not None
        aside = f"{self._path}.damaged-{time.time():.0f}"
        try:
            self._path.rename(aside)
            for end in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self._path}{end}").rename(f"{aside}{end}")
        except OSError:
            return False
        self._notice = (
            f"the journal was damaged and is now {aside}; a new one was begun, and the jobs from "
            "before are not in it"
        )
        return True

    def _read(
        self, sql: str, values: Any = (), wait: float = database.READ_WAIT
    ) -> list[tuple[Any, ...]]:
        self._check_process()
        for _ in range(2):
            if self._connection is None or self._inode != database.inode_of(self._path):
                self._put(lambda _: None)
            self.flush(wait)
            try:
                with self._reading:
                    return self._readable().execute(sql, values).fetchall()
            except sqlite3.Error as error:
                if database.error_code(error) not in database.DAMAGED:
                    self._failure = self._failure or database.trouble_of(error, self._path)
                    break
                self._put(database.raising(error))
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
        return [database.from_row(row) for row in self._read(sql, values)]

    def _leak(self) -> None:
        """In a forked child: never let SQLite close what the parent uses; that could damage it."""
        for connection in (self._connection, self._reader and self._reader[1]):
            if connection is not None:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


_JOURNALS: weakref.WeakSet[Journal] = weakref.WeakSet()


def _after_fork() -> None:
    for journal in list(_JOURNALS):
        journal._leak()
        if journal._path is not None:
            database.OPEN_IN_PARENT.add(journal._path)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
