"""The matrix of environments: what is missing is told."""

from __future__ import annotations

import pytest

from tests import matrix


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
