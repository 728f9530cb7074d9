"""Prepares the copy of a request's body for a route. Not here: choosing the model (`routing`), and headers.

For `/v1/messages` and `count_tokens`; other bodies are sent unchanged.

The rules for all providers:

- A body that needs no change stays the same object, so that prompt caches keep hitting. If something must change, all
  other values keep their bytes (number formats, inner whitespace, unknown fields).
- Messages and blocks of an unexpected shape are left alone: the provider's own error is better than ours.

For Anthropic, only what it is known to reject is changed:

- The model, if another one is sent than requested.
- Thinking blocks without a signature. All of them if the conversation is of another vendor's model, whose signatures
  are invalid here; as the setting says on a subscription; and those that this route rejected before. An assistant
  message without remaining blocks is dropped.
- What breaks rules across blocks (`conversation`): ids of tool calls that do not match its patterns (Z.AI makes
  `call_...`) or occur twice, empty texts, and `thinking` while the turn under way does not begin with a thinking block.

Other providers' bodies are prepared by `bodies_compat`.
"""

from collections.abc import Container
from typing import Final

import msgspec
from msgspec import Struct

from service.ledger.model_names import is_of
from service.protocol.body_survey import survey
from service.protocol.raw_json import fields_of, with_model
from service.providers.bodies_compat import compat_rules, for_compat
from service.providers.conversation import (
    ANTHROPIC_IDS,
    Edits,
    Messages,
    begins_with_thought,
    fit_ids,
    is_ready,
    leave_out_empty,
    open_turn,
    strip_thoughts,
    with_edits,
)
from service.routing.context import limits_of
from service.settings import Policy, Route, StripThinking


class Cure(Struct, frozen=True):
    """What is left out of a body after the provider has refused it: thinking blocks, or thinking altogether."""

    without_thinking: bool = False
    thinking_off: bool = False


NO_CURE: Final = Cure()


def clean_body(
    raw: bytes,
    *,
    route: Route,
    model_asked: str,
    model_sent: str,
    strip_thinking: StripThinking,
    policy: Policy,
    refused: Container[str] = (),
    messages: Messages | None = None,
    cure: Cure = NO_CURE,
) -> bytes:
    """Return the body for this route. `strip_thinking` is the setting for subscriptions.

    `refused` are signatures that this route has rejected. `messages` are those of the body if the caller has read them
    already.
    """
    strip = "all" if cure.without_thinking else thinking_to_strip(route, model_asked, model_sent, strip_thinking)
    if route.provider.dialect == "anthropic":
        known = survey(raw) if messages is None else messages
        edits = Edits()
        if not is_ready(known, strip, refused):
            strip_thoughts(known, strip, refused, edits)
            fit_ids(known, ANTHROPIC_IDS, edits)
            leave_out_empty(known, edits)
        sent = model_sent if model_sent != model_asked else ""
        return for_anthropic(raw, known, sent, edits, thinking_off=cure.thinking_off)
    rules = compat_rules(route.provider.dialect, limits_of(model_sent, policy), strip, refused)
    return for_compat(raw, model_sent, rules, thinking_off=cure.thinking_off)


def thinking_to_strip(route: Route, model_asked: str, model_sent: str, setting: StripThinking) -> StripThinking:
    """Return which thinking blocks this route must not get."""
    families = route.provider.families
    crossing = not is_of(model_asked, families) if families else model_asked != model_sent
    if crossing:
        return "all"
    if route.provider.dialect != "anthropic":
        return "none"
    return setting if route.auth == "oauth" else "unsigned"


def for_anthropic(raw: bytes, messages: Messages, new_model: str, edits: Edits, *, thinking_off: bool) -> bytes:
    """Return the body for Anthropic with these edits, and with thinking turned off where it has to be. `new_model`: ""
    if the model stays."""
    start = open_turn(messages)
    is_unbegun = start >= 0 and not begins_with_thought(messages, start, edits)
    if not (new_model or edits.blocks or edits.dropped or is_unbegun or thinking_off):
        return raw
    fields = fields_of(raw)
    if fields is None:
        return raw
    cleaned = with_model(fields, new_model) if new_model else fields
    cleaned = with_edits(cleaned, messages, start, edits, is_unbegun=is_unbegun, thinking_off=thinking_off)
    return raw if cleaned is fields else msgspec.json.encode(cleaned)
