"""A process in which everything is imported, and from which kernels are forked in 20 ms.

Starting Python with IPython and the SDK takes more than a second, a thousand power cuts two thousand
kernels. ``python -m tests.faults.nursery SOCKET`` serves: each message names the variables of one
kernel and brings its standard input and output; the answer is its process id.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tests.faults.child import main as run_child
from tests.faults.hosts import HOST, NETWORK, RESOLVER, become_host, enter_network

ROOT = Path(__file__).parent.parent.parent


class Nursery:
    """The process that forks kernels for this one; started with the first of them."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def fork(self, environment: dict[str, str], stdin: int, stdout: int) -> int:
        """Fork a kernel with these variables, which reads and writes there; gives its process id."""
        with self._lock:
            if self._socket is None:
                self._socket = self._started()
            message = json.dumps(environment).encode()
            socket.send_fds(self._socket, [message], [stdin, stdout])
            return int(self._socket.recv(32))

    def _started(self) -> socket.socket:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/nursery"
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
                listening.bind(path)
                listening.listen()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.faults.nursery", path], cwd=ROOT
                )
                listening.settimeout(60)
                accepted, _ = listening.accept()
        atexit.register(self._end)
        return accepted

    def _end(self) -> None:
        assert self._process is not None
        assert self._socket is not None
        self._socket.close()
        self._process.wait(60)


NURSERY = Nursery()


def _serve(path: str) -> None:
    # Imported here, once for all.
    import aiohttp
    import filelock
    import httptools
    import IPython.core.interactiveshell
    import openai.resources.responses

    import bgmagic
    import bgmagic.notebook.magics

    del aiohttp, filelock, httptools, IPython, openai, bgmagic
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for them
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connected:
        connected.connect(path)
        while True:
            message, fds, _, _ = socket.recv_fds(connected, 1 << 20, 2)
            if not message:
                return
            pid = os.fork()
            if pid == 0:
                connected.close()
                _become_kernel(json.loads(message), *fds)
            for fd in fds:
                os.close(fd)
            connected.send(str(pid).encode())


def _become_kernel(environment: dict[str, str], stdin: int, stdout: int) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if NETWORK in environment:
        enter_network(environment[NETWORK])
    if HOST in environment:
        become_host(environment[HOST], environment.get(RESOLVER))
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.close(stdin)
    os.close(stdout)
    sys.stdin = os.fdopen(0, "r")
    with contextlib.suppress(BaseException):
        run_child()
    atexit._run_exitfuncs()
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
