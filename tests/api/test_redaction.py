"""Redaction: no credential of a request is written down, and nothing else is changed."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.api.redaction import MARK, without_secrets

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
