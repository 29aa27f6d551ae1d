"""What the trials have in common: an environment for each program, the server, and what a cell sends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import KEY
from tests.matrix import interpreter
from tests.support.scripted import ScriptedServer

ROOT = Path(__file__).parents[2]
LIMIT = 120.0  # seconds until something must have happened, on a busy machine


@dataclass(frozen=True)
class Trial:
    """One program on trial.

    Attributes:
        python: of its environment, which has bgmagic, too.
        folder: where its notebooks are; empty at first.
        server: what its kernels are pointed at.
    """

    python: Path
    folder: Path
    server: ScriptedServer

    @property
    def environment(self) -> dict[str, str]:
        """What goes over the environment of the tests."""
        return {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": self.server.base_url,
            "BGMAGIC_POLL": "0.2",
            "BGMAGIC_JOURNAL": str(self.folder / ".journal.sqlite3"),
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def whole_environment(self) -> dict[str, str]:
        """All of what its processes get: no settings of the user's, and its own programs first."""
        hidden = ("OPENAI_", "BGMAGIC_", "AZURE_", "JUPYTER_", "JPY_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        kept["PATH"] = os.pathsep.join([str(self.python.parent), kept.get("PATH", "")])
        for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
            kept[f"JUPYTER_{name}"] = str(self.folder / f".{name.lower()}")
        return kept | {"IPYTHONDIR": str(self.folder / ".ipython")} | self.environment

    def hold(self) -> None:
        """Have the server's jobs run until `release`."""
        self.server.polls = 10**6

    def release(self) -> None:
        """Have all jobs end with their next poll."""
        self.server.polls = 0

    def run(self, *words: object, typed: str = "") -> str:
        """Run ``python -m WORDS`` in its folder, with that typed into it; what it printed."""
        ran = subprocess.run(
            [str(self.python), "-m", *map(str, words)],
            cwd=self.folder, env=self.whole_environment(), input=typed,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-2000:]
        return ran.stdout + ran.stderr

    def until(self, condition: Callable[[], object], about: str) -> None:
        """Wait until ``condition()`` is true."""
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end, f"never: {about}"
            time.sleep(0.1)


@dataclass(frozen=True)
class Program:
    """A program and what is tried with it.

    Attributes:
        needs: what is installed beside bgmagic; the first requirement is the program.
        try_it: fails with an AssertionError that says what was seen, or gives what is to be said.
        python: the version it is installed for; "" is that of the tests.
    """

    title: str
    needs: tuple[str, ...]
    try_it: Callable[[Trial], str]
    python: str = ""


def installed(name: str, program: Program, folder: Path) -> Path:
    """The interpreter of the program's environment, which is made if it is not there."""
    target = folder / name
    mark, wanted = target / "installed", json.dumps([program.needs, program.python, str(ROOT)])
    python = target / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if mark.is_file() and mark.read_text() == wanted:
        return python
    shutil.rmtree(target, ignore_errors=True)
    found = interpreter(program.python) if program.python else sys.executable
    if found is None:
        raise SystemExit(f"{name} needs Python {program.python}, which is not on this machine.")
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", f"--python={found}", str(target)], check=True)
    into = [*uv, "pip", "install", "--quiet", f"--python={python}"]
    subprocess.run([*into, *program.needs, "--editable", str(ROOT)], check=True)
    mark.write_text(wanted)
    return python


def tried(name: str, program: Program, folder: Path) -> tuple[bool, str]:
    """Whether everything was right, and what is to be said of it."""
    python = installed(name, program, folder)
    with tempfile.TemporaryDirectory() as scratch, ScriptedServer() as server:
        try:
            return True, program.try_it(Trial(python, Path(scratch).resolve(), server))
        except Exception as failure:
            said = f"{type(failure).__name__}: {failure}"
            return False, " ".join(said.split())[:600]


def version(python: Path, needs: str) -> str:
    """The version of the distribution in this requirement."""
    name = needs.split("=")[0].split("<")[0].split(">")[0].split("[")[0]
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    ran = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return ran.stdout.strip()
