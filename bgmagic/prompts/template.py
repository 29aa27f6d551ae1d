"""A prompt with expressions: compiled, rendered, or kept partial until jobs have answered.

A `PartialPrompt` is kept as JSON, so that it outlives the kernel: the text with its pending
expressions, and the job whose conversation comes before it.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from bgmagic.api.request import Request, check_text
from bgmagic.api.server import ServerConfig
from bgmagic.errors import BadInput
from bgmagic.jobs.job import Answer, Job
from bgmagic.prompts.expressions import (
    DEEP,
    LEAVES,
    RAW,
    Expression,
    compiled,
    evaluate,
    held_jobs,
    lookup_names,
    names_in,
    parts_of,
    used_values,
)
from bgmagic.text import kind_of, one_line
from bgmagic.values import dataclass

_TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[][(){}]""", re.DOTALL)


@dataclass(frozen=True)
class PendingExpression:
    """An expression whose jobs are still running.

    Attributes:
        expression: the expression.
        jobs: what each of its names stands for, as JSON: ``{"job": key}``, ``{"text": …}`` (or a
            number in its place) or a list or dict of these.
    """

    expression: Expression
    jobs: Mapping[str, Any]

    def fill(self, answer_of: Callable[[str], Answer]) -> str:
        """Evaluate the expression with the answers of its jobs.

        Args:
            answer_of: gives the answer of a job by its key.

        Raises:
            BadInput: the expression fails with these answers.
        """
        values = {name: _unbound(bound, answer_of) for name, bound in self.jobs.items()}
        return evaluate(self.expression, values)


@dataclass(frozen=True)
class Substitution:
    """An expression and the text that it became, for --dry-run."""

    expression: Expression
    text: str


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt with all values that were there at submission.

    Attributes:
        pieces: text, and the expressions that are pending.
        needs: the running jobs that these wait for, each once.
        inserted: the text of each expression that is not pending.
    """

    pieces: tuple[str | PendingExpression, ...]
    needs: tuple[Job, ...] = ()
    inserted: tuple[Substitution, ...] = ()

    @property
    def text(self) -> str:
        """The prompt; a pending expression stands there as it was written."""
        return "".join(
            piece if isinstance(piece, str) else f"{{{{{piece.expression.source}}}}}"
            for piece in self.pieces
        )


@dataclass(frozen=True)
class Template:
    """A prompt's text and expressions, in order."""

    pieces: tuple[str | Expression, ...]

    def render(self, namespace: Mapping[str, Any], *, waiting: bool = False) -> RenderedPrompt:
        """Put the values of ``namespace`` in as they are now.

        Args:
            waiting: whether the prompt has to wait for a job anyway.

        Raises:
            BadInput: a name does not exist, an expression fails, a job in it ended without an
                answer, or an expression with a running job names something else as well.
        """
        expressions = [piece for piece in self.pieces if isinstance(piece, Expression)]
        values = {one: used_values(one, lookup_names(one, namespace)) for one in expressions}
        needs = {job.record.key: job for found in values.values() for job in _running(found)}
        pieces: list[str | PendingExpression] = []
        inserted: list[Substitution] = []
        for piece in self.pieces:
            if isinstance(piece, str):
                pieces.append(piece)
                continue
            # If any expression has to wait, all with jobs are kept pending, also those whose jobs
            # have ended. The fingerprint then does not depend on which of them ended first, so a
            # cell that is run again is recognised.
            put = _fill(piece, values[piece], pending=bool(needs) or waiting)
            pieces.append(put)
            if isinstance(put, str):
                inserted.append(Substitution(piece, put))
        return RenderedPrompt(tuple(pieces), tuple(needs.values()), tuple(inserted))

    def settled(self, namespace: Mapping[str, Any], name: str) -> tuple[Template, dict[str, Any]]:
        """Render all but the expressions that name ``name``; gives also what else these name.

        Raises:
            BadInput: as `render` does.
        """
        pieces: list[str | Expression] = []
        left: dict[str, Any] = {}
        for piece in self.pieces:
            if isinstance(piece, str):
                pieces.append(piece)
            elif name in names_in(piece.source):
                pieces.append(piece)
                left |= lookup_names(piece, namespace)
            else:
                pieces.append(Template((piece,)).render(namespace).text)
        left.pop(name, None)
        return Template(tuple(pieces)), left


def render_prompt(
    text: str, namespace: Mapping[str, Any] | None, *, waiting: bool = False
) -> RenderedPrompt:
    """The prompt that ``text`` becomes with the values of ``namespace`` as they are now.

    Args:
        namespace: what its expressions name; None takes the text as it is, braces and all.
        waiting: whether the prompt has to wait for a job anyway.

    Raises:
        BadInput: as `compile_template` and `Template.render` do.
    """
    if namespace is None:
        return RenderedPrompt((text,))
    return compile_template(text).render(namespace, waiting=waiting)


def _fill(
    expression: Expression, values: Mapping[str, Any], *, pending: bool
) -> str | PendingExpression:
    if pending and any(True for value in values.values() for _ in held_jobs(value)):
        try:
            return PendingExpression(
                expression, {n: _bound(expression, n, v) for n, v in values.items()}
            )
        except BadInput:
            if _running(values):
                raise
    return evaluate(expression, {n: _answered(expression, v) for n, v in values.items()})


@functools.lru_cache(maxsize=4)  # a sweep asks once for each of its jobs
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
            quoted = one_line(text[begin : begin + 60])
            raise BadInput(f"line {line}, {quoted}: this {{{{ has no }}}}; {RAW}")
        expression = Expression(text[begin + 2 : end], line)
        if expression.variable is None:
            compiled(expression)
        yield expression
        at = end + 2
    if at < len(text):
        yield text[at:]


def _end(text: str, begin: int) -> int | None:
    """Find the ``}}`` that closes an expression; those in its own dicts and texts don't."""
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


def _running(values: Mapping[str, Any]) -> list[Job]:
    found = (held for value in values.values() for held in held_jobs(value))
    return [held for held in found if isinstance(held, Job) and not held.done()]


def _bound(expression: Expression, name: str, value: Any, deep: int = DEEP) -> Any:
    """Make JSON, which outlives the kernel, of what `name` stands for.

    Args:
        deep: levels of lists and dicts within each other that are still looked into.
    """
    if isinstance(value, Job) and value.done():
        value = _answered(expression, value)
    if isinstance(value, Job):
        return {"job": value.record.key}
    if isinstance(value, Answer):
        return {"job": value.job.record.key} if value.job else {"text": str(value)}
    within = deep < DEEP
    if within and (isinstance(value, str) or type(value) in LEAVES - {bytes}):
        return {"text": value}
    parts = parts_of(value)
    if (parts or (within and isinstance(value, list | tuple | dict))) and deep:
        bound = [_bound(expression, name, part, deep - 1) for part in parts]
        if not isinstance(value, Mapping):
            return {"list": bound}
        if all(isinstance(key, str) for key in value):
            return {"dict": dict(zip(value, bound, strict=True))}
    if within or any(True for _ in held_jobs(value)):
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


def _answered(expression: Expression, value: Any, deep: int = DEEP) -> Any:
    """Replace the jobs in ``value``, all of which have ended, by their answers."""
    if issubclass(type(value), Job):
        if value.error is not None:
            name = value.name or "a job in it"
            raise BadInput(
                f"{expression.place}: {name} is {value.status} and has no answer: {value.error}"
            )
        return value.result(0)
    if not any(isinstance(held, Job) for held in held_jobs(value, deep)):
        return value
    if isinstance(value, Mapping):
        return {key: _answered(expression, value[key], deep - 1) for key in value}
    return [_answered(expression, item, deep - 1) for item in value]


@dataclass(frozen=True)
class PartialPrompt:
    """A prompt with pending expressions, or after a conversation whose last turn still runs.

    Attributes:
        text: JSON text of an object with ``pieces``, the prompt's text and pending expressions in
            order, and ``continues``, the key of the job whose conversation comes before, or null;
            ``whole`` where all of its turns are to be sent.
    """

    text: str

    @classmethod
    def of(
        cls, filled: RenderedPrompt, continues: str | None, *, by_previous: bool = True
    ) -> PartialPrompt:
        """Make the partial prompt of ``filled``, after the conversation of the job ``continues``.

        Args:
            by_previous: whether the server may be told that job's response instead of all turns.

        Raises:
            BadInput: a text in it can't be sent.
        """
        pieces = [
            piece if isinstance(piece, str) else _pending_as_json(piece) for piece in filled.pieces
        ]
        fields = {"pieces": pieces, "continues": continues}
        whole = {} if by_previous else {"whole": True}
        text = json.dumps(fields | whole, ensure_ascii=False)
        check_text(text)
        return cls(text)

    @cached_property
    def _parts(self) -> tuple[tuple[str | PendingExpression, ...], str | None]:
        found = json.loads(self.text)
        pieces = (
            piece if isinstance(piece, str) else _pending_from_json(piece)
            for piece in found["pieces"]
        )
        return tuple(pieces), found["continues"]

    @property
    def by_previous(self) -> bool:
        """Whether the server may be told the response before it, instead of all turns."""
        return not json.loads(self.text).get("whole", False)

    @property
    def continues(self) -> str | None:
        """The key of the job whose conversation comes before it."""
        return self._parts[1]

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys of the jobs whose answers it needs, each once."""
        pieces, continues = self._parts
        found = [
            key
            for piece in pieces
            if isinstance(piece, PendingExpression)
            for key in _job_keys(piece.jobs)
        ]
        return tuple(dict.fromkeys([*([continues] if continues else []), *found]))

    def with_resent_jobs(self, newest: Callable[[str], str]) -> PartialPrompt:
        """Replace the jobs that it needs by those that were sent again in their places."""
        text = self.text
        for key in self.needs:
            text = text.replace(json.dumps(key), json.dumps(newest(key)))  # keys are random
        return PartialPrompt(text)

    def complete(
        self,
        request: Request,
        answer_of: Callable[[str], Answer],
        server: ServerConfig | None = None,
    ) -> Request:
        """The request that is to be sent.

        Args:
            request: the request so far: its last message has the pending expressions as written.
            answer_of: gives the answer of each job in `needs`.
            server: where it is going to be sent, if it is.

        Raises:
            BadInput: an expression fails with these answers, or nothing is left of the prompt.
        """
        pieces, continues = self._parts
        text = "".join(p if isinstance(p, str) else p.fill(answer_of) for p in pieces)
        if not text.strip():
            raise BadInput("the prompt is empty: nothing came of its expressions")
        body = request.body
        asked = next(part for part in body["input"][-1]["content"] if part["type"] == "input_text")
        asked["text"] = text
        if continues is not None:
            earlier = answer_of(continues)
            body["input"] = [*earlier.conversation, *body["input"]]
            if earlier.instructions is not None:
                body.setdefault("instructions", earlier.instructions)
        previous = None
        if continues is not None and server is not None and self.by_previous:
            previous = earlier._previous(server.name, time.time())
        return request.with_body(body, previous, server)


def _pending_as_json(pending: PendingExpression) -> dict[str, Any]:
    expression = pending.expression
    return {"source": expression.source, "line": expression.line, "jobs": dict(pending.jobs)}


def _pending_from_json(found: dict[str, Any]) -> PendingExpression:
    return PendingExpression(Expression(found["source"], found["line"]), found["jobs"])


def _job_keys(bound: Any) -> Iterator[str]:
    """Find the keys of the jobs in the names of a pending expression."""
    for kind, value in bound.items():
        if kind == "job" and isinstance(value, str):
            yield value
        elif kind == "list" and isinstance(value, list):
            for item in value:
                yield from _job_keys(item)
        elif isinstance(value, dict):
            yield from _job_keys(value)
