"""Between vendors and windows: what goes up to whom, what is refused here, and what the client is told of it."""

import gzip
from typing import Any

import msgspec
import pytest

from tests.fakes import FakeProvider, reply
from tests.support.proxies import ASK, STREAM, Server

WORDS = "Words that somebody has written, over and over again; "
TOO_LONG = ASK | {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": WORDS * 17_000}]}
"""About 150,000 tokens at least: more than glm-4.5-air holds."""
TALK = [
    {"role": "user", "content": "first " * 200},
    {"role": "assistant", "content": "second " * 200},
    {"role": "user", "content": "third"},
]
CUT = {"CONTEXT_WINDOW_ENABLED": "true", "CONTEXT_WINDOW_LIMIT": "500"}


async def test_a_prompt_that_no_model_holds_is_refused_here(server: Server, zai: FakeProvider) -> None:
    """In words that the client knows, with the figures, and without asking anybody."""
    served = await server.start(zai=zai)
    answer = await served.ask(TOO_LONG)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith("capability_rejected: prompt_too_long (prompt is too long: at least 1")
    assert error["message"].endswith("tokens > 131072 maximum of glm-4.5-air)")
    assert answer.headers["x-should-retry"] == "false"
    assert zai.requests == []
    assert served.events == []


async def test_a_route_that_cannot_hold_the_prompt_is_left_out(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """The model's own provider is asked, and its trouble is the answer; the small model is not."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.error(529).repeated(9))
    assert (await served.ask(TOO_LONG)).status_code == 529
    assert zai.requests == []
    anthropic.reset()
    assert (await served.ask(TOO_LONG)).headers["x-ccproxy-route"] == "anthropic"


async def test_what_the_file_says_of_a_model_counts(server: Server, zai: FakeProvider) -> None:
    """A window that was set is the window."""
    path = server.home / "ccproxy.toml"
    path.write_text('[models."glm-4.5-air"]\ncontext_tokens = 200_000')
    served = await server.start(zai=zai, variables={"CCPROXY_CONFIG": str(path)})
    assert (await served.ask(TOO_LONG)).headers["x-ccproxy-route"] == "zai"


@pytest.mark.parametrize(("edit", "status"), [("clear_tool_uses_20250919", 200), ("clear_thinking_20251015", 400)])
async def test_a_provider_that_trims_the_conversation_itself_is_asked(
    server: Server, anthropic: FakeProvider, edit: str, status: int
) -> None:
    """However long it is: nobody else knows how much will be left. Cleared thoughts don't count as it is."""
    path = server.home / "ccproxy.toml"
    path.write_text('[models."claude-haiku-4-5"]\ncontext_tokens = 50_000')
    served = await server.start(anthropic=anthropic, variables={"CCPROXY_CONFIG": str(path)})
    body = TOO_LONG | {"context_management": {"edits": [{"type": edit}]}}
    answer = await served.ask(body, headers={"anthropic-beta": "context-management-2025-06-27"})
    assert answer.status_code == status


@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_a_conversation_is_cut_where_the_settings_ask_for_it(
    server: Server, anthropic: FakeProvider, caplog: pytest.LogCaptureFixture, coding: str
) -> None:
    """The oldest messages stay here, and the client and the log are told how many."""
    caplog.set_level("INFO", "ccproxy")
    served = await server.start(anthropic=anthropic, variables=CUT)
    body = msgspec.json.encode(ASK | {"messages": TALK})
    headers = {"content-encoding": coding} if coding else {}
    answer = await served.http.post("/v1/messages", content=packed(body, coding), headers=headers)
    assert answer.status_code == 200
    assert answer.headers["x-ccproxy-truncated"] == "2 messages"
    assert anthropic.requests[0].json == {**ASK, "messages": TALK[2:]}
    assert anthropic.requests[0].header("content-encoding") is None
    assert "2 messages left out" in caplog.text
    assert "first" not in caplog.text


def packed(body: bytes, coding: str) -> bytes:
    return gzip.compress(body) if coding else body


async def test_nothing_is_cut_unasked(server: Server, anthropic: FakeProvider) -> None:
    """Neither by default, nor within the limit, nor from what is only counted."""
    body = ASK | {"messages": TALK}
    served = await server.start(anthropic=anthropic)
    assert "x-ccproxy-truncated" not in (await served.ask(body)).headers
    served = await server.start(anthropic=anthropic, variables=CUT)
    assert "x-ccproxy-truncated" not in (await served.ask(ASK)).headers
    await served.http.post("/v1/messages/count_tokens", json=body)
    assert [request.json["messages"] for request in anthropic.requests] == [TALK, ASK["messages"], TALK]


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "of another account"}
THOUGHTFUL: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "so"}]},
        {"role": "user", "content": "go on"},
    ]
}


@pytest.mark.parametrize("body", [STREAM, ASK], ids=["stream", "whole"])
async def test_a_refused_signature_is_not_seen_by_the_client(
    server: Server, anthropic: FakeProvider, zai: FakeProvider, body: dict[str, Any]
) -> None:
    """The same route is asked again without the thoughts, and nobody else."""
    served = await server.start(anthropic=anthropic, zai=zai)
    answer = await served.ask(body | THOUGHTFUL)
    assert (answer.status_code, answer.headers["x-ccproxy-attempts"]) == (200, "2")
    first, second = (msgspec.json.decode(request.body)["messages"][1]["content"] for request in anthropic.requests)
    assert (first[0], second) == (THOUGHT, [{"type": "text", "text": "so"}])
    assert zai.requests == []
    assert served.told == [("anthropic", "failed", "bad_request"), ("anthropic", "ok", "")]
    answer = await served.ask(body | THOUGHTFUL)
    assert answer.headers["x-ccproxy-attempts"] == "1", "the thought stays out from now on"


async def test_what_another_vendor_cannot_read_crosses_as_words(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """On a failover, in the middle of a conversation with a search and a picture in it."""
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [search, found, {"type": "text", "text": "so"}]},
        {"role": "user", "content": [picture, {"type": "text", "text": "what is it?"}]},
    ]
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.error(529))
    assert (await served.ask(ASK | {"messages": messages})).headers["x-ccproxy-route"] == "zai"
    _, assistant, user = msgspec.json.decode(zai.requests[0].body)["messages"]
    assert [block["text"] for block in assistant["content"]] == [
        '[web_search was called with {"query":"q"}]',
        "[web_search gave:]\nnothing that can be shown",
        "so",
    ]
    assert [block["text"] for block in user["content"]] == [
        "[image left out: this model can't read images]",
        "what is it?",
    ]


async def test_another_vendor_answers_the_beginning_of_a_thread_as_a_plain_message(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """All that it needs is in the request; it is told nothing of the thread, which nobody can continue."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.error(529).repeated(9))
    assert (await served.ask(ASK | {"thread": {"type": "create"}})).status_code == 200
    [request] = zai.requests
    assert "thread" not in request.json


@pytest.mark.parametrize("count", [{"input_tokens": 0}, {}, {"input_tokens": "many"}])
async def test_a_count_of_nothing_is_no_count(server: Server, anthropic: FakeProvider, count: dict[str, Any]) -> None:
    """The client estimates better than that: 404."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.json(count).when("/v1/messages/count_tokens"))
    answer = await served.http.post("/v1/messages/count_tokens", json=ASK)
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    assert (await served.http.post("/v1/messages/count_tokens", json=ASK)).json()["input_tokens"] > 0


async def test_a_throttled_count_holds_up_no_message(server: Server, anthropic: FakeProvider) -> None:
    """Counting has limits of its own: Claude Code counts two dozen times at once."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.error(429, retry_after_s=3_000).when("/v1/messages/count_tokens"))
    assert (await served.http.post("/v1/messages/count_tokens", json=ASK)).status_code == 429
    assert (await served.ask()).status_code == 200
