"""What earlier versions folded comes out the same for ever, also where later events follow; new facts stay small."""

import msgspec

from service.ledger import fold, wire
from service.ledger.events import FOLD_RULES
from service.ledger.state import RouteLedger
from tests.support.event_factories import NOW_MS, ended, failed, started
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
