"""The target of a request: one canonical path, made once at the edge before anything is decided by it. Pure.

Endpoint, key limits, accounting and forwarding use this value and no other reading of the request line.

A canonical path
- has segments of unreserved characters and sub-delimiters (RFC 3986) without `;`, none of them empty, `.` or `..`;
- escapes other bytes alone, as UTF-8 in upper-case hexadecimal, and never `/`, `\\`, `%`, `;`, `?`, `#` or a control
  character. The id in `/v1/models/{id}` may escape those as well (but no control), as long as no dot segment results;
- spells a known endpoint or part of a resource exactly: `/v1/Messages` or `/v1/messages/batches/{id}/Results` might be
  served by a provider, but counted as something else here.

Slips in a client's base URL (`SLIPS`) are rewritten to it. Everything else is a 404 of our own.

The query is forwarded as it came, within printable ASCII; the length of the whole is bounded by the connection.

Not here: methods, versions and headers (`request_head`), the target towards a provider (`lean_head`).
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
"""The key of a request's `RequestTarget` in the extensions of its ASGI scope."""
API = "/v1/"

LITERAL = r"[A-Za-z0-9\-._~!$&'()*+,=]"
ESCAPE = r"%(?:2[0-246-9A-Ca-c]|3[AC-Eac-e]|40|5[BDEbde]|60|7[B-Db-d]|[89A-Fa-f][0-9A-Fa-f])"
SEGMENT = rf"/(?!\.{{1,2}}(?:/|\Z)){LITERAL}*+(?:{ESCAPE}{LITERAL}*+)*+(?<!/)"
API_PATH = re.compile(rf"/v1(?:{SEGMENT})++")
MODEL_PATH = re.compile(r"/v1/models/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%(?:[2-689A-Fa-f][0-9A-Fa-f]|7[0-9A-Ea-e]))++")
OTHER_PATH = re.compile(rf"(?=/(?!v1(?:/|\Z)))(?:{SEGMENT})*+/?")
QUERY = re.compile(r"[!\"$-~]*+")

SLIPS = (
    (re.compile(r"/{1,2}(?:v1/{1,2})++(?=[^/])"), API),
    (re.compile(r"/{1,2}(?=(?:messages|models|files)(?:/|\Z))"), API),
    (re.compile(r"//(?=[^/])"), "/"),
)
"""Beginnings of a path that a base URL with `/v1`, with a trailing slash or with both makes (`/v1/v1/..`, `//v1/..`,
`/v1//..`), or a client that adds no `/v1` itself (`/messages`)."""

LOWER_HEX = re.compile(r"%(?:[a-f].|.[a-f])")
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
DOTS = frozenset(("", ".", ".."))

POSTS: Mapping[str, Endpoint] = {"/v1/messages": "messages", "/v1/messages/count_tokens": "count_tokens"}
PARTS = ("/results", "/cancel", "/content")
"""Ends of a path by which an answer is counted, or let pass as it is."""
PREFIXES: Mapping[str, Endpoint] = {
    "/v1/messages/batches": "batches",
    "/v1/models": "models",
    "/v1/files": "files",
}


class RequestTarget(Struct, frozen=True):
    """A canonical path without the base path, the query as it came, and the endpoint that they name."""

    path: str
    query: str = ""
    endpoint: Endpoint = "other"

    @property
    def is_api(self) -> bool:
        """Whether this is the Messages API, not a page or an endpoint of the proxy itself."""
        return self.path.startswith(API)


def read_target(method: str, raw: bytes, base_path: str = "") -> RequestTarget:
    """The target of a request line, `raw` in origin form. Raises NotFound or ClientError.

    Clients ask for the same few targets; those are remembered.
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
"""Longer or more targets than these are a client's own, such as ids of batches; together they take 200 KB at most."""
remembered = lru_cache(REMEMBERED_TARGETS)(parse_target)


def is_spelled_exactly(path: str) -> bool:
    """Whether the path names what it names in small letters: an endpoint, or a known part of a resource."""
    lower = path.lower()
    return endpoint_of("POST", path) == endpoint_of("POST", lower) and lower.endswith(PARTS) == path.endswith(PARTS)


def origin_form(raw: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An absolute-form target without the origin, which has to be the one that `host` names; others as they are."""
    scheme, mark, rest = raw.partition(b"://")
    authority, slash, below = rest.partition(b"/")
    if not mark or scheme.lower() not in (b"http", b"https"):
        return raw
    if (b"host", authority.lower()) not in ((name, value.lower()) for name, value in headers):
        raise ClientError("the request target and the `host` header name different hosts")
    return slash + below


def target_in(scope: Any) -> RequestTarget:
    """The target that the connection has put into an ASGI scope."""
    target: RequestTarget = scope["extensions"][TARGET]
    return target


def without_base(path: str, base_path: str) -> str:
    """The path below the base path, under which the proxy is reached as well."""
    return path.removeprefix(base_path) if path.startswith(base_path + "/") else path


def without_slips(path: str) -> str:
    """The path that was meant by a slip in a base URL, else as it is."""
    for slip, meant in SLIPS:
        if found := slip.match(path):
            path = meant + path[found.end() :]
            break
    return path.removesuffix("/") if path.startswith(API) else path


def canonical(path: str) -> str | None:
    """The canonical form of a path, None when it has none."""
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
    """Whether the path of a model stays one, even if it is unescaped twice, or parameters are cut off its segments:
    servers of Java read `..;x` as `..`."""
    plain = text_of(path)
    if plain is None:
        return False
    return all(DOTS.isdisjoint(map(name_of, re.split(r"[/\\]", text)[1:])) for text in (plain, unquote(plain)))


def name_of(segment: str) -> str:
    """A segment of a path without its parameters and the blanks around it."""
    return segment.partition(";")[0].strip()


def text_of(path: str) -> str | None:
    """A path without its escapes, None when it is no UTF-8 or has a control character."""
    try:
        plain = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return None
    return None if CONTROLS.search(plain) else plain


def upper_hex(path: str) -> str:
    """The same path with its escapes in upper case."""
    return LOWER_HEX.sub(lambda escape: escape[0].upper(), path)


def endpoint_of(method: str, path: str) -> Endpoint:
    """The kind of request that a method and a canonical path make."""
    if method == "POST" and path in POSTS:
        return POSTS[path]
    for prefix, endpoint in PREFIXES.items():
        if path == prefix or path.startswith(prefix + "/"):
            return endpoint
    return "other"


def not_found(method: str) -> NotFound:
    """Nothing answers to a path; it is not quoted, since it may be anything."""
    return NotFound(
        f"no such endpoint for {method}. The Messages API is below /v1/, such as /v1/messages: set the client's base "
        "URL to this proxy's address, without /v1, and percent-encode only what has to be"
    )


def base_url_of(scope: Mapping[str, Any], named: Mapping[bytes, bytes], base_path: str) -> str:
    """This proxy as the client sees it."""
    host = named.get(b"host", b"").decode("latin-1")
    return f"{scope.get('scheme', 'http')}://{host}{base_path}"
