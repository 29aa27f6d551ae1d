"""Interpreters of Python: those of this machine, and the newest, which only Debian's unstable suite has."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

# Of the suite there is no release to name; apt checks the signature.
MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
FROM_DEBIAN = ("3.14", "3.15")

_lock = threading.Lock()


def interpreter(version: str) -> str | None:
    """A Python of that version on this machine, or None."""
    # A shim of a version manager may be on the path and yet start nothing.
    found = [shutil.which(f"python{version}")]
    roots = [Path.home() / ".pyenv/versions", Path.home() / ".local/share/uv/python"]
    for root in roots:
        found += [str(path) for path in sorted(root.glob(f"*{version}.*/bin/python"))]
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, found):
        said = subprocess.run([candidate, "-c", ask], capture_output=True, text=True, check=False)
        if said.stdout.strip() == version:
            return candidate
    return None


def from_debian(version: str, folder: Path) -> str:
    """A Python of that version from Debian's unstable suite, unpacked in ``folder`` with all it needs.

    Its C library is newer than this machine's, so the program is told to use the one beside it.
    Nothing is installed, and nobody needs to be root.

    Raises:
        LookupError: that can't be done here; it says why.
    """
    with _lock:
        lacking = [name for name in ("apt-get", "dpkg-deb", "patchelf") if not shutil.which(name)]
        if lacking or not Path(KEYRING).exists():
            raise LookupError(f"Debian's comes with {' and '.join(lacking or [KEYRING])} only")
        if version not in FROM_DEBIAN:
            raise LookupError("Debian's unstable suite does not have it")
        root = folder / "debian"
        if not root.exists():
            root.mkdir(parents=True)
            try:
                _unpack(FROM_DEBIAN, root)
            except LookupError:
                shutil.rmtree(root)
                raise
        return str(root / f"usr/bin/python{version}")


def _unpack(versions: tuple[str, ...], root: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # An apt of its own, that knows of no other package and no other source.
        for needed in ("state/lists/partial", "cache/archives/partial"):
            (folder / needed).mkdir(parents=True)
        (folder / "state/status").touch()
        sources = folder / "sources.list"
        sources.write_text(f"deb [signed-by={KEYRING}] {MIRROR} unstable main\n")
        settings = {
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "state/status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "APT::Sandbox::User": "",  # who runs this is who may write here
            "Debug::NoLocking": "1",
        }
        apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
        _run([*apt, "update"])
        wanted = [f"python{version}" for version in versions]
        _run([*apt, "-y", "--no-install-recommends", "--download-only", "install", *wanted])
        for package in sorted(folder.glob("cache/archives/*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(root)])
    (loader,) = {path.resolve() for path in root.glob("usr/lib*/ld-linux*.so.*")}
    libraries = next(path.parent for path in root.glob("usr/lib/*/libc.so.6"))
    for name in wanted:
        program = str(root / "usr/bin" / name)
        # Also what a library needs is looked for there: of the two kinds of path it is the old one.
        _run(["patchelf", "--force-rpath", "--set-rpath", str(libraries), program])
        _run(["patchelf", "--set-interpreter", str(loader), program])


def _run(command: list[str]) -> None:
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip().splitlines()
        raise LookupError(f"{command[0]} says {said[-1] if said else ran.returncode!r}")
