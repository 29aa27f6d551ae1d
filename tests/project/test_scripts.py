"""Plain Python and asyncio, each a process of its own, without a notebook."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import KEY
from tests.support.kernels import kernel
from tests.support.scripted import Script, ScriptedServer

# A script that submits, and ends as soon as this is no longer so.
UNTIL = """
import time, bgmagic
job = bgmagic.submit("Why?")
while {}:
    time.sleep(0.01)
"""


# On a busy machine importing the SDK takes longer than a script that ends waits for.
PATIENT = "from bgmagic.runtime import manager; manager.SCRIPT_GRACE = 120.0\n"


def run(code: str, server: ScriptedServer, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    # By a name, since resolving one is what no longer works in a handler of atexit.
    ours = {"OPENAI_BASE_URL": server.base_url.replace("127.0.0.1", "localhost")}
    ours |= {"OPENAI_API_KEY": KEY, "BGMAGIC_JOURNAL": str(folder / "j.sqlite3")}
    ours |= {"BGMAGIC_POLL": "0.05"}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env={**os.environ, **ours}, capture_output=True, text=True, timeout=240, check=True
    )


def test_without_ipython(server: ScriptedServer, tmp_path: Path) -> None:
    """A script and an asyncio program get their answers, IPython is never imported, and there is nothing to say at the end."""
    ran = run(
        "import asyncio, sys, bgmagic\n"
        "print(bgmagic.submit('one').result(240))\n"
        "async def main():\n"
        "    print(await asyncio.gather(bgmagic.submit('two'), bgmagic.submit('three')))\n"
        "asyncio.run(main())\n"
        "print([m for m in ('IPython', 'ipywidgets', 'ipykernel') if m in sys.modules])\n",
        server, tmp_path,
    )  # fmt: skip
    assert ran.stdout.splitlines() == ["the answer", "['the answer', 'the answer']", "[]"]
    assert ran.stderr == ""


@pytest.mark.skipif(
    not (3, 12) <= sys.version_info < (3, 12, 2), reason="other Pythons send it as they end"
)
def test_script_that_ends_at_once_is_told_why(server: ScriptedServer, tmp_path: Path) -> None:
    """Where Python starts no thread at its end, the last words say why the job was not sent, and what helps."""
    ran = run("import bgmagic; bgmagic.submit('Why?')", server, tmp_path)
    assert "1 job is unsent and written down nowhere" in ran.stderr
    assert "3.12.2 does, and job.result() waits before" in ran.stderr
    assert server.count("create") == 0


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2),
    reason="these start no thread as a process ends (CPython issue 113964)",
)
def test_script_that_ends_at_once(server: ScriptedServer, tmp_path: Path) -> None:
    """What was submitted just before the end of a script is sent, once, and another kernel follows it as the last words say."""
    server.polls = 10**6
    ran = run(PATIENT + "import bgmagic; bgmagic.submit('Why?', poll=80)", server, tmp_path)
    assert server.count("create") == 1
    assert ran.stderr == (
        "bgmagic: 1 job is still at work at the server: resp_1. In another kernel, %load_ext bgmagic, "
        "then %bgattach resp_1\n"
    )
    server.polls = 0
    where = server.base_url.replace("127.0.0.1", "localhost")
    with kernel(
        OPENAI_API_KEY=KEY, OPENAI_BASE_URL=where, BGMAGIC_JOURNAL=str(tmp_path / "j.sqlite3")
    ) as other:
        other.ok("%load_ext bgmagic")
        other.ok("%bgattach resp_1 -o why")
        other.until("isinstance(why, str)")
    assert server.count("create") == 1


def test_script_that_ends_while_sending(server: ScriptedServer, tmp_path: Path) -> None:
    """A create that the server never answers does not keep the process from ending, and the last words say that the job is unknown."""
    held = threading.Event()
    server.enqueue("create", Script(hold=held))
    try:
        ran = run(UNTIL.format("job.status != 'submitting'"), server, tmp_path)
    finally:
        held.set()
    assert "1 job is unknown, accepted by the server or not: " in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_script_whose_jobs_are_not_written_down_is_told(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """Where the journal can't be used, as in a process that was forked, jobs run all the same, and one line says that they would not survive."""
    fork = """
import os, bgmagic
print(bgmagic.submit("in the parent").result(30), flush=True)
if hasattr(os, "fork") and not (child := os.fork()):
    print(bgmagic.submit("in the child").result(30), flush=True)
    bgmagic.map("{{ item }}", ["a", "b"]).result(30)
    os._exit(0)
os.waitpid(child, 0)
"""
    ran = run(fork, server, tmp_path)
    assert ran.stdout.splitlines() == ["the answer"] * 2
    # Python 3.12 and later warn of forks, too.
    (line,) = (line for line in ran.stderr.splitlines() if line.startswith("bgmagic: "))
    assert "jobs of this process are not written down: this process was forked" in line


def test_script_that_ends_while_its_thread_is_busy(server: ScriptedServer, tmp_path: Path) -> None:
    """Where the thread that sends does not get to it as the script ends, as on a slow disk from which it imports the SDK, the last words say what was not sent."""
    ran = run(
        "import time, bgmagic\n"
        "from bgmagic.runtime import manager, scheduler\n"
        "async def spawn(*_, **__): time.sleep(60)\n"
        "manager.SCRIPT_GRACE, scheduler.JobScheduler.spawn = 0.1, spawn\n"
        "bgmagic.submit('Why?')",
        server, tmp_path,
    )  # fmt: skip
    assert ran.stderr == "bgmagic: 1 job is unsent and written down nowhere: no name.\n"
    assert server.count("create") == 0


def test_script_without_a_server(server: ScriptedServer, tmp_path: Path) -> None:
    """What could not be sent is left to the next kernel, and the last words say so."""
    server.always["create"] = Script(status=429, headers={"retry-after": "60"})
    ran = run(UNTIL.format("job.record.trouble is None"), server, tmp_path)
    assert "to be sent by the next kernel that attaches" in ran.stderr
    assert "%bgattach " in ran.stderr


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2),
    reason="these start no thread as a process ends (CPython issue 113964)",
)
def test_group_of_a_script_that_ends_at_once(server: ScriptedServer, tmp_path: Path) -> None:
    """A group that was submitted just before the end is written down whole, sent by nobody, and sent once by the kernel that attaches it."""
    code = "import bgmagic; bgmagic.map('{{ item }}?', ['Why', 'How'])"
    ran = run(PATIENT + code, server, tmp_path)
    assert server.count("create") == 0
    assert "2 jobs are to be sent by the next kernel that attaches" in ran.stderr
    # Of so many, the handles are made as the script ends.
    many = PATIENT + "import bgmagic; bgmagic.map('{{ item }}?', range(300), yes=300)"
    (tmp_path / "many").mkdir()
    told = run(many, server, tmp_path / "many").stderr
    assert "300 jobs are to be sent by the next kernel that attaches" in told
    assert server.count("create") == 0
    where = server.base_url.replace("127.0.0.1", "localhost")
    with kernel(
        OPENAI_API_KEY=KEY, OPENAI_BASE_URL=where, BGMAGIC_JOURNAL=str(tmp_path / "j.sqlite3"),
        BGMAGIC_POLL="0.05",
    ) as other:  # fmt: skip
        other.ok("%load_ext bgmagic")
        other.ok("%bgattach --all")
        other.until("len(__import__('bgmagic').jobs()) == 2")
        other.ok("%bgwait")
        assert other.value("{j.status for j in __import__('bgmagic').jobs()}") == "{'completed'}"
    assert server.count("create") == 2
