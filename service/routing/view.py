"""The view that routing reads: the ledgers as this process knows them. Only the watcher changes it.

The week's usage is needed for each request, so it is summed once per snapshot, and updated with the own events after
it.
"""

from collections.abc import Iterator

from msgspec import Struct, field

from service.ledger.events import Event
from service.ledger.fold import OTHER_MODEL, add_usage, advance
from service.ledger.price import family_of
from service.ledger.state import Charge, ControlLedger, RouteLedger, Usage

KEPT_FAMILIES = 64
NO_LEDGER = RouteLedger()
"""Ledger of a route without events. Never changed."""


class Sums(Struct):
    """Sums of a ledger's `hours` and cells from `first_hour` on: in total, and for the client keys that were requested.
    A new ledger gets new sums. `unpriced_by_key` is keys' usage without a price, by family of models."""

    hours: dict[int, Usage]
    first_hour: int
    usage: Usage
    by_key: dict[str, Usage] = field(default_factory=dict)
    unpriced_by_key: dict[str, dict[str, Usage]] = field(default_factory=dict)

    def add(self, charge: Charge) -> None:
        """Add a charge that the ledger has applied."""
        if charge.hour < self.first_hour or charge.hour not in self.hours:
            return
        add_usage(self.usage, charge.usage)
        if charge.client_key in self.by_key:
            add_usage(self.by_key[charge.client_key], charge.usage)
        if charge.usage.unpriced and charge.client_key in self.unpriced_by_key:
            add_unpriced(self.unpriced_by_key[charge.client_key], charge.model, charge.usage)


class View(Struct):
    """Snapshot plus overlay. `replica` is this process: its own failures count at once. `accounts` are those that this
    process uses for each route now, as far as it knows. `spent` are quotas, by route, of which less was left than a
    request had to reserve. `live` are the replicas with a heartbeat, None if nobody has told."""

    replica: str = ""
    routes: dict[str, RouteLedger] = field(default_factory=dict)
    control: ControlLedger = field(default_factory=ControlLedger)
    sums: dict[str, Sums] = field(default_factory=dict)
    accounts: dict[str, str] = field(default_factory=dict)
    spent: dict[str, str] = field(default_factory=dict)
    live: frozenset[str] | None = None

    def ledger(self, route_id: str) -> RouteLedger:
        """Return the ledger of a route, an empty one without events."""
        return self.routes.get(route_id, NO_LEDGER)

    def fold_own(self, route_id: str, event: Event) -> None:
        """Fold an own event into the ledger of a route."""
        ledger = self.routes.get(route_id)
        if ledger is None:
            ledger = self.routes[route_id] = RouteLedger(reset_ms=self.control.resets.get(route_id, 0))
        charges, sums = advance(ledger, event), self.sums.get(route_id)
        if sums is not None:
            for charge in charges:
                sums.add(charge)

    def used(self, route_id: str, first_hour: int) -> Usage:
        """Return a route's usage from an hour on."""
        return self._sums_of(route_id, first_hour).usage

    def used_by_key(self, key_id: str, route_id: str, first_hour: int) -> Usage:
        """Return a client key's usage of a route from an hour on."""
        by_key = self._sums_of(route_id, first_hour).by_key
        if key_id not in by_key:
            by_key[key_id] = key_usage_since(self.ledger(route_id), first_hour, key_id)
        return by_key[key_id]

    def unpriced_by_key(self, key_id: str, route_id: str, first_hour: int) -> dict[str, Usage]:
        """Return a client key's usage of a route without a price from an hour on, by family of models."""
        known = self._sums_of(route_id, first_hour).unpriced_by_key
        if key_id not in known:
            found = known[key_id] = {}
            for model, cell in cells_since(self.ledger(route_id), first_hour, key_id):
                if cell.unpriced:
                    add_unpriced(found, model, cell)
        return known[key_id]

    def _sums_of(self, route_id: str, first_hour: int) -> Sums:
        hours, sums = self.ledger(route_id).hours, self.sums.get(route_id)
        if sums is None or sums.hours is not hours or sums.first_hour != first_hour:
            sums = self.sums[route_id] = Sums(hours, first_hour, usage_since(hours, first_hour))
        return sums


def usage_since(hours: dict[int, Usage], first_hour: int) -> Usage:
    """Return the sum of a ledger's hours from one on."""
    total = Usage()
    for hour, usage in hours.items():
        if hour >= first_hour:
            add_usage(total, usage)
    return total


def key_usage_since(ledger: RouteLedger, first_hour: int, key_id: str) -> Usage:
    """Return the sum of a client key's cells from an hour on."""
    total = Usage()
    for _, cell in cells_since(ledger, first_hour, key_id):
        add_usage(total, cell)
    return total


def cells_since(ledger: RouteLedger, first_hour: int, key_id: str) -> Iterator[tuple[str, Usage]]:
    """Yield a client key's cells from an hour on, with their models."""
    for hour, by_model in ledger.usage.items():
        if hour >= first_hour:
            for model, by_key in by_model.items():
                if cell := by_key.get(key_id):
                    yield model, cell


def add_unpriced(families: dict[str, Usage], model: str, usage: Usage) -> None:
    """Add usage without a price to that of its family; the number of families is bounded, since clients invent
    names."""
    family = family_of(model)
    if family not in families and len(families) >= KEPT_FAMILIES:
        family = OTHER_MODEL
    add_usage(families.setdefault(family, Usage()), usage)
