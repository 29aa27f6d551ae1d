"""What servers have in common: an environment of their own, processes, and waiting until they answer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bgmagic.local import weights
from tests.matrix import interpreter
from tests.servers.counting import CountingProxy

# How conversations are put before the small model, whose own way knows no functions.
TEMPLATE = Path(__file__).with_name("tools.jinja")

PATIENCE = (
    600.0  # seconds that a server may take to start; vLLM took more than 180 on two busy cores
)


@dataclass(frozen=True)
class Part:
    """One process of a server.

    Attributes:
        port: where it listens on loopback.
        path: what answers once it is ready, below 500; None if it speaks no HTTP.
        environment: goes over the environment of the tests.
    """

    name: str
    command: Sequence[object]
    port: int
    path: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How a server is installed and run.

    Attributes:
        settings: what differs from its defaults, in words.
        model: the name that it gives the model.
        base: the path of its API.
        python: the version it is installed for.
        install: puts it into a folder that is not there yet.
        parts: its processes, given its folder and the port of the last one, which is the server.
    """

    title: str
    version: str
    settings: str
    python: str
    install: Callable[[Path], None]
    parts: Callable[[Path, int], list[Part]]
    model: str = "smollm2"
    key: str = "sk-loopback"
    base: str = "/v1"


def gguf() -> Path:
    """The weights that stand behind every server, fetched if they are not there yet."""
    return weights.fetch(lambda done, total: None)


def environment(folder: Path, python: str) -> Path:
    """Makes an environment for Python ``python`` in ``folder``; its interpreter."""
    found = interpreter(python)
    if found is None:
        raise SystemExit(f"Python {python} is not on this machine, and {folder.name} needs it.")
    subprocess.run([found, "-m", "venv", str(folder)], check=True)
    return folder / "bin/python"


def pip(python: Path, *words: str | Path) -> None:
    """``pip install`` with the user's own index and certificates, from wheels alone."""
    install = [str(python), "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
    subprocess.run([*install, *map(str, words)], check=True)


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Running:
    """A server's processes and the proxy in front of it."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self._folder = folder
        port = free_port()
        self._parts = recipe.parts(folder, port)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.proxy = CountingProxy(free_port(), port)

    @property
    def base_url(self) -> str:
        """Where bgmagic is pointed at."""
        return f"http://127.0.0.1:{self.proxy.port}{self.recipe.base}"

    def start(self) -> None:
        """Start what does not run, one after another, and let the proxy listen."""
        for part in self._parts:
            if part.name not in self._processes:
                self._start(part)
        self.proxy.open()

    def kill(self) -> None:
        """kill -9 the server; what stands behind it lives on."""
        self.proxy.shut()
        self._end(self._parts[-1].name)

    def close(self) -> None:
        """End everything."""
        self.proxy.close()
        for part in reversed(self._parts):
            self._end(part.name)

    def _start(self, part: Part) -> None:
        log = self._folder / f"{part.name}.log"
        hidden = ("OPENAI_", "BGMAGIC_", "AZURE_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        with log.open("ab") as said:
            process = subprocess.Popen(
                [str(word) for word in part.command], cwd=self._folder, stdout=said,
                env={**kept, **part.environment}, stderr=said, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self._processes[part.name] = process
        end = time.monotonic() + PATIENCE
        while not _answers(part):
            if process.poll() is not None or time.monotonic() > end:
                tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-15:])
                self.close()
                raise SystemExit(f"{part.name} does not answer; {log} ends with:\n{tail}")
            time.sleep(0.2)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # workers of its own, too
            process.wait()


def _answers(part: Part) -> bool:
    if part.path is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", part.port), 1):
            return True
        return False
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{part.port}{part.path}", timeout=5) as reply:
            return int(reply.status) < 500
    except urllib.error.HTTPError as error:
        return error.code < 500 and error.code != 404
    except OSError:
        return False
