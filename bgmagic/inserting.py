"""A value of the notebook as text that a model reads well.

Text goes in as it is. Tables become CSV; lists of short values one line each; lists of longer texts
numbered items; whatever else has parts becomes JSON. Nothing is cut: to choose is the user's. The
rules stand in the help of %%bgresponse too.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, MappingView, Sequence, Set
from typing import Any, cast

from bgmagic.errors import BadInput
from bgmagic.values import kind_of

# Longer items, or those of several lines, are marked off instead of standing in a list.
SHORT = 200


def as_text(value: Any) -> str:
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
