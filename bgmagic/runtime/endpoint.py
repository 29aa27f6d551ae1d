"""How one server is called by all jobs of this process, and what was seen of it on the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from bgmagic.errors import ServerError
from bgmagic.jobs.job import Job
from bgmagic.jobs.record import Note
from bgmagic.runtime.pacing import PollPacer
from bgmagic.transport.client import ResponsesClient

T = TypeVar("T")

# Seconds without an answer to a create after which the user is told: background mode answers within
# one or two, and a server that does not know it only when the response is there.
NO_ANSWER_AFTER = 10.0

_ALL = ""  # instead of a model: all of them


class ServerBehavior:
    """What was seen of one server in this process. On the loop thread only.

    Attributes:
        says_queued: whether a job completed there that it had called queued until then.
    """

    def __init__(self) -> None:
        self.says_queued = False
        self._unstreamed: set[str] = set()

    def streams(self, model: str) -> bool:
        """Whether background jobs of ``model`` may be streamed, as far as is known."""
        return not self._unstreamed & {_ALL, model}

    def refuses_stream(self, model: str, failure: ServerError) -> bool:
        """Whether ``failure`` of a create says so; remembered for the model, or the server.

        Such a create was certainly not accepted: 501 says that the server can't do that at all.
        """
        words = str(failure).lower()
        if failure.status_code != 501 and not (
            failure.status_code in (400, 422) and "stream" in words
        ):
            return False
        self._unstreamed.add(_ALL if "background" in words else model)
        return True


@dataclass(frozen=True, slots=True)
class ServerEndpoint:
    """How one server is called by all jobs of this process.

    Attributes:
        client: makes the calls.
        pacer: spreads the polls of many jobs evenly.
        behavior: what was seen of the server.
    """

    client: ResponsesClient
    pacer: PollPacer
    behavior: ServerBehavior = field(default_factory=ServerBehavior)


@contextlib.contextmanager
def noted_when_late(job: Job) -> Iterator[None]:
    """Have ``job`` say so while its create waits long for an answer."""

    def note(*, there: bool = True) -> None:
        notes = job.record.with_note(Note.NO_ANSWER_YET, there=there)
        if notes != job.record.notes:
            job.advance(notes=notes)

    timer = asyncio.get_running_loop().call_later(NO_ANSWER_AFTER, note)
    try:
        yield
    finally:
        timer.cancel()
        note(there=False)


async def send_as_taken(
    job: Job,
    behavior: ServerBehavior,
    send: Callable[[], Awaitable[T]],
    store: Callable[[], Awaitable[None]],
) -> T:
    """POST the request of ``job``; once more without streaming where the server refuses that.

    Args:
        send: POSTs the request that the job has.
        store: writes down the request that the job has.

    Raises:
        ServerError: as ``send`` raised it.
    """
    request = job.request
    if request.streams and behavior.streams(request.model):
        try:
            return await send()
        except ServerError as failure:
            if not behavior.refuses_stream(request.model, failure):
                raise
    if request.streams:
        notes = job.record.with_note(Note.NOT_STREAMED)
        job.advance(request=request.unstreamed(), notes=notes)
        await store()
    return await send()
