"""Reads the body of an error answer, whichever server wrote it, into one line for people.

The API's own form is ``{"error": {"message", "code"}}``. Others send FastAPI's ``detail`` (a text,
or a list of faults), problem+json (RFC 9457: ``title``, ``detail``), or the error of the provider
behind them, as JSON or as Python writes a dict, within a message of their own.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bgmagic.text import one_line
from bgmagic.values import dataclass

# The fields that hold words, those that say most first.
_WORDS = ("message", "error_description", "detail", "error", "errors", "msg", "title")

# What a router says where no such route is: it knows of no response, so it has not forgotten one.
_NO_ROUTE = frozenset({"not found", "404 not found"})

_DEEP = 5  # errors within errors; a provider behind a proxy behind a gateway makes three

# Characters of an error that is quoted within a text; Python's parser takes more for each.
_JSON, _PYTHON = 100_000, 4_000

_LONG_LIST = 1_000  # faults that are looked at

_FEW = 3  # faults of a validation that are all named


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What the body of an error answer says.

    Attributes:
        message: what is wrong, in words, perhaps on several lines; "" if the body has no words.
        code: the server's own code, verbatim, or None.
        from_api: whether the API said it, not a router that knows no such route, or a page.
    """

    message: str = ""
    code: Any = None
    from_api: bool = False


def read_error(page: str) -> ErrorBody:
    """Read the body of an error answer; one that is no JSON has neither message nor code."""
    try:
        body = json.loads(page.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return ErrorBody()
    message = _words(body)
    inner = body.get("error", body) if isinstance(body, dict) else None
    fields = inner if isinstance(inner, dict) else {}
    routed = not fields.get("message") and message.strip(" .").lower() in _NO_ROUTE
    words = message or _scalars(fields)
    from_api = bool(message) and not routed
    return ErrorBody(words or "the answer has no words", fields.get("code"), from_api)


def failure_message(response: Mapping[str, Any]) -> str:
    """What a response object that failed says about it, in one line, or ""."""
    return one_line(_words(response.get("error")))


def _words(value: object, depth: int = 0) -> str:
    """The words in a value of an error's JSON, or ""."""
    if depth > _DEEP:
        return ""
    if isinstance(value, str):
        return _unquoted(value, depth)
    if isinstance(value, list):
        return _faults([word for one in value[:_LONG_LIST] if (word := _words(one, depth + 1))])
    if not isinstance(value, dict):
        return ""
    if "loc" in value and isinstance(value.get("msg"), str):
        return _fault(value)
    found = next((words for key in _WORDS if (words := _words(value.get(key), depth + 1))), "")
    title = value.get("title")
    if isinstance(title, str) and title and value.get("detail") and title != found:
        return f"{title}: {found}"
    return found


def _fault(value: Mapping[str, Any]) -> str:
    """What did not validate, and where (FastAPI's and pydantic's ``loc`` and ``msg``)."""
    where = value["loc"]
    path = ".".join(map(str, where)) if isinstance(where, list | tuple) else str(where)
    return f"{path}: {value['msg']}" if path else str(value["msg"])


def _faults(faults: Sequence[str]) -> str:
    """Some faults in one line. Of many the one that is deepest inside: where a value may be of
    several kinds, it says most about the kind that was meant."""
    if len(faults) <= _FEW:
        return "; ".join(faults)
    deepest = max(faults, key=lambda one: one.partition(":")[0].count("."))
    return f"{deepest}; and {len(faults) - 1} more"


def _unquoted(text: str, depth: int) -> str:
    """``text`` with the error that is quoted in it in words."""
    lines = text.strip().splitlines()
    if len(lines) > 1 and lines[0].endswith(":"):
        listed = [_quoted(line.strip()) for line in lines[1 : _LONG_LIST + 1]]
        faults = [_fault(one) for one in listed if one.get("loc") is not None and "msg" in one]
        if faults:
            return f"{lines[0].rstrip(':')}: {_faults(faults)}"
    start = re.search(r"\{\s*[\"']", text)
    if start is None or depth > _DEEP:
        return text
    quoted = _quoted(text[start.start() : text.rfind("}") + 1])
    before = re.sub(r"[\s:([-]*(b?['\"])?$", "", text[: start.start()].strip())
    if not before:
        return (_words(quoted, depth + 1) or _scalars(quoted)) if quoted else text
    # A dict within a sentence is an error's only if it looks like one: it may be about a schema.
    words = _words(quoted, depth + 1) if quoted.keys() & {"error", "detail", "message"} else ""
    return f"{before}: {words}" if words else text


def _quoted(text: str) -> dict[str, Any]:
    """The dict that ``text`` is, as JSON or as Python writes one; else an empty one."""
    for read, most in ((json.loads, _JSON), (ast.literal_eval, _PYTHON)):
        if len(text) <= most:
            with contextlib.suppress(
                ValueError, SyntaxError, TypeError, MemoryError, RecursionError
            ):
                found = read(text)
                if isinstance(found, dict):
                    return found
    return {}


def _scalars(fields: Mapping[str, Any]) -> str:
    """The words and numbers of an error without a message: "status 5, kind quota"."""
    kept = [(k, v) for k, v in fields.items() if isinstance(v, str | int | float) and v != ""]
    return ", ".join(f"{key} {value}" for key, value in kept[:5])
