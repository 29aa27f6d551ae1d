"""`python -m bgmagic.local`: run the embedded server, as `discovery` does it or a user by hand."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from bgmagic.local import LocalServerError, discovery, require, weights


def main() -> int:
    """Runs the server until it is told to end or has been idle; returns the exit code."""
    arguments = _arguments()
    try:
        _run(arguments.port, arguments.idle)
    except LocalServerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bgmagic.local", description="The embedded server of bgmagic."
    )
    parser.add_argument("--port", type=int, default=0, help="port of 127.0.0.1 (any free one)")
    parser.add_argument(
        "--idle", type=float, default=3600.0, metavar="SECONDS",
        help="end after this long without a request or a job (3600)",
    )  # fmt: skip
    return parser.parse_args()


def _run(port: int, idle: float) -> None:
    running = discovery.read_endpoint()
    if running is not None and discovery.is_alive(running):
        raise LocalServerError(
            f"A server with {running.model} runs already, as process {running.pid}: use that one,"
            " or end it first."
        )
    path = weights.fetch(lambda done, total: None)
    require("tornado")
    from bgmagic.local import server
    from bgmagic.local.engine import Engine
    from bgmagic.local.responses import ResponseStore

    sockets = server.bind(port)
    engine = Engine(path)

    async def serve() -> None:
        await server.serve(ResponseStore(engine), weights.model_name(), sockets, idle)

    asyncio.run(serve())


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Not sys.exit: the destructor of xllamacpp's server can wait for ever for a thread of its own.
    os._exit(code)
