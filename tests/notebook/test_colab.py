"""Frontends that hear only what the main thread displays: Colab's way, with a stand-in for its module."""

from __future__ import annotations

import queue
import time
from typing import Any

from tests.support.kernels import LIMIT, Kernel
from tests.support.scripted import ScriptedServer, response

# What a kernel of Colab has of its own, as far as it matters here.
STAND_IN = """
import sys, types
google, colab, output = (types.ModuleType(n) for n in ("google", "google.colab", "google.colab.output"))
enabled = []
output.enable_custom_widget_manager = lambda: enabled.append(True)
output._widgets = types.SimpleNamespace(_installed_url="https://host.example/manager.js")
google.colab, colab.output = colab, output
sys.modules |= {"google": google, "google.colab": colab, "google.colab.output": output}
"""


def cards(kernel: Kernel, code: str) -> list[dict[str, Any]]:
    """Run a cell; what it tells the cards, as the frontend would hear it."""
    number, told, end = kernel.start(code), [], time.monotonic() + LIMIT
    while time.monotonic() < end:
        try:
            message = kernel.client.get_iopub_msg(timeout=LIMIT)
        except queue.Empty:
            break
        if message["parent_header"].get("msg_id") != number:
            continue
        if message["msg_type"] == "comm_msg":
            told.append(message["content"]["data"].get("state", {}).get("view"))
        if message["content"].get("execution_state") == "idle":
            return [view for view in told if view]
    raise TimeoutError(code)


def test_cards_are_sent_again_after_a_cell(in_kernel: Kernel, server: ScriptedServer) -> None:
    """In Colab the widget manager is switched on once, and what a card shows by now is sent again by each cell; elsewhere it is not."""
    server.polls = 10**6
    in_kernel.ok("%%bgresponse -o before --poll 80\nWhy?")
    # What earlier jobs took is told last; after that there is no news for long.
    in_kernel.until("before.response_id and before.card.view['history']")
    assert cards(in_kernel, "pass") == []
    in_kernel.ok(STAND_IN)
    ran = in_kernel.ok("%%bgresponse -o critique --poll 80\nWhy?")
    assert any("application/vnd.jupyter.widget-view+json" in display for display in ran.displays)
    in_kernel.ok("%%bgresponse -o third --poll 80\nWhy?")
    assert in_kernel.value("enabled") == "[True]"
    assert "manager.js" in in_kernel.value("critique.card._repr_mimebundle_()[1]")
    in_kernel.until("critique.response_id and third.response_id")
    assert {view["name"]: view["status"] for view in cards(in_kernel, "pass")} == {
        "before": "queued",
        "critique": "queued",
        "third": "queued",
    }


def test_ends_are_sent_again_once(in_kernel: Kernel, server: ScriptedServer) -> None:
    """What ended while no cell ran is displayed by the next one and not by the one after that; elsewhere it is not, since there the end was heard already."""
    until = "import time\nwhile not isinstance({}, str): time.sleep(0.02)"
    in_kernel.ok("%%bgresponse -o before\nWhy?")
    assert in_kernel.ok(until.format("before")).updates == []
    in_kernel.ok(STAND_IN)
    server.polls = 10**6
    in_kernel.ok("%%bgresponse -o critique\nWhy?")
    server.polls = 0
    ran = in_kernel.ok(until.format("critique"))
    shown = [display["text/html"] for display in ran.updates]
    assert sum("the answer" in html for html in shown) == 1
    assert sum("resp_2" in html for html in shown) == 1
    assert in_kernel.ok("pass").updates == []


def test_vs_code_tells_the_path(in_kernel: Kernel) -> None:
    """In VS Code the notebook's path, which jobs are listed by, is a variable of its own."""
    in_kernel.ok("__vsc_ipynb_file__ = '/somewhere/study.ipynb'")
    in_kernel.ok("%%bgresponse -o critique --wait\nWhy?")
    assert in_kernel.value("critique.job.record.notebook") == "'/somewhere/study.ipynb'"


def test_boards_are_sent_again_after_a_cell(in_kernel: Kernel, server: ScriptedServer) -> None:
    """A group's board is sent again by each cell as a card is, and its end once; after a retry the new end replaces the old one, in one output and with nothing left beside it."""
    server.ending = lambda rid, _: response(rid, "failed")
    in_kernel.ok(STAND_IN)
    server.polls = 10**6
    in_kernel.ok("%%bgresponse -o study --n 2 --poll 0.1\nWhy?")
    in_kernel.until("all(job.running() for job in study.jobs)")
    assert [view["size"] for view in cards(in_kernel, "pass")] == [2]
    server.polls = 0
    ended = "import time\nwhile not (study.done() and study.board.view['done']): time.sleep(0.02)"
    ran = in_kernel.ok(ended)
    assert "2 without an answer" in ran.updates[-2]["text/html"]
    assert ran.updates[-1] == {"text/html": "", "text/plain": ""}
    assert in_kernel.ok("pass").updates == []
    server.ending = lambda rid, _: response(rid, "completed", "the answer")
    server.polls = 10**6
    in_kernel.ok("study.retry_failed()")
    in_kernel.until("not study.board.view['done'] and all(job.running() for job in study.jobs)")
    assert in_kernel.ok("pass").updates == []
    server.polls = 0
    ran = in_kernel.ok(ended)
    assert "2 completed" in ran.updates[-2]["text/html"]
    assert in_kernel.ok("pass").updates == []


def test_vs_code_gets_mathml(in_kernel: Kernel, server: ScriptedServer) -> None:
    """In VS Code, which typesets no HTML, formulas are MathML in what stays below the cell and where the answer itself is looked at; elsewhere MathJax has them, also after %unload_ext."""
    server.ending = lambda rid, _: response(rid, "completed", r"So $\frac{a}{b}$ holds.")
    look = "from IPython.display import display\ndisplay(x)"

    def pages(cell: str) -> list[bool]:
        shown = [display.get("text/html", "") for display in in_kernel.ok(cell).displays]
        answers = [page for page in shown if "holds." in page]
        assert answers
        return ["<mfrac>" in page and "frac{" not in page for page in answers]

    ask = "%%bgresponse -o x --wait --again\nWhy?"
    assert pages(ask)[-1] is False
    assert pages(look) == [False]
    in_kernel.ok("__vsc_ipynb_file__ = '/somewhere/study.ipynb'")
    assert all(pages(ask))
    assert pages(look) == [True]
    in_kernel.ok("%unload_ext bgmagic")
    assert pages(look) == [False]
