"""Validates the head of a request once, before anything else reads it. Pure.

Rules
- Methods are an allow-list, and so are protocol versions.
- A header that frames the body, names the host, names the body's encoding or holds a credential occurs once, and is not
  listed in `connection`: else one reader might use the first, another the last, and a third none.
- A body is framed by either length or chunks; HTTP/1.0 has no chunks.

What the parser (llhttp, strict) rejects needs no rule here: conflicting framing, invalid lengths, folded lines, bare
line feeds, control characters.

Not here: the target (`request_target`), limits and error responses (`connection`).
"""

from collections.abc import Mapping

from service.errors import ClientError, MethodNotAllowed, VersionNotSupported

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
VERSIONS = frozenset(("1.1", "1.0"))
WANTED_VERSIONS = "only HTTP/1.1 and HTTP/1.0 are supported"
SINGLE = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"content-encoding", b"content-type", b"authorization",
     b"x-api-key", b"x-ccproxy-key")
)  # fmt: skip
Headers = list[tuple[bytes, bytes]]


def check_head(method: str, version: str, headers: Headers, named: Mapping[bytes, bytes]) -> None:
    """Raise ClientError for a head after which the connection's state is unreliable; `named` are the headers by
    name."""
    if version not in VERSIONS:
        raise VersionNotSupported(WANTED_VERSIONS)
    if method not in METHODS:
        raise MethodNotAllowed(f"unsupported method; use one of {ALLOWED}", allowed=ALLOWED)
    if len(named) != len(headers):
        check_repeated(headers)
    if (coding := named.get(b"transfer-encoding")) is not None:
        check_coding(coding, version)
    if (options := named.get(b"connection")) is not None:
        check_options(headers if len(named) != len(headers) else [(b"connection", options)])


def check_repeated(headers: Headers) -> None:
    """Raise ClientError for a repeated header that may occur only once."""
    seen = set()
    for name, _ in headers:
        if name in seen:
            raise ClientError(f"the header {name.decode('latin-1')} is given more than once")
        if name in SINGLE:
            seen.add(name)


def check_coding(coding: bytes, version: str) -> None:
    """Raise ClientError for a body that is not framed by plain chunks."""
    if coding.lower() != b"chunked":
        raise ClientError("unsupported transfer-encoding; send content-length, or transfer-encoding: chunked")
    if version == "1.0":
        raise ClientError("HTTP/1.0 has no transfer-encoding; send content-length")


def check_options(headers: Headers) -> None:
    """Raise ClientError if `connection` lists a header that the next reader needs."""
    options = (option for name, value in headers if name == b"connection" for option in value.split(b","))
    for option in options:
        if option.strip().lower() in SINGLE:
            raise ClientError("the connection header names an end-to-end header")
