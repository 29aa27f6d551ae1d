"""Calls the Files and Batches API of one server: upload, create, look up, retrieve, cancel, read.

A failure is a `ServerError`; nothing here retries but the reading of a file, which goes on where it
broke off. What the server says is read as JSON, whatever its shape.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import IO, Any

from bgmagic.api import batch
from bgmagic.api.response import objects_in
from bgmagic.api.server import ServerConfig
from bgmagic.errors import ServerError
from bgmagic.transport.reply import (
    POLL_TIMEOUT,
    HTTPResponse,
    ReplyParser,
    without_half_characters,
)
from bgmagic.transport.sdk import sdk_client, sdk_limits, tls_of

PAGE = 100  # batches, or files, of a list at a time; the API gives no more

MOST_PAGES = 100

UPLOAD_TIMEOUT = 3600.0  # seconds for a file of 200 MB, at half a Mbit/s

CREATE_BATCH_TIMEOUT = 60.0  # seconds that making a batch of a file may take

READ_TIMEOUT = 120.0  # seconds without a byte of a file of results

LINE = 256 << 20  # bytes of a line of results at most, as of a poll's answer

REREADS = 5  # times in a row that reading a file may break off without a new line

_PARTIAL = 206


class LineSplitter:
    """Makes lines, each with its end, of the pieces that a file comes in."""

    def __init__(self, file_id: str) -> None:
        self._file_id = file_id
        self._rest = bytearray()

    def add(self, piece: bytes) -> list[bytes]:
        """The lines that end in ``piece``.

        Raises:
            ServerError: one does not end.
        """
        self._rest += piece
        *whole, rest = self._rest.split(b"\n")
        if whole:
            self._rest = rest
        if len(self._rest) > LINE:
            about = f"a line of the file {self._file_id} has more than {LINE >> 20} MB"
            raise ServerError(about, maybe_accepted=True, status_code=200)
        return [bytes(line) + b"\n" for line in whole]

    def end(self) -> list[bytes]:
        """The last line, if it has no line break; else nothing.

        Raises:
            ServerError: it was cut off.
        """
        left = bytes(self._rest)
        if not left.strip():
            return []
        if batch.read_json_line(left) is None:
            about = f"the file {self._file_id} breaks off within a line"
            raise ServerError(about, maybe_accepted=True)
        return [left]


class BatchesClient:
    """The calls that a batch needs. Belongs to one event loop."""

    def __init__(self, server: ServerConfig) -> None:
        """Make the client of ``server``. Imports the SDK.

        Raises:
            ServerError: the SDK can't make a client of these settings.
        """
        self._parser = ReplyParser(server)
        try:
            self._sdk = sdk_client(server, tls_of(server))
        except Exception as error:
            about = f"the settings of {server.address} can't be used: {error}"
            raise ServerError(self._parser.clean(about), maybe_accepted=False) from None

    async def upload(self, name: str, content: IO[bytes]) -> str:
        """Upload a file of requests once; gives its id.

        Raises:
            ServerError: with ``maybe_accepted`` telling whether the server can have taken it.
        """
        create = self._sdk.files.with_raw_response.create
        timeout = sdk_limits(UPLOAD_TIMEOUT)
        return _id(
            await self._json(
                lambda: create(file=(name, content), purpose="batch", timeout=timeout),
                UPLOAD_TIMEOUT,
            )
        )

    async def find_file(self, name: str, size: int) -> str | None:
        """The id of the file of that name and of so many bytes, by the server's list; or None.

        Raises:
            ServerError: the server gives no such list.
        """
        listing = self._sdk.files.with_raw_response.list
        async for file in self._listed(lambda **page: listing(purpose="batch", **page)):
            if file.get("filename") == name and file.get("bytes") in (size, None):
                return _id(file)
        return None

    async def create(self, file_id: str, key: str, group: str, create: str = "") -> dict[str, Any]:
        """Have the server work on a file, once; gives the batch object.

        Args:
            key: our own name of the batch, by which `find` knows it.
            group: our own name of the group that its jobs belong to, or "".
            create: our own name of this create.

        Raises:
            ServerError: with ``maybe_accepted`` telling whether the server can have taken it.
        """
        send: Any = self._sdk.batches.with_raw_response.create
        made = await self._json(
            lambda: send(
                input_file_id=file_id,
                endpoint=batch.ENDPOINT,
                completion_window=batch.WINDOW,
                metadata=batch.metadata_of(key, group, create),
                timeout=sdk_limits(CREATE_BATCH_TIMEOUT),
            ),
            CREATE_BATCH_TIMEOUT,
        )
        _id(made)
        return made

    async def find(self, key: str, since: float, group: str = "") -> list[Mapping[str, Any]]:
        """The batches that we call ``key``, by the server's list, the newest first.

        Args:
            group: our own name of a group, all of whose batches are given too.
            since: seconds since the epoch before which none of them was made.

        Raises:
            ServerError: the server gives no such list.
        """
        found = []
        async for one in self._listed(self._sdk.batches.with_raw_response.list):
            if batch.is_batch_of(one, key, group):
                found.append(one)
            made = one.get("created_at")
            if isinstance(made, int | float) and made < since:
                break
        return found

    async def retrieve(self, batch_id: str) -> dict[str, Any]:
        """The batch object as it is now.

        Raises:
            ServerError: the server gave none within 30 s.
        """
        return await self._json(lambda: self._sdk.batches.with_raw_response.retrieve(batch_id))

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Ask the server to cancel the batch; gives the batch object.

        Raises:
            ServerError: the server gave none within 30 s.
        """
        return await self._json(lambda: self._sdk.batches.with_raw_response.cancel(batch_id))

    async def lines(self, file_id: str) -> AsyncIterator[bytes]:
        """The lines of a file, as they come; where it breaks off it is read on, or again.

        A last line without an end, which the server may have cut off, comes if it is JSON.

        Raises:
            ServerError: the server does not give it, or breaks off again and again.
        """
        at, missed = 0, 0
        while True:
            try:
                async for line in self._read(file_id, at):
                    at, missed = at + len(line), 0
                    yield line
            except ServerError as failure:
                missed += 1
                refused = failure.status_code is not None and failure.status_code < 500
                if missed > REREADS or (refused and failure.status_code != 429):
                    raise
                await asyncio.sleep(min(2.0**missed / 4, 5.0))
            else:
                return

    async def _read(self, file_id: str, start: int) -> AsyncIterator[bytes]:
        """The lines from byte ``start`` on, where one begins, each with its end."""
        content = self._sdk.files.with_streaming_response.content
        headers = {"Range": f"bytes={start}-"} if start else {}
        asked = content(file_id, extra_headers=headers, timeout=sdk_limits(READ_TIMEOUT))
        try:
            async with asked as answer:
                http = answer.http_response
                self._parser.learn(http.request)
                # Without a range the file begins anew, and what is known is passed over.
                skip = 0 if http.status_code == _PARTIAL else start
                lines = LineSplitter(file_id)
                async for piece in http.aiter_bytes():
                    fresh, skip = piece[skip:], max(0, skip - len(piece))
                    for line in lines.add(fresh):
                        yield line
                for line in lines.end():
                    yield line
        except Exception as error:
            if _nothing_left(error, start):
                return
            raise self._parser.failure(error) from None

    def parse(self, line: bytes) -> Mapping[str, Any]:
        """A line of results without the secrets; {} if it is no object.

        Raises:
            ServerError: it is too large.
        """
        try:
            text = line.decode("utf-8", "replace")
            found = self._parser.parse(text)
            if "\\ud" in text or "\\uD" in text:
                found = without_half_characters(found)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    async def close(self) -> None:
        """Close the connections."""
        await self._sdk.close()

    async def _listed(
        self, page: Callable[..., Awaitable[Any]]
    ) -> AsyncIterator[Mapping[str, Any]]:
        after: dict[str, Any] = {}
        for _ in range(MOST_PAGES):
            listed = await self._json(lambda asked=after: page(limit=PAGE, **asked))  # type: ignore[misc]
            found = objects_in(listed.get("data"))
            for one in found:
                yield dict(one)
            if not listed.get("has_more") or not found:
                return
            after = {"after": found[-1].get("id")}

    async def _json(
        self, send: Callable[[], Awaitable[Any]], total: float = POLL_TIMEOUT
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(total):
                http = (await send()).http_response
            self._parser.learn(http.request)
        except Exception as error:
            raise self._parser.failure(error) from None
        got = HTTPResponse(http.status_code, http.headers, http.content)
        return dict(self._parser.read(got).response)


def _id(found: Mapping[str, Any]) -> str:
    given = found.get("id")
    if not isinstance(given, str) or not given:
        raise ServerError("the server answered without an id", maybe_accepted=True)
    return given


def _nothing_left(error: Exception, start: int) -> bool:
    """Whether the server says that a file ends where it is to be read on."""
    return bool(start) and getattr(error, "status_code", None) == 416
