"""What usage costs at the prices of a list: by kind, date, length of the prompt, speed, tier, geography and tool."""

from datetime import date
from typing import Any

import msgspec
import pytest

from service.ledger.events import TokenCounts, UsageLine
from service.ledger.price import ANY_FAMILY, MOST_NUSD, PriceList, Rates, bound_of, cost_nusd, line_nusd, rates_for
from service.ledger.price_list import (
    DatedRates,
    ListedModel,
    ListedProvider,
    ListFile,
    LongPromptRates,
    Price,
    price_list,
)

SONNET = {"input": 3, "output": 15, "cache_read": 0.3, "cache_write_5m": 3.75, "cache_write_1h": 6}
ONE = dict.fromkeys(TokenCounts.__struct_fields__, 1.0)
PROMPT_KINDS = ("input", "cache_read", "cache_write_5m", "cache_write_1h")
MODEL = "claude-sonnet-5"
DAY_MS = 86_400_000


def rates(**fields: Any) -> DatedRates:
    """A dollar per million tokens of any kind, unless `fields` say otherwise."""
    return DatedRates(**(ONE | fields))


def prices_of(*standard: DatedRates, own: dict[str, Price] | None = None, **fields: Any) -> PriceList:
    """A list with one model."""
    provider = ListedProvider(
        tiers={"standard": 1, "priority": 1, "batch": 0.5},
        geos={"global": 1, "us": 1.1},
        tools={"web_search": 10, "web_fetch": 0},
        models={MODEL: ListedModel(standard=standard, **fields)},
    )
    return price_list(ListFile(version="1", providers={"anthropic": provider}), own or {}, {"a": "anthropic"})


@pytest.mark.parametrize(
    ("tokens", "nusd"),
    [
        pytest.param(TokenCounts(), 0, id="nothing"),
        pytest.param(TokenCounts(input=2), 6_000, id="input"),
        pytest.param(TokenCounts(output=2), 30_000, id="output"),
        pytest.param(TokenCounts(cache_read=20), 6_000, id="read from a cache"),
        pytest.param(TokenCounts(cache_write_5m=4), 15_000, id="written to a cache for five minutes"),
        pytest.param(TokenCounts(cache_write_1h=2), 12_000, id="written to a cache for an hour"),
        pytest.param(TokenCounts(2, 2, 20, 4, 2), 69_000, id="the sum of all"),
    ],
)
def test_each_kind_of_token_has_its_price(tokens: TokenCounts, nusd: int) -> None:
    """A dollar per million tokens is a thousand nano-dollars per token."""
    assert cost_nusd(tokens, MODEL, prices_of(rates(**SONNET))) == nusd


@pytest.mark.parametrize(
    ("usd_per_mtok", "count", "nusd"),
    [(0.0125, 1, 13), (0.0125, 2, 25), (0.004, 1, 4), (0.0005, 1, 1), (0.0004, 1, 0), (0.1, 3, 300)],
)
def test_fractions_of_a_nano_dollar_are_rounded_half_up(usd_per_mtok: float, count: int, nusd: int) -> None:
    """Once, over all kinds: prices are whole numbers of millionths of it."""
    assert cost_nusd(TokenCounts(input=count), MODEL, prices_of(rates(input=usd_per_mtok))) == nusd


def long_prompts(above_tokens: int, usd: float) -> dict[str, Any]:
    """Rates of prompts above a limit."""
    return {"long_prompts": (LongPromptRates(above_tokens=above_tokens, **dict.fromkeys(ONE, usd)),)}


@pytest.mark.parametrize("kind", PROMPT_KINDS)
@pytest.mark.parametrize(("size", "nusd"), [(99, 99_000), (100, 100_000), (101, 202_000)])
def test_a_prompt_above_the_limit_costs_more_as_a_whole(kind: str, size: int, nusd: int) -> None:
    """One of just that size does not. Whatever was read counts as prompt, from a cache or not."""
    assert cost_nusd(TokenCounts(**{kind: size}), MODEL, prices_of(rates(**long_prompts(100, 2)))) == nusd


@pytest.mark.parametrize(("hour", "factor"), [(10, 1), (11, 2)])
def test_the_kinds_of_a_prompt_are_added_up(hour: int, factor: int) -> None:
    """Each lies below the limit, their sum at it or one above it; what was answered is no prompt."""
    tokens = TokenCounts(40, 1_000, 30, 20, hour)
    assert cost_nusd(tokens, MODEL, prices_of(rates(**long_prompts(100, 2)))) == factor * (1_090 + hour) * 1_000


def test_the_longest_limit_that_is_passed_counts() -> None:
    """A model may have several."""
    steps = long_prompts(100, 2)["long_prompts"] + long_prompts(1_000, 5)["long_prompts"]
    costs = [cost_nusd(TokenCounts(input=size), MODEL, prices_of(rates(long_prompts=steps))) for size in (1_000, 1_001)]
    assert costs == [2_000_000, 5_005_000]


@pytest.mark.parametrize(
    ("at_ms", "nusd"),
    [(0, 1_000), (10 * DAY_MS - 1, 1_000), (10 * DAY_MS, 3_000), (20 * DAY_MS - 1, 3_000), (20 * DAY_MS, 2_000)],
)
def test_usage_costs_what_the_list_says_for_its_time(at_ms: int, nusd: int) -> None:
    """Prices change at the beginning of a day, UTC; an old price is not overwritten."""
    dated = (rates(), rates(input=3, since=date(1970, 1, 11)), rates(input=2, since=date(1970, 1, 21)))
    assert cost_nusd(TokenCounts(input=1), MODEL, prices_of(*dated), at_ms=at_ms) == nusd


def test_before_its_first_price_a_model_has_none() -> None:
    """It was not there to be bought."""
    prices = prices_of(rates(since=date(1970, 1, 2)))
    assert cost_nusd(TokenCounts(input=1), MODEL, prices, at_ms=DAY_MS - 1) is None


@pytest.mark.parametrize(
    ("terms", "nusd"),
    [
        pytest.param({}, 4_000, id="standard"),
        pytest.param({"tier": "standard", "speed": "standard", "geo": "global"}, 4_000, id="standard, by name"),
        pytest.param({"tier": "priority"}, 4_000, id="priority"),
        pytest.param({"tier": "batch"}, 2_000, id="batch"),
        pytest.param({"geo": "us"}, 4_400, id="US inference"),
        pytest.param({"speed": "fast"}, 10_000, id="fast"),
        pytest.param({"speed": "fast", "geo": "us"}, 11_000, id="fast US inference"),
        pytest.param({"tier": "batch", "geo": "us"}, 2_200, id="a batch in the US"),
        pytest.param({"tools": {"web_search": 3}}, 30_004_000, id="searches"),
        pytest.param({"tools": {"web_search": 3, "web_fetch": 2}, "tier": "batch", "geo": "us"}, 30_002_200, id="all"),
        pytest.param({"tools": {"unheard_of": 0}}, 4_000, id="an unknown tool that was not used"),
    ],
)
def test_factors_multiply_and_tools_stand_beside_them(terms: dict[str, Any], nusd: int) -> None:
    """Fast is a price of its own; tier and geography are factors on tokens, and searches cost the same everywhere."""
    prices = prices_of(rates(), fast=(rates(input=4, output=2),))
    assert cost_nusd(TokenCounts(input=1, output=3), MODEL, prices, **terms) == nusd


@pytest.mark.parametrize(
    "terms",
    [{"tier": "flex"}, {"geo": "mars"}, {"speed": "fast"}, {"speed": "slow"}, {"tools": {"oracle": 1}}],
    ids=lambda terms: next(iter(terms)),
)
def test_what_has_no_known_price_costs_none(terms: dict[str, Any]) -> None:
    """A tier, geography, speed or tool that nobody knows is not standard, and not free."""
    assert cost_nusd(TokenCounts(input=1), MODEL, prices_of(rates()), **terms) is None


@pytest.mark.parametrize(
    ("terms", "rates_nusd"),
    [
        ({}, (3 * 10**9, 15 * 10**9, 3 * 10**8, 375 * 10**7, 6 * 10**9)),
        ({"geo": "us"}, (33 * 10**8, 165 * 10**8, 33 * 10**7, 4_125 * 10**6, 66 * 10**8)),
        ({"speed": "fast"}, (2 * 10**9, *[10**9] * 4)),
        ({"speed": "slow"}, None),
        ({"geo": "mars"}, None),
        ({"at_ms": 0}, None),
    ],
    ids=["plain", "US inference", "fast", "an unknown speed", "an unknown geography", "before its first price"],
)
def test_the_rates_of_a_model_are_those_of_a_million_tokens(
    terms: dict[str, Any], rates_nusd: tuple[int, ...] | None
) -> None:
    """For whoever prices growth later."""
    prices = prices_of(rates(since=date(1970, 1, 2), **SONNET), fast=(rates(input=2),))
    assert rates_for(MODEL, prices, **terms) == (rates_nusd and TokenCounts(*rates_nusd))
    assert rates_for("claude-unheard-of", prices) is None


@pytest.mark.parametrize(
    ("model", "nusd"),
    [
        pytest.param(MODEL, 1_000, id="the name as it is written"),
        pytest.param("claude-sonnet-5-20260115", 2_000, id="a dated name with a price of its own"),
        pytest.param("anthropic/Claude-Sonnet-5", 1_000, id="another way to write it"),
        pytest.param("claude-5-sonnet", 1_000, id="another name of it"),
        pytest.param("claude-opus-5", None, id="a model without a price"),
    ],
)
def test_the_price_is_that_of_the_name_or_of_its_normal_form(model: str, nusd: int | None) -> None:
    """What has no price costs None, never 0."""
    own = {"claude-sonnet-5-20260115": Price(2, 1, 1, 1, 1)}
    assert cost_nusd(TokenCounts(input=1), model, prices_of(rates(), names=("claude-5-sonnet",), own=own)) == nusd


def test_a_price_of_the_settings_stands_over_the_list_and_keeps_its_factors() -> None:
    """It is still the provider that serves it: batches, geographies, tools and fast mode go on."""
    own = {MODEL: Price(2, 4, 0, 0, 0, over_prompt_tokens=10, over_factor=3)}
    prices = prices_of(rates(), fast=(rates(input=2, output=2),), own=own)
    used = TokenCounts(input=10, output=1)
    assert cost_nusd(used, MODEL, prices) == 24_000
    assert cost_nusd(TokenCounts(input=11), MODEL, prices) == 66_000
    assert cost_nusd(used, MODEL, prices, tier="batch", geo="us") == 13_200
    assert cost_nusd(used, MODEL, prices, speed="fast") == 48_000
    assert cost_nusd(used, MODEL, prices, tools={"web_search": 1}) == 10_024_000


def test_a_model_of_the_lists_family_has_its_providers_factors() -> None:
    """One newer than the list, priced in the settings, goes on costing more in one geography."""
    own = dict.fromkeys(("claude-sonnet-99", "house-large"), Price(1, 1, 1, 1, 1))
    prices = prices_of(rates(), own=own)
    assert cost_nusd(TokenCounts(input=10), "claude-sonnet-99", prices, geo="us") == 11_000
    assert cost_nusd(TokenCounts(input=10), "house-large", prices, geo="us") is None


def test_a_line_has_its_own_tier_unless_another_stands_over_it() -> None:
    """What is not billed, and nothing at all, costs nothing, with or without a price."""
    prices, used = prices_of(rates()), TokenCounts(input=10)
    assert line_nusd(UsageLine(MODEL, tokens=used), prices, at_ms=0) == 10_000
    assert line_nusd(UsageLine(MODEL, tokens=used, tier="batch"), prices, at_ms=0, tier="") == 5_000
    assert line_nusd(UsageLine(MODEL, tokens=used), prices, at_ms=0, tier="batch") == 5_000
    assert line_nusd(UsageLine("unknown", tokens=used), prices, at_ms=0) is None
    assert line_nusd(UsageLine("unknown", tokens=used, unbilled=True), prices, at_ms=0) == 0
    assert line_nusd(UsageLine("unknown"), prices, at_ms=0) == 0


def test_a_model_of_ones_own_has_its_own_fast_price() -> None:
    """If the settings name one; else its fast mode has no price."""
    own = {"house-large": Price(1, 1, 1, 1, 1, fast_factor=2.5), "house-small": Price(1, 1, 1, 1, 1)}
    prices = prices_of(rates(), own=own)
    assert cost_nusd(TokenCounts(input=2), "house-large", prices, speed="fast") == 5_000
    assert cost_nusd(TokenCounts(input=2), "house-large", prices, tier="batch", geo="global") == 1_000
    assert cost_nusd(TokenCounts(input=2), "house-small", prices, speed="fast") is None


def test_lists_with_different_prices_have_different_versions() -> None:
    """Whoever prices again by a version must be able to tell that nothing changed."""
    versions = [
        prices_of(rates(), own=own).version for own in ({}, {"m": Price(1, 1, 1, 1, 1)}, {"m": Price(2, 1, 1, 1, 1)})
    ]
    assert versions[0] == "1"
    assert len({*versions}) == 3


def test_what_has_no_price_counts_at_the_highest_of_its_family_provider_or_all() -> None:
    """Of each kind the highest, of whatever model, date, speed or length of prompt it is."""
    claude = ListedModel(standard=(rates(input=5), rates(since=date(2026, 1, 1))), fast=(rates(output=9),))
    glm = {
        "glm-a": ListedModel(standard=(rates(input=3, **long_prompts(10, 7)),)),
        "cogview-b": ListedModel(standard=(rates(cache_read=20),)),
    }
    providers = {"anthropic": ListedProvider(models={"claude-a": claude}), "zai": ListedProvider(models=glm)}
    prices = price_list(ListFile(providers=providers), {}, {"one": "anthropic", "two": "zai", "three": "house"})

    def highest(family: str, route: str) -> list[float]:
        bound = bound_of(prices, family, route)
        assert bound is not None
        return [getattr(bound, kind) / 10**9 for kind in TokenCounts.__struct_fields__]

    assert highest("claude", "two") == [5, 9, 1, 1, 1]
    assert highest("glm", "one") == [7, 7, 7, 7, 7]
    assert highest("unheard", "one") == [5, 9, 1, 1, 1]
    assert highest("unheard", "two") == [7, 7, 20, 7, 7]
    assert highest("unheard", "three") == [7, 9, 20, 7, 7]
    assert bound_of(PriceList(), "claude", "one") is None
    assert prices.bounds[ANY_FAMILY] == Rates(*(round(usd * 10**9) for usd in (7, 9, 20, 7, 7)))


def test_no_usage_costs_more_than_postgres_can_hold() -> None:
    """Figures are a provider's: one answer of a hostile one must not stop the ledger of all."""
    prices = prices_of(rates(**SONNET))
    most = 10**12 - 1
    assert cost_nusd(TokenCounts(1), MODEL, prices, tools={"web_search": most}) == MOST_NUSD
    assert cost_nusd(TokenCounts(*[most] * 5), MODEL, prices) == MOST_NUSD
    assert MOST_NUSD * 4_096 < 2**63, "some thousand of them in one hour"


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("field", ["input", "over_factor", "fast_factor"])
def test_a_price_is_an_amount(field: str, value: float) -> None:
    """Not less than nothing, which would pay for other usage, and no more than can be counted."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(ONE | {field: value}, Price)


@pytest.mark.parametrize("field", ["tiers", "geos", "tools"])
def test_a_factor_is_an_amount(field: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({field: {"x": -0.5}}, ListedProvider)


def test_a_model_of_a_list_has_a_standard_price() -> None:
    """Other prices are in relation to it."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"standard": [], "fast": [ONE]}, ListedModel)


def test_a_fast_mode_of_a_free_model_has_no_factor() -> None:
    """So that a price of the settings has none, unless it says so."""
    free = prices_of(rates(output=0), own={MODEL: Price(1, 1, 1, 1, 1)}, fast=(rates(),))
    assert cost_nusd(TokenCounts(1), MODEL, free, speed="fast") is None
