#!/usr/bin/env bash
# Guess: with isolation_level=None Python's sqlite3 opens no transaction of its own, so that each statement is committed
#   when execute() returns; RETURNING only saves the SELECT that would ask for the new ids, and whether they are fetched
#   makes no difference to what is in the file.
# Reality: nothing is committed until the last row has been fetched or the cursor is closed or forgotten. Until then
#   in_transaction is False, this connection sees the rows, no other one does, others can't write ("database is locked"),
#   and if the process is killed they are gone, though their ids were given out. One fetchone() is enough for one row, of
#   two it is not. Without RETURNING the same statement is committed at once.
# Exits with 1 if that changes. Needs SQLite 3.35 or newer in Python's sqlite3; nothing is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/try.py" <<'PY'
import os
import platform
import sqlite3
import subprocess
import sys

FILE = sys.argv[1]
ONE, TWO = "INSERT INTO t(x) VALUES (1)", "INSERT INTO t(x) VALUES (1), (2)"


def opened():
    return sqlite3.connect(FILE, isolation_level=None, timeout=0)


def seen(statement, fetches):
    """What this connection says after so many fetchone(), and how many rows are in the file for others."""
    with_rows, other = opened(), opened()
    with_rows.execute("DELETE FROM t")
    cursor = with_rows.execute(statement)
    for _ in range(fetches):
        assert cursor.fetchone()
    (count,) = other.execute("SELECT count(*) FROM t").fetchone()
    (mine,) = with_rows.execute("SELECT count(*) FROM t").fetchone()
    try:
        other.execute("INSERT INTO t(x) VALUES (9)")
        write = "written"
    except sqlite3.OperationalError as error:
        write = str(error)
    assert not with_rows.in_transaction
    cursor.close()
    (after,) = other.execute("SELECT count(*) FROM t WHERE x < 9").fetchone()
    print(f"{statement}, {fetches} fetched: {mine} here, {count} for others, whose own row: {write}; closed: {after}")
    with_rows.close(), other.close()
    return mine, count, write, after


def killed():
    """How many of two rows are in the file whose process ended once the first id was fetched."""
    opened().execute("DELETE FROM t")
    subprocess.run([sys.executable, __file__, FILE, "end"], check=True)
    (count,) = opened().execute("SELECT count(*) FROM t").fetchone()
    print(f"the process ended with the first of two ids fetched: {count} rows")
    return count


if sys.argv[2:]:
    rows = opened().execute(f"{TWO} RETURNING id")
    assert rows.fetchone()
    os._exit(0)
print("Python", platform.python_version(), "SQLite", sqlite3.sqlite_version)
opened().execute("PRAGMA journal_mode=WAL")  # so that others can read meanwhile
opened().execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
locked = "database is locked"
result = (
    seen(TWO, 0), seen(f"{TWO} RETURNING id", 0), seen(f"{TWO} RETURNING id", 1), seen(f"{TWO} RETURNING id", 2),
    seen(f"{ONE} RETURNING id", 1), killed())
sys.exit(result != (
    (2, 2, "written", 2), (2, 0, locked, 2), (2, 0, locked, 2), (2, 2, "written", 2), (1, 1, "written", 1), 0))
PY
python3 "$folder/try.py" "$folder/journal.sqlite3"
