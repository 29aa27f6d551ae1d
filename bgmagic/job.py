"""A job: one submission and all that becomes of it.

`Job` is the user's handle: it holds the newest record and tells its listeners of each new one. The
manager makes and moves jobs; nothing here knows of the network, of IPython or of widgets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NoReturn

from bgmagic.answer import Answer, read_output
from bgmagic.control import Control, Listener, Variable
from bgmagic.errors import (
    BgmagicError,
    Detached,
    JobError,
    NotReady,
    NotReadyAttribute,
    readable,
)
from bgmagic.outcome import outcome
from bgmagic.packed import Packed
from bgmagic.pricing import price_of
from bgmagic.request import Request
from bgmagic.status import JobRecord, Status
from bgmagic.textlike import ATTRIBUTES, FILLING, OPERATORS, refuser

logger = logging.getLogger("bgmagic")


class Job(Future[Answer]):
    """One submission. Speaks ``concurrent.futures.Future`` and can be awaited in any event loop.

    Only the manager's loop thread changes a job; reading is allowed from everywhere.
    """

    def __init__(
        self,
        record: JobRecord,
        control: Control,
        *variables: Variable,
    ) -> None:
        """Make the handle of a new job.

        Args:
            control: whoever runs the job.
            variables: where the answer goes, before anyone who waits for the job is woken.
        """
        super().__init__()
        self._record = record
        self._control = control
        self._variables = variables
        self._answer: Answer | None = None
        self._listeners: tuple[Listener, ...] = ()
        self._sleepers: tuple[Callable[[], None], ...] = ()
        self._lock = threading.Lock()
        self._card: Any = None

    # What the user reads.

    @property
    def record(self) -> JobRecord:
        """All that is known now, as a frozen value."""
        return self._record

    @property
    def name(self) -> str | None:
        """The variable that waits for the answer, or None."""
        return self._record.name

    @property
    def status(self) -> str:
        """The server's word verbatim, or ours before the server has said one."""
        detached = self.done() and isinstance(super().exception(0), Detached)
        return str(Status.DETACHED if detached else self._record.status)

    @property
    def response_id(self) -> str | None:
        """The server's id, or None before the server has accepted the job."""
        return self._record.response_id

    @property
    def response(self) -> Mapping[str, Any] | None:
        """The newest response object as the server sent it, or None."""
        response = self._record.response
        return response.whole() if isinstance(response, Packed) else response

    @property
    def request(self) -> Request:
        """What was, or will be, sent."""
        return self._record.request

    @property
    def text(self) -> str:
        """The output text so far: partial of a job that streams or ended early, else mostly ""."""
        record = self._record
        found = read_output(record.response or {}).text
        return found or (record.preview.text if record.preview else "")

    @property
    def error(self) -> JobError | None:
        """Why there is no answer, or None."""
        found = super().exception(0) if self.done() else None
        return found if isinstance(found, JobError) else None

    @property
    def usage(self) -> dict[str, Any] | None:
        """Tokens as the server counted them, or None."""
        usage = (self._record.response or {}).get("usage")
        return dict(usage) if isinstance(usage, dict) else None

    @property
    def price(self) -> float | None:
        """US dollars by the list of the extra [prices]; None where that has no price."""
        return price_of(self._record.response, self._record.server)

    @property
    def elapsed(self) -> float:
        """Seconds from submission to the end, or to now."""
        return (self._record.ended_at or time.time()) - self._record.submitted_at

    @property
    def card(self) -> Any:
        """The live status display, an ordinary widget that can stand in any box."""
        if self._card is None:
            self._card = self._control.make_card(self)
        return self._card

    @property
    def unbound(self) -> bool:
        """Whether no variable waits for it."""
        return not self._variables

    def give(self, variable: Variable) -> None:
        """Have ``variable`` hold this job, and get its answer, too."""
        with self._lock:
            variable.hold(self)
            self._variables += (variable,)
            if self._answer is not None:
                variable.replace(self, self._answer)

    def hand_over(self, successor: Job) -> None:
        """Let ``successor`` take the variables that still hold this job."""
        for variable in self._variables:
            variable.replace(self, successor)
        successor._variables += self._variables

    # concurrent.futures

    def cancel(self) -> bool:
        """Ask the server to cancel; False if the job has ended. The status tells when it has."""
        return self._control.cancel(self)

    def resend(self) -> Job:
        """Send the request again, on purpose, as a new job; returns that.

        It takes the variables that still hold this one. If this one was accepted after all, both
        are paid for.

        Raises:
            BadInput: this job has not ended.
        """
        return self._control.resend(self)

    def cancelled(self) -> bool:
        """Whether the job ended as cancelled."""
        return self.done() and self._record.status == Status.CANCELLED

    def running(self) -> bool:
        """Whether the server has the job and has not ended it."""
        return not self.done() and self._record.accepted_at is not None

    def result(self, timeout: float | None = None) -> Answer:
        """The answer, waiting up to ``timeout`` seconds for it.

        Raises:
            JobError: the job ended without an answer.
            TimeoutError: it has not ended within ``timeout``; it goes on.
            BgmagicError: called on the thread that polls, which would wait for itself.
        """
        self._refuse_loop_thread()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error the job ended with, or None, waiting as ``result`` does."""
        self._refuse_loop_thread()
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[Future[Answer]], object]) -> None:
        """Call ``fn(job)`` once the job is done, on a thread of its own for all callbacks."""
        super().add_done_callback(lambda _: self._control.call_back(fn, self))

    def _refuse_loop_thread(self) -> None:
        if not self.done() and self._control.on_loop_thread():
            raise BgmagicError("this thread polls the jobs; waiting for one here would never end")

    def __await__(self) -> Generator[Any, None, Answer]:
        # Not asyncio.wrap_future: it passes a timeout's cancellation on to the job, and a loop
        # that has closed in between makes it fail in the thread that settles the job.
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def release() -> None:
            if not woken.done():
                woken.set_result(None)

        def wake() -> None:
            # A loop that has closed refuses: then nobody waits there any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(release)

        with self._lock:
            waiting = not self.done()
            if waiting:
                self._sleepers += (wake,)
        if waiting:
            try:
                yield from woken.__await__()
            finally:
                with self._lock:
                    self._sleepers = tuple(one for one in self._sleepers if one is not wake)
        return super().result(0)

    # What the manager does; on the loop thread only.

    def add_listener(self, listener: Listener) -> None:
        """Have ``listener(job)`` called on the loop thread after each change."""
        self._listeners += (listener,)

    def advance(self, **changes: Any) -> None:
        """Take ``changes`` into the record, and tell the listeners."""
        self._record = self._record.but(**changes)
        self._notify()

    def settle(self, **changes: Any) -> None:
        """Take the last ``changes``, which make the job terminal, and deliver.

        The order is promised: variable, then whoever waits, then the displays.
        """
        self._record = self._record.but(**changes)
        ending = outcome(self)
        if isinstance(ending, Answer):
            with self._lock:
                self._answer = ending
                for variable in self._variables:
                    variable.replace(self, ending)
            self.set_result(ending)
        else:
            self.set_exception(ending)
        response = self._record.response
        if response is not None and not isinstance(response, Packed):
            # The answer has its text, the request what was asked; the rest is kept for as long as
            # this kernel lives.
            like = ending if isinstance(ending, Answer) else ""
            self._record = self._record.but(response=Packed(response, (self.request.text, like)))
        self._wake()

    def detach(self, reason: str) -> None:
        """Stop watching: whoever waits is told ``reason``; the record stays as it is."""
        self.set_exception(Detached(f"{self._title()} is no longer watched: {reason}", self))
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            sleepers = self._sleepers
        for wake in sleepers:
            wake()
        self._notify()

    def _notify(self) -> None:
        for listener in self._listeners:
            try:
                listener(self)
            except Exception:
                # A display that breaks must not take the job with it.
                logger.exception("a display of %r failed", self)

    # As text: a job shows its status, and refuses everything else by name.

    def _title(self) -> str:
        return f"job {self.name!r}" if self.name else "this job"

    def __repr__(self) -> str:
        if FILLING.get():
            self.refuse("go into a prompt out of another object")
        record = self._record
        status = record.words if self.status == record.status else self.status
        words = ["Job", self.name or "", readable(status, 80), f"{self.elapsed:.0f} s"]
        if record.response_id:
            words.append(readable(record.response_id))
        error = self.error
        about = f": {error}" if error else f": {record.trouble}" if record.trouble else ""
        return f"<{' '.join(word for word in words if word)}{about}>"

    __str__ = __repr__

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            # Plain inequality would be a wrong result: the text may well equal `other` later.
            self.refuse("be compared with text")
        return self is other

    def __bool__(self) -> bool:
        return True

    if not TYPE_CHECKING:  # a type checker is to find a wrong attribute by itself

        def __getattr__(self, attribute: str) -> NoReturn:
            if attribute in ATTRIBUTES:
                raise NotReadyAttribute(self._refusal(ATTRIBUTES[attribute]))
            raise AttributeError(f"a Job has no attribute {attribute!r}", name=attribute, obj=self)

    def __reduce__(self) -> NoReturn:
        raise BgmagicError(
            f"{self._title()} is a live handle and can't be pickled; pickle its answer"
        )

    def refuse(self, action: str) -> NoReturn:
        """Say that this is no text (yet), and can't do what text can."""
        raise NotReady(self._refusal(action))

    def _refusal(self, action: str) -> str:
        if self.done() and not self.error:
            remedy = "this is the job, its text is .result()"
        elif self.error:
            remedy = f"there is no answer: {self.error}"
        else:
            wait = f"%bgwait {self.name}" if self.name else ".result()"
            remedy = f"wait for it with {wait} or `await`, or run this again later"
        return f"{self._title()} is {self.status} and can't {action}: {remedy}"


for _operator, _action in OPERATORS.items():
    setattr(Job, _operator, refuser(_action))
