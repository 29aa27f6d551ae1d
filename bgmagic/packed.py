"""A response object, kept small: a thousand of them are mostly text that is elsewhere, too.

Few are ever looked at: while a job goes on a newer one takes their place, and once it has ended its
answer has the text. Who looks gets an ordinary dict.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

_LEVEL = 1  # the quickest; 9 kB take 0.1 ms
_WINDOW = 32 * 1024  # bytes that deflate looks back (RFC 1951)
_CODE = ("utf-8", "surrogatepass")  # a server's JSON may have lone surrogates
_QUICK = ("id", "model", "status", "usage")  # what tables ask of every job: kept as it is


class Packed(Mapping[str, Any]):
    """A JSON object, compressed; unpacked anew by each access but for a few fields."""

    __slots__ = ("_data", "_like", "_quick")

    def __init__(
        self, value: Mapping[str, Any], like: bytes | tuple[str, ...] = b"", text: str = ""
    ) -> None:
        """Pack ``value``; what its JSON has in common with ``like``, held anyway, takes no room.

        Args:
            text: ``value`` as JSON, if that is at hand.
        """
        self._quick = {key: value[key] for key in _QUICK if key in value}
        self._like = like
        packer = zlib.compressobj(_LEVEL, zdict=self._dictionary)
        # Not escaped, it has the more in common with plain text.
        text = text or json.dumps(value, ensure_ascii=isinstance(like, bytes))
        self._data = packer.compress(text.encode(*_CODE)) + packer.flush()

    def whole(self) -> dict[str, Any]:
        """The object as it was."""
        text = zlib.decompressobj(zdict=self._dictionary).decompress(self._data)
        value: dict[str, Any] = json.loads(text.decode(*_CODE))
        return value

    @property
    def _dictionary(self) -> bytes:
        if isinstance(self._like, bytes):
            return self._like
        return "".join(self._like).encode(*_CODE)[-_WINDOW:]  # of more it would use the end alone

    def __getitem__(self, key: str) -> Any:
        return self._quick[key] if key in self._quick else self.whole()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole())

    def __len__(self) -> int:
        return len(self.whole())


class Packer:
    """Packs the responses of one server; what all of them say, as instructions, is kept once."""

    def __init__(self) -> None:
        self._like = b""

    def __call__(self, value: Mapping[str, Any], text: str = "") -> Packed:
        """``value``, whose JSON ``text`` may be; the first one is what others are compared with."""
        self._like = self._like or (text or json.dumps(value)).encode(*_CODE)[-_WINDOW:]
        return Packed(value, self._like, text)
