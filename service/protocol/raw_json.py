"""Partial JSON decoding: only what must be read or changed is decoded, so that everything else keeps its bytes.

Not here: the changes (`bodies`, `providers.bodies_compat`).
"""

from collections.abc import Callable, Container, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from service.settings import StripThinking

Fields = dict[str, Raw]
"""A JSON object whose values are undecoded."""
BlockCleaner = Callable[[Fields], Fields | None]
"""Returns the same object if nothing changes, None to remove the block."""

THINKING_BLOCKS: Final = frozenset(("thinking", "redacted_thinking"))
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
OBJECT = msgspec.json.Decoder(Fields)
LIST = msgspec.json.Decoder(list[Raw])


def is_stripped(kind: str, mark: str | None, strip: StripThinking, refused: Container[str] = ()) -> bool:
    """True if a block is a thinking block to remove. `mark` is its signature, or the data of a redacted one."""
    if kind not in THINKING_BLOCKS:
        return False
    if strip == "all" or (bool(mark) and mark in refused):
        return True
    return strip == "unsigned" and kind == "thinking" and not mark


def clean_messages(fields: Fields, clean: BlockCleaner) -> Fields:
    """Return the body with every content block cleaned; an assistant message without remaining blocks is dropped."""
    messages = list_of(fields.get("messages"))
    if messages is None:
        return fields
    cleaned = [new for message in messages if (new := clean_message(message, clean)) is not None]
    if are_same(cleaned, messages):
        return fields
    return fields | {"messages": encoded(cleaned)}


def clean_message(raw: Raw, clean: BlockCleaner) -> Raw | None:
    """Return a message with its blocks cleaned; None if nothing of an assistant's message remains."""
    message = fields_of(raw)
    blocks = list_of(message.get("content")) if message else None
    if message is None or not blocks:
        return raw
    kept = [new for block in blocks if (new := clean_raw_block(block, clean)) is not None]
    if are_same(kept, blocks):
        return raw
    if not kept and text_of(message.get("role")) == "assistant":
        return None
    return encoded(message | {"content": encoded(kept)})


def clean_raw_block(block: Raw, clean: BlockCleaner) -> Raw | None:
    """Return a block cleaned: the same object if nothing changes, None to remove it."""
    fields = fields_of(block)
    if fields is None:
        return block
    cleaned = clean(fields)
    if cleaned is fields:
        return block
    return None if cleaned is None else encoded(cleaned)


def are_same(new: Sequence[Raw], old: Sequence[Raw]) -> bool:
    """True if these are the same objects in the same order."""
    return len(new) == len(old) and all(one is other for one, other in zip(new, old, strict=True))


def with_model(fields: Fields, model: str) -> Fields:
    """Return the fields with this model; the same object if it is set already."""
    if "model" not in fields or text_of(fields["model"]) in ("", model):
        return fields
    return fields | {"model": encoded(model)}


def with_changed(fields: Fields, name: str, change: Callable[[Raw], Raw | None]) -> Fields:
    """Return the fields with one of them changed; None, or `null`, removes it."""
    if name not in fields:
        return fields
    new = change(fields[name])
    if new is fields[name]:
        return fields
    if new is None or bytes(new) == b"null":
        return {other: value for other, value in fields.items() if other != name}
    return fields | {name: new}


def encoded(value: Any) -> Raw:
    """Encode a value as JSON."""
    return Raw(msgspec.json.encode(value))


def fields_of(raw: bytes | Raw | None) -> Fields | None:
    """Return the fields of a JSON object; None for anything else."""
    if raw is None:
        return None
    try:
        return OBJECT.decode(raw)
    except UNREADABLE:
        return None


def list_of(raw: Raw | None) -> list[Raw] | None:
    """Return the items of a JSON array; None for anything else."""
    if raw is None:
        return None
    try:
        return LIST.decode(raw)
    except UNREADABLE:
        return None


def objects_of(raw: Raw | None) -> list[Fields]:
    """Return the objects of a JSON array; empty if it holds anything else."""
    objects = [fields_of(part) for part in list_of(raw) or ()]
    known = [fields for fields in objects if fields is not None]
    return known if len(known) == len(objects) else []


def value_of(raw: Raw) -> Any:
    """Decode a value; None if it is invalid."""
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE:
        return None


def text_of(raw: Raw | None) -> str:
    """Return a text; "" for anything else."""
    value = value_of(raw) if raw is not None else None
    return value if isinstance(value, str) else ""


def is_blank_text(block: Fields) -> bool:
    """True if a block is a text of nothing but blanks."""
    text = block.get("text")
    if text is None or text_of(block.get("type")) != "text":
        return False
    return bytes(text)[:1] == b'"' and not text_of(text).strip()
