"""The server as a process: started once, found again, ended, and what others can see of it."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bgmagic.local import LocalServerError, discovery
from tests.local.client import LONG, Client, until

REPOSITORY = Path(__file__).parents[2]

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A Python process that can import the package, with its standard error readable."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def last_line(process: subprocess.Popen[str]) -> str:
    """The one line a process that failed has left, and nothing but that line."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert output == ""
    [line] = errors.strip().splitlines()
    return line


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_is_started_once_and_joined_after_that(cache: Path) -> None:
    """The first call starts it and says so; the second finds it; stop ends it and tidies up."""
    assert discovery.find() is None
    said: list[str] = []
    first = discovery.start_or_join(report=said.append)
    assert said == ["Starting SmolLM2-135M-Instruct…"]
    assert discovery.start_or_join(report=said.append) == first == discovery.find()
    assert len(said) == 1
    assert discovery.stop() is True
    until(lambda: not alive(first.pid))
    assert discovery.find() is None
    assert not discovery.endpoint_file().exists()
    assert discovery.stop() is False


def test_files_are_the_users_alone(cache: Path) -> None:
    """The folder is 0700, endpoint file and log are 0600, and a repr does not show the token."""
    started = discovery.start_or_join()
    modes = {
        path.suffix: stat.S_IMODE(path.stat().st_mode)
        for path in discovery.endpoint_folder().iterdir()
    }
    assert stat.S_IMODE(discovery.endpoint_folder().stat().st_mode) == 0o700
    assert modes[".json"] == modes[".log"] == 0o600
    assert started.token not in repr(started)
    assert len(started.token) >= 40


@linux
def test_others_see_neither_token_nor_keys(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the command line holds the token nor the environment a key or a proxy."""
    secrets = {
        "OPENAI_API_KEY": "sk-one", "AZURE_OPENAI_API_KEY": "sk-two", "HF_TOKEN": "sk-three",
        "HTTPS_PROXY": "http://sk-four@127.0.0.1:1", "http_proxy": "http://sk-five@127.0.0.1:1",
    }  # fmt: skip
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    started = discovery.start_or_join()
    process = Path(f"/proc/{started.pid}")
    for name, expected in [("cmdline", "bgmagic.local"), ("environ", str(cache))]:
        shown = (process / name).read_text()
        assert expected in shown
        assert started.token not in shown
        assert "sk-" not in shown


@linux
def test_nothing_listens_but_this_server_on_the_loopback(cache: Path) -> None:
    """The process has one TCP socket, on 127.0.0.1, and llama.cpp's own listener has no address."""
    started = Client(discovery.start_or_join())
    process = Path(f"/proc/{started.endpoint.pid}")
    links = [path.readlink() for path in (process / "fd").iterdir()]
    inodes = {str(link)[8:-1] for link in links if str(link).startswith("socket:")}
    listening = []
    for table in ("tcp", "tcp6"):
        for row in (process / "net" / table).read_text().splitlines()[1:]:
            columns = row.split()
            if columns[9] in inodes and columns[3] == "0A":
                listening.append(columns[1])
    assert listening == [f"0100007F:{started.port:04X}"]
    rows = (process / "net" / "unix").read_text().splitlines()[1:]
    paths = [row.split()[7] for row in rows if row.split()[6] in inodes and len(row.split()) > 7]
    assert not [path for path in paths if Path(path).exists()]


def test_two_kernels_that_start_it_at_once_share_one(cache: Path) -> None:
    """Two processes call start_or_join together and get the same server."""
    code = "from bgmagic.local import discovery; e = discovery.start_or_join(); print(e.pid, e.base_url)"
    kernels = [run("-c", code) for _ in range(2)]
    said = [kernel.communicate(timeout=120) for kernel in kernels]
    assert said[0][0] == said[1][0] != ""
    logs = list(discovery.endpoint_folder().glob("*.log"))
    assert len(logs) == 1


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_it_outlives_the_kernel_that_started_it(cache: Path) -> None:
    """Ending a kernel with all its processes, as Jupyter does, leaves the server to the next."""
    code = "from bgmagic.local import discovery; print(discovery.start_or_join().pid); input()"
    kernel = run("-c", code, stdin=subprocess.PIPE, start_new_session=True)
    assert kernel.stdout is not None
    pid = int(kernel.stdout.readline())
    os.killpg(kernel.pid, signal.SIGKILL)
    kernel.communicate(timeout=120)
    found = discovery.find()
    assert found is not None
    assert found.pid == pid


def test_a_killed_server_is_noticed_and_replaced(cache: Path) -> None:
    """After kill -9 its file is still there, but find gives None and a start gives a new one."""
    first = discovery.start_or_join()
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: discovery.find() is None)
    assert discovery.endpoint_file().exists()
    second = discovery.start_or_join()
    assert second.pid != first.pid
    assert second.token != first.token


def test_a_dead_servers_token_is_not_sent_to_its_ports_new_owner(cache: Path) -> None:
    """An endpoint whose process is gone is not even connected to."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        gone = run("-c", "")
        gone.communicate(timeout=120)
        port = other.getsockname()[1]
        discovery.write_endpoint(
            discovery.Endpoint(f"http://127.0.0.1:{port}/v1", "t", gone.pid, "m")
        )
        assert discovery.find() is None
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"token": 1}'])
def test_a_damaged_endpoint_file_counts_as_none(empty_cache: Path, content: str) -> None:
    """Whatever the file holds, finding a server does not fail on it."""
    discovery.endpoint_file().write_text(content)
    assert discovery.find() is None
    assert discovery.stop() is False


def test_another_model_has_another_server(
    cache: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BGMAGIC_LOCAL_MODEL gets a server of its own, named after its file; the first stays."""
    first = discovery.start_or_join()
    other = tmp_path / "Tiny-1B.gguf"
    other.symlink_to(gguf)
    with monkeypatch.context() as patch:
        patch.setenv("BGMAGIC_LOCAL_MODEL", str(other))
        assert discovery.find() is None
        second = discovery.start_or_join()
        assert second.model == "Tiny-1B"
        client = Client(second)
        assert client.post(model="SmolLM2-135M-Instruct").status == 404
        assert client.answer(model="Tiny-1B", max_output_tokens=16)["model"] == "Tiny-1B"
        assert discovery.stop() is True
    assert discovery.find() == first


def test_it_ends_when_idle_but_not_while_a_job_runs(cache: Path) -> None:
    """A job nobody asks about keeps it alive beyond the idle time; then it ends by itself."""
    for idle in (0.4, 2.0, 10.0):
        process = run("-m", "bgmagic.local", "--idle", str(idle))
        try:
            client = Client(until(discovery.find, 20 * idle))
            running = client.create(input=LONG)["id"]
            break
        except (AssertionError, OSError):  # on a busy machine it may have ended before the job came
            process.communicate(timeout=120)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=3 * idle)
    assert client.get(running)["status"] == "in_progress"
    client.cancel(running)
    made = discovery.endpoint_file()
    assert process.communicate(timeout=120) == ("", "")
    assert process.returncode == 0
    assert not made.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_in_the_middle_of_a_job(cache: Path, number: int) -> None:
    """Exit code 0, no word, no endpoint file left, and soon."""
    process = run("-m", "bgmagic.local")
    client = Client(until(discovery.find))
    client.wait(client.create(input=LONG)["id"], "in_progress")
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output, errors) == (0, "", "")
    assert not discovery.endpoint_file().exists()


def test_a_signal_ends_it_cleanly_in_the_middle_of_a_stream(cache: Path) -> None:
    """With one watcher gone, one still there and a token hours away: no word, and soon."""
    process = run("-m", "bgmagic.local")
    client = Client(until(discovery.find))
    slow = {"x-bgmagic-tokens-per-second": "0.0001"}
    running = client.create(headers=slow, input=LONG, stream=True)["id"]
    watcher = http.client.HTTPConnection("127.0.0.1", client.port, timeout=120)
    token = {"Authorization": f"Bearer {client.endpoint.token}"}
    watcher.request("GET", f"/v1/responses/{running}?stream=true", headers=token)
    reply = watcher.getresponse()
    while reply.readline() != b"event: response.output_text.delta\n":
        pass
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output, errors) == (0, "", "")
    watcher.close()


def test_an_old_server_leaves_a_newer_ones_file_alone(cache: Path) -> None:
    """What it removes at its end is its own endpoint file only."""
    process = run("-m", "bgmagic.local")
    until(discovery.find)
    newer = discovery.Endpoint("http://127.0.0.1:9/v1", "other", os.getpid(), "m")
    discovery.write_endpoint(newer)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert discovery.read_endpoint() == newer


def test_a_busy_port_is_one_line(cache: Path) -> None:
    """The line names the port and the way out."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = last_line(run("-m", "bgmagic.local", "--port", str(port)))
    assert line == (
        f"Port {port} of 127.0.0.1 is taken: name another with --port, or leave --port out."
    )


def test_a_second_server_by_hand_is_one_line(cache: Path) -> None:
    """One that would take over the endpoint file of a living server is not started."""
    started = discovery.start_or_join()
    line = last_line(run("-m", "bgmagic.local"))
    assert line.startswith("A server with SmolLM2-135M-Instruct runs already")
    assert str(started.pid) in line
    assert discovery.find() == started


def fake_package(folder: Path, content: str) -> str:
    """A folder for PYTHONPATH in which importing xllamacpp runs `content`."""
    (folder / "xllamacpp").mkdir()
    (folder / "xllamacpp" / "__init__.py").write_text(content)
    return os.pathsep.join([str(folder), str(REPOSITORY)])


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (
            "raise ImportError('libgomp.so.1: cannot open shared object file')",
            "apt-get install libgomp1",
        ),
        ("raise ImportError('undefined symbol')", "pip install --upgrade xllamacpp"),
        ("import missing_dependency", "pip install --upgrade xllamacpp"),
        ("class CommonParams: __slots__ = ()", "too old"),
    ],
)
def test_an_xllamacpp_that_does_not_load_is_one_line(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, remedy: str
) -> None:
    """The line comes from the server's process and reaches the caller with its remedy."""
    monkeypatch.setenv("PYTHONPATH", fake_package(tmp_path, content))
    with pytest.raises(LocalServerError) as caught:
        discovery.start_or_join()
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["xllamacpp", "tornado", "filelock", "platformdirs"])
def test_a_missing_package_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """Where the extra is not installed, the line names it; importing the launcher still works."""
    code = f"""
import importlib.abc, sys
class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {package!r}: raise ModuleNotFoundError(name)
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {package!r} else real(name, *rest)
sys.meta_path.insert(0, Hide())
from bgmagic.local import discovery
try: discovery.start_or_join()
except discovery.LocalServerError as error: sys.exit(str(error))
"""
    with monkeypatch.context() as patch:
        if package == "platformdirs":  # without it there is no saying where a cache would be
            patch.delenv("BGMAGIC_CACHE")
        line = last_line(run("-c", code))
    assert line == f'The local model needs {package}: pip install "bgmagic[local]"'


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_wrong_model_file_is_one_line(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """A BGMAGIC_LOCAL_MODEL that is missing, empty or no GGUF is named, with what to do."""
    path = tmp_path / "mine.gguf"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("BGMAGIC_LOCAL_MODEL", str(path))
    with pytest.raises(LocalServerError) as caught:
        discovery.start_or_join()
    assert str(path) in str(caught.value)
    assert "BGMAGIC_LOCAL_MODEL" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_importing_the_launcher_loads_neither_server_nor_engine() -> None:
    """A kernel pays nothing for the embedded model until it is used."""
    code = (
        "import sys; before = set(sys.modules); from bgmagic.local import discovery;"
        "sys.exit(str({'tornado', 'xllamacpp'} & (set(sys.modules) - before) or ''))"
    )
    process = run("-c", code)
    _, errors = process.communicate(timeout=120)
    assert errors.strip() == ""
