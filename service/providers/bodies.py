"""Makes the copy of a request's body that a route gets. Not here: which model is sent (that is `routing`), or headers.

It is for the bodies of `/v1/messages` and `count_tokens`; those of other endpoints go as they are.

The rules for all:

- A body that needs no change is the same object afterwards, so that prompt caches keep hitting. Where something must
  change, all values around it keep their bytes (numbers as they were written, blanks inside, unknown fields).
- What is no JSON object of the expected shape is left alone: the provider's own refusal is better than ours. That
  holds for half a surrogate pair in a text, too, which Anthropic refuses by name ("no low surrogate in string").

Towards Anthropic only what it is known to refuse is changed:

- The model, when another one is sent than was asked for.
- Ids of tool calls that do not match its patterns (Z.AI makes `call_...`), and every reference to them. New ids depend
  on the old one alone, unless one is in use already, so that they stay the same as the conversation grows.
- Thinking blocks without a signature. All of them when the conversation is of another vendor's model, whose signatures
  fail here; as the setting says on a subscription. An assistant message that is emptied by this is dropped.

Towards others the lists are closed (`TOP_LEVEL`, `TOOL_FIELDS`), since they refuse what they
don't know or, worse, misread it:

- `metadata.user_id` stays out: it names the user's device and account, and is no business of another vendor.
- The attribution block of Claude Code is out of `system`: there it is prompt text that differs and spoils the cache.
- Messages of role `system` are folded into a user message, as text: the one before, else the one after (at its end,
  since results of tools must come first), else one of their own. Claude Code does so itself when it is refused one.
- Thinking blocks are out when the conversation is of another vendor's model: nobody else can read or check them.
- `thinking` of type `adaptive` becomes `enabled` with half of `max_tokens` as its budget, or is left out where
  `max_tokens` is too small for that.
- Tools keep what a model needs. Tools of Anthropic's own (those with a `type`) are out, unless the request brings no
  others: then it is about them, and an answer without them would pretend; the provider may refuse it.
- `tool_reference`, which they do not know, becomes the name as text; `caller` is out of tool calls.
- `cache_control` stays: Claude Code sends it to Z.AI directly as well, and nobody reports a refusal.
"""

import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from service.settings import Route, StripThinking

Fields = dict[str, Raw]
"""A JSON object whose values are undecoded."""
BlockCleaner = Callable[[Fields], Fields | None]
"""Gives the same object when nothing changes, None when the block goes."""

TOP_LEVEL: Final = frozenset(
    ("model", "messages", "max_tokens", "stop_sequences", "stream", "system", "temperature", "top_p", "top_k",
     "metadata", "tools", "tool_choice", "thinking")
)  # fmt: skip
TOOL_FIELDS: Final = frozenset(("name", "description", "input_schema", "cache_control"))
METADATA_LEFT_OUT: Final = frozenset(("user_id",))
BLOCK_FIELDS_LEFT_OUT: Final = frozenset(("caller",))
ATTRIBUTION: Final = "x-anthropic-billing-header"
THINKING_BLOCKS: Final = frozenset(("thinking", "redacted_thinking"))
BUDGET_LEAST_TOKENS: Final = 1_024
BUDGET_MOST_TOKENS: Final = 32_000

# What Anthropic takes as an id (its refusals, seen in public issues), with what a new one begins with.
ID_RULES: Final = {
    "tool_use": (re.compile(r"[a-zA-Z0-9_-]+"), re.compile(r"[^a-zA-Z0-9_-]"), "toolu_"),
    "server_tool_use": (re.compile(r"srvtoolu_[a-zA-Z0-9_]+"), re.compile(r"[^a-zA-Z0-9_]"), "srvtoolu_"),
}

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
OBJECT = msgspec.json.Decoder(Fields)
LIST = msgspec.json.Decoder(list[Raw])


class BlockSurvey(Struct, gc=False):
    """What must be known of a content block to see whether it needs a change."""

    type: str = ""
    id: str = ""
    tool_use_id: str = ""
    signature: str | None = None


class MessageSurvey(Struct):
    """Likewise of a message."""

    content: str | list[BlockSurvey] = ""


class BodySurvey(Struct):
    """Likewise of a body."""

    messages: list[MessageSurvey] = []


SURVEY = msgspec.json.Decoder(BodySurvey)


def clean_body(raw: bytes, *, route: Route, model_asked: str, model_sent: str, strip_thinking: StripThinking) -> bytes:
    """The body for this route. `strip_thinking` is the setting for subscriptions."""
    strip = thinking_to_strip(route, model_asked, model_sent, strip_thinking)
    if route.provider.dialect == "anthropic":
        return for_anthropic(raw, model_asked, model_sent, strip)
    return for_others(raw, model_sent, strip)


def without_thinking(raw: bytes) -> bytes:
    """The body without any thinking block: for another try when a provider refused a signature."""
    fields = fields_of(raw)
    if fields is None:
        return raw
    cleaned = clean_messages(fields, thinking_remover("all"))
    return raw if cleaned is fields else msgspec.json.encode(cleaned)


def thinking_to_strip(route: Route, model_asked: str, model_sent: str, setting: StripThinking) -> StripThinking:
    """Which thinking blocks this route must not see."""
    families = route.provider.families
    crossing = not model_asked.lower().startswith(families) if families else model_asked != model_sent
    if crossing:
        return "all"
    if route.provider.dialect != "anthropic":
        return "none"
    return setting if route.auth == "oauth" else "unsigned"


def for_anthropic(raw: bytes, model_asked: str, model_sent: str, strip: StripThinking) -> bytes:
    """The body as Anthropic takes it."""
    blocks = survey(raw)
    new_ids = id_map(blocks)
    strips = any(block.type in THINKING_BLOCKS and is_stripped(block.type, block.signature, strip) for block in blocks)
    if model_asked == model_sent and not new_ids and not strips:
        return raw
    fields = fields_of(raw)
    if fields is None:
        return raw
    cleaned = with_model(fields, model_sent)
    if strips:
        cleaned = clean_messages(cleaned, thinking_remover(strip))
    if new_ids:
        cleaned = clean_messages(cleaned, id_renamer(new_ids))
    return raw if cleaned is fields else msgspec.json.encode(cleaned)


def survey(raw: bytes) -> list[BlockSurvey]:
    """The content blocks of all messages; none where the body is not of the expected shape.

    One pass over the bytes: looking for a few of them by `in` takes as long (30 microseconds for 60 KB).
    """
    try:
        messages = SURVEY.decode(raw).messages
    except UNREADABLE:
        return []
    return [block for message in messages if isinstance(message.content, list) for block in message.content]


def id_map(blocks: Sequence[BlockSurvey]) -> dict[str, str]:
    """New ids for those that Anthropic refuses; the first kind of call that has an id decides about it."""
    calls: dict[str, str] = {}
    for block in blocks:
        if block.type in ID_RULES:
            calls.setdefault(block.id, block.type)
    refused = [(old, kind) for old, kind in calls.items() if ID_RULES[kind][0].fullmatch(old) is None]
    taken = {name for block in blocks for name in (block.id, block.tool_use_id)} if refused else set()
    new_ids: dict[str, str] = {}
    for old, kind in refused:
        new_ids[old] = new = new_id(old, kind, taken)
        taken.add(new)
    return new_ids


def new_id(old: str, kind: str, taken: set[str]) -> str:
    """An id of this kind that follows from the old one and is not taken.

    Where characters had to go, a digest of the old id keeps two that differ in these alone apart.
    """
    _, refused, prefix = ID_RULES[kind]
    new = refused.sub("_", old)
    if new != old:
        new += "_" + sha256(old.encode()).hexdigest()[:8]
    if kind == "server_tool_use":
        new = prefix + new.removeprefix(prefix)
    new = new if old else prefix + "0"
    while new in taken:
        new += "_"
    return new


def id_renamer(new_ids: dict[str, str]) -> BlockCleaner:
    """Gives calls and references their new ids."""

    def rename(block: Fields) -> Fields:
        changes = {
            name: encoded(new_ids[old])
            for name in ("id", "tool_use_id")
            if name in block and (old := text_of(block[name])) in new_ids
        }
        return block | changes if changes else block

    return rename


def thinking_remover(strip: StripThinking) -> BlockCleaner:
    """Leaves thinking blocks out."""

    def remove(block: Fields) -> Fields | None:
        kind, signature = text_of(block.get("type")), text_of(block.get("signature"))
        return None if is_stripped(kind, signature, strip) else block

    return remove


def is_stripped(kind: str, signature: str | None, strip: StripThinking) -> bool:
    """Whether a block is a thinking block that must go."""
    if strip == "all":
        return kind in THINKING_BLOCKS
    return strip == "unsigned" and kind == "thinking" and not signature


def for_others(raw: bytes, model_sent: str, strip: StripThinking) -> bytes:
    """The body as a provider takes it that copied the Messages API."""
    fields = fields_of(raw)
    if fields is None:
        return raw
    cleaned = {name: value for name, value in fields.items() if name in TOP_LEVEL}
    cleaned = with_model(cleaned, model_sent)
    cleaned = changed(cleaned, "metadata", clean_metadata)
    cleaned = changed(cleaned, "system", clean_system)
    cleaned = changed(cleaned, "thinking", lambda value: clean_thinking(value, cleaned.get("max_tokens")))
    cleaned = clean_tools(cleaned)
    cleaned = changed(cleaned, "messages", fold_system)
    cleaned = clean_messages(cleaned, lambda block: clean_block(block, strip))
    unchanged = len(cleaned) == len(fields) and all(cleaned[name] is value for name, value in fields.items())
    return raw if unchanged else msgspec.json.encode(cleaned)


def clean_metadata(value: Raw) -> Raw | None:
    """Metadata without what names the user; None when nothing is left."""
    metadata = fields_of(value)
    if metadata is None or not METADATA_LEFT_OUT & metadata.keys():
        return value
    return encoded({name: kept for name, kept in metadata.items() if name not in METADATA_LEFT_OUT} or None)


def clean_system(value: Raw) -> Raw | None:
    """The system prompt without the attribution block; None when nothing is left."""
    blocks = list_of(value)
    if blocks is None:
        text = text_of(value)
        return encoded(text.partition("\n")[2] or None) if text.startswith(ATTRIBUTION) else value
    kept = [block for block in blocks if not text_of((fields_of(block) or {}).get("text")).startswith(ATTRIBUTION)]
    return value if len(kept) == len(blocks) else encoded(kept or None)


def clean_thinking(value: Raw, max_tokens: Raw | None) -> Raw | None:
    """The `thinking` parameter in the form that came first; None leaves it out."""
    thinking = value_of(value)
    if not isinstance(thinking, dict):
        return None
    kind = thinking.get("type")
    if kind == "adaptive":
        limit = value_of(max_tokens) if max_tokens is not None else None
        if not isinstance(limit, int) or limit <= BUDGET_LEAST_TOKENS:
            return None
        budget = min(max(limit // 2, BUDGET_LEAST_TOKENS), BUDGET_MOST_TOKENS)
        return encoded({"type": "enabled", "budget_tokens": budget})
    if kind not in ("enabled", "disabled"):
        return None
    known = {name: part for name, part in thinking.items() if name in ("type", "budget_tokens")}
    return value if known == thinking else encoded(known)


def clean_tools(fields: Fields) -> Fields:
    """Tools with known fields only, without Anthropic's own; a choice of a tool that is gone goes too."""
    tools = objects_of(fields.get("tools"))
    own = [tool for tool in tools if text_of(tool.get("type")) in ("", "custom")]
    if not own:
        return fields
    kept = [{name: value for name, value in tool.items() if name in TOOL_FIELDS} for tool in own]
    if kept == tools:
        return fields
    cleaned = fields | {"tools": encoded(kept)}
    choice = fields_of(fields.get("tool_choice")) or {}
    if "name" in choice and text_of(choice["name"]) not in {text_of(tool.get("name")) for tool in kept}:
        del cleaned["tool_choice"]
    return cleaned


def fold_system(value: Raw) -> Raw:
    """Messages without the role `system`."""
    folded: list[Fields] = []
    waiting: list[Raw] = []
    messages = [(text_of(message.get("role")), message) for message in objects_of(value)]
    if not any(role == "system" for role, _ in messages):
        return value
    for role, message in messages:
        if role == "system" and folded and text_of(folded[-1].get("role")) == "user":
            folded[-1] = extended(folded[-1], blocks_of(message))
        elif role == "system":
            waiting += blocks_of(message)
        elif role == "user":
            folded.append(extended(message, waiting) if waiting else message)
            waiting = []
        else:
            folded += [user_message(waiting), message] if waiting else [message]
            waiting = []
    return encoded([*folded, user_message(waiting)] if waiting else folded)


def extended(message: Fields, blocks: list[Raw]) -> Fields:
    """The message with more blocks at its end."""
    return message | {"content": encoded(blocks_of(message) + blocks)}


def user_message(blocks: list[Raw]) -> Fields:
    """A user message of these blocks."""
    return {"role": encoded("user"), "content": encoded(blocks)}


def blocks_of(message: Fields) -> list[Raw]:
    """A message's content as blocks."""
    content = message.get("content")
    blocks = list_of(content)
    if blocks is not None:
        return blocks
    if content is None or bytes(content)[:1] != b'"':
        return []
    return [encoded({"type": "text", "text": content})]


def clean_block(block: Fields, strip: StripThinking) -> Fields | None:
    """A content block with what others understand."""
    if is_stripped(text_of(block.get("type")), text_of(block.get("signature")), strip):
        return None
    if BLOCK_FIELDS_LEFT_OUT & block.keys():
        block = {name: value for name, value in block.items() if name not in BLOCK_FIELDS_LEFT_OUT}
    if text_of(block.get("type")) == "tool_result":
        block = changed(block, "content", clean_result)
    return block


def clean_result(value: Raw) -> Raw:
    """A tool's result with references to tools as text."""
    parts = list_of(value) or []
    cleaned = [reference_as_text(part) for part in parts]
    return value if all(new is old for new, old in zip(cleaned, parts, strict=True)) else encoded(cleaned)


def reference_as_text(part: Raw) -> Raw:
    """The name of a tool that is referred to, as text; everything else as it is."""
    fields = fields_of(part) or {}
    if text_of(fields.get("type")) != "tool_reference":
        return part
    return encoded({"type": "text", "text": text_of(fields.get("tool_name"))})


def clean_messages(fields: Fields, clean: BlockCleaner) -> Fields:
    """The body with every content block cleaned; an assistant message that is emptied by it is dropped."""
    messages = list_of(fields.get("messages"))
    if messages is None:
        return fields
    cleaned = [new for message in messages if (new := clean_message(message, clean)) is not None]
    if len(cleaned) == len(messages) and all(new is old for new, old in zip(cleaned, messages, strict=True)):
        return fields
    return fields | {"messages": encoded(cleaned)}


def clean_message(raw: Raw, clean: BlockCleaner) -> Raw | None:
    """One message with its blocks cleaned; None when nothing of an assistant's is left."""
    message = fields_of(raw)
    blocks = list_of(message.get("content")) if message else None
    if message is None or not blocks:
        return raw
    kept = []
    for block in blocks:
        fields = fields_of(block)
        new = clean(fields) if fields is not None else None
        if fields is None or new is fields:
            kept.append(block)
        elif new is not None:
            kept.append(encoded(new))
    if len(kept) == len(blocks) and all(new is old for new, old in zip(kept, blocks, strict=True)):
        return raw
    if not kept and text_of(message.get("role")) == "assistant":
        return None
    return encoded(message | {"content": encoded(kept)})


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
