"""Prepares the copy of a body for a compatible provider.

Allow-lists apply, since such a provider rejects what it doesn't know or, worse, misreads it:

- Fields of the body (`routing.request_fields`) and of tools (`TOOL_FIELDS`). `context_management`, `output_config` and
  the like are removed, together with their beta headers.
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
- Content blocks: see `blocks_compat`. An assistant message without content is dropped, and the user messages around it
  are merged, so that roles still alternate; a user message without content says so.
- Rules across blocks: see `conversation`. Which ones a provider has is data (`TRAITS`).

Not here: which thinking blocks are removed (`bodies`).
"""

from collections.abc import Container, Sequence
from itertools import groupby
from typing import Final

import msgspec
from msgspec import Raw, Struct

from service.protocol.body_survey import BlockSurvey, MessageSurvey, survey_messages
from service.protocol.raw_json import (
    Fields,
    clean_messages,
    encoded,
    fields_of,
    is_blank_text,
    list_of,
    objects_of,
    text_of,
    value_of,
    with_changed,
    with_model,
)
from service.providers.blocks_compat import BlockRules, clean_block
from service.providers.conversation import (
    Edits,
    are_paired,
    begins_with_thought,
    fit_ids,
    open_turn,
    paired,
    with_edits,
)
from service.routing.request_fields import KEPT
from service.settings import ModelLimits, StripThinking
from service.settings.failure_rules import Dialect

TOOL_FIELDS: Final = frozenset(("name", "description", "input_schema", "cache_control"))
METADATA_LEFT_OUT: Final = frozenset(("user_id",))
ATTRIBUTION: Final = "x-anthropic-billing-header"
BUDGET_LEAST_TOKENS: Final = 1_024
BUDGET_MOST_TOKENS: Final = 32_000


NO_CONTENT: Final = "[empty message]"


class Traits(Struct, frozen=True):
    """Habits of a dialect. `one_text`: of a tool result it reads one text. `thought_first`: with thinking on, the turn
    under way has to begin with a thinking block."""

    one_text: bool
    thought_first: bool


TRAITS: Final[dict[Dialect, Traits]] = {
    "zai": Traits(one_text=True, thought_first=False),
    "compatible": Traits(one_text=False, thought_first=True),
}
"""Of Z.AI that is from reports of users; it takes turns without thoughts. Others (DeepSeek and Kimi, by public issues)
reject calls of tools without the thoughts before them while thinking is on."""


class CompatRules(Struct, frozen=True):
    """What a provider takes: its habits, its blocks, and its largest `max_tokens`."""

    traits: Traits
    blocks: BlockRules
    output_tokens: int | None


def compat_rules(dialect: Dialect, limits: ModelLimits, strip: StripThinking, refused: Container[str]) -> CompatRules:
    """Return the rules for a model of such a provider."""
    traits = TRAITS[dialect]
    blocks = BlockRules(strip, refused, limits.reads_images is not False, traits.one_text)
    return CompatRules(traits, blocks, limits.output_tokens)


def for_compat(raw: bytes, model_sent: str, rules: CompatRules, *, thinking_off: bool = False) -> bytes:
    """Return the body for such a provider."""
    fields = fields_of(raw)
    if fields is None:
        return raw
    cleaned = {name: value for name, value in fields.items() if name in KEPT}
    cleaned = with_model(cleaned, model_sent)
    cleaned = with_changed(cleaned, "metadata", clean_metadata)
    cleaned = with_changed(cleaned, "system", clean_system)
    cleaned = with_changed(cleaned, "max_tokens", lambda value: clean_max_tokens(value, rules.output_tokens))
    cleaned = with_changed(cleaned, "thinking", lambda value: clean_thinking(value, cleaned.get("max_tokens")))
    cleaned = clean_tools(cleaned)
    cleaned = with_changed(cleaned, "messages", fold_system)
    cleaned = clean_content(cleaned, rules.blocks)
    cleaned = finish(cleaned, rules.traits, thinking_off=thinking_off)
    unchanged = len(cleaned) == len(fields) and all(cleaned[name] is value for name, value in fields.items())
    return raw if unchanged else msgspec.json.encode(cleaned)


def clean_content(fields: Fields, rules: BlockRules) -> Fields:
    """Return the body with every content block converted, and no message without content."""
    cleaned = clean_messages(fields, lambda block: clean_block(block, rules))
    cleaned = with_changed(cleaned, "messages", fill_empty)
    if cleaned is fields or "messages" not in fields:
        return cleaned
    before, after = list_of(fields["messages"]) or [], list_of(cleaned["messages"]) or []
    return cleaned if len(before) == len(after) else with_changed(cleaned, "messages", join_turns)


def fill_empty(value: Raw) -> Raw:
    """Return messages of which none is empty: a user's says so, an assistant's goes."""
    if all(map(has_content, survey_messages(value))):
        return value
    messages = objects_of(value)
    if not messages:
        return value
    kept = [message for message in messages if turn_of(message) == "user" or not is_empty(message)]
    return encoded(
        [filled(message) if turn_of(message) == "user" and is_empty(message) else message for message in kept]
    )


def has_content(message: MessageSurvey[BlockSurvey]) -> bool:
    """True if a message has blocks, or a text with more than blanks."""
    return bool(message.content.strip() if isinstance(message.content, str) else message.content)


def is_empty(message: Fields) -> bool:
    """True if a message has no content, or nothing but blanks."""
    content = bytes(message.get("content", b"null"))
    if content[:1] in (b'"', b"n"):
        return not text_of(message.get("content")).strip()
    return list_of(message.get("content")) == []


def filled(message: Fields) -> Fields:
    """Return a message that says that it has no content."""
    return message | {"content": encoded(NO_CONTENT)}


def finish(fields: Fields, traits: Traits, *, thinking_off: bool) -> Fields:
    """Return the body in which also rules across blocks hold."""
    messages = survey_messages(fields.get("messages"))
    edits = Edits()
    fit_ids(messages, {}, edits)
    start = open_turn(messages)
    is_unbegun = traits.thought_first and start >= 0 and not begins_with_thought(messages, start, edits)
    fields = with_edits(fields, messages, start, edits, is_unbegun=is_unbegun, thinking_off=thinking_off)
    if not edits and are_paired(messages):
        return fields
    return with_changed(with_changed(fields, "messages", join_turns), "messages", paired)


def join_turns(value: Raw) -> Raw:
    """Merge consecutive messages of one role, as Anthropic does: a turn's calls or results may come in several."""
    messages = objects_of(value)
    joined: list[Fields] = []
    for _, turn in groupby(messages, turn_of):
        first, *others = turn
        joined.append(extended(first, all_blocks_of(others)) if others else first)
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
    """Return the system prompt without the attribution block and empty texts; None if nothing remains."""
    blocks = list_of(value)
    if blocks is None:
        return clean_system_text(value)
    kept = [block for block in blocks if is_instruction(fields_of(block) or {})]
    return value if len(kept) == len(blocks) else encoded(kept or None)


def clean_system_text(value: Raw) -> Raw | None:
    """Return a system prompt in one text without the attribution line; None if nothing remains."""
    text = value_of(value)
    if not isinstance(text, str) or (text and not text.startswith(ATTRIBUTION)):
        return value
    return encoded(text.partition("\n")[2] or None)


def is_instruction(block: Fields) -> bool:
    """True if a block of the system prompt says something to the model."""
    return not (is_blank_text(block) or text_of(block.get("text")).startswith(ATTRIBUTION))


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
