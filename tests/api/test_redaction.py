"""Redaction: no credential of a request is written down, and nothing else is changed."""

from __future__ import annotations

import base64
import copy
import html
import json
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgmagic.api.redaction import (
    MARK,
    SHORTEST_SECRET,
    Secrets,
    _looks,
    _names,
    without_secrets,
)
from bgmagic.api.server import ServerConfig

KEY = "sk-proj-0123456789abcdefghij"
PLAIN: dict[str, Any] = {
    "model": "gpt-5.2",
    "background": True,
    "max_output_tokens": 100,
    "prompt_cache_key": "sk-learn-course-of-the-autumn",
    "safety_identifier": "user-1",
    "text": {
        "format": {
            "type": "json_schema",
            "schema": {
                "properties": {"token": {"type": "string"}},
                "$defs": {"Token": {"type": "string"}, "Credentials": {"type": "object"}},
            },
        }
    },
    "tools": [
        {"type": "file_search", "filters": {"type": "eq", "key": "author", "value": "Noether"}},
        {
            "type": "function",
            "description": "Checks a Bearer token",
            "parameters": {
                "properties": {"password": {"type": "string"}, "headers": {"type": "object"}}
            },
        },
    ],
    "top_logprobs": None,
}


@pytest.mark.parametrize(
    "name",
    [
        "authorization", "Authorization", "api_key", "apiKey", "x-api-key", "X-Goog-Api-Key", "token",
        "access_token", "password", "db_password", "secret", "client_secret", "Cookie", "set-cookie",
        "proxy-authorization", "Ocp-Apim-Subscription-Key", "aws_secret_access_key", "credentials",
    ],
)  # fmt: skip
def test_secret_names(name: str) -> None:
    """Text under the name of a credential is taken out at any depth, also inside a list or mapping."""
    for value in ("hunter2", ["hunter2"], {"type": "hunter2"}):
        body = {"tools": [{"type": "mcp", "deep": {name: value, "n": 1}}], name: value}
        made, found = without_secrets(body)
        assert found
        assert "hunter2" not in json.dumps(made)
        assert made["tools"][0]["type"] == "mcp"
        assert made["tools"][0]["deep"]["n"] == 1


def test_headers() -> None:
    """Every value of headers is taken out, their names stay."""
    body = {
        "tools": [{"server_url": "https://a.example/mcp", "headers": {"X-Team": "blue", "B": ""}}]
    }
    made, found = without_secrets(body)
    assert found
    assert made["tools"][0]["headers"] == {"X-Team": MARK, "B": MARK}
    assert made["tools"][0]["server_url"] == "https://a.example/mcp"


@pytest.mark.parametrize(
    "text",
    [
        KEY, f"use {KEY}!", "Bearer abc", "bearer  abc", "say Bearer abcdefghijklmnop123",
        "https://me:hunter2@a.example/mcp", "https://a.example/mcp?apiKey=abc", "wss://a/?x=1&token=abc",
    ],
)  # fmt: skip
def test_what_looks_like_a_key(text: str) -> None:
    """Text that looks like a key, or an address that holds one, is taken out, but not of the prompt."""
    made, found = without_secrets({"tools": [{"server_url": text}], "metadata": {"a": text}})
    assert found
    assert made == {"tools": [{"server_url": MARK}], "metadata": {"a": MARK}}
    prompt = {"input": [{"role": "user", "content": text}], "instructions": text}
    assert without_secrets(prompt) == (prompt, False)


def test_configured_secrets_are_taken_out_everywhere() -> None:
    """A configured secret is taken out of the prompt too, only itself there, and out of names."""
    secret = "a.b+c-0123456789"
    body = {
        "input": [{"role": "user", "content": f"Why is {secret} refused? My password is x"}],
        "instructions": secret,
        "prompt_cache_key": f"for-{secret}",
        "metadata": {"a": f"for {secret}", secret: "b"},
    }
    made, found = without_secrets(body, [secret, "0123456789", "", "Why"])
    assert found
    assert made == {
        "input": [{"role": "user", "content": f"Why is {MARK} refused? My password is x"}],
        "instructions": MARK,
        "prompt_cache_key": f"for-{MARK}",
        "metadata": {"a": MARK, MARK: "b"},
    }


def test_placeholder_keys_are_no_secrets() -> None:
    """Keys as short as the ones local servers take are left in a prompt."""
    body = {"input": "When is a set EMPTY?"}
    assert without_secrets(body, ["EMPTY"]) == (body, False)


def test_plain_body_is_not_touched() -> None:
    """A body without credentials is copied as it is, names that sound like some included."""
    body = {**PLAIN, "input": "def login(password, api_key): 'Bearer 0123456789abcdef'"}
    before = copy.deepcopy(body)
    made, found = without_secrets(body, [KEY])
    assert (made, found) == (before, False)
    made["tools"][0]["filters"]["key"] = "changed"
    assert body == before


def test_numbers_are_no_secrets() -> None:
    """Numbers, booleans and nulls stay, whatever they are called."""
    body = {"token": 3, "usage": {"access_token": None, "password": True, "secret": 0.5}}
    assert without_secrets(body) == (body, False)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(
    st.dictionaries(st.text() | st.sampled_from(["input", "headers", "token"]), values), st.data()
)
def test_any_body(body: dict[str, Any], data: st.DataObject) -> None:
    """Of any body a deep copy is made; it is equal unless something is said to be taken out, and stays."""
    before = copy.deepcopy(body)
    made, found = without_secrets(body, data.draw(st.lists(st.text(min_size=8), max_size=2)))
    assert body == before
    assert (made == body) or found
    assert without_secrets(made) == (made, False)


@given(values, st.text(min_size=8), st.sampled_from(["input", "tools", "headers", "x"]))
def test_no_secret_is_left(value: Any, secret: str, key: str) -> None:
    """Wherever a configured secret is, nothing in what is left holds it."""
    secret = f"<{secret}>"
    made, found = without_secrets({key: [value, secret, {secret: [f"x{secret}x"]}]}, [secret])
    assert found
    assert json.dumps(secret)[1:-1] not in json.dumps(made)


# Secrets in what a server says


def each(write: Callable[[int], str]) -> Callable[[str], str]:
    """Writes every character of a text in one way."""
    return lambda text: "".join(write(ord(character)) for character in text)


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in JSON": lambda text: json.dumps(text)[1:-1],
    "in JSON in JSON": lambda text: json.dumps(json.dumps(text)[1:-1])[1:-1],
    "slashes escaped": lambda text: text.replace("/", "\\/"),
    "underscores escaped": lambda text: text.replace("_", "\\_").replace("-", "\\-"),
    "unicode escapes": each(lambda code: f"\\u{code:04x}"),
    "unicode escapes, large": each(lambda code: f"\\u{code:04X}"),
    "percent-encoded": lambda text: urllib.parse.quote(text, safe=""),
    "percent-encoded twice": lambda text: urllib.parse.quote(urllib.parse.quote(text, safe="")),
    "all percent-encoded": each(lambda code: f"%{code:02x}"),
    "entities": html.escape,
    "all entities": each(lambda code: f"&#{code};"),
    "all entities, hexadecimal": each(lambda code: f"&#x{code:X};"),
    "entities of entities": lambda text: html.escape(each(lambda code: f"&#{code};")(text)),
    "named entities": lambda text: text.replace("+", "&plus;").replace("/", "&sol;"),
    "percent-encoded in JSON": lambda text: text.replace("+", "\\u00252B").replace("/", "%2F"),
}
ODD_KEY = "sk-te/st+01_23&45"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_secrets_are_found_in_every_form(form: Callable[[str], str]) -> None:
    """However a server writes a key, it is taken out of plain text, of JSON and of what is written
    down, and what stands beside it stays."""
    secrets, written = Secrets([ODD_KEY]), form(ODD_KEY)
    assert secrets.hide(f"key: {written}; 50% & more\\n") == f"key: {MARK}; 50% & more\\n"
    assert secrets.within_json(json.dumps({"error": f"key: {written}"}))
    assert secrets.hide_in({written: [f"a {written} b", 5]}) == {MARK: [f"a {MARK} b", 5]}
    made, found = without_secrets({"input": f"a {written} b", "x": written}, [ODD_KEY])
    assert (made, found) == ({"input": f"a {MARK} b", "x": MARK}, True)


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6),
    st.data(),
)
def test_secrets_are_found_however_forms_are_mixed(secret: str, data: st.DataObject) -> None:
    """Each character of a secret in a form of its own: nothing that can be read back is left."""
    ways: list[Callable[[str], str]] = [
        str,
        lambda c: f"\\u{ord(c):04x}",
        lambda c: f"%{ord(c):02X}",
        lambda c: f"&#{ord(c)};",
    ]
    written = "".join(data.draw(st.sampled_from(ways))(c) for c in secret)
    secrets = Secrets([secret])
    hidden = secrets.hide(f"a: {written}, b")
    assert written not in hidden
    assert not secrets.within(hidden.replace(MARK, ""))
    assert secrets.hide(hidden) == hidden


@given(st.text(), st.lists(st.text(min_size=6)))
def test_text_without_secrets_stays_as_it_is(text: str, values: list[str]) -> None:
    """Text in which no secret stands in any form is not changed, JSON is told alike."""
    secrets = Secrets(values)
    if not secrets.within(text):
        assert secrets.hide(text) == text
    for value in secrets.values:
        for ascii in (True, False):
            assert secrets.within_json(json.dumps([text + value], ensure_ascii=ascii))


def test_hostile_text_is_read_in_one_go() -> None:
    """Megabytes of what could begin an escape take no more than a pass or so over them."""
    secrets = Secrets([ODD_KEY])
    for piece in ("\\", "%25", "&amp;", "\\u005c", "s&#"):
        text = piece * (1_000_000 // len(piece)) + ODD_KEY
        assert ODD_KEY not in secrets.hide(text)


def test_the_shortest_secret_is_one() -> None:
    """What is too short to be a secret is shown and kept everywhere; one character more is hidden
    everywhere."""
    short, long = "a" * (SHORTEST_SECRET - 1), "b" * SHORTEST_SECRET
    server = ServerConfig("http://127.0.0.1/v1", long, headers=f"X-One: {short}")
    assert server.secrets == (long,)
    told = {"input": f"{short} {long}"}
    assert without_secrets(told, [short, long]) == ({"input": f"{short} {MARK}"}, True)


def test_the_mark_is_no_secret() -> None:
    """A key that is the word "secret" is hidden once, and what stands for it is not hidden again."""
    secrets = Secrets(["secret"])
    once = secrets.hide("my secret is a secret")
    assert once == f"my {MARK} is a {MARK}"
    assert secrets.hide(once) == once


def test_passwords_in_headers_are_secrets() -> None:
    """Of an address with user and password, and of a header, what basic authorization makes of them is
    a secret as well, and the password in it."""
    pair = base64.b64encode(b"bob:p@ssw0rd1").decode()
    address = ServerConfig("http://bob:p%40ssw0rd1@127.0.0.1/v1", "sk-0123456789")
    header = ServerConfig("http://127.0.0.1/v1", "sk-0123456789", headers=f"X-Auth: Basic {pair}")
    for server in (address, header):
        told = Secrets(server.secrets).hide(f"Basic {pair}, p@ssw0rd1, sk-0123456789")
        assert pair[:-2] not in told
        assert "p@ssw0rd1" not in told


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    st.from_regex(_names(), fullmatch=True), st.from_regex(_looks()), st.text("xyz /?&", max_size=9)
)
def test_the_quick_look_passes_nothing_over(name: str, looks: str, around: str) -> None:
    """Whatever the patterns of secrets' names and looks find is taken out, although most texts are not searched with them."""
    assert without_secrets({name: "x"}, ())[1]
    spaced = f"{around} {looks} {around}"
    if _looks().search(spaced):
        assert without_secrets({"x": spaced}, ())[1]
