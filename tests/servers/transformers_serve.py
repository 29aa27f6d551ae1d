"""`transformers serve` on the CPU, with the weights unpacked from the GGUF once."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.servers import vllm
from tests.servers.serving import TEMPLATE, Part, Recipe, environment, gguf, pip

VERSION = "5.24.0"

# The small model's own template knows no functions, and of a model of its kind no calls are read:
# Qwen's way of both is the one in tools.jinja.
TEACH = """
import sys
from transformers import AutoTokenizer
from transformers.cli.serving.utils import _RESPONSE_TEMPLATE_FALLBACKS
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ways = _RESPONSE_TEMPLATE_FALLBACKS.items()
tokenizer.response_template = next(way for kinds, way in ways if "qwen2" in kinds)
tokenizer.chat_template = open(sys.argv[2]).read()
tokenizer.save_pretrained(sys.argv[1])
"""


def install(folder: Path) -> None:
    """The CPU build: some 1.2 GB. pip must find torch 2.13.0+cpu, as in PyTorch's own index."""
    python = environment(folder, "3.11")
    pip(python, "torch==2.13.0+cpu", f"transformers[serving]=={VERSION}", "gguf", "accelerate")
    model = folder / "smollm2"
    subprocess.run([python, "-c", vllm.UNPACK, gguf(), model], check=True)
    subprocess.run([python, "-c", TEACH, model, TEMPLATE], check=True)


def parts(folder: Path, port: int) -> list[Part]:
    """One process. The model's name is its folder, from where the server is started."""
    command = [
        folder / "bin/transformers", "serve", "smollm2", "--device", "cpu",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    apart = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return [Part("transformers", command, port, "/health", apart)]


RECIPE = Recipe(
    title="transformers serve",
    version=VERSION,
    settings="1 thread; tools by Qwen's templates",
    python="3.11",
    install=install,
    parts=parts,
)
