"""How soon a response is answered, and in which tier: windows, related requests, full tiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bgmagic.local.validation import BadRequest, choice, only, refuse, typed

# How soon a response is to be there, and the seconds that it stays queued here for that.
WINDOWS = {"soonest": 0.0, "2h": 2.0, "8h": 4.0}

# Continuation ids that are remembered.
MAX_CONTINUATIONS = 10_000


def served_tier(given: Mapping[str, Any]) -> str:
    """The tier that serves a request: what it asks for, if the API has a price for it."""
    asked = given.get("service_tier")
    if asked in ("priority", "fast"):
        return "priority"
    return "flex" if asked == "flex" else "default"


def read_background_options(given: Mapping[str, Any]) -> tuple[str, str | None]:
    """The completion window and the continuation id of a create.

    Raises:
        BadRequest: names the field that is wrong.
    """
    where = "background_options"
    options = typed(given, where, dict, {})
    only(options, where, ("completion_window", "continuation_id"))
    window: str = choice(options, "completion_window", tuple(WINDOWS), "soonest", where)
    if WINDOWS[window] and given.get("stream"):
        refuse(f"'{where}.completion_window' of '{window}' can't be streamed.", "stream")
    if WINDOWS[window] and given.get("service_tier") not in (None, "auto", "default"):
        refuse(f"'{where}.completion_window' needs standard processing.", "service_tier")
    return window, typed(options, "continuation_id", str, None, where)


class Processing:
    """What the server keeps of the windows and tiers that were asked for."""

    def __init__(self) -> None:
        self._continuations: set[str] = set()
        self._full = False

    def queue(self, window: str, continuation_id: str | None) -> float:
        """Seconds that a response in a window stays queued: half as long for a follow-up."""
        seconds, follows = WINDOWS[window], continuation_id in self._continuations
        if continuation_id and len(self._continuations) < MAX_CONTINUATIONS:
            self._continuations.add(continuation_id)
        return seconds / 2 if follows else seconds

    def refuse_every_other(self, tier: object) -> None:
        """Raises a BadRequest for every other response in the flex tier."""
        if tier == "flex":
            self._full = not self._full
            if self._full:
                problem = "Resource unavailable: there is no room in the flex tier now."
                raise BadRequest(429, problem, code="resource_unavailable")
