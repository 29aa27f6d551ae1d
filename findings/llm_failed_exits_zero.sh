#!/usr/bin/env bash
# Guess: `llm -m gpt-5.2 …` prints an answer and exits with 0, or says what went wrong and exits with another number; a
#   script can go by that, as it can where the server answers with 4xx or 5xx.
# Reality: a response of status `failed`, whose error says why, is printed like an answer, and so is what the limit of
#   tokens cut off: half a sentence or an empty line, exit status 0, nothing on stderr, streamed or not. A refusal by
#   the model is an empty line too.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "llm==0.36" "openai==3.57.0" "httpx2==2.16.2" "pydantic==2.14.4"
cat > "$folder/try.py" <<'PY'
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

WORDS = "The server had an error while processing your request."
HALF = "Yes, it is safe unless"


def said(kind, text):
    part = {"type": "refusal", "refusal": text} if kind == "refusal" else {"type": kind, "text": text, "annotations": []}
    return [{"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}]


ERROR = {"code": "server_error", "message": WORDS}
KINDS = {
    "failed": {"status": "failed", "error": ERROR, "output": []},
    "failed midway": {"status": "failed", "error": ERROR, "output": said("output_text", HALF)},
    "cut off": {
        "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
        "output": said("output_text", HALF),
    },
    "refused": {"status": "completed", "output": said("refusal", "I can't help with that.")},
}  # fmt: skip


class Api(BaseHTTPRequestHandler):
    """Answers with the response that is set, or with its stream; "busy" is a 503."""

    def do_POST(self):
        streamed = json.loads(self.rfile.read(int(self.headers["Content-Length"]))).get("stream")
        if self.server.kind == "busy":
            return self.tell(503, "application/json", json.dumps({"error": {"message": WORDS}}))
        response = {
            "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5.2", "error": None,
            "incomplete_details": None, "instructions": None, "metadata": {}, "tools": [], "top_p": 1,
            "parallel_tool_calls": True, "temperature": 1, "tool_choice": "auto", **KINDS[self.server.kind],
        }  # fmt: skip
        if not streamed:
            return self.tell(200, "application/json", json.dumps(response))
        events = [{"type": "response.created", "response": {**response, "status": "in_progress", "output": []}}]
        for item in response["output"]:
            place = {"item_id": "m", "output_index": 0, "content_index": 0}
            part = item["content"][0]
            refused = part["type"] == "refusal"
            kind, text = ("refusal", part["refusal"]) if refused else ("output_text", part["text"])
            events += [
                {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
                {"type": f"response.{kind}.delta", **place, "delta": text, "logprobs": []},
                {"type": "response.output_item.done", "output_index": 0, "item": item},
            ]
        events.append({"type": f"response.{response['status']}", "response": response})
        lines = [
            f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': number})}\n\n"
            for number, event in enumerate(events)
        ]
        self.tell(200, "text/event-stream", "".join(lines))

    def tell(self, code, kind, text):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


api = ThreadingHTTPServer(("127.0.0.1", 0), Api)
threading.Thread(target=api.serve_forever, daemon=True).start()
settings = {
    **os.environ, "LLM_USER_PATH": os.getcwd(), "OPENAI_API_KEY": "none",
    "OPENAI_BASE_URL": f"http://127.0.0.1:{api.server_address[1]}/v1",
}  # fmt: skip


def ran(kind, *options):
    """The exit status, what was printed, and whether stderr says anything."""
    api.kind = kind
    command = [os.path.dirname(sys.executable) + "/llm", "-m", "gpt-5.2", *options, "Is it safe to mix the two?"]
    done = subprocess.run(command, env=settings, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    print(f"{kind}{' --no-stream' if options else ''}: exit {done.returncode}, {done.stdout!r}, stderr {done.stderr!r}")
    return done.returncode, done.stdout, bool(done.stderr)


print("llm", version("llm"), "openai", version("openai"))
expected = {"failed": "\n", "failed midway": f"{HALF}\n", "cut off": f"{HALF}\n", "refused": "\n"}
same = [ran(kind, *options) == (0, text, False) for kind, text in expected.items() for options in ((), ("--no-stream",))]
busy = ran("busy", "--no-stream")
sys.exit(0 if all(same) and busy[0] != 0 and busy[2] else 1)
PY
cd "$folder"
venv/bin/python try.py
