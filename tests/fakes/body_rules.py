"""Rules about whole bodies that the providers enforce before they answer; each with where it was found.

Each rule returns the words of its refusal, "" if it holds. Not here: credentials, models and betas (`checks`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, TypeAlias

Body: TypeAlias = dict[str, Any]
Block: TypeAlias = dict[str, Any]
Rule: TypeAlias = Callable[[Body], str]

TOOL_ID = re.compile(r"^[a-zA-Z0-9_-]+$")
SERVER_TOOL_ID = re.compile(r"^srvtoolu_[a-zA-Z0-9_]+$")
THOUGHTS = ("thinking", "redacted_thinking")
LEAST_BUDGET = 1_024


def messages_of(body: Body) -> list[Body]:
    messages = body.get("messages")
    return [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []


def blocks_of(message: Body) -> list[Block]:
    """A message's content as blocks."""
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def placed(body: Body) -> Iterator[tuple[str, Block]]:
    """All blocks with their place as errors name it."""
    for number, message in enumerate(messages_of(body)):
        if isinstance(message.get("content"), list):
            yield from ((f"messages.{number}.content.{index}", block) for index, block in enumerate(blocks_of(message)))


def parts_of(block: Block) -> list[Block]:
    """The parts of a tool's result."""
    content = block.get("content") if block.get("type") == "tool_result" else None
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def thinks(body: Body) -> str:
    thinking = body.get("thinking")
    return str(thinking.get("type")) if isinstance(thinking, dict) else "disabled"


def open_turn(body: Body) -> list[Body]:
    """The assistant's messages since the user last said something else than results of tools."""
    turn: list[Body] = []
    for message in reversed(messages_of(body)):
        if message.get("role") == "assistant":
            turn.insert(0, message)
        elif message.get("role") == "user" and not any(b.get("type") == "tool_result" for b in blocks_of(message)):
            break
    return turn


# -- Anthropic


def roles(body: Body) -> str:
    """Documentation; `system` since mid-conversation-system-2026-04-07."""
    for number, message in enumerate(messages_of(body)):
        if message.get("role") not in ("user", "assistant", "system"):
            return f"messages.{number}.role: Input should be 'user' or 'assistant'"
    return ""


def non_empty_messages(body: Body) -> str:
    """Public issues of SDKs and of Claude Code."""
    messages = messages_of(body)
    for number, message in enumerate(messages):
        is_last = number == len(messages) - 1 and message.get("role") == "assistant"
        if not message.get("content") and not is_last:
            words = "all messages must have non-empty content except for the optional final assistant message"
            return f"messages.{number}: {words}"
    return ""


def non_empty_texts(body: Body) -> str:
    """anthropics/claude-code 59812, anthropic-sdk-python 461."""
    system = body.get("system")
    texts = [block for block in (system if isinstance(system, list) else []) if isinstance(block, dict)]
    for message in messages_of(body):
        for block in blocks_of(message):
            texts += [block, *parts_of(block)]
    said = [str(text.get("text", "")) for text in texts if text.get("type") == "text"]
    if "" in said:
        return "messages: text content blocks must be non-empty"
    return (
        "" if all(text.strip() for text in said) else "messages: text content blocks must contain non-whitespace text"
    )


def verified_thoughts(body: Body) -> str:
    """Public issues of many proxies; the fakes' signatures name their vendor."""
    for place, block in placed(body):
        if block.get("type") == "thinking" and not str(block.get("signature", "")).startswith("sig-anthropic-"):
            return f"{place}: Invalid `signature` in `thinking` block"
        if block.get("type") == "redacted_thinking" and not str(block.get("data", "")).startswith("sig-anthropic-"):
            return f"{place}: Invalid `data` in `redacted_thinking` block"
    return ""


def budget(body: Body) -> str:
    """Documentation of extended thinking."""
    if thinks(body) != "enabled":
        return ""
    tokens = body["thinking"].get("budget_tokens")
    if not isinstance(tokens, int) or tokens < LEAST_BUDGET:
        return "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
    most = body.get("max_tokens")
    is_within = isinstance(most, int) and tokens < most
    return "" if is_within else "`max_tokens` must be greater than `thinking.budget_tokens`"


def thought_first(body: Body) -> str:
    """run-llama/llama_index 18834, pydantic-ai 2075, opencode 3077: the turn under way begins with a thought."""
    blocks = [block for message in open_turn(body) for block in blocks_of(message)]
    if thinks(body) != "enabled" or not blocks or blocks[0].get("type") in THOUGHTS:
        return ""
    number = next(n for n, message in enumerate(messages_of(body)) if message is open_turn(body)[0])
    return missing_thought(number, blocks[0])


def thought_first_in_last(body: Body) -> str:
    """The same, as strictly as the words of the error can be read: the last assistant message does."""
    turn = open_turn(body)
    blocks = blocks_of(turn[-1]) if turn else []
    if thinks(body) != "enabled" or not blocks or blocks[0].get("type") in THOUGHTS:
        return ""
    number = next(n for n, message in enumerate(messages_of(body)) if message is turn[-1])
    return missing_thought(number, blocks[0])


def missing_thought(number: int, block: Block) -> str:
    return (
        f"messages.{number}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
        f"`{block.get('type')}`. When `thinking` is enabled, a final `assistant` message must start with a thinking "
        "block"
    )


def no_thought_when_off(body: Body) -> str:
    """tailcallhq/forgecode 1853, and the documentation: a turn has one mode of thinking."""
    blocks = [block for message in open_turn(body) for block in blocks_of(message)]
    if thinks(body) != "disabled" or not any(block.get("type") in THOUGHTS for block in blocks):
        return ""
    return "When thinking is disabled, an `assistant` message in the final position cannot contain `thinking`."


def cleared_thoughts(body: Body) -> str:
    """Documentation of context editing: clear_thinking needs thinking."""
    management = body.get("context_management")
    edits = management.get("edits") if isinstance(management, dict) else None
    is_clearing = any("clear_thinking" in str(edit) for edit in edits or ())
    words = "`clear_thinking_20251015` strategy requires `thinking` to be enabled or adaptive"
    return words if is_clearing and thinks(body) == "disabled" else ""


def fitting_ids(body: Body) -> str:
    """Public issues; the second: Z.AI's ids of server tools."""
    for place, block in placed(body):
        name = str(block.get("id"))
        if block.get("type") == "tool_use" and not TOOL_ID.match(name):
            return f"{place}.tool_use.id: String should match pattern '{TOOL_ID.pattern}'"
        if block.get("type") == "server_tool_use" and not SERVER_TOOL_ID.match(name):
            return f"{place}.server_tool_use.id: String should match pattern '{SERVER_TOOL_ID.pattern}'"
    return ""


def unique_ids(body: Body) -> str:
    """Public issues of agents that count their calls anew in each turn."""
    ids = Counter(str(block.get("id")) for _, block in placed(body) if block.get("type") == "tool_use")
    return "messages: `tool_use` ids must be unique" if any(count > 1 for count in ids.values()) else ""


def continues_thread(body: Body) -> bool:
    """Whether the provider has what went before."""
    thread = body.get("thread")
    return isinstance(thread, dict) and thread.get("type") == "continue"


def paired(body: Body) -> str:
    """Documentation of tool use, and public issues: the results of a message's calls begin the next one.

    The calls of a thread that is continued are the provider's to know: its first results are taken for theirs.
    """
    continued = continues_thread(body)
    messages = [message for message in messages_of(body) if message.get("role") != "system"]
    for number, (before, after) in enumerate(pairwise([{}, *messages, {}])):
        calls = [str(block.get("id")) for block in blocks_of(before) if block.get("type") == "tool_use"]
        kinds = [block.get("type") for block in blocks_of(after)]
        results = [str(b.get("tool_use_id")) for b in blocks_of(after) if b.get("type") == "tool_result"]
        if set(results) - set(calls) and not (number == 0 and continued):
            return f"messages.{number}.content.0: unexpected `tool_use_id` found in `tool_result` blocks"
        is_last = number == len(messages)
        if (
            calls
            and not is_last
            and (set(calls) != set(results) or kinds[: len(calls)] != ["tool_result"] * len(calls))
        ):
            return f"messages.{number}: `tool_use` ids were found without `tool_result` blocks immediately after"
    return ""


ANTHROPIC_RULES: tuple[Rule, ...] = (
    roles, non_empty_messages, non_empty_texts, fitting_ids, unique_ids, paired, budget, verified_thoughts,
    thought_first, no_thought_when_off, cleared_thoughts,
)  # fmt: skip


# -- Z.AI


def zai_roles(body: Body) -> str:
    """Error 1214 in public issues of clients that send other roles."""
    known = all(message.get("role") in ("user", "assistant") for message in messages_of(body))
    return "" if known else "Incorrect role information"


def zai_has_user(body: Body) -> str:
    """docs.z.ai, Chat Completion: not of system or assistant messages alone."""
    messages = messages_of(body)
    is_legal = not messages or any(message.get("role") == "user" for message in messages)
    return "" if is_legal else "The messages parameter is illegal"


def zai_non_empty(body: Body) -> str:
    """earendil-works/pi 358 and MetaGPT 1309: neither empty texts nor empty messages, results of tools included."""
    for number, message in enumerate(messages_of(body)):
        if not blocks_of(message):
            return f"messages[{number}]: content and tool_calls can't both be empty"
    if words := non_empty_texts(body):
        return words
    results = [block.get("content") for _, block in placed(body) if block.get("type") == "tool_result"]
    return "" if all(results) else "messages: an empty text is not allowed"


def zai_blocks(body: Body) -> str:
    """zai-org/GLM-5 76 and public issues: what only Anthropic knows is illegal; text models read no images."""
    known = {"text", "tool_use", "tool_result", *THOUGHTS}
    for number, message in enumerate(messages_of(body)):
        for index, block in enumerate(blocks_of(message)):
            kinds = {block.get("type"), *(part.get("type") for part in parts_of(block))}
            if kinds - known:
                return f"messages[{number}].content[{index}].type type error"
    return ""


def zai_tool_choice(body: Body) -> str:
    """docs.z.ai, Chat Completion: auto alone."""
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else "auto"
    return "" if kind in ("auto", "none") else "tool_choice: only auto is supported"


def zai_output_tokens(body: Body) -> str:
    """docs.z.ai: the most that the largest model gives."""
    most = body.get("max_tokens")
    return "max_tokens is illegal" if isinstance(most, int) and most > 131_072 else ""


ZAI_RULES: tuple[Rule, ...] = (
    zai_roles, zai_has_user, zai_non_empty, zai_blocks, unique_ids, paired, zai_tool_choice, zai_output_tokens,
)  # fmt: skip


def broken_rule(body: Body, rules: tuple[Rule, ...]) -> str:
    """The words of the first rule that a body breaks."""
    return next(filter(None, (rule(body) for rule in rules)), "")
