#!/usr/bin/env bash
# Guess: litellm.completion(num_retries=2) makes three requests of a server that is busy, and raises what the last one
#   said, a ServiceUnavailableError, as it does without num_retries.
# Reality: two layers retry. Of a plain `pip install litellm` the first one does, by the OpenAI client: three requests, but
#   then the second finds tenacity missing, which nothing installs, and a bare Exception about that replaces the error, so
#   that no `except` for LiteLLM's or OpenAI's errors takes it. With tenacity the error is right, and the requests are
#   2n + 1: five for 2, seven for 3. litellm.responses() is retried by the second layer alone: not at all without
#   tenacity, n + 1 with it.
# Exits with 1 if that changes. Known as to the missing tenacity: BerriAI/litellm#5690.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "litellm==1.110.2" "openai==3.57.0"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --target "$folder/apart" "tenacity==9.2.1"
cd "$folder"
cat > try.py <<'PY'
import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import litellm

asked = []


class Busy(BaseHTTPRequestHandler):
    """A server that has no time."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        asked.append(self.path)
        self.send_response(503)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"error": {"message": "busy", "type": "server_error"}}).encode())

    def log_message(self, *arguments):
        pass


busy = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
threading.Thread(target=busy.serve_forever, daemon=True).start()
where = {"model": "openai/gpt-5.2", "api_base": f"http://127.0.0.1:{busy.server_address[1]}/v1", "api_key": "none"}
tenacity = "with" if importlib.util.find_spec("tenacity") else "without"
litellm.suppress_debug_info = True
for name, call in (
    ("completion", lambda **more: litellm.completion(messages=[{"role": "user", "content": "Hi."}], **where, **more)),
    ("responses", lambda **more: litellm.responses(input="Hi.", **where, **more)),
):
    for retries in (2, 3):
        asked.clear()
        try:
            call(num_retries=retries)
        except Exception as error:
            print(f"{tenacity} tenacity, {name}, num_retries={retries}: {len(asked)} requests, {type(error).__name__}")
PY
export LITELLM_LOCAL_MODEL_COST_MAP=True
venv/bin/python -c 'import importlib.metadata as m; print("litellm", m.version("litellm"))'
venv/bin/python try.py 2> log | tee seen
PYTHONPATH=apart venv/bin/python try.py 2>> log | tee -a seen
diff seen - <<'SEEN'
without tenacity, completion, num_retries=2: 3 requests, Exception
without tenacity, completion, num_retries=3: 4 requests, Exception
without tenacity, responses, num_retries=2: 1 requests, Exception
without tenacity, responses, num_retries=3: 1 requests, Exception
with tenacity, completion, num_retries=2: 5 requests, ServiceUnavailableError
with tenacity, completion, num_retries=3: 7 requests, ServiceUnavailableError
with tenacity, responses, num_retries=2: 3 requests, ServiceUnavailableError
with tenacity, responses, num_retries=3: 4 requests, ServiceUnavailableError
SEEN
