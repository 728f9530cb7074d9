r"""Parses the target of a request into one canonical path, before any decision depends on it. Pure.

Endpoint, key limits, accounting and forwarding all use this value, never the request line.

A canonical path
- has segments of unreserved characters and sub-delimiters (RFC 3986) without `;`, none of them empty, `.` or `..`;
- escapes other bytes alone, as UTF-8 in upper-case hexadecimal, and never `/`, `\`, `%`, `;`, `?`, `#` or a control
  character. The id in `/v1/models/{id}` may escape those as well (except for control characters), if no dot segment
  results;
- spells a known endpoint or part of a resource exactly: `/v1/Messages` or `/v1/messages/batches/{id}/Results` might be
  served by a provider, but counted as something else here.

Common mistakes in a client's base URL (`SLIPS`) are corrected. Everything else is a 404.

The query is forwarded unchanged if it is printable ASCII; the connection bounds the total length.

Not here: methods, versions and headers (`request_head`), the target towards a provider (`http1.request_head`).
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from msgspec import Struct

from service.errors import ClientError, NotFound
from service.ledger.events import Endpoint

TARGET = "ccproxy.target"
"""Key of a request's `RequestTarget` in the extensions of its ASGI scope."""
API = "/v1/"

LITERAL = r"[A-Za-z0-9\-._~!$&'()*+,=]"
ESCAPE = r"%(?:2[0-246-9A-Ca-c]|3[AC-Eac-e]|40|5[BDEbde]|60|7[B-Db-d]|[89A-Fa-f][0-9A-Fa-f])"
SEGMENT = rf"/(?!\.{{1,2}}(?:/|\Z)){LITERAL}*+(?:{ESCAPE}{LITERAL}*+)*(?<!/)"
API_PATH = re.compile(rf"/v1(?:{SEGMENT})+")
MODEL_PATH = re.compile(r"/v1/models/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]++|%(?:[2-689A-Fa-f][0-9A-Fa-f]|7[0-9A-Ea-e]))+")
OTHER_PATH = re.compile(rf"(?=/(?!v1(?:/|\Z)))(?:{SEGMENT})*/?")
QUERY = re.compile(r"[!\"$-~]*+")

SLIPS = (
    (re.compile(r"/{1,2}(?:v1/{1,2}+)+(?!v1/|/|\Z)"), API),
    (re.compile(r"/{1,2}(?=(?:messages|models|files)(?:/|\Z))"), API),
    (re.compile(r"//(?=[^/])"), "/"),
)
"""Path prefixes that result from a base URL with `/v1`, with a trailing slash or with both (`/v1/v1/..`, `//v1/..`,
`/v1//..`), or from a client that adds no `/v1` itself (`/messages`)."""

LOWER_HEX = re.compile(r"%(?:[a-f].|.[a-f])")
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
DOTS = frozenset(("", ".", ".."))

POSTS: Mapping[str, Endpoint] = {"/v1/messages": "messages", "/v1/messages/count_tokens": "count_tokens"}
PARTS = ("/results", "/cancel", "/content")
"""Path suffixes that decide if a response is counted, or passed through unread."""
PREFIXES: Mapping[str, Endpoint] = {
    "/v1/messages/batches": "batches",
    "/v1/models": "models",
    "/v1/files": "files",
}


class RequestTarget(Struct, frozen=True):
    """A canonical path without the base path, the query unchanged, and the endpoint."""

    path: str
    query: str = ""
    endpoint: Endpoint = "other"

    @property
    def is_api(self) -> bool:
        """True for the Messages API, false for a page or an endpoint of the proxy itself."""
        return self.path.startswith(API)


def read_target(method: str, raw: bytes, base_path: str = "") -> RequestTarget:
    """Parse the target of a request line, `raw` in origin form. Raises NotFound or ClientError.

    Clients use few targets, so results are cached.
    """
    return (remembered if len(raw) <= REMEMBERED_BYTES else parse_target)(method, raw, base_path)


def parse_target(method: str, raw: bytes, base_path: str) -> RequestTarget:
    """See `read_target`."""
    given, _, query = raw.decode("latin-1").partition("?")
    if not QUERY.fullmatch(query):
        raise ClientError("the query has a character that is not allowed in a URL; percent-encode it")
    path = canonical(without_slips(without_base(given, base_path)))
    if path is None or not is_spelled_exactly(path):
        raise not_found(method)
    return RequestTarget(path, query, endpoint_of(method, path))


REMEMBERED_BYTES = 256
REMEMBERED_TARGETS = 256
"""Size of the cache. Other targets contain ids, such as those of batches; the cache takes 200 KB at most."""
remembered = lru_cache(REMEMBERED_TARGETS)(parse_target)


def is_spelled_exactly(path: str) -> bool:
    """True if an endpoint, or a known part of a resource, is spelled in lower case."""
    lower = path.lower()
    return endpoint_of("POST", path) == endpoint_of("POST", lower) and lower.endswith(PARTS) == path.endswith(PARTS)


def origin_form(raw: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Remove the origin from an absolute-form target, if it equals `host`; others are returned unchanged."""
    scheme, mark, rest = raw.partition(b"://")
    authority, slash, below = rest.partition(b"/")
    if not mark or scheme.lower() not in (b"http", b"https"):
        return raw
    if (b"host", authority.lower()) not in ((name, value.lower()) for name, value in headers):
        raise ClientError("the request target and the `host` header name different hosts")
    return slash + below


def target_in(scope: Any) -> RequestTarget:
    """Return the target that the connection has stored in an ASGI scope."""
    target: RequestTarget = scope["extensions"][TARGET]
    return target


def without_base(path: str, base_path: str) -> str:
    """Remove the base path, below which the proxy is also reachable."""
    return path.removeprefix(base_path) if path.startswith(base_path + "/") else path


def without_slips(path: str) -> str:
    """Correct a common mistake in a base URL, else return the path unchanged."""
    for slip, meant in SLIPS:
        if found := slip.match(path):
            path = meant + path[found.end() :]
            break
    return path.removesuffix("/") if path.startswith(API) else path


def canonical(path: str) -> str | None:
    """Return the canonical form of a path, None if it has none."""
    if MODEL_PATH.fullmatch(path):
        return upper_hex(path) if is_model_path(path) else None
    if not (API_PATH.fullmatch(path) or OTHER_PATH.fullmatch(path)):
        return None
    if "%" not in path:
        return path
    plain = text_of(path)
    if plain is None or any(part != part.strip() for part in plain.split("/")):
        return None
    return upper_hex(path)


def is_model_path(path: str) -> bool:
    """True if a model's path keeps its meaning even when unescaped twice, or when path parameters are removed: Java
    servers read `..;x` as `..`."""
    plain = text_of(path)
    if plain is None:
        return False
    return all(DOTS.isdisjoint(map(name_of, re.split(r"[/\\]", text)[1:])) for text in (plain, unquote(plain)))


def name_of(segment: str) -> str:
    """Return a path segment without parameters and surrounding blanks."""
    return segment.partition(";")[0].strip()


def text_of(path: str) -> str | None:
    """Unescape a path; None if it is not UTF-8 or has a control character."""
    try:
        plain = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return None
    return None if CONTROLS.search(plain) else plain


def upper_hex(path: str) -> str:
    """Return the path with its escapes in upper case."""
    return LOWER_HEX.sub(lambda escape: escape[0].upper(), path)


def endpoint_of(method: str, path: str) -> Endpoint:
    """Return the endpoint for a method and a canonical path."""
    if method == "POST" and path in POSTS:
        return POSTS[path]
    for prefix, endpoint in PREFIXES.items():
        if path == prefix or path.startswith(prefix + "/"):
            return endpoint
    return "other"


def not_found(method: str) -> NotFound:
    """Return the 404 error; the path is not quoted, since it may contain anything."""
    return NotFound(
        f"no such endpoint for {method}. The Messages API is below /v1/, such as /v1/messages: set the client's base "
        "URL to this proxy's address, without /v1, and percent-encode only what has to be"
    )


def base_url_of(scope: Mapping[str, Any], named: Mapping[bytes, bytes], base_path: str) -> str:
    """Return this proxy's URL as the client sees it."""
    host = named.get(b"host", b"").decode("latin-1")
    return f"{scope.get('scheme', 'http')}://{host}{base_path}"
