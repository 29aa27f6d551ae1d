"""A response as it is written: the server's events, read from one connection.

Reads the format (server-sent events, WHATWG HTML section 9.2, as the API uses it) and adds up what
an event contributes to the preview. Opening connections is client.py's, doing it again after a drop
listening.py's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bgmagic.api.error_body import failure_message

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
        clean: Callable[[str], str],
        failure: Callable[[Exception], Exception],
    ) -> None:
        """Make the stream of an open connection.

        Args:
            chunks: the body as it comes.
            close: ends the connection.
            clean: takes secrets out of the JSON text of an event.
            failure: what to raise for an error of the connection.
        """
        self._chunks = chunks
        self._close = close
        self._clean = clean
        self._failure = failure
        self._events = self._read()
        self.number: int | None = None

    def __aiter__(self) -> AsyncIterator[ServerSentEvent]:
        return self._events

    async def first(self) -> Mapping[str, Any]:
        """The first response object, in an event that is used up with those before it.

        Raises:
            ValueError: the stream ends, or tells an error, before there is one.
        """
        async for event in self._events:
            if event.response is not None:
                return event.response
            if event.kind == "error":  # others, such as keepalive, may come first
                told = failure_message({"error": event.data}) or "no reason given"
                raise ValueError(f"the stream begins with an error: {told}")
        raise ValueError("the stream ended before the response was there")

    async def _read(self) -> AsyncIterator[ServerSentEvent]:
        try:
            async for text in decode_events(self._chunks):
                event = _event(self._clean(text))
                if event is not None:
                    self.number = event.number
                    yield event
        except Exception as error:
            raise self._failure(error) from None

    async def close(self) -> None:
        """End the connection; the response goes on at the server."""
        await self._close()


_BREAK = re.compile(rb"\r\n|\n|\r")


async def decode_events(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """The data of each event, however the bytes are cut into chunks.

    Raises:
        ValueError: an event has more than `LARGEST` bytes.
    """
    begun, carried, data, size = [], b"", [], 0
    async for chunk in chunks:
        chunk, carried = carried + chunk, b""
        if chunk.endswith(b"\r"):  # perhaps the first half of a line break
            chunk, carried = chunk[:-1], b"\r"
        first, *more = _BREAK.split(chunk)
        begun.append(first)
        size += len(chunk)
        if size > LARGEST:
            raise ValueError(f"an event has more than {LARGEST} bytes")
        if not more:
            continue
        for line in (b"".join(begun), *more[:-1]):
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data).decode("utf-8", "replace")
                data, size = [], 0
        begun = [more[-1]]


def _event(text: str) -> ServerSentEvent | None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):  # "[DONE]" of other servers, comments, nonsense
        return None
    if not isinstance(data, dict):
        return None
    kind, number = data.get("type"), data.get("sequence_number")
    counts = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**53
    return ServerSentEvent(kind if isinstance(kind, str) else "", number if counts else None, data)


# Which event adds to which part of the preview (the API's description, ResponseStreamEvent).
_TEXT = "response.output_text.delta"

_REASONING = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})

_NEW_PART = "response.reasoning_summary_part.added"


class PartialOutput:
    """What the events so far say, added up."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []

    @property
    def text(self) -> str:
        """The output text so far."""
        return _joined(self._text)

    @property
    def reasoning(self) -> str:
        """The summaries of the reasoning so far, or ""."""
        return _joined(self._reasoning)

    def add(self, event: ServerSentEvent) -> bool:
        """Take an event in; whether that changed anything."""
        delta = event.data.get("delta")
        if event.kind == _NEW_PART and self._reasoning:
            self._reasoning.append("\n\n")
        elif not isinstance(delta, str) or not delta:
            return False
        elif event.kind == _TEXT:
            self._text.append(delta)
        elif event.kind in _REASONING:
            self._reasoning.append(delta)
        else:
            return False
        return True


def _joined(pieces: list[str]) -> str:
    # Kept as one piece from then on, so that joining again costs little.
    pieces[:] = ["".join(pieces)]
    return pieces[0]
