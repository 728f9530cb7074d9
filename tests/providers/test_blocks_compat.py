"""What other vendors get of blocks that only Anthropic knows: words, never a gap."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.providers.bodies import clean_body
from service.settings import ZAI, Policy, Route, from_variables
from tests.support.conversations import assert_whole, conversations, text

POLICY: Policy = from_variables({"CCPROXY_HOME": "/nowhere"}).policy
ROUTE = Route(id="zai", title="", provider=ZAI, base_url="")
KNOWN = {"text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"}
CACHE = {"cache_control": {"type": "ephemeral"}}


def clean(body: dict[str, Any], sent: str = "glm-5.2") -> Any:
    raw = msgspec.json.encode(body)
    once = clean_body(raw, route=ROUTE, model_asked="claude-x", model_sent=sent, strip_thinking="none", policy=POLICY)
    return msgspec.json.decode(once)


def become(block: dict[str, Any], sent: str = "glm-5.2") -> Any:
    """What one block becomes, in a message and as a part of a tool's result."""
    call = {"type": "tool_use", "id": "t", "name": "n", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    turn = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result, block]}]
    within, alone = clean({"messages": turn}, sent)["messages"][1]["content"]
    assert within["content"] == [alone]
    return alone


SEARCH_RESULT = {
    "type": "web_search_result",
    "title": "A page",
    "url": "http://a",
    "encrypted_content": "xyz",
    "page_age": "1",
}


@pytest.mark.parametrize(
    ("block", "words"),
    [
        pytest.param(
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
            '[web_search was called with {"query":"q"}]',
            id="a server's call",
        ),
        pytest.param(
            {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "echo", "server_name": "s", "input": {}},
            "[echo was called with {}]",
            id="a call over MCP",
        ),
        pytest.param(
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [SEARCH_RESULT]},
            "[web_search gave:]\nA page\nhttp://a",
            id="a search's result",
        ),
        pytest.param(
            {
                "type": "web_search_tool_result",
                "tool_use_id": "srvtoolu_1",
                "content": {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"},
            },
            "[web_search gave:]\nmax_uses_exceeded",
            id="a search's error",
        ),
        pytest.param(
            {
                "type": "bash_code_execution_tool_result",
                "tool_use_id": "srvtoolu_1",
                "content": {"type": "r", "stdout": "out", "stderr": "err", "return_code": 1, "content": []},
            },
            "[bash_code_execution gave:]\nout\nerr",
            id="code's output",
        ),
        pytest.param(
            {"type": "mcp_tool_result", "tool_use_id": "mcptoolu_1", "is_error": False, "content": [text("hello")]},
            "[mcp gave:]\nhello",
            id="a result over MCP",
        ),
        pytest.param(
            {
                "type": "web_fetch_tool_result",
                "tool_use_id": "srvtoolu_1",
                "content": {
                    "type": "web_fetch_result",
                    "url": "http://a",
                    "content": {"type": "document", "title": "T", "source": {"type": "text", "data": "all of it"}},
                },
            },
            "[web_fetch gave:]\nhttp://a\nT\nall of it",
            id="a fetched page",
        ),
        pytest.param(
            {"type": "code_execution_tool_result", "tool_use_id": "srvtoolu_1", "content": {}},
            "[code_execution gave:]\nnothing that can be shown",
            id="an empty result",
        ),
        pytest.param(
            {"type": "search_result", "title": "T", "source": "http://s", "content": [text("found")], **CACHE},
            "T\nhttp://s\nfound",
            id="a source",
        ),
        pytest.param(
            {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
            "T\nwords",
            id="a text document",
        ),
        pytest.param(
            {"type": "document", "source": {"type": "content", "content": [text("one"), text("two")]}},
            "one\ntwo",
            id="a document in parts",
        ),
        pytest.param(
            {"type": "document", "title": "T", "source": {"type": "base64", "data": "JVBERi0="}, **CACHE},
            "[document left out: this model can't read documents]\nT",
            id="a PDF",
        ),
        pytest.param(
            {"type": "document", "source": {"type": "url", "url": "http://secret"}},
            "[document left out: this model can't read documents]",
            id="a document elsewhere",
        ),
        pytest.param(
            {"type": "container_upload", "file_id": "file_1"},
            "[file left out: it lies with another provider]",
            id="a file for a container",
        ),
        pytest.param(
            {"type": "image", "source": {"type": "base64", "data": "iVBORw0KGgo="}, **CACHE},
            "[image left out: this model can't read images]",
            id="an image",
        ),
        pytest.param({"type": "compaction", "content": "what went before"}, "what went before", id="a compaction"),
        pytest.param({"type": "tool_reference", "tool_name": "Read"}, "Read", id="a tool's name"),
        pytest.param({"type": "new_kind", "x": 1}, "[new_kind left out: this model can't read it]", id="a new kind"),
    ],
)
def test_what_only_anthropic_knows_becomes_text(block: dict[str, Any], words: str) -> None:
    """Its words and no more; its mark for the prompt cache stays."""
    kept = {"cache_control": block["cache_control"]} if "cache_control" in block else {}
    assert become(block) == {"type": "text", "text": words, **kept}


@pytest.mark.parametrize(
    ("sent", "reads"), [("glm-4.6v", True), ("glm-5v-turbo", True), ("house-1", True), ("glm-4.6", False)]
)
def test_images_go_to_models_that_may_read_them(sent: str, *, reads: bool) -> None:
    """Those of which nothing is known are asked."""
    image = {"type": "image", "source": {"type": "base64", "data": "iVBORw0KGgo="}}
    assert (become(image, sent) == image) == reads
    elsewhere = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
    assert become(elsewhere, sent)["text"].endswith("another provider]")


def test_what_stands_on_known_blocks_goes() -> None:
    """Citations point into documents that are gone; who called a tool is Anthropic's own affair."""
    cited = {
        "type": "text",
        "text": "so",
        "citations": [{"type": "web_search_result_location", "encrypted_index": "x"}],
    }
    assert become(cited) == text("so")
    call = {"type": "tool_use", "id": "u", "name": "n", "input": {}, "caller": {"type": "direct"}}
    assert "caller" not in become(call)


@pytest.mark.parametrize(
    ("sent", "asked", "given_"),
    [("glm-4.5-air", 128_000, 98_304), ("glm-4.5-air", 98_304, 98_304), ("house-1", 10**6, 10**6)],
)
def test_an_answer_is_no_longer_than_the_model_gives(sent: str, asked: int, given_: int) -> None:
    """Claude Code asks for 128,000 tokens whatever the model; the budget of thinking stays below."""
    body = {"messages": [], "max_tokens": asked, "thinking": {"type": "enabled", "budget_tokens": asked - 1}}
    cleaned = clean(body, sent)
    assert cleaned["max_tokens"] == given_
    assert cleaned["thinking"]["budget_tokens"] < given_


@given(conversations(), st.sampled_from(["glm-4.5-air", "glm-4.6v", "house-1"]))
def test_a_conversation_stays_one(body: dict[str, Any], sent: str) -> None:
    """Whole, with the user's words and all calls of the client's tools, in blocks that others know; and stable."""
    assert_whole(body["messages"])
    after = clean(body, sent)
    assert_whole(after["messages"])
    kinds = {
        block["type"]
        for message in after["messages"]
        if isinstance(message["content"], list)
        for block in message["content"]
    }
    assert kinds <= KNOWN - {"thinking"}
    words = [m["content"] for m in body["messages"] if isinstance(m["content"], str) and m["role"] == "user"]
    told = str(after["messages"])
    assert all(repr(word)[1:-1] in told for word in words if word.strip())
    assert clean(after, sent) == after
