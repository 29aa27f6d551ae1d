#!/usr/bin/env bash
# Guess: once POST /v1/responses/ID/cancel has answered `cancelled`, that is the end: the status is
#   terminal, and the model behind the proxy has stopped.
# Reality: LiteLLM's background mode (polling_via_cache) only writes the word down. The model's stream is
#   read on to its end, so all of it is paid for, and the status turns back to `in_progress` and at last
#   to `completed`, with the whole text.
# Ends with 1 when that changes. Needs some 600 MB from the package index; Redis is played by fakeredis.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "litellm[proxy]==1.108.7" redis==8.1.0 "fakeredis[lua]==2.41.0"
cd "$folder"
cat > try.py <<'PY'
import http.server, importlib.metadata, json, os, socket, subprocess, sys, threading, time, urllib.request
import fakeredis

PIECES = 60  # tenths of a second that the model writes
written = []


class Model(http.server.BaseHTTPRequestHandler):
    """Streams chat completions, a word each 0.1 s, and notes how far it came."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(PIECES):
            self.say({"role": "assistant", "content": f"{number} "}, None)
            written.append(number)
            time.sleep(0.1)
        self.say({}, "stop")
        self.wfile.write(b"data: [DONE]\n\n")

    def say(self, delta, finish):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        event = {
            "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice],
        }
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *arguments):
        pass


model = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
redis = fakeredis.TcpFakeServer(("127.0.0.1", 0), server_type="redis")
for server in (model, redis):
    threading.Thread(target=server.serve_forever, daemon=True).start()
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
config = {
    "model_list": [{"model_name": "m", "litellm_params": {
        "model": "openai/m", "api_base": f"http://127.0.0.1:{model.server_address[1]}/v1",
        "api_key": "none", "use_chat_completions_api": True}}],
    "litellm_settings": {
        "cache": True,
        "cache_params": {"type": "redis", "host": "127.0.0.1", "port": redis.server_address[1]},
        "responses": {"background_mode": {"polling_via_cache": "all", "ttl": 300}}},
    "general_settings": {"master_key": "sk-loopback"},
}
open("config.yaml", "w").write(json.dumps(config))
command = [os.path.dirname(sys.executable) + "/litellm", "--config", "config.yaml", "--host", "127.0.0.1"]
log = open("litellm.log", "wb")
proxy = subprocess.Popen(
    [*command, "--port", str(port)], stdout=log, stderr=log,
    env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
)


def call(method, path, body=None):
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-loopback"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers, method=method)
    return json.load(urllib.request.urlopen(request, timeout=30))


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def up():
    try:
        return call("GET", "/health/liveliness")
    except OSError:
        return None


try:
    if not until(up, 120):
        sys.exit(open("litellm.log").read()[-2000:])
    created = call("POST", "/v1/responses", {"model": "m", "input": "Count.", "background": True})
    path = f"/v1/responses/{created['id']}"
    until(lambda: len(written) > 5, 30)
    seen = [call("POST", f"{path}/cancel", {})["status"]]
    at_cancel = len(written)

    def ended():
        status = call("GET", path)["status"]
        if status != seen[-1]:
            seen.append(status)
        return status == "completed"

    until(ended, 30)
finally:
    proxy.kill()
print("litellm", importlib.metadata.version("litellm"))
print(f"the model had written {at_cancel} of {PIECES} pieces when cancel was answered, and wrote {len(written)}")
print("statuses from the cancel on:", ", ".join(seen))
sys.stdout.flush()
os._exit(0 if seen[0] == "cancelled" and seen[-1] == "completed" and len(written) == PIECES else 1)
PY
venv/bin/python try.py
