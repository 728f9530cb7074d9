"""Prices usage in integer nano-dollars, by the provider's published rules. Pure.

A cost is the list price of the usage, not what a subscription or a plan charges. What has no known price (a model, a
speed, a tier, a paid tool) costs None, never 0. Not here: the format of price lists (`price_list`), and where they come
from (`service.settings.packaged`).

Rules
- Prices have dates: usage costs what the list says for its time.
- A prompt above a limit costs more as a whole; whatever was read is prompt, from a cache or not.
- `speed: fast` has a price of its own for each model that has it; tier and geography are factors on all tokens.
- Paid tools cost by use; no factor applies to them.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from service.ledger.events import TokenCounts, UsageLine
from service.ledger.model_names import canonical

NUSD_PER_USD = 10**9
MTOK = 10**6
FACTOR = 1_000
"""Factors are in thousandths."""
SCALE = MTOK * FACTOR * FACTOR
MOST_NUSD = 1 << 50
"""A million dollars: nothing that one event tells costs more, and sums of it fit Postgres' bigint."""
LATEST_MS = 2**63 - 1
STANDARD = ""
"""The speed, tier and geography of usage that names none."""
BATCH = "batch"
TOKEN_KINDS = TokenCounts.__struct_fields__
ANY_FAMILY = ""
NO_TOKENS = TokenCounts()
NO_TOOLS: Mapping[str, int] = {}


class Rates(Struct, frozen=True):
    """Nano-dollars per million tokens, by kind."""

    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int


class LongPrompt(Struct, frozen=True):
    """The rates of a whole request whose prompt has more than `above_tokens` tokens."""

    above_tokens: int
    rates: Rates


class PricePeriod(Struct, frozen=True):
    """The rates from a moment on; those of long prompts, the longest first."""

    from_ms: int
    rates: Rates
    long_prompts: tuple[LongPrompt, ...] = ()


class Terms(Struct, frozen=True):
    """A provider's factors in thousandths, and nano-dollars per use of its tools."""

    tiers: Mapping[str, int]
    geos: Mapping[str, int]
    tools: Mapping[str, int] = {}


class ModelPrice(Struct, frozen=True):
    """The prices of a model by speed, each the newest first. `context_tokens` is the largest prompt, 0 if unknown."""

    provider: str
    speeds: Mapping[str, tuple[PricePeriod, ...]]
    terms: Terms
    context_tokens: int = 0


class PriceList(Struct, frozen=True):
    """Prices by model name, and the version recorded in events.

    `bounds` are the highest rates, by family of models (such as `claude`), by provider, and of all (`ANY_FAMILY`);
    `providers` are those of the routes.
    """

    version: str = ""
    models: Mapping[str, ModelPrice] = {}
    bounds: Mapping[str, Rates] = {}
    providers: Mapping[str, str] = {}


def cost_nusd(
    tokens: TokenCounts,
    model: str,
    prices: PriceList,
    *,
    at_ms: int = LATEST_MS,
    tools: Mapping[str, int] = NO_TOOLS,
    tier: str = STANDARD,
    speed: str = STANDARD,
    geo: str = STANDARD,
) -> int | None:
    """Return the cost of usage, or None if a part of it has no price. `tools` are uses by name."""
    price = prices.models.get(model) or prices.models.get(canonical(model))
    if price is None:
        return None
    terms = price.terms
    rates = rates_at(price.speeds.get(speed, ()), tokens, at_ms)
    tier_factor, geo_factor = terms.tiers.get(tier), terms.geos.get(geo)
    uses_nusd = uses_cost_nusd(tools, terms) if tools else 0
    if rates is None or tier_factor is None or geo_factor is None or uses_nusd is None:
        return None
    nusd = (tokens_cost(rates, tokens) * tier_factor * geo_factor + SCALE // 2) // SCALE + uses_nusd
    return min(MOST_NUSD, nusd)


def line_nusd(line: UsageLine, prices: PriceList, *, at_ms: int, tier: str = STANDARD) -> int | None:
    """Return the cost of a line of usage, None without a price; 0 for what is not billed, or nothing. `tier` stands
    over that of the line."""
    if line.unbilled or (line.tokens == NO_TOKENS and not line.tools):
        return 0
    return cost_nusd(
        line.tokens,
        line.model,
        prices,
        at_ms=at_ms,
        tools=line.tools,
        tier=tier or line.tier,
        speed=line.speed,
        geo=line.geo,
    )


def rates_for(
    model: str, prices: PriceList, *, at_ms: int = LATEST_MS, speed: str = STANDARD, geo: str = STANDARD
) -> TokenCounts | None:
    """Return what a million tokens of each kind cost in nano-dollars, for prompts of usual length; None without a
    price."""
    price = prices.models.get(model) or prices.models.get(canonical(model))
    rates = rates_at(price.speeds.get(speed, ()), NO_TOKENS, at_ms) if price else None
    factor = price.terms.geos.get(geo) if price else None
    if rates is None or factor is None:
        return None
    return TokenCounts(**{kind: getattr(rates, kind) * factor // FACTOR for kind in TOKEN_KINDS})


def rates_at(periods: tuple[PricePeriod, ...], tokens: TokenCounts, at_ms: int) -> Rates | None:
    """Return the rates for a prompt of this size at a moment; None if there were none."""
    for period in periods:
        if at_ms >= period.from_ms:
            if not period.long_prompts:
                return period.rates
            prompt = tokens.input + tokens.cache_read + tokens.cache_write_5m + tokens.cache_write_1h
            return next((one.rates for one in period.long_prompts if prompt > one.above_tokens), period.rates)
    return None


def tokens_cost(rates: Rates, tokens: TokenCounts) -> int:
    """Return the cost of tokens, in millionths of a nano-dollar."""
    return (
        tokens.input * rates.input
        + tokens.output * rates.output
        + tokens.cache_read * rates.cache_read
        + tokens.cache_write_5m * rates.cache_write_5m
        + tokens.cache_write_1h * rates.cache_write_1h
    )


def uses_cost_nusd(tools: Mapping[str, int], terms: Terms) -> int | None:
    """Return the cost of tools' uses, or None if one has no price."""
    total = 0
    for name, uses in tools.items():
        price = terms.tools.get(name)
        if price is None and uses:
            return None
        total += uses * (price or 0)
    return total


def bound_of(prices: PriceList, family: str, route: str) -> Rates | None:
    """Return the highest rates that usage without a price may have: those of its family, else of the route's provider,
    else of all; None if there are no prices."""
    bounds = prices.bounds
    return bounds.get(family) or bounds.get(prices.providers.get(route, "")) or bounds.get(ANY_FAMILY)


def bounds_of(models: Mapping[str, ModelPrice]) -> dict[str, Rates]:
    """Return the highest rates by family, by provider and of all, kind by kind."""
    bounds: dict[str, Rates] = {}
    for model, price in models.items():
        for rates in rates_of(price):
            for group in {family_of(model), price.provider, ANY_FAMILY}:
                bounds[group] = highest(bounds.get(group, rates), rates)
    return bounds


def rates_of(price: ModelPrice) -> Iterable[Rates]:
    """Yield all rates of a model."""
    for periods in price.speeds.values():
        for period in periods:
            yield period.rates
            yield from (one.rates for one in period.long_prompts)


def highest(one: Rates, other: Rates) -> Rates:
    """Return the higher rate of each kind."""
    return Rates(**{kind: max(getattr(one, kind), getattr(other, kind)) for kind in TOKEN_KINDS})


def family_of(model: str) -> str:
    """Return the first word of a model's name."""
    return canonical(model).partition("-")[0]
