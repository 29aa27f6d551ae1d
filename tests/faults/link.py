"""A network of two ends between which packets are lost, late, or do not get through at all.

One end is a network namespace in which kernels run (`hosts.NETWORK`), the other this host. Between
them is no driver but this process: two tun devices, whose packets it passes on as a test says. The
kernel's own netem would do the same where it is built in.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from pathlib import Path

from tests.faults.harness import missing_device, require, system

_TUNSETIFF = 0x400454CA
_TUN_NO_HEADER = 0x1001
HERE, THERE = "10.77.77.1", "10.77.77.2"


class Link:
    """The network; a context manager.

    Attributes:
        namespace: its name, for `hosts.NETWORK`.
        loss: the share of packets that do not arrive.
        delay: seconds that each takes.
        cut: whether none gets through.
    """

    def __init__(self) -> None:
        self.namespace = f"bgmagic{os.getpid()}"
        self.loss = 0.0
        self.delay = 0.0
        self.cut = False
        self._device = f"bgm{os.getpid() % 10**8}"
        self._ends: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Link:
        require("ip")
        if not Path("/dev/net/tun").exists():
            missing_device("/dev/net/tun")
        with self._stack:
            system("ip", "netns", "add", self.namespace)
            self._stack.callback(self._delete_namespace)
            here, there = f"{self._device}a", f"{self._device}b"
            self._ends = [self._tun(here), self._tun(there)]
            system("ip", "link", "set", there, "netns", self.namespace)
            system("ip", "addr", "add", f"{HERE}/24", "dev", here)
            system("ip", "link", "set", here, "up")
            system("ip", "-n", self.namespace, "link", "set", "lo", "up")
            system("ip", "-n", self.namespace, "link", "set", there, "up")
            self.move(THERE)
            self._stack = self._stack.pop_all()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        self._stack.close()

    def move(self, address: str | None) -> None:
        """Take the namespace's address away, and give it another, as a new network does."""
        there = f"{self._device}b"
        system("ip", "-n", self.namespace, "addr", "flush", "dev", there)
        if address is not None:
            system("ip", "-n", self.namespace, "addr", "add", f"{address}/24", "dev", there)

    def _delete_namespace(self) -> None:
        subprocess.run(["ip", "netns", "del", self.namespace], check=False)

    def _tun(self, name: str) -> int:
        end = os.open("/dev/net/tun", os.O_RDWR)
        self._stack.callback(os.close, end)
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN_NO_HEADER))
        return end

    def _pass_on(self) -> None:
        chance = random.Random(7)
        late: list[tuple[float, int, int, bytes]] = []
        number = 0
        while not self._stop.is_set():
            now = time.monotonic()
            wait = min(0.2, max(0.0, late[0][0] - now)) if late else 0.2
            ready, _, _ = select.select(self._ends, [], [], wait)
            for end in ready:
                packet = os.read(end, 65_536)
                if self.cut or chance.random() < self.loss:
                    continue
                number += 1
                other = self._ends[1 - self._ends.index(end)]
                heapq.heappush(late, (time.monotonic() + self.delay, number, other, packet))
            while late and late[0][0] <= time.monotonic():
                _, _, other, packet = heapq.heappop(late)
                with contextlib.suppress(OSError):  # its end has no address just now
                    os.write(other, packet)
