"""What `%load_ext` leaves for later: names without their code, and imports while the kernel is idle."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bgmagic.notebook.cell_magic import BgCellMagics
from bgmagic.notebook.line_magics import BgLineMagics
from bgmagic.notebook.magics import NAMES, Warming
from bgmagic.storage.database import MIGRATIONS
from bgmagic.storage.filesystem import may_have_open
from bgmagic.storage.journal import Journal
from bgmagic.storage.reader import has_no_open
from tests.jobs.test_job import LIMIT, eventually
from tests.storage.test_journal import entry
from tests.support.kernels import Kernel


def test_names_are_those_of_the_classes() -> None:
    """What is announced is what there is."""
    assert set(NAMES["cell"]) == set(BgCellMagics.magics["cell"])
    assert set(NAMES["line"]) == set(BgLineMagics.magics["line"])


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """Three modules, of which the second waits at a gate, and one that can't be imported."""
    held = types.ModuleType("warmed_gate")
    vars(held).update(entered=threading.Event(), opened=threading.Event())
    monkeypatch.setitem(sys.modules, "warmed_gate", held)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "warmed_one.py").touch()
    waits = "import warmed_gate as g; g.entered.set(); g.opened.wait(60)"
    (tmp_path / "warmed_two.py").write_text(waits)
    (tmp_path / "warmed_bad.py").write_text("1 / 0")
    (tmp_path / "warmed_three.py").touch()
    yield held
    held.opened.set()
    for name in ("one", "two", "bad", "three"):
        sys.modules.pop(f"warmed_{name}", None)


def test_no_import_while_a_cell_runs(gate: types.ModuleType) -> None:
    """A cell waits for the import that has begun, none begins before its end, and then the rest is imported, whatever fails."""
    warming = Warming(["warmed_one", "warmed_two", "warmed_bad", "warmed_three"])
    warming.go_on()
    assert gate.entered.wait(LIMIT)
    cell = threading.Thread(target=warming.pause)
    cell.start()
    cell.join(0.1)
    assert cell.is_alive()
    gate.opened.set()
    cell.join(LIMIT)
    assert not cell.is_alive()
    assert {"warmed_one", "warmed_two"} <= sys.modules.keys()
    assert not {"warmed_bad", "warmed_three"} & sys.modules.keys()
    warming.go_on()
    eventually(lambda: "warmed_three" in sys.modules)
    warming.pause()
    assert "warmed_bad" not in sys.modules


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Tests that are started in the background may ignore interrupts; this one does not."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_wait(gate: types.ModuleType) -> None:
    """Whoever interrupts a cell that waits for an import sees no traceback, and two never go on at a time."""
    warming, main = Warming(["warmed_two", "warmed_three"]), threading.main_thread().ident
    assert main is not None
    warming.go_on()
    assert gate.entered.wait(LIMIT)

    def interrupt() -> None:
        inside = {"join", "_wait_for_tstate_lock"}
        eventually(lambda: sys._current_frames()[main].f_code.co_name in inside)
        signal.pthread_kill(main, signal.SIGINT)

    user = threading.Thread(target=interrupt)
    user.start()
    warming.pause()
    user.join()
    assert "warmed_two" in sys.modules
    warming.go_on()
    gate.opened.set()
    warming.pause()
    assert "warmed_three" not in sys.modules
    warming.go_on()
    eventually(lambda: "warmed_three" in sys.modules)
    warming.pause()


def test_a_cell_is_alone(in_kernel: Kernel) -> None:
    """Between cells the kernel imports what a card needs, and no thread of that runs during one."""
    names = "print([t.name for t in threading.enumerate() if t.name == 'bgmagic-imports'])"
    in_kernel.ok("import sys, threading")
    assert in_kernel.ok(names).stdout.strip() == "[]"
    in_kernel.ok("loaded = threading.Event()")
    in_kernel.ok(
        "def look():\n"
        "    while 'bgmagic.display.outputs' not in sys.modules: threading.Event().wait(0.01)\n"
        "    loaded.set()\n"
        "threading.Thread(target=look, daemon=True).start()"
    )
    in_kernel.until("loaded.is_set()")
    assert in_kernel.ok(names).stdout.strip() == "[]"


def test_a_first_cell_waits_for_no_journal(tmp_path: Path) -> None:
    """Of a journal that can have no such job none is looked for, so that nobody waits for it to be opened; else it is asked."""
    path = tmp_path / "journal.sqlite3"
    earlier = Journal(path)
    earlier.add(replace(entry("a"), notebook="a.ipynb", ended_at=None)).result(LIMIT)
    earlier.close(LIMIT)
    journals = Journal(None), Journal(path)
    for journal in journals:
        assert journal.same(entry("a").fingerprint, notebook="b.ipynb") == []
        assert journal._thread is None
    with contextlib.closing(sqlite3.connect(path)) as locks:
        locks.execute("BEGIN IMMEDIATE")
        assert not has_no_open(path, "b.ipynb")  # waiting for it says that it can't be written
    for notebook in "a.ipynb", None:
        journal = Journal(path)
        found = journal.same(entry("a").fingerprint, notebook=notebook)
        assert [each.key for each in found] == ["a"]
        journal.close(LIMIT)


def test_the_file_tells_of_open_jobs(tmp_path: Path) -> None:
    """Only an open job of this very notebook is worth reading the journal for, or a file that can't be asked."""
    path = tmp_path / "journal.sqlite3"
    journal = Journal(path)
    of = replace(entry("a"), notebook="a.ipynb", ended_at=None)
    journal.add(of, replace(of, key="b", notebook="b.ipynb", ended_at=2.0)).result(LIMIT)
    assert may_have_open(path, "a.ipynb")  # while a kernel has it open
    journal.close(LIMIT)
    assert may_have_open(path, "a.ipynb")
    assert not may_have_open(path, "b.ipynb")
    assert has_no_open(path, "b.ipynb")
    assert not has_no_open(path, "a.ipynb")
    assert not has_no_open(tmp_path / "none", "b.ipynb")
    assert may_have_open(path, "b.ipynb", len(MIGRATIONS) - 1)  # opening it says what is wrong
    assert not may_have_open(path, "c.ipynb")
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE jobs")
    connection.close()
    assert may_have_open(path, "b.ipynb")  # of another bgmagic: whoever reads it says what it is
    (tmp_path / "journal.0123abcd.sqlite3").touch()
    assert may_have_open(path, "c.ipynb")  # another host's may have some
    (tmp_path / "text").write_text("no database" * 100)
    assert may_have_open(tmp_path / "text", "a.ipynb")
