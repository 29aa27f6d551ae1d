"""The responses this server knows: their states, their JSON, and the queue to the model.

Everything here runs on the event loop's thread except generations, which run on workers: those
touch nothing but the transcript and a flag, and wake the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bgmagic.local import QUEUE_HEADER, TOKENS_PER_SECOND_HEADER, events
from bgmagic.local.conversations import (
    Conversation,
    ConversationStore,
    Item,
    Prompt,
    pack_items,
    without_oldest,
)
from bgmagic.local.engine import Engine, Generation, PromptTooLong, SchemaRefused
from bgmagic.local.events import OPEN, Outline, Transcript
from bgmagic.local.request_body import CreateParams
from bgmagic.local.validation import BadRequest, header_number, refuse

# Finished responses kept for retrieval; the oldest go first.
MAX_FINISHED = 1000
# Bytes of input that the finished responses may hold between them; the oldest go first.
MAX_FINISHED_INPUT = 50_000_000
# Events that a watcher is given at a time, so that one who reads slowly holds little.
BATCH = 64
# Seconds a count of tokens waits for a place at the model.
COUNT_TIMEOUT = 60.0
# Seconds a cancel waits for the generation to stop. A batch of the prompt takes under one.
CANCEL_TIMEOUT = 10.0

STATUS = {"stop": "completed", "length": "incomplete", "asked": "cancelled"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How slowly to answer, for teaching.

    Headers ask for it and not fields, so that the body stays one that the API would take.

    Attributes:
        tokens_per_second: pieces of text a second at most; None for as fast as the model is.
        queue: seconds that the response stays queued at least.
    """

    tokens_per_second: float | None = None
    queue: float = 0.0


NO_PACE = Pace()


def read_pace(headers: Mapping[str, str]) -> Pace:
    """The pace that a request's headers ask for.

    Raises:
        BadRequest: names the header that is wrong.
    """
    rate = header_number(
        headers, TOKENS_PER_SECOND_HEADER, "a number above 0", lambda value: value > 0
    )
    queue = header_number(headers, QUEUE_HEADER, "seconds, 0 or more", lambda value: value >= 0)
    return Pace(rate, queue or 0.0)


def pauses(
    tokens_per_second: float | None, clock: Callable[[], float] = time.monotonic
) -> Iterator[float]:
    """Seconds to wait before each piece of text, without end.

    The first comes at once; a model that is late does not hurry afterwards.
    """
    step = 0.0 if tokens_per_second is None else 1 / tokens_per_second
    due = clock()
    while True:
        now = clock()
        due = max(due, now)
        yield due - now
        due += step


class Response:
    """One response from creation to its end.

    Args:
        history: the items of earlier turns, as `pack_items` stores them.
        conversation: the one it goes on from and adds to.
    """

    def __init__(
        self,
        params: CreateParams,
        pace: Pace,
        history: tuple[bytes, ...] = (),
        conversation: Conversation | None = None,
    ) -> None:
        self.id = f"resp_{secrets.token_hex(24)}"
        self.params = params
        self.pace = pace
        self.history = history
        self.conversation = conversation
        self.status = "queued"
        self.settled = asyncio.Event()
        self.transcript = Transcript()
        self.message_id = f"msg_{secrets.token_hex(24)}"
        # With the number of an item behind it, as long as any other id.
        self.items_seed = secrets.token_hex(20)
        self._created = int(time.time())
        self._completed: int | None = None
        self._began = False
        self._changed = asyncio.Event()
        self._stop = threading.Event()
        self._generation: Generation | None = None
        self._error: dict[str, str] | None = None

    @property
    def open(self) -> bool:
        """Whether it can still change."""
        return self.status in OPEN

    def stop(self) -> None:
        """Ends it as cancelled: at once if it waits for its turn, else as soon as it can."""
        self._stop.set()
        if self.status == "queued":
            self._settle("cancelled")

    @property
    def weight(self) -> int:
        """Bytes of input it holds once it is settled, within a factor of four."""
        prompt = self.params.prompt
        own = len(prompt.items) + len(prompt.instructions or "")
        return own + sum(len(packed) for packed in self.history)

    @property
    def turns(self) -> tuple[bytes, ...]:
        """The items of all turns up to and including its answer, once it has ended."""
        text = self.transcript.text
        answer = [pack_items([Item("assistant", (text,))])] if text else []
        return (*self.history, self.params.prompt.items, *answer)

    @property
    def outline(self) -> Outline:
        """Which events of its stream there are so far."""
        pieces = len(self.transcript)
        return Outline(
            began=self._began,
            has_message=pieces > 0 or (self.status == "completed" and not self.params.calls),
            pieces=pieces,
            status=self.status,
        )

    async def follow(self, number: int) -> tuple[bytes, int]:
        """Waits until there is an event of that number, or there never will be.

        Returns:
            The next events from that one on, as sent, and the number after them; no bytes at all
            where the stream has ended.
        """
        while self.open and number >= self.outline.count:
            await self._changed.wait()
        stop = min(self.outline.count, number + BATCH)
        return events.encode_events(self, number, stop), stop

    def begin(self) -> None:
        """Its turn has come."""
        self.status = "in_progress"
        self._began = True
        self._notify()

    def run(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> Generation:
        """Generates the text at its pace, on the worker's thread."""
        params = self.params
        if params.calls:  # a script, at once
            return Generation("stop", 0, 0)
        waits = pauses(self.pace.tokens_per_second)

        def take(piece: str) -> bool:
            if piece:
                self._stop.wait(min(next(waits), threading.TIMEOUT_MAX))
                self.transcript.add(piece)
                if params.stream and not self._stop.is_set():
                    loop.call_soon_threadsafe(self._notify)
            return self._stop.is_set()

        messages = params.prompt.messages(self.history)
        while True:
            try:
                return self._generate(engine, messages, take)
            except PromptTooLong:
                dropped = without_oldest(messages) if params.truncate else messages
                if dropped == messages:
                    raise
                messages = dropped

    def _generate(
        self, engine: Engine, messages: list[dict[str, str]], take: Callable[[str], bool]
    ) -> Generation:
        params = self.params
        return engine.generate(
            messages,
            on_text=take,
            max_tokens=params.max_output_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            schema=params.schema,
        )

    def finish(self, generation: Generation) -> None:
        """Settles it as the generation ended."""
        self._generation = generation
        self._settle(STATUS[generation.stopped])

    def fail(self, code: str, message: str) -> None:
        """Settles it as failed, with a code of the API's."""
        self._error = {"code": code, "message": message}
        self._settle("failed")

    def json(self) -> dict[str, Any]:
        """The response object of the API."""
        return self.at(self.status)

    def at(self, status: str) -> dict[str, Any]:
        """The response object as it is, or as it was in an earlier status."""
        ended = status not in OPEN
        fields: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": self._error if ended else None,
            "incomplete_details": None,
            "output": self._output() if ended else [],
            **self.params.echo,
        }
        if status == "incomplete":
            fields["incomplete_details"] = {"reason": "max_output_tokens"}
        fields["completed_at"] = self._completed if ended else None
        fields["usage"] = events.usage(self._generation if ended else None)
        return fields

    def _settle(self, status: str) -> None:
        self.status = status
        if status == "completed":
            self._completed = int(time.time())
        self.transcript.close(keep_pieces=self.params.stream)
        if self.conversation is not None:
            self.conversation.locked = False
            if status in ("completed", "incomplete"):
                for packed in self.turns[len(self.history) :]:
                    self.conversation.add(packed)
        self.settled.set()
        self._notify()

    def _notify(self) -> None:
        """Wakes whoever follows it; each waits for the next change after that."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _output(self) -> list[dict[str, Any]]:
        if self.params.calls and self.status == "completed":
            return [one.item(self.items_seed, n) for n, one in enumerate(self.params.calls)]
        return events.output_items(self.message_id, self.status, self.transcript.text)


class ResponseStore:
    """All responses, begun one after the other in the order of their creation.

    One whose pace lets it wait gets in line after that, so that it holds up nobody.

    Args:
        engine: the model.
        parallel: how many generations there may be at a time.
        kept: how many finished responses are kept.
        kept_input: bytes of input they may hold between them; the newest is kept anyway.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        parallel: int = 1,
        kept: int = MAX_FINISHED,
        kept_input: int = MAX_FINISHED_INPUT,
    ) -> None:
        self.conversations = ConversationStore()
        self.parallel = parallel
        self._engine = engine
        self._kept = kept
        self._kept_input = kept_input
        self._known: dict[str, Response] = {}
        self._finished: dict[str, int] = {}  # ids and weights, oldest first
        self._queue: asyncio.Queue[Response] = asyncio.Queue()
        self._held: set[asyncio.Task[None]] = set()
        self._worker = ThreadPoolExecutor(parallel, thread_name_prefix="generation")

    def create(self, params: CreateParams, pace: Pace = NO_PACE) -> Response:
        """A new response, waiting for its turn.

        Raises:
            BadRequest: what it shall go on from is not known, or not at rest.
        """
        conversation = self._conversation(params.prompt)
        response = Response(params, pace, self.history(params.prompt), conversation)
        if conversation is not None:
            conversation.locked = True
        self._known[response.id] = response
        if pace.queue:
            held = asyncio.create_task(self._hold(response))
            self._held.add(held)
            held.add_done_callback(self._held.discard)
        else:
            self._queue.put_nowait(response)
        return response

    def history(self, prompt: Prompt) -> tuple[bytes, ...]:
        """The items of the earlier turns that the prompt goes on from.

        Raises:
            BadRequest: what it shall go on from is not known, or not at rest.
        """
        conversation = self._conversation(prompt)
        if conversation is not None:
            return (conversation.packed,)
        if prompt.previous_response_id is None:
            return ()
        name, wanted = "previous_response_id", prompt.previous_response_id
        if (previous := self.get(wanted)) is None:
            problem = f"Previous response with id '{wanted[:80]}' not found."
            refuse(problem, name, "previous_response_not_found")
        if previous.open:
            refuse(f"The response '{previous.id}' is {previous.status}: wait for its end.", name)
        return previous.turns

    def _conversation(self, prompt: Prompt) -> Conversation | None:
        if prompt.conversation is None:
            return None
        conversation = self.conversations.get(prompt.conversation)
        if conversation.locked:
            raise BadRequest(
                400,
                "Another process is currently operating on this conversation. Please retry in a"
                " few seconds.",
                param="conversation",
                code="conversation_locked",
            )
        return conversation

    async def count_tokens(self, prompt: Prompt) -> int:
        """The tokens of the prompt, earlier turns included; waits for a free place at the model.

        Raises:
            BadRequest: as for `create`, or no place got free in `COUNT_TIMEOUT` seconds.
        """
        messages = prompt.messages(self.history(prompt))
        loop = asyncio.get_running_loop()
        counted = loop.run_in_executor(self._worker, self._engine.count_tokens, messages)
        try:
            return await asyncio.wait_for(counted, COUNT_TIMEOUT)
        except TimeoutError as error:
            raise BadRequest(
                503,
                "The model is busy: count again once a response has ended.",
                kind="server_error",
            ) from error

    def get(self, response_id: str) -> Response | None:
        """The response of that id, if it is known."""
        return self._known.get(response_id)

    async def cancel(self, response: Response) -> None:
        """Stops the response, and returns when it is settled, one way or the other."""
        if response.open:
            response.stop()
            await asyncio.wait_for(response.settled.wait(), CANCEL_TIMEOUT)

    def delete(self, response: Response) -> None:
        """Forgets the response, and stops it if it still runs."""
        if response.open:
            response.stop()
        del self._known[response.id]
        self._finished.pop(response.id, None)

    def count(self, status: str) -> int:
        """How many known responses are in that status."""
        return sum(response.status == status for response in self._known.values())

    async def work(self) -> None:
        """Answers responses, `parallel` at a time, until it is cancelled."""
        await asyncio.gather(*(self._work() for _ in range(self.parallel)))

    async def _work(self) -> None:
        while True:
            response = await self._queue.get()
            if response.open:
                await self._answer(response)
            self._finish(response)

    def stop_all(self) -> None:
        """Stops whatever runs or waits."""
        for response in self._known.values():
            if response.open:
                response.stop()

    async def _hold(self, response: Response) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(response.settled.wait(), response.pace.queue)
        self._queue.put_nowait(response)

    async def _answer(self, response: Response) -> None:
        response.begin()
        loop = asyncio.get_running_loop()
        try:
            generation = await loop.run_in_executor(self._worker, response.run, self._engine, loop)
        except PromptTooLong as error:
            response.fail(
                "invalid_prompt", f"Your input exceeds the model's context window: {error}."
            )
        except SchemaRefused as error:
            response.fail("invalid_prompt", f"Invalid schema for 'text.format.schema': {error}.")
        except Exception:
            log.exception("a generation failed")
            response.fail("server_error", "The local model failed; its log says more.")
        else:
            response.finish(generation)

    def _finish(self, response: Response) -> None:
        if response.conversation is not None:
            self.conversations.trim()
        if response.id in self._known:
            self._finished[response.id] = response.weight
        while len(self._finished) > self._kept or (
            len(self._finished) > 1 and sum(self._finished.values()) > self._kept_input
        ):
            oldest = next(iter(self._finished))
            del self._finished[oldest], self._known[oldest]
