"""Cell text and earlier turns become the messages of a request.

Knows the API's shape of a message and nothing of notebooks; request.py puts them into a body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bgmagic.errors import BadInput
from bgmagic.values import kind_of

ROLES = ("user", "assistant", "system", "developer")
_SHAPE = 'a list like [{"role": "user", "content": [{"type": "input_text", "text": "…"}]}]'


def user_message(text: str, attached: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The message that asks ``text``, with the parts ``attached`` after it."""
    return {"role": "user", "content": [{"type": "input_text", "text": text}, *attached]}


def messages(
    text: str, earlier: object = None, attached: Sequence[Mapping[str, Any]] = ()
) -> list[Mapping[str, Any]]:
    """The turns of ``earlier``, if any, and ``text`` as the last user turn.

    Args:
        earlier: a list of messages as the API takes it (``role`` and ``content``), or of its other
            input items, which carry a ``type``; passed on unchanged.
        attached: further parts of the last user turn.

    Raises:
        BadInput: the text is empty, or ``earlier`` is not such a list.
    """
    if not text.strip():
        raise BadInput("the cell is empty: write the prompt below the %%bgresponse line")
    return [*_checked(earlier), user_message(text, attached)]


def _checked(earlier: object) -> list[Mapping[str, Any]]:
    if earlier is None:
        return []
    if not isinstance(earlier, list | tuple):
        raise BadInput(f"--messages must be {_SHAPE}, not {kind_of(earlier)}")
    for place, item in enumerate(earlier):
        _check_item(item, f"--messages, item {place}")
    return list(earlier)


def _check_item(item: object, where: str) -> None:
    if not isinstance(item, dict):
        raise BadInput(f"{where} is {kind_of(item)}; it must be {_SHAPE}")
    if item.get("type", "message") != "message":
        return
    if item.get("role") not in ROLES:
        role = item.get("role")
        raise BadInput(f"{where} has the role {role!r}; allowed are {', '.join(ROLES)}")
    content = item.get("content")
    if not isinstance(content, str | list | tuple) or not content:
        raise BadInput(f"{where} has no content: give a text or a list of parts")
    if not isinstance(content, str):
        for part in content:
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                raise BadInput(
                    f"{where}: a content part needs a type, as in "
                    '{"type": "input_text", "text": "…"} (an assistant\'s is "output_text")'
                )
