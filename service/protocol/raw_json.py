"""A body's JSON in parts: only what must be read or changed is decoded, so that all else keeps its bytes.

Not here: what is changed for whom (`bodies`, `providers.bodies_compat`).
"""

from collections.abc import Callable, Container, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from service.settings import StripThinking

Fields = dict[str, Raw]
"""A JSON object whose values are undecoded."""
BlockCleaner = Callable[[Fields], Fields | None]
"""Gives the same object when nothing changes, None when the block goes."""

THINKING_BLOCKS: Final = frozenset(("thinking", "redacted_thinking"))
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
OBJECT = msgspec.json.Decoder(Fields)
LIST = msgspec.json.Decoder(list[Raw])


def is_stripped(kind: str, signature: str | None, strip: StripThinking, refused: Container[str] = ()) -> bool:
    """Whether a block is a thinking block that must go."""
    if strip == "all":
        return kind in THINKING_BLOCKS
    if kind != "thinking":
        return False
    return (strip == "unsigned" and not signature) or (bool(signature) and signature in refused)


def clean_messages(fields: Fields, clean: BlockCleaner) -> Fields:
    """The body with every content block cleaned; an assistant message that is emptied by it is dropped."""
    messages = list_of(fields.get("messages"))
    if messages is None:
        return fields
    cleaned = [new for message in messages if (new := clean_message(message, clean)) is not None]
    if are_same(cleaned, messages):
        return fields
    return fields | {"messages": encoded(cleaned)}


def clean_message(raw: Raw, clean: BlockCleaner) -> Raw | None:
    """One message with its blocks cleaned; None when nothing of an assistant's is left."""
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
    """One block cleaned, the same object when nothing changes; None when it goes."""
    fields = fields_of(block)
    if fields is None:
        return block
    cleaned = clean(fields)
    if cleaned is fields:
        return block
    return None if cleaned is None else encoded(cleaned)


def are_same(new: Sequence[Raw], old: Sequence[Raw]) -> bool:
    """Whether these are the same objects in the same order."""
    return len(new) == len(old) and all(one is other for one, other in zip(new, old, strict=True))


def with_model(fields: Fields, model: str) -> Fields:
    """The fields with this model, where they name another one."""
    if "model" not in fields or text_of(fields["model"]) in ("", model):
        return fields
    return fields | {"model": encoded(model)}


def changed(fields: Fields, name: str, change: Callable[[Raw], Raw | None]) -> Fields:
    """The fields with one of them changed; None leaves it out, `null` as well."""
    if name not in fields:
        return fields
    new = change(fields[name])
    if new is fields[name]:
        return fields
    if new is None or bytes(new) == b"null":
        return {other: value for other, value in fields.items() if other != name}
    return fields | {name: new}


def encoded(value: Any) -> Raw:
    """A value as JSON."""
    return Raw(msgspec.json.encode(value))


def fields_of(raw: bytes | Raw | None) -> Fields | None:
    """The fields of a JSON object; None for what is none."""
    if raw is None:
        return None
    try:
        return OBJECT.decode(raw)
    except UNREADABLE:
        return None


def list_of(raw: Raw | None) -> list[Raw] | None:
    """The parts of a JSON array; None for what is none."""
    if raw is None:
        return None
    try:
        return LIST.decode(raw)
    except UNREADABLE:
        return None


def objects_of(raw: Raw | None) -> list[Fields]:
    """The objects of a JSON array; none where it holds anything else."""
    objects = [fields_of(part) for part in list_of(raw) or ()]
    known = [fields for fields in objects if fields is not None]
    return known if len(known) == len(objects) else []


def value_of(raw: Raw) -> Any:
    """The value itself; None for what is none."""
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE:
        return None


def text_of(raw: Raw | None) -> str:
    """A text; empty for what is none."""
    value = value_of(raw) if raw is not None else None
    return value if isinstance(value, str) else ""
