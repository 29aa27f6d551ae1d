"""LiteLLM's proxy with Redis, which gives models without background mode one of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.servers import llamacpp
from tests.servers.serving import Part, Recipe, environment, free_port, pip

VERSION = "1.110.2"
# What its extra `proxy` asks for but for its own packages of the database and of the enterprise, which
# are on the index for some releases only; the proxy runs without.
REQUIRED = """
from importlib.metadata import requires
from packaging.requirements import Requirement
for asked in map(Requirement, requires("litellm")):
    if asked.marker and asked.marker.evaluate({"extra": "proxy"}) and "litellm" not in asked.name:
        asked.marker = None
        print(asked)
"""

TTL = 60  # seconds that a response is kept; its default is an hour, and no step waits for that


def install(folder: Path) -> None:
    """The proxy; Redis comes from the system."""
    if shutil.which("redis-server") is None:
        raise SystemExit("LiteLLM keeps its responses in Redis: apt-get install redis-server")
    python = environment(folder, "3.12")
    pip(python, f"litellm=={VERSION}", "redis==8.1.0")
    said = subprocess.run([python, "-c", REQUIRED], check=True, capture_output=True, text=True)
    wanted = folder / "wanted.txt"
    wanted.write_text(said.stdout)
    pip(python, "--requirement", wanted)


def parts(folder: Path, port: int) -> list[Part]:
    """The model, Redis and the proxy; only the proxy is killed."""
    model, kept = llamacpp.engine(folder), free_port()
    config = {
        "model_list": [
            {
                "model_name": "smollm2",
                "litellm_params": {
                    "model": "openai/smollm2",
                    "api_base": f"http://127.0.0.1:{model.port}/v1",
                    "api_key": "none",
                    # Else it asks llama.cpp's own /responses.
                    "use_chat_completions_api": True,
                },
            }
        ],
        "litellm_settings": {
            "cache": True,
            "cache_params": {"type": "redis", "host": "127.0.0.1", "port": kept},
            "drop_params": True,
            "responses": {"background_mode": {"polling_via_cache": "all", "ttl": TTL}},
        },
        "general_settings": {"master_key": "sk-loopback"},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    redis = ["redis-server", "--bind", "127.0.0.1", "--port", str(kept), "--save", ""]
    command = [folder / "bin/litellm", "--config", path, "--host", "127.0.0.1", "--port", str(port)]
    apart = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # asks nobody outside
    return [
        model,
        Part("redis", redis, kept),
        Part("litellm", command, port, "/health/liveliness", apart),
    ]


RECIPE = Recipe(
    title="LiteLLM proxy",
    version=VERSION,
    settings=f"Redis, polling_via_cache: all, ttl: {TTL}, drop_params; llama.cpp behind it",
    python="3.12",
    install=install,
    parts=parts,
)
