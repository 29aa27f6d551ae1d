"""The input of a create, item by item: read, turned into chat messages, listed afterwards.

The list has the form and the paging of the API's `input_items`. Between creation and listing the
items are kept as JSON, whose size is what it costs to keep them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bgmagic.local.fields import choice, invalid_type, refuse

ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}

# Items on a page, at most and unless asked otherwise; the API's own numbers.
LONGEST_PAGE = 100
PAGE = 20
ORDERS = ("asc", "desc")


@dataclass(frozen=True)
class Item:
    """One message of the input: its role as given, and the texts of its parts."""

    role: str
    texts: tuple[str, ...]


def read(given: Mapping[str, Any]) -> tuple[Item, ...]:
    """The items of a body's `input`.

    Raises:
        Refusal: names the part that is wrong.
    """
    value = given.get("input")
    if isinstance(value, str):
        return (Item("user", (value,)),)
    if value is None or value == []:
        refuse("Missing required parameter: 'input'.", "input", "missing_required_parameter")
    if not isinstance(value, list):
        invalid_type("input", "a string or an array of messages", value)
    return tuple(_item(item, f"input[{number}]") for number, item in enumerate(value))


def messages(items: Sequence[Item]) -> list[dict[str, str]]:
    """The items in the words of chat templates."""
    return [{"role": ROLES[item.role], "content": "\n".join(item.texts)} for item in items]


def pack(items: Sequence[Item]) -> bytes:
    """The items as they are kept."""
    kept = [[item.role, *item.texts] for item in items]
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()


def page(packed: bytes, seed: str, *, order: str, limit: int, after: str | None) -> dict[str, Any]:
    """One page of the items, as the API lists them.

    Args:
        packed: what `pack` gave.
        seed: what makes the ids of these items, and no others.
        order: `asc` as they were given, or `desc`, newest first.
        limit: how many at most.
        after: the id of the last item of the page before.

    Raises:
        Refusal: no item has the id `after`.
    """
    kept = json.loads(packed)
    numbers = range(len(kept)) if order == "asc" else range(len(kept) - 1, -1, -1)
    start = 0 if after is None else numbers.index(_numbered(seed, after, len(kept))) + 1
    here = numbers[start : start + limit]
    data = [_listed(_item_id(seed, number), *kept[number]) for number in here]
    return {
        "object": "list",
        "data": data,
        # An empty page has no ids, and the description wants strings.
        "first_id": data[0]["id"] if data else "",
        "last_id": data[-1]["id"] if data else "",
        "has_more": start + limit < len(kept),
    }


def _item(item: Any, where: str) -> Item:
    if not isinstance(item, dict):
        invalid_type(where, "an object", item)
    choice(item, "type", ("message",), "message", where)
    role = choice(item, "role", ROLES, None, where)
    content = item.get("content")
    if isinstance(content, str):
        return Item(role, (content,))
    if not isinstance(content, list):
        invalid_type(f"{where}.content", "a string or an array of text parts", content)
    parts = enumerate(content)
    return Item(role, tuple(_text(part, role, f"{where}.content[{n}]") for n, part in parts))


def _text(part: Any, role: str, where: str) -> str:
    if not isinstance(part, dict):
        invalid_type(where, "an object", part)
    choice(part, "type", (_kind(role),), None, where)
    text = part.get("text")
    if not isinstance(text, str):
        invalid_type(f"{where}.text", "a string", text)
    return text


def _kind(role: str) -> str:
    return "output_text" if role == "assistant" else "input_text"


def _item_id(seed: str, number: int) -> str:
    return f"msg_{seed}{number:08x}"


def _numbered(seed: str, item_id: str, count: int) -> int:
    number = next((n for n in range(count) if _item_id(seed, n) == item_id), None)
    if number is None:
        refuse(f"No input item has the id '{item_id[:80]}': give one of this list.", "after")
    return number


def _listed(item_id: str, role: str, *texts: str) -> dict[str, Any]:
    kind = _kind(role)
    # Parts written by a model have these two, empty or not.
    more: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
    return {
        "id": item_id,
        "type": "message",
        "role": role,
        "status": "completed",
        "content": [{"type": kind, "text": text, **more} for text in texts],
    }
