"""What answers cost, worked out by hand from the providers' published rules: the built-in list against the pages.

A price of $1 per million tokens is 1,000 nano-dollars per token. Sources, as of November 2026:

PRICING     platform.claude.com/docs/en/about-claude/pricing. The table of models; "5-minute cache write tokens: 1.25x
            base input price; 1-hour: 2x; cache read tokens: 0.1x", of Fable and Mythos 5.1 and 5.2 0.025x, of Opus 5.5
            and Sonnet 5.5 0.05x; "the Batch API ... 50% discount on both input and output tokens"; "Web search: $10 per
            1,000 searches, plus token costs. Web fetch: no additional charge".
RESIDENCY   the same page: "For Claude 4.6 and later models, specifying US-only inference through the inference_geo
            parameter incurs a 1.1x multiplier on all token pricing categories, including input tokens, output tokens,
            cache writes, and cache reads."
FAST        platform.claude.com/docs/en/build-with-claude/fast-mode: Opus 4.8 and 5 $10/$50, Opus 5.5 $8/$40, Fable 5.2
            $16/$80, across the full context window; prompt caching multipliers apply on top, and so does data
            residency.
LONG        the pricing page: Haiku 5.5 above 100,000 tokens of prompt, and Sonnet 4.5, Opus and Sonnet 4.6 (until
            2026-03-13) above 200,000: the whole request at the higher rates.
TIERS       platform.claude.com/docs/en/api/service-tiers: priority is a commitment; its list price is the standard one.
REFUSALS    platform.claude.com/docs/en/build-with-claude/refusals-and-fallback: "You are not billed for a refusal that
            arrives before any output"; one in the middle "bills the input tokens and the output already streamed at
            normal rates"; "Each attempt that produced output is billed at its own model's rates".
CREDIT      platform.claude.com/docs/en/build-with-claude/fallback-credit: "The refund is visible in the retry's usage
            ... cache_creation_input_tokens is lower, and cache_read_input_tokens is higher by the same amount".
ADVISOR     platform.claude.com/docs, "Advisor tool": the advisor's tokens are billed at the advisor model's rates.
COMPACTION  platform.claude.com/docs, "Compaction": an iteration of its own, beside the totals, at the model's rates.
ZAI         docs.z.ai/guides/overview/pricing. GLM-5.3 $1.4/$4.4, cached $0.26; "Cached Input Storage: Limited-time
            Free", so that a write costs its input; GLM-5.3-Flash at half until 2026-09-09; "Web Search: $0.01 / use".
"""

from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import pytest
from msgspec.structs import asdict

from service.ledger.events import TokenCounts
from service.ledger.price import PriceList, cost_nusd
from service.ledger.price_list import price_list
from service.settings.packaged import packaged_prices


class Line(NamedTuple):
    """One line of an answer's usage, with the price that the pages give it."""

    model: str
    tokens: TokenCounts
    nusd: int
    terms: dict[str, Any]


def line(model: str, nusd: int, *counts: int, **terms: Any) -> Line:
    """A line: what it costs, its tokens (input, output, cache read, written for 5 minutes, for an hour), its terms."""
    return Line(model, TokenCounts(*counts), nusd, terms)


def at(day: str) -> int:
    """A day's noon, UTC."""
    return int(datetime.fromisoformat(f"{day}T12:00:00").replace(tzinfo=UTC).timestamp() * 1000)


ANSWERS = {
    # PRICING: each kind. 1,000 tokens x $3 = 3,000,000 nano-dollars, and so on.
    "sonnet 4.6, input": [line("claude-sonnet-4-6", 3_000_000, 1_000)],
    "sonnet 4.6, output": [line("claude-sonnet-4-6", 15_000_000, 0, 1_000)],
    "sonnet 4.6, cache read": [line("claude-sonnet-4-6", 300_000, 0, 0, 1_000)],
    "sonnet 4.6, written for 5 minutes": [line("claude-sonnet-4-6", 3_750_000, 0, 0, 0, 1_000)],
    "sonnet 4.6, written for an hour": [line("claude-sonnet-4-6", 6_000_000, 0, 0, 0, 0, 1_000)],
    # 10 x 3,000 + 20 x 15,000 + 30 x 300 + 40 x 3,750 + 50 x 6,000 = 789,000
    "sonnet 4.6, all kinds": [line("claude-sonnet-4-6", 789_000, 10, 20, 30, 40, 50)],
    # 10 x 5,000 + 20 x 25,000 + 30 x 500 + 40 x 6,250 + 50 x 10,000 = 1,315,000
    "opus 5, all kinds": [line("claude-opus-5", 1_315_000, 10, 20, 30, 40, 50)],
    # 10 x 4,000 + 20 x 20,000 + 30 x 200 + 40 x 5,000 + 50 x 8,000 = 1,046,000: a cache read is 0.05x
    "opus 5.5, all kinds": [line("claude-opus-5-5", 1_046_000, 10, 20, 30, 40, 50)],
    # 10 x 2,000 + 20 x 10,000 + 30 x 100 + 40 x 2,500 + 50 x 4,000 = 523,000
    "sonnet 5.5, all kinds": [line("claude-sonnet-5-5", 523_000, 10, 20, 30, 40, 50)],
    # 10 x 8,000 + 20 x 40,000 + 30 x 200 + 40 x 10,000 + 50 x 16,000 = 2,086,000: a cache read is 0.025x
    "fable 5.2, all kinds": [line("claude-fable-5-2", 2_086_000, 10, 20, 30, 40, 50)],
    "mythos 5.2, all kinds": [line("claude-mythos-5-2", 2_086_000, 10, 20, 30, 40, 50)],
    # 10 x 10,000 + 20 x 50,000 + 30 x 250 + 40 x 12,500 + 50 x 20,000 = 2,607,500
    "fable 5.1, all kinds": [line("claude-fable-5-1", 2_607_500, 10, 20, 30, 40, 50)],
    "mythos 5.1, all kinds": [line("claude-mythos-5-1", 2_607_500, 10, 20, 30, 40, 50)],
    # 10 x 1,000 + 20 x 5,000 + 30 x 100 + 40 x 1,250 + 50 x 2,000 = 263,000
    "haiku 4.5, all kinds": [line("claude-haiku-4-5", 263_000, 10, 20, 30, 40, 50)],
    # 10 x 15,000 + 20 x 75,000 + 30 x 1,500 + 40 x 18,750 + 50 x 30,000 = 3,945,000
    "opus 4.1, all kinds": [line("claude-opus-4-1", 3_945_000, 10, 20, 30, 40, 50)],
    # Names with prefix, date and variant are the same model: 7 x 5,000 + 3 x 25,000
    "a name of Bedrock": [line("us.anthropic.claude-opus-4-8-20260115-v1:0", 110_000, 7, 3)],
    "a dated name with a window": [line("claude-sonnet-4-5-20250929[1m]", 66_000, 7, 3)],
    "a name of OpenRouter": [line("anthropic/claude-opus-4.8", 110_000, 7, 3)],
    # LONG, Haiku 5.5 ($0.1/$0.5, above 100,000 $0.5/$2.5): 100,000 x 100 + 100 x 500; 100,001 x 500 + 100 x 2,500
    "haiku 5.5, a prompt of just the limit": [line("claude-haiku-5-5", 10_050_000, 100_000, 100)],
    "haiku 5.5, one token more": [line("claude-haiku-5-5", 50_250_500, 100_001, 100)],
    # 1 x 500 + 100 x 2,500 + 60,000 x 50 + 40,000 x 625 = 28,250,500: cached tokens are prompt, too
    "haiku 5.5, most of the prompt cached": [line("claude-haiku-5-5", 28_250_500, 1, 100, 60_000, 40_000)],
    # Sonnet 4.5 above 200,000: 250,000 x 6,000 + 1,000 x 22,500; below: 150,000 x 3,000 + 1,000 x 15,000
    "sonnet 4.5, a long prompt": [line("claude-sonnet-4-5", 1_522_500_000, 250_000, 1_000)],
    "sonnet 4.5, a shorter one": [line("claude-sonnet-4-5", 465_000_000, 150_000, 1_000)],
    # Opus 4.6, 300,000 of prompt: in February 300,000 x 10,000 + 1,000 x 37,500; since 13 March x 5,000 and x 25,000
    "opus 4.6, long, in February": [line("claude-opus-4-6", 3_037_500_000, 300_000, 1_000, at_ms=at("2026-02-20"))],
    "opus 4.6, long, in April": [line("claude-opus-4-6", 1_525_000_000, 300_000, 1_000, at_ms=at("2026-04-20"))],
    # FAST: 10 x 10,000 + 20 x 50,000 + 30 x 1,000 + 40 x 12,500 + 50 x 20,000 = 2,630,000
    "opus 4.8, fast": [line("claude-opus-4-8", 2_630_000, 10, 20, 30, 40, 50, speed="fast")],
    "opus 5, fast": [line("claude-opus-5", 2_630_000, 10, 20, 30, 40, 50, speed="fast")],
    # 10 x 8,000 + 20 x 40,000 + 30 x 400 + 40 x 10,000 + 50 x 16,000 = 2,092,000
    "opus 5.5, fast": [line("claude-opus-5-5", 2_092_000, 10, 20, 30, 40, 50, speed="fast")],
    # 10 x 16,000 + 20 x 80,000 + 30 x 400 + 40 x 20,000 + 50 x 32,000 = 4,172,000
    "fable 5.2, fast": [line("claude-fable-5-2", 4_172_000, 10, 20, 30, 40, 50, speed="fast")],
    "opus 4.8, standard by name": [line("claude-opus-4-8", 1_315_000, 10, 20, 30, 40, 50, speed="standard")],
    # RESIDENCY: 789,000 x 1.1; fast in the US: 2,630,000 x 1.1
    "sonnet 4.6 in the US": [line("claude-sonnet-4-6", 867_900, 10, 20, 30, 40, 50, geo="us")],
    "sonnet 4.6 anywhere": [line("claude-sonnet-4-6", 789_000, 10, 20, 30, 40, 50, geo="global")],
    "opus 4.8, fast, in the US": [line("claude-opus-4-8", 2_893_000, 10, 20, 30, 40, 50, speed="fast", geo="us")],
    # One token of Haiku 5.5 read from a cache: 10 x 1.1 = 11
    "a single token in the US": [line("claude-haiku-5-5", 11, 0, 0, 1, geo="us")],
    # PRICING, batches: half of 789,000; 263,000 / 2; with US inference 789,000 / 2 x 1.1 = 433,950
    "sonnet 4.6, batch": [line("claude-sonnet-4-6", 394_500, 10, 20, 30, 40, 50, tier="batch")],
    "haiku 4.5, batch": [line("claude-haiku-4-5", 131_500, 10, 20, 30, 40, 50, tier="batch")],
    "sonnet 4.6, batch in the US": [line("claude-sonnet-4-6", 433_950, 10, 20, 30, 40, 50, tier="batch", geo="us")],
    # Haiku 5.5's long prompts halve as well: 100,001 x 250 + 100 x 1,250 = 25,125,250
    "haiku 5.5, long batch": [line("claude-haiku-5-5", 25_125_250, 100_001, 100, tier="batch")],
    # TIERS
    "sonnet 4.6, priority": [line("claude-sonnet-4-6", 789_000, 10, 20, 30, 40, 50, tier="priority")],
    # PRICING, searches: 3 x $0.01 = 30,000,000 beside the tokens; neither geography nor batch touches them
    "three searches": [line("claude-sonnet-4-6", 30_789_000, 10, 20, 30, 40, 50, tools={"web_search": 3})],
    "searches in the US": [
        line("claude-sonnet-4-6", 30_867_900, 10, 20, 30, 40, 50, geo="us", tools={"web_search": 3})
    ],
    "searches of a batch": [
        line("claude-sonnet-4-6", 10_394_500, 10, 20, 30, 40, 50, tier="batch", tools={"web_search": 1})
    ],
    "fetches": [line("claude-sonnet-4-6", 789_000, 10, 20, 30, 40, 50, tools={"web_fetch": 9})],
    "everything at once": [
        line("claude-opus-4-8", 22_893_000, 10, 20, 30, 40, 50, speed="fast", geo="us", tools={"web_search": 2})
    ],
    # ADVISOR: Sonnet 5.5 asks Opus 5.5. 100 x 2,000 + 50 x 10,000 = 700,000; 1,000 x 4,000 + 200 x 20,000 = 8,000,000
    "an advisor": [
        line("claude-sonnet-5-5", 700_000, 100, 50),
        line("claude-opus-5-5", 8_000_000, 1_000, 200),
    ],
    # COMPACTION: the answer's 7 x 5,000 + 3 x 25,000, and the summary's 180,000 x 500 + 4,000 x 25,000
    "a compaction": [
        line("claude-opus-5", 110_000, 7, 3),
        line("claude-opus-5", 190_000_000, 0, 4_000, 180_000),
    ],
    # REFUSALS: Fable 5.1 declined after 10 tokens of output: 1,000 x 10,000 + 10 x 50,000 = 10,500,000; Opus 4.8
    # served: 1,000 x 5,000 + 100 x 25,000 = 7,500,000
    "a fallback after some output": [
        line("claude-fable-5-1", 10_500_000, 1_000, 10),
        line("claude-opus-4-8", 7_500_000, 1_000, 100),
    ],
    # CREDIT: the prompt counts as read, as usage reports it: 150,000 x 500 + 500 x 25,000 = 87,500,000
    "a retry with fallback credit": [line("claude-opus-4-8", 87_500_000, 0, 500, 150_000)],
    # Without it: 150,000 x 6,250 + 500 x 25,000 = 950,000,000
    "a retry without": [line("claude-opus-4-8", 950_000_000, 0, 500, 0, 150_000)],
    # ZAI: 10 x 1,400 + 20 x 4,400 + 30 x 260 + 40 x 1,400 + 50 x 1,400 = 235,800
    "glm 5.3, all kinds": [line("glm-5.3", 235_800, 10, 20, 30, 40, 50)],
    "glm 5.2, all kinds": [line("glm-5.2", 235_800, 10, 20, 30, 40, 50)],
    # 1,000 x 200 + 1,000 x 1,100 + 1,000 x 30 = 1,330,000
    "glm 4.5 air": [line("glm-4.5-air", 1_330_000, 1_000, 1_000, 1_000)],
    "glm 4.5, capitals": [line("GLM-4.5", 2_910_000, 1_000, 1_000, 1_000)],
    # GLM-5.3-Flash: 1,000 x 75 + 1,000 x 250 = 325,000 in August; 1,000 x 150 + 1,000 x 500 = 650,000 since
    "glm 5.3 flash in August": [line("glm-5.3-flash", 325_000, 1_000, 1_000, at_ms=at("2026-08-25"))],
    "glm 5.3 flash in October": [line("glm-5.3-flash", 650_000, 1_000, 1_000, at_ms=at("2026-10-05"))],
    "a search at Z.AI": [line("glm-5.2", 10_014_000, 10, tools={"web_search": 1})],
    "a free model": [line("glm-4.7-flash", 0, 1_000, 1_000)],
}


@cache
def built_in() -> PriceList:
    """The list that comes with the proxy."""
    return price_list(packaged_prices(), {}, {})


@pytest.mark.parametrize("lines", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_costs_what_the_pages_say(lines: list[Line]) -> None:
    """To the nano-dollar, line by line."""
    costs = [cost_nusd(one.tokens, one.model, built_in(), **one.terms) for one in lines]
    assert costs == [one.nusd for one in lines]


@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "claude-haiku-4-5", "claude-opus-4-7", "glm-5.2"])
def test_fast_mode_has_no_price_where_none_is_published(model: str) -> None:
    """It is not the standard one."""
    assert cost_nusd(TokenCounts(input=1), model, built_in(), speed="fast") is None


def test_there_are_many_answers() -> None:
    """At least forty, each kind of token, factor, tool and iteration among them."""
    assert len(ANSWERS) >= 40
    used = {name for lines in ANSWERS.values() for one in lines for name, count in asdict(one.tokens).items() if count}
    assert used == set(TokenCounts.__struct_fields__)
