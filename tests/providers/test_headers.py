"""Which headers travel."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.providers.headers import Auth, client_headers, upstream_headers
from service.settings.failure_rules import Dialect

CLAUDE_CODE = [
    (b"host", b"127.0.0.1:4181"),
    (b"connection", b"keep-alive, x-app"),
    (b"accept", b"application/json"),
    (b"authorization", b"Bearer client"),
    (b"x-api-key", b"client"),
    (b"x-ccproxy-key", b"proxy"),
    (b"content-type", b"application/json"),
    (b"content-length", b"49000"),
    (b"accept-encoding", b"gzip, br"),
    (b"user-agent", b"claude-cli/2.1.330 (external, sdk-cli)"),
    (b"x-claude-code-session-id", b"s1"),
    (b"x-claude-1p-request-class", b"main"),
    (b"x-stainless-timeout", b"600"),
    (b"x-app", b"cli"),
    (b"anthropic-version", b"2026-10-21"),
    (b"anthropic-beta", b"claude-code-20250219,effort-2025-11-24"),
    (b"anthropic-dangerous-direct-browser-access", b"true"),
    (b"cookie", b"session=1"),
    (b"x-forwarded-for", b"10.0.0.1"),
    (b"traceparent", b"00-1-1-00"),
    (b"te", b"trailers"),
]
ROUTES: list[tuple[Dialect, Auth]] = [
    ("anthropic", "api_key"), ("anthropic", "oauth"), ("anthropic", "client"), ("zai", "api_key"), ("zai", "oauth"),
    ("compatible", "api_key"), ("compatible", "oauth"),
]  # fmt: skip


def sent(dialect: Dialect, auth: Auth, client: list[tuple[bytes, bytes]] | None = None) -> dict[bytes, bytes]:
    return dict(upstream_headers(CLAUDE_CODE if client is None else client, dialect=dialect, auth=auth, credential="k"))


def test_towards_anthropic_the_lists_are_open() -> None:
    """Whatever begins like a header of the API, its SDKs or Claude Code goes as it came."""
    headers = sent("anthropic", "api_key")
    names = (b"accept", b"user-agent", b"anthropic-version", b"anthropic-beta", b"x-claude-code-session-id",
             b"anthropic-dangerous-direct-browser-access", b"x-claude-1p-request-class",
             b"x-stainless-timeout")  # fmt: skip
    for name in names:
        assert headers[name] == dict(CLAUDE_CODE)[name]
    assert sent("anthropic", "api_key", [(b"anthropic-new-thing", b"1")])[b"anthropic-new-thing"] == b"1"


@pytest.mark.parametrize("dialect", ["zai", "compatible"])
def test_towards_others_the_list_is_closed(dialect: Dialect) -> None:
    """Another vendor learns what is asked and by which program, no beta, session, machine or cookie."""
    names = set(sent(dialect, "api_key")) - {b"authorization", b"x-api-key"}
    assert names == {b"accept", b"accept-encoding", b"content-type", b"user-agent", b"anthropic-version"}
    assert sent(dialect, "api_key")[b"anthropic-version"] == b"2023-06-01"


@pytest.mark.parametrize(
    ("dialect", "auth", "credentials"),
    [
        ("anthropic", "api_key", {b"x-api-key": b"k"}),
        ("anthropic", "oauth", {b"authorization": b"Bearer k"}),
        ("anthropic", "client", {b"authorization": b"Bearer client", b"x-api-key": b"client"}),
        ("zai", "api_key", {b"authorization": b"Bearer k"}),
        ("compatible", "api_key", {b"x-api-key": b"k"}),
        ("compatible", "oauth", {b"authorization": b"Bearer k"}),
    ],
)
def test_the_credential_is_the_routes(dialect: Dialect, auth: Auth, credentials: dict[bytes, bytes]) -> None:
    """Each route shows exactly its own credential, where its provider looks for it."""
    headers = sent(dialect, auth)
    assert {name: headers[name] for name in (b"authorization", b"x-api-key") if name in headers} == credentials


def test_a_clients_credential_never_goes_to_another_vendor() -> None:
    """A pass-through route of another dialect is a mistake, not a request."""
    with pytest.raises(ValueError, match="sent to Anthropic only"):
        sent("zai", "client")


def test_a_proxy_key_in_a_credential_header_stays_here() -> None:
    """A header that held the proxy's own key is withheld, the client's other credential passes."""
    headers = dict(upstream_headers(CLAUDE_CODE, dialect="anthropic", auth="client", withhold={b"x-api-key"}))
    assert b"x-api-key" not in headers
    assert headers[b"authorization"] == b"Bearer client"


@pytest.mark.parametrize(
    ("betas", "expected"),
    [
        ([], b"oauth-2025-04-20"),
        ([b" "], b"oauth-2025-04-20"),
        ([b"a,b"], b"a,b,oauth-2025-04-20"),
        ([b"a", b"b"], b"a, b,oauth-2025-04-20"),
        ([b"a, oauth-2025-04-20 ,b"], b"a, oauth-2025-04-20 ,b"),
        ([b"x-oauth-2025-04-20"], b"x-oauth-2025-04-20,oauth-2025-04-20"),
    ],
)
def test_an_oauth_token_comes_with_its_beta(betas: list[bytes], expected: bytes) -> None:
    """The beta is added once, behind those of the client."""
    client = [(b"anthropic-beta", value) for value in betas]
    assert sent("anthropic", "oauth", client)[b"anthropic-beta"] == expected


@pytest.mark.parametrize("auth", ["api_key", "client"])
def test_other_credentials_leave_the_betas_alone(auth: Auth) -> None:
    """Beta names go verbatim."""
    assert sent("anthropic", auth)[b"anthropic-beta"] == b"claude-code-20250219,effort-2025-11-24"


def test_what_is_missing_is_filled_in() -> None:
    """A bare client gets a version and a type, and never the looks of Claude Code."""
    assert upstream_headers([], dialect="anthropic", auth="api_key", credential="k", stream=True) == [
        (b"anthropic-version", b"2023-06-01"),
        (b"accept", b"text/event-stream"),
        (b"accept-encoding", b"identity"),
        (b"x-api-key", b"k"),
    ]


def test_answers_that_are_not_read_along_may_come_compressed() -> None:
    """Elsewhere than in messages the client's accepted encodings pass."""
    headers = upstream_headers(
        CLAUDE_CODE, dialect="anthropic", auth="api_key", credential="k", pass_accept_encoding=True
    )
    assert dict(headers)[b"accept-encoding"] == b"gzip, br"


def test_a_decoded_body_loses_its_encoding() -> None:
    """`content-encoding` goes with the compressed bytes only, and to Anthropic alone."""
    client = [(b"content-encoding", b"gzip")]
    kept = upstream_headers(client, dialect="anthropic", auth="api_key", credential="k")
    decoded = upstream_headers(client, dialect="anthropic", auth="api_key", credential="k", body_decoded=True)
    assert dict(kept)[b"content-encoding"] == b"gzip"
    assert b"content-encoding" not in dict(decoded)
    assert b"content-encoding" not in sent("zai", "api_key", client)


NAMES = st.sampled_from([name for name, _ in CLAUDE_CODE] + [b"x-ccproxy-route", b"anthropic-x", b"keep-alive"])


@given(st.lists(st.tuples(NAMES, st.sampled_from([b"a", b"b, c", b""])), max_size=25), st.sampled_from(ROUTES))
def test_no_header_leaves_twice_or_belongs_to_one_hop(
    client: list[tuple[bytes, bytes]], route: tuple[Dialect, Auth]
) -> None:
    """Names are unique, and what was said to this hop, to this proxy or by a browser stays here."""
    names = [name for name, _ in upstream_headers(client, dialect=route[0], auth=route[1], credential="k")]
    assert len(names) == len(set(names))
    assert not {b"host", b"connection", b"content-length", b"te", b"cookie", b"keep-alive", b"x-ccproxy-key",
                b"x-ccproxy-route", b"x-forwarded-for", b"traceparent"} & set(names)  # fmt: skip


def test_headers_named_by_connection_end_here() -> None:
    """RFC 9110: what `connection` names is of one hop, even if the list would let it pass."""
    assert b"x-app" not in sent("anthropic", "api_key")
    assert client_headers([(b"connection", b"Request-Id"), (b"request-id", b"r"), (b"retry-after", b"2")]) == [
        (b"retry-after", b"2")
    ]


ANSWER = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"content-encoding", b"gzip"),
    (b"content-length", b"10"),
    (b"transfer-encoding", b"chunked"),
    (b"request-id", b"req_1"),
    (b"retry-after", b"3"),
    (b"x-should-retry", b"true"),
    (b"anthropic-ratelimit-unified-status", b"allowed"),
    (b"anthropic-organization-id", b"org"),
    (b"anthropic-workspace-id", b"w"),
    (b"set-cookie", b"__cf_bm=1"),
    (b"server", b"cloudflare"),
    (b"cf-ray", b"1"),
    (b"via", b"1.1 google"),
    (b"alt-svc", b"h3"),
    (b"location", b"https://elsewhere"),
    (b"strict-transport-security", b"max-age=1"),
]


def test_a_client_gets_what_it_needs() -> None:
    """Of an answer's headers those pass that clients read; cookies and the provider's own plumbing do not."""
    assert client_headers(ANSWER) == [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"content-encoding", b"gzip"),
        (b"request-id", b"req_1"),
        (b"retry-after", b"3"),
        (b"x-should-retry", b"true"),
        (b"anthropic-ratelimit-unified-status", b"allowed"),
        (b"anthropic-organization-id", b"org"),
        (b"anthropic-workspace-id", b"w"),
    ]


def test_who_shares_a_credential_learns_nothing_of_its_account() -> None:
    """Limits of a shared account would read as the caller's own."""
    names = [name for name, _ in client_headers(ANSWER, shared_credential=True, body_decoded=True)]
    assert names == [b"content-type", b"request-id", b"retry-after", b"x-should-retry", b"anthropic-workspace-id"]
