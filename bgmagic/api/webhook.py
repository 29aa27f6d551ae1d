"""An address that is told of the ends of jobs: which ones are taken, and how they are shown.

Whoever knows such an address can write to it, so it is a secret: only its host is ever shown.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from dataclasses import dataclass, field

from bgmagic.errors import BadInput

LONGEST = 2000  # characters


@dataclass(frozen=True)
class Webhook:
    """An address that takes a POST.

    Attributes:
        url: the whole of it; kept out of every text.
        host: what may be shown.
    """

    url: str = field(repr=False)
    host: str

    def __str__(self) -> str:
        return f"{urllib.parse.urlsplit(self.url).scheme}://{self.host}/…"

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return _is_loopback(urllib.parse.urlsplit(self.url).hostname or "")


def read_webhook(text: str, label: str) -> Webhook:
    """The address that ``text`` is.

    Raises:
        BadInput: it is none, or what is told would cross a network in plain.
    """
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not text.isprintable() or " " in text or len(text) > LONGEST:
        raise BadInput(f"{label} is no address that a message can go to, as https://ntfy.sh/topic")
    shown = host if port is None else f"{host}:{port}"
    if parts.scheme == "http" and not _is_loopback(host):
        raise BadInput(f"{label} http://{shown}/…: only https:// leaves this machine")
    if parts.scheme not in ("http", "https"):
        raise BadInput(f"{label}: an address begins with https://")
    if parts.username is not None or parts.password is not None:
        raise BadInput(
            f"{label} {parts.scheme}://{shown}/…: a name or password in it can't be sent"
        )
    return Webhook(text, shown)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
