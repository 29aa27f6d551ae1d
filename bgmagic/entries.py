"""What the journal keeps of a job, and how that becomes a row and back.

Functions on a connection within a transaction of store.py's; texts that many jobs share are kept
once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from bgmagic.store import JournalError

if TYPE_CHECKING:
    import sqlite3

SHARED_INPUT = 10_000  # characters of JSON from which an input is worth a place of its own


@dataclass(frozen=True)
class Entry:
    """All that is kept of a job. Times are seconds since the epoch; None is "not yet" or "unset".

    Attributes:
        key: our own name of the job, unique.
        notebook: the notebook it belongs to, or "" where that is unknown.
        name: the variable that waits for the answer.
        server: its address without secrets, or "bgmagic.local".
        credentials: from `credentials_fingerprint`.
        fingerprint: of the request and its server.
        request: JSON text of the body, without secrets.
        sendable: False if something had to be taken out of the request.
        poll_interval: seconds.
        deadline: seconds after acceptance.
        owner: the kernel that follows it.
        response: JSON text, the whole response, once it is terminal.
        draft: what is still to go into the request, as a `Draft` has it.
        group_key: the group it belongs to.
        group_name: that group's variable, if the user chose one.
        group_index: its place in the group.
        group_details: JSON text, the rest of what place.py knows.
    """

    key: str
    created_at: float
    notebook: str
    name: str | None
    server: str
    organization: str | None
    project: str | None
    credentials: str
    fingerprint: str
    request: str
    sendable: bool
    model: str
    effort: str | None
    poll_interval: float | None
    deadline: float
    status: str
    owner: str | None
    response_id: str | None = None
    accepted_at: float | None = None
    started_at: float | None = None
    checked_at: float | None = None
    ended_at: float | None = None
    cancelling: bool = False
    reason: str | None = None
    output_tokens: int | None = None
    response: str | None = None
    draft: str | None = None
    group_key: str | None = None
    group_name: str | None = None
    group_index: int | None = None
    group_details: str | None = None


FIELDS = tuple(field.name for field in fields(Entry))
_BOOLS = (FIELDS.index("sendable"), FIELDS.index("cancelling"))
_REQUEST = FIELDS.index("request")
_BLOB = "(SELECT text FROM blobs WHERE hash = {}_hash)"
_LONG = {"request": "''", "response": "NULL", "draft": "NULL"}
BRIEF = ", ".join(_LONG.get(name, name) for name in FIELDS)
WHOLE = ", ".join(
    _BLOB.format(name) if name in ("request", "response") else name for name in FIELDS
) + ", input_at, {}".format(_BLOB.format("input"))
_SWEEP = """DELETE FROM blobs WHERE hash NOT IN (
    SELECT request_hash FROM jobs
    UNION SELECT input_hash FROM jobs WHERE input_hash IS NOT NULL
    UNION SELECT response_hash FROM jobs WHERE response_hash IS NOT NULL)"""
_TEXTS = "SELECT request_hash, input_hash, response_hash FROM jobs WHERE key = ?"
DURATIONS = """SELECT ended_at - accepted_at FROM jobs
    WHERE server = ? AND model = ? AND effort IS ? AND status = 'completed'
    AND ended_at > accepted_at ORDER BY created_at DESC LIMIT 200"""
GROUP = "WHERE group_key = :group ORDER BY group_index, created_at, id"
GROUP_NAMED = """WHERE group_name = :name AND (:notebook IS NULL OR notebook = :notebook)
    ORDER BY created_at DESC, id DESC LIMIT 1"""
OPEN_GROUPS = """WHERE group_key IN (SELECT group_key FROM jobs
    WHERE ended_at IS NULL AND notebook = :notebook AND group_name IS :name)
    ORDER BY created_at, id"""
DRAFTED = "WHERE draft IS NOT NULL AND ended_at IS NULL ORDER BY created_at, id"
COMPLETED = """WHERE fingerprint IN (SELECT value FROM json_each(:fingerprints))
    AND status = 'completed' AND ended_at IS NOT NULL ORDER BY created_at, id"""
OF = "(:notebook IS NULL OR notebook = :notebook) AND (:name IS NULL OR name = :name)"
ADOPT = "UPDATE jobs SET owner = :owner WHERE status {} 'waiting' AND ended_at IS NULL"
MAY_OWN = "(owner IS NULL OR owner = :owner OR owner IN (SELECT value FROM json_each(:dead)))"


def add_entry(connection: sqlite3.Connection, entry: Entry) -> None:
    columns = _stored(connection, {name: getattr(entry, name) for name in FIELDS})
    names = ", ".join(columns)
    marks = ", ".join(f":{name}" for name in columns)
    sql = f"INSERT INTO jobs ({names}) VALUES ({marks})"  # noqa: S608 - names of our own columns
    connection.execute(sql, columns)


def add_entries(connection: sqlite3.Connection, added: Iterable[Entry]) -> None:
    for entry in added:
        add_entry(connection, entry)


def change_entry(connection: sqlite3.Connection, key: str, changes: Mapping[str, Any]) -> None:
    before = _hashes(connection, key) if {"request", "response"} & changes.keys() else set()
    columns = _stored(connection, changes)
    sets = ", ".join(f"{name} = :{name}" for name in columns)
    sql = f"UPDATE jobs SET {sets} WHERE key = :key"  # noqa: S608 - names of our own columns
    if connection.execute(sql, {**columns, "key": key}).rowcount != 1:
        raise JournalError(f"the job {key} is not in it, so it would not survive a restart")
    # A first response replaces nothing: no need to look through all jobs at the end of each.
    if before and before - _hashes(connection, key):
        connection.execute(_SWEEP)


def _hashes(connection: sqlite3.Connection, key: str) -> set[str]:
    return {found for row in connection.execute(_TEXTS, (key,)) for found in row if found}


def forget_entries(connection: sqlite3.Connection, keys: Collection[str]) -> int:
    sql = """DELETE FROM jobs
        WHERE ended_at IS NOT NULL AND key IN (SELECT value FROM json_each(?))"""
    count = connection.execute(sql, (json.dumps(list(keys)),)).rowcount
    connection.execute(_SWEEP)
    return count


def _stored(connection: sqlite3.Connection, values: Mapping[str, Any]) -> dict[str, Any]:
    """The table's columns for these, their large texts stored."""
    columns = dict(values)
    if "request" in columns:
        rest, part, at = _split(columns.pop("request"))
        columns["request_hash"] = _blob(connection, rest)
        columns["input_hash"] = None if part is None else _blob(connection, part)
        columns["input_at"] = at
    if "response" in columns:
        text = columns.pop("response")
        columns["response_hash"] = None if text is None else _blob(connection, text)
    return columns


def _blob(connection: sqlite3.Connection, text: str) -> str:
    key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    connection.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?)", (key, text))
    return key


def _split(request: str) -> tuple[str, str | None, int | None]:
    """A request without its input, the input, and where it goes back in."""
    if len(request) > SHARED_INPUT:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            part = json.dumps(json.loads(request)["input"], ensure_ascii=False)
            at = request.find(part)
            if len(part) > SHARED_INPUT and at >= 0:
                return request[:at] + request[at + len(part) :], part, at
    return request, None, None


def entry_of(row: tuple[Any, ...]) -> Entry:
    values = list(row[: len(FIELDS)])
    for index in _BOOLS:
        values[index] = bool(values[index])
    if len(row) > len(FIELDS) and row[-1] is not None:
        at = row[-2]
        values[_REQUEST] = values[_REQUEST][:at] + row[-1] + values[_REQUEST][at:]
    entry = object.__new__(Entry)
    # Not by its constructor, which takes most of the time of a long listing in a frozen class.
    entry.__dict__.update(zip(FIELDS, values, strict=True))
    return entry
