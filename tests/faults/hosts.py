"""A process that is on another host, or in another network, as far as it can tell.

Another host has its own name, process numbers, machine id and boot id (namespaces of Linux); what it
sees of a shared folder is the mount's business. All of it needs root.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import tempfile
import uuid
from pathlib import Path

# Variables of a `Kernel`: the name of its host, the address of that host's only name server, and the
# name of its network namespace.
HOST = "FAULTS_HOST"
RESOLVER = "FAULTS_RESOLVER"
NETWORK = "FAULTS_NETWORK"

_NEWNS, _NEWUTS, _NEWPID, _NEWNET = 0x00020000, 0x04000000, 0x20000000, 0x40000000
_BIND, _REC, _PRIVATE = 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def enter_network(name: str) -> None:
    """Go into a network namespace that ``ip netns add`` made."""
    namespace = os.open(f"/run/netns/{name}", os.O_RDONLY)
    _check(_libc.setns(namespace, _NEWNET), "setns")
    os.close(namespace)


def become_host(name: str, resolver: str | None = None) -> None:
    """Be another host from now on, in a process of its own: this one only waits for that."""
    _check(_libc.unshare(_NEWNS | _NEWUTS | _NEWPID), "unshare")
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        os._exit(0)
    socket.sethostname(name)
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("proc", "/proc", "proc", 0)
    machine = hashlib.sha256(name.encode()).hexdigest()[:32]
    _show(machine, "/etc/machine-id")
    _show(str(uuid.UUID(machine)), "/proc/sys/kernel/random/boot_id")
    if resolver is not None:
        _show(f"nameserver {resolver}\noptions timeout:10 attempts:3", "/etc/resolv.conf")


def _show(text: str, path: str) -> None:
    """Have ``path``, if there is one, say ``text`` to this host."""
    if Path(path).exists():
        with tempfile.NamedTemporaryFile("w", delete=False) as file:
            file.write(f"{text}\n")
        _mount(file.name, path, None, _BIND)


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    told = None if kind is None else kind.encode()
    _check(_libc.mount(source.encode(), target.encode(), told, flags, None), f"mount {target}")


def _check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), what)
