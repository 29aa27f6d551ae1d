"""What a terminal prints of jobs, and that a kernel shows them otherwise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bgmagic.jobs.group import JobList
from bgmagic.jobs.job import Job
from bgmagic.notebook.blocking import MainThread
from bgmagic.notebook.shell import KernelShell, TerminalShell, shell_of
from bgmagic.runtime.manager import JobManager
from bgmagic.submission.app import group_displays
from bgmagic.submission.settings import SubmitSettings
from tests.conftest import asked
from tests.jobs.test_job import LIMIT, SOON
from tests.support.scripted import ScriptedServer


def terminal() -> TerminalShell:
    """The shell of a terminal with nothing in it."""
    ipython: Any = SimpleNamespace(user_ns={}, execution_count=7)
    made = shell_of(ipython, None, MainThread())
    assert isinstance(made, TerminalShell)
    return made


def sent(manager: JobManager, name: str) -> Job:
    return manager.submit(asked("Why?", SubmitSettings()), name=name, poll_interval=SOON)


def test_a_kernel_has_its_own() -> None:
    """What has a kernel is shown widgets, everything else is a terminal."""
    ipython: Any = SimpleNamespace(kernel=object())
    assert isinstance(shell_of(ipython, None, MainThread()), KernelShell)
    assert terminal().numbered_name == "_bg7"


def test_each_end_is_told_once(
    manager: JobManager, pointed: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a terminal a job and a group are a line each when they are sent and one when all of it has ended, unless %bgwait has said so."""
    pointed.polls = 10**6
    shell = terminal()
    one, two, three = (sent(manager, name) for name in ("one", "many[0]", "many[1]"))
    many = JobList("key", "many", [two, three], displays=group_displays)
    shell.tell_sent(one, None, notify=True)
    shell.tell_sent_group(many, lambda: "no price known", notify=True)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "one: sent to gpt-5.2 in the background; %bgwait one waits for it"
    assert said[1].startswith("<JobGroup many 2 jobs: ")
    assert said[1].endswith(", no price known; %bgwait many waits for them")
    shell.after_cell()
    assert capsys.readouterr().out == ""
    pointed.polls = 0
    for job in (one, two, three):
        job.result(LIMIT)
    shell.after_cell()
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == ["one", "many"]
    shell.after_cell()
    assert capsys.readouterr().out == ""
    four = sent(manager, "four")
    shell.tell_sent(four, one, notify=False)
    assert "four: an earlier job for this name goes on: <Job one" in capsys.readouterr().out
    shell.wait_and_tell([four], LIMIT)
    assert capsys.readouterr().out.startswith("four: completed after")
    shell.after_cell()
    assert capsys.readouterr().out == ""


def test_functions_are_found_among_strange_objects() -> None:
    """The namespace is looked through for a function, whatever else is in it and however that takes it."""

    class Proxy:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("working outside of a context")

        def __call__(self) -> None:
            """Look like a function."""

    class Deferred:
        def __getattr__(self, name: str) -> Any:
            return Deferred()

        def __eq__(self, other: object) -> Any:
            return Deferred()

        def __bool__(self) -> bool:
            raise TypeError("a deferred expression has no truth value")

        def __call__(self) -> None:
            """Look like a function."""

    def look() -> None:
        """Look."""

    shell = terminal()
    shell.namespace.update({"look": Deferred(), "p": Proxy(), "d": Deferred(), "mine": look})
    assert shell.function("look") is look
    assert shell.function("web_search") is None
