"""What a view keeps added up is what its ledgers come to, whatever happens to them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from service.ledger.fold import HOUR_MS, fold_route
from service.ledger.state import RouteLedger
from service.routing.view import KEPT_FAMILIES, View, key_usage_since, usage_since
from tests.support.event_factories import NOW_MS, Log, batch_item, distinct, ended, failed, logs

HOUR = NOW_MS // HOUR_MS
KEYS = ("alice", "bob", "nobody")


def check(view: View, first_hour: int) -> None:
    """What is kept is what adding up anew gives."""
    ledger = view.ledger("zai")
    assert view.used("zai", first_hour) == usage_since(ledger.hours, first_hour)
    for key in KEYS:
        assert view.used_by_key(key, "zai", first_hour) == key_usage_since(ledger, first_hour, key)


@settings(max_examples=60, deadline=None)
@given(logs(), st.integers(0, 40), st.integers(-30, 2))
def test_sums_keep_up_with_events_and_snapshots(log: Log, cut: int, first: int) -> None:
    """From the first event on, over a snapshot that takes the ledger's place, and into the next week."""
    log, view = distinct(log), View()
    for number, event in enumerate(log):
        view.fold_own("zai", event)
        check(view, HOUR + first)
        if number == cut:
            view.routes["zai"] = fold_route(RouteLedger(), log[: cut // 2])
            check(view, HOUR + first)
    check(view, HOUR + first + 1)


def test_sums_are_kept_up_not_made_anew() -> None:
    """An own event changes them in place, for the route and for the keys that were asked for, in its week alone."""
    view = View()
    view.fold_own("zai", ended(1))
    kept, alice = view.used("zai", HOUR), view.used_by_key("alice", "zai", HOUR)
    view.fold_own("zai", ended(2))
    view.fold_own("zai", ended(3, client_key="bob"))
    view.fold_own("zai", ended(4, NOW_MS - 2 * HOUR_MS))
    assert (view.used("zai", HOUR), view.used_by_key("alice", "zai", HOUR)) == (kept, alice)
    assert (kept.attempts, alice.attempts, view.used_by_key("bob", "zai", HOUR).attempts) == (3, 2, 1)
    assert view.used("zai", HOUR) is kept


def test_what_the_ledger_forgets_is_in_no_sum() -> None:
    """Hours that are too old for it, and ends that come for them."""
    view = View()
    view.fold_own("zai", ended(1))
    check(view, 0)
    view.fold_own("zai", ended(2, NOW_MS + 16 * 24 * HOUR_MS))
    check(view, 0)
    view.fold_own("zai", batch_item(3, NOW_MS))
    check(view, 0)
    assert view.used("zai", 0).attempts == 1


def test_a_route_without_a_snapshot_is_what_its_events_come_to() -> None:
    """The first request of a new route; and what an operator has reset before it stays reset."""
    view = View()
    view.fold_own("zai", ended(1))
    assert view.ledger("zai") == fold_route(RouteLedger(), [ended(1)])
    view.control.resets["other"] = NOW_MS
    view.fold_own("other", failed(2, NOW_MS + 1, started_at_ms=NOW_MS))
    assert view.ledger("other").health == {}


def test_nobodys_route_is_empty() -> None:
    """And asking changes nothing."""
    view = View()
    check(view, HOUR)
    assert view.routes == {}


def test_what_has_no_price_is_kept_up_by_family() -> None:
    """Whether it was there when it was asked for or came later. Invented families take little room."""
    view, kept = View(), View()
    kept.unpriced_by_key("alice", "zai", HOUR)
    models = ["claude-x-1", "claude-y-2", *(f"invented{number}-z" for number in range(2 * KEPT_FAMILIES))]
    for number, model in enumerate(models):
        event = ended(number, model_sent=model, cost_nusd=None)
        view.fold_own("zai", event)
        kept.fold_own("zai", event)
        kept.unpriced_by_key("alice", "zai", HOUR)
    kept.fold_own("zai", ended(900, model_sent="claude-priced", cost_nusd=5))
    found = kept.unpriced_by_key("alice", "zai", HOUR)
    assert found == view.unpriced_by_key("alice", "zai", HOUR)
    assert (found["claude"].unpriced, found["claude"].cost_nusd) == (2, 0)
    assert sum(usage.unpriced for usage in found.values()) == len(models)
    assert len(found) <= KEPT_FAMILIES + 1
