"""The head of a request as it goes on the wire, and where it goes to. Pure.

Rules
- What would end a line or the head early is refused, wherever it stands: nobody writes a second request into ours.
- `host` and the framing are ours: a given `host` is kept, a given `content-length` only says how long an upload is.
- An error never quotes a header: it may be a credential.

Not here: which headers travel (`headers`), connections (`lean_pool`).
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

import httpx

HeaderPairs = Iterable[tuple[bytes, bytes]]

TARGET_CHARS = 65_536
"""As long as httpx takes a URL; servers refuse less."""
CONTROLS = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
"""What no header may hold: control characters but the tab (RFC 9110, section 5.5)."""
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
TARGET = re.compile(r"[\x21-\x7e]*")
TARGET_SAFE = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
FRAMING = frozenset((b"content-length", b"transfer-encoding", b"expect", b"connection"))
HOST = b"host: "
METHODS_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))


class Origin(NamedTuple):
    """Where connections go: those of one origin are alike. `host` is what DNS and certificates know."""

    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> bytes:
        """As `host` says it: the port only where it is not the usual one."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.tls else 80
        return name.encode("ascii") if self.port == usual else f"{name}:{self.port}".encode("ascii")


@lru_cache(maxsize=64)
def split_url(url: str) -> tuple[Origin, bytes]:
    """A URL's origin and the request's target. Raises httpx.InvalidURL or httpx.UnsupportedProtocol."""
    scheme, _, rest = url.partition("://")
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    return origin_of(scheme, rest[:end]), target_of(rest[end:])


@lru_cache(maxsize=256)
def origin_of(scheme: str, authority: str) -> Origin:
    """The origin of URLs that begin so; httpx knows about ports, IPv6 and names that are not ASCII."""
    if scheme not in ("http", "https"):
        raise httpx.UnsupportedProtocol(f"{scheme!r} is neither http nor https")
    url = httpx.URL(f"{scheme}://{authority}/")
    tls = scheme == "https"
    host = url.raw_host.decode("ascii")
    port = url.port or (443 if tls else 80)
    if not host or port > 65_535:
        raise httpx.InvalidURL("the URL names no host, or no port that there is")
    return Origin(host, port, tls)


def target_of(text: str) -> bytes:
    """Path and query as they came; only what would end the line is escaped. Raises httpx.InvalidURL."""
    if len(text) > TARGET_CHARS:
        raise httpx.InvalidURL("URL too long")
    target = text.partition("#")[0]
    if not target.startswith("/"):
        target = "/" + target
    if not TARGET.fullmatch(target):
        target = quote(target, safe=TARGET_SAFE)
    return target.encode("ascii")


@lru_cache(maxsize=1_024)
def is_token(name: bytes) -> bool:
    """Whether a text can be a header's name, or a method."""
    return TOKEN.fullmatch(name) is not None


@lru_cache(maxsize=256)
def line_of(name: bytes) -> bytes:
    """How a header's line begins, b"" for one that is not sent. Raises httpx.LocalProtocolError."""
    if not is_token(name):
        raise httpx.LocalProtocolError("a header's name is none")
    lowered = name.lower()
    if lowered == b"host":
        return HOST
    return b"" if lowered in FRAMING else name + b": "


def upload_bytes(headers: HeaderPairs) -> int | None:
    """How long an upload is, where its headers say so. Raises httpx.LocalProtocolError."""
    value = next((value for name, value in headers if name.lower() == b"content-length"), None)
    if value is None:
        return None
    if not value.isdigit():
        raise httpx.LocalProtocolError("the upload's length is no number")
    return int(value)


def request_head(method: bytes, origin: Origin, target: bytes, headers: HeaderPairs, body_bytes: int | None) -> bytes:
    """The head of a request; a body of unknown length (None) is chunked. Raises httpx.LocalProtocolError."""
    lines = [b"%b %b HTTP/1.1" % (method, target), HOST + origin.authority]
    for name, value in headers:
        begin = line_of(name)
        if begin == HOST:
            lines[1] = HOST + value
        elif begin:
            lines.append(begin + value)
    if body_bytes is None:
        lines.append(b"transfer-encoding: chunked")
    elif body_bytes or method in METHODS_WITH_BODY:
        lines.append(b"content-length: %d" % body_bytes)
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    # Each line ends in two control characters, and the head in two more; any other was smuggled in.
    if not is_token(method) or len(head) - len(head.translate(None, CONTROLS)) != 2 * len(lines) + 2:
        raise httpx.LocalProtocolError("the request holds a character that no header may hold")
    return head
