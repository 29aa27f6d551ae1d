"""Prices responses (US dollars) by the package genai-prices (the extra ``[prices]``) or by prices
of the user's own, in the tier that served them and the window they were asked in.

Only the prices that came with the package are used; nothing is fetched. What is not known is None,
never 0. The package is imported with the first price of a kernel (150 ms), so off the cell's path.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from bgmagic.api.request import Request
from bgmagic.api.response import TokenCounts, text_in
from bgmagic.errors import BadInput
from bgmagic.text import dollars
from bgmagic.values import dataclass, replace

# Bytes of UTF-8 per token, roughly, without a tokenizer: OpenAI's own rule of thumb is 4 characters
# of English. Of other scripts a character has more tokens, and more bytes.
BYTES = 4

# What a response costs in a completion window, as a share of the standard price (OpenAI's guide to
# background mode, openai 3.57: 30 % and 40 % less). "soonest" is the standard price.
WINDOW_SHARES = {"2h": 0.7, "8h": 0.6}

STANDARD_TIERS = frozenset({"", "auto", "default"})

BATCH = "batch"  # no service tier of a request: what a job of the Batch API costs
BATCH_SHARE = 0.5  # of a standard price of the user's own (OpenAI's guide to Batch)

_PROBED = 1000  # tokens; below the shortest of the contexts from which a model costs more


@functools.cache
def prices_installed() -> bool:
    """Whether there is a list of prices; asking imports nothing."""
    return importlib.util.find_spec("genai_prices") is not None


@dataclass(frozen=True)
class Terms:
    """What a request asks that tells its price.

    Attributes:
        model: the model that is asked.
        tier: the service tier, or `BATCH`; "" leaves it to the project: mostly the standard one.
        window: the completion window; "" is none.
    """

    model: str = ""
    tier: str = ""
    window: str = ""

    @classmethod
    def of(cls, request: Request) -> Terms:
        """The terms of a request."""
        return cls(request.model, BATCH if request.in_batch else request.tier, request.window)


@dataclass(frozen=True)
class Rates:
    """US dollars a token.

    Attributes:
        input, cached, written, output: as in `TokenCounts`; ``input`` is for the rest of it.
        holds_to: input tokens up to which these hold; a longer context costs more a token.
    """

    input: float
    cached: float
    written: float
    output: float
    holds_to: float = math.inf

    def price(self, tokens: TokenCounts) -> float:
        """What so many tokens cost."""
        rest = tokens.input - tokens.cached - tokens.written
        inside = rest * self.input + tokens.cached * self.cached + tokens.written * self.written
        return inside + tokens.output * self.output


@dataclass(frozen=True)
class Charge:
    """What a response cost, in US dollars.

    Attributes:
        price: None where that is not known.
        standard: what it would have cost in the standard tier without a window, or None.
    """

    price: float | None = None
    standard: float | None = None

    @property
    def saved(self) -> float | None:
        """US dollars less than the standard price; negative in a tier that costs more."""
        known = self.price is not None and self.standard is not None
        return self.standard - self.price if known else None  # type: ignore[operator]


# What a response has beside its usage where it is the last of several that are paid for: theirs.
ROUNDS = "bgmagic_rounds"


@dataclass(frozen=True)
class Billing:
    """What tells a job's price, without its texts: what was asked, and what the response counted.

    Attributes:
        terms: of the request.
        size: of the request, in bytes.
        most_output: the most output tokens that the response may have, or None.
        response: the response's own ``model``, ``service_tier`` and ``usage``, and those of its
            rounds; None without one.
    """

    terms: Terms
    size: int = 0
    most_output: int | None = None
    response: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, request: Request, response: Mapping[str, Any] | None = None) -> Billing:
        """The billing of a job."""
        counted = None
        if response is not None:
            kept = "model", "service_tier", "usage", *([ROUNDS] if ROUNDS in response else [])
            counted = {name: response.get(name) for name in kept}
        return cls(Terms.of(request), request.size, request.max_output_tokens, counted)

    @classmethod
    def read(cls, text: str | None) -> Billing:
        """The billing that the journal has as JSON; an empty one of anything else."""
        try:
            found = json.loads(text or "")
            terms = Terms(found["model"], found["tier"], found["window"])
            return cls(terms, found["characters"], found["most_output"], found.get("response"))
        except (ValueError, KeyError, TypeError):
            return cls(Terms())

    @property
    def text(self) -> str:
        """It as JSON."""
        fields = {**vars(self.terms), "characters": self.size, "most_output": self.most_output}
        return json.dumps(fields if self.response is None else fields | {"response": self.response})

    def charge(self, server: str) -> Charge:
        """What the response cost."""
        return charge_of(self.response, server, self.terms)

    def most(self, server: str) -> float | None:
        """What the response can cost at most, in US dollars: without a bound of its own its output
        is what the model's context holds. None where no price or no bound is known."""
        most, into = self.most_output, self.size // BYTES + 1
        if most is None:
            context = context_window(self.terms.model, server)
            most = None if context is None else max(0, context - into)
        if most is None:
            return None
        return price_of_tokens(self.terms, server, TokenCounts(into, most))


def charge_of(
    response: Mapping[str, Any] | None, server: str, terms: Terms | None = None
) -> Charge:
    """Price a response (US dollars), as far as that is known.

    Args:
        response: the response object, with its model, its usage and the tier that served it.
        server: the address that it came from: whose prices apply.
        terms: what was asked. The response tells nothing of a window.
    """
    if response is None:
        return Charge()
    # Each is a response of its own: added up they may seem to have had a long context.
    rounds = response.get(ROUNDS)
    usages = rounds if rounds and isinstance(rounds, list) else [response.get("usage")]
    charges = [_charge_of_one(response, usage, server, terms or Terms()) for usage in usages]
    return (
        charges[0]
        if len(charges) == 1
        else Charge(_sum(one.price for one in charges), _sum(one.standard for one in charges))
    )


def _sum(amounts: Iterable[float | None]) -> float | None:
    found = list(amounts)
    return None if None in found else math.fsum(one or 0.0 for one in found)


def _charge_of_one(response: Mapping[str, Any], usage: object, server: str, asked: Terms) -> Charge:
    tokens = TokenCounts.of(usage)
    if tokens is None:
        return Charge()
    served = text_in(response.get("model")) or asked.model
    tier = text_in(response.get("service_tier")) if asked.tier != BATCH else BATCH
    return _charge(tokens, server, replace(asked, tier=tier or asked.tier), served)


def price_of(
    response: Mapping[str, Any] | None, server: str, terms: Terms | None = None
) -> float | None:
    """Price a response (US dollars); None if the price is not known. See `charge_of`."""
    return charge_of(response, server, terms).price


def price_of_tokens(terms: Terms, server: str, tokens: TokenCounts) -> float | None:
    """Price a number of tokens (US dollars); None if the price is not known."""
    return _charge(tokens, server, terms, terms.model).price


def _charge(tokens: TokenCounts, server: str, terms: Terms, served: str) -> Charge:
    own = _own_rates(terms.model) or _own_rates(served)
    if own is None and not prices_installed():
        return Charge()
    standard = own.price(tokens) if own else _listed(served, server, "", tokens)
    tier, share = terms.tier, WINDOW_SHARES.get(terms.window)
    if standard is None:
        return Charge()
    if tier in STANDARD_TIERS:
        return Charge(standard * (share or 1.0), standard)
    if own and tier == BATCH:
        return Charge(standard * BATCH_SHARE, standard)
    # A window is of the standard tier; and what a user says of a model is its standard price.
    if own or share is not None or not _has_tier(served, server, tier):
        return Charge(None, standard)
    return Charge(_listed(served, server, tier, tokens), standard)


def _has_tier(model: str, server: str, tier: str) -> bool:
    """Whether the list has a price of its own for this tier of the model.

    Of a tier that it does not know, genai-prices (0.2.3) gives the standard price without a word.
    """
    ours, standard = _listed_rates(model, server, tier), _listed_rates(model, server, "")
    if ours is None or standard is None:
        return False
    return ours.input != standard.input and ours.output != standard.output


def _listed(model: str, server: str, tier: str, tokens: TokenCounts) -> float | None:
    rates = _listed_rates(model, server, tier)
    if rates is None or tokens.input <= rates.holds_to:
        return None if rates is None else rates.price(tokens)
    try:
        return float(_calculated(model, server, tier, tokens).total_price)
    except Exception:
        return None


@functools.lru_cache(maxsize=1024)
def _listed_rates(model: str, server: str, tier: str) -> Rates | None:
    """The list's prices a token, or None where it has none.

    Asked of the library once, which takes 0.5 ms for each response: a receipt has thousands.
    """
    if not model:
        return None
    try:
        from genai_prices.types import TieredPrices

        one = _PROBED
        kinds = [(one, 0, 0, 0), (one, 0, one, 0), (one, 0, 0, one), (0, one, 0, 0)]
        asked = [_calculated(model, server, tier, TokenCounts(*kind)) for kind in kinds]
        inside, cached, written, outside = (float(found.total_price) / one for found in asked)
        starts = [
            step.start
            for price in vars(asked[0].model_price).values()
            if isinstance(price, TieredPrices)
            for step in price.tiers
        ]
        return Rates(inside, cached, written, outside, min(starts, default=math.inf))
    except Exception:
        # A model or server without prices: not known, whatever it is.
        return None


def _calculated(model: str, server: str, tier: str, tokens: TokenCounts) -> Any:
    import genai_prices

    # Batch is no service tier there: {"service_tier": "batch"} would give the standard price.
    context = {"processing" if tier == BATCH else "service_tier": tier} if tier else None
    usage = genai_prices.Usage(
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cache_read_tokens=tokens.cached,
        cache_write_tokens=tokens.written,
    )
    return genai_prices.calc_price(usage, model, provider_api_url=server, price_context=context)


@functools.lru_cache(maxsize=256)
def context_window(model: str, server: str) -> int | None:
    """Tokens that the model takes and writes together at most, by the list; None if not known."""
    try:
        found = _calculated(model, server, "", TokenCounts(1, 0)).model.context_window
    except Exception:
        return None
    return found if isinstance(found, int) and found > 0 else None


# Prices of the user's own: one table a process, since jobs of all kernels are priced by it.

_OWN_EXAMPLE = '{"my-model": {"input": 1.25, "output": 10}}, in dollars a million tokens'

_PRICED = ("input", "output", "cached_input")

_own: dict[str, Rates] = {}


def read_prices(value: object, label: str) -> dict[str, Rates]:
    """The prices that a user gives, by model: a dict, or the same as JSON text.

    Raises:
        BadInput: they are none; the line begins with ``label``.
    """
    given = value
    if isinstance(value, str):
        try:
            given = json.loads(value)
        except ValueError as error:
            raise BadInput(f"{label} is no JSON ({error}); write {_OWN_EXAMPLE}") from None
    if not isinstance(given, Mapping):
        raise BadInput(f"{label} must be a dict as {_OWN_EXAMPLE}")
    return {
        str(model): _read_rates(prices, f"{label} {model!r}") for model, prices in given.items()
    }


def _read_rates(prices: object, label: str) -> Rates:
    if not isinstance(prices, Mapping):
        raise BadInput(f"{label}: give its prices as {_OWN_EXAMPLE}")
    unknown = [str(name) for name in prices if name not in _PRICED]
    if unknown:
        raise BadInput(
            f"{label}: there is no price {unknown[0]!r}; allowed are {', '.join(_PRICED)}"
        )
    missing = [name for name in ("input", "output") if name not in prices]
    if missing:
        raise BadInput(f"{label}: its price for {missing[0]} is missing; write {_OWN_EXAMPLE}")
    for name, price in prices.items():
        number = isinstance(price, int | float) and not isinstance(price, bool)
        if not number or not 0 <= price < math.inf:
            raise BadInput(f"{label}: {name} is {price!r}; it must be dollars, 0 or more")
    inside, outside = prices["input"] / 1e6, prices["output"] / 1e6
    return Rates(inside, prices.get("cached_input", prices["input"]) / 1e6, inside, outside)


def set_own_prices(prices: Mapping[str, Rates]) -> None:
    """Price by these models' own prices from now on, before those of the list."""
    _own.clear()
    _own.update(prices)


def prices_of_environment() -> dict[str, Rates]:
    """The prices in BGMAGIC_PRICES, as JSON.

    Raises:
        BadInput: they are none.
    """
    given = os.environ.get("BGMAGIC_PRICES")
    return read_prices(given, "BGMAGIC_PRICES") if given else {}


def _own_rates(model: str) -> Rates | None:
    if not model or model in _own:
        return _own.get(model)
    try:
        return prices_of_environment().get(model)
    except BadInput:
        return None  # told with the next submission


# Before anything is sent.


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

    @property
    def most(self) -> float | None:
        """What they can cost at most, the input as far as it is known before; None if unbounded."""
        return None if self.output is None else self.output + (self.input or 0.0)

    def __str__(self) -> str:
        if self.output is None:
            return self.why
        about = f", and about {dollars(self.input)} for input" if self.input is not None else ""
        return f"at most {dollars(self.output)} for output{about}"


def estimate_cost(asked: Iterable[tuple[Terms, str, int | None, int]]) -> CostEstimate:
    """Estimate the cost of jobs before any is sent.

    Args:
        asked: for each job its terms, the server's address, the most output tokens or None, and the
            bytes of its request.
    """
    jobs, output, inside = 0, 0.0, 0.0
    unbounded, unknown = False, ""
    for terms, server, most, size in asked:
        jobs += 1
        unbounded = unbounded or most is None
        # Together, since a long input makes the output cost more.
        into = TokenCounts(size // BYTES + 1, 0)
        input_price = price_of_tokens(terms, server, into)
        whole = price_of_tokens(terms, server, TokenCounts(into.input, most or 0))
        if input_price is None or whole is None:
            unknown = unknown or _what_is_unknown(terms)
        else:
            inside, output = inside + input_price, output + whole - input_price
    if unknown and not prices_installed():
        return CostEstimate(jobs, None, None, "no price known: pip install 'bgmagic[prices]'")
    if unknown:
        return CostEstimate(jobs, None, None, f"no price known for {unknown} at this server")
    if unbounded:
        return CostEstimate(
            jobs, None, inside, "no bound on the cost: --max-output-tokens sets one"
        )
    return CostEstimate(jobs, output, inside)


def _what_is_unknown(terms: Terms) -> str:
    tier = "" if terms.tier in STANDARD_TIERS else f" in the tier {terms.tier}"
    return f"{terms.model}{tier}"
