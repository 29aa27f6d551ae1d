"""What Jupyter Server calls as it starts; the handlers are imported there alone."""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    from bgmagic.server.handlers import add_handlers

    add_handlers(server)
