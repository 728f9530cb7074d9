"""The bytes of the bench: requests as Claude Code makes them, and responses as a provider makes them.

The stand-in reads from the body alone what is wanted (`"stream": true`, and PACED), since proxies pass on no header of
ours. Not here: sockets.
"""

import json
from functools import lru_cache
from typing import Any, Literal

Kind = Literal["json", "sse", "paced"]
PACED = "bench:paced"
MODEL = "claude-opus-4-8"
KEY = "sk-bench-not-a-secret"
DELTAS = 24
"""With the events around them an answer has about 30."""
PACED_EVERY_S = 0.17 / DELTAS
STAMP = "at="
"""A paced event says when it was written: `at=` and nanoseconds of the system's monotonic clock."""
PROSE = "The quick brown fox reads the file, changes three lines of it, and runs the tests once more. "
SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "text": {"type": "string"}},
    "required": ["path"],
}


@lru_cache
def body(size: int, kind: Kind) -> bytes:
    """A request's body of about so many bytes."""
    tools = [
        {"name": f"Tool{number}", "description": PROSE * 8, "input_schema": SCHEMA}
        for number in range(24 if size > 20_000 else 0)
    ]
    fields: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 32_000,
        "system": [{"type": "text", "text": PROSE * 3, "cache_control": {"type": "ephemeral"}}],
        "tools": tools,
        "metadata": {"user_id": "user_bench"},
        "stream": kind != "json",
    }
    turns: list[dict[str, Any]] = [turn("user", PACED if kind == "paced" else "and now?")]
    while (room := size - len(encoded(fields | {"messages": turns}))) > 200:
        asked = turns[0]["role"] == "user"
        turns.insert(0, turn("assistant" if asked else "user", (PROSE * 22)[: min(room - 100, 2_000)]))
    if turns[0]["role"] == "assistant":
        turns.insert(0, turn("user", "hi"))
    return encoded(fields | {"messages": turns})


def turn(role: str, words: str) -> dict[str, Any]:
    """One message of the talk."""
    return {"role": role, "content": [{"type": "text", "text": words}]}


def encoded(fields: dict[str, Any]) -> bytes:
    """As Claude Code writes JSON: without spaces."""
    return json.dumps(fields, separators=(",", ":")).encode()


def request(authority: str, path: str, headers: dict[str, str], data: bytes) -> bytes:
    """A request as it goes on the wire."""
    usual = {
        "host": authority,
        "content-type": "application/json",
        "accept": "application/json",
        "user-agent": "claude-cli/2.0.1 (external, cli)",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
        "x-app": "cli",
        "x-stainless-lang": "js",
        "x-stainless-retry-count": "0",
        "x-stainless-timeout": "600",
        "accept-encoding": "identity",
        "content-length": str(len(data)),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in (usual | headers).items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + data


MESSAGE: dict[str, Any] = {
    "id": "msg_01Bench000000000000000000",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {
        "input_tokens": 12,
        "cache_creation_input_tokens": 300,
        "cache_read_input_tokens": 14_000,
        "output_tokens": 1,
        "service_tier": "standard",
    },
}
HEADERS = (
    "request-id: req_011BenchBenchBenchBench\r\nanthropic-organization-id: 00000000-0000-0000-0000-000000000000\r\n"
    "anthropic-ratelimit-requests-limit: 4000\r\nanthropic-ratelimit-requests-remaining: 3999\r\n"
    "anthropic-ratelimit-input-tokens-limit: 2000000\r\nanthropic-ratelimit-input-tokens-remaining: 1999000\r\n"
    "server: cloudflare\r\nvia: 1.1 google\r\ncf-cache-status: DYNAMIC\r\nx-robots-tag: none\r\n"
)


def json_answer() -> bytes:
    """A whole answer of 1 KB, head and all."""
    usage = MESSAGE["usage"] | {"output_tokens": 120}
    fields = MESSAGE | {
        "content": [{"type": "text", "text": (PROSE * 8)[:600]}],
        "stop_reason": "end_turn",
        "usage": usage,
    }
    data = json.dumps(fields).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n{HEADERS}\r\n"
    return head.encode() + data


def stream_head() -> bytes:
    """The head of a stream."""
    kind = "content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    return f"HTTP/1.1 200 OK\r\n{kind}transfer-encoding: chunked\r\n{HEADERS}\r\n".encode()


def event(name: str, **fields: Any) -> bytes:
    """An event, as a chunk of its own."""
    data = f"event: {name}\ndata: {json.dumps({'type': name} | fields)}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def delta(text: str) -> bytes:
    """A piece of text."""
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def opening() -> bytes:
    """The events before the text."""
    block = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    return event("message_start", message=MESSAGE) + block + event("ping")


def closing() -> bytes:
    """The events after the text."""
    ending = event(
        "message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 120}
    )
    return event("content_block_stop", index=0) + ending + event("message_stop") + b"0\r\n\r\n"


def burst() -> bytes:
    """A stream whose events come all at once."""
    text = b"".join(delta(PROSE[number : number + 24]) for number in range(DELTAS))
    return stream_head() + opening() + text + closing()
