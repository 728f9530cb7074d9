"""What answers used and cost: tokens by kind and nano-dollars, worked out by hand from the providers' published rules.

Sources
- Prices: platform.claude.com, "Pricing", in dollars per million tokens; a dollar per million is 1,000 nano-dollars a
  token. Opus 4.8 and 5 cost 5/25, Opus 5.5 4/20, Sonnet 4.5 and 4.6 3/15, Haiku 4.5 1/5, Fable 5 10/50, Fable 5.2
  8/40. A cache read costs 0.1 of the input (0.05 for Opus 5.5), a write 1.25 for 5 minutes and 2 for an hour. Fast mode
  costs twice. Web searches cost $10 per 1,000, web fetches nothing. `inference_geo` us costs 1.1 times, batches half.
  Prompts above 200,000 tokens cost twice the input and 1.5 times the output on Sonnet 4.5, and no more on Sonnet 4.6
  since March. docs.z.ai, "Pricing": GLM-5.3 costs 1.4/4.4, a cache read 0.26.
- Usage: the types of the `anthropic` package (`BetaUsage`, `BetaIterationsUsage`): later figures are cumulative;
  compactions and advisors are not within the totals; a declined hop is a `message` entry with a model of its own, and
  `fallback_message` is the serving one; `output_tokens_details` is a decomposition.
- Fallbacks: "Refusals and fallback": each attempt that produced output is billed at the rates of the model that ran it;
  the top-level counts are those of the one that produced the message; in a stream, `message_start` has named the model
  that declined in the middle. "Fallback credit": the refund is visible in the retry's `usage`, whose
  `cache_creation_input_tokens` is lower and `cache_read_input_tokens` higher by the same amount.
- Refusals: release notes of June, "you are no longer billed for a request when it returns `stop_reason: "refusal"`
  without Claude having generated any output".
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from service.ledger import wire
from service.ledger.events import BatchItemUsed, LineKind, TokenCounts, UsageLine
from service.ledger.usage_lines import usage_lines
from tests.support.fake_upstream import reply, stream
from tests.support.relay_harness import ONLY_ANTHROPIC, RelayFactory, RelayHarness

OPUS, SONNET, HAIKU = "claude-opus-4-8", "claude-sonnet-4-6", "claude-haiku-4-5"
OPUS_5, OPUS_55, SONNET_45 = "claude-opus-5", "claude-opus-5-5", "claude-sonnet-4-5"
FABLE, FABLE_52 = "claude-fable-5", "claude-fable-5-2"
AT_THE_END = ("output_tokens", "iterations", "server_tool_use", "fallback_credit", "output_tokens_details")
"""Fields that a stream tells in its `message_delta`; all others come with its `message_start`."""


class Answer(Struct, frozen=True, kw_only=True):
    """An answer to a question to `asked`, and its usage as the invoice has it: one line for each model and kind. `hops`
    are models that declined before any output, and those that went on."""

    asked: str = OPUS
    served: str = ""
    usage: dict[str, Any]
    stop: str = "end_turn"
    text: str = "hello"
    hops: tuple[tuple[str, str], ...] = ()
    lines: tuple[UsageLine, ...]
    unread: tuple[str, ...] = ()


def counts(input: int = 0, output: int = 0, **more: int) -> dict[str, int]:  # noqa: A002 - the wire's own word
    """Figures as the wire names them."""
    names = {"read": "cache_read_input_tokens", "write": "cache_creation_input_tokens"}
    return {"input_tokens": input, "output_tokens": output} | {names[name]: count for name, count in more.items()}


def iteration(kind: str, model: str = "", **figures: int) -> dict[str, Any]:
    """An entry of `usage.iterations`."""
    return {"type": kind, **({"model": model} if model else {}), **counts(**figures)}


def line(nusd: int | None, model: str = OPUS, kind: LineKind = "message", *tokens: int, **more: Any) -> UsageLine:
    """A line of the invoice; tokens are input, output, read from a cache, written for 5 minutes and for an hour."""
    return UsageLine(model, kind, TokenCounts(*(tokens or (100, 50))), cost_nusd=nusd, **more)


PLAIN = counts(100, 50)
"""100 x 5,000 + 50 x 25,000 = 1,750,000 on Opus 4.8 or 5."""
SPLIT = {"cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 400}}
ADVICE = iteration("advisor_message", OPUS, input=159_419, output=7_805)
"""159,419 x 5,000 + 7,805 x 25,000 = 992,220,000."""
SUMMARY = iteration("compaction", input=180_000, output=3_500)
"""On Sonnet 4.6: 180,000 x 3,000 + 3,500 x 15,000 = 592,500,000."""
TURN = iteration("message", input=2, output=491)
"""On Sonnet 4.6: 2 x 3,000 + 491 x 15,000 = 7,371,000."""
ADVISED: dict[str, Any] = counts(2, 491) | {"iterations": [TURN, ADVICE, TURN]}
FELL_BACK = iteration("fallback_message", OPUS, input=412, output=512)
"""412 x 5,000 + 512 x 25,000 = 14,860,000."""
DECLINED = iteration("message", FABLE, input=412, output=30)
"""412 x 10,000 + 30 x 50,000 = 5,620,000."""

ANSWERS: dict[str, Answer] = {
    # -- kinds of tokens
    "plain": Answer(usage=PLAIN, lines=(line(1_750_000),)),
    "a cache is read": Answer(  # 10 x 5,000 + 1 x 25,000 + 10,000 x 500
        usage=counts(10, 1, read=10_000), lines=(line(5_075_000, OPUS, "message", 10, 1, 10_000),)
    ),
    "a cache is written": Answer(  # 1 x 5,000 + 1 x 25,000 + 1,000 x 6,250
        usage=counts(1, 1, write=1_000), lines=(line(6_280_000, OPUS, "message", 1, 1, 0, 1_000),)
    ),
    "for 5 minutes and an hour": Answer(  # 2 x 25,000 + 100 x 6,250 + 400 x 10,000
        usage=counts(0, 2, write=500) | SPLIT, lines=(line(4_675_000, OPUS, "message", 0, 2, 0, 100, 400),)
    ),
    "a sum beyond its split": Answer(  # 1 x 25,000 + 50 x 6,250 + 30 x 10,000
        usage=counts(0, 1, write=80) | {"cache_creation": {"ephemeral_1h_input_tokens": 30}},
        lines=(line(637_500, OPUS, "message", 0, 1, 0, 50, 30),),
    ),
    "all kinds": Answer(  # 10 x 5,000 + 2 x 25,000 + 1,000 x 500 + 100 x 6,250 + 400 x 10,000
        usage=counts(10, 2, read=1_000, write=500) | SPLIT,
        lines=(line(5_225_000, OPUS, "message", 10, 2, 1_000, 100, 400),),
    ),
    "thinking is a part of the output": Answer(
        usage=PLAIN | {"output_tokens_details": {"thinking_tokens": 40}}, lines=(line(1_750_000),)
    ),
    "one iteration": Answer(
        usage=PLAIN | {"iterations": [iteration("message", OPUS, input=100, output=50)]}, lines=(line(1_750_000),)
    ),
    # -- models
    "another model of the list": Answer(  # 1,000 x 3,000 + 1,000 x 15,000
        asked=SONNET, usage=counts(1_000, 1_000), lines=(line(18_000_000, SONNET, "message", 1_000, 1_000),)
    ),
    "the dated name of the model asked": Answer(  # 10 x 1,000 + 10 x 5,000
        asked=HAIKU,
        served=f"{HAIKU}-20251001",
        usage=counts(10, 10),
        lines=(line(60_000, HAIKU, "message", 10, 10),),
    ),
    "another model answered": Answer(  # 1,000,000 x 1,000 + 100,000 x 5,000
        served=HAIKU,
        usage=counts(1_000_000, 100_000),
        lines=(line(1_500_000_000, HAIKU, "message", 1_000_000, 100_000),),
    ),
    "another vendor's model answered": Answer(  # 1,000 x 1,400 + 100 x 4,400 + 1,000 x 260
        served="glm-5.3",
        usage=counts(1_000, 100, read=1_000),
        lines=(line(2_100_000, "glm-5.3", "message", 1_000, 100, 1_000),),
    ),
    "a model without a price": Answer(served="claude-opus-9", usage=PLAIN, lines=(line(None, "claude-opus-9"),)),
    # -- long prompts
    "a prompt of 300,000 on Sonnet 4.6": Answer(  # 300,000 x 3,000 + 1 x 15,000
        asked=SONNET, usage=counts(300_000, 1), lines=(line(900_015_000, SONNET, "message", 300_000, 1),)
    ),
    "a prompt of 200,000 on Sonnet 4.5": Answer(  # 200,000 x 3,000 + 10 x 15,000
        asked=SONNET_45, usage=counts(200_000, 10), lines=(line(600_150_000, SONNET_45, "message", 200_000, 10),)
    ),
    "one token more": Answer(  # 200,001 x 6,000 + 10 x 22,500
        asked=SONNET_45, usage=counts(200_001, 10), lines=(line(1_200_231_000, SONNET_45, "message", 200_001, 10),)
    ),
    "what a cache has is prompt too": Answer(  # 1 x 6,000 + 1 x 22,500 + 200,000 x 600
        asked=SONNET_45,
        usage=counts(1, 1, read=200_000),
        lines=(line(120_028_500, SONNET_45, "message", 1, 1, 200_000),),
    ),
    # -- tier, speed, geography
    "standard words": Answer(
        usage=PLAIN | {"service_tier": "standard", "speed": "standard", "inference_geo": "global"},
        lines=(line(1_750_000),),
    ),
    "no geography": Answer(usage=PLAIN | {"inference_geo": "not_available"}, lines=(line(1_750_000),)),
    "priority": Answer(usage=PLAIN | {"service_tier": "priority"}, lines=(line(1_750_000, tier="priority"),)),
    "fast": Answer(usage=PLAIN | {"speed": "fast"}, lines=(line(3_500_000, speed="fast"),)),
    "fast, from a cache": Answer(  # 10 x 8,000 + 10 x 40,000 + 1,000 x 400
        asked=OPUS_55,
        usage=counts(10, 10, read=1_000) | {"speed": "fast"},
        lines=(line(880_000, OPUS_55, "message", 10, 10, 1_000, speed="fast"),),
    ),
    "in the US": Answer(  # 1,750,000 x 1.1
        asked=OPUS_5, usage=PLAIN | {"inference_geo": "us"}, lines=(line(1_925_000, OPUS_5, geo="us"),)
    ),
    "fast, in the US": Answer(  # 1,750,000 x 2 x 1.1
        usage=PLAIN | {"speed": "fast", "inference_geo": "us"}, lines=(line(3_850_000, speed="fast", geo="us"),)
    ),
    "a speed that nobody knows": Answer(usage=PLAIN | {"speed": "warp"}, lines=(line(None, speed="warp"),)),
    # -- paid tools
    "three searches": Answer(  # 1,750,000 + 3 x 10,000,000
        usage=PLAIN | {"server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 0}},
        lines=(line(31_750_000, tools={"web_search": 3}),),
    ),
    "searches in the US": Answer(  # 1,925,000 + 10,000,000: no factor applies to a search
        usage=PLAIN | {"inference_geo": "us", "server_tool_use": {"web_search_requests": 1}},
        lines=(line(11_925_000, tools={"web_search": 1}, geo="us"),),
    ),
    "fetches cost their tokens": Answer(
        usage=PLAIN | {"server_tool_use": {"web_fetch_requests": 2}}, lines=(line(1_750_000, tools={"web_fetch": 2}),)
    ),
    "no tools were used": Answer(usage=PLAIN | {"server_tool_use": None}, lines=(line(1_750_000),)),
    "a tool that nobody knows": Answer(
        usage=PLAIN | {"server_tool_use": {"oracle_requests": 1}}, lines=(line(None, tools={"oracle": 1}),)
    ),
    # -- iterations beside the totals
    "a compaction": Answer(  # 23,000 x 3,000 + 1,000 x 15,000
        asked=SONNET,
        usage=counts(23_000, 1_000) | {"iterations": [SUMMARY, iteration("message", input=23_000, output=1_000)]},
        lines=(
            line(84_000_000, SONNET, "message", 23_000, 1_000),
            line(592_500_000, SONNET, "compaction", 180_000, 3_500),
        ),
    ),
    "two compactions": Answer(
        asked=SONNET,
        usage=counts(2, 491) | {"iterations": [SUMMARY, SUMMARY, TURN]},
        lines=(
            line(7_371_000, SONNET, "message", 2, 491),
            line(1_185_000_000, SONNET, "compaction", 360_000, 7_000),
        ),
    ),
    "a fast compaction": Answer(  # twice 100 x 5,000 + 10 x 25,000
        usage=PLAIN | {"speed": "fast", "iterations": [iteration("compaction", input=100, output=10)]},
        lines=(
            line(3_500_000, speed="fast"),
            line(1_500_000, OPUS, "compaction", 100, 10, speed="fast"),
        ),
    ),
    "an advisor": Answer(
        asked=SONNET,
        usage=ADVISED,
        lines=(line(7_371_000, SONNET, "message", 2, 491), line(992_220_000, OPUS, "advisor", 159_419, 7_805)),
    ),
    "two advisors": Answer(  # 10 x 5,000 + 1 x 25,000 + 1,000 x 500
        asked=SONNET,
        usage=counts(2, 491)
        | {"iterations": [ADVICE, TURN, iteration("advisor_message", OPUS_5, input=10, output=1, read=1_000)]},
        lines=(
            line(7_371_000, SONNET, "message", 2, 491),
            line(992_220_000, OPUS, "advisor", 159_419, 7_805),
            line(575_000, OPUS_5, "advisor", 10, 1, 1_000),
        ),
    ),
    "an advisor of the same model": Answer(  # 10 x 5,000 + 10 x 25,000
        usage=PLAIN | {"iterations": [iteration("advisor_message", OPUS, input=10, output=10)]},
        lines=(line(1_750_000), line(300_000, OPUS, "advisor", 10, 10)),
    ),
    "an advisor and a compaction": Answer(
        asked=SONNET,
        usage=counts(2, 491) | {"iterations": [SUMMARY, ADVICE, TURN]},
        lines=(
            line(7_371_000, SONNET, "message", 2, 491),
            line(592_500_000, SONNET, "compaction", 180_000, 3_500),
            line(992_220_000, OPUS, "advisor", 159_419, 7_805),
        ),
    ),
    "an advisor in the US": Answer(  # both x 1.1
        asked=SONNET,
        usage=ADVISED | {"inference_geo": "us"},
        lines=(
            line(8_108_100, SONNET, "message", 2, 491, geo="us"),
            line(1_091_442_000, OPUS, "advisor", 159_419, 7_805, geo="us"),
        ),
    ),
    "an advisor of a fast model": Answer(  # the advisor is not fast: 100 x 5,000 + 10 x 25,000
        usage=PLAIN | {"speed": "fast", "iterations": [iteration("advisor_message", OPUS_5, input=100, output=10)]},
        lines=(line(3_500_000, speed="fast"), line(750_000, OPUS_5, "advisor", 100, 10)),
    ),
    "an advisor that nobody can price": Answer(
        usage=PLAIN | {"iterations": [iteration("advisor_message", "claude-oracle-1", input=9, output=9)]},
        lines=(line(1_750_000), line(None, "claude-oracle-1", "advisor", 9, 9)),
    ),
    # -- fallbacks
    "a fallback served": Answer(
        asked=FABLE,
        served=OPUS,
        usage=counts(412, 512) | {"iterations": [DECLINED, FELL_BACK]},
        lines=(
            line(14_860_000, OPUS, "fallback", 412, 512),
            line(5_620_000, FABLE, "declined", 412, 30),
        ),
    ),
    "declined before any output": Answer(
        asked=FABLE,
        served=OPUS,
        usage=counts(412, 512) | {"iterations": [iteration("message", FABLE, input=412), FELL_BACK]},
        lines=(
            line(14_860_000, OPUS, "fallback", 412, 512),
            line(0, FABLE, "declined", 412, 0, unbilled=True),
        ),
    ),
    "two models declined": Answer(  # 412 x 8,000 + 1 x 40,000
        asked=FABLE_52,
        served=OPUS,
        usage=counts(412, 512)
        | {"iterations": [iteration("message", FABLE_52, input=412, output=1), DECLINED, FELL_BACK]},
        lines=(
            line(14_860_000, OPUS, "fallback", 412, 512),
            line(3_336_000, FABLE_52, "declined", 412, 1),
            line(5_620_000, FABLE, "declined", 412, 30),
        ),
    ),
    "nobody ran before the fallback": Answer(
        asked=FABLE,
        served=OPUS,
        usage=counts(412, 512) | {"iterations": [FELL_BACK]},
        lines=(line(14_860_000, OPUS, "fallback", 412, 512),),
    ),
    "a fallback with a loop of tools": Answer(  # the serving model's own turns are within the totals
        asked=FABLE,
        served=OPUS,
        usage=counts(412, 512)
        | {"iterations": [DECLINED, iteration("message", OPUS, input=400, output=500), FELL_BACK]},
        lines=(
            line(14_860_000, OPUS, "fallback", 412, 512),
            line(5_620_000, FABLE, "declined", 412, 30),
        ),
    ),
    "a fallback after a compaction, with a search": Answer(
        # 14,860,000 + 10,000,000; the compaction is the serving model's: 100 x 5,000 + 10 x 25,000
        asked=FABLE,
        served=OPUS,
        usage=counts(412, 512)
        | {
            "iterations": [DECLINED, iteration("compaction", input=100, output=10), FELL_BACK],
            "server_tool_use": {"web_search_requests": 1},
        },
        lines=(
            line(24_860_000, OPUS, "fallback", 412, 512, tools={"web_search": 1}),
            line(5_620_000, FABLE, "declined", 412, 30),
            line(750_000, OPUS, "compaction", 100, 10),
        ),
    ),
    "a fallback behind its mark": Answer(
        asked=FABLE,
        served=OPUS,
        hops=((FABLE, OPUS),),
        usage=counts(412, 512) | {"iterations": [iteration("message", FABLE, input=535), FELL_BACK]},
        lines=(
            line(14_860_000, OPUS, "fallback", 412, 512),
            line(0, FABLE, "declined", 535, 0, unbilled=True),
        ),
    ),
    "all models declined before any output": Answer(
        asked=FABLE,
        served=OPUS,
        hops=((FABLE, OPUS),),
        text="",
        stop="refusal",
        usage=counts(412, 0)
        | {"iterations": [iteration("message", FABLE, input=535), iteration("fallback_message", OPUS, input=412)]},
        lines=(
            line(0, OPUS, "fallback", 412, 0, unbilled=True),
            line(0, FABLE, "declined", 535, 0, unbilled=True),
        ),
    ),
    "a fallback that writes a cache for an hour": Answer(  # 1 x 5,000 + 1 x 25,000 + 600 x 10,000 + 400 x 6,250
        asked=FABLE,
        served=OPUS,
        usage=counts(1, 1, write=1_000)
        | {
            "iterations": [
                iteration("fallback_message", OPUS, input=1, output=1, write=1_000)
                | {"cache_creation": {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 600}}
            ]
        },
        lines=(line(8_530_000, OPUS, "fallback", 1, 1, 0, 400, 600),),
    ),
    "a credit that was redeemed": Answer(  # its figures are those that are billed: 1 x 5,000 + 1 x 25,000 + 9,000 x 500
        usage=counts(1, 1, read=9_000) | {"fallback_credit": {"status": {"type": "redeemed"}}},
        lines=(line(4_530_000, OPUS, "message", 1, 1, 9_000, credit="redeemed"),),
    ),
    "a credit that was not applied": Answer(
        usage=PLAIN | {"fallback_credit": {"status": {"type": "not_applied", "reason": "expired"}}},
        lines=(line(1_750_000, credit="expired"),),
    ),
    # -- refusals
    "refused before any output": Answer(
        asked=FABLE,
        usage=counts(106, 1),
        stop="refusal",
        text="",
        lines=(line(0, FABLE, "message", 106, 1, unbilled=True),),
    ),
    "refused, and no output told": Answer(
        asked=FABLE,
        usage=counts(106, 0),
        stop="refusal",
        text="",
        lines=(line(0, FABLE, "message", 106, 0, unbilled=True),),
    ),
    "refused in the middle": Answer(  # 106 x 10,000 + 20 x 50,000
        asked=FABLE, usage=counts(106, 20), stop="refusal", lines=(line(2_060_000, FABLE, "message", 106, 20),)
    ),
    # -- what nobody knows
    "a field that nobody knows": Answer(
        usage=PLAIN | {"hologram_tokens": 7}, lines=(line(1_750_000),), unread=("hologram_tokens",)
    ),
    "a lifetime of a cache that nobody knows": Answer(
        usage=PLAIN | {"cache_creation": {"ephemeral_24h_input_tokens": 5}},
        lines=(line(1_750_000),),
        unread=("cache_creation.ephemeral_24h_input_tokens",),
    ),
    "an iteration that nobody knows": Answer(
        usage=PLAIN | {"iterations": [iteration("oracle", "claude-oracle-1", input=9, output=9)]},
        lines=(line(1_750_000),),
        unread=("iterations.oracle",),
    ),
    "a field of an iteration that nobody knows": Answer(
        asked=SONNET,
        usage=counts(2, 491) | {"iterations": [ADVICE | {"hologram_tokens": 7}]},
        lines=(line(7_371_000, SONNET, "message", 2, 491), line(992_220_000, OPUS, "advisor", 159_419, 7_805)),
        unread=("iterations.hologram_tokens",),
    ),
    "unknown fields that hold nothing": Answer(
        usage=PLAIN | {"hologram_tokens": 0, "oracle": None, "parts": []}, lines=(line(1_750_000),)
    ),
}
BATCHED: dict[str, tuple[str, tuple[int | None, ...]]] = {
    # Half of the tokens' price; a search costs the same.
    "plain": ("plain", (875_000,)),
    "of another model": ("another model answered", (750_000_000,)),
    "with an advisor": ("an advisor", (3_685_500, 496_110_000)),
    "with searches": ("three searches", (30_875_000,)),
    "in the US": ("in the US", (962_500,)),
    "with a compaction": ("a compaction", (42_000_000, 296_250_000)),
    "without a price": ("a model without a price", (None,)),
    "refused": ("refused before any output", (0,)),
}


def marks_of(answer: Answer) -> list[dict[str, Any]]:
    """The blocks that say which model went on for which."""
    return [mark_of(*hop) for hop in answer.hops]


def mark_of(declined: str, served: str) -> dict[str, Any]:
    """The block between two models' output."""
    trigger = {"type": "refusal", "category": "cyber"}
    return {"type": "fallback", "from": {"model": declined}, "to": {"model": served}, "trigger": trigger}


def message_of(answer: Answer) -> dict[str, Any]:
    """The answer in one piece."""
    content = [*marks_of(answer), *([{"type": "text", "text": answer.text}] if answer.text else [])]
    model = answer.served or answer.asked
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": answer.stop, "usage": answer.usage,
    }  # fmt: skip


def events_of(answer: Answer) -> bytes:
    """The answer as a stream: the prompt's figures at its start, all others at its end."""
    first = {name: value for name, value in answer.usage.items() if name not in AT_THE_END} | {"output_tokens": 1}
    last = {name: value for name, value in answer.usage.items() if name in AT_THE_END}
    if not answer.usage["output_tokens"]:
        first["output_tokens"] = 0
    start = {"type": "message_start", "message": message_of(answer) | {"content": [], "usage": first}}
    marks = [event for mark in marks_of(answer) for event in block_of(mark)]
    end = {"type": "message_delta", "delta": {"stop_reason": answer.stop}, "usage": last}
    return stream_of(start, *marks, *text_of(answer.text), end, {"type": "message_stop"})


def block_of(block: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """A content block in a stream."""
    middle = [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
    start = {"type": "content_block_start", "index": 0, "content_block": block}
    return [start, *middle, {"type": "content_block_stop", "index": 0}]


def text_of(text: str) -> list[dict[str, Any]]:
    """A text in a stream; nothing if it is empty."""
    return block_of({"type": "text", "text": ""}, {"type": "text_delta", "text": text}) if text else []


def stream_of(*events: dict[str, Any]) -> bytes:
    """A stream."""
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), msgspec.json.encode(one)) for one in events)


async def ask(relay: RelayHarness, answer: Answer, *, streamed: bool) -> None:
    """Relay the answer."""
    relay.upstream.script(stream(events_of(answer)) if streamed else reply(message_of(answer)))
    await relay.ask({"model": answer.asked, "max_tokens": 8, "messages": [], "stream": streamed})


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_is_billed_as_published(relays: RelayFactory, name: str, streamed: bool) -> None:  # noqa: FBT001
    """Line by line; the totals that earlier versions read are the sums of the lines."""
    answer, relay = ANSWERS[name], relays.make(ONLY_ANTHROPIC)
    await ask(relay, answer, streamed=streamed)
    [end] = relay.ends
    assert tuple(usage_lines(end)) == answer.lines
    assert end.unread == answer.unread
    costs = [one.cost_nusd for one in answer.lines if one.cost_nusd is not None]
    assert end.cost_nusd == (sum(costs) if costs else None)
    for kind in TokenCounts.__struct_fields__:
        assert getattr(end.tokens, kind) == sum(getattr(one.tokens, kind) for one in answer.lines)
    assert (end.model_asked, end.model_served) == (answer.asked, "" if HAIKU in answer.asked else answer.served)


def half_declined(*end: dict[str, Any]) -> list[bytes]:
    """A stream in which Fable writes a cache, says a few words and declines, and Opus goes on."""
    usage = counts(3, 1, read=7_000, write=2_000) | {"cache_creation": {"ephemeral_1h_input_tokens": 2_000}}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": FABLE, "content": [], "usage": usage}
    start = {"type": "message_start", "message": message}
    words, more = text_of("one two three four five six"), text_of("seven eight nine ten")
    return [stream_of(one) for one in (start, *words, *block_of(mark_of(FABLE, OPUS)), *more, *end)]


async def test_a_decline_in_the_middle_of_a_stream(relays: RelayFactory) -> None:
    """Each attempt at its own model's price: Fable's figures, which began the stream, are none of Opus's."""
    declined = iteration("message", FABLE, input=3, output=30, read=7_000, write=2_000) | {
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 2_000}
    }
    served = iteration("fallback_message", OPUS, input=9_010, output=512)
    last = counts(9_010, 512, read=0, write=0) | {"iterations": [declined, served]}
    relay = relays.make(ONLY_ANTHROPIC)
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": last}
    relay.upstream.script(stream(*half_declined(end, {"type": "message_stop"})))
    await relay.ask({"model": FABLE, "max_tokens": 8, "messages": [], "stream": True})
    [ended] = relay.ends
    assert usage_lines(ended) == (
        line(57_850_000, OPUS, "fallback", 9_010, 512),  # 9,010 x 5,000 + 512 x 25,000
        line(
            48_530_000, FABLE, "declined", 3, 30, 7_000, 0, 2_000
        ),  # 3 x 10,000 + 30 x 50,000 + 7,000 x 1,000 + 2,000 x 20,000
    )
    assert (ended.model_served, ended.estimated) == (OPUS, False)


async def test_a_stream_that_breaks_behind_a_decline(relays: RelayFactory) -> None:
    """Both attempts are charged: what Fable's figures said and what it wrote, and an estimate of Opus's."""
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(stream(*half_declined()))
    messages = [{"role": "user", "content": "word " * 400}]
    await relay.ask({"model": FABLE, "max_tokens": 8, "messages": messages, "stream": True})
    [ended] = relay.ends
    served, declined = usage_lines(ended)
    assert (served.model, declined.model, declined.kind, ended.estimated) == (OPUS, FABLE, "declined", True)
    assert (declined.tokens.input, declined.tokens.cache_read, declined.tokens.cache_write_1h) == (3, 7_000, 2_000)
    assert 5 <= declined.tokens.output <= 9
    assert 3 <= served.tokens.output <= 6
    assert 300 <= served.tokens.input <= 600
    assert (served.tokens.cache_read, served.tokens.cache_write_1h) == (0, 0)


GROWTH_BYTES = 48
"""How much the event of a plain answer may have grown since the version before lines."""
BEFORE = Path(__file__).parents[1] / "ledger" / "golden" / "attempt_ended.v3.full.json"
"""The newest event of that version, with all its fields."""
PLAIN_ANSWERS = ["plain", "all kinds", "one iteration", "another model answered", "thinking is a part of the output"]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", PLAIN_ANSWERS)
async def test_the_event_of_a_plain_answer_is_small(relays: RelayFactory, name: str, streamed: bool) -> None:  # noqa: FBT001
    """One line, without saying so: the whole event, beside the fields that the version before lines had of it."""
    relay = relays.make(ONLY_ANTHROPIC)
    await ask(relay, ANSWERS[name], streamed=streamed)
    [end] = relay.ends
    raw = wire.encode_event(end)
    fields, known = msgspec.json.decode(raw), msgspec.json.decode(BEFORE.read_bytes()).keys()
    before = msgspec.json.encode({name: value for name, value in fields.items() if name in known})
    assert len(before) > 400
    assert len(raw) - len(before) <= GROWTH_BYTES
    assert "lines" not in fields


@pytest.mark.parametrize("name", BATCHED)
async def test_an_item_of_a_batch_is_billed_as_published(relays: RelayFactory, name: str) -> None:
    """At half the price of its tokens, whatever model served it."""
    row, costs = BATCHED[name]
    answer, relay = ANSWERS[row], relays.make(ONLY_ANTHROPIC)
    message = message_of(answer) | {"usage": answer.usage | {"service_tier": "batch"}}
    results = msgspec.json.encode({"custom_id": "a", "result": {"type": "succeeded", "message": message}}) + b"\n"
    relay.upstream.script(stream(results, content_type="application/x-jsonl"))
    path = "/v1/messages/batches/msgbatch_1/results"
    await relay.ask(b"", path, endpoint="batches", resource_ids=("msgbatch_1",), method="GET")
    [item] = [event for _, event in relay.events if isinstance(event, BatchItemUsed)]
    lines = usage_lines(item)
    assert tuple(one.cost_nusd for one in lines) == costs
    assert [(one.model, one.kind, one.tokens) for one in lines] == [
        (one.model, one.kind, one.tokens) for one in answer.lines
    ]


async def test_a_plain_answer_says_no_more_than_before(relays: RelayFactory) -> None:
    """Nothing of lines is in its event."""
    relay = relays.make(ONLY_ANTHROPIC)
    await ask(relay, ANSWERS["standard words"], streamed=True)
    [end] = relay.ends
    assert (end.lines, end.model_served, end.unread) == ((), "", ())
