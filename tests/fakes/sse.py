"""Builds a model's answer as Anthropic frames it: one JSON, or a list of server-sent events with what each reveals.

It knows nothing of sockets or HTTP. The vendors differ in when they tell the usage; that difference lives here.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from tests.fakes.language import Block, Message, ServerToolUse, StreamError, Text, Thinking, ToolUse, Usage

DELTA_CHARS = 24  # small, so that even short texts come in several deltas

NO_USAGE = Usage()

UsageStyle = Literal["anthropic", "zai"]


@dataclass(frozen=True)
class Piece:
    """Bytes that are written together, by name, and the usage that a reader knows once it has them all."""

    name: str
    data: bytes
    usage: Usage = NO_USAGE


@dataclass(frozen=True)
class Made:
    """A message made concrete: ids, model and usage are settled."""

    message: Message
    model: str
    usage: Usage
    style: UsageStyle
    message_id: str = field(default_factory=lambda: "msg_01" + secrets.token_hex(11))
    container: dict[str, str] | None = None

    @property
    def stop_reason(self) -> str:
        calls = any(isinstance(block, ToolUse) for block in self.message.content)
        return self.message.stop_reason or ("tool_use" if calls else "end_turn")


def usage_fields(usage: Usage) -> dict[str, Any]:
    """The usage object of a whole answer."""
    return {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.output,
        "service_tier": "standard",
    }


def zai_usage_fields(usage: Usage) -> dict[str, Any]:
    """Z.AI tells neither cache writes nor their split."""
    return {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_read_input_tokens": usage.cache_read,
        "service_tier": "standard",
    }


def told(usage: Usage, style: UsageStyle) -> Usage:
    """What of a usage this vendor's fields can tell."""
    if style == "anthropic":
        return usage
    return Usage(input=usage.input, output=usage.output, cache_read=usage.cache_read)


def signature(style: UsageStyle) -> str:
    """A thinking signature that tells its vendor, so that the fakes can refuse each other's."""
    return f"sig-{style}-{secrets.token_hex(24)}"


def block_fields(block: Block, style: UsageStyle) -> dict[str, Any]:
    """A content block as it stands in a whole answer."""
    match block:
        case Text(text):
            return {"type": "text", "text": text}
        case Thinking(thinking, given):
            return {"type": "thinking", "thinking": thinking, "signature": given or signature(style)}
        case ToolUse(name, arguments, block_id):
            tool_id = block_id or ("toolu_01" if style == "anthropic" else "call_") + secrets.token_hex(11)
            return {"type": "tool_use", "id": tool_id, "name": name, "input": arguments}
        case ServerToolUse(name, arguments, block_id):
            tool_id = block_id or ("srvtoolu_01" if style == "anthropic" else "call_") + secrets.token_hex(11)
            return {"type": "server_tool_use", "id": tool_id, "name": name, "input": arguments}


def message_fields(made: Made) -> dict[str, Any]:
    """The whole answer as one JSON object."""
    fields: dict[str, Any] = {
        "id": made.message_id,
        "type": "message",
        "role": "assistant",
        "model": made.model,
        "content": [block_fields(block, made.style) for block in made.message.content],
        "stop_reason": made.stop_reason,
        "stop_sequence": None,
        "usage": usage_fields(made.usage) if made.style == "anthropic" else zai_usage_fields(made.usage),
    }
    if made.container:
        fields["container"] = made.container
    return fields


def message_json(made: Made) -> Piece:
    return Piece("body", msgspec.json.encode(message_fields(made)), told(made.usage, made.style))


def event(name: str, fields: dict[str, Any], *, padding: int = 0, usage: Usage = NO_USAGE) -> Piece:
    """One event; the API pads the JSON with blanks before its last brace, and so does this."""
    text = msgspec.json.encode({"type": name, **fields})
    data = text[:-1] + b" " * padding + b"}"
    return Piece(name, b"event: " + name.encode() + b"\ndata: " + data + b"\n\n", usage)


def message_events(made: Made) -> list[Piece]:
    """The whole answer as events, ended early by the message's error if it has one."""
    early = _early_usage(made)
    pieces = [_prelude(kind) for kind in made.message.prelude]
    pieces.append(_message_start(made, early))
    for index, block in enumerate(made.message.content):
        block_pieces = _block_events(index, block_fields(block, made.style), early)
        if index == 0:
            block_pieces.insert(1, event("ping", {}, usage=early))
        pieces += block_pieces
    pieces += [_message_delta(made), event("message_stop", {}, padding=made.usage.output % 9, usage=_final_usage(made))]
    return _with_error(pieces, made.message.error) if made.message.error else pieces


def _early_usage(made: Made) -> Usage:
    """What `message_start` tells: the input and one token of output; from Z.AI zeros."""
    if made.style == "zai":
        return Usage()
    return msgspec.structs.replace(made.usage, output=min(1, made.usage.output))


def _final_usage(made: Made) -> Usage:
    return told(made.usage, made.style)


def _prelude(kind: Literal["ping", "comment"]) -> Piece:
    return event("ping", {}) if kind == "ping" else Piece("comment", b": waiting\n\n")


def _message_start(made: Made, early: Usage) -> Piece:
    fields = message_fields(made) | {"content": [], "stop_reason": None}
    fields["usage"] = usage_fields(early) if made.style == "anthropic" else {"input_tokens": 0, "output_tokens": 0}
    return event("message_start", {"message": fields}, padding=made.usage.input % 11, usage=early)


def _message_delta(made: Made) -> Piece:
    delta: dict[str, Any] = {"stop_reason": made.stop_reason, "stop_sequence": None}
    if made.container:
        delta["container"] = made.container
    usage = usage_fields(made.usage) if made.style == "anthropic" else zai_usage_fields(made.usage)
    for untold in ("cache_creation", "service_tier"):  # these two come with message_start only
        usage.pop(untold, None)
    return event("message_delta", {"delta": delta, "usage": usage}, padding=3, usage=_final_usage(made))


def _block_events(index: int, block: dict[str, Any], usage: Usage) -> list[Piece]:
    """Start, deltas and stop of one block."""
    start, deltas = _opened(block)
    pieces = [event("content_block_start", {"index": index, "content_block": start}, padding=index % 7, usage=usage)]
    for number, delta in enumerate(deltas):
        fields = {"index": index, "delta": delta}
        pieces.append(event("content_block_delta", fields, padding=(number * 5) % 13, usage=usage))
    pieces.append(event("content_block_stop", {"index": index}, padding=(index * 3) % 11, usage=usage))
    return pieces


def _opened(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The block as it starts, empty, and the deltas that fill it."""
    if block["type"] == "text":
        parts = _parts(block["text"])
        return block | {"text": ""}, [{"type": "text_delta", "text": part} for part in parts]
    if block["type"] == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": part} for part in _parts(block["thinking"])]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
        return block | {"thinking": "", "signature": ""}, deltas
    arguments = msgspec.json.encode(block["input"]).decode()
    parts = ["", *_parts(arguments)]
    return block | {"input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in parts]


def _parts(text: str) -> list[str]:
    """The text in pieces; a long one in longer pieces, so that megabytes don't become a million events."""
    size = max(DELTA_CHARS, len(text) // 200)
    return [text[at : at + size] for at in range(0, len(text), size)]


def error_event(error: StreamError, usage: Usage) -> Piece:
    return event("error", {"error": {"type": error.error_type, "message": error.message}}, usage=usage)


def _with_error(pieces: list[Piece], error: StreamError) -> list[Piece]:
    """The events up to the error's place, then the error, then nothing."""
    names = [piece.name for piece in pieces]
    if error.after == "start":
        kept = pieces[: names.index("message_start")]
    elif error.after == "message_start" or "content_block_delta" not in names:
        kept = pieces[: names.index("message_start") + 1]
    else:
        kept = pieces[: names.index("content_block_delta") + 1]
    return [*kept, error_event(error, kept[-1].usage if kept else Usage())]
