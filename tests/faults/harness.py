"""Kernels to be killed, what became of their jobs, and what a machine must have for these tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import KEY, NOTEBOOK, missing
from tests.faults.nursery import NURSERY
from tests.support.scripted import ScriptedServer

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 120.0  # seconds, for what must come true


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether ``condition`` comes true within ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def require(*programs: str) -> None:
    """Skip the test, or fail it where CI is set, unless this is root on Linux with ``programs``."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        missing("root on Linux (these tests mount file systems)")
    for program in programs:
        if shutil.which(program) is None:
            missing(program)


def missing_device(path: str) -> None:
    """Skip the test, or fail it where CI is set, for want of a device."""
    missing(path)


def system(*command: object) -> None:
    """Run a program of the operating system.

    Raises:
        AssertionError: it failed, with what it said.
    """
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr.strip()}"


class Kernel:
    """A process with IPython and the extension, which can be killed and stopped."""

    def __init__(self, base_url: str, journal: Path, **environment: str) -> None:
        """Start it and load the extension.

        Args:
            base_url: of the server that jobs go to.
            journal: the file that outlives the kernel.
            environment: more variables, or others; `HOST` and `NETWORK` put it elsewhere.
        """
        kept = ("BGMAGIC_", "OPENAI_", "AZURE_")
        usual = {key: value for key, value in os.environ.items() if not key.startswith(kept)}
        ours = {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": base_url,
            "BGMAGIC_POLL": "0.2",
            "BGMAGIC_JOURNAL": str(journal),
            "JPY_SESSION_NAME": NOTEBOOK,
            "PYTHONPATH": str(ROOT),
        }
        told = usual | ours | environment
        # Ours is the writing end of its input, the reading end of its output.
        stdin, self._to = os.pipe()
        self._from, stdout = os.pipe()
        self.pid = NURSERY.fork(told, stdin, stdout)
        os.close(stdin)
        os.close(stdout)
        self._over = os.pidfd_open(self.pid)
        self._read = b""
        self._answer(60.0)
        self.greeting = self.run("import bgmagic\n%load_ext bgmagic")

    def run(self, cell: str, seconds: float = PATIENCE) -> str:
        """Run a cell and give what it printed; an error of the cell is part of that."""
        self.begin(cell)
        answer = self._answer(seconds)
        return f"{answer['printed']}{answer['error'] or ''}"

    def begin(self, cell: str) -> None:
        """Run a cell, and do not wait for its end."""
        self._say({"cell": cell})

    def value(self, expression: str, seconds: float = PATIENCE) -> Any:
        """Evaluate an expression whose value JSON can tell.

        Raises:
            AssertionError: it raised.
        """
        self._say({"value": expression})
        answer = self._answer(seconds)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def sweep(self, count: int, **options: object) -> None:
        """Send ``count`` jobs, each with a prompt of its own, as the group ``sweep``."""
        given = "".join(f", {key}={value!r}" for key, value in options.items())
        self.run(
            f"sweep = bgmagic.map('item {{{{ item }}}}.', range({count}), yes={count}, "
            f"out='sweep'{given})"
        )

    def statuses(self) -> Counter[str]:
        """How many of this process's jobs stand how."""
        return Counter(self.value("[str(job.status) for job in bgmagic.jobs()]"))

    def settled(self, seconds: float = PATIENCE) -> bool:
        """Whether every job of this process ends, or is given up, within ``seconds``."""
        return until(lambda: not _MOVING & self.statuses().keys(), seconds)

    def memory(self) -> int:
        """Bytes that the process has in memory now."""
        status = Path(f"/proc/{self._python}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0

    @property
    def _python(self) -> int:
        """The process id of Python itself, whatever started it."""
        current = self.pid
        while True:
            name = Path(f"/proc/{current}/comm").read_text()
            children = Path(f"/proc/{current}/task/{current}/children").read_text().split()
            if name.startswith("python") or not children:
                return current
            current = int(children[0])

    def kill(self) -> None:
        """kill -9."""
        if self._ends(0):
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        assert self._ends(PATIENCE), "it lives on after kill -9"

    def stop(self) -> None:
        """Suspend it, as a laptop that sleeps or a debugger does."""
        os.kill(self._python, signal.SIGSTOP)
        assert until(self.is_stopped)

    def is_stopped(self) -> bool:
        """Whether it is suspended."""
        stat = Path(f"/proc/{self._python}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self._python, signal.SIGCONT)

    def close(self) -> None:
        """End it by force, if it has not ended, and forget it."""
        self.kill()
        os.close(self._to)
        os.close(self._from)
        os.close(self._over)

    def _ends(self, seconds: float) -> bool:
        return bool(select.select([self._over], [], [], seconds)[0])

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _say(self, asked: dict[str, str]) -> None:
        os.write(self._to, json.dumps(asked).encode() + b"\n")

    def _answer(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\n" not in self._read:
            left = max(0.0, end - time.monotonic())
            assert select.select([self._from], [], [], left)[0], f"no answer in {seconds:.0f} s"
            more = os.read(self._from, 65_536)
            assert more, "the kernel has ended"
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


_MOVING = {"waiting", "submitting", "queued", "in_progress"}


@dataclass(frozen=True)
class Outcome:
    """What became of a sweep.

    Attributes:
        accepted: prompts that the server accepted.
        twice: those of them that it accepted more than once.
        lost: those of them that no kernel has and the journal does not offer.
        never_written: those of them of which not one commit got into the file; they run all the same,
            and the user was told that they would not survive.
    """

    accepted: int
    twice: int
    lost: int
    never_written: int = 0


def prompts_accepted(server: ScriptedServer) -> Counter[str]:
    """How often the server accepted each prompt of a sweep."""
    return Counter(found for body in list(server.accepted.values()) for found in items_in(body))


def items_in(text: str) -> list[str]:
    """The items of a sweep that a text names."""
    return re.findall(r"item (\d+)\.", text)


def outcome(server: ScriptedServer, kernel: Kernel) -> Outcome:
    """What became of the prompts of a sweep: those that ``kernel`` or the journal tells of are kept."""
    counts = prompts_accepted(server)
    known = set(items_in(json.dumps(exported(kernel))))
    twice = sum(count > 1 for count in counts.values())
    return Outcome(len(counts), twice, len(counts.keys() - known))


def exported(kernel: Kernel) -> list[dict[str, Any]]:
    """All jobs that the kernel and its journal know, as `bgmagic.export` tells them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.jsonl"
        kernel.value(f"bgmagic.export({str(path)!r}, all=True)")
        return [json.loads(line) for line in path.read_text().splitlines()]


def attach_all(base_url: str, journal: Path, seconds: float = PATIENCE, **more: Any) -> Kernel:
    """A new kernel of the notebook that has attached all there is, and whose jobs have ended, if they do
    within ``seconds``."""
    kernel = Kernel(base_url, journal, **more)
    kernel.run("%bgattach --all")
    kernel.settled(seconds)
    return kernel


# File systems. Each is unmounted again, whatever happened.


@contextlib.contextmanager
def mounted(target: Path, *command: object) -> Iterator[Path]:
    """A file system that ``command`` mounts at ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    system(*command)
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", target], check=False)


def tmpfs(target: Path, size: str) -> contextlib.AbstractContextManager[Path]:
    """A file system in memory with so much room."""
    return mounted(target, "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", target)


def bindfs(source: Path, target: Path, *options: str) -> contextlib.AbstractContextManager[Path]:
    """``source`` seen through FUSE: with caches and locks of its own, as on another host."""
    return mounted(target, "bindfs", *options, source, target)


def fill(folder: Path) -> Path:
    """Take all the room there is in ``folder``; gives the file to delete."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 512, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass
    return path
