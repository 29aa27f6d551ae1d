#!/usr/bin/env bash
# Guess: POST /v1/responses without `stream` is answered with one JSON object, by any server: false is the API's default,
#   and what is not said can't ask for events. With the OpenAI SDK's client.responses.create(…) that is a Response.
# Reality: `transformers serve` streams unless `stream` is said to be false, which the SDK leaves out. What comes is
#   text/event-stream, of which the SDK makes a str, the events as they came, without an error or a warning: the first
#   `.output_text` is an AttributeError. Its chat completions follow the default of their API. stream=False is the way.
# Exits with 1 if that changes. Needs some 1.2 GB, and an index that has torch's CPU build for Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    "torch==2.13.0+cpu" "transformers[serving]==5.24.0" "openai==3.57.0"
cd "$folder"
cat > make.py <<'PY'
"""A model of random weights, to the folder "small"."""
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = {word: number for number, word in enumerate(["<unk>", "<end>", "Hi", "there", "."])}
made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
made.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="<end>")
tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
tokenizer.save_pretrained("small")
config = LlamaConfig(
    vocab_size=5, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
    num_key_value_heads=1, eos_token_id=1, bos_token_id=1, pad_token_id=1,
)
LlamaForCausalLM(config).save_pretrained("small")
PY
cat > ask.py <<'PY'
import importlib.metadata, os, socket, subprocess, sys, time, urllib.request
from openai import OpenAI

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
log = open("serve.log", "wb")
command = [f"{os.path.dirname(sys.executable)}/transformers", "serve", "small", "--device", "cpu"]
server = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log)


def up():
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
    except OSError:
        return False


try:
    end = time.monotonic() + 300
    while not up():
        if server.poll() is not None or time.monotonic() > end:
            sys.exit(open("serve.log").read()[-2000:])
        time.sleep(0.5)
    client = OpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0, timeout=120)
    unsaid = client.responses.create(model="small", input="Hi there.", max_output_tokens=4)
    false = client.responses.create(model="small", input="Hi there.", max_output_tokens=4, stream=False)
    messages = [{"role": "user", "content": "Hi there."}]
    chat = client.chat.completions.create(model="small", messages=messages, max_tokens=4)
finally:
    server.kill()
for package in ("transformers", "openai"):
    print(package, importlib.metadata.version(package))
print("responses, stream unsaid:", type(unsaid).__name__, repr(str(unsaid)[:60]))
print("responses, stream=False:", type(false).__name__, false.status)
print("chat completions, stream unsaid:", type(chat).__name__)
kinds = [type(one).__name__ for one in (unsaid, false, chat)]
sys.exit(0 if kinds == ["str", "Response", "ChatCompletion"] and unsaid.startswith("data: ") else 1)
PY
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
venv/bin/python make.py > make.log 2>&1 || { tail make.log; exit 1; }
venv/bin/python ask.py
