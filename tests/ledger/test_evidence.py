"""Failures are counted by client and session, and a probe ends what its client alone has met."""

from typing import Any

from service.ledger.events import FOLD_RULES, AttemptEnded
from service.ledger.evidence import (
    KEPT_SESSIONS,
    OTHERS,
    count_client,
    end_refusals,
    has_unattributed,
    note_failure,
    note_seen,
    recovered_for,
    unattributed,
)
from service.ledger.state import Bucket, FailuresBySession, Refusal, ReplicaHealth, RouteLedger, SessionFailures
from tests.support.event_factories import NOW_MS, SECOND_MS, after, ended


def failed(client: str, kind: str = "server_error", **fields: Any) -> AttemptEnded:
    return ended(outcome="failed", kind=kind, client_key=client, session_id="s", **fields)


def test_failures_are_counted_by_client_and_session() -> None:
    """Refused connections, and the second time-out of one body, have counts of their own."""
    row: FailuresBySession = {}
    for kind in ("server_error", "connect", "timeout", "timeout", "timeout"):
        note_failure(row, failed("alice", kind, body="b"))
    assert row == {"alice": {"s": SessionFailures(failures=5, connects=1, repeats=1, timeouts={"b": 3})}}


def test_a_probe_ends_what_its_client_alone_has_met() -> None:
    """Not what others met, nor what nobody is known to have met."""
    mine = ReplicaHealth(worst_row=1, worst_by={"alice": {"s": SessionFailures(failures=1)}})
    others = ReplicaHealth(worst_row=1, worst_by={"bob": {"s": SessionFailures(failures=1)}})
    probe = ended(client_key="alice")
    assert recovered_for(RouteLedger(health={"r": mine}), probe) == "alice"
    assert recovered_for(RouteLedger(health={"r": mine, "q": others}), probe) is None
    unknown = ReplicaHealth(worst_row=1)
    assert recovered_for(RouteLedger(health={"r": unknown}), probe) is None
    assert recovered_for(RouteLedger(health={"r": mine, "q": unknown}), probe) is None


def test_refused_connections_are_nobodys_doing() -> None:
    """They are counted by themselves, and of no client."""
    refused = [failed("alice", "connect", number=number, scope="route", fold_rules=FOLD_RULES) for number in (1, 2)]
    [bucket] = after(*refused).health["r1"].buckets.values()
    assert (bucket.failed, bucket.connects, bucket.bad_by) == (2, 2, {})


def test_failed_and_slow_outcomes_of_no_client_are_known() -> None:
    """Those of a bucket beyond what its clients met."""
    bucket = Bucket(failed=2, slow=3, bad_by={"alice": 4})
    assert unattributed(bucket) == 1
    assert has_unattributed(ReplicaHealth(buckets={1: bucket}))
    refused = {"alice": {"s": SessionFailures(failures=1, connects=1)}}
    assert has_unattributed(ReplicaHealth(worst_row=1, worst_by=refused))
    assert not has_unattributed(ReplicaHealth(worst_row=1, worst_by={"alice": {"s": SessionFailures(failures=1)}}))
    assert not has_unattributed(ReplicaHealth(buckets={1: Bucket(failed=2, slow=2, bad_by={"alice": 4})}))


def test_each_failure_counts_once_for_its_client() -> None:
    """From none."""
    counts: dict[str, int] = {}
    for client in ("alice", "bob", "alice"):
        count_client(counts, client)
    assert counts == {"alice": 2, "bob": 1}


def test_the_account_that_was_used_last_is_remembered() -> None:
    """An attempt that names none says nothing about it."""
    ledger = RouteLedger()
    for account in ("a1", "", "a2", ""):
        note_seen(ledger, ended(account=account))
    assert ledger.account == "a2"


def test_the_clients_that_used_the_route_last_are_remembered() -> None:
    """Of several in one millisecond those told last; one that a spool tells late is no news."""
    ledger = RouteLedger()
    for client in ("alice", "bob", "carol"):
        note_seen(ledger, ended(client_key=client))
    note_seen(ledger, ended(2, NOW_MS - 1, client_key="dave"))
    assert set(ledger.clients) == {"bob", "carol"}


def test_an_answer_takes_back_errors_of_its_own_class_and_account_alone() -> None:
    """Those that began before it."""
    since = NOW_MS - SECOND_MS
    ledger = RouteLedger(
        refusals={
            "same": Refusal(endpoint="messages", account="a", since_ms=since),
            "later": Refusal(endpoint="messages", account="a", since_ms=since + 1),
            "class": Refusal(endpoint="count_tokens", account="a", since_ms=since),
            "account": Refusal(endpoint="messages", account="b", since_ms=since),
        }
    )
    end_refusals(ledger, ended(account="a", started_at_ms=since))
    assert set(ledger.refusals) == {"later", "class", "account"}


def test_sessions_beyond_the_bound_share_a_count() -> None:
    """The last one that has room has its own."""
    row: FailuresBySession = {}
    for number in range(KEPT_SESSIONS + 2):
        note_failure(row, ended(outcome="failed", kind="server_error", client_key="alice", session_id=f"s{number}"))
    assert len(row["alice"]) == KEPT_SESSIONS + 1
    assert row["alice"][OTHERS].failures == 2
