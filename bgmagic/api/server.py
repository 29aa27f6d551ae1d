"""The addresses that are sent to: the server of jobs with its credentials, read from the
environment as the SDK does, and those that are told of the ends of jobs."""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import os
import urllib.parse
from collections.abc import Mapping
from dataclasses import field
from functools import cached_property, lru_cache
from typing import Any

from bgmagic.api.redaction import Secrets
from bgmagic.errors import BadInput
from bgmagic.text import one_line
from bgmagic.values import dataclass

DEFAULT_BASE_URL = "https://api.openai.com/v1"


@dataclass(frozen=True)
class ServerConfig:
    """The server that jobs go to, with its credentials. Frozen: a job stays with its server.

    Attributes:
        base_url: as the SDK takes it.
        api_key: never shown, stored or logged.
        organization, project: ids, or None.
        headers: more headers, a line each: OPENAI_CUSTOM_HEADERS as it was, which may hold
            credentials; for the embedded server those that set its pace.
        is_local: whether it is the embedded server: nothing of the user's environment goes there,
            no headers, no ids, no proxy.
        sdk_client: the user's own SDK client, whose settings are used, or None.
        hint: what to do when it can't be reached, or "".
        transport: the environment's proxies and certificates, which its connections are made with.
        azure: the API version, if requests are addressed and authorized as Azure wants it.
        azure_token: an Entra ID token instead of a key, or "".
    """

    base_url: str = field(repr=False)
    api_key: str = field(repr=False)
    organization: str | None = None
    project: str | None = None
    headers: str = field(default="", repr=False)
    is_local: bool = False
    sdk_client: Any = field(default=None, repr=False)
    hint: str = ""
    transport: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    azure: str = ""
    azure_token: str = field(default="", repr=False)

    @cached_property
    def address(self) -> str:
        """The base URL without what may be secret in it: user, password and query."""
        parts = urllib.parse.urlsplit(self.base_url)
        host, path = parts.netloc.rpartition("@")[2], parts.path.rstrip("/")
        return urllib.parse.urlunsplit((parts.scheme, host, path, "", ""))

    @cached_property
    def name(self) -> str:
        """Identifies the server: its address, or one name for the embedded server, whose port
        changes with each start."""
        return "bgmagic.local" if self.is_local else self.address

    @classmethod
    def from_environment(
        cls, base_url: str | None = None, environ: Mapping[str, str] | None = None
    ) -> ServerConfig:
        """Read the server that the SDK's environment variables name now.

        With OPENAI_API_KEY that is OpenAI's, or the one at OPENAI_BASE_URL; without it Azure's, if
        its variables are there.

        Args:
            base_url: instead of OPENAI_BASE_URL.
            environ: the environment's variables, if somebody has looked at them just now.

        Raises:
            BadInput: there is no key, an address is none, or one of them stands in quotes.
        """
        environ = os.environ if environ is None else environ
        key = variable_of(environ, "OPENAI_API_KEY")
        named = (base_url or "").strip() or variable_of(environ, "OPENAI_BASE_URL")
        if not key and not named and variable_of(environ, "AZURE_OPENAI_ENDPOINT"):
            return cls._of_azure(environ)
        if not key:
            raise BadInput(_no_key(named))
        address = named or DEFAULT_BASE_URL
        check_url(address, "the base URL" if base_url else "OPENAI_BASE_URL")
        return cls(
            base_url=address,
            transport=_transport_variables(environ),
            api_key=key,
            organization=variable_of(environ, "OPENAI_ORG_ID") or None,
            project=variable_of(environ, "OPENAI_PROJECT_ID") or None,
            headers=environ.get("OPENAI_CUSTOM_HEADERS", ""),
        )

    @classmethod
    def _of_azure(cls, environ: Mapping[str, str]) -> ServerConfig:
        """Read the server that the SDK's AzureOpenAI() would use now."""
        endpoint = variable_of(environ, "AZURE_OPENAI_ENDPOINT")
        check_url(endpoint, "AZURE_OPENAI_ENDPOINT")
        key = variable_of(environ, "AZURE_OPENAI_API_KEY")
        token = variable_of(environ, "AZURE_OPENAI_AD_TOKEN")
        version = variable_of(environ, "OPENAI_API_VERSION")
        if not (key or token):
            raise BadInput(
                "AZURE_OPENAI_ENDPOINT is set, but no key: set AZURE_OPENAI_API_KEY, or give "
                "bgmagic.use() an AzureOpenAI client with a token provider"
            )
        if not version:
            raise BadInput("Azure needs OPENAI_API_VERSION too, as your resource's page names it")
        return cls(
            base_url=f"{endpoint.rstrip('/')}/openai",
            transport=_transport_variables(environ),
            api_key=key,
            organization=variable_of(environ, "OPENAI_ORG_ID") or None,
            headers=environ.get("OPENAI_CUSTOM_HEADERS", ""),
            azure=version,
            azure_token=token,
        )

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """The values here that must not show up in a message, longest first."""
        parts = urllib.parse.urlsplit(self.base_url)
        password = parts.password or ""
        values = {self.api_key.strip(), password, urllib.parse.unquote(password)}
        if password:
            values |= _basic_authorization(parts.username or "", password)
        values.add(self.azure_token)
        values |= {value for _, value in urllib.parse.parse_qsl(parts.query)}
        for line in [] if self.is_local else self.headers.splitlines():
            value = line.partition(":")[2].strip()
            values |= {value, value.rpartition(" ")[2], *_basic_password(value)}
        if self.sdk_client is not None:
            headers = getattr(self.sdk_client, "_custom_headers", {})
            values |= {str(value) for value in headers.values()}
            queries = getattr(self.sdk_client, "_custom_query", {})
            values |= {str(value) for name, value in queries.items() if name != "api-version"}
            values.add(str(getattr(self.sdk_client, "_azure_ad_token", None) or ""))
        return Secrets(values).values


def _basic_authorization(user: str, password: str) -> set[str]:
    """What user and password of an address become in a header (RFC 7617)."""
    pair = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}"
    return {base64.b64encode(pair.encode()).decode().rstrip("=")}


def _basic_password(header: str) -> set[str]:
    """The password in a header's ``Basic …``, which is only encoded."""
    kind, _, encoded = header.partition(" ")
    with contextlib.suppress(binascii.Error, UnicodeDecodeError):
        if kind.lower() == "basic":
            pair = base64.b64decode(encoded.strip(), validate=True).decode()
            return {encoded.strip().rstrip("="), pair.partition(":")[2]}
    return set()


# What the SDK's transport reads from the environment when it is made.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

_TRANSPORT = (*_PROXIES, *map(str.lower, _PROXIES), "SSL_CERT_FILE", "SSL_CERT_DIR")


def _transport_variables(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, environ.get(name, "")) for name in _TRANSPORT)


# Blanks, and what files and pages bring along unseen: byte-order marks, characters without width.
_UNSEEN = (
    " \t\r\n\f\v\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff\u200b\u200c\u200d\u2060"
)

_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019"}


def variable_of(environ: Mapping[str, str], name: str) -> str:
    """The value of a variable of the environment, without what stands around it unseen.

    Raises:
        BadInput: it is in quotes.
    """
    value = environ.get(name, "").strip(_UNSEEN)
    end = _QUOTES.get(value[:1])
    if end and len(value) > 1 and value[-1] == end and end not in value[1:-1]:
        # Unlike a shell, IPython's %env and Docker's --env-file take them for a part of the value.
        raise BadInput(f"{name} has quotes around its value, which count: %env {name}=… takes none")
    return value


def _no_key(base_url: str) -> str:
    if not base_url:
        return (
            "no API key: set OPENAI_API_KEY (os.environ works, also now), "
            "or try without one: %bglocal, in IPython or a notebook, starts the embedded model"
        )
    return (
        "no API key: set OPENAI_API_KEY (os.environ works, also now) to that of "
        f"{_shown(base_url)}, or to any word if that asks for none, or try without: "
        "%bglocal, in IPython or a notebook, starts the embedded model"
    )


def is_openai(address: str) -> bool:
    """Whether a server's address is one of OpenAI's own."""
    host = urllib.parse.urlsplit(address).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")


# What copied addresses end with; all calls of the API go to what comes before.
_CALLS = ("/v1/responses", "/openai/responses", "/chat/completions")


@lru_cache(16)  # a script may submit thousands to one
def check_url(base_url: str, label: str) -> None:
    """Raise BadInput, in a line that begins with ``label``, if this is no address of a server."""
    try:
        parts = urllib.parse.urlsplit(base_url.strip())
        named = parts.hostname and _is_name(parts.hostname)
        usable = parts.scheme in ("http", "https") and named and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise BadInput(f"{label} {_shown(base_url)!r} is no address; write it as https://host/v1")
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    shown = one_line(urllib.parse.urlunsplit(bare).rstrip("/"))
    if "?" in base_url.partition("#")[0]:  # also where nothing is behind it
        # The SDK would put it before the path of each call.
        raise BadInput(
            f"{label} {shown!r} has a query: leave out what begins with its ?, or give "
            "bgmagic.use() a client with a default_query"
        )
    if shown.endswith(_CALLS):
        raise BadInput(
            f"{label} {shown!r} is the address of one call: leave out its end, as in https://host/v1"
        )


def _shown(base_url: str) -> str:
    """What is written as an address, without what may be secret in it: a password, a query."""
    before, _, after = base_url.partition("?")
    if "@" in after and "@" not in before and ":" in before.partition("//")[2]:
        before = before.rpartition(":")[0] + ":…"  # a password may have a ? in it
    return one_line(before.rpartition("@")[2], 200)


def _is_name(host: str) -> bool:
    """Whether it can be asked for in DNS (RFC 1035); addresses can."""
    if not host.isascii():
        host.encode("idna")  # raises a ValueError
    return all(0 < len(label) < 64 for label in host.removesuffix(".").split("."))


# Addresses that are told of ends. Whoever knows one can write to it, so it is a secret: only its
# host is ever shown.

LONGEST_WEBHOOK = 2000  # characters


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
    if not host or not text.isprintable() or " " in text or len(text) > LONGEST_WEBHOOK:
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
