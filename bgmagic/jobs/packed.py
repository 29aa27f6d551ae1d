"""The records of jobs in batches, of which there are tens of thousands, in little room."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from bgmagic.api.request import Request
from bgmagic.jobs.record import GroupPosition, JobRecord

# Records of batches are alike but for what stands in the slots below: the newest that others share.
_ALIKE: deque[JobRecord] = deque(maxlen=8)

_NO_REQUEST, _NOWHERE = Request("{}"), GroupPosition("", None, 0, 0, 0)

_BY_INDEX = "\0"  # the end of a name, instead of the job's index in brackets


class PackedRecord:
    """The record of a job in a batch in a fifth of its room: what thousands have is there once.

    Attributes:
        alike: the record without what is only this job's: key, name, place in its group, request
            and response.
    """

    __slots__ = (
        "_index", "_item", "_item_key", "_name", "_sample", "alike", "key", "request", "response",
        "response_id",
    )  # fmt: skip

    def __init__(self, record: JobRecord) -> None:
        at, name = record.position or _NOWHERE, record.name
        self._index, self._sample, self._item, self._item_key = at.index, at.sample, at.item, at.key
        end = f"[{at.index}]"
        by_index = name is not None and name.endswith(end)
        self._name = None if by_index else name
        self.key, self.request = record.key, record.request
        self.response_id, self.response = record.response_id, record.response
        self.alike = _shared(
            record.with_changes(
                key="",
                request=_NO_REQUEST,
                name=f"{name[: -len(end)]}{_BY_INDEX}" if name and by_index else None,
                position=record.position and at.moved(0, 0, None, None),
                response_id=None,
                response=None,
            )
        )

    def with_changes(self, *, response: Mapping[str, Any] | None) -> PackedRecord:
        """Copy with another response, as a record has it."""
        changed = object.__new__(PackedRecord)
        for name in PackedRecord.__slots__:
            setattr(changed, name, getattr(self, name))
        changed.response = response
        return changed

    @property
    def record(self) -> JobRecord:
        """The record as it was."""
        alike, index = self.alike, self._index
        at, start = alike.position, alike.name
        return alike.with_changes(
            key=self.key,
            request=self.request,
            name=self._name if start is None else f"{start[:-1]}[{index}]",
            position=at and at.moved(index, self._sample, self._item, self._item_key),
            response_id=self.response_id,
            response=self.response,
        )


def _shared(record: JobRecord) -> JobRecord:
    """The same as others have it, if they do."""
    settings = repr(record.position and record.position.settings)  # 1 is equal to True
    for known in tuple(_ALIKE):
        if known == record and repr(known.position and known.position.settings) == settings:
            return known
    _ALIKE.appendleft(record)
    return record
