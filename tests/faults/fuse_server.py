"""The process that serves a `FaultyDisk`: ``python -m tests.faults.fuse_server TARGET TYPE OPTIONS``.

A folder in memory that speaks the kernel's FUSE protocol (include/uapi/linux/fuse.h, version 7.31)
without a library. It fails as it is told, and remembers what was synced. Orders come by standard
input, a line of JSON each, between two requests of the kernel: whatever they ask for is one moment.

What a sync makes durable is what ext4 promises: the file's own data, and all changes of names up to
then. Names change in order; data since the last sync may be there or not, page by page.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import random
import select
import stat
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.contents import put, resize

PAGE = 4096
_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_READ = struct.Struct("<QQIIQII")
_FOREVER = 3600
_DIRECT_IO = 1  # no page cache, and so no shared memory for two processes
_MAX_WRITE = 1 << 17


@dataclass
class Node:
    """A file or a folder.

    Attributes:
        synced: what a file holds for certain after a power cut.
        since: writes (offset, bytes) and truncations (size, None) after that.
    """

    mode: int
    data: bytearray = field(default_factory=bytearray)
    children: dict[str, int] = field(default_factory=dict)
    synced: bytes = b""
    since: list[tuple[int, bytes | None]] = field(default_factory=list)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def write(self, offset: int, data: bytes) -> None:
        put(self.data, offset, data)
        self.since.append((offset, data))

    def truncate(self, size: int) -> None:
        resize(self.data, size)
        self.since.append((size, None))

    def sync(self) -> None:
        self.synced, self.since = bytes(self.data), []

    def after_cut(self, chance: random.Random) -> bytes:
        """What the file may hold after a power cut now."""
        found = bytearray(self.synced)
        kept = chance.choice((0.0, 0.5, 0.9, 1.0))
        for offset, data in self.since:
            if data is None:
                if chance.random() < kept:
                    resize(found, offset)
                continue
            start = offset
            while start < offset + len(data):
                end = min(offset + len(data), (start // PAGE + 1) * PAGE)
                if chance.random() < kept:
                    put(found, start, data[start - offset : end - offset])
                start = end
        return bytes(found)


class Failed(Exception):
    """A request is answered with this errno."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Disk:
    """The folder, its faults, and what of it is durable."""

    def __init__(self, direct: bool) -> None:
        self.nodes = {1: Node(stat.S_IFDIR | 0o755)}
        self._next = 2
        self._open_flags = _DIRECT_IO if direct else 0
        self._rules: dict[str, int] = {}
        self._sync_takes = 0.0
        self._write_back = 0.0
        self._chance = random.Random(0)
        # Changes of names since the last sync: the names of all folders after each.
        self._names: list[dict[int, dict[str, int]]] = [{1: {}}]
        self._handlers: dict[int, Callable[[int, bytes], bytes | None]] = {
            1: self._lookup, 3: self._getattr, 4: self._setattr, 8: self._mknod, 9: self._mkdir,
            10: self._unlink, 11: self._unlink, 12: self._rename, 14: self._open, 15: self._read,
            16: self._write, 17: self._statfs, 18: self._nothing, 20: self._fsync,
            25: self._nothing, 26: self._init, 27: self._open, 28: self._readdir,
            29: self._nothing, 30: self._fsync, 34: self._nothing, 35: self._create,
            45: self._rename2,
        }  # fmt: skip

    def order(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what a line of standard input says."""
        if "fail" in asked:
            self._rules = asked["fail"]
        if "sync_takes" in asked:
            self._sync_takes = asked["sync_takes"]
        if "write_back" in asked:
            self._write_back, self._chance = asked["write_back"], random.Random(asked["seed"])
        if "cut" in asked:
            self._cut(Path(asked["cut"]), random.Random(asked["seed"]))
        return {}

    def answer(self, request: bytes) -> bytes | None:
        """The answer to one request of the kernel, or None where it wants none."""
        _, opcode, unique, nodeid, *_ = _IN.unpack_from(request)
        if opcode in (2, 36, 42):  # forget, interrupt, forget many
            return None
        try:
            handler = self._handlers.get(opcode, self._unknown)
            body = handler(nodeid, request[_IN.size :]) or b""
        except Failed as failed:
            return _OUT.pack(_OUT.size, -failed.code, unique)
        return _OUT.pack(_OUT.size + len(body), 0, unique) + body

    def _unknown(self, _: int, __: bytes) -> None:
        raise Failed(errno.ENOSYS)

    def _check(self, kind: str) -> None:
        if self._rules.get(kind):
            raise Failed(self._rules[kind])

    def _cut(self, target: Path, chance: random.Random) -> None:
        """Write to ``target`` what may be found after the power was cut now."""
        names = chance.choice(self._names)

        def write(ino: int, path: Path) -> None:
            path.mkdir(parents=True, exist_ok=True)
            for name, child in names.get(ino, {}).items():
                node = self.nodes[child]
                if node.is_folder:
                    write(child, path / name)
                else:
                    (path / name).write_bytes(node.after_cut(chance))

        write(1, target)

    # Requests. Each gets the number of a node and the rest of the message.

    def _init(self, _: int, body: bytes) -> bytes:
        readahead = struct.unpack_from("<III", body)[2]
        big_writes, max_pages = 1 << 5, 1 << 22
        flags = big_writes | max_pages
        return struct.pack(
            "<IIIIHHIIHHI7I", 7, 31, readahead, flags, 16, 12, _MAX_WRITE, 1, 32, 0, 0, *[0] * 7
        )

    def _attr(self, ino: int) -> bytes:
        node = self.nodes[ino]
        size = len(node.data)
        links = 2 if node.is_folder else 1
        blocks = -(-size // 512)
        return _ATTR.pack(ino, size, blocks, 0, 0, 0, 0, 0, 0, node.mode, links, 0, 0, 0, PAGE, 0)

    def _entry(self, ino: int) -> bytes:
        return _ENTRY.pack(ino, 0, _FOREVER, _FOREVER, 0, 0) + self._attr(ino)

    def _child(self, ino: int, name: bytes) -> int:
        found = self.nodes[ino].children.get(os.fsdecode(name.rstrip(b"\0")))
        if found is None:
            raise Failed(errno.ENOENT)
        return found

    def _lookup(self, ino: int, body: bytes) -> bytes:
        return self._entry(self._child(ino, body))

    def _getattr(self, ino: int, _: bytes) -> bytes:
        return struct.pack("<QII", _FOREVER, 0, 0) + self._attr(ino)

    def _setattr(self, ino: int, body: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        mode = struct.unpack_from("<I", body, 68)[0]
        node = self.nodes[ino]
        if valid & 8:
            self._check("write")
            node.truncate(size)
        if valid & 1:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        return self._getattr(ino, b"")

    def _made(self, parent: int, name: bytes, mode: int) -> bytes:
        self._check("create")
        ino, self._next = self._next, self._next + 1
        self.nodes[ino] = Node(mode)
        self.nodes[parent].children[os.fsdecode(name.rstrip(b"\0"))] = ino
        self._named()
        return self._entry(ino)

    def _named(self) -> None:
        self._names.append(
            {ino: dict(node.children) for ino, node in self.nodes.items() if node.is_folder}
        )

    def _mknod(self, ino: int, body: bytes) -> bytes:
        return self._made(ino, body[16:], struct.unpack_from("<I", body)[0])

    def _mkdir(self, ino: int, body: bytes) -> bytes:
        return self._made(ino, body[8:], stat.S_IFDIR | struct.unpack_from("<I", body)[0])

    def _create(self, ino: int, body: bytes) -> bytes:
        return self._made(ino, body[16:], struct.unpack_from("<II", body)[1]) + self._open(0, b"")

    def _unlink(self, ino: int, body: bytes) -> None:
        self._child(ino, body)
        self._check("create")
        del self.nodes[ino].children[os.fsdecode(body.rstrip(b"\0"))]
        self._named()

    def _rename(self, ino: int, body: bytes) -> None:
        self._move(ino, struct.unpack_from("<Q", body)[0], body[8:])

    def _rename2(self, ino: int, body: bytes) -> None:
        self._move(ino, struct.unpack_from("<Q", body)[0], body[16:])

    def _move(self, source: int, target: int, names: bytes) -> None:
        old, new, _ = names.split(b"\0", 2)
        moved = self._child(source, old)
        del self.nodes[source].children[os.fsdecode(old)]
        self.nodes[target].children[os.fsdecode(new)] = moved
        self._named()

    def _open(self, _: int, __: bytes) -> bytes:
        return struct.pack("<QII", 0, self._open_flags, 0)

    def _read(self, ino: int, body: bytes) -> bytes:
        self._check("read")
        _, offset, size, *_ = _READ.unpack_from(body)
        return bytes(self.nodes[ino].data[offset : offset + size])

    def _write(self, ino: int, body: bytes) -> bytes:
        self._check("write")
        _, offset, size, *_ = _READ.unpack_from(body)
        node = self.nodes[ino]
        if offset + size > len(node.data):
            self._check("grow")
        node.write(offset, body[_READ.size : _READ.size + size])
        if self._chance.random() < self._write_back:
            self.nodes[self._chance.choice(list(self.nodes))].sync()
            self._names = self._names[-1:]
        return struct.pack("<II", size, 0)

    def _fsync(self, ino: int, _: bytes) -> None:
        time.sleep(self._sync_takes)
        self._check("sync")
        self.nodes[ino].sync()
        self._names = self._names[-1:]

    def _statfs(self, _: int, __: bytes) -> bytes:
        return struct.pack(
            "<QQQQQIIII6I", 1 << 20, 1 << 19, 1 << 19, 99, 99, PAGE, 255, PAGE, *[0] * 7
        )

    def _readdir(self, ino: int, body: bytes) -> bytes:
        _, offset, size, *_ = _READ.unpack_from(body)
        told = b""
        for number, (name, child) in enumerate(list(self.nodes[ino].children.items()), 1):
            if number <= offset:
                continue
            raw = os.fsencode(name)
            kind = stat.S_IFMT(self.nodes[child].mode) >> 12
            entry = struct.pack("<QQII", child, number, len(raw), kind) + raw
            entry += bytes(-len(entry) % 8)
            if len(told) + len(entry) > size:
                break
            told += entry
        return told

    def _nothing(self, _: int, __: bytes) -> None:
        return None


def main(target: str, kind: str, direct: str) -> None:
    """Mount, say so, and serve until the file system is unmounted or standard input ends."""
    fuse = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"faulty", os.fsencode(target), kind.encode(), 0, options.encode()):
        raise OSError(ctypes.get_errno(), f"{target} can't be mounted")
    disk = Disk(direct == "direct")
    print("{}", flush=True)
    orders = b""
    while True:
        ready, _, _ = select.select([fuse, 0], [], [])
        if 0 in ready:
            more = os.read(0, 65_536)
            if not more:
                return
            *lines, orders = (orders + more).split(b"\n")
            for line in lines:
                print(json.dumps(disk.order(json.loads(line))), flush=True)
        if fuse in ready:
            try:
                request = os.read(fuse, _MAX_WRITE + PAGE)
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted
                    return
                continue
            answer = disk.answer(request)
            if answer is not None:
                with contextlib.suppress(OSError):  # who asked has been killed
                    os.write(fuse, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
