#!/usr/bin/env bash
# Guess: a response that comes with status `failed` and an error makes Pydantic AI's run raise what the error says.
# Reality: the status is only noted (finish_reason "error"), the error's words are in no exception. What text there is
#   becomes the run's output, as if it were the answer: half a sentence. Without text the model is asked once more, in
#   a new response that is paid for, with "Please return text." as if it had forgotten to; if that fails, too, the
#   exception speaks of output retries.
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
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

WORDS = "The server had an error while processing your request."


class Api(BaseHTTPRequestHandler):
    """Answers each create with a response that failed, after some text or before any."""

    def do_POST(self):
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        text = {"type": "output_text", "text": self.server.text, "annotations": []}
        message = {"type": "message", "id": "m", "role": "assistant", "status": "incomplete", "content": [text]}
        response = {
            "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5.2", "status": "failed",
            "error": {"code": "server_error", "message": WORDS}, "incomplete_details": None,
            "instructions": None, "metadata": {}, "output": [message] if self.server.text else [],
            "tools": [], "parallel_tool_calls": True, "temperature": 1, "top_p": 1, "tool_choice": "auto",
        }  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(response).encode())

    def log_message(self, *arguments):
        pass


def ran(text):
    """The requests made, how the run ended, and whether that has the server's words."""
    api = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    api.asked, api.text = [], text
    threading.Thread(target=api.serve_forever, daemon=True).start()
    provider = OpenAIProvider(base_url=f"http://127.0.0.1:{api.server_address[1]}/v1", api_key="none")
    agent = Agent(OpenAIResponsesModel("gpt-5.2", provider=provider))
    try:
        end = agent.run_sync("Is it safe to mix the two?").output
        told = False
    except Exception as error:
        end = f"{type(error).__name__}: {error}"
        told = WORDS in "".join(traceback.format_exception(error))
    last = api.asked[-1]["input"][-1]["content"]
    print(f"failed after {text!r}: {len(api.asked)} creates, the last one's turn {last!r}\n  ended with {end!r}")
    return len(api.asked), end, told


print("pydantic-ai-slim", version("pydantic-ai-slim"), "openai", version("openai"))
half = "Yes, it is safe unless"
seen = ran(half), ran("")
retries = "UnexpectedModelBehavior: Exceeded maximum output retries (1)"
sys.exit(0 if seen == ((1, half, False), (2, retries, False)) else 1)
PY
