"""Reads a response's events from one connection as the response is written.

The format is server-sent events (WHATWG HTML section 9.2) as the API uses it. `PartialOutput` adds
the events up for the preview.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from bgmagic.api.error_body import failure_message
from bgmagic.api.response import split_phases, text_in
from bgmagic.values import dataclass

# Bytes of one event; the last one holds the whole response. More is no event but an attack.
LARGEST = 64_000_000


@dataclass(frozen=True)
class ServerSentEvent:
    """One event.

    Attributes:
        kind: the API's name of it, as "response.output_text.delta".
        number: its `sequence_number`, or None.
        data: the JSON object.
    """

    kind: str
    number: int | None
    data: Mapping[str, Any]

    @property
    def response(self) -> Mapping[str, Any] | None:
        """The whole response object, in the events that carry one."""
        found = self.data.get("response")
        return found if isinstance(found, dict) else None


class EventStream:
    """The events of one connection, in order; iterate once, then close.

    Attributes:
        number: the `sequence_number` of the newest event, or None.
    """

    def __init__(
        self,
        chunks: AsyncIterable[bytes],
        close: Callable[[], Awaitable[object]],
        parse: Callable[[str], Any],
        failure: Callable[[Exception], Exception],
    ) -> None:
        """Make the stream of an open connection.

        Args:
            chunks: the body as it comes.
            close: ends the connection.
            parse: reads the JSON text of an event, without secrets; raises ValueError.
            failure: what to raise for an error of the connection.
        """
        self._chunks = chunks
        self._close = close
        self._parse = parse
        self._failure = failure
        self._events = self._read()
        self.number: int | None = None

    def __aiter__(self) -> AsyncIterator[ServerSentEvent]:
        return self._events

    async def first(self) -> Mapping[str, Any]:
        """Read events up to the first whose response object has an id, and return that object.

        Where none has one, the first object.

        Raises:
            ValueError: the stream ends, or reports an error, before there is one.
        """
        without_id: Mapping[str, Any] | None = None
        async for event in self._events:
            found = event.response
            if found is not None and text_in(found.get("id")):
                return found
            without_id = without_id or found
            if event.kind == "error":  # others, such as keepalive, may come first
                reason = failure_message({"error": event.data}) or "no reason given"
                raise ValueError(f"the stream begins with an error: {reason}")
        if without_id is None:
            raise ValueError("the stream ended before the response was there")
        return without_id

    async def _read(self) -> AsyncIterator[ServerSentEvent]:
        try:
            async for text in decode_events(self._chunks):
                event = self._event(text)
                if event is not None:
                    self.number = event.number
                    yield event
        except Exception as error:
            raise self._failure(error) from None

    def _event(self, text: str) -> ServerSentEvent | None:
        try:
            data = self._parse(text)
        except (ValueError, RecursionError):  # "[DONE]" of other servers, comments, nonsense
            return None
        if not isinstance(data, dict):
            return None
        kind, number = data.get("type"), data.get("sequence_number")
        counts = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**53
        kind = kind if isinstance(kind, str) else ""
        return ServerSentEvent(kind, number if counts else None, data)

    async def close(self) -> None:
        """End the connection; the response goes on at the server."""
        await self._close()


_BREAK = re.compile(rb"\r\n|\n|\r")

_CHUNK = 1 << 16  # bytes of a whole body that are looked at together


class EventDecoder:
    """Takes events out of a body that comes in chunks, however its bytes are cut."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []  # a line that is not whole yet
        self._carried = b""
        self._data: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> list[str]:
        """The data of each event that is whole with this.

        Raises:
            ValueError: an event has more than `LARGEST` bytes.
        """
        chunk, self._carried = self._carried + chunk, b""
        if chunk.endswith(b"\r"):  # perhaps the first half of a line break
            chunk, self._carried = chunk[:-1], b"\r"
        first, *more = _BREAK.split(chunk)
        self._begun.append(first)
        self._size += len(chunk)
        if self._size > LARGEST:
            raise ValueError(f"an event has more than {LARGEST} bytes")
        if not more:
            return []
        found = []
        for line in (b"".join(self._begun), *more[:-1]):
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line:
                if self._data:
                    found.append(b"\n".join(self._data).decode("utf-8", "replace"))
                self._data, self._size = [], 0
        self._begun = [more[-1]]
        return found


async def decode_events(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """Decode the data of each event.

    Raises:
        ValueError: an event has more than `LARGEST` bytes.
    """
    decoder = EventDecoder()
    async for chunk in chunks:
        for text in decoder.add(chunk):
            yield text


def events_in(content: bytes) -> list[str]:
    """The data of each event of a body that has come to its end.

    Raises:
        ValueError: an event has more than `LARGEST` bytes.
    """
    decoder, chunks = EventDecoder(), range(0, len(content), _CHUNK)
    return [text for at in chunks for text in decoder.add(content[at : at + _CHUNK])]


# Which messages there are, and in what phase.
_NEW_ITEM = frozenset({"response.output_item.added", "response.output_item.done"})

# Which event adds to which part of the preview (the API's description, ResponseStreamEvent).
_TEXT = "response.output_text.delta"

_REASONING = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})

_NEW_PART = "response.reasoning_summary_part.added"


class PartialOutput:
    """Adds up the output in the events so far."""

    def __init__(self) -> None:
        self._messages: dict[object, list[str]] = {}
        self._phases: dict[object, str] = {}
        self._reasoning: list[str] = []
        self.size = 0  # characters

    @property
    def text(self) -> str:
        """The output text so far, without commentary."""
        return "".join(self._by_phase()[0])

    @property
    def commentary(self) -> str:
        """What the model said so far on its way to the answer, a paragraph for each message."""
        return "\n\n".join(self._by_phase()[1])

    @property
    def reasoning(self) -> str:
        """The summaries of the reasoning so far, or ""."""
        return _joined(self._reasoning)

    def add(self, event: ServerSentEvent) -> bool:
        """Add an event; returns whether that changed anything."""
        delta, index = event.data.get("delta"), event.data.get("output_index")
        if event.kind in _NEW_ITEM:
            return self._is_in_phase(index, event.data.get("item"))
        if event.kind == _NEW_PART and self._reasoning:
            self._reasoning.append("\n\n")
        elif not isinstance(delta, str) or not delta:
            return False
        elif event.kind == _TEXT:
            # A server that does not number them writes one message.
            number = index if isinstance(index, int) else None
            self._messages.setdefault(number, []).append(delta)
        elif event.kind in _REASONING:
            self._reasoning.append(delta)
        else:
            return False
        self.size += len(delta) if isinstance(delta, str) else 0
        return True

    def _is_in_phase(self, index: object, item: object) -> bool:
        """Note the phase of a message; whether that changed what is text and what is commentary."""
        phase = item.get("phase") if isinstance(item, dict) else None
        number = index if isinstance(index, int) else None
        if not isinstance(phase, str) or self._phases.get(number) == phase:
            return False
        self._phases[number] = phase
        return bool(self._messages)

    def _by_phase(self) -> tuple[list[str], list[str]]:
        messages = [(self._phases.get(n, ""), _joined(said)) for n, said in self._messages.items()]
        return split_phases(messages)


def _joined(pieces: list[str]) -> str:
    # Kept as one piece from then on, so that joining again costs little.
    pieces[:] = ["".join(pieces)]
    return pieces[0]
