#!/usr/bin/env bash
# Guess: a ConnectTimeout means that no connection was made in time, so that nothing was sent and a POST can be made
#   again without harm; whichever transport the SDK has, a server that hangs up after it has read a request is
#   something else (with the default one APIConnectionError, from RemoteProtocolError).
# Reality: over the SDK's own aiohttp transport it is APITimeoutError, from ConnectTimeout, after milliseconds, of a
#   server that has read the whole request and may have begun what it asks for.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "openai[aiohttp]==3.57.0" "httpx2==2.16.2" "aiohttp==3.14.5"
"$folder/venv/bin/python" - <<'PY'
import asyncio
import json
import sys
from importlib.metadata import version

from openai import APIConnectionError, AsyncOpenAI, DefaultAioHttpClient

bodies = []


async def read_and_hang_up(reader, writer):
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split()[0])
    bodies.append(json.loads(await reader.readexactly(length)))
    writer.close()


async def asked(url, **transport):
    async with AsyncOpenAI(api_key="none", base_url=url, max_retries=0, timeout=60, **transport) as client:
        begun = asyncio.get_running_loop().time()
        try:
            await client.responses.create(model="m", input="Why?", background=True)
        except APIConnectionError as error:
            taken = asyncio.get_running_loop().time() - begun
            print(f"{type(error).__name__} from {error.__cause__!r}, {taken:.2f} s of 60")
            return type(error).__name__, type(error.__cause__).__name__


async def main():
    server = await asyncio.start_server(read_and_hang_up, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    return [await asked(url), await asked(url, http_client=DefaultAioHttpClient())]


print("openai", version("openai"), "httpx2", version("httpx2"), "aiohttp", version("aiohttp"))
default, aio = asyncio.run(main())
print("bodies that the server has read:", bodies)
expected = ("APIConnectionError", "RemoteProtocolError"), ("APITimeoutError", "ConnectTimeout")
sys.exit(0 if (default, aio) == expected and len(bodies) == 2 else 1)
PY
