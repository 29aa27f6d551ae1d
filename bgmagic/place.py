"""Where a job stands in its group: a value, as the journal keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def hashable(key: Any) -> Any:
    """The key of an item: JSON has no tuples."""
    return tuple(map(hashable, key)) if isinstance(key, list) else key


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job stands in its group.

    Attributes:
        group: our own name of the group, unique.
        name: the group's variable if the user chose one, else None.
        index: which of the group's jobs it is, from 0.
        size: how many jobs the group has.
        in_flight: how many of them are at the server at once, at most.
        kind: what the items are: "list", "dict", "rows", or "" where there are none.
        key: the item's key in a dict.
        item: the item as far as JSON can hold it.
        settings: the swept settings of this job, by name.
        sample: which of the samples of the same request it is, from 0.
        samples: how many there are.
    """

    group: str
    name: str | None
    index: int
    size: int
    in_flight: int
    kind: str = ""
    key: Any = None
    item: Any = None
    settings: tuple[tuple[str, Any], ...] = ()
    sample: int = 0
    samples: int = 1

    @property
    def details(self) -> dict[str, Any]:
        """What has no column of its own in the journal."""
        told = {name: getattr(self, name) for name in _DETAILS}
        return told | {"settings": [list(pair) for pair in self.settings]}


_DETAILS = ("size", "in_flight", "kind", "key", "item", "sample", "samples")


def place_of(group: str, name: str | None, index: int, details: str) -> Place:
    """The place that a journal has written down."""
    told: Mapping[str, Any] = json.loads(details)
    settings = tuple((str(key), value) for key, value in told["settings"])
    return Place(group, name, index, settings=settings, **{key: told[key] for key in _DETAILS})
