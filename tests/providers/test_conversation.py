"""Rules that hold across the blocks of a conversation, at each provider that has them."""

from typing import Any

import msgspec
import pytest

from service.providers.bodies import Cure
from service.providers.signatures import RefusedSignatures
from tests.fakes.body_rules import ANTHROPIC_RULES, ZAI_RULES, broken_rule
from tests.providers.test_bodies import (
    CALL,
    CLAUDE,
    GLM,
    REDACTED,
    SIGNED,
    UNSIGNED,
    clean,
    cleaned,
    result,
    talk,
    text,
)

ON = {"thinking": {"type": "enabled", "budget_tokens": 2_000}, "max_tokens": 8_000}
OFF = {"type": "disabled"}
ANSWER = ("user", [result("toolu_1", "ok")])


def turn(*blocks: Any, **fields: Any) -> dict[str, Any]:
    """A request in the middle of a turn that began with these blocks."""
    return talk(("user", "ls"), ("assistant", [*blocks]), ANSWER, **{**ON, **fields})


@pytest.mark.parametrize("thought", [None, UNSIGNED, {"type": "thinking", "thinking": "hm"}])
@pytest.mark.parametrize("route", ["anthropic", "subscription"])
def test_a_turn_without_its_first_thought_goes_on_without_thinking(route: str, thought: Any) -> None:
    """Thoughts that were another vendor's are gone by now; the other option would be a refusal."""
    body = cleaned(turn(*([thought] if thought else []), CALL), route)
    assert (body["thinking"], body["messages"][1]["content"]) == (OFF, [CALL])
    assert body["max_tokens"] == 8_000


def test_the_whole_turn_has_one_mode_of_thinking() -> None:
    """Later thoughts of a turn go, too, and so does what clears thoughts; those of earlier turns stay."""
    body = talk(
        ("user", "hi"),
        ("assistant", [SIGNED, text("so")]),
        ("user", "ls"),
        ("assistant", [CALL]),
        ("user", [result("toolu_1", "ok")]),
        ("system", "remember"),
        ("assistant", [SIGNED, REDACTED, {**CALL, "id": "toolu_2"}]),
        ("user", [result("toolu_2", "ok")]),
        context_management={"edits": [{"type": "clear_thinking_20251015"}, {"type": "clear_tool_uses_20250919"}]},
        **ON,
    )
    after = cleaned(body)
    assert after["thinking"] == OFF
    assert after["context_management"] == {"edits": [{"type": "clear_tool_uses_20250919"}]}
    assert [message["content"] for message in after["messages"]][1:7:2] == [
        [SIGNED, text("so")],
        [CALL],
        "remember",
    ]
    assert after["messages"][6]["content"] == [{**CALL, "id": "toolu_2"}]
    only = {"edits": [{"type": "clear_thinking_20251015"}]}
    assert "context_management" not in cleaned(turn(CALL, context_management=only))


@pytest.mark.parametrize(
    "body",
    [
        turn(SIGNED, CALL),
        turn(REDACTED, CALL),
        turn(CALL, thinking={"type": "adaptive"}),
        turn(CALL, thinking=OFF),
        talk(("user", "ls"), ("assistant", [text("so")]), ("user", "go on"), **ON),
        talk(("user", "ls"), ("assistant", [CALL]), ("user", [result("toolu_1", "ok")]), ("user", "stop"), **ON),
        talk(("user", "ls"), ("assistant", ""), **ON),
    ],
    ids=["thought", "redacted", "adaptive", "off", "an earlier turn", "the user has spoken", "nothing yet"],
)
def test_thinking_stays_where_nothing_is_wrong(body: dict[str, Any]) -> None:
    """Byte for byte."""
    raw = msgspec.json.encode(body)
    assert clean(raw) is raw


def test_thinking_is_turned_off_when_the_provider_misses_a_thought() -> None:
    """However the conversation looks, and at whatever provider."""
    body = turn(SIGNED, CALL, thinking={"type": "adaptive"})
    for route, asked in (("anthropic", CLAUDE), ("own", CLAUDE), ("zai", GLM)):
        after = cleaned(body, route, asked=asked, cure=Cure(thinking_off=True))
        assert (after["thinking"], after["messages"][1]["content"]) == (OFF, [CALL])


def test_which_other_vendors_need_the_first_thought_is_data() -> None:
    """Z.AI takes turns without it."""
    body = turn(SIGNED, CALL)
    assert cleaned(body, "zai")["thinking"] == ON["thinking"]
    assert cleaned(turn(CALL), "own")["thinking"] == OFF


def test_of_a_message_with_a_refused_thought_all_thoughts_go() -> None:
    """Half of them would be taken for a change; a refused summary stays as text."""
    refused = RefusedSignatures()
    refused.add("anthropic", msgspec.json.encode(talk(("assistant", [{**SIGNED, "signature": "a"}]))))
    refused.add("anthropic", msgspec.json.encode(talk(("assistant", [{**REDACTED, "data": "r"}]))))
    compaction = {"type": "compaction", "content": "we met", "signature": "c"}
    refused.add("anthropic", msgspec.json.encode(talk(("assistant", [compaction]))))
    body = talk(
        ("assistant", [{**SIGNED, "signature": "a"}, {**SIGNED, "signature": "b"}, text("so")]),
        ("assistant", [{**SIGNED, "signature": "b"}, text("so")]),
        ("assistant", [{**REDACTED, "data": "r"}, text("so")]),
        ("user", [compaction, text("hi")]),
    )
    messages = cleaned(body, refused=refused.of("anthropic"))["messages"]
    assert [message["content"] for message in messages] == [
        [text("so")],
        [{**SIGNED, "signature": "b"}, text("so")],
        [text("so")],
        [text("we met"), text("hi")],
    ]


def test_the_block_that_an_error_names_is_remembered() -> None:
    """Others are as good as before; without a name, or with one that leads nowhere, all are remembered."""
    raw = msgspec.json.encode(talk(("user", "hi"), ("assistant", [{**SIGNED, "signature": "a"}, REDACTED])))
    for error, known in (
        ("messages.1.content.0: Invalid `signature` in `thinking` block", [True, False]),
        ("messages.1.content.1: Invalid `data` in `redacted_thinking` block", [False, True]),
        ("messages.7.content.0: Invalid `signature` in `thinking` block", [True, True]),
        ("Invalid `signature` in `thinking` block", [True, True]),
    ):
        refused = RefusedSignatures()
        refused.add("anthropic", raw, error)
        assert [mark in refused.of("anthropic") for mark in ("a", "x")] == known


BLANK = text("")


@pytest.mark.parametrize("blank", ["", " ", "\n", "\t\r\n"])
def test_empty_texts_do_not_reach_anthropic(blank: str) -> None:
    """What another vendor's model has said, or a silent command; an assistant that said nothing at all goes."""
    body = talk(
        ("user", [text("hi"), text(blank)]),
        ("assistant", [text(blank), CALL]),
        ("user", [result("toolu_1", [text(blank), text("ok")]), text(blank)]),
        ("assistant", [text(blank)]),
        ("assistant", []),
        ("assistant", ""),
        ("user", [text(blank)]),
        ("assistant", ""),
    )
    expected = talk(
        ("user", [text("hi")]),
        ("assistant", [CALL]),
        ("user", [result("toolu_1", [text("ok")])]),
        ("user", [text(blank)]),
        ("assistant", ""),
    )
    assert cleaned(body) == expected


def test_blanks_of_all_scripts_are_no_text() -> None:
    """Written as they are, as most clients do, and not escaped."""
    for blank in (chr(code) for code in range(0x11_0000) if chr(code).isspace()):
        assert cleaned(talk(("user", [text(blank), text("hi")]))) == talk(("user", [text("hi")])), ascii(blank)


SILENT = [[BLANK], "", [], " \n", None]


@pytest.mark.parametrize("content", SILENT)
@pytest.mark.parametrize("route", ["zai", "own"])
def test_a_result_without_output_says_so(route: str, content: Any) -> None:
    """To Anthropic it goes as it is, but for an empty text."""
    body = turn(CALL)
    body["messages"][2] = {"role": "user", "content": [result("toolu_1", content)]}
    assert cleaned(body, route)["messages"][2]["content"] == [result("toolu_1", "[no output]")]
    assert cleaned(body)["messages"][2]["content"] == [result("toolu_1", [] if content == [BLANK] else content)]
    missing = {"type": "tool_result", "tool_use_id": "toolu_1"}
    body["messages"][2]["content"] = [missing]
    assert cleaned(body, route)["messages"][2]["content"] == [missing | {"content": "[no output]"}]


def test_empty_texts_do_not_reach_other_vendors() -> None:
    """Nor empty messages, nor an empty system prompt."""
    body = talk(
        ("user", [BLANK]),
        ("assistant", [BLANK, text("so")]),
        ("user", ""),
        ("assistant", [BLANK]),
        ("user", [text("hi"), BLANK]),
        system=[BLANK, text("be kind")],
    )
    after = cleaned(body, "zai")
    assert (after["system"], broken_rule(after, ZAI_RULES)) == ([text("be kind")], "")
    assert after["messages"] == [
        {"role": "user", "content": "[empty message]"},
        {"role": "assistant", "content": [text("so")]},
        {"role": "user", "content": [text("[empty message]"), text("hi")]},
    ]
    assert "system" not in cleaned(talk(("user", "hi"), system=""), "zai")
    assert "system" not in cleaned(talk(("user", "hi"), system=[BLANK]), "zai")


def test_a_result_has_one_text_where_one_is_read() -> None:
    """The breakpoint of the cache stays, and so do images."""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    cached = {**text("b"), "cache_control": {"type": "ephemeral"}}
    body = turn(CALL)
    body["messages"][2] = {"role": "user", "content": [result("toolu_1", [text("a"), image, cached])]}
    [at_zai] = cleaned(body, "zai", sent="glm-4.6v")["messages"][2]["content"]
    assert at_zai["content"] == [{**cached, "text": "a\nb"}, image]
    [elsewhere] = cleaned(body, "own")["messages"][2]["content"]
    assert elsewhere["content"] == [text("a"), image, cached]


def test_calls_and_results_stand_together_at_other_vendors() -> None:
    """Results first, each call with one, and none without its call."""
    other = {**CALL, "id": "toolu_2"}
    body = talk(
        ("user", [result("toolu_0", "lost"), text("hi")]),
        ("assistant", [CALL, other]),
        ("user", [text("now"), result("toolu_2", "b"), result("toolu_1", "a"), result("toolu_1", "again")]),
        ("assistant", [{**CALL, "id": "toolu_3"}]),
        ("user", "never mind"),
        ("assistant", [{**CALL, "id": "toolu_4"}]),
        ("assistant", "so"),
    )
    after = cleaned(body, "zai")
    assert broken_rule(after, ZAI_RULES) == ""
    assert [[block.get("text", block["type"]) for block in m["content"]] for m in after["messages"][:3]] == [
        ["[result of an earlier call:]\nlost", "hi"],
        ["tool_use", "tool_use"],
        ["tool_result", "tool_result", "now", "[result of an earlier call:]\nagain"],
    ]
    assert [block.get("content") for block in after["messages"][4]["content"]] == ["[no result]", None]
    assert [block.get("id") for block in after["messages"][5]["content"]] == ["toolu_4", None]


FIRST, SECOND = {**CALL, "id": "toolu_1"}, {**CALL, "id": "toolu_2"}


@pytest.mark.parametrize("route", ["zai", "own"])
@pytest.mark.parametrize(
    "apart",
    [
        [("assistant", [FIRST, SECOND]), ("user", [result("toolu_1", "a")]), ("user", [result("toolu_2", "b")])],
        [("assistant", [FIRST]), ("assistant", [SECOND]), ("user", [result("toolu_1", "a"), result("toolu_2", "b")])],
        [("assistant", "so"), ("assistant", [FIRST, SECOND]), ("user", [result("toolu_2", "b")]),
         ("user", [result("toolu_1", "a"), text("go on")])],
    ],
    ids=["results", "calls", "both and words"],
)  # fmt: skip
def test_a_turn_in_several_messages_loses_no_result(route: str, apart: list[Any]) -> None:
    """Anthropic takes consecutive messages of one role as one, and so are they written for others."""
    body = talk(("user", "ls"), *apart)
    after = cleaned(body, route)
    assert broken_rule(after, ZAI_RULES) == ""
    assert [message["role"] for message in after["messages"]] == ["user", "assistant", "user"]
    answers = {b["tool_use_id"]: b["content"] for b in after["messages"][2]["content"] if b["type"] == "tool_result"}
    assert answers == {"toolu_1": "a", "toolu_2": "b"}
    assert clean(msgspec.json.encode(body)) == msgspec.json.encode(body)


@pytest.mark.parametrize("between", [[], [("system", "be kind")]], ids=["", "system"])
def test_a_repeated_id_keeps_its_result_over_several_messages(between: list[Any]) -> None:
    """The calls of a turn may come in several messages: the result stays with the call of its own turn."""
    again, other = {**CALL, "id": "call_0"}, {**CALL, "id": "call_1"}
    body = talk(
        ("user", "ls"), ("assistant", [again]), ("user", [result("call_0", "a")]),
        ("assistant", [again]), *between, ("assistant", [other]),
        ("user", [result("call_0", "b"), result("call_1", "c")]),
    )  # fmt: skip
    messages = cleaned(body)["messages"]
    assert messages[3]["content"][0]["id"] == "call_0_2"
    assert [block["tool_use_id"] for block in messages[-1]["content"]] == ["call_0_2", "call_1"]


@pytest.mark.parametrize("blank", [" ", "\n", "\t\r\n"])
def test_a_blank_text_of_an_assistant_goes_in_either_form(blank: str) -> None:
    """As one text, too, which many clients keep; also as the last message, where only an empty one is taken."""
    body = talk(("user", "hi"), ("assistant", blank), ("user", "so"), ("assistant", blank))
    assert cleaned(body) == talk(("user", "hi"), ("user", "so"))


@pytest.mark.parametrize("nothing", ["", " ", [], [BLANK], [UNSIGNED]])
def test_nothing_to_go_on_from_does_not_reach_other_vendors(nothing: Any) -> None:
    """An empty last message of the assistant means nothing at Anthropic, and is an error elsewhere."""
    after = cleaned(talk(("user", "hi"), ("assistant", nothing)), "zai", asked=CLAUDE)
    assert after["messages"] == [{"role": "user", "content": "hi"}]


def test_the_fakes_take_what_claude_code_sends() -> None:
    """So that their rules are not stricter than the providers."""
    body = talk(
        ("user", [text("hi")]),
        ("system", "the time is 12"),
        ("assistant", [SIGNED | {"signature": "sig-anthropic-1"}, CALL]),
        ("user", [result("toolu_1", "ok"), text("go on")]),
        **ON,
    )
    assert broken_rule(body, ANTHROPIC_RULES) == ""


def test_results_in_another_order_are_answers() -> None:
    """Nothing is written anew for it."""
    body = talk(
        ("user", "ls"),
        ("assistant", [CALL, {**CALL, "id": "toolu_2"}]),
        ("user", [result("toolu_2", "b"), result("toolu_1", "a"), text("go on")]),
        model=GLM,
    )
    raw = msgspec.json.encode(body)
    for route in ("anthropic", "zai", "own"):
        assert clean(raw, route, asked=GLM if route != "anthropic" else CLAUDE, sent=GLM) == raw
