"""What an option is, and how its setting is found.

A settings class is a frozen dataclass whose fields are the options of one magic; they stand in
`settings.py`. `resolve_settings` puts given values over those of `%config`, the environment and the
defaults, in that order. Whatever is wrong is one `BadInput` line that says what is allowed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeVar

from bgmagic.errors import BadInput
from bgmagic.submission.converters import Converter, to_choice, to_string, to_switch
from bgmagic.text import unreadable
from bgmagic.values import dataclass

S = TypeVar("S")

_KNOWN: dict[type[Any], tuple[Option, ...]] = {}  # a sweep asks once for each of its jobs


@dataclass(frozen=True)
class Option:
    """One option of a magic.

    Attributes:
        name: its name in Python, in `%config` and, in capitals after BGMAGIC_, in the environment.
        flags: how it is written in a header line; none for words without a flag.
        metavar: what it takes; "" for a switch, in brackets where it may be left out.
        help: one sentence.
        read: turns a value from anywhere into the setting, or raises BadInput with the given label.
        default: the setting where nothing is given.
        choices: the words it takes, if these are all.
        configurable: whether `%config` and the environment can set it.
        repeatable: whether it can be given more than once; the setting is a tuple then.
        variable: whether it takes the name of a variable and means its value.
        offered: words that completion offers; others may be allowed too.
    """

    name: str
    flags: tuple[str, ...]
    metavar: str
    help: str
    read: Converter
    default: Any
    choices: tuple[str, ...]
    configurable: bool
    repeatable: bool
    variable: bool
    offered: tuple[str, ...]

    @property
    def is_also_switch(self) -> bool:
        """Whether what it takes may be left out."""
        return self.metavar.startswith("[")

    @property
    def takes_variable(self) -> bool:
        """Whether what it takes is a variable's name, and no word of a list."""
        return not self.offered and (self.variable or self.metavar == "NAME")


def option(
    *flags: str,
    help: str,
    metavar: str = "",
    read: Converter | None = None,
    default: Any = None,
    choices: tuple[str, ...] = (),
    configurable: bool = False,
    repeatable: bool = False,
    variable: bool = False,
    offered: tuple[str, ...] = (),
) -> Any:
    """Declare an option as the field of a settings class."""
    converter = read or (to_choice(choices) if choices else to_string if metavar else to_switch)
    about: dict[str, Any] = {
        "flags": flags,
        "metavar": metavar or "|".join(choices),
        "help": help,
        "read": converter,
        "default": default,
        "choices": choices,
        "configurable": configurable,
        "repeatable": repeatable,
        "variable": variable,
        "offered": offered or choices,
    }
    return field(default=default, metadata=about)


def options(settings: type[Any]) -> tuple[Option, ...]:
    """The options of a settings class, in the order in which they are declared."""
    if settings not in _KNOWN:
        _KNOWN[settings] = tuple(Option(name=f.name, **f.metadata) for f in fields(settings))
    return _KNOWN[settings]


def read_option(settings: type[Any], name: str, value: Any, label: str) -> Any:
    """The setting that ``value`` means for the option ``name``.

    Raises:
        BadInput: it can't be that; the line begins with ``label``.
    """
    return _read(next(o for o in options(settings) if o.name == name), value, label)


def _read(option: Option, value: Any, label: str) -> Any:
    try:
        return option.read(value, label)
    except BadInput:
        raise
    except Exception as error:  # an object of the user's may do anything when it is looked at
        raise BadInput(unreadable(label, value, error)) from None


def resolve_settings(
    settings: type[S],
    given: Mapping[str, Any],
    *,
    config: Mapping[str, Any] | None = None,
    from_python: bool = False,
) -> S:
    """Read what is given and fill in the rest.

    Args:
        given: values by option name; None counts as not given.
        config: the values of `%config`, likewise.
        from_python: whether messages name keyword arguments instead of flags.

    Raises:
        BadInput: a value can't be what it is given for, wherever it comes from.
    """
    values, config, environ = {}, config or {}, environment()
    for option in options(settings):
        value, label = given.get(option.name), ""
        if value is None and option.configurable:
            value, label = configured(option.name, config, environ)
        if value is None:
            values[option.name] = option.default
        else:
            values[option.name] = _read(option, value, label or _label(option, from_python))
    return settings(**values)


def _label(option: Option, from_python: bool) -> str:
    return f"{option.name}=" if from_python or not option.flags else option.flags[-1]


def configured(
    name: str, config: Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> tuple[Any, str]:
    """The value that `%config`, or else the environment, has for ``name``, and its label.

    Args:
        environ: the environment's variables, if somebody has looked at them just now.

    Returns:
        the value as it stands there, None if it is unset; and what a message about it begins with.

    Raises:
        BadInput: the environment has it in quotes.
    """
    value = config.get(name)
    if value is not None:
        return value, f"BgMagics.{name} ="
    variable, there = f"BGMAGIC_{name.upper()}", os.environ if environ is None else environ
    if not there.get(variable):  # most are not set
        return None, variable
    from bgmagic.api.server import variable_of

    return variable_of(there, variable) or None, variable


# The variables as `os.environ` holds them, encoded, and as they read: both of the last look.
_newest: tuple[dict[Any, Any], dict[str, str]] = {}, {}


def environment() -> Mapping[str, str]:
    """The environment's variables as they are now.

    To ask `os.environ` for one that is not set takes 2 µs, and a submission asks for forty. So they
    are read when they are others than at the last look, which CPython's ``_data`` tells in 1 µs.
    """
    global _newest
    encoded = getattr(os.environ, "_data", None)
    if not isinstance(encoded, dict):  # another Python's, or not the system's
        return dict(os.environ)
    if encoded != _newest[0]:
        key, value = os.environ.decodekey, os.environ.decodevalue
        copied = encoded.copy()
        _newest = copied, {key(name): value(text) for name, text in copied.items()}
    return _newest[1]


def names(settings: type[Any]) -> tuple[str, ...]:
    """The options' names in Python."""
    return tuple(option.name for option in options(settings))
