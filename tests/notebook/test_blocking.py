"""Waiting in a cell of a real kernel: what else goes on meanwhile, and how it ends early."""

from __future__ import annotations

import time

import pytest

from tests.conftest import KEY
from tests.support.kernels import LIMIT, Kernel, kernel
from tests.support.scripted import ScriptedServer

SETUP = """
import asyncio, ipywidgets, threading
ticks, clicks = [], []
async def tick():
    while True:
        ticks.append(1)
        await asyncio.sleep(0.02)
ticking = asyncio.ensure_future(tick())
button = ipywidgets.Button()
button.on_click(lambda _: clicks.append(len(ticks)))
print(button.model_id)
"""


def click(kernel: Kernel, widget: str) -> None:
    """Send what a browser sends when a button is clicked."""
    content = {"comm_id": widget, "data": {"method": "custom", "content": {"event": "click"}}}
    kernel.client.shell_channel.send(kernel.client.session.msg("comm_msg", content))


def test_kernel_stays_alive(in_kernel: Kernel, server: ScriptedServer) -> None:
    """During %bgwait the user's own tasks go on, a click is heard at once, and a queued cell is kept."""
    widget = in_kernel.ok(SETUP).stdout.strip()
    server.polls = 10**6
    in_kernel.ok("%%bgresponse -o x\nWhy?")
    before = int(in_kernel.value("len(ticks)"))
    # The waiting cell ends only after the click was heard.
    in_kernel.ok("button.on_click(lambda _: x.cancel())")
    waiting = in_kernel.start("%bgwait x")
    queued = in_kernel.start("after = (x.status, len(clicks))")
    click(in_kernel, widget)
    assert "x: cancelled" in in_kernel.finish(waiting).said
    assert in_kernel.finish(queued).status == "ok"
    assert in_kernel.value("after") == "('cancelled', 1)"
    assert int(in_kernel.value("len(ticks)")) > before
    in_kernel.ok("'a cell after the wait'; button.on_click(lambda _: clicks.append('later'))")
    click(in_kernel, widget)
    in_kernel.until("'later' in clicks")


def test_cells_keep_their_order(in_kernel: Kernel, server: ScriptedServer) -> None:
    """Cells that are sent all at once, as by Run All, run in their order around every %bgwait; an interrupt of one drops those behind it, as of any cell."""
    server.polls = 5
    in_kernel.ok("ran = []")
    cells = ["%%bgresponse -o x\nWhy?", "ran.append(1)", "%bgwait x", "ran.append(2)"]
    cells += ["ran.append(3)", "%%bgresponse -o y --wait\nHow?", "ran.append(4)", "ran.append(5)"]
    cells += ["%bgwait", "ran.append(6)", "ran.append(7)"]
    sent = [in_kernel.start(cell) for cell in cells]
    assert [
        in_kernel.client.get_shell_msg(timeout=LIMIT)["parent_header"]["msg_id"] for _ in sent
    ] == sent
    assert in_kernel.value("ran") == "[1, 2, 3, 4, 5, 6, 7]"
    server.polls = 10**6
    in_kernel.ok("%%bgresponse -o z\nWhy not?")
    sent = [in_kernel.start(cell) for cell in (TELL + "%bgwait z", *["ran.append(8)"] * 3)]
    _await_output(in_kernel, "begun")
    in_kernel.manager.interrupt_kernel()
    replies = [in_kernel.client.get_shell_msg(timeout=LIMIT)["content"]["status"] for _ in sent]
    assert replies == ["error", *["aborted"] * 3]
    assert in_kernel.value("ran") == "[1, 2, 3, 4, 5, 6, 7]"


def test_interrupt_leaves_the_job_alone(in_kernel: Kernel, server: ScriptedServer) -> None:
    """An interrupt ends %bgwait with one line; the job goes on, and can be waited for again."""
    server.polls = 10**6
    in_kernel.ok("%%bgresponse -o x\nWhy?")
    for _ in range(2):
        waiting = in_kernel.start(TELL + "%bgwait x")
        _await_output(in_kernel, "begun")
        in_kernel.manager.interrupt_kernel()
        ran = in_kernel.finish(waiting)
        assert ran.status == "error"
        assert ran.said.splitlines()[-1].endswith("not waiting any longer; still going on: x")
        assert "Traceback" not in ran.said
    assert server.count("cancel") == 0
    server.polls = 0
    assert "x: completed" in in_kernel.ok("%bgwait x").said


# Says when the main thread has got into the wait (or, with another name put in, into that
# function); an interrupt before that is any cell's.
TELL = """
import sys, threading, time
def tell():
    main = threading.main_thread().ident
    while True:
        frame, names = sys._current_frames()[main], []
        while frame:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
        if any(name.startswith('_wait_') for name in names):
            return print('begun', flush=True)
        time.sleep(0.01)
threading.Thread(target=tell, daemon=True).start()
"""


def _await_output(kernel: Kernel, text: str, limit: float = LIMIT) -> None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        message = kernel.client.get_iopub_msg(timeout=limit)
        if text in message["content"].get("text", ""):
            return
    raise TimeoutError(text)


def test_await_interrupted_leaves_the_job_alone(in_kernel: Kernel, server: ScriptedServer) -> None:
    """Interrupting `await x` does not cancel the job either."""
    server.polls = 10**6
    in_kernel.ok("%%bgresponse -o x\nWhy?")
    waiting = in_kernel.start(TELL.replace("_wait_", "select") + "await x")
    _await_output(in_kernel, "begun")
    in_kernel.manager.interrupt_kernel()
    assert in_kernel.finish(waiting).status == "error"
    assert server.count("cancel") == 0
    server.polls = 0
    assert in_kernel.ok("await x").result == "the answer"


def test_wait_leaves_an_answer_in_the_same_cell(in_kernel: Kernel) -> None:
    """After %bgwait, the same cell has the answer as text."""
    in_kernel.ok("%%bgresponse -o x\nWhy?")
    assert in_kernel.ok("%bgwait x\nprint(x.upper())").stdout.endswith("THE ANSWER\n")


@pytest.mark.parametrize("archived_first", [True, False])
def test_beside_the_archived_nest_asyncio(server: ScriptedServer, archived_first: bool) -> None:
    """With the user's own nest_asyncio.apply() in place, before or after, waiting works, a cell that
    is queued meanwhile is not lost, and an interrupt ends the wait."""
    with kernel(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=server.base_url, BGMAGIC_POLL="0.1") as started:
        started.ok("%load_ext bgmagic")
        server.polls = 5
        apply = "import nest_asyncio; nest_asyncio.apply()"
        if not archived_first:
            started.ok("%%bgresponse -o x --wait\nWhy?")
        started.ok(apply)
        started.ok("%%bgresponse -o x\nWhy?")
        waiting = started.start("%bgwait x")
        queued = started.start("after = str(x)")
        assert "x: completed" in started.finish(waiting).said
        assert started.finish(queued).status == "ok"
        assert started.value("after") == "'the answer'"
        server.polls = 10**6
        started.ok("%%bgresponse -o x\nWhy?")
        waiting = started.start(TELL + "%bgwait x")
        _await_output(started, "begun")
        started.manager.interrupt_kernel()
        assert "still going on: x" in started.finish(waiting).said


def test_the_loop_keeps_tasks_of_its_own(in_kernel: Kernel) -> None:
    """Whatever the archived nest_asyncio puts in the place of asyncio's tasks, before or after the
    first job, those of the loop thread are C's: from Python 3.14 on others can use no timeouts."""
    kinds = (
        "from bgmagic.submission.app import app; import asyncio, _asyncio\n"
        "async def kind(): return type(asyncio.current_task()) is _asyncio.Task\n"
        "loop = app.manager._loop"
    )
    in_kernel.ok("%%bgresponse -o x --wait\nWhy?")
    in_kernel.ok("import nest_asyncio; nest_asyncio.apply()")
    in_kernel.ok(kinds)
    assert in_kernel.value("loop.run(kind()).result(60)") == "True"


def test_nest_asyncio2_is_applied_only_for_a_wait(in_kernel: Kernel) -> None:
    """asyncio is patched when someone waits in a cell, not by loading or submitting."""
    in_kernel.ok("%%bgresponse -o x\nWhy?")
    patched = "hasattr(__import__('asyncio'), '_nest_patched')"
    assert in_kernel.value(patched) == "False"
    in_kernel.ok("await x")
    assert in_kernel.value(patched) == "False"
    in_kernel.ok("%%bgresponse -o x --wait\nWhy?")
    assert in_kernel.value(patched) == "True"
