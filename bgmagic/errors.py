"""Everything bgmagic raises, as one tree.

    BgmagicError
    ├── BadInput (ValueError)        the cell or the call is wrong; nothing was sent
    │   └── Unsendable               a job of the journal's that nobody may send any more
    ├── NotReady (TypeError)         a job was used as if it were its text
    ├── AnswerGone                   the journal, which alone had the answer, has it no more
    ├── ServerError                  one call to the server failed; says whether it was accepted
    └── JobError                     a job did not end with an answer; has .job (jobs/outcome.py)
        ├── JobFailed                the server failed at it, or refused to take it
        ├── JobIncomplete            stopped early; the partial text is in job.text
        ├── JobCancelled (concurrent.futures.CancelledError)
        ├── JobUnknown               it is unclear whether the server accepted it
        ├── JobLost                  accepted, but the server no longer knows it
        ├── NoAnswer                 completed, but with a refusal or without any text
        │   └── InvalidAnswer        completed, but the text in job.text does not fit its schema
        └── Detached                 still open at the server, and no longer watched from here

A message holds what is wrong and what to do about it; in a notebook each of them is one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

T = TypeVar("T")


def public(it: T) -> T:
    """Have tracebacks, pickles and help say ``bgmagic.Job``, wherever the file is that defines it.

    The price: ``Job??`` shows no source, since inspect looks for a class's in the file of its
    ``__module__``, and nothing tells it of another.
    """
    it.__module__ = "bgmagic"
    return it


@public
class BgmagicError(Exception):
    """Anything bgmagic raises on purpose.

    It pickles, as processes of a pool do it, but for the live job that it may have.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        kept = {name: None if name == "job" else value for name, value in vars(self).items()}
        return type(self)._restored, (self.args, kept)

    @classmethod
    def _restored(cls, args: tuple[Any, ...], kept: Mapping[str, Any]) -> Self:
        """The error in a pickle, whatever its class needs to be made."""
        error = cls.__new__(cls, *args)
        error.args = args
        vars(error).update(kept)
        return error

    def _render_traceback_(self) -> list[str]:
        # IPython asks for this instead of formatting a traceback through our own frames.
        return [f"{type(self).__name__}: {self}"]


@public
class BadInput(BgmagicError, ValueError):
    """The cell, the option or the argument can't be used; nothing was sent."""


class Unsendable(BadInput):
    """An unsent job of the journal's stays so: its request held a secret, which the journal does
    not keep, or it was sent from another host."""


@public
class NotReady(BgmagicError, TypeError):
    """A job was used as text before (or without) there being an answer."""


class NotReadyAttribute(NotReady, AttributeError):
    """An attribute of answers was read off a job; an AttributeError too, so ``hasattr`` works."""


@public
class AnswerGone(BgmagicError):
    """The journal alone had the answer of an ended job, and can't give it any more, or now."""


@public
class ServerError(BgmagicError):
    """One call to the server did not give a response object.

    Attributes:
        maybe_accepted: whether a create that failed like this may have been accepted. Calls that
            only read change nothing at the server, so there it says nothing.
        status_code: the HTTP status, or None where no HTTP answer came.
        code: the server's own error code, verbatim, or None.
        retryable: whether the very same call may well succeed later.
        from_api: whether the server itself said so, in the API's words, not a proxy by its page.
        retry_after: seconds the server asked to wait before the next call, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        maybe_accepted: bool,
        status_code: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        retryable: bool = False,
        from_api: bool = False,
    ) -> None:
        super().__init__(message)
        self.maybe_accepted = maybe_accepted
        self.status_code = status_code
        self.code = code
        self.retry_after = retry_after
        self.retryable = retryable
        self.from_api = from_api
