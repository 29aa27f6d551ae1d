"""Parses the header line of a magic: words, flags and variables; writes the help of its options.

Also finds what was typed below it.

Splitting follows the shell, since that is what people type, but for the backslashes of paths and of
LaTeX: see `split_words`.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import os
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bgmagic.errors import BadInput
from bgmagic.prompts.expressions import IPYTHON_NAMES
from bgmagic.submission.converters import LineText, to_metadata, to_pairs, to_swept
from bgmagic.submission.options import Option, options
from bgmagic.text import UnescapedText, did_you_mean


def parse_line(
    settings: type[Any], magic: str, line: str, namespace: Mapping[str, Any]
) -> dict[str, Any]:
    """Parse a header line.

    A value that is exactly ``$name`` or ``{name}`` is replaced by that variable's value; nothing
    else is expanded.

    Args:
        magic: the magic's name, as in ``%%bgresponse``, for the messages.
        namespace: the notebook's variables.

    Returns:
        the values of the line, by option name, not yet converted.

    Raises:
        BadInput: the line can't be understood, or names a variable that does not exist.
    """
    found, rest = _split(settings, magic, line)
    if rest:
        raise BadInput(_unknown_word(rest[0], settings, magic))
    given: dict[str, Any] = {}
    for option in options(settings):
        if option.name in found:
            given[option.name] = _looked_up(option, found[option.name], namespace)
    return given


def _split(settings: type[Any], magic: str, line: str) -> tuple[dict[str, Any], list[str]]:
    words = split_words(line)
    try:
        found, rest = _parser(settings, magic).parse_known_intermixed_args(words)
    except argparse.ArgumentError as error:
        raise BadInput(_usage(settings, error)) from None
    return vars(found), rest


# What IPython takes off the lines of any cell, also a magic's, in which one begins with ``>>>``.
_PROMPT = re.compile(r"\s*(?:>>>|\.{3,}:?|(?:\[\w+\] | )?In \[\d+\]:)?[ \t]*")


def as_typed(cell: str, raw: str) -> str:
    """The body of a cell as it was typed, with the prompts of a session that IPython took off.

    Args:
        cell: the body as IPython gives it to a magic.
        raw: the whole cell that ran last; line breaks at its end don't matter.

    Returns:
        ``cell`` where it is not what ``raw`` ends with, as where code calls the magic.
    """
    lines, typed = cell.split("\n"), _up_to_last_word(raw)
    margin = re.match(r"(?:[ \t]*\n)*([ \t]*)", raw)
    # A prompt without a word after it is a blank line by now, at the end too.
    for count in range(min(len(lines), len(typed)), 0, -1):
        told = _with_prompts(lines[:count], typed[-count:], margin[1] if margin else "")
        if told is not None:
            return "\n".join(told + lines[count:])
    return cell


def _with_prompts(given: list[str], typed: list[str], margin: str) -> list[str] | None:
    """The lines ``given`` with their prompts in ``typed``; None if they differ otherwise."""
    told = []
    for line, after in zip(typed, given, strict=True):
        before = line.removeprefix(margin)
        taken = before.removesuffix(after)
        if not before.strip() and not after.strip():
            told.append(after)
        elif before.endswith(after) and _PROMPT.fullmatch(taken):
            told.append(before)
        else:
            return None
    return told


def _up_to_last_word(text: str) -> list[str]:
    """Its lines without the blank ones at the end."""
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


# Outside quotes a backslash is a part of a path on Windows; elsewhere it escapes what follows.
BACKSLASH_STAYS = os.name == "nt"

_PIECE = re.compile(
    r"""'(?P<single>[^']*)' | "(?P<double>(?:\\.|[^"\\])*)" | \\(?P<escaped>.) | [^'"]""",
    re.DOTALL | re.VERBOSE,
)


def split_words(line: str) -> list[str]:
    r"""The words of a line, without their quotes.

    In double quotes ``\"`` is a quote and every other backslash stays, also of two. Outside quotes
    one escapes what follows, but on Windows.

    Raises:
        BadInput: a quote is not closed.
    """
    words: list[str] = []
    place = 0
    while place < len(line):
        if line[place].isspace():
            place += 1
            continue
        word, place = _word(line, place)
        words.append(word)
    return words


def _word(line: str, begin: int) -> tuple[str, int]:
    """The word that begins there, and where it ends."""
    place, word, escaped = begin, "", False
    while place < len(line) and not line[place].isspace():
        found = _PIECE.match(line, place)
        if found is None:
            raise BadInput(
                f'a quote is not closed in: {line.strip()} — quote text like -i "don\'t be long"'
            )
        kind, text = found.lastgroup, found[0]
        if kind == "escaped" and BACKSLASH_STAYS:
            text = "\\"
            place += 1
        else:
            place = found.end()
            escaped = escaped or kind == "escaped"
            inner = found[kind] if kind else text
            text = inner.replace('\\"', '"') if kind == "double" else inner
        word += text
    if not escaped:
        return word, place
    told = UnescapedText(word)
    told.written = line[begin:place]
    return told, place


_parsers: dict[str, argparse.ArgumentParser] = {}  # by magic: making one takes 2 ms of a cell


def _parser(settings: type[Any], magic: str) -> argparse.ArgumentParser:
    if magic not in _parsers:
        _parsers[magic] = _new_parser(settings, magic)
    return _parsers[magic]


def _new_parser(settings: type[Any], magic: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=magic,
        usage=magic,  # never shown; without one each parsing writes it anew, in 1 ms
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
        # Each option makes one, which would else ask the terminal for its width.
        formatter_class=functools.partial(argparse.HelpFormatter, width=80),
    )
    for option in options(settings):
        if not option.flags:
            parser.add_argument(option.name, nargs="*", default=argparse.SUPPRESS)
        elif not option.metavar:
            parser.add_argument(
                *option.flags, dest=option.name, action="store_true", default=argparse.SUPPRESS
            )
        else:
            action = "append" if option.repeatable else "store"
            # A value alone, or the word that is there: None stands for one.
            about: dict[str, Any] = {"nargs": "?", "const": True} if option.is_also_switch else {}
            parser.add_argument(
                *option.flags, dest=option.name, action=action, default=argparse.SUPPRESS, **about
            )
    return parser


def _usage(settings: type[Any], error: argparse.ArgumentError) -> str:
    flags = (error.argument_name or "").split("/")
    for option in options(settings):
        if set(flags) & set(option.flags):
            takes = f"{option.flags[-1]} {option.metavar}".strip()
            return f"{flags[-1]}: {error.message}; write {takes}: {option.help}"
    return str(error)


def _unknown_word(word: str, settings: type[Any], magic: str) -> str:
    flags = [option.flags[-1] for option in options(settings) if option.flags]
    every = [flag for option in options(settings) for flag in option.flags]
    if word.startswith("-"):
        near = did_you_mean(word.partition("=")[0], every)
        return f"{magic} has no option {word}{near}; it has {' '.join(flags) or 'none'}"
    if "--out" in flags and word.isidentifier():
        return f"{word!r} has no flag before it: did you mean `-o {word}`? Text goes in quotes"
    return f'{word!r} has no flag before it; text with spaces goes in quotes, as in -i "a b"'


_REFERENCE = re.compile(r"\$([^\W\d]\w*)|\{([^\W\d]\w*)\}")


def _looked_up(option: Option, value: Any, namespace: Mapping[str, Any]) -> Any:
    """Replace the variables that ``value`` names by their values."""
    label = option.flags[-1] if option.flags else option.name
    if option.read in (to_pairs, to_swept, to_metadata):
        return tuple(_pair(text, namespace, label) for text in value)
    if isinstance(value, list):
        return tuple(_looked_up(option, word, namespace) for word in value)
    if not isinstance(value, str):
        return value
    named = _REFERENCE.fullmatch(value)
    name = (named[1] or named[2]) if named else value if option.variable else None
    return value if name is None else _variable(name, namespace, label)


def _pair(text: str, namespace: Mapping[str, Any], label: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        examples = {"--sweep": "effort=low,high", "--metadata": "run=pilot"}
        example = examples.get(label, "reasoning.summary=auto")
        raise BadInput(f"{label} {text!r}: write KEY=VALUE, as in {label} {example}")
    named = _REFERENCE.fullmatch(value)
    return key, _variable(named[1] or named[2], namespace, label) if named else LineText(value)


def _variable(name: str, namespace: Mapping[str, Any], label: str) -> Any:
    if name not in namespace:
        near = did_you_mean(
            name, [key for key in namespace if key[:1] != "_" and key not in IPYTHON_NAMES]
        )
        raise BadInput(f"{label}: there is no variable {name!r} in this notebook{near}")
    return namespace[name]


_COLUMN = 28  # where the help of an option begins; a longer heading has its own line


def options_help(settings: type[Any]) -> str:
    """Write the options as a table in plain text, of at most 100 columns."""
    lines = []
    for option in options(settings):
        heading, text = _heading(option), option.help + _default(option)
        first = f"  {heading:<{_COLUMN - 2}}"
        if len(heading) > _COLUMN - 4:
            lines.append(first)
            first = ""
        lines += textwrap.wrap(
            text,
            100,
            initial_indent=f"{first:<{_COLUMN}}",
            subsequent_indent=" " * _COLUMN,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _heading(option: Option) -> str:
    return " ".join(word for word in (", ".join(option.flags), option.metavar) if word)


def _default(option: Option) -> str:
    shown = isinstance(option.default, str)
    return f" ({option.default})" if shown else " (server's default)" if option.choices else ""


F = TypeVar("F", bound=Callable[..., Any])


def with_options_help(settings: type[Any]) -> Callable[[F], F]:
    """Have `help_of` append the options to a magic's help, which Shift+Tab and ``?`` show."""

    def document(function: F) -> F:
        function.__dict__["settings"] = settings
        return function

    return document


def help_of(magic: Callable[..., Any]) -> str:
    """The help of a magic with its options, put together as somebody asks for it."""
    # Before Python 3.13 a docstring has the indentation of the code.
    text = inspect.cleandoc(magic.__doc__ or "")
    settings = getattr(magic, "settings", None)
    return text if settings is None else f"{text}\n\nOptions:\n{options_help(settings)}\n"
