"""What jobs cost: from a list of prices, and nothing where that has none."""

from __future__ import annotations

import builtins
import socket
from typing import Any

import pytest
from hypothesis import given

from bgmagic.api import pricing
from bgmagic.api.pricing import CostEstimate, estimate_cost, price_of, price_of_tokens
from bgmagic.text import dollars
from tests.jobs.test_answer import hostile, json_values

OPENAI = "https://api.openai.com/v1"
USAGE = {
    "input_tokens": 1000,
    "input_tokens_details": {"cached_tokens": 200},
    "output_tokens": 500,
    "output_tokens_details": {"reasoning_tokens": 100},
}


def test_a_response_has_its_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """A response of a known model at its own server has a price, which nothing is fetched for; cached
    input is cheaper."""

    def refuse(*_: object) -> None:
        raise AssertionError("a price was looked for in the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    whole = price_of({"model": "gpt-5.2-2025-12-11", "usage": USAGE}, OPENAI)
    plain = price_of({"model": "gpt-5.2", "usage": USAGE | {"input_tokens_details": None}}, OPENAI)
    assert whole is not None
    assert plain is not None
    assert 0 < whole < plain


@pytest.mark.parametrize(
    ("response", "server"),
    [
        ({"model": "SmolLM2", "usage": USAGE}, OPENAI),
        ({"model": "gpt-5.2", "usage": USAGE}, "http://127.0.0.1:8000/v1"),
        ({"model": "gpt-5.2", "usage": USAGE}, "bgmagic.local"),
        ({"model": "gpt-5.2", "usage": None}, OPENAI),
        ({"model": None, "usage": USAGE}, OPENAI),
        (None, OPENAI),
    ],
)
def test_what_is_not_known_is_not_nothing(response: Any, server: str) -> None:
    """A model or a server without prices, and a response without usage, have no price, not 0."""
    assert price_of(response, server) is None


@given(hostile | json_values)
def test_any_response_can_be_asked(response: Any) -> None:
    """Whatever a server calls a response, asking for its price does not fail."""
    found = price_of(response if isinstance(response, dict) else None, OPENAI)
    assert found is None or isinstance(found, float)


def test_without_the_package_there_is_no_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra nothing is imported, there are no prices, and the bill says what to install."""
    real = builtins.__import__

    def importing(name: str, *rest: Any) -> Any:
        assert not name.startswith("genai_prices")
        return real(name, *rest)

    monkeypatch.setattr(pricing, "prices_installed", lambda: False)
    monkeypatch.setattr(builtins, "__import__", importing)
    assert price_of({"model": "gpt-5.2", "usage": USAGE}, OPENAI) is None
    told = estimate_cost([("gpt-5.2", OPENAI, 1000, 400)])
    assert told.output is None
    assert "no price known: pip install 'bgmagic[prices]'" in str(told)


def test_a_bill_is_the_most_that_it_can_be() -> None:
    """With --max-output-tokens the output has a bound, that of each job added up; without, or for a
    model without a price, the bill says why it has none."""
    one = price_of_tokens("gpt-5.2", OPENAI, 0, 2000)
    assert one is not None
    told = estimate_cost([("gpt-5.2", OPENAI, 2000, 400)] * 3)
    assert told.output == pytest.approx(3 * one)
    assert str(told).startswith(f"at most {dollars(3 * one)} for output, and about $")
    assert "--max-output-tokens sets one" in str(estimate_cost([("gpt-5.2", OPENAI, None, 400)]))
    assert "no price known for dream-9" in str(estimate_cost([("dream-9", OPENAI, 2000, 400)]))
    assert estimate_cost([("dream-9", OPENAI, 2000, 400)]).output is None
    assert str(CostEstimate(1, 4.8, None)) == "at most $4.80 for output"


def test_amounts_as_people_write_them() -> None:
    """Small amounts keep three digits that count, large ones their cents."""
    assert [dollars(a) for a in (0.01234, 4.8, 1234.5, 0.9)] == [
        "$0.0123", "$4.80", "$1,234.50", "$0.90",
    ]  # fmt: skip
