"""The writes that are queued for the journal, and the rows that the file could not take so far."""

from __future__ import annotations

import functools
import itertools
import json
import operator
import sqlite3
import sys
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Any

from bgmagic.jobs.placeholder import LeanFuture
from bgmagic.storage import database
from bgmagic.storage.database import Action, JournalError, MissingRow, StoredJob, WriteDeferred
from bgmagic.text import TextSharer


class Written(LeanFuture[Any]):
    """What becomes of a write; an interrupt of a cell that waits for it leaves nothing locked."""

    def __init__(self) -> None:
        super().__init__()
        self._state = "RUNNING"  # so that nobody can cancel what is going to be written

    def _check_may_wait(self) -> None:
        """Any thread may."""


class Write:
    """What is queued.

    Attributes:
        action: writes it.
        key: the job that it is about, or "" where it is about none or several.
        added: new jobs.
        changes: columns that it gives the job.
        claims: whether it takes the job to send it, with ``changes``.
        batch: the batch whose open jobs are given ``changes``, or "".
    """

    __slots__ = ("action", "added", "batch", "changes", "claims", "future", "key")

    def __init__(
        self,
        action: Action,
        key: str = "",
        added: tuple[StoredJob, ...] = (),
        changes: Mapping[str, Any] | None = None,
        *,
        claims: bool = False,
        batch: str = "",
    ) -> None:
        self.action, self.key, self.added, self.changes = action, key, added, changes
        self.claims, self.batch = claims, batch
        self.future: Future[Any] = Written()

    @property
    def keys(self) -> list[str]:
        """The jobs that it is about."""
        return [self.key] if self.key else [entry.key for entry in self.added]


class LiveRows:
    """The rows of this process's open jobs, as far as the file may not have them.

    On the journal's thread only, but for `is_unsaved` and `may_be_remade`.

    Attributes:
        remake: gives the row of a job of this process as it is now; None where it can't. Of those
            that are in batches, or that `may_be_remade`, none is kept that is in the file.
    """

    def __init__(self) -> None:
        self.remake: Callable[[str], StoredJob | None] | None = None
        self._rows: dict[str, _Row | None] = {}
        self._remade: deque[str] = deque()
        self._base: tuple[Any, ...] = (None,) * len(database.FIELDS)
        # The jobs of which the file does not say the same, and whether it may have them at all.
        self._unsaved: dict[str, bool] = {}
        self._owner = ""
        self._details = TextSharer()

    def is_unsaved(self, key: str) -> bool:
        """Whether the file does not say the same of the job."""
        return key in self._unsaved

    def __bool__(self) -> bool:
        """Whether anything is to be written again."""
        return bool(self._unsaved)

    def may_be_remade(self, key: str) -> None:
        """What the file was told of this job is what `remake` gives. From any thread.

        Not before it is accepted: of a job that is being sent it could say that it waits.
        """
        self._remade.append(key)

    def claiming(self, key: str, owner: str, dead: Collection[str]) -> Write:
        """What takes a waiting job to send it."""
        changes = {"owner": owner, "status": "submitting"}
        taking = _taking(_CLAIM, key, owner, dead, self._rows)
        return Write(taking, key, changes=changes, claims=True)

    def forget_file(self) -> None:
        """There is a new file: nothing is known to be in it."""
        self._unsaved.update(dict.fromkeys(self._rows, True))

    def savings(self) -> list[Write]:
        """What writes all that is unsaved."""
        while self._remade:
            key = self._remade.popleft()
            if self.remake is not None and key in self._rows and key not in self._unsaved:
                self._rows[key] = None
        rows = [self._row(key) for key in tuple(self._unsaved)]
        return [self._saving(_entry(row)) for row in rows if row is not None]

    def _row(self, key: str) -> _Row | None:
        """The row of a job; one that was not kept is made anew, and kept from now on."""
        row = self._rows.get(key)
        if row is None and key in self._rows and self.remake is not None:
            made = self.remake(key)
            if made is None:
                del self._rows[key]
                self._unsaved.pop(key, None)
            else:
                row = self._rows[key] = self._packed(made)
        return row

    def _saving(self, entry: StoredJob) -> Write:
        owner = self._owner
        return Write(lambda connection: _save(connection, entry, owner), entry.key)

    def committed(self, write: Write, outcome: Any) -> Any:
        """Take in that a write was committed, or refused for what it is; gives its result."""
        if isinstance(outcome, MissingRow) and self._row(write.key) and write.changes:
            self._change(write)
            self._unsaved[write.key] = True
        elif isinstance(outcome, JournalError):
            return outcome
        elif write.claims:
            if outcome is True:
                self._change(write)
            else:
                self._own(outcome)
            return outcome is not None
        elif write.added:
            for entry in write.added:
                if entry.ended_at is not None:
                    continue
                if entry.batch is None or self.remake is None:
                    self._own(entry)
                else:
                    self._rows[entry.key], self._owner = None, entry.owner or self._owner
        elif write.changes is not None:
            if write.changes.get("ended_at") is not None:
                self._drop(write.key)
            else:
                self._change(write)
        return outcome

    def saved(self, write: Write, outcome: Any) -> None:
        """Take in that what one of `savings` writes was committed, or refused for what it is."""
        del self._unsaved[write.key]
        if outcome is True:
            self._drop_ended(write.key)
        else:
            del self._rows[write.key]  # another kernel has the job, or no file ever takes it

    def failed(self, write: Write, error: JournalError, maybe: bool) -> Any:
        """Take in that nothing could be committed; gives the result, which may be a success.

        A job that the file certainly does not have can be claimed here: no other kernel has it, and
        the file will first hear of it as claimed.

        Args:
            maybe: whether it may be in the file all the same.
        """
        for entry in write.added:
            self._own(entry)
            self._unsaved[entry.key] = maybe
        if write.added:
            return WriteDeferred(str(error))
        row = self._row(write.key)
        if row is None or write.changes is None:
            return error
        if write.claims:
            if self._unsaved.get(write.key, True) or _value(row, "status") != "waiting":
                return error
            self._change(write)
            return True
        self._change(write)
        self._unsaved.setdefault(write.key, True)
        return error

    def doubt(self, write: Write) -> None:
        """Note that one of `savings` was not committed, but may be in the file after a crash."""
        self._unsaved[write.key] = True

    def _own(self, entry: StoredJob | None) -> None:
        if entry is not None:
            self._rows[entry.key] = self._packed(entry)
            self._owner = entry.owner or self._owner

    def _packed(self, entry: StoredJob) -> _Row:
        values = list(_VALUES(entry))
        # The rows of a sweep's thousands of jobs have mostly the same values.
        if entry.group_details is not None:
            values[_AT["group_details"]] = self._details.share(entry.group_details)
        values[_AT["fingerprint"]] = _packed_hex(entry.fingerprint)
        if entry.billing is not None:
            values[_AT["billing"]] = sys.intern(entry.billing)
        row = _row_like(self._base, values)
        if len(row) > _MOST_OWN:
            self._base = tuple(values)
            row = _row_like(self._base, values)
        return row

    def _change(self, write: Write) -> None:
        if write.changes is None:
            return
        keys = [write.key] if write.key in self._rows else []
        if write.batch:
            rows = self._rows.items()
            keys += [key for key, row in rows if row and _value(row, "batch") == write.batch]
        for key in keys:
            row = self._rows[key]
            if row is None:
                continue
            values = _values(row)
            for name, value in write.changes.items():
                values[_AT[name]] = value
            self._rows[key] = _row_like(row[0], values)

    def _drop_ended(self, key: str) -> None:
        row = self._rows.get(key)
        if row is not None and _value(row, "ended_at") is not None:
            self._drop(key)

    def _drop(self, key: str) -> None:
        self._rows.pop(key, None)
        self._rows = self._rows or {}  # of tens of thousands it would keep all its room


# A row as it is remembered: the values of another one, where it has others, and these.
# That takes a tenth of an object of its own.
_Row = tuple[Any, ...]

_MOST_OWN = 15  # values of its own of a row that is still worth it


def _row_like(base: tuple[Any, ...], values: list[Any]) -> _Row:
    # By C's own functions: each job is looked at three times before it is accepted.
    own = tuple(map(operator.ne, values, base))
    places = tuple(itertools.compress(_PLACES, own))
    return (base, _same(places), *itertools.compress(values, own))


@functools.lru_cache(64)
def _same(places: tuple[int, ...]) -> tuple[int, ...]:
    """One object for all that are equal."""
    return places


def _values(row: _Row) -> list[Any]:
    base, places, *own = row
    values = list(base)
    for place, value in zip(places, own, strict=True):
        values[place] = value
    return values


def _value(row: _Row, name: str) -> Any:
    place = _AT[name]
    return row[2 + row[1].index(place)] if place in row[1] else row[0][place]


def _packed_hex(text: str) -> str | bytes:
    """Hex digits in half of their room."""
    try:
        packed = bytes.fromhex(text)
    except ValueError:
        return text
    return packed if packed.hex() == text else text


def _entry(row: _Row) -> StoredJob:
    values = _values(row)
    printed = values[_AT["fingerprint"]]
    values[_AT["fingerprint"]] = printed.hex() if isinstance(printed, bytes) else printed
    details = values[_AT["group_details"]]
    values[_AT["group_details"]] = None if details is None else str(details)
    return StoredJob(*values)


_VALUES = operator.attrgetter(*database.FIELDS)
_AT = {name: index for index, name in enumerate(database.FIELDS)}
_PLACES = range(len(database.FIELDS))


def merged(own: list[StoredJob], others: list[StoredJob], where: str) -> list[StoredJob]:
    """The jobs of several files as one of the conditions above orders them.

    Of a job that is in several, since it was picked up on another host, the one that has ended.
    """
    by_key: dict[str, StoredJob] = {}
    for entry in (*others, *own):
        other = by_key.get(entry.key)
        if other is None or other.ended_at is None or entry.ended_at is not None:
            by_key[entry.key] = entry
    if "group_index," in where:
        return sorted(by_key.values(), key=lambda entry: (entry.group_index, entry.created_at))
    return sorted(by_key.values(), key=lambda entry: entry.created_at, reverse="DESC" in where)


def changed(entry: StoredJob, changes: Mapping[str, Any]) -> StoredJob:
    """The same with ``changes``. By its constructor: so it takes a quarter of the memory."""
    return StoredJob(**(entry.__dict__ | dict(changes)))


# Taking jobs. A claim that failed may be found in the file all the same, and only its owner knows
# that it posted nothing.
_CLAIM = """UPDATE jobs SET owner = :owner, status = 'submitting' WHERE ended_at IS NULL AND
    (status = 'waiting' OR status = 'submitting' AND owner = :owner AND response_id IS NULL)"""

_ADOPT = "UPDATE jobs SET owner = :owner WHERE status {} 'waiting' AND ended_at IS NULL"

_MAY_OWN = "(owner IS NULL OR owner = :owner OR owner IN (SELECT value FROM json_each(:dead)))"


def adopting(key: str, owner: str, dead: Collection[str], waits: bool) -> Write:
    """What takes an open job that waits, or waits no more, and leaves it so."""
    sql = _ADOPT.format("=" if waits else "!=")
    return Write(_taking(sql, key, owner, dead), key, claims=True)


def _taking(
    sql: str, key: str, owner: str, dead: Collection[str], known: Collection[str] = ()
) -> Action:
    """Takes the job, and gives its whole row, or True if that is known; else None."""
    values = {"key": key, "owner": owner, "dead": json.dumps(list(dead)) if dead else "[]"}

    def take(connection: sqlite3.Connection) -> StoredJob | bool | None:
        taken = connection.execute(f"{sql} AND key = :key AND {_MAY_OWN}", values).rowcount == 1
        if taken and key in known:
            return True
        whole = f"SELECT {database.WHOLE} FROM jobs WHERE key = :key"  # noqa: S608 - our columns
        return database.from_row(connection.execute(whole, values).fetchone()) if taken else None

    return take


def _save(connection: sqlite3.Connection, entry: StoredJob, owner: str) -> bool:
    """Have the file say what ``entry`` does; False if another kernel than ``owner`` has the job."""
    found = connection.execute("SELECT owner FROM jobs WHERE key = ?", (entry.key,)).fetchone()
    if found is None:
        database.add_entry(connection, entry)
    elif found[0] in (None, owner, entry.owner):
        columns = {name: getattr(entry, name) for name in database.FIELDS if name != "key"}
        database.change_entry(connection, entry.key, columns)
    else:
        return False
    return True
