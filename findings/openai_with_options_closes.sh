#!/usr/bin/env bash
# Guess: `with client.with_options(timeout=5) as quick:` gives a client of its own for some calls, and closes that one.
#   (OpenAI() is a context manager; with_options() returns a copy, of which the first client knows nothing.)
# Reality: both have one HTTP client. The end of the block closes it for the first client too, each later call of which
#   raises RuntimeError, which is no OpenAIError and isn't retried: a loop of polls that catches the SDK's errors ends
#   there. Without `with` the copy closes nothing, and needs not be closed.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "openai==3.57.0" "httpx2==2.16.2"
"$folder/venv/bin/python" - <<'PY'
import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from openai import AsyncOpenAI, OpenAI, OpenAIError


class Api(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"id": "resp_1", "status": "in_progress", "output": []}).encode())

    def log_message(self, *arguments):
        pass


def told(error):
    return f"{type(error).__name__}: {error}", isinstance(error, OpenAIError)


def polled():
    client = OpenAI(base_url=url, api_key="none")
    client.with_options(timeout=5).responses.retrieve("resp_1")
    before = client.responses.retrieve("resp_1").status
    with client.with_options(timeout=5) as quick:
        quick.responses.retrieve("resp_1")
    try:
        return before, client.responses.retrieve("resp_1").status
    except Exception as error:
        return before, told(error)


async def polled_async():
    client = AsyncOpenAI(base_url=url, api_key="none")
    await client.with_options(timeout=5).responses.retrieve("resp_1")
    before = (await client.responses.retrieve("resp_1")).status
    async with client.with_options(timeout=5) as quick:
        await quick.responses.retrieve("resp_1")
    try:
        return before, (await client.responses.retrieve("resp_1")).status
    except Exception as error:
        return before, told(error)


api = ThreadingHTTPServer(("127.0.0.1", 0), Api)
threading.Thread(target=api.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{api.server_address[1]}/v1"
print("openai", version("openai"), "httpx2", version("httpx2"))
seen = polled(), asyncio.run(polled_async())
for name, (before, after) in zip(("OpenAI", "AsyncOpenAI"), seen, strict=True):
    print(f"{name}: before the block {before}, after it {after}")
closed = "RuntimeError: Cannot send a request, as the client has been closed.", False
sys.exit(0 if seen == (("in_progress", closed),) * 2 else 1)
PY
