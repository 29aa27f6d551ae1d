"""The events of a streamed response, made anew from its state whenever somebody watches.

Nothing is recorded: which event has which number follows from how far the response has come, so
that a replay is the same to the byte and a finished response costs little more than its text.
Types, fields and order are those of the API's OpenAPI description. That knows no event for the
status `cancelled`, so the stream of a cancelled response closes what it has opened (its item as
`incomplete`) and ends without a last `response.…` event; a plain GET tells the status. When to
send what to whom is left to `responses` and `handlers`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bgmagic.local.transcript import Transcript

OPEN = ("queued", "in_progress")
# Statuses that have a last event of their own.
LAST = ("completed", "incomplete", "failed")

OPENING = ("response.output_item.added", "response.content_part.added")
DELTA = "response.output_text.delta"
CLOSING = (
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
)


@dataclass(frozen=True)
class Outline:
    """Which events there are so far; it only ever grows at its end.

    Attributes:
        began: whether the response has ever been in progress.
        has_message: whether there is an output message.
        pieces: how many pieces its text has.
        status: the response's status.
    """

    began: bool
    has_message: bool
    pieces: int
    status: str

    @property
    def count(self) -> int:
        """How many events there are; the next one has this number."""
        return len(self._before) + self.pieces + len(self._after)

    def kind(self, number: int) -> str:
        """The type of an event."""
        before = self._before
        if number < len(before):
            return before[number]
        past = number - len(before) - self.pieces
        return DELTA if past < 0 else self._after[past]

    def piece(self, number: int) -> int:
        """Which piece of the text the delta of that number carries."""
        return number - len(self._before)

    @property
    def _before(self) -> tuple[str, ...]:
        begun = ("response.in_progress",) if self.began else ()
        return ("response.created", "response.queued", *begun, *self._if_message(OPENING))

    @property
    def _after(self) -> tuple[str, ...]:
        if self.status in OPEN:
            return ()
        last = (f"response.{self.status}",) if self.status in LAST else ()
        return (*self._if_message(CLOSING), *last)

    def _if_message(self, kinds: tuple[str, ...]) -> tuple[str, ...]:
        return kinds if self.has_message else ()


class Told(Protocol):
    """What a response tells of itself for its events."""

    @property
    def outline(self) -> Outline: ...

    @property
    def transcript(self) -> Transcript: ...

    @property
    def message_id(self) -> str: ...

    def at(self, status: str) -> dict[str, Any]:
        """The response object as it was in that status."""
        ...


def frames(response: Told, start: int, stop: int) -> bytes:
    """The events from number `start` up to, not including, `stop`, as they go over the wire."""
    outline = response.outline
    return b"".join(_frame(response, outline, number) for number in range(start, stop))


def message(message_id: str, status: str, text: str | None) -> dict[str, Any]:
    """The output item that holds the text; None for one that has no content yet."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [] if text is None else [_part(text)],
    }


def message_status(status: str) -> str:
    """The status of the output message of a response that ended."""
    return "completed" if status == "completed" else "incomplete"


def _frame(response: Told, outline: Outline, number: int) -> bytes:
    kind = outline.kind(number)
    event = {"type": kind, "sequence_number": number, **_fields(response, outline, number, kind)}
    return f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode()


def _fields(response: Told, outline: Outline, number: int, kind: str) -> Mapping[str, Any]:
    place = {"item_id": response.message_id, "output_index": 0, "content_index": 0}
    match kind:
        case "response.output_item.added":
            return {"output_index": 0, "item": message(response.message_id, "in_progress", None)}
        case "response.content_part.added":
            return {**place, "part": _part("")}
        case "response.output_text.delta":
            delta = response.transcript.piece(outline.piece(number))
            return {**place, "delta": delta, "logprobs": []}
        case "response.output_text.done":
            return {**place, "text": response.transcript.text, "logprobs": []}
        case "response.content_part.done":
            return {**place, "part": _part(response.transcript.text)}
        case "response.output_item.done":
            status = message_status(outline.status)
            text = response.transcript.text
            return {"output_index": 0, "item": message(response.message_id, status, text)}
        case "response.created":
            return {"response": response.at("queued")}
    return {"response": response.at(kind.removeprefix("response."))}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
