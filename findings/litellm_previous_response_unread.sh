#!/usr/bin/env bash
# Guess: a proxy that is given `previous_response_id` goes on with that response, which it gave and still
#   has, or answers with 4xx; a response that names another in that field was made with it.
# Reality: LiteLLM's background mode (polling_via_cache) answers 200, its completed response names the one
#   before, and the model was sent the new turn alone: what was said before is gone without a word.
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

asked = []  # the messages that the model was sent, for each of its answers


class Model(http.server.BaseHTTPRequestHandler):
    """Streams a chat completion of one word."""

    def do_POST(self):
        asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.say({"role": "assistant", "content": "Blue."}, None)
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
    def turn(**body):
        made = call("POST", "/v1/responses", {"model": "m", "background": True, **body})
        path = f"/v1/responses/{made['id']}"
        return until(lambda: (told := call("GET", path))["status"] == "completed" and told, 30)

    first = turn(input="The word is plum.")
    second = turn(input="Which word is it?", previous_response_id=first["id"])
finally:
    proxy.kill()
print("litellm", importlib.metadata.version("litellm"))
said = [[message["content"] for message in messages] for messages in asked]
print("the second response says previous_response_id:", second["previous_response_id"])
print("the model was sent:", said)
sys.stdout.flush()
alone = len(said) == 2 and len(said[1]) == 1 and "plum" not in str(said[1])
os._exit(0 if second["previous_response_id"] == first["id"] and alone else 1)
PY
venv/bin/python try.py
