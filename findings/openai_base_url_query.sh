#!/usr/bin/env bash
# Guess: of a base URL with a query, as gateways want it (`https://host/v1?code=…`), the OpenAI SDK keeps the query with
#   each request, or drops it, or refuses it.
# Reality: it puts the path of each request behind the query, as a part of its last value. Every request goes to the
#   folder itself, `POST /v1/?code=abcresponses`, which is a 404 or some other page, and the code is wrong as well; for a
#   request that has parameters the path is percent-encoded besides. `default_query={…}` does what was meant.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "openai==3.57.0" "httpx2==2.16.2"
"$folder/venv/bin/python" - <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from openai import OpenAI

seen = []


class Api(BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        seen.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"id": "resp_1", "object": "response", "output": []}).encode())

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


api = ThreadingHTTPServer(("127.0.0.1", 0), Api)
threading.Thread(target=api.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{api.server_address[1]}/v1"
print("openai", version("openai"), "httpx2", version("httpx2"))
for client in (
    OpenAI(base_url=f"{url}?code=abc", api_key="none"),
    OpenAI(base_url=url, default_query={"code": "abc"}, api_key="none"),
):
    client.responses.create(model="m", input="Why?", background=True)
    client.responses.retrieve("resp_1", include=["reasoning.encrypted_content"])
print("base_url with a query:", *seen[:2], "default_query:", *seen[2:], sep="\n  ")
expected = [
    "POST /v1/?code=abcresponses",
    "GET /v1/?code=abcresponses%2Fresp_1&include%5B%5D=reasoning.encrypted_content",
    "POST /v1/responses?code=abc",
    "GET /v1/responses/resp_1?code=abc&include%5B%5D=reasoning.encrypted_content",
]
sys.exit(0 if seen == expected else 1)
PY
