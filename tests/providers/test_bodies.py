"""The copy of a request's body that a route gets."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.providers.bodies import Cure, clean_body
from service.providers.signatures import RefusedSignatures
from service.settings import ANTHROPIC, ZAI, Policy, Provider, Route, StripThinking, from_variables

ROUTES = {
    "anthropic": Route(id="anthropic", title="", provider=ANTHROPIC, base_url=""),
    "subscription": Route(id="subscription", title="", provider=ANTHROPIC, base_url="", auth="oauth"),
    "zai": Route(id="zai", title="", provider=ZAI, base_url=""),
    "own": Route(id="own", title="", provider=Provider(id="own", title="", base_url=""), base_url=""),
}
CLAUDE, GLM = "claude-opus-4-8", "glm-5.2"
POLICY: Policy = from_variables({"CCPROXY_HOME": "/nowhere"}).policy


def clean(
    raw: bytes,
    route: str = "anthropic",
    asked: str = CLAUDE,
    sent: str = CLAUDE,
    strip: StripThinking = "unsigned",
    **options: Any,
) -> bytes:
    return clean_body(
        raw, route=ROUTES[route], model_asked=asked, model_sent=sent, strip_thinking=strip, policy=POLICY, **options
    )


def cleaned(body: dict[str, Any], route: str = "anthropic", **options: Any) -> Any:
    sent = options.pop("sent", GLM if route == "zai" else CLAUDE)
    return msgspec.json.decode(clean(msgspec.json.encode(body), route, sent=sent, **options))


def talk(*messages: tuple[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "model": fields.pop("model", CLAUDE),
        "messages": [{"role": role, "content": content} for role, content in messages],
        **fields,
    }


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


SIGNED = {"type": "thinking", "thinking": "hm", "signature": "s"}
UNSIGNED = {"type": "thinking", "thinking": "hm", "signature": ""}
BARE = {"type": "thinking", "thinking": "hm"}
REDACTED = {"type": "redacted_thinking", "data": "x"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"n": 1}}
REFERENCE = {"type": "tool_reference", "tool_name": "Read"}
CACHED = {**text("You are"), "cache_control": {"type": "ephemeral"}}
CLAUDE_CODE = talk(
    ("user", [text("hi")]),
    ("system", "the time is 12"),
    ("assistant", [SIGNED, {**CALL, "caller": {"type": "direct"}}]),
    ("user", [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [REFERENCE]}]),
    system=[text("x-anthropic-billing-header: cc_version=2;"), CACHED],
    tools=[
        {"name": "Bash", "input_schema": {}, "defer_loading": True, "strict": True},
        {"type": "web_search_20250305", "name": "web_search"},
    ],
    tool_choice={"type": "tool", "name": "web_search"},
    metadata={"user_id": "u"},
    max_tokens=64_000,
    thinking={"type": "adaptive", "display": "omitted"},
    context_management={"edits": []},
    output_config={"effort": "medium"},
    stream=True,
)


def result(call: str, content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call, "content": content}


MALFORMED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"\xff\xfe",
    b"{}",
    b'{"model": 7}',
    b'{"messages": 5}',
    b'{"messages": [5, {"content": 5}]}',
    b'{"messages": [{"content": [5, null, {"type": 5, "id": null}]}]}',
    rb'{"model": "m", "messages": [{"role": "user", "content": "\ud800"}]}',
]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("raw", MALFORMED)
def test_a_malformed_body_is_left_alone(route: str, raw: bytes) -> None:
    """The provider's own refusal tells the client more than ours could."""
    assert clean(raw, route) is raw


@pytest.mark.parametrize("route", ["anthropic", "subscription"])
def test_to_anthropic_a_good_body_is_the_same_object(route: str) -> None:
    """Claude Code's requests go byte for byte, unknown fields and all."""
    raw = msgspec.json.encode(CLAUDE_CODE)
    assert clean(raw, route) is raw


@pytest.mark.parametrize("route", ["zai", "own"])
def test_to_others_a_plain_body_is_the_same_object(route: str) -> None:
    """A body that needs no change is not written anew."""
    raw = b'{"model": "glm-5.2", "messages": [{"role": "user", "content": "hi"}], "tools": [{"name": "x"}]}'
    assert clean(raw, route, asked=GLM, sent=GLM) is raw


def test_a_new_model_leaves_all_other_bytes() -> None:
    """Numbers, blanks, escapes and order inside of other fields stay as they were written."""
    raw = b'{ "top_p":1.00,"model" : "glm-5.2" , "messages":[ {"role":"user", "content":"\\u00e4 \\/"} ],"top_k":1e2}'
    assert clean(raw, asked="glm-5.2", sent="claude-x") == (
        b'{"top_p":1.00,"model":"claude-x","messages":[ {"role":"user", "content":"\\u00e4 \\/"} ],"top_k":1e2}'
    )


@pytest.mark.parametrize("name", ["constructor", "__proto__", "toString", "hasOwnProperty", '\u00e4"\\\n'])
def test_no_name_of_a_model_is_special(name: str) -> None:
    """A model is a text and nothing else, as asked for and as sent."""
    raw = msgspec.json.encode({"model": name, "messages": []})
    assert clean(raw, asked=name, sent=name) is raw
    assert msgspec.json.decode(clean(raw, asked=name, sent=CLAUDE))["model"] == CLAUDE
    assert msgspec.json.decode(clean(b'{"model":"claude-x"}', asked="claude-x", sent=name))["model"] == name


def test_a_model_written_with_escapes_is_the_same_model() -> None:
    """The model is read as JSON, so that escapes hide nothing."""
    raw = rb'{"model": "\u0063laude-opus-4-8"}'
    assert clean(raw) is raw
    assert clean(raw, asked=CLAUDE, sent="claude-x") == b'{"model":"claude-x"}'


def test_a_body_without_a_model_gets_none() -> None:
    """Nothing is added that the client did not send."""
    assert clean(b'{"requests":[]}', sent="claude-x") == b'{"requests":[]}'


THINKING = [
    pytest.param("anthropic", CLAUDE, "none", [SIGNED, REDACTED], id="a key loses unsigned blocks in any case"),
    pytest.param("subscription", CLAUDE, "unsigned", [SIGNED, REDACTED], id="a subscription loses unsigned blocks"),
    pytest.param("subscription", CLAUDE, "none", [SIGNED, UNSIGNED, BARE, REDACTED], id="or none, as set"),
    pytest.param("subscription", CLAUDE, "all", [], id="or all, as set"),
    pytest.param("anthropic", GLM, "none", [], id="thoughts of GLM do not go to Anthropic"),
    pytest.param("subscription", GLM, "none", [], id="nor to a subscription"),
    pytest.param("zai", CLAUDE, "none", [], id="thoughts of Claude do not go to Z.AI"),
    pytest.param("zai", GLM, "all", [SIGNED, UNSIGNED, BARE, REDACTED], id="thoughts of GLM go to Z.AI"),
    pytest.param("own", CLAUDE, "all", [SIGNED, UNSIGNED, BARE, REDACTED], id="an own provider gets its own"),
]  # fmt: skip


@pytest.mark.parametrize(("route", "asked", "strip", "left"), THINKING)
def test_thoughts_that_would_be_refused_are_left_out(
    route: str, asked: str, strip: StripThinking, left: list[dict[str, Any]]
) -> None:
    """Thinking blocks go where their signatures can be checked."""
    body = talk(("user", "hi"), ("assistant", [SIGNED, UNSIGNED, BARE, REDACTED, text("so")]))
    blocks = cleaned(body, route, asked=asked, strip=strip)["messages"][1]["content"]
    assert blocks == [*left, text("so")]


@pytest.mark.parametrize(
    "name",
    [
        "anthropic/claude-opus-4-8",
        "us.anthropic.claude-opus-4-8-20260115-v1:0",
        "publishers/anthropic/models/claude-opus-4-8",
        "claude-opus-4-8@20260115",
        "Claude-Opus-4-8[1m]",
    ],
)
def test_claude_is_claude_whatever_stands_around_its_name(name: str) -> None:
    """Its thoughts stay at Anthropic, under its own name and a mapped one, and go to nobody else."""
    body = talk(("user", "hi"), ("assistant", [SIGNED, text("so")]), model=name)
    raw = msgspec.json.encode(body)
    assert clean(raw, asked=name, sent=name) is raw
    assert cleaned(body, asked=name)["messages"] == body["messages"]
    assert cleaned(body, "zai", asked=name)["messages"][1]["content"] == [text("so")]


def test_an_assistant_that_only_thought_is_dropped() -> None:
    """An emptied assistant message would be refused; an emptied user message shows what happened."""
    body = talk(("user", "hi"), ("assistant", [BARE]), ("user", [BARE]), ("assistant", []))
    assert cleaned(body)["messages"] == talk(("user", "hi"), ("user", []), ("assistant", []))["messages"]


def test_words_about_thinking_are_no_thoughts() -> None:
    """Only blocks count, not what a text or an input says."""
    quoted = '{"type":"thinking","thinking":"x"}'
    body = talk(("assistant", [text(quoted), {"type": "tool_use", "id": "t", "name": "n", "input": BARE}]))
    raw = msgspec.json.encode(body)
    assert clean(raw, strip="all") is raw


def test_a_refused_signature_can_be_taken_out() -> None:
    """For another try at the same provider all thinking goes, and nothing else."""
    raw = msgspec.json.encode(talk(("user", "hi"), ("assistant", [SIGNED, REDACTED, text("so")])))
    cure = Cure(without_thinking=True)
    assert msgspec.json.decode(clean(raw, cure=cure)) == talk(("user", "hi"), ("assistant", [text("so")]))
    assert clean(b"[", cure=cure) == b"["
    plain = msgspec.json.encode(talk(("user", "hi")))
    assert clean(plain, cure=cure) is plain


def test_thoughts_that_were_refused_stay_out() -> None:
    """Those alone: what the model thought later has another signature, and others' bodies are not touched."""
    refused = RefusedSignatures()
    later = {**SIGNED, "signature": "t"}
    raw = msgspec.json.encode(talk(("user", "hi"), ("assistant", [SIGNED, text("so")]), ("assistant", [later, CALL])))
    assert clean(raw, refused=refused.of("anthropic")) is raw
    refused.add("anthropic", msgspec.json.encode(talk(("assistant", [SIGNED, BARE]))))
    messages = msgspec.json.decode(clean(raw, refused=refused.of("anthropic")))["messages"]
    assert [message["content"] for message in messages] == ["hi", [text("so")], [later, CALL]]
    assert clean(raw, refused=refused.of("subscription")) is raw
    plain = msgspec.json.encode(talk(("assistant", [later])))
    assert clean(plain, refused=refused.of("anthropic")) is plain


def test_the_memory_of_refusals_is_bounded() -> None:
    """The oldest goes; a body that can't be read teaches nothing."""
    refused = RefusedSignatures(most=2)
    for signature in "abc":
        refused.add("a", msgspec.json.encode(talk(("assistant", [{**SIGNED, "signature": signature}]))))
    refused.add("a", b"{")
    assert [signature in refused.of("a") for signature in "abc"] == [False, True, True]
    assert ["c" in refused.of("b"), "d" in refused.of("a")] == [False, False]


def calls(*blocks: tuple[str, str]) -> dict[str, Any]:
    keys = {"tool_use": "id", "server_tool_use": "id"}
    return talk(("assistant", [{"type": kind, keys.get(kind, "tool_use_id"): value} for kind, value in blocks]))


def ids_of(body: Any) -> list[str]:
    return [block.get("id", block.get("tool_use_id")) for block in body["messages"][0]["content"]]


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("tool_use", "toolu_01-A", r"toolu_01-A"),
        ("tool_use", "call_1", r"call_1"),
        ("tool_use", "call/1", r"call_1_[0-9a-f]{8}"),
        ("tool_use", "\u5de5\u5177", r"___[0-9a-f]{8}"),
        ("tool_use", "a\n", r"a__[0-9a-f]{8}"),
        ("tool_use", "", r"toolu_0"),
        ("server_tool_use", "srvtoolu_1", r"srvtoolu_1"),
        ("server_tool_use", "call_1", r"srvtoolu_call_1"),
        ("server_tool_use", "call-1", r"srvtoolu_call_1_[0-9a-f]{8}"),
        ("server_tool_use", "srvtoolu_a-b", r"srvtoolu_a_b_[0-9a-f]{8}"),
        ("server_tool_use", "", r"srvtoolu_0"),
    ],
)
def test_ids_that_anthropic_refuses_are_made_to_fit(kind: str, old: str, new: str) -> None:
    """Conforming ids stay, others get one that follows from the old, and references follow."""
    first, second = ids_of(cleaned(calls((kind, old), ("tool_result", old))))
    assert re.fullmatch(new, first)
    assert second == first


ODD_IDS = st.text(alphabet="a-_/ \u00e4", max_size=3) | st.sampled_from(
    ["srvtoolu_a", "srvtoolu_a-", "a_", "srvtoolu_a_"]
)


@given(st.lists(st.tuples(st.sampled_from(["tool_use", "server_tool_use", "tool_result"]), ODD_IDS), max_size=12))
def test_no_two_ids_become_one(blocks: list[tuple[str, str]]) -> None:
    """Calls have ids of their own, the first of each a valid one, and results those of their calls."""
    new = ids_of(cleaned(calls(*blocks)))
    named: dict[str, list[str]] = {}
    for (kind, old), now in zip(blocks, new, strict=True):
        if kind != "tool_result":
            named.setdefault(old, []).append(now)
            pattern = r"[a-zA-Z0-9_-]+" if kind == "tool_use" else r"srvtoolu_[a-zA-Z0-9_]+"
            assert len(named[old]) > 1 or re.fullmatch(pattern, now)
        elif old in named:
            assert now in named[old]
    called = [now for names in named.values() for now in names]
    assert len(set(called)) == len(called)


def test_ids_that_occur_twice_get_a_number() -> None:
    """Some providers count their calls from 0 in every answer: each result stays with its own call."""
    body = talk(
        ("assistant", [{**CALL, "id": "call_0"}, {**CALL, "id": "call_1"}]),
        ("user", [result("call_1", "a"), result("call_0", "b")]),
        ("assistant", [{**CALL, "id": "call_0"}, {**CALL, "id": "call_0"}]),
        ("user", [result("call_0", "c"), result("call_0", "d")]),
    )
    for route in ("anthropic", "zai", "own"):
        messages = cleaned(body, route)["messages"]
        assert messages[:2] == body["messages"][:2]
        assert [block["id"] for block in messages[2]["content"]] == ["call_0_2", "call_0_3"]
        answered = [(block["tool_use_id"], block["content"]) for block in messages[3]["content"]]
        assert answered == [("call_0_2", "c"), ("call_0_3", "d")]


def test_ids_stay_as_a_conversation_grows() -> None:
    """Later blocks do not change the ids of earlier ones, so that prompt caches keep hitting."""
    short = calls(("tool_use", "a/b"))
    long = calls(("tool_use", "a/b"), ("tool_use", "a b"), ("tool_use", "a_b"))
    assert ids_of(cleaned(long))[0] == ids_of(cleaned(short))[0]


def test_ids_at_others_stay() -> None:
    """Only Anthropic is strict about ids."""
    assert ids_of(cleaned(calls(("tool_use", "a/b")), "zai")) == ["a/b"]


def test_claude_codes_request_fits_zai() -> None:
    """The whole request of Claude Code in the form that Z.AI takes."""
    assert cleaned(CLAUDE_CODE, "zai") == {
        "model": GLM,
        "messages": [
            {"role": "user", "content": [text("hi"), text("the time is 12")]},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"n": 1}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("Read")]}]},
        ],
        "system": [CACHED],
        "tools": [{"name": "Bash", "input_schema": {}}],
        "max_tokens": 64_000,
        "thinking": {"type": "enabled", "budget_tokens": 32_000},
        "stream": True,
    }


@pytest.mark.parametrize(
    "field", ["context_management", "output_config", "container", "mcp_servers", "service_tier", "new"]
)
@pytest.mark.parametrize("route", ["zai", "own"])
def test_unknown_fields_do_not_go_to_others(route: str, field: str) -> None:
    """What only Anthropic knows stays with Anthropic."""
    assert field not in cleaned({**talk(("user", "hi")), field: {}}, route)
    assert field in cleaned({**talk(("user", "hi")), field: {}}, "anthropic")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [({"user_id": "u"}, None), ({"user_id": "u", "a": 1}, {"a": 1}), ({"a": 1}, {"a": 1}), ({}, {})],
)
def test_another_vendor_is_not_told_who_asks(metadata: dict[str, Any], expected: Any) -> None:
    """`metadata.user_id` holds the user's device and account."""
    assert cleaned(talk(("user", "hi"), metadata=metadata), "zai").get("metadata") == expected


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ([text("x-anthropic-billing-header: a"), text("b")], [text("b")]),
        ([text("x-anthropic-billing-header: a")], None),
        ([text("a"), text("b")], [text("a"), text("b")]),
        ("x-anthropic-billing-header: a\nb\nc", "b\nc"),
        ("x-anthropic-billing-header: a", None),
        ("a", "a"),
    ],
)
def test_the_attribution_block_stays_at_anthropic(system: Any, expected: Any) -> None:
    """Elsewhere it is prompt text that spoils the cache."""
    assert cleaned(talk(("user", "hi"), system=system), "zai").get("system") == expected


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param([("user", "a"), ("system", "s")], [("user", [text("a"), text("s")])], id="into the user's before"),
        pytest.param(
            [("assistant", "a"), ("system", "s"), ("user", [text("b")])],
            [("assistant", "a"), ("user", [text("b"), text("s")])],
            id="else at the end of the user's after",
        ),
        pytest.param([("system", [text("s")])], [("user", [text("s")])], id="else into one of its own"),
        pytest.param(
            [("assistant", "a"), ("system", "s"), ("system", "t"), ("assistant", "b")],
            [("assistant", "a"), ("user", [text("s"), text("t")]), ("assistant", "b")],
            id="several together",
        ),
        pytest.param([("user", "a"), ("assistant", "b")], [("user", "a"), ("assistant", "b")], id="none"),
    ],
)
def test_system_messages_are_folded_into_a_users(messages: list[Any], expected: list[Any]) -> None:
    """Others know no role `system` among the messages."""
    assert cleaned(talk(*messages), "zai")["messages"] == talk(*expected)["messages"]


@pytest.mark.parametrize(
    ("thinking", "max_tokens", "expected"),
    [
        ({"type": "adaptive"}, 4_000, {"type": "enabled", "budget_tokens": 2_000}),
        ({"type": "adaptive"}, 1_500, {"type": "enabled", "budget_tokens": 1_024}),
        ({"type": "adaptive"}, 1_024, None),
        ({"type": "adaptive"}, None, None),
        ({"type": "enabled", "budget_tokens": 5, "display": "omitted"}, 9, {"type": "enabled", "budget_tokens": 5}),
        ({"type": "disabled"}, 9, {"type": "disabled"}),
        ({"type": "new"}, 9, None),
        ("yes", 9, None),
    ],
)
def test_adaptive_thinking_gets_a_budget(thinking: Any, max_tokens: Any, expected: Any) -> None:
    """Others know thinking with a budget only, and the budget is below `max_tokens`."""
    body = cleaned(talk(("user", "hi"), thinking=thinking, max_tokens=max_tokens), "zai")
    assert body.get("thinking") == expected


def test_a_request_that_is_about_anthropics_own_tool_keeps_it() -> None:
    """A search without the search would be a lie: the provider shall say itself that it can't."""
    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}]
    assert cleaned(talk(("user", "hi"), tools=tools), "zai")["tools"] == tools


def test_the_choice_of_a_tool_that_stays_stays() -> None:
    """Only the choice of a tool that is gone goes."""
    tools = [{"name": "a", "strict": True}, {"type": "bash_20250124", "name": "bash"}]
    for choice in ({"type": "auto"}, {"type": "tool", "name": "a"}):
        assert cleaned(talk(tools=tools, tool_choice=choice), "zai")["tool_choice"] == choice
    assert "tool_choice" not in cleaned(talk(tools=tools, tool_choice={"type": "tool", "name": "bash"}), "zai")


WORDS = ["user", "assistant", "system", "thinking", "tool_use", "a/b"]
FIELDS = ["model", "messages", "role", "content", "type", "id", "tool_use_id", "tools", "name", "system", "thinking"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=15,
)


@given(JSON, st.sampled_from(list(ROUTES)), st.sampled_from([CLAUDE, GLM]))
def test_cleaning_twice_is_cleaning_once(body: Any, route: str, asked: str) -> None:
    """Any JSON is cleaned without an exception, into JSON, and then needs no more change."""
    once = clean(msgspec.json.encode(body), route, asked=asked, sent=asked)
    assert isinstance(msgspec.json.decode(once), type(body))
    assert clean(once, route, asked=asked, sent=asked) is once
