"""Finds the jobs of the journal that have some words in them, by an index in a file beside it.

The index is a copy that may be deleted at any time. It is brought up to date by each search, from
what the journal has by then, whichever kernels of whichever version wrote that; nothing of it is
done as jobs are sent. A first search reads every text once. Then SQLite's FTS5, where it has the
tokenizer trigram, is told of them on a thread, slice by slice; what it has not been told of yet,
and words of less than three characters, are looked for in the texts themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from bgmagic.errors import BgmagicError
from bgmagic.storage import database, filesystem
from bgmagic.storage.database import StoredJob
from bgmagic.storage.journal import Journal
from bgmagic.values import dataclass

VERSION = 1  # of the index: another one is left alone, and one of our own is made in a spare file

BUSY = 10.0  # seconds to wait for another kernel that writes to the index

SLICE = 100  # texts that are read from the journal at once

CHUNK = 200  # jobs whose texts are looked through at once

INDEXED, PAUSE = 100_000, 0.03  # characters told to FTS5 at once (about 20 ms), seconds in between

MANY = 3000  # texts, from which on the user is told that they are read

_GRAM, _MOST_GRAMS = 3, 40  # characters of FTS5's trigrams; more of them tell nothing new

_JOBS = "SELECT key, created_at, request_hash, input_hash, response_hash FROM jobs ORDER BY id DESC"

# Each text with what it is: of a response, of an input that stands alone, or else of a request, and
# where the input goes into that.
_TEXTS = """SELECT hash, text, EXISTS (SELECT 1 FROM jobs WHERE response_hash = hash),
    EXISTS (SELECT 1 FROM jobs WHERE input_hash = hash),
    (SELECT input_at FROM jobs WHERE request_hash = hash LIMIT 1)
    FROM blobs WHERE hash IN (SELECT value FROM json_each(?))"""

_KEYED = """WHERE key IN (SELECT value FROM json_each(:keys))
    ORDER BY created_at DESC, id DESC"""

_TABLES = (
    # An id is used once: FTS5 may still know one whose text is gone.
    "CREATE TABLE IF NOT EXISTS texts"
    " (id INTEGER PRIMARY KEY AUTOINCREMENT, hash TEXT NOT NULL UNIQUE, text TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS state (told INTEGER NOT NULL)",  # the last id that FTS5 was told of
    "INSERT INTO state SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM state)",
)

# With their places the trigrams would take three times the room of the texts, so half of it.
_GRAMS = """CREATE VIRTUAL TABLE IF NOT EXISTS grams USING fts5
    (text, content='', columnsize=0, detail=none, tokenize='trigram case_sensitive 1')"""

_UNTELL = "INSERT INTO grams (grams, rowid, text) VALUES ('delete', ?, ?)"


_LOOK = "SELECT hash FROM texts WHERE instr(text, ?)"

_UNTOLD = " AND id > (SELECT told FROM state)"

_MAY = "SELECT hash FROM texts WHERE id IN (SELECT rowid FROM grams WHERE grams MATCH ?)"


class SearchFailed(BgmagicError):
    """The index can't be made or read."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        entries: the whole jobs, newest first.
        looked_at: the keys of all jobs that the journal has.
    """

    entries: list[StoredJob]
    looked_at: Set[str]


def index_path(journal: Path | None) -> Path | None:
    """Where the index of a journal is; None for one in memory."""
    return None if journal is None else journal.with_suffix(f".search{journal.suffix}")


class JournalSearch:
    """The index of one journal; every method may be called from any thread."""

    def __init__(self, journal: Journal) -> None:
        """Make it; nothing is opened before the first search."""
        self._journal = journal
        path = index_path(journal.path)
        self._name = ":memory:" if path is None else str(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._has_grams = False
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        _OPEN.add(self)

    def find(self, words: Sequence[str], most: int | None, tell: Callable[[int], object]) -> Found:
        """The jobs that have each of the words, newest first.

        Args:
            words: folded, at least one.
            most: how many with the words at most; None is all.
            tell: called with a number of texts before so many are read, if that takes a while.

        Raises:
            SearchFailed: there is no room for the index, or another program keeps it locked.
        """
        with self._lock:
            keys, known = self._usable(lambda: self._find(words, most, tell))
        self._start_telling()
        return Found(self._journal.select(_KEYED, keys=json.dumps(keys)), known)

    def forget_after(self, going: Future[int]) -> Future[int]:
        """Take out what the journal no longer has, once ``going`` is done; gives its result."""
        if not self._exists():
            return going
        both: Future[int] = Future()
        both.set_running_or_notify_cancel()

        def forget() -> None:
            try:
                count = going.result()
                with self._lock, contextlib.suppress(BgmagicError):
                    self._usable(lambda: self._catch_up(lambda _: None))
            except BaseException as error:  # whoever waits has to hear of it
                both.set_exception(error)
            else:
                both.set_result(count)

        threading.Thread(target=forget, name="bgmagic-forget", daemon=True).start()
        return both

    def is_being_told(self) -> bool:
        """Whether FTS5 still gets to know texts: searches take longer until then."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Let the index go, and tell FTS5 nothing more."""
        self._stop.set()
        if self._lock.acquire(timeout=1.0):
            self._drop()
            self._lock.release()

    # The file.

    def _exists(self) -> bool:
        return self._connection is not None or (
            self._name not in ("", ":memory:") and Path(self._name).exists()
        )

    def _usable(self, use: Callable[[], Any]) -> Any:
        """Use the index; where it can't be written, one in a temporary file."""
        for last in (False, True):
            try:
                return use()
            except sqlite3.Error as error:
                damaged = filesystem.error_code(error) in filesystem.DAMAGED
                busy = filesystem.error_code(error) == sqlite3.SQLITE_BUSY
                self._drop()
                if last or busy:
                    raise SearchFailed(f"the journal can't be searched: {error}") from None
                if damaged and self._name:
                    for end in ("", "-journal"):
                        Path(self._name + end).unlink(missing_ok=True)
                else:
                    self._name = ""  # SQLite deletes it at the end
        raise AssertionError

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            if self._name not in ("", ":memory:"):
                with contextlib.suppress(OSError):  # what is wrong SQLite says below
                    os.close(os.open(self._name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            self._connection = sqlite3.connect(
                self._name, timeout=BUSY, isolation_level=None, check_same_thread=False
            )
            self._prepare(self._connection)
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # Of texts of some kB: half of the time of looking through them with 4096.
        connection.execute("PRAGMA page_size = 16384")
        connection.execute("PRAGMA auto_vacuum = FULL")
        connection.execute("PRAGMA journal_mode = DELETE")  # works in every folder
        connection.execute("PRAGMA synchronous = NORMAL")  # what is lost is read again
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA cache_size = -8000")  # KiB
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise sqlite3.OperationalError(f"the index {self._name} is of another version")
        with _transaction(connection):
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        self._has_grams = _make_grams(connection)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # Bringing it up to date.

    def _catch_up(self, tell: Callable[[int], object]) -> None:
        """Read what is new in the journal, and forget what is gone."""
        from bgmagic.jobs.matching import fold  # few sessions search

        known = self._known()
        there = {row[0] for row in self._journal.rows("SELECT hash FROM blobs")}
        new = list(there - known)
        if len(new) > MANY:
            tell(len(new))
        for begin in range(0, len(new), SLICE):
            rows = self._journal.rows(_TEXTS, (json.dumps(new[begin : begin + SLICE]),))
            read = [(row[0], fold(_said(*row[1:]))) for row in rows]
            with _transaction(self._open()) as connection:
                connection.executemany(
                    "INSERT OR IGNORE INTO texts (hash, text) VALUES (?, ?)", read
                )
        if there or not self._journal.trouble:  # what can't be read is not gone
            self._take_out(known - there)

    def _known(self) -> set[str]:
        return {row[0] for row in self._open().execute("SELECT hash FROM texts")}

    def _take_out(self, gone: Collection[str]) -> None:
        if not gone:
            return
        connection = self._open()
        count = connection.execute("SELECT count(*) FROM texts").fetchone()[0]
        if self._has_grams and 2 * len(gone) > count:
            with _transaction(connection):  # to tell FTS5 anew of the others takes less time
                connection.execute("DROP TABLE grams")
                connection.execute(_GRAMS)
                connection.execute("UPDATE state SET told = 0")
        some = list(gone)
        for begin in range(0, len(some), SLICE):
            which = (json.dumps(some[begin : begin + SLICE]),)
            where = "hash IN (SELECT value FROM json_each(?))"
            with _transaction(connection):
                if self._has_grams:
                    told = "id <= (SELECT told FROM state)"
                    rows = connection.execute(
                        f"SELECT id, text FROM texts WHERE {told} AND {where}",  # noqa: S608
                        which,
                    ).fetchall()
                    connection.executemany(_UNTELL, rows)
                connection.execute(f"DELETE FROM texts WHERE {where}", which)  # noqa: S608

    # Looking.

    def _find(
        self, words: Sequence[str], most: int | None, tell: Callable[[int], object]
    ) -> tuple[list[str], Set[str]]:
        self._catch_up(tell)
        maybe = [self._candidates(word) for word in words]
        jobs: dict[str, list[Any]] = {}
        for key, *about in self._journal.rows(_JOBS):
            # One that another host has as well may have ended here or there.
            jobs[key] = [*about, *jobs.get(key, ())]
        # In their order already, but for those of other hosts.
        newest = sorted(jobs.items(), key=lambda job: job[1][0], reverse=True)
        found: list[str] = []
        chunk: dict[str, set[str]] = {}
        for key, (_, *hashes) in newest:
            if any(some.isdisjoint(hashes) for some in maybe):
                continue
            chunk[key] = set(hashes)
            if len(chunk) == CHUNK:
                found += self._having(words, chunk)
                chunk = {}
                if most is not None and len(found) >= most:
                    break
        found += self._having(words, chunk)
        return found[:most], jobs.keys()

    def _candidates(self, word: str) -> set[str]:
        """The hashes of texts that have the word, or those of which FTS5 says that they may."""
        knows = self._has_grams and len(word) >= _GRAM
        grams = {word[at : at + _GRAM].replace('"', '""') for at in range(len(word) - _GRAM + 1)}
        asked = " AND ".join(f'"{gram}"' for gram in sorted(grams)[:_MOST_GRAMS])
        rows = self._open().execute(_LOOK + _UNTOLD if knows else _LOOK, (word,))
        found = {row[0] for row in rows}
        return found.union(*self._open().execute(_MAY, (asked,))) if knows else found

    def _having(self, words: Sequence[str], chunk: dict[str, set[str]]) -> list[str]:
        """Those of these jobs whose texts really have all the words."""
        left = dict(chunk)
        for word in words:
            listed = json.dumps([it for it in set().union(*left.values()) if it])
            rows = self._open().execute(
                "SELECT hash FROM texts WHERE hash IN (SELECT value FROM json_each(?))"
                " AND instr(text, ?)",
                (listed, word),
            )
            having = {row[0] for row in rows}
            left = {key: here for key, here in left.items() if not having.isdisjoint(here)}
        return list(left)

    # Telling FTS5.

    def _start_telling(self) -> None:
        if self._has_grams and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(
                target=self._tell_all, name="bgmagic-search", daemon=True
            )
            with contextlib.suppress(RuntimeError):  # the process is ending
                self._thread.start()

    def _tell_all(self) -> None:
        with contextlib.suppress(sqlite3.Error, BgmagicError):  # the next search goes on with it
            while not self._stop.is_set():
                with self._lock:
                    if self._connection is None or not self._tell_some(self._connection):
                        return
                self._stop.wait(PAUSE)

    def _tell_some(self, connection: sqlite3.Connection) -> bool:
        """Tell FTS5 of some texts; whether there were any."""
        with _transaction(connection):
            rows = connection.execute(
                "SELECT id, text FROM texts WHERE id > (SELECT told FROM state) ORDER BY id"
            )
            last, size = 0, 0
            for last, text in rows:
                connection.execute("INSERT INTO grams (rowid, text) VALUES (?, ?)", (last, text))
                size += len(text) + 200  # a short one takes its time, too
                if size > INDEXED:
                    break
            rows.close()
            if last:
                connection.execute("UPDATE state SET told = ?", (last,))
        return bool(last)


def _said(text: str, responds: bool, alone: bool, place: int | None) -> str:
    """What people read of a text of the journal."""
    from bgmagic.jobs.matching import asked_text, given_text

    try:
        if responds:
            return given_text(json.loads(text))
        if alone:
            return asked_text({"input": json.loads(text)})
        return asked_text(
            json.loads(text if place is None else f"{text[:place]}null{text[place:]}")
        )
    except (ValueError, RecursionError):  # as nobody of ours has written it
        return text


def _make_grams(connection: sqlite3.Connection) -> bool:
    """Whether FTS5 and its tokenizer trigram are there (SQLite 3.34, where it has FTS5)."""
    try:
        connection.execute(_GRAMS)
        connection.execute("SELECT rowid FROM grams WHERE grams MATCH '\"abc\"'").fetchone()
    except sqlite3.OperationalError as error:
        if filesystem.error_code(error) != sqlite3.SQLITE_ERROR:
            raise
        return False
    return True


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        database.roll_back(connection)
        raise


_OPEN: weakref.WeakSet[JournalSearch] = weakref.WeakSet()


def _after_fork() -> None:
    # In a forked child: never let SQLite close what the parent may be writing to.
    for search in list(_OPEN):
        if search._connection is not None:
            filesystem.leak(search._connection)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
