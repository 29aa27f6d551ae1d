"""`python -m bgmagic.local`: the embedded server's process, started by `discovery` or by hand.

It serves until it is told to end or has been idle, and its endpoint file is there as long as it
answers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from bgmagic.local import LocalServerError, discovery, require, weights
from bgmagic.local.engine import CONTEXT, THREADS, EngineSettings, setting_ranges

if TYPE_CHECKING:
    from bgmagic.local.responses import ResponseStore
    from bgmagic.local.server import ServerState

N = TypeVar("N", int, float)

# Bytes of the body of a request that needs none.
MAX_OTHER_BODY = 100_000
# Seconds: ten years.
MAX_IDLE = 315_360_000


def main() -> int:
    """Runs the server until it is told to end or has been idle; returns the exit code."""
    try:
        arguments = _parser().parse_args()
        settings = EngineSettings(
            arguments.model, arguments.threads, arguments.parallel, arguments.context
        )
        _run(settings, arguments.port, arguments.idle)
    except LocalServerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise LocalServerError(f"{message}: see python -m bgmagic.local --help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m bgmagic.local", description="The embedded server of bgmagic.")
    numbers = {name: _number(name, int, *most) for name, most in setting_ranges().items()}
    port, idle = _number("port", int, 0, 65535), _number("idle", float, 0, MAX_IDLE)
    context = f"tokens of prompt and answer together, of each generation ({CONTEXT})"
    options: list[tuple[str, Callable[[str], object], object, str, str]] = [
        ("model", _path, None, "PATH", f"GGUF file of the model ({weights.MODEL})"),
        ("threads", numbers["threads"], THREADS, "N", f"CPU threads ({THREADS})"),
        ("parallel", numbers["parallel"], 1, "N", "generations at a time (1)"),
        ("context", numbers["context"], CONTEXT, "N", context),
        ("port", port, 0, "N", "port of 127.0.0.1 (any free one)"),
        ("idle", idle, 3600.0, "SECONDS", "end after this long without a request or job (3600)"),
    ]
    for name, read, default, metavar, text in options:
        parser.add_argument(f"--{name}", type=read, default=default, metavar=metavar, help=text)
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _number(name: str, kind: type[N], least: float, most: float) -> Callable[[str], N]:
    """A reader of numbers from `least` to `most`, which raises a LocalServerError for others."""

    def read(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            value = kind(-1)
        if not least <= value <= most:
            noun = {int: "a whole number", float: "a number"}[kind]
            raise LocalServerError(
                f"--{name} {text[:40]}: it must be {noun} from {least} to {most}."
            )
        return value

    return read


def _run(settings: EngineSettings, port: int, idle: float) -> None:
    running = discovery.find(settings.model)
    if running is not None:
        raise LocalServerError(
            f"A server with {running.model} runs already, as process {running.pid}: use that one,"
            " or end it first."
        )
    path = weights.fetch(lambda done, total: None, settings.model)
    require("tornado")
    from bgmagic.local import server
    from bgmagic.local.engine import Engine
    from bgmagic.local.responses import ResponseStore

    sockets = server.bind(port)
    responses = ResponseStore(Engine(path, settings), parallel=settings.parallel)
    asyncio.run(_serve(responses, settings, sockets, idle))


async def _serve(
    responses: ResponseStore, settings: EngineSettings, sockets: list[socket.socket], idle: float
) -> None:
    from tornado.httpserver import HTTPServer

    from bgmagic.local.batches import routes
    from bgmagic.local.server import ServerState, application

    logging.getLogger("tornado").setLevel(logging.ERROR)
    name, port = weights.model_name(settings.model), sockets[0].getsockname()[1]
    state = ServerState(responses, name, port, settings)
    server = HTTPServer(application(state, routes(state)), max_body_size=MAX_OTHER_BODY)
    server.add_sockets(sockets)
    ended = _end_signal()
    work = asyncio.create_task(responses.work())
    discovery.write_endpoint(state.endpoint, settings.model)
    try:
        await _until_idle(state, ended, idle)
    finally:
        server.stop()
        responses.stop_all()
        work.cancel()
        await server.close_all_connections()
        discovery.remove_endpoint(state.endpoint, settings.model)


def _end_signal() -> asyncio.Event:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(ended.set))
    return ended


async def _until_idle(state: ServerState, ended: asyncio.Event, idle: float) -> None:
    while not ended.is_set():
        if state.busy:
            state.touched = time.monotonic()
        rest = state.touched + idle - time.monotonic()
        if rest <= 0:
            return
        # A job that ends does not wake this, so look again now and then.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), min(rest, 5.0))


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Not sys.exit: the destructor of xllamacpp's server can wait for ever for a thread of its own.
    os._exit(code)
