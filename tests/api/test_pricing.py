"""What jobs cost: from a list of prices, and nothing where that has none."""

from __future__ import annotations

import builtins
import json
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.api import pricing
from bgmagic.api.pricing import (
    BATCH,
    CostEstimate,
    Terms,
    charge_of,
    estimate_cost,
    price_of,
    price_of_tokens,
    read_prices,
    set_own_prices,
)
from bgmagic.api.response import TokenCounts
from bgmagic.errors import BadInput
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
    told = estimate_cost([(Terms("gpt-5.2"), OPENAI, 1000, 400)])
    assert told.output is None
    assert "no price known: pip install 'bgmagic[prices]'" in str(told)


def test_a_bill_is_the_most_that_it_can_be() -> None:
    """With --max-output-tokens the output has a bound, that of each job added up; without, or for a
    model without a price, the bill says why it has none."""
    one = price_of_tokens(Terms("gpt-5.2"), OPENAI, TokenCounts(0, 2000))
    assert one is not None
    told = estimate_cost([(Terms("gpt-5.2"), OPENAI, 2000, 400)] * 3)
    assert told.most == pytest.approx(3 * (one + 101 * 1.75e-6))
    assert told.output == pytest.approx(3 * one)
    assert str(told).startswith(f"at most {dollars(3 * one)} for output, and about $")
    assert "--max-output-tokens sets one" in str(
        estimate_cost([(Terms("gpt-5.2"), OPENAI, None, 400)])
    )
    assert "no price known for dream-9" in str(
        estimate_cost([(Terms("dream-9"), OPENAI, 2000, 400)])
    )
    assert estimate_cost([(Terms("dream-9"), OPENAI, 2000, 400)]).output is None
    assert str(CostEstimate(1, 4.8, None)) == "at most $4.80 for output"


def test_amounts_as_people_write_them() -> None:
    """Small amounts keep three digits that count, large ones their cents."""
    assert [dollars(a) for a in (0.01234, 4.8, 1234.5, 0.9)] == [
        "$0.0123", "$4.80", "$1,234.50", "$0.90",
    ]  # fmt: skip


# By hand, from the price list of 2026-10 (dollars a million tokens: input, cached input, output), for
# 1,000 tokens in, 200 of them cached, and 500 out. gpt-5.2: 800 x 1.75 + 200 x 0.175 + 500 x 14 =
# 1,400 + 35 + 7,000 = 8,435 millionths; and so on.
BY_HAND = {
    "gpt-5.2": 0.008435,  # 1.75, 0.175, 14
    "gpt-5": 0.006025,  # 1.25, 0.125, 10: 1,000 + 25 + 5,000
    "gpt-5-mini": 0.001205,  # 0.25, 0.025, 2: 200 + 5 + 1,000
    "gpt-4.1": 0.0057,  # 2, 0.5, 8: 1,600 + 100 + 4,000
    "gpt-5.4": 0.00955,  # 2.5, 0.25, 15: 2,000 + 50 + 7,500
}
WINDOWED = [("", 1.0), ("soonest", 1.0), ("2h", 0.7), ("8h", 0.6)]
# gpt-5.4's cached input is rounded in the flex tier: 0.13, so 1,000 + 26 + 3,750 = 4,776 millionths.
FLEX = {"gpt-5.2": 0.0042175, "gpt-5": 0.0030125, "gpt-5-mini": 0.0006025, "gpt-5.4": 0.004776}


@pytest.mark.parametrize(("window", "share"), WINDOWED)
@pytest.mark.parametrize(("model", "standard"), BY_HAND.items())
def test_prices_by_hand(model: str, standard: float, window: str, share: float) -> None:
    """What five models cost in each window is what one works out by hand, and the rest is saved."""
    answered = {"model": model, "usage": USAGE, "service_tier": "default"}
    charge = charge_of(answered, OPENAI, Terms(model, window=window))
    assert charge.price == pytest.approx(standard * share, rel=1e-9)
    assert charge.standard == pytest.approx(standard, rel=1e-9)
    assert charge.saved == pytest.approx(standard * (1 - share), abs=1e-12)


@pytest.mark.parametrize(("model", "by_hand"), FLEX.items())
def test_the_tier_that_served_is_paid(model: str, by_hand: float) -> None:
    """The tier in the response counts, whatever was asked; where it tells none, the one asked does."""
    flex = {"model": model, "usage": USAGE, "service_tier": "flex"}
    assert price_of(flex, OPENAI) == pytest.approx(by_hand, rel=1e-9)
    silent = {"model": model, "usage": USAGE}
    assert price_of(silent, OPENAI, Terms(model, "flex")) == pytest.approx(by_hand, rel=1e-9)
    moved = flex | {"service_tier": "default"}
    assert price_of(moved, OPENAI, Terms(model, "flex")) == pytest.approx(BY_HAND[model], rel=1e-9)


@pytest.mark.parametrize(
    ("model", "tier", "window"),
    [
        ("gpt-5.2-pro", "flex", ""),  # the list has no flex price of it
        ("gpt-4.1", "flex", ""),
        ("gpt-5-nano", "priority", ""),
        ("gpt-5.2", "made-up", ""),
        ("gpt-5.2", "flex", "2h"),  # the API takes no such request
    ],
)
def test_a_tier_without_a_price_has_none(model: str, tier: str, window: str) -> None:
    """A tier that the list does not know costs nobody knows what, and not the standard price."""
    charge = charge_of({"model": model, "usage": USAGE, "service_tier": tier}, OPENAI,
                       Terms(model, window=window))  # fmt: skip
    assert charge.price is None
    assert charge.saved is None
    assert charge.standard is not None


def test_a_batch_costs_half() -> None:
    """The Batch API's prices are those of the list, not the standard ones."""
    tokens = TokenCounts(1000, 500)
    batch = price_of_tokens(Terms("gpt-5.4", BATCH), OPENAI, tokens)
    assert batch == pytest.approx(0.005)  # 1.25 and 7.50: 1,250 + 3,750 millionths
    assert price_of_tokens(Terms("gpt-5.2-pro", "made-up"), OPENAI, tokens) is None


@pytest.mark.parametrize(
    ("tokens_in", "by_hand"),
    [(272_000, 0.695), (272_001, 1.3825050), (400_000, 2.0225)],
    # Up to 272,000 tokens 2.50 and 15, above all of them 5 and 22.50; 1,000 out:
    # 680,000 + 15,000; 1,360,005 + 22,500; 2,000,000 + 22,500 millionths.
)
def test_a_long_context_costs_more(tokens_in: int, by_hand: float) -> None:
    """Above the length that the list tells, every token of the request costs more."""
    usage = {"input_tokens": tokens_in, "output_tokens": 1000}
    assert price_of({"model": "gpt-5.4", "usage": usage}, OPENAI) == pytest.approx(
        by_hand, rel=1e-9
    )


def test_rounds_are_priced_one_by_one() -> None:
    """Responses of one job are paid for one by one: their contexts together are no long one, and what
    one of them did not count is not known of all."""
    usage = {"input_tokens": 200_000, "output_tokens": 1000}
    one: dict[str, Any] = {"model": "gpt-5.4", "usage": usage}
    both = {"input_tokens": 400_000, "output_tokens": 2000}
    rounds = {**one, "usage": both, pricing.ROUNDS: [usage, usage]}
    # 2.50 and 15 a million.
    assert price_of(one, OPENAI) == pytest.approx(0.515)
    assert price_of(rounds, OPENAI) == pytest.approx(1.03)
    assert price_of({**one, "usage": both}, OPENAI) == pytest.approx(2.045)
    assert price_of({**rounds, pricing.ROUNDS: [usage, None]}, OPENAI) is None
    assert price_of({**one, pricing.ROUNDS: 5}, OPENAI) == pytest.approx(0.515)


@given(
    model=st.sampled_from(["gpt-5.2", "gpt-5.4", "gpt-5.6-sol", "gpt-5-mini", "o3"]),
    tier=st.sampled_from(["", "flex", "priority"]),
    counts=st.tuples(*[st.integers(0, 500_000)] * 4),
)
def test_prices_are_the_library_s(model: str, tier: str, counts: tuple[int, ...]) -> None:
    """What is worked out from the prices a token is what the library gives for the whole usage."""
    import genai_prices

    inside, outside, cached, written = counts
    if cached + written > inside:
        cached = written = 0
    ours = price_of_tokens(
        Terms(model, tier), OPENAI, TokenCounts(inside, outside, cached, written)
    )
    used = genai_prices.Usage(input_tokens=inside, output_tokens=outside, cache_read_tokens=cached,
                              cache_write_tokens=written)  # fmt: skip
    context = {"service_tier": tier} if tier else None
    theirs = genai_prices.calc_price(used, model, provider_api_url=OPENAI, price_context=context)
    assert ours == pytest.approx(float(theirs.total_price), rel=1e-9, abs=1e-12)


@pytest.fixture
def own_prices() -> Any:
    """Prices of the user's own, taken back afterwards."""
    given = {
        "my-model": {"input": 1.25, "output": 10, "cached_input": 0.5},
        "free": {"input": 0, "output": 0},
    }
    set_own_prices(read_prices(given, "prices ="))
    yield
    set_own_prices({})


@pytest.mark.usefixtures("own_prices")
def test_prices_of_one_s_own() -> None:
    """A model's own price holds at any server, by the name that was asked or that answered, with the
    windows' discounts; of another tier it says nothing."""
    server = "http://127.0.0.1:8000/v1"
    by_hand = (800 * 1.25 + 200 * 0.5 + 500 * 10) / 1e6
    for response, terms in [
        ({"model": "my-model", "usage": USAGE}, Terms()),
        ({"model": "gpt-5.2-2025-12-11", "usage": USAGE}, Terms("my-model")),
        ({"usage": USAGE, "service_tier": "auto"}, Terms("my-model", "default")),
    ]:
        assert price_of(response, server, terms) == pytest.approx(by_hand)
    answered = {"model": "my-model", "usage": USAGE}
    assert price_of(answered, server, Terms(window="8h")) == pytest.approx(0.6 * by_hand)
    assert price_of(answered | {"service_tier": "flex"}, server) is None
    assert price_of(answered | {"model": "free"}, server) == 0


def test_prices_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script gives its prices as JSON in BGMAGIC_PRICES."""
    answered = {"model": "my-model", "usage": USAGE}
    monkeypatch.setenv("BGMAGIC_PRICES", json.dumps({"my-model": {"input": 1, "output": 2}}))
    assert price_of(answered, OPENAI) == pytest.approx(0.002)
    monkeypatch.setenv("BGMAGIC_PRICES", "{")
    assert price_of(answered, OPENAI) is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{", r"is no JSON .*; write \{\"my-model\": \{\"input\": 1.25, \"output\": 10\}\}"),
        (5, "must be a dict as"),
        ({"m": 5}, "'m': give its prices as"),
        ({"m": {"input": 1}}, "'m': its price for output is missing"),
        ({"m": {"input": 1, "output": -1}}, "'m': output is -1; it must be dollars, 0 or more"),
        ({"m": {"input": 1, "output": True}}, "output is True"),
        ({"m": {"input": 1, "output": float("nan")}}, "output is nan"),
        (
            {"m": {"input": 1, "output": 2, "cached": 3}},
            "no price 'cached'; allowed are input, output, cached_input",
        ),
    ],
)
def test_prices_that_are_none(given: Any, told: str) -> None:
    """What can't be prices is one line that says what is allowed."""
    with pytest.raises(BadInput, match=told) as caught:
        read_prices(given, "BgMagics.prices =")
    assert str(caught.value).startswith("BgMagics.prices =")
    assert "\n" not in str(caught.value)
