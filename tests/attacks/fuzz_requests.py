"""Requests for the fuzz: drawn from grammars, the same for the same seed and number.

Each is a usual request in which a few parts are another's: method, target, version, framing, headers, body, encoding.
Each bears a marker, by which it is found again at the provider and on the ledger. Not here: what is right (`fuzz`).
"""

import gzip
import json
import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import brotli  # type: ignore[import-untyped]  # it has no types
import zstandard

MARKER = "x-claude-code-session-id"
"""The header that goes up as it came, and stands in the events."""
ODDITIES = (0, 1, 1, 1, 2, 2, 3)
"""How many parts of a request are odd."""
CRLF = b"\r\n"
MOST_ENCODINGS = 3
"""More are refused."""


class FuzzedRequest(NamedTuple):
    """Bytes to send. `whole`: an answer is due, because nothing of the request is missing. `key`: whose it is.
    `harmless`: it has to be served."""

    marker: str
    key: str
    method: bytes
    data: bytes
    whole: bool
    harmless: bool = False


class Draft:
    """A request in its making."""

    def __init__(self, chance: random.Random, marker: str, key: str) -> None:
        self.chance = chance
        self.marker = marker
        self.key = key
        self.method = b"POST"
        self.target = b"/v1/messages"
        self.version = b"HTTP/1.1"
        self.fields: list[tuple[str, Any]] = [
            ("model", "claude-haiku-4-5"),
            ("max_tokens", 64),
            ("stream", chance.random() < 0.3),
            ("messages", [{"role": "user", "content": f"say {marker}"}]),
        ]
        self.text: bytes | None = None
        self.encodings: list[str] = []
        self.packed: bytes | None = None
        self.headers: list[tuple[bytes, bytes]] = [
            (b"host", b"127.0.0.1"),
            (b"content-type", b"application/json"),
            (b"anthropic-version", b"2023-06-01"),
            (MARKER.encode(), marker.encode()),
            (b"x-api-key", key.encode()),
        ]
        self.framing: Callable[[bytes], tuple[list[tuple[bytes, bytes]], bytes]] = by_length
        self.behind = b""
        self.whole = True
        self.harmless = False

    def body(self) -> bytes:
        """The body without its framing."""
        text = json_of(self.fields).encode() if self.text is None else self.text
        if self.packed is not None:
            return self.packed
        for encoding in self.encodings:
            text = PACKERS[encoding](text)
        return text

    def request(self) -> FuzzedRequest:
        """The bytes."""
        headers, framed = self.framing(self.body())
        lines = [b"%b: %b" % header for header in self.headers + headers]
        head = CRLF.join([b"%b %b %b" % (self.method, self.target, self.version), *lines]) + CRLF + CRLF
        return FuzzedRequest(self.marker, self.key, self.method, head + framed + self.behind, self.whole, self.harmless)


def fuzzed(seed: int, number: int, keys: Sequence[str]) -> FuzzedRequest:
    """The request of this number, with one of these keys."""
    chance = random.Random(f"{seed} {number}")  # noqa: S311 - it has to be the same again
    draft = Draft(chance, f"fz-{seed}-{number}", chance.choice(keys))
    other_target = chance.random() < 0.35
    if other_target:
        usual_target(draft)
    oddities = chance.sample(PARTS, chance.choice(ODDITIES))
    for oddity in oddities:
        oddity(draft)
    once = len({*oddities}) == len(oddities) and len(draft.encodings) <= MOST_ENCODINGS
    draft.harmless = once and not other_target and HARMLESS.issuperset(oddities)
    return draft.request()


def json_of(fields: list[tuple[str, Any]]) -> str:
    """A JSON object with these fields, some of which may come twice; values that are bytes stand as they are."""
    parts = (f"{quoted(name)}:{raw_or_json(value)}" for name, value in fields)
    return "{" + ",".join(parts) + "}"


def raw_or_json(value: Any) -> str:
    """JSON, of bytes as they are."""
    return value.decode("latin-1") if isinstance(value, bytes) else json.dumps(value)


def quoted(name: str) -> str:
    """A key; one with a backslash is escaped already."""
    return f'"{name}"' if "\\" in name else json.dumps(name)


# -- methods and targets


METHODS = [
    b"GET", b"HEAD", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"PROPFIND", b"post", b"POS\tT",
    b"PRI", b"", b"P" * 300, b"GE\x00T", b"SEARCH", b"M-SEARCH", b"PURGE",
]  # fmt: skip
USUAL_TARGETS = [
    (b"GET", b"/v1/models"), (b"GET", b"/v1/models/claude-opus-5-5"), (b"POST", b"/v1/messages/count_tokens"),
    (b"GET", b"/v1/files"), (b"GET", b"/v1/messages/batches"), (b"POST", b"/v1/messages?beta=true"),
    (b"GET", b"/livez"), (b"POST", b"/v1/complete"), (b"GET", b"/v1/organizations/usage"), (b"GET", b"/health"),
    (b"HEAD", b"/v1/models"), (b"DELETE", b"/v1/files/file_011CNha8iCJcU1wXNR6q4V8w"), (b"POST", b"/v1/files"),
    (b"POST", b"/v1/messages/batches"), (b"GET", b"/v1/messages/batches/msgbatch_011CNha8iCJcU1wXNR6q4V8w/results"),
    (b"PUT", b"/v1/skills/skill_01Ab9Cd8Ef7Gh6"), (b"PATCH", b"/v1/skills/skill_01Ab9Cd8Ef7Gh6"),
]  # fmt: skip
TARGETS = [
    b"/v1/v1/messages", b"//v1/messages", b"/v1//messages", b"/messages", b"/v1/messages/", b"/v1/Messages",
    b"/v1/messages;x", b"/v1/messages%3Bx", b"/v1/%6dessages", b"/v1/messages%2f", b"/v1/..%2fv1/messages",
    b"/v1/../v1", b"/v1beta/messages", b"/v10/messages", b"/v1", b"/", b"*", b"", b"/v1/messages#x",
    b"/v1/messages?a=\xc3\xa9", b"/v1/messages?a=%00&b", b"/v1/messages?a=/../..", b"http://127.0.0.1/v1/messages",
    b"http://evil.test/v1/messages", b"//evil.test/v1/messages", b"/anthropic%2fv1@evil.test/steal",
    b"/anthropic/v1/messages", b"/anthropic%2fv1/messages", b"/anthropic/v1@evil.test/x", b"\\v1\\messages",
    b"/v1/messages\\..", b"/v1/mess\x00ages", b"/v1/mess%0d%0aages", b"/v1/models/a%2Fb",
    b"/v1/models/%2e%2e%2fmessages", b"/v1/models/..", b"/v1/files/%2e%2e/messages", b"/v1/messages/count_tokens/",
    b"/v1/messages/count%5ftokens", b"/v1/messages/batches/x%2fresult%73", b"/v1/\xc3\xa9", b"/v1/%C3%A9", b"/v1/%c3",
    b"/v1/messages:443", b"@evil.test/v1/messages", b"/v1/" + b"a" * 18_000, b"/v1/messages?" + b"q" * 20_000,
    b"/%76%31/messages", b"/v1/messages/.", b"/v1/./messages", b"/v1/messages/%2E",
]  # fmt: skip
NASTY = [
    b"/",
    b"//",
    b"%2f",
    b"%5c",
    b"\\",
    b"..",
    b"%2e",
    b";",
    b"@",
    b":",
    b"?",
    b"#",
    b"%00",
    b"%",
    b"%25",
    b"v1",
    b"%76",
]


def usual_target(draft: Draft) -> None:
    """Another endpoint, as a client asks it."""
    draft.method, draft.target = draft.chance.choice(USUAL_TARGETS)


def odd_method(draft: Draft) -> None:
    """Any method."""
    draft.method = draft.chance.choice(METHODS)


def odd_target(draft: Draft) -> None:
    """A spelling that somebody might read in another way."""
    draft.target = draft.chance.choice(TARGETS)


def spoilt_target(draft: Draft) -> None:
    """A usual target with something put into it."""
    at = draft.chance.randrange(len(draft.target) + 1)
    draft.target = draft.target[:at] + draft.chance.choice(NASTY) + draft.target[at:]


VERSIONS = [
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"http/1.1",
    b"HTTP/1.1 x",
    b"",
    b"HTTPS/1.1",
    b"HTTP/11",
]


def odd_version(draft: Draft) -> None:
    """Another protocol, or none."""
    draft.version = draft.chance.choice(VERSIONS)


# -- framing


def by_length(body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """As most clients."""
    return [(b"content-length", b"%d" % len(body))], body


def chunks_of(body: bytes, chance: random.Random, extension: bytes = b"") -> bytes:
    """A body in chunks of any size."""
    parts = []
    while body:
        size = chance.choice((1, 7, 100, 5_000, 70_000))
        part, body = body[:size], body[size:]
        parts.append(b"%x%b\r\n%b\r\n" % (len(part), extension, part))
    return b"".join(parts) + b"0\r\n"


def chunked(draft: Draft) -> None:
    """Chunks, perhaps with extensions and a trailer."""
    in_chunks(draft, (b"", b"", b"x-trailer: 1\r\n"))


def odd_trailer(draft: Draft) -> None:
    """A trailer that would mean something in the head."""
    odd = (b"content-length: 5", b"x-api-key: trailer", b"transfer-encoding: chunked", b"host: x")
    in_chunks(draft, [trailer + CRLF for trailer in odd])


def in_chunks(draft: Draft, trailers: Sequence[bytes]) -> None:
    """Chunks, and one of these trailers."""
    extension = draft.chance.choice((b"", b"", b";a=b", b';a="\\""'))
    trailer = draft.chance.choice(trailers)
    draft.framing = lambda body: (
        [(b"transfer-encoding", b"chunked")],
        chunks_of(body, draft.chance, extension) + trailer + CRLF,
    )


CONFLICTS: list[Callable[[bytes], list[tuple[bytes, bytes]]]] = [
    lambda size: [(b"content-length", size), (b"transfer-encoding", b"chunked")],
    lambda size: [(b"transfer-encoding", b"chunked"), (b"content-length", size)],
    lambda size: [(b"content-length", size), (b"content-length", size)],
    lambda size: [(b"content-length", size), (b"content-length", b"5")],
    lambda size: [(b"content-length", size + b", " + size)],
    lambda size: [(b"content-length", b"+" + size)],
    lambda _: [(b"content-length", b"0x10")],
    lambda _: [(b"content-length", b"-1")],
    lambda _: [(b"content-length", b"99999999999999999999999")],
    lambda size: [(b"content-length", b"000" + size)],
    lambda size: [(b"content-length", size), (b"transfer-encoding", b"identity")],
    lambda _: [(b"transfer-encoding", b"gzip, chunked")],
    lambda _: [(b"transfer-encoding", b"chunked, chunked")],
    lambda _: [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
    lambda size: [(b"transfer-encoding", b"xchunked"), (b"content-length", size)],
    lambda size: [(b"transfer_encoding", b"chunked"), (b"content-length", size)],
    lambda size: [(b"transfer-encoding ", b"chunked"), (b"content-length", size)],
    lambda size: [(b"x", b"y\r\n transfer-encoding: chunked"), (b"content-length", size)],
    lambda size: [(b"x", b"y\ntransfer-encoding: chunked"), (b"content-length", size)],
    lambda size: [(b"transfer-encoding", b"\x0bchunked"), (b"content-length", size)],
]


def conflicting(draft: Draft) -> None:
    """Two framings, or a malformed one. An answer may be due only when the connection is given up."""
    conflict = draft.chance.choice(CONFLICTS)
    in_chunks = draft.chance.random() < 0.5
    draft.framing = lambda body: (
        conflict(b"%d" % len(body)),
        chunks_of(body, draft.chance) + CRLF if in_chunks else body,
    )
    draft.whole = False


def cut_off(draft: Draft) -> None:
    """A part of the body is missing."""
    draft.framing = lambda body: (
        [(b"content-length", b"%d" % (len(body) + draft.chance.choice((1, 50, 70_000))))],
        body,
    )
    draft.whole = False


ODD_CHUNKS = (b"-1\r\n", b"0x5\r\nhello\r\n", b"5 \r\nhello\r\n", b"f" * 16 + b"1\r\n", b"5\nhello\n", b"g\r\n")


def odd_chunks(draft: Draft) -> None:
    """Chunks that are none."""
    odd = draft.chance.choice(
        (b"-1\r\n", b"0x5\r\nhello\r\n", b"5 \r\nhello\r\n", b"ffffffffffffffff1\r\n", b"5\nhello\n", b"g\r\n")
    )
    draft.framing = lambda body: ([(b"transfer-encoding", b"chunked")], odd + body)
    draft.whole = False


def second_request(draft: Draft) -> None:
    """Another request stands behind the body: it is one of its own, whatever the first was."""
    inner = draft.marker + "-s"
    draft.behind = b"GET /v1/models/behind HTTP/1.1\r\nhost: 127.0.0.1\r\n%b: %b\r\nx-api-key: %b\r\n\r\n" % (
        MARKER.encode(),
        inner.encode(),
        draft.key.encode(),
    )


# -- headers


HEADERS = [
    (b"connection", b"Upgrade"), (b"upgrade", b"websocket"), (b"upgrade", b"h2c"), (b"http2-settings", b"AAMAAABk"),
    (b"connection", b"close"), (b"connection", b"keep-alive, x-api-key"), (b"connection", b"content-length"),
    (b"connection", b"host, anthropic-version"), (b"expect", b"100-continue"), (b"expect", b"200-ok"),
    (b"te", b"trailers"), (b"host", b"evil.test"), (b"host", b"127.0.0.1"), (b"content-type", b"text/plain"),
    (b"content-type", b"multipart/x"), (b"content-encoding", b""), (b"content-encoding", b"identity"),
    (b"content-encoding", b"gzip"), (b"content-encoding", b"xyz"), (b"origin", b"https://evil.test"),
    (b"sec-fetch-site", b"cross-site"), (b"cookie", b"ccproxy_session=admin.9.x.y"), (b"x-forwarded-for", b"1.2.3.4"),
    (b"x-forwarded-host", b"evil.test"), (b"forwarded", b"for=1.2.3.4;host=evil.test"),
    (b"x-stainless-timeout", b"1e308"), (b"x-stainless-timeout", b"nan"), (b"x-stainless-timeout", b"-1"),
    (b"anthropic-beta", b"a" * 5_000), (b"anthropic-beta", b"\xff\xfe"), (b"x-nul", b"a\x00b"), (b"x-line", b"a\rb"),
    (b"x-fold", b"a\r\n b"), (b"bad name", b"x"), (b"", b"x"), (b"x\x7f", b"x"), (b":authority", b"evil.test"),
    (b"x-long", b"a" * 70_000), (b"proxy-authorization", b"Basic eA=="), (b"range", b"bytes=0-"),
    (b"max-forwards", b"0"), (b"accept-encoding", b"br;q=0, *"), (b"x-http-method-override", b"DELETE"),
    (b"if-match", b"*"), (b"anthropic-version", b"1999"), (b"x-original-url", b"/admin"),
]  # fmt: skip
CREDENTIALS = [
    [], [(b"x-api-key", b"junk")], [(b"authorization", b"Bearer {key}")], [(b"authorization", b"bearer  {key} ")],
    [(b"x-ccproxy-key", b"{key}")], [(b"x-ccproxy-key", b"{key}"), (b"x-api-key", b"sk-ant-own-of-client")],
    [(b"x-ccproxy-key", b"wrong"), (b"x-api-key", b"{key}")], [(b"x-api-key", b"{key}"), (b"x-api-key", b"junk")],
    [(b"x-api-key", b"junk"), (b"x-api-key", b"{key}")], [(b"authorization", b"Basic {key}")],
    [(b"x-api-key", b"{key}\x00")], [(b"x-api-key", b"")],
    [(b"authorization", b"Bearer sk-ant-oat01-own"), (b"x-ccproxy-key", b"{key}")],
]  # fmt: skip


OFFERS = [
    [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")],
    [(b"connection", b"keep-alive, Upgrade"), (b"upgrade", b"foo/1")],
    [(b"connection", b"Upgrade, HTTP2-Settings"), (b"upgrade", b"h2c"), (b"http2-settings", b"AAMAAABkAAQAAP__")],
    [(b"connection", b"upgrade"), (b"upgrade", b"TLS/1.0"), (b"expect", b"100-continue")],
    [(b"connection", b"Upgrade"), (b"upgrade", b"")],
]


def upgrade(draft: Draft) -> None:
    """An offer to speak something else, which nobody takes up."""
    draft.headers += draft.chance.choice(OFFERS)


def odd_header(draft: Draft) -> None:
    """A header more, anywhere."""
    draft.headers.insert(draft.chance.randrange(len(draft.headers) + 1), draft.chance.choice(HEADERS))


def without_header(draft: Draft) -> None:
    """One of the usual ones is missing, but the marker."""
    name = draft.chance.choice((b"host", b"content-type", b"anthropic-version"))
    draft.headers = [header for header in draft.headers if header[0] != name]


def odd_credential(draft: Draft) -> None:
    """The key in another place, beside another one, wrong, or missing."""
    key = draft.key.encode()
    draft.headers = [header for header in draft.headers if header[0] != b"x-api-key"]
    draft.headers += [(name, value.replace(b"{key}", key)) for name, value in draft.chance.choice(CREDENTIALS)]


# -- bodies


MODELS: list[Any] = [
    "claude-opus-5-5", "CLAUDE-HAIKU-4-5", "claude-haiku-4-5-20251001", " claude-haiku-4-5", "claude-haiku-4-5\u0000",
    "\ufeffclaude-haiku-4-5", "anthropic/claude-haiku-4-5", "haiku", "claude-opus-haiku", "claude-haiku-4-5 ", "",
    "\u202eukiah", "claude-haiku-4-5\nclaude-opus-5-5", "a" * 10_000, 5, None, True, [], {}, ["claude-haiku-4-5"],
    1.5, "café", "\ud800",
]  # fmt: skip
NUMBERS: list[Any] = [
    0, -1, 1.5, "64", None, True, [], {}, b"1e400", b"-1e400", b"1e5", b"9" * 400, 1 << 63, 1 << 64, -(1 << 70),
    b"NaN", b"Infinity", b"64.0", b"0064", b"6_4",
]  # fmt: skip
FLAGS: list[Any] = [1, 0, "true", None, [], {}, b"TRUE", b"tru", 1.0, "", "false"]
MESSAGES: list[Any] = [
    [], {}, None, "hi", 5, [5], [None], [[]], [{"role": "user"}], [{"role": "user", "content": 5}],
    [{"role": "user", "content": [{"type": "text", "text": "x"}] * 2_000}],
    [{"role": "user", "content": [{"type": 5}, {"type": "image", "source": {"file_id": "file_1"}}]}],
    [{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "\u0000"}}]}],
]  # fmt: skip
NAMES = {
    "model": ("model", "mod\\u0065l", "Model", "model\\u0000", "\\u006dodel"),
    "stream": ("stream", "str\\u0065am", "STREAM"),
    "max_tokens": ("max_tokens", "max\\u005ftokens"),
    "messages": ("messages", "messag\\u0065s"),
}
STRANGE: list[tuple[str, list[Any]]] = [
    ("container", [5, "container_1", {"id": 5}, [], "\u0000"]),
    ("thread", [5, {}, {"previous_message_id": 5}, []]),
    ("context_management", [5, {}, [], {"edits": "compact"}]),
    ("metadata", [5, {"user_id": "x" * 5_000}, {"user_id": 5}]),
    ("system", [5, "x", [5], [{"type": "text", "text": "x", "cache_control": 5}]]),
    ("tools", [5, [5], [{"name": "\u0000"}] * 100]),
]


def value_for(draft: Draft, name: str) -> Any:
    """Any value of a field."""
    values = {"model": MODELS, "stream": [*FLAGS, True, False], "max_tokens": NUMBERS, "messages": MESSAGES}[name]
    return draft.chance.choice(values)


def odd_field(draft: Draft) -> None:
    """A field that decides has another value."""
    name = draft.chance.choice([*NAMES])
    draft.fields = [(known, value_for(draft, name) if known == name else value) for known, value in draft.fields]


def double_field(draft: Draft) -> None:
    """A field stands twice, the second time perhaps escaped, before or behind the first."""
    name = draft.chance.choice([*NAMES])
    value = draft.chance.choice((value_for(draft, name), dict(draft.fields).get(name)))
    draft.fields.insert(draft.chance.choice((0, len(draft.fields))), (draft.chance.choice(NAMES[name]), value))


def strange_field(draft: Draft) -> None:
    """A field that ties requests together, or goes up as it is."""
    name, values = draft.chance.choice(STRANGE)
    draft.fields.append((name, draft.chance.choice(values)))


def missing_field(draft: Draft) -> None:
    """One is missing."""
    draft.fields.pop(draft.chance.randrange(len(draft.fields)))


SPOILERS: list[Callable[[bytes], bytes]] = [
    lambda text: b"\xef\xbb\xbf" + text,
    lambda text: b" \t\r\n" + text + b"\n\n",
    lambda text: text + b"x",
    lambda text: text + text,
    lambda text: text + b"\x00",
    lambda text: b"\x00" + text,
    lambda text: text[:-1],
    lambda text: text.replace(b"say", b"s\xffy"),
    lambda text: text.replace(b"say", b"s\\ud800y"),
    lambda text: text.replace(b"say", b"s\x01y"),
    lambda text: text.decode("latin-1").encode("utf-16"),
    lambda text: text.replace(b":", b": ", 1).replace(b",", b",,", 1),
    lambda text: text[:-1] + b',"deep":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    lambda text: text[:-1] + b',"deep":' + b'{"a":' * 150 + b"1" + b"}" * 150 + b"}",
    lambda text: text[:-1] + b',"deep":' + b"[" * 300 + b"}",
    lambda text: b"[" + text + b"]",
    lambda _: b"",
    lambda _: b"null",
    lambda _: b'"model"',
    lambda text: text.replace(b"{", b"/**/{", 1),
    lambda text: text[:-1] + b",}",
    lambda text: text.replace(b'"', b"'"),
]


def spoilt_text(draft: Draft) -> None:
    """JSON that is none, or that others may read in another way."""
    draft.text = draft.chance.choice(SPOILERS)(json_of(draft.fields).encode("utf-8", "replace"))


# -- encodings


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "x-gzip": lambda data: gzip.compress(data, 1),
    "deflate": zlib.compress,
    "br": lambda data: bytes(brotli.compress(data, quality=1)),
    "zstd": zstandard.compress,
}


def encoded(draft: Draft) -> None:
    """Encoded once, seldom more often."""
    draft.encodings = [draft.chance.choice([*PACKERS]) for _ in range(draft.chance.choice((1, 1, 1, 2, 3, 4)))]
    names = [name.upper() if draft.chance.random() < 0.1 else name for name in draft.encodings]
    draft.headers.append((b"content-encoding", ", ".join(names).encode()))


def encoded_otherwise(draft: Draft) -> None:
    """Not as the header says, said twice, or followed by something."""
    name = draft.chance.choice([*PACKERS])
    text = PACKERS[name](json_of(draft.fields).encode("utf-8", "replace"))
    other = draft.chance.choice([*PACKERS])
    draft.packed, headers = draft.chance.choice(
        [
            (text, [other]),
            (text, [name, name]),
            (text, [name, "identity"]),
            (text + b"more", [name]),
            (text + text, [name]),
            (text[:-3], [name]),
            (text, []),
            (text, [name + "; q=1"]),
            (text, [f"{name},,{name}"]),
        ]
    )
    draft.headers += [(b"content-encoding", each.encode()) for each in headers]


def bomb(draft: Draft) -> None:
    """Small, and large once it is decoded."""
    draft.packed, encoding = draft.chance.choice(BOMBS)
    draft.headers.append((b"content-encoding", encoding))


ZEROS = json_of([("model", "claude-haiku-4-5"), ("messages", [])]).encode() + b" " * 8_000_000
BOMBS = [
    (gzip.compress(ZEROS, 6), b"gzip"),
    (gzip.compress(gzip.compress(ZEROS, 6), 6), b"gzip, gzip"),
    (bytes(brotli.compress(ZEROS, quality=3)), b"br"),
    (zstandard.compress(ZEROS), b"zstd"),
]

PARTS: tuple[Callable[[Draft], None], ...] = (
    odd_method, odd_target, odd_target, spoilt_target, odd_version, chunked, chunked, conflicting, cut_off,
    odd_chunks, second_request, second_request, upgrade, upgrade, odd_header, odd_header, odd_header, without_header,
    odd_credential, odd_field, odd_field, odd_field, double_field, double_field, strange_field, missing_field,
    spoilt_text, spoilt_text, encoded, encoded, encoded_otherwise, bomb,
)  # fmt: skip
HARMLESS = frozenset((chunked, second_request, upgrade, encoded))
"""What a client may do, and be served all the same."""
