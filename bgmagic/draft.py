"""A request that can't be sent yet, since it needs the answers of jobs that still run.

What is to go into it is kept as JSON, so that it outlives the kernel: the prompt with its holes,
and the job whose conversation it goes on with. Who waits for those jobs is awaiting.py's business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bgmagic.answer import Answer
from bgmagic.errors import BadInput
from bgmagic.expressions import Expression
from bgmagic.request import Request, check_text
from bgmagic.template import Filled, Hole


@dataclass(frozen=True)
class Draft:
    """What is still to go into a request.

    Attributes:
        text: JSON text of an object with ``pieces``, the prompt's text and holes in order, and
            ``continues``, the key of the job whose conversation comes before it, or null.
    """

    text: str

    @classmethod
    def of(cls, filled: Filled, continues: str | None) -> Draft:
        """The draft of a prompt with holes, or of a turn whose conversation still runs.

        Raises:
            BadInput: a text in it can't be sent.
        """
        pieces = [piece if isinstance(piece, str) else _as_json(piece) for piece in filled.pieces]
        text = json.dumps({"pieces": pieces, "continues": continues}, ensure_ascii=False)
        check_text(text)
        return cls(text)

    @cached_property
    def _parts(self) -> tuple[tuple[str | Hole, ...], str | None]:
        found = json.loads(self.text)
        pieces = (piece if isinstance(piece, str) else _hole(piece) for piece in found["pieces"])
        return tuple(pieces), found["continues"]

    @property
    def continues(self) -> str | None:
        """The key of the job whose conversation comes before it."""
        return self._parts[1]

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys of the jobs whose answers it needs, each once."""
        pieces, continues = self._parts
        found = [key for piece in pieces if isinstance(piece, Hole) for key in _keys(piece.jobs)]
        return tuple(dict.fromkeys([*([continues] if continues else []), *found]))

    def renewed(self, newest: Callable[[str], str]) -> Draft:
        """The same, needing the jobs that were sent since in place of those that it needs."""
        text = self.text
        for key in self.needs:
            text = text.replace(json.dumps(key), json.dumps(newest(key)))  # keys are random
        return Draft(text)

    def finish(self, request: Request, answer_of: Callable[[str], Answer]) -> Request:
        """The request that is to be sent.

        Args:
            request: the request so far: in the last message's text the holes stand as written.
            answer_of: gives the answer of each job in `needs`.

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
        return Request.of(body, request.reader)


def _as_json(hole: Hole) -> dict[str, Any]:
    expression = hole.expression
    return {"source": expression.source, "line": expression.line, "jobs": dict(hole.jobs)}


def _hole(found: dict[str, Any]) -> Hole:
    return Hole(Expression(found["source"], found["line"]), found["jobs"])


def _keys(bound: Any) -> Iterator[str]:
    """The keys of the jobs in what a hole's names stand for."""
    for kind, value in bound.items():
        if kind == "job" and isinstance(value, str):
            yield value
        elif kind == "list" and isinstance(value, list):
            for item in value:
                yield from _keys(item)
        elif isinstance(value, dict):
            yield from _keys(value)
