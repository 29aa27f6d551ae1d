"""The prompt as it stands in the cell, and what its ``{{ expressions }}`` become.

Text outside of them is never touched, a value that is put in never read again. An expression that
names a job which still runs stays a `Hole`; draft.py has it filled when the answers are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bgmagic.answer import Answer
from bgmagic.errors import BadInput, readable
from bgmagic.expressions import RAW, Expression, compiled, text_of, values_of
from bgmagic.job import Job
from bgmagic.values import kind_of

_TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[][(){}]""", re.DOTALL)


@dataclass(frozen=True)
class Hole:
    """An expression whose jobs are still running.

    Attributes:
        expression: the expression.
        jobs: what each of its names stands for, as JSON: ``{"job": key}``, ``{"text": …}`` (or a
            number in its place) or a list or dict of these.
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
        return text_of(self.expression, values)


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

    def fill(self, namespace: Mapping[str, Any], *, waiting: bool = False) -> Filled:
        """Put the values of ``namespace`` in as they are now.

        Args:
            waiting: whether the prompt has to wait for a job anyway.

        Raises:
            BadInput: a name does not exist, an expression fails, a job in it ended without an
                answer, or an expression with a running job names something else as well.
        """
        values = {p: values_of(p, namespace) for p in self.pieces if isinstance(p, Expression)}
        needs = {job.record.key: job for found in values.values() for job in _running(found)}
        pieces: list[str | Hole] = []
        inserted: list[Inserted] = []
        for piece in self.pieces:
            if isinstance(piece, str):
                pieces.append(piece)
                continue
            # With one hole, whatever comes from jobs is one: the draft of a prompt is the same
            # then, however many of its jobs have ended since, and so is known again.
            put = _fill(piece, values[piece], hole=bool(needs) or waiting)
            pieces.append(put)
            if isinstance(put, str):
                inserted.append(Inserted(piece, put))
        return Filled(tuple(pieces), tuple(needs.values()), tuple(inserted))


def _fill(expression: Expression, values: Mapping[str, Any], *, hole: bool) -> str | Hole:
    if hole and any(True for value in values.values() for _ in _held(value)):
        try:
            return Hole(expression, {n: _bound(expression, n, v) for n, v in values.items()})
        except BadInput:
            if _running(values):
                raise
    return text_of(expression, {n: _answered(expression, v) for n, v in values.items()})


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
            raise BadInput(f"line {line}, {quoted}: this {{{{ has no }}}}; {RAW}")
        expression = Expression(text[begin + 2 : end], line)
        compiled(expression)
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


# Jobs among the values.


_DEEP = 4  # lists within lists within … in which jobs are looked for: a list may hold itself
# What holds no jobs, by its very type: nearly all that is in a long list.
_LEAVES = frozenset({str, bytes, int, float, bool, type(None)})


def _running(values: Mapping[str, Any]) -> list[Job]:
    found = (held for value in values.values() for held in _held(value))
    return [held for held in found if isinstance(held, Job) and not held.done()]


def _held(value: Any, deep: int = _DEEP) -> Iterator[Job | Answer]:
    """The jobs in a value, and the answers that came of jobs."""
    if isinstance(value, Job | Answer):
        yield value
    elif deep:
        for part in _parts(value):
            if type(part) not in _LEAVES:
                yield from _held(part, deep - 1)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, str):  # most are, and abstract classes take longer to say so
        return []
    try:
        if isinstance(value, Mapping):
            return [value[key] for key in value]  # a row's columns may be called `values`
        held = isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | range)
        return list(value) if held else []
    except Exception:  # an object of the user's, which will say so itself when it becomes text
        return []


def _bound(expression: Expression, name: str, value: Any, deep: int = _DEEP) -> Any:
    """What `name` stands for, as JSON that outlives the kernel.

    Args:
        deep: how many lists and dicts within each other are still looked into; less than at first
            for a part of one.
    """
    if isinstance(value, Job) and value.done():
        value = _answered(expression, value)
    if isinstance(value, Job):
        return {"job": value.record.key}
    if isinstance(value, Answer):
        return {"job": value.job.record.key} if value.job else {"text": str(value)}
    within = deep < _DEEP
    if within and (isinstance(value, str) or type(value) in _LEAVES - {bytes}):
        return {"text": value}
    parts = _parts(value)
    if (parts or (within and isinstance(value, list | tuple | dict))) and deep:
        bound = [_bound(expression, name, part, deep - 1) for part in parts]
        if not isinstance(value, Mapping):
            return {"list": bound}
        if all(isinstance(key, str) for key in value):
            return {"dict": dict(zip(value, bound, strict=True))}
    if within or any(True for _ in _held(value)):
        raise BadInput(
            f"{expression.place}: {name} has a job that still runs in it, beside or within "
            f"{kind_of(value)}; it may have text, numbers, and lists and dicts of them there"
        )
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
    if not any(isinstance(held, Job) for held in _held(value, deep)):
        return value
    if isinstance(value, Mapping):
        return {key: _answered(expression, value[key], deep - 1) for key in value}
    return [_answered(expression, item, deep - 1) for item in value]
