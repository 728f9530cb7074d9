"""Usage by the models that served: lines of events, and what fold makes of them."""

import msgspec
import pytest

from service.ledger import fold, wire
from service.ledger.events import FOLD_RULES, TokenCounts, UsageLine
from service.ledger.state import RouteLedger, Usage
from service.ledger.usage_lines import total_nusd, total_tokens, usage_lines
from tests.support.event_factories import MODEL, NOW_MS, batch_item, ended, lost, started

HOUR = NOW_MS // fold.HOUR_MS
OPUS = "claude-opus-4-8"
LINES = (
    UsageLine(MODEL, tokens=TokenCounts(input=2, output=491), cost_nusd=7),
    UsageLine(MODEL, "compaction", TokenCounts(input=180_000, output=3_500), cost_nusd=11),
    UsageLine(OPUS, "advisor", TokenCounts(input=159_419, output=7_805), cost_nusd=13),
)


def cells(*events: object) -> dict[str, Usage]:
    """The usage by model that the hour has after these events."""
    ledger = fold.fold_route(RouteLedger(), events)  # type: ignore[arg-type]
    return {model: cell for model, by_key in ledger.usage[HOUR].items() for cell in by_key.values()}


def test_a_plain_answer_is_one_line() -> None:
    """Of the model that was sent, or the one that the answer named."""
    assert usage_lines(ended()) == (UsageLine(MODEL, tokens=TokenCounts(10, 5), cost_nusd=1_000),)
    assert [line.model for line in usage_lines(ended(model_served=OPUS))] == [OPUS]
    assert usage_lines(lost()) == (UsageLine(MODEL, tokens=TokenCounts(10)),)


def test_lines_add_up() -> None:
    """Kind by kind; of the prices those that are known."""
    assert total_tokens(LINES) == TokenCounts(input=339_421, output=11_796)
    assert total_nusd(LINES) == 31


def test_usage_is_that_of_the_models_that_served() -> None:
    """Each line counts once, under its own model; the attempt counts with the answer's own."""
    event = ended(lines=LINES, tokens=total_tokens(LINES), cost_nusd=total_nusd(LINES), fold_rules=FOLD_RULES)
    assert cells(started(), event) == {
        MODEL: Usage(attempts=1, input=180_002, output=3_991, cost_nusd=18),
        OPUS: Usage(input=159_419, output=7_805, cost_nusd=13),
    }


def test_an_answer_of_another_model_counts_as_its_own() -> None:
    """With the attempt, of which the model that was asked has no part."""
    assert cells(ended(model_served=OPUS)) == {OPUS: Usage(attempts=1, input=10, output=5, cost_nusd=1_000)}


def test_an_item_of_a_batch_has_lines_too() -> None:
    """The item itself counts once."""
    found = cells(batch_item(lines=LINES, fold_rules=FOLD_RULES))
    assert (found[MODEL].batch_items, found[OPUS].batch_items) == (1, 0)
    assert found[OPUS].output == 7_805


@pytest.mark.parametrize(("hours", "kept"), [(24, [HOUR, HOUR + 24]), (25, [HOUR + 25])])
def test_what_is_beside_answers_is_kept_for_a_day(hours: int, kept: list[int]) -> None:
    """As long as means of answers are taken, in whatever order it comes; of older versions' events nothing is."""
    first = ended(1, lines=LINES, fold_rules=FOLD_RULES)
    later = ended(2, NOW_MS + hours * fold.HOUR_MS, lines=LINES, fold_rules=FOLD_RULES)
    for events in ([first, later], [later, first]):
        assert sorted(fold.fold_route(RouteLedger(), events).beside) == kept
    assert fold.fold_route(RouteLedger(), [msgspec.structs.replace(first, fold_rules=4)]).beside == {}


def test_a_line_without_a_price_is_marked() -> None:
    """It is not free: its cell says so, and the others keep theirs; the event's price covers what has one."""
    lines = (LINES[0], msgspec.structs.replace(LINES[2], cost_nusd=None))
    found = cells(ended(lines=lines))
    assert (found[MODEL].unpriced, found[OPUS].unpriced) == (0, 1)
    assert (total_nusd(lines), total_nusd(lines[1:])) == (7, None)


def test_models_of_lines_are_bounded() -> None:
    """The first of an hour have their own cells, the rest share one, also within one answer."""
    lines = tuple(UsageLine(f"m{number}", tokens=TokenCounts(1)) for number in range(fold.KEPT_MODELS + 9))
    found = cells(ended(lines=lines, fold_rules=FOLD_RULES))
    assert len(found) == fold.KEPT_MODELS + 1
    assert found[fold.OTHER_MODEL].input == 9


def test_an_end_replaces_an_estimate_line_by_line() -> None:
    """What was estimated goes, what was used stays."""
    found = cells(started(), lost(), ended(lines=LINES))
    assert found[MODEL] == Usage(attempts=1, input=180_002, output=3_991, cost_nusd=18)
    assert found[OPUS].input == 159_419


def test_fields_that_nobody_reads_are_remembered() -> None:
    """By name, with the newest time, a bounded number."""
    ledger = fold.fold_route(RouteLedger(), [ended(1, unread=("a", "b")), ended(2, NOW_MS + 5, unread=("a",))])
    assert ledger.unread == {"a": NOW_MS + 5, "b": NOW_MS}
    many = fold.fold_route(ledger, [ended(3, NOW_MS + 9, unread=tuple(f"f{number}" for number in range(99)))])
    assert len(many.unread) == fold.KEPT_UNREAD


@pytest.mark.parametrize("served", ["", "claude-haiku-4-5-20251001"])
def test_a_plain_answers_event_grows_little(served: str) -> None:
    """By 48 bytes at most, also where the provider names the dated form of what was asked."""
    plain = ended(fold_rules=2)
    grown = ended(fold_rules=FOLD_RULES, model_served=served)
    assert len(wire.encode_event(grown)) - len(wire.encode_event(plain)) <= 48
