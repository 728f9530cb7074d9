"""A provider's answers for the fuzz: framed, cut, encoded and worded in any way that a provider may, the same for the
same request. Each tells the marker of the request that it belongs to, and a usage that follows from it.

Not here: what is compared (`fuzz`).
"""

import gzip
import json
import random
import re
import zlib
from collections.abc import Callable
from typing import Any

from service.ledger.events import TokenCounts
from tests.attacks.fuzz_requests import MARKER
from tests.attacks.raw import RawResponse, SeenRequest

ECHO = re.compile(rb"said (fz-[a-z0-9-]+)")
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.compress, "deflate": zlib.compress}


def said_by_provider(seen: SeenRequest, plain: bytes) -> bytes:
    """The answer to a request with this body."""
    marker = marker_of(seen)
    chance = random.Random(marker)  # noqa: S311 - it has to be the same again
    path = seen.target.split(b"?")[0]
    if path == b"/v1/messages" and seen.method == b"POST":
        if b'"stream":true' in plain.replace(b" ", b""):
            return framed(stream_for(marker, chance), "text/event-stream; charset=utf-8", chance)
        text = json.dumps(message_for(marker, chance), indent=chance.choice((None, 1))).encode()
        return framed(text, "application/json", chance)
    if path == b"/v1/messages/count_tokens":
        return framed(json.dumps({"input_tokens": 5, "marker": f"said {marker}"}).encode(), "application/json", chance)
    told = framed(json.dumps({"data": [], "marker": f"said {marker}"}).encode(), "application/json", chance)
    return told.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if seen.method == b"HEAD" else told


def marker_of(seen: SeenRequest) -> str:
    """The marker of a request as it was forwarded."""
    return b"|".join(seen.values(MARKER.encode())).decode("latin-1")


def echo_of(told: RawResponse) -> str:
    """The marker of the request that an answer of the provider's belongs to, "" for other answers."""
    found = ECHO.search(told.body)
    return found[1].decode() if found else ""


def usage_for(marker: str) -> TokenCounts:
    """What a request with this marker is said to have used; much of it is often nothing."""
    chance = random.Random(f"usage {marker}")  # noqa: S311 - it has to be the same again
    some = [chance.choice((0, chance.randrange(1, 10_000))) for _ in range(3)]
    output, cached = chance.randrange(2, 10_000), (some[0], some[1], some[2])
    return TokenCounts(chance.randrange(1, 10_000), output, *cached)


def framed(body: bytes, content_type: str, chance: random.Random) -> bytes:
    """An answer, in chunks of any size or by its length, and perhaps encoded."""
    encoding = chance.choice(("", "", "", *ENCODINGS))
    packed = ENCODINGS[encoding](body)
    lines = [b"HTTP/1.1 200 OK", b"content-type: " + content_type.encode()]
    lines += [b"content-encoding: " + encoding.encode()] if encoding else []
    if chance.random() < 0.5:
        return b"\r\n".join([*lines, b"content-length: %d" % len(packed), b"", packed])
    return b"\r\n".join([*lines, b"transfer-encoding: chunked", b"", chunks(packed, chance)])


def chunks(body: bytes, chance: random.Random) -> bytes:
    """A body in chunks, cut anywhere."""
    parts = []
    while body:
        size = chance.choice((1, 5, 40, 1_000))
        parts.append(b"%x\r\n%b\r\n" % (len(body[:size]), body[:size]))
        body = body[size:]
    return b"".join(parts) + b"0\r\n\r\n"


def message_for(marker: str, chance: random.Random) -> dict[str, Any]:
    """A message that has used what it should."""
    return {
        "id": "msg_01Fuzz", "type": "message", "role": "assistant", "model": "claude-haiku-4-5",
        "content": [{"type": "text", "text": f"said {marker}"}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": input_usage(marker, chance) | {"output_tokens": usage_for(marker).output},
    }  # fmt: skip


def input_usage(marker: str, chance: random.Random) -> dict[str, Any]:
    """What a message says of its input."""
    used = usage_for(marker)
    written = used.cache_write_5m + used.cache_write_1h
    found: dict[str, Any] = {
        "input_tokens": used.input,
        "cache_read_input_tokens": used.cache_read or chance.choice((0, None)),
    }
    split = {"ephemeral_5m_input_tokens": used.cache_write_5m, "ephemeral_1h_input_tokens": used.cache_write_1h}
    return found | {"cache_creation_input_tokens": written, "cache_creation": split, "later": {"input_tokens": 5}}


def stream_for(marker: str, chance: random.Random) -> bytes:
    """The same as an event stream."""
    output = usage_for(marker).output
    message = message_for(marker, chance) | {"content": [], "stop_reason": None}
    message["usage"] = input_usage(marker, chance) | {"output_tokens": 1}
    tokens = sorted(chance.sample(range(1, output), min(output - 1, chance.choice((0, 0, 1, 3)))))
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": f"said {marker}"}},
        {"type": "content_block_stop", "index": 0},
        *({"type": "message_delta", "delta": {}, "usage": {"output_tokens": number}} for number in tokens),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": output}},
        {"type": "message_stop"},
    ]
    for extra in chance.sample(EXTRAS, chance.choice((0, 0, 1, 2))):
        events.insert(chance.randrange(1, len(events) - 1), extra)
    end = chance.choice(("\n", "\n", "\r\n"))
    return "".join(f"event: {one['type']}{end}data: {json.dumps(one)}{end}{end}" for one in events).encode()


EXTRAS: list[dict[str, Any]] = [
    {"type": "ping"},
    {"type": "later_event", "usage": {"output_tokens": 99_999}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "later_delta", "usage": {"output_tokens": 99_999}}},
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": '"usage":{"output_tokens":99999}'},
    },
]
