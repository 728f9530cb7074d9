"""Notices about a route's credential: each replica's last one stands, and who can't use a route skips it."""

from msgspec.structs import replace

from service.ledger.events import RouteNotice, RouteReset
from service.ledger.fold import KEPT_REPLICAS, fold_route
from service.ledger.state import ReplicaNotice, RouteLedger
from service.routing.explanation import next_route
from service.routing.rank import RoutingRequest, rank
from service.routing.route_status import as_fleets, fields_of, read_route_status, reading_of
from tests.support.event_factories import NOW_MS, id_of
from tests.support.routing_factories import ME, POLICY, A, Z, view_of
from tests.support.routing_factories import NOW_MS as READ_MS

ENDED = ReplicaNotice("ended", message="its login has ended", seq=1, at_ms=READ_MS)


def notice(seq: int = 1, replica: str = "r1", **fields: object) -> RouteNotice:
    """A replica's notice that its login has ended, unless `fields` say otherwise."""
    values = {"code": "ended", "message": "its login has ended"} | fields
    return RouteNotice(event_id=id_of(seq), at_ms=NOW_MS + seq, replica=replica, seq=seq, **values)  # type: ignore[arg-type]


def test_the_last_notice_of_each_replica_stands() -> None:
    """One that comes late, through a spool, brings nothing back."""
    folded = fold_route(RouteLedger(), [notice(1), notice(1, "r2"), notice(3, code="", message=""), notice(2)])
    assert {name: one.code for name, one in folded.notices.items()} == {"r1": "", "r2": "ended"}


def test_a_reset_leaves_a_notice() -> None:
    """The credential is no better for it."""
    reset = RouteReset(event_id=id_of(9), at_ms=NOW_MS + 9, replica="op", seq=1)
    assert fold_route(RouteLedger(), [notice(), reset]).notices["r1"].forbids


def test_notices_are_bounded() -> None:
    """Replicas come and go."""
    events = [notice(1, f"r{number}") for number in range(KEPT_REPLICAS + 5)]
    folded = fold_route(RouteLedger(), events)
    assert len(folded.notices) == KEPT_REPLICAS
    assert f"r{KEPT_REPLICAS + 4}" in folded.notices


def test_who_cant_use_a_route_skips_it() -> None:
    """Others use it; and so does everybody while the token still serves."""
    own = view_of(anthropic=RouteLedger(notices={ME: ENDED}))
    first, last = rank(RoutingRequest(model="claude-opus-4-8"), [A, Z], own, POLICY, READ_MS)
    assert (first.route.id, last.skip_reason, last.reason) == ("zai", "no_credential", "its login has ended")
    assert next_route([A, Z], own, POLICY, READ_MS) == "zai"
    assert next_route([A], own, POLICY, READ_MS) == ""
    for notices in ({"r2": ENDED}, {ME: replace(ENDED, usable=True)}, {ME: replace(ENDED, code="")}):
        assert next_route([A, Z], view_of(anthropic=RouteLedger(notices=notices)), POLICY, READ_MS) == "anthropic"


def test_the_state_is_that_of_who_reads_and_of_the_fleet() -> None:
    """A route that one proxy of several can't use is degraded, for the others and for the whole fleet; notices of
    proxies that are gone are none."""
    view = view_of(anthropic=RouteLedger(notices={ME: ENDED, "gone": ENDED}))
    view.live = frozenset({ME, "r2"})
    own = read_route_status(A, view, POLICY, READ_MS)
    assert (own.state, own.available, [one.replica for one in own.notices]) == ("no_credential", False, [ME])
    fleet = as_fleets(own, view)
    assert (fleet.state, fleet.reason) == ("degraded", f"its login has ended (on 1 of 2 proxies: {ME})")
    view.replica = "r2"
    assert read_route_status(A, view, POLICY, READ_MS).state == "degraded"
    view.live = frozenset({"r2"})
    assert read_route_status(A, view, POLICY, READ_MS).state == "healthy"
    texts = {name: str(value) for name, value in fields_of(own).items()}
    assert reading_of(texts) == own
