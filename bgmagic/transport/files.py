"""Fetches a file from a server: one that an answer cites, when its user asks for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any

from bgmagic.api.server import ServerConfig
from bgmagic.errors import BgmagicError
from bgmagic.text import one_line
from bgmagic.transport.reply import ReplyParser
from bgmagic.transport.sdk import sdk_client, tls_of

# What the API says of a container (its guide to the code interpreter).
EXPIRED = "a container of the code interpreter ends 20 minutes after its last use, with its files"


def fetch_file(server: ServerConfig, file_id: str, container: str | None, limit: int) -> bytes:
    """The content of a file; waits for it, on a loop of its own.

    Args:
        container: the id of the container that it is in, or None.
        limit: bytes it may have at most.

    Raises:
        BgmagicError: it has expired, is larger, or can't be had.
    """
    # The caller may be on a thread whose loop runs, as a cell's is.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _fetched(server, file_id, container, limit)).result()


async def _fetched(server: ServerConfig, file_id: str, container: str | None, limit: int) -> bytes:
    parser = ReplyParser(server)
    try:
        async with sdk_client(server, tls_of(server)) as client:
            if container is None:
                asked = client.files.with_streaming_response.content(file_id)
            else:
                content = client.containers.files.content.with_streaming_response
                asked = content.retrieve(file_id, container_id=container)
            async with asked as reply:
                return await _read(reply, file_id, limit)
    except BgmagicError:
        raise
    except Exception as error:
        raise BgmagicError(_why(error, parser, file_id, container)) from None


async def _read(reply: Any, file_id: str, limit: int) -> bytes:
    parts: list[bytes] = []
    left = limit
    async for part in reply.iter_bytes():
        left -= len(part)
        if left < 0:
            raise BgmagicError(
                f"{file_id} has more than {limit:,} bytes: read(limit=…) or save(path, limit=…) "
                "takes a larger one"
            )
        parts.append(part)
    return b"".join(parts)


def _why(error: Exception, parser: ReplyParser, file_id: str, container: str | None) -> str:
    status = getattr(error, "status_code", None)
    said = parser.clean(one_line(str(error), 300))
    if status in (404, 410) and container is not None:
        return f"{file_id} is no longer there: {EXPIRED}. The server says: {said}"
    if status is None:
        return f"{file_id} can't be fetched: {said}"
    return f"the server does not give {file_id}: {said}"
