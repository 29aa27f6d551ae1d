"""The text of one response, piece by piece as the model gave it.

A running response adds pieces on the worker's thread while the event loop reads; a finished one is
one string and a number for each piece, since a list of 4,000 short strings takes 250 KB. What the
pieces become is left to `events`.
"""

from __future__ import annotations

from array import array


class Transcript:
    """Pieces of text, none of them empty, in their order."""

    def __init__(self) -> None:
        self._pieces: list[str] | None = []
        self._text = ""
        self._ends = array("I")

    def add(self, piece: str) -> None:
        """Appends a piece; an empty one counts for nothing, and so does one that comes too late."""
        if piece and self._pieces is not None:
            self._pieces.append(piece)

    def close(self, *, keep_pieces: bool) -> None:
        """Makes it compact; nothing can be added any more.

        Args:
            keep_pieces: whether `piece` will be asked for; without, the text is all that is kept.
        """
        pieces, self._pieces = self._pieces or [], None
        self._text = "".join(pieces)
        end = 0
        for piece in pieces if keep_pieces else []:
            end += len(piece)
            self._ends.append(end)

    @property
    def text(self) -> str:
        """All of it."""
        return self._text if self._pieces is None else "".join(self._pieces)

    def __len__(self) -> int:
        """How many pieces there are."""
        return len(self._ends if self._pieces is None else self._pieces)

    def piece(self, number: int) -> str:
        """One piece, counted from 0."""
        if self._pieces is not None:
            return self._pieces[number]
        start = self._ends[number - 1] if number else 0
        return self._text[start : self._ends[number]]
