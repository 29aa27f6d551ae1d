"""What a cell waits for is looked up in a journal of any length, and not read through."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from bgmagic.storage import database, reader
from bgmagic.storage.reader import newest_first

LISTINGS = [
    newest_first(notebook=notebook, name=name, open_only=open_only)
    for notebook, name, open_only in itertools.product((None, "a"), (None, "x"), (False, True))
]


@pytest.mark.parametrize(
    "where", [*LISTINGS, reader.MEANT, reader.GROUP, reader.OPEN_GROUPS, reader.COMPLETED]
)
def test_no_query_reads_all_jobs(tmp_path: Path, where: str) -> None:
    """Listings, names, groups and fingerprints each have an index that serves them."""
    connection = database.open_file(tmp_path / "journal.sqlite3")
    names = dict.fromkeys(("notebook", "name", "word", "group", "fingerprints"), "[]")
    sql = f"EXPLAIN QUERY PLAN SELECT {database.BRIEF} FROM jobs {where}"
    steps = [row[3] for row in connection.execute(sql, names | {"limit": 9})]
    connection.close()
    assert [step for step in steps if step == "SCAN jobs" or "SORTER" in step] == []
    assert any("USING" in step for step in steps)
