"""Owners: a kernel is alive exactly as long as its process, however that ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgmagic.storage.owner_lock import OwnerError, OwnerLock
from tests.support.processes import begun, line

TIMEOUT = 60  # seconds

HOLD = """
import os, sys
from pathlib import Path
from bgmagic.storage.owner_lock import OwnerError, OwnerLock
owner = OwnerLock(Path(sys.argv[1]))
owner.acquire()
"""
SAY = "print(owner.id, flush=True)\nsys.stdin.readline()\n"
FORK = """
inward, outward = os.pipe()
child = os.fork()
if child == 0:
    try: owner.acquire()
    except OwnerError: os.write(outward, b"refused")
    owner.release()
    owner = None
    os.close(outward)
    os.read(0, 1)
    os._exit(0)
os.close(outward)
print(os.read(inward, 99).decode(), owner.id, child, flush=True)
os.read(inward, 1)
os.read(0, 1)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "owners"


@pytest.fixture
def me(folder: Path) -> Iterator[OwnerLock]:
    """An owner in this process."""
    owner = OwnerLock(folder)
    owner.acquire()
    yield owner
    owner.release()


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    """A process of its own that holds a lock."""
    return begun(HOLD + code, folder)


def test_killed_process_is_dead(me: OwnerLock, folder: Path) -> None:
    """A process is alive while it runs or is suspended, and dead after kill -9, its file removed."""
    process = start(SAY, folder)
    other = line(process)
    assert me.dead_owners([other]) == set()
    os.kill(process.pid, signal.SIGSTOP)
    assert me.dead_owners([other]) == set()
    process.kill()
    process.communicate(timeout=TIMEOUT)
    assert (folder / f"{other}.lock").exists()
    assert me.dead_owners([other, me.id]) == {other}
    assert [found.name for found in folder.iterdir()] == [f"{me.id}.lock"]
    assert me.dead_owners([other]) == {other}


def test_process_that_ends_by_itself_is_dead(me: OwnerLock, folder: Path) -> None:
    """A process that ends without letting its lock go is dead too."""
    process = start(SAY, folder)
    other = line(process)
    process.communicate("\n", timeout=TIMEOUT)
    assert me.dead_owners([other]) == {other}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_child_is_not_the_owner(me: OwnerLock, folder: Path) -> None:
    """A forked child can't hold or release its parent's lock, nor keep it after the parent's death."""
    process = start(FORK, folder)
    word, other, child = line(process).split()
    try:
        assert word == "refused"
        assert me.dead_owners([other]) == set()
        process.kill()
        process.wait(TIMEOUT)
        os.kill(int(child), 0)
        assert me.dead_owners([other]) == {other}
    finally:
        process.communicate(timeout=TIMEOUT)


def test_released_owner_is_dead(me: OwnerLock, folder: Path) -> None:
    """An owner that let go is dead to others and leaves no file; holding and releasing are idempotent."""
    other = OwnerLock(folder)
    other.acquire()
    other.acquire()
    assert me.dead_owners([other.id]) == set()
    thread = threading.Thread(target=other.release)
    thread.start()
    thread.join(TIMEOUT)
    other.release()
    assert me.dead_owners([other.id]) == {other.id}
    assert len(list(folder.iterdir())) == 1


def test_many_look_at_the_same_dead(me: OwnerLock, folder: Path) -> None:
    """Threads that look at the same owners at once agree on the dead and never take the living for dead."""
    dead = [f"gone-{number}" for number in range(20)]
    for name in dead:
        (folder / f"{name}.lock").touch()
    living = OwnerLock(folder)
    living.acquire()
    lookers = [OwnerLock(folder) for _ in range(6)]
    found: list[set[str]] = []

    def look(looker: OwnerLock) -> None:
        found.append(looker.dead_owners([*dead, living.id, me.id]))

    threads = [threading.Thread(target=look, args=(looker,)) for looker in lookers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert set().union(*found) == set(dead)
    assert me.dead_owners(dead) == set(dead)
    assert sorted(folder.iterdir()) == sorted(folder / f"{o.id}.lock" for o in (me, living))
    living.release()


def test_ids_are_unique(folder: Path) -> None:
    """No two owners have the same id, and each can be a file's name."""
    ids = {OwnerLock(folder).id for _ in range(1000)}
    assert len(ids) == 1000
    assert not any(set(name) & set('/\\:*?"<>|. ') for name in ids)


def test_what_is_no_id_of_ours_touches_no_file(me: OwnerLock, folder: Path) -> None:
    """An id that would name a file elsewhere counts as dead, and that file stays."""
    outside = folder.parent / "x.lock"
    outside.touch()
    assert me.dead_owners(["../x"]) == {"../x"}
    assert outside.exists()


def test_memory_knows_only_itself() -> None:
    """Without a folder there is no lock, and nobody is known to be dead."""
    owner = OwnerLock(None)
    owner.acquire()
    assert owner.dead_owners(["other", owner.id]) == set()
    owner.release()


def test_unusable_folder(tmp_path: Path) -> None:
    """Where no lock can be had, holding says in one line what to do, and nobody is found dead."""
    (tmp_path / "file").touch()
    owner = OwnerLock(tmp_path / "file" / "owners")
    with pytest.raises(OwnerError, match="set BGMAGIC_JOURNAL to another file") as caught:
        owner.acquire()
    assert "\n" not in str(caught.value)
    owner.release()


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no file that is open")
def test_a_deleted_lock_is_taken_again(me: OwnerLock, folder: Path) -> None:
    """A kernel whose journal was deleted with its folder is seen to live again from its next job on."""
    shutil.rmtree(folder)
    assert OwnerLock(folder).dead_owners({me.id}) == {me.id}
    me.acquire()
    assert OwnerLock(folder).dead_owners({me.id}) == set()
