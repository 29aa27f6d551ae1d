"""The matrix of environments: what is missing is told, and what failed beside others is tried again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests import again, matrix
from tests.project.test_again import TESTS


def test_missing_python(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Python that is not there is skipped on a user's machine, and fails the run where CI is set."""
    entry = matrix.Entry("far", "3.99")
    monkeypatch.setattr(matrix, "MATRIX", (entry,))
    monkeypatch.setattr(matrix, "build", lambda folder: folder / "none.whl")
    monkeypatch.setattr("sys.argv", ["matrix"])
    monkeypatch.delenv("CI", raising=False)
    matrix.main()
    said = capsys.readouterr().out
    assert "far: skipped: there is no Python 3.99 here" in said
    assert "0 passed, 0 failed" in said
    monkeypatch.setenv("CI", "true")
    assert matrix.main() == 1
    said = capsys.readouterr().out
    assert "far: FAILED, CI must not skip" in said
    assert "0 passed, 1 failed" in said


def test_what_failed_beside_others_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A test that fails only beside those of other environments is named, and its environment passes; one that fails once more fails it."""
    root, shaky = tmp_path / "root", TESTS.replace("def test_always", "def helper")
    for name in ("root/tests", "near/bgmagic", "far/bgmagic"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
    shutil.copy(again.__file__, root / "tests")
    for name in ("pyproject.toml", "README.md"):
        (root / name).touch()
    monkeypatch.setattr(matrix, "ROOT", root)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def tested(name: str, text: str) -> str:
        (root / "tests/test_some.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / name))
        entry = matrix.Entry(name, "3.99", lowest=True, tests=("tests/test_some.py",))
        return matrix.test(entry, sys.executable, tmp_path, quick=True)

    named = "failed beside others, passed alone: tests/test_some.py::test_first_time"
    assert tested("near", shaky) == named
    with pytest.raises(RuntimeError, match="ended with 1"):
        tested("far", TESTS)
    said = capsys.readouterr().out.splitlines()
    assert {named, "failed twice: tests/test_some.py::test_always"} <= set(said)
