"""What a client key has used and may do: its limits at their edges, and what has no price."""

from typing import Any

import pytest

from service.ledger.price import Rates
from service.ledger.price_list import DatedRates, ListedModel, ListedProvider, ListFile, Price, price_list
from service.ledger.state import ClientKey, RouteLedger, Usage
from service.routing.keys import allows_model, matches, most_nusd, percent_of, read_key
from service.settings import QuotaPolicy, QuotaWeights
from tests.support.routing_factories import HOUR_MS, MONDAY_MS, NOW_MS, view_of

HOUR = NOW_MS // HOUR_MS
MONDAY = MONDAY_MS // HOUR_MS
OWN = {"claude-a": Price(1, 1, 1, 1, 1), "claude-b": Price(2, 2, 2, 2, 2), "glm-a": Price(3, 3, 3, 3, 3)}
GLM = ListedModel(standard=(DatedRates(input=4, output=4, cache_read=4, cache_write_5m=4, cache_write_1h=4),))
PRICES = price_list(ListFile(providers={"zai": ListedProvider(models={"cog-a": GLM})}), OWN, {"zai": "zai"})
CHEAP = Rates(*[10**9] * 5)


def ledger(usage: Usage, model: str = "claude-x", key: str = "ann", hour: int = HOUR) -> RouteLedger:
    """A route of which a key has used this in an hour."""
    return RouteLedger(hours={hour: usage}, usage={hour: {model: {key: usage}}})


def read(routes: dict[str, RouteLedger], policy: QuotaPolicy | None = None, **limits: Any) -> tuple[str, float]:
    """Ann's state, and percent of her limit that are gone."""
    key = ClientKey(name="ann", sha256="", **limits)
    reading = read_key("ann", key, view_of(None, **routes), policy or QuotaPolicy(), PRICES, NOW_MS)
    assert reading.resets_at_ms == MONDAY_MS + 7 * 24 * HOUR_MS
    return reading.state, reading.used_percent


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param({}, ("ok", 0.0), id="no limit"),
        pytest.param({"weekly_tokens": 101}, ("ok", 10_000 / 101), id="a token is left"),
        pytest.param({"weekly_tokens": 100}, ("spent", 100.0), id="all is used"),
        pytest.param({"weekly_tokens": 50}, ("spent", 200.0), id="more than all"),
        pytest.param({"weekly_tokens": 0}, ("spent", 100.0), id="a limit of nothing"),
        pytest.param({"weekly_cost_nusd": 4_000}, ("ok", 25.0), id="a quarter of the money"),
        pytest.param({"weekly_cost_nusd": 1_000}, ("spent", 100.0), id="all of the money"),
        pytest.param({"weekly_cost_nusd": 4_000, "weekly_tokens": 200}, ("ok", 50.0), id="tokens are nearer"),
        pytest.param({"weekly_cost_nusd": 1_250, "weekly_tokens": 200}, ("ok", 80.0), id="money is nearer"),
        pytest.param({"expires_at_ms": NOW_MS + 1}, ("ok", 0.0), id="it expires in a moment"),
        pytest.param({"expires_at_ms": NOW_MS}, ("expired", 0.0), id="it expires now"),
        pytest.param({"expires_at_ms": 0, "weekly_tokens": 100}, ("expired", 100.0), id="it has expired, and is spent"),
    ],
)
def test_a_key_is_spent_at_its_limit_and_ends_at_its_time(limits: dict[str, Any], expected: tuple[str, float]) -> None:
    """The percentage is that of the limit that is nearer."""
    assert read({"zai": ledger(Usage(input=100, cost_nusd=1_000))}, **limits) == expected


def test_a_key_uses_the_owners_routes_within_the_week() -> None:
    """All of them together; its use of clients' own credentials, of other weeks, and other keys' are no part of it."""
    routes = {
        "anthropic": ledger(Usage(input=10), hour=MONDAY),
        "zai": ledger(Usage(output=20)),
        "a": ledger(Usage(input=1_000), hour=MONDAY - 1),
        "b": ledger(Usage(input=1_000), key="bob"),
        "client": ledger(Usage(input=1_000)),
    }
    assert read(routes, weekly_tokens=300) == ("ok", 10.0)


def test_tokens_count_by_the_weights() -> None:
    policy = QuotaPolicy(weights=QuotaWeights(input=2, output=0))
    assert read({"zai": ledger(Usage(input=10, output=20))}, policy, weekly_tokens=100) == ("ok", 20.0)


@pytest.mark.parametrize(
    ("route", "model", "percent"),
    [("zai", "claude-x", 20.0), ("a", "glm-x", 30.0), ("zai", "gpt-x", 40.0), ("a", "gpt-x", 40.0)],
    ids=["of a family", "of another", "of none, at a provider", "of none, anywhere"],
)
def test_what_has_no_price_costs_the_most_that_it_may(route: str, model: str, percent: float) -> None:
    """The dearest of its family, else of the route's provider, else of all; a limit in tokens does not ask."""
    routes = {route: ledger(Usage(input=10, unpriced=1), model)}
    assert read(routes, weekly_cost_nusd=100_000) == ("ok", percent)
    assert read(routes, weekly_tokens=100) == ("ok", 10.0)


def test_what_is_known_of_a_cost_is_added_once() -> None:
    """A cell of which a part has a price costs no more than all of it would; clients' own credentials cost nobody."""
    mixed = ledger(Usage(input=10, unpriced=1, cost_nusd=5_000))
    assert read({"zai": mixed, "client": mixed}, weekly_cost_nusd=100_000) == ("ok", 20.0)
    priced = ledger(Usage(input=10, cost_nusd=7_000))
    assert read({"zai": priced, "a": mixed}, weekly_cost_nusd=100_000) == ("ok", 27.0)


@pytest.mark.parametrize(
    ("rates", "known_nusd", "nusd"), [(CHEAP, 0, 15_000), (CHEAP, 14_999, 1), (CHEAP, 15_001, 0), (None, 0, 0)]
)
def test_the_most_that_usage_costs_beyond_what_is_known(rates: Rates | None, known_nusd: int, nusd: int) -> None:
    """Every kind of token counts; it is never less than nothing."""
    usage = Usage(input=1, output=2, cache_read=3, cache_write_5m=4, cache_write_1h=5, cost_nusd=known_nusd)
    assert most_nusd(usage, rates) == nusd


@pytest.mark.parametrize(
    ("used", "limit", "percent"), [(0, None, 0), (9, None, 0), (0, 0, 100), (1, 4, 25), (4, 4, 100), (5, 4, 125)]
)
def test_percent_of_a_limit(used: int, limit: int | None, percent: float) -> None:
    """A limit of nothing is gone from the beginning."""
    assert percent_of(used, limit) == percent


@pytest.mark.parametrize(
    ("patterns", "name", "allowed"),
    [
        ((), "anything", True),
        (("claude-opus-4-8",), "claude-opus-4-8", True),
        (("claude-opus-4-8",), "us.anthropic.Claude-Opus-4-8-20260115-v1:0", True),
        (("Claude-*",), "claude-opus-4-8", True),
        (("us.anthropic.*",), "us.anthropic.claude-opus-4-8", True),
        (("glm-*", "claude-opus-*"), "claude-opus-4-8", True),
        (("glm-*", "claude-opus-*"), "claude-sonnet-4-6", False),
        (("opus",), "claude-opus-4-8", False),
    ],
    ids=["all", "its name", "another way to write it", "a pattern", "a pattern of the name as written", "one of two",
         "none of two", "a part"],
)  # fmt: skip
def test_a_key_may_ask_for_the_models_of_its_patterns(patterns: tuple[str, ...], name: str, allowed: bool) -> None:  # noqa: FBT001
    """Any of them; no pattern is any model."""
    assert allows_model(ClientKey(name="ann", sha256="", models=patterns), name) is allowed
    assert matches(patterns, name) is (allowed and bool(patterns))
