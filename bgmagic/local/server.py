"""The server's process: its sockets and paths, and when it has been idle enough.

Only 127.0.0.1 is served. Who may ask and what is answered is left to `handlers`, what becomes of a
response to `responses`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import time

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from bgmagic.local import LocalServerError, endpoint
from bgmagic.local.endpoint import HOST
from bgmagic.local.handlers import Cancel, Create, Health, InputItems, Known, Nowhere, State
from bgmagic.local.responses import Responses

# Bytes of any other body: none is needed.
SMALL_BODY = 100_000


def bind(port: int) -> list[socket.socket]:
    """Sockets that listen on the port of 127.0.0.1; 0 takes a free one.

    Raises:
        LocalServerError: the port is taken or not allowed.
    """
    try:
        return bind_sockets(port, HOST)
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"can't be used ({error.strerror})"
        raise LocalServerError(
            f"Port {port} of {HOST} {why}: name another with --port, or leave --port out."
        ) from error


def application(state: State) -> Application:
    """The paths of the API."""
    shared = {"state": state}
    one = r"/v1/responses/([^/]+)"
    return Application(
        [
            (r"/v1/responses", Create, shared),
            (one, Known, shared),
            (rf"{one}/cancel", Cancel, shared),
            (rf"{one}/input_items", InputItems, shared),
            (r"/v1/health", Health, shared),
        ],
        default_handler_class=Nowhere,
        default_handler_args=shared,
        log_function=lambda handler: None,
    )


async def serve(
    responses: Responses, model: str, sockets: list[socket.socket], idle: float
) -> None:
    """Serves until a signal comes or nothing has happened for `idle` seconds.

    The endpoint file is there as long as the server answers.
    """
    logging.getLogger("tornado").setLevel(logging.ERROR)
    state = State(responses, model, sockets[0].getsockname()[1])
    server = HTTPServer(application(state), max_body_size=SMALL_BODY)
    server.add_sockets(sockets)
    ended = _end_signal()
    work = asyncio.create_task(responses.work())
    endpoint.write(state.endpoint)
    try:
        await _until_idle(state, ended, idle)
    finally:
        server.stop()
        responses.stop_all()
        work.cancel()
        await server.close_all_connections()
        endpoint.remove(state.endpoint)


def _end_signal() -> asyncio.Event:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(ended.set))
    return ended


async def _until_idle(state: State, ended: asyncio.Event, idle: float) -> None:
    while not ended.is_set():
        if state.busy:
            state.touched = time.monotonic()
        rest = state.touched + idle - time.monotonic()
        if rest <= 0:
            return
        # A job that ends does not wake this, so look again now and then.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), min(rest, 5.0))
