"""Expressions of a prompt: compiled once, evaluated in Jinja's sandbox, and turned into text."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from bgmagic.errors import BadInput, BgmagicError
from bgmagic.jobs.job import Answer, Job
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
    return tuple(paths_in(source))


# The way from a name to what is used of it: indices, keys and attributes. () is all of it.
Path: TypeAlias = tuple[Any, ...]


@functools.lru_cache(maxsize=256)
def paths_in(source: str) -> Mapping[str, Sequence[Path]]:
    """What an expression uses of each of its names, in order: parts of ``g[0]`` and ``g['a']``."""
    if (alone := _variable(source)) is not None:
        return {alone: [()]}
    from jinja2 import nodes
    from jinja2.parser import Parser

    found: dict[str, list[Path]] = {}

    def visit(node: nodes.Node, path: Path) -> None:
        if isinstance(node, nodes.Name):
            found.setdefault(node.name, []).append(path)
        elif isinstance(node, nodes.Getattr):
            visit(node.node, (node.attr, *path))
        elif isinstance(node, nodes.Getitem) and (step := _step(node.arg)):
            visit(node.node, (*step, *path))
        else:
            for part in node.iter_child_nodes():
                visit(part, ())

    visit(Parser(_environment(), source, state="variable").parse_expression(), ())
    return found


def _step(index: Any) -> Path:
    """The literal that stands in brackets, or () for anything else."""
    from jinja2 import nodes

    if isinstance(index, nodes.Const):
        return (index.value,)
    if isinstance(index, nodes.Neg) and isinstance(index.node, nodes.Const):
        return (-index.node.value,) if isinstance(index.node.value, int) else ()
    if isinstance(index, nodes.Tuple):
        items = [step for item in index.items for step in _step(item)]
        return (tuple(items),) if len(items) == len(index.items) else ()
    if isinstance(index, nodes.Slice):
        ends = [(None,) if e is None else _step(e) for e in (index.start, index.stop, index.step)]
        return (slice(*(end for (end,) in ends)),) if all(ends) else ()
    return ()


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


# Jobs among the values.


MANY = 1_000_000  # values of one list among which jobs are looked for: it may have no end
DEEP = 4  # lists within lists within … in which jobs are looked for: a list may hold itself

# Types that hold no jobs: nearly all values of a long list.
LEAVES = frozenset({str, bytes, int, float, bool, type(None)})


def held_jobs(value: Any, deep: int = DEEP) -> Iterator[Job | Answer]:
    """The jobs in a value, and the answers that came of jobs."""
    # Told by the type: what stands for something else may raise where that is not there.
    if issubclass(type(value), Job | Answer):
        yield value
    elif deep:
        for part in parts_of(value):
            if type(part) not in LEAVES:
                yield from held_jobs(part, deep - 1)


def parts_of(value: Any) -> list[Any]:
    try:
        if isinstance(value, str):  # most are, and abstract classes take longer to say so
            return []
        if isinstance(value, list | tuple):
            return list(value)
        few = itertools.islice(value, MANY) if isinstance(value, Iterable) else ()
        if isinstance(value, Mapping):
            return [value[key] for key in few]  # a row's columns may be called `values`
        held = isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | range)
        return list(few) if held else []
    except Exception:  # an object of the user's, which will say so itself when it becomes text
        return []


def used_values(expression: Expression, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the expression uses of its values: ``{{ g[0] }}`` has no need of the other jobs of g."""
    paths = paths_in(expression.source)
    return {name: _kept(value, paths[name]) for name, value in values.items()}


def _kept(value: Any, paths: Sequence[Path]) -> Any:
    """Put None in place of what none of ``paths`` leads to, in a value that has jobs or answers."""
    if not paths:
        return None
    alone = issubclass(type(value), Job | Answer)
    if alone or () in paths or not any(True for _ in held_jobs(value)):
        return value
    left: dict[Any, list[Path]] = {}
    try:
        for step, *rest in paths:
            if isinstance(step, slice):
                left |= {place: [()] for place in range(len(value))[step]}
            else:
                place = step if isinstance(value, Mapping) else range(len(value))[step]
                left.setdefault(place, []).append(tuple(rest))
        if not isinstance(value, Mapping):
            parts = [_kept(part, left.get(place, [])) for place, part in enumerate(value)]
            return tuple(parts) if type(value) is tuple else parts
    except (TypeError, IndexError):  # a method of it, or nothing: what evaluates it says so
        return value
    keys = dict.fromkeys(value)
    if not left.keys() <= keys.keys():  # where "A" and "a" are one, say, "A" is in it and is no key
        return value
    return {key: _kept(value[key], left.get(key, [])) for key in keys}
