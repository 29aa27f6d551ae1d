"""The events of a streamed response, made anew from its state for every client.

No event is stored: its number follows from how far the response has come, so that a replay is the
same to the byte and a finished response costs little more than its text. Types, fields and order
are those of the API's OpenAPI description. That knows no event for the status `cancelled`, so the
stream of a cancelled response closes its open item as `incomplete` and ends without a last
`response.…` event; a plain GET tells the status.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bgmagic.local.engine import Generation

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


class Transcript:
    """The text of one response, in the pieces that the model gave.

    The worker's thread adds pieces while the event loop reads. A finished transcript is one string
    and a number for each piece: a list of 4,000 short strings would take 250 KB.
    """

    def __init__(self) -> None:
        self._pieces: list[str] | None = []
        self._text = ""
        self._ends = array("I")

    def add(self, piece: str) -> None:
        """Appends a piece; an empty one counts for nothing, and so does one that comes too late."""
        if piece and self._pieces is not None:
            self._pieces.append(piece)

    def close(self, *, keep_pieces: bool) -> None:
        """Makes it compact; nothing can be added any more.

        Args:
            keep_pieces: whether `piece` will be asked for; without, the text is all that is kept.
        """
        pieces, self._pieces = self._pieces or [], None
        self._text = "".join(pieces)
        end = 0
        for piece in pieces if keep_pieces else []:
            end += len(piece)
            self._ends.append(end)

    @property
    def text(self) -> str:
        """All of it."""
        return self._text if self._pieces is None else "".join(self._pieces)

    def __len__(self) -> int:
        """How many pieces there are."""
        return len(self._ends if self._pieces is None else self._pieces)

    def piece(self, number: int) -> str:
        """One piece, counted from 0."""
        if self._pieces is not None:
            return self._pieces[number]
        start = self._ends[number - 1] if number else 0
        return self._text[start : self._ends[number]]


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


class StreamedResponse(Protocol):
    """A response as its events need it."""

    @property
    def outline(self) -> Outline: ...

    @property
    def transcript(self) -> Transcript: ...

    @property
    def message_id(self) -> str: ...

    def at(self, status: str) -> dict[str, Any]:
        """The response object as it was in that status."""
        ...


def encode_events(response: StreamedResponse, start: int, stop: int) -> bytes:
    """The events from number `start` up to, not including, `stop`, as they go over the wire."""
    outline = response.outline
    return b"".join(_encode_event(response, outline, number) for number in range(start, stop))


def message_item(message_id: str, status: str, text: str | None) -> dict[str, Any]:
    """The output item that holds the text; None for one that has no content yet."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [] if text is None else [_part(text)],
    }


def output_items(message_id: str, status: str, text: str) -> list[dict[str, Any]]:
    """The output of a response that has ended."""
    if not text and status != "completed":
        return []
    return [message_item(message_id, message_status(status), text)]


def usage(generation: Generation | None) -> dict[str, Any]:
    """The token counts of a generation; zeros without one, since the description has no null."""
    generation = generation or Generation("asked", 0, 0)
    return {
        "input_tokens": generation.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": generation.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": generation.input_tokens + generation.output_tokens,
    }


def message_status(status: str) -> str:
    """The status of the output message of a response that ended."""
    return "completed" if status == "completed" else "incomplete"


def _encode_event(response: StreamedResponse, outline: Outline, number: int) -> bytes:
    kind = outline.kind(number)
    event = {"type": kind, "sequence_number": number, **_fields(response, outline, number, kind)}
    return f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode()


def _fields(
    response: StreamedResponse, outline: Outline, number: int, kind: str
) -> Mapping[str, Any]:
    place = {"item_id": response.message_id, "output_index": 0, "content_index": 0}
    match kind:
        case "response.output_item.added":
            return {
                "output_index": 0,
                "item": message_item(response.message_id, "in_progress", None),
            }
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
            return {"output_index": 0, "item": message_item(response.message_id, status, text)}
        case "response.created":
            return {"response": response.at("queued")}
    return {"response": response.at(kind.removeprefix("response."))}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
