"""What tokens cost at the prices of a list: a price for each kind, a surcharge for long prompts, half for batches."""

from typing import Any

import pytest

from service.ledger.events import TokenCounts
from service.ledger.price import ANY_FAMILY, Price, PriceList, cost_at, cost_nusd, dearest_prices

SONNET = Price(input=3, output=15, cache_read=0.3, cache_write_5m=3.75, cache_write_1h=6)
PROMPT_KINDS = ("input", "cache_read", "cache_write_5m", "cache_write_1h")


def price(**fields: Any) -> Price:
    """A dollar per million tokens of any kind, unless `fields` say otherwise."""
    return Price(**(dict.fromkeys(TokenCounts.__struct_fields__, 1) | fields))


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
    assert cost_at(SONNET, tokens) == nusd


@pytest.mark.parametrize("kind", PROMPT_KINDS)
@pytest.mark.parametrize(("size", "nusd"), [(99, 99_000), (100, 100_000), (101, 202_000)])
def test_a_prompt_above_the_limit_costs_more_as_a_whole(kind: str, size: int, nusd: int) -> None:
    """One of just that size does not. Whatever was read counts as prompt, from a cache or not."""
    long = price(over_prompt_tokens=100, over_factor=2)
    assert cost_at(long, TokenCounts(**{kind: size})) == nusd


@pytest.mark.parametrize(("hour", "factor"), [(10, 1), (11, 2)])
def test_the_kinds_of_a_prompt_are_added_up(hour: int, factor: int) -> None:
    """Each lies below the limit, their sum at it or one above it; what was answered is no prompt."""
    long = price(over_prompt_tokens=100, over_factor=2)
    tokens = TokenCounts(40, 1_000, 30, 20, hour)
    assert cost_at(long, tokens) == factor * (1_090 + hour) * 1_000


def test_a_price_without_a_limit_has_no_surcharge() -> None:
    """However long the prompt."""
    assert cost_at(price(over_factor=2), TokenCounts(input=10**6)) == 10**9


def test_a_batch_costs_half() -> None:
    prices = PriceList(prices={"claude-sonnet-5": SONNET})
    assert cost_nusd(TokenCounts(input=2), "claude-sonnet-5", prices) == 6_000
    assert cost_nusd(TokenCounts(input=2), "claude-sonnet-5", prices, batch=True) == 3_000


@pytest.mark.parametrize(
    ("model", "nusd"),
    [
        pytest.param("claude-sonnet-5", 1_000, id="the name as it is written"),
        pytest.param("claude-sonnet-5-20260115", 2_000, id="a dated name with a price of its own"),
        pytest.param("anthropic/Claude-Sonnet-5", 1_000, id="another way to write it"),
        pytest.param("claude-opus-5", None, id="a model without a price"),
    ],
)
def test_the_price_is_that_of_the_name_or_of_its_normal_form(model: str, nusd: int | None) -> None:
    """What has no price costs None, never 0."""
    prices = PriceList(prices={"claude-sonnet-5": price(), "claude-sonnet-5-20260115": price(input=2)})
    assert cost_nusd(TokenCounts(input=1), model, prices) == nusd


def test_the_dearest_price_of_a_family_is_taken_kind_by_kind() -> None:
    """Of each kind the greatest, whichever model has it; beside the families stands the dearest of all."""
    prices = PriceList(
        prices={
            "claude-a": price(input=5, output=1),
            "anthropic/claude-b": price(input=2, output=9),
            "glm-5": price(input=3, cache_read=7),
        }
    )
    assert dearest_prices(prices) == {
        "claude": price(input=5, output=9),
        "glm": price(input=3, cache_read=7),
        ANY_FAMILY: price(input=5, output=9, cache_read=7),
    }
    assert dearest_prices(PriceList()) == {}
