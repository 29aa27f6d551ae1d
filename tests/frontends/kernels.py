"""Other kernels, and programs that run notebooks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager

from tests.frontends.trial import LIMIT, Trial
from tests.support.browser import notebook
from tests.support.kernels import Kernel

WIDGET = "application/vnd.jupyter.widget-view+json"


@contextlib.contextmanager
def running(trial: Trial, *argv: str) -> Iterator[Kernel]:
    """A kernel that is started by ``python ARGV``."""
    from jupyter_client.kernelspec import KernelSpec

    manager = KernelManager()
    command = [str(trial.python), *argv, "-f", "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=command, language="python", display_name="trial")
    manager.start_kernel(env=trial.whole_environment(), cwd=str(trial.folder))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=LIMIT)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def xeus(trial: Trial) -> str:
    """xeus-python: card, end, wait, await, a sweep, cancel."""
    with running(trial, "-m", "xpython_launcher") as kernel:
        kernel.ok("%load_ext bgmagic")
        trial.hold()
        card, _ = kernel.ok("%%bgresponse -o x\nWhy?").displays
        assert WIDGET in card, card
        assert kernel.ok("1 + 1").said == "2"
        kernel.ok("%%bgresponse -o y\nWhy not?")
        kernel.until("y.response_id")
        kernel.ok("%bgcancel y")
        kernel.until("y.status == 'cancelled'")
        trial.release()
        ran = kernel.ok("%bgwait x")
        assert "x: completed" in ran.said, ran.said
        assert "the answer" in str(ran.updates), ran
        kernel.ok("%%bgresponse -o z --again\nWhy?")
        assert "the answer" in kernel.ok("await z").said
        kernel.ok("%%bgresponse -o g --n 2 --wait\nWhy?")
        assert kernel.value("[str(each) for each in g]") == "['the answer', 'the answer']"
    return "card, end, wait, await, sweep and cancel; no cell ends in a traceback"


def executed(trial: Trial, cells: Sequence[str], *words: str) -> list[list[dict[str, Any]]]:
    """The outputs of a notebook of these cells after ``python -m WORDS``, which writes out.ipynb."""
    notebook(trial.folder / "in.ipynb", ["%load_ext bgmagic", *cells])
    trial.run(*words)
    saved = nbformat.read(trial.folder / "out.ipynb", as_version=4)
    return [cell.get("outputs", []) for cell in saved.cells]


CELLS = ("%%bgresponse -o x\nWhy?", "%bgwait x", "print(x.upper())")


def ploomber(trial: Trial) -> str:
    """ploomber-engine, which runs the cells in its own process and saves no display that is replaced."""
    code = (
        "from ploomber_engine import execute_notebook\n"
        "execute_notebook('in.ipynb', 'out.ipynb', progress_bar=False)\n"
    )
    (trial.folder / "run_it.py").write_text(code)
    outputs = executed(trial, CELLS, "run_it")
    assert "THE ANSWER" in str(outputs[3]), outputs
    kept = "the answer" in str(outputs[1])
    return "variables are right; " + ("ends are saved" if kept else "ends are not saved")


def euporie(trial: Trial) -> str:
    """euporie's preview, which once shown displays are updated shows no later output."""
    cells = (CELLS[0], "while not isinstance(x, str): __import__('time').sleep(0.05)", "6 * 7", "x")
    path = notebook(trial.folder / "in.ipynb", ["%load_ext bgmagic", *cells])
    trial.run("euporie.preview", "--run", "--save", path.name)
    outputs = [cell.outputs for cell in nbformat.read(path, as_version=4).cells]
    assert "in the background; %bgwait x" in str(outputs[1]), outputs[1]
    assert WIDGET not in str(outputs[1]), outputs[1]
    assert "x: completed after" in str(outputs[2]), outputs[2]
    assert "42" in str(outputs[3]), outputs[3]
    assert "the answer" in str(outputs[4]), outputs[4]
    return "a line when sent, a line in the next cell, and all later outputs"


def jupytext(trial: Trial) -> str:
    """jupytext --execute: the finished display in the cell that asked."""
    outputs = executed(trial, CELLS, "jupytext", "--execute", "--output", "out.ipynb", "in.ipynb")
    _ended(outputs)
    return "finished displays are saved"


def nbmake(trial: Trial) -> str:
    """nbmake, by pytest."""
    notebook(trial.folder / "in.ipynb", ["%load_ext bgmagic", *CELLS])
    said = trial.run("pytest", "-q", "--nbmake", "-p", "no:cacheprovider", "in.ipynb")
    assert "1 passed" in said, said
    return "passes"


def nbgrader(trial: Trial) -> str:
    """nbgrader autograde: a submission that asks, and a test of the teacher's of its answer."""
    course = trial.folder / "course"
    solution = nbformat.v4.new_code_cell(CELLS[0] + "\n")
    grade = nbformat.v4.new_code_cell("assert x == 'the answer'")
    grade.metadata["nbgrader"] = {
        "grade": True, "solution": False, "locked": True, "points": 2, "grade_id": "asked",
        "schema_version": 3, "task": False, "cell_type": "code",
    }  # fmt: skip
    cells = [nbformat.v4.new_code_cell("%load_ext bgmagic"), solution]
    cells += [nbformat.v4.new_code_cell("%bgwait x"), grade]
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    for place in ("source", "submitted/ann"):
        (course / place / "one").mkdir(parents=True)
        nbformat.write(made, course / place / "one" / "in.ipynb")
    (course / "nbgrader_config.py").write_text(
        f"c = get_config()\nc.CourseDirectory.root = {str(course)!r}\n"
    )
    for words in (("generate_assignment", "one"), ("autograde", "one")):
        trial.run("nbgrader", *words, f"--course-dir={course}")
    graded = nbformat.read(course / "autograded" / "ann" / "one" / "in.ipynb", as_version=4)
    outputs = [cell.get("outputs", []) for cell in graded.cells if cell.cell_type == "code"]
    assert "the answer" in json.dumps(outputs[1]), outputs
    assert not outputs[3], outputs[3]
    assert WIDGET not in json.dumps(outputs), outputs
    return "a submission that asks is graded by its answer, and keeps the finished display"


def testbook(trial: Trial) -> str:
    """testbook: the answer is a variable of the notebook."""
    notebook(trial.folder / "in.ipynb", ["%load_ext bgmagic", *CELLS])
    code = (
        "from testbook import testbook\n"
        "with testbook('in.ipynb', execute=True, timeout=100) as book:\n"
        "    assert book.ref('x') == 'the answer'\n"
        "    print('right')\n"
    )
    (trial.folder / "run_it.py").write_text(code)
    assert "right" in trial.run("run_it")
    return "the answer is a variable of the notebook"


def myst(trial: Trial) -> str:
    """myst-nb, by Sphinx: the answer is in the page."""
    notebook(trial.folder / "index.ipynb", ["%load_ext bgmagic", *CELLS])
    (trial.folder / "conf.py").write_text(
        "extensions = ['myst_nb']\nnb_execution_mode = 'force'\nnb_execution_raise_on_error = True\n"
    )
    trial.run("sphinx", "-q", "-b", "html", ".", "out")
    page = Path(trial.folder, "out", "index.html").read_text()
    assert "the answer" in page, page[-3000:]
    return "the answer is in the page"


def ipyparallel(trial: Trial) -> str:
    """An engine's namespace is no notebook: magics there send and bind as in a script."""
    code = (
        "import ipyparallel\n"
        "cluster = ipyparallel.Cluster(n=1, log_level=40)\n"
        "client = cluster.start_and_connect_sync()\n"
        "client[:].execute('%load_ext bgmagic', block=True)\n"
        "client[:].execute('%%bgresponse -o x --wait\\nWhy?', block=True)\n"
        "print(client[:]['str(x)'], flush=True)\n"
        "cluster.stop_cluster_sync()\n"
    )
    (trial.folder / "run_it.py").write_text(code)
    assert "the answer" in trial.run("run_it")
    return "an engine sends, waits and binds"


def _ended(outputs: list[list[dict[str, Any]]]) -> None:
    text = json.dumps(outputs[1])
    assert "the answer" in text, text
    assert WIDGET not in text, text
    assert "THE ANSWER" in json.dumps(outputs[3]), outputs[3]


def without_a_notebook(trial: Trial) -> str:
    """ipython -c, %run, IPython.embed() and python -m asyncio."""
    load, ask = "get_ipython().run_line_magic('load_ext', 'bgmagic')", "'-o x --wait', 'Why?'"
    magic = f"{load}; get_ipython().run_cell_magic('bgresponse', {ask}); print(x.upper())"
    assert "THE ANSWER" in trial.run("IPython", "--no-banner", "-c", magic)
    (trial.folder / "script.py").write_text(
        "import bgmagic\nprint(bgmagic.submit('Why?').result(60).upper())\n"
    )
    assert "THE ANSWER" in trial.run("IPython", "--no-banner", "-c", "%run script.py")
    (trial.folder / "embedded.py").write_text(
        "def asks():\n    from IPython import embed\n    embed()\nasks()\n"
    )
    typed = f"{load}\nget_ipython().run_cell_magic('bgresponse', {ask})\nprint(x.upper())\n"
    assert "THE ANSWER" in trial.run("embedded", typed=typed)
    typed = "import bgmagic\njob = bgmagic.submit('Why?')\nprint((await job).upper())\n"
    assert "THE ANSWER" in trial.run("asyncio", typed=typed)
    return "the answer is there"
