"""IPython in a terminal, as it is typed into."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import KEY, missing
from tests.support.kernels import LIMIT
from tests.support.scripted import ScriptedServer, response

PROMPT = r"In \[\d+\]: "


class Terminal:
    """IPython in a pseudo-terminal."""

    def __init__(self, folder: Path, server: ScriptedServer) -> None:
        import pexpect

        ours = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.base_url, "BGMAGIC_POLL": "0.1"}
        ours |= {"BGMAGIC_JOURNAL": str(folder / "journal.sqlite3"), "IPYTHONDIR": str(folder)}
        self.ended = pexpect.EOF
        self.child = pexpect.spawn(
            sys.executable, ["-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor"],
            env={**os.environ, **ours, "TERM": "dumb"}, encoding="utf-8", timeout=LIMIT,
            # Tests that are started in the background may ignore interrupts; children inherit that.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        self.child.expect(PROMPT)

    def type(self, *lines: str) -> str:
        """Type a cell; what is printed until the next prompt."""
        for line in lines:
            self.child.sendline(line)
        self.child.expect(PROMPT)
        return self.said(len(lines))

    def said(self, typed: int) -> str:
        """What was printed since, without the lines that were typed."""
        lines = str(self.child.before).replace("\r", "").splitlines()
        return "\n".join(lines[typed:]).strip()

    def ask(self, header: str) -> str:
        """Type a cell for a job; what it says, without the prompts of the cell's further lines."""
        said = self.type(f"%%bgresponse {header}", "Why?", "", "")
        return re.sub(r"^(\s*\.\.\.:)+", "", said).strip()

    def interrupt(self, expected: str) -> None:
        """Press Ctrl+C at a question until that is seen.

        Python's `input` loses one that comes between its question and its first read.
        """
        from pexpect import TIMEOUT

        for _ in range(12):
            self.child.sendintr()
            if self.child.expect([expected, TIMEOUT], timeout=10) == 0:
                return
        raise AssertionError(f"{expected!r} was not seen: {self.child.before}")

    def until(self, expression: str) -> str:
        """Have a cell wait until something is so; what is printed then."""
        return self.type(f"while not ({expression}): __import__('time').sleep(0.02)")


@pytest.fixture
def terminal(server: ScriptedServer, tmp_path: Path) -> Iterator[Callable[[], Terminal]]:
    try:
        import pexpect  # noqa: F401 - whether it is there
    except ImportError:
        missing("the Python package pexpect")
    if os.name != "posix":
        pytest.skip("there are no pseudo-terminals here")
    started: list[Terminal] = []

    def start() -> Terminal:
        started.append(Terminal(tmp_path, server))
        return started[-1]

    yield start
    for each in started:
        each.child.close(force=True)


def interrupted(session: Terminal) -> str:
    """What an interrupt of a wait prints."""
    for _ in range(20):
        session.child.sendline("%bgwait three")
        session.child.expect("%bgwait three")
        session.child.sendintr()
        session.child.expect(PROMPT)
        # One that comes before the wait has begun is IPython's own.
        if "Interrupted" in session.child.before:
            break
    return str(session.child.before)


def test_a_session(server: ScriptedServer, terminal: Callable[[], Terminal]) -> None:
    """One line at submission and one after the end, the line magics as text, an interrupt that ends a wait alone, and an exit that says what goes on; the next session picks that up."""
    first = terminal()
    server.polls = 10**6
    assert first.type("%load_ext bgmagic") == ""
    assert first.ask("-o one") == (
        "one: sent to gpt-5.2 in the background; %bgwait one waits for it"
    )
    server.polls = 3
    assert re.fullmatch(r"one: completed after \d+ s", first.until("isinstance(one, str)"))
    assert first.type("one") == "Out[4]: the answer"  # the end is told once
    assert "one       completed  gpt-5.2" in first.type("%bgjobs")
    first.ask("-o two --quiet")
    assert re.fullmatch(r"two: completed after \d+ s", first.type("%bgwait two"))
    assert first.type("%bgwait") == "No job is open."

    server.polls = 10**6
    first.ask("-o three -e high")
    assert first.until("three.running()") == ""
    assert "Interrupted: not waiting any longer; still going on: three" in interrupted(first)
    assert first.type("%bgcancel three") == "three: the server is asked to cancel it"
    assert re.match(r"three: cancelled after \d+ s", first.type("%bgwait three"))

    first.ask("-o four --poll 80")
    assert first.until("four.response_id") == ""
    first.child.sendline("exit")
    first.child.expect(first.ended)
    assert first.said(1) == (
        "bgmagic: 1 job is still at work at the server: four. In another kernel, %load_ext bgmagic, "
        "then %bgattach four"
    )

    second = terminal()
    assert second.type("%load_ext bgmagic") == (
        "1 job is still open from this folder: four. %bgattach --all follows them."
    )
    assert re.match("four: (queued|in progress) after", second.type("%bgattach four"))
    server.polls = 0
    assert re.fullmatch(r"four: completed after \d+ s", second.until("isinstance(four, str)"))
    assert server.count("create") == 4


def test_an_answer_can_do_nothing_to_the_terminal(
    server: ScriptedServer, terminal: Callable[[], Terminal]
) -> None:
    """Control sequences in an answer are written out where it is shown; the text itself has them."""
    text = "a\x1b]0;title\x07 b\x1b[2J c\x9b31m"
    server.ending = lambda rid, _: response(rid, "completed", text)
    session = terminal()
    session.type("%load_ext bgmagic")
    session.ask("-o one")
    session.until("isinstance(one, str)")
    for cell in ("one", "%bgjobs one"):
        shown = session.type(cell)
        assert r"a\x1b]0;title\x07 b\x1b[2J c\x9b31m" in shown
        assert not set(shown) & set("\x1b\x07\x9b")
    assert session.type("one.encode()").endswith(repr(text.encode()))


def test_a_call_is_asked_about_at_the_prompt(
    terminal: Callable[[], Terminal], server: ScriptedServer
) -> None:
    """A call of a function that asks is a question before the next prompt: y runs it, anything else
    denies it."""
    from tests.runtime.test_calls import calling, outputs

    server.ending = lambda rid, body: (
        response(rid, "completed", "Done.") if outputs(body) else calling(rid, [("add", {"a": 2})])
    )
    started = terminal()
    started.type("%load_ext bgmagic")
    started.type("def add(a: int) -> int: return a + 1", "")
    for name, said, told in (("x", "y", "('done', '3')"), ("z", "", "('denied',")):
        started.ask(f"-o {name} --tool $add --ask")
        asked = f"{name}.steps and {name}.steps[0].status == 'asking'"
        started.child.sendline(f"while not ({asked}): __import__('time').sleep(0.02)")
        started.child.expect(r"its model wants to call add\(\{\"a\": 2\}\) \[y/N\] ")
        started.child.sendline(said)
        started.child.expect(PROMPT)
        started.until(f"isinstance({name}, str)")
        assert told in started.type(f"{name}.steps[0].status, {name}.steps[0].output")
    # A cell that waits by itself says that its job asks; the next one asks before it runs.
    started.child.sendline(
        "import bgmagic; w = bgmagic.submit('Go', tool=add, ask=True); w.result()"
    )
    started.child.expect(r"its model wants to call add\(.*: an interrupt \(Ctrl\+C\) ends")
    started.child.sendintr()
    started.child.expect(r"its model wants to call add\(.*\[y/N\] ")
    started.interrupt(PROMPT)
    started.child.sendline("w.result().upper()")
    started.child.expect(r"its model wants to call add\(.*\[y/N\] ")
    started.child.sendline("y")
    started.child.expect("'DONE.'")
    started.child.expect(PROMPT)


def test_calls_while_a_cell_waits(terminal: Callable[[], Terminal], server: ScriptedServer) -> None:
    """A cell that waits asks about the calls of its job, once each, and runs on its own thread what
    has to run there; where nobody answers it waits no longer."""
    from tests.runtime.test_calls import calling, outputs

    asked = [("where", {"n": 1}), ("where", {"n": 2})]
    server.ending = lambda rid, body: (
        response(rid, "completed", "Done.") if outputs(body) else calling(rid, asked)
    )
    ipython = terminal()
    ipython.type("%load_ext bgmagic")
    ipython.type("%config BgMagics.tools_on_main_thread = True")
    define = "def where(n: int): return str(t.current_thread() is t.main_thread())"
    ipython.type(f"import threading as t; exec({define!r})")
    for line in ("%%bgresponse -o a --tool $where --ask --wait", "Where?", "", ""):
        ipython.child.sendline(line)
    for word in ("y", "n"):
        ipython.child.expect(r"wants to call where\(.*\[y/N\] ")
        ipython.child.sendline(word)
    ipython.child.expect(PROMPT)
    assert "wants to call" not in ipython.said(1)
    how = ipython.type("[s.status for s in a.steps], a.steps[0].output")
    assert "(['done', 'denied'], 'True')" in how
    for line in ("%%bgresponse -o b --tool $where --ask --wait", "And now?", "", ""):
        ipython.child.sendline(line)
    ipython.child.expect(r"wants to call where\(.*\[y/N\] ")
    ipython.interrupt("not waiting any longer; still going on: b")
