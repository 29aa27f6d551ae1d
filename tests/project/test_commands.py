"""Every command of README and CONTRIBUTING is run, by a test or by CI; the cheap ones are run here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kernels import Kernel
from tests.support.scripted import ScriptedServer, response

ROOT = Path(__file__).parents[2]
CI = (ROOT / ".ci" / "run").read_text()
README = (ROOT / "README.md").read_text()
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "tests/README.md",
    "tests/benchmarks/README.md",
    "notebooks/servers.md",
)
PROGRAMS = (
    "apt-get", "ipython", "jupyter", "mypy", "pip", "pyright", "pytest", "python", "python3", "ruff",
    ".", ".ci/run",
)  # fmt: skip

# What runs each command: a test, or words of .ci/run. Files of tests are all run by its `pytest`.
RUN_BY = {
    "python3 -m venv .venv": "python3 -m venv",
    ". .venv/bin/activate": 'PATH="$environment/bin:$PATH"',
    "apt-get install libgomp1": "missing+=(libgomp1)",
    "apt-get install chromium": "missing+=(chromium)",
    'pip install -e ".[test]"': 'pip install -e ".[test]"',
    'pip install -e ".[lab]"': 'pip install -e ".[test]"',  # which has [lab] in it
    'pip install -e ".[dev]"': 'pip install --quiet -e ".[dev]"',
    "pip install .": "python -m tests.matrix --corners",  # the wheel, which that builds, too
    "jupyter lab notebooks/01_quickstart.ipynb": "tests/browser/test_cells.py::test_quickstart",
    "jupyter execute": "tests/notebook/test_headless.py::test_saved_file_holds_the_ends",
    "jupyter nbconvert --execute": "tests/notebook/test_headless.py::test_saved_file_holds_the_ends",
    "ipython": "tests/notebook/test_terminal.py::test_a_session",
    "python -m bgmagic": "tests/notebook/test_bug_report.py::test_report_without_anything",
    "pytest": "command=$(grep -m1 -F 'pip install -e \".[test]\"' README.md)",
    "ruff check": "ruff check",
    "ruff format --check": "ruff format --check",
    "mypy": "mypy",
    "pyright": "pyright",
    ".ci/run": "#!/usr/bin/env bash",
    "python -m tests.pictures": "tests/browser/test_pictures.py::test_a_picture_is_taken",
    "python -m tests.labextension": "tests/submission/test_options.py::test_labextension_knows_the_options",
    "python -m tests.notebooks": "tests/project/test_notebooks.py::test_quickstart",
    "python -m tests.matrix": "python -m tests.matrix --corners",
    "python -m tests.matrix --corners": "python -m tests.matrix --corners",
    "python -m tests.benchmarks": "tests/project/test_benchmarks.py::test_a_part_runs",
    "python -m tests.benchmarks load": "tests/project/test_benchmarks.py::test_load_runs",
    # Its servers take gigabytes, so what surrounds them is tested: the steps, the proxy, the table.
    "python -m tests.servers": "tests/servers/test_harness.py::test_the_table_says_what_failed",
    # A GPU and the libraries for one are not on CI's machines: what is tested is that it starts.
    "python -m tests.prompts.on_device": "tests/project/test_commands.py::test_wrong_part_is_one_line",
    "python -m tests.frontends": "python -m tests.frontends collaboration server-documents console voila",
    "python -m tests.faults": "tests/faults/test_power.py::test_a_power_cut",
    "python -m tests.simulation": "tests/simulation/test_simulation.py::test_histories",
}

# Those that take a path, a name or a part: which one makes no difference to whether they work.
TAKES_WORDS = {
    "pytest",
    *(
        f"python -m tests.{name}"
        for name in (
            "benchmarks",
            "faults",
            "frontends",
            "matrix",
            "notebooks",
            "pictures",
            "servers",
            "simulation",
        )
    ),
}


def commands(text: str) -> set[str]:
    """The commands in a document, each alone and without its comment."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    parts = [part.partition(" # ")[0].strip() for line in lines for part in line.split(" && ")]
    return {part for part in parts if part.split(" ")[0] in PROGRAMS and part != "."}


def known(command: str) -> str:
    """The key of `RUN_BY` that a command falls under: the command itself, or without what it is given."""
    if command in RUN_BY:
        return command
    given = (program for program in RUN_BY if command.startswith(f"{program} "))
    return next((program for program in given if program in TAKES_WORDS), command)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_run(document: str) -> None:
    """No document has a command that neither a test nor CI runs."""
    found = {known(command) for command in commands((ROOT / document).read_text())}
    assert found, document
    assert found <= RUN_BY.keys(), found - RUN_BY.keys()


def test_no_command_is_made_up() -> None:
    """What is listed here stands in a document, and what is said to run it exists."""
    told = {known(command) for name in DOCUMENTS for command in commands((ROOT / name).read_text())}
    assert RUN_BY.keys() == told
    for command, runner in RUN_BY.items():
        if runner.startswith("tests/"):
            file, _, test = runner.partition("::")
            assert f"\ndef {test}(" in (ROOT / file).read_text(), command
        else:
            assert runner in CI, command


@pytest.mark.parametrize("document", DOCUMENTS)
def test_pytest_is_given_tests(document: str) -> None:
    """Each `pytest PATH` names a file or a folder that has tests."""
    for command in commands((ROOT / document).read_text()):
        for name in command.split()[1:] if command.startswith("pytest") else ():
            path = ROOT / name
            files = [path] if path.is_file() else list(path.rglob("test_*.py"))
            assert files, command
            assert all("\ndef test_" in file.read_text() for file in files), command


@pytest.mark.parametrize("program", ["benchmarks", "matrix", "notebooks", "pictures"])
def test_program_says_what_it_takes(program: str) -> None:
    """Each program of the tests starts, imports all it needs, and says what it takes."""
    command = [sys.executable, "-m", f"tests.{program}", "--help"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert f"usage: python -m tests.{program}" in ran.stdout


@pytest.mark.parametrize("program", ["benchmarks", "pictures", "prompts.on_device"])
def test_wrong_part_is_one_line(program: str) -> None:
    """A part or state that there is not is one line that names those there are; nothing is begun."""
    command = [sys.executable, "-m", f"tests.{program}", "folder", "nonsense"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 2
    assert "nonsense; there are " in ran.stderr
    assert not (ROOT / "folder").exists()


GIVEN = """
import os; os.chdir({folder!r})
import bgmagic
proof, topic, findings, texts = "1 = 2", "sleep", ["few sleep", "fewer well"], ["one", "two"]
questions = [{{"question": f"Why {{n}}?"}} for n in range(40)]
figure = {figure!r}
open("protocol.pdf", "wb").write(b"%PDF-1.4")
"""


def test_the_five_examples(in_kernel: Kernel, server: ScriptedServer, tmp_path: Path) -> None:
    """The README's examples run in a notebook as they stand there, one after another."""
    fit = '{"model": "linear", "r_squared": 0.9, "doubts": []}'
    server.ending = lambda rid, body: response(
        rid, "completed", fit if "r_squared" in str(body) else "the answer"
    )
    part = README.partition("## Five examples")[2].partition("\n## ")[0]
    examples = re.findall(r"^```(?:python)?\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
    assert len(examples) == 10
    figure = b"\x89PNG\r\n\x1a\n"
    in_kernel.ok(GIVEN.format(folder=str(tmp_path), figure=figure))
    for example in examples:
        in_kernel.ok(example)
        in_kernel.ok("%bgwait")
    told = "(len(table), fit.data.model, [str(one) for one in answers], len(group), len(study))"
    assert in_kernel.value(told) == "(240, 'linear', ['the answer', 'the answer'], 2, 40)"
