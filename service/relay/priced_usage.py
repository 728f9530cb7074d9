"""Prices what an answer used, line by line, for the events that record it.

Not here: reading usage (`service.protocol.usage_reader`), price lists and what costs how much (`service.ledger.price`).
"""

from msgspec import Struct
from msgspec.structs import replace

from service.ledger.events import TokenCounts, UsageLine
from service.ledger.model_names import canonical
from service.ledger.price import STANDARD, PriceList, cost_nusd, line_nusd
from service.ledger.usage_lines import NO_TOKENS, total_nusd, total_tokens
from service.protocol.usage_reader import UsageReading


class PricedUsage(Struct, frozen=True):
    """Usage as events have it: totals, the model that served if it is another one than was sent, and lines if there is
    more to tell than that."""

    tokens: TokenCounts
    cost_nusd: int | None
    model_served: str = ""
    lines: tuple[UsageLine, ...] = ()


def price_usage(usage: UsageReading, model: str, prices: PriceList, at_ms: int, *, tier: str = STANDARD) -> PricedUsage:
    """Price the usage of an answer of `model`, unless it names another one; `tier` is that of all its lines."""
    served = usage.model if usage.model and not is_same_model(usage.model, model) else ""
    if usage.is_plain:
        tokens = usage.tokens
        cost = 0 if tokens == NO_TOKENS else cost_nusd(tokens, served or model, prices, at_ms=at_ms, tier=tier)
        return PricedUsage(tokens, cost, served)
    lines = tuple(
        replace(line, cost_nusd=line_nusd(line, prices, at_ms=at_ms, tier=tier))
        for line in usage.lines(served or model)
    )
    return PricedUsage(total_tokens(lines), total_nusd(lines), served, lines)


def is_same_model(one: str, other: str) -> bool:
    """True if two names mean one model, with or without its date."""
    return one == other or canonical(one) == canonical(other)
