"""Reads the fields of a body that influence a decision, strictly: they must have the same meaning for every parser.

A parser may use the first of two duplicate keys or the last, accept 1 for true, or skip a byte order mark; if the
provider reads a body differently than we do, limits could be bypassed. So ambiguous bodies are rejected, with an error
of the Messages API. Fields without influence (nearly all of a body) are not read.

Not here: size limits (`service.protocol.json_shape`, `body_reader`), and a key's permissions (`key_limits`).
"""

import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from service.errors import ClientError
from service.fleet.resource_index import ID_CHARS
from service.ledger.model_names import NAME_CHARS
from service.protocol.body_survey import MessageSurvey, block_count, blocks_of, is_mid_turn
from service.protocol.file_refs import Block, Thread, file_ids, ids_in_any, note_id, refuse_hidden, seen
from service.protocol.json_shape import check_shape, too_many_blocks
from service.relay import ClientRequest
from service.routing.request_fields import notable_fields
from service.settings import BodyLimits

T = TypeVar("T")
Object = dict[str, Raw]

MOST_TOKENS = 2**31 - 1
MOST_FILE_IDS = 16
"""Maximum file look-ups if all have the same owner: files of a request live on one route, so the first ones suffice."""
MOST_IDS = 1_000
"""Maximum look-ups if each owner has to be checked; a request may have a few hundred files."""
TRIMMING = (b"clear_tool_uses", b"compact")
"""Edits of `context_management` that shorten a conversation (Anthropic's documentation)."""
KEY = re.compile(rb'[ \t\n\r]*+("(?:[^"\\]++|\\.)*+")[ \t\n\r]*+:[ \t\n\r]*+', re.DOTALL)
KEY_CHARS = 10_000
"""Matching takes time proportional to a key's length, and blocks all other tasks."""
SEPARATOR = re.compile(rb"[ \t\n\r]*+[,}]")
HALF_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Container(Struct):
    """The container of an earlier request's code execution."""

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
    """Store the fields that routing needs in the request. Raises ClientError if the body is ambiguous or malformed."""
    check_shape(call.plain, limits)
    fields = object_in(call.plain)
    call.model = model_in(fields.get("model"))
    call.stream = value_in(fields.get("stream"), FLAG, "stream: Input should be a valid boolean") is True
    call.max_tokens = max_tokens_in(fields.get("max_tokens"))
    call.fields = notable_fields(fields)
    if "thread" in fields or "container" in fields:
        read_ties(call, fields)
    if "context_management" in fields:
        call.trimmed = any(edit in bytes(fields["context_management"]) for edit in TRIMMING)
    if "messages" in fields:
        read_messages(call, fields["messages"], limits)


def object_in(plain: bytes) -> Object:
    """Return the fields of a body. Raises ClientError unless it is a JSON object without duplicate keys."""
    try:
        if not plain.isascii():
            plain.decode()
        fields = OBJECT.decode(plain)
    except msgspec.ValidationError:
        raise ClientError("The request body should be a JSON object") from None
    except UNREADABLE as error:
        half = HALF_SURROGATE.search(plain) is not None
        reason = "no low surrogate in string" if half else str(error)
        raise ClientError(f"The request body is not valid JSON: {reason}") from None
    refuse_repeats(plain, fields, "")
    return fields


def refuse_repeats(raw: bytes, fields: Object, place: str) -> None:
    """Raise ClientError if an object has a duplicate key, however it is escaped.

    Without whitespace around keys and values the lengths account for all bytes, which is so for nearly every client;
    else the keys are scanned.
    """
    if sum(map(len, fields)) + sum(map(len, fields.values())) + 4 * len(fields) + 1 == len(raw):
        return
    if any(len(name) > KEY_CHARS for name in fields):
        raise ClientError(f"{place or 'the request: '}Keys should have at most {KEY_CHARS} characters")
    if repeated := repeated_key(raw, fields):
        raise ClientError(f"{place}{repeated[:64]}: Duplicate key")


def repeated_key(raw: bytes, fields: Object) -> str:
    """Return an object's duplicate key, "" if there is none. The decoder kept the last value of each; where another
    value is found, its key occurs again."""
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
    """Decode a field's value, None if it is missing. Raises ClientError with this message for another type."""
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except UNREADABLE:
        raise ClientError(words) from None


def model_in(raw: Raw | None) -> str:
    """Return the model's name, "" if there is none."""
    model = value_in(raw, TEXT, "model: Input should be a valid string") or ""
    if " " in model or not model.isprintable():
        raise ClientError("model: String should have no blanks, control or invisible characters")
    if len(model) > NAME_CHARS:
        raise ClientError(f"model: String should have at most {NAME_CHARS} characters")
    return model


def max_tokens_in(raw: Raw | None) -> int:
    """Return the limit of output tokens, 0 if there is none. Some clients write integers with a fraction of zero."""
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
    """Read what the request continues: a thread or a container; and the container's skills, which have owners too."""
    thread = value_in(fields.get("thread"), THREAD, "thread: Input should be a valid dictionary with text ids")
    container = value_in(fields.get("container"), CONTAINER, "container: Input should be a valid string or dictionary")
    for name in ("thread", "container"):
        raw = bytes(fields.get(name, b""))
        if raw.startswith(b"{"):
            refuse_repeats(raw, OBJECT.decode(raw), f"{name}.")
    call.threaded = thread is not None
    call.continues_thread = thread is not None and thread.type != "create"
    previous_id = thread.previous_message_id if thread else None
    call.previous_message_id = previous_id or ""
    container_id = container.id if isinstance(container, Container) else container
    skill_ids = ids_in_any(bytes(fields["container"]), is_known=True) if isinstance(container, Container) else ()
    call.resource_ids += checked_ids(text for text in (previous_id, container_id, *skill_ids) if text is not None)


def read_messages(call: ClientRequest, raw: Raw, limits: BodyLimits) -> None:
    """Read content blocks and file ids for later steps: a large body is read once."""
    seen.ids = []
    try:
        messages = MESSAGES.decode(raw)
    except UNREADABLE:
        call.resource_ids += checked_ids(ids_in_any(bytes(raw), is_known=True))
        return
    call.block_count = block_count(messages)
    if call.block_count > limits.content_blocks:
        raise too_many_blocks(limits)
    call.messages = messages
    call.mid_turn = is_mid_turn(messages)
    if seen.ids:
        files = list(file_ids(blocks_of(messages)))
        refuse_hidden(files)
        known = checked_ids(files)
        call.resource_ids += known if call.shared else known[:MOST_FILE_IDS]


def checked_ids(ids: Iterable[str]) -> tuple[str, ...]:
    """Validate resource ids. Raises ClientError for an invalid one, or if there are too many."""
    known = tuple(dict.fromkeys(text for text in ids if text))
    if len(known) > MOST_IDS:
        raise ClientError(f"the request refers to more than {MOST_IDS} files and other resources")
    if any(len(text) > ID_CHARS for text in known):
        raise ClientError(f"ids of messages, containers and files should have at most {ID_CHARS} characters")
    return known
