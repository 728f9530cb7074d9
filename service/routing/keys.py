"""Usage and permissions of a client key: computed from the view and the key's limits at `now`.

A key's week is that of the quotas. Attempts with clients' own credentials do not count. Not here: authentication
(`edge.keys`), and enforcement (`edge.key_limits`).
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from msgspec import Struct

from service.ledger.events import TokenCounts
from service.ledger.fold import HOUR_MS, add_usage
from service.ledger.model_names import canonical
from service.ledger.price import MTOK, TOKEN_KINDS, PriceList, Rates, bound_of, tokens_cost
from service.ledger.state import ClientKey, Usage
from service.routing.quota import counted_tokens, week_of
from service.routing.view import View
from service.settings import CLIENT_ROUTE_ID, QuotaPolicy

KeyState = Literal["ok", "spent", "expired"]


class KeyReading(Struct, frozen=True, kw_only=True):
    """A key's usage of the current week, over all routes. `used_percent` is of the limit closer to its end, 0 without a
    limit. `counted_nusd` is what counts towards a limit in dollars: the cost, and an upper bound for what has no price.
    """

    state: KeyState
    usage: Usage
    used_tokens: int
    counted_nusd: int
    used_percent: float
    resets_at_ms: int


def read_key(
    key_id: str, key: ClientKey, view: View, policy: QuotaPolicy, prices: PriceList, now_ms: int
) -> KeyReading:
    """Return a key's reading. Usage without a price is not free: a limit in dollars counts it at its family's highest
    price, so that a model's alias does not bypass limits."""
    start_ms, end_ms = week_of(now_ms, policy)
    usage = used_since(key_id, view, start_ms // HOUR_MS)
    tokens = counted_tokens(usage, policy.weights)
    counted_nusd = usage.cost_nusd
    if usage.unpriced:
        counted_nusd += unpriced_nusd(key_id, view, start_ms // HOUR_MS, prices)
    percent = max(percent_of(tokens, key.weekly_tokens), percent_of(counted_nusd, key.weekly_cost_nusd))
    state: KeyState = "spent" if percent >= 100 else "ok"
    if key.expires_at_ms is not None and key.expires_at_ms <= now_ms:
        state = "expired"
    return KeyReading(
        state=state,
        usage=usage,
        used_tokens=tokens,
        counted_nusd=counted_nusd,
        used_percent=percent,
        resets_at_ms=end_ms,
    )


def used_since(key_id: str, view: View, first_hour: int) -> Usage:
    """Return a key's usage of the owner's routes from an hour on."""
    total = Usage()
    for route in view.routes:
        if route != CLIENT_ROUTE_ID:
            add_usage(total, view.used_by_key(key_id, route, first_hour))
    return total


def unpriced_nusd(key_id: str, view: View, first_hour: int, prices: PriceList) -> int:
    """Return an upper bound for a key's usage without a price."""
    return sum(
        most_nusd(usage, bound_of(prices, family, route))
        for route in view.routes
        if route != CLIENT_ROUTE_ID
        for family, usage in view.unpriced_by_key(key_id, route, first_hour).items()
    )


def most_nusd(usage: Usage, rates: Rates | None) -> int:
    """Return the cost of usage at these rates, beyond the known cost of parts of it."""
    if rates is None:
        return 0
    tokens = TokenCounts(**{kind: getattr(usage, kind) for kind in TOKEN_KINDS})
    return max(0, -(-tokens_cost(rates, tokens) // MTOK) - usage.cost_nusd)


def percent_of(used: int, limit: int | None) -> float:
    """Return the used percentage of a limit. A limit of 0 is used up from the start; without a limit it is 0."""
    if limit is None:
        return 0.0
    return 100.0 * used / limit if limit else 100.0


def allows_model(key: ClientKey, model: str) -> bool:
    """True if a key may use a model."""
    return not key.models or matches(key.models, model)


def matches(patterns: Sequence[str], name: str) -> bool:
    """True if a name matches a pattern, as written or in its canonical form; `*` matches anything."""
    forms = {name.lower(), canonical(name)}
    return any(fnmatchcase(form, pattern.lower()) for pattern in patterns for form in forms)
