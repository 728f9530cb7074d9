"""Running totals of resources: sessions, their threads, and dreams. What has grown since the highest reading is booked.

A resource is polled by many clients, through many proxies, and each answer tells its whole usage so far. So readings
are never added: of each kind of token the highest one counts, in whatever order they come, and once.

- The usage of a thread is within its session's, and that of a dream within the session that runs it. So what is booked
  is the greater of the whole and of the sum of its parts.
- Growth has the model of the reading that told it, and is charged to the client key that read the resource first.
- The price is that of the grown tokens, or, where the provider tells a sum in dollars, what that has grown: it covers
  more than tokens.
- The number of resources is bounded. The one read longest ago is dropped, and with it the knowledge of what was booked:
  from then on one that is as old and unknown counts from its first reading on, rather than twice.

Pure; part of `fold`. Not here: reading totals from answers (`service.protocol.resource_totals`).
"""

from hashlib import sha256

from msgspec import Struct

from service.ledger.events import ResourceUsed, TokenCounts, UsageLine
from service.ledger.price import MOST_NUSD
from service.ledger.state import ResourceTotal, RouteLedger
from service.ledger.usage_lines import NO_TOKENS, plus

KEPT_RESOURCES = 1_000
"""Maximum resources of a route whose totals are kept; one takes 300 bytes of each snapshot."""
KEPT_PARTS = 64
"""Maximum parts of a resource: more are counted by the whole alone."""
DIGEST_CHARS = 16
WHOLE = ""
TOKENS_PER_RATE = 10**6


class Growth(Struct, frozen=True):
    """What a reading adds: a line of usage, and whose it is."""

    line: UsageLine
    client_key: str


def growth_of(ledger: RouteLedger, event: ResourceUsed) -> Growth | None:
    """Take a reading into the ledger; return what it adds, None if nothing."""
    total = known_total(ledger, event)
    total.model = total.model or event.model
    highest = highest_with(total, event)
    grown = minus(highest, total.booked)
    cost = cost_of(total, event, grown)
    total.booked = highest
    total.booked_nusd += cost or 0
    if grown == NO_TOKENS and not cost:
        return None
    line = UsageLine(event.model or total.model, tokens=grown, speed=event.speed, geo=event.geo, cost_nusd=cost)
    return Growth(line, total.reader)


def note_repriced(ledger: RouteLedger, resource_id: str, difference_nusd: int) -> None:
    """Note what a new price of a resource's growth adds to what is booked: the provider's own sum covers that, too."""
    total = ledger.resources.get(digest(resource_id))
    if total is not None:
        total.booked_nusd += difference_nusd


def is_news(ledger: RouteLedger, event: ResourceUsed) -> bool:
    """True if a reading would change the ledger: most polls tell what is known."""
    known = ledger.resources.get(digest(event.resource_id))
    if known is None:
        return True
    told = known.parts.get(part_of(event))
    is_higher = told is None or highest(told, event.tokens) != told
    return is_higher or (event.cost_nusd or 0) > known.booked_nusd


def known_total(ledger: RouteLedger, event: ResourceUsed) -> ResourceTotal:
    """Return what is known of a resource, as the one that was read last; a new one if nothing is."""
    name = digest(event.resource_id)
    total = ledger.resources.pop(name, None)
    if total is None:
        total = ResourceTotal(made_at_ms=event.made_at_ms, reader=event.client_key)
        if event.made_at_ms <= ledger.resources_since_ms and ledger.resources_since_ms:
            total.booked, total.booked_nusd = event.tokens, event.cost_nusd or 0
        make_room(ledger)
    ledger.resources[name] = total
    return total


def make_room(ledger: RouteLedger) -> None:
    """Drop the resource that was read longest ago, if there are too many."""
    if len(ledger.resources) >= KEPT_RESOURCES:
        dropped = ledger.resources.pop(next(iter(ledger.resources)))
        ledger.resources_since_ms = max(ledger.resources_since_ms, dropped.made_at_ms, 1)


def highest_with(total: ResourceTotal, event: ResourceUsed) -> TokenCounts:
    """Take a reading into a resource's parts; return the highest count of each kind that they prove."""
    part = part_of(event)
    if part in total.parts or len(total.parts) < KEPT_PARTS:
        total.parts[part] = highest(total.parts.get(part, NO_TOKENS), event.tokens)
    of_parts = NO_TOKENS
    for name, counts in total.parts.items():
        if name != WHOLE:
            of_parts = plus(of_parts, counts)
    return highest(total.booked, highest(total.parts.get(WHOLE, NO_TOKENS), of_parts))


def cost_of(total: ResourceTotal, event: ResourceUsed, grown: TokenCounts) -> int | None:
    """Return the price of what has grown; None if it has none."""
    if event.cost_nusd is not None:
        return max(0, event.cost_nusd - total.booked_nusd)
    return None if event.rates_nusd is None else at_rates(grown, event.rates_nusd)


def at_rates(tokens: TokenCounts, rates: TokenCounts) -> int:
    """Return the price of tokens at rates for a million of each kind."""
    nusd = (
        tokens.input * rates.input
        + tokens.output * rates.output
        + tokens.cache_read * rates.cache_read
        + tokens.cache_write_5m * rates.cache_write_5m
        + tokens.cache_write_1h * rates.cache_write_1h
    )
    return min(nusd // TOKENS_PER_RATE, MOST_NUSD)


def highest(one: TokenCounts, other: TokenCounts) -> TokenCounts:
    """Return the higher count of each kind."""
    return TokenCounts(
        input=max(one.input, other.input),
        output=max(one.output, other.output),
        cache_read=max(one.cache_read, other.cache_read),
        cache_write_5m=max(one.cache_write_5m, other.cache_write_5m),
        cache_write_1h=max(one.cache_write_1h, other.cache_write_1h),
    )


def minus(one: TokenCounts, other: TokenCounts) -> TokenCounts:
    """Return what one count has beyond another that is no higher."""
    return TokenCounts(
        input=one.input - other.input,
        output=one.output - other.output,
        cache_read=one.cache_read - other.cache_read,
        cache_write_5m=one.cache_write_5m - other.cache_write_5m,
        cache_write_1h=one.cache_write_1h - other.cache_write_1h,
    )


def digest(name: str) -> str:
    """Return a short stand-in for an id, of a known size."""
    return sha256(name.encode(errors="replace")).hexdigest()[:DIGEST_CHARS]


def part_of(event: ResourceUsed) -> str:
    """Return the name of the part that a reading is of."""
    return digest(event.part) if event.part else WHOLE
