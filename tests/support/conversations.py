"""Conversations as clients hold them: words, runs of tool calls, and Anthropic's own tools. For property tests."""

from typing import Any

from hypothesis import strategies as st

WORDS = st.text(alphabet="ab \n\u4e2d", min_size=1, max_size=120)
FILLER = {"type": "text", "text": "so"}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@st.composite
def tool_turn(draw: st.DrawFn, number: int) -> list[dict[str, Any]]:
    """A call of one or two tools, and the results."""
    ids = [f"toolu_{number}_{which}" for which in range(draw(st.integers(1, 2)))]
    calls = [{"type": "tool_use", "id": name, "name": "Bash", "input": {"command": draw(WORDS)}} for name in ids]
    results = [{"type": "tool_result", "tool_use_id": name, "content": draw(WORDS)} for name in ids]
    thought = [{"type": "thinking", "thinking": "hm", "signature": "s"}] if draw(st.booleans()) else []
    after = [text(draw(WORDS))] if draw(st.booleans()) else []
    return [{"role": "assistant", "content": thought + calls}, {"role": "user", "content": results + after}]


@st.composite
def search_turn(draw: st.DrawFn, number: int) -> list[dict[str, Any]]:
    """A search by the server within one message, and the user's next words."""
    name = f"srvtoolu_{number}"
    found = [{"type": "web_search_result", "title": "T", "url": "http://t", "encrypted_content": "x" * 50}]
    blocks = [
        {"type": "server_tool_use", "id": name, "name": "web_search", "input": {"query": draw(WORDS)}},
        {"type": "web_search_tool_result", "tool_use_id": name, "content": found},
    ]
    return [{"role": "assistant", "content": blocks}, {"role": "user", "content": draw(WORDS)}]


@st.composite
def plain_turn(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Words, or a thought alone, and the user's next words."""
    said: Any = draw(st.sampled_from(["ok", [FILLER], [{"type": "thinking", "thinking": "hm", "signature": "s"}]]))
    return [{"role": "assistant", "content": said}, {"role": "user", "content": draw(WORDS)}]


@st.composite
def conversations(draw: st.DrawFn) -> dict[str, Any]:
    """A request whose calls have their results, and whose roles take turns."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": draw(WORDS)}]
    for number in range(draw(st.integers(0, 6))):
        messages += draw(st.one_of(tool_turn(number), search_turn(number), plain_turn()))
    return {"model": "claude-opus-4-8", "max_tokens": 64, "system": [text(draw(WORDS))], "messages": messages}


def blocks_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return content if isinstance(content, list) else [text(content)]


def assert_whole(messages: list[dict[str, Any]]) -> None:
    """Begins with the user, takes turns, holds no empty message, no result without its call and no call without it."""
    assert [message["role"] for message in messages] == [("user", "assistant")[n % 2] for n in range(len(messages))]
    calls: set[str] = set()
    results: set[str] = set()
    for message in messages:
        assert message["content"]
        for block in blocks_of(message):
            if "tool_use_id" in block:
                assert block["tool_use_id"] in calls
                results.add(block["tool_use_id"])
            elif block["type"].endswith("tool_use"):
                calls.add(block["id"])
    assert calls == results
