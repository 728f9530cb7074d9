"""Reads along while an answer passes: usage, ids, where the content begins and ends. It never changes a byte.

Not here: cutting events (`sse`), judging an error (`providers.error_facts` reads it, `routing` judges), or any I/O.

The rules for a stream:

- Usage is `message_start.message.usage` merged with each `message_delta.usage`. These are running totals, so the later
  figure of a kind replaces the earlier one. A zero replaces nothing: Z.AI starts with zeros and tells the truth at the
  end, and Claude Code reads Anthropic's own late zeros as "not told" (both seen in public sources).
- Cache writes are split by `cache_creation` into 5 minutes and 1 hour. What `cache_creation_input_tokens`, their sum,
  has beyond the split was written for 5 minutes.
- Tokens of a compaction stand in `usage.iterations` alone (Anthropic's documentation): they are added.
- Content begins with the first `content_block_delta`, or with a `content_block_start` that carries content: one whose
  text, thinking, data, content or input is not empty, or whose kind is not among those that come by deltas (results
  of server tools, redacted thinking and the like come whole). A `tool_use` with an empty input carries none yet.
- Only whole events leave: `feed` says how many bytes of a chunk belong to events that are complete. A stream is
  complete with `message_stop`, which is held back, with all behind it, until the ledger has the end; so is an error.
- An error is an event named `error`, or data of type `error`, or, without a name, an object with an `error` in it.
- What is no stream of events at all is garbage: it begins like HTML or JSON, or 4 KB go by without a line of SSE.
  Garbage is not read any further.
- Content is counted in bytes from the first `content_block_start` on, for streams that never report what they used.
- Nothing that a provider sends makes the tap raise, but an event over the limit of `sse`: EventTooLarge.
"""

import re
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from service.ledger.events import TokenCounts
from service.protocol.sse import BOM, SseEvent, SseReader

UNREAD = tuple(
    b"event: " + name + line_end
    for line_end in (b"\n", b"\r")
    for name in (b"content_block_delta", b"ping", b"content_block_stop")
)
"""How events begin that are not looked into once content has begun: nearly all."""

COME_BY_DELTAS = frozenset(("text", "thinking", "tool_use", "server_tool_use", "mcp_tool_use", "compaction"))
CONTENT_FIELDS = ("text", "thinking", "data", "content", "input")

ADDED_ITERATIONS = frozenset(("compaction",))
"""Kinds of `usage.iterations` whose tokens the totals leave out."""

CODE_RESULT = "code_execution_tool_result"
"""How the kinds of block end in which the provider's own code execution names the files that it made."""
MOST_MADE_FILES = 64
"""Files of one answer that are remembered; a container makes a few."""
GARBAGE_AFTER_BYTES = 4096
SSE_LINE = re.compile(rb"(?:\A|[\r\n])(?:(?:event|data|id|retry)?:|(?:event|data|id|retry)[\r\n])")
NO_SSE: Final = (b"<", b"{", b"[")
FIGURE_LIMIT = 10**12
"""A token count above it is no count."""


MOST_VALUES = 250_000
"""Of JSON that is decoded whole while other requests wait. 16 MB of `[],` are five million values: seconds, and half a
gigabyte."""


class StreamError(Struct, frozen=True):
    """An error inside an answer: `type` and `message` as the provider worded them, `data` the JSON as it came."""

    type: str
    message: str
    data: bytes


class JsonAnswer(Struct, frozen=True):
    """What a whole JSON answer says about itself; texts are empty where it says nothing."""

    type: str = ""
    id: str = ""
    model: str = ""
    container_id: str = ""
    tokens: TokenCounts = TokenCounts()
    content_bytes: int = 0
    file_ids: tuple[str, ...] = ()
    error: StreamError | None = None

    @property
    def is_message(self) -> bool:
        """Whether it is a model's answer."""
        return self.type == "message"


class StreamUsage:
    """Merges the usage objects of one answer."""

    __slots__ = ("_figures", "_iterations")

    def __init__(self) -> None:
        self._figures: dict[str, int] = {}
        self._iterations: list[Any] = []

    def merge(self, usage: Any) -> None:
        """Take a later usage object in; what is no figure is passed over."""
        if not isinstance(usage, dict):
            return
        creation = usage.get("cache_creation")
        split = creation if isinstance(creation, dict) else {}
        for name, value in (*usage.items(), *split.items()):
            if type(value) is int and 0 < value < FIGURE_LIMIT:  # a bool is none
                self._figures[name] = value
        if isinstance(iterations := usage.get("iterations"), list):
            self._iterations = iterations

    @property
    def tokens(self) -> TokenCounts:
        """The counts so far."""
        figure = self._figures.get
        write_1h = figure("ephemeral_1h_input_tokens", 0)
        write_5m = figure("ephemeral_5m_input_tokens", 0)
        own = TokenCounts(
            input=figure("input_tokens", 0),
            output=figure("output_tokens", 0),
            cache_read=figure("cache_read_input_tokens", 0),
            cache_write_5m=max(write_5m, figure("cache_creation_input_tokens", 0) - write_1h),
            cache_write_1h=write_1h,
        )
        return plus_iterations(own, self._iterations)


class StreamTap:
    """Feed it the chunks of a stream of events; read off what it has learned."""

    __slots__ = ("_begun", "_garbage", "_head", "_reader", "_usage", "complete", "container_id", "content_bytes",
                 "content_events", "error", "file_ids", "has_content", "message_id", "model", "reported", "started",
                 "stop_reason")  # fmt: skip

    def __init__(self) -> None:
        self._reader = SseReader()
        self._usage = StreamUsage()
        self._head: bytes | None = b""
        self._garbage = False
        self._begun = False
        """A content block has begun, with content or without."""
        self.content_bytes = 0
        self.content_events = 0
        """The size of what came from the first content block on, and its events, as near as a count of line ends is."""
        self.reported = False
        """The provider has told what the whole answer used."""
        self.started = False
        """`message_start` was seen."""
        self.has_content = False
        """Content has begun: from here on no other route may be tried."""
        self.complete = False
        """`message_stop` was seen."""
        self.error: StreamError | None = None
        """The first error inside the stream."""
        self.message_id = ""
        self.model = ""
        self.container_id = ""
        self.file_ids: list[str] = []
        """Files that the provider's own tools made, the first few."""
        self.stop_reason = ""

    @property
    def tokens(self) -> TokenCounts:
        """Usage so far."""
        return self._usage.tokens

    @property
    def ended(self) -> bool:
        """Whether the stream has come to its end, a good or a bad one."""
        return self.complete or self.error is not None

    @property
    def garbage(self) -> bool:
        """Whether the bytes are no stream of events at all."""
        return self._garbage

    def feed(self, chunk: bytes) -> int:
        """Read a chunk; how many of its leading bytes end with a whole event, and so may leave with what was held of
        earlier ones. Raises EventTooLarge.
        """
        if self._head is not None:
            self._look_at_head(chunk)
        if self._garbage:
            return len(chunk)
        if self.ended:
            return 0
        reader = self._reader
        if reader.is_passed(chunk):
            self.content_bytes += len(chunk)
            self.content_events += 1
            return len(chunk)
        free = self._read_events(chunk)
        if self._begun:
            self.content_bytes += len(chunk)
            self.content_events += chunk.count(b"\n\n")
        return free

    def _read_events(self, chunk: bytes) -> int:
        """Read the events that a chunk completes; how many of its bytes belong to them, without the last one."""
        reader = self._reader
        for event in reader.events(chunk):
            if self._is_last(event):
                return event.start
            if self.has_content:
                reader.passed = UNREAD
        return reader.free

    def _is_last(self, event: SseEvent) -> bool:
        """Read an event; whether the stream ends with it."""
        if self.has_content and event.block.startswith(UNREAD):
            return False
        self._read(event)
        return self.ended

    def _look_at_head(self, chunk: bytes) -> None:
        """Decide whether this is a stream of events, as soon as that can be told."""
        self._head = ((self._head or b"") + chunk)[:GARBAGE_AFTER_BYTES]
        head = self._head.removeprefix(BOM).lstrip()
        if SSE_LINE.search(head):
            self._head = None
        elif head.startswith(NO_SSE) or len(self._head) >= GARBAGE_AFTER_BYTES:
            self._head, self._garbage = None, True

    def _read(self, event: SseEvent) -> None:
        name, data = event.fields
        if name == b"content_block_delta":
            self.has_content = self._begun = True
        elif name == b"message_stop":
            self.complete = True
        elif data and name not in (b"ping", b"content_block_stop"):
            self._read_data(name.decode("utf-8", "replace"), data)

    def _read_data(self, name: str, data: bytes) -> None:
        fields = object_of(data)
        kind = name or text_or_empty(fields.get("type"))
        if is_error(name, fields):
            self.error = self.error or stream_error(fields, data)
        elif kind == "message_start":
            self._read_message_start(inner(fields, "message"))
        elif kind == "message_delta":
            self._read_message_delta(fields)
        elif kind == "content_block_start":
            self._read_block_start(inner(fields, "content_block"))
        elif kind == "content_block_delta":
            self.has_content = self._begun = True
        elif kind == "message_stop":
            self.complete = True

    def _read_message_start(self, message: dict[str, Any]) -> None:
        self.started = True
        self._usage.merge(message.get("usage"))
        self.message_id = text_or_empty(message.get("id"))
        self.model = text_or_empty(message.get("model"))
        self.has_content = self._begun = self.has_content or bool(message.get("content"))
        if "container" in message:
            self._note_container(message)

    def _read_message_delta(self, fields: dict[str, Any]) -> None:
        """Read a `message_delta`."""
        delta = inner(fields, "delta")
        self._usage.merge(fields.get("usage"))
        self.reported = self.reported or bool(inner(fields, "usage").get("output_tokens"))
        for holder in (fields, delta):
            if "container" in holder:
                self._note_container(holder)
        self.stop_reason = text_or_empty(delta.get("stop_reason")) or self.stop_reason

    def _read_block_start(self, block: dict[str, Any]) -> None:
        """Read the block of a `content_block_start`."""
        self._begun = True
        self.has_content = self.has_content or carries_content(block)
        self.file_ids += made_files(block)[: MOST_MADE_FILES - len(self.file_ids)]

    def _note_container(self, fields: dict[str, Any]) -> None:
        self.container_id = text_or_empty(inner(fields, "container").get("id")) or self.container_id


def is_error(name: str, fields: dict[str, Any]) -> bool:
    """Whether an event is an error: by its name, by the type of its data, or, without a name, by an `error` in it."""
    return name == "error" or fields.get("type") == "error" or (not name and bool(fields.get("error")))


class AnswerFields(Struct):
    """The fields of a JSON answer that are looked at, undecoded, so that none can spoil the others."""

    type: Raw = Raw(b"null")
    id: Raw = Raw(b"null")
    model: Raw = Raw(b"null")
    container: Raw = Raw(b"null")
    usage: Raw = Raw(b"null")
    content: Raw = Raw(b"null")
    completion: Raw = Raw(b"null")
    error: Raw = Raw(b"null")


class Count(Struct):
    """An answer of `count_tokens`."""

    input_tokens: int = 0


NO_CONTENT = (b"null", b"[]", b'""')
ANSWER = msgspec.json.Decoder(AnswerFields)
COUNT = msgspec.json.Decoder(Count)


def json_usage(body: bytes) -> JsonAnswer | None:
    """What a whole answer says about itself; None when it is no JSON object (empty, cut off, HTML)."""
    try:
        fields = ANSWER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    usage = StreamUsage()
    usage.merge(value_of(fields.usage))
    container = value_of(fields.container)
    kind = text_or_empty(value_of(fields.type))
    failed = kind == "error" or bytes(fields.error) != b"null"
    return JsonAnswer(
        type=kind,
        id=text_or_empty(value_of(fields.id)),
        model=text_or_empty(value_of(fields.model)),
        container_id=text_or_empty(container.get("id")) if isinstance(container, dict) else "",
        tokens=usage.tokens,
        content_bytes=size_of(fields.content) or size_of(fields.completion),
        file_ids=tuple(files_in(fields.content)[:MOST_MADE_FILES]),
        error=stream_error({"error": value_of(fields.error)}, body) if failed else None,
    )


def size_of(content: Raw) -> int:
    """The bytes of an answer's content; 0 when it has none."""
    raw = bytes(content)
    return 0 if raw in NO_CONTENT else len(raw)


def files_in(content: Raw) -> list[str]:
    """The files that a whole answer's blocks name as made; mostly nothing need be decoded for it."""
    if CODE_RESULT.encode() not in bytes(content):
        return []
    blocks = value_of(content)
    return [name for block in blocks for name in made_files(block)] if isinstance(blocks, list) else []


def made_files(block: Any) -> list[str]:
    """The files that a block names as made by the provider's code execution. No other block is believed: what a model
    writes, an attacker may have dictated."""
    if not (isinstance(block, dict) and text_or_empty(block.get("type")).endswith(CODE_RESULT)):
        return []
    outputs = inner(block, "content").get("content")
    if not isinstance(outputs, list):
        return []
    return [name for output in outputs if isinstance(output, dict) and (name := text_or_empty(output.get("file_id")))]


def count_in(body: bytes) -> int:
    """What an answer of `count_tokens` counts; 0 when it counts nothing, which no prompt is."""
    try:
        return COUNT.decode(body).input_tokens
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0


def carries_content(block: dict[str, Any]) -> bool:
    """Whether the start of a content block brings content of its own."""
    return text_or_empty(block.get("type")) not in COME_BY_DELTAS or any(block.get(name) for name in CONTENT_FIELDS)


def stream_error(fields: dict[str, Any], data: bytes) -> StreamError:
    """The error in an object of any of the known shapes; a missing type is `api_error`."""
    error = fields.get("error")
    if not isinstance(error, dict):
        return StreamError("api_error", text_or_empty(error) or text_or_empty(fields.get("message")), data)
    return StreamError(text_or_empty(error.get("type")) or "api_error", text_or_empty(error.get("message")), data)


def plus_iterations(tokens: TokenCounts, iterations: list[Any]) -> TokenCounts:
    """Tokens with those of the iterations that the totals leave out."""
    for iteration in iterations:
        if isinstance(iteration, dict) and text_or_empty(iteration.get("type")) in ADDED_ITERATIONS:
            usage = StreamUsage()
            usage.merge({name: value for name, value in iteration.items() if name != "iterations"})
            tokens = added(tokens, usage.tokens)
    return tokens


def added(one: TokenCounts, other: TokenCounts) -> TokenCounts:
    """The sum, kind by kind."""
    return TokenCounts(
        input=one.input + other.input,
        output=one.output + other.output,
        cache_read=one.cache_read + other.cache_read,
        cache_write_5m=one.cache_write_5m + other.cache_write_5m,
        cache_write_1h=one.cache_write_1h + other.cache_write_1h,
    )


def object_of(data: bytes) -> dict[str, Any]:
    """A JSON object; empty for what is none."""
    value = value_of(data)
    return value if isinstance(value, dict) else {}


def value_of(raw: Raw | bytes) -> Any:
    """The value of JSON; None when it can't be decoded, or has more values than anything that is looked at."""
    if has_many_values(raw):
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def has_many_values(raw: Raw | bytes) -> bool:
    """Whether JSON may have more than `MOST_VALUES`; commas and brackets in its texts count as well."""
    return len(raw) > MOST_VALUES and sum(map(bytes(raw).count, (b",", b"[", b"{"))) > MOST_VALUES


def inner(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """The object in this field; empty when there is none."""
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def text_or_empty(value: Any) -> str:
    """A text; empty for what is none."""
    return value if isinstance(value, str) else ""
