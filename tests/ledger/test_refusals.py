"""Errors in words that no rule knows are kept in small numbers, and nobody can push out what others have met."""

import pytest

from service.ledger.events import FOLD_RULES, AttemptEnded
from service.ledger.evidence import KEPT_GROUPS, KEPT_REFUSALS, note_refusal
from service.ledger.state import RouteLedger
from tests.support.event_factories import NOW_MS, after, ended, failed


def refused(number: int, words: str, client: str, *, rules: int = FOLD_RULES, account: str = "a") -> AttemptEnded:
    """A request that was refused in these words."""
    return ended(
        number, words=words, body=f"{number:x}", client_key=client, account=account, outcome="failed", fold_rules=rules
    )


def kept(ledger: RouteLedger) -> set[str]:
    return {name.rpartition("/")[2] for name in ledger.refusals}


@pytest.mark.parametrize("rules", [4, FOLD_RULES])
def test_a_client_with_many_wordings_drops_its_own(rules: int) -> None:
    """Those that others met stay, also before a second client has met them; since the fourth rules."""
    ledger = RouteLedger()
    note_refusal(ledger, refused(1, "closed", "alice", rules=rules))
    for number in range(2, 40):
        note_refusal(ledger, refused(number, f"nonsense {number}", "mallory", rules=rules))
        if number == 20:
            note_refusal(ledger, refused(100, "closed", "bob", rules=rules))
    assert "closed" in kept(ledger)
    assert len(ledger.refusals) == KEPT_REFUSALS
    assert ledger.refusals["messages/a/closed"].clients == ["alice", "bob"]


def test_an_answer_takes_an_unknown_error_back() -> None:
    """A failure that says nothing of it does not."""
    error = refused(1, "closed", "alice")
    later = {"account": "a", "started_at_ms": NOW_MS + 1, "fold_rules": FOLD_RULES}
    for event, left in ((ended(2, NOW_MS + 9, **later), set()), (failed(2, NOW_MS + 9, **later), {"closed"})):
        assert kept(after(error, event)) == left


def test_accounts_and_endpoints_have_their_own() -> None:
    """A few of them: the bound is of the route as a whole."""
    ledger = RouteLedger()
    note_refusal(ledger, refused(1, "closed", "alice"))
    for number in range(2, 200):
        note_refusal(ledger, refused(number, f"nonsense {number}", "mallory", account=f"account {number % 9}"))
    assert "closed" in kept(ledger)
    assert len(ledger.refusals) == KEPT_REFUSALS * KEPT_GROUPS


def test_older_events_are_folded_as_they_were() -> None:
    """The oldest goes."""
    ledger = RouteLedger()
    for number in range(1, KEPT_REFUSALS + 2):
        note_refusal(ledger, refused(number, f"words {number}", f"client {number}", rules=3))
    assert kept(ledger) == {f"words {number}" for number in range(2, KEPT_REFUSALS + 2)}
