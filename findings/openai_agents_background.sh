#!/usr/bin/env bash
# Guess: an agent of the OpenAI Agents SDK whose model settings say `background=True` either waits for the response,
#   or refuses a response that is `queued` and has no output yet; in any case it creates one.
# Reality: it waits for none. With an output_type it takes each queued response for a turn without an answer and
#   creates the next at once: ten of them by default, which all run and are paid for, until MaxTurnsExceeded, which
#   names none of their ids. Without output_type the run succeeds, and its final_output is "".
# That background mode is missing is known (openai-agents-python, issue 3471).
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "openai-agents==0.24.0" "openai==3.57.0" "httpx2==2.16.2" "pydantic==2.14.4"
"$folder/venv/bin/python" - <<'PY'
import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI
from pydantic import BaseModel

created = []


class Api(BaseHTTPRequestHandler):
    """Takes each create, as the API does in background mode."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        created.append(asked["background"])
        queued = {
            "id": f"resp_{len(created)}", "object": "response", "created_at": 1, "model": "gpt-5.2",
            "status": "queued", "background": True, "error": None, "incomplete_details": None,
            "instructions": None, "metadata": {}, "output": [], "parallel_tool_calls": True,
            "temperature": 1, "top_p": 1, "tool_choice": "auto", "tools": [], "usage": None,
        }  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(queued).encode())

    def log_message(self, *arguments):
        pass


class Plan(BaseModel):
    steps: list[str]


api = ThreadingHTTPServer(("127.0.0.1", 0), Api)
threading.Thread(target=api.serve_forever, daemon=True).start()
set_tracing_disabled(True)


async def ran(output_type):
    """The creates of one run, and its output or error."""
    created.clear()
    url = f"http://127.0.0.1:{api.server_address[1]}/v1"
    async with AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:
        model = OpenAIResponsesModel("gpt-5.2", client)
        settings = ModelSettings(extra_args={"background": True})
        agent = Agent("planner", model=model, model_settings=settings, output_type=output_type)
        try:
            end = repr((await Runner.run(agent, "Plan my study.")).final_output)
        except Exception as error:
            end = f"{type(error).__name__}: {error}"
    return len(created), all(created), end


print("openai-agents", version("openai-agents"), "openai", version("openai"))
planned = asyncio.run(ran(Plan))
print(f"with output_type: {planned[0]} background responses created, then {planned[2]}")
plain = asyncio.run(ran(None))
print(f"without: {plain[0]} created, final_output {plain[2]}")
expected = ((10, True, "MaxTurnsExceeded: Max turns (10) exceeded"), (1, True, "''"))
sys.exit(0 if (planned, plain) == expected else 1)
PY
