#!/usr/bin/env bash
# Guess: with `openai_background=True` Pydantic AI polls until the response ends. A poll that fails leaves the response
#   alone, which goes on at the server and can be asked for again: that is what background mode is for.
# Reality: a poll that fails ends the run and cancels the response at the server: what it had worked out is paid for and
#   gone. A single 404 does so, and a 429 or 503 at the third in a row, which the SDK's own retries reach within two
#   seconds: a job of an hour does not outlive a moment's limit on requests.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "pydantic-ai-slim[openai]==2.38.0" "openai==3.57.0" "httpx2==2.16.2" "pydantic==2.14.4"
"$folder/venv/bin/python" - <<'PY'
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider


class Api(BaseHTTPRequestHandler):
    """Works on one response, and answers polls two to four with an error."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        cancelled = self.path.endswith("/cancel")
        self.server.seen.append("cancel" if cancelled else "create")
        self.tell(200, "cancelled" if cancelled else "queued")

    def do_GET(self):
        polls = self.server.seen.count("poll") + self.server.seen.count(self.server.status)
        wrong = 1 <= polls <= 3
        self.server.seen.append(self.server.status if wrong else "poll")
        self.tell(self.server.status if wrong else 200, "in_progress" if polls == 0 else "completed")

    def tell(self, code, status):
        text = {"type": "output_text", "text": "Done.", "annotations": []}
        message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
        response = {
            "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5.2", "status": status,
            "background": True, "error": None, "incomplete_details": None, "instructions": None,
            "metadata": {}, "output": [message] if status == "completed" else [], "tools": [],
            "parallel_tool_calls": True, "temperature": 1, "top_p": 1, "tool_choice": "auto", "usage": None,
        }  # fmt: skip
        body = response if code == 200 else {"error": {"message": "Please wait.", "code": None}}
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments):
        pass


def ran(status):
    """What the server saw, and how the run ended."""
    api = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    api.seen, api.status = [], status
    threading.Thread(target=api.serve_forever, daemon=True).start()
    provider = OpenAIProvider(base_url=f"http://127.0.0.1:{api.server_address[1]}/v1", api_key="none")
    agent = Agent(
        OpenAIResponsesModel("gpt-5.2", provider=provider),
        model_settings=OpenAIResponsesModelSettings(openai_background=True),
    )
    begun = time.monotonic()
    try:
        end = agent.run_sync("Think for an hour.").output
    except Exception as error:
        end = type(error).__name__
    print(status, api.seen, end, f"after {time.monotonic() - begun:.1f} s")
    return api.seen, end


print("pydantic-ai-slim", version("pydantic-ai-slim"), "openai", version("openai"))
expected = {
    404: (["create", "poll", 404, "cancel"], "SuspendedResponseExpired"),
    429: (["create", "poll", 429, 429, 429, "cancel"], "ModelHTTPError"),
    503: (["create", "poll", 503, 503, 503, "cancel"], "ModelHTTPError"),
}
sys.exit(0 if {status: ran(status) for status in expected} == expected else 1)
PY
