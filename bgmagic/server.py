"""Where jobs go, and as whom: a frozen value, so that a job stays with the server that accepted it.

Read from the environment as the SDK reads it; client.py turns one into connections.
"""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from bgmagic.errors import BadInput, readable

SHORTEST_SECRET = 6  # characters; shorter values would blank out half of every message
DEFAULT_BASE_URL = "https://api.openai.com/v1"


@dataclass(frozen=True)
class Server:
    """Where jobs go, and as whom. Frozen: a job stays with the server that accepted it.

    Attributes:
        base_url: as the SDK takes it.
        api_key: never shown, stored or logged.
        organization, project: ids, or None.
        headers: the value of OPENAI_CUSTOM_HEADERS at the time, which may hold credentials.
        isolated: nothing of the user's environment goes there: no headers, no ids, no proxy.
        template: the user's own SDK client, whose settings are taken over, or None.
        remedy: what to do when it can't be reached, or "".
        transport: the environment's proxies and certificates, which its connections are made with.
    """

    base_url: str = field(repr=False)
    api_key: str = field(repr=False)
    organization: str | None = None
    project: str | None = None
    headers: str = field(default="", repr=False)
    isolated: bool = False
    template: Any = field(default=None, repr=False)
    remedy: str = ""
    transport: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def address(self) -> str:
        """The base URL without what may be secret in it: user, password and query."""
        parts = urllib.parse.urlsplit(self.base_url)
        return urllib.parse.urlunsplit(
            (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")
        )

    @property
    def name(self) -> str:
        """What identifies the server: its address, or one name for the embedded server, whose
        port is another after each start."""
        return "bgmagic.local" if self.isolated else self.address

    @classmethod
    def from_environment(cls) -> Server:
        """The server that the SDK's environment variables name now.

        Raises:
            BadInput: there is no key.
        """
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not key:
            raise BadInput(
                "no API key: set OPENAI_API_KEY (os.environ works, also now), "
                "or try without one: %bglocal starts the embedded model"
            )
        base_url = os.environ.get("OPENAI_BASE_URL", "").strip() or DEFAULT_BASE_URL
        _check_url(base_url)
        return cls(
            base_url=base_url,
            transport=tuple((name, os.environ.get(name, "")) for name in _TRANSPORT),
            api_key=key,
            organization=os.environ.get("OPENAI_ORG_ID"),
            project=os.environ.get("OPENAI_PROJECT_ID"),
            headers=os.environ.get("OPENAI_CUSTOM_HEADERS", ""),
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Everything here that must not show up in a message, longest first."""
        parts = urllib.parse.urlsplit(self.base_url)
        password = parts.password or ""
        values = {self.api_key.strip(), password, urllib.parse.unquote(password)}
        values |= {value for _, value in urllib.parse.parse_qsl(parts.query)}
        for line in self.headers.splitlines():
            value = line.partition(":")[2].strip()
            values |= {value, value.rpartition(" ")[2]}
        if self.template is not None:
            headers = getattr(self.template, "_custom_headers", {})
            values |= {str(value) for value in headers.values()}
            queries = getattr(self.template, "_custom_query", {})
            values |= {str(value) for name, value in queries.items() if name != "api-version"}
            values.add(str(getattr(self.template, "_azure_ad_token", None) or ""))
        found = (value for value in values if len(value) >= SHORTEST_SECRET)
        return tuple(sorted(found, key=len, reverse=True))


# What the SDK's transport reads from the environment when it is made.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_TRANSPORT = (*_PROXIES, *map(str.lower, _PROXIES), "SSL_CERT_FILE", "SSL_CERT_DIR")


def _check_url(base_url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        shown = readable(base_url.rpartition("@")[2])
        raise BadInput(f"OPENAI_BASE_URL {shown!r} is no address; write it as https://host/v1")
