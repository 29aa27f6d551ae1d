"""A home folder that two hosts mount, each with caches and locks of its own."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.harness import Kernel, Outcome, bindfs, outcome, require
from tests.faults.hosts import HOST
from tests.support.scripted import Script, ScriptedServer


@dataclass(frozen=True)
class Homes:
    """A folder as two hosts see it."""

    one: Path
    other: Path


@contextlib.contextmanager
def network_home(folder: Path) -> Iterator[Homes]:
    """The home folder of a cluster, mounted on two hosts."""
    require("bindfs")
    server = folder / "server"
    server.mkdir()
    with bindfs(server, folder / "one") as one, bindfs(server, folder / "other") as other:
        yield Homes(one, other)


def on(host: str, server: ScriptedServer, home: Path) -> Kernel:
    """A kernel on ``host`` with its journal in ``home``."""
    return Kernel(server.base_url, home / "journal.sqlite3", **{HOST: host})


def pair_of_hosts(folder: Path, seed: int) -> Outcome:
    """What becomes of sweeps of two hosts on one journal: one is killed in the middle of its own and
    comes back, the other sends one too and attaches all there is, at random moments."""
    chance = random.Random(seed)
    with ScriptedServer() as server, network_home(folder) as homes:
        server.polls = 0
        server.choose = lambda kind: Script(delay=0.02 if kind == "create" else 0.0)
        one, other = on("alpha", server, homes.one), on("beta", server, homes.other)
        try:
            one.sweep(40, max_in_flight=chance.choice((4, 40)))
            time.sleep(chance.random() * 0.3)
            other.run("s = bgmagic.map('item 10{{ item }}.', range(20), yes=20, out='s')")
            time.sleep(chance.random() * 0.3)
            other.run("%bgattach --all")
            time.sleep(chance.random() * 0.3)
            one.kill()
            with on("alpha", server, homes.one) as again:
                again.run("%bgattach --all")
                assert again.settled()
                assert other.settled()
                return outcome(server, again)
        finally:
            one.close()
            other.close()
