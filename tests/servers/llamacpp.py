"""llama.cpp's own HTTP server, out of the wheel of xllamacpp; also the engine behind LiteLLM and OGX."""

from __future__ import annotations

from pathlib import Path

from tests.servers.serving import TEMPLATE, Part, Recipe, environment, free_port, gguf, pip

VERSION = "2026.10.11549"
SLOTS, CONTEXT = 4, 16384  # jobs at a time; tokens of all of them together

SERVE = """
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.model_alias = sys.argv[1], {"smollm2"}
params.hostnames, params.port = ["127.0.0.1"], int(sys.argv[2])
params.n_parallel, params.n_ctx = int(sys.argv[3]), int(sys.argv[4])
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.chat_template = open(sys.argv[5]).read()
params.warmup, params.offline, params.verbosity = False, True, 1
server = xllamacpp.Server(params)
threading.Event().wait()
"""


def install(folder: Path) -> None:
    """One wheel without dependencies."""
    pip(environment(folder, "3.11"), f"xllamacpp=={VERSION}")


def parts(folder: Path, port: int) -> list[Part]:
    """One process."""
    words = ["-c", SERVE, gguf(), str(port), str(SLOTS), str(CONTEXT), TEMPLATE]
    return [Part("llamacpp", [folder / "bin/python", *words], port, "/health")]


def engine(folder: Path) -> Part:
    """The same as what stands behind another server; ``folder`` is that of the other."""
    (part,) = parts(folder.parent / "llamacpp", free_port())
    return part


RECIPE = Recipe(
    title="llama.cpp",
    version=f"xllamacpp {VERSION}",
    settings=f"{SLOTS} slots, 1 thread",
    python="3.11",
    install=install,
    parts=parts,
)
