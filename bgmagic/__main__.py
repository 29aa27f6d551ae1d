"""Prints what a bug report needs, without any key, prompt or answer: `python -m bgmagic`.

In a notebook `%run -m bgmagic` reports on that very kernel.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import bgmagic
from bgmagic.errors import BgmagicError
from bgmagic.submission.app import app, default_path
from bgmagic.text import one_line

if TYPE_CHECKING:
    from bgmagic.storage.database import StoredJob

# Packages that decide how things behave: the API's client, the kernel, the widgets, the frontends.
PACKAGES = (
    "openai", "httpx2", "aiohttp", "pydantic", "ipython", "ipykernel", "ipywidgets", "anywidget",
    "nest-asyncio2", "nest-asyncio", "jupyter-client", "jupyter-server", "jupyterlab", "notebook",
    "nbclient", "xllamacpp", "genai-prices",
)  # fmt: skip
# Variables that are reported by name only: their values may be secret or private.
SECRET = (
    "OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS",
    "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN",
)  # fmt: skip
# Variables that connections depend on.
WAYS = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
# Frontends, by a variable that each of them sets.
FRONTENDS = {
    "VSCODE_PID": "VS Code",
    "COLAB_RELEASE_TAG": "Colab",
    "JPY_SESSION_NAME": "a Jupyter server",
    "JPY_PARENT_PID": "a Jupyter server",
    "PYCHARM_HOSTED": "PyCharm",
}
LISTED = 20  # open jobs


def bug_report() -> str:
    """Make the report, as lines."""
    journal = _journal()  # before anything that would make one
    rows = [
        ("bgmagic", bgmagic.__version__),
        ("python", f"{platform.python_version()} ({platform.python_implementation()})"),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        *((name, found) for name in PACKAGES if (found := _version(name))),
        ("started from", _frontend()),
        *_server(),
        *_embedded(),
        ("set", ", ".join(name for name in SECRET if os.environ.get(name)) or "no key"),
        ("settings", ", ".join(_settings()) or "the defaults"),
        *journal,
    ]
    return "\n".join(f"{name:<15}{value}" for name, value in rows)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _frontend() -> str:
    here = [what for variable, what in FRONTENDS.items() if variable in os.environ]
    return here[0] if here else "a terminal" if sys.stdin.isatty() else "a program"


def _settings() -> list[str]:
    """Names of what is configured; a value may be a part of a prompt."""
    found = [
        f"BgMagics.{name}" for name, value in app.shell.defaults().items() if value is not None
    ]
    ours = (name for name in os.environ if name.startswith("BGMAGIC_") or name.upper() in WAYS)
    return [*found, *sorted(ours)]


def _server() -> list[tuple[str, str]]:
    from bgmagic.api.server import ServerConfig

    configured = [
        f"{name} is set"
        for name in ("BGMAGIC_BASE_URL", "OPENAI_BASE_URL", "AZURE_OPENAI_ENDPOINT")
        if os.environ.get(name)
    ]
    configured += ["BgMagics.base_url is set"] if app.shell.defaults().get("base_url") else []
    try:
        named: ServerConfig = app.manager.destination()
        configured += ["by bgmagic.use()"] if named.sdk_client is not None else []
        address = one_line(named.address, 200)
    except BgmagicError as error:
        # The message may quote a key that was typed into the wrong variable.
        address = "none: " + re.sub(r"'[^']*'", "'…'", str(error))
    return [("server", f"{address}{' (' + ', '.join(configured) + ')' if configured else ''}")]


def _embedded() -> list[tuple[str, str]]:
    """A row for each embedded server that runs: its model, address and settings."""
    from bgmagic.local import LocalServerError, discovery

    try:
        running = discovery.find_all()
    except LocalServerError as error:
        return [("embedded", f"can't be looked for: {_private(str(error))}")]
    rows = [
        f"running {one_line(found.model, 80)} at {found.base_url} (--threads {found.threads} "
        f"--parallel {found.parallel} --context {found.context})"
        for found in running
    ]
    return [("embedded" if n == 0 else "", row) for n, row in enumerate(rows or ["not running"])]


def _journal() -> list[tuple[str, str]]:
    if not app.has_journal():
        where = default_path()
        return [("journal", f"{_private(where)}, not there yet" if where else "in memory only")]
    store = app.manager.store
    entries = store.listed(None)
    open_ones = [entry for entry in entries if entry.ended_at is None]
    alive = store.alive()
    where = app.journal_path
    trouble = f"; {_private(store.trouble)}" if store.trouble else ""
    place = _private(where) if where else "in memory only"
    return [
        ("journal", f"{place}, {len(entries)} jobs{trouble}"),
        ("open jobs", str(len(open_ones))),
        *(("", _open(entry, alive)) for entry in open_ones[:LISTED]),
    ]


def _open(entry: StoredJob, alive: set[str]) -> str:
    followed = "followed by a living kernel" if entry.owner in alive else "nobody follows it"
    words = entry.name or "no name", one_line(entry.status, 40), entry.response_id or "no id"
    return f"{', '.join(one_line(word, 80) for word in words)}, {followed}"


def _private(where: str | Path) -> str:
    """Write the user's home folder as ``~``: its name is private."""
    return str(where).replace(str(Path.home()), "~")


if __name__ == "__main__":
    print(bug_report())
