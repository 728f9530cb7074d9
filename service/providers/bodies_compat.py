"""Prepares the copy of a body for a compatible provider.

Allow-lists apply, since such a provider rejects what it doesn't know or, worse, misreads it:

- Fields of the body (`TOP_LEVEL`) and of tools (`TOOL_FIELDS`). `context_management`, `output_config`, `mcp_servers`,
  `container`, `thread` and the like are removed, together with their beta headers.
- `metadata.user_id` is removed: it identifies the user's device and account, which another vendor need not know.
- The attribution block of Claude Code is removed from `system`: elsewhere it is prompt text that varies and defeats the
  cache.
- Messages of role `system` are folded into a user message, as text: the one before, else the one after (at its end,
  since tool results must come first), else a new one. Claude Code does the same when one is rejected.
- `thinking` of type `adaptive` becomes `enabled` with half of `max_tokens` as its budget, or is removed if `max_tokens`
  is too small for that.
- `max_tokens` is limited to the model's known maximum.
- Tools keep what a model needs. Anthropic's own tools (those with a `type`) are removed, unless there are no others:
  then the request is about them, and an answer without them would be wrong; the provider may reject it.
- `cache_control` stays: Claude Code sends it to Z.AI directly as well, and no rejection is known.
- Content blocks: see `blocks_compat`. If that empties an assistant message, it is dropped, and the user messages around
  it are merged, so that roles still alternate.

Not here: which thinking blocks are removed (`bodies`).
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Final

import msgspec
from msgspec import Raw

from service.protocol.raw_json import (
    Fields,
    clean_messages,
    encoded,
    fields_of,
    list_of,
    objects_of,
    text_of,
    value_of,
    with_changed,
    with_model,
)
from service.providers.blocks_compat import clean_block
from service.settings import ModelLimits, StripThinking

TOP_LEVEL: Final = frozenset(
    ("model", "messages", "max_tokens", "stop_sequences", "stream", "system", "temperature", "top_p", "top_k",
     "metadata", "tools", "tool_choice", "thinking")
)  # fmt: skip
TOOL_FIELDS: Final = frozenset(("name", "description", "input_schema", "cache_control"))
METADATA_LEFT_OUT: Final = frozenset(("user_id",))
ATTRIBUTION: Final = "x-anthropic-billing-header"
BUDGET_LEAST_TOKENS: Final = 1_024
BUDGET_MOST_TOKENS: Final = 32_000


def for_compat(raw: bytes, model_sent: str, strip: StripThinking, limits: ModelLimits) -> bytes:
    """Return the body for such a provider."""
    fields = fields_of(raw)
    if fields is None:
        return raw
    cleaned = {name: value for name, value in fields.items() if name in TOP_LEVEL}
    cleaned = with_model(cleaned, model_sent)
    cleaned = with_changed(cleaned, "metadata", clean_metadata)
    cleaned = with_changed(cleaned, "system", clean_system)
    cleaned = with_changed(cleaned, "max_tokens", lambda value: clean_max_tokens(value, limits.output_tokens))
    cleaned = with_changed(cleaned, "thinking", lambda value: clean_thinking(value, cleaned.get("max_tokens")))
    cleaned = clean_tools(cleaned)
    cleaned = with_changed(cleaned, "messages", fold_system)
    cleaned = clean_content(cleaned, strip, limits)
    unchanged = len(cleaned) == len(fields) and all(cleaned[name] is value for name, value in fields.items())
    return raw if unchanged else msgspec.json.encode(cleaned)


def clean_content(fields: Fields, strip: StripThinking, limits: ModelLimits) -> Fields:
    """Return the body with every content block converted."""
    reads_images = limits.reads_images is not False
    cleaned = clean_messages(fields, lambda block: clean_block(block, strip, reads_images=reads_images))
    if cleaned is fields:
        return fields
    before, after = list_of(fields["messages"]) or [], list_of(cleaned["messages"]) or []
    return cleaned if len(before) == len(after) else with_changed(cleaned, "messages", join_users)


def join_users(value: Raw) -> Raw:
    """Merge consecutive user messages."""
    messages = objects_of(value)
    joined: list[Fields] = []
    for role, turn in groupby(messages, turn_of):
        first, *others = turn
        is_joined = role == "user" and bool(others)
        joined += [extended(first, all_blocks_of(others))] if is_joined else [first, *others]
    return value if len(joined) == len(messages) else encoded(joined)


def clean_max_tokens(value: Raw, most_tokens: int | None) -> Raw:
    """Limit the requested maximum to that of the model."""
    asked = value_of(value)
    too_many = most_tokens is not None and isinstance(asked, int) and asked > most_tokens
    return encoded(most_tokens) if too_many else value


def clean_metadata(value: Raw) -> Raw | None:
    """Return metadata without user identifiers; None if nothing remains."""
    metadata = fields_of(value)
    if metadata is None or not METADATA_LEFT_OUT & metadata.keys():
        return value
    return encoded({name: kept for name, kept in metadata.items() if name not in METADATA_LEFT_OUT} or None)


def clean_system(value: Raw) -> Raw | None:
    """Return the system prompt without the attribution block; None if nothing remains."""
    blocks = list_of(value)
    if blocks is None:
        text = text_of(value)
        return encoded(text.partition("\n")[2] or None) if text.startswith(ATTRIBUTION) else value
    kept = [block for block in blocks if not text_of((fields_of(block) or {}).get("text")).startswith(ATTRIBUTION)]
    return value if len(kept) == len(blocks) else encoded(kept or None)


def clean_thinking(value: Raw, max_tokens: Raw | None) -> Raw | None:
    """Return the `thinking` parameter in its original form; None removes it."""
    thinking = value_of(value)
    if not isinstance(thinking, dict):
        return None
    kind = thinking.get("type")
    limit = value_of(max_tokens) if max_tokens is not None else None
    if kind == "adaptive" or is_over(thinking.get("budget_tokens"), limit):
        return thinking_within(limit)
    if kind not in ("enabled", "disabled"):
        return None
    known = {name: part for name, part in thinking.items() if name in ("type", "budget_tokens")}
    return value if known == thinking else encoded(known)


def is_over(budget: object, limit: object) -> bool:
    """True if a thinking budget leaves nothing of `max_tokens`."""
    return isinstance(budget, int) and isinstance(limit, int) and budget >= limit


def thinking_within(limit: object) -> Raw | None:
    """Return thinking with a budget below `max_tokens`; None if there is no room for it."""
    if not isinstance(limit, int) or limit <= BUDGET_LEAST_TOKENS:
        return None
    budget = min(max(limit // 2, BUDGET_LEAST_TOKENS), BUDGET_MOST_TOKENS)
    return encoded({"type": "enabled", "budget_tokens": budget})


def clean_tools(fields: Fields) -> Fields:
    """Reduce tools to known fields, without Anthropic's own; removes a choice of a removed tool."""
    tools = objects_of(fields.get("tools"))
    own = [tool for tool in tools if text_of(tool.get("type")) in ("", "custom")]
    if not own:
        return fields
    kept = [{name: value for name, value in tool.items() if name in TOOL_FIELDS} for tool in own]
    if kept == tools:
        return fields
    cleaned = fields | {"tools": encoded(kept)}
    if is_choice_of_other(fields_of(fields.get("tool_choice")) or {}, kept):
        del cleaned["tool_choice"]
    return cleaned


def is_choice_of_other(choice: Fields, tools: Sequence[Fields]) -> bool:
    """True if a choice names a tool that is not in the list."""
    return "name" in choice and text_of(choice["name"]) not in {text_of(tool.get("name")) for tool in tools}


def fold_system(value: Raw) -> Raw:
    """Fold messages of role `system` into the user message before them, else after them."""
    runs = [(role, list(run)) for role, run in groupby(objects_of(value), turn_of)]
    if not any(role == "system" for role, _ in runs):
        return value
    folded: list[Fields] = []
    left: list[Raw] = []
    for role, run in runs:
        if role == "system":
            left = append_to_user(folded, all_blocks_of(run))
        else:
            folded += following(left, run)
            left = []
    return encoded([*folded, *following(left, [])])


def append_to_user(messages: list[Fields], blocks: list[Raw]) -> list[Raw]:
    """Append blocks to the last message if it is the user's. Returns those that could not be appended."""
    if not messages or turn_of(messages[-1]) != "user":
        return blocks
    messages[-1] = extended(messages[-1], blocks)
    return []


def following(blocks: list[Raw], run: list[Fields]) -> list[Fields]:
    """Add blocks to messages of one role: at the end of the first if it is the user's, else in a new message
    before it."""
    if not blocks:
        return run
    if run and turn_of(run[0]) == "user":
        return [extended(run[0], blocks), *run[1:]]
    return [user_message(blocks), *run]


def turn_of(message: Fields) -> str:
    """Return the role that a message counts as."""
    return text_of(message.get("role"))


def all_blocks_of(messages: list[Fields]) -> list[Raw]:
    """Return the content of messages as blocks. Blocks are appended all at once: one by one they would be copied once
    per message."""
    return [block for message in messages for block in blocks_of(message)]


def extended(message: Fields, blocks: list[Raw]) -> Fields:
    """Return the message with more blocks at its end."""
    return message | {"content": encoded(blocks_of(message) + blocks)}


def user_message(blocks: list[Raw]) -> Fields:
    """Return a user message with these blocks."""
    return {"role": encoded("user"), "content": encoded(blocks)}


def blocks_of(message: Fields) -> list[Raw]:
    """Return a message's content as blocks."""
    content = message.get("content")
    blocks = list_of(content)
    if blocks is not None:
        return blocks
    if content is None or bytes(content)[:1] != b'"':
        return []
    return [encoded({"type": "text", "text": content})]
