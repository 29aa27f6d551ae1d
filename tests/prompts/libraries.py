"""Libraries that the tests of values need, each of which a user's machine may lack."""

from __future__ import annotations

import importlib
from typing import Any

from tests.conftest import missing


def library(name: str) -> Any:
    """The module ``name``; without it a skip on a user's machine, a failure where CI is set."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(f"{name} (pip install bgmagic[test-values])")
        raise
