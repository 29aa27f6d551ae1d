"""The answer of a completed job, and how output is read out of a response object.

Reading is total: whatever JSON a server calls a response, ``read_output`` returns and never raises.
What the output means for a job (answer, refusal, nothing) is decided in job.py.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bgmagic.citations import Citation, read_citations, sources

if TYPE_CHECKING:
    from bgmagic.job import Job


@dataclass(frozen=True)
class Output:
    """What a response says to the user.

    Attributes:
        text: all output text, joined without separators as the API's own SDK joins it.
        refusal: the model's words of refusal, or "".
    """

    text: str
    refusal: str


def read_output(response: Mapping[str, Any]) -> Output:
    """Read the text and the refusal out of a response object, whatever shape it has."""
    parts = [
        part for item in _items(response.get("output")) for part in _items(item.get("content"))
    ]
    return Output(_joined(parts, "output_text", "text"), _joined(parts, "refusal", "refusal"))


def _items(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _joined(parts: list[Mapping[str, Any]], kind: str, field: str) -> str:
    found = [part.get(field) for part in parts if part.get("type") == kind]
    return "".join(text for text in found if isinstance(text, str))


def output_tokens(response: Mapping[str, Any]) -> int | None:
    """How many tokens the server counted, reasoning included, or None."""
    usage = response.get("usage")
    tokens = usage.get("output_tokens") if isinstance(usage, dict) else None
    # SQLite holds 64 bits; no server counts further.
    return tokens if isinstance(tokens, int) and abs(tokens) < 2**63 else None


class Answer(str):
    """The output text of a completed job: a ``str``, with where it came from.

    Attributes:
        job: the job that gave it; None in an answer that was unpickled.
        response_id: the server's id of the response, or None.
        model: the model's name as the server returned it, or None.
        usage: tokens as the server counted them (``input_tokens`` and so on), or None.
        data: with ``--schema`` what the text says: an object of the Pydantic model, or what JSON
            gives where there was a JSON schema or the class is not known any more; else None.
        citations: what the text cites, in its order.
    """

    _asked: Mapping[str, Any]
    job: Job | None
    response_id: str | None
    model: str | None
    usage: dict[str, Any] | None
    data: Any
    citations: tuple[Citation, ...]

    def __new__(
        cls,
        text: str,
        response: Mapping[str, Any],
        job: Job | None = None,
        asked: Mapping[str, Any] | None = None,
        data: Any = None,
    ) -> Answer:
        """Make the answer of ``response``, whose output text is ``text``.

        Args:
            asked: of the request body, ``input`` and ``instructions``, where there is no job.
            data: what the text says, if it is structured.
        """
        answer = super().__new__(cls, text)
        answer.job = job
        answer.response_id = _text(response.get("id")) or (job.response_id if job else None)
        answer.model = _text(response.get("model"))
        usage = response.get("usage")
        answer.usage = dict(usage) if isinstance(usage, dict) else None
        answer._asked = asked or {}
        answer.data = data
        answer.citations = read_citations(response)
        return answer

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """Every turn up to this answer, as the API takes them; a new list, the answer at its end.

        A change of it changes nothing here. ``--messages`` takes such a list, ``--continue`` the
        answer itself.
        """
        turns = [dict(turn) for turn in _items(self._body().get("input"))]
        return [*turns, assistant_message(str(self))]

    @property
    def instructions(self) -> str | None:
        """The system text it was asked with, or None."""
        return _text(self._body().get("instructions"))

    def _body(self) -> Mapping[str, Any]:
        return self._asked if self.job is None else self.job.request.body

    def __await__(self) -> Generator[Any, None, Answer]:
        # `await name` works before and after the answer has replaced the job in the variable.
        yield from ()
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the job: it belongs to a kernel, the text and its origin do not.
        origin = {"id": self.response_id, "model": self.model, "usage": self.usage}
        asked = {"input": self.conversation[:-1], "instructions": self.instructions}
        return _restored, (str(self), origin, asked, self.citations, _pickled(self.data))

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        # Imported when an answer is looked at: most are only used.
        from bgmagic.rendering.markdown import to_html

        shown = to_html(as_markdown(str(self), structured=self.data is not None))
        return {"text/plain": str(self), "text/html": shown + sources_html(self.citations)}

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        # IPython prefers this for text: the text alone as it reads, in a list with its quotes.
        printer.text(str(self) if len(printer.stack) <= 1 else repr(self))


def assistant_message(text: str) -> dict[str, Any]:
    """The message that answered ``text`` (OpenAPI: OutputMessageContent)."""
    return {"role": "assistant", "content": [{"type": "output_text", "text": text}]}


def as_markdown(text: str, *, structured: bool) -> str:
    """What is shown of an output text: itself, or if it is ``structured`` JSON to be read."""
    try:
        indented = json.dumps(json.loads(text), indent=2, ensure_ascii=False) if structured else ""
    except (ValueError, RecursionError):
        return text
    return f"```json\n{indented}\n```" if structured else text


def sources_html(citations: tuple[Citation, ...]) -> str:
    """The list of links that stands under an answer, or ""."""
    if not citations:
        return ""
    from bgmagic.rendering.markdown import links_html

    quiet = "color: var(--jp-ui-font-color2, #757575); font-size: 0.9em"
    return f'<div style="{quiet}">Sources{links_html(sources(citations))}</div>'


def _pickled(data: Any) -> bytes | None:
    try:
        return None if data is None else pickle.dumps(data)
    except Exception:  # an object of the user's class; what JSON says of it remains
        return b""


def _restored(
    text: str,
    origin: Mapping[str, Any],
    asked: Mapping[str, Any],
    citations: tuple[Citation, ...],
    pickled: bytes | None,
) -> Answer:
    """An answer out of a pickle; the data as JSON says it where its class is not known."""
    answer = Answer(text, origin, None, asked)
    answer.citations = citations
    if pickled is not None:
        try:
            answer.data = pickle.loads(pickled)  # noqa: S301 - it is a part of what is unpickled
        except Exception:
            answer.data = json.loads(text)
    return answer


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
