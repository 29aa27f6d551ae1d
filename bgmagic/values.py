"""Frozen dataclasses that cost little where they are defined.

`dataclasses` compiles six methods of each class as it is defined. That takes 0.5 ms a class (Python
3.11 and 3.13): of the 91 ms that the imports of a kernel's first cell took, 42 for 80 classes. Here
they are shared but for ``__init__``, which is compiled when it is first looked at. All else is as
`dataclasses` has it, and what is not just frozen is left to it.

A frozen class of which thousands are kept may name fields in ``ALIKE``: what they hold is kept
once for all that have the same there, the rest in slots. What is equal counts as the same, so a
field that may be 1 in one and True in another is none of these.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, FrozenInstanceError
from dataclasses import fields as fields  # here, so that all is imported from one place
from dataclasses import replace as replace
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

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

    def put(self: Any, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    return _with_state(made, put)


def _with_state(made: type[Any], put: Callable[[Any, dict[str, Any]], None]) -> type[Any]:
    names = [f.name for f in fields(made)]

    def __getstate__(self: Any) -> list[Any]:
        return [getattr(self, name) for name in names]

    def __setstate__(self: Any, state: list[Any]) -> None:
        put(self, dict(zip(names, state, strict=True)))

    for method in (__getstate__, __setstate__):
        if method.__name__ not in made.__dict__:
            setattr(made, method.__name__, method)
    return made


def _frozen(cls: type[Any], *, slots: bool = False) -> type[Any]:
    made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
    if "ALIKE" in vars(cls):
        made = _with_state(_Layout(made).made, lambda it, state: it.__init__(**state))
    every = fields(made)
    compared = _values([f.name for f in every if f.compare])
    hashed = _values([f.name for f in every if (f.compare if f.hash is None else f.hash)])
    names = {f.name for f in every}

    @recursive_repr()
    def __repr__(self: Any) -> str:
        shown = (f"{f.name}={getattr(self, f.name)!r}" for f in every if f.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"

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


class _Layout:
    """Where the instances of a class have their fields: those that are alike in a tuple for all.

    Attributes:
        made: the class.
    """

    def __init__(self, cls: type[Any]) -> None:
        alike: tuple[str, ...] = cls.ALIKE
        own = [f.name for f in fields(cls) if f.name not in alike]
        every = {*own, *alike, "__dict__", "__weakref__"}
        body = {name: value for name, value in vars(cls).items() if name not in every}
        body |= {name: property(_item(at)) for at, name in enumerate(alike)}
        body |= {"__slots__": (*own, "_alike"), "_layout": self}
        made: Any = type(cls)
        self.made: type[Any] = made(cls.__name__, cls.__bases__, body)
        self.made.__qualname__ = cls.__qualname__
        self.names = alike
        self.places = {name: at for at, name in enumerate(alike)}
        self._put = {name: vars(self.made)[name].__set__ for name in (*own, "_alike")}
        self._all = tuple(self._put.values())
        self._own = attrgetter(*self._put)
        # Those that others have, mostly: the newest.
        self._known: deque[tuple[Any, ...]] = deque(maxlen=8)

    def share(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The same as others have it, if they do."""
        for known in tuple(self._known):
            if known == values:
                return known
        self._known.appendleft(values)
        return values

    def changed(self, it: Any, changes: Mapping[str, Any]) -> Any:
        """A copy with ``changes``."""
        made, alike = object.__new__(self.made), None
        for put, value in zip(self._all, self._own(it), strict=True):
            put(made, value)
        for name, value in changes.items():
            at = self.places.get(name)
            if at is None:
                self._put[name](made, value)
            elif it._alike[at] != value:
                alike = alike or list(it._alike)
                alike[at] = value
        if alike is not None:
            self._put["_alike"](made, self.share(tuple(alike)))
        return made


def _item(at: int) -> Callable[[Any], Any]:
    return lambda it: it._alike[at]


def with_changes(it: T, changes: Mapping[str, Any]) -> T:
    """A copy of an instance of a class with ``ALIKE``, with other values in some fields. In a third
    of the time of `replace`.

    Raises:
        TypeError: there is no such field.
    """
    try:
        made: T = type(it)._layout.changed(it, changes)  # type: ignore[attr-defined]
    except KeyError as unknown:
        raise TypeError(f"a {type(it).__name__} has no {unknown.args[0]}") from None
    return made


def as_dict(it: Any) -> dict[str, Any]:
    """The fields of any of these, as they are."""
    return {f.name: getattr(it, f.name) for f in fields(it)}


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
    layout = getattr(cls, "_layout", None)
    alike = {} if layout is None else dict.fromkeys(layout.names, "")
    lines = [f"_set(self, {f.name!r}, {_value(f)})" for f in every if f.name not in alike]
    if layout is not None:
        alike |= {f.name: f"{_value(f)}, " for f in every if f.name in alike}
        names["_share"] = layout.share
        lines.append(f"_set(self, '_alike', _share(({''.join(alike.values())})))")
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
