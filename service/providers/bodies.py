"""Prepares the copy of a request's body for a route. Not here: choosing the model (`routing`), and headers.

For `/v1/messages` and `count_tokens`; other bodies are sent unchanged.

The rules for all providers:

- A body that needs no change stays the same object, so that prompt caches keep hitting. If something must change, all
  other values keep their bytes (number formats, inner whitespace, unknown fields).
- Messages and blocks of an unexpected shape are left alone: the provider's own error is better than ours.

For Anthropic, only what it is known to reject is changed:

- The model, if another one is sent than requested.
- Ids of tool calls that do not match its patterns (Z.AI makes `call_...`), and every reference to them. New ids depend
  only on the old one, unless one is in use already, so that they stay the same as the conversation grows.
- Thinking blocks without a signature. All of them if the conversation is of another vendor's model, whose signatures
  are invalid here; as the setting says on a subscription; and those whose signature was rejected before. An assistant
  message without remaining blocks is dropped.

Other providers' bodies are prepared by `bodies_compat`.
"""

import re
from collections.abc import Container, Sequence
from hashlib import sha256
from typing import Final

import msgspec

from service.ledger.model_names import is_of
from service.protocol.body_survey import BlockSurvey, survey
from service.protocol.raw_json import (
    THINKING_BLOCKS,
    BlockCleaner,
    Fields,
    clean_messages,
    encoded,
    fields_of,
    is_stripped,
    text_of,
    with_model,
)
from service.providers.bodies_compat import for_compat
from service.routing.context import limits_of
from service.settings import Policy, Route, StripThinking

# Anthropic's patterns of ids (from its errors in public issues), and the prefix of a new one.
ID_RULES: Final = {
    "tool_use": (re.compile(r"[a-zA-Z0-9_-]+"), re.compile(r"[^a-zA-Z0-9_-]"), "toolu_"),
    "server_tool_use": (re.compile(r"srvtoolu_[a-zA-Z0-9_]+"), re.compile(r"[^a-zA-Z0-9_]"), "srvtoolu_"),
}


def clean_body(
    raw: bytes,
    *,
    route: Route,
    model_asked: str,
    model_sent: str,
    strip_thinking: StripThinking,
    policy: Policy,
    refused: Container[str] = (),
    blocks: Sequence[BlockSurvey] | None = None,
) -> bytes:
    """Return the body for this route. `strip_thinking` is the setting for subscriptions.

    `refused` are signatures that Anthropic has rejected. `blocks` are those of its messages if the caller has read them
    already.
    """
    strip = thinking_to_strip(route, model_asked, model_sent, strip_thinking)
    if route.provider.dialect == "anthropic":
        return for_anthropic(raw, survey(raw) if blocks is None else blocks, model_asked, model_sent, strip, refused)
    return for_compat(raw, model_sent, strip, limits_of(model_sent, policy))


def without_thinking(raw: bytes) -> bytes:
    """Return the body without any thinking block: for a retry after a provider rejected a signature."""
    fields = fields_of(raw)
    if fields is None:
        return raw
    cleaned = clean_messages(fields, thinking_remover("all"))
    return raw if cleaned is fields else msgspec.json.encode(cleaned)


def thinking_to_strip(route: Route, model_asked: str, model_sent: str, setting: StripThinking) -> StripThinking:
    """Return which thinking blocks this route must not get."""
    families = route.provider.families
    crossing = not is_of(model_asked, families) if families else model_asked != model_sent
    if crossing:
        return "all"
    if route.provider.dialect != "anthropic":
        return "none"
    return setting if route.auth == "oauth" else "unsigned"


def for_anthropic(
    raw: bytes,
    blocks: Sequence[BlockSurvey],
    model_asked: str,
    model_sent: str,
    strip: StripThinking,
    refused: Container[str],
) -> bytes:
    """Return the body for Anthropic; `blocks` are those of its messages."""
    new_ids = id_map(blocks)
    strips = any(
        is_stripped(block.type, block.signature, strip, refused) for block in blocks if block.type in THINKING_BLOCKS
    )
    if model_asked == model_sent and not new_ids and not strips:
        return raw
    fields = fields_of(raw)
    if fields is None:
        return raw
    cleaned = with_model(fields, model_sent)
    if strips:
        cleaned = clean_messages(cleaned, thinking_remover(strip, refused))
    if new_ids:
        cleaned = clean_messages(cleaned, id_renamer(new_ids))
    return raw if cleaned is fields else msgspec.json.encode(cleaned)


def id_map(blocks: Sequence[BlockSurvey]) -> dict[str, str]:
    """Return new ids for those that Anthropic rejects; the first kind of call with an id decides its prefix."""
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
    """Return an unused id of this kind, derived from the old one.

    If characters had to be removed, a digest of the old id keeps ids apart that differ in these alone.
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
    """Return a cleaner that renames ids of calls and references."""

    def rename(block: Fields) -> Fields:
        changes = {
            name: encoded(new_ids[old])
            for name in ("id", "tool_use_id")
            if name in block and (old := text_of(block[name])) in new_ids
        }
        return block | changes if changes else block

    return rename


def thinking_remover(strip: StripThinking, refused: Container[str] = ()) -> BlockCleaner:
    """Return a cleaner that removes thinking blocks."""

    def remove(block: Fields) -> Fields | None:
        kind, signature = text_of(block.get("type")), text_of(block.get("signature"))
        return None if is_stripped(kind, signature, strip, refused) else block

    return remove
