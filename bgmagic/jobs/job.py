"""A job, and the answer it becomes: the user's handle of one submission.

`Job` keeps the newest `JobRecord` and calls its listeners after each change. `Job` is a
``Future[Answer]`` and `Answer.job` is its `Job`, so they share this file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from bgmagic.api.pricing import Terms, price_of
from bgmagic.api.replay import Turns, conversation_of, previous_of
from bgmagic.api.request import Previous, Request
from bgmagic.api.response import (
    Citation,
    CompressedResponse,
    decompressed,
    objects_in,
    read_citations,
    read_output,
    read_summary,
    sdk_response,
    sdk_usage,
    sources,
    text_in,
)
from bgmagic.errors import BgmagicError, public
from bgmagic.jobs.artifacts import Artifacts, has_made
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


@public
class Answer(Artifacts, str):
    """The output text of a completed job: a ``str``, with where it came from.

    Attributes:
        job: the job that gave it; None in an answer that was unpickled.
        response_id: the server's id of the response, or None.
        model: the model's name as the server returned it, or None.
        commentary: what the model said on its way to the answer, or "".
        data: with ``--schema`` what the text says: an object of the Pydantic model, or what JSON
            gives where there was a JSON schema or the class is not known any more; else None.
        citations: what the text cites, in its order.
    """

    _asked: Mapping[str, Any]
    _response: Mapping[str, Any] | None
    job: Job | None
    response_id: str | None
    model: str | None
    commentary: str
    data: Any
    citations: tuple[Citation, ...]

    def __new__(
        cls,
        text: str,
        response: Mapping[str, Any],
        job: Job | None = None,
        asked: Mapping[str, Any] | None = None,
        data: Any = None,
    ) -> Answer:
        """Make the answer of ``response``, whose output text is ``text``.

        Args:
            asked: of the request body, ``input`` and ``instructions``, where there is no job.
            data: what the text says, if it is structured.
        """
        answer = super().__new__(cls, text)
        answer.job = job
        answer.response_id = text_in(response.get("id")) or (job.response_id if job else None)
        answer.model = text_in(response.get("model")) or None
        answer._asked = asked or {}
        answer._response = CompressedResponse(response) if job is None else None  # a job keeps it
        answer.data = data
        answer.commentary = read_output(response).commentary
        answer.citations = read_citations(response)
        answer._made = has_made(response)
        return answer

    @property
    def response(self) -> Response:
        """The whole response as the SDK's own `Response`, a new one; ``.to_dict()`` is its JSON."""
        return sdk_response(self._whole())

    @property
    def usage(self) -> ResponseUsage | None:
        """Tokens as the server counted them, as the SDK's own `ResponseUsage`, or None."""
        return sdk_usage(self._whole())

    @property
    def summary(self) -> str:
        """What the model says of its reasoning, where ``--summary`` asked for that, or ""."""
        return read_summary(self._whole())

    @property
    def conversation(self) -> Turns:
        """Every turn up to this answer, a new list that ``--messages`` and the API take."""
        return conversation_of(self._body(), str(self), self._whole())

    @property
    def steps(self) -> tuple[Step, ...]:
        """The calls of the notebook's functions that led to this answer, in order."""
        held = objects_in(self._asked.get("steps"))
        return tuple(Step(**one) for one in held) if self.job is None else self.job.steps

    def _previous(self, server: str, now: float) -> Previous | None:
        """How a request to ``server`` goes on from this answer by its id; None if it can't."""
        record = None if self.job is None else self.job.record
        if record is None or record.server != server or record.is_expired(now):
            return None
        return previous_of(self._whole(), len(self.conversation))

    @property
    def instructions(self) -> str | None:
        """The system text it was asked with, or None."""
        return text_in(self._body().get("instructions")) or None

    def _body(self) -> Mapping[str, Any]:
        return self._asked if self.job is None else self.job.record.outgoing.body

    def _whole(self) -> Mapping[str, Any]:
        """The response as plain JSON."""
        kept = self._response if self.job is None else self.job.record.response
        return decompressed(kept) or {}

    def __await__(self) -> Generator[Any, None, Answer]:
        # `await name` works before and after the answer has replaced the job in the variable.
        yield from ()
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the job: it belongs to a kernel, the text and its origin do not.
        asked = {key: self._body().get(key) for key in ("input", "instructions")}
        if self.steps:
            asked["steps"] = [vars(step) for step in self.steps]
        from bgmagic.api.structured_output import pickled_data

        return Answer._restored, (str(self), self._whole(), asked, pickled_data(self.data))

    @classmethod
    def _restored(cls, text: str, response: Any, asked: Any, pickled: bytes | None) -> Answer:
        """The answer in a pickle, which names no file of ours, so that files may move."""
        from bgmagic.api.structured_output import unpickled_data

        return cls(text, response, None, asked, unpickled_data(pickled, text))

    def bundle(self, formulas: Literal["mathjax", "mathml"] = "mathjax") -> dict[str, str]:
        """The text, and HTML with what it cites; ``formulas`` as `to_html` takes them."""
        # Imported when an answer is looked at: most are only used.
        from bgmagic.rendering.markdown import answer_html

        html = answer_html(
            str(self),
            structured=self.data is not None,
            commentary=self.commentary,
            summary=self.summary,
            links=sources(self.citations),
            formulas=formulas,
        )
        return {"text/plain": self._plain(), "text/html": html + self.made_html()}

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return self.bundle()

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        # IPython prefers this: the text as it reads, in a list with its quotes.
        printer.text(self._plain() if len(printer.stack) <= 1 else repr(self))


logger = logging.getLogger("bgmagic")


@public
class Job(TextPlaceholder, LeanFuture[Answer]):
    """One submission. Speaks ``concurrent.futures.Future`` and can be awaited in any event loop.

    Only the manager's loop thread changes a job; reading is allowed from everywhere.

    Attributes:
        record: all that is known now, a frozen value that is replaced as a whole.
    """

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
        self.record: JobRecord = record
        self._control = control
        self._variables = variables
        self._answer: Answer | None = None
        self._detached = False
        self._listeners: tuple[Listener, ...] = ()
        self._card: Any = None

    # What the user reads.

    @property
    def name(self) -> str | None:
        """The variable that waits for the answer, or None."""
        return self.record.name

    @property
    def status(self) -> str:
        """The server's word verbatim, or ours before the server has said one."""
        return str(Status.DETACHED if self._detached else self.record.status)

    @property
    def response_id(self) -> str | None:
        """The server's id, or None before the server has accepted the job."""
        return self.record.response_id

    @property
    def response(self) -> Response | None:
        """The newest response as the SDK's own `Response`, or None; ``.to_dict()`` is its JSON."""
        response = decompressed(self.record.response)
        return None if response is None else sdk_response(response)

    @property
    def request(self) -> Request:
        """What was, or will be, sent."""
        return self.record.request

    @property
    def text(self) -> str:
        """The output text so far: partial of a job that streams or ended early, else mostly ""."""
        return self.record.text if self._answer is None else str(self._answer)

    @property
    def commentary(self) -> str:
        """What the model said on its way to the answer so far, or ""."""
        return self.record.commentary if self._answer is None else self._answer.commentary

    @property
    def summary(self) -> str:
        """What the model says of its reasoning so far, where ``--summary`` asked for it, or ""."""
        return self.record.summary

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
        return max(0.0, (self.record.ended_at or time.time()) - self.record.submitted_at)

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
        return self.done() and self.record.status == Status.CANCELLED

    def running(self) -> bool:
        """Whether the server has the job and has not ended it."""
        return not self.done() and self.record.accepted_at is not None

    def result(self, timeout: float | None = None) -> Answer:
        """The answer, waiting up to ``timeout`` seconds for it.

        Raises:
            JobError: the job ended without an answer.
            TimeoutError: it has not ended within ``timeout``; it goes on.
            BgmagicError: called on the thread that polls, which would wait for itself.
        """
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error the job ended with, or None, waiting as ``result`` does."""
        return super().exception(timeout)

    def add_done_callback(self, fn: Callable[[Future[Answer]], object]) -> None:
        """Call ``fn(job)`` once the job is done, on a thread of its own for all callbacks."""
        super().add_done_callback(lambda _: self._control.run_callback(fn, self))

    def _check_may_wait(self) -> None:
        if self._control.on_loop_thread():
            raise BgmagicError("this thread polls the jobs; waiting for one here would never end")

    # What the runner does; on the loop thread only.

    def add_listener(self, listener: Listener) -> None:
        """Have ``listener(job)`` called on the loop thread after each change."""
        self._listeners += (listener,)

    def advance(self, **changes: Any) -> None:
        """Take ``changes`` into the record, and tell the listeners."""
        self.record = self.record.with_changes(**changes)
        self._notify()

    def settle(self, record: JobRecord, ending: Answer | BgmagicError) -> None:
        """Keep the last ``record``, which is terminal, and deliver its ``ending``.

        The order is promised: variable, then waiters, then displays.
        """
        self.record = record
        if isinstance(ending, Answer):
            with self._condition:
                self._answer = ending
                for variable in self._variables:
                    variable.replace(self, ending)
            self.set_result(ending)
        else:
            self.set_exception(ending)
        response = record.response
        if response is not None and not isinstance(response, CompressedResponse):
            known = ending if isinstance(ending, Answer) else ""
            packed = CompressedResponse(response, (record.request.shared_text, known))
            self.record = record.with_changes(response=packed)
        self._wake()
        self._notify()

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
