"""What follows from the operators' events."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.ledger import fold, wire
from service.ledger.events import (
    CircuitReset,
    ClientKeyIssued,
    ClientKeyLimited,
    ClientKeyRevoked,
    ControlEvent,
    QuotaLimitChanged,
    RequestRefused,
    RouteDisabled,
    RouteEnabled,
)
from service.ledger.state import ClientKey, ControlLedger
from tests.support.event_factories import NOW_MS, id_of

HASH = "ab" * 32


def at(ms: int = 0, number: int = 1) -> dict[str, Any]:
    """What every event has."""
    return {"event_id": id_of(number), "at_ms": NOW_MS + ms}


def after(*events: ControlEvent) -> ControlLedger:
    """The control ledger after these events."""
    return fold.fold_control(ControlLedger(), events)


def test_the_newest_time_is_that_of_the_newest_event() -> None:
    """In whatever order they come."""
    assert after(RouteEnabled(**at(5), route="a"), RouteEnabled(**at(2, 2), route="a")).newest_ms == NOW_MS + 5


def issued(**fields: Any) -> ClientKeyIssued:
    """A key for Alice."""
    return ClientKeyIssued(**at(), key_id="k1", name="alice", sha256=HASH, **fields)


def test_a_route_is_disabled_until_it_is_enabled() -> None:
    """With the reason, for operators to see; enabling what is enabled is nothing."""
    off = RouteDisabled(**at(), route="zai", by="op", reason="costs")
    assert after(off).disabled == {"zai": "costs"}
    assert after(off, RouteEnabled(**at(), route="zai"), RouteEnabled(**at(), route="zai")).disabled == {}


def test_a_reset_counts_from_its_latest_time() -> None:
    """Two operators' resets, in either order, are one: the later."""
    resets = [CircuitReset(**at(9), route="zai"), CircuitReset(**at(5), route="zai")]
    assert after(*resets).resets == after(*reversed(resets)).resets == {"zai": NOW_MS + 9}


def test_a_limit_holds_until_it_is_given_back_to_the_settings() -> None:
    """A number is the limit, 0 is none at all, None takes the settings' again."""
    limit, none, back = (QuotaLimitChanged(**at(), route="zai", weekly_tokens=n) for n in (500, 0, None))
    assert after(limit).limits == {"zai": 500}
    assert after(limit, none).limits == {"zai": 0}
    assert after(limit, back).limits == {}


def test_a_key_lives_with_its_limits_until_it_is_revoked() -> None:
    """Its name, its hash and its limits are known; limits are replaced as a whole; a revoked key is gone."""
    limited = ClientKeyLimited(**at(5), key_id="k1", models=("claude*",), concurrency=2)
    born = ClientKey(name="alice", sha256=HASH, weekly_tokens=9, issued_at_ms=NOW_MS)
    assert after(issued(weekly_tokens=9)).keys == {"k1": born}
    assert after(issued(weekly_tokens=9), limited).keys == {
        "k1": ClientKey(name="alice", sha256=HASH, models=("claude*",), concurrency=2, issued_at_ms=NOW_MS)
    }
    assert after(issued(), ClientKeyRevoked(**at(), key_id="k1")).keys == {}


def test_limits_of_a_key_that_is_not_there_are_nobodys() -> None:
    """A limit never brings a revoked key back."""
    limited = ClientKeyLimited(**at(), key_id="k1", weekly_tokens=9)
    assert after(limited).keys == {}
    assert after(issued(), ClientKeyRevoked(**at(), key_id="k1"), limited).keys == {}


def test_refusals_are_counted_by_key() -> None:
    """Each counts once."""
    refused = [RequestRefused(**at(), request_id="q", client_key=key, reason="cap") for key in ("a", "b", "a")]
    assert after(*refused).refused == {"a": 2, "b": 1}


EVENTS: list[ControlEvent] = [
    RouteDisabled(**at(1), route="zai", reason="x", replica="r1", seq=1),
    RouteEnabled(**at(2), route="zai", replica="r1", seq=2),
    CircuitReset(**at(3), route="zai", replica="r2", seq=1),
    QuotaLimitChanged(**at(4), route="zai", weekly_tokens=5, replica="r2", seq=2),
    issued(replica="r1", seq=3),
    ClientKeyLimited(**at(6), key_id="k1", routes=("zai",), replica="r2", seq=3),
    ClientKeyRevoked(**at(7), key_id="k1", replica="r1", seq=4),
    RequestRefused(**at(8), request_id="q", client_key="k1", reason="cap", replica="r1", seq=5),
]


@given(st.permutations(EVENTS), st.integers(0, len(EVENTS)))
def test_cutting_the_control_log_changes_nothing(events: list[ControlEvent], cut: int) -> None:
    """Two batches, with a ledger written down between them, come to what one comes to; the first is left alone."""
    first = after(*events[:cut])
    written = wire.encode_ledger(first)
    read = wire.decode_ledger(wire.CONTROL, written)
    assert isinstance(read, ControlLedger)
    assert fold.fold_control(read, events[cut:]) == after(*events)
    assert fold.fold_control(first, events[cut:]) == after(*events)
    assert wire.encode_ledger(first) == written
