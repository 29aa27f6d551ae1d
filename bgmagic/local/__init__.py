"""The embedded server: the Responses API's background mode on 127.0.0.1, answered by a small model.

A process of its own that needs no key, for first tries, teaching and tests. `launcher` is the
kernel's side (find, start, stop); `weights` and `endpoint` serve both sides; everything else, from
`server` down to `engine`, lives in the server's process. Nothing here imports anything else of the
package, and importing this module loads neither tornado nor xllamacpp.
"""

from __future__ import annotations

import importlib.util


class LocalServerError(Exception):
    """The embedded server can't be had; the message is one line that ends with the remedy."""


def require(*packages: str) -> None:
    """Raises a LocalServerError that names the first of the packages that is not installed."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise LocalServerError(f'The local model needs {name}: pip install "bgmagic[local]"')
