"""Reads a request's body within limits, decodes it, and parses it with `body_fields`.

Slow work is done in a thread, so that other requests continue. Not here: the fields' meaning (`body_fields`), and the
head of a request (`request_parser`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, MutableMapping
from typing import Any

from litestar.types import Receive

from service.edge.body_fields import checked_ids, read_fields
from service.edge.body_memory import MemoryShare
from service.errors import BodyTooLarge, ClientError
from service.ledger.events import Endpoint
from service.protocol.body_survey import LARGE_BYTES
from service.protocol.content_coding import decode_body
from service.protocol.file_refs import named_ids
from service.protocol.truncation import cut
from service.relay import ClientRequest
from service.settings import Settings, Truncation
from service.telemetry.log import Sentence

log = logging.getLogger("ccproxy.edge")

READ_BODIES: tuple[Endpoint, ...] = ("messages", "count_tokens")
"""Endpoints whose bodies are parsed; in others only referenced resources are searched, if resources have owners."""
FREE_BYTES = LARGE_BYTES
"""Size that any compressed body may expand to, whatever its ratio: logs and blank images compress to a hundredth and
less, and this much is parsed without a thread."""
TRUNCATED = "Truncated: {messages} messages left out ({tokens_before:,} → {tokens_after:,} tokens)"
UNCUT = "Not truncated: {tokens_before:,} tokens, and nothing can be left out"
BLOCK_BYTES = 256
"""Estimated memory per content block, without its texts."""


class ClientDisconnected(Exception):
    """The client disconnected before its request was read."""


async def take_body(
    call: ClientRequest, receive: Receive, named: Mapping[bytes, bytes], settings: Settings, share: MemoryShare
) -> None:
    """Read the body into the request. Raises ClientError, BodyMemoryFull, ClientDisconnected."""
    if call.endpoint == "files" and call.method == "POST":
        call.upload = upload_of(receive)
        return
    call.body = call.plain = await read_body(receive, named, settings.max_body_bytes, share)
    if call.endpoint not in READ_BODIES and not (call.shared and call.body):
        return
    encoding = encoding_of(call, named) if b"content-encoding" in named else ""
    if encoding:
        await decode(call, encoding, settings, share)
    if len(call.plain) <= LARGE_BYTES:
        look_into(call, settings)
    else:
        await look_into_large(call, settings, share)
    if call.messages:
        share.add(call.block_count * BLOCK_BYTES)


def encoding_of(call: ClientRequest, named: Mapping[bytes, bytes]) -> str:
    """Return the content encoding. Raises ClientError if there are two headers: others might use the other one."""
    if sum(name == b"content-encoding" for name, _ in call.headers) > 1:
        raise ClientError("the request has two content-encoding headers")
    return named[b"content-encoding"].decode("latin-1")


async def decode(call: ClientRequest, encoding: str, settings: Settings, share: MemoryShare) -> None:
    """Decode the content encoding; memory for the maximum result is reserved first."""
    most = min(settings.max_body_bytes, max(FREE_BYTES, settings.bodies.expansion * len(call.body)))
    share.add(most)
    if most <= LARGE_BYTES:
        call.plain = decode_body(call.body, encoding, most)
    else:
        call.plain = await asyncio.to_thread(decode_body, call.body, encoding, most)
    share.give_back(most - len(call.plain))


def look_into(call: ClientRequest, settings: Settings) -> None:
    """Parse the body's fields, or on other endpoints the resources it references; truncate it if configured."""
    if call.endpoint not in READ_BODIES:
        call.resource_ids += checked_ids(named_ids(call.plain, call.endpoint, settings.bodies))
        return
    read_fields(call, settings.bodies)
    if settings.truncation.enabled and call.endpoint == "messages":
        shorten(call, settings.truncation)


async def look_into_large(call: ClientRequest, settings: Settings, share: MemoryShare) -> None:
    """Parse in a thread; memory for the maximum number of blocks is reserved first."""
    most = min(call.plain.count(b"{"), 2 * settings.bodies.content_blocks) * BLOCK_BYTES
    share.add(most)
    await asyncio.to_thread(look_into, call, settings)
    share.give_back(most)


async def read_body(receive: Receive, named: Mapping[bytes, bytes], limit_bytes: int, share: MemoryShare) -> bytes:
    """Read the whole body. Raises BodyTooLarge as early as possible."""
    length = named.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit_bytes:
        raise too_large(limit_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message: MutableMapping[str, Any] = await receive()  # type: ignore[assignment]
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        part = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise too_large(limit_bytes)
        share.add(len(part))
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(limit_bytes: int) -> BodyTooLarge:
    """Return the error for a body above the limit, with the fix."""
    return BodyTooLarge(f"the request is larger than {limit_bytes:,} bytes (MAX_BODY_BYTES)")


async def upload_of(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the body as it arrives; raises ClientDisconnected if the client disconnects meanwhile."""
    while True:
        message: MutableMapping[str, Any] = await receive()  # type: ignore[assignment]
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        if part := message.get("body", b""):
            yield part
        if not message.get("more_body"):
            return


def shorten(call: ClientRequest, truncation: Truncation) -> None:
    """Drop the oldest messages of a conversation that is too long, and log it."""
    shorter = cut(call.plain, truncation.most_tokens)
    if shorter is None:
        return
    extra = {"request": call.request_id}
    values = {"messages": shorter.dropped, "tokens_before": shorter.tokens_before, "tokens_after": shorter.tokens_after}
    if not shorter.dropped:
        log.warning(Sentence(name="request.not_truncated", template=UNCUT, values=values), extra=extra)
        return
    call.body = call.plain = shorter.body
    call.messages = None
    call.headers = [header for header in call.headers if header[0] != b"content-encoding"]
    call.dropped_messages = shorter.dropped
    log.warning(Sentence(name="request.truncated", template=TRUNCATED, values=values), extra=extra)
