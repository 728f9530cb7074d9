"""The law of the view: a snapshot with the own events laid over it is the ledger that will be, and nothing else."""

from itertools import pairwise
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from service.fleet import overlay as rooms
from service.fleet.overlay import apply_resets, overlay, overlay_in_steps
from service.ledger import fold, wire
from service.ledger.events import FOLD_RULES, AttemptEnded, RouteEvent, RouteReset
from service.ledger.state import RouteLedger
from service.routing.view import View
from tests.support.event_factories import MOMENTS, NOW_MS, Log, after, distinct, failed, id_of, logs, plain

FEW = settings(max_examples=60, deadline=None)
OWN = "r1"


def published(log: Log) -> RouteLedger:
    """What a proxy reads when the workers have folded this log: each event once, written down and read again."""
    ledger = wire.decode_ledger("anthropic", wire.encode_ledger(after(*distinct(log))))
    assert isinstance(ledger, RouteLedger)
    return ledger


def own_events(log: Log) -> list[RouteEvent]:
    """All events that this proxy has written, by number."""
    return sorted((event for event in distinct(log) if event.replica == OWN), key=lambda event: event.seq)


@FEW
@given(logs(), st.data())
def test_overlay_is_the_fold_of_what_the_snapshot_has_not_heard(log: Log, data: st.DataObject) -> None:
    """For any cut, with duplicates and other replicas, own events count once: in the snapshot or on top of it.

    The outbox may still keep some that the snapshot has heard; those are left out, told by their numbers alone.
    """
    cut = data.draw(st.integers(0, len(log)))
    prefix = distinct(log[:cut])
    folded = {event.event_id for event in prefix}
    kept = [e for e in own_events(log) if e.event_id not in folded or data.draw(st.booleans())]
    view = published(log[:cut])
    overlay(view, kept)
    assert plain(view) == plain(after(*prefix, *(event for event in kept if event.event_id not in folded)))


@FEW
@given(logs(), st.integers(1, 5))
def test_overlay_in_steps_is_the_overlay(log: Log, step: int) -> None:
    """However long the steps are, none folds more than it may."""
    others = [event for event in distinct(log) if event.replica != OWN]
    view, whole = published(others), published(others)
    with patch.object(rooms, "STEP_EVENTS", step), patch.object(rooms, "advance", wraps=fold.advance) as advance:
        folded = [advance.call_count for _ in overlay_in_steps(view, own_events(log))]
    assert all(end - begin <= step for begin, end in pairwise([0, *folded, advance.call_count]))
    overlay(whole, own_events(log))
    assert plain(view) == plain(whole)


@FEW
@given(logs())
def test_a_snapshot_that_has_heard_everything_is_the_view(log: Log) -> None:
    """Nothing is laid over it twice, however often the events are offered."""
    view = published(log)
    for _ in range(2):
        overlay(view, own_events(log))
    assert plain(view) == plain(published(log))


@FEW
@given(logs(), st.data())
def test_a_newer_snapshot_takes_the_place_of_what_was_laid_over(log: Log, data: st.DataObject) -> None:
    """Whatever was published on the way, the view after the last snapshot depends on that snapshot alone."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), min_size=1, max_size=4)))
    for cut in cuts:
        view = published(log[:cut])
        overlay(view, own_events(log))
    last = published(log[: cuts[-1]])
    heard = last.heard.get(OWN)
    rest = [event for event in own_events(log) if heard is None or not heard.has(event.seq)]
    assert plain(view) == plain(fold.fold_route(last, rest))


def held(ledger: RouteLedger) -> object:
    """All of a ledger but the numbers of its events, and who used the route last."""
    return plain(replace(ledger, heard={}, newest_ms=0, clients={}, sessions={}, account=""))


def route_reset(at_ms: int) -> RouteReset:
    """A reset of the route by another proxy."""
    return RouteReset(event_id=id_of(996), at_ms=at_ms, replica="op", seq=1)


@FEW
@given(logs(), st.integers(NOW_MS, NOW_MS + 200_000), st.data())
def test_a_reset_that_no_worker_has_folded_holds(log: Log, at_ms: int, data: st.DataObject) -> None:
    """Known from the operators' stream alone, at any place among the own events, it does what it does in the fold."""
    own = [event for event in own_events(log) if not isinstance(event, RouteReset)]
    known = data.draw(st.integers(0, len(own)))
    view = View()
    for event in own[:known]:
        view.fold_own("anthropic", event)
    view.control.resets["anthropic"] = at_ms
    apply_resets(view.routes, view.control.resets)
    for event in own[known:]:
        view.fold_own("anthropic", event)
    expected = after(*own[:known], route_reset(at_ms), *own[known:]) if own else RouteLedger()
    assert held(view.ledger("anthropic")) == held(expected)


@FEW
@given(logs(), st.data())
def test_an_own_reset_holds_at_its_number(log: Log, data: st.DataObject) -> None:
    """The operators' stream tells of it too, maybe before events that have smaller numbers and end behind it."""
    before = own_events(log)
    place = data.draw(st.integers(0, len(before)))
    reset = replace(route_reset(data.draw(MOMENTS)), replica=OWN, seq=place + 1)
    events: Log = [*before[:place], reset, *before[place:]]
    own: Log = [replace(event, seq=seq) for seq, event in enumerate(events, 1)]
    others = [event for event in distinct(log) if event.replica != OWN]
    view = published(others)
    overlay(view, own, reset.at_ms)
    assert plain(view) == plain(after(*others, *own))


@FEW
@given(logs(), MOMENTS, st.data())
def test_it_does_not_matter_when_a_reset_is_heard_of(log: Log, at_ms: int, data: st.DataObject) -> None:
    """A view may know it before its place among the events: who used the route comes out the same, and what is held
    against it too, unless it comes late."""
    events = [
        replace(event, fold_rules=FOLD_RULES) if isinstance(event, AttemptEnded) else event
        for event in distinct(log)
        if not isinstance(event, RouteReset)
    ]
    place = data.draw(st.integers(0, len(events)))
    known = data.draw(st.integers(0, place))
    view = after(*events[:known])
    apply_resets({"anthropic": view}, {"anthropic": at_ms})
    for event in [*events[known:place], route_reset(at_ms), *events[place:]]:
        fold.advance_route(view, event)
    folded = after(*events[:place], route_reset(at_ms), *events[place:])
    assert users(view) == users(folded)
    if after(*events[:place]).newest_ms - at_ms <= fold.LATE_RESET_MS:
        assert plain(view) == plain(folded)


def users(ledger: RouteLedger) -> object:
    """Who used a route last, and with which account."""
    return ledger.clients, ledger.sessions, ledger.account


@FEW
@given(logs(), st.integers(NOW_MS, NOW_MS + 200_000))
def test_nor_does_a_snapshot_from_before_undo_it(log: Log, at_ms: int) -> None:
    """The workers went away before the reset: attempts begun until then, also those that ended since, count for usage
    alone, and what the snapshot holds is forgotten."""
    folded = [event for event in distinct(log) if event.at_ms <= at_ms and event.replica != OWN]
    view = published(folded)
    overlay(view, own_events(log), at_ms)
    assert held(view) == held(after(*folded, route_reset(at_ms), *own_events(log)))


def test_failures_from_before_and_behind_a_reset_are_not_added_up() -> None:
    """Four that a snapshot has, and one since, open no circuit."""
    view = published([failed(number, NOW_MS, replica=OWN) for number in range(1, 5)])
    overlay(view, [failed(5, NOW_MS + 9_000, replica=OWN)], NOW_MS + 1)
    assert [health.worst_row for health in view.health.values()] == [1]
