"""The files of the Files API and other resources that a request names: it has to go where they live, and they have to
be the caller's.

Files stand in content blocks (Anthropic's documentation): as a document's or image's source, within the result of a
tool, or in a block of their own that puts them into a container. Not here: where they live (`fleet.resource_index`),
and whose they are (`relay.ownership`).
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
    """The id of a resource; a type of its own, so that the decoder tells of each one that it reads."""

    __slots__ = ()


class SeenIds(local):
    """The ids that this thread's decoder has read, also those that a second key of the same name hides."""

    def __init__(self) -> None:
        self.ids: list[str] = []


seen = SeenIds()


def note_id(kind: type, value: Any) -> ResourceId:
    """Called by the decoder for each id. Raises TypeError for what is none."""
    if kind is not ResourceId or not isinstance(value, str):
        raise TypeError("Input should be a valid string")
    seen.ids.append(value)
    return ResourceId(value)


class Source(Struct, gc=False):
    """Where a document or an image comes from; a search result's source is a text."""

    file_id: ResourceId | None = None


class Block(BlockSurvey, gc=False):
    """A content block, as far as it is looked into; results of tools have blocks of their own."""

    file_id: ResourceId | None = None
    source: Source | str | None = None
    content: "str | list[Block] | Block | None" = None


def file_ids(blocks: Iterable[Block]) -> Iterator[str]:
    """The ids of all files in the blocks, in their order; blocks may be nested as deep as the decoder goes."""
    nested = [iter(blocks)]
    while nested:
        block = next(nested[-1], None)
        if block is None:
            nested.pop()
            continue
        if block.file_id is not None:
            yield block.file_id
        if isinstance(block.source, Source) and block.source.file_id is not None:
            yield block.source.file_id
        if block.content and not isinstance(block.content, str):
            nested.append(iter(block.content if isinstance(block.content, list) else (block.content,)))


NAMES = frozenset(
    ("file_id", "container", "container_id", "previous_message_id", "thread_id", "session_id", "batch_id")
)
"""Fields that name a resource, wherever they stand."""
HOLDERS = frozenset(("container", "agent", "agents", "callable_agents"))
"""Fields whose value may also be an object with the id."""
AGENTS = HOLDERS - {"container"}
OTHER_NAMES = ("_id", "_ids")
ID = re.compile(r"[a-z]+_(?=[A-Za-z]*[0-9])[A-Za-z0-9]{6,}")
"""On endpoints that are not known, so does any other field that ends like a name and has what looks like an id. A skill
is named everywhere, those of the provider itself by a word."""
NO_NAMES = frozenset(("input", "input_schema", "metadata", "tool_use_id", "custom_tool_use_id", "custom_id"))
"""What clients and models make up themselves: nothing in it is a resource."""


class Thread(Struct):
    """What ties a request to earlier ones."""

    previous_message_id: ResourceId | None = None


class Message(Struct):
    """A message of a request."""

    content: str | list[Block] = ""


class Params(Struct):
    """What a request of a batch is about; a container is named by its id here."""

    container: ResourceId | None = None
    thread: Thread | None = None
    messages: list[Message] = []


class Item(Struct):
    """A request of a batch."""

    params: Params


class BatchBody(Struct):
    """The body that makes a batch, in its usual shape."""

    requests: list[Item] = []


BEGINS_JSON = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\n\r]*+[{\[]")
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_batch_decoder = msgspec.json.Decoder(BatchBody, dec_hook=note_id)


def named_ids(plain: bytes, endpoint: Endpoint, limits: BodyLimits) -> tuple[str, ...]:
    """The resources that a body of any endpoint names, each once. A body that is no JSON names none.

    Raises ClientError for what looks like JSON and can't be read: a provider that can would read more than is checked.
    So it does for what has too many values.
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
    """Raise ClientError for a JSON object or list of too many values, in whichever encoding the decoder reads it."""
    encoding = json.detect_encoding(plain)
    if not encoding.startswith("utf-8"):
        plain = plain.decode(encoding, "replace").encode()
    if BEGINS_JSON.match(plain):
        check_shape(plain, limits)


def refuse_hidden(found: list[str]) -> None:
    """Raise ClientError unless the decoder has read just these ids: any other is hidden by a second key."""
    if len(found) != len(seen.ids):
        raise ClientError("messages: Duplicate key on the way to the id of a resource")


def ids_in_any(plain: bytes, *, is_known: bool) -> tuple[str, ...]:
    """The resources that any JSON names, each once. Raises ClientError when a key stands twice in it."""
    return tuple(dict.fromkeys(ids_anywhere(read(plain), is_known=is_known)))


def batch_ids(batch: BatchBody) -> Iterator[str]:
    """The resources that the requests of a batch name."""
    for params in (item.params for item in batch.requests):
        previous = params.thread.previous_message_id if params.thread else None
        yield from (text for text in (params.container, previous) if text is not None)
        for message in params.messages:
            if not isinstance(message.content, str):
                yield from file_ids(message.content)


def read(plain: bytes) -> Any:
    """A body's value; None for what is no JSON. Raises ClientError when a key stands twice in it."""
    try:
        return json.loads(plain, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        if plain.lstrip()[:1] in (b"{", b"["):
            raise ClientError("the request's body is not valid JSON") from None
        return None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's fields. Raises ClientError when a key stands twice."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ClientError("the request's body has a key twice in one object")
    return fields


def ids_anywhere(value: Any, *, is_known: bool) -> Iterator[str]:
    """The ids in fields that name resources, however deep; of known endpoints no more than the usual fields."""
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
    """The ids in one field."""
    if name in NAMES:
        yield from texts_in(name, value)
    elif name == "skill_id" or (not is_known and (name in AGENTS or name.endswith(OTHER_NAMES))):
        yield from filter(ID.fullmatch, texts_in(name, value))


def texts_in(name: str, value: Any) -> Iterator[str]:
    """The texts of one field: itself, or the elements of its list; of objects that hold an id, the id."""
    for element in value if isinstance(value, list) else [value]:
        text = element.get("id") if name in HOLDERS and isinstance(element, dict) else element
        if isinstance(text, str):
            yield text
