"""Which headers travel: the request's to a provider, the answer's to the client. Lists of what may pass, never of what
may not, so that a cookie, a tracing header or a client's key never leaves by oversight.

Not here: `host` (whoever writes the request knows it), and headers of the proxy's own answers.

The rules:

- Names come in lower case, as in ASGI. None leaves twice: values of headers that are lists are joined, of others the
  first one counts.
- Headers of one hop (RFC 9110, section 7.6.1) end here, both ways: no list has one, and those that `connection` names
  are taken out.
- Towards Anthropic the lists are open by prefix, since beta headers, body fields and clients grow together (Claude
  Code's gateway contract). `anthropic-version` goes as it came, else as 2023-06-01.
- Towards others the list is closed: what they need to read the body, and who asks (`user-agent`; some plans are for
  coding tools alone). No beta names (their body fields are left out as well), no session, no client's machine. They
  copied the version of 2023-06-01, so that is what they are told, whatever newer one the client speaks.
- `content-length` is the business of whoever writes a body; `length_said` has it for one that goes on unread.
- The client's credential is replaced by the route's: an API key as `x-api-key`, at Z.AI as a bearer (it takes both;
  the original proxy and Z.AI's own guide use the bearer); an OAuth token as a bearer together with its beta.
  Or the client's own is passed on as it came, to Anthropic alone.
- Nothing is added that would make a client look like Claude Code.
"""

from collections.abc import Collection, Sequence
from typing import Literal

from service.settings.failure_rules import Dialect

Headers = Sequence[tuple[bytes, bytes]]
HeaderList = list[tuple[bytes, bytes]]
Auth = Literal["api_key", "oauth", "client"]

DEFAULT_VERSION = b"2023-06-01"
OAUTH_BETA = b"oauth-2025-04-20"
"""Without it Anthropic refuses OAuth tokens (published client sources)."""

LISTS = frozenset((b"accept", b"accept-encoding", b"accept-language", b"anthropic-beta", b"cache-control"))
"""Headers whose value is a comma-separated list, so that several of them may be joined."""

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
ACCOUNT_PREFIXES = (b"anthropic-ratelimit-", b"anthropic-organization-id")
"""Facts about the account behind a credential. Who shares it would take them for facts about their own (Claude Code's
gateway contract)."""


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
    """The headers of a request to a provider, but `host` and `content-length`.

    `body_decoded`: the body goes without the client's content encoding. `pass_accept_encoding`: the answer is not read
    along, so that it may come compressed as the client likes; else `identity` is asked for. `withhold` names headers
    that hold a key of this proxy. Raises ValueError for a client's credential that would go to anyone but Anthropic.
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
    """Put the credential where this provider looks for it."""
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
    """A list of betas that has this one."""
    if not betas.strip():
        return beta
    return betas if beta in (part.strip() for part in betas.split(b",")) else betas + b"," + beta


def accepted(client: Headers) -> bytes:
    """The encodings that the client accepts."""
    return passing(client, {b"accept-encoding"}).get(b"accept-encoding", b"identity")


def client_headers(upstream: Headers, *, shared_credential: bool = False, body_decoded: bool = False) -> HeaderList:
    """The headers of a provider's answer that the client gets, but `content-length`.

    `shared_credential`: several clients use this credential, so what it says about its account is left out.
    `body_decoded`: the body goes without the provider's content encoding.
    """
    found = passing(lowered(upstream), ANSWER_NAMES, ANSWER_PREFIXES)
    if body_decoded:
        found.pop(b"content-encoding", None)
    if shared_credential:
        return [(name, value) for name, value in found.items() if not name.startswith(ACCOUNT_PREFIXES)]
    return list(found.items())


def length_said(headers: Headers) -> HeaderList:
    """`content-length`, where a body has one: whoever gets it sees how much is to come. For bodies that go on as they
    came; names may be in any case."""
    framing = [(name, value) for name, value in lowered(headers) if name in FRAMING]
    return framing if len(framing) == 1 and framing[0][1].isdigit() else []


def passing(headers: Headers, names: Collection[bytes], prefixes: tuple[bytes, ...] = ()) -> dict[bytes, bytes]:
    """The headers with these names or prefixes, each once, in order, but those that `connection` names."""
    found: dict[bytes, bytes] = {}
    of_one_hop: list[bytes] = []
    for name, value in headers:
        if name in names or name.startswith(prefixes):
            if name not in found:
                found[name] = value
            elif name in LISTS:
                found[name] += b", " + value
        elif name == b"connection":
            of_one_hop += value.split(b",")
    for name in of_one_hop:
        found.pop(name.strip().lower(), None)
    return found


def lowered(headers: Headers) -> HeaderList:
    """The same headers with names in lower case."""
    return [(name.lower(), value) for name, value in headers]
