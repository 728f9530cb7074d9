"""Prices tokens in integer nano-dollars. Pure; `service.settings` loads the price list.

A cost is the list price of the usage, not what a subscription or a plan charges. A model without a price costs None,
never 0.
"""

from collections.abc import Mapping

from msgspec import Struct

from service.ledger.events import TokenCounts
from service.ledger.model_names import canonical

NUSD_PER_USD_PER_MTOK = 1_000
"""One dollar per million tokens is a thousand nano-dollars per token."""
BATCH_DIVISOR = 2
"""Message batches cost half (Anthropic's pricing page)."""
TOKEN_KINDS = TokenCounts.__struct_fields__
ANY_FAMILY = ""


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """Dollars per million tokens. Over `over_prompt_tokens` of prompt the whole request costs `over_factor` as much."""

    input: float
    output: float
    cache_read: float
    cache_write_5m: float
    cache_write_1h: float
    over_prompt_tokens: int = 0
    over_factor: float = 1


class PriceList(Struct, frozen=True):
    """Prices by model name, and the version recorded in events."""

    version: str = ""
    prices: Mapping[str, Price] = {}


def cost_nusd(tokens: TokenCounts, model: str, prices: PriceList, *, batch: bool = False) -> int | None:
    """Return the cost of these tokens, or None if the model has no price."""
    price = prices.prices.get(model) or prices.prices.get(canonical(model))
    return cost_at(price, tokens, batch=batch) if price else None


def dearest_prices(prices: PriceList) -> dict[str, Price]:
    """Return upper bounds for models without a price, by family (such as `claude`) and token kind: the highest price in
    the family. Under ANY_FAMILY the highest of all, for families without a price; empty if there are no prices."""
    families: dict[str, list[Price]] = {}
    for model, price in prices.prices.items():
        for family in (family_of(model), ANY_FAMILY):
            families.setdefault(family, []).append(price)
    return {
        family: Price(**{kind: max(getattr(price, kind) for price in known) for kind in TOKEN_KINDS})
        for family, known in families.items()
    }


def family_of(model: str) -> str:
    """Return the first word of a model's name."""
    return canonical(model).partition("-")[0]


def cost_at(price: Price, tokens: TokenCounts, *, batch: bool = False) -> int:
    """Return the cost of these tokens at a price."""
    usd_per_mtok = (
        tokens.input * price.input
        + tokens.output * price.output
        + tokens.cache_read * price.cache_read
        + tokens.cache_write_5m * price.cache_write_5m
        + tokens.cache_write_1h * price.cache_write_1h
    )
    prompt = tokens.input + tokens.cache_read + tokens.cache_write_5m + tokens.cache_write_1h
    if price.over_prompt_tokens and prompt > price.over_prompt_tokens:
        usd_per_mtok *= price.over_factor
    return round(usd_per_mtok * NUSD_PER_USD_PER_MTOK / (BATCH_DIVISOR if batch else 1))
