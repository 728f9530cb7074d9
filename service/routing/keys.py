"""What a client key has used and what it may do: readings of the view under the key's limits at `now`.

A key's week is that of the quotas. What ran on clients' own credentials is nobody's to limit, and does not count.
Not here: whose key it is (`edge.keys`), and refusing (`edge.admit`).
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from msgspec import Struct

from service.ledger.events import Tokens
from service.ledger.fold import HOUR_MS, add_usage
from service.ledger.model_names import canonical
from service.ledger.price import TOKEN_KINDS, PriceList, cost_at, dearest
from service.ledger.state import ClientKey, Usage
from service.routing.quota import counted_tokens, week_of
from service.routing.view import View
from service.settings import CLIENT_ROUTE_ID, QuotaPolicy

KeyState = Literal["ok", "spent", "expired"]


class KeyReading(Struct, frozen=True, kw_only=True):
    """A key's week so far, over all routes. `used_percent` is of the limit that is nearer, 0 without a limit."""

    state: KeyState
    usage: Usage
    used_tokens: int
    used_percent: float
    resets_at_ms: int


def read_key(
    key_id: str, key: ClientKey, view: View, policy: QuotaPolicy, prices: PriceList, now_ms: int
) -> KeyReading:
    """How a key stands. What has no price is not free: a limit in dollars counts it at the dearest price of its family,
    so that no limit is walked around by another name of a model."""
    start_ms, end_ms = week_of(now_ms, policy)
    usage = used_since(key_id, view, start_ms // HOUR_MS)
    tokens = counted_tokens(usage, policy.weights)
    cost_nusd = usage.cost_nusd
    if usage.unpriced and key.weekly_cost_nusd is not None:
        cost_nusd += unpriced_nusd(key_id, view, start_ms // HOUR_MS, prices)
    percent = max(percent_of(tokens, key.weekly_tokens), percent_of(cost_nusd, key.weekly_cost_nusd))
    state: KeyState = "spent" if percent >= 100 else "ok"
    if key.expires_at_ms is not None and key.expires_at_ms <= now_ms:
        state = "expired"
    return KeyReading(state=state, usage=usage, used_tokens=tokens, used_percent=percent, resets_at_ms=end_ms)


def used_since(key_id: str, view: View, first_hour: int) -> Usage:
    """What a key has used of the owner's routes from an hour on."""
    total = Usage()
    for route in view.routes:
        if route != CLIENT_ROUTE_ID:
            add_usage(total, view.used_by_key(key_id, route, first_hour))
    return total


def unpriced_nusd(key_id: str, view: View, first_hour: int, prices: PriceList) -> int:
    """What a key's usage without a price costs at most."""
    total = 0
    for route in view.routes:
        if route == CLIENT_ROUTE_ID:
            continue
        for hour, by_model in view.ledger(route).usage.items():
            if hour >= first_hour:
                cells = ((model, by_key[key_id]) for model, by_key in by_model.items() if key_id in by_key)
                total += sum(most_nusd(cell, model, prices) for model, cell in cells)
    return total


def most_nusd(cell: Usage, model: str, prices: PriceList) -> int:
    """What the part of a cell without a price costs at most; of others, only their number is known."""
    price = dearest(prices, model) if cell.unpriced else None
    if price is None:
        return 0
    tokens = Tokens(**{kind: getattr(cell, kind) for kind in TOKEN_KINDS})
    return cost_at(price, tokens) * cell.unpriced // max(cell.unpriced, cell.attempts + cell.batch_items)


def percent_of(used: int, limit: int | None) -> float:
    """Percent of a limit that is gone. A limit of 0 is gone from the beginning; without one, nothing ever is."""
    if limit is None:
        return 0.0
    return 100.0 * used / limit if limit else 100.0


def allows_model(key: ClientKey, model: str) -> bool:
    """Whether a key may ask for a model."""
    return not key.models or matches(key.models, model)


def matches(patterns: Sequence[str], name: str) -> bool:
    """Whether a name is one of these, as it is written or in its normal form; `*` stands for anything."""
    forms = {name.lower(), canonical(name)}
    return any(fnmatchcase(form, pattern.lower()) for pattern in patterns for form in forms)
