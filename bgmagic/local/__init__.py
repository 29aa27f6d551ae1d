"""The Responses API's background mode on 127.0.0.1, answered by a small model on the CPU.

The package is for first tries, teaching and tests: its server is a process of its own, needs no
key, and outlives the kernel that started it. It imports nothing else of bgmagic, and importing it
loads neither tornado nor xllamacpp.
"""

from __future__ import annotations

import importlib.util

# Headers of a create that slow its response down, see `responses.Pace`.
TOKENS_PER_SECOND_HEADER = "x-bgmagic-tokens-per-second"
QUEUE_HEADER = "x-bgmagic-queue"

# Header of a create that has every other one in the flex tier refused, as a full one would be.
FLEX_REFUSALS_HEADER = "x-bgmagic-flex-refusals"

# Header of a create with JSON, calls of functions that its response makes instead of an answer: a
# script for teaching, since the small model can't call functions.
CALLS_HEADER = "x-bgmagic-calls"


class LocalServerError(Exception):
    """The embedded server can't be had; the message is one line that ends with the remedy."""


def require(*packages: str) -> None:
    """Raises a LocalServerError that names the first of the packages that is not installed."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise LocalServerError(f'The local model needs {name}: pip install "bgmagic[local]"')
