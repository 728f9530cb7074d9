"""How large a request's prompt is, without a tokenizer. Two readings of one count, and never of base64:

- `least_tokens`, to pass over a model that can't hold it: below what any tokenizer makes of it. Text of the world's
  languages, code and JSON averages two to five characters a token; six are taken. Runs of one character (blanks of an
  indentation, rulers) count once, since tokenizers know them whole. Images, documents and thoughts (which providers
  leave out of older turns) count nothing beyond their place.
- `likely_tokens`, to cut conversations: the original proxy's four characters a token, but of all that a model reads;
  an image is 1,600 tokens (what Anthropic makes of the largest that it doesn't scale down), and so is a document.

Not here: what follows from it (`service.routing.context`, `service.protocol.truncation`).
"""

import msgspec
from msgspec import Raw, Struct

LEAST_CHARS_PER_TOKEN = 6
LIKELY_CHARS_PER_TOKEN = 4
MEDIUM_TOKENS = 1_600
PIECE_BYTES = 1024 * 1024
MESSAGE_TOKENS = 4
"""What stands around a message."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class PromptSource(Struct, gc=False):
    """Where a document's content is: only text counts."""

    type: str = ""
    data: str = ""
    content: "str | list[PromptBlock] | None" = None


class PromptBlock(Struct, gc=False):
    """What counts of a content block, and its ids. A result has `content`; for some it is an object."""

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
    """What counts of a message."""

    role: str = ""
    content: str | list[PromptBlock] = ""

    @property
    def likely_tokens(self) -> int:
        """What it may well be."""
        return TokenEstimate().add(self.content).likely_tokens + MESSAGE_TOKENS


class Prompt(Struct):
    """What counts of a request."""

    system: str | list[PromptBlock] = ""
    tools: list[Raw] = []
    messages: list[PromptMessage] = []


class TokenEstimate:
    """The texts that a model reads, its thoughts apart, and how many images and documents."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.json_chars = 0
        self.thinking_chars = 0
        self.media = 0

    def add(self, content: "str | list[PromptBlock] | PromptBlock | None") -> "TokenEstimate":
        """Count a message's, a result's or a document's content."""
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
        """Count a document: its text, where it is one."""
        source = SOURCE.decode(raw) if bytes(raw) else PromptSource()
        if source.type == "text":
            self.texts.append(source.data)
        elif source.type == "content":
            self.add(source.content)
        else:
            self.media += 1

    @property
    def chars(self) -> int:
        """All but thoughts."""
        return sum(map(len, self.texts)) + self.json_chars

    @property
    def likely_tokens(self) -> int:
        """What it may well be."""
        return (self.chars + self.thinking_chars) // LIKELY_CHARS_PER_TOKEN + self.media * MEDIUM_TOKENS


PROMPT = msgspec.json.Decoder(Prompt)
MESSAGE = msgspec.json.Decoder(PromptMessage)
SOURCE = msgspec.json.Decoder(PromptSource)


def is_short(raw: bytes, floor_tokens: int) -> bool:
    """Whether a body's prompt is at most that large, going by its bytes alone. A floor of 0 is none: all are short."""
    return not floor_tokens or len(raw) <= floor_tokens * LEAST_CHARS_PER_TOKEN


def least_tokens(raw: bytes, floor_tokens: int) -> int:
    """The least that this body's prompt can have; 0 when that is at most `floor_tokens`, or when it can't be read.

    Most bodies are so short that nothing is read of them.
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
    """The count of a whole request."""
    tally = TokenEstimate().add(prompt.system)
    tally.json_chars += sum(map(json_chars, prompt.tools))
    for message in prompt.messages:
        tally.add(message.content)
    return tally


def json_chars(raw: Raw) -> int:
    """The characters of a JSON value, with every escape counted like the longest one, which stands for one of them."""
    data = bytes(raw)
    return max(0, len(data) - 5 * data.count(b"\\"))


def repeats(text: str) -> int:
    """How many characters are the same as the one before. By arithmetic on long pieces: a millisecond for 200 KB."""
    data = text.encode("utf-8", "surrogatepass")
    return sum(repeats_in(data[start : start + PIECE_BYTES + 1]) for start in range(0, len(data), PIECE_BYTES))


def repeats_in(piece: bytes) -> int:
    """The same of one piece; its last byte is only compared with."""
    number = int.from_bytes(piece, "little")
    mixed = (number ^ (number >> 8)).to_bytes(len(piece), "little")
    return mixed.count(0, 0, len(piece) - 1) if len(piece) > PIECE_BYTES else mixed.count(0)


def likely_tokens_of(system: Raw | None, tools: Raw | None) -> int:
    """What the system prompt and the tools may well be. Raises what a decoder raises."""
    tally = TokenEstimate()
    if system is not None:
        tally.add(MESSAGE.decode(b'{"content":' + bytes(system) + b"}").content)
    tally.json_chars += json_chars(tools) if tools is not None else 0
    return tally.likely_tokens


def message_of(raw: Raw) -> PromptMessage:
    """A message. Raises what a decoder raises."""
    return MESSAGE.decode(raw)
