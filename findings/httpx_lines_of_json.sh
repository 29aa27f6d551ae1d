#!/usr/bin/env bash
# Guess: iter_lines() gives the lines of a JSON Lines file or stream, each a whole JSON text: a line ends at "\n", and
#   within a JSON string that is always escaped. The results of an OpenAI batch are read so, and Ollama's client reads
#   its server so.
# Reality: in httpx and httpx2 lines also end at what str.splitlines() takes for an end: U+0085, U+2028 and U+2029,
#   which JSON may have as they are. Where a model wrote one, `files.content(…).iter_lines()` of the OpenAI SDK gives
#   pieces that are no JSON, and Ollama's client raises JSONDecodeError in the midst of the answer (its server is
#   written in Go, whose JSON escapes U+2028, but not U+0085). bytes.splitlines() of `.content` gives the lines.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "openai==3.57.0" "httpx2==2.16.2" "ollama==0.6.3" "httpx==0.28.1"
"$folder/venv/bin/python" - <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import ollama
from openai import OpenAI

RESULTS = [{"custom_id": "a", "text": "one\u2028two"}, {"custom_id": "b", "text": "three"}]
WORDS = ["one", "\u0085two", "three"]


class Server(BaseHTTPRequestHandler):
    """Has a batch's results, as OpenAI, and streams a chat, as Ollama."""

    def do_GET(self):
        self.tell(RESULTS)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        said = [{"model": "m", "message": {"role": "assistant", "content": word}, "done": False} for word in WORDS]
        self.tell([*said, {**said[0], "message": {"role": "assistant", "content": ""}, "done": True}])

    def tell(self, lines):
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        self.wfile.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())

    def log_message(self, *arguments):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
host = f"http://127.0.0.1:{server.server_address[1]}"
for name in ("openai", "httpx2", "ollama", "httpx"):
    print(name, version(name))

results = OpenAI(base_url=host, api_key="none").files.content("file-1")
lines = list(results.iter_lines())
print(f"{len(RESULTS)} lines of a file are {len(lines)}: {lines}")
whole = [json.loads(line) for line in results.content.splitlines()]

heard, end = [], "whole"
try:
    for piece in ollama.Client(host).chat("m", [{"role": "user", "content": "Count."}], stream=True):
        heard.append(piece.message.content)
except json.JSONDecodeError as error:
    end = f"{type(error).__name__}: {error}"
print(f"of the chat {WORDS} came {heard}, then {end}")
same = len(lines) == 3 and whole == RESULTS and heard == ["one"] and end.startswith("JSONDecodeError")
sys.exit(0 if same else 1)
PY
