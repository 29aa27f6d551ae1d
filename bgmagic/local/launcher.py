"""The kernel's side of the embedded server: find it, start or join it, end it.

Loads neither tornado nor xllamacpp, and can be imported where they are not installed. What the
server needs to know it gets through its environment, which holds no credentials; what the kernel
needs to know (port and token) it reads from the endpoint file, see `endpoint`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import bgmagic.local
from bgmagic.local import LocalServerError, endpoint, require, weights
from bgmagic.local.endpoint import Endpoint

__all__ = ["Endpoint", "LocalServerError", "find", "start_or_join", "stop"]

# Seconds between two looks whether a server has come up or gone.
LOOK = 0.03
# Seconds a server may take to end; stopping a generation takes under one.
STOP_LIMIT = 10.0

# All that the server's process gets to see: what finds programs, libraries and folders. Keys,
# tokens and proxies stay behind, whatever they are called.
PASSED_ON = {"PATH", "HOME", "LANG", "TZ", "USER", "LOGNAME", "VIRTUAL_ENV", "CONDA_PREFIX"}
PASSED_ON |= {"TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "BGMAGIC_CACHE", "BGMAGIC_LOCAL_MODEL"}
PASSED_ON |= {"APPDATA", "COMSPEC", "LOCALAPPDATA", "PATHEXT", "SYSTEMDRIVE", "SYSTEMROOT"}
PASSED_ON |= {"USERNAME", "USERPROFILE", "WINDIR"}
PASSED_ON_STARTS = ("DYLD_", "GGML_", "LC_", "LD_", "OMP_", "PYTHON")


def find() -> Endpoint | None:
    """The running server of this environment's model, or None."""
    known = endpoint.read()
    return known if known is not None and endpoint.answers(known) else None


def start_or_join(
    *,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] | None = None,
    timeout: float = 60.0,
) -> Endpoint:
    """The running server, started first if there is none; fetches the weights if needed.

    Args:
        report: gets one line at the start of each step that takes time.
        progress: gets bytes done and bytes in all while the weights are fetched.
        timeout: seconds the server may take to come up; fetching does not count.

    Raises:
        LocalServerError: it can't be had; one line with the remedy.
    """
    running = find()
    if running is not None:
        return running
    require("xllamacpp", "tornado", "filelock")
    from filelock import FileLock, Timeout

    if not weights.present():
        report(f"Fetching {weights.model_name()}, once…")
    weights.fetch(progress or (lambda done, total: None))
    report(f"Starting {weights.model_name()}…")
    end = time.monotonic() + timeout
    try:
        with FileLock(endpoint.file().with_suffix(".lock"), timeout=timeout):
            return find() or _start(end)
    except Timeout as error:
        raise LocalServerError(
            f"Another kernel has been starting the local server for {timeout:g} seconds: try again."
        ) from error


def stop() -> bool:
    """Ends the running server; returns whether there was one.

    Raises:
        LocalServerError: it does not end.
    """
    running = find()
    if running is None:
        return False
    os.kill(running.pid, signal.SIGTERM)
    if os.name != "posix":  # there it can't tidy up: it is ended without notice
        endpoint.remove(running)
    end = time.monotonic() + STOP_LIMIT
    while endpoint.read() == running:
        if time.monotonic() > end:
            raise LocalServerError(f"The local server does not end: end process {running.pid}.")
        time.sleep(LOOK)
    return True


def _start(end: float) -> Endpoint:
    log = endpoint.file().with_suffix(".log")
    process = _spawn(log)
    try:
        running = _wait(process, log, end)
    except BaseException:
        process.kill()
        process.wait()
        raise
    # Collects the exit status whenever it comes, so that no dead process stays in the table.
    threading.Thread(target=process.wait, name="bgmagic-local-reaper", daemon=True).start()
    return running


def _spawn(log: Path) -> subprocess.Popen[bytes]:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    detached = 0
    if sys.platform == "win32":
        detached = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    with os.fdopen(descriptor, "wb") as said:
        # -P: no module from the folder it is started in.
        return subprocess.Popen(  # noqa: S603  a fixed command, no shell
            [sys.executable, "-P", "-m", bgmagic.local.__name__],
            cwd=log.parent,
            env=server_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=os.name == "posix",  # an interrupt of the kernel is not the server's
            creationflags=detached,
        )


def server_environment(current: Mapping[str, str]) -> dict[str, str]:
    """The environment of the server's process: `PASSED_ON`, and where this package lies."""
    kept = {
        name: value
        for name, value in current.items()
        if name.upper() in PASSED_ON or name.upper().startswith(PASSED_ON_STARTS)
    }
    home = Path(bgmagic.local.__file__).parents[2]
    if home.name not in ("site-packages", "dist-packages"):
        paths = [kept.get("PYTHONPATH", ""), str(home)]
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return kept


def _wait(process: subprocess.Popen[bytes], log: Path, end: float) -> Endpoint:
    while True:
        running = endpoint.read()
        if running is not None and running.pid == process.pid and endpoint.answers(running):
            return running
        if process.poll() is not None:
            raise LocalServerError(_last_words(log))
        if time.monotonic() > end:
            raise LocalServerError(f"The local server did not come up in time: see {log}.")
        time.sleep(LOOK)


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    said = [line for line in lines if line]
    return said[-1] if said else f"The local server ended without a word: see {log}."
