"""A job: the user's handle of one submission.

`Job` keeps the newest `JobRecord` and calls its listeners after each change. Once it has ended, its
response and its answer are left to the journal, if that has them, and read when they are looked at.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NoReturn

from bgmagic.api.pricing import Terms, price_of
from bgmagic.api.request import Request
from bgmagic.api.response import (
    CompressedResponse,
    KeptResponse,
    StoredResponse,
    decompressed,
    sdk_response,
    sdk_usage,
)
from bgmagic.errors import AnswerGone, BgmagicError, public
from bgmagic.jobs.artifacts import Answer as Answer
from bgmagic.jobs.packed import PackedRecord
from bgmagic.jobs.placeholder import (
    LeanFuture,
    TextPlaceholder,
    placeholder_repr,
    remedy_of,
    rendering_prompt,
)
from bgmagic.jobs.record import JobController, JobRecord, Listener, Status, Variable
from bgmagic.jobs.steps import Step

if TYPE_CHECKING:
    from bgmagic.api.response import Response, ResponseUsage


logger = logging.getLogger("bgmagic")

# The answers that somebody holds, of jobs that have let them go: one object for all who ask.
_HELD: weakref.WeakValueDictionary[Job, Answer] = weakref.WeakValueDictionary()

# The newest of them: an answer is mostly looked at several times, and soon.
_NEWEST: deque[Answer] = deque(maxlen=16)


@public
class Job(TextPlaceholder, LeanFuture[Answer]):
    """One submission. Speaks ``concurrent.futures.Future`` and can be awaited in any event loop.

    Only the manager's loop thread changes a job; reading is allowed from everywhere.

    Attributes:
        run_config: how its manager runs it; None if it only reads it.
    """

    _kept: JobRecord | PackedRecord

    def __init__(
        self,
        record: JobRecord,
        control: JobController,
        *variables: Variable,
    ) -> None:
        """Make the handle of a new job.

        Args:
            control: runs the job.
            variables: get the answer, before any waiter is woken.
        """
        super().__init__()
        self.record = record
        self._control = control
        self._variables = variables
        self._detached = False
        self._listeners: tuple[Listener, ...] = ()
        self._card: Any = None
        self.run_config: Any = None

    @property
    def record(self) -> JobRecord:
        """All that is known now, a frozen value that is replaced as a whole."""
        kept = self._kept
        return kept.record if isinstance(kept, PackedRecord) else kept

    @record.setter
    def record(self, record: JobRecord) -> None:
        self._kept = record if record.batch is None else PackedRecord(record)

    @property
    def key(self) -> str:
        """Our own name of it, unique; without putting its record together."""
        return self._kept.key

    @property
    def outline(self) -> JobRecord:
        """The record; of a job in a batch, only what all of the batch share. That takes a tenth of
        the time, for loops over many jobs."""
        kept = self._kept
        return kept.alike if isinstance(kept, PackedRecord) else kept

    # What the user reads.

    @property
    def name(self) -> str | None:
        """The variable that waits for the answer, or None."""
        return self.record.name

    @property
    def status(self) -> str:
        """The server's word verbatim, or ours before the server has said one."""
        return str(Status.DETACHED if self._detached else self.outline.status)

    @property
    def response_id(self) -> str | None:
        """The server's id, or None before the server has accepted the job."""
        return self._kept.response_id

    @property
    def response(self) -> Response | None:
        """The newest response as the SDK's own `Response`, or None; ``.to_dict()`` is its JSON."""
        response = decompressed(self.record.response)
        return None if response is None else sdk_response(response)

    @property
    def request(self) -> Request:
        """What was, or will be, sent."""
        return self._kept.request

    @property
    def text(self) -> str:
        """The output text so far: partial of a job that streams or ended early, else mostly ""."""
        answer = self._answer
        return self.record.text if answer is None else str(answer)

    @property
    def commentary(self) -> str:
        """What the model said on its way to the answer so far, or ""."""
        answer = self._answer
        return self.record.commentary if answer is None else answer.commentary

    @property
    def summary(self) -> str:
        """What the model says of its reasoning so far, where ``--summary`` asked for it, or ""."""
        answer = self._answer
        return self.record.summary if answer is None else answer.summary

    @property
    def error(self) -> BgmagicError | None:
        """The reason why there is no answer, a `JobError`; or None."""
        found = super().exception(0) if self.done() else None
        return found if isinstance(found, BgmagicError) else None

    @property
    def usage(self) -> ResponseUsage | None:
        """Tokens as the server counted them, as the SDK's own `ResponseUsage`, or None."""
        return sdk_usage(self.record.response or {})

    @property
    def price(self) -> float | None:
        """US dollars by BgMagics.prices or the list of the extra [prices]; None if not known."""
        record = self.record
        return price_of(record.paid_response, record.server, Terms.of(record.request))

    @property
    def steps(self) -> tuple[Step, ...]:
        """The calls of the notebook's functions so far, in order."""
        return () if self.record.rounds is None else self.record.rounds.steps

    def allow(self, call_id: str | None = None) -> None:
        """Let the call with this id run, or all that wait for somebody's word."""
        self._control.decide(self, call_id, allow=True)

    def deny(self, call_id: str | None = None) -> None:
        """Have the model told that the call, or each that waits, was not allowed."""
        self._control.decide(self, call_id, allow=False)

    @property
    def elapsed(self) -> float:
        """Seconds from submission to the end, or to now; 0 if the clock was set back meanwhile."""
        return max(0.0, (self.outline.ended_at or time.time()) - self.outline.submitted_at)

    @property
    def card(self) -> Any:
        """The live status display, an ordinary widget that can stand in any box."""
        if self._card is None:
            self._card = self._control.make_card(self)
        return self._card

    @property
    def has_no_variable(self) -> bool:
        """Whether no variable waits for it."""
        return not self._variables

    def add_variable(self, variable: Variable) -> None:
        """Assign this job to ``variable``, and later its answer."""
        with self._condition:
            variable.assign(self)
            self._variables += (variable,)
            if self._answer is not None:
                variable.replace(self, self._answer)

    def move_variables_to(self, successor: Job) -> None:
        """Assign ``successor`` to the variables that still hold this job."""
        for variable in self._variables:
            variable.replace(self, successor)
        successor._variables += self._variables

    # concurrent.futures

    def cancel(self) -> bool:
        """Ask the server to cancel; False if the job has ended. The status says when it has."""
        return self._control.cancel(self)

    def resend(self) -> Job:
        """Send the request again, on purpose, as a new job; returns that.

        It replaces this one in the variables that still hold it. If this one was accepted after
        all, both are paid for.

        Raises:
            BadInput: this job has not ended.
        """
        resent: Job = self._control.resend(self)
        return resent

    def cancelled(self) -> bool:
        """Whether the job ended as cancelled."""
        return self.done() and self.outline.status == Status.CANCELLED

    def running(self) -> bool:
        """Whether the server has the job and has not ended it."""
        return not self.done() and self.outline.accepted_at is not None

    def result(self, timeout: float | None = None) -> Answer:
        """The answer, waiting up to ``timeout`` seconds for it.

        Raises:
            JobError: the job ended without an answer.
            TimeoutError: it has not ended within ``timeout``; it goes on.
            BgmagicError: called on the thread that polls, which would wait for itself.
        """
        found: Answer | None = super().result(timeout)
        return self._read_again() if found is None else found

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error the job ended with, or None, waiting as ``result`` does."""
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[Future[Answer]], object]) -> None:
        """Call ``fn(job)`` once the job is done, on a thread of its own for all callbacks."""
        super().add_done_callback(lambda _: self._control.run_callback(fn, self))

    def __await__(self) -> Generator[Any, None, Answer]:
        yield from super().__await__()
        return self.result(0)

    @property
    def _answer(self) -> Answer | None:
        return self.result(0) if self.done() and self._exception is None else None

    @property
    def _is_let_go(self) -> bool:
        """Whether it has an answer that it does not hold: the journal has it."""
        return self.done() and self._exception is None and self._result is None

    def _read_again(self, text: str | None = None) -> Answer:
        """The answer that it let go; ``text`` is its response as JSON, where that is read already.

        Raises:
            AnswerGone: the journal has it no more, or can't be read.
        """
        answer = _HELD.get(self)
        if answer is None:
            response = self._stored_response() if text is None else json.loads(text)
            made = self._control.ending_of(self, self.record.with_changes(response=response))
            if not isinstance(made, Answer):
                raise made
            answer = _HELD.setdefault(self, made)
        _NEWEST.append(answer)
        return answer

    def _stored_response(self) -> Mapping[str, Any] | None:
        try:
            return decompressed(self.record.response)
        except AnswerGone as gone:
            held = self.record.response
            if not isinstance(held, StoredResponse):  # it was forgotten, and held again, meanwhile
                return decompressed(held)
            at_server = self.response_id if self.record.batch is None else None
            hint = f"; %bgattach {at_server} asks the server for it" if at_server else ""
            raise AnswerGone(f"{self.record.label}: {gone}{hint}") from None

    def hold_again(self, text: str) -> None:
        """Hold the response, ``text`` as JSON, and the answer: the journal is about to lose it."""
        with self._condition:
            answer = self._read_again(text) if self._is_let_go else self._answer
            self._result = answer
            packed = CompressedResponse(
                json.loads(text), (self.record.request.shared_text, answer or "")
            )
            self.record = self.record.with_changes(response=packed)

    def _check_may_wait(self) -> None:
        if why := self._control.why_not_wait():
            raise BgmagicError(why)

    # What the runner does; on the loop thread only.

    def add_listener(self, listener: Listener) -> None:
        """Have ``listener(job)`` called on the loop thread after each change."""
        self._listeners += (listener,)

    def join_group(self, listeners: tuple[Listener, ...], variables: tuple[Variable, ...]) -> None:
        """Add what all jobs of a group have: one tuple of each for thousands of them."""
        with self._condition:
            self._listeners += listeners
            self._variables += variables

    def advance(self, **changes: Any) -> None:
        """Take ``changes`` into the record, and tell the listeners."""
        self.record = self.record.with_changes(**changes)
        self._notify()

    def settle(
        self, record: JobRecord, ending: Answer | BgmagicError, *, stored: bool = False
    ) -> None:
        """Keep the last ``record``, which is terminal, and deliver its ``ending``.

        The order is promised: variable, then waiters, then displays.

        Args:
            stored: whether the journal has the response just so.
        """
        self.record = record
        with self._condition:  # for `add_variable`
            if isinstance(ending, Answer):
                for variable in self._variables:
                    variable.replace(self, ending)
                self.set_result(ending)
            else:
                self.set_exception(ending)
        response = record.response
        if response is not None and not isinstance(response, KeptResponse):
            # Jobs without an answer keep the response: they are few, and read it often.
            self._pack(response, ending, stored=stored)
        self._wake()
        self._notify()

    def _pack(
        self, response: Mapping[str, Any], ending: Answer | BgmagicError, *, stored: bool
    ) -> None:
        """Keep ``response`` in less room, or leave it to the journal, and the answer with it."""
        if stored and isinstance(ending, Answer) and self._leave(response, ending):
            return
        known = ending if isinstance(ending, Answer) else ""
        packed = CompressedResponse(response, (self.record.request.shared_text, known))
        self.record = self.record.with_changes(response=packed)

    def _leave(self, response: Mapping[str, Any], answer: Answer) -> bool:
        """Leave both to the journal; False if it is about to forget them."""
        key, journal = self.key, self._control.responses
        with self._condition:  # for `hold_again`
            left = StoredResponse(response, key, journal)
            self._kept = self._kept.with_changes(response=left)
            # Forgetting is announced first; jobs that left theirs before that hold them again.
            if not journal.has(key):
                return False
            # An object of the user's class stays: the user may have changed it.
            if answer.data is None:
                _HELD[self] = answer
                _NEWEST.append(answer)
                self._result = None
        return True

    def detach(self, error: BgmagicError) -> None:
        """Stop watching: waiters get ``error``; the record stays as it is."""
        self._detached = True
        self.set_exception(error)
        self._wake()
        self._notify()

    def _notify(self) -> None:
        for listener in self._listeners:
            try:
                listener(self)
            except Exception:
                # A display that breaks must not take the job with it.
                logger.exception("a display of %r failed", self)

    # As text: a job shows its status, and refuses everything else by name.

    def __repr__(self) -> str:
        if rendering_prompt.get():
            self.refuse("go into a prompt out of another object")
        return placeholder_repr(self.record, self.status, self.elapsed, self.error)

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise BgmagicError(
            f"{self.record.label} is a live handle and can't be pickled; pickle its answer"
        )

    def refusal(self, action: str) -> str:
        """Say why the job can't do ``action``, which text can, and what to do instead."""
        what = f"{self.record.label} is {self.status} and can't {action}"
        return f"{what}: {remedy_of(self.name, self.error, done=self.done())}"


# Answers that only the journal has are read together where many are looked at.

_TOGETHER = 100


def read_ahead(jobs: Iterable[Job]) -> list[Answer]:
    """Read the answers of these jobs that only the journal has in one go.

    Returns:
        those: as long as somebody holds them, nobody has to read them again.
    """
    alone = {job.record.key: job for job in jobs if job._is_let_go and job not in _HELD}
    if not alone:
        return []
    found = next(iter(alone.values()))._control.responses.read_all(alone)
    return [alone[key]._read_again(text) for key, text in found.items()]


def ahead(jobs: Sequence[Job]) -> Iterator[Job]:
    """These jobs, each with its answer at hand."""
    for start in range(0, len(jobs), _TOGETHER):
        some, held = jobs[start : start + _TOGETHER], list[Answer]()
        with contextlib.suppress(AnswerGone):  # who asks for one is told
            held = read_ahead(some)
        yield from some
        del held


def outcomes(jobs: Sequence[Job]) -> Iterator[Job | Answer]:
    """The answers of these jobs, and where there is none (yet) the job itself."""
    return (job.result(0) if job.done() and not job.error else job for job in ahead(jobs))
