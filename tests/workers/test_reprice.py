"""`ccproxy ledger reprice`: usage costs what the list in force says, by events of its own, however often it runs."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.ledger import ids, wire
from service.ledger.events import (
    AttemptEnded,
    AttemptLost,
    BatchItemUsed,
    ResourceUsed,
    TokenCounts,
    UsageLine,
    UsageRepriced,
)
from service.ledger.price import cost_nusd
from service.ledger.price_list import price_list
from service.settings.packaged import packaged_prices, read_prices
from tests.support.stream_factories import NOON_MS, STREAM, append, ended, new_id, started
from tests.workers.conftest import Bench
from workers import cli

Run = Callable[..., tuple[int, str]]
HOUR_MS = 3_600_000
SPAN = ("--since", "2026-09-01", "--until", "2026-10-01")
VERSION = packaged_prices().version
# Sonnet 4.5 in September 2026: 10 x 3,000 + 5 x 15,000
SONNET_NUSD = 105_000
HOUSE = "[prices.house]\ninput = 2\noutput = 4\ncache_read = 0\ncache_write_5m = 0\ncache_write_1h = 0\n"


def reprice(run: Run, *arguments: str) -> dict[str, Any]:
    """What the command says of the stream."""
    status, output = run(cli.ledger, "reprice", *SPAN, "--json", *arguments)
    assert status == 0, output
    found: dict[str, Any] = json.loads(output)["streams"][0]
    return found


def cells(bench: Bench) -> dict[tuple[str, str], tuple[int, ...]]:
    """Cost, usage without a price and attempts by model and key."""
    query = """SELECT model, client_key, sum(cost_nusd)::bigint, sum(unpriced)::bigint, sum(attempts)::bigint
        FROM ccproxy.usage_hourly GROUP BY 1, 2"""
    return {(model, key): tuple(counts) for model, key, *counts in bench.rows(query)}


def events_of(bench: Bench) -> list[UsageRepriced]:
    """The new prices, in their order."""
    rows = bench.rows("SELECT body::text FROM ccproxy.events WHERE type = 'usage_repriced' ORDER BY position")
    return [event for (body,) in rows if isinstance(event := wire.decode_event(body.encode()), UsageRepriced)]


def own_prices(home: Path, content: str) -> None:
    """The TOML file of the settings."""
    (home / "ccproxy.toml").write_text(content, encoding="utf-8")


@pytest.fixture
def used(bench: Bench) -> Bench:
    """Usage at a wrong price, some without one, some at the right one, and some of another month."""
    lines = (
        UsageLine("claude-opus-5", tokens=TokenCounts(1, 1), cost_nusd=1),
        UsageLine("house", "advisor", TokenCounts(input=1), cost_nusd=None),
        UsageLine("claude-fable-5", "declined", TokenCounts(input=9), unbilled=True, cost_nusd=0),
    )
    events = [
        ended(1),
        ended(2, cost_nusd=None, model_sent="house", client_key="bob"),
        ended(3, cost_nusd=SONNET_NUSD, client_key="carl", price_version="old"),
        ended(4, cost_nusd=None, tokens=TokenCounts(), outcome="failed", client_key="dora"),
        ended(5, lines=lines, tokens=TokenCounts(11, 1), cost_nusd=1, client_key="eve", fold_rules=3),
        ended(6, at_ms=NOON_MS + 40 * 24 * HOUR_MS, client_key="late"),
    ]
    append(bench.redis, events)
    append(bench.redis, [item(NOON_MS)])
    bench.project()
    return bench


def item(at_ms: int) -> BatchItemUsed:
    """An item of a batch that was priced as a message."""
    return BatchItemUsed(
        event_id=new_id(at_ms), at_ms=at_ms, batch_id="b", custom_id="c", model_sent="claude-sonnet-4-5",
        client_key="batch", tokens=TokenCounts(10, 5), cost_nusd=SONNET_NUSD,
    )  # fmt: skip


def test_usage_costs_what_the_list_says(used: Bench, command: Run) -> None:
    """Differences alone are charged, where the usage is; rows stay, and projections still follow from the events."""
    before = used.rows("SELECT event_id, body::text, hash FROM ccproxy.events ORDER BY position")
    told = reprice(command)
    assert cells(used) == {
        ("claude-sonnet-4-5", "alice"): (SONNET_NUSD, 0, 1),
        ("house", "bob"): (0, 1, 1),  # still without a price
        ("claude-sonnet-4-5", "carl"): (SONNET_NUSD, 0, 1),
        ("claude-sonnet-4-5", "dora"): (0, 0, 1),  # nothing was used
        ("claude-opus-5", "eve"): (30_000, 0, 1),
        ("house", "eve"): (0, 1, 0),
        ("claude-fable-5", "eve"): (0, 0, 0),  # not billed
        ("claude-sonnet-4-5", "late"): (1_000, 0, 1),
        ("claude-sonnet-4-5", "batch"): (SONNET_NUSD // 2, 0, 0),
    }
    assert told == {
        "stream": STREAM, "events": 6, "changed": 4, "was_nusd": 1_000 + 2 * SONNET_NUSD + 1,
        "now_nusd": 2 * SONNET_NUSD + 30_000 + SONNET_NUSD // 2, "was_unpriced": 3, "now_unpriced": 2,
    }  # fmt: skip
    assert used.rows("SELECT event_id, body::text, hash FROM ccproxy.events ORDER BY position")[: len(before)] == before
    assert {(event.price_version, event.of_growth) for event in events_of(used)} == {(VERSION, False)}
    used.check_chain()
    assert used.verify().ok


def test_the_same_list_changes_nothing_again(used: Bench, command: Run) -> None:
    """Neither a second run, nor the events of a run that was broken off before they were folded."""
    reprice(command)
    after, made = cells(used), events_of(used)
    assert reprice(command)["changed"] == 0
    append(used.redis, made)
    used.project()
    assert cells(used) == after
    assert used.count("quarantine") == 0


def test_prices_follow_each_other_and_back(used: Bench, command: Run, tmp_path: Path) -> None:
    """Each follows the one before: what is there counts once, whichever lists were tried."""
    reprice(command)
    own_prices(tmp_path, HOUSE)
    assert reprice(command)["now_unpriced"] == 0
    assert cells(used)["house", "bob"] == (10 * 2_000 + 5 * 4_000, 0, 1)
    assert cells(used)["house", "eve"] == (2_000, 0, 0)
    own_prices(tmp_path, HOUSE.replace("input = 2", "input = 3"))
    assert reprice(command)["changed"] == 2
    assert cells(used)["house", "bob"] == (50_000, 0, 1)
    own_prices(tmp_path, HOUSE)
    assert reprice(command)["changed"] == 2
    assert cells(used)["house", "bob"] == (40_000, 0, 1)
    assert used.verify().ok
    assert used.count("quarantine") == 0


def test_two_lists_at_once_count_once(used: Bench, command: Run) -> None:
    """A price has one successor: the second one is put aside, where operators see it."""
    reprice(command)
    other = [priced for priced in events_of(used) if priced.client_key == "alice"]
    before = cells(used)
    append(used.redis, [wrong(event) for event in other])
    used.project()
    assert cells(used) == before
    assert used.count("quarantine") == 1


def wrong(event: UsageRepriced) -> UsageRepriced:
    """The price of another list that follows the same price."""
    changes = tuple(msgspec.structs.replace(change, cost_nusd=1) for change in event.changes)
    return msgspec.structs.replace(event, changes=changes, price_version="other")


def test_a_dry_run_only_tells(used: Bench, command: Run) -> None:
    """Nothing is appended; the table says what would change."""
    before = cells(used)
    assert reprice(command, "--dry-run")["changed"] == 4
    status, output = command(cli.ledger, "reprice", *SPAN, "--dry-run")
    assert status == 0
    assert f"Price list {VERSION}: 4 prices would change." in output
    assert cells(used) == before
    assert events_of(used) == []


def test_a_lost_attempts_estimate_counts_until_its_end(bench: Bench, command: Run) -> None:
    """Its new price, too, is taken back: the end has its own."""
    begun = started(1)
    lost = AttemptLost(
        event_id=ids.lost_id(begun.event_id), at_ms=NOON_MS, attempt_id=begun.event_id, request_id=begun.request_id,
        started_at_ms=NOON_MS, model_sent="claude-sonnet-4-5", client_key="alice", tokens=TokenCounts(10, 5),
    )  # fmt: skip
    append(bench.redis, [begun, lost])
    bench.project()
    reprice(command)
    assert cells(bench) == {("claude-sonnet-4-5", "alice"): (SONNET_NUSD, 0, 1)}
    end = AttemptEnded(
        event_id=ids.ended_id(begun.event_id), at_ms=NOON_MS + 1, replica="r1", seq=2, attempt_id=begun.event_id,
        request_id=begun.request_id, started_at_ms=NOON_MS, outcome="ok", status=200, client_key="alice",
        model_sent="claude-sonnet-4-5", tokens=TokenCounts(1, 1), cost_nusd=18_000,
    )  # fmt: skip
    append(bench.redis, [end])
    bench.project()
    assert cells(bench) == {("claude-sonnet-4-5", "alice"): (18_000, 0, 1)}
    assert reprice(command)["events"] == 1, "the estimate is no usage any more"
    late = events_of(bench)[0]
    append(bench.redis, [followed(late, "lost-later")])
    bench.project()
    assert cells(bench) == {("claude-sonnet-4-5", "alice"): (18_000, 0, 1)}
    assert bench.verify().ok


def followed(event: UsageRepriced, suffix: str) -> UsageRepriced:
    """A price of the same estimate that comes after its end."""
    return msgspec.structs.replace(event, event_id=ids.derived_id(event.event_id, suffix))


def test_growth_of_running_totals_is_priced_as_it_was_booked(bench: Bench, command: Run, tmp_path: Path) -> None:
    """Each reading's growth by itself, on whom it was charged; what the provider has priced stays."""

    def reading(number: int, tokens: TokenCounts, key: str = "alice", **fields: Any) -> ResourceUsed:
        at_ms = NOON_MS + number * 60_000
        known: dict[str, Any] = {"resource_id": "sesn_1", "kind": "session", "made_at_ms": NOON_MS, "model": "house"}
        return ResourceUsed(event_id=new_id(at_ms), at_ms=at_ms, client_key=key, tokens=tokens, **(known | fields))

    first, again, more = (TokenCounts(10, 5), TokenCounts(10, 5), TokenCounts(30, 5))
    told = reading(9, TokenCounts(7), "bob", resource_id="sesn_2", model="claude-opus-5", cost_nusd=55)
    append(bench.redis, [reading(1, first), reading(2, again, "bob"), reading(3, more, "bob"), told])
    bench.project()
    assert cells(bench) == {("house", "alice"): (0, 2, 0), ("claude-opus-5", "bob"): (55, 0, 0)}
    own_prices(tmp_path, HOUSE)
    assert reprice(command)["changed"] == 2
    assert cells(bench) == {("house", "alice"): (30 * 2_000 + 5 * 4_000, 0, 0), ("claude-opus-5", "bob"): (55, 0, 0)}
    assert all(event.of_growth for event in events_of(bench)), "so that no mean of answers has their price"
    assert reprice(command)["changed"] == 0
    append(bench.redis, [reading(10, more, "bob", cost_nusd=30 * 2_000 + 5 * 4_000 + 9)])
    bench.project()
    assert cells(bench)["house", "alice"] == (30 * 2_000 + 5 * 4_000 + 9, 0, 0), (
        "the provider's sum covers the new price"
    )
    assert bench.verify().ok


def test_usage_is_priced_again_at_the_time_of_its_first_price(bench: Bench, command: Run, tmp_path: Path) -> None:
    """That of its end, whenever it began: where a price has changed meanwhile, the same list changes nothing."""
    chosen = tmp_path / "list.toml"
    day = "{ since = 2026-09-02, input = 2, output = 0, cache_read = 0, cache_write_5m = 0, cache_write_1h = 0 }"
    before = day.replace("since = 2026-09-02, input = 2", "input = 1")
    listed = f'version = "x"\n[providers.anthropic.models.house-a]\nstandard = [{before}, {day}]\n'
    chosen.write_text(listed, encoding="utf-8")
    prices = price_list(read_prices(chosen), {}, {})
    end_ms = int(datetime(2026, 9, 2, tzinfo=UTC).timestamp() * 1000) + 1_000
    cost = cost_nusd(TokenCounts(10), "house-a", prices, at_ms=end_ms)
    event = ended(1, at_ms=end_ms, model_sent="house-a", tokens=TokenCounts(10), cost_nusd=cost)
    append(bench.redis, [msgspec.structs.replace(event, started_at_ms=end_ms - 60_000)])
    bench.project()
    (tmp_path / "ccproxy.toml").write_text(f'[env]\nCCPROXY_PRICES = "{chosen}"\n', encoding="utf-8")
    assert (cost, reprice(command)["changed"]) == (20_000, 0)


def test_a_rebuild_has_the_new_prices(used: Bench, command: Run) -> None:
    """They are events like all others."""
    reprice(command)
    after = cells(used)
    used.execute("UPDATE ccproxy.usage_hourly SET cost_nusd = 7")
    status, output = command(cli.ledger, "rebuild")
    assert status == 0, output
    assert cells(used) == after


def test_a_stream_of_newer_workers_is_left_to_them(used: Bench, command: Run) -> None:
    """Its state can't be read, which is said in a line; no price is written."""
    used.execute("UPDATE ccproxy.checkpoints SET state = '[99,{}]'")
    status, output = command(cli.ledger, "reprice", *SPAN)
    assert status == 1
    assert output.startswith(f"Error: the stream {STREAM} was folded by a newer version; its workers go on with it. ")
    assert "ccproxy restore --replace" in output
    assert not events_of(used)


def test_a_time_that_is_none_is_refused(used: Bench, command: Run) -> None:  # noqa: ARG001
    """With the forms that are accepted."""
    status, output = command(cli.ledger, "reprice", "--since", "yesterday")
    assert status == 2
    assert "is not a time" in output
