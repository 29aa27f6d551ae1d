"""The pictures of the displays can still be taken; what they show is for people to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pictures import main
from tests.support.browser import need_browser


def test_a_picture_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m tests.pictures FOLDER STATE…` leaves a picture of each state, ended or live, and says how many."""
    need_browser()
    main([str(tmp_path), "completed", "running"])
    assert f"2 pictures in {tmp_path}" in capsys.readouterr().out
    for state in ("completed", "running"):
        picture = (tmp_path / f"{state}-light-1200.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 10_000
