"""What the tests share: a scripted server, kernels, and a machine that is complete where CI is set."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from bgmagic.api.request import Request
from bgmagic.api.request_body import build_request
from bgmagic.local import LocalServerError, discovery, weights
from bgmagic.runtime.manager import JobManager
from bgmagic.submission.app import app
from bgmagic.submission.settings import SubmitSettings
from bgmagic.submission.submit import prepare_request
from tests.support.browser import lab_with as lab_with
from tests.support.browser import shared_labs as shared_labs
from tests.support.kernels import Kernel, kernel
from tests.support.scripted import ScriptedServer

KEY = "sk-test-0123456789abcdef"
NOTEBOOK = "/home/user/study.ipynb"


def asked(prompt: str, settings: SubmitSettings) -> Request:
    """The request that ``prompt`` becomes with these settings, nothing filled in."""
    return prepare_request(prompt, settings).request


# What takes longest, longest first. A worker that gets one of these last has the others wait for it.
LONG = ("simulation/", "faults/", "project/test_notebooks", "notebook/", "local/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where files are shared out (pytest-xdist with --no-loadscope-reorder), the long ones go first.

    Browsers compute and kernels mostly wait: a file of the ones takes turns with a file of the others.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        inside = item.path.relative_to(Path(__file__).parent).as_posix()
        files.setdefault(inside, []).append(item)

    def rank(file: str) -> int:
        return next((at for at, long in enumerate(LONG) if file.startswith(long)), len(LONG))

    browsers = [file for file in files if file.startswith("browser/")]
    others = sorted(files.keys() - set(browsers), key=lambda file: (rank(file), file))
    turns = itertools.chain.from_iterable(itertools.zip_longest(browsers, others))
    items[:] = [item for file in turns if file for item in files[file]]


# Deadlines, and how long examples take to make, measure the machine, not the code.
slow = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile(
    "bgmagic", deadline=None, max_examples=100, suppress_health_check=slow
)
hypothesis.settings.load_profile("bgmagic")


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ("BGMAGIC_CACHE", "BGMAGIC_LOCAL_MODEL", "BGMAGIC_LOCAL_WHEEL", "BGMAGIC_PICTURES")
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "BGMAGIC_", "AZURE_")) and name not in kept:
            monkeypatch.delenv(name)
    # A journal of the user's is not the tests' to write to.
    monkeypatch.setenv("BGMAGIC_JOURNAL", ":memory:")
    # Where an earlier test sent its jobs is gone.
    monkeypatch.setattr(app, "_used", None)
    monkeypatch.setattr(app, "_local", None)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A scripted server."""
    with ScriptedServer() as started:
        yield started


@pytest.fixture
def pointed(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    """The scripted server, with the environment pointing at it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    return server


@pytest.fixture
def manager(pointed: ScriptedServer) -> Iterator[JobManager]:
    """A manager whose jobs go to the scripted server."""
    made = JobManager()
    yield made
    assert made.close(60), "the loop thread did not end"


@pytest.fixture
def in_kernel(server: ScriptedServer) -> Iterator[Kernel]:
    """A kernel with the extension, pointed at the scripted server."""
    with kernel(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=server.base_url, BGMAGIC_POLL="0.1") as started:
        started.ok("%load_ext bgmagic")
        yield started


@pytest.fixture
def lasting(server: ScriptedServer, tmp_path: Path) -> dict[str, str]:
    """The environment of a notebook's kernels, one after another: one server, one journal."""
    return {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": server.base_url,
        "BGMAGIC_POLL": "0.1",
        "BGMAGIC_JOURNAL": str(tmp_path / "data" / "journal.sqlite3"),
        "JPY_SESSION_NAME": NOTEBOOK,
    }


@pytest.fixture(scope="session")
def gguf() -> Path:
    """The embedded model's weights in the user's own cache, fetched if needed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BGMAGIC_CACHE", "BGMAGIC_LOCAL_MODEL"):
            patch.delenv(name, raising=False)
        try:
            return weights.fetch(lambda done, total: None)
        except LocalServerError as error:
            missing(f"the embedded model ({error})")
            raise


@pytest.fixture
def ask() -> Callable[..., Request]:
    """Makes a request from a text."""

    def make(text: str = "Why?", **settings: object) -> Request:
        message = {"role": "user", "content": [{"type": "input_text", "text": text}]}
        return build_request([message], **{"model": "gpt-5.2", **settings})

    return make


@pytest.fixture
def embedded(gguf: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose kernels start an embedded server of the test's own."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / gguf.name).symlink_to(gguf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BGMAGIC_CACHE", str(folder))
        patch.delenv("BGMAGIC_LOCAL_MODEL", raising=False)
        yield {"BGMAGIC_CACHE": str(folder)}
        discovery.stop()


def missing(what: str) -> None:
    """Skip for want of ``what`` on a user's machine, and fail where the machine must be complete."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must not skip")
    pytest.skip(f"{what} is missing")
