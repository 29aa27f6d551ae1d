"""`python -m tests.matrix [--corners] [--quick] [NAME…]`: the built wheel in other kernels, Pythons and versions.

Builds the wheel and, for each entry, makes an environment from wheels alone, installs the wheel there,
checks it, and runs tests against it from a folder outside of the tree. Prints a line for each entry
and `N passed, N failed` at the end. Versions come from pyproject.toml.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support.pythons import from_debian, interpreter

ROOT = Path(__file__).parent.parent
TEST_NEEDS = (
    "pytest", "pytest-timeout", "hypothesis", "jsonschema", "nbclient", "nest-asyncio", "papermill",
    "pexpect",
)  # fmt: skip

# What shows in half a minute whether an environment works at all.
QUICK = (
    "tests/project/test_names.py",
    "tests/notebook/test_magics.py::test_cell_to_variable",
    "tests/notebook/test_magics.py::test_bad_headers_send_nothing",
    "tests/notebook/test_magics.py::test_errors_are_one_line",
    "tests/notebook/test_magics.py::test_unload_and_reload",
    "tests/notebook/test_blocking.py::test_kernel_stays_alive",
    "tests/notebook/test_blocking.py::test_cells_keep_their_order",
    "tests/notebook/test_blocking.py::test_interrupt_leaves_the_job_alone",
    "tests/notebook/test_blocking.py::test_await_interrupted_leaves_the_job_alone",
    "tests/notebook/test_blocking.py::test_beside_the_archived_nest_asyncio[True]",
    "tests/notebook/test_blocking.py::test_the_loop_keeps_tasks_of_its_own",
    "tests/notebook/test_attach.py::test_killed_while_the_server_works",
    "tests/notebook/test_headless.py::test_wait_by_environment",
    "tests/project/test_scripts.py::test_without_ipython",
)
WHOLE = (
    "tests/project/test_names.py", "tests/notebook/test_magics.py", "tests/notebook/test_blocking.py", "tests/notebook/test_attach.py",
    "tests/transport/test_client.py", "tests/display/test_card.py", "tests/storage/test_journal.py", "tests/api/test_servers.py",
    "tests/notebook/test_headless.py", "tests/project/test_scripts.py", "tests/notebook/test_terminal.py", "tests/notebook/test_colab.py",
    "tests/prompts/test_template.py", "tests/runtime/test_dependencies.py", "tests/transport/test_streaming.py", "tests/submission/test_options.py",
    "tests/notebook/test_completion.py", "tests/api/test_citations.py", "tests/rendering",
)  # fmt: skip
# JupyterLab and Notebook with our extension, as the wheel has put it there.
LAB = (
    "tests/browser/test_prompt_colours.py::test_what_pip_installs",
    "tests/browser/test_prompt_colours.py::test_prompt_is_coloured",
    "tests/browser/test_panel.py",
)


@dataclass(frozen=True)
class Entry:
    """One environment.

    Attributes:
        python: which interpreter.
        pins: requirements that go over those of pyproject.toml.
        lowest: whether everything that pyproject.toml names is as old as it allows.
        corner: whether CI runs it.
        tests: these instead of the usual ones.
    """

    name: str
    python: str
    pins: tuple[str, ...] = ()
    lowest: bool = False
    corner: bool = False
    tests: tuple[str, ...] = ()


MATRIX = (
    Entry("lowest", "3.11", lowest=True, corner=True),
    Entry("ipython8", "3.11", ("ipython<9",)),
    Entry("ipykernel6", "3.12", ("ipykernel==6.31.*",)),
    Entry("ipykernel7.3", "3.14", ("ipykernel==7.3.*",), corner=True),
    Entry("newest-3.12", "3.12"),
    Entry("newest-3.13", "3.13"),
    Entry("newest-3.14", "3.14"),
    Entry("newest-3.15", "3.15", corner=True),
    Entry(
        "lab4.2", "3.11",
        ("jupyterlab==4.2.0", "notebook==7.2.0", "playwright>=1.48", "axe-playwright-python>=0.1.8"),
        tests=LAB,
    ),
)  # fmt: skip


def build(folder: Path) -> Path:
    """The wheel, built by way of the source distribution."""
    run([sys.executable, "-m", "build", "--quiet", f"--outdir={folder}", str(ROOT)], ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(entry: Entry, python: str, wheel: Path, folder: Path) -> str:
    """Make the environment; its interpreter."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    ours = [*project["dependencies"], *extras["local"]]
    kernel = [word for word in extras["lab"] if word.startswith("ipykernel")]
    tests = [word for word in extras["test"] if _name(word) in TEST_NEEDS]
    wanted = folder / f"{entry.name}.txt"
    wanted.write_text("\n".join([*ours, *kernel, *tests, *entry.pins]))
    venv = folder / entry.name
    uv = [sys.executable, "-m", "uv"]
    run([*uv, "venv", "--quiet", f"--python={python}", str(venv)], folder)
    made = str(venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    how = ["--resolution=lowest-direct"] if entry.lowest else []
    # No compiler is needed: wheels alone.
    into = [*uv, "pip", "install", "--quiet", f"--python={made}"]
    run([*into, "--only-binary=:all:", *how, f"--requirement={wanted}"], folder)
    run([*into, "--no-deps", str(wheel)], folder)
    run([*uv, "pip", "check", "--quiet", f"--python={made}"], folder)
    return made


def _name(requirement: str) -> str:
    return next(
        (requirement[:at] for at, c in enumerate(requirement) if c in "<>=[ ;"), requirement
    )


def test(entry: Entry, python: str, folder: Path, *, quick: bool) -> str:
    """Run the tests against what is installed; pytest's last line."""
    apart = folder / f"{entry.name}-tests"
    apart.mkdir()
    shutil.copytree(ROOT / "tests", apart / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, apart)
    where = run([python, "-c", "import bgmagic; print(bgmagic.__file__)"], apart).stdout
    assert str(folder / entry.name) in where, f"not the wheel: {where}"
    # Libraries as old as these warn about the newest of those they use; that is not ours to mend.
    quiet = ["-W", "ignore::DeprecationWarning"] if entry.lowest else []
    chosen = (
        entry.tests or QUICK
        if quick or entry.tests
        else [path for path in WHOLE if (ROOT / path).exists()]
    )
    command = [python, "-m", "pytest", "-q", *quiet]
    ran = run([*command, *chosen], apart, may_fail=True)
    if ran.returncode:
        return _again(ran, command, apart)
    return ran.stdout.strip().splitlines()[-1]


def _again(ran: subprocess.CompletedProcess[str], command: list[str], folder: Path) -> str:
    """What tests.again says of a few tests that failed beside the other environments' and the linters.

    Raises:
        RuntimeError: one failed again, or there was nothing to try again.
    """
    log = folder / "tests.log"
    log.write_text(ran.stdout)
    print(ran.stdout[-8000:], ran.stderr[-4000:], sep="\n")
    again = [command[0], "-m", "tests.again", str(ran.returncode), str(log), *command[3:]]
    told = run(again, folder).stdout.splitlines()
    return "; ".join(line for line in told if line.startswith("failed beside others"))


def run(
    command: list[str], folder: Path, *, may_fail: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run the command; if it fails and may not, all that it said is printed."""
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    ran = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, errors="replace"
    )
    if ran.returncode and not may_fail:
        print(ran.stdout[-8000:], ran.stderr[-4000:], sep="\n")
        raise RuntimeError(f"{' '.join(command[:4])}… ended with {ran.returncode}")
    return ran


def tried(entry: Entry, wheel: Path, folder: Path, quick: bool) -> bool | None:
    """Install and test one entry, and say how it went; None if it was skipped for want of its Python.

    Where CI is set, the machine must be complete: what is missing is a failure.
    """
    begun = time.monotonic()
    try:
        python = interpreter(entry.python) or from_debian(entry.python, folder)
    except LookupError as error:
        must = bool(os.environ.get("CI"))
        how = "FAILED, CI must not skip" if must else "skipped"
        print(f"{entry.name}: {how}: there is no Python {entry.python} here: {error}", flush=True)
        return False if must else None
    try:
        said = test(entry, install(entry, python, wheel, folder), folder, quick=quick)
    except RuntimeError as error:
        print(f"{entry.name}: FAILED: {error}", flush=True)
        return False
    print(f"{entry.name}: {said} ({time.monotonic() - begun:.0f} s in all)", flush=True)
    return True


def main() -> int:
    """Run the entries that the arguments choose; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix")
    parser.add_argument("--quick", action="store_true", help="a quick choice of tests")
    parser.add_argument("--corners", action="store_true", help="the corners alone, and quickly")
    parser.add_argument("names", nargs="*", help="these entries alone")
    asked = parser.parse_args()
    chosen = [entry for entry in MATRIX if entry.name in asked.names or not asked.names]
    chosen = [entry for entry in chosen if entry.corner or not asked.corners]
    quick = asked.quick or asked.corners
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(max_workers=3) as pool:
        folder = Path(name).resolve()
        wheel = build(folder / "dist")
        went = list(pool.map(lambda entry: tried(entry, wheel, folder, quick), chosen))
    passed, failed = went.count(True), went.count(False)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
