"""The responses this server knows: their states, their JSON, and the queue to the one model.

Everything here happens on the event loop's thread; only the generation runs on a worker, which
touches nothing but a list of text pieces and a flag. HTTP is left to `server`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from bgmagic.local.body import Ask
from bgmagic.local.engine import Engine, Generation, PromptTooLong

# Finished responses kept for retrieval; the oldest go first.
KEPT = 1000
# Seconds a cancel waits for the generation to stop. A batch of the prompt takes under one.
CANCEL_LIMIT = 10.0

OPEN = ("queued", "in_progress")
STATUS = {"stop": "completed", "length": "incomplete", "asked": "cancelled"}

log = logging.getLogger(__name__)


class Response:
    """One response from creation to its end."""

    def __init__(self, ask: Ask) -> None:
        self.id = f"resp_{secrets.token_hex(24)}"
        self.ask = ask
        self.status = "queued"
        self.settled = asyncio.Event()
        self._created = int(time.time())
        self._completed: int | None = None
        self._message = f"msg_{secrets.token_hex(24)}"
        self._pieces: list[str] = []
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

    def run(self, engine: Engine) -> Generation:
        """Generates the text, on the worker's thread."""
        ask = self.ask
        return engine.generate(
            ask.messages,
            on_text=self._take,
            max_tokens=ask.max_output_tokens,
            temperature=ask.temperature,
            top_p=ask.top_p,
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
        """The response object of the API, with `usage` only once there is some."""
        fields: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": self.status,
            "error": self._error,
            "incomplete_details": None,
            "output": [] if self.open else self._output(),
            **self.ask.echo,
        }
        if self.status == "incomplete":
            fields["incomplete_details"] = {"reason": "max_output_tokens"}
        if self._completed is not None:
            fields["completed_at"] = self._completed
        if self._generation is not None:
            fields["usage"] = _usage(self._generation)
        return fields

    def _take(self, piece: str) -> bool:
        self._pieces.append(piece)
        return self._stop.is_set()

    def _settle(self, status: str) -> None:
        self.status = status
        if status == "completed":
            self._completed = int(time.time())
        self.ask = replace(self.ask, messages=())  # a kept response needs no prompt
        self._pieces = ["".join(self._pieces)]
        self.settled.set()

    def _output(self) -> list[dict[str, Any]]:
        text = "".join(self._pieces)
        if not text and self.status != "completed":
            return []
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        message = {
            "id": self._message,
            "type": "message",
            "role": "assistant",
            "status": "completed" if self.status == "completed" else "incomplete",
            "content": [part],
        }
        return [message]


class Responses:
    """All responses, answered one after the other in the order of their creation.

    Args:
        engine: the model.
        kept: how many finished responses are kept.
    """

    def __init__(self, engine: Engine, *, kept: int = KEPT) -> None:
        self._engine = engine
        self._kept = kept
        self._known: dict[str, Response] = {}
        self._finished: deque[str] = deque()
        self._queue: asyncio.Queue[Response] = asyncio.Queue()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="generation")

    def create(self, ask: Ask) -> Response:
        """A new response, waiting for its turn."""
        response = Response(ask)
        self._known[response.id] = response
        self._queue.put_nowait(response)
        return response

    def get(self, response_id: str) -> Response | None:
        """The response of that id, if it is known."""
        return self._known.get(response_id)

    async def cancel(self, response: Response) -> None:
        """Stops the response, and returns when it is settled, one way or the other."""
        if response.open:
            response.stop()
            await asyncio.wait_for(response.settled.wait(), CANCEL_LIMIT)

    def delete(self, response: Response) -> None:
        """Forgets the response, and stops it if it still runs."""
        if response.open:
            response.stop()
        del self._known[response.id]

    def count(self, status: str) -> int:
        """How many known responses are in that status."""
        return sum(response.status == status for response in self._known.values())

    async def work(self) -> None:
        """Answers responses until it is cancelled."""
        while True:
            response = await self._queue.get()
            if response.open:
                await self._answer(response)
            self._drop_oldest(response.id)

    def stop_all(self) -> None:
        """Stops whatever runs or waits."""
        for response in self._known.values():
            if response.open:
                response.stop()

    async def _answer(self, response: Response) -> None:
        response.status = "in_progress"
        loop = asyncio.get_running_loop()
        try:
            generation = await loop.run_in_executor(self._worker, response.run, self._engine)
        except PromptTooLong as error:
            response.fail(
                "invalid_prompt", f"Your input exceeds the model's context window: {error}."
            )
        except Exception:
            log.exception("a generation failed")
            response.fail("server_error", "The local model failed; its log says more.")
        else:
            response.finish(generation)

    def _drop_oldest(self, response_id: str) -> None:
        self._finished.append(response_id)
        while len(self._finished) > self._kept:
            self._known.pop(self._finished.popleft(), None)


def _usage(generation: Generation) -> dict[str, Any]:
    return {
        "input_tokens": generation.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": generation.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": generation.input_tokens + generation.output_tokens,
    }
