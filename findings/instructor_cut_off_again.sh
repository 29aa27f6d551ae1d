#!/usr/bin/env bash
# Guess: an answer that the limit of tokens cut off is IncompleteOutputException in Instructor, after one request, in
#   whichever mode: asked again with the same limit it would be cut off again, and for chat completions it is so.
# Reality: over the Responses API (Mode.RESPONSES_TOOLS) `incomplete` is not looked at. The half JSON counts as a mistake
#   of the model, which is asked three times more with the same limit, each time with the half JSON added to the
#   prompt, and all four are paid for. The exception at the end is InstructorRetryException, of invalid JSON.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "instructor==1.17.0" "openai==3.3.0" "httpx2==2.16.2" "pydantic==2.14.4" "tenacity==9.2.1"
"$folder/venv/bin/python" - <<'PY'
import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import instructor
from openai import OpenAI
from pydantic import BaseModel

logging.getLogger("instructor").setLevel(logging.CRITICAL)
CUT = '{"name": "Ada Love'
asked = []


class Api(BaseHTTPRequestHandler):
    """Answers each request with a call whose arguments max tokens cut off, as either API does."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked.append((json.loads(body).get("max_output_tokens"), len(body)))
        if self.path.endswith("/chat/completions"):
            call = {"id": "call_1", "type": "function", "function": {"name": "Person", "arguments": CUT}}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
            reply = {
                "id": "c", "object": "chat.completion", "created": 1, "model": "gpt-5.2",
                "choices": [{"index": 0, "finish_reason": "length", "message": message}],
            }  # fmt: skip
        else:
            call = {
                "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "Person",
                "arguments": CUT, "status": "incomplete",
            }  # fmt: skip
            reply = {
                "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5.2",
                "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "error": None,
                "instructions": None, "metadata": {}, "output": [call], "tools": [], "tool_choice": "auto",
                "parallel_tool_calls": True, "temperature": 1, "top_p": 1,
            }  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *arguments):
        pass


class Person(BaseModel):
    name: str


def ran(label, ask):
    """The class of the exception, and the limit and length of each request."""
    asked.clear()
    try:
        ask()
        end = "no exception"
    except Exception as error:
        end = type(error).__name__
    print(f"{label}: {len(asked)} request(s) of {[size for _, size in asked]} bytes, then {end}")
    return end, list(asked)


api = ThreadingHTTPServer(("127.0.0.1", 0), Api)
threading.Thread(target=api.serve_forever, daemon=True).start()
client = OpenAI(base_url=f"http://127.0.0.1:{api.server_address[1]}/v1", api_key="none", max_retries=0)
chat = instructor.from_openai(client)
responses = instructor.from_openai(client, mode=instructor.Mode.RESPONSES_TOOLS)
turn = [{"role": "user", "content": "Who wrote the first program?"}]
print("instructor", version("instructor"), "openai", version("openai"))
by_chat = ran(
    "chat completions",
    lambda: chat.chat.completions.create(model="gpt-5.2", messages=turn, response_model=Person, max_tokens=16),
)
by_responses = ran(
    "responses",
    lambda: responses.responses.create(
        model="gpt-5.2", input=turn[0]["content"], response_model=Person, max_output_tokens=16
    ),
)
sizes = [size for _, size in by_responses[1]]
same = (
    by_chat[0] == "IncompleteOutputException"
    and len(by_chat[1]) == 1
    and by_responses[0] == "InstructorRetryException"
    and [limit for limit, _ in by_responses[1]] == [16] * 4
    and sizes == sorted(set(sizes))
)
sys.exit(0 if same else 1)
PY
