"""Reads a response object of the API, whatever its shape: text, refusal, citations, usage.

Reading is total: whatever JSON a server calls a response, each function returns and never raises.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from bgmagic.text import SharedText, TextSharer, one_line
from bgmagic.values import dataclass

if TYPE_CHECKING:
    from openai.types.responses import Response as Response
    from openai.types.responses import ResponseUsage as ResponseUsage

_T = TypeVar("_T")

# The statuses that the server changes no more (its OpenAPI description, Response.status).
SERVER_TERMINAL = frozenset({"completed", "failed", "incomplete", "cancelled"})


def objects_in(value: object) -> list[Mapping[str, Any]]:
    """The JSON objects of a list; an empty list of anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text_in(value: object) -> str:
    """``value`` if it is text, else ""."""
    return value if isinstance(value, str) else ""


def word_in(response: Mapping[str, Any], outer: str, inner: str) -> str:
    """The word at ``response[outer][inner]`` as one line, or "": an error's code, for instance."""
    found = response.get(outer)
    word = found.get(inner) if isinstance(found, dict) else None
    return "" if word is None else one_line(str(word))


def is_terminal(response: Mapping[str, Any]) -> bool:
    """Whether the server will change this response no more."""
    status = response.get("status")
    return isinstance(status, str) and status in SERVER_TERMINAL


@dataclass(frozen=True)
class Output:
    """The output of a response.

    Attributes:
        text: the output text without commentary, its parts joined without separators as the API's
            own SDK joins them.
        refusal: the model's words of refusal, or "".
        commentary: what the model said on its way to the answer, a paragraph for each message; or
            "".
    """

    text: str
    refusal: str
    commentary: str = ""


COMMENTARY, FINAL_ANSWER = "commentary", "final_answer"  # OpenAPI: MessagePhase


def read_output(response: Mapping[str, Any]) -> Output:
    """Read the text, the refusal and the commentary out of a response object of any shape."""
    answer, commentary = split_phases(_messages(response))
    parts = [part for message in answer for part in message]
    comments = (_joined(message, "output_text", "text") for message in commentary)
    return Output(
        _joined(parts, "output_text", "text"),
        _joined(parts, "refusal", "refusal"),
        "\n\n".join(text for text in comments if text),
    )


def read_summary(response: Mapping[str, Any]) -> str:
    """The model's summaries of its reasoning, a paragraph for each part, or ""."""
    items = [one for one in objects_in(response.get("output")) if one.get("type") == "reasoning"]
    parts = [part for item in items for part in objects_in(item.get("summary"))]
    texts = (text_in(part.get("text")) for part in parts if part.get("type") == "summary_text")
    return "\n\n".join(text for text in texts if text.strip())


def split_phases(messages: Sequence[tuple[str, _T]]) -> tuple[list[_T], list[_T]]:
    """The messages of the answer and those of the commentary, of all as (phase, message).

    Where some are called the final answer, the others are commentary, also those without a phase.
    """
    phases = [phase for phase, _ in messages]
    if not any(phases):  # few servers tell any
        return [told for _, told in messages], []
    final = FINAL_ANSWER in phases
    pairs = [(p == FINAL_ANSWER if final else p != COMMENTARY, told) for p, told in messages]
    return [told for yes, told in pairs if yes], [told for yes, told in pairs if not yes]


def output_messages(response: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The messages of the output that have text, each as (phase, text); a phase may be ""."""
    read = ((phase, _joined(parts, "output_text", "text")) for phase, parts in _messages(response))
    return [(phase, text) for phase, text in read if text]


def _messages(response: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The phase and the content parts of each item of the output that has any."""
    found = objects_in(response.get("output"))
    read = [(text_in(item.get("phase")), objects_in(item.get("content"))) for item in found]
    return [(phase, parts) for phase, parts in read if parts]


def _joined(parts: Iterable[Mapping[str, Any]], kind: str, field: str) -> str:
    return "".join(text_in(part.get(field)) for part in parts if part.get("type") == kind)


@dataclass(frozen=True)
class TokenCounts:
    """Tokens that are paid for.

    Attributes:
        input: of the request, those of the cache included.
        output: of the response, reasoning included.
        cached: those of the input that were read from the cache.
        written: those of the input that were written to it.
    """

    input: int
    output: int
    cached: int = 0
    written: int = 0

    @classmethod
    def of(cls, usage: object) -> TokenCounts | None:
        """What a response object's ``usage`` counts; None where it does not, or can't be true."""
        if not isinstance(usage, dict):
            return None
        found = count_in(usage.get("input_tokens")), count_in(usage.get("output_tokens"))
        given = usage.get("input_tokens_details")
        details = given if isinstance(given, dict) else {}
        cached = count_in(details.get("cached_tokens")) or 0
        written = count_in(details.get("cache_write_tokens")) or 0
        inside, outside = found
        if inside is None or outside is None or min(inside, outside, cached, written) < 0:
            return None
        return cls(inside, outside, cached, written) if cached + written <= inside else None


@dataclass(frozen=True)
class Usage:
    """Tokens as the server counted them; None where it did not.

    Attributes:
        input: tokens of the request.
        output: tokens of the response, reasoning included.
        reasoning: those of the output that were reasoning.
    """

    input: int | None
    output: int | None
    reasoning: int | None

    @classmethod
    def of(cls, response: Mapping[str, Any]) -> Usage:
        """Read the usage of a response object, whatever its shape."""
        given = response.get("usage")
        usage = given if isinstance(given, dict) else {}
        details = usage.get("output_tokens_details")
        reasoning = details.get("reasoning_tokens") if isinstance(details, dict) else None
        return cls(
            count_in(usage.get("input_tokens")),
            count_in(usage.get("output_tokens")),
            count_in(reasoning),
        )


def count_in(value: object) -> int | None:
    """``value`` if it is a count of tokens, else None."""
    # SQLite holds 64 bits; no server counts further.
    counts = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return int(value) if isinstance(value, int) and counts else None


@dataclass(frozen=True)
class Citation:
    """One place of an answer's text and what it cites.

    Attributes:
        kind: the server's word: ``url_citation``, ``file_citation``, ``container_file_citation``,
            ``file_path``.
        title: of the page, or the file's name; "" where the server gave none.
        url: the address of a page, or None.
        file_id: the server's id of a file, or None.
        start: where in the answer's text the citation begins, or None.
        end: where it ends, so that ``answer[c.start:c.end]`` is its text, or None.
    """

    kind: str
    title: str
    url: str | None = None
    file_id: str | None = None
    start: int | None = None
    end: int | None = None


def read_citations(response: Mapping[str, Any]) -> tuple[Citation, ...]:
    """The citations of a response object's output texts, in their order."""
    found: list[Citation] = []
    offset = 0
    for part in _texts(response):
        text = part["text"]
        for annotation in objects_in(part.get("annotations")):
            citation = _read(annotation, offset, len(text))
            if citation is not None:
                found.append(citation)
        offset += len(text)
    return tuple(found)


def sources(citations: Iterable[Citation]) -> list[tuple[str, str]]:
    """List the cited sources, each once, as (title, address); the address is "" for a file."""
    named: dict[str, tuple[str, str]] = {}
    for citation in citations:
        key = citation.url or citation.file_id or citation.title
        if key and not named.get(key, ("",))[0]:
            title = citation.title or ("" if citation.url else citation.file_id or "")
            named[key] = (title, citation.url or "")
    return list(named.values())


def sources_text(citations: Iterable[Citation]) -> str:
    """The list of what is cited that stands under an answer in plain text, or ""."""
    named = (one_line(" ".join(filter(None, source))) for source in sources(citations))
    lines = [f"- {line}" for line in named if line]
    return "\n\nSources:\n" + "\n".join(lines) if lines else ""


def _read(annotation: Mapping[str, Any], offset: int, length: int) -> Citation | None:
    kind = text_in(annotation.get("type"))
    url, file_id = text_in(annotation.get("url")), text_in(annotation.get("file_id"))
    title = text_in(annotation.get("title")) or text_in(annotation.get("filename"))
    if not kind or not (url or file_id or title):
        return None
    start, end = _span(annotation, offset, length)
    return Citation(
        kind=kind,
        title=title,
        url=url or None,
        file_id=file_id or None,
        start=start,
        end=end,
    )


def _span(annotation: Mapping[str, Any], offset: int, length: int) -> tuple[int | None, int | None]:
    start, end = annotation.get("start_index"), annotation.get("end_index")
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start <= end <= length:
        return None, None
    return offset + start, offset + end


def _texts(response: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The answer's output texts, as `read_output` joins them."""
    for parts in split_phases(_messages(response))[0]:
        for part in parts:
            if part.get("type") == "output_text" and isinstance(part.get("text"), str):
                yield part


def sdk_response(response: Mapping[str, Any]) -> Response:
    """The response object as the SDK's own class, with the fields that the SDK does not know.

    As the SDK reads what a server sends: nothing is validated. Imports the SDK.
    """
    from openai.types.responses import Response

    return Response.construct(**_fields(response))


def sdk_usage(response: Mapping[str, Any]) -> ResponseUsage | None:
    """The usage of a response object as the SDK's own class, or None. Imports the SDK."""
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return None
    from openai.types.responses import ResponseUsage

    return ResponseUsage.construct(**_fields(usage))


def _fields(value: Mapping[str, Any]) -> dict[str, Any]:
    # The one key that construct() takes for itself; no server has been seen to send it.
    return {key: held for key, held in value.items() if key != "_fields_set"}


_LEVEL = 1  # the quickest; 9 kB take 0.1 ms
_WINDOW = 32 * 1024  # bytes that deflate looks back (RFC 1951)
_SMALL = 14, 6  # bits of the window, and of what finds matches: less of both has to be cleared
_FEW = 128  # characters of its own of a text that deflate would hardly make less
_BEHIND = 262  # bytes of its window that deflate does not look at (zlib's MIN_LOOKAHEAD)
_CODE = ("utf-8", "surrogatepass")  # a server's JSON may have lone surrogates

_QUICK = ("id", "model", "service_tier", "status", "usage")  # of every job's row: at hand

_SLOTS = {key: f"_{key}" for key in _QUICK}
_ABSENT: Any = object()


class KeptResponse(Mapping[str, Any]):
    """A JSON object of which few fields are at hand; each access to another one reads it anew."""

    __slots__ = tuple(_SLOTS.values())

    def __init__(self, value: Mapping[str, Any]) -> None:
        for key, slot in _SLOTS.items():
            setattr(self, slot, _lean(value.get(key, _ABSENT), key))

    def decompress(self) -> dict[str, Any]:
        """The object as it was."""
        raise NotImplementedError

    @property
    def at_hand(self) -> dict[str, Any]:
        """The few fields."""
        return {key: self[key] for key in _QUICK if getattr(self, _SLOTS[key]) is not _ABSENT}

    def __getitem__(self, key: str) -> Any:
        if key not in _SLOTS:
            return self.decompress()[key]
        found = getattr(self, _SLOTS[key])
        if found is _ABSENT:
            raise KeyError(key)
        return json.loads(found) if isinstance(found, bytes) else found

    def __iter__(self) -> Iterator[str]:
        return iter(self.decompress())

    def __len__(self) -> int:
        return len(self.decompress())

    def __bool__(self) -> bool:
        return True  # without unpacking it for that


def _lean(value: Any, key: str) -> Any:
    """A field as it is kept: an object as JSON, a quarter of its size; a word once for all jobs."""
    if isinstance(value, str) and key != "id" and len(value) < 100:
        return sys.intern(value)
    return json.dumps(value).encode() if isinstance(value, dict | list) else value


class ReadsResponses(Protocol):
    """Reads the responses of ended jobs that only the journal has. From any thread."""

    def has(self, key: str) -> bool:
        """Whether that of the job with this key stays there, as far as is known."""

    def read(self, key: str) -> str:
        """That of the job with this key, as JSON; an `AnswerGone` says why there is none."""

    def read_all(self, keys: Collection[str]) -> Mapping[str, str]:
        """Those of several, by their keys, that are there; an `AnswerGone` if none can be read."""


class StoredResponse(KeptResponse):
    """A response object that the journal has: read there by each access."""

    __slots__ = ("_journal", "_key")

    def __init__(self, value: Mapping[str, Any], key: str, journal: ReadsResponses) -> None:
        """Make it of ``value``, which ``journal`` has by ``key``."""
        super().__init__(value)
        self._key, self._journal = key, journal

    def decompress(self) -> dict[str, Any]:
        """The object as the journal has it; a BgmagicError says why it can't be had."""
        value: dict[str, Any] = json.loads(self._journal.read(self._key))
        return value


class CompressedResponse(KeptResponse):
    """A JSON object, compressed."""

    __slots__ = ("_data", "_like")

    def __init__(
        self,
        value: Mapping[str, Any],
        like: bytes | SharedText | tuple[str | SharedText, ...] = b"",
        text: str = "",
    ) -> None:
        """Compress ``value``; what its JSON shares with ``like``, kept anyway, takes no room.

        Args:
            like: other texts, or its own with next to nothing that others have not.
            text: ``value`` as JSON, if that is at hand.
        """
        super().__init__(value)
        self._like, self._data = like, b""
        if isinstance(like, SharedText):
            return
        alike = isinstance(like, bytes)  # another response, with all in its place
        # Not escaped, it has the more in common with plain text.
        data = (text or json.dumps(value, ensure_ascii=alike)).encode(*_CODE)
        dictionary = _dictionary(like)
        # How many bytes before one of the data that may stand which is like it.
        reach = len(dictionary) + (0 if alike else len(data))
        room = _SMALL if reach < (1 << _SMALL[0]) - _BEHIND else (15, zlib.DEF_MEM_LEVEL)
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, *room, zdict=dictionary)
        self._data = packer.compress(data) + packer.flush()

    def decompress(self) -> dict[str, Any]:
        """The object as it was."""
        like = self._like
        if isinstance(like, SharedText):
            text = str(like)
        else:
            packed = zlib.decompressobj(zdict=_dictionary(like))
            text = packed.decompress(self._data).decode(*_CODE)
        value: dict[str, Any] = json.loads(text)
        return value


def _dictionary(like: bytes | tuple[str | SharedText, ...]) -> bytes:
    """What deflate is given of others; of more than its window it would use the end alone."""
    return like if isinstance(like, bytes) else "".join(map(str, like)).encode(*_CODE)[-_WINDOW:]


def decompressed(response: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The response object as it was, however it is kept."""
    return response.decompress() if isinstance(response, KeptResponse) else response


class ResponseCompressor:
    """Compresses one server's responses; what all of them say, as instructions, is kept once."""

    def __init__(self) -> None:
        self._like = b""
        self._sharer = TextSharer()

    def __call__(self, value: Mapping[str, Any], text: str = "") -> CompressedResponse:
        """Compress ``value`` (``text``: its JSON, if at hand); the first is the dictionary."""
        text = text or json.dumps(value)
        shared = self._sharer.share(text)
        if len(shared.parts[1]) <= _FEW:
            return CompressedResponse(value, shared)
        self._like = self._like or text.encode(*_CODE)[-_WINDOW:]
        return CompressedResponse(value, self._like, text)
