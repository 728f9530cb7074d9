"""Serializes the head of a request, and validates its target. Pure.

Rules
- Characters that would end a line or the head early are rejected anywhere, against request smuggling.
- `host` and framing are set here: a given `host` is kept, a given `content-length` only declares an upload's length.
- Errors never quote a header, which may be a credential.

Not here: which headers are sent (`headers`), connections (`pool`).
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import httpx

HeaderPairs = Iterable[tuple[bytes, bytes]]

TARGET_BYTES = 65_536
"""The length to which httpx limits URLs; servers accept less."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"))
"""Methods sent to a provider. A TRACE response would show the owner's key to the client, and after a CONNECT the
connection is no longer HTTP."""
CONTROLS = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
"""Control characters that no header may contain; the tab may (RFC 9110, section 5.5)."""
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
TARGET = re.compile(rb"/[!\"$-~]*")
"""Path and query of an origin-form target (RFC 9112, section 3.2.1), without a fragment."""
FRAMING = frozenset((b"content-length", b"transfer-encoding", b"expect", b"connection"))
HOST = b"host: "
METHODS_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))


class Origin(NamedTuple):
    """Scheme, host and port of connections. `host` is the name for DNS and certificates."""

    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> bytes:
        """The value of `host`: with the port only if it is not the default."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.tls else 80
        return name.encode("ascii") if self.port == usual else f"{name}:{self.port}".encode("ascii")


@lru_cache(maxsize=64)
def base_of(base_url: str) -> tuple[Origin, bytes]:
    """Split a provider's base URL into its origin and path prefix. Raises httpx.InvalidURL or
    httpx.UnsupportedProtocol."""
    url = httpx.URL(base_url)
    return origin_of(url.scheme, url.netloc.decode("ascii")), target_under(url.raw_path).rstrip(b"/")


@lru_cache(maxsize=256)
def origin_of(scheme: str, authority: str) -> Origin:
    """Return the origin of a base URL; httpx parses ports, IPv6 and international names."""
    if scheme not in ("http", "https"):
        raise httpx.UnsupportedProtocol(f"{scheme!r} is neither http nor https")
    url = httpx.URL(f"{scheme}://{authority}/")
    tls = scheme == "https"
    host = url.raw_host.decode("ascii")
    port = url.port or (443 if tls else 80)
    if not host or port > 65_535:
        raise httpx.InvalidURL("the URL has no host, or an invalid port")
    return Origin(host, port, tls)


def target_under(target: bytes, prefix: bytes = b"") -> bytes:
    """Return a target below a base URL's path, without escaping, resolving or truncating it. Raises httpx.InvalidURL if
    it is too long or not in origin form."""
    if not TARGET.fullmatch(target) or len(target) > TARGET_BYTES:
        raise httpx.InvalidURL(f"the target is not a path and query of at most {TARGET_BYTES} printable characters")
    return prefix + target


@lru_cache(maxsize=1_024)
def is_token(name: bytes) -> bool:
    """True if this is a valid header name."""
    return TOKEN.fullmatch(name) is not None


@lru_cache(maxsize=256)
def line_of(name: bytes) -> bytes:
    """Return the beginning of a header's line, b"" for a header that is not sent. Raises httpx.LocalProtocolError."""
    if not is_token(name):
        raise httpx.LocalProtocolError("invalid header name")
    lowered = name.lower()
    if lowered == b"host":
        return HOST
    return b"" if lowered in FRAMING else name + b": "


def upload_bytes(headers: HeaderPairs) -> int | None:
    """Return an upload's declared length, or None. Raises httpx.LocalProtocolError."""
    value = next((value for name, value in headers if name.lower() == b"content-length"), None)
    if value is None:
        return None
    if not value.isdigit():
        raise httpx.LocalProtocolError("the upload's content-length is not a number")
    return int(value)


def request_head(method: str, origin: Origin, target: bytes, headers: HeaderPairs, body_bytes: int | None) -> bytes:
    """Return the head of a request; a body of unknown length (None) is chunked. Raises httpx.LocalProtocolError."""
    lines = [b"%b %b HTTP/1.1" % (method.encode("ascii", "replace"), target), HOST + origin.authority]
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
    if method not in METHODS:
        raise httpx.LocalProtocolError("unsupported method")
    # Each line ends in two control characters, and the head in two more; any other one was injected.
    if len(head) - len(head.translate(None, CONTROLS)) != 2 * len(lines) + 2:
        raise httpx.LocalProtocolError("invalid character in a request header")
    return head
