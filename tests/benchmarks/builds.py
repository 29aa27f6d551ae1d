"""Builds that are measured side by side: this tree, and another commit in an environment of its own.

A measurement runs in a process of its own, with its build alone on its path.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT = 900.0  # seconds for one measurement


@dataclass(frozen=True)
class Build:
    """One build of bgmagic.

    Attributes:
        name: what the table calls it.
        python: runs it.
        path: where Python finds bgmagic and these benchmarks.
    """

    name: str
    python: str
    path: str


HERE = Build("ours", sys.executable, str(ROOT))


@contextlib.contextmanager
def built(commit: str) -> Iterator[Build]:
    """The build of a commit: its files in a folder, in an environment that has them and what this
    one has installed, with the benchmarks as they are here."""
    with tempfile.TemporaryDirectory(prefix="bgmagic-before-") as temporary:
        folder = Path(temporary)
        tree = folder / "tree"
        tree.mkdir()
        archive = subprocess.Popen(
            ["git", "archive", commit, "bgmagic"], cwd=ROOT, stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "-x", "-C", str(tree)], stdin=archive.stdout, check=True)
        if archive.wait():
            raise SystemExit(f"there is no commit {commit} here")
        for part in ("__init__.py", "benchmarks", "support"):
            found = ROOT / "tests" / part
            copy = shutil.copytree if found.is_dir() else shutil.copy
            (tree / "tests").mkdir(exist_ok=True)
            copy(found, tree / "tests" / part)
        shutil.copy(ROOT / "README.md", tree)
        made = folder / "env"
        venv.create(made)
        python = str(made / ("Scripts" if os.name == "nt" else "bin") / "python")
        asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
        lines = f"{tree}\n{sysconfig.get_path('purelib')}\n"
        (Path(site.stdout.strip()) / "before.pth").write_text(lines)
        yield Build(f"at {commit[:7]}", python, str(tree))


def run(build: Build, part: str, **given: Any) -> dict[str, float]:
    """The figures of one measurement, made by ``tests.benchmarks.worker`` in that build.

    Raises:
        RuntimeError: it ended without any.
    """
    told = json.dumps(
        {name: asdict(one) if is_dataclass(one) else one for name, one in given.items()},  # type: ignore[arg-type]
        default=str,
    )
    ended = subprocess.run(
        [build.python, "-m", "tests.benchmarks.worker", part, told],
        cwd=build.path,
        env={**os.environ, "PYTHONPATH": build.path},
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    lines = ended.stdout.splitlines()
    if not lines:
        raise RuntimeError(f"{part} of {build.name} ended without figures")
    found: dict[str, float] = json.loads(lines[-1])
    return found
