"""A response object of a job that goes on, kept small: a thousand of them are mostly their text.

Few are ever looked at, since a newer one takes their place; who looks gets an ordinary dict.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

_LEVEL = 1  # the quickest; 9 kB take 0.1 ms
_QUICK = ("id", "model", "status", "usage")  # what tables ask of every job: kept as it is


class Packed(Mapping[str, Any]):
    """A JSON object, compressed; unpacked anew by each access but for a few fields."""

    __slots__ = ("_data", "_quick")

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._quick = {key: value[key] for key in _QUICK if key in value}
        self._data = zlib.compress(json.dumps(value).encode(), _LEVEL)

    def whole(self) -> dict[str, Any]:
        """The object as it was."""
        value: dict[str, Any] = json.loads(zlib.decompress(self._data))
        return value

    def __getitem__(self, key: str) -> Any:
        return self._quick[key] if key in self._quick else self.whole()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole())

    def __len__(self) -> int:
        return len(self.whole())
