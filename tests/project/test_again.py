"""What CI does with a few tests that failed beside others: they are run once more, by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.again import MOST, hopeless

TESTS = """
from pathlib import Path

def test_first_time():
    there = Path("there")
    if not there.exists():
        there.touch()
        raise AssertionError

def test_always():
    raise AssertionError

def test_never():
    Path("times").open("a").write("x")
"""


def test_what_failed_is_tried_again_alone(tmp_path: Path) -> None:
    """A test that passes the second time is named as shaky, one that fails again fails the run, and what passed is not run again."""
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").touch()
    root = str(Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": root, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    env.pop("PYTEST_ADDOPTS", None)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    log = tmp_path / "log"
    first = run("pytest")
    log.write_text(first.stdout)
    assert first.returncode == 1
    again = run("tests.again", "1", str(log))
    assert again.returncode == 1
    assert again.stdout.splitlines()[-2:] == [
        "failed twice: test_some.py::test_always",
        "failed beside others, passed alone: test_some.py::test_first_time",
    ]
    assert (tmp_path / "times").read_text() == "x"
    (tmp_path / "test_some.py").write_text(
        TESTS.replace("raise AssertionError\n\ndef", "pass\n\ndef")
    )
    assert run("tests.again", "1", str(log)).returncode == 0


def test_what_is_not_tried_again() -> None:
    """Many failures, a crash, tests that can't be imported and a run that was cut short fail at once."""
    some = {f"tests/test_a.py::test_{number}" for number in range(MOST)}
    assert hopeless(1, "", some) is None
    assert "6 tests failed" in str(hopeless(1, "", {*some, "tests/test_a.py::test_more"}))
    assert "crashed" in str(hopeless(1, "worker 'gw0' crashed while running 'tests/x'", some))
    assert "collected" in str(hopeless(1, "", {"tests/test_a.py"}))
    assert "status 2" in str(hopeless(2, "", some))
    assert "status 1" in str(hopeless(1, "", set()))
