"""Sockets that keep the interpreter while they send and receive.

Python gives the interpreter away for each system call, and beside a cell that computes gets it back
after 5 ms (`sys.getswitchinterval`), with two changes of threads. A call that never blocks takes a
few microseconds, for which that is not worth it.
"""

from __future__ import annotations

import errno
import functools
import os
import select
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer, WriteableBuffer

_AGAIN = (errno.EAGAIN, errno.EWOULDBLOCK)

# A number: to put flags together takes as long as the call. Windows has no second one.
_PEEK = int(socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0))


class _SystemCalls:
    """C's recv and send, called with the interpreter held. Imports ctypes, which takes 5 ms."""

    def __init__(self) -> None:
        """Find them.

        Raises:
            ImportError, AttributeError, OSError, TypeError: they can't be had: Python was built
                without, or runs in a browser or on Windows.
        """
        import ctypes

        # CDLL would give the interpreter away as Python's own sockets do.
        library = ctypes.PyDLL(None, use_errno=True)
        self._recv, self._send = library.recv, library.send
        for function in (self._recv, self._send):
            function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
            function.restype = ctypes.c_ssize_t
        self._errno, self._reference = ctypes.get_errno, ctypes.byref
        self._of = ctypes.c_char.from_buffer
        self._byte = ctypes.byref(ctypes.create_string_buffer(1))
        # The last buffer and where it is: mostly the same. One value, for two threads at once.
        self._last: tuple[WriteableBuffer | None, Any] = (None, None)

    def recv(self, number: int, buffer: WriteableBuffer, size: int, flags: int) -> int:
        """Receive over the socket of that file number."""
        known, at = self._last
        if buffer is not known:
            at = self._reference(self._of(buffer))
            self._last = buffer, at
        while (got := self._recv(number, at, size, flags)) < 0:
            self._raise()
        return int(got)

    def send(self, number: int, data: bytes, flags: int) -> int:
        """Send over the socket of that file number."""
        while (sent := self._send(number, data, len(data), flags)) < 0:
            self._raise()
        return int(sent)

    def send_some(self, number: int, data: bytes) -> int:
        """Send what can be sent now; gives how many bytes, less than 0 if that fails."""
        return self._send(number, data, len(data), 0)  # type: ignore[no-any-return]  # C's

    def is_readable(self, number: int) -> bool:
        """Whether something can be received, the end included."""
        return self._recv(number, self._byte, 1, _PEEK) >= 0 or self._errno() not in _AGAIN

    def _raise(self) -> None:
        """Raise what `socket` would; return where the call is to be repeated."""
        code = self._errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


@functools.cache
def _system() -> _SystemCalls:
    return _SystemCalls()


class HeldSocket(socket.socket):
    """A socket that never blocks, as asyncio's are, and keeps the interpreter meanwhile."""

    __slots__ = ()

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """As `socket.socket.recv_into`."""
        return _system().recv(self.fileno(), buffer, nbytes or len(memoryview(buffer)), flags)

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """As `socket.socket.send`."""
        if type(data) is not bytes:  # the rest of what was too much at once
            return super().send(data, flags)
        return _system().send(self.fileno(), data, flags)


def hold(connection: Any) -> bool:
    """Have a socket of an asyncio transport keep the interpreter from now on.

    Returns:
        whether it does: not on every system, nor in every event loop.
    """
    # asyncio makes its sockets itself, and has no public way to be given a class for them.
    inner = getattr(connection, "_sock", None)
    if type(inner) is not socket.socket or inner.gettimeout() != 0:
        return type(inner) is HeldSocket
    try:
        _system()
    except (ImportError, AttributeError, OSError, TypeError):
        return False
    inner.__class__ = HeldSocket
    return True


def is_readable(connection: socket.socket, *, held: bool = False) -> bool:
    """Whether something has come over a socket, or its other end has closed it.

    Args:
        held: find out with the interpreter held; only what `hold` was true for.
    """
    if held:
        return _system().is_readable(connection.fileno())  # raises nothing: each poll looks once
    if not hasattr(select, "poll"):  # on Windows, where numbers of sockets have no bound
        return bool(select.select([connection], [], [], 0)[0])
    asked = select.poll()
    asked.register(connection, select.POLLIN)
    return bool(asked.poll(0))


def held_calls() -> tuple[Callable[[int], bool], Callable[[int, bytes], int]]:
    """Two functions for held sockets, by file number: one tells whether it is readable, one sends
    what can be sent now and gives the number of bytes, less than 0 if it fails."""
    return _system().is_readable, _system().send_some
