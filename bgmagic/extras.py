"""What goes along with a prompt: files, tools and a schema.

Each has a room of its own, which is imported with the first cell that has such an option.
"""

from __future__ import annotations

from typing import Any

from bgmagic.options import Settings


def parts(settings: Settings) -> list[dict[str, Any]]:
    """The parts of the last message beside its text.

    Raises:
        BadInput: a file can't be attached.
    """
    if not settings.file:
        return []
    from bgmagic.attachments import attached

    return attached(settings.file)


def fields(settings: Settings) -> dict[str, Any]:
    """The arguments of `build_request` for structured output and tools.

    Raises:
        BadInput: the schema or a tool can't be used.
    """
    found: dict[str, Any] = {}
    if settings.schema is not None:
        from bgmagic.schema import is_class, response_format

        found["form"] = response_format(settings.schema)
        found["reader"] = settings.schema if is_class(settings.schema) else None
    if settings.tool:
        from bgmagic.tools import hosted

        found["tools"] = hosted(settings.tool)
    return found
