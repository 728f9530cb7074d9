"""Converts content blocks for compatible providers: text, images, calls of the client's tools and their results, and
the provider's own thinking stay. Everything else becomes text, rather than being dropped: calls keep their results,
messages are never emptied, and the model knows what it can't see. Skipping the route instead would block a conversation
for good because of one old screenshot.

- Thinking blocks are removed if the conversation is of another vendor's model: nobody else can read or verify them.
- Images for a model known not to read them, documents that are not text, and files stored at another provider are
  replaced by a short text.
- Calls of server tools (`server_tool_use`, `mcp_tool_use`) and their results (`web_search_tool_result` and the like),
  search results, text documents, compactions: their readable content, as text. Ids and encrypted parts are useless
  elsewhere.
- `tool_reference` becomes the name as text; `caller` is removed from tool calls, `citations` from texts.
- `cache_control` stays where it was, on the text as well.
- Empty texts go, and a result without content says so: other vendors reject both.
- Where a provider reads one text of a result, there is one.

Not here: the rest of the body (`bodies_compat`).
"""

from collections.abc import Container
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from service.protocol.raw_json import (
    Fields,
    are_same,
    encoded,
    fields_of,
    is_blank_text,
    is_stripped,
    list_of,
    text_of,
    value_of,
    with_changed,
)
from service.settings import StripThinking

KNOWN_BLOCKS: Final = frozenset(("", "text", "tool_use", "tool_result", "thinking", "redacted_thinking"))
BLOCK_FIELDS_LEFT_OUT: Final = frozenset(("caller", "citations"))
RESULT_LEVELS: Final = 4
"""Each level of nested results is decoded separately."""
WORD_LEVELS: Final = 32
IMAGE_LEFT_OUT: Final = "[image left out: this model can't read images]"
FILE_LEFT_OUT: Final = "[file left out: it lies with another provider]"
SERVER_CALLS: Final = frozenset(("server_tool_use", "mcp_tool_use"))
NO_OUTPUT: Final = "[no output]"
WORDS: Final = ("title", "url", "source", "context", "text", "tool_name", "stdout", "stderr", "error_code", "content")
"""Fields with the readable text of a result or document, in order."""


class BlockRules(Struct, frozen=True):
    """What a provider takes. `refused` are signatures that it rejected; `one_text`: it reads one text of a result."""

    strip: StripThinking
    refused: Container[str]
    reads_images: bool
    one_text: bool


def clean_block(block: Fields, rules: BlockRules, levels: int = RESULT_LEVELS) -> Fields | None:
    """Convert a content block; None for a thinking block or an empty text to remove."""
    kind = text_of(block.get("type"))
    if is_left_out(kind, block, rules):
        return None
    if kind == "image" and rules.reads_images and not lies_elsewhere(block):
        return block
    if kind not in KNOWN_BLOCKS:
        return as_text(kind, block)
    if BLOCK_FIELDS_LEFT_OUT & block.keys():
        block = {name: value for name, value in block.items() if name not in BLOCK_FIELDS_LEFT_OUT}
    return with_result(block, rules, levels) if kind == "tool_result" else block


def is_left_out(kind: str, block: Fields, rules: BlockRules) -> bool:
    """True for a thinking block or an empty text to remove."""
    mark = text_of(block.get("signature")) or text_of(block.get("data"))
    return is_stripped(kind, mark, rules.strip, rules.refused) or is_blank_text(block)


def with_result(block: Fields, rules: BlockRules, levels: int) -> Fields:
    """Return a tool result with its content converted; one without content says so."""
    given = block if "content" in block else block | {"content": encoded("")}
    return with_changed(given, "content", lambda value: clean_result(value, rules, levels))


def clean_result(value: Raw, rules: BlockRules, levels: int) -> Raw:
    """Convert the content of a tool result; results nested deeper than any tool nests them stay as they are."""
    parts = list_of(value)
    if parts is None:
        is_empty = bytes(value)[:1] in (b'"', b"n") and not text_of(value).strip()
        return encoded(NO_OUTPUT) if is_empty else value
    cleaned = [new for part in parts if (new := clean_part(part, rules, levels - 1)) is not None] if levels else parts
    if not cleaned:
        return encoded(NO_OUTPUT)
    cleaned = with_one_text(cleaned) if rules.one_text else cleaned
    return value if are_same(cleaned, parts) else encoded(cleaned)


def clean_part(part: Raw, rules: BlockRules, levels: int) -> Raw | None:
    """Convert one part of a tool result; None for an empty text."""
    fields = fields_of(part)
    if fields is None:
        return part
    new = clean_block(fields, rules, levels)
    if new is None:
        return None if is_blank_text(fields) else part
    return part if new is fields else encoded(new)


def with_one_text(parts: list[Raw]) -> list[Raw]:
    """Return the parts of a result with all texts in the first of them."""
    known = [fields_of(part) or {} for part in parts]
    texts = [place for place, fields in enumerate(known) if text_of(fields.get("type")) == "text"]
    if len(texts) < 2:
        return parts
    first, *others = texts
    words = "\n".join(text_of(known[place].get("text")) for place in texts)
    merged = encoded(known[texts[-1]] | {"text": encoded(words)})  # a breakpoint of the cache stands on the last
    return [merged if place == first else part for place, part in enumerate(parts) if place not in others]


def lies_elsewhere(block: Fields) -> bool:
    """True if an image is a file stored at the provider to which it was uploaded."""
    return text_of((fields_of(block.get("source")) or {}).get("type")) == "file"


def as_text(kind: str, block: Fields) -> Fields:
    """Convert a block that only Anthropic knows to text."""
    text = encoded(block_text(kind, block))
    kept = {"cache_control": block["cache_control"]} if "cache_control" in block else {}
    return {"type": encoded("text"), "text": text, **kept}


def block_text(kind: str, block: Fields) -> str:
    """Return a block's text; never empty."""
    if kind == "image":
        return FILE_LEFT_OUT if lies_elsewhere(block) else IMAGE_LEFT_OUT
    if kind == "container_upload":
        return FILE_LEFT_OUT
    if kind in SERVER_CALLS:
        arguments = msgspec.json.encode(block.get("input", {})).decode("utf-8", "replace")
        return f"[{text_of(block.get('name')) or 'a tool'} was called with {arguments}]"
    words = "\n".join(words_of({name: value_of(value) for name, value in block.items()}))
    if kind == "document" and not has_text(block):
        return "\n".join(("[document left out: this model can't read documents]", words)).rstrip()
    return result_text(kind, words)


def result_text(kind: str, words: str) -> str:
    """Return the text of a block whose content is text as far as it can be read."""
    if kind.endswith("_tool_result"):
        return f"[{kind.removesuffix('_tool_result')} gave:]\n{words or 'nothing that can be shown'}"
    return words or f"[{kind} left out: this model can't read it]"


def has_text(document: Fields) -> bool:
    """True if a document's content is text."""
    source = fields_of(document.get("source")) or {}
    return text_of(source.get("type")) in ("text", "content")


def words_of(value: Any) -> list[str]:
    """Return all readable text in a value, without base64, ids and encrypted parts."""
    words: list[str] = []
    add_words(value, words)
    return words


def add_words(value: Any, words: list[str], levels: int = WORD_LEVELS) -> None:
    """Append a value's readable text to `words`, down to `levels`."""
    if isinstance(value, str):
        words += [value] if value else []
    elif isinstance(value, list) and levels:
        for part in value:
            add_words(part, words, levels - 1)
    elif isinstance(value, dict) and levels:
        add_words_of_object(value, words, levels - 1)


def add_words_of_object(value: dict[str, Any], words: list[str], levels: int) -> None:
    """Append an object's readable text to `words`."""
    kind, data = value.get("type"), value.get("data")
    if kind == "image":
        words.append(IMAGE_LEFT_OUT)
    elif kind == "text" and isinstance(data, str):
        words.append(data)
    elif kind not in ("base64", "url", "file"):
        for name in (*WORDS, "tool_references"):
            add_words(value.get(name), words, levels)
