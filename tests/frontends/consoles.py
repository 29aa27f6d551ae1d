"""Consoles, which show no widgets: a line when a job is sent, and one when it has ended."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.frontends.trial import LIMIT, Trial

# Without cell magics, since some consoles take a line at a time.
ASK = "get_ipython().run_cell_magic('bgresponse', '-o {0}', 'Why?')"
UNTIL = "_ = list(iter(lambda: (__import__('time').sleep(0.05), {0})[1], True))"
SENT = "x: sent to gpt-5.2 in the background; %bgwait x waits for it"


def right(cell: Callable[[str], str], trial: Trial) -> None:
    """Try a console, whose ``cell(code)`` gives what it prints."""
    cell("%load_ext bgmagic")
    trial.hold()
    said = cell(ASK.format("x"))
    assert said.count("x: ") == 1, said
    assert SENT in said, said
    said = cell(ASK.format("g --n 2"))
    assert said.count("<JobGroup g 2 jobs: ") == 1, said
    assert "42" in cell("6 * 7")
    trial.release()
    said = cell(UNTIL.format("isinstance(x, str) and g.done()"))
    said += cell("6 * 7")
    assert "42" in said, said
    end = time.monotonic() + LIMIT
    while not ("x: c" in said and "g: 2" in said) and time.monotonic() < end:
        said += cell("None")  # the end is told a moment after the variable has the answer
    for words in ("x: completed after ", "; %bgjobs x shows it", "g: 2 jobs, 2 completed"):
        assert said.count(words) == 1, said
    assert "the answer" not in said, said
    assert "the answer" in cell("%bgjobs x")
    said = cell("6 * 7")
    assert "42" in said, said
    assert "x:" not in said, said


def console(trial: Trial) -> str:
    """jupyter-console, as it is typed into."""
    import pexpect

    prompt = r"In \[\d+\]: "
    command = ["-m", "jupyter_console", "--simple-prompt", "--kernel=python3"]
    child = pexpect.spawn(
        str(trial.python), command, env=trial.whole_environment() | {"TERM": "dumb"},
        encoding="utf-8", timeout=LIMIT, dimensions=(50, 300), cwd=str(trial.folder),
    )  # fmt: skip

    def cell(code: str) -> str:
        child.sendline(code)
        child.expect(prompt)
        return str(child.before).replace("\r", "").removeprefix(code)

    try:
        child.expect(prompt)
        right(cell, trial)
    finally:
        child.close(force=True)
    return "a line when sent, a line at the next prompt; sweeps too"


# A console of Qt without a screen, which runs the lines that it reads and prints what its window shows.
WINDOW = """
import json, os, sys
os.environ["QT_QPA_PLATFORM"] = "offscreen"
from qtpy import QtCore, QtWidgets
from qtconsole.manager import QtKernelManager
from qtconsole.rich_jupyter_widget import RichJupyterWidget

application = QtWidgets.QApplication([])
manager = QtKernelManager(kernel_name=sys.argv[1])
manager.start_kernel()
client = manager.client()
client.start_channels()
window = RichJupyterWidget()
window.kernel_manager, window.kernel_client = manager, client

def until(signal, start):
    loop = QtCore.QEventLoop()
    signal.connect(loop.quit)
    start()
    loop.exec_()
    settle = QtCore.QEventLoop()
    QtCore.QTimer.singleShot(500, settle.quit)
    settle.exec_()

begun = QtCore.QEventLoop()
timer = QtCore.QTimer()
timer.timeout.connect(lambda: "In [" in window._control.toPlainText() and begun.quit())
timer.start(100)
begun.exec_()
timer.stop()
for line in sys.stdin:
    code, before = json.loads(line), len(window._control.toPlainText())
    until(window.executed, lambda: window.execute(code))
    print(json.dumps(window._control.toPlainText()[before:]), flush=True)
client.stop_channels()
manager.shutdown_kernel(now=True)
os._exit(0)
"""


def qt(trial: Trial) -> str:
    """qtconsole, its window off the screen."""
    return _window(trial, "python3")


def spyder(trial: Trial) -> str:
    """The same with Spyder's kernel, which is what Spyder's console is."""
    folder = Path(trial.folder) / "kernels" / "spyder"
    folder.mkdir(parents=True)
    argv = [str(trial.python), "-m", "spyder_kernels.console", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "Spyder", "language": "python"})
    )
    return _window(trial, "spyder")


def _window(trial: Trial, kernel: str) -> str:
    shown = subprocess.Popen(
        [str(trial.python), "-c", WINDOW, kernel], cwd=trial.folder, text=True,
        env=trial.whole_environment() | {"JUPYTER_PATH": str(trial.folder)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert shown.stdin is not None
    assert shown.stdout is not None

    def cell(code: str) -> str:
        assert shown.stdin is not None
        assert shown.stdout is not None
        shown.stdin.write(json.dumps(code) + "\n")
        shown.stdin.flush()
        line = shown.stdout.readline()
        assert line, shown.stderr.read()[-2000:] if shown.stderr else ""
        return re.sub(r"^.*?\n", "", str(json.loads(line)), count=1)

    try:
        right(cell, trial)
    finally:
        shown.kill()
        shown.wait()
    return "a line when sent, a line at the next prompt; sweeps too"
