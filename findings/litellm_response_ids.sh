#!/usr/bin/env bash
# Guess: litellm.responses() gives the response as the server sent it, with the id that the server gave it: by that id it
#   is asked for later, from another program, by the OpenAI SDK or in the provider's dashboard, as background mode wants.
# Reality: the id is LiteLLM's own. It begins with "resp_" too, and is the server's id and the provider's name in
#   Base64; nothing in the response has the server's own. To the server it is unknown (404), only LiteLLM turns it back.
#   Whatever else follows a job by the id that was written down finds nothing; the job goes on and is paid for.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "litellm==1.110.2" "openai==3.57.0"
export LITELLM_LOCAL_MODEL_COST_MAP=True
"$folder/venv/bin/python" - <<'PY'
import base64
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import litellm
from openai import NotFoundError, OpenAI

asked = []


def response(status):
    said = {"type": "output_text", "text": "Yes.", "annotations": [], "logprobs": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [said]}
    return {
        "id": "resp_68a1", "object": "response", "created_at": 1, "model": "gpt-5.2", "status": status,
        "background": True, "error": None, "incomplete_details": None, "instructions": None, "metadata": {},
        "output": [item] if status == "completed" else [], "parallel_tool_calls": True, "temperature": 1,
        "top_p": 1, "tool_choice": "auto", "tools": [], "usage": None,
    }  # fmt: skip


class Api(BaseHTTPRequestHandler):
    """Knows one response, by its own id."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, response("queued"))

    def do_GET(self):
        asked.append(self.path)
        if self.path == "/v1/responses/resp_68a1":
            self.answer(200, response("completed"))
        else:
            self.answer(404, {"error": {"message": "Response not found.", "type": "invalid_request_error"}})

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments):
        pass


api = ThreadingHTTPServer(("127.0.0.1", 0), Api)
threading.Thread(target=api.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{api.server_address[1]}/v1"
where = {"api_base": url, "api_key": "none"}
made = litellm.responses(model="openai/gpt-5.2", input="Is it so?", background=True, **where)
print("litellm", version("litellm"), "openai", version("openai"))
print("the server's id: resp_68a1; LiteLLM's:", made.id)
print("in it:", base64.b64decode(made.id.removeprefix("resp_")).decode())
nowhere = "resp_68a1" not in made.model_dump_json()
print("the server's id is", "nowhere" if nowhere else "somewhere", "in the response")
try:
    found = OpenAI(base_url=url, api_key="none", max_retries=0).responses.retrieve(made.id).status
except NotFoundError:
    found = "NotFoundError"
print("the OpenAI SDK, asked for it:", found)
own = litellm.get_responses(response_id=made.id, **where).status
print("LiteLLM, asked for it:", own, "by GET", asked[-1])
sys.exit(0 if nowhere and (found, own) == ("NotFoundError", "completed") and made.id != "resp_68a1" else 1)
PY
