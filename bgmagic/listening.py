"""Listens to one response as it is written, for the preview; the polls go on beside it.

A stream is never the truth about a job: it may drop, stall or be refused, and then the polls alone
carry the job, a little later. What it brings is the text so far, and the moment to poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bgmagic.errors import ServerError
from bgmagic.poller import Delays
from bgmagic.status import SERVER_TERMINAL, Preview
from bgmagic.stream import Draft, Event, Stream

INTERVAL = 0.1  # seconds between two previews at least: people read no faster, browsers draw slower
RETRY = 5.0  # seconds between tries to open a stream again; the first ones come sooner
GIVE_UP_AFTER = 5  # tries in a row that brought no event
# Answers by which a server says that it will not stream this response.
_REFUSED = frozenset({200, 400, 405, 410, 415, 422, 501})


class Listening:
    """One response's events, over as many connections as it takes. On the loop thread only."""

    def __init__(
        self,
        reopen: Callable[[int | None], Awaitable[Stream]],
        on_preview: Callable[[Preview], None],
        on_response: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """Make it; `run` listens.

        Args:
            reopen: asks the server for the events after the one of that number, or for all.
            on_preview: is given what there is so far, at most ten times a second.
            on_response: is given each response object that the server sends along.
        """
        self._reopen = reopen
        self._on_preview = on_preview
        self._on_response = on_response
        self._draft = Draft()
        self._number: int | None = None
        self._told_at = 0.0
        self._due: asyncio.TimerHandle | None = None

    async def run(self, stream: Stream | None) -> None:
        """Listen until the response has ended, or the server won't stream it (any more).

        Args:
            stream: the connection on which it was created, if that is still open.
        """
        delays, missed = Delays(RETRY), 0
        if stream is not None:
            self._number = stream.number
        try:
            while missed < GIVE_UP_AFTER:
                known = self._number
                try:
                    if await self._read(stream or await self._reopened()):
                        return
                except ServerError as failure:
                    if failure.status_code in _REFUSED:
                        return
                missed = missed + 1 if self._number == known else 1
                stream = None
                await asyncio.sleep(delays.after_failure())
        finally:
            self._tell()

    async def _reopened(self) -> Stream:
        if self._number is None:
            self._draft = Draft()  # the events can't be told apart: all of them come again
        return await self._reopen(self._number)

    async def _read(self, stream: Stream) -> bool:
        """Take in what comes; whether the response has ended."""
        try:
            async for event in stream:
                if self._is_new(event) and self._take(event):
                    return True
        finally:
            await stream.close()
        return False

    def _is_new(self, event: Event) -> bool:
        if event.number is None:
            return True
        if self._number is not None and event.number <= self._number:
            return False  # a server that begins anew
        self._number = event.number
        return True

    def _take(self, event: Event) -> bool:
        if self._draft.add(event):
            self._tell_soon()
        response = event.response
        if response is not None:
            self._on_response(response)
        status = response.get("status") if response is not None else None
        return isinstance(status, str) and status in SERVER_TERMINAL

    def _tell_soon(self) -> None:
        if self._due is None:
            loop = asyncio.get_running_loop()
            wait = max(0.0, self._told_at + INTERVAL - loop.time())
            self._due = loop.call_later(wait, self._tell)

    def _tell(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due, self._told_at = None, asyncio.get_running_loop().time()
            self._on_preview(Preview(self._draft.text, self._draft.reasoning))
