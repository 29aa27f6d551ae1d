"""Refuses, for a job that has no text yet, everything that text can do.

An answer will stand in the same variable, so code written for it must fail with a message that says
what to wait for, and never give a wrong result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, NoReturn

from bgmagic.errors import NotReady, NotReadyAttribute

# Set while an expression becomes a part of a prompt: a job that some object holds must not put its
# status where its answer belongs.
rendering_prompt: ContextVar[bool] = ContextVar("bgmagic_rendering_prompt", default=False)

# What an answer has: the methods of text, and what stands beside it.
_BESIDE = ("bundle", "citations", "conversation", "data", "instructions", "job", "model")
_ATTRIBUTES: Mapping[str, str] = {
    **{name: f"do .{name}" for name in dir(str) if not name.startswith("_")},
    **{name: f"give .{name}" for name in _BESIDE},
}

_OPERATORS: Mapping[str, str] = {
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


class TextPlaceholder:
    """Stands where a text will be, and refuses to be used as one."""

    def refusal(self, action: str) -> str:
        """Say why it can't do ``action`` now, and what to do instead; in one line."""
        raise NotImplementedError

    def refuse(self, action: str) -> NoReturn:
        """Refuse ``action``, which only text can do.

        Raises:
            NotReady: always.
        """
        raise NotReady(self.refusal(action))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            # Plain inequality would be a wrong result: the text may well equal `other` later.
            self.refuse("be compared with text")
        return self is other

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        return True

    if not TYPE_CHECKING:  # a type checker is to find a wrong attribute by itself

        def __getattr__(self, attribute: str) -> NoReturn:
            if attribute in _ATTRIBUTES:
                raise NotReadyAttribute(self.refusal(_ATTRIBUTES[attribute]))
            about = f"a {type(self).__name__} has no attribute {attribute!r}"
            raise AttributeError(about, name=attribute, obj=self)


def _refuser(action: str) -> Callable[..., NoReturn]:
    """Make an operator that refuses, by the name of what was tried."""

    def refuse(self: TextPlaceholder, *_: object) -> NoReturn:
        self.refuse(action)

    return refuse


for _operator, _action in _OPERATORS.items():
    setattr(TextPlaceholder, _operator, _refuser(_action))
