"""Expressions of a prompt: compiled once, evaluated in Jinja's sandbox, and formatted as text."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView, Sequence, Set
from dataclasses import dataclass
from typing import Any, cast

from bgmagic.errors import BadInput, BgmagicError
from bgmagic.jobs.placeholder import rendering_prompt
from bgmagic.text import did_you_mean, kind_of, one_line

# What IPython itself puts into a notebook's namespace.
IPYTHON_NAMES = frozenset({"In", "Out", "get_ipython", "exit", "quit", "open", "_", "__", "___"})

# Longer items, or those of several lines, are marked off instead of standing in a list.
SHORT = 200


def format_value(value: Any) -> str:
    """``value`` as text.

    - text as it is; numbers, dates and the like as ``str`` gives them
    - a DataFrame or Series (pandas, polars) as CSV, with its index where that says something
    - a list, tuple or set of short values as lines that begin with ``- ``, of longer texts as
      ``<item 1> … </item 1>``
    - a dict, a dataclass, a Pydantic model, an array, a list of such as JSON

    Raises:
        BadInput: it has no text of its own, as a function or bytes have none.
    """
    if isinstance(value, str):
        return str(value)
    table = _csv(value)
    if table is not None:
        return table
    listed: Any = isinstance(value, Iterator | MappingView)  # what filters and dict methods give
    plain = _plain(list(value) if listed else value)
    if isinstance(plain, list):
        return _lines(plain)
    return _json(plain) if isinstance(plain, dict) else _word(plain)


def _csv(value: Any) -> str | None:
    # By what they can do: importing pandas to ask for its types would take half a second.
    if callable(getattr(value, "write_csv", None)) and hasattr(value, "columns"):  # polars
        return str(value.write_csv())
    if not callable(getattr(value, "to_csv", None)) or not hasattr(value, "index"):
        return None
    index = value.index
    counted = type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1
    if type(value).__name__ == "Series" and value.name is None:
        return str(value.to_csv(index=not counted, header=False))
    return str(value.to_csv(index=not counted))


def _plain(value: Any) -> Any:
    """``value`` as lists, dicts and single values."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        names = [str(key) for key in value]
        if len(set(names)) < len(names):  # 1 and "1" are two
            names = [repr(key) for key in value]
        return {name: _plain(value[key]) for name, key in zip(names, value, strict=True)}
    if isinstance(value, Set):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    for name in ("model_dump", "tolist", "to_list"):  # Pydantic; arrays; columns
        method = None if isinstance(value, type) else getattr(value, name, None)
        if callable(method):
            return _plain(method())
    table = _csv(value)
    return _word(value) if table is None else table


def _word(value: Any) -> str:
    if callable(getattr(value, "savefig", None)):
        raise BadInput(f"{kind_of(value)} has no text of its own; --file $NAME attaches an image")
    if not callable(value) and not isinstance(value, bytes | bytearray | memoryview):
        text, kind = str(value), cast("Any", type(value))
        # Images, modules, coroutines: what Python itself shows of them tells a model nothing.
        if kind.__str__ is not object.__str__ or not re.fullmatch("<.*>", text, re.DOTALL):
            return text
    raise BadInput(f"{kind_of(value)} has no text of its own; turn it into text first")


def _lines(items: list[Any]) -> str:
    if any(isinstance(item, list | dict) for item in items):
        return _json(items)
    texts = [item if isinstance(item, str) else _word(item) for item in items]
    if all(len(text) <= SHORT and len(text.splitlines()) == 1 for text in texts):
        return "\n".join(f"- {text}" for text in texts)
    marked = (f"<item {n}>\n{text}\n</item {n}>" for n, text in enumerate(texts, 1))
    return "\n".join(marked)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


# Python's own, as in the expressions of a notebook; everything else is a variable or a filter.
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "len": len, "str": str, "round": round, "sorted": sorted, "min": min, "max": max, "sum": sum,
}  # fmt: skip

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
    def place(self) -> str:
        """How a message names it."""
        return f"line {self.line}, {{{{ {one_line(self.source, 60)} }}}}"


@functools.cache
def _environment() -> Any:
    # Imported with the first expression of a kernel: it takes 50 ms.
    import json

    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    made = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    made.globals.clear()
    made.globals.update(FUNCTIONS)
    # Jinja's own escapes for HTML, which is not what a model should read.
    made.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    return made


def compiled(expression: Expression) -> Callable[..., Any]:
    """What evaluates the expression, given its names as keyword arguments.

    Raises:
        BadInput: it is no expression.
    """
    import jinja2

    try:
        return _compile(expression.source)
    except jinja2.TemplateSyntaxError as error:
        about = one_line(str(error.message), 200)
        raise BadInput(f"{expression.place}: this is no expression ({about}); {RAW}") from None
    except Exception as error:  # deep nesting, numbers of ten thousand digits, …
        raise BadInput(f"{expression.place}: this can't be read ({_why(error)}); {RAW}") from None


@functools.lru_cache(maxsize=256)
def _compile(source: str) -> Callable[..., Any]:
    compiled: Callable[..., Any] = _environment().compile_expression(
        source, undefined_to_none=False
    )
    return compiled


@functools.lru_cache(maxsize=256)
def _names(source: str) -> tuple[str, ...]:
    """The names that an expression uses, functions included, each once and in order."""
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
    names = _names(expression.source)
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
    import jinja2.exceptions

    filling = rendering_prompt.set(True)
    try:
        value = compiled(expression)(**values)
        if isinstance(value, jinja2.Undefined):
            value = str(value)  # raises, and says what is undefined
        return format_value(value)
    except (BgmagicError, jinja2.UndefinedError, jinja2.exceptions.SecurityError) as error:
        raise BadInput(f"{expression.place}: {one_line(str(error), 300)}") from None
    except Exception as error:
        raise BadInput(f"{expression.place}: {_why(error)}") from None
    finally:
        rendering_prompt.reset(filling)


def _why(error: Exception) -> str:
    about = one_line(str(error), 200)
    return f"{type(error).__name__}: {about}" if about else type(error).__name__
