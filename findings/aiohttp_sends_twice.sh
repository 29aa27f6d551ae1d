#!/usr/bin/env bash
# Guess: aiohttp's client has no retries: a call is one request, and whoever wants another makes it. At most a
#   connection that was kept, and that the server had closed meanwhile, is replaced by a new one.
# Reality: a GET, PUT or DELETE that a server read whole and did not answer is sent again, on a new connection, also
#   where the first one was new. Only then the caller hears of it, once. A server sees twice what is counted once, and
#   of a DELETE that was done the first time the second is answered, with 404. A POST is sent once.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "aiohttp==3.14.5"
"$folder/venv/bin/python" - <<'PY'
import asyncio
import sys

import aiohttp

there, seen = set(), []


async def serve(reader, writer):
    """Deletes, and hangs up before the answer; what is not there is answered."""
    method, path, _ = (await reader.readuntil(b"\r\n\r\n")).decode().split(maxsplit=2)
    seen.append(method)
    if path not in there:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    elif method == "DELETE":
        there.remove(path)
    writer.close()


async def call(url, method):
    seen.clear()
    async with aiohttp.ClientSession() as session:  # whose first connection is this one
        try:
            async with session.request(method, url) as response:
                said = str(response.status)
        except aiohttp.ServerDisconnectedError as error:
            said = type(error).__name__
    print(f"{method}: the server saw {len(seen)}, the caller {said}")
    return len(seen), said


async def main():
    there.add("/resp_1")
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/resp_1"
    return [await call(url, method) for method in ("GET", "PUT", "POST", "DELETE")]


print("aiohttp", aiohttp.__version__)
gone = "ServerDisconnectedError"
sys.exit(asyncio.run(main()) != [(2, gone), (2, gone), (1, gone), (2, "404")])
PY
