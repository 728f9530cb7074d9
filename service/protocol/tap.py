"""Reads usage, ids, content boundaries and errors while a response passes. It never changes a byte.

Not here: what a usage object says (`usage_reader`), splitting events (`sse`), classifying errors
(`providers.error_facts`, `routing`), and I/O.

The rules for a stream:

- Usage is `message_start.message.usage` merged with each `message_delta.usage` (`usage_reader`).
- Content begins with the first `content_block_delta`, or with a `content_block_start` that carries content: one whose
  text, thinking, data, content or input is not empty, or whose kind never has deltas (results of server tools, redacted
  thinking and the like arrive complete). A `tool_use` with an empty input carries none yet.
- Only complete events are forwarded: `feed` returns how many bytes of a chunk belong to them. A stream is complete with
  `message_stop`, which is held back, with everything after it, until the end is in the ledger; so is an error.
- An error is an event named `error`, or data of type `error`, or, without a name, an object with an `error` in it.
- A body that is no event stream is garbage: it begins like HTML or JSON, or has no SSE line in its first 4 KB. Garbage
  is not parsed.
- A `fallback` block is no content: it marks where a model has declined and another one goes on. Behind output of the
  first model, which `message_start` has named and whose figures it has told, the other one's begin anew.
- Content is counted in bytes from the first `content_block_start` on, and some of it is kept, for streams that never
  report usage. Pings and comments are none, however many of them come.
- Nothing that a provider sends makes the tap raise, except for an event above the limit of `sse`: EventTooLarge.
"""

import re
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from service.ledger.events import TokenCounts
from service.protocol.content_sample import ContentSample, ContentTokens
from service.protocol.sse import BOM, SseEvent, SseReader
from service.protocol.usage_reader import NO_USAGE, UsageReader, UsageReading, is_figure, text_or_empty

UNREAD = tuple(
    b"event: " + name + line_end
    for line_end in (b"\n", b"\r")
    for name in (b"content_block_delta", b"content_block_stop")
)
"""Prefixes of events that are not parsed once content has begun: nearly all."""
PINGS = (b"event: ping\n", b"event: ping\r")
"""Prefixes of nearly all heartbeats, which need not be parsed either."""
THINKING = frozenset(("thinking", "redacted_thinking"))

FALLBACK = "fallback"
"""The kind of block that marks where one model's output ends and another's begins."""
COME_BY_DELTAS = frozenset(("text", "thinking", "tool_use", "server_tool_use", "mcp_tool_use", "compaction"))
CONTENT_FIELDS = ("text", "thinking", "data", "content", "input")

CODE_RESULT = "code_execution_tool_result"
"""Suffix of the kinds of block in which the provider's code execution names the files that it created."""
MOST_MADE_FILES = 64
"""Maximum files of one response that are recorded; a container creates a few."""
GARBAGE_AFTER_BYTES = 4096
SSE_LINE = re.compile(rb"(?:\A|[\r\n])(?:(?:event|data|id|retry)?:|(?:event|data|id|retry)[\r\n])")
NO_SSE: Final = (b"<", b"{", b"[")
MOST_VALUES = 250_000
"""Maximum values of JSON decoded on the event loop. 16 MB of `[],` are five million values: seconds, and half a
gigabyte."""


REFUSAL = "refusal"
"""The stop reason of an answer that a provider's classifiers refused."""


class StreamError(Struct, frozen=True):
    """An error inside a response: `type` and `message` as sent by the provider, `data` its JSON."""

    type: str
    message: str
    data: bytes


class DeclinedPart(Struct, frozen=True):
    """What a model has streamed before it declined and another one went on: its figures so far, and its content with
    that of those before it."""

    model: str
    tokens: TokenCounts
    content: ContentTokens


class JsonAnswer(Struct, frozen=True):
    """Facts from a complete JSON response; missing texts are ""."""

    type: str = ""
    id: str = ""
    model: str = ""
    container_id: str = ""
    usage: UsageReading = NO_USAGE
    content_bytes: int = 0
    file_ids: tuple[str, ...] = ()
    error: StreamError | None = None

    @property
    def is_message(self) -> bool:
        """True if it is a model's answer."""
        return self.type == "message"

    @property
    def tokens(self) -> TokenCounts:
        """All tokens that it reports."""
        return self.usage.total


class StreamTap:
    """Feed it the chunks of an event stream; its attributes hold what was read."""

    __slots__ = ("_begun", "_garbage", "_has_block", "_head", "_reader", "_told_output", "_usage", "complete",
                 "container_id", "content", "content_bytes", "content_events", "declined", "error", "file_ids",
                 "has_content", "heartbeats", "is_thinking", "message_id", "model", "started", "stop_reason",
                 "surplus_bytes", "thinking_blocks", "thinking_tokens")  # fmt: skip

    def __init__(self) -> None:
        self._reader = SseReader()
        self._usage = UsageReader()
        self._head: bytes | None = b""
        self._garbage = False
        self._begun = False
        """A content block has begun, with or without content."""
        self._has_block = True
        """The model that goes on behind a `fallback` block has begun a block of its own; true without one."""
        self.declined: list[DeclinedPart] = []
        """What models have streamed that declined then."""
        self.content_bytes = 0
        self.content_events = 0
        """Bytes and events since the first content block, without heartbeats."""
        self.heartbeats = 0
        """Pings and comments, which say that the connection lives, and no more."""
        self.is_thinking = False
        """The last content block that has begun is a thought, of which there may be nothing to see for minutes."""
        self.content = ContentSample()
        """Some of the content, from which its tokens can be estimated."""
        self.thinking_blocks = 0
        self.thinking_tokens: int | None = None
        """How much of the output was thinking, shown or not; None if the provider has not told."""
        self._told_output = False
        """The provider has told how much output there is, so far or in all."""
        self.started = False
        """`message_start` was received."""
        self.has_content = False
        """Content has begun: no other route may be tried any more."""
        self.complete = False
        """`message_stop` was received."""
        self.error: StreamError | None = None
        """The first error inside the stream."""
        self.surplus_bytes = 0
        """What came behind the stream's last event in one chunk with it."""
        self.message_id = ""
        self.model = ""
        self.container_id = ""
        self.file_ids: list[str] = []
        """The first few files that the provider's own tools created."""
        self.stop_reason = ""

    @property
    def tokens(self) -> TokenCounts:
        """All tokens that were reported so far."""
        return self.usage.total

    @property
    def usage(self) -> UsageReading:
        """The usage so far."""
        is_refused = self.stop_reason == REFUSAL and not (self.has_content and self._has_block)
        return self._usage.reading(self.model, unbilled=is_refused)

    @property
    def reported(self) -> bool:
        """True if the provider has reported the usage of the whole response; figures before its end are of a part."""
        return self._told_output and (self.complete or bool(self.stop_reason))

    @property
    def ended(self) -> bool:
        """True if the stream has ended, well or with an error."""
        return self.complete or self.error is not None

    @property
    def garbage(self) -> bool:
        """True if the body is no event stream."""
        return self._garbage

    def feed(self, chunk: bytes) -> int:
        """Read a chunk; return how many of its leading bytes, together with bytes held earlier, belong to complete
        events and may be forwarded. Raises EventTooLarge."""
        if self._head is not None:
            self._look_at_head(chunk)
        if self._garbage:
            return len(chunk)
        if self.ended:
            return 0
        reader = self._reader
        if reader.is_passed(chunk):
            free, passed, is_counted = len(chunk), 1, self.is_thinking
        else:
            free = self._read_events(chunk)
            passed, is_counted = reader.passed_count, self.thinking_blocks > 0
        if self._begun:
            self.content_bytes += len(chunk)
            self.content_events += passed
            if self.content_bytes >= self.content.due_bytes:
                self.content.add(chunk, self.content_bytes)
            if is_counted:
                self.content.note_thinking(chunk)
        return free

    def _read_events(self, chunk: bytes) -> int:
        """Read the events that a chunk completes; return how many of its bytes belong to them, without the last event
        of the stream."""
        reader = self._reader
        for event in reader.events(chunk):
            if self._is_last(event):
                self.surplus_bytes = len(chunk) - event.end
                return event.start
            if self.has_content:
                reader.passed = UNREAD
        return reader.free

    def _is_last(self, event: SseEvent) -> bool:
        """Read an event; True if the stream ends with it."""
        block = event.block
        if self.has_content and block.startswith(UNREAD):
            self.content_events += 1
            return False
        if block.startswith(PINGS):
            self._note_heartbeat(block)
            return False
        name, data = event.fields
        if name == b"ping" or (not name and is_heartbeat(data)):
            self._note_heartbeat(block)
            return False
        had_begun = self._begun
        self._read(name, data)
        if self._begun:
            self.content_events += 1
            if not had_begun:
                self.content_bytes -= event.start
        return self.complete or self.error is not None

    def _note_heartbeat(self, block: bytes) -> None:
        """Count a heartbeat, and leave its bytes and its empty line out of the content."""
        self.heartbeats += 1
        if self._begun:
            self.content_bytes -= len(block) + 2

    def _look_at_head(self, chunk: bytes) -> None:
        """Decide as early as possible if this is an event stream."""
        self._head = ((self._head or b"") + chunk)[:GARBAGE_AFTER_BYTES]
        head = self._head.removeprefix(BOM).lstrip()
        if SSE_LINE.search(head):
            self._head = None
        elif head.startswith(NO_SSE) or len(self._head) >= GARBAGE_AFTER_BYTES:
            self._head, self._garbage = None, True

    def _read(self, name: bytes, data: bytes) -> None:
        if name == b"content_block_delta":
            self.has_content = self._begun = True
        elif name == b"message_stop":
            self.complete = True
        elif data and name != b"content_block_stop":
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
            self._read_block_start(inner(fields, "content_block"), len(data))
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
        usage = inner(fields, "usage")
        output = usage.get("output_tokens")
        self._told_output = self._told_output or is_figure(output) or (output == 0 and self._is_empty(delta))
        if usage.get("output_tokens_details"):
            thinking = inner(usage, "output_tokens_details").get("thinking_tokens")
            self.thinking_tokens = thinking if type(thinking) is int else None
        for holder in (fields, delta):
            if "container" in holder:
                self._note_container(holder)
        self.stop_reason = text_or_empty(delta.get("stop_reason")) or self.stop_reason

    def _is_empty(self, delta: dict[str, Any]) -> bool:
        """True if the response ends without any content, so that no output is all of it."""
        return bool(delta.get("stop_reason")) and not self.has_content

    def _read_block_start(self, block: dict[str, Any], size_bytes: int) -> None:
        """Read the block of a `content_block_start`."""
        self._begun = True
        kind = text_or_empty(block.get("type"))
        self._has_block = kind != FALLBACK
        if kind == FALLBACK and self.has_content:
            self._hand_over(text_or_empty(inner(block, "to").get("model")))
        self.is_thinking = kind in THINKING
        self.thinking_blocks += self.is_thinking
        if kind not in COME_BY_DELTAS:
            self.content.leave_out(size_bytes)
        self.has_content = self.has_content or carries_content(block)
        self.file_ids += made_files(block)[: MOST_MADE_FILES - len(self.file_ids)]

    def _hand_over(self, model: str) -> None:
        """Begin anew with the model that goes on: all figures so far are those of the one that declined."""
        self.declined.append(DeclinedPart(self.model, self.tokens, self.content.tokens()))
        self.model = model or self.model
        self._usage = self._usage.for_next_model()

    def _note_container(self, fields: dict[str, Any]) -> None:
        self.container_id = text_or_empty(inner(fields, "container").get("id")) or self.container_id


def is_heartbeat(data: bytes) -> bool:
    """True if an event without a name only shows that the connection lives: a comment, or a ping."""
    return not data or object_of(data).get("type") == "ping"


def is_error(name: str, fields: dict[str, Any]) -> bool:
    """True if an event is an error: by its name, by the type of its data, or, without a name, by an `error` in it."""
    return name == "error" or fields.get("type") == "error" or (not name and bool(fields.get("error")))


class AnswerFields(Struct):
    """The inspected fields of a JSON response, undecoded, so that an invalid one does not affect the others."""

    type: Raw = Raw(b"null")
    id: Raw = Raw(b"null")
    model: Raw = Raw(b"null")
    container: Raw = Raw(b"null")
    usage: Raw = Raw(b"null")
    stop_reason: Raw = Raw(b"null")
    content: Raw = Raw(b"null")
    completion: Raw = Raw(b"null")
    error: Raw = Raw(b"null")


class Count(Struct):
    """A response of `count_tokens`."""

    input_tokens: int = 0


T = TypeVar("T")
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
NO_CONTENT = (b"null", b"[]", b'""')
ANY = msgspec.json.Decoder()
ANSWER = msgspec.json.Decoder(AnswerFields)
COUNT = msgspec.json.Decoder(Count)


def decode_tolerantly(decoder: msgspec.json.Decoder[T], raw: bytes | Raw) -> T | None:
    """Decode JSON whatever its texts hold; None if it is not of the decoder's type (empty, truncated, HTML).

    Half a surrogate pair, which a model may write into the input of a tool, is valid in JSON, and to msgspec no text.
    """
    try:
        return decoder.decode(raw)
    except UNREADABLE:
        if not SURROGATE.search(raw):
            return None
    try:
        return decoder.decode(SURROGATE.sub(rb"\\ufffd", raw))
    except UNREADABLE:
        return None


def json_usage(body: bytes) -> JsonAnswer | None:
    """Read a complete response; None if it is not a JSON object (empty, truncated, HTML)."""
    fields = decode_tolerantly(ANSWER, body)
    if fields is None:
        return None
    usage = UsageReader()
    usage.merge(value_of(fields.usage))
    content_bytes = size_of(fields.content) or size_of(fields.completion)
    is_refused = text_or_empty(value_of(fields.stop_reason)) == REFUSAL and not has_output(fields.content)
    container = value_of(fields.container)
    kind = text_or_empty(value_of(fields.type))
    failed = kind == "error" or bytes(fields.error) != b"null"
    return JsonAnswer(
        type=kind,
        id=text_or_empty(value_of(fields.id)),
        model=(model := text_or_empty(value_of(fields.model))),
        container_id=text_or_empty(container.get("id")) if isinstance(container, dict) else "",
        usage=usage.reading(model, unbilled=is_refused),
        content_bytes=content_bytes,
        file_ids=tuple(files_in(fields.content)[:MOST_MADE_FILES]),
        error=stream_error({"error": value_of(fields.error)}, body) if failed else None,
    )


def has_output(content: Raw) -> bool:
    """True if a response has content of the model that it names: behind its last `fallback` block, if it has any."""
    blocks = value_of(content)
    if not isinstance(blocks, list) or not blocks:
        return size_of(content) > 0
    return not (isinstance(blocks[-1], dict) and blocks[-1].get("type") == FALLBACK)


def size_of(content: Raw) -> int:
    """Return the size of a response's content in bytes; 0 if it has none."""
    raw = bytes(content)
    return 0 if raw in NO_CONTENT else len(raw)


def files_in(content: Raw) -> list[str]:
    """Return the files that a complete response's blocks name as created; usually without decoding anything."""
    if CODE_RESULT.encode() not in bytes(content):
        return []
    blocks = value_of(content)
    return [name for block in blocks for name in made_files(block)] if isinstance(blocks, list) else []


def made_files(block: Any) -> list[str]:
    """Return the files that a block of the provider's code execution names as created. Other blocks are ignored,
    because a model's text may be dictated by an attacker."""
    if not (isinstance(block, dict) and text_or_empty(block.get("type")).endswith(CODE_RESULT)):
        return []
    outputs = inner(block, "content").get("content")
    if not isinstance(outputs, list):
        return []
    return [name for output in outputs if isinstance(output, dict) and (name := text_or_empty(output.get("file_id")))]


def count_in(body: bytes) -> int:
    """Return the count in a response of `count_tokens`; 0 if it has none, since no prompt counts 0."""
    try:
        return COUNT.decode(body).input_tokens
    except UNREADABLE:
        return 0


def carries_content(block: dict[str, Any]) -> bool:
    """True if the start of a content block carries content."""
    kind = text_or_empty(block.get("type"))
    return kind != FALLBACK and (kind not in COME_BY_DELTAS or any(block.get(name) for name in CONTENT_FIELDS))


def stream_error(fields: dict[str, Any], data: bytes) -> StreamError:
    """Return the error in an object of any known shape; a missing type is `api_error`."""
    error = fields.get("error")
    if not isinstance(error, dict):
        return StreamError("api_error", text_or_empty(error) or text_or_empty(fields.get("message")), data)
    return StreamError(text_or_empty(error.get("type")) or "api_error", text_or_empty(error.get("message")), data)


def object_of(data: bytes) -> dict[str, Any]:
    """Return a JSON object; empty for anything else."""
    value = value_of(data)
    return value if isinstance(value, dict) else {}


def value_of(raw: Raw | bytes) -> Any:
    """Decode JSON; None if it is invalid or has too many values."""
    if has_many_values(raw):
        return None
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE:
        return decode_tolerantly(ANY, raw)


def has_many_values(raw: Raw | bytes) -> bool:
    """True if JSON may have more than `MOST_VALUES`; commas and brackets in its texts count as well."""
    return len(raw) > MOST_VALUES and sum(map(bytes(raw).count, (b",", b"[", b"{"))) > MOST_VALUES


def inner(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the object in this field; empty if there is none."""
    value = fields.get(name)
    return value if isinstance(value, dict) else {}
