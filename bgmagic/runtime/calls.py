"""Answers the function calls of a response, round by round, on the loop thread.

What is written down before what: the calls before a function runs, that it runs before it does,
its output before the follow-up is sent. A call that was running as its kernel died is never run
again by itself: it is `unknown`, and somebody has to say whether it is.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from bgmagic.api.pricing import Billing
from bgmagic.api.redaction import secrets_of
from bgmagic.api.server import ServerConfig
from bgmagic.concurrency import WakeEvent
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import detach
from bgmagic.jobs.record import Status
from bgmagic.jobs.steps import (
    OPEN_QUESTIONS,
    CallStatus,
    FunctionRounds,
    Round,
    Step,
    with_all_usage,
)
from bgmagic.runtime.registry import FindFunction
from bgmagic.storage.job_store import JobStore
from bgmagic.tools.functions import CallOutput, FunctionTool, failure, same_signature
from bgmagic.transport.reply import Reply

WRITE_RETRY = 1.0  # seconds between looks at a journal that can't be written

AT_ONCE = 64  # calls of one response that run; a server may send any number, each with a thread

_DENIED = failure("the user did not allow this call")

# What a call waits for, by its status.
_WORDS = {
    CallStatus.ASKING.value: "Allow or Deny for {}",
    CallStatus.UNKNOWN.value: "your word on running {} once more",
}

_NOT_AGAIN = failure(
    "it is not known whether this call was carried out, and it was not run again: the program "
    "ended meanwhile"
)


class FunctionCalls:
    """The calls of one job's functions."""

    def __init__(
        self,
        job: Job,
        store: JobStore,
        server: ServerConfig,
        wake: WakeEvent,
        find_function: FindFunction,
    ) -> None:
        """Make it.

        Args:
            wake: set to look at the job again, as when it is to be cancelled.
            find_function: finds functions that the job's request does not have.
        """
        self._job = job
        self._store = store
        self._server = server
        self._wake = wake
        self._find_function = find_function
        self._decisions: dict[str, bool] = {}
        self._running: dict[str, asyncio.Future[CallOutput]] = {}
        self._begun: dict[str, float] = {}

    def decide(self, call_id: str | None, *, allow: bool) -> None:
        """Let a call run, or not, that waits for somebody's word; None is all of them."""
        for step in self._steps():
            if step.status in OPEN_QUESTIONS and call_id in (None, step.call_id):
                self._decisions.setdefault(step.call_id, allow)
        self._wake.set()

    async def take(self, reply: Reply) -> bool:
        """Write down the calls of a terminal reply; whether there are any to be answered here."""
        rounds = self._job.record.rounds
        if rounds is None or reply.response.get("status") != Status.COMPLETED:
            return False
        one = Round.of(reply.response, len(rounds.done) + 1)
        if one is None or rounds.is_used_up:
            return False
        self._decisions.clear()
        changes: dict[str, Any] = {"status": Status.WAITING, "response_id": None}
        rounds = rounds.with_round(one)
        self._job.advance(**changes, rounds=rounds, preview=None, trouble=None, offline=False)
        # What was paid so far, should it end between two rounds.
        paid = with_all_usage(rounds, {})
        changes["billing"] = Billing.of(self._job.request, paid).text
        await self._store.update_rounds(self._job.record, self._server, **changes)
        return True

    async def answer(self) -> bool:
        """Have every call of the last round answered; False if that ended in detaching the job."""
        if self._rounds is None or self._rounds.is_answered:
            return True
        tools = self._tools(self._rounds)
        missing = [name for name in self._rounds.names if name not in tools]
        if missing:
            self._store.update_soon(self._job.record, owner=None)
            detach(self._job, _missing(missing, self._job))
            return False
        interrupted = [step for step in self._steps() if step.status == CallStatus.RUNNING]
        await self._write(replace(step, status=CallStatus.UNKNOWN) for step in interrupted)
        while not self._job.record.cancelling and not self._all_answered():
            await self._begin(tools)
            if not self._all_answered() and not self._job.record.cancelling:
                await self._wake.wait()
                self._wake.clear()
                await self._finish()
        self._job.advance(waits_for=())
        return True

    # What there is to do.

    @property
    def _rounds(self) -> FunctionRounds | None:
        return self._job.record.rounds

    def _steps(self) -> tuple[Step, ...]:
        rounds = self._rounds
        return rounds.done[-1].steps if rounds is not None and rounds.done else ()

    def _all_answered(self) -> bool:
        return all(step.output is not None for step in self._steps())

    def _tools(self, rounds: FunctionRounds) -> dict[str, FunctionTool]:
        """The functions: those that the job was submitted with, or those that are defined now."""
        known: dict[str, FunctionTool] = dict(self._job.request.functions)
        if known:
            return known
        asked = self._job.request.body.get("tools") or []
        for name in rounds.names:
            found = self._find_function(name)
            if found is not None and same_signature(found.entry, asked):
                known[name] = replace(found, asks=found.asks or name in rounds.asks)
        return known

    async def _begin(self, tools: dict[str, FunctionTool]) -> None:
        """Start what may run, ask for what needs somebody's word, and write that down before."""
        changed: list[Step] = []
        ready: list[Step] = []
        for step in self._steps():
            if step.output is not None or step.status == CallStatus.RUNNING:
                continue
            tool, word = tools.get(step.name), self._decisions.get(step.call_id)
            asks = step.status in OPEN_QUESTIONS or (tool is not None and tool.asks)
            if tool is None:
                known = ", ".join(tools)
                changed.append(_with(step, failure(f"there is no such function, only {known}")))
            elif asks and (word is False or (word is None and not tool.can_ask)):
                unknown = step.status == CallStatus.UNKNOWN
                output = _NOT_AGAIN if unknown else _DENIED
                changed.append(replace(step, status=CallStatus.DENIED, output=output.text))
            elif asks and word is None:
                if step.status == CallStatus.PENDING:
                    changed.append(replace(step, status=CallStatus.ASKING))
            elif len(self._running) + len(ready) < AT_ONCE:
                ready.append(replace(step, status=CallStatus.RUNNING))
        if await self._write([*changed, *ready]):
            for step in ready:
                self._start(tools[step.name], step)
        self._tell()

    def _start(self, tool: FunctionTool, step: Step) -> None:
        self._begun[step.call_id] = time.monotonic()
        future = asyncio.wrap_future(tool.call(step.arguments))
        future.add_done_callback(lambda _: self._wake.set())
        self._running[step.call_id] = future

    async def _finish(self) -> None:
        """Write down the outputs that have come."""
        ended = [step for step in self._steps() if self._has_ended(step)]
        hide = secrets_of(self._server.secrets).hide
        changed = []
        for step in ended:
            output = self._running.pop(step.call_id).result()
            took = time.monotonic() - self._begun.pop(step.call_id)
            shown = replace(output, text=hide(output.text))
            changed.append(replace(_with(step, shown), seconds=round(took, 3)))
        await self._write(changed)

    def _has_ended(self, step: Step) -> bool:
        future = self._running.get(step.call_id)
        return future is not None and future.done()

    async def _write(self, changed: Any) -> bool:
        """Take steps into the record and write them down; True once the file has them, False if the
        job is cancelled before that."""
        steps = list(changed)
        rounds = self._rounds
        if not steps or rounds is None:
            return True
        self._job.advance(rounds=rounds.with_steps(steps))
        written = await self._store.update_rounds(self._job.record, self._server)
        while not written:
            if self._job.record.cancelling:
                return False
            self._job.advance(trouble="the calls of its functions can't be written down yet")
            await asyncio.sleep(WRITE_RETRY)
            written = not self._store.is_behind(self._job.record)
        if self._job.record.trouble is not None:
            self._job.advance(trouble=None)
        return True

    def _tell(self) -> None:
        """Say what it waits for."""
        open_steps = [step for step in self._steps() if step.output is None]
        asked = [step for step in open_steps if step.status in OPEN_QUESTIONS]
        waits = [
            word.format(", ".join(f"{step.name}()" for step in asked if step.status == status))
            for status, word in _WORDS.items()
            if any(step.status == status for step in asked)
        ]
        waits += [f"{step.name}()" for step in open_steps if step not in asked]
        if tuple(waits) != self._job.record.waits_for:
            self._job.advance(waits_for=tuple(waits))


def _with(step: Step, output: CallOutput) -> Step:
    status = CallStatus.FAILED if output.failed else CallStatus.DONE
    return replace(step, status=status, output=output.text)


def _missing(names: list[str], job: Job) -> str:
    """Which functions have to be defined, and what to do then."""
    which = job.name if job.record.named else job.record.key
    functions = ", ".join(f"{name}()" for name in names)
    return (
        f"its model calls functions that are not defined here as they were: {functions}. Run their "
        f"cells, then %bgattach {which} goes on"
    )
