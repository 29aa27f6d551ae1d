"""The user's own model and how much of the machine it may take: --model, --threads and the rest."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.errors import BadInput
from bgmagic.local import LocalServerError, discovery
from bgmagic.local.engine import EngineSettings, setting_ranges
from bgmagic.notebook import local_model
from bgmagic.submission.app import App
from tests.local.client import LONG, Client, until
from tests.local.stage import stage
from tests.local.stage import until as until_there
from tests.local.test_process import last_line, run

CPUS = os.cpu_count() or 1


@pytest.fixture
def own(gguf: Path, tmp_path: Path) -> Path:
    """A GGUF file of the user's own."""
    path = tmp_path / "Own model-1B.gguf"
    path.symlink_to(gguf)
    return path


def test_a_model_of_ones_own_runs_with_the_settings_asked_for(cache: Path, own: Path) -> None:
    """Its true name is in responses, two are answered at a time, and the context is as asked."""
    try:
        started = discovery.start_or_join(model=own, parallel=2, context=512)
        assert (started.model, started.parallel, started.context) == ("Own model-1B", 2, 512)
        assert discovery.find(own) == started
        assert discovery.find() is None
        client = Client(started)
        running = [client.create(input=LONG)["id"] for _ in range(3)]
        until(lambda: client.jobs() == {"queued": 1, "in_progress": 2})
        for response_id in running:
            client.cancel(response_id)
        done = client.answer(model="Own model-1B", max_output_tokens=16)
        assert (done["model"], done["status"]) == ("Own model-1B", "incomplete")
        failed = client.answer(input="the sea and the wind " * 300)
        assert failed["error"]["message"].endswith("tokens, and 512 fit.")
    finally:
        assert discovery.stop(own) is True


def test_a_server_with_other_settings_is_not_joined_silently(cache: Path) -> None:
    """What was asked for and what runs differ: one line says so; what is left out joins it."""
    running = discovery.start_or_join(context=1024)
    assert discovery.start_or_join() == running
    assert discovery.start_or_join(context=1024, parallel=1) == running
    with pytest.raises(LocalServerError) as caught:
        discovery.start_or_join(context=2048, parallel=3)
    assert str(caught.value) == (
        "SmolLM2-135M-Instruct runs already with --parallel 1, --context 1024: leave --parallel"
        f" and --context out to use it, or end its process {running.pid} first."
    )
    assert discovery.find() == running


def test_a_relative_path_is_the_kernels_own(
    cache: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path from the notebook's folder is found by the server, which runs in another one."""
    monkeypatch.chdir(own.parent)
    try:
        started = discovery.start_or_join(model=Path(own.name))
        assert discovery.find(own) == started
    finally:
        discovery.stop(own)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"threads": 0}, f"--threads 0: it must be a whole number from 1 to {CPUS}."),
        ({"threads": CPUS + 1}, f"--threads {CPUS + 1}: it must be a whole number from 1 to {CPUS}."),
        ({"parallel": 65}, "--parallel 65: it must be a whole number from 1 to 64."),
        ({"context": 255}, "--context 255: it must be a whole number from 256 to 1048576."),
        ({"context": 512.5}, "--context 512.5: it must be a whole number from 256 to 1048576."),
        ({"parallel": True}, "--parallel True: it must be a whole number from 1 to 64."),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_one_line(
    empty_cache: Path, given_: dict[str, Any], said: str
) -> None:
    """It says what is allowed, before anything is fetched or started."""
    with pytest.raises(LocalServerError) as caught:
        discovery.start_or_join(**given_)
    assert str(caught.value) == said
    assert not empty_cache.exists()


@pytest.mark.parametrize("content", [None, b"", b"GGU", b"no model", "folder"])
def test_a_file_that_is_no_gguf_is_one_line(
    cache: Path, tmp_path: Path, content: bytes | str | None
) -> None:
    """The line names the file and what to do, from Python and from the command line."""
    path = tmp_path / "mine.gguf"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    what = "it is no GGUF file" if isinstance(content, bytes) else "there is no such file"
    said = f"--model {path}: {what}; name a GGUF file, or leave it out for SmolLM2-135M-Instruct."
    with pytest.raises(LocalServerError) as caught:
        discovery.start_or_join(model=path)
    assert str(caught.value) == said
    assert last_line(run("-m", "bgmagic.local", "--model", str(path))) == said


def test_a_gguf_that_llama_cannot_load_is_one_line(cache: Path, tmp_path: Path) -> None:
    """The first bytes are right and the rest is not: the file is named, with what to do."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 1000)
    with pytest.raises(LocalServerError) as caught:
        discovery.start_or_join(model=path)
    assert str(caught.value).startswith(f"llama.cpp can't load {path}: choose another GGUF file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threads", "many"], f"--threads many: it must be a whole number from 1 to {CPUS}."),
        (["--context", "1"], "--context 1: it must be a whole number from 256 to 1048576."),
        (["--parallel", "1.5"], "--parallel 1.5: it must be a whole number from 1 to 64."),
        (["--port", "70000"], "--port 70000: it must be a whole number from 0 to 65535."),
        (["--idle", "nan"], "--idle nan: it must be a number from 0 to 315360000."),
        (["--modle", "x"], "unrecognized arguments: --modle x: see python -m bgmagic.local --help."),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_one_line(
    empty_cache: Path, arguments: list[str], said: str
) -> None:
    """It says what is allowed, and no traceback and no usage come with it."""
    assert last_line(run("-m", "bgmagic.local", *arguments)) == said


@given(st.sampled_from(sorted(setting_ranges())), st.integers() | st.floats() | st.text())
def test_a_setting_is_within_its_range_or_refused(name: str, value: Any) -> None:
    """Whatever is given, the settings hold whole numbers within what is allowed."""
    least, most = setting_ranges()[name]
    if type(value) is int and least <= value <= most:
        assert getattr(EngineSettings(**{name: value}), name) == value
    else:
        with pytest.raises(LocalServerError, match=f"from {least} to {most}"):
            EngineSettings(**{name: value})


def test_as_many_run_at_a_time_as_asked_for() -> None:
    """With two places the third response waits, and begins when one of the two has ended."""

    async def run_three() -> None:
        async with stage(parallel=2) as at:
            made = [await at.create(stream=False, input=str(n)) for n in range(3)]
            await until_there(lambda: len(at.puppet.heard) == 2)
            assert at.state.responses.count("in_progress") == 2
            assert await at.status(made[2].id) == "queued"
            at.puppet.end()
            await until_there(lambda: len(at.puppet.heard) == 3)
            at.puppet.end()
            at.puppet.end()
            await until_there(lambda: at.state.responses.count("completed") == 3)

    asyncio.run(run_three())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_settings_are_the_processs_own(cache: Path, own: Path) -> None:
    """The server's command line says what it runs with, and holds no secret."""
    try:
        started = discovery.start_or_join(model=own, threads=1, context=512)
        line = Path(f"/proc/{started.pid}/cmdline").read_text().split("\0")
        assert {f"--model={own}", "--threads=1", "--parallel=1", "--context=512"} <= set(line)
        assert started.token not in line
    finally:
        discovery.stop(own)


def test_the_kernel_is_told_which_model_its_jobs_go_to(
    cache: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`on` passes the settings on and names the model; `status` names each server that runs."""
    app = App()
    try:
        local_model.use_local_model(app, model=own, context=512)
        said = capsys.readouterr().out
        assert "Jobs now go to Own model-1B on this machine's CPU." in said
        assert "small model" not in said
        with pytest.raises(BadInput, match=r"^Own model-1B runs already with --context 512: leave"):
            local_model.use_local_model(app, model=own, context=1024)
        local_model.use_local_model(app)
        assert "Jobs now go to SmolLM2-135M-Instruct, a small model" in capsys.readouterr().out
        assert {each.model for each in discovery.find_all()} == {
            "Own model-1B", "SmolLM2-135M-Instruct",
        }  # fmt: skip
        assert app.local is not None
        local_model.print_status(app)
        [line] = capsys.readouterr().out.splitlines()
        assert "runs Own model-1B at http://" in line
        assert line.endswith(f"SmolLM2-135M-Instruct at {app.local.base_url}; jobs go there.")
        with pytest.raises(
            BadInput, match=r"^--parallel 0: it must be a whole number from 1 to 64"
        ):
            local_model.use_local_model(app, parallel=0)
    finally:
        discovery.stop(own)


@pytest.mark.parametrize(
    "content", ["", "{", '{"base_url": 1, "token": 2, "pid": "x", "model": []}']
)
def test_a_damaged_endpoint_file_is_no_server(empty_cache: Path, content: str) -> None:
    """Among all servers, one whose file can't be read, or holds values of other types, is none."""
    discovery.endpoint_file().write_text(content)
    assert discovery.find_all() == []
    assert discovery.find() is None
