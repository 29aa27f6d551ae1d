"""The bytes of a file in memory, as a file system changes them: holes are zeros."""

from __future__ import annotations


def resize(data: bytearray, size: int) -> None:
    """Cut ``data`` off at ``size`` bytes, or fill it up to there with zeros."""
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))


def put(data: bytearray, offset: int, more: bytes) -> None:
    """Write ``more`` at ``offset`` bytes, which may lie behind the end."""
    if offset > len(data):
        resize(data, offset)
    data[offset : offset + len(more)] = more
