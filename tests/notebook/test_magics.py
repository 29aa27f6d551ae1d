"""The magics in a real kernel, as a user meets them."""

from __future__ import annotations

import pytest

from tests.conftest import KEY
from tests.support.kernels import Kernel, kernel
from tests.support.scripted import Script, ScriptedServer, response


def test_cell_to_variable(in_kernel: Kernel, server: ScriptedServer) -> None:
    """A cell is sent in background mode, the name holds the job, then the answer."""
    server.polls = 10**6
    ran = in_kernel.ok('%%bgresponse -o critique -e high -i "don\'t be long"\nWhy?')
    assert (ran.stdout, ran.stderr) == ("", "")
    card, line = ran.displays
    assert "application/vnd.jupyter.widget-view+json" in card
    assert "Later %bgjobs critique shows it" in line["text/html"]
    assert in_kernel.value("type(critique).__name__") == "'Job'"
    in_kernel.until("critique.running()")
    server.polls = 0
    in_kernel.until("isinstance(critique, str)")
    assert in_kernel.ok("critique").result == "the answer"
    assert in_kernel.ok("await critique").result == "the answer"
    assert in_kernel.value("critique.upper() + critique.job.name") == "'THE ANSWERcritique'"
    (sent,) = [seen.body for seen in server.seen if seen.kind == "create"]
    assert sent == {
        "model": "gpt-5.2",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Why?\n"}]}],
        "background": True,
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": "high"},
        "instructions": "don't be long",
    }


def test_without_a_name(in_kernel: Kernel) -> None:
    """Without -o the answer is in _bgN, N being the cell's number, and _bg is the newest."""
    in_kernel.ok("%%bgresponse --wait\nfirst")
    number = int(in_kernel.value("get_ipython().execution_count")) - 1
    assert in_kernel.value(f"_bg{number} is _bg") == "True"
    in_kernel.ok("%%bgresponse -o named --wait\nsecond")
    assert in_kernel.value("_bg is named") == "True"
    assert in_kernel.value(f"_bg{number} is named") == "False"


BAD_HEADERS = [
    "-x",
    "critique",
    '-i "abc',
    "-e hgh",
    "--poll 90",
    "-o class",
    "-i $nothing",
    "--messages nothing",
    "--param a={b",
    "--param store=true",
    "--param background=false",
    "--param stream=true",
]


def test_bad_headers_send_nothing(in_kernel: Kernel, server: ScriptedServer) -> None:
    """Each bad header is one line of a UsageError, or for a program an error; it binds no name and sends nothing."""
    for header in BAD_HEADERS:
        ran = in_kernel.run(f"%%bgresponse -o kept {header}\nWhy?")
        assert ran.status == "error", header
        assert ran.said.startswith("UsageError: "), ran.said
        assert len(ran.said.splitlines()) == 1, ran.said
    assert in_kernel.run("%%bgresponse -o kept\n  \n").said.startswith(
        "UsageError: the cell is empty"
    )
    # A program, as papermill, tells of an output of kind error alone.
    in_kernel.names_cells = in_kernel.takes_input = False
    for bad in ("%%bgresponse -o kept -e hgh\nWhy?", "%bgwait nothing"):
        ran = in_kernel.run(bad)
        assert ran.stderr == ""
        assert len(ran.errors) == 1, ran.errors
        assert ran.errors[0].startswith("BadInput: "), ran.errors
    in_kernel.names_cells = in_kernel.takes_input = True
    assert in_kernel.value("'kept' in globals()") == "False"
    assert server.seen == []


def test_no_key_is_one_line(server: ScriptedServer) -> None:
    """Without a key the cell says so in one line; a key put into os.environ works at once."""
    with kernel(OPENAI_BASE_URL=server.base_url, BGMAGIC_POLL="0.1") as started:
        started.ok("%load_ext bgmagic")
        ran = started.run("%%bgresponse -o x\nWhy?")
        assert ran.status == "error"
        assert ran.said.startswith("UsageError: no API key: set OPENAI_API_KEY")
        assert "%bglocal" in ran.said
        assert started.value("'x' in globals()") == "False"
        started.ok(f"import os; os.environ['OPENAI_API_KEY'] = '{KEY}'")
        started.ok("%%bgresponse -o x --wait\nWhy?")
        assert started.value("str(x)") == "'the answer'"


def test_config(in_kernel: Kernel, server: ScriptedServer) -> None:
    """%config sets defaults, also for submit(), and what no option is; a wrong value is one line and changes nothing."""
    in_kernel.ok("%config BgMagics.model = 'gpt-mine'")
    in_kernel.ok("%config BgMagics.effort = 'low'")
    said = in_kernel.run("%config BgMagics.effort = 'hgh'").said
    assert "BgMagics.effort = 'hgh' is not one of" in said
    assert "Traceback" not in said
    in_kernel.ok("%%bgresponse -o a --wait\nWhy?")
    in_kernel.ok("import bgmagic; bgmagic.submit('Why?', effort='high').result(120)")
    in_kernel.ok("%config BgMagics.polls_per_second = 250")
    assert in_kernel.value("bgmagic.public.app._polls_per_second()") == "250.0"
    bodies = [seen.body for seen in server.seen if seen.kind == "create"]
    assert [(b["model"], b["reasoning"]["effort"]) for b in bodies] == [
        ("gpt-mine", "low"),
        ("gpt-mine", "high"),
    ]


def test_errors_are_one_line(in_kernel: Kernel, server: ScriptedServer) -> None:
    """Using a job that is no text, and awaiting one that failed, show one line and no traceback."""
    server.ending = lambda rid, _: response(rid, "failed", error={"code": "c", "message": "Broke."})
    in_kernel.ok("%%bgresponse -o x --wait\nWhy?")
    for use in ("x + 'a'", "x.upper()", "len(x)", "f'{x}'", "await x", "x.result()"):
        said = in_kernel.run(use).said
        assert "c: Broke." in said, said
        assert len(said.splitlines()) == 1, said
    assert in_kernel.ok("x").result.startswith("<Job x failed ")
    assert "Broke." in in_kernel.ok("x.error").result


def test_later_assignment_wins(in_kernel: Kernel, server: ScriptedServer) -> None:
    """A name the user has given to something else is left alone when the job ends."""
    server.polls = 10**6
    in_kernel.ok("%%bgresponse -o x\nWhy?")
    in_kernel.ok("job, x = x, 'mine'")
    server.polls = 0
    in_kernel.until("job.done()")
    assert in_kernel.value("x") == "'mine'"


def test_wait_prints_how_jobs_ended(in_kernel: Kernel, server: ScriptedServer) -> None:
    """%bgwait waits for the named jobs, or all, says how each ended, and obeys --timeout."""
    server.polls = 10**6
    in_kernel.ok("%%bgresponse -o x\nWhy?")
    said = in_kernel.ok("%bgwait --timeout 0.3 x").said
    assert said.startswith("x: ")
    assert said.endswith("not done after 0.3 s; it goes on")
    server.polls = 3
    assert in_kernel.ok("%bgwait").said.startswith("x: completed after ")
    assert in_kernel.ok("%bgwait").said == "No job is open."
    assert in_kernel.ok("%bgwait x").said.startswith("x: completed")
    assert "neither a variable with a job" in in_kernel.run("%bgwait y").said


def test_cancel(in_kernel: Kernel, server: ScriptedServer) -> None:
    """%bgcancel takes names, ids and --all, and says when there is nothing to cancel."""
    server.polls = 10**6
    for name in "abc":
        in_kernel.ok(f"%%bgresponse -o {name}\nWhy?")
        in_kernel.until(f"{name}.running()")
    assert "a: the server is asked" in in_kernel.ok("%bgcancel a").said
    assert "b: the server is asked" in in_kernel.ok("%bgcancel resp_2").said
    in_kernel.until("a.cancelled() and b.cancelled()")
    in_kernel.ok("%%bgresponse -o d\nAfter {{ c }}")
    assert in_kernel.ok("%bgcancel d").stdout == "d: it is not at the server, and is cancelled\n"
    in_kernel.until("d.cancelled()")
    assert "c: the server is asked" in in_kernel.ok("%bgcancel --all").said
    in_kernel.until("c.cancelled()")
    assert in_kernel.ok("%bgcancel --all").said == "No job is open."
    assert "nothing to cancel" in in_kernel.ok("%bgcancel a").said
    assert "name what to cancel" in in_kernel.run("%bgcancel").said
    assert server.count("cancel") == 3


def test_jobs(in_kernel: Kernel) -> None:
    """%bgjobs lists every job, and shows one with its answer."""
    assert "No jobs yet" in in_kernel.ok("%bgjobs").said
    in_kernel.ok("%%bgresponse -o x -e low --wait\nWhy?")
    board, kept = in_kernel.ok("%bgjobs").displays
    assert "application/vnd.jupyter.widget-view+json" in board
    dated, heads, row = kept["text/plain"].splitlines()
    assert dated.startswith("As of 20")
    assert dated.endswith(": 1 job, 1 completed")
    assert heads.split()[:4] == ["variable", "status", "model", "effort"]
    assert row.split()[:4] == ["x", "completed", "gpt-5.2", "low"]
    assert "<td>completed</td>" in kept["text/html"]
    assert "the answer" in in_kernel.ok("%bgjobs x").said
    assert in_kernel.value("[j.name for j in __import__('bgmagic').jobs()]") == "['x']"


def test_submit_binds_a_name_in_a_notebook(in_kernel: Kernel) -> None:
    """bgmagic.submit(out=…) binds the variable as the magic does."""
    in_kernel.ok("import bgmagic; job = bgmagic.submit('Why?', out='x')")
    assert in_kernel.ok("await job").result == "the answer"
    assert in_kernel.value("x == 'the answer' and x.job is job") == "True"


def test_same_cell_again_joins(in_kernel: Kernel, server: ScriptedServer) -> None:
    """Running a cell again while its identical request runs joins it, and --again sends anew."""
    server.polls = 10**6
    cell = "%%bgresponse -o x\nWhy?"
    in_kernel.ok(cell)
    in_kernel.until("x.status == 'in_progress'")
    in_kernel.ok("first = x")
    said = in_kernel.ok(cell).stdout.strip()
    assert said.startswith("x: in_progress after ")
    assert said.endswith("the identical request, joined; --again sends it anew")
    assert in_kernel.value("x is first") == "True"
    assert "joined" in in_kernel.ok(cell.replace("-o x", "--poll 5 -o x")).said
    assert server.count("create") == 1
    for other in ("-o y", "-o x -e low", "-o x --again"):
        assert "joined" not in in_kernel.ok(cell.replace("-o x", other)).said
    in_kernel.until("all(j.running() for j in __import__('bgmagic').jobs())")
    assert server.count("create") == 4
    in_kernel.ok("second = x")
    in_kernel.ok("%%bgresponse -o x\nWhat?")
    shown = in_kernel.value("x.card.view['earlier']")
    assert shown.startswith("'An earlier job for this name goes on (resp_")
    in_kernel.ok("x.card._handle_custom_msg({'action': 'cancel-earlier'}, [])")
    in_kernel.until("second.cancelled() and not x.card.view['earlier']")
    server.polls = 0
    in_kernel.ok("%bgwait")
    assert in_kernel.value("first.status") == "'completed'"


def test_unnamed_cell_again_joins(in_kernel: Kernel, server: ScriptedServer) -> None:
    """An unnamed cell that is run again joins too, and both names get the answer."""
    server.polls = 10**6
    in_kernel.ok("%%bgresponse\nWhy?")
    in_kernel.until("_bg.running()")
    first = int(in_kernel.value("get_ipython().execution_count")) - 2
    assert "joined" in in_kernel.ok("%%bgresponse\nWhy?").said
    server.polls = 0
    in_kernel.ok("%bgwait")
    names = in_kernel.value(
        "[n for n, v in globals().items() if n.startswith('_bg') and v == 'the answer']"
    )
    assert len(names.split(",")) == 3, (first, names)
    assert server.count("create") == 1


def test_submit_without_a_name_never_joins(in_kernel: Kernel, server: ScriptedServer) -> None:
    """bgmagic.submit() without out sends each time; with out it joins as the cell does."""
    server.polls = 10**6
    in_kernel.ok("import bgmagic; a, b = bgmagic.submit('Why?'), bgmagic.submit('Why?')")
    in_kernel.ok("c, d = bgmagic.submit('Why?', out='e'), bgmagic.submit('Why?', out='e')")
    assert in_kernel.value("(a is b, c is d, c is e)") == "(False, True, True)"
    server.polls = 0
    in_kernel.ok("%bgwait")
    assert server.count("create") == 3


def test_unknown_twin_stops(in_kernel: Kernel, server: ScriptedServer) -> None:
    """A cell whose identical request ended as unknown stops with one line; --again sends it."""
    server.enqueue("create", Script(reset="after"))
    in_kernel.ok("%%bgresponse -o x --wait\nWhy?")
    ran = in_kernel.run("%%bgresponse -o x\nWhy?")
    assert ran.said.startswith("UsageError: the very same request ended as unknown")
    assert len(ran.said.splitlines()) == 1
    assert server.count("create") == 1
    in_kernel.ok("%%bgresponse -o x --again --wait\nWhy?")
    assert in_kernel.value("str(x)") == "'the answer'"


def test_unload_and_reload(in_kernel: Kernel, server: ScriptedServer) -> None:
    """Unloading removes the magics and leaves jobs running; loading again brings them back, once."""
    server.polls = 10**6
    in_kernel.ok("%%bgresponse -o x\nWhy?")
    in_kernel.ok("%unload_ext bgmagic")
    assert "not found" in in_kernel.run("%%bgresponse -o y\nWhy?").said
    in_kernel.ok("%load_ext bgmagic")
    in_kernel.ok("%reload_ext bgmagic")
    server.polls = 0
    in_kernel.ok("%bgwait x")
    assert in_kernel.value("str(x)") == "'the answer'"
    threads = "[t.name for t in __import__('threading').enumerate()].count('bgmagic')"
    assert in_kernel.value(threads) == "1"
    configurables = "[type(c).__name__ for c in get_ipython().configurables].count('BgMagics')"
    assert in_kernel.value(configurables) == "1"


def test_load_ext_imports_neither_openai_nor_the_widgets(in_kernel: Kernel) -> None:
    """%load_ext leaves openai, anywidget and nest_asyncio2 for when they are needed."""
    with kernel() as fresh:
        fresh.ok("%load_ext bgmagic")
        loaded = "[m for m in ('openai', 'anywidget', 'nest_asyncio2', 'xllamacpp', 'bgmagic.runtime.manager', 'bgmagic.storage.database') if m in __import__('sys').modules]"
        assert fresh.value(loaded) == "[]"


def test_help_is_complete(in_kernel: Kernel) -> None:
    """%%bgresponse? shows every option and an example."""
    reply = in_kernel.client.inspect("%%bgresponse", reply=True, timeout=60)
    text = reply["content"]["data"]["text/plain"]
    for word in (
        "-o, --out",
        "xhigh",
        "--max-output-tokens",
        "--deadline",
        "%config",
        "critique",
        "--schema Fit",
        "--file $figure",
        "web_search",
    ):
        assert word in text


def test_header_is_not_expanded(in_kernel: Kernel, server: ScriptedServer) -> None:
    """Nothing is expanded but a whole-value $name in the header and {{ }} in the cell."""
    in_kernel.ok("a = 'A'; text = 'T {a} $a'")
    in_kernel.ok("%%bgresponse -i $text --param metadata.x='$a {a}' --wait\n$a {a} {{a}} \\alpha")
    body = server.seen[0].body
    assert body["instructions"] == "T {a} $a"
    assert body["metadata"] == {"x": "$a {a}"}
    assert body["input"][0]["content"][0]["text"] == "$a {a} A \\alpha\n"


def test_a_session_is_sent_as_it_was_typed(in_kernel: Kernel, server: ScriptedServer) -> None:
    """The prompts of a Python session, which IPython takes off a cell, are in what is sent, and in the next cell's."""
    session = "Why?\n\n    >>> if 7 // 2:\n    ...     'yes'\n    'yes'\n"
    in_kernel.ok(f"%%bgresponse --wait\n{session}\n")
    in_kernel.ok(f"%%capture\n%%bgresponse --wait\n{session}")
    in_kernel.ok("get_ipython().run_cell_magic('bgresponse', '--wait', 'x')")
    sent = [seen.body["input"][0]["content"][0]["text"] for seen in server.seen if seen.body]
    assert sent == [f"{session}\n", session, "x"]


def test_key_is_nowhere(in_kernel: Kernel, server: ScriptedServer) -> None:
    """The key is in no output, widget state, handle or error, even if the server quotes it."""
    told = {"error": {"message": f"Incorrect API key: {KEY}", "code": "invalid_api_key"}}
    server.enqueue("create", Script(status=401, json=told))
    shown = in_kernel.ok("%%bgresponse -o x --wait\nWhy?")
    state = in_kernel.value(
        "(repr(x.record), repr(x.record.request), x.card.get_state(), repr(x), x.error, x.error.args)"
    )
    everything = f"{shown}{state}{in_kernel.run('await x').said}{in_kernel.ok('%bgjobs x').said}"
    assert "Incorrect API key: [secret]" in everything
    assert KEY not in everything


@pytest.mark.parametrize("option", ["--quiet", ""])
def test_quiet_shows_no_card(in_kernel: Kernel, server: ScriptedServer, option: str) -> None:
    """--quiet shows nothing, and the job runs all the same."""
    server.polls = 10**6
    ran = in_kernel.ok(f"%%bgresponse -o x {option}\nWhy?")
    assert len(ran.displays) == (0 if option else 2)
    server.polls = 0
    in_kernel.until("x == 'the answer' if isinstance(x, str) else False")


def test_clicks_in_the_panel_send_once(in_kernel: Kernel, server: ScriptedServer) -> None:
    """Of several clicks on Send again that waited for a busy kernel the first one sends."""
    server.enqueue("create", Script(status=400, json={"error": {"message": "no"}}))
    in_kernel.ok("%%bgresponse -o x --quiet\nWhy?")
    in_kernel.run("%bgwait x")
    in_kernel.ok("from bgmagic.notebook.panel import act; key = x.record.key")
    told = in_kernel.value("[act('resend', key) for _ in range(2)]")
    assert "Sent again; x gets the answer" in told
    assert "It has been sent again already" in told
    in_kernel.ok("%bgwait x")
    assert in_kernel.value("str(x)") == repr("the answer")
    assert server.count("create") == 2
