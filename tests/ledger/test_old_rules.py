"""What earlier versions folded comes out the same for ever, also where later events follow; new facts stay small."""

import msgspec
import pytest

from service.ledger import fold, wire
from service.ledger.events import FOLD_RULES, Endpoint, RouteReset
from service.ledger.state import RouteLedger
from tests.support.event_factories import NOW_MS, ended, failed, id_of, started
from tests.support.old_log import FILES, as_json, old_ledger, old_log

MINUTE_MS = 60_000


def test_an_old_log_is_folded_as_it_was() -> None:
    """To the ledger that the earlier version made of it: nothing more, nothing less."""
    expected = msgspec.json.decode((FILES / "rules_1.ledger.json").read_bytes())
    assert as_json(fold.fold_route(RouteLedger(), old_log())) == expected


def test_a_ledger_of_an_earlier_version_is_folded_on() -> None:
    """From its bytes, as from its events."""
    later = [
        failed(901, NOW_MS + MINUTE_MS * 9, session_id="s1", fold_rules=FOLD_RULES),
        failed(
            902, NOW_MS + MINUTE_MS * 10, status=429, kind="quota", scope="quota", account="a1", fold_rules=FOLD_RULES
        ),
        ended(903, NOW_MS + MINUTE_MS * 11, account="a1", fold_rules=FOLD_RULES),
    ]
    whole = fold.fold_route(RouteLedger(), [*old_log(), *later])
    assert as_json(fold.fold_route(old_ledger(), later)) == as_json(whole)


@pytest.mark.parametrize("rules", [1, 2, FOLD_RULES])
def test_who_met_a_failure_is_kept_since_the_second_rules(rules: int) -> None:
    """Client and session, in the streak and in the outcomes of its ten seconds; older events say nothing of them."""
    health = fold.fold_route(RouteLedger(), [failed(1, session_id="s", fold_rules=rules)]).health["r1"]
    [bucket] = health.buckets.values()
    assert [set(health.row_by), set(health.worst_by), set(health.met_last), set(bucket.bad_by)] == [
        {"alice"} if rules >= 2 else set()
    ] * 4
    seen = fold.fold_route(RouteLedger(), [ended(1, session_id="s", fold_rules=rules)])
    assert [set(seen.clients), set(seen.sessions)] == ([{"alice"}, {"s"}] if rules >= 2 else [set(), set()])


@pytest.mark.parametrize(("rules", "client"), [(1, None), (2, "alice"), (FOLD_RULES, "alice")])
def test_whose_failures_a_probe_has_ended_is_kept_since_the_second_rules(rules: int, client: str | None) -> None:
    """Before, a probe ended everybody's."""
    events = [failed(1, fold_rules=2), ended(2, NOW_MS + MINUTE_MS, probe=True, fold_rules=rules)]
    health = fold.fold_route(RouteLedger(), events).health["r1"]
    assert (health.recovered_ms, health.recovered_client) == (NOW_MS + MINUTE_MS, client)


@pytest.mark.parametrize(
    ("rules", "endpoint", "waits"),
    [
        (1, "messages", {"credential": "messages"}),
        (1, "count_tokens", {"credential": "messages"}),
        (2, "messages", {"messages/a1/credential": "messages"}),
        (2, "count_tokens", {"count_tokens/a1/credential": "count_tokens"}),
        (FOLD_RULES, "count_tokens", {"count_tokens/a1/credential": "count_tokens"}),
    ],
)
def test_waits_belong_to_an_account_and_a_class_since_the_second_rules(
    rules: int, endpoint: Endpoint, waits: dict[str, str]
) -> None:
    """Before, a refused credential held messages, wherever it was refused. An answer that began with it ends it."""
    refused = failed(
        1, kind="credential", scope="credential", status=401, account="a1", endpoint=endpoint, fold_rules=rules
    )
    held = fold.fold_route(RouteLedger(), [refused])
    assert {name: wait.endpoint for name, wait in held.waits.items()} == waits
    answer = ended(2, NOW_MS + MINUTE_MS, started_at_ms=NOW_MS, account="a1", endpoint=endpoint, fold_rules=rules)
    assert not fold.fold_route(held, [answer]).waits
    elsewhere = ended(2, NOW_MS + MINUTE_MS, account="a2", endpoint=endpoint, fold_rules=rules)
    assert bool(fold.fold_route(held, [elsewhere]).waits) is (rules >= 2)


@pytest.mark.parametrize(("rules", "clients"), [(3, set()), (4, {"alice"}), (FOLD_RULES, {"alice"})])
def test_who_used_a_route_outlasts_a_reset_since_the_fourth_rules(rules: int, clients: set[str]) -> None:
    """Of attempts that began before it."""
    reset = RouteReset(event_id=id_of(9), at_ms=NOW_MS, replica="op", seq=1)
    late = ended(1, NOW_MS + MINUTE_MS, started_at_ms=NOW_MS, fold_rules=rules)
    assert set(fold.fold_route(RouteLedger(), [reset, late]).clients) == clients


def test_what_is_kept_of_failures_stays_small() -> None:
    """Failures of thousands of sessions, clients, bodies and words: at most 25 KB for a replica that met them all."""
    ledger = RouteLedger()
    for number in range(4_000):
        who = {"session_id": f"{number % 500:064d}", "client_key": f"{number % 500:032d}", "replica": "r1"}
        more = {"body": f"{number % 7:016x}", "account": "a" * 16, "fold_rules": FOLD_RULES, "probe": number % 9 == 0}
        kind = {"kind": "timeout", "status": 0}
        if number % 2:
            kind = {"kind": "bad_request", "scope": "request", "status": 400, "words": f"{number % 99:016x}"}
        at_ms = NOW_MS + number * 50
        fold.advance_route(ledger, started(number, at_ms, **who))
        fold.advance_route(ledger, failed(number, at_ms, message="m" * 500, **(who | more | kind)))
    assert len(wire.encode_ledger(ledger)) - len(msgspec.json.encode(ledger.usage)) < 25_000
