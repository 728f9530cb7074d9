"""A request of the Messages API as the relay wants it: read up to a limit, and decoded no further than routing needs.

Unknown fields, headers and beta values are nobody's business here: clients and provider agree on them.
"""

import contextlib
import logging
import re
from collections.abc import AsyncIterator, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote

import msgspec
from litestar.types import Receive
from msgspec import Raw, Struct

from service.edge.keys import Client
from service.errors import BodyTooLarge, NotFound
from service.ledger.events import Endpoint
from service.providers.encodings import decode_body
from service.providers.truncation import cut
from service.relay import Call
from service.settings import Settings, Truncation

log = logging.getLogger("ccproxy.edge")

RESOURCE_ID = re.compile(r"[a-z]+_(?=[A-Za-z]*[0-9])[A-Za-z0-9]{6,128}")
"""An id in a path: unlike a word such as count_tokens it has a digit."""
FILE_ID = re.compile(rb'"file_id"\s*:\s*"([^"\\]{1,128})"')
ID_CHARS = 128
TRIMMING = (b"clear_tool_uses", b"compact")
"""Edits of `context_management` that shorten a conversation (Anthropic's documentation)."""
MOST_FILE_IDS = 16
"""Look-ups of a request's files; all of them live on one route, so that the first ones tell."""
STAINLESS_LIMIT_S = 3_600
"""A client may shorten or lengthen its deadline up to an hour."""


class Gone(Exception):
    """The client has gone before its request was read."""


class Thread(Struct):
    """What ties a request to earlier ones."""

    previous_message_id: str = ""


class Fields(Struct):
    """What routing needs of a body; each is left undecoded, so that a strange one spoils nothing."""

    model: Raw = Raw(b"null")
    stream: Raw = Raw(b"null")
    max_tokens: Raw = Raw(b"null")
    container: Raw = Raw(b"null")
    thread: Raw = Raw(b"null")
    context_management: Raw = Raw(b"null")
    messages: Raw = Raw(b"null")


_fields_decoder = msgspec.json.Decoder(Fields)


async def read_call(
    scope: Mapping[str, Any], receive: Receive, settings: Settings, client: Client, request_id: str, now_ms: int
) -> Call:
    """The request as the relay wants it. Raises ClientError; Gone when the client has left."""
    headers = [(bytes(name).lower(), bytes(value)) for name, value in scope["headers"]]
    named = dict(headers)
    path = path_of(scope, settings.base_path)
    endpoint = endpoint_of(scope["method"], path)
    call = Call(
        request_id=request_id,
        method=scope["method"],
        path=path,
        query=bytes(scope.get("query_string", b"")).decode("latin-1"),
        headers=headers,
        endpoint=endpoint,
        session_id=named.get(b"x-claude-code-session-id", b"").decode("latin-1")[:64],
        resource_ids=tuple(part for part in path.split("/") if RESOURCE_ID.fullmatch(part)),
        credential=client.credential,
        client_key=client.key_id,
        may_use_owners=client.may_use_owners,
        withhold=client.withhold,
        base_url=base_url_of(scope, named, settings.base_path),
        arrived_ms=now_ms,
    )
    if endpoint == "files" and call.method == "POST":
        call.upload = upload_of(receive)
    else:
        call.body = await read_body(receive, named, settings.max_body_bytes)
        call.plain = decode_body(
            call.body, named.get(b"content-encoding", b"").decode("latin-1"), settings.max_body_bytes
        )
        if endpoint in ("messages", "count_tokens"):
            read_fields(call)
        if settings.truncation.enabled and endpoint == "messages":
            shorten(call, settings.truncation)
    call.deadline_ms = deadline_ms(named, settings, stream=call.stream)
    return call


def read_fields(call: Call) -> None:
    """Take from the body what routing needs; an unreadable body is the provider's to refuse, in its own words."""
    try:
        fields = _fields_decoder.decode(call.plain)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    call.messages = fields.messages
    model, container = value_of(fields.model), value_of(fields.container)
    call.model = model if isinstance(model, str) else ""
    call.stream = value_of(fields.stream) is True
    most = value_of(fields.max_tokens)
    call.max_tokens = most if isinstance(most, int) and most > 0 else 0
    call.trimmed = any(edit in bytes(fields.context_management) for edit in TRIMMING)
    thread = value_of(fields.thread)
    call.threaded = isinstance(thread, dict)
    previous = thread.get("previous_message_id") if isinstance(thread, dict) else None
    named = [previous, container, container.get("id") if isinstance(container, dict) else None]
    files = FILE_ID.findall(call.plain)[:MOST_FILE_IDS] if b'"file_id"' in call.plain else []
    ids = [text for text in named if isinstance(text, str) and 0 < len(text) <= ID_CHARS]
    call.resource_ids += (*ids, *(file_id.decode("latin-1") for file_id in files))


def shorten(call: Call, truncation: Truncation) -> None:
    """Leave the oldest messages out of a conversation that is too long, and say so."""
    shorter = cut(call.plain, truncation.most_tokens)
    if shorter is None:
        return
    told = {"request": call.request_id}
    if not shorter.dropped:
        log.warning("truncation.skipped: %d tokens, and nothing can be cut", shorter.tokens_before, extra=told)
        return
    call.body = call.plain = shorter.body
    call.messages = None
    call.headers = [header for header in call.headers if header[0] != b"content-encoding"]
    call.dropped_messages = shorter.dropped
    log.warning(
        "Truncated: %d messages left out (%d → %d tokens)",
        shorter.dropped,
        shorter.tokens_before,
        shorter.tokens_after,
        extra=told,
    )


def value_of(raw: Raw) -> Any:
    """A field's value, None when it has none that can be read."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def path_of(scope: Mapping[str, Any], base_path: str) -> str:
    """The path from /v1/ on, with its escapes. Raises NotFound for one that leads elsewhere."""
    raw = scope.get("raw_path") or scope["path"].encode()
    path = bytes(raw).split(b"?")[0].decode("latin-1").removeprefix(base_path)
    if any(part in (".", "..") for part in unquote(path).replace("\\", "/").split("/")):
        raise NotFound("the path has dot segments")
    return path


def asked_for(scope: Mapping[str, Any], base_path: str) -> Endpoint:
    """What kind of request it is, for counting; a path that leads elsewhere is another."""
    try:
        return endpoint_of(scope["method"], path_of(scope, base_path))
    except NotFound:
        return "other"


def endpoint_of(method: str, path: str) -> Endpoint:
    """What kind of request a path is, however it is escaped."""
    path = unquote(path).rstrip("/")
    if method == "POST" and path in ("/v1/messages", "/v1/messages/count_tokens"):
        return "messages" if path == "/v1/messages" else "count_tokens"
    for prefix, endpoint in PREFIXES.items():
        if path == prefix or path.startswith(prefix + "/"):
            return endpoint
    return "other"


PREFIXES: dict[str, Endpoint] = {"/v1/messages/batches": "batches", "/v1/models": "models", "/v1/files": "files"}


def base_url_of(scope: Mapping[str, Any], named: Mapping[bytes, bytes], base_path: str) -> str:
    """This proxy as the client sees it."""
    host = named.get(b"host", b"").decode("latin-1")
    return f"{scope.get('scheme', 'http')}://{host}{base_path}"


def deadline_ms(named: Mapping[bytes, bytes], settings: Settings, *, stream: bool) -> int:
    """How long the client waits: its SDK says so, else the settings."""
    with contextlib.suppress(ValueError):
        limit_s = float(named.get(b"x-stainless-timeout", b""))  # SDKs send 600, and 20.0 for a limit of their user's
        if 0 < limit_s <= STAINLESS_LIMIT_S:
            return max(1, int(limit_s * 1000))
    return settings.timeouts.stream_ms if stream else settings.timeouts.request_ms


async def read_body(receive: Receive, named: Mapping[bytes, bytes], limit_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge, as soon as that is known."""
    length = named.get(b"content-length", b"")
    if length.isdigit() and int(length) > limit_bytes:
        raise too_large(limit_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message: MutableMapping[str, Any] = await receive()  # type: ignore[assignment]
        if message["type"] == "http.disconnect":
            raise Gone
        part = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise too_large(limit_bytes)
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(limit_bytes: int) -> BodyTooLarge:
    """The body is over the limit, with the mend."""
    return BodyTooLarge(f"the request is larger than {limit_bytes:,} bytes (MAX_BODY_BYTES)")


async def upload_of(receive: Receive) -> AsyncIterator[bytes]:
    """The body as it comes; raises Gone when the client leaves in the middle."""
    while True:
        message: MutableMapping[str, Any] = await receive()  # type: ignore[assignment]
        if message["type"] == "http.disconnect":
            raise Gone
        if part := message.get("body", b""):
            yield part
        if not message.get("more_body"):
            return
