"""Running totals of sessions, threads and dreams: growth is booked once, whoever reads it and however often."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.ledger import fold, running_totals, wire
from service.ledger.events import FOLD_RULES, PriceChange, ResourceUsed, RouteEvent, TokenCounts, UsageRepriced
from service.ledger.running_totals import is_news
from service.ledger.state import RouteLedger, Usage
from service.ledger.usage_lines import plus
from tests.support.event_factories import NOW_MS, id_of

RATES = TokenCounts(input=5 * 10**9, output=25 * 10**9)
MADE_MS = NOW_MS - 60_000
TOTALS = st.builds(TokenCounts, *[st.integers(0, 50)] * 5)
READINGS = st.lists(st.tuples(st.sampled_from(["", "t1", "t2"]), TOTALS), max_size=12)


def reading(number: int = 1, at_ms: int = NOW_MS, **fields: Any) -> ResourceUsed:
    """Session `s` has used 10 tokens in and 5 out, unless `fields` say otherwise."""
    values: dict[str, Any] = {
        "resource_id": "s",
        "kind": "session",
        "client_key": "alice",
        "model": "m",
        "tokens": TokenCounts(10, 5),
        "made_at_ms": MADE_MS,
        "rates_nusd": RATES,
    }
    return ResourceUsed(event_id=id_of(number, at_ms), at_ms=at_ms, seq=number, replica="r1", **(values | fields))


def booked(ledger: RouteLedger) -> Usage:
    """All that is booked."""
    total = Usage()
    for hour in ledger.hours.values():
        fold.add_usage(total, hour)
    return total


def folded(*events: RouteEvent) -> RouteLedger:
    """The ledger after these readings."""
    return fold.fold_route(RouteLedger(), events)


def test_growth_is_booked_once() -> None:
    """Ten readings of the same total are one; a higher one adds what is new, at its price."""
    polls = [reading(number) for number in range(1, 11)]
    assert booked(folded(*polls)) == Usage(input=10, output=5, cost_nusd=10 * 5_000 + 5 * 25_000)
    grown = folded(*polls, reading(11, tokens=TokenCounts(12, 5)), reading(12))
    assert booked(grown) == Usage(input=12, output=5, cost_nusd=12 * 5_000 + 5 * 25_000)


@pytest.mark.parametrize(("rules", "kept"), [(4, {}), (5, {"m": Usage(input=10, output=5, cost_nusd=175_000)})])
def test_growth_is_no_answer(rules: int, kept: dict[str, Usage]) -> None:
    """It is kept apart since the fifth rules, for means of a model's answers."""
    assert folded(reading(fold_rules=rules)).beside.get(NOW_MS // fold.HOUR_MS, {}) == kept


@given(READINGS, st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing(told: list[tuple[str, TokenCounts]], random: Any) -> None:
    """In any order, with any repetition: the greater of the whole and the sum of its parts, kind by kind."""
    events = [reading(number, part=part, tokens=tokens) for number, (part, tokens) in enumerate(told, 1)]
    again = [*events, *random.sample(events, len(events))]
    random.shuffle(again)
    tops: dict[str, TokenCounts] = {}
    for part, tokens in told:
        tops[part] = running_totals.highest(tops.get(part, TokenCounts()), tokens)
    parts = plus(tops.get("t1", TokenCounts()), tops.get("t2", TokenCounts()))
    most = running_totals.highest(tops.get("", TokenCounts()), parts)
    for log in (events, again):
        usage = booked(folded(*log))
        assert TokenCounts(*(getattr(usage, kind) for kind in TokenCounts.__struct_fields__)) == most
        assert usage.cost_nusd == running_totals.at_rates(most, RATES)


def test_the_first_reader_is_charged() -> None:
    """Whoever polls later: a session's growth belongs to whoever made it."""
    ledger = folded(reading(tokens=TokenCounts()), reading(2, client_key="bob", model="other"))
    assert list(ledger.usage[NOW_MS // fold.HOUR_MS]["other"]) == ["alice"]


def test_a_providers_own_sum_counts() -> None:
    """In dollars, since it covers more than tokens; it grows like the rest, and never shrinks."""
    told = [reading(number, cost_nusd=cost) for number, cost in enumerate((30, 20, 45), 1)]
    assert booked(folded(*told)).cost_nusd == 45
    assert booked(folded(reading(9, rates_nusd=None, cost_nusd=7))).unpriced == 0
    free = folded(reading(1, cost_nusd=0), reading(2, cost_nusd=0))
    assert (booked(free).cost_nusd, booked(free).unpriced) == (0, 0)


def test_a_providers_own_sum_covers_a_new_price_of_growth() -> None:
    """What was priced again counts as booked: the sum adds only what it has beyond that."""
    event = reading(1, rates_nusd=None)
    repriced = UsageRepriced(
        event_id="p",
        at_ms=event.at_ms,
        of=event.event_id,
        client_key="alice",
        changes=(PriceChange("m", None, 200),),
        fold_rules=FOLD_RULES,
        of_growth=True,
        resource_id=event.resource_id,
    )
    told = reading(3, cost_nusd=300)
    assert booked(folded(event, repriced, told)).cost_nusd == 300
    assert not is_news(folded(event, repriced, told), told)
    dearer = replace(repriced, changes=(PriceChange("m", None, 500),))
    assert booked(folded(event, dearer, told)).cost_nusd == 500, "it never shrinks"
    elsewhere = replace(repriced, resource_id="sesn_dropped")
    assert booked(folded(event, elsewhere, told)).cost_nusd == 500, "nothing is known of what was booked"


def test_growth_without_a_price_is_marked() -> None:
    """Once for each growth; nothing grown, nothing marked."""
    usage = booked(folded(reading(rates_nusd=None), reading(2, rates_nusd=None)))
    assert (usage.unpriced, usage.input) == (1, 10)


def test_a_dropped_resource_is_never_booked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resources are bounded: one that may have been read before counts from its next reading on."""
    monkeypatch.setattr(running_totals, "KEPT_RESOURCES", 2)
    events = [reading(number, resource_id=f"s{number}", made_at_ms=MADE_MS + number) for number in range(1, 4)]
    again = reading(9, resource_id="s1", made_at_ms=MADE_MS + 1)
    grown = reading(10, resource_id="s1", made_at_ms=MADE_MS + 1, tokens=TokenCounts(11, 5))
    new = reading(11, resource_id="s9", made_at_ms=MADE_MS + 9)
    assert booked(folded(*events, again)).input == 30
    assert booked(folded(*events, again, grown)).input == 31
    assert booked(folded(*events, again, grown, new)).input == 41
    dearer = [replace(event, rates_nusd=None, cost_nusd=cost) for event, cost in ((again, None), (grown, 5))]
    assert booked(folded(*events, *dearer)).cost_nusd == booked(folded(*events)).cost_nusd + 5


def test_what_is_kept_stays_small() -> None:
    """Thousands of sessions with hundreds of threads take at most 600 KB of a snapshot."""
    ledger = RouteLedger()
    for number in range(3_000):
        part = f"t{number % 9}" if number % 2 else ""
        fold.advance_route(
            ledger, reading(number, resource_id=f"s{number}", part=part, tokens=TokenCounts(*[10**9] * 5))
        )
    for number in range(500):
        fold.advance_route(ledger, reading(number, part=f"t{number}"))
    assert len(ledger.resources) == running_totals.KEPT_RESOURCES
    assert len(wire.encode_ledger(ledger)) < 600_000
    assert len(ledger.resources[running_totals.digest("s")].parts) == running_totals.KEPT_PARTS


def test_most_polls_are_no_news() -> None:
    """A reading that changes nothing need not become an event."""
    assert is_news(RouteLedger(), reading())
    ledger = folded(reading(cost_nusd=5))
    assert not is_news(ledger, reading(cost_nusd=5))
    assert is_news(ledger, reading(tokens=TokenCounts(10, 6), cost_nusd=5))
    assert is_news(ledger, reading(cost_nusd=6))
    assert is_news(ledger, reading(part="t1", cost_nusd=5))
    free = folded(reading(rates_nusd=None))
    assert not is_news(free, reading(rates_nusd=None))


def test_the_highest_of_each_kind_is_taken() -> None:
    """From either reading."""
    one, other = TokenCounts(1, 20, 3, 40, 5), TokenCounts(10, 2, 30, 4, 50)
    assert running_totals.highest(one, other) == running_totals.highest(other, one) == TokenCounts(10, 20, 30, 40, 50)


def test_each_kind_has_its_own_rate() -> None:
    """Of a million tokens; fractions of a nano-dollar are dropped."""
    used, rates = TokenCounts(1, 10, 100, 1_000, 10_000), TokenCounts(*[2 * 10**6] * 5)
    assert running_totals.at_rates(used, rates) == 22_222
    assert running_totals.at_rates(TokenCounts(input=1), TokenCounts(input=1_999_999)) == 1
