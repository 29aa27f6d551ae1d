"""Prices responses (US dollars) by the package genai-prices (the extra ``[prices]``).

Only the prices that came with the package are used; nothing is fetched. What is not known is None,
never 0. The package is imported with the first price of a kernel (150 ms), so off the cell's path.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bgmagic.text import dollars

CHARACTERS = 4  # per token, roughly, without a tokenizer (OpenAI's own rule of thumb)


@functools.cache
def prices_installed() -> bool:
    """Whether there are any prices; asking imports nothing."""
    return importlib.util.find_spec("genai_prices") is not None


def price_of(response: Mapping[str, Any] | None, server: str) -> float | None:
    """Price a response (US dollars); None if the price is not known.

    Args:
        response: the response object, with its model, its usage and its service tier.
        server: the address that it came from, whose prices apply.
    """
    if response is None or not isinstance(response.get("usage"), dict) or not prices_installed():
        return None
    import genai_prices

    tier = response.get("service_tier")
    context = {"service_tier": tier} if isinstance(tier, str) else None
    try:
        usage = genai_prices.extract_usage(
            response, provider_api_url=server, api_flavor="responses"
        ).usage
        model = str(response.get("model"))
        return float(
            genai_prices.calc_price(
                usage, model, provider_api_url=server, price_context=context
            ).total_price
        )
    except Exception:
        # A model or server without prices, or a usage of another shape: not known, whatever it is.
        return None


def price_of_tokens(model: str, server: str, tokens_in: int, tokens_out: int) -> float | None:
    """Price a number of tokens (US dollars); None if the price is not known."""
    usage = {"input_tokens": tokens_in, "output_tokens": tokens_out}
    return price_of({"model": model, "usage": usage}, server)


@dataclass(frozen=True)
class CostEstimate:
    """Estimate of what a sweep may cost (US dollars).

    Attributes:
        jobs: how many there are.
        output: the most that their output can cost, reasoning included; None without a bound.
        input: the cost of their input, roughly; None if it is not known.
        why: the reason for no bound, in a few words, or "".
    """

    jobs: int
    output: float | None
    input: float | None
    why: str = ""

    def __str__(self) -> str:
        if self.output is None:
            return self.why
        about = f", and about {dollars(self.input)} for input" if self.input is not None else ""
        return f"at most {dollars(self.output)} for output{about}"


def estimate_cost(asked: Iterable[tuple[str, str, int | None, int]]) -> CostEstimate:
    """Estimate the cost of jobs before any is sent.

    Args:
        asked: for each job its model, the server's address, the most output tokens or None, and the
            characters of its request.
    """
    jobs, output, inside = 0, 0.0, 0.0
    unbounded, unknown = False, ""
    price = functools.cache(price_of_tokens)
    for model, server, most, characters in asked:
        jobs += 1
        unbounded = unbounded or most is None
        into = price(model, server, characters // CHARACTERS + 1, 0)
        outof = price(model, server, 0, most or 0)
        if into is None or outof is None:
            unknown = unknown or model
        else:
            inside, output = inside + into, output + outof
    if not prices_installed():
        return CostEstimate(jobs, None, None, "no price known: pip install 'bgmagic[prices]'")
    if unknown:
        return CostEstimate(jobs, None, None, f"no price known for {unknown} at this server")
    if unbounded:
        return CostEstimate(
            jobs, None, inside, "no bound on the cost: --max-output-tokens sets one"
        )
    return CostEstimate(jobs, output, inside)
