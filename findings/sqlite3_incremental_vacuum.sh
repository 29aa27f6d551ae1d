#!/usr/bin/env bash
# Guess: in Python's sqlite3, `PRAGMA incremental_vacuum(1000)` gives up to 1,000 free pages back, as
#   SQLite's documentation says, or all of them without a number; fetchall() sees to that.
# Reality: it gives back one page, whatever the number. SQLite does one page a step, each without a row
#   of columns; sqlite3 takes the first step and resets the statement. `executescript` runs all steps (and
#   commits what is open before).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" - "$folder/file.sqlite3" <<'PYTHON'
import sqlite3
import sys

connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
connection.execute("CREATE TABLE texts (text)")
connection.executemany("INSERT INTO texts VALUES (?)", [("x" * 5000,)] * 3000)
connection.execute("DELETE FROM texts")


def free() -> int:
    return connection.execute("PRAGMA freelist_count").fetchone()[0]


before = free()
connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()
by_execute = before - free()
before = free()
connection.executescript("PRAGMA incremental_vacuum(1000)")
by_script = before - free()
print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}")
print(f"asked for 1000 pages: execute gave back {by_execute}, executescript {by_script}")
sys.exit(0 if (by_execute, by_script) == (1, 1000) else 1)
PYTHON
