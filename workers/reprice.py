"""Prices usage again, by another price list: events that follow those of the usage, which stay as they are.

Each price has one successor, whose id follows from it: two commands at once, or one that was broken off and runs again,
record the same events. Not here: prices (`service.ledger.price`), folding (`project`), and what was read of running
totals, whose growth is priced when it is folded.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from service.ledger import ids, wire
from service.ledger.events import FOLD_RULES, AttemptEnded, AttemptLost, BatchItemUsed, PriceChange, UsageRepriced
from service.ledger.price import BATCH, PriceList, line_nusd
from service.ledger.usage_lines import UsageEvent, usage_lines
from workers.archive import Archive

STEP_MS = 3_600_000
LONGEST_ATTEMPT_MS = 24 * STEP_MS
"""An event's id has the time at which its attempt began."""
Costs: TypeAlias = tuple[int | None, ...]


class Priced(NamedTuple):
    """Usage, the id of the event that priced it last, and what its lines cost since."""

    event: UsageEvent
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

    Raises psycopg.Error.
    """
    sums = Repricing(stream)
    for from_ms in range(max(0, since_ms - LONGEST_ATTEMPT_MS), until_ms, STEP_MS):
        events: list[UsageRepriced] = []
        for one in priced_in(archive.priced_events(stream, from_ms, min(from_ms + STEP_MS, until_ms))):
            if since_ms <= one.event.at_ms < until_ms:
                now = costs_by(one.event, prices)
                sums = sums.plus(one.costs, now)
                if now != one.costs:
                    events.append(repriced_event(one, now, prices.version))
        yield sums, events


def priced_in(bodies: Iterable[str]) -> Iterable[Priced]:
    """Return usage with its newest price; without estimates that an attempt's end has replaced."""
    found: dict[str, Priced] = {}
    for body in bodies:
        note_price(found, wire.decode_event(body.encode()))
    ended = {one.event.attempt_id for one in found.values() if isinstance(one.event, AttemptEnded)}
    return [one for one in found.values() if not (isinstance(one.event, AttemptLost) and one.event.attempt_id in ended)]


def note_price(found: dict[str, Priced], event: wire.Decoded) -> None:
    """Take an event's usage, or its later price, into what was found."""
    if isinstance(event, UsageEvent):
        found[event.event_id] = Priced(event, event.event_id, tuple(line.cost_nusd for line in usage_lines(event)))
    elif isinstance(event, UsageRepriced) and event.of in found:
        costs = tuple(change.cost_nusd for change in event.changes)
        found[event.of] = found[event.of]._replace(priced_by=event.event_id, costs=costs)


def costs_by(event: UsageEvent, prices: PriceList) -> Costs:
    """Return what the lines of an event cost by a price list."""
    is_batch = isinstance(event, BatchItemUsed)
    at_ms = event.at_ms if isinstance(event, BatchItemUsed) else event.started_at_ms
    tier = BATCH if is_batch else ""
    return tuple(line_nusd(line, prices, at_ms=at_ms, tier=tier) for line in usage_lines(event))


def repriced_event(priced: Priced, now: Sequence[int | None], version: str) -> UsageRepriced:
    """Return the event of a new price."""
    event, lines = priced.event, usage_lines(priced.event)
    return UsageRepriced(
        event_id=ids.repriced_id(priced.priced_by),
        at_ms=event.at_ms,
        of=event.event_id,
        attempt_id="" if isinstance(event, BatchItemUsed) else event.attempt_id,
        request_id=event.request_id,
        client_key=event.client_key,
        changes=tuple(map(PriceChange, (line.model for line in lines), priced.costs, now)),
        price_version=version,
        fold_rules=FOLD_RULES,
        of_lost=isinstance(event, AttemptLost),
    )
