"""Prompts in a notebook: expressions, waiting, conversations and dry runs in real kernels."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NOTEBOOK
from tests.notebook.test_attach import Start, journal, kill, start
from tests.support.kernels import Kernel, kernel
from tests.support.scripted import Script, ScriptedServer, response

__all__ = ["journal", "start"]  # fixtures


def question(body: Any) -> str:
    return str(body["input"][-1]["content"][0]["text"]).strip()


def bodies(server: ScriptedServer) -> list[Any]:
    return [seen.body for seen in list(server.seen) if seen.kind == "create"]


@pytest.fixture
def echo(server: ScriptedServer) -> ScriptedServer:
    """The scripted server, answering "re: " and the question."""
    server.ending = lambda rid, body: response(rid, "completed", f"re: {question(body)}")
    return server


def test_expressions_in_a_cell(in_kernel: Kernel, echo: ScriptedServer) -> None:
    """{{ }} takes the notebook's variables, single braces pass, --raw leaves all alone; what is wrong is
    one line that quotes the place, and nothing is sent."""
    in_kernel.ok("proof = 'a {{ b }} c'; names = ['x', 'y']")
    in_kernel.ok("%%bgresponse -o one --wait\n{\"j\": 1} {{ proof }} {{ names | join('+') }} $x$")
    in_kernel.ok("%%bgresponse -o two --wait --raw\n{{ proof }}")
    assert [question(body) for body in bodies(echo)] == [
        '{"j": 1} a {{ b }} c x+y $x$',
        "{{ proof }}",
    ]
    for cell, told in (
        (
            "\nfine\n{{ prof }}",
            "line 2, {{ prof }}: there is no variable 'prof' in this notebook (did",
        ),
        ("\n\\frac{{a}}{b}", "no variable 'a' in this notebook; a literal {{ needs --raw"),
        ("\n{{ names", "this {{ has no }}; a literal {{ needs --raw"),
        ("\n{{ 1/0 }}", "ZeroDivisionError: division by zero"),
        (" -c nosuch\nx", "there is no variable 'nosuch', and no job of that name"),
        (" -c names\nx", "--continue names: it holds a list, no answer"),
    ):
        ran = in_kernel.run(f"%%bgresponse -o three{cell}")
        assert ran.stderr.startswith("UsageError: ")
        assert told in ran.stderr
        assert ran.stderr.count("\n") == 1
    assert len(bodies(echo)) == 2
    assert in_kernel.value("'three' in globals()") == "False"


def test_chain_of_cells(in_kernel: Kernel, echo: ScriptedServer) -> None:
    """Cells that need the answers of cells before them run at once; each shows what it waits for and is
    sent when that is there; run again meanwhile, they join."""
    echo.polls = 10**6
    cells = [
        "%%bgresponse -o one\nfirst",
        "%%bgresponse -o two -e low\n2 {{ one }}",
        "%%bgresponse -o three\n3 {{ two }} {{ one | upper }}",
    ]
    for cell in cells:
        in_kernel.ok(cell)
    assert in_kernel.value("repr(three)").startswith("'<Job three waiting for two, one ")
    assert in_kernel.value("two.card.view['message']") == "'Waiting for one'"
    for cell in cells:
        assert "joined; --again sends it anew" in in_kernel.ok(cell).stdout
    told = in_kernel.run("n = 2\n%%bgresponse -o four\n{{ one[:n] }}".replace("n = 2\n", "")).stderr
    assert "there is no variable 'n'" in told
    in_kernel.ok("n = 2")
    assert "give n braces of its own" in in_kernel.run("%%bgresponse -o four\n{{ one[:n] }}").stderr
    echo.polls = 0
    in_kernel.until("isinstance(three, str)")
    assert in_kernel.value("str(three)") == "'re: 3 re: 2 re: first RE: FIRST'"
    assert len(bodies(echo)) == 3


def test_conversation_in_cells(in_kernel: Kernel, echo: ScriptedServer) -> None:
    """-c goes on with a conversation in the same variable, also while its last turn still runs; a cell
    that is run twice meanwhile asks once; a failed turn is gone back over, and that is told."""
    in_kernel.ok("%%bgresponse -o chat --wait -i brief\none")
    echo.polls = 10**6
    in_kernel.ok("%%bgresponse -c chat\ntwo")
    in_kernel.until("chat.running()")
    assert "joined" in in_kernel.ok("%%bgresponse -c chat\ntwo").stdout
    in_kernel.ok("%%bgresponse -c chat\nthree")
    assert in_kernel.value("repr(chat)").startswith("'<Job chat waiting for chat ")
    assert in_kernel.value("chat.card.view.get('earlier', '')") == "''"
    assert "joined" in in_kernel.ok("%%bgresponse -c chat\nthree").stdout
    echo.polls = 0
    in_kernel.until("isinstance(chat, str)")
    # The user's turns are lists of parts, the assistant's plain text.
    said = (
        "[(c if isinstance(c, str) else c[0]['text']).strip() "
        "for c in (turn['content'] for turn in chat.conversation)]"
    )
    spoken = ["one", "re: one", "two", "re: two", "three", "re: three"]
    assert in_kernel.value(said) == repr(spoken)
    assert [body.get("instructions") for body in bodies(echo)] == ["brief"] * 3
    usual = echo.ending
    echo.ending = lambda rid, _: response(rid, "failed")
    in_kernel.ok("%%bgresponse -c chat --wait\nfour")
    echo.ending = usual
    ran = in_kernel.ok("%%bgresponse -c chat --wait\nfive")
    assert "chat is failed; this goes on from the answer before it" in ran.stdout
    assert in_kernel.value(said) == repr([*spoken, "five", "re: five"])
    in_kernel.ok("%%bgresponse -c chat -o branch --wait\nsix")
    assert in_kernel.value("(len(chat.conversation), len(branch.conversation))") == "(8, 10)"
    for key in ("conversation", "previous_response_id"):
        ran = in_kernel.run(f"%%bgresponse -c chat -o branch --param {key}=x_1\nseven")
        assert f"--param {key} and --continue both give the turns before" in ran.said
    assert "seven" not in str(bodies(echo)[-1])


def test_dry_run(in_kernel: Kernel, echo: ScriptedServer) -> None:
    """--dry-run shows the request as JSON, what was put in and what it waits for; nothing is sent, no
    variable is bound, and no key is shown."""
    echo.polls = 10**6
    in_kernel.ok("import os; proof = 'p' * 1200; key = os.environ['OPENAI_API_KEY']")
    in_kernel.ok("%%bgresponse -o one\nfirst")
    in_kernel.until("one.running()")
    ran = in_kernel.ok("%%bgresponse -o two --dry-run -e low\n{{ proof }} {{ one }} {{ key }}")
    head, _, rest = ran.stdout.partition("\n")
    body, end = json.JSONDecoder().raw_decode(rest)
    assert head == "Nothing is sent. POST /responses would get:"
    assert body["background"] is True
    assert body["reasoning"] == {"effort": "low"}
    assert question(body) == f"{'p' * 1200} {{{{ one }}}} [secret]"
    about = rest[end:]
    assert "line 1, {{ proof }}: 1,200 characters put in" in about
    assert "It would wait for one" in about
    assert in_kernel.value("'two' in globals()") == "False"
    in_kernel.ok(
        "import tiktoken\n"
        "ranks = {bytes([n]): n for n in range(256)}\n"
        "made = tiktoken.Encoding('o200k_base', pat_str='.', mergeable_ranks=ranks, special_tokens={})\n"
        "tiktoken.registry.ENCODINGS['o200k_base'] = made"
    )
    assert "About 3 tokens" in in_kernel.ok("%%bgresponse --dry-run -i ab\nx").stdout
    told = in_kernel.ok("%%bgresponse --dry-run -m nosuch\nx").stdout
    assert "tokens go in; no price known for nosuch" in told
    assert len(bodies(echo)) == 1


def test_chain_outlives_its_kernel(start: Start, echo: ScriptedServer) -> None:
    """A kernel killed in the middle of a chain of ten: the next one attaches all, and each link is sent
    once, with the answer before it."""
    echo.polls = 0
    usual = echo.ending
    echo.ending = lambda rid, body: response(
        rid, "in_progress" if question(body)[0] == "4" else "completed", f"re: {question(body)}"
    )
    with start() as first:
        first.ok("%%bgresponse -o a0\n0")
        for n in range(1, 10):
            first.ok(f"%%bgresponse -o a{n}\n{n} {{{{ a{n - 1} }}}}")
        first.until("isinstance(a3, str) and a4.status == 'in_progress'")
        kill(first)
    echo.ending = usual
    with start() as second:
        assert "6 jobs are still open from this notebook" in second.greeting
        second.ok("%bgattach --all")
        second.until("isinstance(a9, str)")
        expected = "re: " + " re: ".join(str(n) for n in range(9, -1, -1))
        assert second.value("str(a9)") == repr(expected)
    assert [question(body)[0] for body in bodies(echo)] == list("0123456789")


def test_forgetting_keeps_what_is_needed(start: Start, echo: ScriptedServer) -> None:
    """%bgjobs --forget keeps the answers that open jobs need, and says so; when these have ended, too, all
    are forgotten."""
    echo.polls = 10**6
    with start() as first:
        first.ok("%%bgresponse -o slow\nslow")
        first.ok("%%bgresponse -o fast\nfast")
        first.ok("%%bgresponse -o both\n{{ slow }} {{ fast }}")
        first.ok("%%bgresponse -c fast -o turn\nnext {{ slow }}")
        first.until("fast.running() and slow.running()")
        first.ok(KEPT)
        fast = first.value("fast.response_id").strip("'")
        echo.by_id[fast] = Script(json=response(fast, "completed", "re: fast"))
        first.ok("%bgwait fast")
        first.until("len(kept()) == 4")
        kill(first)
    with start() as second:
        said = second.ok("%bgjobs fast --forget\n%bgjobs --forget").stdout.splitlines()
        kept = "1 more are kept: open jobs need their answers."
        assert said == ["0 jobs that had ended are forgotten.", kept] * 2
        second.ok("%bgattach --all")
        echo.polls = 0
        second.ok("%bgwait")
        assert second.value("str(both)") == "'re: re: slow re: fast'"
        assert second.ok("%bgjobs --forget").stdout == "4 jobs that had ended are forgotten.\n"


def test_turns_of_a_conversation_are_attached(start: Start, echo: ScriptedServer) -> None:
    """Of a conversation whose turns were all open, %bgattach --all gives the variable to the last one, and
    has those before it followed; also if they are followed for another cell already."""
    echo.polls = 10**6
    with start() as first:
        for n in (1, 2, 3):
            first.ok(f"%%bgresponse -{'o' if n == 1 else 'c'} chat\n{n}")
        first.ok(KEPT)
        first.until("len(kept()) == 3 and kept()[-1].response_id")
        kill(first)
    with start() as second:
        said = second.ok("%bgattach --all").said
        assert "is taken" not in said
        second.until("chat.record.waits_for")
        second.ok("%%bgresponse -c chat -o branch\n4")
        second.ok(KEPT)
        second.until("len(kept()) == 4")
        kill(second)
    with start() as third:
        third.ok("%bgattach branch")
        third.until("len(__import__('bgmagic').jobs()) == 4")
        assert third.value("'chat' in globals()") == "False"
        third.ok("%bgattach --all")
        echo.polls = 0
        third.until("isinstance(chat, str) and isinstance(branch, str)")
        assert third.value("(str(chat), len(chat.conversation))") == "('re: 3', 6)"
        assert third.value("(str(branch), len(branch.conversation))") == "('re: 4', 8)"
    assert [question(body) for body in bodies(echo)] == ["1", "2", "3", "4"]


KEPT = "from bgmagic.submission.app import app\nkept = app.manager.store.journal.entries"


def test_run_all_again_after_a_restart(start: Start, echo: ScriptedServer) -> None:
    """A chain whose cells are run again in a new kernel joins what is open instead of paying again."""
    echo.polls = 10**6
    cells = ["%%bgresponse -o a\n1", "%%bgresponse -o b\n2 {{ a }}", "%%bgresponse -c b\n3"]
    with start() as first:
        for cell in cells:
            first.ok(cell)
        first.ok(KEPT)
        first.until("a.running() and len(kept()) == 3")
        kill(first)
    with start() as second:
        for cell in cells:
            assert "joined" in second.ok(cell).stdout
        echo.polls = 0
        second.until("isinstance(b, str)")
        assert second.value("b.conversation[-1]['content']") == "'re: 3'"
    assert len(bodies(echo)) == 3


def test_chain_of_ten_on_the_embedded_model(embedded: dict[str, str], tmp_path: Path) -> None:
    """Ten prompts that build on each other, all run at once on a real model, end one after another."""
    where = {"BGMAGIC_JOURNAL": str(tmp_path / "j.sqlite3"), "JPY_SESSION_NAME": NOTEBOOK}
    with kernel(BGMAGIC_POLL="0.2", **embedded, **where) as running:
        running.ok("%load_ext bgmagic\n%bglocal")
        running.ok(
            "%%bgresponse -o a0 --max-output-tokens 24\nName an animal in one short sentence."
        )
        for n in range(1, 10):
            cell = f"%%bgresponse -o a{n}\nRepeat this sentence in other words: {{{{ a{n - 1} }}}}"
            running.ok(cell.replace(f"-o a{n}", f"-o a{n} --max-output-tokens 60"))
        running.ok("%bgwait", limit=200)
        said = running.value("[type(globals()[f'a{n}']).__name__ for n in range(10)]")
        assert set(json.loads(said.replace("'", '"'))) <= {"Answer", "Job"}
        jobs = running.value("[job.status for job in __import__('bgmagic').jobs()]")
        assert "waiting" not in jobs
        assert "in_progress" not in jobs
        running.ok("records = [job.record for job in __import__('bgmagic').jobs()]")
        times = "[(r.accepted_at, r.ended_at) for r in records if r.accepted_at is not None]"
        pairs = json.loads(running.value(times).replace("(", "[").replace(")", "]"))
        assert len(pairs) > 1
        assert all(then >= ended for (_, ended), (then, _) in itertools.pairwise(pairs))
