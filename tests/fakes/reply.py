"""The short words for scripted replies: `reply.message("hi")`, `reply.error(529)`, `reply.reset("headers")`.

It only composes the data of `language.py`; nothing here touches a socket.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tests.fakes.language import (
    Block,
    Delivery,
    Error,
    Message,
    Point,
    Raw,
    Reply,
    ServerToolUse,
    StreamError,
    Text,
    Thinking,
    ToolUse,
    Usage,
)
from tests.fakes.limits import unified_headers
from tests.fakes.zai_codes import ZAI_CODES

if TYPE_CHECKING:
    from collections.abc import Mapping

HTML = b"<html><head><title>Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"
DEFAULT_TEXT = (
    "Hello from the fake provider: naïve, 日本語, 🙂."  # so that every byte split meets multi-byte characters
)

ERROR_TYPES = {
    400: ("invalid_request_error", "Invalid request"),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "Your credit balance is too low to access the Anthropic API."),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "Not found"),
    408: ("timeout_error", "Request timed out"),
    409: ("conflict_error", "Conflict"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit. Please try again later."),
    500: ("api_error", "Internal server error"),
    502: ("api_error", "Bad gateway"),
    503: ("api_error", "Service unavailable"),
    504: ("timeout_error", "Gateway timeout"),
    529: ("overloaded_error", "Overloaded"),
}

# The wordings that clients recover from; taken from public documents and the clients' own tables.
WORDINGS_400 = {
    "prompt_too_long": "prompt is too long: 213462 tokens > 200000 maximum",
    "max_tokens": "max_tokens: 200000 > 128000, which is the maximum allowed number of output tokens for this model",
    "beta": "Unexpected value(s) `effort-2025-11-24` for the `anthropic-beta` header.",
    "system_role": "messages.1.role: Input should be 'user' or 'assistant'",
    "signature": "messages.1.content.0: Invalid `signature` in `thinking` block",
    "tool_id": "messages.1.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'",
    "orphan_tool_result": (
        "messages.0.content.0: unexpected `tool_use_id` found in `tool_result` blocks: toolu_1. Each `tool_result` "
        "block must have a corresponding `tool_use` block in the previous message."
    ),
    "credit": "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade.",
    "claude_code_only": (
        "This credential is only authorized for use with Claude Code and cannot be used for other API requests."
    ),
    "extra_inputs": "context_management: Extra inputs are not permitted",
}


def message(
    text: str = DEFAULT_TEXT,
    *,
    usage: Usage | None = None,
    stop_reason: str | None = None,
    model: str | None = None,
    thinking: str | None = None,
    blocks: tuple[Block, ...] = (),
    form: Literal["asked", "json", "sse"] = "asked",
    prelude: tuple[Literal["ping", "comment"], ...] = (),
) -> Reply:
    """A good answer; `blocks` replaces the text, `thinking` goes before it."""
    content = blocks or ((Thinking(thinking),) if thinking else ()) + (Text(text),)
    return Reply(
        body=Message(
            content=content, usage=usage, stop_reason=stop_reason, model=model, form=form, prelude=tuple(prelude)
        )
    )


def tool_use(
    name: str, arguments: dict[str, Any], *, text: str = "", tool_id: str | None = None, usage: Usage | None = None
) -> Reply:
    """An answer that calls a tool, after some text if given."""
    call = ToolUse(name, arguments, tool_id)
    return message(blocks=(Text(text), call) if text else (call,), usage=usage)


def server_tool_use(name: str, arguments: dict[str, Any], *, tool_id: str | None = None) -> Reply:
    """An answer in which the vendor called a tool of its own."""
    return message(blocks=(ServerToolUse(name, arguments, tool_id), Text("Searched.")))


def thinking(thought: str, text: str = DEFAULT_TEXT, *, usage: Usage | None = None) -> Reply:
    """An answer with a thinking block and a signature."""
    return message(text, thinking=thought, usage=usage)


def error(
    status: int,
    error_type: str | None = None,
    message: str | None = None,
    *,
    retry_after_s: int | None = None,
    headers: Mapping[str, str | None] | None = None,
    details: dict[str, Any] | None = None,
) -> Reply:
    """An HTTP error in Anthropic's shape; what is not given follows from the status."""
    known_type, known_message = ERROR_TYPES.get(status, ("api_error", "Error"))
    body = Error(status=status, error_type=error_type or known_type, message=message or known_message, details=details)
    waits = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
    return Reply(body=body, headers={**waits, **(headers or {})})


def bad_request(wording: str) -> Reply:
    """A 400 in one of the `WORDINGS_400`, or in the given words."""
    return error(400, message=WORDINGS_400.get(wording, wording))


def model_not_found(model: str) -> Reply:
    return error(404, message=f"model: {model}")


def spend_limit() -> Reply:
    """A 429 that no waiting mends."""
    details = {"error_code": "enforced_spend_limit_reached"}
    return error(429, message="You have reached your specified API usage limits.", details=details)


def unified_limit(
    *,
    window: Literal["5h", "7d", "7d_oi"] = "5h",
    retry_after_s: int | None = 2094,
    reset_s: int | None = None,
    status: int = 429,
) -> Reply:
    """A subscription's spent window: 429, or (paid overage) a good answer whose headers say `rejected`."""
    headers = unified_headers(
        status="rejected",
        five_hour=1.0 if window == "5h" else 0.12,
        seven_day=1.0 if window == "7d" else 0.34,
        seven_day_model=1.0 if window == "7d_oi" else None,
        reset_s=reset_s,
    )
    if status == 200:
        return message().with_headers(headers)
    text = "This request would exceed your account's rate limit. Please try again later."
    return error(status, message=text, retry_after_s=retry_after_s, headers={**headers, "x-should-retry": "false"})


def zai_error(
    code: int,
    *,
    status: int | None = None,
    shape: Literal["anthropic", "bare", "typed", "message"] = "anthropic",
    number: bool = False,
    message: str | None = None,
    reset: datetime | None = None,
) -> Reply:
    """One of Z.AI's coded errors, in any of its shapes; `reset` is stamped as Z.AI does: Beijing time, no offset."""
    fact = ZAI_CODES[code]
    words = message or fact.message
    if reset is not None:
        words = words.replace("2026-09-12 00:35:41", beijing_stamp(reset))
    body = Error(
        status=status or fact.status,
        error_type=fact.error_type,
        message=words,
        code=code if number else str(code),
        shape=shape,
    )
    return Reply(body=body)


def beijing_stamp(at: datetime) -> str:
    """A moment as Z.AI writes it."""
    return at.astimezone(timezone(timedelta(hours=8))).strftime("%Y-%m-%d %H:%M:%S")


def stream_error(
    after: Literal["start", "message_start", "content"] = "start",
    error_type: str = "overloaded_error",
    text: str = "Overloaded",
    *,
    prelude: tuple[Literal["ping", "comment"], ...] = (),
) -> Reply:
    """`event: error` inside a 200, first or later; a request without `stream` gets the HTTP error instead."""
    trouble = StreamError(after, error_type, text)
    return Reply(body=Message(content=(Text(DEFAULT_TEXT),), error=trouble, prelude=prelude))


def raw(body: bytes, *, status: int = 200, content_type: str | None = None) -> Reply:
    return Reply(body=Raw(status=status, body=body, content_type=content_type))


def json(value: Any, *, status: int = 200) -> Reply:
    """Any JSON, for example as the answer to another path (`.when("/api/oauth/usage")`)."""
    return raw(msgspec.json.encode(value), status=status, content_type="application/json")


def html(status: int = 502) -> Reply:
    """A page of some machine in between: with 502, or with 200."""
    return raw(HTML, status=status, content_type="text/html; charset=utf-8")


def empty(status: int = 200, *, content_type: str | None = "text/event-stream; charset=utf-8") -> Reply:
    return raw(b"", status=status, content_type=content_type)


def garbage(size_bytes: int = 4096, *, content_type: str | None = "text/event-stream; charset=utf-8") -> Reply:
    """Bytes that are neither UTF-8 nor SSE nor JSON, the same ones each time."""
    body = bytes((at * 167 + 255 - at % 13) % 256 for at in range(size_bytes))
    return raw(body, content_type=content_type)


def json_for_stream() -> Reply:
    """A JSON answer though a stream was asked."""
    return message(form="json")


def stream_for_json() -> Reply:
    """A stream though a JSON answer was asked."""
    return message(form="sse")


def wrong_content_type(content_type: str = "text/plain") -> Reply:
    """A good answer under a content type that is not its own."""
    return message().with_headers({"content-type": content_type})


def truncated(*, body_bytes: int = -40) -> Reply:
    """An answer whose JSON or SSE stops in the middle while HTTP ends properly."""
    return message().cut("end", "bytes", body_bytes)


def no_message_stop() -> Reply:
    """A stream whose HTTP ends properly, but without its last event; a JSON answer is cut in the middle."""
    return message().cut("end", "events", -1)


def large(size_bytes: int = 10_000_000) -> Reply:
    return message("0123456789abcdef" * (size_bytes // 16))


def reset(when: Point = "request", count: int = 1) -> Reply:
    """The connection is reset (RST) at this point."""
    return message().cut("reset", when, count)


def fin(when: Point = "request", count: int = 1) -> Reply:
    """The connection is closed (FIN) at this point, the answer unfinished."""
    return message().cut("fin", when, count)


def hang(when: Point = "request", count: int = 1) -> Reply:
    """Silence from this point on, until the client goes."""
    return message().cut("hang", when, count)


def slow(wait_ms: int, after: Point = "request", count: int = 1) -> Reply:
    """A good answer with one silence in it."""
    return message().pausing(wait_ms, after, count)


def drip(drip_ms: int, *, chunk_bytes: int = 0) -> Reply:
    """A good answer, a piece at a time with a silence between."""
    return Reply(body=message().body, delivery=Delivery(chunk_bytes=chunk_bytes, drip_ms=drip_ms))
