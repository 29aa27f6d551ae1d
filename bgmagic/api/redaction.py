"""The one rule for secrets: what they may look like, and what stands in their place.

`Secrets` finds the configured ones in whatever form a server quotes them; `without_secrets` also
takes what looks like a credential out of a request body before it is written down. Whether what is
left can still be sent is for the caller, who is told that something was taken out.
"""

from __future__ import annotations

import functools
import hashlib
import html
import json
import re
import urllib.parse
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

MARK = "[secret]"

# Top-level fields in which only the configured secrets are looked for: what the user asks is kept
# whatever it looks like, and the other two are names that the user chose.
PROMPT = frozenset({"input", "instructions", "prompt_cache_key", "safety_identifier"})

# Characters of the shortest secret that is looked for. Local servers are given words such as EMPTY
# and dummy for a key, which would blank out parts of prompts and answers; six may be a password.
SHORTEST_SECRET = 6


# Both are compiled where a text has a word of theirs: most cells have none, and are 1 ms quicker.


@functools.cache
def _names() -> re.Pattern[str]:
    # Without dashes and underscores. A bare "key" is none: a file search's filters have that field.
    return re.compile(
        r"(proxy)?authorization|auth|bearer|jwt|(set)?cookies?|credentials?|passwd|pwd|token"
        r"|.*(password|passphrase|secret"
        r"|(api|access|account|auth|private|secret|shared|subscription)key"
        r"|(access|api|auth|bearer|id|oauth|refresh|security|session)token)",
        re.IGNORECASE,
    )


@functools.cache
def _looks() -> re.Pattern[str]:
    return re.compile(
        r"\bsk-[A-Za-z0-9_-]{20,}"
        r"|^\s*(?i:bearer)\s+\S+\s*$|\b(?i:bearer)\s+[A-Za-z0-9._~+/-]{16,}"
        # In an address: a password, or a parameter.
        r"|://[^\s/@]+:[^\s/@]+@"
        r"|[?&](?i:[a-z_-]*key|[a-z_-]*token|sig|signature|secret|password)=[^&\s]"
    )


class Secrets:
    """The configured secrets, found in every form in which a server may quote them.

    A form is plain text, or text in which any of the characters are escaped: with a backslash, as
    JSON's ``\\u002b``, percent-encoded or as an HTML entity, also one within another.
    """

    def __init__(self, values: Iterable[str]) -> None:
        known = {value for value in values if len(value) >= SHORTEST_SECRET}
        # The longest first: one may be a part of another.
        self.values: tuple[str, ...] = tuple(sorted(known, key=lambda v: (-len(v), v)))
        as_json = [
            json.dumps(v, ensure_ascii=ascii)[1:-1] for v in known for ascii in (True, False)
        ]
        self._literal = tuple({*self.values, *as_json})
        bare = {value.replace("\\", "") for value in known}
        self._bare = tuple(value for value in bare if len(value) >= SHORTEST_SECRET)
        self._looks_escaped = any(sign in value for value in known for sign in "\\%&")

    def within(self, text: str) -> bool:
        """Whether one of them is in ``text``, which may be JSON."""
        # A loop, since any() takes three times as long, and thousands of texts go by.
        for literal in self._literal:
            if literal in text:
                return True
        return self._within_escaped(text)

    def within_json(self, text: str) -> bool:
        """The same for JSON, at next to no cost where nothing is escaped but quotes and lines."""
        for literal in self._literal:
            if literal in text:
                return True
        escaped = (
            ("\\" in text and _ODD_ESCAPE.search(text))
            or ("%" in text and _PERCENT.search(text))
            or ("&" in text and _ENTITY.search(text))
        )
        return bool(escaped) and self._within_escaped(text)

    def _within_escaped(self, text: str) -> bool:
        if not (self._looks_escaped or "\\" in text or "%" in text or "&" in text):
            return False
        # A secret that looks escaped itself would be unescaped with the rest.
        if self._looks_escaped and self._in_any_form.search(text):
            return True
        for _ in range(_LAYERS if self._bare else 0):
            if "\\" in text:
                text = _JSON_ESCAPE.sub(_character, text).replace("\\", "")
            before = text
            if "%" in text and _PERCENT.search(text):
                text = urllib.parse.unquote(text)
            if "&" in text and _ENTITY.search(text):
                text = html.unescape(text)
            if any(bare in text or bare in before for bare in self._bare):
                return True
            if text == before:
                return False
        return False

    @functools.cached_property
    def _in_any_form(self) -> re.Pattern[str]:
        return re.compile("|".join("".join(map(_forms, value)) for value in self.values))

    def hide(self, text: str) -> str:
        """``text`` with "[secret]" in their place; text that hides one too well goes as a whole."""
        if not self.within(text):
            return text
        # What stands for a secret already is left alone: a key may be the word "secret".
        known = any(MARK in value for value in self.values)
        parts = [text] if known else text.split(MARK)
        parts = [self._in_any_form.sub(MARK, part) for part in parts]
        left = "\0".join(part.replace(MARK, "\0") for part in parts)
        return MARK if self.within(left) else MARK.join(parts)

    def hide_in(self, value: Any) -> Any:
        """A copy of a JSON value without them: in texts and in names, at any depth."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, dict):
            return {self.hide(key): self.hide_in(part) for key, part in value.items()}
        return [self.hide_in(part) for part in value] if isinstance(value, list) else value


@functools.lru_cache(64)  # the servers of one process
def secrets_of(values: tuple[str, ...]) -> Secrets:
    """The `Secrets` of these values, made once."""
    return Secrets(values)


# So often text is taken to be escaped once more: by a server, a gateway before it, and a log.
_LAYERS = 4

# How JSON escapes the characters that secrets are made of, and how percent-encoding and HTML do.
_JSON_ESCAPE = re.compile(r"\\u00([2-7][0-9a-fA-F])")

# Without one of these a JSON text has no character escaped that need not be. (A pattern, since
# looking for two characters by ``in`` takes ten times as long.)
_ODD_ESCAPE = re.compile(r"\\(?:u00[2-7]|[/\\])")

_PERCENT = re.compile(r"%[0-9a-fA-F]{2}")

_ENTITY = re.compile(r"&(?:#|[a-zA-Z]{2,31};)")


def _character(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


@functools.lru_cache(512)
def _forms(character: str) -> str:
    """A pattern of ``character`` in any form; of a bounded length, so that searching is linear."""
    import html.entities  # 2,200 of them, when a secret is first looked for in any form

    code = ord(character)
    sign = r"(?:%|\\{1,16}u0025)(?:25){0,4}"
    percent = "".join(f"{sign}{_hexadecimal(f'{byte:02x}')}" for byte in character.encode())
    entities = [rf"#0{{0,8}}{code};?", rf"#[xX]0{{0,8}}{_hexadecimal(f'{code:x}')};?"]
    entities += [
        re.escape(name)
        for name, means in html.entities.html5.items()
        if means == character and name.endswith(";")
    ]
    forms = [
        rf"\\{{0,16}}{re.escape(character)}",
        rf"\\{{1,16}}u{_hexadecimal(f'{code:04x}')}",
        percent,
        rf"(?:&|\\{{1,16}}u0026)(?:amp;){{0,4}}(?:{'|'.join(entities)})",
    ]
    return f"(?:{'|'.join(forms)})"


def _hexadecimal(digits: str) -> str:
    """A pattern of these hexadecimal digits in either case."""
    return "".join(f"[{d}{d.upper()}]" if d.isalpha() else d for d in digits)


def without_secrets(
    body: Mapping[str, Any], secrets: Collection[str] = ()
) -> tuple[dict[str, Any], bool]:
    """A deep copy of ``body`` with "[secret]" for every value that is a credential.

    Such are text under a name like ``authorization`` or ``api_key`` at any depth, all of
    ``headers``, text that looks like a key, and text that holds one of ``secrets``. In the prompt
    only the last are taken out, and only they themselves. Numbers are never secret.

    Args:
        secrets: the configured key and the like; those under 6 characters are passed over.

    Returns:
        the copy, and whether anything was taken out.
    """
    redaction = _Redaction(secrets)
    return redaction.of_body(body), redaction.found


@functools.lru_cache(1024)  # the few names that requests have
def _is_secret(key: str) -> bool:
    """Whether a value under this name is secret."""
    name = key.replace("-", "").replace("_", "")
    return name.lower() == "headers" or (
        _may_be_secret(name) and _names().fullmatch(name) is not None
    )


def _may_be_secret(name: str) -> bool:
    """Whether it is worth asking `_names`: what that finds has such a word, or is not ASCII."""
    lowered = name.lower()
    return not name.isascii() or any(word in lowered for word in _SECRET_WORDS)


_SECRET_WORDS = (
    "auth",
    "bearer",
    "cookie",
    "credential",
    "jwt",
    "key",
    "pass",
    "pwd",
    "secret",
    "token",
)


def _looks_secret(text: str) -> bool:
    may_be = "sk-" in text or "://" in text or "=" in text or "bearer" in text.lower()
    return may_be and _looks().search(text) is not None


class _Redaction:
    """One walk through a body, which remembers whether it took something out."""

    def __init__(self, secrets: Collection[str]) -> None:
        self._secrets = secrets_of(tuple(secrets))
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
            known = self._secrets.within(value) or _looks_secret(value)
            return self._blank(value) if known else value
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
        hidden = self._secrets.hide(text)
        self.found = self.found or hidden != text
        return hidden


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def credentials_fingerprint(salt: str, secret: str) -> str:
    """Hash that tells one key from another without giving it away (32 hex digits, about 2 ms)."""
    made = hashlib.scrypt(secret.encode(), salt=salt.encode(), n=2**9, r=8, p=1, dklen=16)
    return made.hex()


def kept_request(request: Any, secrets: tuple[str, ...]) -> tuple[Any, bool]:
    """A `Request` as text that may be written down, a `str` or a `SharedText`, and whether that can
    still be sent."""
    if not request.holds_secret(secrets):
        return request.shared_text, True
    body, _ = without_secrets(request.body, secrets)
    return json.dumps(body, ensure_ascii=False), False


def kept_response(
    response: Mapping[str, Any], secrets: tuple[str, ...], text: str = ""
) -> tuple[str, bool]:
    """A response as JSON that may be written down, and whether nothing was taken out of it.

    What the model wrote is not touched but for our secrets.

    Args:
        text: its JSON without these, if that is at hand.
    """
    about = {key: value for key, value in response.items() if key != "output"}
    clean, found = without_secrets(about, secrets)
    if text and not found:
        return text, True
    text = json.dumps({**clean, "output": response.get("output")}, ensure_ascii=False)
    kept = hidden(text, secrets)
    return kept, kept is text and clean == about and "output" in response


def hidden(text: str, secrets: tuple[str, ...]) -> str:
    """JSON text without these secrets."""
    known = secrets_of(secrets)
    if not known.within(text):
        return text
    return json.dumps(known.hide_in(json.loads(text)), ensure_ascii=False)
