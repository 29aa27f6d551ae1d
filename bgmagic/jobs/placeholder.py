"""What a job refuses to do because it is not its text: everything that text can do.

An answer will stand in the same variable, so that code written for it must fail by a message that
says what to wait for, and never give a wrong result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from bgmagic.jobs.job import Job

# Set while an expression becomes a part of a prompt: a job that some object holds must not put its
# status where its answer belongs.
rendering_prompt: ContextVar[bool] = ContextVar("bgmagic_filling", default=False)

# What an answer has: the methods of text, and what stands beside it.
_BESIDE = ("citations", "conversation", "data", "instructions", "job", "model")

ATTRIBUTES: Mapping[str, str] = {
    **{name: f"do .{name}" for name in dir(str) if not name.startswith("_")},
    **{name: f"give .{name}" for name in _BESIDE},
}

OPERATORS: Mapping[str, str] = {
    "__format__": "go into an f-string",
    "__len__": "tell its length",
    "__iter__": "be iterated",
    "__getitem__": "be indexed",
    "__contains__": "be searched",
    **dict.fromkeys(("__add__", "__radd__"), "be joined with +"),
    **dict.fromkeys(("__mul__", "__rmul__"), "be repeated with *"),
    **dict.fromkeys(("__mod__", "__rmod__"), "be formatted with %"),
    **dict.fromkeys(("__lt__", "__le__", "__gt__", "__ge__"), "be ordered"),
}


def refuser(action: str) -> Callable[..., NoReturn]:
    """An operator that refuses, by the name of what was tried."""

    def refuse(self: Job, *_: object) -> NoReturn:
        self.refuse(action)

    return refuse
