"""The prompt as it stands in the cell, and what its ``{{ expressions }}`` become.

Text outside of them is never touched, a value that is put in never read again. An expression that
names a job which still runs stays a `Hole`; draft.py has it filled when the answers are there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bgmagic.answer import Answer
from bgmagic.errors import BadInput, readable
from bgmagic.inserting import as_text
from bgmagic.job import Job
from bgmagic.values import IPYTHONS, similar

# Python's own, as in the expressions of a notebook; everything else is a variable or a filter.
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "len": len, "str": str, "round": round, "sorted": sorted, "min": min, "max": max, "sum": sum,
}  # fmt: skip
_RAW = "a literal {{ needs --raw"
_TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[][(){}]""", re.DOTALL)


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
        return f"line {self.line}, {{{{ {readable(self.source, 60)} }}}}"


@dataclass(frozen=True)
class Hole:
    """An expression whose jobs are still running.

    Attributes:
        expression: the expression.
        jobs: what each of its names stands for, as JSON: ``{"job": key}``, ``{"text": …}`` or a
            list or dict of these.
    """

    expression: Expression
    jobs: Mapping[str, Any]

    def fill(self, answer_of: Callable[[str], Answer]) -> str:
        """The text that goes here.

        Args:
            answer_of: gives the answer of a job by its key.

        Raises:
            BadInput: the expression fails with these answers.
        """
        values = {name: _unbound(bound, answer_of) for name, bound in self.jobs.items()}
        return _text_of(self.expression, values)


@dataclass(frozen=True)
class Inserted:
    """What an expression became: for --dry-run."""

    expression: Expression
    text: str


@dataclass(frozen=True)
class Filled:
    """A prompt with everything in it that was there at submission.

    Attributes:
        pieces: text, and the holes that wait.
        needs: the running jobs that the holes wait for, each once.
        inserted: what each expression that is no hole became.
    """

    pieces: tuple[str | Hole, ...]
    needs: tuple[Job, ...] = ()
    inserted: tuple[Inserted, ...] = ()

    @property
    def text(self) -> str:
        """The prompt; a hole stands there as it was written."""
        return "".join(
            piece if isinstance(piece, str) else f"{{{{{piece.expression.source}}}}}"
            for piece in self.pieces
        )


@dataclass(frozen=True)
class Template:
    """A prompt's text and expressions, in order."""

    pieces: tuple[str | Expression, ...]

    def fill(self, namespace: Mapping[str, Any]) -> Filled:
        """Put the values of ``namespace`` in as they are now.

        Raises:
            BadInput: a name does not exist, an expression fails, a job in it ended without an
                answer, or an expression with a running job names something else as well.
        """
        pieces: list[str | Hole] = []
        needs: dict[str, Job] = {}
        inserted: list[Inserted] = []
        for piece in self.pieces:
            if isinstance(piece, str):
                pieces.append(piece)
                continue
            values = _values(piece, namespace)
            running = {job.record.key: job for value in values.values() for job in _open(value)}
            if running:
                needs |= running
                pieces.append(Hole(piece, {n: _bound(piece, n, v) for n, v in values.items()}))
            else:
                text = _text_of(piece, {n: _answered(piece, v) for n, v in values.items()})
                inserted.append(Inserted(piece, text))
                pieces.append(text)
        return Filled(tuple(pieces), tuple(needs.values()), tuple(inserted))


def literal(text: str) -> Filled:
    """``text`` as it is, with whatever braces it has."""
    return Filled((text,))


def compile_template(text: str) -> Template:
    """Find the expressions in ``text``.

    Raises:
        BadInput: a ``{{`` is not closed, or what follows it is no expression.
    """
    return Template(tuple(_pieces(text)))


def _pieces(text: str) -> Iterator[str | Expression]:
    at = 0
    while (begin := text.find("{{", at)) >= 0:
        if begin > at:
            yield text[at:begin]
        end, line = _end(text, begin + 2), text.count("\n", 0, begin) + 1
        if end is None:
            quoted = readable(text[begin : begin + 60])
            raise BadInput(f"line {line}, {quoted}: this {{{{ has no }}}}; {_RAW}")
        expression = Expression(text[begin + 2 : end], line)
        _compiled(expression)
        yield expression
        at = end + 2
    if at < len(text):
        yield text[at:]


def _end(text: str, begin: int) -> int | None:
    """Where the ``}}`` is that closes an expression; those in its own dicts and texts don't."""
    depth = 0
    for token in _TOKEN.finditer(text, begin):
        if token[0] in ("(", "[", "{"):
            depth += 1
        elif token[0] == "}" and depth == 0:
            return token.start() if text.startswith("}}", token.start()) else None
        elif token[0] in (")", "]", "}"):
            depth = max(depth - 1, 0)
    return None


# Expressions.


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


def _compiled(expression: Expression) -> Callable[..., Any]:
    import jinja2

    try:
        return _compile(expression.source)
    except jinja2.TemplateSyntaxError as error:
        about = readable(str(error.message), 200)
        raise BadInput(f"{expression.place}: this is no expression ({about}); {_RAW}") from None
    except Exception as error:  # deep nesting, numbers of ten thousand digits, …
        raise BadInput(f"{expression.place}: this can't be read ({_why(error)}); {_RAW}") from None


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


def _values(expression: Expression, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """What the expression's names stand for; a variable comes before a function."""
    names = _names(expression.source)
    missing = [name for name in names if name not in namespace and name not in FUNCTIONS]
    if missing:
        near = similar(missing[0], _visible(namespace))
        raise BadInput(
            f"{expression.place}: there is no variable {missing[0]!r} in this notebook{near}; "
            f"{_RAW}"
        )
    return {name: namespace[name] for name in names if name in namespace}


def _visible(namespace: Iterable[str]) -> list[str]:
    return [name for name in namespace if name[:1] != "_" and name not in IPYTHONS]


def _text_of(expression: Expression, values: Mapping[str, Any]) -> str:
    import jinja2.exceptions

    try:
        value = _compiled(expression)(**values)
        if isinstance(value, jinja2.Undefined):
            value = str(value)  # raises, and says what is undefined
        return as_text(value)
    except (BadInput, jinja2.UndefinedError, jinja2.exceptions.SecurityError) as error:
        raise BadInput(f"{expression.place}: {readable(str(error), 200)}") from None
    except Exception as error:
        raise BadInput(f"{expression.place}: {_why(error)}") from None


def _why(error: Exception) -> str:
    about = readable(str(error), 200)
    return f"{type(error).__name__}: {about}" if about else type(error).__name__


# Jobs among the values.


_DEEP = 4  # lists within lists within … in which jobs are looked for: a list may hold itself


def _open(value: Any, deep: int = _DEEP) -> list[Job]:
    """The jobs in a value that have not ended."""
    if isinstance(value, Job):
        return [] if value.done() else [value]
    return [job for part in _parts(value) for job in _open(part, deep - 1)] if deep else []


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    held = isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | range)
    return list(value) if held else []


def _bound(expression: Expression, name: str, value: Any, *, within: bool = False) -> Any:
    """What `name` stands for, as JSON that outlives the kernel.

    Args:
        within: whether it is a part of a list or dict.
    """
    if isinstance(value, Job) and value.done():
        value = _answered(expression, value)
    if isinstance(value, Job):
        return {"job": value.record.key}
    if isinstance(value, Answer):
        return {"job": value.job.record.key} if value.job else {"text": str(value)}
    if isinstance(value, str) and within:
        return {"text": value}
    parts = _parts(value)
    bound = [_bound(expression, name, part, within=True) for part in parts]
    if parts and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": dict(zip(value, bound, strict=True))}
    if parts and not isinstance(value, Mapping):
        return {"list": bound}
    raise BadInput(
        f"{expression.place}: it has to wait for a job, so everything else in it must be a literal "
        f"or a filter; give {name} braces of its own"
    )


def _unbound(bound: Any, answer_of: Callable[[str], Answer]) -> Any:
    if "job" in bound:
        return answer_of(bound["job"])
    if "text" in bound:
        return bound["text"]
    if "list" in bound:
        return [_unbound(item, answer_of) for item in bound["list"]]
    return {key: _unbound(item, answer_of) for key, item in bound["dict"].items()}


def _answered(expression: Expression, value: Any, deep: int = _DEEP) -> Any:
    """``value`` with the answers of its jobs in their places; all have ended."""
    if isinstance(value, Job):
        if value.error is not None:
            name = value.name or "a job in it"
            raise BadInput(
                f"{expression.place}: {name} is {value.status} and has no answer: {value.error}"
            )
        return value.result(0)
    if not deep or not any(isinstance(part, Job) or _parts(part) for part in _parts(value)):
        return value
    if isinstance(value, Mapping):
        return {key: _answered(expression, item, deep - 1) for key, item in value.items()}
    return [_answered(expression, item, deep - 1) for item in value]
