"""Rules that hold across the blocks of a conversation, and the changes that they need. Pure.

Changes are decided on a survey of the messages (`protocol.body_survey`), which a request has anyway, and made in one
pass over those messages alone that need one:

- Ids of tool calls fit the provider's pattern and are unique; results follow their calls in it. New ids depend on what
  stands before them, so that they stay the same as the conversation grows.
- No text is empty, and no assistant message but the last.
- A turn begins with a thinking block where the provider thinks; else thinking is turned off for this request.
- The calls of a message have their results, and nothing else before them, in the next one.

Not here: which rules a provider has (`bodies`), and the form of single blocks (`blocks_compat`).
"""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Container, Mapping, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from msgspec import Raw

from service.protocol.body_survey import BlockSurvey, MessageSurvey, is_blank
from service.protocol.raw_json import (
    THINKING_BLOCKS,
    BlockCleaner,
    Fields,
    encoded,
    fields_of,
    is_blank_text,
    is_stripped,
    list_of,
    objects_of,
    text_of,
    with_changed,
)
from service.settings import StripThinking

Messages = Sequence[MessageSurvey[BlockSurvey]]
Edit = tuple[int, BlockCleaner]
BLANK_STARTS: Final = (
    b'""',
    b'" ',
    b'"\\',
    b'"\xc2',
    b'"\xe1\x9a\x80',
    b'"\xe2\x80',
    b'"\xe2\x81\x9f',
    b'"\xe3\x80\x80',
)
"""How JSON may write a text of blanks, and few other texts: quote and first sign, also one of Unicode's blanks."""
NO_RESULT: Final = "[no result]"
SIGNED_TEXT: Final = ("content", "text")


class IdRule(NamedTuple):
    """The pattern of a kind of id, what it rules out, and how a new one begins."""

    fits: re.Pattern[str]
    refused: re.Pattern[str]
    prefix: str


# Anthropic's patterns of ids (from its errors in public issues).
ANTHROPIC_IDS: Final = {
    "tool_use": IdRule(re.compile(r"[a-zA-Z0-9_-]+"), re.compile(r"[^a-zA-Z0-9_-]"), "toolu_"),
    "server_tool_use": IdRule(re.compile(r"srvtoolu_[a-zA-Z0-9_]+"), re.compile(r"[^a-zA-Z0-9_]"), "srvtoolu_"),
}
CALLS: Final = frozenset(ANTHROPIC_IDS)


def is_ready(messages: Messages, strip: StripThinking, refused: Container[str]) -> bool:
    """True if no rule of Anthropic about blocks and ids needs a change, as nearly always.

    Every request comes here: texts, which most blocks are, are passed over without a call for each.
    """
    if has_wordless(messages):
        return False
    suspects: list[BlockSurvey] = []
    others: list[BlockSurvey] = []
    for message in messages:
        for block in message.content if message.content.__class__ is list else ():
            if block.type != "text":
                others.append(block)
            elif bytes(block.text).startswith(BLANK_STARTS):
                suspects.append(block)
    if any(map(is_blank, suspects)):
        return False
    return not others or are_ready(others, strip, refused)


def has_wordless(messages: Messages) -> bool:
    """True if a message is empty, or one text of blanks."""
    for message in messages:
        content = message.content
        if not content or (content.__class__ is str and is_wordless(content)):
            return True
    return False


def are_ready(blocks: Sequence[BlockSurvey], strip: StripThinking, refused: Container[str]) -> bool:
    """True if no rule needs a change of these blocks, which are no texts."""
    return not has_blank_part(blocks) and are_fitting(blocks) and are_welcome(blocks, strip, refused)


def has_blank_part(blocks: Sequence[BlockSurvey]) -> bool:
    """True if a part of one of the blocks is an empty text."""
    parts = [part for block in blocks if block.content.__class__ is list for part in block.content]
    return any(map(is_blank, parts))


def are_fitting(blocks: Sequence[BlockSurvey]) -> bool:
    """True if the ids of all calls fit Anthropic's patterns, and are different ones."""
    calls = [block for block in blocks if block.type in CALLS]
    ids = {call.id for call in calls if ANTHROPIC_IDS[call.type].fits.fullmatch(call.id)} if calls else ()
    return len(ids) == len(calls)


def are_welcome(blocks: Sequence[BlockSurvey], strip: StripThinking, refused: Container[str]) -> bool:
    """True if the provider takes all thoughts and other signed blocks."""
    signed = [block for block in blocks if block.signature or block.type in THINKING_BLOCKS]
    if not signed:
        return True
    return not any(is_stripped(block.type, block.mark, strip) or block.mark in refused for block in signed)


class Edits:
    """Changes to blocks by the place of their message, and messages to leave out."""

    __slots__ = ("blocks", "dropped", "removed")

    def __init__(self) -> None:
        self.blocks: dict[int, list[Edit]] = {}
        self.removed: set[tuple[int, int]] = set()
        self.dropped: set[int] = set()

    def change(self, message: int, block: int, cleaner: BlockCleaner) -> None:
        """Change a block."""
        self.blocks.setdefault(message, []).append((block, cleaner))

    def remove(self, message: int, block: int) -> None:
        """Leave out a block."""
        self.removed.add((message, block))
        self.change(message, block, without)

    def __bool__(self) -> bool:
        return bool(self.blocks or self.dropped)


def without(_: Fields) -> None:
    """Leave out a block."""


def edited(value: Raw, edits: Edits) -> Raw:
    """Return messages with their changes; an assistant message of which nothing is left goes."""
    kept: list[Raw] = []
    for place, raw in enumerate(list_of(value) or ()):
        if place in edits.dropped:
            continue
        changed = edited_message(raw, edits.blocks[place]) if place in edits.blocks else raw
        if changed is not None:
            kept.append(changed)
    return encoded(kept)


def edited_message(raw: Raw, changes: Sequence[Edit]) -> Raw | None:
    """Return a message with changed blocks; None if nothing of an assistant's is left."""
    message = fields_of(raw) or {}
    blocks = list_of(message.get("content")) or []
    by_block: dict[int, list[BlockCleaner]] = defaultdict(list)
    for block, cleaner in changes:
        by_block[block].append(cleaner)
    kept = [
        new
        for place, block in enumerate(blocks)
        if (new := cleaned_by(by_block[place], block) if place in by_block else block) is not None
    ]
    if not kept and text_of(message.get("role")) == "assistant":
        return None
    return encoded(message | {"content": encoded(kept)})


def cleaned_by(cleaners: Sequence[BlockCleaner], block: Raw) -> Raw | None:
    """Return a block after all of its changes."""
    fields = fields_of(block)
    for cleaner in cleaners:
        fields = cleaner(fields) if fields is not None else None
    return None if fields is None else encoded(fields)


# -- thoughts


def strip_thoughts(messages: Messages, strip: StripThinking, refused: Container[str], edits: Edits) -> None:
    """Leave out the thinking blocks that the provider would refuse. Of a message with one that it has refused, all go:
    they are one model's, and valid together. Other blocks that it can't verify become text."""
    for place, message in enumerate(messages):
        blocks = message.content if isinstance(message.content, list) else []
        signed = [
            (index, block) for index, block in enumerate(blocks) if block.signature or block.type in THINKING_BLOCKS
        ]
        is_refused = any(block.mark in refused for _, block in signed)
        for index, block in signed:
            strip_block(place, index, block, "all" if is_refused else strip, refused, edits)


def strip_block(
    place: int, index: int, block: BlockSurvey, strip: StripThinking, refused: Container[str], edits: Edits
) -> None:
    """Leave out a thinking block that the provider would refuse; make text of another block that it refused."""
    if block.type not in THINKING_BLOCKS:
        if block.mark in refused:
            edits.change(place, index, unsigned_text)
    elif is_stripped(block.type, block.mark, strip):
        edits.remove(place, index)


def unsigned_text(block: Fields) -> Fields:
    """Return the text of a block, such as a summary, whose signature was refused."""
    words = next((text for name in SIGNED_TEXT if (text := text_of(block.get(name)))), "[left out]")
    kept = {"cache_control": block["cache_control"]} if "cache_control" in block else {}
    return {"type": encoded("text"), "text": encoded(words), **kept}


def open_turn(messages: Messages) -> int:
    """Return the place of the assistant message with which the turn under way began; -1 if none is."""
    start = -1
    for place in range(len(messages) - 1, -1, -1):
        message = messages[place]
        if message.role == "assistant":
            start = place
        elif message.role != "system":
            for block in message.content if message.content.__class__ is list else ():
                if block.type.endswith("tool_result"):
                    break
            else:
                break
    return start


def begins_with_thought(messages: Messages, start: int, edits: Edits) -> bool:
    """True if the first block of a turn that is left is a thinking block; also if nothing is left."""
    for place in range(start, len(messages)):
        message = messages[place]
        if message.role != "assistant" or place in edits.dropped:
            continue
        if isinstance(message.content, str):
            if message.content:
                return False
            continue
        left = (block for index, block in enumerate(message.content) if (place, index) not in edits.removed)
        if first := next(left, None):
            return first.type in THINKING_BLOCKS
    return True


def is_thinking(fields: Fields) -> bool:
    """True if a body asks for thinking with a budget, which is what binds a turn to begin with it; with `adaptive` the
    model itself decides (Anthropic's documentation)."""
    return text_of((fields_of(fields.get("thinking")) or {}).get("type")) == "enabled"


def turn_off_thinking(fields: Fields, messages: Messages, start: int, edits: Edits) -> Fields:
    """Return the body without thinking, with which the turn under way has no thinking blocks either."""
    for place in range(max(start, 0), len(messages)):
        content = messages[place].content
        for index, block in enumerate(content if isinstance(content, list) else ()):
            if block.type in THINKING_BLOCKS and (place, index) not in edits.removed:
                edits.remove(place, index)
    off = fields | {"thinking": encoded({"type": "disabled"})}
    return with_changed(off, "context_management", without_thinking_edits)


def with_edits(
    fields: Fields, messages: Messages, start: int, edits: Edits, *, is_unbegun: bool, thinking_off: bool
) -> Fields:
    """Return the body with its messages edited, and without thinking if it is to be off, or if the turn that began at
    `start` did not begin with a thought."""
    if thinking_off or (is_unbegun and is_thinking(fields)):
        fields = turn_off_thinking(fields, messages, start, edits)
    return with_changed(fields, "messages", lambda value: edited(value, edits)) if edits else fields


def without_thinking_edits(value: Raw) -> Raw | None:
    """Return `context_management` without edits that need thinking; None if none is left."""
    management = fields_of(value)
    edits = objects_of(management.get("edits")) if management else []
    kept = [edit for edit in edits if not text_of(edit.get("type")).startswith("clear_thinking")]
    if management is None or len(kept) == len(edits):
        return value
    return encoded(management | {"edits": encoded(kept)}) if kept else None


# -- ids


def fit_ids(messages: Messages, rules: Mapping[str, IdRule], edits: Edits) -> None:
    """Rename ids of calls that do not fit or occur twice, and references to them; those of fitting ones stay."""
    calls = [block for message in messages for block in calls_of(message)]
    kinds: dict[str, str] = {}
    for block in calls:
        kinds.setdefault(block.id, block.type)
    new_ids = fitting_ids(messages, kinds, rules)
    if new_ids or len(kinds) < len(calls):
        rename(messages, new_ids, edits)


def calls_of(message: MessageSurvey[BlockSurvey]) -> Sequence[BlockSurvey]:
    """Return the calls of tools in a message."""
    if isinstance(message.content, str):
        return ()
    return [block for block in message.content if block.type in CALLS]


def fitting_ids(messages: Messages, kinds: Mapping[str, str], rules: Mapping[str, IdRule]) -> dict[str, str]:
    """Return new ids for those that do not fit; the first kind of call with an id decides its prefix."""
    refused = [(old, kind) for old, kind in kinds.items() if kind in rules and not rules[kind].fits.fullmatch(old)]
    taken = names_in(messages) if refused else set()
    new_ids: dict[str, str] = {}
    for old, kind in refused:
        new_ids[old] = new = new_id(old, rules[kind], taken)
        taken.add(new)
    return new_ids


def names_in(messages: Messages) -> set[str]:
    """Return all ids of calls, and of references to them."""
    blocks = (block for message in messages if isinstance(message.content, list) for block in message.content)
    return {name for block in blocks for name in (block.id, block.tool_use_id)}


def new_id(old: str, rule: IdRule, taken: Container[str]) -> str:
    """Return an unused id, derived from the old one.

    If characters had to be removed, a digest of the old id keeps ids apart that differ in these alone.
    """
    new = rule.refused.sub("_", old)
    if new != old:
        new += "_" + sha256(old.encode()).hexdigest()[:8]
    if rule.prefix == "srvtoolu_":
        new = rule.prefix + new.removeprefix(rule.prefix)
    new = new if old else rule.prefix + "0"
    while new in taken:
        new += "_"
    return new


def rename(messages: Messages, new_ids: Mapping[str, str], edits: Edits) -> None:
    """Rename calls, and the references behind them; a repeated id gets a number."""
    taken = names_in(messages) | set(new_ids.values())
    used: set[str] = set()
    waiting: dict[str, deque[str]] = {}
    speaker = ""
    for place, message in enumerate(messages):
        if message.role == "assistant" and speaker == "user":
            waiting.clear()
        speaker = speaker if message.role == "system" else message.role
        for index, block in enumerate(message.content if isinstance(message.content, list) else ()):
            if block.type in CALLS:
                old = block.id
                new = unused(new_ids.get(old, old), used, taken)
                used.add(new)
                waiting.setdefault(old, deque()).append(new)
            elif block.type.endswith("tool_result"):
                old = block.tool_use_id
                new = next_of(waiting.get(old), new_ids.get(old, old))
            else:
                continue
            if new != old:
                edits.change(place, index, renamer(old, new))


def unused(name: str, used: Container[str], taken: set[str]) -> str:
    """Return a name as it is, or with a number if a call has it already."""
    if name not in used:
        return name
    number = 2
    while f"{name}_{number}" in taken or f"{name}_{number}" in used:
        number += 1
    return f"{name}_{number}"


def next_of(waiting: "deque[str] | None", other: str) -> str:
    """Return the new id of the call to which a result belongs: of several with one id, in their order."""
    if not waiting:
        return other
    return waiting.popleft() if len(waiting) > 1 else waiting[0]


def renamer(old: str, new: str) -> BlockCleaner:
    """Return a cleaner that renames an id."""

    def change(block: Fields) -> Fields:
        names = [name for name in ("id", "tool_use_id") if name in block and text_of(block[name]) == old]
        return block | dict.fromkeys(names, encoded(new))

    return change


# -- empty texts


def leave_out_empty(messages: Messages, edits: Edits) -> None:
    """Leave out empty texts, and assistant messages without content; the last message may be empty, not blank.

    Of a user's message that is nothing but empty texts, all stays: the provider's own error is better than ours.
    """
    last = len(messages) - 1
    for place, message in enumerate(messages):
        content = message.content
        if isinstance(content, list) and content:
            leave_out_blank(place, message.role, content, edits)
        elif message.role == "assistant" and is_wordless(content) and (content or place != last):
            edits.dropped.add(place)


def is_wordless(content: str | Sequence[BlockSurvey]) -> bool:
    """True for no content, and for one text of blanks."""
    return not content or (isinstance(content, str) and not content.strip())


def leave_out_blank(place: int, role: str, blocks: Sequence[BlockSurvey], edits: Edits) -> None:
    """Leave out the empty texts of a message and of its results."""
    blank = []
    for index, block in enumerate(blocks):
        if is_blank(block):
            blank.append(index)
        elif isinstance(block.content, list) and any(map(is_blank, block.content)):
            edits.change(place, index, without_blank_parts)
    if role == "assistant" or len(blank) < len(blocks):
        for index in blank:
            edits.remove(place, index)


def without_blank_parts(block: Fields) -> Fields:
    """Return a result without empty texts."""

    def left(value: Raw) -> Raw:
        return encoded([part for part in list_of(value) or () if not is_blank_part(part)])

    return with_changed(block, "content", left)


def is_blank_part(part: Raw) -> bool:
    """True if a part of a result is an empty text."""
    fields = fields_of(part)
    return fields is not None and is_blank_text(fields)


# -- calls and their results


def are_paired(messages: Messages) -> bool:
    """True if `paired` would change nothing."""
    calls: list[str] = []
    for message in messages:
        blocks = message.content if isinstance(message.content, list) else []
        if message.role != "user":
            if calls:
                return False
        elif not is_answered(calls, [block.tool_use_id if block.type == "tool_result" else None for block in blocks]):
            return False
        calls = [block.id for block in blocks if block.type == "tool_use"]
    return True


def is_answered(calls: Sequence[str], answered: Sequence[str | None]) -> bool:
    """True if the blocks of a message begin with the results of these calls, in any order, and have no other results.
    `answered`: the calls whose results they are, None for other blocks."""
    first = answered[: len(calls)]
    return Counter(first) == Counter(calls) and not any(answer is not None for answer in answered[len(calls) :])


def paired(value: Raw) -> Raw:
    """Return messages in which each call has its result at the beginning of the next message, and each result its call;
    a result without one becomes text."""
    messages = objects_of(value)
    made: list[Fields] = []
    calls: list[str] = []
    for message in messages:
        if text_of(message.get("role")) == "user":
            made.append(answering(message, calls))
        else:
            if calls:
                made.append({"role": encoded("user"), "content": encoded([missing(call) for call in calls])})
            made.append(message)
        calls = [text_of(block.get("id")) for block in objects_of(message.get("content")) if is_call(block)]
    return value if same(made, messages) else encoded(made)


def same(new: Sequence[Fields], old: Sequence[Fields]) -> bool:
    """True if these are the same objects."""
    return len(new) == len(old) and all(one is other for one, other in zip(new, old, strict=True))


def is_call(block: Fields) -> bool:
    """True if a block is a call of a client's tool."""
    return text_of(block.get("type")) == "tool_use"


def answering(message: Fields, calls: Sequence[str]) -> Fields:
    """Return a user's message with the results of these calls first."""
    blocks = content_of(message)
    answered = [text_of(block.get("tool_use_id")) if is_result(block) else None for block in blocks]
    if is_answered(calls, answered):
        return message
    left = list(calls)
    first: list[Fields] = []
    others: list[Fields] = []
    for block, answer in zip(blocks, answered, strict=True):
        if answer is not None and answer in left:
            left.remove(answer)
            first.append(block)
        else:
            others.append(block if answer is None else result_as_text(block))
    return message | {"content": encoded([*first, *map(missing, left), *others])}


def content_of(message: Fields) -> list[Fields]:
    """Return a message's content as blocks; empty if it has another shape."""
    content = message.get("content")
    if content is not None and bytes(content)[:1] == b'"':
        return [{"type": encoded("text"), "text": content}]
    return objects_of(content)


def is_result(block: Fields) -> bool:
    """True if a block is the result of a client's tool."""
    return text_of(block.get("type")) == "tool_result"


def missing(call: str) -> Fields:
    """Return a result that says that there is none."""
    result = {"type": "tool_result", "tool_use_id": call, "content": NO_RESULT, "is_error": True}
    return {name: encoded(value) for name, value in result.items()}


def result_as_text(block: Fields) -> Fields:
    """Return a result without its call as text."""
    content = block.get("content")
    parts = [text_of(part.get("text")) for part in objects_of(content)] or [text_of(content)]
    words = "\n".join(filter(None, parts)) or NO_RESULT
    return {"type": encoded("text"), "text": encoded(f"[result of an earlier call:]\n{words}")}
