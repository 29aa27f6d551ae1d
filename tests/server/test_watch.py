"""Who hears that the journal has changed: by the system's file events, and without them."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from bgmagic.server import watch
from bgmagic.storage.journal import Journal
from tests.jobs.test_job import eventually
from tests.server.test_jobs import job


@pytest.mark.parametrize("library", [True, False])
def test_a_change_is_told(library: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job that is written down is told, by watchfiles or, where that is not installed, by a
    look at the files now and then; what ends the watching ends its thread."""
    if library:
        pytest.importorskip("watchfiles")
    else:
        monkeypatch.setitem(sys.modules, "watchfiles", None)
        monkeypatch.setattr(watch, "PAUSE", 0.05)
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.add(job("before")).result(60)

    async def told() -> None:
        heard = asyncio.Event()
        watching = watch.JournalWatch(tmp_path / "journal.sqlite3", heard.set)
        watching.start()
        watching.start()  # once is enough
        try:
            for number in range(2):
                heard.clear()
                # Written again until it is heard: nobody says when the watching has begun.
                for again in range(300):
                    journal.add(job(f"job-{number}-{again}")).result(60)
                    try:
                        await asyncio.wait_for(heard.wait(), 0.2)
                        break
                    except TimeoutError:
                        continue
                assert heard.is_set()
        finally:
            await asyncio.to_thread(watching.stop)

    asyncio.run(told())
    eventually(lambda: "bgmagic-watch" not in {thread.name for thread in threading.enumerate()})
    journal.close()
