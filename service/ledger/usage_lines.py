"""The lines of a usage event: what each model served, and its price. Pure.

Fold, projections, reports, metrics and the console read usage through this, whatever the version of the event. Not
here: reading usage from a provider's answer (`service.protocol.usage_reader`), and running totals of resources
(`running_totals`).
"""

from collections.abc import Sequence

from service.ledger.events import AttemptEnded, AttemptLost, BatchItemUsed, TokenCounts, UsageLine

NO_TOKENS = TokenCounts()
UsageEvent = AttemptEnded | AttemptLost | BatchItemUsed


def usage_lines(event: UsageEvent) -> Sequence[UsageLine]:
    """Return the lines of an event, the answer's own first; there is always one."""
    if not isinstance(event, AttemptLost) and event.lines:
        return event.lines
    return (UsageLine(served_model(event), tokens=event.tokens, cost_nusd=event.cost_nusd),)


def served_model(event: UsageEvent) -> str:
    """Return the model that served, as far as an answer named one; else the model that was sent."""
    return (isinstance(event, AttemptEnded) and event.model_served) or event.model_sent


def total_tokens(lines: Sequence[UsageLine]) -> TokenCounts:
    """Return the tokens of all lines, kind by kind."""
    total = lines[0].tokens
    for line in lines[1:]:
        total = plus(total, line.tokens)
    return total


def total_nusd(lines: Sequence[UsageLine]) -> int | None:
    """Return the price of the lines that have one; None if none has."""
    costs = [line.cost_nusd for line in lines if line.cost_nusd is not None]
    return sum(costs) if costs else None


def plus(one: TokenCounts, other: TokenCounts) -> TokenCounts:
    """Return the sum of two counts, kind by kind."""
    return TokenCounts(
        input=one.input + other.input,
        output=one.output + other.output,
        cache_read=one.cache_read + other.cache_read,
        cache_write_5m=one.cache_write_5m + other.cache_write_5m,
        cache_write_1h=one.cache_write_1h + other.cache_write_1h,
    )
