"""Prices usage again, by another price list: events that follow those of the usage, which stay as they are.

Each price has one successor, whose id follows from it: two commands at once, or one that was broken off and runs again,
record the same events. Not here: prices (`service.ledger.price`), and folding (`project`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from service.ledger import ids, wire
from service.ledger.events import (
    FOLD_RULES,
    AttemptEnded,
    AttemptLost,
    BatchItemUsed,
    PriceChange,
    ResourceUsed,
    UsageLine,
    UsageRepriced,
)
from service.ledger.price import BATCH, STANDARD, PriceList, line_nusd, rates_for
from service.ledger.running_totals import Growth, at_rates, growth_of
from service.ledger.state import RouteLedger
from service.ledger.usage_lines import UsageEvent, usage_lines
from workers.archive import Archive

STEP_MS = 3_600_000
LONGEST_ATTEMPT_MS = 24 * STEP_MS
"""An event's id has the time at which its attempt began."""
Costs: TypeAlias = tuple[int | None, ...]


class Priced(NamedTuple):
    """Lines of usage and whose they are, the id of the event that priced them last, and what they cost since."""

    event: UsageEvent | ResourceUsed
    lines: Sequence[UsageLine]
    client_key: str
    priced_by: str
    costs: Costs


class Repricing(NamedTuple):
    """What a stream's usage of a period costs, before and now; `changed` of its `events` cost something else."""

    stream: str
    events: int = 0
    changed: int = 0
    was_nusd: int = 0
    now_nusd: int = 0
    was_unpriced: int = 0
    now_unpriced: int = 0

    def plus(self, before: Costs, now: Costs) -> "Repricing":
        """Return the sums with one more event."""
        return Repricing(
            self.stream,
            self.events + 1,
            self.changed + (before != now),
            self.was_nusd + sum(cost or 0 for cost in before),
            self.now_nusd + sum(cost or 0 for cost in now),
            self.was_unpriced + before.count(None),
            self.now_unpriced + now.count(None),
        )


def reprice(
    archive: Archive, stream: str, prices: PriceList, since_ms: int, until_ms: int
) -> Iterator[tuple[Repricing, list[UsageRepriced]]]:
    """Price a stream's usage of a period again, an hour at a time: yields the sums so far, and the new events.

    Raises psycopg.Error, and NewerState for a stream that newer workers fold.
    """
    sums, growths = Repricing(stream), growths_of(archive, stream)
    for from_ms in range(max(0, since_ms - LONGEST_ATTEMPT_MS), until_ms, STEP_MS):
        events: list[UsageRepriced] = []
        for one in priced_in(archive.priced_events(stream, from_ms, min(from_ms + STEP_MS, until_ms)), growths):
            if since_ms <= one.event.at_ms < until_ms:
                now = costs_by(one, prices)
                sums = sums.plus(one.costs, now)
                if now != one.costs:
                    events.append(repriced_event(one, now, prices.version))
        yield sums, events


def growths_of(archive: Archive, stream: str) -> dict[str, Growth]:
    """Return what readings of running totals added, by their events; the readings before are needed for that.

    Growth that the provider itself has priced is left out. Raises NewerState.
    """
    checkpoint, balance = archive.checkpoint(stream), archive.balance(stream)
    ledger = wire.decode_state(stream, balance.state)
    current = wire.decode_state(stream, checkpoint.state) if checkpoint else ledger
    found: dict[str, Growth] = {}
    if not isinstance(ledger, RouteLedger) or not isinstance(current, RouteLedger) or not current.resources:
        return found
    for body in archive.resource_readings(stream):
        event = wire.decode_event(body.encode())
        growth = growth_of(ledger, event) if isinstance(event, ResourceUsed) else None
        if growth and isinstance(event, ResourceUsed) and event.cost_nusd is None:
            found[event.event_id] = growth
    return found


def priced_in(bodies: Iterable[str], growths: Mapping[str, Growth]) -> Iterable[Priced]:
    """Return usage with its newest price; without estimates that an attempt's end has replaced."""
    found: dict[str, Priced] = {}
    for body in bodies:
        note_price(found, wire.decode_event(body.encode()), growths)
    ended = {one.event.attempt_id for one in found.values() if isinstance(one.event, AttemptEnded)}
    return [one for one in found.values() if not (isinstance(one.event, AttemptLost) and one.event.attempt_id in ended)]


def note_price(found: dict[str, Priced], event: wire.Decoded, growths: Mapping[str, Growth]) -> None:
    """Take an event's usage, or its later price, into what was found."""
    if isinstance(event, UsageRepriced) and event.of in found:
        costs = tuple(change.cost_nusd for change in event.changes)
        found[event.of] = found[event.of]._replace(priced_by=event.event_id, costs=costs)
    elif isinstance(event, ResourceUsed) and event.event_id in growths:
        growth = growths[event.event_id]
        costs = (growth.line.cost_nusd,)
        found[event.event_id] = Priced(event, (growth.line,), growth.client_key, event.event_id, costs)
    elif isinstance(event, UsageEvent):
        lines = usage_lines(event)
        costs = tuple(line.cost_nusd for line in lines)
        found[event.event_id] = Priced(event, lines, event.client_key, event.event_id, costs)


def costs_by(priced: Priced, prices: PriceList) -> Costs:
    """Return what lines of usage cost by a price list at the time at which they were first priced."""
    event = priced.event
    if isinstance(event, ResourceUsed):
        return tuple(growth_cost(line, prices, event.at_ms) for line in priced.lines)
    tier = BATCH if isinstance(event, BatchItemUsed) else STANDARD
    return tuple(line_nusd(line, prices, at_ms=event.at_ms, tier=tier) for line in priced.lines)


def growth_cost(line: UsageLine, prices: PriceList, at_ms: int) -> int | None:
    """Return what growth costs: of many requests, so that no prompt's length is known."""
    rates = rates_for(line.model, prices, at_ms=at_ms, speed=line.speed, geo=line.geo)
    return None if rates is None else at_rates(line.tokens, rates)


def repriced_event(priced: Priced, now: Sequence[int | None], version: str) -> UsageRepriced:
    """Return the event of a new price."""
    event = priced.event
    return UsageRepriced(
        event_id=ids.repriced_id(priced.priced_by),
        at_ms=event.at_ms,
        of=event.event_id,
        attempt_id=event.attempt_id if isinstance(event, AttemptEnded | AttemptLost) else "",
        request_id=event.request_id,
        client_key=priced.client_key,
        changes=tuple(map(PriceChange, (line.model for line in priced.lines), priced.costs, now)),
        price_version=version,
        fold_rules=FOLD_RULES,
        of_lost=isinstance(event, AttemptLost),
        of_growth=isinstance(event, ResourceUsed),
        resource_id=event.resource_id if isinstance(event, ResourceUsed) else "",
    )
