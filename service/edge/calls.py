"""A request of the Messages API as the relay wants it: read up to a limit, and decoded no further than routing needs.

Unknown fields, headers and beta values are nobody's business here: clients and provider agree on them.
"""

import logging
import re
from collections.abc import AsyncIterator, Mapping, MutableMapping
from itertools import islice
from typing import Any, TypeVar

import msgspec
from litestar.types import Receive
from msgspec import Raw, Struct

from service.edge.keys import Client
from service.edge.named_files import Block, file_ids, named_ids
from service.edge.request_target import RequestTarget, base_url_of
from service.errors import BodyTooLarge, ClientError
from service.ledger.events import Endpoint
from service.providers.bodies import MessageSurvey, blocks_of
from service.providers.encodings import decode_body
from service.providers.truncation import cut
from service.relay import Call
from service.resources import ID_CHARS
from service.settings import Settings, Truncation

T = TypeVar("T")

log = logging.getLogger("ccproxy.edge")

RESOURCE_ID = re.compile(r"[a-z]+_(?=[A-Za-z]*[0-9])[A-Za-z0-9]{6,128}|(?=[^0-9]*[0-9])[^/]{8,}")
"""An id in a path of an endpoint that is not known: unlike a word such as count_tokens it has a digit."""
FILE_ID = re.compile(rb'"file_id"\s*:\s*"([^"\\]{1,128})"')
"""How a file is named in a body whose blocks can't be read; looking for it takes as long as reading them."""
TRIMMING = (b"clear_tool_uses", b"compact")
"""Edits of `context_management` that shorten a conversation (Anthropic's documentation)."""
MOST_FILE_IDS = 16
"""Look-ups of a request's files where all are one owner's: they live on one route, so that the first ones tell."""
MOST_IDS = 1_000
"""Look-ups at most where each has to be asked whose it is; a request may have a few hundred files."""
STAINLESS_LIMIT_S = 3_600
"""A client may shorten or lengthen its deadline up to an hour."""


MESSAGES: tuple[Endpoint, ...] = ("messages", "count_tokens")
"""Their bodies are read; their paths name no resource."""


class Gone(Exception):
    """The client has gone before its request was read."""


ABSENT = Raw()


class Thread(Struct):
    """What ties a request to earlier ones."""

    previous_message_id: str | None = None


class Container(Struct):
    """Where code of an earlier request ran."""

    id: str | None = None


class Fields(Struct):
    """What routing needs of a body, and what its messages are looked through for: a large body is read once."""

    model: str | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    container: str | Container | None = None
    thread: Thread | None = None
    context_management: Raw = ABSENT
    messages: list[MessageSurvey[Block]] | None = None


class RawFields(Struct):
    """The same of a body in which something is strange: each is left undecoded, so that it spoils no other."""

    model: Raw = ABSENT
    stream: Raw = ABSENT
    max_tokens: Raw = ABSENT
    container: Raw = ABSENT
    thread: Raw = ABSENT
    context_management: Raw = ABSENT


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_fields_decoder = msgspec.json.Decoder(Fields)
_raw_fields_decoder = msgspec.json.Decoder(RawFields)


async def read_call(
    scope: Mapping[str, Any],
    receive: Receive,
    settings: Settings,
    client: Client,
    target: RequestTarget,
    request_id: str,
    now_ms: int,
) -> Call:
    """The request as the relay wants it. Raises ClientError; Gone when the client has left."""
    headers = scope["headers"]
    named = dict(headers)
    endpoint = target.endpoint
    call = Call(
        request_id=request_id,
        method=scope["method"],
        path=target.path,
        query=target.query,
        headers=headers,
        endpoint=endpoint,
        session_id=named.get(b"x-claude-code-session-id", b"").decode("latin-1")[:64],
        credential=client.credential,
        client_key=client.key_id,
        owner=client.owner,
        shared=client.shared,
        withhold=client.withhold,
        arrived_ms=now_ms,
    )
    if endpoint not in MESSAGES:
        call.resource_ids = path_ids(target)
        call.base_url = base_url_of(scope, named, settings.base_path)
    if endpoint == "files" and call.method == "POST":
        call.upload = upload_of(receive)
    else:
        call.body = await read_body(receive, named, settings.max_body_bytes)
        call.plain = call.body
        if encoding := named.get(b"content-encoding"):
            call.plain = decode_body(call.body, encoding.decode("latin-1"), settings.max_body_bytes)
        if endpoint in MESSAGES:
            read_fields(call)
        if call.shared and (endpoint not in MESSAGES or call.blocks is None):
            call.resource_ids += named_ids(call.plain, endpoint)
        if len(call.resource_ids) > MOST_IDS:
            raise ClientError(f"the request names more than {MOST_IDS} files and other resources")
        if settings.truncation.enabled and endpoint == "messages":
            shorten(call, settings.truncation)
    call.deadline_ms = deadline_ms(named, settings, stream=call.stream)
    return call


def read_fields(call: Call) -> None:
    """Take from the body what routing needs; an unreadable body is the provider's to refuse, in its own words."""
    fields = fields_of(call.plain)
    if fields is None:
        call.unread = True
        return
    if fields.messages is not None:
        call.blocks = blocks = blocks_of(fields.messages)
        files = list(islice(dict.fromkeys(file_ids(blocks)), MOST_IDS + 1 if call.shared else MOST_FILE_IDS))
    else:
        files = [file_id.decode("latin-1") for file_id in FILE_ID.findall(call.plain)[:MOST_FILE_IDS]]
    call.model = fields.model or ""
    call.stream = fields.stream is True
    call.max_tokens = max(0, fields.max_tokens or 0)
    call.threaded = fields.thread is not None
    if fields.context_management:
        call.trimmed = any(edit in bytes(fields.context_management) for edit in TRIMMING)
    previous = fields.thread.previous_message_id if fields.thread else None
    container = fields.container.id if isinstance(fields.container, Container) else fields.container
    if files or previous or container:
        named = (text for text in (previous, container, *files) if text)
        call.resource_ids += tuple(text for text in named if call.shared or len(text) <= ID_CHARS)


def fields_of(plain: bytes) -> Fields | None:
    """The fields of a body, as far as they can be read; None when it can't."""
    try:
        return _fields_decoder.decode(plain)
    except UNREADABLE:
        pass
    try:
        raw = _raw_fields_decoder.decode(plain)
    except UNREADABLE:
        return None
    return Fields(
        model=value_of(raw.model, str),
        stream=value_of(raw.stream, bool),
        max_tokens=value_of(raw.max_tokens, int),
        container=value_of(raw.container, str) or value_of(raw.container, Container),
        thread=value_of(raw.thread, Thread) or (Thread() if value_of(raw.thread, dict) is not None else None),
        context_management=raw.context_management,
    )


def path_ids(target: RequestTarget) -> tuple[str, ...]:
    """The resource that a path names. What stands behind it is a part of it, and goes where it goes."""
    parts = target.path.split("/")[2:]
    if target.endpoint == "files":
        return tuple(parts[1:2])
    if target.endpoint == "batches":
        return tuple(parts[2:3])
    if target.endpoint == "models":
        return ()
    return tuple(part for part in parts if RESOURCE_ID.fullmatch(part))[:1]


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
    call.blocks = None
    call.headers = [header for header in call.headers if header[0] != b"content-encoding"]
    call.dropped_messages = shorter.dropped
    log.warning(
        "Truncated: %d messages left out (%d → %d tokens)",
        shorter.dropped,
        shorter.tokens_before,
        shorter.tokens_after,
        extra=told,
    )


def value_of(raw: Raw, kind: type[T]) -> T | None:
    """A field's value, None when it has none of this kind."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except UNREADABLE:
        return None


def deadline_ms(named: Mapping[bytes, bytes], settings: Settings, *, stream: bool) -> int:
    """How long the client waits: its SDK says so, else the settings."""
    if told := named.get(b"x-stainless-timeout"):  # SDKs send 600, and 20.0 for a limit of their user's
        try:
            limit_s = float(told)
        except ValueError:
            limit_s = 0.0
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
