"""Selects the headers sent to a provider and returned to the client. By allow-lists, so that cookies, tracing headers
and clients' keys never leak.

Not here: `host` (set when the request is serialized), and headers of the proxy's own responses.

The rules:

- Names are in lower case, as in ASGI. No name is sent twice: list values are joined, of others the first one counts.
- Hop-by-hop headers (RFC 9110, section 7.6.1) are dropped both ways: no list has one, and those named by `connection`
  are removed.
- For Anthropic the lists are open by prefix, since beta headers, body fields and clients evolve together (Claude
  Code's gateway contract). `anthropic-version` is passed on, by default 2023-06-01.
- For others the list is closed: what they need to read the body, and `user-agent` (some plans are for coding tools
  alone). No beta names (their body fields are removed as well), no session, no client's machine. They implement the
  version of 2023-06-01, which is sent whatever the client's version.
- `content-length` belongs to whoever writes a body; `length_said` returns it for one that is forwarded unread.
- The client's credential is replaced by the route's: an API key as `x-api-key`, at Z.AI as a bearer (it accepts both;
  the original proxy and Z.AI's own guide use the bearer); an OAuth token as a bearer together with its beta.
  Or the client's own is passed through, to Anthropic alone.
- Nothing is added that would make a client look like Claude Code.
"""

import re
from collections.abc import Collection, Sequence
from typing import Literal

from service.settings.failure_rules import Dialect

Headers = Sequence[tuple[bytes, bytes]]
HeaderList = list[tuple[bytes, bytes]]
Auth = Literal["api_key", "oauth", "client"]

DEFAULT_VERSION = b"2023-06-01"
OAUTH_BETA = b"oauth-2025-04-20"
"""Without it Anthropic rejects OAuth tokens (published client sources)."""

LISTS = frozenset((b"accept", b"accept-encoding", b"accept-language", b"anthropic-beta", b"cache-control"))
"""Headers whose value is a comma-separated list, so that several can be joined."""

FRAMING = frozenset((b"content-length", b"transfer-encoding"))
CREDENTIALS = frozenset((b"authorization", b"x-api-key"))

ANTHROPIC_NAMES = frozenset(
    (b"accept", b"accept-language", b"content-type", b"content-encoding", b"user-agent", b"x-app", b"x-client-app",
     b"x-client-request-id", b"idempotency-key")
)  # fmt: skip
ANTHROPIC_PREFIXES = (b"anthropic-", b"x-anthropic-", b"x-claude-", b"x-stainless-")
OTHERS_NAMES = frozenset((b"accept", b"content-type", b"user-agent"))

ANSWER_NAMES = frozenset(
    (b"content-type", b"content-encoding", b"content-disposition", b"content-language", b"cache-control", b"request-id",
     b"retry-after", b"retry-after-ms", b"x-should-retry")
)  # fmt: skip
ANSWER_PREFIXES = (b"anthropic-", b"x-anthropic-")
REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
ACCOUNT_PREFIXES = (b"anthropic-ratelimit-", b"anthropic-organization-id")
"""Facts about a credential's account. Clients that share it would take them for their own (Claude Code's gateway
contract)."""


def upstream_headers(
    client: Headers,
    *,
    dialect: Dialect,
    auth: Auth,
    credential: str = "",
    stream: bool = False,
    body_decoded: bool = False,
    pass_accept_encoding: bool = False,
    withhold: Collection[bytes] = (),
) -> HeaderList:
    """Return the headers of a request to a provider, except for `host` and `content-length`.

    `body_decoded`: the body is sent without the client's content encoding. `pass_accept_encoding`: the response is not
    read, so that it may be compressed as the client accepts; else `identity` is requested. `withhold` names headers
    that hold a key of this proxy. Raises ValueError for a client's credential to anyone but Anthropic.
    """
    if dialect != "anthropic":
        if auth == "client":
            raise ValueError("a client's own credential is sent to Anthropic only")
        found = passing(client, OTHERS_NAMES)
        found[b"anthropic-version"] = DEFAULT_VERSION
    else:
        found = passing(client, ANTHROPIC_NAMES, ANTHROPIC_PREFIXES)
        found.setdefault(b"anthropic-version", DEFAULT_VERSION)
        if body_decoded:
            found.pop(b"content-encoding", None)
    for name in withhold:
        found.pop(name, None)
    found.setdefault(b"accept", b"text/event-stream" if stream else b"application/json")
    found[b"accept-encoding"] = accepted(client) if pass_accept_encoding else b"identity"
    show_credential(found, client, dialect, auth, credential, withhold)
    return list(found.items())


def show_credential(
    found: dict[bytes, bytes],
    client: Headers,
    dialect: Dialect,
    auth: Auth,
    credential: str,
    withhold: Collection[bytes],
) -> None:
    """Set the credential in the header that this provider expects."""
    if auth == "client":
        own = passing(client, CREDENTIALS)
        found.update((name, value) for name, value in own.items() if name not in withhold)
    elif auth == "oauth" or dialect == "zai":
        found[b"authorization"] = b"Bearer " + credential.encode()
        if auth == "oauth" and dialect == "anthropic":
            found[b"anthropic-beta"] = with_beta(found.get(b"anthropic-beta", b""), OAUTH_BETA)
    else:
        found[b"x-api-key"] = credential.encode()


def with_beta(betas: bytes, beta: bytes) -> bytes:
    """Return a list of betas that includes this one."""
    if not betas.strip():
        return beta
    return betas if beta in (part.strip() for part in betas.split(b",")) else betas + b"," + beta


def accepted(client: Headers) -> bytes:
    """Return the encodings that the client accepts."""
    return passing(client, {b"accept-encoding"}).get(b"accept-encoding", b"identity")


def client_headers(upstream: Headers, *, shared_credential: bool = False, body_decoded: bool = False) -> HeaderList:
    """Return a provider's response headers for the client, except for `content-length`. Names are in lower case.

    `shared_credential`: several clients use this credential, so headers about its account are removed. `body_decoded`:
    the body is sent without the provider's content encoding.
    """
    found = passing(upstream, ANSWER_NAMES, ANSWER_PREFIXES)
    if body_decoded:
        found.pop(b"content-encoding", None)
    if shared_credential:
        return [(name, value) for name, value in found.items() if not name.startswith(ACCOUNT_PREFIXES)]
    return list(found.items())


def request_id_of(headers: Headers, credential: str) -> str:
    """Return the provider's id of a request; "" without one, or if it is none: too long, not printable, a credential.
    Names are in lower case."""
    value = next((value for name, value in headers if name == b"request-id"), b"").decode("latin-1")
    return "" if not REQUEST_ID.fullmatch(value) or (credential and credential in value) else value


def length_said(headers: Headers) -> HeaderList:
    """Return `content-length` if there is one, for bodies that are forwarded unchanged; names may be in any case."""
    framing = [(name, value) for name, value in lowered(headers) if name in FRAMING]
    return framing if len(framing) == 1 and framing[0][1].isdigit() else []


def passing(headers: Headers, names: Collection[bytes], prefixes: tuple[bytes, ...] = ()) -> dict[bytes, bytes]:
    """Return the headers with these names or prefixes, without duplicates, in order, except for those named by
    `connection`."""
    kept = [header for header in headers if header[0] in names or header[0].startswith(prefixes)]
    found = dict(kept)
    if len(found) != len(kept):
        found = joined(kept)
    for options in [value for name, value in headers if name == b"connection"]:
        for name in options.split(b","):
            found.pop(name.strip().lower(), None)
    return found


def joined(headers: Headers) -> dict[bytes, bytes]:
    """Return headers without duplicates: of a list all parts, of others the first one."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name not in found:
            found[name] = value
        elif name in LISTS:
            found[name] += b", " + value
    return found


def lowered(headers: Headers) -> HeaderList:
    """Return the headers with names in lower case."""
    return [(name.lower(), value) for name, value in headers]
