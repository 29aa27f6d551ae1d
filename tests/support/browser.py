"""A real JupyterLab or Notebook in a real browser: Debian's chromium, driven by playwright."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import bgmagic
from tests.support.scripted import ScriptedServer

LIMIT = 120.0  # seconds until JupyterLab answers, a cell has run or something is seen: on a busy machine

PACKAGE = Path(bgmagic.__file__).parent

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def chromium() -> str | None:
    """The system's chromium, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def notebook(path: Path, cells: Sequence[str]) -> Path:
    """Write a notebook of code cells."""
    import nbformat

    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(made, path)
    return path


@dataclass(frozen=True)
class JupyterServer:
    """A Jupyter Server that runs; ``base`` is its address, without a slash at the end."""

    process: subprocess.Popen[bytes]
    base: str
    token: str


@contextlib.contextmanager
def jupyterlab(
    folder: Path,
    theme: str = "light",
    app: str = "jupyterlab",
    *,
    extension: bool = True,
    python: str = sys.executable,
    **environment: str,
) -> Iterator[str]:
    """JupyterLab over ``folder``, with settings of its own; gives the URL of a file as a format.

    Args:
        app: ``notebook`` for Notebook 7 instead.
        extension: whether it has ours, as it lies in the package.
        python: the interpreter of another environment.
    """
    settings = folder / ".settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    looks = {"theme": f"JupyterLab {theme.capitalize()}", "adaptive-theme": False}
    (settings / "themes.jupyterlab-settings").write_text(json.dumps(looks))
    environment = {"JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"), **environment}
    alone = ("--LabApp.collaborative=False",)
    started = jupyter_server(folder, app, alone, extension=extension, python=python, **environment)
    with started as server:
        path = "lab/tree/{}?reset&" if app == "jupyterlab" else "notebooks/{}?"
        yield f"{server.base}/{path}token={server.token}"


@contextlib.contextmanager
def jupyter_server(
    folder: Path,
    app: str = "jupyter_server",
    arguments: Sequence[str] = (),
    *,
    extension: bool = True,
    python: str = sys.executable,
    **environment: str,
) -> Iterator[JupyterServer]:
    """Jupyter Server, or an ``app`` of it, over ``folder``; the others as for `jupyterlab`."""
    _extended(folder, extension)
    env = {
        k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "BGMAGIC_", "JUPYTER_"))
    }
    env |= {k: v for k, v in os.environ.items() if k.startswith(("BGMAGIC_LOCAL", "BGMAGIC_CACHE"))}
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
        env[f"JUPYTER_{name}"] = str(folder / f".{name.lower()}")
    env["JUPYTER_PATH"] = str(folder / ".share")
    env["JUPYTER_CONFIG_PATH"] = str(folder / ".etc")
    env["BGMAGIC_JOURNAL"] = str(folder / ".journal.sqlite3")
    env |= environment
    # The browser must reach the server directly.
    env["NO_PROXY"] = "127.0.0.1,localhost"
    token = secrets.token_hex(16)
    command = [python, "-m", app, "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    command += [f"--IdentityProvider.token={token}", *arguments]
    with (folder / ".lab.log").open("wb") as log:
        process, port = _started(command, env, token, log, folder / ".lab.log")
        try:
            yield JupyterServer(process, f"http://127.0.0.1:{port}", token)
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


# Where pip puts the extension's parts, and where they are in the package.
PARTS = {
    "share/jupyter/labextensions/bgmagic": PACKAGE / "labextension",
    "etc/jupyter/jupyter_server_config.d/bgmagic.json": PACKAGE
    / "server"
    / "jupyter_server_config.json",
}


def is_installed() -> bool:
    """Whether this environment has the extension as it is in the package, or there is only that one."""
    for place, source in PARTS.items():
        files = [path for path in source.rglob("*") if path.is_file()]
        for path in [source] if source.is_file() else files:
            copy = Path(sys.prefix, place, *path.relative_to(source).parts)
            if not copy.is_file() or copy.read_bytes() != path.read_bytes():
                return False
    return True


def _extended(folder: Path, wanted: bool) -> None:
    """Have Jupyter find the extension where it is not installed, or switch it off."""
    labextensions, config = folder / ".share" / "labextensions", folder / ".etc"
    server = config / "jupyter_server_config.d" / "bgmagic.json"
    for made in (labextensions, config / "labconfig", server.parent):
        made.mkdir(parents=True, exist_ok=True)
    if not wanted:
        off = '{"disabledExtensions": {"bgmagic": true}}'
        (config / "labconfig" / "page_config.json").write_text(off)
        server.write_text(
            '{"ServerApp": {"jpserver_extensions": {"bgmagic.server.extension": false}}}'
        )
    elif not is_installed():
        (labextensions / "bgmagic").symlink_to(PACKAGE / "labextension")
        server.symlink_to(PACKAGE / "server" / "jupyter_server_config.json")


def _started(
    command: list[str], env: dict[str, str], token: str, log: Any, told: Path
) -> tuple[subprocess.Popen[bytes], int]:
    """The process that answers, and its port; another one if somebody else was quicker to take it."""
    for left in (2, 1, 0):
        port = _free_port()
        process = subprocess.Popen(
            [*command, f"--port={port}"], env=env, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _await_http(f"http://127.0.0.1:{port}/api?token={token}", process, told)
        except RuntimeError:
            process.kill()
            if not left:
                raise
        else:
            return process, port
    raise AssertionError


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_http(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10):
            return
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


# On a busy machine the seconds that a first click on Cancel waits for the second may be over before it comes.
_PATIENT = """{
  const set = setTimeout;
  window.setTimeout = (run, after, ...more) => set(run, after === %s ? 60000 : after, ...more);
}"""


def patient(context: Any) -> None:
    """Have the pages of a browser's ``context`` wait long for the second click."""
    context.add_init_script(_PATIENT % _confirm())


def _confirm() -> str:
    """The milliseconds that a first click waits for the second, as the displays say it."""
    told = re.search(r"CONFIRM = (\d+)", (PACKAGE / "display" / "elements.js").read_text())
    assert told is not None
    return told[1]


@contextlib.contextmanager
def page(**context: Any) -> Iterator[Any]:
    """A page of a fresh browser; `Lab` opens a notebook in it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(CHROMIUM_FLAGS))
        try:
            opened = browser.new_context(**context)
            opened.set_default_timeout(LIMIT * 1000)
            patient(opened)
            yield opened.new_page()
        finally:
            browser.close()


class Lab:
    """A notebook that is open in JupyterLab."""

    def __init__(self, page: Any, url: str) -> None:
        from playwright.sync_api import TimeoutError as TooLate

        self.page = page
        # On a busy machine JupyterLab was seen to stand without a kernel for two minutes.
        try:
            self._open(url, LIMIT / 2)
        except TooLate:
            self._open(url, LIMIT)

    def _open(self, url: str, limit: float) -> None:
        self.page.goto(url)
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=limit * 1000)
        self.page.wait_for_function(_READY, timeout=limit * 1000)

    def cell(self, index: int) -> Any:
        """The code cell at ``index``."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)

    def run(self, index: int, *, finish: bool = True) -> None:
        """Run the cell at ``index`` until it has finished, or only until it has begun."""
        shown = self.cell(index).locator(".jp-InputPrompt")
        before, end = shown.inner_text(), time.monotonic() + LIMIT
        while time.monotonic() < end:
            # The first Ctrl+Enter after loading is sometimes swallowed.
            self.cell(index).locator(".cm-content").click()
            self.page.keyboard.press("Control+Enter")
            with contextlib.suppress(Exception):
                self.page.wait_for_function(_PROMPT, arg=[index, before, "[0-9*]"], timeout=10_000)
                break
        else:
            raise TimeoutError(f"cell {index} never ran")
        if finish:
            left = max(end - time.monotonic(), 1.0) * 1000
            self.page.wait_for_function(_PROMPT, arg=[index, before, "[0-9]"], timeout=left)

    def interrupt(self, index: int) -> None:
        """Interrupt the cell at ``index``, which runs, as a user does."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text="Kernel").click()
        self.page.locator(".lm-Menu-itemLabel").get_by_text("Interrupt Kernel").click()
        running = self.cell(index).locator(".jp-InputPrompt")
        running.get_by_text("*").wait_for(state="detached")

    def shut_down(self) -> None:
        """Shut the kernel down, as a user does."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text="Kernel").click()
        self.page.locator(".lm-Menu-itemLabel").get_by_text("Shut Down Kernel", exact=True).click()

    def restart(self) -> None:
        """Restart the kernel, as a user does."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text="Kernel").click()
        self.page.locator(".lm-Menu-itemLabel").get_by_text("Restart Kernel…", exact=True).click()
        self.page.locator(".jp-Dialog").get_by_text("Restart", exact=True).click()


# The indicator alone is idle before there is a kernel, too.
_READY = """() => {
  const idle = document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]');
  const bar = document.querySelector('#jp-bottom-panel');
  const name = /Python 3 \\(ipykernel\\)/.test(document.body.innerText);
  return idle && name && (!bar || /\\| Idle/.test(bar.innerText));
}"""
_PROMPT = """([index, before, pattern]) => {
  const cell = document.querySelectorAll('.jp-Notebook .jp-CodeCell')[index];
  const shown = cell.querySelector('.jp-InputPrompt').innerText;
  return shown !== before && new RegExp(pattern).test(shown);
}"""


def barriers(page: Any, selector: str) -> list[str]:
    """What axe-core finds wrong within the elements of ``selector``, one line each.

    Without rules on whole pages, which are the frontend's business.
    """
    source = importlib.util.find_spec("axe_playwright_python")
    assert source is not None
    assert source.origin is not None
    page.evaluate((Path(source.origin).parent / "axe.min.js").read_text())
    # JupyterLab's body has no height and hides what leaves it; axe-core takes all in it for hidden.
    page.add_style_tag(
        content="body { overflow: visible !important; height: 100vh; } "
        "* { content-visibility: visible !important; contain: none !important; }"
    )
    found = page.evaluate(
        """async selector => {
          const found = [];
          for (const element of document.querySelectorAll(selector)) {
            element.scrollIntoView({block: 'center'}); // what is out of sight is not looked at
            for (let frame = 0; frame < 3; frame += 1) await new Promise(requestAnimationFrame);
            found.push(await axe.run(element, {rules: {region: {enabled: false}}}));
          }
          return found;
        }""",
        selector,
    )
    contrasts = [rule["id"] for run in found for rule in run["passes"] + run["violations"]]
    assert contrasts.count("color-contrast") >= len(found) > 0, "axe-core saw no text"
    return [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for run in found
        for violation in run["violations"]
        for node in violation["nodes"]
    ]


def need_browser() -> None:
    """Skip, or fail where CI is set, on a machine without a browser to test in."""
    from tests.conftest import missing

    for module in ("playwright", "jupyterlab", "notebook", "axe_playwright_python"):
        if importlib.util.find_spec(module) is None:
            missing(f"the Python package {module}")
    if chromium() is None:
        missing("chromium (Debian: apt-get install chromium)")


Open = Callable[..., tuple[Lab, Path]]


@pytest.fixture(scope="session")
def shared_labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], SharedLab]]:
    """Gives the JupyterLab of a theme, which all tests of this process use one after another."""
    with contextlib.ExitStack() as stack:
        labs: dict[str, SharedLab] = {}

        def lab_of(theme: str) -> SharedLab:
            if theme not in labs:
                folder = tmp_path_factory.mktemp("lab")
                url = stack.enter_context(jupyterlab(folder, theme))
                labs[theme] = SharedLab(folder, url)
            return labs[theme]

        yield lab_of


@dataclass(frozen=True)
class SharedLab:
    """A JupyterLab over ``folder``; ``url`` is that of a file as a format.

    A test has a folder, a journal, kernels and a browser of its own there.
    """

    folder: Path
    url: str

    def url_of(self, path: Path) -> str:
        """The address of a file, wherever it is."""
        link = self.folder / secrets.token_hex(4)
        link.symlink_to(path.parent, target_is_directory=True)
        return self.url.format(f"{link.name}/{path.name}")

    def end_kernels(self) -> None:
        """Shut down the kernels that a test has left; one that is just restarting takes a second try."""
        base, _, token = self.url.partition("/lab/tree/")

        def asked(path: str, method: str) -> bytes:
            headers = {"Authorization": f"token {token.partition('token=')[2]}"}
            request = urllib.request.Request(f"{base}{path}", headers=headers, method=method)
            with urllib.request.urlopen(request, timeout=LIMIT) as told:
                return bytes(told.read())

        end = time.monotonic() + LIMIT
        while kernels := json.loads(asked("/api/kernels", "GET")):
            assert time.monotonic() < end, "a kernel never ended"
            for kernel in kernels:
                with contextlib.suppress(urllib.error.HTTPError):
                    asked(f"/api/kernels/{kernel['id']}", "DELETE")
            time.sleep(0.1)


@pytest.fixture
def lab_with(
    server: ScriptedServer, tmp_path: Path, shared_labs: Callable[[str], SharedLab]
) -> Iterator[Open]:
    """Opens a notebook of these cells, after %load_ext, in JupyterLab pointed at the server.

    It takes the theme, the app and what `page` takes, too.
    """
    from tests.conftest import KEY

    need_browser()
    with contextlib.ExitStack() as stack:

        def open_(
            *cells: str, theme: str = "light", app: str = "jupyterlab", **context: Any
        ) -> tuple[Lab, Path]:
            environment = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.base_url}
            environment |= {"BGMAGIC_POLL": "0.2"}
            first = "%load_ext bgmagic"
            if app == "jupyterlab":
                environment |= {"BGMAGIC_JOURNAL": str(tmp_path / ".journal.sqlite3")}
                first = f"import os\nos.environ.update({environment!r})\n{first}"
                shared = shared_labs(theme)
                stack.callback(shared.end_kernels)
            path = notebook(tmp_path / "study.ipynb", [first, *cells])
            if app == "jupyterlab":
                url = shared.url_of(path)
            else:
                started = jupyterlab(tmp_path, theme, app, **environment)
                url = stack.enter_context(started).format(path.name)
            lab = Lab(stack.enter_context(page(**context)), url)
            lab.run(0)
            return lab, path

        yield open_


def status(lab: Lab, index: int, word: str) -> None:
    """Wait until the card below a cell shows a status."""
    lab.cell(index).locator(f".bgmagic-card[data-status={word}]").wait_for()


def outputs(path: Path, index: int) -> list[dict[str, Any]]:
    """The MIME bundles that the saved notebook holds under a cell."""
    limit = time.monotonic() + LIMIT
    while True:
        try:
            cells = json.loads(path.read_text())["cells"]
            break
        except json.JSONDecodeError:
            # Some servers write it in place: it was read between two writes.
            if time.monotonic() > limit:
                raise
    return [output.get("data", {}) for output in cells[index]["outputs"]]


def saved(opened: Any, path: Path, index: int, wanted: str, gone: str = "\0") -> str:
    """The HTML under a cell of the saved notebook, once it has ``wanted``, no widget, and not ``gone``:
    an answer and its footer take their places one after the other."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        opened.keyboard.press("Control+s")
        opened.wait_for_timeout(300)
        data = outputs(path, index)
        html = "".join("".join(part.get("text/html", "")) for part in data)
        drawn = any("widget-view" in kind for part in data for kind in part)
        if wanted in html and gone not in html and not drawn:
            return html
    raise AssertionError(f"never saved as plain HTML: {outputs(path, index)}")
