"""The real parts: the weights in the user's cache, and servers that run in processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bgmagic.local import discovery
from tests.local.client import Client


def link(gguf: Path, folder: Path) -> Path:
    """A cache folder of its own that shares the weights."""
    folder.mkdir(exist_ok=True)
    (folder / gguf.name).symlink_to(gguf)
    return folder


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder without weights, and nothing that points elsewhere."""
    monkeypatch.setenv("BGMAGIC_CACHE", str(tmp_path / "cache"))
    for name in ("BGMAGIC_LOCAL_MODEL", "BGMAGIC_LOCAL_WHEEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def cache(empty_cache: Path, gguf: Path) -> Iterator[Path]:
    """A cache folder with the weights; whatever server a test starts in it is ended."""
    yield link(gguf, empty_cache)
    discovery.stop()


@pytest.fixture(scope="session")
def client(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of one real server that the tests of its answers share."""
    folder = link(gguf, tmp_path_factory.mktemp("shared") / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BGMAGIC_CACHE", str(folder))
        patch.delenv("BGMAGIC_LOCAL_MODEL", raising=False)
        endpoint = discovery.start_or_join()
    yield Client(endpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BGMAGIC_CACHE", str(folder))
        patch.delenv("BGMAGIC_LOCAL_MODEL", raising=False)
        discovery.stop()
