"""Frozen dataclasses that are made with the first instance: the same as those of `dataclasses`."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import pickle
import pydoc
from collections.abc import Callable
from dataclasses import KW_ONLY, field
from typing import Any, ClassVar

import pytest

from bgmagic import values


def _made(dataclass: Any) -> tuple[type[Any], ...]:
    @dataclass(frozen=True)
    class Base:
        """A base."""

        kind: ClassVar[str] = "base"
        a: int
        b: list[int] = field(default_factory=list, compare=False)
        c: str = field(default="c", repr=False)

        @property
        def whole(self) -> str:
            return f"{self.a}{self.c}"

    @dataclass(frozen=True)
    class Child(Base):
        """A child, with all that a field can be."""

        d: Any = None
        _: KW_ONLY
        e: float = field(default=1.5, hash=False)
        f: tuple[int, ...] = field(default_factory=tuple, init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "d", self.d or "made")

    @dataclass(frozen=True)
    class Own:
        """Methods of its own stay."""

        a: int = 0

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own)

        def __hash__(self) -> int:
            return 7

    @dataclass(frozen=True)
    class Empty:
        """Nothing."""

    return Base, Child, Own, Empty


TRIED: list[Callable[..., Any]] = [
    lambda base, child, own, empty: base(1),
    lambda base, child, own, empty: base(1).b,
    lambda base, child, own, empty: base(),
    lambda base, child, own, empty: base(1, 2, 3, 4),
    lambda base, child, own, empty: base(x=1),
    lambda base, child, own, empty: base(1) == base(1, [7]),
    lambda base, child, own, empty: base(1) == base(2),
    lambda base, child, own, empty: base(1) == child(1),
    lambda base, child, own, empty: hash(base(1)) == hash((1, "c")),
    lambda base, child, own, empty: hash(child(1, e=2)) == hash(child(1, e=3)),
    lambda base, child, own, empty: hash(child(1, d=[])) and hash(child(1, d={0})),
    lambda base, child, own, empty: child(1, e=2.5),
    lambda base, child, own, empty: child(1, [], "c", "d", 2.5),
    lambda base, child, own, empty: child(1).whole,
    lambda base, child, own, empty: setattr(child(1), "a", 2),
    lambda base, child, own, empty: setattr(child(1), "new", 2),
    lambda base, child, own, empty: delattr(base(1), "a"),
    lambda base, child, own, empty: dataclasses.replace(child(1), a=5, e=9.0),
    lambda base, child, own, empty: dataclasses.replace(child(1), f=()),
    lambda base, child, own, empty: dataclasses.asdict(child(1)),
    lambda base, child, own, empty: copy.deepcopy(child(1, [2])) == child(1, [2]),
    lambda base, child, own, empty: [f.name for f in dataclasses.fields(child)],
    lambda base, child, own, empty: child.__match_args__,
    lambda base, child, own, empty: (empty(), empty() == empty(), hash(empty())),
    lambda base, child, own, empty: empty(1),
    lambda base, child, own, empty: (own(1), own(1) == own(2), hash(own())),
]


@pytest.mark.parametrize("slots", [{}, {"slots": True}])
@pytest.mark.parametrize("number", range(len(TRIED)))
def test_as_those_of_the_library(number: int, slots: dict[str, bool]) -> None:
    """Making, comparing, hashing, showing, replacing and changing give the same value or error."""
    told = []
    for dataclass in (dataclasses.dataclass, values.dataclass):
        try:
            told.append(repr(TRIED[number](*_made(functools.partial(dataclass, **slots)))))
        except Exception as error:  # whichever it is, it must be the same
            told.append(f"{type(error).__name__}: {error}")
    if told[0].startswith(
        "TypeError: super("
    ):  # with slots the library's own check is of another class
        told[0] = "FrozenInstanceError: cannot assign to field 'new'"
    assert told[0] == told[1]


@values.dataclass(frozen=True)
class Kept:
    """At the top of a module, where a pickle finds it."""

    a: int
    b: tuple[int, ...] = ()


@values.dataclass(frozen=True, slots=True)
class Lean:
    """The same with slots."""

    a: int
    b: tuple[int, ...] = ()


def test_help_shows_the_fields_of_a_class_that_was_never_made() -> None:
    """What `help` and the editor's hints say of a class is there before its first instance."""
    for ours, theirs in zip(_made(values.dataclass), _made(dataclasses.dataclass), strict=True):
        told = str(inspect.signature(ours))
        assert told == str(inspect.signature(theirs))
        assert told.removesuffix(" -> None") in pydoc.render_doc(ours, renderer=pydoc.plaintext)


def test_pickles() -> None:
    """A pickle comes back equal, whether or not its class has been used since the process began."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for kept in (Kept(1, (2,)), Lean(1, (2,))):
            assert pickle.loads(pickle.dumps(kept, protocol)) == kept


@values.dataclass(frozen=True)
class Alike:
    """One of thousands."""

    ALIKE: ClassVar = "b", "c"

    a: int
    b: str = "b"
    c: tuple[int, ...] = field(default_factory=tuple)
    d: float | None = None


def test_what_is_alike_is_kept_once() -> None:
    """Instances that are alike in some fields share these, and are else as any others."""
    one, other = Alike(1, "x", (7, 8)), Alike(2, "".join("x"), (7, 8), 2.0)
    assert one.c is other.c
    assert not hasattr(one, "__dict__")
    assert values.with_changes(one, {"a": 2, "d": 2.0}) == other == values.replace(one, a=2, d=2.0)
    assert values.with_changes(one, {"b": "y"}) == Alike(1, "y", (7, 8)) != one
    assert (one.b, one.c, one.d) == ("x", (7, 8), None)
    assert repr(other) == "Alike(a=2, b='x', c=(7, 8), d=2.0)"
    assert hash(one) == hash(copy.deepcopy(one)) == hash(pickle.loads(pickle.dumps(one)))
    assert values.as_dict(one) == {"a": 1, "b": "x", "c": (7, 8), "d": None}
    assert str(inspect.signature(Alike)).startswith("(a: 'int', b: 'str' = 'b', c: ")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.b = "z"  # type: ignore[misc]
    with pytest.raises(TypeError, match="no e"):
        values.with_changes(one, {"e": 1})
