"""The running server's address: written by the server, found, started, joined and ended by kernels.

The endpoint file's name holds the host (home folders lie on network disks) and a digest of the
model's path and of the package's version: a kernel that wants another model, or has another
bgmagic, gets a server of its own, and two such servers do not disturb each other. A server proves
that it knows the file's token before it is sent anything: its port may have gone to another
program. The server's process gets no credentials. This module needs neither tornado nor xllamacpp.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import importlib.metadata
import json
import os
import platform
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import bgmagic.local
from bgmagic.local import LocalServerError, require, weights
from bgmagic.local.engine import CONTEXT, THREADS, EngineSettings

HOST = "127.0.0.1"

# Seconds a living server may take to answer a ping, on a machine busy with other work.
PING_TIMEOUT = 2.0
# Bytes of the answer to a ping that are read.
MAX_PING = 10_000
# Seconds between two checks whether a server has come up or gone.
CHECK_INTERVAL = 0.03
# Seconds a server may take to come up; fetching its weights does not count.
START_TIMEOUT = 60.0
# Seconds a server may take to end; stopping a generation takes under one.
STOP_TIMEOUT = 10.0

# All that the server's process gets to see: what finds programs, libraries and folders. Keys,
# tokens and proxies stay behind, whatever they are called.
PASSED = {"PATH", "HOME", "LANG", "TZ", "USER", "LOGNAME", "VIRTUAL_ENV", "CONDA_PREFIX"}
PASSED |= {"TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "BGMAGIC_CACHE", "BGMAGIC_LOCAL_MODEL"}
PASSED |= {"APPDATA", "COMSPEC", "LOCALAPPDATA", "PATHEXT", "SYSTEMDRIVE", "SYSTEMROOT"}
PASSED |= {"USERNAME", "USERPROFILE", "WINDIR"}
PASSED_PREFIXES = ("DYLD_", "GGML_", "LC_", "LD_", "OMP_", "PYTHON")


@dataclass(frozen=True)
class Endpoint:
    """Address and token of a running server.

    Attributes:
        base_url: `http://127.0.0.1:PORT/v1`.
        token: the bearer token, made by the server.
        pid: the server's process.
        model: the true name of its model.
        threads, parallel, context: its `EngineSettings`.
    """

    base_url: str
    token: str = field(repr=False)
    pid: int
    model: str
    threads: int = THREADS
    parallel: int = 1
    context: int = CONTEXT


def package_version() -> str:
    """The installed version of bgmagic; empty in a checkout that is not installed."""
    try:
        return importlib.metadata.version("bgmagic")
    except importlib.metadata.PackageNotFoundError:
        return ""


def endpoint_folder() -> Path:
    """The folder of endpoint files and logs, made if needed, open to this user only.

    Raises:
        LocalServerError: it can't be made.
    """
    path = weights.cache_folder() / "local"
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise LocalServerError(
            f"The folder {path} can't be used ({error.strerror}): set BGMAGIC_CACHE to another."
        ) from error
    return path


def _host() -> str:
    return re.sub(r"[^\w.-]", "_", platform.node()) or "host"


def endpoint_file(model: Path | None = None) -> Path:
    """The endpoint file of that model's server, written or not; None as for `model_path`."""
    wanted = f"{package_version()}\n{weights.model_path(model)}".encode()
    return endpoint_folder() / f"{_host()}-{hashlib.sha256(wanted).hexdigest()[:12]}.json"


def write_endpoint(endpoint: Endpoint, model: Path | None = None) -> None:
    """Writes the model's endpoint file, all at once and readable by this user only."""
    target = endpoint_file(model)
    descriptor, name = tempfile.mkstemp(dir=target.parent)  # mkstemp makes it 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as part:
        json.dump(asdict(endpoint), part)
    Path(name).replace(target)


def read_endpoint(model: Path | None = None) -> Endpoint | None:
    """What the model's endpoint file says, or None if there is none that can be read."""
    return _read(endpoint_file(model))


def _read(file: Path) -> Endpoint | None:
    try:
        endpoint = Endpoint(**json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    texts = (endpoint.base_url, endpoint.token, endpoint.model)
    numbers = (endpoint.pid, endpoint.threads, endpoint.parallel, endpoint.context)
    sound = all(type(text) is str for text in texts) and all(type(n) is int for n in numbers)
    return endpoint if sound else None


def remove_endpoint(endpoint: Endpoint, model: Path | None = None) -> None:
    """Removes the model's endpoint file if it is still that server's own."""
    if read_endpoint(model) == endpoint:
        endpoint_file(model).unlink(missing_ok=True)


def prove(token: str, base_url: str, nonce: str) -> str:
    """The proof of knowing the token: an HMAC over the nonce and the server's own address."""
    return hmac.new(token.encode(), f"{base_url}\n{nonce}".encode(), "sha256").hexdigest()


def is_alive(endpoint: Endpoint) -> bool:
    """Whether that very server is alive: it proves that it knows the token, which is not sent.

    Asked without the user's proxies.
    """
    address = urlsplit(endpoint.base_url)
    if address.hostname != HOST or not _process_exists(endpoint.pid):
        return False
    nonce = secrets.token_hex(32)
    connection = http.client.HTTPConnection(HOST, address.port, timeout=PING_TIMEOUT)
    try:
        connection.request("GET", f"/v1/health?nonce={nonce}")
        health = json.loads(connection.getresponse().read(MAX_PING))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return False
    finally:
        connection.close()
    if not isinstance(health, dict) or health.get("pid") != endpoint.pid:
        return False
    proof = prove(endpoint.token, endpoint.base_url, nonce)
    return hmac.compare_digest(str(health.get("proof")).encode("utf-8", "replace"), proof.encode())


def _process_exists(pid: int) -> bool:
    """Whether the process exists and is this user's; Windows has no harmless way to ask."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def find(model: Path | None = None) -> Endpoint | None:
    """The running server of that model, or None.

    Args:
        model: its GGUF file; None for what the environment names, or else the small model.
    """
    known = read_endpoint(model)
    return known if known is not None and is_alive(known) else None


def find_all() -> list[Endpoint]:
    """The running servers of this user on this host, whichever model they run."""
    files = sorted(endpoint_folder().glob(f"{_host()}-*.json"))
    found = [_read(file) for file in files]
    return [endpoint for endpoint in found if endpoint is not None and is_alive(endpoint)]


def start_or_join(
    *,
    model: Path | None = None,
    threads: int | None = None,
    parallel: int | None = None,
    context: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] | None = None,
) -> Endpoint:
    """The running server, started first if there is none; fetches the weights if needed.

    Args:
        model: the GGUF file to run; None for what the environment names, or the small model.
        threads: CPU threads; here and below None stands for the default of `EngineSettings`, or
            for whatever the running server has.
        parallel: generations at a time.
        context: tokens of prompt and answer together.
        report: gets one line at the start of each step that takes time.
        progress: gets bytes done and bytes in all while the weights are fetched.

    Raises:
        LocalServerError: it can't be had, or runs with other settings; one line with the remedy.
    """
    given = {"threads": threads, "parallel": parallel, "context": context}
    chosen = {name: value for name, value in given.items() if value is not None}
    if model is not None:  # the server's folder is another one; a wrong file is told at once
        model = weights.fetch(lambda done, total: None, model)
    settings = EngineSettings(model, **chosen)
    running = find(model)
    if running is not None:
        return _joinable(running, chosen)
    require("xllamacpp", "tornado", "filelock")
    from filelock import FileLock, Timeout

    if not weights.present(model):
        report(f"Fetching {weights.model_name(model)}, once…")
    weights.fetch(progress or (lambda done, total: None), model)
    report(f"Starting {weights.model_name(model)}…")
    end = time.monotonic() + START_TIMEOUT
    try:
        with FileLock(endpoint_file(model).with_suffix(".lock"), timeout=START_TIMEOUT):
            running = find(model)
            return _joinable(running, chosen) if running else _start(settings, end)
    except Timeout as error:
        raise LocalServerError(
            f"Another kernel has been starting the local server for {START_TIMEOUT:.0f} seconds: "
            "try again."
        ) from error


def stop(model: Path | None = None) -> bool:
    """Ends the running server of that model; returns whether there was one.

    Raises:
        LocalServerError: it does not end.
    """
    running = find(model)
    if running is None:
        return False
    os.kill(running.pid, signal.SIGTERM)
    if os.name != "posix":  # there it can't tidy up: it is ended without notice
        remove_endpoint(running, model)
    end = time.monotonic() + STOP_TIMEOUT
    while read_endpoint(model) == running:
        if time.monotonic() > end:
            raise LocalServerError(f"The local server does not end: end process {running.pid}.")
        time.sleep(CHECK_INTERVAL)
    return True


def _joinable(running: Endpoint, chosen: Mapping[str, int]) -> Endpoint:
    """The running server, if it has the chosen settings."""
    wrong = [name for name, value in chosen.items() if getattr(running, name) != value]
    if wrong:
        has = ", ".join(f"--{name} {getattr(running, name)}" for name in wrong)
        options = " and ".join(f"--{name}" for name in wrong)
        raise LocalServerError(
            f"{running.model} runs already with {has}: leave {options} out to use it, or end its"
            f" process {running.pid} first."
        )
    return running


def _start(settings: EngineSettings, end: float) -> Endpoint:
    log = endpoint_file(settings.model).with_suffix(".log")
    process = _spawn(settings, log)
    try:
        running = _wait_until_alive(process, settings.model, log, end)
    except BaseException:
        process.kill()
        process.wait()
        raise
    # Collects the exit status whenever it comes, so that no dead process stays in the table.
    threading.Thread(target=process.wait, name="bgmagic-local-reaper", daemon=True).start()
    return running


def _spawn(settings: EngineSettings, log: Path) -> subprocess.Popen[bytes]:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    detached = 0
    if sys.platform == "win32":
        detached = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    with os.fdopen(descriptor, "wb") as output:
        # -P: no module from the folder it is started in.
        return subprocess.Popen(  # noqa: S603  a fixed command, no shell
            [sys.executable, "-P", "-m", bgmagic.local.__name__, *_arguments(settings)],
            cwd=log.parent,
            env=server_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=os.name == "posix",  # an interrupt of the kernel is not the server's
            creationflags=detached,
        )


def _arguments(settings: EngineSettings) -> list[str]:
    """The command line of a server with these settings."""
    numbers = ("threads", "parallel", "context")
    chosen = [f"--{name}={getattr(settings, name)}" for name in numbers]
    return chosen if settings.model is None else [f"--model={settings.model}", *chosen]


def server_environment(current: Mapping[str, str]) -> dict[str, str]:
    """The environment of the server's process: `PASSED`, and where this package lies."""
    kept = {
        name: value
        for name, value in current.items()
        if name.upper() in PASSED or name.upper().startswith(PASSED_PREFIXES)
    }
    home = Path(bgmagic.local.__file__).parents[2]
    if home.name not in ("site-packages", "dist-packages"):
        paths = [kept.get("PYTHONPATH", ""), str(home)]
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return kept


def _wait_until_alive(
    process: subprocess.Popen[bytes], model: Path | None, log: Path, end: float
) -> Endpoint:
    while True:
        running = read_endpoint(model)
        if running is not None and running.pid == process.pid and is_alive(running):
            return running
        if process.poll() is not None:
            raise LocalServerError(_last_line(log))
        if time.monotonic() > end:
            raise LocalServerError(f"The local server did not come up in time: see {log}.")
        time.sleep(CHECK_INTERVAL)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    written = [line for line in lines if line]
    return written[-1] if written else f"The local server ended without a word: see {log}."
