"""Frontends told apart in real kernels, by the messages of their clients: what is shown, what replaces it, when."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEY
from tests.support.kernels import LIMIT, Kernel, kernel
from tests.support.scripted import Script, ScriptedServer

SENT = "{0}: sent to gpt-5.2 in the background; %bgwait {0} waits for it"
# Until the kernel's network thread has it; the cell says nothing.
UNTIL = "import time\nwhile not isinstance({}, str): time.sleep(0.02)"
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def console(in_kernel: Kernel) -> Kernel:
    """A kernel whose client names no cells."""
    in_kernel.names_cells = False
    return in_kernel


def send(running: Kernel, job: str, action: str, key: str = "") -> None:
    """Send what a page would that has the job's card."""
    comm = running.value(f"{job}.card.comm.comm_id").strip("'")
    data = {"method": "custom", "content": {"action": action, "key": key}}
    client = running.client
    client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": comm, "data": data}))


def updates(running: Kernel, count: int = 0) -> list[dict[str, Any]]:
    """What the kernel displays in the place of something else: until there are so many, and it is quiet for a second."""
    found: list[dict[str, Any]] = []
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        try:
            message = running.client.get_iopub_msg(timeout=1.0)
        except queue.Empty:
            if len(found) < count:
                continue
            break
        if message["msg_type"] == "update_display_data":
            found.append(message["content"])
    return found


def test_consoles_get_lines(console: Kernel, server: ScriptedServer) -> None:
    """A client that names no cell and drew no card gets a line when a job is sent and one in the next cell that
    finds it ended, never an update of what was shown; for a sweep likewise."""
    server.polls = 10**6
    ran = console.ok("%%bgresponse -o x\nWhy?")
    assert ran.said == SENT.format("x")
    assert ran.stdout == ""
    assert console.ok("1 + 1").said == "2"
    server.polls = 0
    ran = console.ok(UNTIL.format("x"))
    assert ran.stdout.startswith("x: completed after ")
    assert ran.stdout.endswith("; %bgjobs x shows it\n")
    assert ran.displays == ran.updates == []
    server.polls = 10**6
    ran = console.ok("%%bgresponse -o h --n 2 --again\nWhy?")
    assert len(ran.displays) == 1
    assert ran.displays[0]["text/plain"].startswith("<JobGroup h 2 jobs: ")
    assert ran.displays[0]["text/plain"].endswith("; %bgwait h waits for them")
    server.polls = 0
    ran = console.ok("import time\nwhile not h.done(): time.sleep(0.02)")
    assert ran.stdout.startswith("h: 2 jobs, 2 completed, after ")
    assert ran.stdout.endswith("; %bgjobs h shows it\n")
    assert ran.displays == ran.updates == []
    assert console.ok("1 + 1").said == "2"
    assert updates(console) == []


def test_wait_tells_the_end_once(console: Kernel, server: ScriptedServer) -> None:
    """What %bgwait has told of an end is not told again by the next cell, nor displayed anywhere."""
    server.polls = 10**6
    console.ok("%%bgresponse -o x\nWhy?")
    server.polls = 0
    ran = console.ok("%bgwait x")
    assert ran.stdout.startswith("x: completed after ")
    assert ran.stdout.count("\n") == 1
    assert ran.displays == ran.updates == []
    assert console.ok("1 + 1").said == "2"


def test_a_drawn_card_is_replaced(console: Kernel, server: ScriptedServer) -> None:
    """A page that names no cells but says that it has drawn the card gets the end in its place, and no line."""
    server.polls = 10**6
    (shown,) = console.ok("%%bgresponse -o x\nWhy?").displays
    assert WIDGET in shown
    send(console, "x", "drawn")
    console.until("x.card.drawn and x.response_id")
    server.polls = 0
    (update,) = updates(console, 1)
    assert "the answer" in update["data"]["text/html"]
    assert "resp_1" in update["data"]["text/html"]
    assert console.ok("1 + 1").said == "2"


def test_drawn_after_the_end(console: Kernel) -> None:
    """A card that is drawn only after its job has ended, since the kernel was busy, is replaced then."""
    console.ok("%%bgresponse -o x\nWhy?")
    assert updates(console) == []
    console.until("isinstance(x, str)")
    send(console, "x.job", "drawn")
    (update,) = updates(console, 1)
    assert "the answer" in update["data"]["text/html"]


def test_shared_documents_get_the_answer_twice(in_kernel: Kernel, server: ScriptedServer) -> None:
    """In a document of several pages the answer is put twice and then the footer, since other pages append what was
    put in the place of an output and remove what then stands there; else each is put once."""
    for name, where, wanted in (("x", "", 1), ("y", "shared", 2)):
        server.polls = 10**6
        in_kernel.ok(f"%%bgresponse -o {name} --again\nWhy?")
        send(in_kernel, name, "drawn", where)
        in_kernel.until(f"{name}.card.drawn")
        server.polls = 0
        ids = [update["transient"]["display_id"] for update in updates(in_kernel, wanted + 1)]
        assert [each.endswith("-line") for each in ids] == [False] * wanted + [True]


def test_one_page_replaces(in_kernel: Kernel) -> None:
    """Of two pages that ask for what replaces the card only the first gets it, with each of its tries; a page that
    can replace nothing is given the answer to show within the card."""
    in_kernel.ok("%%bgresponse -o x\nWhy?")
    in_kernel.until("isinstance(x, str)")
    updates(in_kernel)
    in_kernel.ok("sent = []\nx.job.card.send = sent.append")
    for page in ("one", "two", "one"):
        send(in_kernel, "x.job", "finish", page)
    send(in_kernel, "x.job", "fill", "three")
    in_kernel.until("len(sent) >= 3")
    kinds = in_kernel.value("[(next(iter(each)), each['page']) for each in sent]")
    assert kinds == "[('finished', 'one'), ('finished', 'one'), ('filled', 'three')]"
    assert "the answer" in in_kernel.value("sent[-1]['filled']['answer']['text/html']")


def test_a_card_without_a_cell_is_not_filled(in_kernel: Kernel) -> None:
    """A card that no cell has shown, as one in a box of the user's, stays a card."""
    in_kernel.ok("%%bgresponse -o x --quiet\nWhy?")
    in_kernel.until("isinstance(x, str)")
    in_kernel.ok("sent = []\nx.job.card.send = sent.append")
    send(in_kernel, "x.job", "fill", "one")
    send(in_kernel, "x.job", "cancel")
    in_kernel.until("sent")
    assert in_kernel.value("sent") == "[{'heard': 'cancel'}]"


def test_kernels_that_tell_less(in_kernel: Kernel, server: ScriptedServer) -> None:
    """Where the kernel's get_parent takes no argument and gives a header alone, as xeus-python's, everything works as
    in JupyterLab."""
    in_kernel.ok(
        "from types import SimpleNamespace\n"
        "class Bare:\n"
        "    def get_parent(self):\n"
        "        return {'header': {'msg_type': 'execute_request'}}\n"
        "get_ipython().kernel_before, get_ipython().kernel = get_ipython().kernel, Bare()"
    )
    server.polls = 10**6
    card, line = in_kernel.ok("%%bgresponse -o x\nWhy?").displays
    assert WIDGET in card
    assert "Later %bgjobs x shows it" in line["text/plain"]
    assert in_kernel.ok("1 + 1").said == "2"
    server.polls = 0
    in_kernel.until("isinstance(x, str)")
    assert in_kernel.value("await x") == "'the answer'"


def test_servers_that_run_cells(server: ScriptedServer, tmp_path: Path) -> None:
    """A client that sends no stdin and names no cell, in a kernel of a Jupyter server's session, gets lines; one in a
    kernel that another kernel of that session has started is a program, as papermill in a cell."""
    environment = {
        "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.base_url, "BGMAGIC_POLL": "0.1",
        "JPY_SESSION_NAME": str(tmp_path / "study.ipynb"),
    }  # fmt: skip
    with kernel(**environment) as running:
        running.names_cells, running.takes_input = False, False
        running.ok("%load_ext bgmagic")
        server.polls = 10**6
        assert running.ok("%%bgresponse -o x\nWhy?").said == SENT.format("x")
        server.polls = 0
        ran = running.ok(UNTIL.format("x"))
        assert ran.displays == ran.updates == []
        assert ran.stdout.startswith("x: completed after ")
        # Cells of a notebook that is run in a cell.
        inner = (
            "import nbformat, nbclient\n"
            "cells = ['%load_ext bgmagic', '%%bgresponse -o y --wait\\nWhy?']\n"
            "book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])\n"
            "await nbclient.NotebookClient(book, kernel_name='python3').async_execute()\n"
            "print(book.cells[1].outputs)"
        )
        assert "the answer" in running.ok(inner).stdout


def test_euporie_gets_text_alone(in_kernel: Kernel, server: ScriptedServer) -> None:
    """euporie, which says "not implemented" of the widget and shows no later output once a display is updated, gets
    text alone, also where its preview runs the cells as a program does."""
    in_kernel.names_cells, in_kernel.takes_input = False, False
    in_kernel.client.session.username = "euporie-1"
    server.polls = 10**6
    (shown,) = in_kernel.ok("%%bgresponse -o x\nWhy?").displays
    assert shown == {"text/plain": SENT.format("x")}
    server.polls = 0
    ran = in_kernel.ok(UNTIL.format("x"))
    assert ran.stdout.startswith("x: completed after ")
    assert updates(in_kernel) == []


# One cell, since the kernel imports ipywidgets when it is idle; and not even then.
COLD = """
import comm, sys
from bgmagic.notebook import magics
magics.REPLY = 1e6
opened, create = [], comm.create_comm
comm.create_comm = lambda **told: opened.append(told) or create(**told)
get_ipython().run_line_magic("load_ext", "bgmagic")
get_ipython().run_cell_magic("bgresponse", "-o x", "Why?")
print("ipywidgets" in sys.modules)
"""
SAME = """
import ipywidgets
told, now, layout = opened[1]["data"]["state"], x.card.get_state(), x.card.layout.get_state()
differ = {name for name in now if name not in told or now[name] != told[name]} - set(x.card.shown)
differ |= {name for name, value in opened[0]["data"]["state"].items() if layout[name] != value}
version = {"version": ipywidgets._version.__protocol_version__}
differ |= {n for n, each in enumerate(opened) if each["metadata"] != version}
differ | (told["view"].keys() - now["view"].keys()), len(opened), x.card.model_id
"""


@pytest.mark.parametrize("first", ["click", "page", "news", "again"])
def test_first_card_is_drawn_before_ipywidgets(first: str, server: ScriptedServer) -> None:
    """A kernel's first card is in the page before ipywidgets is imported, with the state that the widget has; whatever
    comes first, a click, a page that opens, news of the job or a cell that joins it, makes that widget, and is not lost."""
    server.polls = 10**6
    answer = threading.Event()
    server.enqueue("create", Script(hold=answer))
    with kernel(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=server.base_url, BGMAGIC_POLL="0.1") as running:
        ran = running.ok(COLD)
        assert ran.stdout == "False\n"
        model = ran.displays[0][WIDGET]["model_id"]
        if first == "click":
            tell(running, "comm_msg", model, {"method": "custom", "content": {"action": "cancel"}})
            running.until("x.record.cancelling and 'ipywidgets' in sys.modules")
        elif first == "page":
            tell(running, "comm_open", "all", {}, target_name="jupyter.widget.control")
            tell(running, "comm_msg", "all", {"method": "request_states"})
            told = heard(running, "all")
            assert told["states"][model]["state"]["view"]["name"] == "x"
        elif first == "news":
            answer.set()
            running.until("x.response_id and 'ipywidgets' in sys.modules")
        else:
            joins = running.ok(COLD.splitlines()[-2])
            assert joins.displays[0][WIDGET]["model_id"] == model
        answer.set()
        assert running.ok(SAME).result == f"(set(), 2, '{model}')"
        assert (
            running.value("isinstance(ipywidgets.VBox([x.card]).children[0], ipywidgets.DOMWidget)")
            == "True"
        )
        running.until("x.card.view['response_id'] or x.card.view['done']")


def tell(running: Kernel, kind: str, comm: str, data: Any, **more: str) -> None:
    """Send what a page would by this comm."""
    session = running.client.session
    content = {"comm_id": comm, "data": data, **more}
    running.client.shell_channel.send(session.msg(kind, content, metadata={"version": "1.0.0"}))


def heard(running: Kernel, comm: str) -> dict[str, Any]:
    """What the kernel sends next by this comm."""
    while True:
        message = running.client.get_iopub_msg(timeout=LIMIT)
        if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == comm:
            data: dict[str, Any] = message["content"]["data"]
            return data
