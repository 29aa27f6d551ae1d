"""A slow pace, for teaching: what the headers of a create may ask for, and the pauses it makes.

Headers and not fields, so that the body stays one that the API would take. Waiting is left to
`responses`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bgmagic.local.fields import refuse

TOKENS_PER_SECOND = "x-bgmagic-tokens-per-second"
QUEUE = "x-bgmagic-queue"


@dataclass(frozen=True)
class Pace:
    """How slowly to answer.

    Attributes:
        tokens_per_second: pieces of text a second at most; None for as fast as the model is.
        queue: seconds that the response stays queued at least.
    """

    tokens_per_second: float | None = None
    queue: float = 0.0


def read(headers: Mapping[str, str]) -> Pace:
    """The pace that a request's headers ask for.

    Raises:
        Refusal: names the header that is wrong.
    """
    rate = _number(headers, TOKENS_PER_SECOND, "a number above 0", lambda value: value > 0)
    queue = _number(headers, QUEUE, "seconds, 0 or more", lambda value: value >= 0)
    return Pace(rate, queue or 0.0)


def pauses(
    tokens_per_second: float | None, clock: Callable[[], float] = time.monotonic
) -> Iterator[float]:
    """Seconds to wait before each piece of text, without end.

    The first comes at once; a model that is late does not hurry afterwards.
    """
    step = 0.0 if tokens_per_second is None else 1 / tokens_per_second
    due = clock()
    while True:
        now = clock()
        due = max(due, now)
        yield due - now
        due += step


def _number(
    headers: Mapping[str, str], name: str, allowed: str, fits: Callable[[float], bool]
) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not fits(value):
        refuse(
            f"Invalid header '{name}': expected {allowed}, but got '{text[:40]}'.",
            name,
            "invalid_value",
        )
    return value
