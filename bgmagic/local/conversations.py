"""Messages: what a prompt is made of, how they are kept and listed, and conversations of them.

A conversation lives as long as the server's process. While a response goes on from it, it is
locked, as the API's conversations are.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bgmagic.local.validation import BadRequest, refuse

# Conversations, and bytes of items in all of them, that are kept; the oldest go first.
MAX_CONVERSATIONS = 1000
MAX_CONVERSATION_INPUT = 50_000_000

# The API's own limits of a page: at most, and by default.
MAX_PAGE_SIZE = 100
PAGE_SIZE = 20
ORDERS = ("asc", "desc")

ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


@dataclass(frozen=True)
class Item:
    """One message of the input: its role as given, and the texts of its parts."""

    role: str
    texts: tuple[str, ...]


# An item and its id.
Entry = tuple[str, Item]


@dataclass(frozen=True)
class Prompt:
    """What the model reads for one response.

    Attributes:
        items: the input as `pack_items` stores it.
        previous_response_id: the response whose turns come first.
        conversation: the id of the conversation whose items come first.
    """

    items: bytes = b"[]"
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | None = None

    def messages(self, history: Iterable[bytes] = ()) -> list[dict[str, str]]:
        """The prompt in the words of chat templates: instructions, earlier turns, input.

        Args:
            history: the earlier items, as `pack_items` stores them.
        """
        items = [item for packed in (*history, self.items) for item in unpack_items(packed)]
        turns = [{"role": ROLES[item.role], "content": "\n".join(item.texts)} for item in items]
        if self.instructions is not None:
            turns.insert(0, {"role": "system", "content": self.instructions})
        return turns


def without_oldest(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The messages without the oldest one that is no instruction; the last one stays."""
    oldest = next((n for n, each in enumerate(messages[:-1]) if each["role"] != "system"), None)
    return [each for n, each in enumerate(messages) if n != oldest]


def pack_items(items: Sequence[Item]) -> bytes:
    """The items as JSON, whose size is what it costs to keep them."""
    kept = [[item.role, *item.texts] for item in items]
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()


def unpack_items(packed: bytes) -> list[Item]:
    """The items that were packed."""
    return [Item(role, tuple(texts)) for role, *texts in json.loads(packed)]


def part_type(role: str) -> str:
    """The type of a text part of a message of that role."""
    return "output_text" if role == "assistant" else "input_text"


def response_entries(packed: bytes, seed: str) -> list[Entry]:
    """The input items of a response, each with its id.

    Args:
        packed: the items as `pack_items` gives them.
        seed: the part of the ids that no other response's items have.
    """
    return [(f"msg_{seed}{n:08x}", item) for n, item in enumerate(unpack_items(packed))]


def list_items(
    entries: Sequence[Entry], *, order: str, limit: int, after: str | None
) -> dict[str, Any]:
    """One page of the items, as the API lists them.

    Args:
        entries: all items, the oldest first.
        order: `asc` as they are, or `desc`, newest first.
        limit: how many at most.
        after: the id of the last item of the page before.

    Raises:
        BadRequest: no item has the id `after`.
    """
    ordered = entries if order == "asc" else entries[::-1]
    ids = [item_id for item_id, _ in ordered]
    if after is not None and after not in ids:
        refuse(f"No item has the id '{after[:80]}': give one of this list.", "after")
    start = 0 if after is None else ids.index(after) + 1
    return items_page(ordered[start : start + limit], more=start + limit < len(ordered))


def items_page(entries: Sequence[Entry], *, more: bool = False) -> dict[str, Any]:
    """These items as one page of a list."""
    data = [item_json(item_id, item) for item_id, item in entries]
    return {
        "object": "list",
        "data": data,
        # An empty page has no ids, and the description wants strings.
        "first_id": data[0]["id"] if data else "",
        "last_id": data[-1]["id"] if data else "",
        "has_more": more,
    }


def item_json(item_id: str, item: Item) -> dict[str, Any]:
    """One item as the API shows it."""
    kind = part_type(item.role)
    # Parts written by a model have these two, empty or not.
    more: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
    return {
        "id": item_id,
        "type": "message",
        "role": item.role,
        "status": "completed",
        "content": [{"type": kind, "text": text, **more} for text in item.texts],
    }


class Conversation:
    """A list of items that responses go on from and add to.

    Attributes:
        locked: whether a response that goes on from it is still open.
    """

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self.id = f"conv_{secrets.token_hex(24)}"
        self.metadata = dict(metadata)
        self.locked = False
        self._created = int(time.time())
        self._items: dict[str, Item] = {}

    def json(self) -> dict[str, Any]:
        """The conversation object of the API."""
        return {
            "id": self.id,
            "object": "conversation",
            "created_at": self._created,
            "metadata": self.metadata,
        }

    @property
    def entries(self) -> list[Entry]:
        """Its items with their ids, the oldest first."""
        return list(self._items.items())

    @property
    def packed(self) -> bytes:
        """Its items as `pack_items` stores them."""
        return pack_items(list(self._items.values()))

    @property
    def weight(self) -> int:
        """Bytes of text it holds, within a factor of four."""
        return sum(len(text) for item in self._items.values() for text in item.texts)

    def add(self, packed: bytes) -> list[Entry]:
        """Appends items; returns them with their ids."""
        added = [(f"msg_{secrets.token_hex(24)}", item) for item in unpack_items(packed)]
        self._items.update(added)
        return added

    def item(self, item_id: str) -> Item:
        """The item of that id.

        Raises:
            BadRequest: there is none.
        """
        found = self._items.get(item_id)
        if found is None:
            raise BadRequest(404, f"Item with id '{item_id[:80]}' not found in conversation.")
        return found

    def remove(self, item_id: str) -> None:
        """Removes the item of that id; raises a BadRequest if there is none."""
        self.item(item_id)
        del self._items[item_id]


class ConversationStore:
    """The conversations of this process; beyond the bounds the oldest go.

    Args:
        kept: how many there may be.
        kept_input: bytes of text they may hold between them; the newest is kept anyway.
    """

    def __init__(
        self, *, kept: int = MAX_CONVERSATIONS, kept_input: int = MAX_CONVERSATION_INPUT
    ) -> None:
        self._kept = kept
        self._kept_input = kept_input
        self._known: dict[str, Conversation] = {}

    def create(self, metadata: Mapping[str, str], packed: bytes) -> Conversation:
        """A new conversation of these items."""
        conversation = Conversation(metadata)
        conversation.add(packed)
        self._known[conversation.id] = conversation
        self.trim()
        return conversation

    def get(self, conversation_id: str) -> Conversation:
        """The conversation of that id.

        Raises:
            BadRequest: it is not known.
        """
        found = self._known.get(conversation_id)
        if found is None:
            raise BadRequest(404, f"Conversation with id '{conversation_id[:80]}' not found.")
        return found

    def delete(self, conversation: Conversation) -> None:
        """Forgets the conversation; a response that goes on from it is not disturbed."""
        self._known.pop(conversation.id, None)

    def trim(self) -> None:
        """Drops the oldest conversations beyond the bounds."""
        weights = {key: each.weight for key, each in self._known.items()}
        while len(weights) > 1 and (
            len(weights) > self._kept or sum(weights.values()) > self._kept_input
        ):
            oldest = next(iter(weights))
            del weights[oldest], self._known[oldest]
