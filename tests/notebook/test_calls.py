"""Functions as tools in real kernels: the magic, the main thread, a restart, nobody to ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.conftest import KEY
from tests.jobs.test_job import eventually
from tests.runtime.test_calls import calling, outputs
from tests.support.kernels import LIMIT, Kernel, kernel
from tests.support.scripted import ScriptedServer, response

FUNCTION = '''
import threading

def where(n: int) -> str:
    """Tell the thread."""
    return f"{n} {threading.current_thread() is threading.main_thread()}"
'''


def scripted(server: ScriptedServer, name: str, arguments: Any) -> None:
    server.ending = lambda rid, body: (
        response(rid, "completed", "Done.") if outputs(body) else calling(rid, [(name, arguments)])
    )


def test_between_cells(in_kernel: Kernel, server: ScriptedServer) -> None:
    """A function is called on a thread, while a cell runs too; with tools_on_main_thread between cells;
    a name without $ says what is meant."""
    scripted(server, "where", {"n": 1})
    in_kernel.ok(FUNCTION)
    in_kernel.ok("%%bgresponse -o a --tool $where --wait\nWhere?")
    assert in_kernel.value("a.steps[0].output") == "'1 False'"
    in_kernel.ok("%config BgMagics.tools_on_main_thread = True")
    in_kernel.ok("%%bgresponse -o b --tool $where\nAnd where now?")
    in_kernel.until("isinstance(b, str)")
    assert in_kernel.value("b.steps[0].output") == "'1 True'"
    in_kernel.ok("%%bgresponse -o c --tool $where --wait\nAnd while a cell waits?")
    assert in_kernel.value("c.steps[0].output") == "'1 True'"
    assert (
        "for your function of that name write --tool $where"
        in in_kernel.run("%%bgresponse --tool where\nx").said
    )


def test_asked_where_it_can_be_answered(in_kernel: Kernel, server: ScriptedServer) -> None:
    """A wait says that its job asks, and where: by the card's buttons in a notebook. A console asks
    itself by a line, as it waits and before the next cell."""
    scripted(server, "where", {"n": 1})
    in_kernel.ok(FUNCTION)
    in_kernel.ok("%%bgresponse -o a --tool $where --ask\nWhere?")
    told = in_kernel.ok("%bgwait a --timeout 0.5").stdout
    asks = 'its model wants to call where({"n": 1})'
    while "not done" in told and asks not in told:  # it had not come so far
        told = in_kernel.ok("%bgwait a --timeout 0.5").stdout
    assert f"a: {asks}: click Allow or Deny on its card" in told
    in_kernel.ok("a.deny()")
    in_kernel.ok("%bgwait a")
    in_kernel.names_cells = False

    def typed(cell: str, answer: str) -> str:
        running = in_kernel.start(cell)
        asked = in_kernel.client.get_stdin_msg(timeout=LIMIT)["content"]["prompt"]
        in_kernel.client.input(answer)
        assert in_kernel.finish(running).status == "ok"
        return str(asked)

    assert typed("%%bgresponse -o b --tool $where --ask --wait\nWhere?", "y") == f"b: {asks} [y/N] "
    assert in_kernel.value("b.steps[0].status") == "'done'"
    in_kernel.ok("%%bgresponse -o c --tool $where --ask\nWhere?")
    code = "while c.record.status_text.find('Allow') < 0 and not c.done(): pass"
    assert typed(code, "n") == f"c: {asks} [y/N] "
    assert in_kernel.ok("%bgwait c").stdout.startswith("c: completed")
    assert in_kernel.value("c.steps[0].status") == "'denied'"


def test_a_function_between_cells_is_interrupted(
    in_kernel: Kernel, server: ScriptedServer, tmp_path: Path
) -> None:
    """Interrupting the kernel ends a function that hangs on its main thread between cells, tells the
    model so, and leaves a kernel that takes cells and ignores the next interrupt."""
    scripted(server, "hang", {"n": 1})
    begun = tmp_path / "begun"
    in_kernel.ok(
        f'import pathlib, time\ndef hang(n: int) -> str:\n    "Hang."\n'
        f"    pathlib.Path({str(begun)!r}).touch()\n    while True:\n        time.sleep(0.02)"
    )
    in_kernel.ok("%config BgMagics.tools_on_main_thread = True")
    in_kernel.ok("%%bgresponse -o b --tool $hang\nGo.")
    eventually(begun.exists)
    in_kernel.manager.interrupt_kernel()
    in_kernel.until("isinstance(b, str)")
    assert in_kernel.value("b.steps[0].output") == "'Error: KeyboardInterrupt'"
    in_kernel.manager.interrupt_kernel()
    assert in_kernel.value("1 + 1") == "2"


def test_after_a_restart(lasting: dict[str, str], server: ScriptedServer) -> None:
    """%bgattach in the next kernel says which functions are missing, and goes on once they are there. A
    sweep's board says which of its jobs waits for a word on running a call once more, and where."""
    scripted(server, "slow", {"n": 3})
    define = 'def slow(n: int) -> int:\n    "Take long."\n    import time\n    {}\n    return n'
    with kernel(**lasting) as first:
        first.ok("%load_ext bgmagic")
        first.ok(define.format("time.sleep(600)"))
        first.ok("%%bgresponse -o work --tool $slow --ask\nGo.")
        first.until("work.steps and work.steps[0].status == 'asking'")
        first.ok("items = [1]")
        first.ok("%%bgresponse -o many --each items --tool $slow\nGo {{ item }}.")
        first.until("many.jobs[0].steps and many.jobs[0].steps[0].status == 'running'")
        first.manager.shutdown_kernel(now=True)
    with kernel(**lasting) as second:
        second.ok("%load_ext bgmagic")
        second.ok("%bgattach work")
        second.until("work.status == 'detached'")
        assert "not defined here as they were: slow()" in second.value("str(work.error)")
        second.ok(define.format("pass"))
        second.ok("%bgattach --all")  # it is open here, too
        second.until("work.steps[0].status == 'asking'")
        second.ok("work.allow()")
        second.until("isinstance(work, str)")
        assert second.value("work.steps[0].output") == "'3'"
        second.until("many.board.view['trouble']")
        assert second.value("many.board.view['trouble']") == repr(
            "many[0] waits for your word on running slow() once more: %bgjobs many[0] shows its card"
        )
        (card, _) = second.ok("%bgjobs many[0]").displays
        assert "application/vnd.jupyter.widget-view+json" in card
        asks = ", once more: click Allow or Deny on the card that %bgjobs many[0] shows"
        while asks not in second.ok("%bgwait many --timeout 0.5").stdout:
            pass
        second.ok("many.jobs[0].allow()")
        second.until("isinstance(many[0], str)")


def test_nobody_to_ask(server: ScriptedServer, tmp_path: Path, monkeypatch: Any) -> None:
    """Where a program runs the cells, what would be asked is denied, and the steps say so."""
    scripted(server, "where", {"n": 1})
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    cells = [
        "%load_ext bgmagic",
        FUNCTION,
        "%%bgresponse -o a --tool $where --ask --wait\nWhere?",
        "print(a.steps[0].status, a.steps[0].output)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    assert "denied Error: the user did not allow this call" in str(notebook.cells[-1].outputs)
