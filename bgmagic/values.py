"""Frozen dataclasses that cost little where they are defined.

`dataclasses` compiles six methods of each class as it is defined. That takes 0.5 ms a class (Python
3.11 and 3.13): of the 91 ms that the imports of a kernel's first cell took, 42 for 80 classes. Here
they are shared but for ``__init__``, which is compiled when it is first looked at. All else is as
`dataclasses` has it, and what is not just frozen is left to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError
from dataclasses import fields as fields  # here, so that all is imported from one place
from dataclasses import replace as replace
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls: type | None = None, /, **asked: Any) -> Any:
        """As `dataclasses.dataclass`."""
        if asked == {"frozen": True}:
            return _frozen
        if asked == {"frozen": True, "slots": True}:
            return _frozen_with_slots
        return dataclasses.dataclass(cls, **asked)


def _frozen_with_slots(cls: type[Any]) -> type[Any]:
    made = _frozen(cls, slots=True)
    names = [f.name for f in fields(made)]

    def __getstate__(self: Any) -> list[Any]:
        return [getattr(self, name) for name in names]

    def __setstate__(self: Any, state: list[Any]) -> None:
        for name, value in zip(names, state, strict=True):
            object.__setattr__(self, name, value)

    for method in (__getstate__, __setstate__):
        if method.__name__ not in made.__dict__:
            setattr(made, method.__name__, method)
    return made


def _frozen(cls: type[Any], *, slots: bool = False) -> type[Any]:
    made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
    every = fields(made)
    compared = _values([f.name for f in every if f.compare])
    hashed = _values([f.name for f in every if (f.compare if f.hash is None else f.hash)])
    names = {f.name for f in every}

    @recursive_repr()
    def __repr__(self: Any) -> str:
        told = (f"{f.name}={getattr(self, f.name)!r}" for f in every if f.repr)
        return f"{type(self).__qualname__}({', '.join(told)})"

    def __eq__(self: Any, other: Any) -> Any:
        same = other.__class__ is self.__class__
        return compared(self) == compared(other) if same else NotImplemented

    def __hash__(self: Any) -> int:
        return hash(hashed(self))

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if type(self) is made or name in names:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        super(made, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:
        if type(self) is made or name in names:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
        super(made, self).__delattr__(name)

    if made.__dict__.get("__init__") is None:
        made.__init__ = _LaterInit(made)
    for method in (__repr__, __eq__, __hash__, __setattr__, __delattr__):
        # A class that defines __eq__ has None for a hash.
        if made.__dict__.get(method.__name__) is None:
            method.__qualname__ = f"{made.__qualname__}.{method.__name__}"
            setattr(made, method.__name__, method)
    return made


class _LaterInit:
    """The ``__init__`` of a class, compiled as it is first looked at: as an instance is made, or as
    `help` and `inspect.signature` ask for the fields."""

    def __init__(self, cls: type[Any]) -> None:
        self._cls = cls

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        compiled: Any = _compiled_init(self._cls)
        self._cls.__init__ = compiled  # it takes the place of this one
        return compiled if instance is None else compiled.__get__(instance, owner)


def _values(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """What gives the tuple of these attributes."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda it: tuple(getattr(it, name) for name in names)


class _Factory:
    """Stands for what a field's factory makes; in signatures too, as `dataclasses` has it."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()


def _compiled_init(cls: type[Any]) -> Callable[..., None]:
    """The ``__init__`` that `dataclasses` would make of a frozen class."""
    every = [f for f in fields(cls) if f.init or f.default_factory is not MISSING]
    names: dict[str, Any] = {"_set": object.__setattr__, "_missing": _FACTORY}
    for f in every:
        names |= {f"_default_{f.name}": f.default, f"_make_{f.name}": f.default_factory}
    sure = [f for f in every if f.init and not f.kw_only]
    named = [f for f in every if f.init and f.kw_only]
    given = ["self", *map(_parameter, sure), *(["*"] if named else []), *map(_parameter, named)]
    lines = [f"_set(self, {f.name!r}, {_value(f)})" for f in every]
    lines += ["self.__post_init__()"] if hasattr(cls, "__post_init__") else []
    body = "".join(f"\n    {line}" for line in lines or ["pass"])
    exec(f"def __init__({', '.join(given)}):{body}", names)  # noqa: S102 - of the names of fields alone
    made: Callable[..., None] = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__annotations__ = {f.name: f.type for f in every if f.init} | {"return": None}
    return made


def _parameter(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return f"{field.name}=_default_{field.name}"
    return f"{field.name}=_missing" if field.default_factory is not MISSING else field.name


def _value(field: Field[Any]) -> str:
    if field.default_factory is MISSING:
        return field.name
    made = f"_make_{field.name}()"
    return f"{made} if {field.name} is _missing else {field.name}" if field.init else made
