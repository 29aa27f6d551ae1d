"""Hosted tools: what `--tool` says becomes an entry of a request's ``tools``.

A hosted tool is one that the server itself runs. Whatever calls back to the user is refused:
nobody would answer while the job runs in the background.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bgmagic.errors import BadInput, readable
from bgmagic.options import TOOLS
from bgmagic.values import flat, similar

# By type, as in the OpenAPI description (Tool): what goes along with a mere type.
_WITH: Mapping[str, Mapping[str, Any]] = {
    "code_interpreter": {"container": {"type": "auto"}},
    "shell": {"environment": {"type": "container_auto"}},
}
# What else a type needs, as it may be written.
_NEEDS = {
    "file_search": '{"type": "file_search", "vector_store_ids": ["vs_…"]}',
    "mcp": '{"type": "mcp", "server_label": "…", "server_url": "https://…", '
    '"require_approval": "never"}',
}
_CALLS_BACK = frozenset(
    {
        "function", "custom", "namespace", "computer", "computer_use_preview", "local_shell",
        "apply_patch", "tool_search", "programmatic_tool_calling",
    }
)  # fmt: skip


def hosted(tools: Sequence[Any], label: str = "--tool") -> list[dict[str, Any]]:
    """The entries that ``tools`` mean, in this order.

    A type that is not known here is passed on: servers have others, and refuse what they don't
    know before anything is paid for.

    Args:
        tools: types, the API's own dicts or such a dict as JSON text, and lists of these.
        label: what a message begins with.

    Raises:
        BadInput: one of them is no tool, lacks something, or would have to be answered here.
    """
    return [_entry(tool, label) for tool in flat(tools, label)]


def _entry(tool: Any, label: str) -> dict[str, Any]:
    if isinstance(tool, str) and tool.lstrip().startswith("{"):
        try:
            tool = json.loads(tool)
        except ValueError as error:
            raise BadInput(f"{label}: this is not JSON ({error}): {readable(tool, 100)}") from None
    if isinstance(tool, str):
        return _of_type(tool.strip(), label)
    if not isinstance(tool, Mapping) or not isinstance(tool.get("type"), str):
        raise BadInput(
            f'{label} takes a type such as web_search, or a dict such as {{"type": "web_search"}}'
        )
    kind = tool["type"]
    _check_hosted(kind, label)
    environment = tool.get("environment")
    place = environment.get("type") if isinstance(environment, Mapping) else None
    if kind == "shell" and place in (None, "local"):
        raise BadInput(
            f'{label}: only a shell at the server runs; give it "environment": '
            '{"type": "container_auto"}'
        )
    if kind == "file_search" and not tool.get("vector_store_ids"):
        raise BadInput(f"{label}: file_search needs a vector store: {_NEEDS['file_search']}")
    if kind == "mcp" and tool.get("require_approval", "always") in ("always", None):
        raise BadInput(
            f"{label}: nobody can approve the calls of mcp in the background; with "
            '"require_approval": "never" it calls without asking'
        )
    return dict(tool)


def _of_type(kind: str, label: str) -> dict[str, Any]:
    _check_hosted(kind, label)
    if kind in _NEEDS:
        raise BadInput(
            f"{label}: {kind} needs more than its type: {label} $NAME, NAME holding {_NEEDS[kind]}"
        )
    dated = any(kind.startswith(f"{known}_") for known in TOOLS)
    near = "" if kind in TOOLS or dated else similar(kind, [*TOOLS, *_NEEDS])
    if near or not re.fullmatch(r"[\w.:-]+", kind):
        known = ", ".join([*TOOLS, *_NEEDS])
        raise BadInput(
            f"{label} {readable(kind, 100)!r} is not one of {known}{near}; each has a {label} of "
            'its own, and another one of your server\'s goes as a dict, {"type": "…"}'
        )
    return {"type": kind, **_WITH.get(kind, {})}


def _check_hosted(kind: str, label: str) -> None:
    if kind in _CALLS_BACK:
        raise BadInput(
            f"{label}: {kind} needs somebody here who answers its calls, and a job in the "
            f"background has nobody; tools that the server runs are {', '.join([*TOOLS, *_NEEDS])}"
        )
