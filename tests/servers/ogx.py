"""OGX, once Llama Stack, with responses in SQLite and llama.cpp behind it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.servers import llamacpp
from tests.servers.serving import Part, Recipe, environment, pip

VERSION = "1.5.0"


def install(folder: Path) -> None:
    """Its wheel, and two libraries that it imports without naming them."""
    pip(environment(folder, "3.12"), f"ogx=={VERSION}", "chardet==7.7.0", "pypdf==7.1.1")


def parts(folder: Path, port: int) -> list[Part]:
    """The model and the server."""
    model = llamacpp.engine(folder)
    path = folder / "config.yaml"
    path.write_text(json.dumps(_config(folder, model.port)))
    command = [folder / "bin/ogx", "run", path, "--insecure", "--port", str(port)]
    return [model, Part("ogx", command, port, "/v1/health", {"HOME": str(folder)})]


def _config(folder: Path, model: int) -> dict[str, object]:
    """The smallest configuration with responses; what they depend on must be named."""
    sql = {"backend": "sql_default"}
    queue = {"max_write_queue_size": 10_000, "num_writers": 4}
    url = f"http://127.0.0.1:{model}/v1"
    return {
        "version": 2,
        "distro_name": "loopback",
        "apis": [
            "inference", "responses", "tool_runtime", "vector_io", "files", "file_processors",
        ],
        "providers": {
            "inference": [_provider("remote::llama-cpp-server", base_url=url)],
            "responses": [
                _provider(
                    "inline::builtin",
                    persistence={"responses": {"table_name": "responses", **sql, **queue}},
                )
            ],
            "tool_runtime": [],
            "vector_io": [],
            "files": [
                _provider(
                    "inline::localfs",
                    storage_dir=str(folder / "files"),
                    metadata_store={"table_name": "files_metadata", **sql},
                )
            ],
            # The automatic one needs markitdown.
            "file_processors": [_provider("inline::pypdf")],
        },
        "storage": {
            "backends": {
                "kv_default": {"type": "kv_sqlite", "db_path": str(folder / "kv.db")},
                "sql_default": {"type": "sql_sqlite", "db_path": str(folder / "sql.db")},
            },
            "stores": {
                "metadata": {"namespace": "registry", "backend": "kv_default"},
                "inference": {"table_name": "inference_store", **sql, **queue, "enabled": True},
                "conversations": {"table_name": "openai_conversations", **sql},
                "prompts": {"table_name": "prompts", **sql},
            },
        },
        "registered_resources": {"models": []},
    }  # fmt: skip


def _provider(kind: str, **config: object) -> dict[str, object]:
    return {"provider_id": kind.partition("::")[2], "provider_type": kind, "config": config}


RECIPE = Recipe(
    title="OGX",
    version=VERSION,
    settings="responses in SQLite; llama.cpp behind it",
    python="3.12",
    install=install,
    parts=parts,
    model="llama-cpp-server/smollm2",
)
