"""Removes credentials from a request body before it is stored.

A body may hold some, as for a tool that calls another server. The caller learns whether something
was taken out, and decides whether the rest can still be sent.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

MARK = "[secret]"

# Top-level fields in which only the configured secrets are looked for: what the user asks is kept
# whatever it looks like, and the other two are names that the user chose.
PROMPT = frozenset({"input", "instructions", "prompt_cache_key", "safety_identifier"})

# Characters. Local servers are given keys such as "EMPTY", which must not be taken out of prompts.
SHORTEST_SECRET = 8

# Without dashes and underscores. A bare "key" is none: filters of a file search have that field.
_NAME = re.compile(
    r"(proxy)?authorization|auth|bearer|jwt|(set)?cookies?|credentials?|passwd|pwd|token"
    r"|.*(password|passphrase|secret"
    r"|(api|access|account|auth|private|secret|shared|subscription)key"
    r"|(access|api|auth|bearer|id|oauth|refresh|security|session)token)",
    re.IGNORECASE,
)

_LOOKS = re.compile(
    r"\bsk-[A-Za-z0-9_-]{20,}"
    r"|^\s*(?i:bearer)\s+\S+\s*$|\b(?i:bearer)\s+[A-Za-z0-9._~+/-]{16,}"
    # In an address: a password, or a parameter.
    r"|://[^\s/@]+:[^\s/@]+@"
    r"|[?&](?i:[a-z_-]*key|[a-z_-]*token|sig|signature|secret|password)=[^&\s]"
)


def without_secrets(
    body: Mapping[str, Any], secrets: Collection[str] = ()
) -> tuple[dict[str, Any], bool]:
    """A deep copy of ``body`` with "[secret]" for every value that is a credential.

    Such are text under a name like ``authorization`` or ``api_key`` at any depth, all of
    ``headers``, text that looks like a key, and text that holds one of ``secrets``. In the prompt
    only the last are taken out, and only they themselves. Numbers are never secret.

    Args:
        secrets: the configured key and the like; those under 8 characters are passed over.

    Returns:
        the copy, and whether anything was taken out.
    """
    redaction = _Redaction(secrets)
    return redaction.of_body(body), redaction.found


@functools.lru_cache(1024)  # the few names that requests have
def _is_secret(key: str) -> bool:
    """Whether a value under this name is secret."""
    name = re.sub("[-_]", "", key)
    return name.lower() == "headers" or _NAME.fullmatch(name) is not None


class _Redaction:
    """One walk through a body, which remembers whether it took something out."""

    def __init__(self, secrets: Collection[str]) -> None:
        # The longest first: one may be a part of another.
        known = {secret for secret in secrets if len(secret) >= SHORTEST_SECRET}
        self._known = sorted(known, key=len, reverse=True)
        self.found = False

    def of_body(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {
            self._exact(key): self._prompt(value) if key in PROMPT else self._field(key, value)
            for key, value in body.items()
        }

    def _field(self, key: str, value: Any) -> Any:
        if _is_secret(key):
            return self._blank(value)
        if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
            # A JSON schema: its names are those of values to come, not of values.
            return {self._exact(key): self._walk(part) for key, part in value.items()}
        return self._walk(value)

    def _walk(self, value: Any) -> Any:
        if isinstance(value, str):
            known = any(secret in value for secret in self._known)
            return self._blank(value) if known or _LOOKS.search(value) else value
        if isinstance(value, Mapping):
            return {self._exact(key): self._field(key, part) for key, part in value.items()}
        return [self._walk(part) for part in value] if _is_list(value) else value

    def _blank(self, value: Any) -> Any:
        """Take every text in ``value`` out."""
        if isinstance(value, str):
            self.found = self.found or value != MARK
            return MARK
        if isinstance(value, Mapping):
            return {self._exact(key): self._blank(part) for key, part in value.items()}
        return [self._blank(part) for part in value] if _is_list(value) else value

    def _prompt(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._exact(value)
        if isinstance(value, Mapping):
            return {self._exact(key): self._prompt(part) for key, part in value.items()}
        return [self._prompt(part) for part in value] if _is_list(value) else value

    def _exact(self, text: str) -> str:
        """``text`` without the configured secrets themselves."""
        for secret in self._known:
            if secret in text:
                text, self.found = text.replace(secret, MARK), True
        return text


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def credentials_fingerprint(salt: str, secret: str) -> str:
    """Hash that tells one key from another without giving it away (32 hex digits, about 2 ms)."""
    made = hashlib.scrypt(secret.encode(), salt=salt.encode(), n=2**9, r=8, p=1, dklen=16)
    return made.hex()
