"""Finds the files and other resources that a request references: it must go to their route, and its sender must own
them.

Files are referenced in content blocks (Anthropic's documentation): as a document's or image's source, in a tool result,
in the blocks of which a document consists, or in a block that puts them into a container. Not here: their routes
(`fleet.resource_index`) and owners (`relay.ownership`).
"""

import json
import re
from collections.abc import Iterable, Iterator
from threading import local
from typing import Any

import msgspec
from msgspec import Struct

from service.errors import ClientError
from service.ledger.events import Endpoint
from service.protocol.body_survey import BlockSurvey
from service.protocol.json_shape import check_shape
from service.settings import BodyLimits


class ResourceId(str):
    """A resource id; a separate type, so that the decoder calls a hook for each one."""

    __slots__ = ()


class SeenIds(local):
    """Ids that this thread's decoder has read, including those hidden by a duplicate key."""

    def __init__(self) -> None:
        self.ids: list[str] = []


seen = SeenIds()


def note_id(kind: type, value: Any) -> ResourceId:
    """Decoder hook for each id. Raises TypeError for an invalid one."""
    if kind is not ResourceId or not isinstance(value, str):
        raise TypeError("Input should be a valid string")
    seen.ids.append(value)
    return ResourceId(value)


class Source(Struct, gc=False):
    """Source of a document or an image; a search result's source is a text. A document's may be blocks of its own, with
    images (`BetaContentBlockSource` of the SDK)."""

    file_id: ResourceId | None = None
    content: "str | list[Block] | Block | None" = None


class Block(BlockSurvey, gc=False):
    """The fields of a content block that may reference files; tool results contain blocks."""

    file_id: ResourceId | None = None
    source: Source | str | None = None
    content: "str | list[Block] | Block | None" = None  # type: ignore[assignment]  # of the same kind, and never replaced


def file_ids(blocks: Iterable[Block]) -> Iterator[str]:
    """Yield the ids of all files in the blocks, in order, at any depth that the decoder accepts."""
    nested = [iter(blocks)]
    while nested:
        block = next(nested[-1], None)
        if block is None:
            nested.pop()
            continue
        if block.file_id is not None:
            yield block.file_id
        if block.content:
            nested.append(blocks_in(block.content))
        if isinstance(block.source, Source):
            if block.source.file_id is not None:
                yield block.source.file_id
            if block.source.content:
                nested.append(blocks_in(block.source.content))


def blocks_in(content: str | list[Block] | Block) -> Iterator[Block]:
    """Yield the blocks of a content; a text has none."""
    if isinstance(content, Block):
        yield content
    elif not isinstance(content, str):
        yield from content


NAMES = frozenset(
    ("file_id", "container", "container_id", "previous_message_id", "thread_id", "session_id", "batch_id")
)
"""Fields that reference a resource, anywhere."""
HOLDERS = frozenset(("container", "agent", "agents", "callable_agents"))
"""Fields whose value may also be an object with the id."""
AGENTS = HOLDERS - {"container"}
OTHER_NAMES = ("_id", "_ids")
ID = re.compile(r"[a-z]+_(?=[A-Za-z]*[0-9])[A-Za-z0-9]{6,}")
"""On unknown endpoints, any other field with a similar name and a value that looks like an id counts too. Skills are
named everywhere, the provider's own by a word."""
NO_NAMES = frozenset(("input", "input_schema", "metadata", "tool_use_id", "custom_tool_use_id", "custom_id"))
"""Fields with arbitrary content from clients and models, which reference no resource."""


class Thread(Struct):
    """The thread of a request."""

    previous_message_id: ResourceId | None = None
    type: str | None = None


class Message(Struct):
    """A message of a request."""

    content: str | list[Block] = ""


class Params(Struct):
    """The parameters of a batch item; a container is referenced by its id here."""

    container: ResourceId | None = None
    thread: Thread | None = None
    messages: list[Message] = []


class Item(Struct):
    """An item of a batch."""

    params: Params


class BatchBody(Struct):
    """The body that creates a batch, in its usual shape."""

    requests: list[Item] = []


BEGINS_JSON = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\n\r]*+[{\[]")
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_batch_decoder = msgspec.json.Decoder(BatchBody, dec_hook=note_id)


def named_ids(plain: bytes, endpoint: Endpoint, limits: BodyLimits) -> tuple[str, ...]:
    """Return the resources that a body of any endpoint references, without duplicates; none if it is not JSON.

    Raises ClientError for malformed JSON, which a more tolerant provider might read differently than we checked, and
    for too many values.
    """
    check_json(plain, limits)
    seen.ids = []
    try:
        found = list(batch_ids(_batch_decoder.decode(plain))) if endpoint == "batches" else None
    except UNREADABLE:
        found = None
    if found is None:
        return ids_in_any(plain, is_known=endpoint != "other")
    refuse_hidden(found)
    return tuple(dict.fromkeys(found))


def check_json(plain: bytes, limits: BodyLimits) -> None:
    """Raise ClientError for a JSON object or list with too many values, in any encoding that the decoder accepts."""
    encoding = json.detect_encoding(plain)
    if not encoding.startswith("utf-8"):
        plain = plain.decode(encoding, "replace").encode()
    if BEGINS_JSON.match(plain):
        check_shape(plain, limits)


def refuse_hidden(found: list[str]) -> None:
    """Raise ClientError unless the decoder has read exactly these ids: others are hidden by a duplicate key."""
    if len(found) != len(seen.ids):
        raise ClientError("messages: Duplicate key on the way to the id of a resource")


def ids_in_any(plain: bytes, *, is_known: bool) -> tuple[str, ...]:
    """Return the resources that any JSON references, without duplicates. Raises ClientError for duplicate keys."""
    return tuple(dict.fromkeys(ids_anywhere(read(plain), is_known=is_known)))


def batch_ids(batch: BatchBody) -> Iterator[str]:
    """Yield the resources that a batch's items reference."""
    for params in (item.params for item in batch.requests):
        previous = params.thread.previous_message_id if params.thread else None
        yield from (text for text in (params.container, previous) if text is not None)
        for message in params.messages:
            if not isinstance(message.content, str):
                yield from file_ids(message.content)


def read(plain: bytes) -> Any:
    """Decode a body; None if it is not JSON. Raises ClientError for duplicate keys."""
    try:
        return json.loads(plain, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        if plain.lstrip()[:1] in (b"{", b"["):
            raise ClientError("the request's body is not valid JSON") from None
        return None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object's fields. Raises ClientError for duplicate keys."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ClientError("the request's body has a key twice in one object")
    return fields


def ids_anywhere(value: Any, *, is_known: bool) -> Iterator[str]:
    """Yield the ids in fields that reference resources, at any depth; for known endpoints only the usual fields."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            for name, inner in value.items():
                if name not in NO_NAMES:
                    yield from ids_of(name, inner, is_known=is_known)
                    waiting.append(inner)


def ids_of(name: str, value: Any, *, is_known: bool) -> Iterator[str]:
    """Yield the ids in one field."""
    if name in NAMES:
        yield from texts_in(name, value)
    elif name == "skill_id" or (not is_known and (name in AGENTS or name.endswith(OTHER_NAMES))):
        yield from filter(ID.fullmatch, texts_in(name, value))


def texts_in(name: str, value: Any) -> Iterator[str]:
    """Yield the texts in a field: its value, the items of a list, or the id of an object."""
    for element in value if isinstance(value, list) else [value]:
        text = element.get("id") if name in HOLDERS and isinstance(element, dict) else element
        if isinstance(text, str):
            yield text
