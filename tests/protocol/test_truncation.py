"""Conversations that are too long lose their oldest messages, and nothing else."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.protocol.truncation import Measured, cut, whole_from
from tests.support.conversations import assert_whole, conversations, text


def call(name: str, size: int = 4) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": name, "name": "Bash", "input": {"command": "x" * size}}],
    }


def result(name: str, size: int = 4, *more: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": name, "content": "x" * size}, *more]}


def user(words: str) -> dict[str, Any]:
    return {"role": "user", "content": words}


def said(words: str) -> dict[str, Any]:
    return {"role": "assistant", "content": words}


def cut_of(messages: list[dict[str, Any]], most_tokens: int, **fields: Any) -> tuple[list[dict[str, Any]], int]:
    """What stays, and how many went."""
    made = cut(msgspec.json.encode({"messages": messages, **fields}), most_tokens)
    assert made is not None
    return msgspec.json.decode(made.body)["messages"], made.dropped


LONG = "x" * 400
CHAT = [user(LONG), said(LONG), user(LONG), said(LONG), user("last")]


def test_a_conversation_that_fits_is_not_touched() -> None:
    """At the limit itself, too; and what is no conversation is left alone."""
    assert cut(msgspec.json.encode({"messages": CHAT}), 426) is None
    assert cut(msgspec.json.encode({"messages": CHAT}), 420) is not None
    for raw in (b"", b"{", b"[]", b'{"messages": 5}', b'{"messages": [5]}', b'{"messages": [{"content": 5}]}', b"{}"):
        assert cut(raw, 0) is None


def test_what_has_fewer_bytes_than_fit_is_not_looked_into() -> None:
    """Four for each token; a byte more, and it is measured."""
    raw = b'{"messages":[' + b",".join([b"{}"] * 28) + b"]  }"
    assert len(raw) == 100
    assert cut(raw, 25) is None
    assert cut(raw + b" ", 25) is not None


@pytest.mark.parametrize(("spare", "dropped"), [(0, None), (-1, 2)])
def test_a_conversation_of_just_the_limit_fits(spare: int, dropped: int | None) -> None:
    """100 tokens in each message, and 4 around it."""
    made = cut(msgspec.json.encode({"messages": [user(LONG), said(LONG), user(LONG)]}), 3 * 104 + spare)
    assert (made and made.dropped) == dropped


@pytest.mark.parametrize(("most_tokens", "left"), [(420, 3), (213, 3), (212, 1), (5, 1)])
def test_the_fewest_messages_go_that_make_it_fit(most_tokens: int, left: int) -> None:
    """From the oldest on, and the rest begins with the user; the last message always stays."""
    assert cut_of(CHAT, most_tokens) == (CHAT[-left:], 5 - left)


@pytest.mark.parametrize(
    ("talk", "left"),
    [
        pytest.param([said(LONG), user("b"), said("x"), user("c")], 3, id="with the user's second message"),
        pytest.param([said(LONG), said("b"), user("c")], 1, id="never with the assistant's"),
    ],
)
def test_a_conversation_that_begins_with_the_assistant_loses_that(talk: list[dict[str, Any]], left: int) -> None:
    """What is left begins with the user."""
    assert cut_of(talk, 50) == (talk[-left:], len(talk) - left)


def test_a_user_who_has_written_twice_loses_the_first_alone() -> None:
    """The second message is a place to begin, though nobody has answered the first."""
    assert cut_of([user(LONG), user("b"), user("c")], 50) == ([user("b"), user("c")], 1)


def test_system_and_tools_count_and_stay() -> None:
    """They take room from the conversation, whose other fields keep their bytes."""
    raw = msgspec.json.encode({"messages": CHAT}).replace(
        b'{"messages"', b'{"top_p":1.00, "system": "%s", "messages"' % (b"s" * 800)
    )
    made = cut(raw, 420)
    assert made is not None
    assert (made.dropped, made.tokens_before, made.tokens_after) == (2, 621, 413)
    assert made.body.startswith(b'{"top_p":1.00,"system":"sss')
    tools = [{"name": "t", "description": "d" * 800}]
    assert cut_of(CHAT, 420, tools=tools) == (CHAT[2:], 2)


def test_a_result_keeps_its_call() -> None:
    """Between call and result there is no cut, though the result alone would fit."""
    talk = [user("a"), said(LONG), user("b"), call("t1", 400), result("t1"), said("done"), user("c")]
    assert cut_of(talk, 60) == ([user("b"), said("done"), user("c")], 4)


def test_a_servers_result_may_come_a_message_later() -> None:
    """A turn that paused goes on in another message of the assistant's: no cut between them."""
    paused = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": LONG}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    asked = [user("a"), {"role": "assistant", "content": [paused]}, {"role": "assistant", "content": [found]}]
    assert cut_of([*asked, said("done"), user("b")], 60) == ([user("a"), said("done"), user("b")], 2)


def test_a_result_without_a_call_parts_nothing_behind_it() -> None:
    """Whatever a client sends: the cut is behind it."""
    talk = [user(LONG), result("nobody"), said("d"), user("c")]
    assert cut_of(talk, 60) == (talk[3:], 3)


def test_in_a_run_of_calls_the_users_latest_words_stay() -> None:
    """There is no other message to begin with: the cut is behind them."""
    run = [message for n in range(9) for message in (call(f"t{n}", 400), result(f"t{n}", 4))]
    talk = [user(LONG), said(LONG), user("the task"), *run]
    left, dropped = cut_of(talk, 300)
    assert left == [user("the task"), *run[-4:]]
    assert dropped == 16


def test_words_behind_a_result_are_no_place_to_begin() -> None:
    """Their message holds a result whose call would be gone."""
    talk = [user("a"), call("t1", 4_000), result("t1", 4, text("and this")), said("done"), user("c")]
    assert cut_of(talk, 100) == ([user("a"), said("done"), user("c")], 2)


def test_what_no_cut_makes_fit_goes_as_it_is() -> None:
    """The same bytes, and the news that it is too long."""
    raw = msgspec.json.encode({"messages": [user("a"), said("b"), user(LONG * 10)]})
    made = cut(raw, 500)
    assert made is not None
    assert (made.body is raw, made.dropped) == (True, 0)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param({"type": "text", "text": LONG}, id="text"),
        pytest.param({"type": "thinking", "thinking": LONG, "signature": "s"}, id="thinking"),
        pytest.param({"type": "tool_use", "id": "t", "name": "n", "input": {"a": LONG}}, id="a call's arguments"),
        pytest.param({"type": "tool_result", "tool_use_id": "s", "content": LONG}, id="a result"),
        pytest.param({"type": "tool_result", "tool_use_id": "s", "content": [text(LONG)]}, id="a result's texts"),
        pytest.param({"type": "document", "source": {"type": "text", "data": LONG}}, id="a text document"),
        pytest.param({"type": "document", "source": {"type": "content", "content": [text(LONG)]}}, id="its parts"),
        pytest.param({"type": "search_result", "title": "t", "source": "u", "content": [text(LONG)]}, id="a source"),
        pytest.param({"type": "bash_code_execution_tool_result", "content": {"stdout": LONG}}, id="an output"),
    ],
)
def test_all_that_a_model_reads_counts(block: dict[str, Any]) -> None:
    """Not texts alone: 400 characters are a hundred tokens, wherever they stand."""
    made = cut(msgspec.json.encode({"messages": [{"role": "user", "content": [block]}]}), 50)
    assert made is not None
    assert 100 <= made.tokens_before <= 115


@pytest.mark.parametrize("kind", ["image", "document"])
def test_base64_counts_by_a_figure(kind: str) -> None:
    """Never by its characters; and a file's few characters are no less."""
    for source in ({"type": "base64", "data": "A" * 1_000_000}, {"type": "file", "file_id": "file_1"}):
        made = cut(
            msgspec.json.encode({"messages": [{"role": "user", "content": [{"type": kind, "source": source}]}]}), 500
        )
        assert made is not None
        assert made.tokens_before == 1_604


@given(conversations(), st.integers(1, 400))
def test_whatever_is_cut_is_a_conversation(body: dict[str, Any], most_tokens: int) -> None:
    """It is whole, a part of the old one with its last message, within the limit, and needs no second cut."""
    assert_whole(body["messages"])
    raw = msgspec.json.encode(body)
    made = cut(raw, most_tokens)
    if made is None:
        return
    if not made.dropped:
        assert made.body is raw
        return
    after = msgspec.json.decode(made.body)
    assert_whole(after["messages"])
    rest = iter(body["messages"])
    assert all(message in rest for message in after["messages"]), "in their order, unchanged"
    assert after["messages"][-1] == body["messages"][-1]
    assert len(after["messages"]) == len(body["messages"]) - made.dropped
    assert after | {"messages": []} == body | {"messages": []}
    assert made.tokens_after <= most_tokens < made.tokens_before
    assert cut(made.body, most_tokens) is None


def test_a_cut_separates_no_call_from_its_result_at_any_message() -> None:
    """A call, its result, and a message without either: only between the first two nothing may be cut."""
    none: frozenset[str] = frozenset()
    asked = Measured("assistant", 1, frozenset({"a"}), none)
    answered = Measured("user", 1, none, frozenset({"a"}))
    assert whole_from([]) == []
    assert whole_from([asked, answered, Measured("assistant", 1, none, none)]) == [True, False, True]
