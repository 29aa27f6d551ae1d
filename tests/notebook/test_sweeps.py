"""A sweep in real kernels: what its user reads, and kernels killed in the middle of one."""

# ruff: noqa: F811 - fixtures of another file are used by their names
from __future__ import annotations

import threading
from pathlib import Path

from tests.jobs.test_group import echo, letter, prompts
from tests.jobs.test_job import eventually
from tests.notebook.test_attach import Start, journal, kill, start  # noqa: F401
from tests.support.kernels import Kernel
from tests.support.scripted import Script, ScriptedServer, response


def test_what_its_user_reads(in_kernel: Kernel, server: ScriptedServer) -> None:
    """One cell gives one board, beside it a line, and a group in the variable; the line magics take it
    by its name or one job of it; wrong input is one line and sends nothing."""
    kernel = in_kernel
    server.ending = lambda rid, body: (
        response(rid, "failed", error={"message": "no luck"})
        if letter(body) == "c"
        else echo(rid, body)
    )
    kernel.ok("table = {'one': 'a', 'two': 'b', 'three': 'c'}; item = 'mine'")
    server.polls = 10**6
    sent = kernel.ok("%%bgresponse -o x --each table --sweep effort=low,high\nSay {{ item }}")
    assert [sorted(display) for display in sent.displays] == [
        [
            "application/vnd.bgmagic.live+json",
            "application/vnd.jupyter.widget-view+json",
            "text/plain",
        ],
        ["text/html", "text/plain"],
    ]
    assert sent.displays[0]["text/plain"] == "x: 6 jobs sent"  # as it is saved: true for ever
    assert "x: 6 jobs, begun" in sent.displays[1]["text/plain"]
    server.polls = 0
    waited = kernel.ok("%bgwait x")
    assert "x: 6 jobs, 4 completed, 2 failed" in waited.stdout
    assert "x['three'][0]: no luck" in waited.stdout
    assert kernel.value("(type(x).__name__, x['one'], item)") == (
        "('JobDict', ['re: Say a', 're: Say a'], 'mine')"
    )
    shown = kernel.ok("%bgjobs x").displays[0]["text/html"]
    assert "4 completed, 2 failed" in shown
    assert "x.retry_failed() sends them again" in shown
    assert "x['three'][0]: failed" in kernel.ok("%bgwait x['three'][0]").stdout
    assert "nothing to cancel" in kernel.ok("%bgcancel x").stdout
    # Running.
    server.polls = 10**6
    kernel.ok("%%bgresponse -o y --n 5 --max-in-flight 2 --quiet\nSay b")
    kernel.until("y.running()")
    again = kernel.ok("%%bgresponse -o y --n 5 --max-in-flight 2 --quiet\nSay b").stdout
    assert again == "y: 5 of 5 jobs are there already and were joined; --again sends all anew\n"
    assert kernel.ok("%bgcancel y").stdout == "y: 5 jobs are cancelled, or asked to be\n"
    kernel.until("y.done()")  # a poll that came before a cancel would find it completed
    server.polls = 0
    assert "y: 5 jobs, 5 cancelled" in kernel.ok("%bgwait y").stdout
    # Nothing is sent.
    before = server.count("create")
    for cell, says in {
        "%%bgresponse --each nothing\n{{ item }}": "there is no variable 'nothing'",
        "%%bgresponse --each table --sweep efort=low\n{{ item }}": "did you mean effort?",
        "%%bgresponse --each table --sweep effort\n{{ item }}": "--sweep effort=low,high",
        "%%bgresponse --each table --n none\n{{ item }}": "it must be a whole number",
        "%%bgresponse --n 101\nSay b": "these are 101 jobs: ",
        "%%bgresponse --each table\nSay b": "--n 3 instead",
        "%%bgresponse\nSay {{ items }}": "there is no variable 'items'",
        "%%bgresponse --each table --raw\n{{ item }}": "--raw leaves {{ item }} as it stands, so",
        "%%bgresponse --sweep store=true,false\nSay b": "--sweep store can't be set",
        "%%bgresponse --yes 3\nSay b": "--yes 3: this is 1 job",
        "%%bgresponse -c x\nSay b": "--continue x: it holds a group; one of its answers",
        "%%bgresponse -c x['one'][0]\nSay b": "-c x[one][0] -o NAME",
    }.items():
        ran = kernel.run(cell)
        assert ran.status == "error"
        assert says in ran.said
        assert ran.said.startswith("UsageError: ")
        assert len(ran.said.splitlines()) == 1
    dry = kernel.ok("%%bgresponse --each table --dry-run\nSay {{ item }}").stdout
    assert dry.startswith("3 jobs: no price known")
    assert '"text": "Say a' in dry
    kernel.ok("%config BgMagics.confirm_above = 2")
    assert "--yes 3 agrees" in kernel.run("%%bgresponse --n 3\nSay b").said
    assert server.count("create") == before
    # From Python, in the same notebook.
    kernel.ok("import bgmagic; bgmagic.map('{{ item }}', ['b'], out='z'); z.result(120)")
    assert kernel.value("_bg is z") == "True"


def test_killed_in_the_middle(start: Start, server: ScriptedServer) -> None:
    """kill -9 in the middle of a sweep: the next kernel says so, and %bgattach NAME gives the whole of
    it; what was sent is not sent again, what was not is sent, what was being sent is unknown."""
    hold = threading.Event()
    server.ending = lambda rid, body: (
        echo(rid, body) if letter(body) in "abc" else response(rid, "in_progress")
    )
    server.choose = lambda kind: (
        Script(hold=hold) if kind == "create" and server.count("create") == 6 else Script()
    )
    cell = "%%bgresponse -o x --each letters --max-in-flight 3\nSay {{ item }}"
    with start() as first:
        first.ok("letters = list('abcdefghij')")
        first.ok(cell)
        held = {"completed": 3, "submitting": 1, "waiting": 4}
        first.until(f"all(x.counts.get(status) == n for status, n in {held}.items())")
        eventually(lambda: server.count("create") == 6)  # a moment after it is written down
        kill(first)
    server.choose, server.ending = lambda kind: Script(), echo
    asked = sorted(prompts(server))
    assert len(asked) == 6
    with start() as second:
        assert "7 jobs are still open from this notebook: x (7 jobs)" in second.greeting
        second.ok("%bgattach x")
        second.until("x.done()")
        assert second.value("x.counts") == "{'completed': 9, 'unknown': 1}"
        assert second.value("[x[0], x[9]]") == "['re: Say a', 're: Say j']"
        assert second.value("[job.status for job in x.failed]") == "['unknown']"
        assert second.value("len(x.retry_failed())") == "0"
        assert "x: 10 jobs" in second.ok("%bgwait x").stdout
        second.ok("letters = list('abcdefghij')")
    assert sorted(prompts(server)) == [f"Say {each}" for each in "abcdefghij"]
    hold.set()
    # Nothing is open any more: the same cell asks anew, or with --reuse only what has no answer.
    with start() as third:
        assert third.greeting == ""
        third.ok("letters = list('abcdefghij')")
        said = third.ok(cell.replace("-o x", "-o x --reuse")).said
        assert "9 of 10 jobs are there already" in said
        assert "may have been" not in said
        third.until("x.done()")
        assert third.value("x.counts") == "{'completed': 10}"
    eventually(lambda: server.count("create") == 11)


def test_a_group_and_its_jobs_by_name(start: Start, server: ScriptedServer) -> None:
    """The line magics and --continue take a job of a group by the name that Python has for its answer,
    and a group by its name also when its variable holds something else, or in a later kernel."""
    server.ending = lambda rid, body: (
        response(rid, "in_progress") if letter(body) == "c" else echo(rid, body)
    )
    with start() as first:
        first.ok("import bgmagic; table = {'one': 'a', (2, 3): 'b'}; letters = list('abc')")
        first.ok("%%bgresponse -o x --each table --n 2 --quiet\nSay {{ item }}")
        first.ok("%%bgresponse -o y --each letters --quiet\nSay {{ item }}")
        first.ok("%bgwait x")
        assert first.value("[eval(job.name) is job.result() for job in x.jobs]") == repr([True] * 4)
        told = first.ok("%bgjobs x['one'][1]").displays[0]["text/plain"]
        assert told.startswith("x['one'][1]: completed")
        assert "x[(2, 3)][0]: completed" in first.ok('%bgwait "x[(2, 3)][0]"').stdout
        first.ok("%%bgresponse -o more -c x['one'][1]\nAnd d")
        first.ok("%bgwait more")
        assert first.value("len(more.job.request.body['input'])") == "3"
        first.ok("y = 5")
        assert "y: 3 jobs, " in first.ok("%bgjobs y").stdout
        first.until("[job.done() for job in bgmagic.jobs()[4:7]] == [True, True, False]")
        assert first.ok("%bgcancel y").stdout == "y[2]: the server is asked to cancel it\n"
        assert "y: 3 jobs, 2 completed, 1 cancelled" in first.ok("%bgwait y").stdout
    with start() as second:
        assert "<JobGroup x 4 jobs: 4 completed>" in second.ok("%bgjobs x").said
        assert "2 completed, 1 cancelled" in second.ok("%bgjobs y").said
        assert "Say a" in second.ok("%bgjobs x['one'][0]").said
        second.ok("%bgattach x['one'][1] -o one")
        assert second.value("one") == "'re: Say a'"
        assert "no job 'z'" in second.run("%bgjobs z").said
        assert second.ok("%bgjobs --forget y").stdout == "3 jobs that had ended are forgotten.\n"
        assert "no job 'y'" in second.run("%bgjobs y").said


def test_what_a_later_kernel_is_told_to_do(start: Start, server: ScriptedServer) -> None:
    """The line beside a board or a card names commands that work in a later kernel: an unchosen name is
    known to none; while others still run, a group is told in a line instead of a board that stands still."""
    server.polls = 10**6
    with start() as first:
        first.ok("from bgmagic.submission.app import app")
        first.ok("%%bgresponse -o x --n 2\nSay a")
        group = first.ok("%%bgresponse --n 1\nSay b").said
        single = first.ok("%%bgresponse\nSay c").said
        first.until("all(job.status == 'in_progress' for job in __import__('bgmagic').jobs())")
        first.ok("%%bgresponse -o needs --n 2 --quiet\nSay {{ x }}")
        first.until("len(app.manager.store.journal.entries()) == 6")
        kill(first)
    assert ": 1 job, begun" in group
    for said in (group, single):
        assert "Later %bgjobs shows" in said
        assert "%bgattach --all follows" in said
    with start() as second:
        told = second.ok("%bgjobs x").stdout
        assert told.startswith("x: 2 jobs, 2 in_progress")
        assert "%bgattach x" in told
        assert second.value("'x' in dir()") == "False"
        # What others need is followed with them, and has its variable with all the rest.
        second.ok("%bgattach needs")
        server.polls = 0
        second.until("needs.done()")
        assert second.value("'x' in dir()") == "False"
        second.ok("%bgattach --all")
        assert second.value("list(x)") == "['the answer', 'the answer']"
        second.until("[group.done() for group in (x, needs)] == [True, True]")


def test_attached_all_and_under_another_name(start: Start, server: ScriptedServer) -> None:
    """%bgattach --all takes up a group with everything else; a taken name is one line, -o gives it
    another."""
    server.polls = 10**6
    with start() as first:
        first.ok("%%bgresponse -o x --n 3 --max-in-flight 2\nSay b")
        first.ok("%%bgresponse -o single\nSay a")
        first.until("sum(job.running() for job in x.jobs) == 2 and single.running()")
        kill(first)
    server.polls = 0
    with start() as second:
        assert "x (3 jobs)" in second.greeting
        assert "single" in second.greeting
        second.ok("x = 5")
        ran = second.run("%bgattach x")
        assert "x holds something else; %bgattach x -o OTHER" in ran.said
        said = second.ok("%bgattach --all").said
        assert "x holds something else" in said
        second.ok("%bgattach x[1] -o one")
        second.until("isinstance(one, str)")
        second.ok("%bgattach x -o mine")
        second.until("mine.done() and isinstance(single, str)")
        assert second.value("(x, list(mine))") == "(5, ['the answer', 'the answer', 'the answer'])"
    assert server.count("create") == 4


def test_export_of_a_notebook(start: Start, server: ScriptedServer, tmp_path: Path) -> None:
    """export() has the jobs of earlier kernels too."""
    server.ending = echo
    with start() as first:
        first.ok("%%bgresponse -o x --n 2\nSay a")
        first.ok("%bgwait x")
    with start() as second:
        second.ok("%%bgresponse -o y\nSay b")
        second.ok("%bgwait y")
        path = tmp_path / "out.jsonl"
        assert second.value(f"__import__('bgmagic').export({str(path)!r})") == "3"
    assert [line.count("re: Say") > 0 for line in path.read_text().splitlines()] == [True] * 3
