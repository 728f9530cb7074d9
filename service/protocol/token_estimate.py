"""Estimates the size of a request's prompt without a tokenizer. Two estimates, neither of which counts base64:

- `least_tokens`, to skip models with too small a window: below every tokenizer's count. Natural languages, code and
  JSON average two to five characters per token; six are assumed. Runs of one character (indentation, rulers) count
  once, since tokenizers merge them. Images, documents and thinking (which providers drop from older turns) count
  nothing.
- `likely_tokens`, to truncate conversations: the original proxy's four characters per token, of everything that a model
  reads; an image is 1,600 tokens (Anthropic's count for the largest that is not scaled down), and so is a document.

Not here: decisions based on it (`service.routing.context`, `service.protocol.truncation`).
"""

import msgspec
from msgspec import Raw, Struct

LEAST_CHARS_PER_TOKEN = 6
LIKELY_CHARS_PER_TOKEN = 4
MEDIUM_TOKENS = 1_600
PIECE_BYTES = 1024 * 1024
MESSAGE_TOKENS = 4
"""Overhead of a message."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class PromptSource(Struct, gc=False):
    """Source of a document: only text counts."""

    type: str = ""
    data: str = ""
    content: "str | list[PromptBlock] | None" = None


class PromptBlock(Struct, gc=False):
    """The counted fields of a content block, and its ids. A result has `content`; for some it is an object."""

    type: str = ""
    id: str = ""
    tool_use_id: str = ""
    text: str = ""
    thinking: str = ""
    input: Raw = Raw(b"")
    content: "str | list[PromptBlock] | PromptBlock | None" = None
    source: Raw = Raw(b"")
    stdout: str = ""
    stderr: str = ""
    title: str | None = None


class PromptMessage(Struct, gc=False):
    """The counted fields of a message."""

    role: str = ""
    content: str | list[PromptBlock] = ""

    @property
    def likely_tokens(self) -> int:
        """Return the likely estimate."""
        return TokenEstimate().add(self.content).likely_tokens + MESSAGE_TOKENS


class Prompt(Struct):
    """The counted fields of a request."""

    system: str | list[PromptBlock] = ""
    tools: list[Raw] = []
    messages: list[PromptMessage] = []


class TokenEstimate:
    """Accumulates texts, thinking, and the number of images and documents."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.json_chars = 0
        self.thinking_chars = 0
        self.media = 0

    def add(self, content: "str | list[PromptBlock] | PromptBlock | None") -> "TokenEstimate":
        """Count the content of a message, a result or a document."""
        if isinstance(content, str):
            self.texts.append(content)
        elif isinstance(content, PromptBlock):
            self.add_block(content)
        else:
            for block in content or ():
                self.add_block(block)
        return self

    def add_block(self, block: PromptBlock) -> None:
        """Count one block."""
        self.texts += (block.text, block.title or "", block.stdout, block.stderr)
        self.thinking_chars += len(block.thinking)
        self.json_chars += json_chars(block.input)
        self.add(block.content)
        if block.type == "document":
            self.add_source(block.source)
        elif block.type == "image":
            self.media += 1

    def add_source(self, raw: Raw) -> None:
        """Count a document: its text, if it is one."""
        source = SOURCE.decode(raw) if bytes(raw) else PromptSource()
        if source.type == "text":
            self.texts.append(source.data)
        elif source.type == "content":
            self.add(source.content)
        else:
            self.media += 1

    @property
    def chars(self) -> int:
        """The characters without thinking."""
        return sum(map(len, self.texts)) + self.json_chars

    @property
    def likely_tokens(self) -> int:
        """Return the likely estimate."""
        return (self.chars + self.thinking_chars) // LIKELY_CHARS_PER_TOKEN + self.media * MEDIUM_TOKENS


PROMPT = msgspec.json.Decoder(Prompt)
MESSAGE = msgspec.json.Decoder(PromptMessage)
SOURCE = msgspec.json.Decoder(PromptSource)


def is_short(raw: bytes, floor_tokens: int) -> bool:
    """True if a body is too short for a prompt above `floor_tokens`. A floor of 0 disables the check."""
    return not floor_tokens or len(raw) <= floor_tokens * LEAST_CHARS_PER_TOKEN


def least_tokens(raw: bytes, floor_tokens: int) -> int:
    """Return the lower estimate of a body; 0 if it is at most `floor_tokens`, or can't be decoded.

    Most bodies are short enough to need no decoding.
    """
    if is_short(raw, floor_tokens):
        return 0
    try:
        tally = estimate_of(PROMPT.decode(raw))
    except UNREADABLE:
        return 0
    if tally.chars <= floor_tokens * LEAST_CHARS_PER_TOKEN:
        return 0
    least = (tally.chars - sum(map(repeats, tally.texts))) // LEAST_CHARS_PER_TOKEN
    return least if least > floor_tokens else 0


def estimate_of(prompt: Prompt) -> TokenEstimate:
    """Estimate a whole request."""
    tally = TokenEstimate().add(prompt.system)
    tally.json_chars += sum(map(json_chars, prompt.tools))
    for message in prompt.messages:
        tally.add(message.content)
    return tally


def json_chars(raw: Raw) -> int:
    """Return the characters of a JSON value; an escape counts as the fewest characters that it can stand for."""
    data = bytes(raw)
    return max(0, len(data) - 5 * data.count(b"\\"))


def repeats(text: str) -> int:
    """Count characters equal to the previous one. Vectorized on long pieces: a millisecond for 200 KB."""
    data = text.encode("utf-8", "surrogatepass")
    return sum(repeats_in(data[start : start + PIECE_BYTES + 1]) for start in range(0, len(data), PIECE_BYTES))


def repeats_in(piece: bytes) -> int:
    """Count the characters of one piece that the next one equals; its last has none."""
    number = int.from_bytes(piece, "little")
    mixed = (number ^ (number >> 8)).to_bytes(len(piece), "little")
    return mixed.count(0, 0, len(piece) - 1)


def likely_tokens_of(system: Raw | None, tools: Raw | None) -> int:
    """Return the likely estimate of system prompt and tools. Raises decoder errors."""
    tally = TokenEstimate()
    if system is not None:
        tally.add(MESSAGE.decode(b'{"content":' + bytes(system) + b"}").content)
    if tools is not None:
        tally.json_chars += json_chars(tools)
    return tally.likely_tokens


def message_of(raw: Raw) -> PromptMessage:
    """Decode a message. Raises decoder errors."""
    return MESSAGE.decode(raw)
