"""Whose fault a route's failures are: from events, by way of the fold, to what a client's request meets."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.ledger.events import FOLD_RULES, AttemptEnded
from service.ledger.evidence import OTHERS
from service.ledger.fold import fold_route
from service.ledger.state import ReplicaHealth, RouteLedger, SessionFailures
from service.routing.circuit import read_circuit
from service.routing.evidence import Evidence, read_evidence, shared_until_ms
from service.routing.rank import RoutingRequest, rank
from tests.support import event_factories
from tests.support.routing_factories import CHAIN, ME, NOW_MS, POLICY, names, view_of

SECOND_MS = 1_000
MINUTE_MS = 60_000


def failure(client: str = "alice", session: str = "s1", ago_ms: int = 1_000, **fields: Any) -> AttemptEnded:
    """A 500 that a client's session met on this replica."""
    return event(client, session, ago_ms, event_factories.failed, **fields)


def answer(client: str = "bob", session: str = "s2", ago_ms: int = 1_000, **fields: Any) -> AttemptEnded:
    """An answer to a client's session by this replica."""
    return event(client, session, ago_ms, event_factories.ended, **fields)


def event(client: str, session: str, ago_ms: int, make: Any, **fields: Any) -> AttemptEnded:
    """An attempt of a second that ended so long ago."""
    values: dict[str, Any] = {"replica": ME, "client_key": client, "session_id": session, "fold_rules": FOLD_RULES}
    made: AttemptEnded = make(ago_ms, NOW_MS - ago_ms, **(values | fields))
    return made


def ledger_of(*events: AttemptEnded) -> RouteLedger:
    """The route's ledger after these events."""
    return fold_route(RouteLedger(), events)


def state(ledger: RouteLedger, client: str | None) -> str:
    """The circuit as a client meets it."""
    return read_circuit(ledger, POLICY.circuit, NOW_MS, replica=ME, client=client).state


BOB_BEFORE = answer(ago_ms=MINUTE_MS)
"""Another client used the route a minute ago."""


def row(number: int, **fields: Any) -> list[AttemptEnded]:
    """Failures in a row, a second apart, in sessions of their own unless `fields` name one."""
    return [
        failure(ago_ms=(number - index) * SECOND_MS, **({"session": f"s{index}"} | fields)) for index in range(number)
    ]


# -- circuits


def test_failures_of_one_client_open_the_circuit_for_that_client_alone() -> None:
    """What one client's requests do to a provider says nothing about others' requests."""
    ledger = ledger_of(BOB_BEFORE, *row(5))
    assert state(ledger, "alice") == "open"
    assert state(ledger, "bob") == state(ledger, "carol") == "closed"


def test_a_second_client_makes_it_the_routes_fault() -> None:
    """Then everybody leaves it."""
    ledger = ledger_of(BOB_BEFORE, *row(5)[:-1], failure("bob"))
    assert {state(ledger, client) for client in ("alice", "bob", "carol", None)} == {"open"}


OUTAGE = [failure(client, ago_ms=MINUTE_MS + number * 100) for number in range(9, 0, -1) for client in ("alice", "bob")]
"""Two clients met failures a minute ago."""


@pytest.mark.parametrize("fields", [{}, {"probe": True}, {"kind": "timeout", "scope": "route", "probe": True}])
def test_one_client_that_goes_on_failing_keeps_the_route_from_nobody_else(fields: dict[str, Any]) -> None:
    """Behind an outage its failures and probes prolong its own wait alone."""
    ledger = ledger_of(*OUTAGE, *row(20, **fields))
    assert state(ledger, "alice") == "open"
    assert {state(ledger, client) for client in ("bob", "carol", None)} == {"half_open"}
    ledger = ledger_of(*OUTAGE, *row(20, **fields), failure("bob", **fields))
    assert {state(ledger, client) for client in ("alice", "bob", "carol", None)} == {"open"}


def test_what_two_clients_met_is_over_with_a_probe_while_one_goes_on_failing() -> None:
    """Its failures during the probe and behind it are its own."""
    probe = answer("bob", started_at_ms=NOW_MS - 20_000, ago_ms=5_000, probe=True)
    flood = [failure(session=f"s{number}", ago_ms=number * 500) for number in range(40, 0, -1)]
    ledger = ledger_of(*OUTAGE, *sorted([probe, *flood], key=lambda one: one.at_ms))
    assert state(ledger, "alice") == "open"
    assert {state(ledger, client) for client in ("bob", "carol", None)} == {"closed"}


def test_refused_connections_prolong_it_from_whomever() -> None:
    """They are nobody's doing, as probes too."""
    ledger = ledger_of(*OUTAGE, *row(7, kind="connect", scope="route", probe=True))
    assert {state(ledger, client) for client in ("alice", "bob", "carol", None)} == {"open"}
    wait_ms = read_circuit(ledger, POLICY.circuit, NOW_MS, replica=ME, client="bob").until_ms - NOW_MS
    assert wait_ms > 2 * POLICY.circuit.open_ms


@pytest.mark.parametrize(("ago_ms", "expected"), [(10 * MINUTE_MS - 1, "half_open"), (10 * MINUTE_MS, "closed")])
def test_what_a_second_client_met_long_ago_at_a_replica_that_is_gone_proves_nothing(ago_ms: int, expected: str) -> None:
    """Nothing clears its counts any more; and what one client goes on meeting keeps the route from nobody else."""
    ledger = ledger_of(failure("bob", ago_ms=ago_ms, replica="gone"), *row(5))
    assert state(ledger, "bob") == expected


@pytest.mark.parametrize(("ago_ms", "expected"), [(10 * MINUTE_MS - 1, "closed"), (10 * MINUTE_MS, "open")])
def test_the_only_client_of_ten_minutes_speaks_for_the_route(ago_ms: int, expected: str) -> None:
    """Status and dashboard, which ask for nobody in particular, show an outage that one client alone met."""
    assert state(ledger_of(answer(ago_ms=ago_ms), *row(5)), None) == expected


def test_a_session_counts_three_times_while_others_are_there() -> None:
    """One conversation that makes a provider fail opens nothing, not even for its own client's other sessions."""
    others = answer("alice", "s2", ago_ms=MINUTE_MS)
    assert state(ledger_of(others, *row(9, session="s1")), "alice") == "closed"
    assert state(ledger_of(others, *row(5, session="s1")[:3], *row(2, session="s3")), "alice") == "open"


def test_the_only_session_counts_in_full() -> None:
    """A developer alone with a dead provider moves on after five failures."""
    assert state(ledger_of(*row(4, session="s1")), "alice") == "closed"
    assert state(ledger_of(*row(5, session="s1")), "alice") == "open"


def test_refused_connections_count_from_whomever() -> None:
    """No prompt keeps a provider from taking a connection."""
    ledger = ledger_of(BOB_BEFORE, *row(5, session="s1", kind="connect", status=0))
    assert {state(ledger, client) for client in ("alice", "bob", None)} == {"open"}
    mixed = ledger_of(BOB_BEFORE, *row(6, kind="connect", status=0)[:4], failure())
    assert (state(mixed, "alice"), state(mixed, "bob")) == ("open", "closed")


@pytest.mark.parametrize(("timeouts", "expected"), [(5, "closed"), (6, "open")])
def test_the_second_time_out_of_one_body_says_nothing_new(timeouts: int, expected: str) -> None:
    """Clients repeat what timed out; the third is one too many for chance."""
    log = row(timeouts, session="s1", kind="timeout", status=0, body="b1")
    assert state(ledger_of(*log), "alice") == expected


def test_time_outs_of_different_bodies_count_each() -> None:
    """They are no repetition."""
    log = [failure(ago_ms=(6 - n) * SECOND_MS, kind="timeout", status=0, body=f"b{n}") for n in range(5)]
    assert state(ledger_of(*log), "alice") == "open"


def test_half_of_the_outcomes_count_likewise() -> None:
    """Twenty failures of one client among as many answers to another: the first alone leaves."""
    bad = [failure(session=f"s{n}", ago_ms=2_000) for n in range(20)]
    good = [answer(ago_ms=2_000, session=f"g{n}") for n in range(20)]
    mixed = [one for pair in zip(bad, good, strict=True) for one in pair]
    ledger = ledger_of(*mixed)
    assert (state(ledger, "alice"), state(ledger, "bob")) == ("open", "closed")
    both = ledger_of(*mixed, failure("bob", ago_ms=1_500), answer(ago_ms=1_400))
    assert state(both, "carol") == "open"


def test_slow_answers_count_likewise() -> None:
    """A prompt that takes long is not a slow provider."""
    slow = [answer("alice", f"s{n}", ago_ms=2_000, slow=True) for n in range(20)]
    ledger = ledger_of(BOB_BEFORE, *slow)
    assert (state(ledger, "alice"), state(ledger, "bob")) == ("open", "closed")


def test_a_recovery_from_one_clients_failures_is_no_ramp_for_others() -> None:
    """They were never held back."""
    probe = answer("alice", "s1", ago_ms=500, probe=True)
    ledger = ledger_of(BOB_BEFORE, *row(6)[:5], probe)
    shares = [
        read_circuit(ledger, POLICY.circuit, NOW_MS, replica=ME, client=client).share for client in ("alice", "bob")
    ]
    assert shares[0] < 1 == shares[1]


def test_failures_of_older_events_weigh_for_all() -> None:
    """They do not say in a way that can be relied on who met them."""
    assert state(ledger_of(BOB_BEFORE, *row(5, fold_rules=1)), "bob") == "open"


def test_many_sessions_share_one_count() -> None:
    """The memory of a streak has a bound, but one client stays one client, however many sessions it names."""
    ledger = ledger_of(BOB_BEFORE, *row(40))
    [health] = ledger.health.values()
    assert sum(map(len, health.worst_by.values())) == 33
    assert (state(ledger, "alice"), state(ledger, "bob")) == ("open", "closed")


def test_of_many_clients_the_last_share_one_name() -> None:
    """They are more than one, so that their failures weigh for everybody."""
    crowd = [failure(f"c{n}", f"s{n}", ago_ms=(41 - n) * SECOND_MS) for n in range(40)]
    ledger = ledger_of(BOB_BEFORE, *crowd)
    [health] = ledger.health.values()
    assert sum(map(len, health.worst_by.values())) == 33
    assert state(ledger, "bob") == "open"


# -- readings


def replica(**fields: Any) -> ReplicaHealth:
    """A replica's counts of a route."""
    return ReplicaHealth(**fields)


def evidence_of(*healths: ReplicaHealth, client: str | None = "alice") -> Evidence:
    """How these failures weigh, all met just now."""
    fleet = {f"r{n}": replace(health, last_failure_ms=NOW_MS - 1) for n, health in enumerate(healths)}
    return read_evidence(RouteLedger(health=fleet), NOW_MS, client)


def test_what_only_others_met_lasts_as_long_as_two_of_them_bear_out() -> None:
    """The second newest of the clients' last failures; what nobody met weighs from no time on."""
    alone = replica(met_last={"bob": NOW_MS - 10})
    assert shared_until_ms([alone]) == shared_until_ms([]) == 0
    assert evidence_of(alone).until_ms(alone, NOW_MS - 10) == 0
    two = replica(met_last={"bob": NOW_MS - 10, "carol": NOW_MS - 20, "dave": NOW_MS - 30})
    assert shared_until_ms([two]) == NOW_MS - 20
    assert evidence_of(two).until_ms(two, NOW_MS - 10) == NOW_MS - 20


@pytest.mark.parametrize(
    ("told", "failed", "client", "expected"),
    [
        ({"bob": 5}, 5, "alice", 0),
        ({"bob": 5}, 5, "bob", 5),
        ({"bob": 5, "carol": 2}, 7, "alice", 4),
        ({"bob": 5, OTHERS: 2}, 7, "alice", 4),
        ({}, 3, "alice", 3),
    ],
)
def test_probes_of_one_client_weigh_as_far_as_others_bear_them_out(
    told: dict[str, int], failed: int, client: str, expected: int
) -> None:
    """With as many again of its own as of others'."""
    health = replica(probed_by=told, failed_probes=failed)
    assert evidence_of(client=client).failed_probes(health) == expected


def test_refused_connections_of_a_session_count_once() -> None:
    """Whoever meets them; of its other failures three, while others use the route."""
    counts = SessionFailures(failures=9, connects=4, repeats=1)
    health = replica(worst_row=9, worst_by={"alice": {"s": counts}})
    assert Evidence("alice", ("alice",), ("s",)).failures_in_row(health) == 8
    assert Evidence("alice", ("alice", "bob"), ("s", "t")).failures_in_row(health) == 7
    assert Evidence("bob", ("alice", "bob"), ("s", "t")).failures_in_row(health) == 4


@pytest.mark.parametrize(("recovered", "expected"), [(21, True), (20, False), (19, False)])
def test_a_recovery_ends_what_clients_shared(recovered: int, expected: bool) -> None:  # noqa: FBT001
    """At any replica, at the moment of the second client's failure at the latest."""
    met = {"worst_by": {"bob": {"s": SessionFailures(failures=1)}, "carol": {"s": SessionFailures(failures=1)}}}
    seen = replica(met_last={"bob": NOW_MS - 10, "carol": NOW_MS - 20}, **met)
    elsewhere = replica(recovered_ms=NOW_MS - recovered)
    assert evidence_of(seen, elsewhere).is_shared is expected


# -- the law

ENDS = st.sampled_from(
    [
        {"kind": "server_error", "scope": "route", "status": 500},
        {"kind": "overloaded", "scope": "provider", "status": 529},
        {"kind": "timeout", "scope": "route", "status": 0, "body": "b1"},
        {"kind": "stream_error", "scope": "route", "status": 200},
        {"kind": "bad_request", "scope": "request", "status": 400, "words": "w1", "body": "b1"},
        {"kind": "bad_request", "scope": "request", "status": 400, "words": "w1", "body": "b2"},
        {"kind": "bad_request", "scope": "request", "status": 422, "words": "w2", "body": "b3"},
        {"kind": "bad_request", "scope": "request", "status": 400},
        {"kind": "credential", "scope": "credential", "status": 401, "endpoint": "other"},
        {"kind": "credential", "scope": "credential", "status": 401, "endpoint": "count_tokens"},
        {"kind": "quota", "scope": "quota", "status": 429, "endpoint": "models"},
        {"outcome": "aborted"},
        {"outcome": "ok"},
        {"outcome": "ok", "slow": True},
        {"outcome": "ok", "probe": True},
        {"kind": "server_error", "scope": "route", "status": 500, "probe": True},
    ]
)


SESSIONS = st.sampled_from(["s1", "s2", "s3", ""]) | st.integers(0, 99).map(str)


@given(st.lists(st.tuples(ENDS, SESSIONS, st.integers(0, 3)), max_size=60))
def test_whatever_one_client_meets_moves_no_other(log: list[tuple[dict[str, Any], str, int]]) -> None:
    """Any sequence of one client's outcomes that are not about the account or the network leaves another client's
    messages on the route that they took before."""
    at_ms, events = NOW_MS - 600_000, [answer("bob", ago_ms=600_001)]
    for fields, session, wait_s in log:
        at_ms += wait_s * SECOND_MS
        make = event_factories.ended if fields.get("outcome") == "ok" else event_factories.failed
        values: dict[str, Any] = {"replica": ME, "client_key": "alice", "session_id": session, "account": "a1"}
        events.append(make(len(events), at_ms, **(values | {"fold_rules": FOLD_RULES} | fields)))
    view = view_of(anthropic=ledger_of(*events))
    for draw in (0.0, 0.999):
        request = RoutingRequest(model="claude-opus-4-8", client="bob", ramp_sample=draw)
        [first, *_] = rank(request, CHAIN, view, POLICY, at_ms + 1)
        assert (first.route.id, first.probe, first.deprioritized) == ("anthropic", False, False)
    assert names(rank(request, CHAIN, view, POLICY, at_ms + 1)) == ["anthropic", "subscription", "zai"]
