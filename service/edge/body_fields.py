"""The fields of a body that decide something here, read strictly: what they mean here is what they mean to everybody.

A parser may take the first of two keys or the last, 1 for true, or skip a byte order mark; whoever reads the body next
may do otherwise, and limits would be walked around. So a body that leaves room for two readings is refused, in the
words of the Messages API. What decides nothing here (nearly all of a body) is not looked at.

Not here: how large a body may be (`service.protocol.json_shape`, `body_reader`), or what a key may ask for
(`key_limits`).
"""

import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from service.errors import ClientError
from service.fleet.resource_index import ID_CHARS
from service.ledger.model_names import NAME_CHARS
from service.protocol.body_survey import MessageSurvey, blocks_of
from service.protocol.file_refs import Block, Thread, file_ids, ids_in_any, note_id, refuse_hidden, seen
from service.protocol.json_shape import check_shape, too_many_blocks
from service.relay import ClientRequest
from service.settings import BodyLimits

T = TypeVar("T")
Object = dict[str, Raw]

MOST_TOKENS = 2**31 - 1
MOST_FILE_IDS = 16
"""Look-ups of a request's files where all are one owner's: they live on one route, so that the first ones tell."""
MOST_IDS = 1_000
"""Look-ups at most where each has to be asked whose it is; a request may have a few hundred files."""
TRIMMING = (b"clear_tool_uses", b"compact")
"""Edits of `context_management` that shorten a conversation (Anthropic's documentation)."""
KEY = re.compile(rb'[ \t\n\r]*+("(?:[^"\\]++|\\.)*+")[ \t\n\r]*+:[ \t\n\r]*+', re.DOTALL)
KEY_CHARS = 10_000
"""Matching goes on for as long as a key is, and nothing else runs meanwhile."""
SEPARATOR = re.compile(rb"[ \t\n\r]*+[,}]")
HALF_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Container(Struct):
    """Where code of an earlier request ran."""

    id: str | None = None


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
OBJECT = msgspec.json.Decoder(Object)
TEXT = msgspec.json.Decoder(str)
FLAG = msgspec.json.Decoder(bool | None)
NUMBER = msgspec.json.Decoder(int | float | None)
THREAD = msgspec.json.Decoder(Thread | None, dec_hook=note_id)
CONTAINER = msgspec.json.Decoder(str | Container | None)
MESSAGES = msgspec.json.Decoder(list[MessageSurvey[Block]], dec_hook=note_id)


def read_fields(call: ClientRequest, limits: BodyLimits) -> None:
    """Take from the body what routing needs. Raises ClientError for one that can be read in two ways, or in none."""
    check_shape(call.plain, limits)
    fields = object_in(call.plain)
    call.model = model_in(fields.get("model"))
    call.stream = value_in(fields.get("stream"), FLAG, "stream: Input should be a valid boolean") is True
    call.max_tokens = max_tokens_in(fields.get("max_tokens"))
    if "thread" in fields or "container" in fields:
        read_ties(call, fields)
    if "context_management" in fields:
        call.trimmed = any(edit in bytes(fields["context_management"]) for edit in TRIMMING)
    if "messages" in fields:
        read_messages(call, fields["messages"], limits)


def object_in(plain: bytes) -> Object:
    """The fields of a body. Raises ClientError for what is no JSON object, or has a key twice."""
    try:
        if not plain.isascii():
            plain.decode()
        fields = OBJECT.decode(plain)
    except msgspec.ValidationError:
        raise ClientError("The request body should be a JSON object") from None
    except UNREADABLE as error:
        half = HALF_SURROGATE.search(plain) is not None
        told = "no low surrogate in string" if half else str(error)
        raise ClientError(f"The request body is not valid JSON: {told}") from None
    refuse_repeats(plain, fields, "")
    return fields


def refuse_repeats(raw: bytes, fields: Object, place: str) -> None:
    """Raise ClientError when a key stands twice in an object, however it is escaped.

    Without blanks around keys and values all bytes are accounted for, which is so for nearly every client; else the
    keys are walked along.
    """
    if sum(map(len, fields)) + sum(map(len, fields.values())) + 4 * len(fields) + 1 == len(raw):
        return
    if any(len(name) > KEY_CHARS for name in fields):
        raise ClientError(f"{place or 'the request: '}Keys should have at most {KEY_CHARS} characters")
    if repeated := repeated_key(raw, fields):
        raise ClientError(f"{place}{repeated[:64]}: Duplicate key")


def repeated_key(raw: bytes, fields: Object) -> str:
    """The key that stands twice in an object, "" when none does. The decoder kept the last value of each; where
    another value stands, its key comes again."""
    known: set[str] = set()
    place = raw.index(b"{") + 1
    while match := KEY.match(raw, place):
        key = TEXT.decode(match[1])
        value = bytes(fields[key])
        end = match.end() + len(value)
        separator = SEPARATOR.match(raw, end)
        if key in known or separator is None or raw[match.end() : end] != value:
            return key
        known.add(key)
        place = separator.end()
    return ""


def value_in(raw: Raw | None, decoder: "msgspec.json.Decoder[T]", words: str) -> T | None:
    """A field's value, None when it is not there. Raises ClientError with these words for one of another kind."""
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except UNREADABLE:
        raise ClientError(words) from None


def model_in(raw: Raw | None) -> str:
    """The name of the model, "" when there is none."""
    model = value_in(raw, TEXT, "model: Input should be a valid string") or ""
    if " " in model or not model.isprintable():
        raise ClientError("model: String should have no blanks, control or invisible characters")
    if len(model) > NAME_CHARS:
        raise ClientError(f"model: String should have at most {NAME_CHARS} characters")
    return model


def max_tokens_in(raw: Raw | None) -> int:
    """The limit of the answer, 0 when there is none. Some clients write whole numbers with a fraction of zero."""
    words = "max_tokens: Input should be a valid integer"
    asked = value_in(raw, NUMBER, words)
    if asked is None:
        return 0
    if isinstance(asked, float) and not asked.is_integer():
        raise ClientError(words)
    if asked < 0:
        raise ClientError("max_tokens: Input should be greater than or equal to 0")
    if asked > MOST_TOKENS:
        raise ClientError(f"max_tokens: Input should be less than or equal to {MOST_TOKENS}")
    return int(asked)


def read_ties(call: ClientRequest, fields: Object) -> None:
    """What the request goes on with: a thread, a container; and the skills in that, which have owners too."""
    thread = value_in(fields.get("thread"), THREAD, "thread: Input should be a valid dictionary with text ids")
    container = value_in(fields.get("container"), CONTAINER, "container: Input should be a valid string or dictionary")
    for name in ("thread", "container"):
        raw = bytes(fields.get(name, b""))
        if raw.startswith(b"{"):
            refuse_repeats(raw, OBJECT.decode(raw), f"{name}.")
    call.threaded = thread is not None
    previous_id = thread.previous_message_id if thread else None
    container_id = container.id if isinstance(container, Container) else container
    skill_ids = ids_in_any(bytes(fields["container"]), is_known=True) if isinstance(container, Container) else ()
    call.resource_ids += checked_ids(text for text in (previous_id, container_id, *skill_ids) if text is not None)


def read_messages(call: ClientRequest, raw: Raw, limits: BodyLimits) -> None:
    """The content blocks and the files in them, for later steps: a large body is read once."""
    seen.ids = []
    try:
        blocks: list[Block] = blocks_of(MESSAGES.decode(raw))
    except UNREADABLE:
        call.resource_ids += checked_ids(ids_in_any(bytes(raw), is_known=True))
        return
    if len(blocks) > limits.content_blocks:
        raise too_many_blocks(limits)
    call.blocks = blocks
    if seen.ids:
        files = list(file_ids(blocks))
        refuse_hidden(files)
        known = checked_ids(files)
        call.resource_ids += known if call.shared else known[:MOST_FILE_IDS]


def checked_ids(ids: Iterable[str]) -> tuple[str, ...]:
    """Ids of resources. Raises ClientError for what can't be one, or when there are too many."""
    known = tuple(dict.fromkeys(text for text in ids if text))
    if len(known) > MOST_IDS:
        raise ClientError(f"the request refers to more than {MOST_IDS} files and other resources")
    if any(len(text) > ID_CHARS for text in known):
        raise ClientError(f"ids of messages, containers and files should have at most {ID_CHARS} characters")
    return known
