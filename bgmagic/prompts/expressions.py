"""Expressions of a prompt: compiled once, evaluated in Jinja's sandbox, and turned into text."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bgmagic.errors import BadInput, BgmagicError
from bgmagic.jobs.placeholder import rendering_prompt
from bgmagic.text import did_you_mean, kind_of, one_line
from bgmagic.values import dataclass

# What IPython itself puts into a notebook's namespace.
IPYTHON_NAMES = frozenset({"In", "Out", "get_ipython", "exit", "quit", "open", "_", "__", "___"})

# Python's own, as in the expressions of a notebook; everything else is a variable or a filter.
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "len": len, "str": str, "round": round, "sorted": sorted, "min": min, "max": max, "sum": sum,
}  # fmt: skip

# What stands for something else than a variable of that name, in Jinja or within its templates.
_TAKEN = frozenset(
    {"true", "false", "none", "True", "False", "None", "not", "and", "or", "in", "is", "if", "else"}
    | {"elif", "self", "super", "loop", "caller", "varargs", "kwargs"}
)

# Characters; the API takes about 10 million in a prompt.
MOST_TEXT = 50_000_000
RAW = "a literal {{ needs --raw"


@dataclass(frozen=True)
class Expression:
    """One ``{{ … }}``.

    Attributes:
        source: what stands between the braces.
        line: the line of the cell's text in which it begins, from 1.
    """

    source: str
    line: int

    @property
    def variable(self) -> str | None:
        """The one variable that it is, as most are; Jinja has nothing to do with it then."""
        return _variable(self.source)

    @property
    def place(self) -> str:
        """How a message names it."""
        return f"line {self.line}, {{{{ {one_line(self.source, 60)} }}}}"


def _variable(source: str) -> str | None:
    name = source.strip()
    return name if name.isidentifier() and name not in _TAKEN else None


@functools.cache
def _environment() -> Any:
    # Imported with the first expression of a kernel: it takes 50 ms.
    from bgmagic.prompts.sandbox import ReadingEnvironment

    return ReadingEnvironment(FUNCTIONS)


def compiled(expression: Expression) -> Callable[..., Any]:
    """What evaluates the expression, given its names as keyword arguments.

    Raises:
        BadInput: it is no expression.
    """
    import jinja2

    try:
        return _compile(expression.source)
    except jinja2.TemplateSyntaxError as error:
        about = f"{one_line(str(error.message), 200)}{_quoted_column(expression.source)}"
        raise BadInput(f"{expression.place}: this is no expression ({about}); {RAW}") from None
    except Exception as error:  # deep nesting, numbers of ten thousand digits, …
        raise BadInput(f"{expression.place}: this can't be read ({_why(error)}); {RAW}") from None


# A column's name of several words, or that begins with a digit, behind a dot.
_COLUMN = re.compile(r"\b([^\W\d]\w*)\.(\d\w*[^\W\d]\w*|\w+(?: +\w+)+)")


def _quoted_column(source: str) -> str:
    found = _COLUMN.search(source)
    return f"; a column of such a name is {found[1]}[{found[2]!r}]" if found else ""


@functools.lru_cache(maxsize=256)
def _compile(source: str) -> Callable[..., Any]:
    compiled: Callable[..., Any] = _environment().compile_expression(
        source, undefined_to_none=False
    )
    return compiled


@functools.lru_cache(maxsize=256)
def names_in(source: str) -> tuple[str, ...]:
    """The names that an expression uses, functions included, each once and in order."""
    if (alone := _variable(source)) is not None:
        return (alone,)
    import jinja2
    from jinja2.parser import Parser

    parsed = Parser(_environment(), source, state="variable").parse_expression()
    found = jinja2.nodes.Output([parsed]).find_all(jinja2.nodes.Name)
    return tuple(dict.fromkeys(node.name for node in found))


def lookup_names(expression: Expression, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """What the expression's names stand for; a variable comes before a function.

    Raises:
        BadInput: there is neither, or Jinja itself takes the name.
    """
    names = names_in(expression.source)
    if "self" in names:
        raise BadInput(f"{expression.place}: Jinja has a `self` of its own; take another name")
    missing = [name for name in names if name not in namespace and name not in FUNCTIONS]
    if missing:
        near = did_you_mean(missing[0], _visible(namespace))
        raise BadInput(
            f"{expression.place}: there is no variable {missing[0]!r} in this notebook{near}; {RAW}"
        )
    return {name: namespace[name] for name in names if name in namespace}


def _visible(namespace: Iterable[str]) -> list[str]:
    return [name for name in namespace if name[:1] != "_" and name not in IPYTHON_NAMES]


def evaluate(expression: Expression, values: Mapping[str, Any]) -> str:
    """What comes of the expression, as text.

    Raises:
        BadInput: it fails, or gives something that is no text.
    """
    from bgmagic.prompts.to_text import NoText, to_text  # many a prompt has no values

    filling = rendering_prompt.set(True)
    try:
        return _checked(to_text(_value(expression, values)))
    except NoText as error:
        where = f"{one_line(expression.source, 60)}{error.place}: " if error.place else ""
        raise BadInput(f"{expression.place}: {where}{one_line(error.why, 300)}") from None
    except Exception as error:
        message = one_line(str(error), 300) if _is_plain(error) else _why(error)
        raise BadInput(f"{expression.place}: {message}") from None
    finally:
        rendering_prompt.reset(filling)


def _value(expression: Expression, values: Mapping[str, Any]) -> Any:
    alone = expression.variable
    if alone is not None and alone in values:
        return values[alone]
    import jinja2

    value = compiled(expression)(**values)
    # Its text raises, and says what is undefined.
    return str(value) if isinstance(value, jinja2.Undefined) else value


def _is_plain(error: Exception) -> bool:
    """Whether its message says all, without the name of its class."""
    if isinstance(error, BgmagicError):
        return True
    import jinja2.exceptions

    return isinstance(error, jinja2.UndefinedError | jinja2.exceptions.SecurityError)


def _checked(text: Any) -> str:
    if not isinstance(text, str):
        raise BadInput(f"to_text gave {kind_of(text)}; it must give a str")
    if len(text) > MOST_TEXT:
        size, most = len(text) // 10**6, MOST_TEXT // 10**6
        raise BadInput(f"it is {size} MB of text; a prompt holds at most {most}")
    return text


def _why(error: Exception) -> str:
    about = one_line(str(error), 200)
    return f"{type(error).__name__}: {about}" if about else type(error).__name__
