"""How many module borders of the package a trip crosses: a cell, a poll, an answer, an attach.

A hop is a change from one module of the package to another within one thread, by a call or by a
return; a coroutine that is resumed is called once more. A border call is the half of them that are
calls. Each trip is a second one, when everything is imported, in IPython without a kernel.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import bgmagic
from tests.benchmarks.measures import KEY, Row, _received
from tests.support.scripted import Script, ScriptedServer, response

ROOT = str(Path(bgmagic.__file__).parent)
STILL = 0.2  # seconds without a hop after which a trip is over

# What each trip is, its hops at commit 2439a04 (82 modules in one folder) by this very counter, and
# the most that it is to have.
TRIPS = {
    "cell": ("%%bgresponse -> POST on the wire", 277, 129),
    "poll": ("a poll without news", 82, 39),
    "answer": ("the last poll -> variable and card", 118, 66),
    "html": ("the end -> HTML that stays", 121, 64),
    "attach": ("%bgattach NAME -> the first poll", 283, 163),
}


class Hop(NamedTuple):
    """One change of module: which it led to, and whether by a call or by a return."""

    module: str
    is_call: bool
    thread: str


@dataclass
class HopCounter:
    """A profile function for all threads, and the hops that it saw one after another."""

    seen: list[Hop] = field(default_factory=list)
    _stacks: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    _last: dict[int, str] = field(default_factory=dict)

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Take in one call or return."""
        name = frame.f_code.co_filename
        if event not in ("call", "return") or not name.startswith(ROOT):
            return
        if frame.f_back is not None and frame.f_back.f_code.co_filename == threading.__file__:
            return  # what the thread runs for all its life: a coroutine's way does not begin there
        thread = threading.get_ident()
        stack = self._stacks[thread]
        if event == "call":
            stack.append(name)
        elif stack:
            stack.pop()
        now = stack[-1] if stack else ""
        if now and self._last.get(thread) != now:
            where = threading.current_thread().name
            self.seen.append(Hop(now.removeprefix(ROOT).strip(os.sep), event == "call", where))
        self._last[thread] = now

    def settled(self, reached: Callable[[], object]) -> int:
        """Wait until ``reached()`` and nothing of the package runs; how many hops there were."""
        until = time.monotonic() + 60
        while not reached():
            if time.monotonic() > until:
                raise RuntimeError("the trip does not end")
            time.sleep(0.01)
        known, since = len(self.seen), time.monotonic()
        while time.monotonic() - since < STILL:
            time.sleep(0.01)
            if len(self.seen) != known:
                known, since = len(self.seen), time.monotonic()
        return known


class Traveller:
    """One IPython shell, and the server that its jobs go to."""

    def __init__(self, hops: HopCounter, server: ScriptedServer) -> None:
        from IPython.core.interactiveshell import InteractiveShell

        self._hops = hops
        self._server = server
        self._shell: Any = InteractiveShell.instance()
        self._shell.user_ns["proof"] = "1 = 1"
        self._shell.run_line_magic("load_ext", "bgmagic")
        self._published = 0
        publish = self._shell.display_pub.publish

        def count(*given: Any, **named: Any) -> None:
            publish(*given, **named)
            self._published += 1

        setattr(self._shell.display_pub, "publish", count)  # noqa: B010 - a method
        self._held = Script()
        server.choose = self._hold

    def life(self, name: str) -> Iterator[tuple[str, list[Hop]]]:
        """The trips of one job from its cell to its answer."""
        from bgmagic.display.outputs import show

        yield "cell", self._trip("create", lambda: self._send(name))
        show(self._shell.user_ns[name])
        for _ in range(3):  # the first poll has news, the second goes another way than the first
            self._trip("retrieve", self._release)
        yield "poll", self._trip("retrieve", self._release)
        shown = self._published + 2  # the answer and the line below it

        def is_shown() -> bool:
            return self._has_answer(name) and self._published >= shown

        ended = self._trip("retrieve", self._end, is_shown)
        drawn = [hop for hop in ended if hop.thread.startswith("bgmagic-blocking")]
        yield "answer", [hop for hop in ended if hop not in drawn]
        yield "html", drawn

    def second_life(self, name: str) -> Iterator[tuple[str, list[Hop]]]:
        """The trip of a job that is picked up after a restart; it ends unmeasured."""
        from bgmagic.submission.app import app

        self._trip("create", lambda: self._send(name))
        self._trip("retrieve", self._release)
        app.manager.close()
        app._manager = None
        del self._shell.user_ns[name]
        attach = lambda: self._shell.run_line_magic("bgattach", name)  # noqa: E731
        yield "attach", self._trip("retrieve", attach)
        self._trip("retrieve", self._end, lambda: self._has_answer(name))

    def _has_answer(self, name: str) -> bool:
        return isinstance(self._shell.user_ns[name], bgmagic.Answer)

    def _send(self, name: str) -> None:
        cell = f"Find the three weakest steps in this proof of {name}: {{{{ proof }}}}"
        self._shell.run_cell_magic("bgresponse", f"-o {name} --poll 0.1", cell)

    def _hold(self, kind: str) -> Script:
        newest = f"resp_{len(self._server.responses)}"
        reply = response(newest, "in_progress") if kind == "retrieve" else None
        self._held = Script(json=reply, hold=threading.Event())
        return self._held

    def _release(self) -> None:
        assert self._held.hold is not None
        self._held.hold.set()

    def _end(self) -> None:
        usage = {"input_tokens": 3, "output_tokens": 2}
        newest = f"resp_{len(self._server.responses)}"
        self._held.json = response(newest, "completed", "the answer", usage=usage)
        self._release()

    def _trip(
        self,
        kind: str,
        action: Callable[[], object],
        arrived: Callable[[], bool] | None = None,
    ) -> list[Hop]:
        """The hops from ``action`` to the server's next request of ``kind``, or to ``arrived``."""
        before, count = len(self._hops.seen), self._server.count(kind)
        action()
        asked = lambda: self._server.count(kind) > count  # noqa: E731
        return self._hops.seen[before : self._hops.settled(arrived or asked)]


def _travel(pipe: Connection, journal: str) -> None:
    hops = HopCounter()
    trips: dict[str, list[Hop]] = {}
    with ScriptedServer() as server, contextlib.redirect_stdout(io.StringIO()):
        os.environ |= {
            "OPENAI_BASE_URL": server.base_url,
            "OPENAI_API_KEY": KEY,
            "BGMAGIC_JOURNAL": journal,
        }
        # Before any thread of the package is started.
        threading.setprofile(hops)
        sys.setprofile(hops)
        traveller = Traveller(hops, server)
        for life in (traveller.life, traveller.second_life):
            for name in ("first", "second"):  # the first imports
                trips |= dict(life(name))
        sys.setprofile(None)
    pipe.send(trips)
    pipe.recv()


def hop_trips() -> dict[str, list[Hop]]:
    """The hops of each trip, counted in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        journal = str(Path(folder) / "journal.sqlite3")
        process = multiprocessing.get_context("spawn").Process(
            target=_travel, args=(theirs, journal), daemon=True
        )
        process.start()
        found: dict[str, list[Hop]] = _received(ours, process)
        ours.send("stop")
        process.join(10)
    return found


def hops() -> Iterator[Row]:
    """A row for each trip."""
    for trip, found in hop_trips().items():
        about, before, target = TRIPS[trip]
        borders = sum(hop.is_call for hop in found)
        modules = len({hop.module for hop in found})
        yield Row(
            f"hops, {about}",
            f"{len(found)} ({borders} border calls, {modules} modules)",
            f"{before} in a flat folder",
            f"{target}",
        )
