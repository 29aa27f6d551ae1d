"""What an answer cites, read out of a response object.

Reading is total: whatever JSON a server sends, it gives a tuple and never raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


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
        for annotation in _dicts(part.get("annotations")):
            citation = _read(annotation, offset, len(text))
            if citation is not None:
                found.append(citation)
        offset += len(text)
    return tuple(found)


def sources(citations: Iterable[Citation]) -> list[tuple[str, str]]:
    """What is cited, each once, as (title, address); the address is "" for a file."""
    named: dict[str, tuple[str, str]] = {}
    for citation in citations:
        key = citation.url or citation.file_id or citation.title
        if key and not named.get(key, ("",))[0]:
            title = citation.title or ("" if citation.url else citation.file_id or "")
            named[key] = (title, citation.url or "")
    return list(named.values())


def _read(annotation: Mapping[str, Any], offset: int, length: int) -> Citation | None:
    kind = _text(annotation.get("type"))
    url, file_id = _text(annotation.get("url")), _text(annotation.get("file_id"))
    title = _text(annotation.get("title")) or _text(annotation.get("filename"))
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
    """The output texts, as `read_output` joins them."""
    for item in _dicts(response.get("output")):
        for part in _dicts(item.get("content")):
            if part.get("type") == "output_text" and isinstance(part.get("text"), str):
                yield part


def _dicts(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
