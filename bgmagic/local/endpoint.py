"""Where the running server is written down, and whether it still lives.

The server writes the file, `launcher` reads it. Its name holds the host (home folders lie on
network disks) and a digest of the model's path and of the package's version: a kernel that wants
another model, or has another bgmagic, looks at another file and gets a server of its own, and two
such servers do not disturb each other.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.metadata
import json
import os
import platform
import re
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bgmagic.local import LocalServerError, weights

HOST = "127.0.0.1"

# Seconds a living server may take to answer a ping, on a machine busy with other work.
PING_TIMEOUT = 2.0


@dataclass(frozen=True)
class Endpoint:
    """A server that can be talked to.

    Attributes:
        base_url: `http://127.0.0.1:PORT/v1`.
        token: the bearer token, made by the server.
        pid: the server's process.
        model: the true name of its model.
    """

    base_url: str
    token: str = field(repr=False)
    pid: int
    model: str


def version() -> str:
    """The installed version of bgmagic; empty in a checkout that is not installed."""
    try:
        return importlib.metadata.version("bgmagic")
    except importlib.metadata.PackageNotFoundError:
        return ""


def folder() -> Path:
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


def file() -> Path:
    """The endpoint file of the server this environment asks for, written or not."""
    host = re.sub(r"[^\w.-]", "_", platform.node()) or "host"
    wanted = f"{version()}\n{weights.model_path()}".encode()
    return folder() / f"{host}-{hashlib.sha256(wanted).hexdigest()[:12]}.json"


def write(endpoint: Endpoint) -> None:
    """Writes the endpoint file, all at once and readable by this user only."""
    target = file()
    descriptor, name = tempfile.mkstemp(dir=target.parent)  # mkstemp makes it 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as part:
        json.dump(asdict(endpoint), part)
    Path(name).replace(target)


def read() -> Endpoint | None:
    """What the endpoint file says, or None if there is none that can be read."""
    try:
        return Endpoint(**json.loads(file().read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remove(endpoint: Endpoint) -> None:
    """Removes the endpoint file if it is still that server's own."""
    if read() == endpoint:
        file().unlink(missing_ok=True)


def answers(endpoint: Endpoint) -> bool:
    """Whether that very server is alive, asked without the user's proxies."""
    address = urlsplit(endpoint.base_url)
    if address.hostname != HOST or not _is_ours(endpoint.pid):
        return False
    connection = http.client.HTTPConnection(HOST, address.port, timeout=PING_TIMEOUT)
    try:
        connection.request(
            "GET", "/v1/health", headers={"Authorization": f"Bearer {endpoint.token}"}
        )
        health = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    return isinstance(health, dict) and health.get("pid") == endpoint.pid


def _is_ours(pid: int) -> bool:
    """Whether the process exists and is this user's.

    Asked before the token is sent: after a crash the port may belong to somebody else. Windows
    has no such question that is harmless.
    """
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
