"""What an answer's `usage` says, field by field, without the answer around it.

Not here: the figures of whole answers in money (`tests/relay/test_billed_usage.py`).
"""

from typing import Any

import pytest

from service.ledger.events import LineKind, TokenCounts, UsageLine
from service.protocol.usage_reader import (
    FIGURE_LIMIT,
    MOST_LINES,
    MOST_TOOLS,
    MOST_UNREAD,
    UsageReader,
    UsageReading,
    credit_of,
    fallback_in,
    hour_in,
    is_another,
    meaning_of,
)

OPUS, FABLE, HAIKU = "claude-opus-4-8", "claude-fable-5", "claude-haiku-4-5"


def read(*usages: Any, model: str = OPUS, unbilled: bool = False) -> UsageReading:
    """The reading of an answer that told these, one after the other."""
    reader = UsageReader()
    for usage in usages:
        reader.merge(usage)
    return reader.reading(model, unbilled=unbilled)


def iteration(kind: str, **fields: Any) -> dict[str, Any]:
    """An iteration of a kind."""
    return {"type": kind} | fields


@pytest.mark.parametrize(
    ("method", "endpoint", "path", "meaning"),
    [
        ("POST", "messages", "/v1/messages", "request"),
        ("POST", "count_tokens", "/v1/messages/count_tokens", "nothing"),
        ("GET", "models", "/v1/models", "nothing"),
        ("POST", "other", "/v1/complete", "request"),
        ("GET", "other", "/v1/complete", "nothing"),
        ("HEAD", "other", "/v1/complete", "nothing"),
        ("POST", "other", "/v1/sessions", "running_total"),
        ("GET", "other", "/v1/sessions/s1", "running_total"),
        ("GET", "other", "/v1/dreams/d1", "running_total"),
        ("GET", "other", "/v1/sessions-of-others", "nothing"),
    ],
)
def test_whose_usage_an_endpoint_tells(method: str, endpoint: Any, path: str, meaning: str) -> None:
    """What is only read tells what another request has used."""
    assert meaning_of(method, endpoint, path) == meaning


@pytest.mark.parametrize(
    ("usages", "tokens"),
    [
        ([{"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 3}], TokenCounts(1, 2, 3)),
        ([{"output_tokens": 1}, {"output_tokens": 9}], TokenCounts(output=9)),
        ([{"input_tokens": 5}, {"input_tokens": 0}], TokenCounts(input=5)),
        ([{"cache_creation_input_tokens": 7}], TokenCounts(cache_write_5m=7)),
        (
            [{"cache_creation_input_tokens": 7, "cache_creation": {"ephemeral_1h_input_tokens": 5}}],
            TokenCounts(cache_write_5m=2, cache_write_1h=5),
        ),
        (
            [{"cache_creation_input_tokens": 3, "cache_creation": {"ephemeral_5m_input_tokens": 6}}],
            TokenCounts(cache_write_5m=6),
        ),
        ([{"cache_creation": {"output_tokens": 4}}], TokenCounts()),
        ([None], TokenCounts()),
        ([[1]], TokenCounts()),
    ],
)
def test_later_figures_replace_earlier_ones(usages: list[Any], tokens: TokenCounts) -> None:
    """A zero replaces nothing; the sum of cache writes beyond the split is of five minutes."""
    assert read(*usages).tokens == tokens


@pytest.mark.parametrize(
    ("usage", "unread"),
    [
        ({"input_tokens": FIGURE_LIMIT - 1}, ()),
        ({"input_tokens": FIGURE_LIMIT}, ("input_tokens",)),
        ({"input_tokens": -1}, ("input_tokens",)),
        ({"input_tokens": 1.5}, ("input_tokens",)),
        ({"output_tokens": "7"}, ("output_tokens",)),
        ({"output_tokens": None}, ()),
        ({"service_tier": 7.5}, ("service_tier",)),
        ({"cache_creation": [1]}, ("cache_creation",)),
        ({"cache_creation": {"ephemeral_9h_input_tokens": 1}}, ("cache_creation.ephemeral_9h_input_tokens",)),
        ({"cache_creation": {"ephemeral_9h_input_tokens": 0}}, ()),
        ({"iterations": {"a": 1}}, ("iterations",)),
        ({"iterations": ["a"]}, ("iterations",)),
        ({"iterations": [iteration("thought")]}, ("iterations.thought",)),
        ({"iterations": [iteration("compaction", new_tokens=[1])]}, ("iterations.new_tokens",)),
        ({"server_tool_use": [1]}, ("server_tool_use",)),
        ({"server_tool_use": {"web_search_requests": 1}}, ()),
        ({"server_tool_use": {"web_searches": 1}}, ("server_tool_use.web_searches",)),
        ({"server_tool_use": {"_requests": 1}}, ("server_tool_use._requests",)),
        ({"new_field": {"a": 1}}, ("new_field",)),
        ({"new_field": {}}, ()),
        ({"a field of a client": {"a": 1}}, ("other",)),
        ({"output_tokens_details": {"thinking_tokens": 5}}, ()),
    ],
)
def test_what_nobody_can_read_is_told_by_its_name(usage: dict[str, Any], unread: tuple[str, ...]) -> None:
    """If it holds something; and by no name that is none."""
    assert read(usage).unread == unread


def test_few_of_many_unread_fields_are_told() -> None:
    """The first ones."""
    assert len(read({f"f{number}": [1] for number in range(MOST_UNREAD + 3)}).unread) == MOST_UNREAD


@pytest.mark.parametrize(
    ("usage", "fields"),
    [
        ({"service_tier": "standard", "speed": "standard", "inference_geo": "global"}, {}),
        ({"inference_geo": "not_available", "service_tier": ""}, {}),
        ({"service_tier": "priority"}, {"tier": "priority"}),
        ({"speed": "fast"}, {"speed": "fast"}),
        ({"inference_geo": "us"}, {"geo": "us"}),
        ({"inference_geo": "u" * 32}, {"geo": "u" * 32}),
        ({"inference_geo": "u" * 33}, {"geo": "other"}),
        ({"inference_geo": "u\0s"}, {"geo": "other"}),
        ({"server_tool_use": {"web_search_requests": 2}}, {"tools": {"web_search": 2}}),
        ({"fallback_credit": {"status": {"type": "redeemed"}}}, {"credit": "redeemed"}),
    ],
)
def test_what_changes_a_price_is_no_plain_usage(usage: dict[str, Any], fields: dict[str, Any]) -> None:
    """Standard words are left out."""
    expected = UsageReading(TokenCounts(input=1), OPUS, **fields, is_plain=not fields)
    assert read({"input_tokens": 1} | usage) == expected


def test_a_refused_answer_is_not_billed() -> None:
    """It says so itself."""
    found = read({"input_tokens": 1}, unbilled=True)
    assert (found.unbilled, found.is_plain) == (True, False)


def test_the_providers_tools_are_bounded_and_counted_last() -> None:
    """Of a running total the last figure counts, also of the last tool that has room."""
    tools = {f"t{number}_requests": 1 for number in range(MOST_TOOLS + 2)}
    found = read({"server_tool_use": tools}, {"server_tool_use": {"t0_requests": 5}})
    assert (len(found.tools), found.tools["t0"], found.tools[f"t{MOST_TOOLS - 1}"]) == (MOST_TOOLS, 5, 1)
    assert found.unread == (f"server_tool_use.t{MOST_TOOLS}_requests", f"server_tool_use.t{MOST_TOOLS + 1}_requests")


def line(kind: LineKind, model: str, *counts: int, **fields: Any) -> UsageLine:
    """A line beside the answer's own."""
    return UsageLine(model=model, kind=kind, tokens=TokenCounts(*counts), **fields)


ITERATIONS = [
    pytest.param([iteration("message", input_tokens=5)], (), id="the answer's own"),
    pytest.param([iteration("message", model=OPUS, input_tokens=5)], (), id="by its name"),
    pytest.param([iteration("message", model=f"{OPUS}-20260101", input_tokens=5)], (), id="by its dated name"),
    pytest.param(
        [iteration("message", model=FABLE, input_tokens=5)],
        (line("declined", FABLE, 5, unbilled=True),),
        id="declined before any output",
    ),
    pytest.param(
        [iteration("message", model=FABLE, input_tokens=5, output_tokens=1)],
        (line("declined", FABLE, 5, 1),),
        id="declined in the middle",
    ),
    pytest.param(
        [iteration("compaction", input_tokens=5, output_tokens=2)], (line("compaction", OPUS, 5, 2),), id="compaction"
    ),
    pytest.param(
        [iteration("advisor_message", model=HAIKU, input_tokens=5)], (line("advisor", HAIKU, 5),), id="an advisor"
    ),
    pytest.param([iteration("compaction")], (), id="nothing used"),
    pytest.param(
        [iteration("compaction", input_tokens=5), iteration("compaction", input_tokens=6)],
        (line("compaction", OPUS, 11),),
        id="of one kind and model",
    ),
    pytest.param(
        [iteration("message", model=FABLE, input_tokens=5), iteration("message", model=FABLE, output_tokens=1)],
        (line("declined", FABLE, 5, 1),),
        id="declined twice, once billed",
    ),
]


@pytest.mark.parametrize(("iterations", "more"), ITERATIONS)
def test_iterations_beyond_the_totals_are_lines(iterations: list[Any], more: tuple[UsageLine, ...]) -> None:
    """Of the model that they name, or of the answer's."""
    found = read({"input_tokens": 100, "iterations": iterations})
    assert (found.more, found.tokens, found.is_plain) == (more, TokenCounts(input=100), not more)
    assert found.total.input == 100 + sum(one.tokens.input for one in more)
    assert found.lines(HAIKU) == (UsageLine(model=HAIKU, tokens=TokenCounts(input=100)), *more)


def test_lines_of_iterations_cost_what_the_answer_costs() -> None:
    """Its tier and geography; its speed for a compaction alone."""
    usage = {
        "service_tier": "priority",
        "speed": "fast",
        "inference_geo": "us",
        "iterations": [iteration("compaction", input_tokens=1), iteration("advisor_message", input_tokens=1)],
    }
    assert read(usage).more == (
        line("compaction", OPUS, 1, tier="priority", speed="fast", geo="us"),
        line("advisor", OPUS, 1, tier="priority", geo="us"),
    )


def test_lines_are_bounded() -> None:
    """More models than an answer can have are told as unread."""
    many = [iteration("advisor_message", model=f"m{number}", input_tokens=1) for number in range(MOST_LINES + 1)]
    found = read({"iterations": [*many, many[0]]})
    assert (len(found.more), found.more[0].tokens.input, found.unread) == (MOST_LINES, 2, ("iterations.more",))


@pytest.mark.parametrize(
    ("split", "hour", "writes"),
    [
        ({}, 4, (6, 4)),
        ({}, 40, (0, 10)),
        ({"cache_creation": {"ephemeral_1h_input_tokens": 3}}, 4, (7, 3)),
    ],
)
def test_a_fallback_is_served_by_the_model_of_its_iteration(
    split: dict[str, Any], hour: int, writes: tuple[int, int]
) -> None:
    """The model that declined has a line; lifetimes of cache writes may be told in the iteration alone."""
    served = iteration("fallback_message", model=OPUS, cache_creation={"ephemeral_1h_input_tokens": hour})
    declined = iteration("message", model=FABLE, input_tokens=5)
    usage = {"output_tokens": 1, "cache_creation_input_tokens": 10, "iterations": [declined, served]} | split
    found = read(usage, model=FABLE)
    assert (found.model, found.kind, found.is_plain) == (OPUS, "fallback", False)
    assert (found.tokens.cache_write_5m, found.tokens.cache_write_1h) == writes
    assert found.more == (line("declined", FABLE, 5, unbilled=True),)


def test_the_parts_of_iterations() -> None:
    """Of any shape."""
    assert hour_in({"cache_creation": {"ephemeral_1h_input_tokens": 3}}) == 3
    assert hour_in({"cache_creation": {"ephemeral_1h_input_tokens": FIGURE_LIMIT}}) == 0
    assert hour_in({"cache_creation": {"ephemeral_5m_input_tokens": 3}}) == hour_in({"cache_creation": 3}) == 0
    assert fallback_in([iteration("fallback_message", model="a"), iteration("fallback_message", model="b")]) == "b"
    assert fallback_in([iteration("message", model="a"), "fallback_message", iteration("fallback_message")]) == ""
    assert is_another(FABLE, OPUS)
    assert not is_another("", OPUS)
    assert not is_another(FABLE, "")


@pytest.mark.parametrize(
    ("told", "credit"),
    [
        ({"status": {"type": "redeemed"}}, "redeemed"),
        ({"status": {"type": "not_redeemed", "reason": "expired"}}, "expired"),
        ({"status": "redeemed"}, ""),
        ({}, ""),
        ("redeemed", ""),
        ({"status": {"type": "words of a client"}}, ""),
    ],
)
def test_what_became_of_a_credit(told: Any, credit: str) -> None:
    """The reason, if there is one."""
    assert credit_of(told) == credit


def test_a_long_name_of_a_model_is_bounded() -> None:
    """So is one with a NUL, which Postgres can't keep."""
    assert len(read({}, model="m" * 5_000).model) < 300
    assert "\0" not in read({}, model="m\0").model
    assert read({}, model=OPUS).model == OPUS
